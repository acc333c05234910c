"""What a download did: `DownloadReport`, its `ArchiveReport`s, and `Progress` on the way."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING

from ckvd.model.calendar import closed_part
from ckvd.model.timespan import Span, now_ms

if TYPE_CHECKING:
    from ckvd.errors import CkvdError
    from ckvd.model.calendar import Period
    from ckvd.model.market import SeriesKey
    from ckvd.model.provenance import Source


class Outcome(StrEnum):
    """How it went with one archive."""

    STORED = "stored"
    ABSENT = "absent"  # the source has no such archive
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class ArchiveReport:
    """One archive that was asked for.

    Attributes
    ----------
    series : SeriesKey
    period : Period
    outcome : Outcome
    nbytes : int
        Length of the archive, where it was fetched.
    attempt_count : int
        Attempts that it took, where it was fetched.
    source : Source or None
        What was found in it, where it was stored: rows, duplicates, conflicts, whether a CHECKSUM confirmed it.
    error : CkvdError or None
        Why it failed.
    """

    series: SeriesKey
    period: Period
    outcome: Outcome
    nbytes: int = 0
    attempt_count: int = 0
    source: Source | None = None
    error: CkvdError | None = None

    @property
    def notes(self) -> tuple[str, ...]:
        """What was unusual, as sentences without a full stop."""
        source = self.source
        if source is None:
            return () if self.error is None else (str(self.error),)
        notes = []
        if not source.is_checksum_published:
            notes.append("no CHECKSUM is published, so its bytes are not confirmed")
        if source.duplicate_row_count:
            notes.append(f"{source.duplicate_row_count} duplicate rows collapsed")
        if source.conflict_count:
            notes.append(f"{source.conflict_count} open times stand in different rows; the later row was kept")
        if source.unordered_row_count:
            notes.append(f"{source.unordered_row_count} rows were out of order and sorted")
        return tuple(notes)


@dataclass(frozen=True, slots=True)
class CompletionReport:
    """What was found beyond the archives of one series.

    Attributes
    ----------
    series : SeriesKey
    rest_bar_count : int
        Bars that came from the REST interface.
    conflict_open_times : tuple of int
        Where sources disagree on a bar, in milliseconds, ascending. The daily archive's was kept before the
        monthly one's, an archive's before that of the REST interface.
    errors : tuple of CkvdError
        What went wrong; it is tried again the next time.
    has_changed : bool
        Whether something was stored.
    open_from_ms : int or None
        From here on bars still form by the clock of the exchange, where they do not by this machine's.
    """

    series: SeriesKey
    rest_bar_count: int
    conflict_open_times: tuple[int, ...]
    errors: tuple[CkvdError, ...]
    has_changed: bool
    open_from_ms: int | None = None

    def closed_part(self, span: Span) -> Span:
        """The part of a span whose bars are closed by the clock of the exchange, as far as it told."""
        end_ms = span.end_ms if self.open_from_ms is None else min(span.end_ms, self.open_from_ms)
        return Span(span.start_ms, max(span.start_ms, end_ms))


@dataclass(frozen=True, slots=True)
class DownloadReport:
    """What a download of one or more series did.

    Attributes
    ----------
    series : tuple of SeriesKey
    span : Span
        What was asked for.
    archives : tuple of ArchiveReport
        Every archive that was asked for, in order. What was in the cache before is not among them.
    missing : mapping of SeriesKey to tuple of Span
        What of the span the cache still does not cover, bars that are not closed yet left out.
    completions : tuple of CompletionReport
        What was found beyond the archives, where it was looked for.
    present_ms : int
        When it was, by the clock of the download, in milliseconds: a bar that closes later is no data yet.
    """

    series: tuple[SeriesKey, ...]
    span: Span
    archives: tuple[ArchiveReport, ...]
    missing: dict[SeriesKey, tuple[Span, ...]]
    completions: tuple[CompletionReport, ...] = ()
    present_ms: int = field(default_factory=now_ms)

    @property
    def stored(self) -> tuple[ArchiveReport, ...]:
        """Archives that are in the cache now and were not before."""
        return tuple(archive for archive in self.archives if archive.outcome is Outcome.STORED)

    @property
    def failed(self) -> tuple[ArchiveReport, ...]:
        """Archives that could not be had or not be believed."""
        return tuple(archive for archive in self.archives if archive.outcome is Outcome.FAILED)

    @property
    def errors(self) -> tuple[CkvdError, ...]:
        """What went wrong, in order."""
        of_archives = (archive.error for archive in self.archives if archive.error is not None)
        return (*of_archives, *(error for completion in self.completions for error in completion.errors))

    @property
    def is_complete(self) -> bool:
        """Whether everything that was asked for is in the cache."""
        return not any(self.missing.values())

    @property
    def is_closed(self) -> bool:
        """Whether the span reaches into the time of closed bars: else there is nothing to have."""
        return all(closed_part(self.span, key.interval, self.present_ms) for key in self.series)

    @property
    def covered_before(self) -> bool:
        """Whether nothing had to be asked for, because it was in the cache."""
        asked = self.archives or any(one.rest_bar_count or one.errors for one in self.completions)
        return self.is_complete and self.is_closed and not asked


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a download is.

    Attributes
    ----------
    archive_count : int
        Archives dealt with.
    archive_total : int
        Archives known to be wanted; it grows when a month turns out to be there as days only.
    nbytes : int
        Bytes fetched.
    nbytes_total : int or None
        Bytes to fetch in all, where a listing told.
    latest : ArchiveReport or None
        What was finished just now.
    """

    archive_count: int
    archive_total: int
    nbytes: int
    nbytes_total: int | None
    latest: ArchiveReport | None = None

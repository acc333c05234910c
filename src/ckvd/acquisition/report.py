"""What a download did or would do: `DownloadReport`, `ArchiveReport`, `DownloadPlan`, and `Progress` meanwhile."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Final

from ckvd.model.grid import Grid, closed_part
from ckvd.model.market import MINUTE_MS
from ckvd.model.provenance import earliest_recheck_ms, narrow
from ckvd.model.record import Record, as_json
from ckvd.model.timespan import Span, format_time, now_ms

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from ckvd.cache.untraded_tail import UntradedTail
    from ckvd.errors import CkvdError
    from ckvd.model.calendar import Period
    from ckvd.model.market import Market, SeriesKey
    from ckvd.model.provenance import Absence, Source


# Open times that a note shows.
_EXAMPLES_MAX: Final = 3


class Outcome(StrEnum):
    """The outcome of one archive."""

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
        Length of the archive; 0 where it was not fetched.
    attempt_count : int
        Attempts that the fetch took; 0 where it was not fetched.
    source : Source or None
        Rows, duplicates, conflicts, and whether a CHECKSUM confirmed it, where it was stored.
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
        """What was unusual about it, as sentences without a full stop."""
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
        if source.outside_row_count:
            times = _shown(source.outside_open_times, source.outside_row_count)
            notes.append(f"{_count(source.outside_row_count, 'row')} outside of its period left out, {times}")
        if source.impossible_count:
            times = _shown(source.impossible_open_times, source.impossible_count)
            bars = _count(source.impossible_count, "bar")
            notes.append(f"{bars} that no market can make kept as published, {times}")
        return tuple(notes)


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _shown(times: Sequence[int], count: int) -> str:
    return ", ".join(map(format_time, times[:_EXAMPLES_MAX])) + (" ..." if count > _EXAMPLES_MAX else "")


@dataclass(frozen=True, slots=True)
class CompletionReport:
    """What one series has beyond its archives.

    Attributes
    ----------
    series : SeriesKey
    rest_bar_count : int
        Bars that came from the REST interface.
    conflict_open_times : tuple of int
        Open times of bars on which sources disagree, in milliseconds, ascending. The daily archive wins over the
        monthly one, and an archive over the REST interface.
    errors : tuple of CkvdError
        What failed; the next download tries it again.
    has_changed : bool
        Whether something was stored.
    open_from_ms : int or None
        From here on bars still form by the clock of the exchange, although they are closed by this machine's.
    impossible_open_times : tuple of int
        Open times of bars of the REST interface that no market can make, in milliseconds, ascending. They were
        stored, as published.
    beyond_archives : tuple of Absence
        What this download settled by the listing of the archives alone: the time before the first archive and after
        the last one. Where a mirror is not up to date, the exchange may have bars there.
    """

    series: SeriesKey
    rest_bar_count: int
    conflict_open_times: tuple[int, ...]
    errors: tuple[CkvdError, ...]
    has_changed: bool
    open_from_ms: int | None = None
    impossible_open_times: tuple[int, ...] = ()
    beyond_archives: tuple[Absence, ...] = ()

    def closed_part(self, span: Span) -> Span:
        """The part of a span whose bars are closed by the clock of the exchange, as far as that is known."""
        return span if self.open_from_ms is None else span.intersection(Span(0, self.open_from_ms))


@dataclass(frozen=True, slots=True)
class DownloadPlan(Record):
    """What a download would fetch. As JSON (`to_json`) it is the object of its attributes.

    Attributes
    ----------
    spans : mapping of SeriesKey to Span
        What is asked for of each series.
    archives : mapping of SeriesKey to tuple of Period
        The archives that would be fetched, in order, of the series that need any. Where the source has no listing,
        some of them may not exist, and days may be fetched in place of a month.
    nbytes : int or None
        Their length in all; None without a listing.
    beyond_archives : mapping of SeriesKey to tuple of Span
        What the cache lacks and no archive has, of the series of which there is such a part. The REST interface
        would be asked.
    refused : mapping of SeriesKey to CkvdError
        Series of which nobody knows what would be fetched, because their folder cannot be read, and why.
    unlisted : mapping of Market to CkvdError
        Markets whose new listings are unknown, because their snapshot cannot be read, and why.
    """

    spans: Mapping[SeriesKey, Span]
    archives: Mapping[SeriesKey, tuple[Period, ...]]
    nbytes: int | None
    beyond_archives: Mapping[SeriesKey, tuple[Span, ...]]
    refused: Mapping[SeriesKey, CkvdError] = field(default_factory=dict)
    unlisted: Mapping[Market, CkvdError] = field(default_factory=dict)

    @property
    def archive_count(self) -> int:
        """The number of archives that would be fetched."""
        return sum(map(len, self.archives.values()))

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to ask for."""
        return not self.archives and not self.beyond_archives


@dataclass(frozen=True, slots=True)
class DownloadReport(Record):
    """What a download of one or more series did.

    Attributes
    ----------
    spans : mapping of SeriesKey to Span
        What was asked for of each series.
    archives : tuple of ArchiveReport
        Every archive that was asked for, in order. Archives that were in the cache before are not among them.
    missing : mapping of SeriesKey to tuple of Span
        What the cache still does not cover of the span, without bars that are not closed yet.
    completions : tuple of CompletionReport
        What each series has beyond its archives, where other sources were asked.
    not_found : tuple of SeriesKey
        Series of which every source was asked, and neither these nor the cache have anything. Nothing is stored.
    present_ms : int
        The time of the download by its clock, in milliseconds: a bar that closes later is no data yet.
    untraded_tails : mapping of SeriesKey to UntradedTail
        Series at whose end nobody traded for a day or more, where the span reaches those bars. They are in the
        cache, as published.
    unavailable : mapping of SeriesKey to tuple of Absence
        Why the missing spans are missing, and when they are asked for again, where sources were asked for them.
    current : tuple of SeriesKey
        Series that an update left as they are, because nothing of them is due. They have no span.
    refused : mapping of SeriesKey to CkvdError
        Series that an update could not look at, and why. They have no span.
    unlisted : mapping of Market to CkvdError
        Markets whose new listings an update could not find, and why.
    """

    spans: Mapping[SeriesKey, Span]
    archives: tuple[ArchiveReport, ...]
    missing: dict[SeriesKey, tuple[Span, ...]]
    completions: tuple[CompletionReport, ...] = ()
    present_ms: int = field(default_factory=now_ms)
    not_found: tuple[SeriesKey, ...] = ()
    untraded_tails: dict[SeriesKey, UntradedTail] = field(default_factory=dict)
    unavailable: dict[SeriesKey, tuple[Absence, ...]] = field(default_factory=dict)
    current: tuple[SeriesKey, ...] = ()
    refused: dict[SeriesKey, CkvdError] = field(default_factory=dict)
    unlisted: dict[Market, CkvdError] = field(default_factory=dict)

    @property
    def series(self) -> tuple[SeriesKey, ...]:
        """The series that were asked for, in the order in which they were."""
        return tuple(self.spans)

    @property
    def span(self) -> Span:
        """From the first moment that was asked for of any series to the last; empty where there are no series."""
        if not self.spans:
            return Span(0, 0)
        spans = self.spans.values()
        return Span(min(span.start_ms for span in spans), max(span.end_ms for span in spans))

    @property
    def stored(self) -> tuple[ArchiveReport, ...]:
        """Archives that this download stored."""
        return tuple(archive for archive in self.archives if archive.outcome is Outcome.STORED)

    @property
    def failed(self) -> tuple[ArchiveReport, ...]:
        """Archives that were not downloaded or are invalid."""
        return tuple(archive for archive in self.archives if archive.outcome is Outcome.FAILED)

    @property
    def errors(self) -> tuple[CkvdError, ...]:
        """All errors, in order."""
        of_archives = (archive.error for archive in self.archives if archive.error is not None)
        of_completions = (error for completion in self.completions for error in completion.errors)
        return (*of_archives, *of_completions, *self.refused.values(), *self.unlisted.values())

    def failure_of(self, series: SeriesKey, missing: Iterable[Span]) -> CkvdError | None:
        """The error for which bars of some spans are missing: of an archive of them, else of another source."""
        spans = list(missing)
        of_archives = (
            one.error for one in self.failed if one.series == series and any(map(one.period.span.overlaps, spans))
        )
        of_sources = (error for one in self.completions if one.series == series for error in one.errors)
        return next((error for error in (*of_archives, *of_sources) if error is not None), None)

    def why(self, series: SeriesKey, span: Span) -> str:
        """Why a span is missing and when it is asked for again, as words; empty where no source was asked."""
        if series in self.not_found:
            return "no source has any of it, and nothing was stored; are symbol, market and interval right?"
        absences = narrow(self.unavailable.get(series, ()), span)
        words = " and ".join(dict.fromkeys(absence.reason.value for absence in absences))
        due_ms = earliest_recheck_ms(absences)
        return f"{words}, asked for again from {format_time(due_ms // MINUTE_MS * MINUTE_MS)}" if due_ms else words

    @property
    def outside_row_count(self) -> int:
        """Rows that were left out, because they open outside of the period of their archive."""
        return sum(archive.source.outside_row_count for archive in self.archives if archive.source is not None)

    @property
    def impossible_count(self) -> int:
        """Bars that no market can make, among those that this download stored."""
        of_archives = (archive.source.impossible_count for archive in self.archives if archive.source is not None)
        return sum(of_archives) + sum(len(one.impossible_open_times) for one in self.completions)

    @property
    def is_complete(self) -> bool:
        """Whether the cache covers everything that was asked for, new listings included."""
        return not any(self.missing.values()) and not self.refused and not self.unlisted

    @property
    def is_closed(self) -> bool:
        """Whether the span of each series holds closed bars; otherwise there is nothing to download."""
        return not self.unclosed

    @property
    def unclosed(self) -> tuple[SeriesKey, ...]:
        """The series of whose span no bar is closed yet."""
        return tuple(
            series
            for series, span in self.spans.items()
            if not closed_part(span, Grid.of(series.interval), self.present_ms)
        )

    @property
    def covered_before(self) -> bool:
        """Whether the cache covered everything before, so that nothing was asked for."""
        asked = self.archives or any(one.rest_bar_count or one.errors for one in self.completions)
        return self.is_complete and self.is_closed and not asked

    def to_json(self) -> dict[str, Any]:
        """A JSON object. Times are milliseconds, spans `[start, end]`.

        - `present_ms`, `is_complete`;
        - `stored`: the `archive_count` and the `nbytes` of the archives that were stored, and `rest_bar_count`;
        - `failed_count`: archives that were not downloaded or are invalid;
        - `series`: for each that was asked for its name (`series`), `span`, `is_found`, `missing` (each `span` that
          the cache lacks, and `why`), `rest_bar_count`, `conflict_open_times`, `errors` of other sources than
          archives, and `untraded_tail`;
        - `current`: the names of the series that an update left as they are;
        - `refused`: by the name of a series that an update could not look at, the reason;
        - `unlisted`: by the name of a market whose new listings an update could not find, the reason;
        - `archives`: for each that was asked for its `series`, `period`, `outcome`, `nbytes`, `attempt_count` and
          `notes`.
        """
        completions = {one.series: one for one in self.completions}
        return {
            "present_ms": self.present_ms,
            "is_complete": self.is_complete,
            "stored": {
                "archive_count": len(self.stored),
                "nbytes": sum(archive.nbytes for archive in self.stored),
                "rest_bar_count": sum(one.rest_bar_count for one in self.completions),
            },
            "failed_count": len(self.failed),
            "series": [self._series_as_json(series, completions.get(series)) for series in self.spans],
            "current": as_json(self.current),
            "refused": as_json(self.refused),
            "unlisted": as_json(self.unlisted),
            "archives": [_archive_as_json(archive) for archive in self.archives],
        }

    def _series_as_json(self, series: SeriesKey, completion: CompletionReport | None) -> dict[str, Any]:
        tail = self.untraded_tails.get(series)
        return {
            "series": str(series),
            "span": as_json(self.spans[series]),
            "is_found": series not in self.not_found,
            "missing": [
                {"span": as_json(span), "why": self.why(series, span)} for span in self.missing.get(series, ())
            ],
            "rest_bar_count": 0 if completion is None else completion.rest_bar_count,
            "conflict_open_times": [] if completion is None else list(completion.conflict_open_times),
            "errors": [] if completion is None else [str(error) for error in completion.errors],
            "untraded_tail": None if tail is None else as_json(tail),
        }


def _archive_as_json(archive: ArchiveReport) -> dict[str, Any]:
    return {
        "series": str(archive.series),
        "period": str(archive.period),
        "outcome": archive.outcome.value,
        "nbytes": archive.nbytes,
        "attempt_count": archive.attempt_count,
        "notes": list(archive.notes),
    }


@dataclass(frozen=True, slots=True)
class Progress:
    """The progress of a download.

    Attributes
    ----------
    archive_count : int
        Archives finished.
    archive_total : int
        Archives known to be wanted. All series are planned before the first is fetched, so that it only grows when
        a month turns out to be published as days only.
    nbytes : int
        Bytes fetched.
    nbytes_total : int or None
        Bytes to fetch in all; None without a listing.
    latest : ArchiveReport or None
        The archive that was just finished.
    series : SeriesKey or None
        The series at hand.
    completed_count, completed_total : int
        Series that were completed from other sources than archives, of all. That follows on the archives.
    """

    archive_count: int
    archive_total: int
    nbytes: int
    nbytes_total: int | None
    latest: ArchiveReport | None = None
    series: SeriesKey | None = None
    completed_count: int = 0
    completed_total: int = 0

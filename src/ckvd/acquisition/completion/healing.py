"""What archives fall short of: `Healing` looks it up in the other sources and merges what they say."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from ckvd.acquisition.completion.scope import inner_seconds, whole_days
from ckvd.acquisition.completion.shortfalls import Shortfall, find_shortfalls, join_requests, provisional_recheck_ms
from ckvd.acquisition.ingest import expected_of, source_of
from ckvd.cache.coverage import read_coverage
from ckvd.cache.kline_cache import KlineCache
from ckvd.cache.resolution import resolve
from ckvd.cache.rows import read_contents
from ckvd.concurrency import run_together
from ckvd.decode.decode import decode_archive
from ckvd.errors import ArchiveError, InvalidSymbolError
from ckvd.model.calendar import closed_part
from ckvd.model.gaps import find_gaps
from ckvd.model.provenance import Reason, earliest_recheck_ms, narrow
from ckvd.model.table import merge_tables, rows_within
from ckvd.model.timespan import Span, difference, union
from ckvd.vision.name import ArchiveName
from ckvd.vision.source import AbsentArchive

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from ckvd.acquisition.completion.reasons import Reasons
    from ckvd.acquisition.completion.scope import Scope
    from ckvd.cache.coverage import Covered
    from ckvd.cache.folder import SegmentName
    from ckvd.model.calendar import Period
    from ckvd.model.provenance import Absence, Source
    from ckvd.model.table import KlineTable
    from ckvd.rest.rest_data_client import RestAnswer
    from ckvd.vision.source import ArchiveSource


@dataclass(frozen=True, slots=True, eq=False)
class Evidence:
    """What archives say of a shortfall.

    Attributes
    ----------
    shortfall : Shortfall
    segments : tuple of SegmentName
        Those of the series, when it was looked into.
    tables : tuple of KlineTable
        In order of precedence.
    sources : tuple of Source
    is_provisional : bool
        Whether some of it is to be replaced when an archive appears.
    damaged : tuple of Span
        Where an archive may have bars that could not be believed.
    error : ArchiveError or None
        Why the daily archive cannot be believed, where that is so.
    """

    shortfall: Shortfall
    segments: tuple[SegmentName, ...]
    tables: tuple[KlineTable, ...]
    sources: tuple[Source, ...]
    is_provisional: bool
    damaged: tuple[Span, ...]
    error: ArchiveError | None = None


@dataclass(frozen=True, slots=True, eq=False)
class _Testimony:
    """What the REST interface said of all shortfalls together.

    Attributes
    ----------
    answers : tuple of RestAnswer
    unanswered : tuple of Span
        What it was asked for and said nothing of, because it was not closed by the clock of the exchange.
    """

    answers: tuple[RestAnswer, ...] = ()
    unanswered: tuple[Span, ...] = ()

    def answered_part(self, span: Span) -> Span:
        """The beginning of a span, up to the first moment of it that nothing was said of."""
        ends_ms = [max(span.start_ms, left.start_ms) for left in self.unanswered if left.overlaps(span)]
        return Span(span.start_ms, min(ends_ms, default=span.end_ms))


@dataclass(frozen=True, slots=True)
class Healed:
    """What came of a shortfall.

    Attributes
    ----------
    span : Span
        What was to be written anew.
    is_stored : bool
        Whether it was. If not, others have changed it meanwhile: it is to be looked at again.
    bar_count : int
        Bars that the REST interface added.
    conflict_open_times : tuple of int
        Where sources disagree, in milliseconds.
    """

    span: Span
    is_stored: bool
    bar_count: int = 0
    conflict_open_times: tuple[int, ...] = ()


class Healing:
    """The days of a span that are short.

    Parameters
    ----------
    scope : Scope
    archives : ArchiveSource
    reasons : Reasons
    """

    def __init__(self, scope: Scope, archives: ArchiveSource, reasons: Reasons) -> None:
        self._scope = scope
        self._archives = archives
        self._reasons = reasons

    async def shortfalls(self, excluded: Sequence[Span]) -> list[Shortfall]:
        """What is short and was not looked up everywhere; what overlaps `excluded` is left out."""
        found = await asyncio.to_thread(self._find_shortfalls)
        return [shortfall for shortfall in found if not any(shortfall.span.overlaps(span) for span in excluded)]

    def _find_shortfalls(self) -> tuple[Shortfall, ...]:
        series, wanted, now_ms = self._scope.series, self._scope.span, self._scope.now_ms
        # Days are written anew as a whole, as far as they are covered, and not in the pieces that are asked for.
        whole = closed_part(whole_days(wanted), series.interval, now_ms)
        with KlineCache(self._scope.folder.root) as cache:
            covered = _covered_parts(read_coverage(self._scope.folder, series, whole))
            klines = cache.read_series(series, whole, missing="ignore")
            return find_shortfalls(
                klines.open_time,
                covered,
                series.interval,
                wanted=wanted,
                sources=klines.sources,
                absences=klines.absences,
                now_ms=now_ms,
                use_rest=self._scope.rest is not None,
                refresh=self._scope.refresh,
            )

    async def look_into_archives(self, shortfall: Shortfall, place: Path) -> Evidence:
        """Gather what the cache and the daily archive say of a shortfall.

        A damaged archive does not keep the REST interface from being asked, where that is allowed.

        Parameters
        ----------
        shortfall : Shortfall
        place : Path
            A folder for the archive while it is looked into.

        Raises
        ------
        CkvdError
            The archive may exist, and could not be had; or it cannot be believed, and nobody else may be asked.
        """
        held = await asyncio.to_thread(self._look_into_cache, shortfall)
        try:
            daily = None if shortfall.daily is None else await self._look_into_daily(shortfall.daily, place)
        except ArchiveError as error:
            if self._scope.rest is None:
                raise
            return replace(held, damaged=(shortfall.span,), error=error)
        if daily is None:
            return held
        table, source = daily
        # Where a month and a day were seen to disagree, the day was right.
        tables = (rows_within(table, shortfall.span), *held.tables)
        sources = (*held.sources, *narrow([source], shortfall.span))
        return replace(held, tables=tables, sources=sources, is_provisional=False, damaged=())

    def _look_into_cache(self, shortfall: Shortfall) -> Evidence:
        # In this order: what is published in between is found to be new.
        segments = tuple(self._scope.folder.segments(self._scope.series))
        contents = read_contents(self._scope.folder, self._scope.series, shortfall.span)
        damaged = [absence.span for absence in contents.absences if absence.reason is Reason.ARCHIVE_DAMAGED]
        return Evidence(
            shortfall,
            segments,
            (contents.table,),
            contents.sources,
            is_provisional=bool(contents.provisional),
            damaged=tuple(damaged),
        )

    async def _look_into_daily(self, period: Period, place: Path) -> tuple[KlineTable, Source] | None:
        name = ArchiveName(self._scope.series, period)
        fetched = await self._archives.fetch(name, place)
        if isinstance(fetched, AbsentArchive):
            return None
        content = await asyncio.to_thread(fetched.path.read_bytes)
        decoded = await asyncio.to_thread(decode_archive, content, expected_of(name))
        return decoded.table, source_of(fetched, decoded)

    async def amend(self, evidence: Sequence[Evidence]) -> list[Healed]:
        """Ask the REST interface for what all archives lack, and write every doubtful part anew.

        Raises
        ------
        CkvdError
            It could not be asked. Nothing was written.
        """
        gaps = union(gap for found in evidence for gap in self._gaps_of(found))
        testimony = await self._ask_rest(gaps)
        return await run_together([self._amend_one(found, testimony) for found in evidence])

    def _gaps_of(self, evidence: Evidence) -> list[Span]:
        merged = merge_tables(self._scope.series, evidence.tables).table
        gaps = find_gaps(merged.open_time, [evidence.shortfall.span], self._scope.series.interval)
        return [gap.span for gap in gaps]

    async def _ask_rest(self, gaps: Sequence[Span]) -> _Testimony:
        rest = self._scope.rest
        if rest is None or not gaps:
            return _Testimony()
        listing = await self._reasons.listing()
        listing_ms = 0 if listing is None else listing.first_open_ms
        listed = [Span(max(gap.start_ms, listing_ms), gap.end_ms) for gap in gaps if gap.end_ms > listing_ms]
        spans = join_requests(listed, self._scope.series.interval)
        try:
            answers = await run_together([rest.fetch(self._scope.series, span) for span in spans])
        except InvalidSymbolError:
            return _Testimony()  # the exchange forgot the symbol: what its archives lack is nowhere
        unanswered = difference(spans, [answer.span for answer in answers])
        return _Testimony(tuple(answers), unanswered)

    async def _amend_one(self, evidence: Evidence, testimony: _Testimony) -> Healed:
        span = inner_seconds(testimony.answered_part(evidence.shortfall.span))
        held = resolve(span, evidence.segments)
        if difference([span], [winner.span for winner in held]):
            return Healed(span, is_stored=False)  # a part of it was removed before it was looked into
        if not span:
            return Healed(span, is_stored=True)
        archived = [rows_within(table, span) for table in evidence.tables]
        answered = [rows_within(answer.table, span) for answer in testimony.answers]
        merged = merge_tables(self._scope.series, [*archived, *answered])
        kept_counts = merged.kept_counts[len(archived) :]
        used = [
            source
            for answer, kept_count in zip(testimony.answers, kept_counts, strict=True)
            if kept_count
            for source in answer.sources
        ]
        absences = await self._reasons.explain(span, merged.table.open_time, evidence.damaged)
        path = await asyncio.to_thread(
            self._scope.store.put_in_place,
            held,
            merged.table,
            span,
            sources=narrow([*evidence.sources, *used], span),
            absences=absences,
            is_provisional=evidence.is_provisional,
            recheck_ms=self._recheck_ms(merged.table, absences, span, is_provisional=evidence.is_provisional),
        )
        if path is None:
            return Healed(span, is_stored=False)
        conflicts = tuple(merged.conflict_open_times.tolist())
        return Healed(span, is_stored=True, bar_count=sum(kept_counts), conflict_open_times=conflicts)

    def _recheck_ms(
        self, table: KlineTable, absences: Sequence[Absence], span: Span, *, is_provisional: bool
    ) -> int:
        if is_provisional:
            damaged_ms = [one.recheck_ms for one in absences if one.reason is Reason.ARCHIVE_DAMAGED]
            return min([provisional_recheck_ms(span, self._scope.now_ms), *damaged_ms])
        # A day without a bar is asked for as a whole. Holes beside bars are found by their absences.
        return 0 if table.row_count else earliest_recheck_ms(absences)


def _covered_parts(coverage: Sequence[Covered]) -> tuple[Span, ...]:
    """What is covered, without joining what is answered to what could not be had: one has no part in the other.

    What could not be had and is planned for again by its time is left to that.
    """
    answered = union(held.span for held in coverage if held.is_answered)
    unanswered = union(held.span for held in coverage if not held.is_answered and not held.recheck_ms)
    return tuple(sorted([*answered, *unanswered]))

"""Filling the holes of archives: `Healing` looks short days up in other sources and merges them bar by bar.

The daily archive is asked first where a monthly one was short, the monthly one where a daily one was, then the REST
interface for what both lack.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from ckvd.acquisition.completion.reasons import NO_BARS_ERRORS
from ckvd.acquisition.completion.scope import Completed, impossible_times, inner_seconds, whole_days, whole_months
from ckvd.acquisition.completion.shortfalls import Shortfall, find_shortfalls, join_requests, provisional_recheck_ms
from ckvd.acquisition.ingest import fetch_table
from ckvd.bars.series_rows import SeriesRows
from ckvd.cache.coverage import has_every_bar, read_coverage
from ckvd.cache.kline_cache import KlineCache
from ckvd.cache.resolution import resolve
from ckvd.cache.rows import read_contents, read_grid
from ckvd.concurrency.work import in_thread, run_together
from ckvd.errors import ArchiveError
from ckvd.model.calendar import Cadence
from ckvd.model.gaps import find_gaps
from ckvd.model.grid import closed_part
from ckvd.model.provenance import Reason, narrow, segment_recheck_ms
from ckvd.model.schema import cadences_of
from ckvd.model.settlements import settled_times
from ckvd.model.table import merge_tables, rows_within
from ckvd.model.timespan import Span, difference, union
from ckvd.vision.name import ArchiveName

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from ckvd.acquisition.completion.reasons import Reasons
    from ckvd.acquisition.completion.scope import Scope
    from ckvd.acquisition.ingest import ReadArchive
    from ckvd.cache.coverage import Covered
    from ckvd.cache.folder import SegmentName
    from ckvd.model.calendar import Period
    from ckvd.model.grid import Grid
    from ckvd.model.provenance import Absence, Source
    from ckvd.model.table import KlineTable, Times
    from ckvd.rest.rest_data_client import RestAnswer
    from ckvd.vision.source import ArchiveSource


@dataclass(frozen=True, slots=True, eq=False)
class ArchivedBars:
    """The bars that the cache and archives have of a shortfall.

    Attributes
    ----------
    shortfall : Shortfall
    segments : tuple of SegmentName
        The segments of the series when its bars were read.
    tables : tuple of KlineTable
        In order of precedence.
    sources : tuple of Source
    is_provisional : bool
        Whether some bars are to be replaced when an archive appears.
    damaged : tuple of Span
        Spans of damaged archives.
    error : ArchiveError or None
        What is wrong with the daily archive.
    """

    shortfall: Shortfall
    segments: tuple[SegmentName, ...]
    tables: tuple[KlineTable, ...]
    sources: tuple[Source, ...]
    is_provisional: bool
    damaged: tuple[Span, ...]
    error: ArchiveError | None = None

    def corrected_with(self, archive: ReadArchive) -> ArchivedBars:
        """The same with an archive that goes before the others, unless somebody preferred one of them."""
        if any(source.is_preferred for source in self.sources):
            return self.completed_with(archive)
        rows = rows_within(archive.table, self.shortfall.span)
        sources = (*self.sources, *narrow([archive.source], self.shortfall.span))
        return replace(self, tables=(rows, *self.tables), sources=sources, is_provisional=False, damaged=())

    def completed_with(self, archive: ReadArchive) -> ArchivedBars:
        """The same with an archive that only has bars that the others lack."""
        rows = rows_within(archive.table, self.shortfall.span)
        sources = (*self.sources, *narrow([archive.source], self.shortfall.span))
        return replace(self, tables=(*self.tables, rows), sources=sources)


@dataclass(frozen=True, slots=True, eq=False)
class _RestBars:
    """What the REST interface answered for all shortfalls together.

    Attributes
    ----------
    answers : tuple of RestAnswer
    unanswered : tuple of Span
        Spans that it was asked for and did not answer, because they are not closed by the clock of the exchange.
        In order.
    """

    answers: tuple[RestAnswer, ...] = ()
    unanswered: tuple[Span, ...] = ()

    def answered_part(self, span: Span) -> Span:
        """The beginning of a span, up to its first unanswered moment."""
        end_ms = next((left.start_ms for left in self.unanswered if left.overlaps(span)), span.end_ms)
        return span.intersection(Span(0, end_ms))


class Healing:
    """Completes the short days of a span.

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
        # The month that was read last, for all of its short days. They come in order.
        self._reading_month = asyncio.Lock()
        self._month: tuple[Period, ReadArchive | None] | None = None

    async def shortfalls(self, excluded: Sequence[Span], within: Sequence[Span]) -> list[Shortfall]:
        """The shortfalls that not every source was asked for: those that overlap `within`, and not `excluded`."""
        found = await in_thread(self._find_shortfalls)
        return [shortfall for shortfall in _not_in(excluded, found) if any(map(shortfall.span.overlaps, within))]

    def is_whole(self, excluded: Sequence[Span]) -> bool:
        """Whether there is no shortfall to look up. It asks nobody; to be called in a thread."""
        scope = self._scope
        # Without a gap there is no shortfall, whatever its reason would be.
        is_full = has_every_bar(scope.folder, scope.series, scope.span)
        return is_full or not _not_in(excluded, self._find_shortfalls())

    def _find_shortfalls(self) -> tuple[Shortfall, ...]:
        series, wanted, now_ms = self._scope.series, self._scope.span, self._scope.now_ms
        # A day is stored anew as far as it is covered, not just the part that is wanted.
        grid = read_grid(self._scope.folder, series)
        whole = closed_part(whole_months(wanted) if grid.is_of_events else whole_days(wanted), grid, now_ms)
        with KlineCache(self._scope.folder.root) as cache:
            covered = _covered_parts(read_coverage(self._scope.folder, series, whole))
            held = cache.read_rows(series, whole, missing="ignore")
            return find_shortfalls(
                held.open_time,
                covered,
                grid,
                wanted=wanted,
                sources=held.sources,
                absences=held.absences,
                now_ms=now_ms,
                use_rest=self._scope.rest is not None,
                refresh=self._scope.refresh,
                cadences=cadences_of(series),
                # As the sources give them, not as `Funding` completes them.
                hours=SeriesRows.__getitem__(held, "interval_hours") if grid.is_of_events else None,
            )

    async def read_archived(self, shortfall: Shortfall, place: Path) -> ArchivedBars:
        """Read what the cache and the archives have of a shortfall.

        A damaged daily archive does not keep the REST interface from being asked, where that is allowed. A damaged
        monthly one is no error: its days are there.

        Parameters
        ----------
        shortfall : Shortfall
        place : Path
            A folder for the archive until it is read.

        Raises
        ------
        CkvdError
            The archive may exist and was not fetched; or it is damaged, and no other source may be asked.
        """
        found = await in_thread(self._read_cached, shortfall)
        for period in shortfall.archives:
            if period.cadence is Cadence.MONTHLY:
                month = await self._read_month(period, place)
                found = found if month is None else found.completed_with(month)
                continue
            try:
                daily = await fetch_table(self._archives, ArchiveName(self._scope.series, period), place)
            except ArchiveError as error:
                if self._scope.rest is None:
                    raise
                found = replace(found, damaged=(shortfall.span,), error=error)
            else:
                # In every known disagreement of a month and a day, the day was right.
                found = found if daily is None else found.corrected_with(daily)
        return found

    async def _read_month(self, period: Period, place: Path) -> ReadArchive | None:
        """Read a month, once for all of its short days; None where there is none that can be read."""
        async with self._reading_month:
            if self._month is None or self._month[0] != period:
                try:
                    month = await fetch_table(self._archives, ArchiveName(self._scope.series, period), place)
                except ArchiveError:
                    month = None
                self._month = period, month
            return self._month[1]

    def _read_cached(self, shortfall: Shortfall) -> ArchivedBars:
        # Listed before reading: a segment published in between then counts as new.
        segments = tuple(self._scope.folder.segments(self._scope.series))
        contents = read_contents(self._scope.folder, self._scope.series, shortfall.span)
        damaged = [absence.span for absence in contents.absences if absence.reason is Reason.ARCHIVE_DAMAGED]
        return ArchivedBars(
            shortfall,
            segments,
            (contents.table,),
            contents.sources,
            is_provisional=bool(contents.provisional),
            damaged=tuple(damaged),
        )

    async def heal(self, archived: Sequence[ArchivedBars]) -> list[Completed]:
        """Ask the REST interface for what all archives lack, and store every shortfall anew.

        Raises
        ------
        CkvdError
            The REST interface did not answer. What was stored by then stays.
        """
        self._reasons.look_again_at_archives()
        grid = await in_thread(read_grid, self._scope.folder, self._scope.series)
        found = await in_thread(lambda: [self._gaps_of(bars, grid) for bars in archived])
        gaps = union(gap for gaps in found for gap in gaps)
        rest_bars = await self._ask_rest(gaps)
        return await run_together([self._heal_one(bars, rest_bars) for bars in archived])

    def _gaps_of(self, archived: ArchivedBars, grid: Grid) -> Sequence[Span]:
        merged = merge_tables(self._scope.series, archived.tables).table
        if grid.is_of_events:
            return self._reasons.missing(archived.shortfall.span, merged)
        gaps = find_gaps(merged.open_time, [archived.shortfall.span], grid)
        return [gap.span for gap in gaps]

    async def _ask_rest(self, gaps: Sequence[Span]) -> _RestBars:
        rest = self._scope.rest
        if rest is None or not gaps:
            return _RestBars()
        listing = await self._reasons.listing()
        listing_ms = 0 if listing is None else listing.first_open_ms
        listed = [Span(max(gap.start_ms, listing_ms), gap.end_ms) for gap in gaps if gap.end_ms > listing_ms]
        spans = join_requests(listed, self._scope.series.interval)
        try:
            answers = await run_together([rest.fetch(self._scope.series, span) for span in spans])
        except NO_BARS_ERRORS:
            return _RestBars()  # the exchange has no bars of the symbol: no source has what its archives lack
        unanswered = difference(spans, [answer.span for answer in answers])
        return _RestBars(tuple(answers), unanswered)

    async def _heal_one(self, archived: ArchivedBars, rest_bars: _RestBars) -> Completed:
        span = inner_seconds(rest_bars.answered_part(archived.shortfall.span))
        winners = resolve(span, archived.segments)
        if difference([span], [winner.span for winner in winners]):
            return Completed(span, is_stored=False)  # a part of it was removed before it was read
        if not span:
            return Completed(span, is_stored=True)
        tables = [rows_within(table, span) for table in archived.tables]
        answered = [rows_within(answer.table, span) for answer in rest_bars.answers]
        if self._scope.series.interval is None:
            # The sources give one settlement different milliseconds. That of an archive stays as it is.
            known = np.concatenate([table.open_time for table in tables])
            answered = [_without_known(table, known) for table in answered]
        merged = merge_tables(self._scope.series, [*tables, *answered])
        kept_counts = merged.kept_counts[len(tables) :]
        used = [
            source
            for answer, kept_count in zip(rest_bars.answers, kept_counts, strict=True)
            if kept_count
            for source in answer.sources
        ]
        absences = await self._reasons.explain(span, merged.table, archived.damaged)
        path = await in_thread(
            self._scope.store.put_in_place,
            winners,
            merged.table,
            span,
            sources=narrow([*archived.sources, *used], span),
            absences=absences,
            is_provisional=archived.is_provisional,
            recheck_ms=self._recheck_ms(merged.table, absences, span, is_provisional=archived.is_provisional),
        )
        if path is None:
            return Completed(span, is_stored=False)
        conflicts = tuple(merged.conflict_open_times.tolist())
        archived_ms = {moment for table in tables for moment in impossible_times(table)}
        impossible = tuple(moment for moment in impossible_times(merged.table) if moment not in archived_ms)
        return Completed(
            span,
            is_stored=True,
            rest_bar_count=sum(kept_counts),
            conflict_open_times=conflicts,
            impossible_open_times=impossible,
        )

    def _recheck_ms(
        self, table: KlineTable, absences: Sequence[Absence], span: Span, *, is_provisional: bool
    ) -> int:
        if is_provisional:
            damaged_ms = [one.recheck_ms for one in absences if one.reason is Reason.ARCHIVE_DAMAGED]
            cadences = cadences_of(self._scope.series)
            return min([provisional_recheck_ms(span, self._scope.now_ms, cadences), *damaged_ms])
        return segment_recheck_ms(table.row_count, absences)


def _without_known(table: KlineTable, known: Times) -> KlineTable:
    """The settlements of a table that are none of the known ones."""
    is_new = ~np.isin(settled_times(table.open_time), settled_times(known))
    return replace(table, columns={name: column[is_new] for name, column in table.columns.items()})


def _not_in(excluded: Sequence[Span], shortfalls: Sequence[Shortfall]) -> list[Shortfall]:
    return [shortfall for shortfall in shortfalls if not any(map(shortfall.span.overlaps, excluded))]


def _covered_parts(coverage: Sequence[Covered]) -> tuple[Span, ...]:
    """The covered spans; answered and unavailable ones are not joined, since no shortfall lies in both.

    Unavailable spans with a time to ask again are left to the planner.
    """
    answered = union(held.span for held in coverage if held.is_answered)
    unanswered = union(held.span for held in coverage if not held.is_answered and not held.recheck_ms)
    return tuple(sorted([*answered, *unanswered]))

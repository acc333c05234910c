"""What no archive covers: `Tail` stores it from the REST interface, or stores why it is missing."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from ckvd.acquisition.completion.reasons import NO_BARS_ERRORS
from ckvd.acquisition.completion.scope import Completed, impossible_times, inner_seconds, outer_seconds
from ckvd.acquisition.completion.shortfalls import provisional_recheck_ms
from ckvd.cache.coverage import read_coverage
from ckvd.cache.resolution import resolve
from ckvd.cache.rows import read_contents, read_grid
from ckvd.concurrency.work import in_thread
from ckvd.model.calendar import days_of, month_start_ms, months_of
from ckvd.model.grid import Grid
from ckvd.model.market import DAY_MS
from ckvd.model.provenance import Reason, earliest_recheck_ms, narrow, says_nothing
from ckvd.model.schema import cadences_of, has_daily_archives
from ckvd.model.table import empty_table, merge_tables, rows_within
from ckvd.model.timespan import Span, difference, union
from ckvd.utils.config import CLOCK_AHEAD_MAX_MS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ckvd.acquisition.completion.reasons import Reasons
    from ckvd.acquisition.completion.scope import Scope
    from ckvd.cache.coverage import Covered
    from ckvd.cache.folder import SegmentName
    from ckvd.model.provenance import Absence, Source
    from ckvd.model.table import KlineTable

# A span up to this long is stored day by day, so that each day is replaced when its archive appears.
_DAILY_SPANS_MAX_MS: Final = 8 * DAY_MS


class Tail:
    """The part of a span that no archive covers.

    Parameters
    ----------
    scope : Scope
    reasons : Reasons

    Attributes
    ----------
    open_from_ms : int or None
    beyond_archives : list of Absence
        See `CompletionReport`.
    """

    def __init__(self, scope: Scope, reasons: Reasons) -> None:
        self._scope = scope
        self._reasons = reasons
        self._damaged = scope.damaged
        self._unlisted: tuple[Span, ...] = ()
        self._segments: tuple[SegmentName, ...] = ()
        self._withheld: list[tuple[Span, Sequence[Absence]]] = []
        self.open_from_ms: int | None = None
        self.beyond_archives: list[Absence] = []

    def is_filled(self, excluded: Sequence[Span]) -> bool:
        """Whether `spans_to_fill` would find nothing. It asks nobody; to be called in a thread."""
        uncovered = self._find_uncovered()
        unlisted = self._unlisted if self._scope.rest is None else ()
        return not difference([*uncovered, *unlisted], excluded)

    async def spans_to_fill(self, excluded: Sequence[Span]) -> list[Span]:
        """The uncovered spans, cut so that each is stored by itself; `excluded` is left out.

        Raises
        ------
        CkvdError
            The REST interface did not answer when the series began.
        """
        self._reasons.look_again_at_archives()
        uncovered = await in_thread(self._find_uncovered)
        wanted = difference(uncovered, excluded)
        if self._scope.rest is None:
            return await self._spans_of_archives(wanted, difference(self._unlisted, excluded))
        listing = await self._reasons.listing_before(wanted[0]) if wanted else None
        begins_ms = 0
        if listing is not None:
            grid = await in_thread(read_grid, self._scope.folder, self._scope.series)
            begins_ms = outer_seconds(grid.slot(listing.first_open_ms)).start_ms
        # All time before the listing is one span. Spans of damaged archives are kept apart, because they are asked
        # for again.
        intact = difference(wanted, self._damaged)
        if self._reasons.is_not_trading:
            return [*intact, *difference(wanted, intact)]
        return self._cut_apart(wanted, intact, begins_ms)

    async def _spans_of_archives(self, wanted: Sequence[Span], unlisted: Sequence[Span]) -> list[Span]:
        """The spans to explain where only archives may be asked, cut where archives begin and end.

        Spans that were explained without the listing are explained anew, if it can be read.
        """
        extent = await self._reasons.extent() if wanted or unlisted else None
        if self._reasons.is_listing_read:
            wanted = union([*wanted, *unlisted])
        if extent is None:
            return self._cut_apart(wanted, difference(wanted, self._damaged), 0)
        before = Span(0, extent.begin_ms)
        until_end = difference(wanted, [Span(extent.end_ms, max(extent.end_ms, self._scope.span.end_ms))])
        after = difference(wanted, until_end)
        return [
            part
            for parts in (until_end, after)
            for part in self._cut_apart(parts, difference(parts, self._damaged), before.end_ms)
        ]

    def _cut_apart(self, wanted: Sequence[Span], intact: Sequence[Span], begins_ms: int) -> list[Span]:
        """Cut spans so that each is stored by itself: all before the beginning is one, the rest days or months."""
        listed = difference(intact, [Span(0, begins_ms)])
        apart = (*listed, *difference(wanted, intact))
        return [*difference(intact, listed), *(part for span in apart for part in self._cut(span))]

    def _find_uncovered(self) -> tuple[Span, ...]:
        """The spans that are not covered, and were in no archive that was asked for."""
        scope = self._scope
        # Listed first: a segment published from now on counts as new.
        self._segments = tuple(scope.folder.segments(scope.series))
        covered = read_coverage(scope.folder, scope.series, scope.span)
        absences = [
            absence
            for held in covered
            if not held.is_answered
            for absence in read_contents(scope.folder, scope.series, held.span, verify="never").absences
        ]
        found = [absence.span for absence in absences if absence.reason is Reason.ARCHIVE_DAMAGED]
        unlisted = [
            absence.span
            for absence in absences
            if absence.reason in (Reason.NOT_IN_ARCHIVE, Reason.NO_ARCHIVE) and not absence.is_listing_read
        ]
        self._unlisted = difference(unlisted, found)
        # Where a damaged month is covered in part, only days are asked for: bars that no day has are still lost.
        self._damaged = union([*scope.damaged, *found])

        def is_firm(held: Covered) -> bool:
            if held.is_due(scope.now_ms):
                return False
            # What was unavailable without the REST interface may be available with it.
            is_kept = not scope.refresh and (scope.rest is None or any(map(held.span.overlaps, found)))
            return (held.is_answered and not held.is_of_archives) or is_kept

        firm = [held.span for held in covered if is_firm(held)]
        if scope.rest is None:
            firm += found
        return difference([scope.span], firm)

    def _cut(self, span: Span) -> list[Span]:
        is_daily = span.length_ms <= _DAILY_SPANS_MAX_MS and has_daily_archives(self._scope.series)
        periods = days_of(span) if is_daily else months_of(span)
        return [period.span.intersection(span) for period in periods]

    async def fill(self, span: Span) -> Completed:
        """Store a span, as bars or as an absence.

        Raises
        ------
        CkvdError
            The REST interface did not answer, or its answer is invalid.
        """
        if self._scope.rest is None:
            absences = await self._reasons.explain_by_archives(span)
            is_stored = await in_thread(self._put_absences, span, absences)
            if is_stored:
                self.beyond_archives += [absence for absence in absences if absence.reason.is_of_archives]
            return Completed(span, is_stored)
        listing = await self._reasons.listing_before(span)
        is_before = listing is not None and span.end_ms <= listing.first_open_ms
        is_known = is_before or self._reasons.is_not_trading
        span, table, sources = self._nothing(span) if is_known else await self._fetch(span)
        absences = await self._reasons.explain(span, table, self._damaged)
        is_stored = not span or await in_thread(self._store, span, table, sources, absences)
        if not is_stored:
            return Completed(span, is_stored)
        return Completed(span, is_stored, table.row_count, impossible_open_times=impossible_times(table))

    async def _fetch(self, span: Span) -> tuple[Span, KlineTable, Sequence[Source]]:
        """Ask for a span. The answer may cover less of it, by the clock of the exchange."""
        assert self._scope.rest is not None
        try:
            answer = await self._scope.rest.fetch(self._scope.series, span)
        except NO_BARS_ERRORS:
            # The exchange forgets a symbol some time after its last trade; its archives stay.
            return self._nothing(span)
        if answer.span.end_ms < span.end_ms:
            self._note_open(answer.span.end_ms)
        answered = inner_seconds(answer.span)
        return answered, rows_within(answer.table, answered), answer.sources

    def _note_open(self, from_ms: int) -> None:
        """Note that bars still form at the exchange, unless the clocks differ by more than is plausible."""
        grid = Grid.of(self._scope.series.interval)
        if from_ms >= grid.closed_end(self._scope.now_ms - CLOCK_AHEAD_MAX_MS):
            self.open_from_ms = min(from_ms, self.open_from_ms or from_ms)

    def _nothing(self, span: Span) -> tuple[Span, KlineTable, Sequence[Source]]:
        return span, empty_table(self._scope.series), ()

    def _store(self, span: Span, table: KlineTable, sources: Sequence[Source], absences: Sequence[Absence]) -> bool:
        """Store what the REST interface answered for a span.

        A segment with bars answers for all of its span. A day or more that is unavailable, before the first bar or
        after the last, is therefore stored by itself, as an absence. The bars are asked for again together with it,
        because only an archive of all of them can repair it.

        Returns
        -------
        bool
            False where another writer changed the span meanwhile.
        """
        if not table.row_count:
            if absences:
                return self._put_absences(span, absences)
            # No event was due: the span becomes a part of the segment before it.
            return self._put_bars(span, table, sources, (), None)
        grid = read_grid(self._scope.folder, self._scope.series, table.open_time)
        first, last = (grid.slot(int(table.open_time[row])) for row in (0, -1))
        outside = difference([span], [outer_seconds(Span(first.start_ms, last.end_ms))])
        unavailable = [absence for absence in absences if not absence.reason.is_answer]
        days = [part for part in outside if part.length_ms >= DAY_MS]
        lost = [part for part in days if any(part.overlaps(absence.span) for absence in unavailable)]
        if not all(self._put_absences(part, narrow(absences, part)) for part in lost):
            return False
        (answered,) = difference([span], lost)
        due_ms = min((absence.recheck_ms for absence in unavailable), default=None)
        return self._put_bars(answered, table, narrow(sources, answered), narrow(absences, answered), due_ms)

    def _put_bars(
        self,
        span: Span,
        table: KlineTable,
        sources: Sequence[Source],
        absences: Sequence[Absence],
        due_ms: int | None,
    ) -> bool:
        """Store bars of the REST interface, in one segment with earlier ones of the same day; of events, month."""
        is_of_events = self._scope.series.interval is None
        start_ms = month_start_ms(span.start_ms) if is_of_events else span.start_ms // DAY_MS * DAY_MS
        period = Span(start_ms, span.start_ms)
        segments = self._scope.folder.segments(self._scope.series)
        if resolve(span, segments) != resolve(span, self._segments):
            return False
        before = read_contents(self._scope.folder, self._scope.series, period)
        earlier = next((part for part in before.provisional if part.end_ms == span.start_ms), None)
        if earlier is not None:
            span = Span(earlier.start_ms, span.end_ms)
            table = merge_tables(self._scope.series, [table, rows_within(before.table, earlier)]).table
            sources = [*narrow(before.sources, earlier), *sources]
            absences = [*narrow(before.absences, earlier), *absences]
        path = self._scope.store.put_in_place(
            resolve(span, segments),
            table,
            span,
            sources=sources,
            absences=absences,
            is_provisional=True,
            recheck_ms=due_ms or provisional_recheck_ms(span, self._scope.now_ms, cadences_of(self._scope.series)),
        )
        return path is not None

    def _put_absences(self, span: Span, absences: Sequence[Absence]) -> bool:
        """Store why a span has no bars; False where another writer changed it meanwhile.

        What says nothing of the series is withheld while the cache has nothing else of it: see `settle`.
        """
        if says_nothing(absences) and not self._scope.folder.segments(self._scope.series):
            self._withheld.append((span, absences))
            return True
        return self._publish_absences(span, absences)

    def settle(self) -> None:
        """Store what was withheld, if the cache has something of the series by now.

        Otherwise no source has anything of it: its symbol may be mistyped, and nothing is left of it in the cache.
        """
        withheld, self._withheld = self._withheld, []
        if withheld and self._scope.folder.segments(self._scope.series):
            for span, absences in withheld:
                # Where another writer changed the span meanwhile, the next download looks at it again.
                self._publish_absences(span, absences)

    def _publish_absences(self, span: Span, absences: Sequence[Absence]) -> bool:
        path = self._scope.store.put_in_place(
            resolve(span, self._segments),
            empty_table(self._scope.series),
            span,
            absences=absences,
            recheck_ms=earliest_recheck_ms(absences),
        )
        return path is not None

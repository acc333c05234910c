"""What no archive has: `Tail` asks the REST interface for it, or states that it is not there and why."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from ckvd.acquisition.completion.scope import inner_seconds
from ckvd.acquisition.completion.shortfalls import provisional_recheck_ms, recheck_ms
from ckvd.acquisition.planning import plan
from ckvd.cache.coverage import Covered, read_coverage
from ckvd.cache.resolution import resolve
from ckvd.cache.rows import read_contents
from ckvd.errors import InvalidSymbolError
from ckvd.model.calendar import Cadence, Period, days_of, grid_floor, grid_next, months_of, publication_ms
from ckvd.model.market import DAY_MS
from ckvd.model.provenance import Absence, Reason, earliest_recheck_ms, narrow
from ckvd.model.table import empty_table, merge_tables, rows_within
from ckvd.model.timespan import Span, difference, union
from ckvd.utils.config import CLOCK_AHEAD_MAX_MS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ckvd.acquisition.completion.reasons import Reasons
    from ckvd.acquisition.completion.scope import Scope
    from ckvd.cache.folder import SegmentName
    from ckvd.model.provenance import Source
    from ckvd.model.table import KlineTable

# A stretch up to this long is kept day by day, so that each day is replaced when its archive appears.
_DAILY_PIECES_MAX_MS: Final = 8 * DAY_MS


class _Everything:
    """All periods: their archives were asked for already."""

    def __contains__(self, _period: object) -> bool:
        return True


@dataclass(frozen=True, slots=True)
class Filled:
    """What came of a piece.

    Attributes
    ----------
    is_stored : bool
        Whether it was stored as a whole. If not, others have changed it meanwhile: it is to be looked at again.
    bar_count : int
        Bars that the REST interface added.
    """

    is_stored: bool
    bar_count: int = 0


class Tail:
    """The part of a span that no archive covers.

    Parameters
    ----------
    scope : Scope
    reasons : Reasons

    Attributes
    ----------
    open_from_ms : int or None
        See `CompletionReport`.
    """

    def __init__(self, scope: Scope, reasons: Reasons) -> None:
        self._scope = scope
        self._reasons = reasons
        self._damaged = scope.damaged
        self._segments: tuple[SegmentName, ...] = ()
        self.open_from_ms: int | None = None

    async def pieces(self, excluded: Sequence[Span]) -> list[Span]:
        """What to ask for, in pieces that are stored one by one; what lies in `excluded` is left out.

        Raises
        ------
        CkvdError
            The REST interface could not be asked when the series began.
        """
        wanted = difference(await asyncio.to_thread(self._find_uncovered), excluded)
        listing = await self._reasons.listing() if wanted else None
        begins_ms = 0 if listing is None else grid_floor(listing.first_open_ms, self._scope.series.interval)
        # All that lies before the listing is one statement. What archives might have, once they are repaired, is
        # kept apart: it is to be asked for again.
        intact = difference(wanted, self._damaged)
        listed = difference(intact, [Span(0, begins_ms)])
        apart = (*listed, *difference(wanted, intact))
        return [*difference(intact, listed), *(piece for span in apart for piece in self._cut(span))]

    def _find_uncovered(self) -> tuple[Span, ...]:
        """What is not covered, and was in no archive that was asked for."""
        scope = self._scope
        # First of all: what is published from now on is found to be new.
        self._segments = tuple(scope.folder.segments(scope.series))
        covered = read_coverage(scope.folder, scope.series, scope.span)
        found = [
            absence.span
            for held in covered
            if not held.is_answered
            for absence in read_contents(scope.folder, scope.series, held.span).absences
            if absence.reason is Reason.ARCHIVE_DAMAGED
        ]
        # Where a damaged month is covered in part, only days are asked for: what none of them has is still lost.
        self._damaged = union([*scope.damaged, *found])
        firm = [held for held in covered if held.is_answered]
        if scope.rest is None:
            firm += [Covered(span) for span in found]
        if not scope.refresh:
            # What could not be had without the REST interface can be had with it.
            is_kept = [scope.rest is None or any(map(held.span.overlaps, found)) for held in covered]
            firm += [held for held, kept in zip(covered, is_kept, strict=True) if kept and not held.is_answered]
        return plan(scope.series, scope.span, firm, now_ms=scope.now_ms, unavailable=_Everything()).unplanned

    def _cut(self, span: Span) -> list[Span]:
        is_daily = span.length_ms <= _DAILY_PIECES_MAX_MS and self._scope.series.interval.has_daily_archives
        periods = days_of(span) if is_daily else months_of(span)
        return [period.span.intersection(span) for period in periods]

    async def fill(self, piece: Span) -> Filled:
        """Bring a piece into the cache, as bars or as an absence.

        Raises
        ------
        CkvdError
            It could not be asked, or what it answered cannot be believed.
        """
        if self._scope.rest is None:
            return Filled(await asyncio.to_thread(self._state, piece, (self._unavailable(piece),)))
        listing = await self._reasons.listing()
        is_before = listing is not None and piece.end_ms <= listing.first_open_ms
        piece, table, sources = self._nothing(piece) if is_before else await self._fetch(piece)
        absences = await self._reasons.explain(piece, table.open_time, self._damaged)
        if piece and not await asyncio.to_thread(self._store, piece, table, sources, absences):
            return Filled(is_stored=False)
        return Filled(is_stored=True, bar_count=table.row_count)

    async def _fetch(self, piece: Span) -> tuple[Span, KlineTable, Sequence[Source]]:
        """Ask for a piece; the answer may speak of less of it, by the clock of the exchange."""
        assert self._scope.rest is not None
        try:
            answer = await self._scope.rest.fetch(self._scope.series, piece)
        except InvalidSymbolError:
            # The exchange forgets a symbol some time after its last trade; its archives stay.
            return self._nothing(piece)
        if answer.span.end_ms < piece.end_ms:
            self._note_open(answer.span.end_ms)
        span = inner_seconds(answer.span)
        return span, rows_within(answer.table, span), answer.sources

    def _note_open(self, from_ms: int) -> None:
        """Take note that bars still form at the exchange; a clock that differs by much is not explained away."""
        if from_ms >= grid_floor(self._scope.now_ms - CLOCK_AHEAD_MAX_MS, self._scope.series.interval):
            self.open_from_ms = min(from_ms, self.open_from_ms or from_ms)

    def _nothing(self, piece: Span) -> tuple[Span, KlineTable, Sequence[Source]]:
        return piece, empty_table(self._scope.series), ()

    def _store(
        self, piece: Span, table: KlineTable, sources: Sequence[Source], absences: Sequence[Absence]
    ) -> bool:
        """Store what the REST interface said of a piece.

        A segment that has bars gives an answer to all of its span. What could not be had for a day or more, before
        the first bar or after the last, is therefore stated by itself. The bars are asked for again together with
        it, since it takes an archive of all of them to repair it.

        Returns
        -------
        bool
            Whether the cache had nothing new of the piece meanwhile.
        """
        if not table.row_count:
            return self._state(piece, absences)
        interval = self._scope.series.interval
        first_ms, last_ms = int(table.open_time[0]), int(table.open_time[-1])
        outside = difference([piece], [Span(grid_floor(first_ms, interval), grid_next(last_ms, interval))])
        unanswered = [absence for absence in absences if not absence.reason.is_answer]
        days = [span for span in outside if span.length_ms >= DAY_MS]
        lost = [span for span in days if any(span.overlaps(absence.span) for absence in unanswered)]
        if not all(self._state(span, narrow(absences, span)) for span in lost):
            return False
        (held,) = difference([piece], lost)
        due_ms = min((absence.recheck_ms for absence in unanswered), default=None)
        return self._put(held, table, narrow(sources, held), narrow(absences, held), due_ms)

    def _put(
        self,
        piece: Span,
        table: KlineTable,
        sources: Sequence[Source],
        absences: Sequence[Absence],
        due_ms: int | None,
    ) -> bool:
        """Store bars of the REST interface, in one segment with those of the same day that were stored before."""
        day = Span(piece.start_ms // DAY_MS * DAY_MS, piece.start_ms)
        segments = self._scope.folder.segments(self._scope.series)
        if resolve(piece, segments) != resolve(piece, self._segments):
            return False
        before = read_contents(self._scope.folder, self._scope.series, day)
        earlier = next((span for span in before.provisional if span.end_ms == piece.start_ms), None)
        if earlier is not None:
            piece = Span(earlier.start_ms, piece.end_ms)
            table = merge_tables(self._scope.series, [table, rows_within(before.table, earlier)]).table
            sources = [*narrow(before.sources, earlier), *sources]
            absences = [*narrow(before.absences, earlier), *absences]
        path = self._scope.store.put_in_place(
            resolve(piece, segments),
            table,
            piece,
            sources=sources,
            absences=absences,
            is_provisional=True,
            recheck_ms=due_ms or provisional_recheck_ms(piece, self._scope.now_ms),
        )
        return path is not None

    def _unavailable(self, piece: Span) -> Absence:
        """Say that archives have nothing, where nothing else may be asked."""
        last_day = Period((piece.end_ms - 1) // DAY_MS * DAY_MS, Cadence.DAILY)
        published_ms = publication_ms(last_day)
        if published_ms > self._scope.now_ms:
            return Absence(piece.start_ms, piece.end_ms, Reason.NOT_PUBLISHED, published_ms)
        return Absence(piece.start_ms, piece.end_ms, Reason.NOT_IN_ARCHIVE, recheck_ms(piece, self._scope.now_ms))

    def _state(self, span: Span, absences: Sequence[Absence]) -> bool:
        """Store that a span has no bars, and why; False where others have changed it meanwhile."""
        path = self._scope.store.put_in_place(
            resolve(span, self._segments),
            empty_table(self._scope.series),
            span,
            absences=absences,
            recheck_ms=earliest_recheck_ms(absences),
        )
        return path is not None

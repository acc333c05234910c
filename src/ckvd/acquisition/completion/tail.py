"""What no archive has: `Tail` asks the REST interface for it, or states that it is not there and why."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

from ckvd.acquisition.reconciliation import provisional_recheck_ms, recheck_ms
from ckvd.cache.coverage import read_coverage
from ckvd.cache.statement import read_statement
from ckvd.errors import InvalidSymbolError
from ckvd.grid import grid_floor
from ckvd.market import DAY_MS
from ckvd.merge import empty_table, merge_tables, rows_within
from ckvd.period import Cadence, Period, days_of, months_of
from ckvd.planning import plan, publication_ms
from ckvd.provenance import Absence, Reason, narrow
from ckvd.timespan import Span, difference

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ckvd.acquisition.completion.reasons import Reasons
    from ckvd.acquisition.completion.scope import Scope
    from ckvd.kline import KlineTable
    from ckvd.provenance import Source

# A stretch up to this long is kept day by day, so that each day is replaced when its archive appears.
_DAILY_PIECES_MAX_MS: Final = 8 * DAY_MS


class _Everything:
    """All periods: their archives were asked for already."""

    def __contains__(self, _period: object) -> bool:
        return True


class Tail:
    """The part of a span that no archive covers.

    Parameters
    ----------
    scope : Scope
    reasons : Reasons
    """

    def __init__(self, scope: Scope, reasons: Reasons) -> None:
        self._scope = scope
        self._reasons = reasons

    async def pieces(self, excluded: Sequence[Span]) -> list[Span]:
        """What to ask for, in pieces that are stored one by one; what lies in `excluded` is left out.

        Raises
        ------
        CkvdError
            The REST interface could not be asked when the series began.
        """
        covered = await asyncio.to_thread(read_coverage, self._scope.folder, self._scope.series, self._scope.span)
        unplanned = plan(
            self._scope.series, self._scope.span, covered, now_ms=self._scope.now_ms, unavailable=_Everything()
        ).unplanned
        wanted = difference(unplanned, excluded)
        listing_ms = await self._reasons.listing_ms() if wanted else None
        if listing_ms is None:
            return [piece for span in wanted for piece in self._cut(span)]
        # All that lies before the listing is one statement.
        before = [Span(0, grid_floor(listing_ms, self._scope.series.interval))]
        unlisted = difference(wanted, difference(wanted, before))
        return [*unlisted, *(piece for span in difference(wanted, before) for piece in self._cut(span))]

    def _cut(self, span: Span) -> list[Span]:
        is_daily = span.length_ms <= _DAILY_PIECES_MAX_MS and self._scope.series.interval.has_daily_archives
        periods = days_of(span) if is_daily else months_of(span)
        return [period.span.intersection(span) for period in periods]

    async def fill(self, piece: Span) -> int:
        """Bring a piece into the cache, as bars or as an absence.

        Returns
        -------
        int
            How many bars the REST interface had.

        Raises
        ------
        CkvdError
            It could not be asked, or what it answered cannot be believed.
        """
        if self._scope.rest is None:
            await self._state((self._unavailable(piece),), piece)
            return 0
        listing_ms = await self._reasons.listing_ms()
        if listing_ms is not None and piece.end_ms <= listing_ms:
            await self._state((Absence(piece.start_ms, piece.end_ms, Reason.BEFORE_LISTING),), piece)
            return 0
        piece, table, sources = await self._fetch(piece)
        absences = await self._reasons.explain(piece, table.open_time)
        if not piece:
            return 0
        if table.row_count:
            await asyncio.to_thread(self._put, piece, table, sources, absences)
        else:
            await self._state(absences, piece)
        return table.row_count

    async def _fetch(self, piece: Span) -> tuple[Span, KlineTable, Sequence[Source]]:
        """Ask for a piece; the answer may speak of less of it, by the clock of the exchange."""
        assert self._scope.rest is not None
        try:
            answer = await self._scope.rest.fetch(self._scope.series, piece)
        except InvalidSymbolError:
            # The exchange forgets a symbol some time after its last trade; its archives stay.
            return piece, empty_table(self._scope.series), ()
        return answer.span, answer.table, answer.sources

    def _put(self, piece: Span, table: KlineTable, sources: Sequence[Source], absences: Sequence[Absence]) -> None:
        """Store bars of the REST interface, in one segment with those of the same day that were stored before."""
        day = Span(piece.start_ms // DAY_MS * DAY_MS, piece.start_ms)
        before = read_statement(self._scope.folder, self._scope.series, day)
        earlier = next((span for span in before.provisional if span.end_ms == piece.start_ms), None)
        if earlier is not None:
            piece = Span(earlier.start_ms, piece.end_ms)
            table = merge_tables(self._scope.series, [table, rows_within(before.table, earlier)]).table
            sources = [*narrow(before.sources, earlier), *sources]
            absences = [*narrow(before.absences, earlier), *absences]
        self._scope.store.put(
            table,
            piece,
            sources=sources,
            absences=absences,
            is_provisional=True,
            recheck_ms=provisional_recheck_ms(piece, self._scope.now_ms),
        )

    def _unavailable(self, piece: Span) -> Absence:
        """Say that archives have nothing, where nothing else may be asked."""
        last_day = Period((piece.end_ms - 1) // DAY_MS * DAY_MS, Cadence.DAILY)
        published_ms = publication_ms(last_day)
        if published_ms > self._scope.now_ms:
            return Absence(piece.start_ms, piece.end_ms, Reason.NOT_PUBLISHED, published_ms)
        return Absence(piece.start_ms, piece.end_ms, Reason.NOT_IN_ARCHIVE, recheck_ms(piece, self._scope.now_ms))

    async def _state(self, absences: Sequence[Absence], span: Span) -> None:
        """Store that a span has no bars, and why."""
        rechecks = [absence.recheck_ms for absence in absences if absence.recheck_ms]
        await asyncio.to_thread(
            self._scope.store.put,
            empty_table(self._scope.series),
            span,
            absences=absences,
            recheck_ms=min(rechecks, default=0),
        )

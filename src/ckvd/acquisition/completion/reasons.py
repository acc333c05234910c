"""Why bars are in no source: `Reasons` asks the REST interface when a series began and whether it goes on."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from ckvd.acquisition.reconciliation import explain
from ckvd.errors import InvalidSymbolError
from ckvd.gaps import find_gaps
from ckvd.market import DAY_MS

if TYPE_CHECKING:
    from ckvd.acquisition.completion.scope import Scope
    from ckvd.kline import Times
    from ckvd.provenance import Absence
    from ckvd.timespan import Span

# A series without bars for less than this is not taken for one that has ended.
_ENDED_AFTER_MS = DAY_MS


class Reasons:
    """Why bars of one series are not there.

    Parameters
    ----------
    scope : Scope
    """

    def __init__(self, scope: Scope) -> None:
        self._scope = scope
        self._asking = asyncio.Lock()
        self._is_listing_known = False
        self._listing_ms: int | None = None
        self._ended_ms: int | None = None
        self._last_known_ms = 0

    async def listing_ms(self) -> int | None:
        """When the first bar of the series opens; None where nobody knows. The REST interface is asked once.

        A series that the exchange no longer knows began with the first archive of it that is in the cache.

        Raises
        ------
        InvalidSymbolError
            The exchange does not know the symbol, and there are no archives of it either.
        """
        if self._scope.rest is None:
            return None
        async with self._asking:
            if not self._is_listing_known:
                try:
                    self._listing_ms = await self._scope.rest.first_open_ms(self._scope.series)
                except InvalidSymbolError:
                    self._listing_ms = await self._first_archived_ms()
                    if self._listing_ms is None:
                        raise
                self._is_listing_known = True
        return self._listing_ms

    async def _first_archived_ms(self) -> int | None:
        segments = await asyncio.to_thread(self._scope.folder.segments, self._scope.series)
        return min((segment.span.start_ms for segment in segments), default=None)

    async def explain(self, span: Span, open_time: Times) -> tuple[Absence, ...]:
        """Why bars of a span are missing among those that every source together has."""
        gaps = find_gaps(open_time, [span], self._scope.series.interval)
        if not gaps:
            return ()
        last = gaps[-1]
        may_have_ended = last.end_ms >= span.end_ms and self._scope.now_ms - last.start_ms >= _ENDED_AFTER_MS
        return explain(
            gaps,
            first_open_ms=await self.listing_ms(),
            last_open_ms=await self._last_open_before(last.start_ms) if may_have_ended else None,
            now_ms=self._scope.now_ms,
            was_rest_asked=self._scope.rest is not None,
        )

    async def _last_open_before(self, moment_ms: int) -> int | None:
        """A moment after which the series has no bar, if there is none from `moment_ms` on; else None."""
        if self._scope.rest is None:
            return None
        async with self._asking:
            is_answered = moment_ms <= self._last_known_ms or (self._ended_ms or moment_ms + 1) <= moment_ms
            if not is_answered:
                await self._ask_whether_ended(moment_ms)
        return moment_ms - 1 if self._ended_ms is not None and self._ended_ms <= moment_ms else None

    async def _ask_whether_ended(self, moment_ms: int) -> None:
        assert self._scope.rest is not None
        try:
            following_ms = await self._scope.rest.first_open_ms(self._scope.series, moment_ms)
        except InvalidSymbolError:
            following_ms = None
        if following_ms is None:
            self._ended_ms = moment_ms
        else:
            self._last_known_ms = max(self._last_known_ms, following_ms)

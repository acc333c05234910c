"""Why bars are in no source: `Reasons` asks the REST interface when a series began and whether it has ended."""

from __future__ import annotations

import asyncio
import math
from typing import TYPE_CHECKING

from ckvd.acquisition.completion.shortfalls import Listing, explain
from ckvd.cache.kline_cache import KlineCache
from ckvd.cache.rows import read_grid
from ckvd.errors import InvalidSymbolError
from ckvd.model.gaps import find_gaps
from ckvd.model.market import DAY_MS
from ckvd.model.timespan import difference

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ckvd.acquisition.completion.scope import Scope
    from ckvd.model.provenance import Absence
    from ckvd.model.table import Times
    from ckvd.model.timespan import Span
    from ckvd.rest.rest_data_client import RestDataClient

# A series has not ended if its last bar is younger than this.
_ENDED_AFTER_MS = DAY_MS


class Reasons:
    """Why bars of one series are missing.

    Parameters
    ----------
    scope : Scope
    """

    def __init__(self, scope: Scope) -> None:
        self._scope = scope
        self._asking = asyncio.Lock()
        self._is_listing_known = False
        self._listing: Listing | None = None
        # Some bar opens at or after the first, and none at or after the second.
        self._last_known_ms: int = 0
        self._ended_ms: float = math.inf

    async def listing(self) -> Listing | None:
        """When the series began; None where that is unknown. The REST interface is asked once.

        A series that the exchange no longer knows began with its first cached bar, or before. A series that it
        knows and that has no bar yet is still to begin.

        Raises
        ------
        InvalidSymbolError
            The exchange does not know the symbol, and the cache has no bars of it either.
        """
        if self._scope.rest is None:
            return None
        async with self._asking:
            if not self._is_listing_known:
                self._listing = await self._ask_for_listing(self._scope.rest)
                self._is_listing_known = True
        return self._listing

    async def _ask_for_listing(self, rest: RestDataClient) -> Listing | None:
        try:
            first_open_ms = await rest.first_open_ms(self._scope.series)
        except InvalidSymbolError:
            cached_ms = await asyncio.to_thread(self._first_cached_ms, 0)
            if cached_ms is None:
                raise
            return Listing(cached_ms, is_certain=False)
        if first_open_ms is not None:
            return Listing(first_open_ms, is_certain=True)
        cached_ms = await asyncio.to_thread(self._first_cached_ms, 0)
        # A symbol that has no bar anywhere is still to be listed.
        return Listing(self._scope.now_ms, is_certain=False) if cached_ms is None else None

    def _first_cached_ms(self, from_ms: int) -> int | None:
        """When the first cached bar opens at or after a moment."""
        with KlineCache(self._scope.folder.root) as cache:
            series = self._scope.series
            bars = cache.scan(
                series.symbol,
                series.interval,
                start=from_ms,
                end=self._scope.now_ms,
                market=series.market,
                kind=series.kind,
                rows=1,
                missing="ignore",
            )
            return next((int(block.open_time[0]) for block in bars), None)

    async def explain(self, span: Span, open_time: Times, damaged: Sequence[Span] = ()) -> tuple[Absence, ...]:
        """Why bars of a span are missing from all sources together.

        Parameters
        ----------
        span : Span
        open_time : ndarray of int64
            The bars that exist, milliseconds, ascending.
        damaged : sequence of Span
            Spans of damaged archives.
        """
        missing = await asyncio.to_thread(self._missing, span, open_time)
        if not missing:
            return ()
        listing = await self.listing()
        last = missing[-1]
        may_have_ended = (
            last.end_ms >= span.end_ms
            and self._scope.now_ms - last.start_ms >= _ENDED_AFTER_MS
            and (listing is None or last.end_ms > listing.first_open_ms)
        )
        return explain(
            missing,
            listing=listing,
            ended_ms=last.start_ms if may_have_ended and await self._has_ended(last.start_ms) else None,
            damaged=damaged,
            now_ms=self._scope.now_ms,
            was_rest_asked=self._scope.rest is not None,
        )

    def _missing(self, span: Span, open_time: Times) -> Sequence[Span]:
        """Where bars of a span are missing."""
        grid = read_grid(self._scope.folder, self._scope.series, open_time)
        if grid.is_known:
            return [gap.span for gap in find_gaps(open_time, [span], grid)]
        # A bar may open anywhere. All that no bar fills gets a reason, and none of it is counted.
        return difference([span], map(grid.slot, open_time.tolist()))

    async def _has_ended(self, moment_ms: int) -> bool:
        """Whether the series has no bar from a moment on; False where that is unknown."""
        if self._scope.rest is None:
            return False
        async with self._asking:
            if self._last_known_ms < moment_ms < self._ended_ms:
                following_ms = await self._ask_for_first_from(self._scope.rest, moment_ms)
                if following_ms is None:
                    self._ended_ms = moment_ms
                else:
                    self._last_known_ms = max(self._last_known_ms, following_ms)
        return self._ended_ms <= moment_ms

    async def _ask_for_first_from(self, rest: RestDataClient, moment_ms: int) -> int | None:
        """When the first bar opens at or after a moment; None if there is none."""
        try:
            following_ms = await rest.first_open_ms(self._scope.series, moment_ms)
        except InvalidSymbolError:
            following_ms = None
        if following_ms is None:
            # Archives may have bars that the exchange has forgotten.
            following_ms = await asyncio.to_thread(self._first_cached_ms, moment_ms)
        return following_ms

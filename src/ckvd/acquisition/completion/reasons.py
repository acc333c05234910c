"""Why bars are in no source: `Reasons` asks the sources when a series began and whether it has ended.

The REST interface knows best. Where it may not be asked, and where it has forgotten the symbol or does not trade
it, the listing of the archives tells where they begin and end.
"""

from __future__ import annotations

import asyncio
import logging
import math
from typing import TYPE_CHECKING, Final

from ckvd.acquisition.completion.extent import HeldPart, extent_of
from ckvd.acquisition.completion.shortfalls import Listing, explain, explain_without_rest
from ckvd.cache.coverage import read_coverage
from ckvd.cache.kline_cache import KlineCache
from ckvd.cache.rows import read_contents, read_grid
from ckvd.concurrency.work import in_thread
from ckvd.errors import FATAL_ERRORS, CkvdError, InvalidSymbolError, NotTradingError
from ckvd.model.gaps import find_gaps
from ckvd.model.market import DAY_MS, HOUR_MS, Interval, Kind, SeriesKey
from ckvd.model.schema import cadences_of
from ckvd.model.settlements import LONGEST_HOURS, find_missing_settlements
from ckvd.model.table import join_tables, rows_within
from ckvd.model.timespan import Span, difference, union

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ckvd.acquisition.completion.extent import ArchiveExtent
    from ckvd.acquisition.completion.scope import Scope
    from ckvd.model.calendar import Period
    from ckvd.model.provenance import Absence
    from ckvd.model.table import KlineTable
    from ckvd.rest.rest_data_client import RestDataClient
    from ckvd.vision.source import ArchiveSource

logger = logging.getLogger(__name__)

NO_BARS_ERRORS: Final = (InvalidSymbolError, NotTradingError)
"""The exchange has no bars of the symbol: its archives have all that there are."""

# A series has not ended if its last bar is younger than this.
_ENDED_AFTER_MS = DAY_MS


class Reasons:
    """Why bars of one series are missing.

    Parameters
    ----------
    scope : Scope
    archives : ArchiveSource

    Attributes
    ----------
    is_not_trading : bool
        Whether the exchange does not trade the contract, and no source has a bar of it.
    """

    def __init__(self, scope: Scope, archives: ArchiveSource) -> None:
        self._scope = scope
        self._archives = archives
        self.is_not_trading = False
        self._has_no_bars_at_exchange = False
        self._listing_of_archives: list[Period] | None = None
        self._is_extent_known = False
        self._extent: ArchiveExtent | None = None
        self._asking_archives = asyncio.Lock()
        self._asking = asyncio.Lock()
        self._is_listing_known = False
        self._listing: Listing | None = None
        # Some bar opens at or after the first, and none at or after the second.
        self._last_known_ms: int = 0
        self._ended_ms: float = math.inf

    async def listing(self) -> Listing | None:
        """When the series began; None where that is unknown. The REST interface is asked once.

        A series that the exchange no longer knows or trades began with its first bar in the cache or in archives,
        or before. A series that it knows and that has no bar yet is still to begin.

        Raises
        ------
        InvalidSymbolError
            The exchange does not know the symbol, and neither the cache nor the archives have bars of it.
        """
        if self._scope.rest is None:
            return None
        async with self._asking:
            if not self._is_listing_known:
                self._listing = await self._ask_for_listing(self._scope.rest)
                self._is_listing_known = True
        return self._listing

    async def listing_before(self, span: Span) -> Listing | None:
        """`listing`, for one who wants to know whether a span lies before it.

        None also where the cache has an earlier event. Requests for funding rates are scarce, and an update of many
        contracts needs no more than one for each.
        """
        if self._scope.series.interval is None and self._scope.rest is not None:
            cached_ms = await in_thread(self._first_cached_ms, 0)
            if cached_ms is not None and cached_ms < span.start_ms:
                return None
        return await self.listing()

    async def _ask_for_listing(self, rest: RestDataClient) -> Listing | None:
        try:
            first_open_ms = await rest.first_open_ms(self._scope.series)
        except NO_BARS_ERRORS as error:
            self._has_no_bars_at_exchange = True
            cached_ms = await in_thread(self._first_cached_ms, 0)
            extent = await self.extent()
            known_ms = [cached_ms] if cached_ms is not None else []
            known_ms += [extent.begin_ms] if extent is not None else []
            if known_ms:
                return Listing(min(known_ms), is_certain=False)
            if isinstance(error, NotTradingError):
                self.is_not_trading = True
                return None
            raise
        if first_open_ms is not None:
            return Listing(first_open_ms, is_certain=True)
        cached_ms = await in_thread(self._first_cached_ms, 0)
        # A symbol that has no bar anywhere is still to be listed.
        return Listing(self._scope.now_ms, is_certain=False) if cached_ms is None else None

    # --- Archives ------------------------------------------------------------------------------------------

    async def extent(self) -> ArchiveExtent | None:
        """Where the series has bars in archives; None where that is unknown. The source is listed once.

        It is found once for each step of a completion, see `look_again_at_archives`.
        """
        async with self._asking_archives:
            if not self._is_extent_known:
                self._extent = await self._find_extent()
                self._is_extent_known = True
        return self._extent

    def look_again_at_archives(self) -> None:
        """Find the extent anew: the cache has more of the archives than before."""
        self._is_extent_known = False

    @property
    def is_listing_read(self) -> bool:
        """Whether the source of archives was listed."""
        return self._listing_of_archives is not None

    async def _find_extent(self) -> ArchiveExtent | None:
        if self._listing_of_archives is None:
            self._listing_of_archives = await self._list(self._scope.series)
        listed = self._listing_of_archives or ()
        extent = await in_thread(extent_of, listed, self._held_part)
        interval = self._scope.series.interval
        if extent is None or interval is None or interval.has_daily_archives:
            return extent
        # Archives of weeks and months were given up, while those of days went on.
        series = self._scope.series
        daily = await self._list(SeriesKey(series.market, series.kind, series.symbol, Interval.D1))
        last_ms = max(period.span.end_ms for period in listed)
        goes_on = daily is None or any(period.start_ms >= last_ms for period in daily)
        return extent.without_end() if goes_on else extent

    async def _list(self, series: SeriesKey) -> list[Period] | None:
        """All archives of a series; None where the source cannot be listed."""
        try:
            listed = [
                one
                for cadence in cadences_of(series)
                for one in await self._archives.list_archives(series, cadence)
            ]
        except FATAL_ERRORS:
            raise
        except CkvdError as error:
            logger.info("where the archives of %s begin and end is unknown: %s", series, error)
            return None
        return [archive.name.period for archive in listed if archive.name.series == series]

    def _held_part(self, span: Span) -> HeldPart:
        folder, series = self._scope.folder, self._scope.series
        uncovered = difference([span], [held.span for held in read_coverage(folder, series, span)])
        with KlineCache(folder.root) as cache:
            opens = cache.read_rows(series, span, missing="ignore").open_time
            return HeldPart(tuple(opens[[0, -1]].tolist()) if len(opens) else (), uncovered)

    async def explain_by_archives(self, span: Span) -> tuple[Absence, ...]:
        """Why bars are missing that no archive covers, where only archives may be asked."""
        return explain_without_rest(
            span,
            self._scope.now_ms,
            await self.extent(),
            is_listing_read=self.is_listing_read,
            cadences=cadences_of(self._scope.series),
        )

    # --- The cache -----------------------------------------------------------------------------------------

    def _first_cached_ms(self, from_ms: int) -> int | None:
        """When the first cached bar opens at or after a moment."""
        with KlineCache(self._scope.folder.root) as cache:
            span = Span(from_ms, max(from_ms, self._scope.now_ms))
            blocks = cache.scan_rows(self._scope.series, span, rows=1, missing="ignore")
            return next((int(block.open_time[0]) for block in blocks), None)

    async def explain(self, span: Span, table: KlineTable, damaged: Sequence[Span] = ()) -> tuple[Absence, ...]:
        """Why bars of a span are missing from all sources together.

        Parameters
        ----------
        span : Span
        table : KlineTable
            The bars that exist.
        damaged : sequence of Span
            Spans of damaged archives.
        """
        missing = await in_thread(self.missing, span, table)
        if not missing:
            return ()
        listing = await self.listing()
        last = missing[-1]
        is_long_ago = self._scope.now_ms - last.start_ms >= _ENDED_AFTER_MS
        may_have_ended = (
            last.end_ms >= span.end_ms
            and (is_long_ago or self._has_no_bars_at_exchange)
            and (listing is None or last.end_ms > listing.first_open_ms)
        )
        return explain(
            missing,
            listing=listing,
            ended_ms=last.start_ms if may_have_ended and await self._has_ended(last.start_ms) else None,
            damaged=damaged,
            now_ms=self._scope.now_ms,
            was_rest_asked=self._scope.rest is not None,
            is_not_trading=self.is_not_trading,
            extent=await self.extent() if self._scope.rest is None else None,
            is_listing_read=self.is_listing_read,
        )

    def missing(self, span: Span, table: KlineTable) -> Sequence[Span]:
        """Where bars or settlements of a span are missing, if a table has all that there are."""
        open_time = table.open_time
        if self._scope.series.kind is Kind.FUNDING_RATE:
            return self._missing_settlements(span, table)
        grid = read_grid(self._scope.folder, self._scope.series, open_time)
        if grid.is_known:
            return [gap.span for gap in find_gaps(open_time, [span], grid)]
        # A bar may open anywhere. All that no bar fills gets a reason, and none of it is counted.
        return difference([span], map(grid.slot, open_time.tolist()))

    def _missing_settlements(self, span: Span, table: KlineTable) -> Sequence[Span]:
        """Where settlements of a span are missing, by those of the table and those that the cache has around it."""
        reach_ms = 2 * LONGEST_HOURS * HOUR_MS
        around = Span(max(0, span.start_ms - reach_ms), span.end_ms + reach_ms)
        held = read_contents(self._scope.folder, self._scope.series, around, verify="never")
        before = rows_within(held.table, Span(around.start_ms, span.start_ms))
        after = rows_within(held.table, Span(span.end_ms, around.end_ms))
        known = join_tables([before, rows_within(table, span), after])
        if not known.row_count:
            return [span]
        covered = union([span, *held.covered])
        gaps = find_missing_settlements(known.open_time, known.columns["interval_hours"], covered)
        found = [gap.span.intersection(span) for gap in gaps if gap.span.overlaps(span)]
        if found and known.open_time[0] >= found[0].start_ms:
            # Nothing is known before the first gap: it reaches back to the beginning.
            found[0] = Span(span.start_ms, found[0].end_ms)
        return found

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
        except NO_BARS_ERRORS:
            self._has_no_bars_at_exchange = True
            following_ms = None
        if following_ms is None:
            # Archives may have bars that the exchange has forgotten, in the cache or not.
            following_ms = await in_thread(self._first_cached_ms, moment_ms)
        if following_ms is None and self._has_no_bars_at_exchange:
            extent = await self.extent()
            if extent is not None and moment_ms < extent.end_ms:
                following_ms = extent.end_ms - 1
        return following_ms

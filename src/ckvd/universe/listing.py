"""`ListedSymbol`: the first and the last archive of a symbol, and the months between that have none.

Three requests a symbol: its months in one page, its days after the last month, and its first archive of a day. Of a
symbol without bars of a day, the longest interval that it has is taken.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

from ckvd.concurrency.work import run_together
from ckvd.model.calendar import Cadence
from ckvd.model.market import Interval, Kind, SeriesKey
from ckvd.model.timespan import Span

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from ckvd.model.calendar import Period
    from ckvd.model.market import Market
    from ckvd.vision.source import ArchiveSource


@dataclass(frozen=True, slots=True)
class ListedSymbol:
    """The archives of a symbol.

    Attributes
    ----------
    symbol : str
    first_ms, last_ms : int
        The beginning of the first archive, and the end of the last, milliseconds.
    gaps : tuple of Span
        Months between without an archive.
    """

    symbol: str
    first_ms: int
    last_ms: int
    gaps: tuple[Span, ...] = ()


async def list_market(
    source: ArchiveSource, market: Market, *, on_symbol: Callable[[int, int], None] | None = None
) -> list[ListedSymbol]:
    """The archives of all symbols of a market, in order. Symbols whose folders are empty are left out.

    Parameters
    ----------
    source : ArchiveSource
    market : Market
    on_symbol : callable, optional
        Called in the event loop with the number of symbols that are done, and of all.

    Raises
    ------
    NetworkError, ArchiveError, ClientClosedError
        See `ArchiveSource.list_archives`.
    """
    by_cadence = await run_together(source.list_symbols(market, Kind.KLINES, cadence) for cadence in Cadence)
    symbols = sorted({symbol for found in by_cadence for symbol in found})
    done_count = 0

    async def look(symbol: str) -> ListedSymbol | None:
        nonlocal done_count
        listed = await list_symbol(source, market, symbol)
        done_count += 1
        if on_symbol is not None:
            on_symbol(done_count, len(symbols))
        return listed

    # Requests wait for the slots of the transport, so that no more are sent at a time than usual.
    found = await run_together(look(symbol) for symbol in symbols)
    return [listed for listed in found if listed is not None]


async def list_symbol(source: ArchiveSource, market: Market, symbol: str) -> ListedSymbol | None:
    """The archives of a symbol; None if it has none."""
    listed = await _list_interval(source, SeriesKey(market, Kind.KLINES, symbol, Interval.D1))
    if listed is not None:
        return listed
    found = await run_together(
        source.list_intervals(market, Kind.KLINES, symbol, cadence) for cadence in reversed(Cadence)
    )
    usable = {interval for intervals in found for interval in intervals if interval.has_daily_archives}
    for interval in reversed([*Interval]):
        if interval in usable and interval is not Interval.D1:
            listed = await _list_interval(source, SeriesKey(market, Kind.KLINES, symbol, interval))
            if listed is not None:
                return listed
    return None


async def _list_interval(source: ArchiveSource, series: SeriesKey) -> ListedSymbol | None:
    months = [one.name.period for one in await source.list_archives(series, Cadence.MONTHLY)]
    after_ms = months[-1].span.end_ms if months else 0
    first, rest = await run_together(
        (
            source.list_archives(series, Cadence.DAILY, is_first_enough=True),
            source.list_archives(series, Cadence.DAILY, from_ms=after_ms),
        )
    )
    days = [one.name.period for one in (*first[:1], *rest[-1:])]
    return summarise(series.symbol, months, days)


def summarise(symbol: str, months: Sequence[Period], days: Sequence[Period]) -> ListedSymbol | None:
    """The archives of a symbol, by its months and by its first and last day; None without any.

    A day is more exact than the month that it lies in, but a month may begin before the first day that is
    published.
    """
    periods = [*months, *days]
    if not periods:
        return None
    last_ms = max(period.span.end_ms for period in periods)
    first_ms = min(period.start_ms for period in periods)
    first_day_ms = min((day.start_ms for day in days), default=None)
    if months and first_day_ms is not None and months[0].start_ms <= first_day_ms < months[0].span.end_ms:
        first_ms = first_day_ms
    gaps = tuple(
        Span(one.span.end_ms, other.start_ms) for one, other in pairwise(months) if one.span.end_ms < other.start_ms
    )
    return ListedSymbol(symbol, first_ms, last_ms, gaps)

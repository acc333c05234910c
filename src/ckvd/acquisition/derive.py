"""Making bars of shorter ones that the cache has: `derive_klines`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ckvd.bars.resample import BarLength, resample
from ckvd.cache.rows import read_grid
from ckvd.errors import IdentityError, NotCachedError
from ckvd.model.market import Interval, SeriesKey
from ckvd.model.timespan import Span

if TYPE_CHECKING:
    from ckvd.bars.resample import ResampledKlines
    from ckvd.cache.kline_cache import KlineCache


def derive_klines(cache: KlineCache, series: SeriesKey, span: Span) -> ResampledKlines | None:
    """Make the bars of a series of shorter ones, if the cache covers those for the whole span.

    Parameters
    ----------
    cache : KlineCache
    series : SeriesKey
        What is wanted.
    span : Span
        Where its bars open.

    Returns
    -------
    ResampledKlines or None
        Made of the longest interval that covers the span, up to the end of the last bar that opens in it. None
        where no shorter interval does, and for 3d bars where the cache has none that tells on which days they open.
    """
    grid = read_grid(cache.folder, series)
    if not grid.is_known:
        return None
    whole = Span(grid.ceil(span.start_ms), grid.ceil(span.end_ms))
    for finer in finer_series(series):
        try:
            return resample(cache.read_series(finer, whole), series.bar_interval)
        except NotCachedError:
            continue
    return None


def finer_series(series: SeriesKey) -> list[SeriesKey]:
    """The same series at each interval that divides its own, longest first."""
    target = BarLength.of(series.bar_interval)
    found = []
    for interval in reversed(Interval):
        if interval is series.interval or not target.holds_whole(BarLength.of(interval)):
            continue
        try:
            found.append(SeriesKey(series.market, series.kind, series.symbol, interval))
        except IdentityError:
            continue  # the market has no bars of this length
    return found

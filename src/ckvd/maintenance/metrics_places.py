"""Whether the rows of metrics lie at the five minutes that they describe, by the klines of the contract.

The label of a row means the beginning of its five minutes in some archives, and the end in others, and an archive
is read by what it shows (`ckvd.decode.records`). One column can be checked: the ratio of the volume in which takers
bought to that in which they sold is that of one bar of five minutes. The published ratio is not exactly that of the
klines: real ones differ by a percent or two, those of neighbouring bars by tens of percent. So what counts is the
median of a day.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Final, cast

import numpy as np

from ckvd.cache.kline_cache import KlineCache
from ckvd.errors import SegmentError
from ckvd.model.calendar import months_of
from ckvd.model.market import DAY_MS, METRICS_STEP_MS, Interval, Kind, SeriesKey
from ckvd.model.record import Record
from ckvd.model.timespan import Span, union

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    import numpy.typing as npt

    from ckvd.bars.klines import Klines
    from ckvd.bars.metrics import Metrics
    from ckvd.cache.folder import CacheFolder
    from ckvd.model.table import Times

# The bars that a row may describe, counted from the one at its own time.
_PLACES: Final = (-1, 0, 1)
# Fewer rows of a day tell nothing.
_ROWS_MIN: Final = 12
# How many times closer another place has to be. By chance, no place is much closer than the others.
_CLOSER_MIN: Final = 2.0


def has_own_label(open_time: Times, create_time: Times) -> npt.NDArray[np.bool_]:
    """Whether the label of each row is the beginning or the end of its five minutes.

    Where it is later than the end, the row would count as known before it was published.
    """
    ages: Times = create_time - open_time
    is_own: npt.NDArray[np.bool_] = (ages == 0) | (ages == METRICS_STEP_MS)
    return is_own


@dataclass(frozen=True, slots=True)
class DayFit(Record):
    """How well the rows of a day fit three places.

    Attributes
    ----------
    start_ms : int
        The midnight at which the day starts.
    row_count : int
        The rows that were compared, at the place with the fewest.
    distances : tuple of float
        The median distance from the ratio of a row to that of a bar, as a share: of the bar before the row's own,
        of its own bar, and of the bar after it.
    """

    start_ms: int
    row_count: int
    distances: tuple[float, float, float]

    @property
    def span(self) -> Span:
        """The day."""
        return Span(self.start_ms, self.start_ms + DAY_MS)

    @property
    def place(self) -> int:
        """The bar that the rows describe, counted from their own: 0 unless another one is clearly closer.

        1 means that rows count as known five minutes too early, -1 that they count as known five minutes late.
        """
        nearest = min(_PLACES, key=lambda place: self.distances[place + 1])
        is_clear = self.row_count >= _ROWS_MIN and self.distances[nearest + 1] * _CLOSER_MIN < self.distances[1]
        return nearest if is_clear else 0


def fit_days(
    open_time: Times,
    ratio: npt.NDArray[np.float64],
    bar_open_time: Times,
    volume: npt.NDArray[np.float64],
    taker_buy_volume: npt.NDArray[np.float64],
) -> tuple[DayFit, ...]:
    """Compare the taker ratios of metrics with those of bars, day by day. Pure.

    Parameters
    ----------
    open_time : ndarray of int64, shape (n,)
        Of the rows of metrics, in milliseconds, ascending.
    ratio : ndarray of float64, shape (n,)
        Their `sum_taker_long_short_vol_ratio`.
    bar_open_time : ndarray of int64, shape (m,)
        Of bars of five minutes, in milliseconds, ascending.
    volume, taker_buy_volume : ndarray of float64, shape (m,)

    Returns
    -------
    tuple of DayFit
        In order; of the days in which rows can be compared at each of the places.
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        bar_log = np.log(taker_buy_volume / (volume - taker_buy_volume))
        row_log = np.log(ratio)
    distances = np.full((len(_PLACES), len(open_time)), np.nan)
    for line, place in zip(distances, _PLACES, strict=True):
        described = open_time + place * METRICS_STEP_MS
        bars = np.searchsorted(bar_open_time, described)
        has_bar = bars < len(bar_open_time)
        has_bar[has_bar] = bar_open_time[bars[has_bar]] == described[has_bar]
        line[has_bar] = np.abs(row_log[has_bar] - bar_log[bars[has_bar]])
    # Bars in which takers only bought or only sold, and rows without a ratio.
    distances[~np.isfinite(distances)] = np.nan
    days = open_time // DAY_MS
    bounds = [*np.flatnonzero(np.diff(days, prepend=days[:1] - 1)).tolist(), len(days)]
    found = (_fit_day(int(days[start]), distances[:, start:stop]) for start, stop in pairwise(bounds))
    return tuple(fit for fit in found if fit is not None)


def _fit_day(day: int, distances: npt.NDArray[np.float64]) -> DayFit | None:
    comparable = [line[~np.isnan(line)] for line in distances]
    row_count = min(map(len, comparable))
    if not row_count:
        return None
    before, own, after = (float(np.expm1(np.median(line))) for line in comparable)
    return DayFit(day * DAY_MS, row_count, (before, own, after))


def find_day_fits(folder: CacheFolder, series: SeriesKey, spans: Iterable[Span]) -> Iterator[DayFit]:
    """Compare cached metrics with the cached klines of five minutes of the contract, a month at a time.

    Parameters
    ----------
    folder : CacheFolder
    series : SeriesKey
        Of metrics.
    spans : iterable of Span
        Where to look.

    Yields
    ------
    DayFit
        In order. None of days of which the cache has no klines. A month that cannot be read has none either.
        `verify` says why.

    Raises
    ------
    CacheError
        A folder or file cannot be read.
    """
    klines = SeriesKey(series.market, Kind.KLINES, series.symbol, Interval.M5)
    if not folder.segments(klines):
        return
    with KlineCache(folder.root) as cache:
        for span in union(spans):
            for month in months_of(span):
                with suppress(SegmentError):
                    part = month.span.intersection(span)
                    yield from _fit_part(cache, series, klines, part)


def _fit_part(cache: KlineCache, series: SeriesKey, klines: SeriesKey, span: Span) -> tuple[DayFit, ...]:
    metrics = cast("Metrics", cache.read_rows(series, span, missing="ignore"))
    beside = Span(span.start_ms - METRICS_STEP_MS, span.end_ms + METRICS_STEP_MS)
    bars: Klines = cache.read_series(klines, beside, missing="ignore")
    if not (len(metrics) and len(bars)):
        return ()
    return fit_days(
        metrics.open_time,
        metrics.sum_taker_long_short_vol_ratio,
        bars.open_time,
        bars.volume,
        bars.taker_buy_volume,
    )

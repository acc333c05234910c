"""What a bar is made of: the columns of each market, the flags of unusual bars, and `KlineTable`.

A `KlineTable` is bars on their way from a source to a segment: every column an array of its own. What a backtest
gets from the cache is `ckvd.klines.Klines`. Cells are lossless: prices and volumes are `float64`, equal to
`float(text)` of the source; times are `int64` milliseconds.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntFlag
from typing import TYPE_CHECKING, Any, Final, TypeAlias

import numpy as np
import numpy.typing as npt

from ckvd.grid import grid_floors, regular_close_times
from ckvd.market import Kind, Market

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ckvd.market import Interval, SeriesKey

Column: TypeAlias = npt.NDArray[Any]
Times: TypeAlias = npt.NDArray[np.int64]

# The twelve fields of a row, in the order of archives and of the REST interface.
_QUOTE_FIELDS: Final = (
    "open_time", "open", "high", "low", "close", "volume", "close_time", "quote_volume", "count",
    "taker_buy_volume", "taker_buy_quote_volume", "ignore",
)  # fmt: skip
# Coin-margined contracts: `volume` and `taker_buy_volume` are contracts, the other two are base asset, although
# the header of the archives calls them quote volume.
_BASE_FIELDS: Final = (
    "open_time", "open", "high", "low", "close", "volume", "close_time", "base_volume", "count",
    "taker_buy_volume", "taker_buy_base_volume", "ignore",
)  # fmt: skip

FIELD_COUNT: Final = 12
INTEGER_FIELDS: Final = (0, 6, 8)
FLOAT_FIELDS: Final = (1, 2, 3, 4, 5, 7, 9, 10, 11)

# Microseconds within the millisecond, int16. A series has these columns only where a source in microseconds holds
# a time that is not the first (open) or last (close) microsecond of its millisecond.
OPEN_TIME_US: Final = "open_time_us"
CLOSE_TIME_US: Final = "close_time_us"
REGULAR_OPEN_US: Final = 0
REGULAR_CLOSE_US: Final = 999
# What such a column holds in the rows of a source that has none.
REGULAR_US: Final = {OPEN_TIME_US: REGULAR_OPEN_US, CLOSE_TIME_US: REGULAR_CLOSE_US}

COLUMN_DTYPES: Final[dict[str, np.dtype[Any]]] = {
    name: np.dtype("<i8" if position in INTEGER_FIELDS else "<f8")
    for fields in (_QUOTE_FIELDS, _BASE_FIELDS)
    for position, name in enumerate(fields)
} | {OPEN_TIME_US: np.dtype("<i2"), CLOSE_TIME_US: np.dtype("<i2")}


def fields_of(series: SeriesKey) -> tuple[str, ...]:
    """The names of the twelve fields of a series' rows, in order.

    `volume`, `quote_volume`, `taker_buy_volume` and `taker_buy_quote_volume` mean nothing for mark price, index
    price and premium index bars, where `count` is a number of samples. They are kept as published.
    """
    return _BASE_FIELDS if series.market is Market.CM and series.kind is Kind.KLINES else _QUOTE_FIELDS


class BarFlag(IntFlag):
    """What is unusual about a bar. Such bars are kept as published."""

    OFF_GRID = 1  # it does not open on the grid of its interval
    ODD_CLOSE = 2  # it does not close one millisecond before its interval is over
    ZERO_VOLUME = 4  # nothing was traded (klines only: the other kinds have no volume)
    OVERLAPS_NEXT = 8  # it closes after the next bar opens


def bar_flags(
    open_time: Times, close_time: Times, volume: npt.NDArray[np.float64] | None, interval: Interval
) -> npt.NDArray[np.uint8]:
    """Flag unusual bars.

    Parameters
    ----------
    open_time, close_time : ndarray of int64, shape (n,)
        Milliseconds, ascending by open time.
    volume : ndarray of float64, shape (n,), or None
        None where a volume means nothing.
    interval : Interval

    Returns
    -------
    ndarray of uint8, shape (n,)
        A sum of `BarFlag` for each bar; 0 for a usual one.
    """
    flags = np.zeros(open_time.shape, dtype=np.uint8)
    flags |= (open_time != grid_floors(open_time, interval)) * np.uint8(BarFlag.OFF_GRID)
    flags |= (close_time != regular_close_times(open_time, interval)) * np.uint8(BarFlag.ODD_CLOSE)
    if volume is not None:
        flags |= (volume == 0) * np.uint8(BarFlag.ZERO_VOLUME)
    flags[:-1] |= (close_time[:-1] >= open_time[1:]) * np.uint8(BarFlag.OVERLAPS_NEXT)
    return flags


@dataclass(frozen=True, slots=True)
class Decimals:
    """How many digits stand behind the point in the cells of a column: the fewest and the most."""

    least: int
    most: int

    def __or__(self, other: Decimals) -> Decimals:
        return Decimals(min(self.least, other.least), max(self.most, other.most))


@dataclass(frozen=True, slots=True, eq=False)
class KlineTable:
    """Bars on their way from a source to a segment.

    Attributes
    ----------
    series : SeriesKey
    columns : mapping of str to ndarray, each of shape (n,)
        The twelve fields (`fields_of`), in order, with the dtypes of `COLUMN_DTYPES`; and `OPEN_TIME_US`,
        `CLOSE_TIME_US` where they are needed. `open_time` is strictly ascending.
    decimals : mapping of str to Decimals
        For each float column, how its cells were written.
    """

    series: SeriesKey
    columns: Mapping[str, Column]
    decimals: Mapping[str, Decimals]

    @property
    def row_count(self) -> int:
        """The number of bars."""
        return len(self.columns["open_time"])

    @property
    def open_time(self) -> Times:
        """The open times, int64 milliseconds."""
        return self.columns["open_time"]

    def rows(self, start: int, stop: int) -> KlineTable:
        """Some of the rows, as views."""
        columns = {name: column[start:stop] for name, column in self.columns.items()}
        return KlineTable(self.series, columns, self.decimals)

"""The columns of bars, the flags of unusual bars, and `KlineTable`, with joining and merging of tables. Pure.

A `KlineTable` holds bars on their way from a source to a segment. Bars read from the cache are
`ckvd.bars.klines.Klines`. Cells are lossless: prices and volumes are `float64`, equal to `float(text)` of the
source; times are `int64` milliseconds.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntFlag
from functools import reduce
from operator import or_
from typing import TYPE_CHECKING, Any, Final, TypeAlias

import numpy as np
import numpy.typing as npt

from ckvd.model.grid import regular_close_times
from ckvd.model.schema import COLUMN_DTYPES, schema_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ckvd.model.grid import Grid
    from ckvd.model.market import SeriesKey
    from ckvd.model.timespan import Span

Column: TypeAlias = npt.NDArray[Any]
Times: TypeAlias = npt.NDArray[np.int64]

# --- Columns -----------------------------------------------------------------------------------------------

# Microseconds within the millisecond, int16. A table or segment has these columns only where a source in
# microseconds has an open time that is not the first, or a close time that is not the last, of its millisecond.
OPEN_TIME_US: Final = "open_time_us"
CLOSE_TIME_US: Final = "close_time_us"
REGULAR_OPEN_US: Final = 0
REGULAR_CLOSE_US: Final = 999
# The value in every row where such a column is left out.
REGULAR_US: Final = {OPEN_TIME_US: REGULAR_OPEN_US, CLOSE_TIME_US: REGULAR_CLOSE_US}


def fields_of(series: SeriesKey) -> tuple[str, ...]:
    """The names of the columns of a series, in order; of bars, the twelve fields of their rows.

    Mark price, index price and premium index bars have meaningless volumes, and their `count` is the number of
    samples. Both are kept as published.
    """
    return schema_of(series).columns


def regular_us(name: str, row_count: int) -> npt.NDArray[np.int16]:
    """The column `OPEN_TIME_US` or `CLOSE_TIME_US` of a table or segment that leaves it out.

    Returns
    -------
    ndarray of int16, shape (row_count,)
        Read-only, broadcast from a single value.
    """
    return np.broadcast_to(np.array(REGULAR_US[name], COLUMN_DTYPES[name]), row_count)


def bits_of(column: Column) -> Column:
    """View the cells of a column as unsigned integers, to compare them bit for bit.

    As floats, the different cells 0.0 and -0.0 would compare equal, and a NaN would differ from itself.
    """
    return column.view(f"<u{column.dtype.itemsize}")


# --- Flags -------------------------------------------------------------------------------------------------


class BarFlag(IntFlag):
    """What is unusual about a bar. Such bars are kept as published."""

    OFF_GRID = 1  # does not open on the grid of its series
    ODD_CLOSE = 2  # does not close one millisecond before the end of its interval
    ZERO_VOLUME = 4  # nothing was traded (klines only: the other kinds have no volume)
    OVERLAPS_NEXT = 8  # closes after the next bar opens
    IMPOSSIBLE = 16  # no market can make it: see `ckvd.model.impossible_bars`


def bar_flags(
    open_time: Times, close_time: Times, volume: npt.NDArray[np.float64] | None, grid: Grid
) -> npt.NDArray[np.uint8]:
    """Flag unusual bars.

    Parameters
    ----------
    open_time, close_time : ndarray of int64, shape (n,)
        Milliseconds, ascending by open time.
    volume : ndarray of float64, shape (n,), or None
        None for kinds without a volume.
    grid : Grid
        That of the series.

    Returns
    -------
    ndarray of uint8, shape (n,)
        The sum of the `BarFlag` of each bar, without `BarFlag.IMPOSSIBLE`, which needs all columns; 0 for a usual
        bar.
    """
    assert grid.interval is not None, "events are no bars"
    flags = np.zeros(open_time.shape, dtype=np.uint8)
    flags |= ~grid.has_points(open_time) * np.uint8(BarFlag.OFF_GRID)
    flags |= (close_time != regular_close_times(open_time, grid.interval)) * np.uint8(BarFlag.ODD_CLOSE)
    if volume is not None:
        flags |= (volume == 0) * np.uint8(BarFlag.ZERO_VOLUME)
    flags[:-1] |= (close_time[:-1] >= open_time[1:]) * np.uint8(BarFlag.OVERLAPS_NEXT)
    return flags


def traded_bars(volume: npt.NDArray[np.float64], count: Times) -> npt.NDArray[np.bool_]:
    """Which bars of klines traded: those with a volume or a number of trades.

    In all real archives known, a bar has both or neither. A bar that has only one of them did trade.

    Parameters
    ----------
    volume : ndarray of float64, shape (n,)
        In base asset, or contracts for coin-margined futures.
    count : ndarray of int64, shape (n,)
        The number of trades. It is looked at where the volume is zero, so that usual bars cost one column.

    Returns
    -------
    ndarray of bool, shape (n,)
    """
    traded: npt.NDArray[np.bool_] = volume != 0
    if not traded.all():
        empty = np.flatnonzero(~traded)
        traded[empty] = count[empty] != 0
    return traded


# --- Tables ------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Decimals:
    """The number of digits after the decimal point in the cells of a column: the least and the most."""

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
        The twelve fields (`fields_of`), in order, with the dtypes of `COLUMN_DTYPES`; also `OPEN_TIME_US` and
        `CLOSE_TIME_US`, unless all their cells are regular. `open_time` is strictly ascending.
    decimals : mapping of str to Decimals
        How the cells of float columns were written, where it is known.
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

    def column(self, name: str) -> Column:
        """A column of the table, or `regular_us` where the table leaves it out.

        Returns
        -------
        ndarray, shape (row_count,)
        """
        column = self.columns.get(name)
        return regular_us(name, self.row_count) if column is None else column

    def rows(self, start: int, stop: int) -> KlineTable:
        """The rows from `start` to before `stop`, as views."""
        columns = {name: column[start:stop] for name, column in self.columns.items()}
        return KlineTable(self.series, columns, self.decimals)


def empty_table(series: SeriesKey) -> KlineTable:
    """A table without bars."""
    return KlineTable(series, {name: np.empty(0, COLUMN_DTYPES[name]) for name in fields_of(series)}, {})


def rows_within(table: KlineTable, span: Span) -> KlineTable:
    """The rows of a table whose bars open in a span, as views."""
    start, stop = np.searchsorted(table.open_time, (span.start_ms, span.end_ms)).tolist()
    return table.rows(start, stop)


def join_tables(tables: Sequence[KlineTable]) -> KlineTable:
    """Join tables of one series in order of time: each table opens after all bars of the table before it."""
    if len(tables) == 1:
        return tables[0]
    return KlineTable(tables[0].series, _concatenate(tables), _decimals_of(tables))


def _concatenate(tables: Sequence[KlineTable]) -> dict[str, Column]:
    """The columns of tables, one table after the other; the microseconds only if a table has them."""
    us = (name for name in REGULAR_US if any(name in table.columns for table in tables))
    names = (*fields_of(tables[0].series), *us)
    return {name: np.concatenate([table.column(name) for table in tables]) for name in names}


def _decimals_of(tables: Sequence[KlineTable]) -> dict[str, Decimals]:
    """How the cells of any of the tables were written."""
    names = dict.fromkeys(name for table in tables for name in table.decimals)
    return {
        name: reduce(or_, [table.decimals[name] for table in tables if name in table.decimals]) for name in names
    }


# --- Merging tables ----------------------------------------------------------------------------------------

# Early archives have arbitrary numbers in this field, so a difference there means nothing.
NOT_COMPARED: Final = frozenset({"ignore"})


@dataclass(frozen=True, slots=True, eq=False)
class MergedTable:
    """The bars of several tables, one bar for each open time.

    Attributes
    ----------
    table : KlineTable
    conflict_open_times : ndarray of int64
        Open times, ascending, at which tables have different bars.
    kept_counts : tuple of int
        The number of bars kept from each table.
    """

    table: KlineTable
    conflict_open_times: Times
    kept_counts: tuple[int, ...]


def merge_tables(series: SeriesKey, tables: Sequence[KlineTable]) -> MergedTable:
    """Merge tables of one series bar by bar.

    Parameters
    ----------
    series : SeriesKey
    tables : sequence of KlineTable
        In order of precedence: of bars with the same open time, that of the earlier table is kept.

    Returns
    -------
    MergedTable
    """
    if not tables:
        return MergedTable(empty_table(series), np.empty(0, np.int64), ())
    columns = _concatenate(tables)
    rank = np.repeat(np.arange(len(tables)), [table.row_count for table in tables])
    # By open time, then by precedence: the first row of each open time is kept.
    order = np.lexsort((rank, columns["open_time"]))
    columns = {name: column[order] for name, column in columns.items()}
    opens = columns["open_time"]
    is_repeated = np.zeros(len(opens), dtype=bool)
    is_repeated[1:] = opens[1:] == opens[:-1]
    kept = ~is_repeated
    return MergedTable(
        KlineTable(series, {name: column[kept] for name, column in columns.items()}, _decimals_of(tables)),
        np.unique(opens[is_repeated & _differs_from_kept(columns, kept)]),
        tuple(np.bincount(rank[order][kept], minlength=len(tables)).tolist()),
    )


def _differs_from_kept(columns: dict[str, Column], kept: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    """Whether each row differs from the kept row of its open time in any cell, bit for bit."""
    keeper = np.maximum.accumulate(np.where(kept, np.arange(len(kept)), 0))
    differs = np.zeros(len(kept), dtype=bool)
    for name, column in columns.items():
        if name not in NOT_COMPARED:
            bits = bits_of(column)
            differs |= bits != bits[keeper]
    return differs

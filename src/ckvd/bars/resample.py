"""Making longer bars of shorter ones: `resample`, and the `ResampledKlines` it returns. Pure.

A bar of the result is labelled by its open time and made of the source bars that *open* in it, and of nothing else:
no later bar, no filling, no bar where there was none. It opens with the first of them, closes with the last (price
and time), spans their highest and lowest prices, and everything that was counted is summed. Where it lacks source
bars it says so.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Protocol

import numpy as np
import numpy.typing as npt

from ckvd.bars.columns import BarColumns
from ckvd.bars.decimal_sums import sum_runs
from ckvd.errors import ColumnError, IdentityError
from ckvd.model.calendar import grid_index, grid_origin_ms, grid_points
from ckvd.model.market import DAY_MS, UNIT_MS, Interval
from ckvd.model.timespan import Span

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from ckvd.model.market import SeriesKey
    from ckvd.model.table import Column, Times

_MONTH_UNITS: Final = ("mo", "M")
# Bars whose edges are guessed and confirmed together, and rows whose distances are looked at together.
_EDGE_BLOCK: Final = 4096
_DISTANCE_BLOCK: Final = 1 << 16


@dataclass(frozen=True, slots=True)
class BarLength:
    """How long a bar is: a fixed time, or whole months.

    Attributes
    ----------
    fixed_ms : int
        Milliseconds; 0 for months. Bars are counted from the Unix epoch, whole weeks from the Monday after it.
    months : int
        Months; 0 for a fixed time. Bars are counted from January 1970, so that quarters and years are those of the
        calendar.
    origin_ms : int
        An open time.
    """

    fixed_ms: int
    months: int
    origin_ms: int

    @classmethod
    def of(cls, text: str) -> BarLength:
        """Read a length such as `15m`, `1h`, `3d`, `1w`, `1mo`: a whole number and `s`, `m`, `h`, `d`, `w` or `mo`.

        Raises
        ------
        IdentityError
            The text is no length.
        """
        match = re.fullmatch(r"(\d{1,6})(s|m|h|d|w|mo|M)", str(text), re.ASCII)
        if match is None or int(match[1]) == 0:
            raise IdentityError(
                f"{text!r} is no length of a bar: expected a number and s, m, h, d, w or mo, as in 4h"
            )
        count, unit = int(match[1]), match[2]
        if unit in _MONTH_UNITS:
            return cls(0, count, 0)
        return cls(count * UNIT_MS[unit], 0, grid_origin_ms(Interval.W1) if unit == "w" else 0)

    def holds_whole(self, source: BarLength) -> bool:
        """Whether bars of this length hold only whole bars of another."""
        if source.months:
            return self.months % source.months == 0 if self.months else False
        if self.months:
            return DAY_MS % source.fixed_ms == 0
        return self.fixed_ms % source.fixed_ms == 0 and (self.origin_ms - source.origin_ms) % source.fixed_ms == 0

    def edges(self, first_ms: int, last_ms: int) -> Times:
        """The open times of the bars that hold two moments and of all between, and where the last of them ends."""
        if self.months:
            bounds = grid_index(np.array([first_ms, last_ms]), Interval.MO1)
            first, last = (bounds // self.months).tolist()
            return grid_points(np.arange(first, last + 2, dtype=np.int64) * self.months, Interval.MO1)
        first, last = ((moment - self.origin_ms) // self.fixed_ms for moment in (first_ms, last_ms))
        return np.arange(first, last + 2, dtype=np.int64) * self.fixed_ms + self.origin_ms


class SourceBars(Protocol):
    """What longer bars are made of: `Klines`."""

    series: SeriesKey
    span: Span

    @property
    def column_names(self) -> tuple[str, ...]:
        """The names of the columns, in order."""
        ...

    @property
    def open_time(self) -> Times:
        """When each bar opens, int64 milliseconds, strictly ascending."""
        ...

    def __getitem__(self, name: str) -> Column:
        """A column by name."""
        ...


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class ResampledKlines(BarColumns):
    """Longer bars made of shorter ones. Columns are found by name, and made tables of, as those of `Klines`.

    `source_count` and `complete` are no columns: a table has them where they are added to it, as by
    `frame["complete"] = bars.complete`.

    Attributes
    ----------
    series : SeriesKey
        What they were made of.
    interval : str
        How long they are, as it was asked for.
    span : Span
        What the source bars were asked for, from the open of the first longer bar on.
    columns : mapping of str to ndarray, each of shape (n,)
        Named, ordered and typed as those of the source. `open_time` is the label, int64 milliseconds on the grid of
        the interval, strictly ascending; a bar without source bars is not there. `close_time` is that of the last
        source bar.
    source_count : ndarray of int64, shape (n,)
        Source bars in each bar.
    complete : ndarray of bool, shape (n,)
        False where a source bar is missing in the bar, also because it lies outside the span.
    """

    series: SeriesKey
    interval: str
    span: Span
    columns: Mapping[str, Column]
    source_count: Times
    complete: npt.NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.source_count)

    @property
    def column_names(self) -> tuple[str, ...]:
        """The names of the columns, in order."""
        return tuple(self.columns)

    def __getitem__(self, name: str) -> Column:
        """A column by name. Raises ColumnError where there is none."""
        column = self.columns.get(name)
        if column is None:
            raise ColumnError(f"{self.series} has no column {name!r}: expected one of {', '.join(self.columns)}")
        return column

    def __repr__(self) -> str:
        incomplete = int(np.count_nonzero(~self.complete))
        bars = f"{len(self)} bars, {incomplete} incomplete"
        return f"<ResampledKlines {self.series} to {self.interval} {self.span}: {bars}>"


def resample(klines: SourceBars, interval: str) -> ResampledKlines:
    """Make longer bars.

    Parameters
    ----------
    klines : Klines
        Bars off their grid belong to the longer bar in which they open.
    interval : str
        See `BarLength.of`. A longer bar must hold whole source bars.

    Returns
    -------
    ResampledKlines
        New arrays, read-only. Prices, counts and times are exact; sums of decimals are decimal sums, and of other
        cells as good as exact: see `ckvd.bars.decimal_sums.sum_runs`.

    Raises
    ------
    IdentityError
        The interval is none, or does not hold whole source bars.
    """
    source, target = BarLength.of(klines.series.interval), BarLength.of(interval)
    if not target.holds_whole(source):
        raise IdentityError(
            f"{interval} bars cannot be made of {klines.series.interval} bars: {interval} is no whole multiple of "
            f"{klines.series.interval}; read a shorter interval"
        )
    open_time = klines.open_time
    if not len(open_time):
        empty = {name: klines[name] for name in klines.column_names}
        return ResampledKlines(
            klines.series, interval, klines.span, empty, np.empty(0, np.int64), np.empty(0, np.bool_)
        )
    edges = target.edges(int(open_time[0]), int(open_time[-1]))
    starts = _first_rows(open_time, edges)
    counts = np.diff(starts)
    is_there = counts > 0
    starts, counts, opens, ends = starts[:-1][is_there], counts[is_there], edges[:-1][is_there], edges[1:][is_there]
    columns = _aggregate(klines, starts, counts) | {"open_time": opens}
    columns = {name: columns[name] for name in klines.column_names}
    complete = _filled_cells(open_time, starts, counts, klines.series.interval) == _cell_count(opens, ends, source)
    for array in (*columns.values(), counts, complete):
        array.flags.writeable = False
    span = Span(min(klines.span.start_ms, int(opens[0])), klines.span.end_ms)
    return ResampledKlines(klines.series, interval, span, columns, counts, complete)


# --- Which rows make a bar ---------------------------------------------------------------------------------


def _first_rows(open_time: Times, edges: Times) -> Times:
    """The first row at or after each edge: `open_time.searchsorted(edges)`, faster where bars are evenly spaced."""
    rows = np.empty(len(edges), np.int64)
    for start in range(0, len(edges), _EDGE_BLOCK):
        block = edges[start : start + _EDGE_BLOCK]
        first = int(open_time.searchsorted(block[0]))
        last = first + int(open_time[first:].searchsorted(block[-1]))
        steps = max(len(block) - 1, 1)
        guess = first + np.arange(len(block)) * ((last - first) // steps)
        # Open times ascend strictly: a row that opens on the edge is the first at or after it.
        if last >= len(open_time) or (open_time[guess] != block).any():
            guess = first + open_time[first : last + 1].searchsorted(block)
        rows[start : start + len(block)] = guess
    return rows


def _cell_count(opens: Times, ends: Times, source: BarLength) -> Times:
    """How many source bars a bar would have without holes."""
    if not source.months:
        return (ends - opens) // source.fixed_ms
    return (grid_index(ends, Interval.MO1) - grid_index(opens, Interval.MO1)) // source.months


def _filled_cells(open_time: Times, starts: Times, counts: Times, interval: Interval) -> Times:
    """In how many cells of the source's grid some bar opens: all bars, unless two of them share a cell."""
    step_ms = interval.fixed_ms or 31 * DAY_MS
    if not _is_any_closer(open_time, step_ms):
        return counts
    cells = grid_index(open_time, interval)
    shares = np.concatenate(([False], cells[1:] == cells[:-1]))
    # The first bar of a longer bar shares its cell with no bar of the longer bar before: cells nest.
    filled: Times = counts - np.add.reduceat(shares, starts, dtype=np.int64)
    return filled


def _is_any_closer(open_time: Times, step_ms: int) -> bool:
    buffer = np.empty(min(_DISTANCE_BLOCK, len(open_time)), np.int64)
    for start in range(0, len(open_time) - 1, _DISTANCE_BLOCK):
        block = open_time[start : start + _DISTANCE_BLOCK + 1]
        if np.subtract(block[1:], block[:-1], out=buffer[: len(block) - 1]).min() < step_ms:
            return True
    return False


# --- What a bar is made of its rows ------------------------------------------------------------------------


def _aggregate(klines: SourceBars, starts: Times, counts: Times) -> dict[str, Column]:
    # One after the other: threads gain nothing, because `reduceat` keeps the interpreter's lock and all else waits
    # for memory.
    return {
        name: _RULES.get(name, sum_runs)(klines[name], starts, counts)
        for name in klines.column_names
        if name != "open_time"
    }


def _firsts(column: Column, starts: Times, _counts: Times) -> Column:
    firsts: Column = column[starts]
    return firsts


def _lasts(column: Column, starts: Times, counts: Times) -> Column:
    lasts: Column = column[starts + counts - 1]
    return lasts


def _highest(column: Column, starts: Times, _counts: Times) -> Column:
    highest: Column = np.maximum.reduceat(column, starts)
    return highest


def _lowest(column: Column, starts: Times, _counts: Times) -> Column:
    lowest: Column = np.minimum.reduceat(column, starts)
    return lowest


_RULES: Final[dict[str, Callable[[Column, Times, Times], Column]]] = {
    "open": _firsts,
    "high": _highest,
    "low": _lowest,
    "close": _lasts,
    "close_time": _lasts,
}

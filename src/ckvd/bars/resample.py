"""Resampling bars to longer bars: `resample`, and its result `ResampledKlines`. Pure.

A longer bar is made of the source bars that *open* in it, and labelled by its open time. There is no look-ahead and
no filling: a longer bar without source bars is left out. The open is that of the first source bar, close and close
time are those of the last, high and low are the highest and lowest price, and all other columns are sums. Longer
bars that lack source bars are marked.

Lengths lie on the grid of the calendar, except `3d` and its multiples. The 3d bars of the exchange open on the day
of the listing and every third day after it, so that their grid is the symbol's own; `6d` is two of them. It is that
of the 3d bars of the symbol in the cache, or of other bars that are given, and never guessed.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Protocol

import numpy as np
import numpy.typing as npt

from ckvd.bars.columns import BarColumns, require_trades
from ckvd.bars.decimal_sums import sum_runs
from ckvd.errors import ColumnError, IdentityError
from ckvd.model.calendar import FIRST_MONDAY_MS
from ckvd.model.grid import Grid
from ckvd.model.market import DAY_MS, UNIT_MS, Interval, Kind
from ckvd.model.table import traded_bars
from ckvd.model.timespan import Span

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from ckvd.model.market import SeriesKey
    from ckvd.model.table import Column, Times

_MONTH_UNITS: Final = ("mo", "M")
# Edges that are located together, and rows whose distances are computed together.
_EDGE_BLOCK: Final = 4096
_DISTANCE_BLOCK: Final = 1 << 16


@dataclass(frozen=True, slots=True)
class BarLength:
    """The length of a bar: a fixed time, or whole months.

    Attributes
    ----------
    fixed_ms : int
        The length in milliseconds; 0 for months. Bars are aligned to the Unix epoch, bars of weeks to the first
        Monday after it, and multiples of `3d` to the 3d bars of a symbol.
    months : int
        The length in months; 0 for a fixed time. Bars are aligned to January 1970, so that quarters and years are
        those of the calendar.
    origin_ms : int
        An open time of such bars; 0 for multiples of `3d`.
    three_days : int
        The length in 3d bars; 0 for other lengths, also for as long ones in hours or weeks. Bars are counted from
        the first one of the grid after the epoch.
    """

    fixed_ms: int
    months: int
    origin_ms: int
    three_days: int = 0

    @classmethod
    def of(cls, text: str) -> BarLength:
        """Parse a length such as `15m`, `1h`, `3d`, `1w`, `1mo`: an integer and `s`, `m`, `h`, `d`, `w` or `mo`.

        Raises
        ------
        IdentityError
            The text is not a length.
        """
        match = re.fullmatch(r"(\d{1,6})(s|m|h|d|w|mo|M)", str(text), re.ASCII)
        if match is None or int(match[1]) == 0:
            raise IdentityError(
                f"{text!r} is no length of a bar: expected a number and s, m, h, d, w or mo, as in 4h"
            )
        count, unit = int(match[1]), match[2]
        if unit in _MONTH_UNITS:
            return cls(0, count, 0)
        three_days = count // 3 if unit == "d" and count % 3 == 0 else 0
        return cls(count * UNIT_MS[unit], 0, FIRST_MONDAY_MS if unit == "w" else 0, three_days)

    def holds_whole(self, source: BarLength) -> bool:
        """Whether each bar of this length consists of whole bars of another length."""
        if source.months:
            return self.months % source.months == 0 if self.months else False
        if source.three_days:
            return self.three_days % source.three_days == 0 if self.three_days else False
        if self.months or self.three_days:
            return DAY_MS % source.fixed_ms == 0
        return self.fixed_ms % source.fixed_ms == 0 and (self.origin_ms - source.origin_ms) % source.fixed_ms == 0

    def edges(self, first_ms: int, last_ms: int, three_day_grid: Grid | None = None) -> Times:
        """The open times of the bars from that of one moment to that of another, and the end of the last bar.

        Multiples of `3d` need the grid of 3d bars.
        """
        count = self.months or self.three_days
        if count:
            grid = Grid.of(Interval.MO1) if self.months else three_day_grid
            assert grid is not None, "the caller has looked for it"
            first, last = (grid.index(np.array([first_ms, last_ms])) // count).tolist()
            return grid.points(np.arange(first, last + 2, dtype=np.int64) * count)
        first, last = ((moment - self.origin_ms) // self.fixed_ms for moment in (first_ms, last_ms))
        return np.arange(first, last + 2, dtype=np.int64) * self.fixed_ms + self.origin_ms


class SourceBars(Protocol):
    """The source of longer bars: `Klines`, which this module does not import, because `Klines` uses it."""

    series: SeriesKey
    span: Span

    @property
    def column_names(self) -> tuple[str, ...]:
        """The names of the columns, in order."""
        ...

    @property
    def open_time(self) -> Times:
        """The open time of each bar, int64 milliseconds, strictly ascending."""
        ...

    @property
    def grid(self) -> Grid:
        """Where the bars of the series open."""
        ...

    @property
    def three_day_grid(self) -> Grid:
        """Where the 3d bars of the symbol open."""
        ...

    def __getitem__(self, name: str) -> Column:
        """A column by name."""
        ...


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class ResampledKlines(BarColumns):
    """Longer bars made of shorter bars. Columns are accessed by name and made into tables as those of `Klines`.

    `source_count`, `traded_count` and `complete` are not columns. To have them in a table, add them, as in
    `frame["complete"] = bars.complete`.

    Attributes
    ----------
    series : SeriesKey
        The series of the source bars.
    interval : str
        The length of the bars, as it was asked for.
    span : Span
        The span of the source bars, extended to the open time of the first longer bar.
    columns : mapping of str to ndarray, each of shape (n,)
        With the names, order and types of the source columns. `open_time` is on the grid of the interval, int64
        milliseconds, strictly ascending; a bar without source bars is left out. `close_time` is that of the last
        source bar.
    source_count : ndarray of int64, shape (n,)
        The number of source bars in each bar.
    complete : ndarray of bool, shape (n,)
        False if a source bar is missing, also if it lies outside the span.
    three_day_grid : Grid or None
        The grid of the 3d bars of which a multiple of `3d` is made; None for other lengths.
    """

    series: SeriesKey
    interval: str
    span: Span
    columns: Mapping[str, Column]
    source_count: Times
    complete: npt.NDArray[np.bool_]
    three_day_grid: Grid | None = None
    _traded_count: Times | None = None

    @property
    def traded_count(self) -> Times:
        """The number of source bars that traded in each bar, int64, shape (n,): see `Klines.traded`.

        The exchange goes on making flat bars of a contract for years after its settlement: of those, it is 0.

        Raises
        ------
        ColumnError
            The source bars are not klines.
        """
        require_trades(self.series)
        assert self._traded_count is not None, "klines have trades"
        return self._traded_count

    def __len__(self) -> int:
        return len(self.source_count)

    @property
    def column_names(self) -> tuple[str, ...]:
        """The names of the columns, in order."""
        return tuple(self.columns)

    def __getitem__(self, name: str) -> Column:
        """A column by name. Raises ColumnError if there is none."""
        column = self.columns.get(name)
        if column is None:
            raise ColumnError(f"{self.series} has no column {name!r}: expected one of {', '.join(self.columns)}")
        return column

    def __repr__(self) -> str:
        incomplete = int(np.count_nonzero(~self.complete))
        bars = f"{len(self)} bars, {incomplete} incomplete"
        return f"<ResampledKlines {self.series} to {self.interval} {self.span}: {bars}>"


def resample(
    klines: SourceBars, interval: str, *, like: SourceBars | ResampledKlines | None = None
) -> ResampledKlines:
    """Make longer bars of shorter bars.

    Parameters
    ----------
    klines : Klines
        Bars off their grid belong to the longer bar in which they open.
    interval : str
        See `BarLength.of`. It must be a whole multiple of the interval of the source bars.
    like : Klines or ResampledKlines, optional
        Bars of three days, or made to a multiple of `3d`: multiples of `3d` lie on their grid. The default is the
        grid of the 3d bars of the symbol in the cache that the source bars were read from. Other lengths, such as
        `2d` and `72h`, are counted from the epoch, whatever it is.

    Returns
    -------
    ResampledKlines
        New arrays, read-only. Prices, counts and times are exact. Sums of decimals are exact decimal sums, rounded;
        other sums are nearly exact: see `ckvd.bars.decimal_sums.sum_runs`.

    Raises
    ------
    IdentityError
        The interval is not a length, or not a whole multiple of that of the source bars; or it is a multiple of
        `3d`, and nothing tells on which days such bars open.
    CacheError
        The 3d bars of the symbol cannot be read.
    """
    source, target = BarLength.of(klines.series.bar_interval), BarLength.of(interval)
    if not target.holds_whole(source):
        raise IdentityError(
            f"{interval} bars cannot be made of {klines.series.interval} bars: {interval} is no whole multiple of "
            f"{klines.series.interval}; read a shorter interval"
        )
    three_day_grid = _three_day_grid(klines, interval, like) if target.three_days else None
    open_time = klines.open_time
    if not len(open_time):
        empty = {name: klines[name] for name in klines.column_names}
        no_counts, none_complete = np.empty(0, np.int64), np.empty(0, np.bool_)
        return ResampledKlines(
            klines.series, interval, klines.span, empty, no_counts, none_complete, three_day_grid, no_counts
        )
    edges = target.edges(int(open_time[0]), int(open_time[-1]), three_day_grid)
    starts = _first_rows(open_time, edges)
    counts = np.diff(starts)
    is_there = counts > 0
    starts, counts, opens, ends = starts[:-1][is_there], counts[is_there], edges[:-1][is_there], edges[1:][is_there]
    # Threads would gain nothing: `reduceat` does not release the GIL, and everything else waits for memory.
    columns = {
        name: opens if name == "open_time" else _RULES.get(name, sum_runs)(klines[name], starts, counts)
        for name in klines.column_names
    }
    grid = three_day_grid if three_day_grid and source.three_days else klines.grid
    complete = _filled_slots(open_time, starts, counts, grid) == grid.index(ends) - grid.index(opens)
    traded_count = _traded_counts(klines, starts, counts) if klines.series.kind is Kind.KLINES else None
    for array in (*columns.values(), counts, complete, *(() if traded_count is None else (traded_count,))):
        array.flags.writeable = False
    span = Span(min(klines.span.start_ms, int(opens[0])), klines.span.end_ms)
    return ResampledKlines(klines.series, interval, span, columns, counts, complete, three_day_grid, traded_count)


def _three_day_grid(klines: SourceBars, interval: str, like: SourceBars | ResampledKlines | None) -> Grid:
    """The grid of the 3d bars of which a multiple of `3d` is made."""
    symbol = klines.series.symbol
    if like is None:
        if not klines.three_day_grid.is_known:
            raise IdentityError(
                f"{interval} bars of {symbol} cannot be made: 3d bars open on every third day from the listing on, "
                "and no 3d bar in the cache tells the days; download the 3d bars of the symbol, or pass bars that "
                "have the days that you want as like="
            )
        return klines.three_day_grid
    grid = _grid_of(like)
    own = klines.grid
    if own.interval is Interval.D3 and own.is_known:
        opens = klines.open_time
        if (own.floors(opens) != grid.floors(opens)).any():
            raise IdentityError(
                f"{interval} bars like those of {like.series.symbol} cannot be made of the 3d bars of {symbol}, "
                "which open on other days; read 1d bars"
            )
    return grid


def _grid_of(like: SourceBars | ResampledKlines) -> Grid:
    """The grid of 3d bars that other bars have."""
    if not isinstance(like, BarColumns):
        raise IdentityError(f"like= is of type {type(like).__name__}: expected Klines or ResampledKlines")
    is_made = isinstance(like, ResampledKlines)
    found = like.interval if is_made else like.series.bar_interval
    if not BarLength.of(found).three_days:
        raise IdentityError(f"like= has {found} bars: expected 3d bars, or bars made to a multiple of 3d")
    grid: Grid | None = like.three_day_grid
    if grid is None or not grid.is_known:
        raise IdentityError("like= has no bar that opens at midnight, which would tell the days of 3d bars")
    return grid


# --- The rows of each longer bar ---------------------------------------------------------------------------


def _first_rows(open_time: Times, edges: Times) -> Times:
    """The first row at or after each edge: `open_time.searchsorted(edges)`, but faster for evenly spaced bars."""
    rows = np.empty(len(edges), np.int64)
    for start in range(0, len(edges), _EDGE_BLOCK):
        block = edges[start : start + _EDGE_BLOCK]
        first = int(open_time.searchsorted(block[0]))
        last = first + int(open_time[first:].searchsorted(block[-1]))
        steps = max(len(block) - 1, 1)
        guess = first + np.arange(len(block)) * ((last - first) // steps)
        # Open times ascend strictly, so a row that opens on an edge is the first row at or after it.
        if last >= len(open_time) or (open_time[guess] != block).any():
            guess = first + open_time[first : last + 1].searchsorted(block)
        rows[start : start + len(block)] = guess
    return rows


def _filled_slots(open_time: Times, starts: Times, counts: Times, grid: Grid) -> Times:
    """The number of filled slots of the source's grid, for each longer bar: `counts`, unless bars share a slot."""
    step_ms = grid.step_ms or 31 * DAY_MS
    if not _is_any_closer(open_time, step_ms):
        return counts
    slots = grid.index(open_time)
    shares = np.concatenate(([False], slots[1:] == slots[:-1]))
    # The first source bar of a longer bar never shares a slot with the longer bar before, because slots nest.
    filled: Times = counts - np.add.reduceat(shares, starts, dtype=np.int64)
    return filled


def _traded_counts(klines: SourceBars, starts: Times, counts: Times) -> Times:
    """The number of source bars that traded, for each longer bar."""
    traded = traded_bars(klines["volume"], klines["count"])
    if traded.all():
        return counts.copy()
    found: Times = np.add.reduceat(traded, starts, dtype=np.int64)
    return found


def _is_any_closer(open_time: Times, step_ms: int) -> bool:
    """Whether any two neighbouring bars open less than a time apart."""
    buffer = np.empty(min(_DISTANCE_BLOCK, len(open_time)), np.int64)
    for start in range(0, len(open_time) - 1, _DISTANCE_BLOCK):
        block = open_time[start : start + _DISTANCE_BLOCK + 1]
        if np.subtract(block[1:], block[:-1], out=buffer[: len(block) - 1]).min() < step_ms:
            return True
    return False


# --- The cells of each longer bar --------------------------------------------------------------------------


def _last(column: Column, starts: Times, counts: Times) -> Column:
    last: Column = column[starts + counts - 1]
    return last


# Columns without a rule are summed.
_RULES: Final[dict[str, Callable[[Column, Times, Times], Column]]] = {
    "open": lambda column, starts, _: column[starts],
    "high": lambda column, starts, _: np.maximum.reduceat(column, starts),
    "low": lambda column, starts, _: np.minimum.reduceat(column, starts),
    "close": _last,
    "close_time": _last,
}

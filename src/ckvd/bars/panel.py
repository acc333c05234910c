"""Many series on one grid: `Panel`, and `build_panel`, which fills it directly from mapped segments.

Nothing is filled in: where a symbol has no bar, cells are NaN and the mask is False. Bars off the grid are left out
and counted. The 3d bars of different symbols open on different days: their rows are the open times of all of them.
The function that reads a series is passed in.

Most bars lie on the grid without a gap for thousands of rows. Such a run of rows is copied at once, and which rows
are one is known of an open segment (`RowBlock.even_runs`): a second panel reads no open times.
"""

from __future__ import annotations

import contextlib
import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from enum import IntEnum
from itertools import combinations, pairwise
from typing import TYPE_CHECKING, Any, Final, TypeAlias

import numpy as np
import numpy.typing as npt

from ckvd.bars.columns import NamedColumns, grid_to_pandas, require_trades
from ckvd.errors import ColumnError, PanelArrayError
from ckvd.model.grid import Grid
from ckvd.model.life import keys_of
from ckvd.model.market import Interval
from ckvd.model.provenance import Reason
from ckvd.model.table import fields_of, traded_bars
from ckvd.utils.config import PANEL_THREAD_CELLS_MIN

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from ckvd.bars.klines import Klines
    from ckvd.bars.series_rows import RowBlock
    from ckvd.model.life import Life
    from ckvd.model.market import SeriesKey
    from ckvd.model.table import Times
    from ckvd.model.timespan import Span

    PanelArrays: TypeAlias = npt.NDArray[Any] | Mapping[str, npt.NDArray[Any]]

_CELL_DTYPES: Final = (np.dtype(np.float64), np.dtype(np.float32))


class CellReason(IntEnum):
    """Why a cell of a panel is missing."""

    PRESENT = 0
    NOT_LISTED = 1  # outside of the life, or by what the cache has recorded before the listing or after the end
    HALTED = 2  # listed and downloaded, and there is no bar, or with `traded` none that traded
    NOT_DOWNLOADED = 3  # the cache does not cover it, or has only recorded that it was unavailable
    OFF_GRID = 4  # of 3d bars: other symbols' open time, at which nothing of this one is missing


_CELL_REASONS: Final = {
    Reason.BEFORE_LISTING: CellReason.NOT_LISTED,
    Reason.AFTER_DELISTING: CellReason.NOT_LISTED,
    Reason.BEFORE_ARCHIVES: CellReason.NOT_LISTED,
    Reason.AFTER_ARCHIVES: CellReason.NOT_LISTED,
    Reason.NOT_TRADING: CellReason.NOT_LISTED,
    Reason.NOT_PUBLISHED: CellReason.NOT_DOWNLOADED,
    Reason.ARCHIVE_DAMAGED: CellReason.NOT_DOWNLOADED,
    Reason.NOT_FETCHED: CellReason.NOT_DOWNLOADED,
    Reason.UNKNOWN: CellReason.NOT_DOWNLOADED,
}


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Panel(NamedColumns):
    """Columns of many symbols on one grid of T open times.

    Columns are accessed by name, as in `Klines`: `panel.close`, `panel["close"]`, `"close" in panel`,
    `dict(panel)`. `len` is T.

    The 3d bars of different symbols open on different days. Each bar is in the row of its own open time, and the
    rows between hold nothing of its symbol: they are NaN, and nothing is missing there. So a row has the bars that
    open together, and `panel.mask` tells whose they are. The bars of one symbol are
    `panel.close[panel.mask[:, 3], 3]`, and `panel.open_time[panel.mask[:, 3]]` their open times.

    All arrays are copies, independent of the cache, and read-only. Arrays of shape (T, S) are stored symbol by
    symbol (Fortran order), so `panel.close[:, 3]` is contiguous. Only with `out` the columns are views of the
    caller's arrays: they have their order, and change with them.

    Attributes
    ----------
    interval : Interval
    span : Span
        The span that was asked for.
    symbols : tuple of str
        S symbols, in the order asked for. A symbol asked for twice is there twice.
    open_time : ndarray of int64, shape (T,)
        Every point of the interval's grid in the span, milliseconds, ascending; of 3d bars every point of each
        symbol's grid. A symbol of which the cache has no 3d bar adds none.
    columns : mapping of str to ndarray of float64, shape (T, S)
        NaN where there is no bar. Integer columns (`count`, `close_time`) are float64 too, because integers have no
        NaN; integers up to 2**53 are exact. With `dtype` or `out` they may be float32: rounded to some seven
        digits, integers up to 2**24 exact.
    mask : ndarray of bool, shape (T, S)
        True where there is a bar; with `traded`, where there is a bar that traded. In `numpy.ma` a mask means the
        opposite: a masked array of a column is `np.ma.array(panel.close, mask=~panel.mask)`.
    off_grid_counts : ndarray of int64, shape (S,)
        The number of bars of each symbol that do not open on its grid, and are left out.
    reasons : ndarray of uint8, shape (T, S)
        Why cells are missing: the `CellReason` of each.
    labels : tuple of str
        What names the columns of the arrays: the symbols, or of lives their keys.
    lives : tuple of Life
        The life of each column; empty of a panel of symbols.
    """

    interval: Interval
    span: Span
    symbols: tuple[str, ...]
    open_time: Times
    columns: Mapping[str, npt.NDArray[np.float64]]
    mask: npt.NDArray[np.bool_]
    off_grid_counts: Times
    reasons: npt.NDArray[np.uint8]
    labels: tuple[str, ...]
    lives: tuple[Life, ...]

    def __len__(self) -> int:
        return len(self.open_time)

    @property
    def column_names(self) -> tuple[str, ...]:
        """The names of the columns, in the order asked for."""
        return tuple(self.columns)

    def __getitem__(self, name: str) -> npt.NDArray[np.float64]:
        """A column by name. Raises ColumnError if the panel was made without it."""
        column = self.columns.get(name)
        if column is None:
            raise ColumnError(f"the panel has no column {name!r}: it was made of {', '.join(self.columns)}")
        return column

    @property
    def close_time(self) -> npt.NDArray[np.float64]:
        """The last millisecond of each bar, in milliseconds."""
        return self._attribute("close_time")

    @property
    def count(self) -> npt.NDArray[np.float64]:
        """The number of trades or samples."""
        return self._attribute("count")

    def to_pandas(self, column: str) -> Any:
        """Make a `pandas.DataFrame` of one column of the panel, with a frame column for each symbol or life.

        Its shape is (T, S), and it is NaN where there is no bar. It is a read-only view of the panel's array: see
        `Klines.to_pandas`.

        Raises
        ------
        ColumnError
            The panel has no such column.
        ExportError
            pandas is not installed.
        """
        return grid_to_pandas(self[column], self.open_time, self.labels)

    def __repr__(self) -> str:
        shape = f"{len(self)} open times x {len(self.symbols)} symbols"
        return f"<Panel {self.interval} {self.span}: {shape}, {', '.join(self.columns)}>"


def build_panel(
    series: Sequence[SeriesKey],
    span: Span,
    columns: str | Iterable[str],
    read: Callable[[SeriesKey, Span], Klines],
    *,
    traded: bool = False,
    lives: Sequence[Life] = (),
    dtype: npt.DTypeLike | None = None,
    out: PanelArrays | None = None,
) -> Panel:
    """Read several series, and place their bars on a common grid.

    Parameters
    ----------
    series : sequence of SeriesKey
        At least one, all of one interval. A series given twice has two columns in each array.
    span : Span
    columns : str or iterable of str
        Names of columns other than `open_time`, which is the grid.
    read : callable
        Reads the bars of one series in the span, or in the part of it in which a life has bars. It is called in
        threads if the panel is large. Its errors are raised to the caller.
    traded : bool
        Leave out bars that did not trade, as if they were not there: see `Klines.traded`.
    lives : sequence of Life
        The life of each series, of which only the bars are read; none for a panel of symbols.
    dtype : dtype, optional
        float64 or float32, of the cells; by default that of `out`, else float64.
    out : array, or mapping of str to array, optional
        Where to write the cells, by column; an array is that of the only column. If an error is raised, what they
        hold is undefined.

    Raises
    ------
    ColumnError
        A series has no such column, or with `traded` no trades.
    PanelArrayError
        `out` has not an array of the panel's shape for each column and for no other, or a type is neither of the
        two; or close times would be float32, which has not the digits.
    """
    column_names = (columns,) if isinstance(columns, str) else tuple(dict.fromkeys(columns))
    for key in dict.fromkeys(series):
        _require_columns(key, column_names)
        if traded:
            require_trades(key)
    cell_dtype = _cell_dtype(dtype)
    interval = series[0].bar_interval
    wanted = [life.bars_span(interval, span) for life in lives] or [span] * len(series)

    known: Sequence[Klines] = ()
    if interval is Interval.D3:
        # Their grids are known only from the bars, of which there are few.
        known = [read(key, part) for key, part in zip(series, wanted, strict=True)]
        grids = [klines.grid for klines in known]
        open_time = np.unique(
            np.concatenate([np.empty(0, np.int64), *(grid.opens(span) for grid in grids if grid.is_known)])
        )
    else:
        open_time = Grid.of(interval).opens(span)
    shape = (len(open_time), len(series))
    arrays = _arrays_of(column_names, shape, cell_dtype, out)
    step_ms = _step_of(interval, open_time)
    mask = np.zeros(shape, np.bool_, order="F")
    reasons = np.zeros(shape, np.uint8, order="F")

    def place(position: int) -> int:
        cells = {name: column[:, position] for name, column in arrays.items()}
        klines = known[position] if known else read(series[position], wanted[position])
        is_there = mask[:, position]
        off_grid_count = _place(klines, open_time, step_ms, cells, is_there, traded=traded)
        if not is_there.all():
            _explain(klines, open_time, cells, is_there, reasons[:, position])
        return off_grid_count

    # Copying releases the GIL. Threads help if that takes longer than they wait for the GIL between copies.
    is_worth_threads = len(open_time) * len(arrays) >= PANEL_THREAD_CELLS_MIN and len(series) > 1
    with ThreadPoolExecutor(os.cpu_count()) if is_worth_threads else contextlib.nullcontext() as threads:
        each = threads.map if threads else map
        off_grid_counts = np.fromiter(each(place, range(len(series))), np.int64, len(series))
    if out is not None:
        arrays = {name: array.view() for name, array in arrays.items()}  # the caller may write to its own
    for array in (open_time, *arrays.values(), mask, off_grid_counts, reasons):
        array.flags.writeable = False
    symbols = tuple(key.symbol for key in series)
    labels = keys_of(lives) if lives else symbols
    return Panel(interval, span, symbols, open_time, arrays, mask, off_grid_counts, reasons, labels, tuple(lives))


def _require_columns(series: SeriesKey, column_names: Sequence[str]) -> None:
    known = fields_of(series)[1:]
    for name in column_names:
        if name not in known:
            raise ColumnError(f"{series} has no column {name!r} for a panel: expected one of {', '.join(known)}")


def _cell_dtype(dtype: npt.DTypeLike | None) -> np.dtype[Any] | None:
    if dtype is None:
        return None
    try:
        chosen = np.dtype(dtype)
    except TypeError as error:
        raise PanelArrayError(f"{dtype!r} is no type of cells: expected float64 or float32") from error
    if chosen not in _CELL_DTYPES:
        raise PanelArrayError(f"a panel has no cells of type {chosen}: expected float64 or float32")
    return chosen


def _arrays_of(
    column_names: Sequence[str], shape: tuple[int, int], dtype: np.dtype[Any] | None, out: PanelArrays | None
) -> dict[str, npt.NDArray[np.float64]]:
    """The arrays to write to, by column: those of the caller, or new ones."""
    if out is None:
        # Not filled with NaN here, so that the cells of a symbol without missing bars are written only once.
        arrays = {name: np.empty(shape, dtype or np.float64, order="F") for name in column_names}
    else:
        arrays = _of_caller(column_names, shape, dtype, out)
    if "close_time" in arrays and arrays["close_time"].dtype == np.float32:
        raise PanelArrayError("close_time has more digits than float32: leave it out, or take float64")
    return arrays


def _of_caller(
    column_names: Sequence[str], shape: tuple[int, int], dtype: np.dtype[Any] | None, out: PanelArrays
) -> dict[str, npt.NDArray[np.float64]]:
    shown = ", ".join(column_names)
    by_name = {column_names[0]: out} if isinstance(out, np.ndarray) and len(column_names) == 1 else out
    if isinstance(by_name, np.ndarray):
        raise PanelArrayError(f"out is one array, for the columns {shown}: pass a mapping with an array for each")
    if by_name.keys() != set(column_names):
        raise PanelArrayError(f"out has arrays for {', '.join(by_name) or 'nothing'}: expected {shown}")
    arrays = {name: by_name[name] for name in column_names}
    types = _CELL_DTYPES if dtype is None else (dtype,)
    for name, array in arrays.items():
        if not isinstance(array, np.ndarray):
            raise PanelArrayError(f"out has no array for {name}, but one {type(array).__name__}")
        if array.shape != shape:
            raise PanelArrayError(f"out for {name} has the shape {array.shape}: expected {shape}, times by symbols")
        if array.dtype not in types:
            raise PanelArrayError(
                f"out for {name} is of type {array.dtype}: expected {' or '.join(map(str, types))}"
            )
        if not array.flags.writeable:
            raise PanelArrayError(f"out for {name} is read-only: pass an array that may be written")
    for (name, array), (other, its) in combinations(arrays.items(), 2):
        if np.shares_memory(array, its):
            raise PanelArrayError(f"out has the same memory for {name} and {other}: pass an array for each")
    return arrays


def _step_of(interval: Interval, open_time: Times) -> int | None:
    """The step of an even grid; None where it is not even: of months, and of the 3d bars of several symbols."""
    return None if interval is Interval.D3 or not len(open_time) else interval.fixed_ms


def _place(
    klines: Klines,
    grid: Times,
    step_ms: int | None,
    cells: Mapping[str, npt.NDArray[np.float64]],
    mask: npt.NDArray[np.bool_],
    *,
    traded: bool,
) -> int:
    """Write the bars of one symbol to their rows, and return the number of bars off the grid."""
    placed_count = 0
    interval = klines.series.bar_interval
    for block in klines.blocks:
        if not len(block):
            continue
        columns = {name: block.column(name, interval) for name in cells}
        is_traded = _traded(block, interval) if traded else None
        for rows, chosen in _rows_of(block, klines, grid, step_ms):
            for name, column in columns.items():
                assert column is not None, "every segment has all twelve fields"
                cells[name][rows] = column[chosen]
            mask[rows] = True if is_traded is None else is_traded[chosen]
            placed_count += rows.stop - rows.start if isinstance(rows, slice) else len(rows)
    return len(klines) - placed_count


def _explain(
    klines: Klines,
    grid: Times,
    cells: Mapping[str, npt.NDArray[np.float64]],
    is_there: npt.NDArray[np.bool_],
    reasons: npt.NDArray[np.uint8],
) -> None:
    """Write NaN to the missing cells of one symbol, and why they are missing."""
    is_missing = ~is_there
    for target in cells.values():
        target[is_missing] = np.nan
    start, end = grid.searchsorted((klines.span.start_ms, klines.span.end_ms))
    reasons[:start] = reasons[end:] = CellReason.NOT_LISTED
    within, times = reasons[start:end], grid[start:end]
    within[:] = CellReason.HALTED
    for absence in klines.absences:
        if (reason := _CELL_REASONS.get(absence.reason)) is not None:
            _fill(within, times, absence.span, reason)
    for span in klines.missing:
        _fill(within, times, span, CellReason.NOT_DOWNLOADED)
    if klines.series.interval is Interval.D3:
        within[~klines.grid.has_points(times)] = CellReason.OFF_GRID
    reasons[is_there] = CellReason.PRESENT


def _fill(reasons: npt.NDArray[np.uint8], times: Times, span: Span, reason: CellReason) -> None:
    start, end = times.searchsorted((span.start_ms, span.end_ms))
    reasons[start:end] = reason


def _traded(block: RowBlock, interval: Interval) -> npt.NDArray[np.bool_]:
    """Whether each bar of a block traded."""
    volume, count = block.column("volume", interval), block.column("count", interval)
    assert volume is not None, "every segment has all twelve fields"
    assert count is not None, "every segment has all twelve fields"
    return traded_bars(volume, count)


def _rows_of(
    block: RowBlock, klines: Klines, grid: Times, step_ms: int | None
) -> Iterator[tuple[slice | Times, slice | npt.NDArray[np.bool_]]]:
    """Rows of the grid, and the bars of a block that lie on them, until each bar that lies on one had its turn."""
    interval = klines.series.bar_interval
    open_time: Times | None = block.column("open_time", interval)
    assert open_time is not None, "every segment has open times"
    runs = None if step_ms is None else block.even_runs(step_ms)
    if step_ms is not None and runs is not None:
        first_ms = int(grid[0])
        for start, stop in pairwise((*runs, len(block))):
            row, rest = divmod(int(open_time[start]) - first_ms, step_ms)
            # A segment that is damaged may have times outside of the span.
            before, after = max(-row, 0), max(row + stop - start - len(grid), 0)
            if not rest and before + after < stop - start:
                yield slice(row + before, row + stop - start - after), slice(start + before, stop - after)
        return
    rows = grid.searchsorted(open_time)
    is_on_grid = grid[np.minimum(rows, len(grid) - 1)] == open_time if len(grid) else np.zeros(len(rows), np.bool_)
    if interval is Interval.D3:
        # The rows are those of other symbols too.
        is_on_grid &= klines.grid.has_points(open_time)
    yield rows[is_on_grid], is_on_grid

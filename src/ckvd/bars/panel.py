"""Many series on one grid: `Panel`, and filling it straight from the maps.

A panel holds what there is and nothing else: NaN and a False in the mask where a symbol has no bar. Bars off the
grid have no place in it; they are left out and counted. Reading is the cache's business, passed in as a function.
"""

from __future__ import annotations

import contextlib
import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ckvd.bars.columns import NamedColumns, grid_to_pandas
from ckvd.errors import ColumnError
from ckvd.model.calendar import grid_opens
from ckvd.model.table import fields_of
from ckvd.utils.config import PANEL_THREAD_CELLS_MIN

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from ckvd.bars.klines import Klines, RowBlock
    from ckvd.model.market import Interval, SeriesKey
    from ckvd.model.table import Times
    from ckvd.model.timespan import Span


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Panel(NamedColumns):
    """Columns of many symbols on one grid of T open times.

    Columns are found by name as those of `Klines`: `panel.close`, `panel["close"]`, `"close" in panel`,
    `dict(panel)`. `len` is T.

    Everything is an array of its own, in no connection with the cache any more. Arrays of shape (T, S) lie in
    memory symbol by symbol (Fortran order), as they are copied from the maps: `panel.close[:, 3]` is contiguous.

    Attributes
    ----------
    interval : Interval
    span : Span
        What was asked for.
    symbols : tuple of str
        S of them, in the order asked for; one that was asked for twice is there twice.
    open_time : ndarray of int64, shape (T,)
        Every point of the interval's grid in the span, milliseconds, ascending.
    columns : mapping of str to ndarray of float64, shape (T, S)
        NaN where there is no bar. Columns of whole numbers (`count`, `close_time`) are float64 as well, so that a
        hole shows; numbers up to 2**53 are exact.
    mask : ndarray of bool, shape (T, S)
        True where there is a bar: the opposite of what `numpy.ma` calls a mask. A masked array of a column is
        `np.ma.array(panel.close, mask=~panel.mask)`.
    off_grid_counts : ndarray of int64, shape (S,)
        Bars of each symbol that do not open on the grid, and are in no row.
    """

    interval: Interval
    span: Span
    symbols: tuple[str, ...]
    open_time: Times
    columns: Mapping[str, npt.NDArray[np.float64]]
    mask: npt.NDArray[np.bool_]
    off_grid_counts: Times

    def __len__(self) -> int:
        return len(self.open_time)

    @property
    def column_names(self) -> tuple[str, ...]:
        """The names of the columns, in the order asked for."""
        return tuple(self.columns)

    def __getitem__(self, name: str) -> npt.NDArray[np.float64]:
        """A column by name. Raises ColumnError where it was not asked for."""
        column = self.columns.get(name)
        if column is None:
            raise ColumnError(f"the panel has no column {name!r}: it was made of {', '.join(self.columns)}")
        return column

    def to_pandas(self, column: str) -> Any:
        """A `pandas.DataFrame` of one column, with a column for each symbol: see `grid_to_pandas`.

        It is of shape (T, S), NaN where there is no bar, and a view of the panel's array.

        Raises
        ------
        ColumnError
            The panel has no such column.
        ExportError
            pandas is not installed.
        """
        return grid_to_pandas(self[column], self.open_time, self.symbols)

    def __repr__(self) -> str:
        shape = f"{len(self)} open times x {len(self.symbols)} symbols"
        return f"<Panel {self.interval} {self.span}: {shape}, {', '.join(self.columns)}>"


def build_panel(
    series: Sequence[SeriesKey], span: Span, columns: str | Iterable[str], read: Callable[[SeriesKey], Klines]
) -> Panel:
    """Read series and place their bars on a common grid.

    Parameters
    ----------
    series : sequence of SeriesKey
        At least one, all of one interval. One given twice has two columns in every array.
    span : Span
    columns : str or iterable of str
        Any but `open_time`, which is the grid.
    read : callable
        Reads the bars of one series in the span, in threads where the panel is large. What it raises goes to the
        caller.

    Raises
    ------
    ColumnError
        A series has no such column.
    """
    column_names = (columns,) if isinstance(columns, str) else tuple(columns)
    for key in series:
        _require_columns(key, column_names)
    interval = series[0].interval
    open_time = grid_opens(span, interval)
    shape = (len(open_time), len(series))
    # Not filled beforehand: a symbol without holes is written once.
    arrays = {name: np.empty(shape, np.float64, order="F") for name in column_names}
    mask = np.zeros(shape, np.bool_, order="F")

    def place(position: int) -> int:
        cells = {name: column[:, position] for name, column in arrays.items()}
        return _place(read(series[position]), open_time, cells, mask[:, position])

    # A thread helps where it copies for longer than it then waits for the interpreter.
    is_worth_threads = len(open_time) * len(arrays) >= PANEL_THREAD_CELLS_MIN and len(series) > 1
    with ThreadPoolExecutor(os.cpu_count()) if is_worth_threads else contextlib.nullcontext() as threads:
        each = threads.map if threads else map
        off_grid_counts = np.fromiter(each(place, range(len(series))), np.int64, len(series))
    for array in (open_time, *arrays.values(), mask, off_grid_counts):
        array.flags.writeable = False
    symbols = tuple(key.symbol for key in series)
    return Panel(interval, span, symbols, open_time, arrays, mask, off_grid_counts)


def _require_columns(series: SeriesKey, column_names: Sequence[str]) -> None:
    known = fields_of(series)[1:]
    for name in column_names:
        if name not in known:
            raise ColumnError(f"{series} has no column {name!r} for a panel: expected one of {', '.join(known)}")


def _place(
    klines: Klines, grid: Times, cells: Mapping[str, npt.NDArray[np.float64]], mask: npt.NDArray[np.bool_]
) -> int:
    """Write the bars of one symbol to their rows, NaN to all others, and return how many have no row."""
    placed_count = 0
    interval = klines.series.interval
    for block in klines.blocks:
        if not len(block):
            continue
        rows, chosen = _rows_of(block, interval, grid)
        for name, target in cells.items():
            column = block.column(name, interval)
            assert column is not None, "a column of the schema is in every segment"
            target[rows] = column if chosen is None else column[chosen]
        mask[rows] = True
        placed_count += len(block) if chosen is None else int(np.count_nonzero(chosen))
    if placed_count < len(grid):
        holes = ~mask
        for target in cells.values():
            target[holes] = np.nan
    return len(klines) - placed_count


def _rows_of(
    block: RowBlock, interval: Interval, grid: Times
) -> tuple[slice | Times, npt.NDArray[np.bool_] | None]:
    """Which rows of the grid the bars of a block go to, and which bars those are where not all of them do."""
    open_time: Times | None = block.column("open_time", interval)
    assert open_time is not None, "bars have open times"
    start = int(grid.searchsorted(open_time[0]))
    expected = grid[start : start + len(open_time)]
    if len(expected) == len(open_time) and (expected == open_time).all():
        return slice(start, start + len(open_time)), None
    rows = grid.searchsorted(open_time)
    is_on_grid = grid[np.minimum(rows, len(grid) - 1)] == open_time if len(grid) else np.zeros(len(rows), np.bool_)
    return rows[is_on_grid], is_on_grid

"""Bars for pandas, polars and Arrow, without a copy where they allow it. The packages are loaded when asked for.

`open_time` and `close_time` become UTC times in milliseconds; everything else keeps its type. What was made views
the same memory as the columns: the map of a segment is released with the last table that uses it.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from ckvd.errors import ExportError

if TYPE_CHECKING:
    from ckvd.model.table import Column, Times
    from ckvd.panel import Panel

_REMEDIES = {
    "pyarrow": "pip install 'ckvd[arrow]'",
    "pandas": "pip install pandas",
    "polars": "pip install polars",
}


class Bars(Protocol):
    """What has columns: `Klines`, `ResampledKlines`."""

    def as_dict(self) -> dict[str, Column]:
        """All columns by name, in order, each of shape (n,)."""
        ...


def to_arrow(bars: Bars) -> Any:
    """A `pyarrow.Table`. Stored columns are not copied; those with one value in every row are written out.

    Raises
    ------
    ExportError
        pyarrow is not installed.
    """
    pyarrow = _load("pyarrow", "to_arrow")
    arrays = {}
    for name, column in bars.as_dict().items():
        array = pyarrow.array(np.ascontiguousarray(column))
        arrays[name] = array.view(pyarrow.timestamp("ms", "UTC")) if _is_time(name) else array
    return pyarrow.table(arrays)


def to_pandas(bars: Bars) -> Any:
    """A `pandas.DataFrame`, indexed by `open_time`. Stored columns are not copied.

    The frame is for reading: its columns are read-only views. Columns can be added and replaced, but writing to
    cells, as `frame.loc[row, "close"] = 1.0` does, raises ValueError with pandas 2 ("assignment destination is
    read-only"). To write, take `klines.to_pandas().copy()`, which has memory of its own.

    Raises
    ------
    ExportError
        pandas is not installed.
    """
    pandas = _load("pandas", "to_pandas")
    columns: dict[str, Any] = {
        name: _pandas_times(pandas, column) if _is_time(name) else np.ascontiguousarray(column)
        for name, column in bars.as_dict().items()
    }
    index = columns.pop("open_time").rename("open_time")
    return pandas.DataFrame(columns, index=index, copy=False)


def panel_to_pandas(panel: Panel, column: str) -> Any:
    """A `pandas.DataFrame` of one column of a panel, indexed by `open_time`, with a column for each symbol.

    It is of shape (T, S), NaN where there is no bar, and a view of the panel's array: see `to_pandas`.

    Raises
    ------
    ColumnError
        The panel has no such column.
    ExportError
        pandas is not installed.
    """
    cells = panel[column]
    pandas = _load("pandas", "to_pandas")
    index = _pandas_times(pandas, panel.open_time).rename("open_time")
    return pandas.DataFrame(cells, index=index, columns=pandas.Index(panel.symbols, name="symbol"), copy=False)


def _pandas_times(pandas: Any, times: Times) -> Any:
    return pandas.DatetimeIndex(times.view("datetime64[ms]"), copy=False).tz_localize("UTC")


def to_polars(bars: Bars) -> Any:
    """A `polars.DataFrame`. With pyarrow installed stored columns are not copied, else all are.

    Raises
    ------
    ExportError
        polars is not installed.
    """
    polars = _load("polars", "to_polars")
    try:
        return polars.from_arrow(to_arrow(bars))
    except ExportError:
        frame = polars.DataFrame({name: np.ascontiguousarray(column) for name, column in bars.as_dict().items()})
        times = [name for name in frame.columns if _is_time(name)]
        return frame.with_columns(
            polars.col(name).cast(polars.Datetime("ms")).dt.replace_time_zone("UTC") for name in times
        )


def _is_time(name: str) -> bool:
    return name.endswith("_time")


def _load(package: str, method: str) -> Any:
    try:
        return import_module(package)
    except ImportError as error:
        raise ExportError(f"{method} needs {package}, which is not installed: {_REMEDIES[package]}") from error

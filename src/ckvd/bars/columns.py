"""Columns that are found by name: what `Klines`, `ResampledKlines` and `Panel` have in common, and tables of them.

pandas, polars and pyarrow are imported when a table is asked for. `open_time` and `close_time` become UTC times in
milliseconds; everything else keeps its type. A table views the memory of the columns where its package allows it:
the map of a segment is released with the last table that uses it.
"""

from __future__ import annotations

from abc import abstractmethod
from importlib import import_module
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from ckvd.errors import ColumnError, ExportError
from ckvd.model.table import COLUMN_DTYPES

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import numpy.typing as npt

    from ckvd.model.table import Column, Times


class NamedColumns:
    """Columns as attributes (`bars.close`) and items (`bars["close"]`), and their names as those of a dict.

    Iteration goes over the names, `in` asks for one, and `dict(bars)` is all columns by name. It is no `Mapping`:
    `len` is the number of rows, as it is of each column.
    """

    __slots__ = ()

    @property
    @abstractmethod
    def column_names(self) -> tuple[str, ...]:
        """The names of the columns, in order."""

    @abstractmethod
    def __getitem__(self, name: str) -> Column:
        """A column by name. Raises ColumnError where there is none."""

    def __iter__(self) -> Iterator[str]:
        """Go through `column_names`."""
        return iter(self.column_names)

    def __contains__(self, name: object) -> bool:
        """Whether a name is one of `column_names`."""
        return name in self.column_names

    def keys(self) -> tuple[str, ...]:
        """`column_names`, under the name that `dict(bars)` and `**bars` look for."""
        return self.column_names

    def __array__(self, dtype: npt.DTypeLike | None = None, copy: bool | None = None) -> npt.NDArray[Any]:
        """One cell that holds the object: to numpy and pandas it is no sequence, least of all one of names."""
        array = np.empty((), object)
        array[()] = self
        return array

    def __getattr__(self, name: str) -> Any:
        # Names that are none are told from columns without looking at the object, which `copy` has not filled yet.
        if name in COLUMN_DTYPES:
            try:
                return self[name]
            except ColumnError:
                pass
        raise AttributeError(f"{type(self).__name__!r} has no attribute {name!r}")


class BarColumns(NamedColumns):
    """Columns with one row for each bar, which tables can be made of. The packages for that are loaded then."""

    __slots__ = ()

    def as_dict(self) -> dict[str, Column]:
        """All columns by name, in order."""
        return {name: self[name] for name in self.column_names}

    def to_arrow(self) -> Any:
        """A `pyarrow.Table`: see `to_arrow`."""
        return to_arrow(self)

    def to_pandas(self) -> Any:
        """A `pandas.DataFrame` indexed by `open_time`: see `to_pandas`."""
        return to_pandas(self)

    def to_polars(self) -> Any:
        """A `polars.DataFrame`: see `to_polars`."""
        return to_polars(self)


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


def grid_to_pandas(cells: npt.NDArray[Any], open_time: Times, symbols: Sequence[str]) -> Any:
    """A `pandas.DataFrame` of cells of shape (T, S), indexed by T open times, with a column for each of S symbols.

    It is a view of the cells: see `to_pandas`.

    Raises
    ------
    ExportError
        pandas is not installed.
    """
    pandas = _load("pandas", "to_pandas")
    index = _pandas_times(pandas, open_time).rename("open_time")
    return pandas.DataFrame(cells, index=index, columns=pandas.Index(symbols, name="symbol"), copy=False)


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

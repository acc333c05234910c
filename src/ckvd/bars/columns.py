"""Access to columns by name, which `Klines`, `Funding`, `Metrics` and `Panel` share, and tables made of columns.

pandas, polars and pyarrow are imported when a table is made. In tables, `open_time` and `close_time` are UTC times
in milliseconds; other columns keep their types. A table views the memory of the columns where its package allows
it, and then keeps the memory map of a segment open as long as it lives.
"""

from __future__ import annotations

from abc import abstractmethod
from importlib import import_module
from typing import TYPE_CHECKING, Any, Final, cast

import numpy as np

from ckvd.errors import ColumnAttributeError, ColumnError, ExportError
from ckvd.model.market import Kind
from ckvd.model.schema import COLUMN_DTYPES
from ckvd.model.table import REGULAR_US

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import numpy.typing as npt

    from ckvd.model.market import SeriesKey
    from ckvd.model.table import Column, Times

_REMEDIES: Final = {
    "pyarrow": "pip install 'ckvd[arrow]'",
    "pandas": "pip install pandas",
    "polars": "pip install polars",
}


class ColumnAccess:
    """Columns as items (`bars["close"]`), with the key access of a dict.

    Iteration yields the names, `in` tests for a name, and `dict(bars)` has all columns by name. It is not a
    `Mapping`, because `len` is the number of rows.
    """

    __slots__ = ()

    @property
    @abstractmethod
    def column_names(self) -> tuple[str, ...]:
        """The names of the columns, in order."""

    @abstractmethod
    def __len__(self) -> int:
        """The number of rows."""

    @abstractmethod
    def __getitem__(self, name: str) -> Column:
        """A column by name. Raises ColumnError if there is none."""

    def __iter__(self) -> Iterator[str]:
        """Iterate over `column_names`."""
        return iter(self.column_names)

    def __contains__(self, name: object) -> bool:
        """Whether there is a column of this name."""
        return name in self.column_names

    def keys(self) -> tuple[str, ...]:
        """`column_names`: `dict(bars)` and `**bars` call this method."""
        return self.column_names

    def __array__(self, dtype: npt.DTypeLike | None = None, copy: bool | None = None) -> npt.NDArray[Any]:
        """An array with the object itself as its only cell. Otherwise numpy would make an array of the names."""
        array = np.empty((), object)
        array[()] = self
        return array

    def __dir__(self) -> Iterator[str]:
        """All attributes, without the columns that exist for other series only."""
        lacking = COLUMN_DTYPES.keys() - REGULAR_US.keys() - set(self.column_names)
        return (name for name in super().__dir__() if name not in lacking)

    def _attribute(self, name: str) -> Column:
        """A column for the attribute of its name."""
        try:
            return self[name]
        except ColumnError as error:
            raise ColumnAttributeError(f"{type(self).__name__!r} has no attribute {name!r}: {error}") from None


class NamedColumns(ColumnAccess):
    """The columns of bars, also as attributes: `bars.close`."""

    __slots__ = ()

    @property
    def open(self) -> npt.NDArray[np.float64]:
        """The first price of each bar."""
        return self._attribute("open")

    @property
    def high(self) -> npt.NDArray[np.float64]:
        """The highest price of each bar."""
        return self._attribute("high")

    @property
    def low(self) -> npt.NDArray[np.float64]:
        """The lowest price of each bar."""
        return self._attribute("low")

    @property
    def close(self) -> npt.NDArray[np.float64]:
        """The last price of each bar."""
        return self._attribute("close")

    @property
    def volume(self) -> npt.NDArray[np.float64]:
        """The traded amount: in base asset, or contracts for coin-margined futures."""
        return self._attribute("volume")

    @property
    def quote_volume(self) -> npt.NDArray[np.float64]:
        """The traded amount in quote asset. Coin-margined klines have `base_volume` instead."""
        return self._attribute("quote_volume")

    @property
    def base_volume(self) -> npt.NDArray[np.float64]:
        """The traded amount in base asset, of coin-margined klines only."""
        return self._attribute("base_volume")

    @property
    def taker_buy_volume(self) -> npt.NDArray[np.float64]:
        """The part of `volume` in which the taker bought."""
        return self._attribute("taker_buy_volume")

    @property
    def taker_buy_quote_volume(self) -> npt.NDArray[np.float64]:
        """The part of `quote_volume` in which the taker bought."""
        return self._attribute("taker_buy_quote_volume")

    @property
    def taker_buy_base_volume(self) -> npt.NDArray[np.float64]:
        """The part of `base_volume` in which the taker bought, of coin-margined klines only."""
        return self._attribute("taker_buy_base_volume")

    @property
    def ignore(self) -> npt.NDArray[np.float64]:
        """The last field of a row, as published. It has no meaning."""
        return self._attribute("ignore")


class TableColumns(ColumnAccess):
    """Columns that can be made into tables. The first column is the time of each row."""

    __slots__ = ()

    def as_dict(self) -> dict[str, Column]:
        """All columns by name, in order."""
        return {name: self[name] for name in self.column_names}

    def to_arrow(self) -> Any:
        """Make a `pyarrow.Table`. Stored columns are not copied; constant columns are written out.

        Raises
        ------
        ExportError
            pyarrow is not installed.
        """
        pyarrow = _load("pyarrow", "to_arrow")
        arrays = {}
        for name, column in self.as_dict().items():
            array = pyarrow.array(np.ascontiguousarray(column))
            arrays[name] = array.view(pyarrow.timestamp("ms", "UTC")) if _is_time(name) else array
        return pyarrow.table(arrays)

    def to_pandas(self) -> Any:
        """Make a `pandas.DataFrame`, indexed by the first column (`open_time`). Stored columns are not copied.

        The frame is for reading: its columns are read-only views. Columns can be added and replaced. Writing to
        cells, as `frame.loc[row, "close"] = 1.0` does, raises ValueError with pandas 2 ("assignment destination is
        read-only"). To write to cells, use `klines.to_pandas().copy()`, which has its own memory.

        Raises
        ------
        ExportError
            pandas is not installed.
        """
        pandas = _load("pandas", "to_pandas")
        columns: dict[str, Any] = {
            name: _pandas_times(pandas, column) if _is_time(name) else np.ascontiguousarray(column)
            for name, column in self.as_dict().items()
        }
        time = self.column_names[0]
        index = columns.pop(time).rename(time)
        return pandas.DataFrame(columns, index=index, copy=False)

    def to_polars(self) -> Any:
        """Make a `polars.DataFrame`. Stored columns are not copied if pyarrow is installed, else all are.

        Raises
        ------
        ExportError
            polars is not installed.
        """
        polars = _load("polars", "to_polars")
        try:
            return polars.from_arrow(self.to_arrow())
        except ExportError:
            columns = {name: np.ascontiguousarray(column) for name, column in self.as_dict().items()}
            return polars.DataFrame(columns).with_columns(
                polars.col(name).cast(polars.Datetime("ms")).dt.replace_time_zone("UTC")
                for name in filter(_is_time, columns)
            )


class BarColumns(NamedColumns, TableColumns):
    """Columns with one row for each bar, which can be made into tables."""

    __slots__ = ()

    @property
    def open_time(self) -> Times:
        """The open time of each bar, int64 milliseconds, strictly ascending."""
        return cast("Times", self["open_time"])

    @property
    def close_time(self) -> Times:
        """The last millisecond of each bar, int64 milliseconds, as published."""
        return cast("Times", self["close_time"])

    @property
    def count(self) -> Times:
        """The number of trades; of mark price, index price and premium index bars, the number of samples."""
        return cast("Times", self["count"])


def require_trades(series: SeriesKey) -> None:
    """Raise ColumnError unless the bars of a series are made of trades."""
    if series.kind is not Kind.KLINES:
        raise ColumnError(
            f"{series} has no trades, so that no bar of it traded or did not: its prices are sampled; "
            f"ask the {Kind.KLINES} of the symbol"
        )


def grid_to_pandas(cells: npt.NDArray[Any], open_time: Times, symbols: Sequence[str]) -> Any:
    """Make a `pandas.DataFrame` of cells of shape (T, S), indexed by T open times, with a column for each symbol.

    It is a read-only view of the cells: see `BarColumns.to_pandas`.

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


def _is_time(name: str) -> bool:
    return name == "time" or name.endswith("_time")


def _load(package: str, method: str) -> Any:
    try:
        return import_module(package)
    except ImportError as error:
        raise ExportError(f"{method} needs {package}, which is not installed: {_REMEDIES[package]}") from error

"""Columns that are found by name: what `Klines`, `ResampledKlines` and `Panel` have in common."""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING, Any

import numpy as np

from ckvd.errors import ColumnError
from ckvd.model.table import COLUMN_DTYPES

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy.typing as npt

    from ckvd.model.table import Column


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
        """A `pyarrow.Table`: see `ckvd.interop.to_arrow`."""
        from ckvd.interop import to_arrow  # noqa: PLC0415  (only for those who use it)

        return to_arrow(self)

    def to_pandas(self) -> Any:
        """A `pandas.DataFrame` indexed by `open_time`: see `ckvd.interop.to_pandas`."""
        from ckvd.interop import to_pandas  # noqa: PLC0415  (only for those who use it)

        return to_pandas(self)

    def to_polars(self) -> Any:
        """A `polars.DataFrame`: see `ckvd.interop.to_polars`."""
        from ckvd.interop import to_polars  # noqa: PLC0415  (only for those who use it)

        return to_polars(self)

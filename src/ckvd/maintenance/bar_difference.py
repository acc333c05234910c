"""Comparing two tables of one series bar by bar, bit by bit. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from ckvd.model.table import COLUMN_DTYPES, REGULAR_US, fields_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy.typing as npt

    from ckvd.model.market import SeriesKey
    from ckvd.model.table import Column, KlineTable

_EXAMPLES_MAX: Final = 1000
# Early archives hold arbitrary numbers there: a difference says nothing.
_NOT_COMPARED: Final = frozenset({"ignore"})


@dataclass(frozen=True, slots=True)
class BarDifference:
    """How two tables differ.

    Attributes
    ----------
    added, removed, changed : tuple of int
        Open times, in milliseconds: of bars that only the second table has, that only the first has, and that both
        have with different cells. The first `_EXAMPLES_MAX` of each.
    added_count, removed_count, changed_count : int
        How many there are.
    columns : tuple of str
        In which columns bars differ.
    """

    added: tuple[int, ...] = ()
    removed: tuple[int, ...] = ()
    changed: tuple[int, ...] = ()
    added_count: int = 0
    removed_count: int = 0
    changed_count: int = 0
    columns: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.added_count or self.removed_count or self.changed_count)

    def __add__(self, other: BarDifference) -> BarDifference:
        return BarDifference(
            (self.added + other.added)[:_EXAMPLES_MAX],
            (self.removed + other.removed)[:_EXAMPLES_MAX],
            (self.changed + other.changed)[:_EXAMPLES_MAX],
            self.added_count + other.added_count,
            self.removed_count + other.removed_count,
            self.changed_count + other.changed_count,
            tuple(dict.fromkeys(self.columns + other.columns)),
        )

    def to_json(self) -> dict[str, Any]:
        """A JSON object; times in milliseconds."""
        return {
            "added": list(self.added),
            "removed": list(self.removed),
            "changed": list(self.changed),
            "added_count": self.added_count,
            "removed_count": self.removed_count,
            "changed_count": self.changed_count,
            "columns": list(self.columns),
        }


def compare_tables(before: KlineTable, after: KlineTable) -> BarDifference:
    """Compare two tables of one series."""
    opens_before, opens_after = before.open_time, after.open_time
    added = np.setdiff1d(opens_after, opens_before, assume_unique=True)
    removed = np.setdiff1d(opens_before, opens_after, assume_unique=True)
    common = np.intersect1d(opens_before, opens_after, assume_unique=True)
    rows_before = np.searchsorted(opens_before, common)
    rows_after = np.searchsorted(opens_after, common)
    is_changed = np.zeros(len(common), dtype=bool)
    columns = []
    for name in (*fields_of(before.series), *REGULAR_US):
        if name in _NOT_COMPARED:
            continue
        one, other = (_column(table.columns, name) for table in (before, after))
        differs = _bits(one, rows_before) != _bits(other, rows_after)
        if differs.any():
            columns.append(name)
            is_changed |= differs
    changed = common[is_changed]
    return BarDifference(
        tuple(added[:_EXAMPLES_MAX].tolist()),
        tuple(removed[:_EXAMPLES_MAX].tolist()),
        tuple(changed[:_EXAMPLES_MAX].tolist()),
        len(added),
        len(removed),
        len(changed),
        tuple(columns),
    )


def unite_tables(series: SeriesKey, base: KlineTable, newer: KlineTable) -> dict[str, Column]:
    """The columns of all bars of two tables; where both have a bar, that of the newer one."""
    kept = ~np.isin(base.open_time, newer.open_time)
    order = np.argsort(np.concatenate((base.open_time[kept], newer.open_time)), kind="stable")
    names = [*fields_of(series), *(name for name in REGULAR_US if name in base.columns or name in newer.columns)]
    return {
        name: np.concatenate((_column(base.columns, name)[kept], _column(newer.columns, name)))[order]
        for name in names
    }


def _column(columns: Mapping[str, Column], name: str) -> Column:
    if name in columns:
        return columns[name]
    return np.full(len(columns["open_time"]), REGULAR_US[name], COLUMN_DTYPES[name])


def _bits(column: Column, rows: npt.NDArray[np.intp]) -> npt.NDArray[Any]:
    """Some cells as integers: 0.0 and -0.0 are different cells."""
    cells = np.ascontiguousarray(column[rows])
    return cells.view(f"<u{cells.dtype.itemsize}")

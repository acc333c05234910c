"""The difference between two tables of one series, bar by bar and bit by bit. Pure."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

import numpy as np

from ckvd.model.record import Record
from ckvd.model.table import NOT_COMPARED, REGULAR_US, bits_of, fields_of

if TYPE_CHECKING:
    from ckvd.model.table import KlineTable

_EXAMPLES_MAX: Final = 1000


@dataclass(frozen=True, slots=True)
class BarDifference(Record):
    """How two tables differ.

    Attributes
    ----------
    added, removed, changed : tuple of int
        Open times, in milliseconds, of bars that only the second table has, that only the first has, and that both
        have with different cells. The first `_EXAMPLES_MAX` of each.
    added_count, removed_count, changed_count : int
        How many such bars there are.
    columns : tuple of str
        The columns in which bars differ.
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

    def without_removed(self) -> BarDifference:
        """The same without the bars that only the first table has."""
        return replace(self, removed=(), removed_count=0)


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
        if name in NOT_COMPARED:
            continue
        differs = bits_of(before.column(name)[rows_before]) != bits_of(after.column(name)[rows_after])
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

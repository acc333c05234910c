"""The difference between two tables of one series, bar by bar and bit by bit. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from ckvd.model.record import Record, fields_as_json
from ckvd.model.table import NOT_COMPARED, REGULAR_US, KlineTable, bits_of, fields_of

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    import numpy.typing as npt

    from ckvd.model.table import Column

_EXAMPLES_MAX: Final = 1000
_CELLS_MAX: Final = 240


@dataclass(frozen=True, slots=True)
class CellDifference(Record):
    """One cell in which two tables differ.

    Attributes
    ----------
    open_ms : int
        The open time of the bar.
    column : str
    before, after : float or int
        The cell in the first and in the second table.
    """

    open_ms: int
    column: str
    before: float
    after: float

    def to_json(self) -> dict[str, Any]:
        """A JSON object. A blank cell, which is NaN, is null: JSON has no NaN."""
        document = fields_as_json(self)
        blank = {name: None for name, value in document.items() if value != value}  # noqa: PLR0124
        return document | blank


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
    cells : tuple of CellDifference
        The first `_CELLS_MAX` cells that differ, bar by bar.
    """

    added: tuple[int, ...] = ()
    removed: tuple[int, ...] = ()
    changed: tuple[int, ...] = ()
    added_count: int = 0
    removed_count: int = 0
    changed_count: int = 0
    columns: tuple[str, ...] = ()
    cells: tuple[CellDifference, ...] = ()

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
            (self.cells + other.cells)[:_CELLS_MAX],
        )


def compare_tables(
    before: KlineTable,
    after: KlineTable,
    columns: Collection[str] | None = None,
    *,
    rounding: Mapping[str, float] | None = None,
) -> BarDifference:
    """Compare two tables of one series.

    Parameters
    ----------
    before, after : KlineTable
    columns : collection of str, optional
        The columns to compare. By default all but those of `NOT_COMPARED`.
    rounding : mapping of str to float, optional
        For columns that were computed, how much their cells may differ, relative to the larger one.
    """
    opens_before, opens_after = before.open_time, after.open_time
    added = np.setdiff1d(opens_after, opens_before, assume_unique=True)
    removed = np.setdiff1d(opens_before, opens_after, assume_unique=True)
    common = np.intersect1d(opens_before, opens_after, assume_unique=True)
    rows_before = np.searchsorted(opens_before, common)
    rows_after = np.searchsorted(opens_after, common)
    is_changed = np.zeros(len(common), dtype=bool)
    changed_cells: dict[str, tuple[npt.NDArray[np.bool_], Column, Column]] = {}
    for name in compared_columns(before) if columns is None else columns:
        was, now = before.column(name)[rows_before], after.column(name)[rows_after]
        differs = _differs(was, now, (rounding or {}).get(name, 0.0))
        if differs.any():
            changed_cells[name] = differs, was, now
            is_changed |= differs
    changed = common[is_changed]
    return BarDifference(
        tuple(added[:_EXAMPLES_MAX].tolist()),
        tuple(removed[:_EXAMPLES_MAX].tolist()),
        tuple(changed[:_EXAMPLES_MAX].tolist()),
        len(added),
        len(removed),
        len(changed),
        tuple(changed_cells),
        tuple(
            CellDifference(int(common[row]), name, was[row].item(), now[row].item())
            for row in np.flatnonzero(is_changed)[:_CELLS_MAX].tolist()
            for name, (differs, was, now) in changed_cells.items()
            if differs[row]
        )[:_CELLS_MAX],
    )


def differing_rows(before: KlineTable, after: KlineTable, columns: Collection[str]) -> KlineTable:
    """The bars of the second table that the first lacks, or has with other cells in some of the columns."""
    _, rows_before, rows_after = np.intersect1d(
        before.open_time, after.open_time, assume_unique=True, return_indices=True
    )
    is_same = np.zeros(after.row_count, dtype=bool)
    is_same[rows_after] = True
    for name in columns:
        was, now = before.column(name)[rows_before], after.column(name)[rows_after]
        is_same[rows_after[_differs(was, now, 0.0)]] = False
    return rows_where(after, ~is_same)


def rows_where(table: KlineTable, chosen: npt.NDArray[np.bool_]) -> KlineTable:
    """The rows of a table that are chosen, one by one."""
    return KlineTable(table.series, {name: cells[chosen] for name, cells in table.columns.items()}, table.decimals)


def compared_columns(table: KlineTable) -> Sequence[str]:
    """The columns of a series that are compared by default."""
    us = REGULAR_US if table.series.kind.is_bars else ()
    return [name for name in (*fields_of(table.series), *us) if name not in NOT_COMPARED]


def _differs(was: Column, now: Column, rounding: float) -> npt.NDArray[np.bool_]:
    differs: npt.NDArray[np.bool_] = bits_of(was) != bits_of(now)
    if rounding and differs.any():
        differs &= ~(np.abs(was - now) <= rounding * np.maximum(np.abs(was), np.abs(now)))
    return differs

"""Merging what several sources say of the same bars. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from functools import reduce
from operator import or_
from typing import TYPE_CHECKING, Final

import numpy as np

from ckvd.kline import COLUMN_DTYPES, REGULAR_US, KlineTable, fields_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy.typing as npt

    from ckvd.kline import Column, Decimals, Times
    from ckvd.market import SeriesKey
    from ckvd.timespan import Span

# Early archives hold arbitrary numbers in the field that is to be ignored: a difference there says nothing.
_NOT_COMPARED: Final = frozenset({"ignore"})


@dataclass(frozen=True, slots=True, eq=False)
class MergedTable:
    """Bars of several tables, each open time once.

    Attributes
    ----------
    table : KlineTable
    conflict_open_times : ndarray of int64
        Open times, ascending, at which two tables have different bars.
    kept_counts : tuple of int
        How many bars were taken from each table.
    """

    table: KlineTable
    conflict_open_times: Times
    kept_counts: tuple[int, ...]


def empty_table(series: SeriesKey) -> KlineTable:
    """A table without bars."""
    return KlineTable(series, {name: np.empty(0, COLUMN_DTYPES[name]) for name in fields_of(series)}, {})


def join_tables(tables: Sequence[KlineTable]) -> KlineTable:
    """One table of several that follow on each other: each opens after all bars of the one before."""
    if len(tables) == 1:
        return tables[0]
    columns = {name: np.concatenate([_column(table, name) for table in tables]) for name in _names_of(tables)}
    return KlineTable(tables[0].series, columns, _decimals_of(tables))


def _names_of(tables: Sequence[KlineTable]) -> list[str]:
    """The columns that a table made of others has: the microseconds only where one of them has them."""
    extra = (name for name in REGULAR_US if any(name in table.columns for table in tables))
    return [*fields_of(tables[0].series), *extra]


def _decimals_of(tables: Sequence[KlineTable]) -> dict[str, Decimals]:
    names = dict.fromkeys(name for table in tables for name in table.decimals)
    return {
        name: reduce(or_, [table.decimals[name] for table in tables if name in table.decimals]) for name in names
    }


def rows_within(table: KlineTable, span: Span) -> KlineTable:
    """The rows of a table that open in a span, as views."""
    start, stop = np.searchsorted(table.open_time, (span.start_ms, span.end_ms)).tolist()
    return table.rows(start, stop)


def merge_tables(series: SeriesKey, tables: Sequence[KlineTable]) -> MergedTable:
    """Merge tables of one series bar by bar.

    Parameters
    ----------
    series : SeriesKey
    tables : sequence of KlineTable
        In order of precedence: where two have a bar with one open time, the earlier table's is kept.

    Returns
    -------
    MergedTable
    """
    if not tables:
        return MergedTable(empty_table(series), np.empty(0, np.int64), ())
    columns = {name: np.concatenate([_column(table, name) for table in tables]) for name in _names_of(tables)}
    rank = np.repeat(np.arange(len(tables)), [table.row_count for table in tables])
    # By open time, and by precedence within: the first of each open time is the one to keep.
    order = np.lexsort((rank, columns["open_time"]))
    columns = {name: column[order] for name, column in columns.items()}
    opens = columns["open_time"]
    is_repeated = np.zeros(len(opens), dtype=bool)
    is_repeated[1:] = opens[1:] == opens[:-1]
    kept = ~is_repeated
    return MergedTable(
        KlineTable(series, {name: column[kept] for name, column in columns.items()}, _decimals_of(tables)),
        np.unique(opens[is_repeated & _differs_from_kept(columns, kept)]),
        tuple(np.bincount(rank[order][kept], minlength=len(tables)).tolist()),
    )


def _column(table: KlineTable, name: str) -> Column:
    column = table.columns.get(name)
    return np.full(table.row_count, REGULAR_US[name], np.int16) if column is None else column


def _differs_from_kept(columns: dict[str, Column], kept: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    """Whether each row differs from the kept row of its open time, in any cell, bit for bit."""
    keeper = np.maximum.accumulate(np.where(kept, np.arange(len(kept)), 0))
    differs = np.zeros(len(kept), dtype=bool)
    for name, column in columns.items():
        if name not in _NOT_COMPARED:
            bits = column.view(f"u{column.dtype.itemsize}")
            differs |= bits != bits[keeper]
    return differs

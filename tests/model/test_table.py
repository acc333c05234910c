"""Tables of bars: cells compared bit for bit, columns that are left out, and merging bar by bar."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ckvd.model.grid import Grid
from ckvd.model.market import Interval
from ckvd.model.schema import COLUMN_DTYPES
from ckvd.model.table import (
    CLOSE_TIME_US,
    NOT_COMPARED,
    OPEN_TIME_US,
    KlineTable,
    bar_flags,
    bits_of,
    join_tables,
    merge_tables,
    regular_us,
)
from ckvd.model.timespan import Span
from support.models import MINUTE_MS
from support.strategies import tables
from support.tables import BTCUSDT_1M, make_table, same_bits

SPAN = Span(0, 8 * MINUTE_MS)
ALL_COLUMNS = (*make_table(BTCUSDT_1M, []).columns, OPEN_TIME_US, CLOSE_TIME_US)


# --- Columns -----------------------------------------------------------------------------------------------


def test_cells_are_compared_bit_for_bit() -> None:
    cells = np.array([0.0, -0.0, np.nan])
    bits = bits_of(cells)
    assert bits[0] != bits[1]
    assert bits[2] == bits[2]
    assert np.shares_memory(bits, cells)


@pytest.mark.parametrize("name", COLUMN_DTYPES)
def test_cells_of_every_column_have_bits_of_their_size_also_where_they_are_no_block(name: str) -> None:
    column = np.arange(8, dtype=COLUMN_DTYPES[name])
    assert bits_of(column[::2]).tolist() == bits_of(column).tolist()[::2]
    constant = np.broadcast_to(column[3:4], 5)
    assert bits_of(constant).tolist() == [bits_of(column)[3]] * 5


@pytest.mark.parametrize(("name", "cell"), [(OPEN_TIME_US, 0), (CLOSE_TIME_US, 999)])
def test_microseconds_that_a_table_leaves_out_are_regular(name: str, cell: int) -> None:
    left_out = make_table(BTCUSDT_1M, [0, MINUTE_MS])
    assert left_out.column(name).tolist() == regular_us(name, 2).tolist() == [cell, cell]
    assert left_out.column(name).dtype == COLUMN_DTYPES[name]
    odd: dict[str, Any] = {name: 7}
    kept = make_table(BTCUSDT_1M, [0, MINUTE_MS], **odd)
    assert kept.column(name) is kept.columns[name]


# --- Flags -------------------------------------------------------------------------------------------------


def test_no_bars_have_no_flags() -> None:
    nothing = np.empty(0, np.int64)
    assert bar_flags(nothing, nothing, None, Grid.of(Interval.M1)).shape == (0,)


# --- Merging -----------------------------------------------------------------------------------------------


def bars_of(table: KlineTable) -> dict[int, dict[str, bytes]]:
    """The bits of the cells of each bar, by open time."""
    columns = {name: table.column(name) for name in ALL_COLUMNS}
    return {
        open_ms: {name: column[row].tobytes() for name, column in columns.items()}
        for row, open_ms in enumerate(table.open_time.tolist())
    }


@given(st.lists(tables(BTCUSDT_1M, SPAN), max_size=3))
def test_of_bars_with_one_open_time_the_first_table_wins_and_differences_are_reported(
    some: list[KlineTable],
) -> None:
    merged = merge_tables(BTCUSDT_1M, some)
    expected: dict[int, dict[str, bytes]] = {}
    conflicts: set[int] = set()
    kept_counts = []
    for bars in map(bars_of, some):
        kept_counts.append(len(bars.keys() - expected.keys()))
        for open_ms, bar in bars.items():
            kept = expected.setdefault(open_ms, bar)
            if any(kept[name] != bar[name] for name in bar.keys() - NOT_COMPARED):
                conflicts.add(open_ms)
    assert bars_of(merged.table) == expected
    assert merged.table.open_time.tolist() == sorted(expected)
    assert merged.conflict_open_times.tolist() == sorted(conflicts)
    assert merged.kept_counts == tuple(kept_counts)


@given(tables(BTCUSDT_1M, SPAN), st.integers(0, 8))
def test_the_parts_of_a_table_join_to_the_table(table: KlineTable, cut: int) -> None:
    joined = join_tables([table.rows(0, cut), table.rows(cut, table.row_count)])
    assert set(joined.columns) == set(table.columns)
    assert all(same_bits(joined.columns[name], column) for name, column in table.columns.items())
    assert joined.decimals == table.decimals

"""Tables are compared bar by bar and bit by bit."""

from __future__ import annotations

from ckvd.maintenance import bar_difference
from ckvd.maintenance.bar_difference import BarDifference, CellDifference, compare_tables
from support.tables import BTCUSDT_1M, make_table

OPENS = [0, 60_000, 120_000]


def test_equal_tables_do_not_differ() -> None:
    difference = compare_tables(make_table(BTCUSDT_1M, OPENS), make_table(BTCUSDT_1M, OPENS))
    assert difference == BarDifference()
    assert not difference


def test_bars_are_added_removed_and_changed() -> None:
    before = make_table(BTCUSDT_1M, OPENS, open=[1.0, 2.0, 0.0], close=[1.0, 1.0, 5.0])
    after = make_table(BTCUSDT_1M, [60_000, 120_000, 180_000], open=[2.0, -0.0, 4.0], close=[1.0, 5.0, 1.0])
    for name in before.columns.keys() - {"open_time", "close_time", "open", "close"}:
        before.columns[name][:] = after.columns[name][:] = 7
    difference = compare_tables(before, after)
    cells = (CellDifference(120_000, "open", 0.0, -0.0),)
    assert difference == BarDifference((180_000,), (0,), (120_000,), 1, 1, 1, ("open",), cells)
    assert str(difference.cells[0].after) == "-0.0"


def test_the_field_to_ignore_is_not_compared() -> None:
    one, other = (make_table(BTCUSDT_1M, OPENS, ignore=number) for number in (1.0, 2.0))
    assert not compare_tables(one, other)


def test_microseconds_that_a_table_leaves_out_are_regular() -> None:
    without = make_table(BTCUSDT_1M, OPENS)
    assert not compare_tables(without, make_table(BTCUSDT_1M, OPENS, close_time_us=999))
    difference = compare_tables(without, make_table(BTCUSDT_1M, OPENS, close_time_us=[999, 0, 999]))
    assert (difference.changed, difference.columns) == ((60_000,), ("close_time_us",))


def test_sums_count_all_bars_and_keep_the_first_examples() -> None:
    limit = bar_difference._EXAMPLES_MAX
    one = BarDifference(added=tuple(range(limit)), added_count=limit, columns=("open", "low"))
    total = one + BarDifference(added=(limit,), added_count=1, columns=("low", "high"))
    assert total == BarDifference(added=tuple(range(limit)), added_count=limit + 1, columns=("open", "low", "high"))


def test_only_the_first_cells_that_differ_are_shown() -> None:
    opens = [60_000 * number for number in range(2 * bar_difference._CELLS_MAX)]
    one, other = (make_table(BTCUSDT_1M, opens, open=price, close=price) for price in (1.0, 2.0))
    difference = compare_tables(one, other)
    assert difference.changed_count == len(opens)
    assert len(difference.cells) == len((difference + difference).cells) == bar_difference._CELLS_MAX
    assert [(cell.open_ms, cell.column) for cell in difference.cells[:3]] == [
        (0, "open"), (0, "close"), (60_000, "open"),
    ]  # fmt: skip


def test_what_was_computed_may_differ_by_its_rounding_and_no_more() -> None:
    one = make_table(BTCUSDT_1M, OPENS, volume=[1.0, 1e9, 5.0], open=1.0)
    other = make_table(BTCUSDT_1M, OPENS, volume=[1.0 + 1e-8, 1e9 * (1 + 2**-50), 5.0], open=1.0)
    columns = ("open", "volume")
    assert compare_tables(one, other, columns).changed == (0, 60_000)
    difference = compare_tables(one, other, columns, rounding={"volume": 2**-47})
    assert (difference.changed, difference.columns) == ((0,), ("volume",))

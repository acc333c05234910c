"""`Klines` over blocks of rows: columns that are views or concatenated, flags, gaps and sources."""

from __future__ import annotations

import copy
import pickle
from itertools import pairwise
from typing import TYPE_CHECKING, Any, assert_type

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ckvd.bars.klines import Klines
from ckvd.errors import CkvdError, ColumnError
from ckvd.model.market import Interval, Kind, SeriesKey
from ckvd.model.provenance import Absence, Gap, Origin, Reason, Source
from ckvd.model.schema import COLUMN_DTYPES
from ckvd.model.table import CLOSE_TIME_US, OPEN_TIME_US, BarFlag, KlineTable, fields_of
from ckvd.model.timespan import Span
from support.block import Block
from support.impossible import is_impossible
from support.models import MINUTE_MS, bar_end, bar_start
from support.strategies import BAR_KINDS, bar_series_keys, segment_spans, tables
from support.tables import BTCUSDT_1M, make_table, regular_table, same_bits

if TYPE_CHECKING:
    from ckvd.model.grid import Grid

COIN_1M = SeriesKey.of("BTCUSD_PERP", "1m", market="cm")
HOUR = Span(0, 60 * MINUTE_MS)


def minute_table(*minutes: int, series: SeriesKey = BTCUSDT_1M) -> KlineTable:
    return make_table(series, [minute * MINUTE_MS for minute in minutes])


def source(name: str, start: int = 0, end: int = 60) -> Source:
    return Source(Origin.VISION_DAILY, name, start * MINUTE_MS, end * MINUTE_MS)


# --- Columns -----------------------------------------------------------------------------------------------


def test_the_columns_of_one_block_are_the_blocks_own_arrays() -> None:
    table = minute_table(0, 1, 2)
    klines = Klines(BTCUSDT_1M, HOUR, [Block(table)])
    assert klines.is_view
    assert all(klines[name] is table.columns[name] for name in klines.column_names)


def test_a_column_is_a_view_also_beside_blocks_without_rows() -> None:
    table, nothing = minute_table(0, 1), minute_table()
    klines = Klines(BTCUSDT_1M, HOUR, [Block(nothing), Block(table), Block(nothing)])
    assert klines.is_view
    assert klines.close is table.columns["close"]


@settings(max_examples=60)
@given(st.data(), bar_series_keys())
def test_several_blocks_are_concatenated_in_order_into_read_only_columns(
    data: st.DataObject, series: SeriesKey
) -> None:
    span = data.draw(segment_spans(series.interval))
    table = data.draw(tables(series, span))
    count = table.row_count
    bounds = [0, *sorted(data.draw(st.lists(st.integers(0, count), max_size=4))), count]
    parts = [table.rows(start, stop) for start, stop in pairwise(bounds)]
    klines = Klines(series, span, [Block(part) for part in parts])
    assert len(klines) == count
    for name in klines.column_names:
        assert same_bits(klines[name], table.columns[name])
        assert klines[name] is klines[name]
    if sum(part.row_count > 0 for part in parts) > 1:
        assert not klines.is_view
        for name, column in klines.as_dict().items():
            assert not column.flags.writeable
            assert not np.shares_memory(column, table.columns[name])
    assert klines == Klines(series, span, [Block(table)])


def test_without_blocks_columns_are_empty_and_have_the_right_dtypes() -> None:
    klines = Klines(COIN_1M, HOUR, [])
    assert len(klines) == 0
    assert klines.is_view
    for name in (*klines.column_names, OPEN_TIME_US, CLOSE_TIME_US):
        assert klines[name].shape == (0,)
        assert klines[name].dtype == COLUMN_DTYPES[name]
    assert klines.flags.shape == (0,)
    assert klines.sources == ()


@given(bar_series_keys())
def test_every_field_of_the_series_is_a_column_and_an_attribute(series: SeriesKey) -> None:
    table = make_table(series, [0])
    klines = Klines(series, Span(0, 1), [Block(table)])
    assert klines.column_names == tuple(klines.as_dict()) == fields_of(series)
    assert len(klines.column_names) == 12
    for name in klines.column_names:
        assert getattr(klines, name) is klines[name]
    is_coin = series.market == "cm" and series.kind is Kind.KLINES
    assert ("base_volume" in klines.column_names) == is_coin == ("quote_volume" not in klines.column_names)


def test_an_unknown_column_is_refused_and_the_known_columns_are_listed() -> None:
    klines = Klines(BTCUSDT_1M, HOUR, [Block(minute_table(0))])
    for name in ("base_volume", "Close", "vwap", ""):
        with pytest.raises(
            ColumnError, match=f"has no column {name!r}: expected one of open_time, open, "
        ) as caught:
            klines[name]
        assert isinstance(caught.value, KeyError)
        assert isinstance(caught.value, CkvdError)
        assert not str(caught.value).startswith("'")


def test_an_attribute_that_is_a_column_of_no_series_is_an_attribute_error() -> None:
    klines = Klines(BTCUSDT_1M, HOUR, [])
    assert not hasattr(klines, "vwap")
    with pytest.raises(AttributeError, match="'Klines' object has no attribute 'vwap'"):
        _ = klines.vwap  # type: ignore[attr-defined]


def test_a_misspelt_column_is_an_error_of_the_type_checker_and_an_attribute_error() -> None:
    """mypy complains of a comment that ignores nothing, so it sees each of these."""
    klines = Klines(BTCUSDT_1M, HOUR, [Block(regular_table(BTCUSDT_1M, HOUR))])
    with pytest.raises(AttributeError, match="object has no attribute 'clsoe'"):
        _ = klines.clsoe  # type: ignore[attr-defined]
    with pytest.raises(AttributeError, match="object has no attribute 'clsoe'"):
        _ = klines.resample("5m").clsoe  # type: ignore[attr-defined]


def test_the_type_of_each_column_is_known() -> None:
    klines = Klines(BTCUSDT_1M, HOUR, [])
    coins = Klines(COIN_1M, HOUR, [])
    assert_type(klines.open_time, npt.NDArray[np.int64])
    assert_type(klines.count, npt.NDArray[np.int64])
    assert_type(klines.quote_volume, npt.NDArray[np.float64])
    assert_type(klines.taker_buy_volume, npt.NDArray[np.float64])
    assert_type(coins.base_volume, npt.NDArray[np.float64])
    assert_type(klines.close_time_us, npt.NDArray[np.int16])
    for named in (klines, coins):
        for name in (*named.column_names, OPEN_TIME_US, CLOSE_TIME_US):
            assert getattr(named, name).dtype == COLUMN_DTYPES[name]


def test_a_column_that_the_series_lacks_says_which_it_has_to_whoever_asks_for_the_attribute() -> None:
    for lacking, name in ((BTCUSDT_1M, "base_volume"), (COIN_1M, "quote_volume")):
        klines = Klines(lacking, HOUR, [])
        with pytest.raises(AttributeError, match=f"no attribute '{name}': .* expected one of open_time") as caught:
            getattr(klines, name)
        assert isinstance(caught.value, ColumnError)
        assert not hasattr(klines, name)
        with pytest.raises(ColumnError) as indexed:
            klines[name]
        assert not isinstance(indexed.value, AttributeError), "it would vanish in the hasattr of another object"


def test_dir_has_the_columns_of_the_series_and_no_others() -> None:
    known = set(dir(Klines(BTCUSDT_1M, HOUR, [])))
    assert {*fields_of(BTCUSDT_1M), OPEN_TIME_US, CLOSE_TIME_US, "gaps", "resample"} <= known
    assert {"base_volume", "taker_buy_base_volume"}.isdisjoint(known)
    assert {"quote_volume", "taker_buy_quote_volume"}.isdisjoint(dir(Klines(COIN_1M, HOUR, [])))


def test_an_attribute_error_within_a_property_is_not_said_to_be_of_the_property() -> None:
    class BrokenBlock(Block):
        def __getattribute__(self, name: str) -> Any:
            return None.sources if name == "sources" else super().__getattribute__(name)  # type: ignore[attr-defined]

    klines = Klines(BTCUSDT_1M, HOUR, [BrokenBlock(minute_table(0))])
    with pytest.raises(AttributeError, match="'NoneType' object has no attribute 'sources'"):
        _ = klines.sources


def test_an_attribute_that_is_a_column_of_other_markets_only_is_an_attribute_error() -> None:
    assert not hasattr(Klines(BTCUSDT_1M, HOUR, []), "base_volume")
    assert getattr(Klines(COIN_1M, HOUR, []), "quote_volume", None) is None


def test_microseconds_that_all_blocks_leave_out_are_regular() -> None:
    klines = Klines(BTCUSDT_1M, HOUR, [Block(minute_table(0, 1))])
    assert klines[OPEN_TIME_US].tolist() == [0, 0]
    assert klines[CLOSE_TIME_US].tolist() == [999, 999]
    assert klines[OPEN_TIME_US].dtype == klines[CLOSE_TIME_US].dtype == np.int16
    assert not klines[CLOSE_TIME_US].flags.writeable


def test_microseconds_of_some_blocks_are_concatenated_with_regular_ones_of_others() -> None:
    odd = make_table(BTCUSDT_1M, [0, MINUTE_MS], close_time_us=[5, 999])
    klines = Klines(BTCUSDT_1M, HOUR, [Block(odd), Block(minute_table(2))])
    assert klines[CLOSE_TIME_US].tolist() == [5, 999, 999]
    assert CLOSE_TIME_US not in klines.column_names


# --- Flags -------------------------------------------------------------------------------------------------


def flag_one(table: KlineTable, row: int, grid: Grid, *, has_volume: bool) -> int:
    """The flags of a bar, one rule after the other. The grid is asked only for bars of three days."""
    interval = table.series.bar_interval
    opens, closes = table.open_time.tolist(), table.columns["close_time"].tolist()
    start_ms = bar_start(opens[row], interval)
    length_ms = bar_end(opens[row], interval) - start_ms
    close_ms = bar_end(opens[row], interval) - 1 if interval is Interval.MO1 else opens[row] + length_ms - 1
    if interval is Interval.D3:
        start_ms = grid.slot(opens[row]).start_ms
    flags = BarFlag(0)
    if opens[row] != start_ms:
        flags |= BarFlag.OFF_GRID
    if closes[row] != close_ms:
        flags |= BarFlag.ODD_CLOSE
    if has_volume and table.columns["volume"].tolist()[row] == 0:
        flags |= BarFlag.ZERO_VOLUME
    if row + 1 < len(opens) and closes[row] >= opens[row + 1]:
        flags |= BarFlag.OVERLAPS_NEXT
    if is_impossible(table, row):
        flags |= BarFlag.IMPOSSIBLE
    return flags


@settings(max_examples=60)
@given(st.data(), bar_series_keys())
def test_the_flags_of_each_bar_are_those_of_the_rules(data: st.DataObject, series: SeriesKey) -> None:
    span = data.draw(segment_spans(series.interval))
    table = data.draw(tables(series, span))
    klines = Klines(series, span, [Block(table)])
    has_volume = series.kind is Kind.KLINES
    expected = [flag_one(table, row, klines.grid, has_volume=has_volume) for row in range(table.row_count)]
    assert klines.flags.tolist() == expected
    assert klines.flags.dtype == np.uint8
    counts = {flag: sum(bool(one & flag) for one in expected) for flag in BarFlag}
    assert klines.flag_counts == {flag: count for flag, count in counts.items() if count}


def test_each_kind_of_unusual_bar_has_its_flag() -> None:
    table = make_table(
        BTCUSDT_1M,
        [0, MINUTE_MS, 2 * MINUTE_MS + 14_000, 3 * MINUTE_MS, 4 * MINUTE_MS],
        close_time=[59_999, 90_000, 194_000 - 1, 240_000 - 1, 300_000 - 1],
        volume=[1, 1, 1, -0.0, 1],
        count=[1, 1, 1, 0, 1],
        taker_buy_volume=0,
        high=[500, 500, 500, 500, 99],
    )
    klines = Klines(BTCUSDT_1M, HOUR, [Block(table)])
    late = BarFlag.OFF_GRID | BarFlag.OVERLAPS_NEXT
    assert klines.flags.tolist() == [0, BarFlag.ODD_CLOSE, late, BarFlag.ZERO_VOLUME, BarFlag.IMPOSSIBLE]
    assert klines.flag_counts == dict.fromkeys(BarFlag, 1)


def test_a_bar_can_overlap_the_next_bar_in_another_block() -> None:
    long_bar = make_table(BTCUSDT_1M, [0], close_time=MINUTE_MS)
    klines = Klines(BTCUSDT_1M, HOUR, [Block(long_bar), Block(minute_table(1))])
    assert klines.flags.tolist() == [BarFlag.ODD_CLOSE | BarFlag.OVERLAPS_NEXT, 0]


@pytest.mark.parametrize("kind", [kind for kind in BAR_KINDS if kind is not Kind.KLINES])
def test_a_volume_of_zero_is_usual_for_kinds_without_a_volume(kind: Kind) -> None:
    series = SeriesKey.of("BTCUSDT", "1m", market="um", kind=kind)
    klines = Klines(series, HOUR, [Block(make_table(series, [0], volume=0))])
    assert klines.flag_counts == {}


@given(st.lists(st.tuples(st.sampled_from([0.0, -0.0, 0.5]), st.sampled_from([0, 1]))), st.integers(0, 8))
def test_a_bar_traded_unless_it_has_neither_volume_nor_trades(bars: list[tuple[float, int]], cut: int) -> None:
    volumes, counts = [volume for volume, _ in bars], [count for _, count in bars]
    opens = range(0, len(bars) * MINUTE_MS, MINUTE_MS)
    for series in (BTCUSDT_1M, COIN_1M):
        table = make_table(series, list(opens), volume=volumes or 0, count=counts or 0)
        klines = Klines(series, HOUR, [Block(table.rows(0, cut)), Block(table.rows(cut, len(bars)))])
        assert klines.traded.tolist() == [bool(volume or count) for volume, count in bars]
        assert klines.traded.dtype == np.bool_
        assert not klines.traded.flags.writeable
        assert klines.traded is klines.traded


@pytest.mark.parametrize("kind", [kind for kind in BAR_KINDS if kind is not Kind.KLINES])
def test_prices_that_are_sampled_are_not_traded(kind: Kind) -> None:
    series = SeriesKey.of("BTCUSDT", "1m", market="um", kind=kind)
    with pytest.raises(ColumnError, match="has no trades"):
        _ = Klines(series, HOUR, [Block(make_table(series, [0]))]).traded


# --- Gaps and sources --------------------------------------------------------------------------------------


def test_a_missing_bar_has_the_reason_of_its_block_or_was_not_fetched() -> None:
    span = Span(0, 10 * MINUTE_MS)
    known = Absence(2 * MINUTE_MS, 3 * MINUTE_MS, Reason.HALTED)
    blocks = [Block(minute_table(0, 1, 4), absences=[known]), Block(minute_table())]
    klines = Klines(BTCUSDT_1M, span, blocks, [Span(6 * MINUTE_MS, 10 * MINUTE_MS)])
    assert klines.gaps == (
        Gap(2 * MINUTE_MS, 3 * MINUTE_MS, 1, Reason.HALTED),
        Gap(3 * MINUTE_MS, 4 * MINUTE_MS, 1, Reason.NOT_IN_ARCHIVE),
        Gap(5 * MINUTE_MS, 6 * MINUTE_MS, 1, Reason.NOT_IN_ARCHIVE),
        Gap(6 * MINUTE_MS, 10 * MINUTE_MS, 4, Reason.NOT_FETCHED),
    )


def test_without_missing_bars_there_are_no_gaps() -> None:
    span = Span(0, 5 * MINUTE_MS)
    assert Klines(BTCUSDT_1M, span, [Block(regular_table(BTCUSDT_1M, span))]).gaps == ()


def test_spans_that_were_not_fetched_are_gaps_of_whole_bars() -> None:
    missing = [Span(20_000, 40_000), Span(90_000, 3 * MINUTE_MS)]
    klines = Klines(BTCUSDT_1M, Span(0, 3 * MINUTE_MS), [Block(minute_table(0, 1))], missing)
    assert klines.gaps == (Gap(2 * MINUTE_MS, 3 * MINUTE_MS, 1, Reason.NOT_FETCHED),)


def test_each_source_of_a_span_is_listed_once_and_sources_of_other_times_are_not() -> None:
    day, month, later = source("day", 0, 10), source("month", 0, 60), source("later", 61, 70)
    blocks = [Block(minute_table(0), [day, month]), Block(minute_table(1), [month, later])]
    assert Klines(BTCUSDT_1M, HOUR, blocks).sources == (day, month)


# --- The object as a whole ---------------------------------------------------------------------------------


def test_klines_are_equal_if_all_bits_of_all_bars_are() -> None:
    one = Klines(BTCUSDT_1M, HOUR, [Block(minute_table(0, 1))])
    in_parts = Klines(BTCUSDT_1M, Span(0, 1), [Block(minute_table(0)), Block(minute_table(0, 1).rows(1, 2))])
    assert one == in_parts
    assert one != Klines(BTCUSDT_1M, HOUR, [Block(minute_table(0, 2))])
    assert one != Klines(COIN_1M, HOUR, [Block(minute_table(0, 1, series=COIN_1M))])
    assert one != "klines"
    zero, minus = (make_table(BTCUSDT_1M, [0], volume=cell) for cell in (0.0, -0.0))
    assert Klines(BTCUSDT_1M, HOUR, [Block(zero)]) != Klines(BTCUSDT_1M, HOUR, [Block(minus)])
    late = make_table(BTCUSDT_1M, [0], open_time_us=7)
    assert Klines(BTCUSDT_1M, HOUR, [Block(late)]) != Klines(BTCUSDT_1M, HOUR, [Block(minute_table(0))])


def test_klines_cannot_be_hashed() -> None:
    with pytest.raises(TypeError, match="unhashable"):
        hash(Klines(BTCUSDT_1M, HOUR, []))


def test_klines_can_be_copied_and_pickled() -> None:
    klines = Klines(BTCUSDT_1M, HOUR, [Block(minute_table(0, 1))])
    assert copy.copy(klines) == copy.deepcopy(klines) == pickle.loads(pickle.dumps(klines)) == klines


def test_the_repr_shows_the_series_the_number_of_bars_and_whether_columns_are_views() -> None:
    block = Block(minute_table(0))
    view = Klines(BTCUSDT_1M, HOUR, [block])
    concatenated = Klines(BTCUSDT_1M, HOUR, [block, Block(minute_table(1))], [Span(2, 3)])
    title = f"<Klines spot/klines/BTCUSDT/1m {HOUR}: "
    assert repr(view) == title + "1 bars, view>"
    assert repr(concatenated) == title + "2 bars, gathered, 1 spans missing>"

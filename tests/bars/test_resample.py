"""Longer bars, compared with a plain loop over exact decimals, and with bars that the exchange published."""

from __future__ import annotations

import datetime as dt
import math
from decimal import Decimal
from fractions import Fraction
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ckvd.acquisition.ingest import expected_of
from ckvd.bars.klines import Klines
from ckvd.bars.resample import BarLength
from ckvd.cache import CacheFolder, SeriesStore, open_cache
from ckvd.decode.decode import decode_archive
from ckvd.errors import ColumnError, IdentityError
from ckvd.model.grid import regular_close_times
from ckvd.model.market import Interval, SeriesKey
from ckvd.model.schema import COLUMN_DTYPES
from ckvd.model.table import KlineTable, fields_of
from ckvd.model.timespan import Span
from ckvd.vision.name import ArchiveName
from support.block import Block
from support.models import DAY_MS, HOUR_MS, MINUTE_MS, bar_end, bar_start, bar_starts, ms
from support.strategies import moments, open_times
from support.tables import BTCUSDT_1M, make_table, regular_table

if TYPE_CHECKING:
    from pathlib import Path

    from ckvd.bars.resample import ResampledKlines
    from ckvd.model.table import Column, Times

FLOAT_SUMS = ("volume", "quote_volume", "taker_buy_volume", "taker_buy_quote_volume", "ignore")
NESTING = [
    (Interval.S1, Interval.M1), (Interval.M1, Interval.M3), (Interval.M1, Interval.H1),
    (Interval.M5, Interval.M30), (Interval.H1, Interval.H2), (Interval.H12, Interval.MO1),
    (Interval.D1, Interval.D3), (Interval.D1, Interval.W1), (Interval.H8, Interval.D1),
    (Interval.D1, Interval.MO1), (Interval.H4, Interval.H4), (Interval.MO1, Interval.MO1),
]  # fmt: skip


def klines_of(table: KlineTable, span: Span) -> Klines:
    return Klines(table.series, span, [Block(table)])


def resample(table: KlineTable, span: Span, target: Interval) -> ResampledKlines:
    """Longer bars. Those of three days are counted from the epoch, as the model does."""
    from_epoch = make_table(series_of(Interval.D3), [0, 3 * DAY_MS])
    like = klines_of(from_epoch, Span(0, 6 * DAY_MS)) if target is Interval.D3 else None
    return klines_of(table, span).resample(target, like=like)


def series_of(interval: Interval) -> SeriesKey:
    return SeriesKey.of("BTCUSDT", interval)


def written(number: int, digits: int) -> float:
    """A number with some digits after the decimal point, as `float(text)` reads it."""
    return float(Decimal(number).scaleb(-digits))


@st.composite
def decimal_tables(draw: st.DrawFn, source: Interval, target: Interval) -> tuple[KlineTable, Span]:
    """Bars as published: missing bars, late bars, cells with up to eight digits after the decimal point."""
    start_ms = end_ms = draw(moments())
    for _ in range(draw(st.integers(1, 24))):
        end_ms = bar_end(end_ms, source)
    span = Span(start_ms, end_ms)
    opens = np.array(draw(open_times(span, source)), np.int64)
    if draw(st.booleans()):
        # With a distant bar, so that whole bars of the target are missing.
        span = Span(start_ms, bar_end(bar_end(end_ms, target), target))
        opens = np.unique(np.append(opens, draw(st.integers(start_ms, span.end_ms - 1))))
    series = series_of(source)
    columns: dict[str, Any] = {}
    for name in fields_of(series):
        cells: st.SearchStrategy[float]
        if COLUMN_DTYPES[name].kind == "i":
            cells = st.integers(0, 10**12)
        else:
            digits = draw(st.integers(0, 8))
            largest = 2**25 * 10**digits - 1 >> draw(st.integers(0, 50))
            cells = st.integers(0, largest).map(partial(written, digits=digits))
        columns[name] = np.array(
            draw(st.lists(cells, min_size=len(opens), max_size=len(opens))), COLUMN_DTYPES[name]
        )
    columns["open_time"] = opens
    columns["close_time"] = regular_close_times(opens, source)
    return KlineTable(series, columns, {}), span


def model_of(table: KlineTable, target: Interval) -> dict[int, list[int]]:
    """The rows that open in each longer bar, found one by one."""
    groups: dict[int, list[int]] = {}
    for row, moment in enumerate(table.open_time.tolist()):
        groups.setdefault(bar_start(moment, target), []).append(row)
    return groups


def decimal_sum(cells: Column) -> Fraction:
    """The sum of the cells as decimals."""
    return sum((Fraction(Decimal(repr(cell))) for cell in cells.tolist()), Fraction(0))


# --- Against a loop ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("source", "target"), NESTING)
@settings(max_examples=25)
@given(st.data())
def test_each_bar_is_made_of_the_bars_that_open_in_it(
    source: Interval, target: Interval, data: st.DataObject
) -> None:
    table, span = data.draw(decimal_tables(source, target))
    bars = resample(table, span, target)
    groups = model_of(table, target)
    assert bars.open_time.tolist() == sorted(groups)
    assert bars.source_count.tolist() == [len(rows) for rows in groups.values()]
    cells = table.columns
    for position, rows in enumerate(groups.values()):
        assert bars.open[position] == cells["open"][rows[0]]
        assert bars.high[position] == max(cells["high"][rows])
        assert bars.low[position] == min(cells["low"][rows])
        assert bars.close[position] == cells["close"][rows[-1]]
        assert bars.close_time[position] == cells["close_time"][rows[-1]]
        assert bars.count[position] == sum(cells["count"][rows].tolist())


@pytest.mark.parametrize(("source", "target"), NESTING)
@settings(max_examples=25)
@given(st.data())
def test_a_bar_is_complete_when_every_slot_of_the_shorter_grid_has_a_bar(
    source: Interval, target: Interval, data: st.DataObject
) -> None:
    table, span = data.draw(decimal_tables(source, target))
    bars = resample(table, span, target)
    filled = {bar_start(moment, source) for moment in table.open_time.tolist()}
    for open_ms, is_complete in zip(bars.open_time.tolist(), bars.complete.tolist(), strict=True):
        slots = bar_starts(Span(open_ms, bar_end(open_ms, target)), source)
        assert is_complete == filled.issuperset(slots)


@given(st.data())
def test_a_sum_is_the_decimal_sum_rounded(data: st.DataObject) -> None:
    table, span = data.draw(decimal_tables(Interval.M1, Interval.H1))
    bars = klines_of(table, span).resample("1h")
    for position, rows in enumerate(model_of(table, Interval.H1).values()):
        for name in FLOAT_SUMS:
            exact = decimal_sum(table.columns[name][rows])
            found = Fraction(float(bars[name][position]))
            assert abs(found - exact) <= Fraction(math.ulp(float(exact))) * Fraction(501, 1000)


# --- Properties --------------------------------------------------------------------------------------------


@given(st.integers(1, 200), st.sampled_from(["5m", "1h", "7m"]))
def test_there_is_no_look_ahead(row_count: int, length: str) -> None:
    whole = regular_table(BTCUSDT_1M, Span(0, 240 * MINUTE_MS))
    now_ms = row_count * MINUTE_MS
    seen = klines_of(whole.rows(0, row_count), Span(0, now_ms)).resample(length)
    later = klines_of(whole, Span(0, 240 * MINUTE_MS)).resample(length)
    closed = int(np.count_nonzero(seen.complete))
    assert closed == now_ms // BarLength.of(length).fixed_ms
    for name in seen.column_names:
        assert seen[name][:closed].tobytes() == later[name][:closed].tobytes()


def test_longer_bars_without_source_bars_are_left_out() -> None:
    opens = [0, MINUTE_MS, 3 * HOUR_MS + 5 * MINUTE_MS]
    bars = klines_of(make_table(BTCUSDT_1M, opens), Span(0, DAY_MS)).resample("1h")
    assert bars.open_time.tolist() == [0, 3 * HOUR_MS]
    assert bars.source_count.tolist() == [2, 1]
    assert not bars.complete.any()


def test_a_bar_off_the_grid_belongs_to_the_bar_in_which_it_opens_and_fills_its_slot() -> None:
    opens = [minute * MINUTE_MS for minute in range(60)]
    opens[59] += 14_789
    bars = klines_of(make_table(BTCUSDT_1M, opens), Span(0, HOUR_MS)).resample("1h")
    assert (bars.open_time.tolist(), bars.source_count.tolist(), bars.complete.tolist()) == ([0], [60], [True])


def test_two_bars_in_one_slot_do_not_replace_a_missing_bar() -> None:
    opens = sorted({minute * MINUTE_MS for minute in range(59)} | {MINUTE_MS + 1})
    bars = klines_of(make_table(BTCUSDT_1M, opens), Span(0, HOUR_MS)).resample("1h")
    assert (bars.source_count.tolist(), bars.complete.tolist()) == ([60], [False])


def test_a_span_that_starts_within_a_bar_gives_an_incomplete_first_bar() -> None:
    span = Span(30 * MINUTE_MS, 2 * HOUR_MS)
    bars = klines_of(regular_table(BTCUSDT_1M, span), span).resample("1h")
    assert (bars.open_time.tolist(), bars.complete.tolist()) == ([0, HOUR_MS], [False, True])
    assert bars.span == Span(0, 2 * HOUR_MS)


def test_lengths_that_the_exchange_does_not_offer_work_too() -> None:
    span = Span(ms(2023, 11, 1), ms(2024, 8, 1))
    klines = klines_of(regular_table(series_of(Interval.D1), span), span)
    quarters = [ms(2023, 10, 1), ms(2024, 1, 1), ms(2024, 4, 1), ms(2024, 7, 1)]
    assert klines.resample("3mo").open_time.tolist() == quarters
    assert klines.resample("3M").source_count.tolist() == [61, 91, 91, 31]
    assert klines.resample("3mo").complete.tolist() == [False, True, True, False]
    fortnights = klines.resample("2w").open_time
    assert {dt.datetime.fromtimestamp(moment / 1000, dt.UTC).weekday() for moment in fortnights.tolist()} == {0}


# --- Bars of three days ------------------------------------------------------------------------------------


def days_from(day: int, count: int) -> list[int]:
    return [(day + number) * DAY_MS for number in range(count)]


def three_days(symbol: str, *opens: int) -> Klines:
    table = make_table(SeriesKey.of(symbol, "3d"), [day * DAY_MS for day in opens])
    return klines_of(table, Span(0, 40_000 * DAY_MS))


DAYS = klines_of(make_table(series_of(Interval.D1), days_from(18_000, 24)), Span(18_000 * DAY_MS, 18_024 * DAY_MS))
# 18,000 is a multiple of three and of six: the phase is 1.
OTHER = three_days("ETHUSDT", 18_001, 18_004)


def opens_of(bars: ResampledKlines) -> list[int]:
    return [open_ms // DAY_MS for open_ms in bars.open_time.tolist()]


@pytest.mark.parametrize("length", ["3d", "6d", "9d", "30d"])
def test_the_days_of_3d_bars_and_their_multiples_are_not_guessed(length: str) -> None:
    with pytest.raises(IdentityError, match=rf"^{length} bars of BTCUSDT cannot be made: .* pass .* as like="):
        DAYS.resample(length)
    with pytest.raises(IdentityError, match="as like="):
        klines_of(make_table(series_of(Interval.D1), []), Span(0, DAY_MS)).resample(length)


def test_3d_bars_have_the_days_of_others_and_their_multiples_are_made_of_them() -> None:
    threes = DAYS.resample("3d", like=OTHER)
    assert opens_of(threes) == [17_998, *range(18_001, 18_024, 3)]
    assert threes.complete.tolist() == [False, *[True] * 7, False]
    sixes = opens_of(DAYS.resample("6d", like=OTHER))
    assert sixes == [17_995, 18_001, 18_007, 18_013, 18_019]
    # However far the source reaches, a bar begins on the same days.
    later = klines_of(make_table(series_of(Interval.D1), days_from(18_004, 20)), Span(0, 18_024 * DAY_MS))
    assert opens_of(later.resample("6d", like=OTHER)) == sixes[1:]
    assert opens_of(three_days("ETHUSDT", *range(18_001, 18_024, 3)).resample("6d")) == sixes[1:]


def test_other_multiples_of_days_hours_and_weeks_are_those_of_the_calendar() -> None:
    for like in (None, OTHER):
        assert opens_of(DAYS.resample("2d", like=like)) == list(range(18_000, 18_024, 2))
        assert opens_of(DAYS.resample("72h", like=like)) == list(range(18_000, 18_024, 3))
        assert opens_of(DAYS.resample("4d", like=like)) == list(range(18_000, 18_024, 4))
        # 1970-01-05 was a Monday.
        assert {day % 7 for day in opens_of(DAYS.resample("1w", like=like))} == {4}
        assert {day % 21 for day in opens_of(DAYS.resample("3w", like=like))} == {4}


def test_across_a_change_of_the_phase_a_bar_has_the_days_of_its_slot() -> None:
    changed = three_days("ETHUSDT", 18_000, 18_003, 18_006, 18_008, 18_011)
    bars = DAYS.resample("3d", like=changed)
    assert opens_of(bars) == [18_000, 18_003, 18_006, 18_008, 18_011, 18_014, 18_017, 18_020, 18_023]
    assert bars.source_count.tolist() == [3, 3, 2, 3, 3, 3, 3, 3, 1]
    assert bars.complete.tolist() == [True] * 8 + [False]
    pairs = changed.resample("6d")
    assert pairs.source_count.tolist() == [2, 2, 1]
    assert pairs.complete.tolist() == [True, True, False]


def test_what_has_no_days_of_3d_bars_is_refused_as_a_model() -> None:
    with pytest.raises(IdentityError, match=r"^like= has 1d bars: expected 3d bars, or bars made to a multiple of"):
        DAYS.resample("3d", like=DAYS)
    with pytest.raises(IdentityError, match=r"^like= has 2d bars"):
        DAYS.resample("3d", like=DAYS.resample("2d"))
    with pytest.raises(IdentityError, match=r"^like= is of type str"):
        DAYS.resample("3d", like="ETHUSDT")  # type: ignore[arg-type]
    with pytest.raises(IdentityError, match=r"^like= has no bar that opens at midnight"):
        DAYS.resample("3d", like=three_days("ETHUSDT"))
    with pytest.raises(IdentityError, match=r"which open on other days; read 1d bars$"):
        OTHER.resample("6d", like=three_days("XRPUSDT", 18_000))
    assert opens_of(OTHER.resample("3d", like=three_days("SOLUSDT", 18_010))) == [18_001, 18_004]


@pytest.mark.parametrize(
    ("source", "length"),
    [
        ("5m", "3m"),
        ("5m", "1m"),
        ("3m", "10m"),
        ("3d", "1w"),
        ("3d", "1mo"),
        ("3d", "4d"),
        ("3d", "72h"),
        ("3d", "3w"),
        ("1w", "21d"),
        ("1w", "1mo"),
        ("1mo", "1w"),
        ("1mo", "31d"),
    ],
)
def test_a_length_that_is_no_multiple_of_the_source_interval_is_refused(source: str, length: str) -> None:
    table = make_table(SeriesKey.of("BTCUSDT", source), [])
    with pytest.raises(IdentityError, match=f"^{length} bars cannot be made of {source} bars: "):
        klines_of(table, Span(0, DAY_MS)).resample(length)


@pytest.mark.parametrize("length", ["", "h", "0h", "1.5h", "-1h", "1y", "1H", " 1h", 60, None])
def test_a_value_that_is_no_length_is_refused(length: Any) -> None:
    with pytest.raises(IdentityError, match="is no length of a bar: expected"):
        klines_of(make_table(BTCUSDT_1M, [0]), Span(0, DAY_MS)).resample(length)


def test_no_bars_give_no_bars() -> None:
    bars = klines_of(make_table(BTCUSDT_1M, []), Span(0, DAY_MS)).resample("1h")
    assert len(bars) == len(bars.complete) == len(bars.close) == 0
    assert bars.close.dtype == np.float64


def test_the_result_is_read_only_and_has_a_repr() -> None:
    bars = klines_of(make_table(BTCUSDT_1M, [0, HOUR_MS]), Span(0, DAY_MS)).resample("1h")
    assert not any(
        column.flags.writeable for column in [*bars.as_dict().values(), bars.source_count, bars.complete]
    )
    assert repr(bars) == (
        "<ResampledKlines spot/klines/BTCUSDT/1m to 1h 1970-01-01..1970-01-02: 2 bars, 2 incomplete>"
    )
    assert bars["close"] is bars.close
    assert bars.column_names == fields_of(BTCUSDT_1M)
    with pytest.raises(ColumnError, match="has no column 'base_volume': expected one of open_time"):
        bars["base_volume"]
    with pytest.raises(AttributeError, match="has no attribute 'base_volume'"):
        _ = bars.base_volume


def test_bars_read_from_a_cache_resample_across_segments(tmp_path: Path) -> None:
    store = SeriesStore(CacheFolder(tmp_path), BTCUSDT_1M)
    table = regular_table(BTCUSDT_1M, Span(0, 2 * DAY_MS))
    for day in range(2):
        store.put(table.rows(day * 1440, (day + 1) * 1440), Span(day * DAY_MS, (day + 1) * DAY_MS))
    with open_cache(tmp_path) as cache:
        klines = cache.read("BTCUSDT", "1m", start="1970-01-01", end="1970-01-03")
    whole = klines_of(table, Span(0, 2 * DAY_MS)).resample("7h")
    for name, column in klines.resample("7h").as_dict().items():
        assert column.tobytes() == whole[name].tobytes()


# --- Against the exchange ----------------------------------------------------------------------------------


def read_archives(shared_data: Path, symbol: str, interval: str) -> KlineTable:
    root = shared_data / "vision"
    folder = root / "data" / "spot" / "daily" / "klines" / symbol / interval
    tables = []
    for path in sorted(folder.glob("*-2023-*.zip")):
        name = ArchiveName.of_path(path.relative_to(root).as_posix())
        assert name is not None
        tables.append(decode_archive(path.read_bytes(), expected_of(name)).table)
    columns = {name: np.concatenate([table.columns[name] for table in tables]) for name in tables[0].columns}
    return KlineTable(tables[0].series, columns, {})


def published_hours(shared_data: Path, symbol: str) -> tuple[ResampledKlines, KlineTable, Times]:
    """Hours made of the published minutes, the published hours, and the rows of the former in the latter."""
    span = Span(ms(2023, 1, 1), ms(2024, 1, 1))
    made = klines_of(read_archives(shared_data, symbol, "1m"), span).resample("1h")
    published = read_archives(shared_data, symbol, "1h")
    rows = published.open_time.searchsorted(made.open_time)
    assert (published.open_time[rows] == made.open_time).all()
    return made, published, rows


# 2023-03-24: no trading from 12:39:41.646 to 14:00. The bar of 13:00 was never published, that of 12:00 is short.
OUTAGE = ms(2023, 3, 24, 12)
# The minute of 16:59 is missing in the archive of minutes; the published hour includes its trades.
SOLUSDT_CUT = ms(2023, 2, 14, 16)


@pytest.mark.parametrize(
    ("symbol", "hour_count", "incomplete", "wrong"),
    [("BTCUSDT", 365 * 24 - 1, [OUTAGE], []), ("SOLUSDT", 59 * 24 - 1, [SOLUSDT_CUT, OUTAGE], [SOLUSDT_CUT])],
)
def test_hours_made_of_real_minutes_are_the_published_hours(
    shared_data: Path, symbol: str, hour_count: int, incomplete: list[int], wrong: list[int]
) -> None:
    made, published, rows = published_hours(shared_data, symbol)
    assert len(made) == hour_count
    assert made.open_time[~made.complete].tolist() == incomplete
    assert OUTAGE + HOUR_MS not in made.open_time
    is_right = ~np.isin(made.open_time, wrong)
    for name in ("open_time", "open", "high", "low", "close", "close_time", "count"):
        differing = made.open_time[made[name] != published.columns[name][rows]]
        assert set(differing.tolist()) <= set(wrong), name
    for name in FLOAT_SUMS:
        found, expected = made[name][is_right], published.columns[name][rows][is_right]
        # A double is exact to eight digits after the decimal point if its multiple of 1e-8 is below 2**53.
        is_exact = np.abs(expected) * 10**8 < 2**53
        assert (found == expected)[is_exact].all(), name
        assert (np.abs(found - expected) <= np.spacing(expected)).all(), name


# --- Bars that traded --------------------------------------------------------------------------------------


@settings(max_examples=60)
@given(st.data(), st.lists(st.tuples(st.sampled_from([0.0, 0.5]), st.sampled_from([0, 2])), max_size=40))
def test_the_source_bars_that_traded_are_counted(data: st.DataObject, bars: list[tuple[float, int]]) -> None:
    step = data.draw(st.sampled_from([MINUTE_MS, 7 * MINUTE_MS, HOUR_MS]))
    opens = [number * step for number in range(len(bars))]
    table = make_table(BTCUSDT_1M, opens, volume=[v for v, _ in bars] or 0, count=[n for _, n in bars] or 0)
    klines = klines_of(table, Span(0, 41 * step))
    hours = klines.resample("1h")
    expected: dict[int, int] = {}
    for open_ms, traded in zip(opens, klines.traded.tolist(), strict=True):
        hour_ms = open_ms // HOUR_MS * HOUR_MS
        expected[hour_ms] = expected.get(hour_ms, 0) + traded
    assert dict(zip(hours.open_time.tolist(), hours.traded_count.tolist(), strict=True)) == expected
    assert hours.traded_count.dtype == np.int64
    assert not len(bars) or not hours.traded_count.flags.writeable


def test_sampled_prices_count_no_trades() -> None:
    series = SeriesKey.of("BTCUSDT", "1m", market="um", kind="markPriceKlines")
    hours = klines_of(make_table(series, [0, MINUTE_MS]), Span(0, HOUR_MS)).resample("1h")
    assert hours.source_count.tolist() == [2]
    with pytest.raises(ColumnError, match="has no trades"):
        _ = hours.traded_count

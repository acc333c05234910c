"""Rows become columns in milliseconds, in order, each open time once, and every change to them is reported."""

from __future__ import annotations

import random
import tracemalloc
import zipfile
from array import array
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ckvd.acquisition.ingest import expected_of
from ckvd.concurrency.stopping import stopped_by
from ckvd.decode.decode import DecodedRows, Expected, decode_archive, decode_rows
from ckvd.decode.rows import parse_rows
from ckvd.errors import ArchiveError
from ckvd.model.calendar import Period
from ckvd.model.grid import Grid
from ckvd.model.market import SeriesKey
from ckvd.model.schema import COLUMN_DTYPES, FIELD_COUNT
from ckvd.model.table import CLOSE_TIME_US, OPEN_TIME_US, BarFlag, Decimals, bar_flags, fields_of
from ckvd.model.timespan import Span, format_time
from ckvd.utils.config import TEXT_BLOCK_NBYTES
from ckvd.vision.name import ArchiveName
from support.archives import zip_text
from support.places import IS_WHOLE, sample_of

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

SERIES = SeriesKey.of("BTCUSDT", "1m")
NAME = ArchiveName(SERIES, Period.of_label("2025-01-01"))
START_MS = NAME.period.start_ms
DAY = NAME.period.span


def row(minute: int, *, close: str = "1.5", unit: int = 1, open_us: int = 0, close_us: int = 999) -> str:
    """A bar of a minute of the day, in milliseconds (unit 1) or microseconds (unit 1000)."""
    opens, closes = START_MS + 60_000 * minute, START_MS + 60_000 * minute + 59_999
    if unit == 1000:
        opens, closes = opens * 1000 + open_us, closes * 1000 + close_us
    return f"{opens},1.0,2.0,0.5,{close},3,{closes},4.5,7,1,1.5,0\n"


def decode(rows: Iterable[str], name: ArchiveName = NAME) -> DecodedRows:
    return decode_archive(zip_text(name.file_name, rows), expected_of(name))


def minutes_of(decoded: DecodedRows) -> list[int]:
    minutes: list[int] = ((decoded.table.open_time - START_MS) // 60_000).tolist()
    return minutes


def refusal(rows: Iterable[str], name: ArchiveName = NAME) -> ArchiveError:
    with pytest.raises(ArchiveError) as caught:
        decode(rows, name)
    assert caught.value.archive == name.file_name
    return caught.value


def test_columns_have_the_names_and_types_of_the_series() -> None:
    decoded = decode([row(0), row(1)])
    assert tuple(decoded.table.columns) == fields_of(SERIES)
    assert all(cells.dtype == COLUMN_DTYPES[name] for name, cells in decoded.table.columns.items())
    assert decoded.table.columns["quote_volume"].tolist() == [4.5, 4.5]
    assert decoded.table.decimals["close"] == Decimals(1, 1)
    assert decoded.table.decimals["volume"] == Decimals(0, 0)
    assert (decoded.row_count, decoded.duplicate_row_count, decoded.unordered_row_count) == (2, 0, 0)
    assert (decoded.conflict_open_times.tolist(), decoded.has_header, decoded.time_unit) == ([], False, "ms")


def test_coin_margined_klines_count_contracts_and_base_asset() -> None:
    name = ArchiveName(SeriesKey.of("BTCUSD_PERP", "1m", market="cm"), NAME.period)
    header = ",".join(fields_of(SERIES)) + "\n"
    decoded = decode([header, row(0)], name)
    assert decoded.has_header
    assert decoded.table.columns["base_volume"].tolist() == [4.5]
    assert decoded.table.columns["taker_buy_base_volume"].tolist() == [1.5]
    assert "quote_volume" not in decoded.table.columns


def test_an_archive_without_rows_gives_an_empty_table() -> None:
    decoded = decode([])
    assert decoded.table.row_count == decoded.row_count == 0
    assert decoded.time_unit == "ms"


# --- Units -------------------------------------------------------------------------------------------------


def test_microseconds_become_milliseconds() -> None:
    decoded = decode([row(0, unit=1000), row(1, unit=1000)])
    assert decoded.time_unit == "us"
    assert minutes_of(decoded) == [0, 1]
    assert (decoded.table.columns["close_time"] - decoded.table.open_time).tolist() == [59_999, 59_999]
    assert OPEN_TIME_US not in decoded.table.columns
    assert CLOSE_TIME_US not in decoded.table.columns


def test_microseconds_that_milliseconds_cannot_hold_have_columns_of_their_own() -> None:
    decoded = decode([row(0, unit=1000), row(1, unit=1000, open_us=7, close_us=1)])
    assert decoded.table.columns[OPEN_TIME_US].tolist() == [0, 7]
    assert decoded.table.columns[CLOSE_TIME_US].tolist() == [999, 1]
    assert decoded.table.columns[OPEN_TIME_US].dtype == COLUMN_DTYPES[OPEN_TIME_US]
    assert minutes_of(decoded) == [0, 1]


def test_the_value_of_each_cell_tells_its_unit() -> None:
    decoded = decode([row(0), row(1, unit=1000, open_us=7), row(2)])
    assert decoded.time_unit == "mixed"
    assert minutes_of(decoded) == [0, 1, 2]
    assert decoded.table.columns[OPEN_TIME_US].tolist() == [0, 7, 0]
    assert CLOSE_TIME_US not in decoded.table.columns


def test_a_huge_negative_time_beside_microseconds_is_refused() -> None:
    """1000 times this number is the time of the first minute, but for a multiple of 2**64."""
    with pytest.raises(ArchiveError, match="open_time lies outside"):
        decode([row(0).replace(str(START_MS), str(START_MS - 2**61), 1), row(1, unit=1000)])


@given(st.lists(st.tuples(st.integers(0, 1439), st.booleans(), st.integers(0, 999), st.integers(0, 999))))
def test_no_microsecond_is_lost(bars: list[tuple[int, bool, int, int]]) -> None:
    bars = list({bar[0]: bar for bar in bars}.values())
    texts = [row(m, unit=1000 if is_us else 1, open_us=o, close_us=c) for m, is_us, o, c in bars]
    columns = decode(texts).table.columns
    expected_us = sorted(
        int(text.split(",")[0]) * (1 if is_us else 1000) for text, (_, is_us, _, _) in zip(texts, bars, strict=True)
    )
    assert (columns["open_time"] * 1000 + columns.get(OPEN_TIME_US, 0)).tolist() == expected_us


# --- Refused times -----------------------------------------------------------------------------------------


NO_TIMES = {
    "seconds": START_MS // 1000,
    "nanoseconds": START_MS * 10**6,
    "a lost digit": START_MS // 10,
    "before the exchange": 1_262_303_999_999,
    "after 2199": 7_258_118_400_000,
    "negative": -START_MS,
}


@pytest.mark.parametrize("found", NO_TIMES.values(), ids=NO_TIMES)
def test_an_open_time_that_is_no_time_of_a_bar_is_refused_with_its_line(found: int) -> None:
    """Nobody can tell which bar the row was: leaving it out might lose a bar."""
    header = ",".join(fields_of(SERIES)) + "\n"
    error = refusal([header, row(0), row(1), row(2).replace(f"{START_MS + 120_000}", f"{found}", 1), row(3)])
    assert error.row == 4
    assert error.reason.startswith(f"open_time lies outside {DAY}: expected a time within, found {found}")


# --- Rows of another period --------------------------------------------------------------------------------


@pytest.mark.parametrize("minutes", [[-1], [1440], [100_000], [-1, 1440]])
@pytest.mark.parametrize("unit", [1, 1000])
def test_rows_of_another_period_are_left_out_and_reported(minutes: list[int], unit: int) -> None:
    decoded = decode([*(row(minute, unit=unit) for minute in minutes), row(0, unit=unit), row(1, unit=unit)])
    assert minutes_of(decoded) == [0, 1]
    assert decoded.outside_open_times.tolist() == [START_MS + 60_000 * minute for minute in minutes]
    assert decoded.row_count == 2 + len(minutes)
    assert (decoded.duplicate_row_count, decoded.unordered_row_count) == (0, 0)


def test_rows_of_another_period_do_not_count_as_duplicates_or_out_of_order() -> None:
    decoded = decode([row(2), row(1440), row(1), row(1440), row(0), row(0)])
    assert minutes_of(decoded) == [0, 1, 2]
    assert decoded.outside_open_times.tolist() == [START_MS + 86_400_000] * 2
    assert (decoded.duplicate_row_count, decoded.unordered_row_count) == (1, 3)


def test_microseconds_of_the_rows_that_are_kept_stay_with_them() -> None:
    decoded = decode([row(-1, unit=1000, open_us=5), row(0, unit=1000, open_us=7), row(1, unit=1000)])
    assert decoded.table.columns[OPEN_TIME_US].tolist() == [7, 0]


@pytest.mark.parametrize(("inside", "outside"), [(0, 1), (1, 2), (0, 1440), (700, 740)])
def test_an_archive_of_mostly_other_rows_is_another_one_under_this_name(inside: int, outside: int) -> None:
    error = refusal([*map(row, range(inside)), *(row(1440 + minute) for minute in range(outside))])
    assert error.row is None
    assert error.reason == (
        f"expected bars that open in {DAY}, found {outside} of {inside + outside} that open outside, from "
        f"2025-01-02 to {format_time(START_MS + 60_000 * (1440 + outside - 1))}: "
        "these are the bars of another archive under this name"
    )


def test_an_archive_of_two_periods_keeps_its_own_half() -> None:
    decoded = decode([*map(row, range(1440)), *(row(1440 + minute) for minute in range(1440))])
    assert minutes_of(decoded) == list(range(1440))
    assert len(decoded.outside_open_times) == 1440


@given(st.lists(st.integers(-3, 1443), max_size=30))
def test_of_any_rows_those_inside_are_kept_unless_most_are_outside(minutes: list[int]) -> None:
    inside = {minute for minute in minutes if 0 <= minute < 1440}
    outside = [minute for minute in minutes if minute not in inside]
    if 2 * len(outside) > len(minutes):
        assert "another archive" in refusal(map(row, minutes)).reason
        return
    decoded = decode(map(row, minutes))
    assert minutes_of(decoded) == sorted(inside)
    assert ((decoded.outside_open_times - START_MS) // 60_000).tolist() == outside
    kept_count = decoded.table.row_count + decoded.duplicate_row_count + len(outside)
    assert decoded.row_count == kept_count == len(minutes)


# --- Bars of another interval, and impossible bars ---------------------------------------------------------


def test_an_archive_of_another_interval_is_refused_and_the_interval_named() -> None:
    name = ArchiveName(SeriesKey.of("BTCUSDT", "1h"), NAME.period)
    halves = [START_MS + 1_800_000 * number for number in range(48)]
    error = refusal((f"{ms},1,1,1,1,1,{ms + 1_799_999},1,1,1,1,0\n" for ms in halves), name)
    assert error.reason == "expected 1h bars, found 48 of 48 bars that are as long as 30m bars"


def test_rows_three_times_each_are_not_bars_of_another_interval() -> None:
    decoded = decode([row(minute) for minute in range(1440) for _ in range(3)])
    assert (decoded.table.row_count, decoded.duplicate_row_count) == (1440, 2880)


def test_impossible_bars_are_kept_and_their_times_reported() -> None:
    decoded = decode([row(1, close="2.5"), row(0), row(2, close="0.25")])
    assert minutes_of(decoded) == [0, 1, 2]
    assert decoded.impossible_open_times.tolist() == [START_MS + 60_000, START_MS + 120_000]


@pytest.mark.parametrize("close", ["-1", "7258118400000", "99999999999999", "9223372036854775807"])
def test_a_close_time_in_an_implausible_year_is_refused(close: str) -> None:
    text = row(0).replace(f"{START_MS + 59_999}", close)
    assert refusal([text]).reason.startswith("close_time lies outside 1970-01-01..2200-01-01: ")


@pytest.mark.parametrize("close_ms", [START_MS - 1, START_MS, START_MS + 3_600_000])
def test_an_odd_close_time_is_kept(close_ms: int) -> None:
    decoded = decode([row(0).replace(f"{START_MS + 59_999}", f"{close_ms}")])
    assert decoded.table.columns["close_time"].tolist() == [close_ms]


def test_a_bar_off_the_grid_is_kept() -> None:
    decoded = decode([row(0), row(1).replace(f"{START_MS + 60_000}", f"{START_MS + 74_789}", 1)])
    assert decoded.table.open_time.tolist() == [START_MS, START_MS + 74_789]


# --- Duplicates, conflicts and order -----------------------------------------------------------------------


def test_equal_rows_are_merged_and_counted() -> None:
    decoded = decode([row(0), row(1), row(1), row(1), row(2)])
    assert minutes_of(decoded) == [0, 1, 2]
    assert (decoded.row_count, decoded.duplicate_row_count) == (5, 2)
    assert decoded.conflict_open_times.tolist() == []


@pytest.mark.parametrize(("interval", "label"), [("1m", "2025-01-01"), ("1h", "2025-01-01"), ("1mo", "2025-01")])
def test_an_archive_may_have_each_row_four_times_and_no_more(interval: str, label: str) -> None:
    # The widest of all real rows has 172 bytes; these have more digits than any field ever had.
    name = ArchiveName(SeriesKey.of("BTCUSDT", interval), Period.of_label(label))
    wide = "1" * 30
    opens = Grid.of(name.series.interval).opens(name.period.span).tolist()
    rows = [f"{at},{','.join([wide] * 5)},{at},{wide},7,{wide},{wide},0\n" for at in opens]
    assert decode(rows * 4, name).table.row_count == len(opens)
    bomb = zip_text(name.file_name, rows * 40)
    tracemalloc.start()
    try:
        with pytest.raises(ArchiveError, match="bytes, its period has room for"):
            decode_archive(bomb, expected_of(name))
        assert tracemalloc.get_traced_memory()[1] < 200_000
    finally:
        tracemalloc.stop()


def test_rows_that_differ_only_in_how_a_number_is_written_are_duplicates() -> None:
    decoded = decode([row(0), row(0, close="1.50"), row(0, unit=1000)])
    assert (decoded.duplicate_row_count, decoded.conflict_open_times.tolist()) == (2, [])


@pytest.mark.parametrize(("first", "second"), [("1.5", "1.6"), ("0", "-0"), ("-0.0", "0.0")])
def test_of_different_rows_with_one_open_time_the_last_wins_and_the_time_is_reported(
    first: str, second: str
) -> None:
    decoded = decode([row(0), row(1, close=first), row(1, close=second), row(2)])
    assert minutes_of(decoded) == [0, 1, 2]
    assert str(decoded.table.columns["close"][1]) == str(float(second))
    assert decoded.conflict_open_times.tolist() == [START_MS + 60_000]
    assert decoded.duplicate_row_count == 0


def test_a_row_that_is_repeated_after_a_conflict_is_a_duplicate_and_wins() -> None:
    decoded = decode([row(0, close="1.5"), row(0, close="1.6"), row(0, close="1.5")])
    assert decoded.table.columns["close"].tolist() == [1.5]
    assert decoded.duplicate_row_count == 1
    assert decoded.conflict_open_times.tolist() == [START_MS]


def test_rows_of_the_same_millisecond_but_other_microseconds_conflict() -> None:
    decoded = decode([row(0, unit=1000, open_us=1), row(0, unit=1000, open_us=2)])
    assert decoded.table.columns[OPEN_TIME_US].tolist() == [2]
    assert decoded.conflict_open_times.tolist() == [START_MS]


def test_rows_out_of_order_are_sorted_and_counted() -> None:
    decoded = decode([row(2), row(0), row(1), row(3)])
    assert minutes_of(decoded) == [0, 1, 2, 3]
    assert decoded.unordered_row_count == 2


@given(st.lists(st.tuples(st.integers(0, 5), st.sampled_from(["1.5", "1.6", "0.0", "-0.0"])), max_size=12))
def test_of_rows_in_any_order_the_last_one_of_each_time_is_kept(bars: list[tuple[int, str]]) -> None:
    decoded = decode([row(minute, close=close) for minute, close in bars])
    last = dict(sorted(dict(bars).items()))
    assert minutes_of(decoded) == list(last)
    assert [str(value) for value in decoded.table.columns["close"].tolist()] == list(last.values())
    assert decoded.row_count == len(bars)
    assert decoded.duplicate_row_count == len(bars) - len(set(bars))
    conflicts = [minute for minute in last if len({close for m, close in bars if m == minute}) > 1]
    assert ((decoded.conflict_open_times - START_MS) // 60_000).tolist() == conflicts
    latest, late_count = -1, 0
    for minute, _ in bars:
        late_count += minute < latest
        latest = max(minute, latest)
    assert decoded.unordered_row_count == late_count


def test_shuffled_and_duplicated_rows_give_the_same_table() -> None:
    texts = [row(minute, close=f"{minute}.25") for minute in range(1440)]
    shuffled = texts * 2
    random.Random(0).shuffle(shuffled)
    ordered, decoded = decode(texts), decode(shuffled)
    assert decoded.duplicate_row_count == 1440
    for name, cells in ordered.table.columns.items():
        assert cells.tobytes() == decoded.table.columns[name].tobytes()


def test_rows_of_any_source_are_decoded_alike() -> None:
    rows = parse_rows("".join([row(1), row(0)]).encode(), "GET /klines")
    decoded = decode_rows(rows, Expected(SERIES, Span(START_MS, START_MS + 120_000), "GET /klines"))
    assert minutes_of(decoded) == [0, 1]


def test_rows_that_were_asked_for_by_their_times_are_all_within_or_refused() -> None:
    rows = parse_rows("".join([row(1), row(0), row(2)]).encode(), "GET /klines")
    with pytest.raises(ArchiveError, match=r"^GET /klines, line 3: open_time lies outside"):
        decode_rows(rows, Expected(SERIES, Span(START_MS, START_MS + 120_000), "GET /klines", is_strict=True))


# --- Real archives -----------------------------------------------------------------------------------------


def real_archives(shared_data: Path) -> list[tuple[ArchiveName, Path]]:
    root = shared_data / "vision"
    found = [(ArchiveName.of_path(path.relative_to(root).as_posix()), path) for path in sorted(root.rglob("*.zip"))]
    return [(name, path) for name, path in found if name is not None]


def text_columns(path: Path) -> tuple[list[list[str]], bool]:
    """The cells of an archive, field by field, read with `zipfile` and `split`, and whether it has a header."""
    with zipfile.ZipFile(path) as archive:
        text = archive.read(archive.namelist()[0]).decode("ascii")
    # One list of all cells: making many small lists would take most of the time.
    cells = text.removesuffix("\n").replace("\n", ",").split(",")
    has_header = cells[0] == "open_time"
    assert len(cells) == FIELD_COUNT * text.count("\n")
    return [cells[FIELD_COUNT * has_header + field :: FIELD_COUNT] for field in range(FIELD_COUNT)], has_header


@pytest.mark.long
def test_every_cell_of_every_real_archive_is_what_int_and_float_say(shared_data: Path) -> None:
    archives = real_archives(shared_data)
    assert len(archives) == 1821
    row_count = 0
    for name, path in sample_of(archives):
        decoded = decode_archive(path.read_bytes(), expected_of(name))
        texts, has_header = text_columns(path)
        assert decoded.has_header == has_header
        assert decoded.row_count == decoded.table.row_count == len(texts[0])
        assert len(decoded.table.columns) == len(texts) == FIELD_COUNT
        for field, cells in zip(texts, decoded.table.columns.items(), strict=True):
            column, found = cells
            # A month in microseconds is small enough to be divided number by number.
            unit = 1000 if decoded.time_unit == "us" and column.endswith("_time") else 1
            integers = map(int, field) if unit == 1 else (int(text) // unit for text in field)
            is_float = found.dtype.kind == "f"
            expected = array("d", map(float, field)).tobytes() if is_float else array("q", integers).tobytes()
            assert found.tobytes() == expected, (path, column)
        row_count += decoded.row_count
    assert row_count == 1_440_184 or not IS_WHOLE


def test_the_known_oddities_of_hourly_bitcoin_archives_are_kept(shared_data: Path) -> None:
    months = {
        name.period.label: decode_archive(path.read_bytes(), expected_of(name))
        for name, path in real_archives(shared_data)
        if (name.series, name.period.cadence) == (SeriesKey.of("BTCUSDT", "1h"), "monthly")
    }
    flags = {
        label: bar_flags(
            month.table.open_time,
            month.table.columns["close_time"],
            month.table.columns["volume"],
            Grid.of(month.table.series.interval),
        )
        for label, month in months.items()
    }
    assert {label for label, month in months.items() if month.time_unit == "us"} == {
        f"2025-0{n}" for n in range(1, 6)
    }
    assert not any(month.has_header or month.unordered_row_count for month in months.values())
    off_grid = {label: int(np.count_nonzero(flag & BarFlag.OFF_GRID)) for label, flag in flags.items()}
    assert {label: count for label, count in off_grid.items() if count} == {"2018-02": 43}
    february = months["2018-02"].table.open_time[(flags["2018-02"] & BarFlag.OFF_GRID) > 0]
    assert (february[0], february[-1]) == (1518168494789, 1518319694789)
    assert flags["2018-02"][months["2018-02"].table.open_time == 1518319694789] & BarFlag.OVERLAPS_NEXT
    ignored = [label for label, month in months.items() if np.any(month.table.columns["ignore"])]
    assert ignored == ["2017-08", "2017-09", "2017-10", "2017-11", "2017-12"]
    assert months["2020-12"].table.row_count == 168  # it ends early


def test_headers_are_found_in_the_archives_that_have_one(shared_data: Path) -> None:
    wanted = {
        "BTCUSDT-1m-2022-05-05.zip": False,
        "BTCUSDT-1m-2020-02.zip": False,
        "BTCUSDT-5m-2025-01.zip": True,
        "BTCUSD_PERP-1h-2024-01-01.zip": True,
        "FILUSDT-1m-2023-02.zip": True,
    }
    found = {
        path.name: decode_archive(path.read_bytes(), expected_of(name)).has_header
        for name, path in real_archives(shared_data)
        if path.name in wanted and name.series.market != "spot"
    }
    assert found == wanted


def with_wrong_crc(content: bytes) -> bytes:
    """The same ZIP with another CRC in its directory."""
    changed = bytearray(content)
    changed[content.index(b"PK\x01\x02") + 16] ^= 1
    return bytes(changed)


@pytest.mark.parametrize("broken_row", [0, 700, 1439])
def test_that_a_zip_is_damaged_is_said_before_what_is_wrong_in_a_row(broken_row: int) -> None:
    rows = [row(minute) if minute != broken_row else "x\n" for minute in range(1440)]
    assert refusal(rows).row == broken_row + 1
    with pytest.raises(ArchiveError, match="CRC") as caught:
        decode_archive(with_wrong_crc(zip_text(NAME.file_name, rows)), expected_of(NAME))
    assert caught.value.row is None


def test_decoding_can_be_stopped_after_each_block() -> None:
    month = ArchiveName(SeriesKey.of("BTCUSDT", "1s"), Period.of_label("2025-01"))
    content = zip_text(month.file_name, (row(minute) for minute in range(120_000)))
    checks = 0

    def check() -> None:
        nonlocal checks
        checks += 1

    with stopped_by(check), pytest.raises(ArchiveError, match="these are the bars of another archive"):
        decode_archive(content, expected_of(month))
    assert checks >= 120_000 * len(row(0)) // TEXT_BLOCK_NBYTES


def test_the_outage_of_march_2023_is_a_gap_and_an_odd_close(shared_data: Path) -> None:
    (path,) = (shared_data / "vision").rglob("BTCUSDT-1m-2023-03-24.zip")
    name = ArchiveName(SERIES, Period.of_label("2023-03-24"))
    table = decode_archive(path.read_bytes(), expected_of(name)).table
    assert table.row_count == 1440 - 80
    steps = np.diff(table.open_time)
    assert steps[steps != 60_000].tolist() == [81 * 60_000]
    flags = bar_flags(
        table.open_time, table.columns["close_time"], table.columns["volume"], Grid.of(SERIES.interval)
    )
    assert np.count_nonzero(flags & BarFlag.ODD_CLOSE) == 1
    assert np.count_nonzero(flags & BarFlag.ZERO_VOLUME) >= 72

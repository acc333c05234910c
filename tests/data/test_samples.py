"""The sample mirror holds the formats, and the faults, that it is there for.

Archives are read here with zipfile, csv and float alone: the samples stand apart from the code that they test.
"""

from __future__ import annotations

import csv
import datetime as dt
import hashlib
import io
import re
import zipfile
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import pytest

from support.places import DATA

MIRROR = DATA / "vision"
ARCHIVES = sorted(path.relative_to(MIRROR).as_posix() for path in MIRROR.rglob("*.zip"))
SPOT = {path for path in ARCHIVES if "/spot/" in path}
TRADED = {path for path in ARCHIVES if "/klines/" in path}
LENGTH_MS = {"1s": 1_000, "1m": 60_000, "5m": 300_000, "1h": 3_600_000, "1d": 86_400_000}

# They concern files, and nothing that runs on an interpreter.
pytestmark = pytest.mark.long

BARS = [path for path in ARCHIVES if "lines/" in path]
every_archive = pytest.mark.parametrize("path", ARCHIVES)
every_archive_of_bars = pytest.mark.parametrize("path", BARS)


class Row(NamedTuple):
    """One line, times in milliseconds."""

    open_ms: float
    open: float
    high: float
    low: float
    close: float
    volume: float
    close_ms: float
    quote: float
    trades: float
    taker: float
    taker_quote: float
    ignore: float


class Content(NamedTuple):
    """One archive."""

    header: list[str]
    cells: list[list[str]]
    rows: list[Row]

    def at(self, moment: str) -> Row:
        return next(row for row in self.rows if row.open_ms == ms(moment))


def ms(moment: str) -> int:
    return int(dt.datetime.fromisoformat(moment).replace(tzinfo=dt.UTC).timestamp() * 1_000)


def text(path: str) -> str:
    with zipfile.ZipFile(MIRROR / path) as zipped:
        return zipped.read(zipped.namelist()[0]).decode("ascii")


@cache
def content(path: str) -> Content:
    lines = list(csv.reader(io.StringIO(text(path))))
    header = [] if lines[0][0].isdigit() else lines.pop(0)
    rows = []
    for cells in lines:
        row = Row(*map(float, cells))
        if row.open_ms > 1e14:  # microseconds
            row = row._replace(open_ms=row.open_ms // 1_000, close_ms=row.close_ms // 1_000)
        rows.append(row)
    return Content(header, lines, rows)


def of(series: str, period: str) -> Content:
    """The archive of a period: `of("spot/daily/klines/BTCUSDT/1m", "2023-03-24")`."""
    symbol, interval = series.split("/")[-2:]
    return content(f"data/{series}/{symbol}-{interval}-{period}.zip")


@every_archive
def test_an_archive_has_the_structure_of_the_published_ones(path: str) -> None:
    with zipfile.ZipFile(MIRROR / path) as zipped:
        (member,) = zipped.infolist()
        assert zipped.testzip() is None
    assert member.filename == Path(path).with_suffix(".csv").name
    assert member.compress_type == zipfile.ZIP_DEFLATED
    assert member.flag_bits == (0 if path.isascii() else 0x800)
    assert "\r" not in text(path)
    assert text(path).endswith("\n")


@every_archive
def test_a_checksum_is_digits_two_spaces_and_the_name(path: str) -> None:
    archive = MIRROR / path
    digest = hashlib.sha256(archive.read_bytes()).hexdigest()
    assert (MIRROR / f"{path}.CHECKSUM").read_bytes() == f"{digest}  {archive.name}".encode()


@every_archive_of_bars
def test_rows_are_sane(path: str) -> None:
    for row in content(path).rows:
        assert row.low <= min(row.open, row.close)
        assert row.high >= max(row.open, row.close)
        assert row.open_ms < row.close_ms
        assert 0 <= row.taker <= row.volume
        assert 0 <= row.taker_quote <= row.quote
        if path in TRADED:
            assert row.low > 0
            assert (row.trades == 0) == (row.volume == 0)


@every_archive_of_bars
def test_turnover_lies_between_volume_at_the_lowest_and_at_the_highest_price(path: str) -> None:
    for row in content(path).rows:
        worths = sorted(row.volume * price for price in (row.low, row.high))
        if "/cm/" in path and row.volume:
            worths = [row.volume * 100 / row.high, row.volume * 100 / row.low]  # a contract is 100 dollars
        # A cell is rounded down to its last decimal, of which there are four at least.
        assert worths[0] * (1 - 1e-12) - 1e-4 <= row.quote <= worths[1] * (1 + 1e-12)


@every_archive_of_bars
def test_bars_open_in_order_within_the_period_of_their_archive(path: str) -> None:
    year, month, *day = map(int, Path(path).stem.split("-")[2:])
    opens = [row.open_ms for row in content(path).rows]
    assert opens == sorted(opens)
    for open_ms in (opens[0], opens[-1]):
        date = dt.datetime.fromtimestamp(open_ms / 1_000, dt.UTC)
        assert [date.year, date.month, date.day][: 2 + len(day)] == [year, month, *day]


@every_archive_of_bars
def test_times_are_microseconds_in_spot_from_2025_and_milliseconds_elsewhere(path: str) -> None:
    micro = path in SPOT and Path(path).stem.split("-")[2] >= "2025"
    for cells in content(path).cells:
        assert len(cells[0]) == len(cells[6]) == (16 if micro else 13)
        assert not micro or (cells[0].endswith("000000") and cells[6].endswith("999999"))


@pytest.mark.parametrize("path", sorted(SPOT))
def test_spot_writes_eight_decimals_and_no_header(path: str) -> None:
    assert content(path).header == []
    for cells in content(path).cells:
        assert all(re.fullmatch(r"\d+\.\d{8}", cells[column]) for column in (1, 2, 3, 4, 5, 7, 9, 10))


def test_the_mirror_is_small() -> None:
    assert sum(path.stat().st_size for path in DATA.rglob("*") if path.is_file()) < 4_000_000


def test_the_readme_names_every_series_and_only_those() -> None:
    series = {path.removeprefix("data/").rpartition("/")[0] for path in ARCHIVES}
    assert set(re.findall(r"^\| `([^`]+)`", (DATA / "README.md").read_text("utf-8"), re.MULTILINE)) == series


def test_the_outage_is_72_flat_bars_an_odd_close_and_80_bars_missing() -> None:
    day = of("spot/daily/klines/BTCUSDT/1m", "2023-03-24")
    quiet = [row for row in day.rows if row.volume == 0]
    assert len(quiet) == 72
    assert all(row.open == row.high == row.low == row.close == quiet[0].close for row in quiet)
    assert quiet[0].open_ms == ms("2023-03-24T11:28")
    assert [row for row in day.rows if row.close_ms - row.open_ms != 59_999] == [quiet[-1]]
    assert quiet[-1].close_ms == ms("2023-03-24T12:39:41.646")
    steps = {later.open_ms: later.open_ms - row.open_ms for row, later in zip(day.rows, day.rows[1:], strict=False)}
    assert {moment: step for moment, step in steps.items() if step != 60_000} == {
        ms("2023-03-24T14:00"): 81 * 60_000
    }
    assert len(day.rows) == 1_440 - 80


@pytest.mark.parametrize(
    ("series", "period", "bars"),
    [
        ("spot/daily/klines/BTCUSDT/1m", "2023-03-23", 1_440),
        ("spot/daily/klines/BTCUSDT/1m", "2023-03-25", 1_440),
        ("spot/daily/klines/BTCUSDT/1m", "2024-12-31", 1_440),
        ("spot/daily/klines/BTCUSDT/1m", "2025-01-01", 1_440),
        ("spot/daily/klines/BNBBTC/1s", "2023-01-01", 86_400),
        ("spot/monthly/klines/BTCUSDT/1h", "2025-01", 744),
        ("futures/um/monthly/klines/BTCUSDT/1h", "2025-01", 744),
    ],
)
def test_a_whole_period_has_every_bar_once(series: str, period: str, bars: int) -> None:
    rows = of(series, period).rows
    step_ms = LENGTH_MS[series.rpartition("/")[2]]
    assert [row.open_ms for row in rows] == [rows[0].open_ms + step_ms * number for number in range(bars)]
    assert all(row.close_ms == row.open_ms + step_ms - 1 for row in rows)


def test_hours_are_the_sums_of_their_minutes() -> None:
    month = of("spot/monthly/klines/BTCUSDT/1h", "2023-03")
    minutes = of("spot/daily/klines/BTCUSDT/1m", "2023-03-24").rows
    for hour in of("spot/daily/klines/BTCUSDT/1h", "2023-03-24").rows:
        part = [row for row in minutes if hour.open_ms <= row.open_ms < hour.open_ms + LENGTH_MS["1h"]]
        assert hour in month.rows
        assert (hour.open, hour.close, hour.close_ms) == (part[0].open, part[-1].close, part[-1].close_ms)
        assert (hour.high, hour.low) == (max(row.high for row in part), min(row.low for row in part))
        assert hour.trades == sum(row.trades for row in part)
        assert hour.quote == pytest.approx(sum(row.quote for row in part), rel=1e-12)


def test_the_hour_without_trading_is_missing_from_the_month() -> None:
    month = of("spot/monthly/klines/BTCUSDT/1h", "2023-03")
    assert len(month.rows) == 743
    assert ms("2023-03-24T13:00") not in {row.open_ms for row in month.rows}
    assert month.at("2023-03-24T12:00").close_ms == ms("2023-03-24T12:39:41.646")


def test_nothing_but_the_unit_changes_with_the_year() -> None:
    old = of("spot/daily/klines/BTCUSDT/1m", "2024-12-31")
    new = of("spot/daily/klines/BTCUSDT/1m", "2025-01-01")
    assert old.rows[-1].close == new.rows[0].open
    assert old.rows[-1].close_ms + 1 == new.rows[0].open_ms


@pytest.mark.parametrize(("period", "days"), [("2023-03", 31), ("2024-12", 31), ("2025-01", 31)])
def test_a_month_is_one_bar_of_its_hours(period: str, days: int) -> None:
    (bar,) = of("spot/monthly/klines/BTCUSDT/1mo", period).rows
    hours = of("spot/monthly/klines/BTCUSDT/1h", period).rows
    assert bar.close_ms - bar.open_ms == days * LENGTH_MS["1d"] - 1
    assert (bar.open, bar.close, bar.high) == (hours[0].open, hours[-1].close, max(row.high for row in hours))


def test_seconds_are_mostly_flat_and_of_zero_volume() -> None:
    rows = of("spot/daily/klines/BNBBTC/1s", "2023-01-01").rows
    still = [row for row in rows if row.volume == 0]
    assert 0.9 < len(still) / len(rows) < 1
    assert all(row.high == row.low for row in still)


def test_a_month_lacks_a_day_that_its_daily_archive_has() -> None:
    month = of("spot/monthly/klines/ETHUSDT/1h", "2023-02").rows
    day = of("spot/daily/klines/ETHUSDT/1h", "2023-02-14").rows
    opens = {row.open_ms for row in month}
    assert not opens & {row.open_ms for row in day}
    assert len(opens | {row.open_ms for row in day}) == 28 * 24


def test_bars_off_the_grid_open_late_and_the_last_overlaps_the_next() -> None:
    rows = of("spot/monthly/klines/ETHBTC/1h", "2017-12").rows
    late = [number for number, row in enumerate(rows) if row.open_ms % LENGTH_MS["1h"]]
    assert len(late) == 321
    assert {rows[number].open_ms % LENGTH_MS["1h"] for number in late} == {14_789}
    assert rows[late[-1]].close_ms > rows[late[-1] + 1].open_ms


def test_early_archives_have_numbers_to_ignore() -> None:
    rows = of("spot/monthly/klines/ETHBTC/1h", "2017-12").rows
    assert all((row.ignore != 0) == (row.open_ms < ms("2017-12-18")) for row in rows)


def test_each_row_of_a_month_stands_three_times() -> None:
    cells = of("spot/monthly/klines/XRPUSDT/1d", "2021-01").cells
    assert len(cells) == 3 * 31
    assert cells[0::3] == cells[1::3] == cells[2::3]
    assert len({row[0] for row in cells}) == 31


def test_a_month_may_be_named_without_its_zero() -> None:
    assert len(of("spot/monthly/klines/ADABKRW/1d", "2020-8").rows) == 31


def test_a_name_may_be_beyond_ascii_and_a_first_day_begins_late() -> None:
    rows = of("spot/daily/klines/币安人生USDT/5m", "2025-10-20").rows
    assert rows[0].open_ms == ms("2025-10-20T08:00")
    assert len(rows) == 16 * 12


@pytest.mark.parametrize(
    ("series", "period", "header"),
    [
        ("futures/um/daily/klines/BTCUSDT/5m", "2022-04-30", False),
        ("futures/um/monthly/klines/BTCUSDT/1h", "2024-12", True),
        ("futures/um/monthly/markPriceKlines/BTCUSDT/1h", "2025-01", True),
        ("futures/cm/daily/klines/BTCUSD_200925/1h", "2020-09-01", False),
        ("futures/cm/daily/klines/BTCUSD_PERP/1h", "2024-01-02", True),
    ],
)
def test_futures_have_a_header_or_none(series: str, period: str, header: bool) -> None:
    names = "open_time,open,high,low,close,volume,close_time,quote_volume,count,"
    names += "taker_buy_volume,taker_buy_quote_volume,ignore"
    assert of(series, period).header == (names.split(",") if header else [])


def test_an_outage_of_futures_is_flat_bars_with_bare_zeros() -> None:
    archive = of("futures/um/monthly/klines/BTCUSDT/1h", "2025-01")
    quiet = [cells for cells in archive.cells if cells[8] == "0"]
    assert [int(cells[0]) for cells in quiet] == [ms("2025-01-29T01:00"), ms("2025-01-29T02:00")]
    assert all(cells[5] == cells[7] == cells[9] == cells[10] == "0" for cells in quiet)
    assert all(len(set(cells[1:5])) == 1 for cells in quiet)


@pytest.mark.parametrize("path", sorted(set(BARS) - TRADED))
def test_prices_that_nobody_trades_at_have_samples_and_no_volume(path: str) -> None:
    for cells in content(path).cells:
        assert cells[5] == cells[7] == cells[9] == cells[10] == "0"
        assert int(cells[8]) > 0


def test_the_premium_is_of_either_sign() -> None:
    closes = [row.close for row in of("futures/um/monthly/premiumIndexKlines/BTCUSDT/1h", "2025-01").rows]
    assert min(closes) < 0 < max(closes)


def test_coin_margined_numbers_have_lost_zeros_at_their_ends() -> None:
    def decimals(series: str, period: str) -> set[int]:
        return {len(cells[column].partition(".")[2]) for cells in of(series, period).cells for column in (7, 10)}

    assert min(decimals("futures/cm/daily/klines/BTCUSD_PERP/1h", "2024-01-02")) < 8
    assert decimals("futures/cm/daily/klines/BTCUSD_200925/1h", "2020-09-01") == {8}


def test_coin_margined_volume_is_whole_contracts() -> None:
    assert all(cells[5].isdigit() for cells in of("futures/cm/daily/klines/BTCUSD_PERP/1h", "2024-01-01").cells)


def lines_of(path: str) -> list[list[str]]:
    return list(csv.reader(io.StringIO(text(f"data/futures/um/{path}"))))[1:]


def test_settlements_are_late_by_milliseconds_and_their_interval_changes() -> None:
    name = "monthly/fundingRate/BTCUSDT/BTCUSDT-fundingRate"
    rows = [row for label in ("2024-12", "2025-01") for row in lines_of(f"{name}-{label}.zip")]
    times = [int(time) for time, _, _ in rows]
    assert max(time % 3_600_000 for time in times) in range(1, 32)
    settled = [time // 3_600_000 for time in times]
    assert {hours for (_, hours, _), time in zip(rows, times, strict=True) if time < ms("2025-01-20")} == {"8"}
    assert {after - before for before, after in pairwise(settled)} == {8, 4}
    assert {row[1] for row in rows} == {"8", "4"}


def test_metrics_of_two_days_have_labels_of_either_end_and_blank_cells() -> None:
    name = "daily/metrics/BTCUSDT/BTCUSDT-metrics"
    first, second = (lines_of(f"{name}-2025-01-{day:02}.zip") for day in (1, 2))
    assert (first[0][0], first[-1][0]) == ("2025-01-01 00:05:00", "2025-01-02 00:00:00")
    assert (second[0][0], second[-1][0]) == ("2025-01-02 00:00:00", "2025-01-02 23:55:00")
    for rows in (first, second):
        assert len(rows) == 288
        assert sum(cell == "" for row in rows for cell in row) == 3

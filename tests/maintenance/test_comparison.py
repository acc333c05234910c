"""A month whose cells are wrong is found by its days, by the REST interface and by shorter bars, cell by cell."""

from __future__ import annotations

import asyncio
import shutil
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from ckvd.cache import CacheFolder, SeriesStore
from ckvd.cache.rows import read_table
from ckvd.cache.selection import EVERYTHING, SeriesFilter
from ckvd.maintenance.bar_difference import CellDifference
from ckvd.maintenance.comparison import Against, Agreement, Comparison, compare_cache, is_well
from ckvd.maintenance.pruning import prune_span
from ckvd.model.calendar import days_of
from ckvd.model.market import HOUR_MS, MINUTE_MS, Interval, SeriesKey
from ckvd.model.provenance import Origin, Source
from ckvd.model.table import KlineTable
from ckvd.model.timespan import Span, parse_time
from ckvd.rest.rest_data_client import RestDataClient
from ckvd.vision.folder_source import FolderArchiveSource
from support import long_intervals
from support.archives import path_of
from support.caches import download
from support.loopback.exchange import Exchange
from support.loopback.mirror import publish
from support.loopback.reply import Reply
from support.loopback.rows import make_row, of_json, open_ms_of, rows_of_archive
from support.tables import make_table
from support.venue import HOURS, Venue, ensure, fetch, zip_of
from support.wrong_month import JANUARY, WrongMonth

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from support.loopback.rows import Row

DAYS = ["2023-01-10", "2023-01-11", "2023-01-12"]
ONLY_HOURS = SeriesFilter(intervals=(Interval.H1,))


@pytest.fixture
def wrong(tmp_path: Path) -> Iterator[WrongMonth]:
    with Venue(tmp_path, "2023-06-20T10:30") as venue:
        yield WrongMonth(venue)


def compare(
    wrong: WrongMonth, against: Against, span: Span | None = None, chosen: SeriesFilter = EVERYTHING
) -> list[Comparison]:
    async def run() -> list[Comparison]:
        async with wrong.venue.rest_client() as rest:
            archives = FolderArchiveSource(wrong.venue.root)
            found = compare_cache(wrong.folder, against, chosen, span, archives=archives, rest=rest)
            return [one async for one in found]

    return asyncio.run(run())


def compare_hours_with_minutes(folder: CacheFolder) -> list[Comparison]:
    async def run() -> list[Comparison]:
        return [one async for one in compare_cache(folder, Against.FINER, ONLY_HOURS)]

    return asyncio.run(run())


def differing(found: list[Comparison]) -> list[Comparison]:
    return [one for one in found if one.agreement is Agreement.DIFFERS]


# --- Daily archives and the REST interface -----------------------------------------------------------------


def test_days_show_which_bars_of_a_month_are_wrong_cell_by_cell(wrong: WrongMonth) -> None:
    found = compare(wrong, Against.DAYS)
    assert len(found) == 31
    assert not is_well(found)
    different = differing(found)
    assert [one.other.rpartition("-1h-")[2] for one in different] == [f"{day}.zip" for day in DAYS]
    assert tuple(open_ms for one in different for open_ms in one.difference.changed) == wrong.opens
    one = different[0]
    assert one.cached_from == ("data/spot/monthly/klines/BTCUSDT/1h/BTCUSDT-1h-2023-01.zip",)
    right = wrong.wrong[0]
    assert one.difference.columns == ("high", "volume")
    assert one.difference.cells[:2] == (
        CellDifference(int(right[0]), "high", 9999.5, float(right[2])),
        CellDifference(int(right[0]), "volume", 99999.125, float(right[5])),
    )
    assert sum(one.bar_count for one in found) == len(wrong.rows)


def test_the_rest_interface_shows_which_bars_of_a_month_are_wrong(wrong: WrongMonth) -> None:
    (one,) = compare(wrong, Against.REST)
    assert (one.agreement, one.other, one.difference.changed) == (Agreement.DIFFERS, "rest", wrong.opens)
    assert one.difference.columns == ("high", "volume")


@pytest.mark.parametrize("against", [Against.DAYS, Against.REST])
def test_only_the_span_is_compared(wrong: WrongMonth, against: Against) -> None:
    found = compare(wrong, against, Span.of("2023-01-11T22:00", "2023-01-20"))
    assert sum(one.bar_count for one in found) == 2 + 8 * 24
    assert sum(one.difference.changed_count for one in found) == 4
    assert is_well(compare(wrong, against, Span.of("2023-01-12T02:00", "2023-01-20")))


def test_what_came_from_days_is_not_compared_with_them(wrong: WrongMonth) -> None:
    prune_span(wrong.folder, HOURS, Span.of("2023-01-02", "2023-02-01"))
    ensure(wrong.venue, ["BTCUSDT"], "2023-01-01", "2023-01-05", use_rest=False)
    (one,) = compare(wrong, Against.DAYS)
    assert one.span == Span.of("2023-01-01", "2023-01-02")


def test_days_that_are_missing_or_damaged_are_said_and_the_others_compared(wrong: WrongMonth) -> None:
    wrong.venue.unpublish(HOURS, "2023-01-10")
    wrong.venue.unpublish(HOURS, "2023-01-20")
    wrong.publish_day("2023-01-11", digest="0" * 64)
    found = compare(wrong, Against.DAYS)
    assert [one.span for one in differing(found)] == [Span.of("2023-01-12", "2023-01-13")]
    (failed,) = [one for one in found if one.agreement is Agreement.FAILED]
    assert "CHECKSUM" in failed.message
    assert "2023-01-11" in failed.other
    (absent,) = [one for one in found if one.agreement is Agreement.ABSENT]
    assert absent.message == "2 days have no daily archive"
    assert absent.span == Span.of("2023-01-10", "2023-01-21")


def test_bars_that_the_other_source_lacks_are_said_and_are_no_difference(wrong: WrongMonth) -> None:
    wrong.publish_day("2023-01-20", wrong.day("2023-01-20")[3:])
    found = compare(wrong, Against.DAYS, Span.of("2023-01-20", "2023-01-21"))
    (one,) = found
    assert (one.agreement, one.difference.removed_count) == (Agreement.AGREES, 3)
    assert is_well(found)


def test_bars_that_the_cache_lacks_are_a_difference(wrong: WrongMonth) -> None:
    day = Span.of("2023-01-20", "2023-01-21")
    table = read_table(wrong.folder, HOURS, day)
    month = Source(Origin.VISION_MONTHLY, "month", day.start_ms, day.end_ms)
    SeriesStore(wrong.folder, HOURS).put(table.rows(0, 20), day, sources=[month])
    for against in (Against.DAYS, Against.REST):
        (one,) = compare(wrong, against, day)
        assert (one.agreement, one.difference.added_count) == (Agreement.DIFFERS, 4)


def test_to_compare_nothing_is_not_well(wrong: WrongMonth) -> None:
    assert not is_well(compare(wrong, Against.FINER))
    assert not is_well(compare(wrong, Against.DAYS, Span.of("2024-01-01", "2024-02-01")))
    shutil.rmtree(wrong.venue.root / "data" / "spot" / "daily")
    assert not is_well(compare(wrong, Against.DAYS))


@pytest.mark.parametrize(
    ("reply", "agreement", "words"),
    [
        (Reply(451, b"{}"), Agreement.FAILED, "region"),
        (Reply(400, b'{"code":-1121,"msg":"Invalid symbol."}'), Agreement.ABSENT, "symbol"),
        (Reply(200, b"[[1]]"), Agreement.FAILED, "expected"),
    ],
)
def test_a_refusal_of_the_rest_interface_is_said_once(
    wrong: WrongMonth, reply: Reply, agreement: Agreement, words: str
) -> None:
    wrong.venue.exchange.script(reply)
    asked = wrong.venue.exchange.request_count
    (one,) = compare(wrong, Against.REST)
    assert (one.agreement, one.span) == (agreement, JANUARY)
    assert words in one.message
    assert wrong.venue.exchange.request_count == asked + 1


def test_microseconds_of_an_archive_do_not_differ_from_milliseconds(wrong: WrongMonth) -> None:
    day = Span.of("2023-01-20", "2023-01-21")
    table = read_table(wrong.folder, HOURS, day)
    us = np.full(table.row_count, 7, np.int16)
    month = Source(Origin.VISION_MONTHLY, "month", day.start_ms, day.end_ms)
    odd = KlineTable(HOURS, {**table.columns, "close_time_us": us, "ignore": us.astype(float)}, {})
    SeriesStore(wrong.folder, HOURS).put(odd, day, sources=[month])
    (one,) = compare(wrong, Against.REST, day)
    assert one.agreement is Agreement.AGREES
    (one,) = compare(wrong, Against.DAYS, day)
    assert one.difference.columns == ("close_time_us",)


# --- Shorter bars ------------------------------------------------------------------------------------------


def test_shorter_bars_show_which_bars_are_wrong(wrong: WrongMonth) -> None:
    """Minutes of which the right hours are made: the first of each hour has all of its volume. One is missing."""
    minutes = SeriesKey.of("BTCUSDT", "1m")
    span = Span.of("2023-01-10", "2023-01-13")
    opens = np.arange(span.start_ms, span.end_ms, MINUTE_MS)
    opens = opens[opens != parse_time("2023-01-12T22:13")]
    right = [wrong.rows[number] for number in ((opens - JANUARY.start_ms) // HOUR_MS).tolist()]
    price = [float(row[1]) for row in right]
    summed = {"volume": 5, "quote_volume": 7, "count": 8, "taker_buy_volume": 9, "taker_buy_quote_volume": 10}
    first = opens % HOUR_MS == 0
    cells: dict[str, Any] = {
        name: np.where(first, [float(row[place]) for row in right], 0) for name, place in summed.items()
    }
    table = make_table(minutes, opens, open=price, high=price, low=price, close=price, **cells)
    source = Source(Origin.VISION_DAILY, "days", span.start_ms, span.end_ms)
    SeriesStore(wrong.folder, minutes).put(table, span, sources=[source])
    one, absent = compare_hours_with_minutes(wrong.folder)
    assert (one.agreement, one.other, one.difference.changed) == (Agreement.DIFFERS, str(minutes), wrong.opens)
    assert one.difference.columns == ("high", "volume")
    assert one.bar_count == 3 * 24 - 1
    assert absent.message == f"{28 * 24 + 1} bars have no complete run of shorter bars in the cache"


def test_real_hours_agree_with_their_minutes_unless_they_are_wrong(shared_data: Path, tmp_path: Path) -> None:
    span = Span.of("2023-03-20", "2023-03-28")
    folder = download(tmp_path / "cache", SeriesKey.of("BTCUSDT", "1m"), span, shared_data / "vision")
    download(tmp_path / "cache", HOURS, span, shared_data / "vision")
    one, absent = compare_hours_with_minutes(folder)
    assert (one.agreement, one.difference.changed_count) == (Agreement.AGREES, 0)
    # The outage of the 24th: the hour of 12:00 has forty of its minutes, that of 13:00 has none, and no bar.
    assert one.bar_count == 8 * 24 - 2
    assert absent.message == "1 bar has no complete run of shorter bars in the cache"
    table = read_table(folder, HOURS, span)
    quote_volume = table.columns["quote_volume"].copy()
    quote_volume[17] += 1e-5
    wrong_table = KlineTable(HOURS, {**table.columns, "quote_volume": quote_volume}, {})
    SeriesStore(folder, HOURS).put(
        wrong_table, span, sources=[Source(Origin.REST, "x", span.start_ms, span.end_ms)]
    )
    one, _ = compare_hours_with_minutes(folder)
    assert one.difference.changed == (int(table.open_time[17]),)
    assert one.difference.columns == ("quote_volume",)


def test_real_days_show_a_month_made_of_them_that_is_wrong(shared_data: Path, tmp_path: Path) -> None:
    source = shared_data / "vision" / "data" / "spot" / "daily" / "klines" / "BTCUSDT" / "1h"
    mirror = tmp_path / "mirror"
    rows: list[Row] = []
    for day in days_of(JANUARY):
        file = source / f"BTCUSDT-1h-{day.label}.zip"
        publish(mirror, path_of("BTCUSDT", "1h", day.label), file.read_bytes())
        rows += rows_of_archive(file)
    bad = list(rows)
    bad[::100] = [(*row[:4], make_row(int(row[0]), 0)[4], *row[5:]) for row in rows[::100]]
    publish(mirror, path_of("BTCUSDT", "1h", "2023-01"), zip_of(bad, "BTCUSDT-1h-2023-01.zip"))
    folder = download(tmp_path / "cache", HOURS, JANUARY, mirror)

    async def run() -> list[Comparison]:
        return [one async for one in compare_cache(folder, Against.DAYS, archives=FolderArchiveSource(mirror))]

    found = asyncio.run(run())
    changed = [open_ms for one in found for open_ms in one.difference.changed]
    assert changed == [int(row[0]) for row in rows[::100]]
    assert {one.difference.columns for one in differing(found)} == {("close",)}


@pytest.mark.parametrize("symbol", ["BTCUSDT", "SOLUSDT"])
def test_real_bars_of_three_days_weeks_and_months_agree_with_their_days(
    shared_data: Path, tmp_path: Path, symbol: str
) -> None:
    with Venue(tmp_path, "2026-05-20") as venue:
        span = Span.of("2022-01-01", "2024-01-01")
        for interval in ("1d", "3d", "1w", "1mo"):
            series = SeriesKey.of(symbol, interval)
            rest_name = "1M" if interval == "1mo" else interval
            rows = long_intervals.rows_of_spot(shared_data, symbol, rest_name)
            long_intervals.publish_months(venue, series, [row for row in rows if open_ms_of(row) in span])
            fetch(venue, "2022-01-01", "2024-01-01", series, use_rest=False)
        folder = CacheFolder(venue.cache_path)

        async def run(interval: Interval) -> list[Comparison]:
            chosen = SeriesFilter(intervals=(interval,))
            return [one async for one in compare_cache(folder, Against.FINER, chosen)]

        for interval, count in ((Interval.D3, 240), (Interval.W1, 103), (Interval.MO1, 24)):
            found = asyncio.run(run(interval))
            assert differing(found) == []
            assert sum(one.bar_count for one in found) >= count


RECORDED = "api_v3_klines__BTCUSDT__1h__{}.json"


@pytest.mark.parametrize(("recording", "count"), [("10", 176), ("05", 1000), ("06", 468)])
def test_real_archives_agree_with_what_the_exchange_answered(
    shared_data: Path, tmp_path: Path, recording: str, count: int
) -> None:
    rows = of_json((shared_data / "rest" / RECORDED.format(recording)).read_bytes())
    span = Span(open_ms_of(rows[0]), open_ms_of(rows[-1]) + HOUR_MS)
    folder = download(tmp_path / "cache", HOURS, span, shared_data / "vision")

    async def run() -> list[Comparison]:
        with Exchange({HOURS: rows}) as exchange:
            async with RestDataClient(base_url=exchange.url) as rest:
                return [one async for one in compare_cache(folder, Against.REST, span=span, rest=rest)]

    found = asyncio.run(run())
    assert sum(one.bar_count for one in found) == count
    assert not any(one.difference.added_count + one.difference.removed_count for one in found)
    # The months of 2020 have quote volumes that are off by some units of the eighth digit: cells of their own.
    columns = {name for one in found for name in one.difference.columns}
    assert columns <= ({"quote_volume", "taker_buy_quote_volume"} if recording != "10" else set())
    cells = [cell for one in found for cell in one.difference.cells]
    assert all(abs(cell.before - cell.after) < 1e-6 for cell in cells)

"""The lives that recorded answers and listings of the exchange give."""

from __future__ import annotations

import asyncio
import csv
import gzip
import io
import lzma
from collections import Counter
from typing import TYPE_CHECKING, Any

import pytest

import ckvd
from ckvd.cache import CacheFolder, SeriesStore
from ckvd.model.calendar import Cadence, Period
from ckvd.model.life import EndReason, EndSource
from ckvd.model.market import DAY_MS, HOUR_MS, ContractType, Market, SeriesKey
from ckvd.model.timespan import Span, format_time, parse_time
from ckvd.model.universe import Universe
from ckvd.universe.difference import compare_snapshots
from ckvd.universe.refresh import make_snapshot
from ckvd.universe.snapshot import find_snapshot, write_snapshot
from ckvd.vision.name import ArchiveName
from support.loopback.mirror import publish
from support.places import SHARED_DATA
from support.tables import make_table
from support.universes import HAS_REAL, listed, real_info, real_listing
from support.venue import Venue

if TYPE_CHECKING:
    from pathlib import Path

    from ckvd.universe.snapshot import Snapshot

pytestmark = pytest.mark.skipif(not HAS_REAL, reason="the recorded answers of the exchange are not there")


@pytest.fixture(scope="module")
def snapshots() -> tuple[Snapshot, Snapshot]:
    """USD-M on 2025-10-17 and 2026-03-31."""
    before = real_info("fapi_2025-10-17", Market.UM)
    after = real_info("fapi_2026-03-31", Market.UM)
    assert before.server_ms is not None
    assert after.server_ms is not None
    one = make_snapshot(Market.UM, real_listing(Market.UM, "2025-10-17"), before, None, before.server_ms)
    listing = [*real_listing(Market.UM, "2026-03-31"), listed("AIAUSDT", "2025-09-18", "2026-03-31")]
    return one, make_snapshot(Market.UM, listing, after, one, after.server_ms)


@pytest.fixture(scope="module")
def lives(snapshots: tuple[Snapshot, Snapshot]) -> Universe:
    return Universe(Market.UM, snapshots[1].lives, snapshots[1].made_ms)


def test_one_ticker_with_two_contracts_has_two_lives(lives: Universe) -> None:
    found = lives.filter(names="AIAUSDT")
    assert found.keys == ("AIAUSDT@2025-09-18", "AIAUSDT@2026-01-20")
    assert [format_time(life.first_ms) for life in found] == ["2025-09-18T08:30Z", "2026-01-20T10:00Z"]
    assert found[0].end_ms == found[1].first_ms
    assert [life.end_reason for life in found] == [EndReason.DELISTED, EndReason.ALIVE]


def test_the_difference_of_two_dates_names_a_contract_that_was_settled_between(
    snapshots: tuple[Snapshot, Snapshot],
) -> None:
    found = compare_snapshots(*snapshots)
    (change,) = (change for change in found.changed if change.after.ticker == "LITUSDT")
    assert (change.before.status, change.after.status) == ("PENDING_TRADING", "SETTLING")
    assert {"status", "delivery_ms", "end_ms", "end_reason"} <= set(change.changed)
    assert "LITUSDT" in {life.ticker for life in found.ended}
    assert [life.dated_key for life in found.again] == ["AIAUSDT@2026-01-20"]
    assert found.gone == ()


def test_the_end_of_a_life_is_its_delivery_though_its_files_go_on_for_years(lives: Universe) -> None:
    waves = lives["WAVESUSDT"]
    assert (format_time(waves.end_ms or 0), waves.end_source) == ("2024-06-11T09:00Z", EndSource.DELIVERY_DATE)
    assert format_time(waves.last_archive_ms or 0) == "2026-03-31"
    assert "WAVESUSDT" in lives.filter(on="2024-06-11")
    assert "WAVESUSDT" not in lives.filter(on="2024-06-12")


def test_quarterlies_that_stay_listed_have_ended_and_those_that_trade_have_a_planned_end(lives: Universe) -> None:
    quarterlies = lives.filter(contract="quarterly")
    reasons = Counter((life.status, life.end_reason) for life in quarterlies)
    assert reasons[("DELIVERING", EndReason.DELIVERED)] == 8
    assert reasons[("TRADING", EndReason.ALIVE)] == 4
    assert {life.contract for life in quarterlies} == {ContractType.QUARTERLY}
    assert {life.end_source for life in quarterlies} == {EndSource.DELIVERY_DATE}


def test_what_trades_is_alive_and_what_does_not_is_not(lives: Universe) -> None:
    today = lives.filter(on=lives.made_ms)
    trading = {symbol for symbol, one in real_info("fapi_2026-03-31", Market.UM).contracts.items()
               if one.status == "TRADING"}  # fmt: skip
    assert trading <= set(today.symbols)
    assert not {life.status for life in today} & {"SETTLING", "DELIVERING"}
    assert {life.contract for life in lives.filter(names="XAUUSDT")} == {ContractType.TRADFI_PERPETUAL}


def test_coin_margined_contracts_have_their_size() -> None:
    info = real_info("dapi_2021-07-21", Market.CM)
    snapshot = make_snapshot(Market.CM, real_listing(Market.CM, "2021-07-21"), info, None, info.server_ms or 0)
    lives = Universe(Market.CM, snapshot.lives, snapshot.made_ms).filter(names="BTCUSD*", on="2021-07-21")
    assert {life.ticker: life.contract_size for life in lives} == dict.fromkeys(
        ("BTCUSD_210924", "BTCUSD_211231", "BTCUSD_PERP"), 100
    )


# --- No delisted symbol is missing -------------------------------------------------------------------------


def panel_days() -> dict[str, set[int]]:
    """On which days each symbol of the panel has bars."""
    found: dict[str, set[int]] = {}
    (path,) = (SHARED_DATA / "panel").glob("spot_1h_2022-05-07*.csv.xz")
    with lzma.open(path, "rt", encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            found.setdefault(row["ticker"], set()).add(parse_time(row["date"] + "Z") // DAY_MS * DAY_MS)
    return found


def publish_day(root: Path, symbol: str, day_ms: int) -> None:
    publish(root, ArchiveName(SeriesKey.of(symbol, "1d"), Period(day_ms, Cadence.DAILY)).path, b"", digest="")


@pytest.fixture(scope="module")
def mirror_of_2022(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a mirror lists on 2022-05-17: of the panel and of some others their first day and the last."""
    root = tmp_path_factory.mktemp("mirror")
    for symbol, days in panel_days().items():
        for day_ms in (min(days), max(days)):
            publish_day(root, symbol, day_ms)
    for one in real_listing(Market.SPOT, "2022-05-17")[::7]:
        if one.first_ms < one.last_ms:
            publish_day(root, one.symbol, one.first_ms)
            publish_day(root, one.symbol, one.last_ms - DAY_MS)
    return root


def test_no_symbol_that_traded_is_missing_though_many_were_delisted_since(
    mirror_of_2022: Path, tmp_path: Path
) -> None:
    traded = panel_days()
    assert len(traded) == 328
    with Venue(tmp_path, "2022-05-17T10:00", mirror_root=mirror_of_2022) as venue:

        async def run() -> None:
            async with venue.data(vision_url=mirror_of_2022, use_rest=False) as data:
                await data.refresh_universe("spot")

        asyncio.run(run())
        # Years later most are listed, and those that no source lists any more keep their lives.
        folder = CacheFolder(venue.cache_path)
        listing = real_listing(Market.SPOT, "2025-06-01")
        first = find_snapshot(folder, Market.SPOT)
        write_snapshot(folder, make_snapshot(Market.SPOT, listing, None, first, parse_time("2025-06-02")))
        assert len(set(traded) - {one.symbol for one in listing}) == 63
        with ckvd.open_cache(venue.cache_path) as cache:
            on = cache.universe("spot", on="2022-05-10", quote="USDT")
            day_ms = parse_time("2022-05-10")
            assert {symbol for symbol, days in traded.items() if min(days) <= day_ms <= max(days)} <= set(
                on.symbols
            )
            assert set(traded) <= set(cache.universe("spot", start="2022-05-07", end="2022-05-17").symbols)
            luna = cache.universe("spot", names="LUNAUSDT")
            assert luna.keys[0] == "LUNAUSDT@2020-08-21"
            leveraged = cache.universe("spot", on="2022-05-10", leveraged="exclude")
            assert not [one for one in leveraged.symbols if one in ("BTCUPUSDT", "BTCDOWNUSDT")]


def test_later_answers_and_listings_keep_the_lives_that_no_source_lists_any_more() -> None:
    info = real_info("spot_2021-10-12", Market.SPOT)
    listing = [listed(symbol, "2021-09-01", "2021-10-12") for symbol, one in info.contracts.items()
               if one.status == "TRADING"]  # fmt: skip
    before = make_snapshot(Market.SPOT, listing, info, None, info.server_ms or 0)
    after = make_snapshot(
        Market.SPOT, real_listing(Market.SPOT, "2025-06-01"), None, before, parse_time("2025-06-01")
    )
    then = Universe(Market.SPOT, after.lives, after.made_ms).filter(on="2021-10-11")
    trading = {symbol for symbol, one in info.contracts.items() if one.status == "TRADING"}
    assert trading <= {life.ticker for life in then}
    gone = trading - {one.symbol for one in real_listing(Market.SPOT, "2025-06-01")}
    assert len(gone) > 100
    assert {life.end_reason for life in then if life.ticker in gone} <= {EndReason.DELISTED, EndReason.RENAMED}


# --- Bars of lives -----------------------------------------------------------------------------------------


def hold(folder: CacheFolder, market: str, symbol: str, rows: list[dict[str, str]]) -> Span:
    """Put real hours into a cache."""
    opens = [parse_time(row["date"] if "date" in row else row["datetime"]) for row in rows]
    prices: dict[str, Any] = {
        name: [float(row[name]) for row in rows] for name in ("open", "high", "low", "close", "volume")
    }
    counts = [int(volume > 0) for volume in prices["volume"]]
    table = make_table(SeriesKey.of(symbol, "1h", market=market), opens, **prices, count=counts)
    span = Span(opens[0], opens[-1] + HOUR_MS)
    SeriesStore(folder, table.series).put(table, span)
    return span


def rows_of(name: str) -> list[dict[str, str]]:
    text = gzip.decompress((SHARED_DATA / "delisted" / name).read_bytes()).decode()
    return list(csv.DictReader(io.StringIO(text)))


def test_the_last_trade_of_real_bars_is_before_the_delivery_and_flat_bars_are_no_life(
    tmp_path: Path, snapshots: tuple[Snapshot, Snapshot]
) -> None:
    folder = CacheFolder(tmp_path)
    span = hold(folder, "um", "WAVESUSDT", rows_of("WAVES_USDT_1h.csv.gz"))
    write_snapshot(folder, snapshots[1])
    alone = make_snapshot(Market.UM, real_listing(Market.UM, "2026-06-07"), None, None, parse_time("2026-06-08"))
    with ckvd.open_cache(folder.root) as cache:
        (waves,) = cache.universe("um", names="WAVESUSDT").last_traded(cache)
        assert waves.last_traded_ms is not None
        assert waves.end_ms is not None
        assert waves.end_ms - DAY_MS < waves.last_traded_ms < waves.end_ms
        bounded = Universe(Market.UM, alone.lives, alone.made_ms).filter(names="WAVESUSDT")
        assert bounded[0].end_ms is None
        (by_trades,) = bounded.last_traded(cache)
        assert (by_trades.last_traded_ms, by_trades.end_source) == (waves.last_traded_ms, EndSource.LAST_TRADED)
        assert by_trades.end_ms == waves.last_traded_ms + HOUR_MS
        panel = cache.panel([waves], "1h", "2024-06-10", span.end_ms)
        last = int(panel.mask[:, 0].nonzero()[0][-1])
        assert panel.open_time[last] < waves.end_ms <= panel.open_time[last] + HOUR_MS
        assert set(panel.reasons[last + 1 :, 0].tolist()) == {ckvd.CellReason.NOT_LISTED}


def test_reading_across_two_coins_of_one_name_says_so_and_one_can_be_picked(tmp_path: Path) -> None:
    folder = CacheFolder(tmp_path)
    rows = [row for row in rows_of("LUNAUSDT_1h.csv.gz") if "2022-04" <= row["date"] < "2022-07"]
    hold(folder, "spot", "LUNAUSDT", rows)
    listing = real_listing(Market.SPOT, "2025-06-01")
    write_snapshot(folder, make_snapshot(Market.SPOT, listing, None, None, parse_time("2025-06-02")))
    span: dict[str, Any] = {"start": "2022-05-01", "end": "2022-06-15"}
    with ckvd.open_cache(folder.root) as cache:
        klines = cache.read("LUNAUSDT", "1h", **span)
        assert klines.is_across_lives
        old, new = klines.lives
        assert not cache.read("LUNAUSDT", "1h", start="2022-05-01", end="2022-05-10").is_across_lives
        before = cache.read("LUNAUSDT", "1h", **span, life="LUNAUSDT@2020-08-21")
        after = cache.read("LUNAUSDT", "1h", **span, life=new)
        assert len(before) + len(after) == len(klines)
        assert before.close[-1] < 0.001
        assert after.open[0] == 1.0
        assert format_time(int(before.open_time[-1])) == "2022-05-13"
        panel = cache.panel([old, new], "1h", "2022-05-01", "2022-06-15")
        assert panel.labels == ("LUNAUSDT@2020-08-21", "LUNAUSDT@2022-05-31")
        assert panel.mask.sum(axis=0).tolist() == [len(before), len(after)]
        assert not panel.mask.all(axis=1).any()

"""Refreshing from real listings and answers over HTTP, and from a mirror in a folder."""

from __future__ import annotations

import asyncio
import re
from typing import TYPE_CHECKING, Any

import pytest

import ckvd
from ckvd.cache import CacheFolder
from ckvd.errors import ArchiveError, ClientClosedError, NetworkError, RestAnswerError
from ckvd.model.calendar import Cadence
from ckvd.model.life import EndReason
from ckvd.model.market import Kind, Market, SeriesKey
from ckvd.model.timespan import format_time, parse_time
from ckvd.universe.listing import ListedSymbol, list_market
from ckvd.universe.snapshot import find_snapshot, list_snapshots
from ckvd.vision.folder_source import FolderArchiveSource
from ckvd.vision.listing import listed_intervals, listed_symbols, parse_listing
from support.loopback.mirror import Mirror
from support.loopback.reply import Reply
from support.places import SHARED_DATA
from support.universes import entry, info_body, listed, publish_archives
from support.venue import Venue

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from ckvd.universe.snapshot import Snapshot

NOW = "2024-03-20T10:30"


def days(symbol: str, interval: str = "1d") -> SeriesKey:
    return SeriesKey.of(symbol, interval, market="um")


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A mirror: more than a page of days, a symbol of three days, one without bars of a day, and odd names."""
    root = tmp_path_factory.mktemp("mirror")
    publish_archives(root, days("BTCUSDT"), "2022-11-15", "2024-03-19", daily_from="2024-03-01")
    publish_archives(root, days("龙虾USDT"), "2024-03-17", "2024-03-19", daily_from="2024-03-01")
    publish_archives(root, days("OLDUSDT", "4h"), "2023-05-20", "2023-07-02", daily_from="2024-03-01")
    publish_archives(root, days("OLDUSDT", "1h"), "2023-05-25", "2023-07-02", daily_from="2024-03-01")
    publish_archives(root, days("AERGOUSDTSETTLEDSETTLED"), "2023-05-20", "2023-05-21", daily_from="2024-03-01")
    for cadence in Cadence:
        (root / f"data/futures/um/{cadence}/klines/EMPTYUSDT/1d").mkdir(parents=True)
        (root / f"data/futures/um/{cadence}/klines/lower").mkdir(parents=True)
    return root


@pytest.fixture
def venue(root: Path, tmp_path: Path) -> Iterator[Venue]:
    with Venue(tmp_path, NOW, mirror_root=root) as venue:
        body = info_body(entry("BTCUSDT", "2022-11-15T08:00Z"), entry("龙虾USDT", "2024-03-17T12:30Z"))
        venue.exchange.publish_info(Market.UM, body)
        yield venue


def refresh(venue: Venue, **changes: Any) -> Snapshot:
    async def run() -> Snapshot:
        async with venue.data(**changes) as data:
            return await data.refresh_universe("um")

    return asyncio.run(run())


EXPECTED = [
    listed("AERGOUSDTSETTLEDSETTLED", "2023-05-20", "2023-05-22"),
    listed("BTCUSDT", "2022-11-15", "2024-03-20"),
    listed("OLDUSDT", "2023-05-20", "2023-07-03"),
    listed("龙虾USDT", "2024-03-17", "2024-03-20"),
]


def list_over_http(root: Path, **options: Any) -> tuple[list[ListedSymbol], int]:
    with Mirror(root, **options) as mirror:

        async def run() -> list[ListedSymbol]:
            async with ckvd.VisionDataClient(mirror.base_url, listing_url=mirror.listing_url) as client:
                return await list_market(client.archives, Market.UM)

        return asyncio.run(run()), len(mirror.server.requests)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"is_next_marker_given": False},
        {"page_size": 90},
        {"page_size": 90, "is_next_marker_given": False},
        {"is_key_encoded": True, "page_size": 500},
    ],
    ids=["pages of 1000", "without NextMarker", "small pages", "small pages without NextMarker", "encoded"],
)
def test_a_listing_over_http_equals_that_of_the_folder_however_it_is_cut(root: Path, options: Any) -> None:
    assert list_over_http(root, **options)[0] == EXPECTED


def test_the_folder_lists_the_same(root: Path) -> None:
    assert asyncio.run(list_market(FolderArchiveSource(root), Market.UM)) == EXPECTED


def test_a_symbol_takes_three_requests(root: Path) -> None:
    _, count = list_over_http(root)
    # Two for the symbols; three each for BTCUSDT, 龙虾USDT and AERGO; of OLDUSDT two more for its intervals, and
    # three for the longest.
    assert count == 2 + 3 * 3 + 8


def test_a_snapshot_is_stored_and_chosen_from(venue: Venue) -> None:
    snapshot = refresh(venue)
    assert find_snapshot(CacheFolder(venue.cache_path), Market.UM) == snapshot
    assert snapshot.exchange_info == f"{venue.exchange.url}/fapi/v1/exchangeInfo"
    assert (snapshot.made_ms, snapshot.unavailable, snapshot.notes) == (parse_time(NOW), "", ())
    with ckvd.open_cache(venue.cache_path) as cache:
        lives = cache.universe("um", on="2023-06-01")
        assert lives.keys == ("BTCUSDT", "OLDUSDT")
        assert format_time(cache.universe("um")["龙虾USDT"].first_ms) == "2024-03-17T12:30Z"
        assert cache.universe("um", end="2023-05-21").keys == ("AERGOUSDT", "BTCUSDT", "OLDUSDT")


def test_a_folder_and_http_make_the_same_lives(venue: Venue, root: Path) -> None:
    over_http = refresh(venue)
    assert refresh(venue, vision_url=root).lives == over_http.lives


def test_a_second_refresh_adds_a_snapshot_and_carries_lives_over(venue: Venue) -> None:
    one = refresh(venue)
    venue.time.advance(1000)
    venue.exchange.publish_info(
        Market.UM, info_body(entry("BTCUSDT", "2022-11-15T08:00Z"), entry("龙虾USDT", "2024-03-20T09:00Z"))
    )
    other = refresh(venue)
    assert len(list_snapshots(CacheFolder(venue.cache_path), Market.UM)) == 2
    assert [life.dated_key for life in other.lives if life.ticker == "龙虾USDT"] == [
        "龙虾USDT@2024-03-17",
        "龙虾USDT@2024-03-20",
    ]
    assert one.lives[0] == other.lives[0]


@pytest.mark.parametrize(("is_asked", "why"), [(False, "it was not asked"), (True, "refuses the region|451")])
def test_without_the_exchange_it_is_made_of_archives_and_says_so(venue: Venue, is_asked: bool, why: str) -> None:
    venue.exchange.script(Reply(451, b'{"code": 0, "msg": "Service unavailable from a restricted location"}'))
    snapshot = refresh(venue, use_rest=is_asked)
    assert snapshot.exchange_info == ""
    assert re.search(why, snapshot.unavailable)
    by_ticker = {life.ticker: life for life in snapshot.lives}
    assert by_ticker["BTCUSDT"].end_reason is EndReason.UNKNOWN
    assert by_ticker["OLDUSDT"].end_is_bound


def test_a_malformed_answer_is_an_error_and_nothing_is_stored(venue: Venue) -> None:
    venue.exchange.publish_info(Market.UM, b'{"symbols": [{"symbol": "ETHBTC"}]}')
    with pytest.raises(RestAnswerError, match="fapi/v1/exchangeInfo: row 1: ETHBTC is no symbol of market um"):
        refresh(venue)
    assert list_snapshots(CacheFolder(venue.cache_path), Market.UM) == []


def test_a_listing_that_is_unavailable_or_without_end_is_an_error(venue: Venue) -> None:
    with pytest.raises(NetworkError):
        refresh(venue, listing_url=venue.mirror.base_url + "/nowhere")
    page = (
        b"<ListBucketResult><IsTruncated>true</IsTruncated><NextMarker>data/futures/um/monthly/klines/A/</NextMarker>"
        b"<CommonPrefixes><Prefix>data/futures/um/monthly/klines/A/</Prefix></CommonPrefixes></ListBucketResult>"
    )
    venue.mirror.script("bucket", *[lambda _: Reply(200, page)] * 4)
    with pytest.raises(ArchiveError, match=r"does not come to an end|expected a listing of"):
        refresh(venue)


def test_an_offline_and_a_closed_client_refuse(venue: Venue) -> None:
    with pytest.raises(NetworkError, match="the client is offline"):
        refresh(venue, offline=True)

    async def closed() -> None:
        async with venue.data() as data:
            pass
        await data.refresh_universe("um")

    with pytest.raises(ClientClosedError):
        asyncio.run(closed())


@pytest.mark.skipif(not (SHARED_DATA / "listings").is_dir(), reason="the recorded pages are not there")
def test_recorded_pages_are_read_with_and_without_a_next_marker_and_with_an_empty_directory() -> None:
    def page(name: str, prefix: str) -> Any:
        return parse_listing((SHARED_DATA / "listings" / "pages" / name).read_bytes(), name, prefix)

    symbols = page("prefixes_v1_truncated_NextMarker.xml", "data/futures/um/daily/klines/")
    assert symbols.next_marker == "data/futures/um/daily/klines/XVGUSDT/"
    assert listed_symbols(symbols.folders, Market.UM, Kind.KLINES) == ["0GUSDT"]
    intervals = page("prefixes_v1_empty_directory.xml", "data/futures/um/daily/klines/BTCUSDT/")
    assert [str(interval) for interval in listed_intervals(intervals.folders)] == ["1h", "12h"]
    assert listed_symbols(intervals.folders, Market.UM, Kind.KLINES) == []
    keys = page("keys_v1_truncated_no_NextMarker.xml", "data/futures/um/daily/klines/BTCUSDT/1h/")
    assert keys.next_marker.endswith("BTCUSDT-1h-2020-01-01.zip")

"""An update takes lives that began since and are like those held; a download takes patterns of the universe."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import ckvd
from ckvd.cache.selection import SeriesFilter
from ckvd.model.market import ContractType, Market, SeriesKey
from ckvd.model.timespan import format_time, parse_time
from ckvd.universe.new_listings import find_new_listings
from support import command
from support.universes import entry, info_body, life
from support.venue import Venue, hours

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from ckvd.acquisition.report import DownloadReport
    from support.command import Finished

NOW = parse_time("2024-03-20")
DAYS = [parse_time(day) for day in ("2024-03-01", "2024-03-10", "2024-03-20", "2024-03-21")]
SYMBOLS = ("AUSDT", "BUSDT", "CUSDC", "DUSDT")
KEYS = [
    SeriesKey.of(symbol, interval, market="um", kind=kind)
    for symbol in SYMBOLS
    for kind, interval in (("klines", "1h"), ("klines", "1m"), ("fundingRate", None))
]
LIVES = st.builds(
    lambda symbol, first_ms, end_ms, contract: life(
        symbol, format_time(first_ms), end_ms=end_ms, quote=symbol[1:], contract=contract
    ),
    st.sampled_from(SYMBOLS),
    st.sampled_from(DAYS),
    st.sampled_from([None, *DAYS]),
    st.sampled_from([ContractType.PERPETUAL, ContractType.QUARTERLY]),
)


@given(st.sets(st.sampled_from(KEYS)), st.lists(LIVES, max_size=5), st.sampled_from(DAYS))
def test_new_listings_are_those_of_the_rule(held: set[SeriesKey], lives: list[ckvd.Life], since_ms: int) -> None:
    found = find_new_listings(held, lives, since_ms=since_ms, until_ms=NOW)
    followed = {(one.quote, one.contract) for one in lives for key in held if key.symbol == one.symbol}
    expected = {
        SeriesKey.of(one.symbol, key.interval, market="um", kind=key.kind)
        for one in lives
        for key in held
        if since_ms <= one.first_ms < NOW and (one.end_ms is None or one.end_ms > NOW)
        if (one.quote, one.contract) in followed
    }
    assert {series for series, _ in found} == expected - held
    assert len(found) == len(expected - held)


# --- Over loopback -----------------------------------------------------------------------------------------

HOURS = [SeriesKey.of(symbol, "1h", market="um") for symbol in ("BTCUSDT", "ETHUSDT", "NEWUSDT", "NEWUSDC")]


@pytest.fixture
def venue(tmp_path: Path) -> Iterator[Venue]:
    """A market with two symbols of USDT. Two others are listed in the middle of the second of March."""
    with Venue(tmp_path, "2024-03-02T00:30") as venue:
        rows = hours("2024-03-01", "2024-03-06")
        later = [row for row in rows if int(row[0]) >= parse_time("2024-03-02T12:00")]
        for series in HOURS:
            venue.exchange.publish(series, rows if series in HOURS[:2] else later)
        venue.publish(HOURS[0], "2024-02-29", hours("2024-02-29", "2024-03-01"))
        tell_exchange(venue, "BTCUSDT", "ETHUSDT")
        yield venue


def tell_exchange(venue: Venue, *old: str, new: tuple[str, ...] = ()) -> None:
    entries = [entry(symbol, "2020-01-01") for symbol in old]
    entries += [entry(symbol, "2024-03-02T12:00", quoteAsset=symbol[-4:]) for symbol in new]
    venue.exchange.publish_info(Market.UM, info_body(*entries))


def run(venue: Venue, call: Any, **changes: Any) -> Any:
    async def work() -> Any:
        async with venue.data(**changes) as data:
            return await call(data)

    return asyncio.run(work())


def update(venue: Venue) -> DownloadReport:
    report: DownloadReport = run(venue, lambda data: data.update(new_listings=True))
    return report


def test_an_update_begins_with_new_listings_of_the_quote_that_is_held(venue: Venue) -> None:
    run(venue, lambda data: data.refresh_universe("um"))
    run(venue, lambda data: data.ensure(["BTCUSDT"], "1h", start="2024-03-01", market="um"))
    venue.time.advance_to(parse_time("2024-03-04T00:30"))
    tell_exchange(venue, "BTCUSDT", "ETHUSDT", new=("NEWUSDT", "NEWUSDC"))
    report = update(venue)
    assert report.is_complete
    assert [str(series) for series in report.spans] == ["um/klines/BTCUSDT/1h", "um/klines/NEWUSDT/1h"]
    with ckvd.open_cache(venue.cache_path) as cache:
        klines = cache.read("NEWUSDT", "1h", market="um", missing="ignore")
        assert klines.open_time[0] == parse_time("2024-03-02T12:00")
        assert len(klines) == 36
    before = venue.request_count
    assert update(venue).spans == {}
    assert venue.request_count == before


def test_without_a_snapshot_what_was_listed_since_the_newest_bars_is_new(venue: Venue) -> None:
    run(venue, lambda data: data.ensure(["BTCUSDT"], "1h", start="2024-03-01", market="um"))
    venue.time.advance_to(parse_time("2024-03-04T00:30"))
    tell_exchange(venue, "BTCUSDT", "ETHUSDT", new=("NEWUSDT",))
    assert HOURS[2] in update(venue).spans


def test_what_is_held_is_updated_where_new_listings_are_unknown(venue: Venue) -> None:
    run(venue, lambda data: data.refresh_universe("um"))
    run(venue, lambda data: data.ensure(["BTCUSDT"], "1h", start="2024-03-01", market="um"))
    venue.time.advance_to(parse_time("2024-03-04T00:30"))
    venue.exchange.publish_info(Market.UM, b"{}")
    report = update(venue)
    assert list(report.unlisted) == [Market.UM]
    assert not report.is_complete
    assert report.errors == (report.unlisted[Market.UM],)
    assert report.to_json()["unlisted"] == {"um": str(report.unlisted[Market.UM])}
    with ckvd.open_cache(venue.cache_path) as cache:
        assert cache.read("BTCUSDT", "1h", market="um").span.end_ms == parse_time("2024-03-04")
    # A damaged snapshot is another reason.
    (path,) = venue.cache_path.glob(".universe/um/*.universe")
    path.write_bytes(path.read_bytes()[:-1])
    plan = run(venue, lambda data: data.survey_update(HOURS[:1], new_listings=SeriesFilter()))
    assert isinstance(plan.unlisted[Market.UM], ckvd.SnapshotError)


def download(venue: Venue, *arguments: str) -> Finished:
    given = ("--market", "um", "-i", "1h", "--start", "2024-03-01", "--end", "2024-03-02T00:00")
    return command.run_here(
        "download", *arguments, *given, "--cache", str(venue.cache_path), "--rest-url", venue.exchange.url,
        "--vision-url", venue.mirror.base_url, "--dry-run", "--json",
    )  # fmt: skip


def chosen(finished: Finished) -> set[str]:
    assert finished.status == 0, finished.err
    return {name.split("/")[2] for name in json.loads(finished.out)["spans"]}


def test_a_download_takes_patterns_and_quotes_of_the_universe(venue: Venue) -> None:
    tell_exchange(venue, "BTCUSDT", "ETHUSDT", new=("NEWUSDC",))
    run(venue, lambda data: data.refresh_universe("um"))
    assert chosen(download(venue, "B*")) == {"BTCUSDT"}
    assert chosen(download(venue, "*", "--quote", "USDT")) == {"BTCUSDT", "ETHUSDT"}
    assert chosen(download(venue, "--quote", "USDT")) == {"BTCUSDT", "ETHUSDT"}
    # A name without a pattern needs no universe.
    assert chosen(download(venue, "XUSDT", "E*")) == {"XUSDT", "ETHUSDT"}
    nothing = download(venue, "Z*")
    assert nothing.status == 2
    assert "'Z*' means no symbol of um that was listed in 2024-03-01..2024-03-02" in nothing.err


def test_without_a_snapshot_a_pattern_says_how_to_make_one(venue: Venue) -> None:
    finished = download(venue, "B*")
    assert finished.status == 1
    assert "make one: ckvd universe refresh --market um" in finished.err

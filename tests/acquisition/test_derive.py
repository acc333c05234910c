"""Longer bars may be made of shorter ones that are in the cache, when that is asked for."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

import ckvd
from ckvd.bars.resample import ResampledKlines
from ckvd.model.market import DAY_MS, SeriesKey
from ckvd.model.timespan import parse_time
from support.loopback.rows import make_rows
from support.venue import HOURS, Venue, fetch, hours, rows_between

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

DAYS = SeriesKey.of("BTCUSDT", "1d")


@pytest.fixture
def venue(tmp_path: Path) -> Iterator[Venue]:
    with Venue(tmp_path, "2024-03-20T10:30") as venue:
        rows = hours("2024-02-01", "2024-03-01")
        venue.publish(HOURS, "2024-02", rows_between(rows, "2024-02-01", "2024-03-01"))
        opens_ms = range(parse_time("2024-02-01"), parse_time("2024-03-01"), DAY_MS)
        venue.publish(DAYS, "2024-02", make_rows(opens_ms, DAY_MS))
        yield venue


def derive(venue: Venue, start: str, end: str, market: str = "spot") -> ckvd.Klines | ResampledKlines:
    async def run() -> ckvd.Klines | ResampledKlines:
        async with venue.data(use_rest=False) as data:
            return await data.get_klines("BTCUSDT", "1d", start=start, end=end, market=market, derive=True)

    return asyncio.run(run())


def test_bars_are_made_of_the_hours_that_are_there_without_a_request(venue: Venue) -> None:
    hourly = fetch(venue, "2024-02-01", "2024-03-01", use_rest=False)
    asked = venue.request_count
    days = derive(venue, "2024-02-01", "2024-03-01")
    assert venue.request_count == asked
    assert isinstance(days, ResampledKlines)
    assert len(days) == 29
    assert days.complete.all()
    assert days["close"][0] == hourly.close[23]
    assert days["high"][3] == max(hourly.high[72:96].tolist())


def test_what_nothing_shorter_covers_is_fetched(venue: Venue) -> None:
    days = derive(venue, "2024-02-01", "2024-03-01")
    assert isinstance(days, ckvd.Klines)
    assert len(days) == 29


def test_bars_that_are_there_are_not_made(venue: Venue) -> None:
    fetch(venue, "2024-02-01", "2024-03-01", use_rest=False)
    fetch(venue, "2024-02-01", "2024-03-01", DAYS, use_rest=False)
    assert isinstance(derive(venue, "2024-02-01", "2024-03-01"), ckvd.Klines)


def test_a_market_without_seconds_is_derived_from_what_it_has(venue: Venue) -> None:
    futures = SeriesKey.of("BTCUSDT", "1h", market="um")
    venue.publish(futures, "2024-02", hours("2024-02-01", "2024-03-01"))
    fetch(venue, "2024-02-01", "2024-03-01", futures, use_rest=False)
    assert isinstance(derive(venue, "2024-02-01", "2024-03-01", "um"), ResampledKlines)
    venue.publish(SeriesKey.of("BTCUSDT", "1d", market="um"), "2024-01", make_rows(range(0), DAY_MS))
    with pytest.raises(ckvd.NotCachedError):
        derive(venue, "2024-01-01", "2024-01-02", "um")

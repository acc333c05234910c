"""What failed is what is raised: no error tells a user to do what was just done."""

from __future__ import annotations

import asyncio
import socket
from typing import TYPE_CHECKING, Any

import pytest

import ckvd
from ckvd.errors import ChecksumMismatchError, NetworkError, NotCachedError, NotFetchedError, RegionRefusedError
from ckvd.model.timespan import Span
from ckvd.network.retry import RetryPolicy
from support.loopback.reply import Reply
from support.venue import HOURS, Venue, assert_equal, fetch, hours, rows_between

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

ROWS = hours("2024-01-01", "2024-03-20T11:00")


@pytest.fixture
def venue(tmp_path: Path) -> Iterator[Venue]:
    with Venue(tmp_path, "2024-03-20T10:30") as venue:
        yield venue


def nowhere() -> str:
    """An address at which nobody listens."""
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{unused.getsockname()[1]}"


def by_the_client(venue: Venue, **asked: Any) -> ckvd.Klines:
    """Through clients that try once, so that no test waits."""
    vision_url, rest_url = asked.pop("vision_url"), asked.pop("rest_url")

    async def run() -> ckvd.Klines:
        once = RetryPolicy(attempts_max=1)
        async with (
            ckvd.VisionDataClient(
                vision_url, cache=venue.cache_path, clock=venue.time.now_ms, retry=once
            ) as vision,
            ckvd.RestDataClient(base_url=rest_url, clock=venue.time.now_ms, retry=once) as rest,
            ckvd.CryptoKlineVisionData(
                cache=venue.cache_path, vision_client=vision, rest_client=rest, clock=venue.time.now_ms
            ) as data,
        ):
            klines: ckvd.Klines = await data.get_klines("BTCUSDT", "1h", **asked)
            return klines

    return asyncio.run(run())


def test_without_a_network_the_network_error_is_raised(venue: Venue) -> None:
    url = nowhere()
    with pytest.raises(NetworkError) as caught:
        by_the_client(venue, vision_url=url, rest_url=url, start="2024-02-01", end="2024-03-01")
    error = caught.value
    assert isinstance(error, NotFetchedError)
    assert isinstance(error, NotCachedError)
    assert isinstance(error.__cause__, NetworkError)
    assert str(error).startswith(str(error.__cause__))
    assert error.url == error.__cause__.url
    assert error.url.startswith(url)
    assert error.missing == (Span.of("2024-02-01", "2024-03-01"),)
    assert "spot/klines/BTCUSDT/1h lacks 2024-02-01..2024-03-01" in str(error)
    assert "ckvd download" not in str(error)


@pytest.mark.parametrize("derive", [False, True])
def test_the_synchronous_door_raises_it_too(venue: Venue, derive: bool) -> None:
    # A refusal that is not tried again, where a connection would be.
    venue.exchange.script(*[Reply(401, b'{"code": -1002, "msg": "Unauthorized."}')] * 20)
    with pytest.raises(NetworkError, match="-1002") as caught:
        ckvd.get_klines("BTCUSDT", "1h", start="2024-03-01", end="2024-03-10", derive=derive, **venue.options())
    assert isinstance(caught.value, NotCachedError)


def test_it_comes_through_the_door_of_a_notebook(venue: Venue) -> None:
    venue.exchange.script(*[Reply(401, b'{"code": -1002, "msg": "Unauthorized."}')] * 20)

    async def in_a_notebook() -> None:
        ckvd.get_klines("BTCUSDT", "1h", start="2024-03-01", end="2024-03-10", **venue.options())

    with pytest.raises(NetworkError, match="-1002"):
        asyncio.run(in_a_notebook())


def test_after_a_partial_failure_the_rest_is_stored_and_only_what_failed_is_missing(venue: Venue) -> None:
    for label, end in (("2024-01", "2024-02-01"), ("2024-02", "2024-03-01")):
        venue.publish(HOURS, label, rows_between(ROWS, label, end))
    venue.exchange.publish(HOURS, ROWS)
    path = "data/spot/monthly/klines/BTCUSDT/1h/BTCUSDT-1h-2024-02.zip"
    venue.mirror.script(path, Reply(403, b"no"), Reply(403, b"no"))
    with pytest.raises(NetworkError, match=r"BTCUSDT-1h-2024-02\.zip: the server answered 403") as caught:
        fetch(venue, "2024-01-01", "2024-03-10")
    assert isinstance(caught.value, NotCachedError)
    assert caught.value.missing == (Span.of("2024-02-01", "2024-03-01"),)

    async def ignore() -> ckvd.Klines:
        async with venue.data() as data:
            return await data.get_klines("BTCUSDT", "1h", start="2024-01-01", end="2024-03-10", missing="ignore")

    klines = asyncio.run(ignore())
    assert_equal(
        klines, [*rows_between(ROWS, "2024-01-01", "2024-02-01"), *rows_between(ROWS, "2024-03-01", "2024-03-10")]
    )
    assert klines.missing == (Span.of("2024-02-01", "2024-03-01"),)


def test_the_failure_that_concerns_what_is_missing_is_named(venue: Venue) -> None:
    # The exchange fails as well, but the missing month is that of the damaged archive.
    venue.publish(HOURS, "2024-01", rows_between(ROWS, "2024-01-01", "2024-02-01"), digest="0" * 64)
    with pytest.raises(NotCachedError, match="SHA-256") as caught:
        fetch(venue, "2024-01-01", "2024-02-01", use_rest=False)
    assert isinstance(caught.value.__cause__, ChecksumMismatchError)
    assert not isinstance(caught.value, NetworkError)


def test_a_refused_region_is_a_network_error_of_what_only_the_exchange_has(venue: Venue) -> None:
    venue.publish(HOURS, "2024-02", rows_between(ROWS, "2024-02-01", "2024-03-01"))
    venue.exchange.script(*[Reply(451, b'{"code": 0, "msg": "restricted location"}')] * 50)
    with pytest.raises(NetworkError, match="does not serve this region") as caught:
        fetch(venue, "2024-02-01", "now")
    assert isinstance(caught.value.__cause__, RegionRefusedError)
    assert caught.value.status == 451


def test_what_no_source_has_is_said_with_its_reason_and_time(venue: Venue) -> None:
    venue.publish(HOURS, "2024-01", rows_between(ROWS, "2024-01-01", "2024-02-01"))
    venue.publish(HOURS, "2024-03-01", rows_between(ROWS, "2024-03-01", "2024-03-02"))

    def ask() -> None:
        fetch(venue, "2024-01-01", "2024-03-01", use_rest=False)

    for _ in range(2):
        with pytest.raises(NotCachedError, match="no source that was asked has 2024-02-01") as caught:
            ask()
        assert "(no archive, asked for again from 2024-" in str(caught.value)
        assert "ckvd download" not in str(caught.value)
        assert not isinstance(caught.value, NetworkError)


def test_an_offline_client_says_that_it_is_offline(venue: Venue) -> None:
    with pytest.raises(NotCachedError, match=r"the client is offline, and the cache .* lacks 2024-01-01") as caught:
        fetch(venue, "2024-01-01", "2024-03-01", offline=True)
    assert not isinstance(caught.value, NetworkError)
    assert caught.value.__cause__ is None


def test_a_report_says_why_and_until_when(venue: Venue) -> None:
    venue.publish(HOURS, "2024-03-18", rows_between(ROWS, "2024-03-18", "2024-03-19"))

    async def ensure(start: str) -> ckvd.DownloadReport:
        async with venue.data(use_rest=False) as data:
            return await data.ensure("BTCUSDT", "1h", start=start, end="2024-03-21")

    report = asyncio.run(ensure("2024-03-19"))
    (missing,) = report.missing[HOURS]
    assert report.not_found == (HOURS,)
    assert report.why(HOURS, missing).startswith("no source has any of it, and nothing was stored")
    report = asyncio.run(ensure("2024-03-18"))
    (missing,) = report.missing[HOURS]
    expected = "no archive and not yet published, asked for again from 2024-03-20T16:30Z"
    assert report.why(HOURS, missing) == expected

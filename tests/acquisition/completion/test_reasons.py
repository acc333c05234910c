"""Every bar that is not there has a reason, and no failure takes other bars with it."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import ckvd
from ckvd.errors import HttpStatusError, SegmentCorruptError
from ckvd.model.market import DAY_MS, SeriesKey
from ckvd.model.timespan import Span, parse_time
from support.loopback.reply import Reply
from support.venue import HOURS, Venue, assert_equal, ensure, fetch, hours, rows_between

if TYPE_CHECKING:
    from collections.abc import Iterator

Reason = ckvd.Reason


@pytest.fixture
def venue(tmp_path: Path) -> Iterator[Venue]:
    with Venue(tmp_path, "2024-03-20T10:30") as venue:
        yield venue


def reasons(klines: ckvd.Klines) -> list[tuple[str, int]]:
    return [(gap.reason.value, gap.bar_count) for gap in klines.gaps]


def test_bars_before_the_listing_are_one_statement_and_cost_nothing_twice(venue: Venue) -> None:
    rows = hours("2024-03-05T08:00", "2024-03-20T11:00")
    venue.exchange.publish(HOURS, rows)
    klines = fetch(venue, "2023-06-01", "now")
    assert_equal(klines, rows_between(rows, "2024-03-05", "2024-03-20T10:00"))
    (gap,) = klines.gaps
    assert gap.reason is Reason.BEFORE_LISTING
    assert gap.end_ms == parse_time("2024-03-05T08:00")
    asked = venue.request_count
    assert fetch(venue, "2023-06-01", "now").gaps == klines.gaps
    assert venue.request_count == asked


def test_bars_after_the_last_one_are_after_delisting(venue: Venue) -> None:
    rows = hours("2023-11-01", "2023-12-10T04:00")
    venue.publish(HOURS, "2023-11", rows_between(rows, "2023-11-01", "2023-12-01"))
    venue.publish(HOURS, "2023-12", rows_between(rows, "2023-12-01", "2024-01-01"))
    venue.exchange.publish(HOURS, rows)
    klines = fetch(venue, "2023-11-01", "2024-02-01")
    assert_equal(klines, rows)
    assert {gap.reason for gap in klines.gaps} == {Reason.AFTER_DELISTING}
    assert sum(gap.bar_count for gap in klines.gaps) == (
        parse_time("2024-02-01") - parse_time("2023-12-10T04:00")
    ) // (DAY_MS // 24)
    asked = venue.request_count
    fetch(venue, "2023-11-01", "2024-02-01")
    assert venue.request_count == asked


def test_archives_of_a_symbol_that_the_exchange_forgot_are_kept(venue: Venue) -> None:
    rows = hours("2024-01-01", "2024-01-20")
    venue.publish(HOURS, "2024-01", rows)
    klines = fetch(venue, "2024-01-01", "2024-03-01")
    assert_equal(klines, rows)
    assert {gap.reason for gap in klines.gaps} == {Reason.AFTER_DELISTING}


def test_a_month_without_trading_is_no_end_where_archives_go_on(venue: Venue) -> None:
    rows = hours("2023-01-01", "2023-04-01")
    paused = [*rows_between(rows, "2023-01", "2023-02"), *rows_between(rows, "2023-03", "2023-04")]
    venue.publish(HOURS, "2023-01", rows_between(rows, "2023-01", "2023-02"))
    venue.publish(HOURS, "2023-03", rows_between(rows, "2023-03", "2023-04"))
    klines = fetch(venue, "2023-01-01", "2023-05-01")
    assert_equal(klines, paused)
    assert [gap.reason for gap in klines.gaps] == [Reason.HALTED, Reason.AFTER_DELISTING]
    venue.publish(HOURS, "2023-02", rows_between(rows, "2023-02", "2023-03"))
    venue.time.advance_to(parse_time("2024-09-01"))
    assert_equal(fetch(venue, "2023-01-01", "2023-04-01"), rows)


def test_a_symbol_without_a_bar_is_still_to_be_listed(venue: Venue) -> None:
    venue.exchange.publish(HOURS, [])
    assert {gap.reason for gap in fetch(venue, "2024-01-01", "now").gaps} == {Reason.BEFORE_LISTING}
    rows = hours("2024-03-20T12:00", "2024-03-22T11:00")
    venue.exchange.publish(HOURS, rows)
    venue.time.advance_to(parse_time("2024-03-22T10:30"))
    klines = fetch(venue, "2024-01-01", "now")
    assert_equal(klines, rows_between(rows, "2024-01-01", "2024-03-22T10:00"))
    assert [gap.reason for gap in klines.gaps] == [Reason.BEFORE_LISTING]


def test_days_that_archives_will_have_are_not_yet_published(venue: Venue) -> None:
    rows = hours("2024-03-18", "2024-03-19")
    venue.publish(HOURS, "2024-03-18", rows)
    report = ensure(venue, ["BTCUSDT"], "2024-03-18", "2024-03-21", use_rest=False)
    assert not report.is_complete
    with pytest.raises(ckvd.NotCachedError) as caught:
        fetch(venue, "2024-03-18", "2024-03-21", offline=True)
    assert caught.value.missing == (Span.of("2024-03-19", "2024-03-20T10:00"),)
    with ckvd.open_cache(venue.cache_path) as cache:
        klines = cache.read("BTCUSDT", "1h", start="2024-03-18", end="2024-03-20T10:00", missing="ignore")
    assert_equal(klines, rows)
    # The archive of the 19th was asked for: it may be there since 08:00 of the next day.
    assert reasons(klines) == [(Reason.NO_ARCHIVE.value, 24), (Reason.NOT_PUBLISHED.value, 10)]
    asked = venue.request_count
    ensure(venue, ["BTCUSDT"], "2024-03-18", "2024-03-21", use_rest=False)
    assert venue.request_count == asked


def test_what_could_not_be_had_without_the_rest_interface_is_had_with_it(venue: Venue) -> None:
    rows = hours("2024-03-18", "2024-03-20T13:00")
    venue.publish(HOURS, "2024-03-18", rows_between(rows, "2024-03-18", "2024-03-19"))
    venue.exchange.publish(HOURS, rows)
    assert not ensure(venue, ["BTCUSDT"], "2024-03-18", "now", use_rest=False).is_complete
    assert_equal(fetch(venue, "2024-03-18", "now"), rows_between(rows, "2024-03-18", "2024-03-20T10:00"))


def test_a_damaged_month_is_replaced_by_its_days(venue: Venue) -> None:
    rows = hours("2024-02-01", "2024-03-01")
    venue.publish(HOURS, "2024-02", rows, digest="0" * 64)
    for day in range(1, 30):
        start, end = f"2024-02-{day:02d}", "2024-03-01" if day == 29 else f"2024-02-{day + 1:02d}"
        venue.publish(HOURS, start, rows_between(rows, start, end))
    report = ensure(venue, ["BTCUSDT"], "2024-02-01", "2024-03-01", use_rest=False)
    assert report.is_complete
    assert [archive.period.label for archive in report.failed] == ["2024-02"]
    assert_equal(fetch(venue, "2024-02-01", "2024-03-01", offline=True), rows)


def test_one_unknown_symbol_does_not_lose_the_others(venue: Venue) -> None:
    rows = hours("2024-02-01", "2024-03-01")
    venue.publish(HOURS, "2024-02", rows)
    venue.exchange.publish(HOURS, rows)
    report = ensure(venue, ["BTCUSDT", "NOSUCHUSDT"], "2024-02-01", "2024-03-01")
    assert not report.missing[HOURS]
    assert report.missing[SeriesKey.of("NOSUCHUSDT", "1h")] == (Span.of("2024-02-01", "2024-03-01"),)
    assert any("NOSUCHUSDT" in str(error) or "Invalid symbol" in str(error) for error in report.errors)
    assert_equal(fetch(venue, "2024-02-01", "2024-03-01", offline=True), rows)


def test_a_damaged_segment_whose_archive_is_refused_does_not_lose_other_symbols(venue: Venue) -> None:
    other = SeriesKey.of("ETHUSDT", "1h")
    rows = hours("2024-02-01", "2024-03-01")
    venue.publish(HOURS, "2024-02", rows)
    venue.publish(other, "2024-02", [*rows[:500], *rows[501:]])
    venue.exchange.publish(HOURS, rows)
    venue.exchange.publish(other, rows)
    ensure(venue, ["BTCUSDT"], "2024-02-01", "2024-03-01")
    (segment,) = venue.cache_path.rglob("*.ckvd")
    os.truncate(segment, segment.stat().st_size // 2)
    venue.mirror.script("data/spot/monthly/klines/BTCUSDT/1h/BTCUSDT-1h-2024-02.zip", Reply(403, b"no"))
    report = ensure(venue, ["BTCUSDT", "ETHUSDT"], "2024-02-01", "2024-03-01")
    assert [type(error) for error in report.errors] == [HttpStatusError, SegmentCorruptError]
    assert report.missing == {HOURS: (Span.of("2024-02-01", "2024-03-01"),), other: ()}
    assert_equal(fetch(venue, "2024-02-01", "2024-03-01", other, offline=True), rows)


def test_a_failed_archive_alone_is_fetched_by_the_next_call(venue: Venue) -> None:
    rows = hours("2024-01-01", "2024-03-01")
    venue.publish(HOURS, "2024-01", rows_between(rows, "2024-01-01", "2024-02-01"))
    venue.publish(HOURS, "2024-02", rows_between(rows, "2024-02-01", "2024-03-01"))
    venue.exchange.publish(HOURS, rows)
    path = "data/spot/monthly/klines/BTCUSDT/1h/BTCUSDT-1h-2024-02.zip"
    venue.mirror.script(path, Reply(403, b"no"))
    report = ensure(venue, ["BTCUSDT"], "2024-01-01", "2024-03-01")
    assert [archive.period.label for archive in report.failed] == ["2024-02"]
    assert report.missing[HOURS] == (Span.of("2024-02-01", "2024-03-01"),)
    asked = len(venue.mirror.server.requests)
    assert_equal(fetch(venue, "2024-01-01", "2024-03-01"), rows)
    # The archive and its CHECKSUM.
    assert len(venue.mirror.server.requests) == asked + 2


def test_a_refusal_of_the_rest_interface_leaves_the_archives_and_is_named(venue: Venue) -> None:
    rows = hours("2024-02-01", "2024-03-20T11:00")
    venue.publish(HOURS, "2024-02", rows_between(rows, "2024-02-01", "2024-03-01"))
    venue.exchange.publish(HOURS, rows)
    venue.exchange.script(*[Reply(451, b'{"code": 0, "msg": "restricted location"}')] * 50)
    with pytest.raises(ckvd.NotCachedError) as caught:
        fetch(venue, "2024-02-01", "now")
    assert caught.value.missing == (Span.of("2024-03-01", "2024-03-20T10:00"),)
    assert "451" in str(caught.value.__cause__) or "region" in str(caught.value.__cause__)
    assert_equal(
        fetch(venue, "2024-02-01", "2024-03-01", offline=True), rows_between(rows, "2024-02-01", "2024-03-01")
    )


def test_offline_opens_no_socket_and_names_what_is_missing(venue: Venue) -> None:
    rows = hours("2024-02-01", "2024-03-01")
    venue.publish(HOURS, "2024-02", rows)
    fetch(venue, "2024-02-01", "2024-03-01", use_rest=False)
    program = """
import sys
def refuse(event, arguments):
    # asyncio wakes itself up through a pair of sockets, which is no connection.
    if event in ("socket.connect", "socket.getaddrinfo", "socket.bind"):
        raise SystemExit(f"{event} {arguments}")
sys.addaudithook(refuse)
import ckvd
options = {"cache": sys.argv[1], "offline": True}
klines = ckvd.get_klines("BTCUSDT", "1h", start="2024-02-01", end="2024-03-01", **options)
print(len(klines))
try:
    ckvd.get_klines("BTCUSDT", "1h", start="2024-01-01", end="2024-03-01", **options)
except ckvd.NotCachedError as error:
    print(error.missing[0])
"""
    finished = subprocess.run(  # noqa: PLW1510  (the assertion shows what went wrong)
        [sys.executable, "-W", "error", "-c", program, str(venue.cache_path)],
        capture_output=True,
        text=True,
        timeout=60,
        env={"PYTHONPATH": str(Path(ckvd.__file__).parents[1])},
    )
    assert finished.returncode == 0, finished.stderr
    assert finished.stdout.split() == ["696", "2024-01-01..2024-02-01"]


def test_the_synchronous_door_opens_in_a_script_a_thread_and_a_running_loop(venue: Venue) -> None:
    rows = hours("2024-03-19", "2024-03-20T11:00")
    venue.exchange.publish(HOURS, rows)
    expected = rows_between(rows, "2024-03-19", "2024-03-20T10:00")

    def get() -> ckvd.Klines:
        klines: ckvd.Klines = ckvd.get_klines("BTCUSDT", "1h", start="2024-03-19", end="now", **venue.options())
        return klines

    assert_equal(get(), expected)
    results: list[ckvd.Klines] = []
    thread = threading.Thread(target=lambda: results.append(get()))
    thread.start()
    thread.join()
    assert_equal(results[0], expected)

    async def in_a_notebook() -> ckvd.Klines:
        return get()

    assert_equal(asyncio.run(in_a_notebook()), expected)


def test_an_error_comes_through_the_synchronous_door_in_a_running_loop(venue: Venue) -> None:
    async def in_a_notebook() -> None:
        ckvd.get_klines("BTCUSDT", "1h", start="2024-03-19", end="2024-03-20", **venue.options(offline=True))

    with pytest.raises(ckvd.NotCachedError):
        asyncio.run(in_a_notebook())

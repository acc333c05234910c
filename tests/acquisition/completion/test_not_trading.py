"""A contract that does not trade is refused by the exchange (-1122): it ends, or it is still to begin."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

import ckvd
from ckvd.errors import InvalidSymbolError
from ckvd.model.market import HOUR_MS, Market, SeriesKey
from ckvd.model.timespan import Span, parse_time
from support.loopback.reply import Reply
from support.venue import HOURS, Venue, assert_equal, ensure_series, fetch, hours, rows_between

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

WAVES = SeriesKey.of("WAVESUSDT", "1h", market="um")
Reason = ckvd.Reason


@pytest.fixture
def venue(tmp_path: Path) -> Iterator[Venue]:
    with Venue(tmp_path, "2024-03-20T10:30") as venue:
        venue.exchange.suspend(Market.UM, "WAVESUSDT")
        yield venue


def read(venue: Venue, start: str, end: str, series: SeriesKey = WAVES) -> ckvd.Klines:
    with ckvd.open_cache(venue.cache_path) as cache:
        return cache.read_series(series, Span.of(start, end), missing="ignore")


def reasons(klines: ckvd.Klines) -> list[tuple[str, int]]:
    return [(gap.reason.value, gap.bar_count) for gap in klines.gaps]


def test_where_bars_are_held_there_are_none_after_them_and_that_is_settled(venue: Venue) -> None:
    rows = hours("2024-01-01", "2024-01-20T09:00")
    venue.publish(WAVES, "2024-01", rows)
    report = ensure_series(venue, WAVES, "2024-01-01", "now")
    assert report.is_complete
    assert not report.errors
    klines = fetch(venue, "2024-01-01", "now", WAVES)
    assert_equal(klines, rows)
    assert {gap.reason for gap in klines.gaps} == {Reason.AFTER_DELISTING}
    asked = venue.request_count
    assert fetch(venue, "2024-01-01", "now", WAVES).gaps == klines.gaps
    assert venue.request_count == asked


def test_a_contract_that_was_settled_an_hour_ago_has_no_bars_from_then_on(venue: Venue) -> None:
    rows = hours("2024-03-18", "2024-03-20T10:00")
    venue.exchange.resume(Market.UM, "WAVESUSDT")
    venue.exchange.publish(WAVES, rows)
    assert_equal(fetch(venue, "2024-03-18", "now", WAVES), rows)
    venue.exchange.suspend(Market.UM, "WAVESUSDT")
    venue.time.advance(2 * HOUR_MS)
    report = ensure_series(venue, WAVES, "2024-03-18", "now")
    assert (report.is_complete, report.errors) == (True, ())
    assert reasons(read(venue, "2024-03-18", "2024-03-20T12:00")) == [("after delisting", 2)]


def test_bars_that_the_exchange_no_longer_gives_come_with_their_archive(venue: Venue) -> None:
    rows = hours("2024-03-18", "2024-03-20T09:00")
    venue.publish(WAVES, "2024-03-18", rows_between(rows, "2024-03-18", "2024-03-19"))
    venue.publish(WAVES, "2024-03-19", rows_between(rows, "2024-03-19", "2024-03-20"))
    assert ensure_series(venue, WAVES, "2024-03-18", "now").is_complete
    venue.publish(WAVES, "2024-03-20", rows_between(rows, "2024-03-20", "2024-03-21"))
    venue.time.advance_to(parse_time("2024-03-21T12:00"))
    assert_equal(fetch(venue, "2024-03-18", "2024-03-21", WAVES), rows)


def test_where_no_bar_is_held_it_does_not_trade_and_is_asked_for_again_soon(venue: Venue) -> None:
    report = ensure_series(venue, WAVES, "2023-01-01", "now")
    assert report.missing[WAVES] == (Span.of("2023-01-01", "2024-03-20T10:00"),)
    rows = hours("2024-03-20T12:00", "2024-03-20T20:00")
    venue.exchange.resume(Market.UM, "WAVESUSDT")
    venue.exchange.publish(WAVES, rows)
    venue.time.advance_to(parse_time("2024-03-20T18:30"))
    klines = fetch(venue, "2023-01-01", "now", WAVES)
    assert_equal(klines, rows_between(rows, "2024-03-20", "2024-03-20T18:00"))
    assert {gap.reason for gap in klines.gaps} == {Reason.BEFORE_LISTING}


def test_a_contract_whose_archives_ended_before_the_span_has_no_bars_in_it(venue: Venue) -> None:
    venue.publish(WAVES, "2023-05", hours("2023-05-01", "2023-05-20"))
    report = ensure_series(venue, WAVES, "2023-07-01", "2023-09-01")
    assert (report.is_complete, report.errors) == (True, ())
    assert {gap.reason for gap in read(venue, "2023-07-01", "2023-09-01").gaps} == {Reason.AFTER_DELISTING}


def test_an_unknown_symbol_whose_archives_ended_before_the_span_as_well(venue: Venue) -> None:
    venue.publish(HOURS, "2023-05", hours("2023-05-01", "2023-05-20"))
    assert ensure_series(venue, HOURS, "2023-07-01", "2023-09-01").is_complete
    gaps = read(venue, "2023-07-01", "2023-09-01", HOURS).gaps
    assert {gap.reason for gap in gaps} == {Reason.AFTER_DELISTING}


@pytest.mark.parametrize("code", [-1121, -1122])
def test_a_hole_between_two_lives_of_a_ticker_is_not_after_delisting(venue: Venue, code: int) -> None:
    bnx = SeriesKey.of("BNXUSDT", "1h", market="um")
    if code == -1122:
        venue.exchange.suspend(Market.UM, "BNXUSDT")
    old, new = hours("2023-02-01", "2023-02-11T04:00"), hours("2023-02-22T14:00", "2023-03-05")
    venue.publish(bnx, "2023-02", [*old, *rows_between(new, "2023-02-01", "2023-03-01")])
    venue.publish(bnx, "2023-03", rows_between(new, "2023-03-01", "2023-04-01"))
    klines = fetch(venue, "2023-02-01", "2023-05-01", bnx)
    assert_equal(klines, [*old, *new])
    assert [gap.reason for gap in klines.gaps] == [Reason.HALTED, Reason.AFTER_DELISTING]


@pytest.mark.parametrize("code", [-1121, -1122])
def test_a_hole_before_a_life_that_is_not_in_the_cache_is_not_after_delisting(venue: Venue, code: int) -> None:
    bnx = SeriesKey.of("BNXUSDT", "1h", market="um")
    if code == -1122:
        venue.exchange.suspend(Market.UM, "BNXUSDT")
    old = hours("2022-12-01", "2022-12-11T04:00")
    venue.publish(bnx, "2022-12", old)
    venue.publish(bnx, "2023-02", hours("2023-02-22T14:00", "2023-03-01"))
    klines = fetch(venue, "2022-12-01", "2023-02-01", bnx)
    assert_equal(klines, old)
    assert {gap.reason for gap in klines.gaps} == {Reason.HALTED}


def test_a_contract_that_stops_trading_amid_healing_keeps_its_archives(venue: Venue) -> None:
    rows = hours("2024-01-01", "2024-02-01")
    lost = {parse_time("2024-01-10T05:00")}
    venue.publish(WAVES, "2024-01", [row for row in rows if int(row[0]) not in lost])
    venue.exchange.resume(Market.UM, "WAVESUSDT")
    venue.exchange.publish(WAVES, rows)
    refused = Reply(400, b'{"code": -1122, "msg": "Invalid symbol status."}')
    venue.exchange.script(lambda genuine: genuine, refused)
    report = ensure_series(venue, WAVES, "2024-01-01", "2024-02-01")
    assert (report.is_complete, report.errors) == (True, ())
    assert reasons(read(venue, "2024-01-01", "2024-02-01")) == [("halted", 1)]
    venue.time.advance_to(parse_time("2024-06-01"))
    assert_equal(fetch(venue, "2024-01-01", "2024-02-01", WAVES), rows)


def test_a_contract_that_stops_trading_amid_the_tail_comes_with_its_archives(venue: Venue) -> None:
    rows = hours("2024-01-01", "2024-03-20T08:00")
    venue.exchange.resume(Market.UM, "WAVESUSDT")
    venue.exchange.publish(WAVES, rows)
    refused = Reply(400, b'{"code": -1122, "msg": "Invalid symbol status."}')
    venue.exchange.script(lambda genuine: genuine, *[refused] * 20)
    assert not ensure_series(venue, WAVES, "2024-03-19", "now").errors
    for day in ("19", "20"):
        start, end = f"2024-03-{day}", f"2024-03-{int(day) + 1}"
        venue.publish(WAVES, start, rows_between(rows, start, end))
    venue.exchange.suspend(Market.UM, "WAVESUSDT")
    venue.time.advance_to(parse_time("2024-03-21T09:00"))
    klines = fetch(venue, "2024-03-19", "now", WAVES)
    assert_equal(klines, rows_between(rows, "2024-03-19", "2024-03-21"))


def test_a_symbol_of_another_market_is_unknown_in_this_one(venue: Venue) -> None:
    venue.exchange.publish(HOURS, hours("2024-03-18", "2024-03-20"))
    other = SeriesKey.of("BTCUSDT", "1h", market="um")
    report = ensure_series(venue, other, "2024-03-18", "2024-03-20")
    assert not report.is_complete
    assert isinstance(report.errors[0], InvalidSymbolError)
    assert "market um has no such symbol" in str(report.errors[0])


def test_a_pair_that_the_exchange_forgot_ends_like_a_symbol(venue: Venue) -> None:
    pair = SeriesKey.of("LUNAUSD", "1h", market="cm", kind="indexPriceKlines")
    rows = hours("2023-01-01", "2023-01-20")
    venue.publish(pair, "2023-01", rows)
    klines = fetch(venue, "2023-01-01", "2023-03-01", pair)
    assert_equal(klines, rows)
    assert {gap.reason for gap in klines.gaps} == {Reason.AFTER_DELISTING}


def test_a_delivered_contract_ends_with_its_delivery(venue: Venue) -> None:
    quarter = SeriesKey.of("BTCUSDT_231229", "1h", market="um")
    venue.exchange.suspend(Market.UM, "BTCUSDT_231229")
    rows = hours("2023-12-01", "2023-12-29T08:00")
    venue.publish(quarter, "2023-12", rows)
    report = ensure_series(venue, quarter, "2023-12-01", "now")
    assert (report.is_complete, report.errors) == (True, ())
    assert {gap.reason for gap in fetch(venue, "2023-12-01", "now", quarter).gaps} == {Reason.AFTER_DELISTING}

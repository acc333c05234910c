"""An archive that cannot be believed is no proof that there are no bars."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

import ckvd
from ckvd.errors import ChecksumMismatchError
from ckvd.model.provenance import Origin
from ckvd.model.timespan import Span, parse_time
from support.venue import HOURS, Venue, assert_equal, ensure, fetch, hours, rows_between

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from support.loopback.rows import Row

MONTHS = {"2023-01": "2023-02-01", "2023-02": "2023-03-01", "2023-03": "2023-04-01"}
# Long enough after it for damaged archives to be asked for again.
TODAY, TOMORROW = "2024-03-20T10:30", "2024-03-21T10:30"


@pytest.fixture
def venue(tmp_path: Path) -> Iterator[Venue]:
    with Venue(tmp_path, TODAY) as venue:
        yield venue


def publish(venue: Venue, rows: Sequence[Row], damaged: str = "", labels: Sequence[str] = tuple(MONTHS)) -> None:
    for label in labels:
        month = rows_between(rows, label, MONTHS[label])
        venue.publish(HOURS, label, month, digest="0" * 64 if label == damaged else None)


def read(venue: Venue, start: str, end: str) -> ckvd.Klines:
    with ckvd.open_cache(venue.cache_path) as cache:
        return cache.read("BTCUSDT", "1h", start=start, end=end, missing="ignore")


@pytest.mark.parametrize("label", MONTHS)
def test_bars_of_a_damaged_archive_that_nobody_else_has_are_missing_until_it_is_repaired(
    venue: Venue, label: str
) -> None:
    rows = hours("2023-01-01", "2023-04-01")
    publish(venue, rows, label)
    report = ensure(venue, ["BTCUSDT"], "2023-01-01", "2023-04-01")
    assert report.missing[HOURS] == (Span.of(label, MONTHS[label]),)
    with pytest.raises(ckvd.NotCachedError):
        fetch(venue, "2023-01-01", "2023-04-01")
    assert {gap.reason for gap in read(venue, "2023-01-01", "2023-04-01").gaps} == {ckvd.Reason.ARCHIVE_DAMAGED}
    publish(venue, rows)
    venue.time.advance_to(parse_time(TOMORROW))
    assert_equal(fetch(venue, "2023-01-01", "2023-04-01"), rows)


def test_a_damaged_archive_is_not_asked_for_again_at_once(venue: Venue) -> None:
    publish(venue, hours("2023-01-01", "2023-04-01"), "2023-02")
    ensure(venue, ["BTCUSDT"], "2023-01-01", "2023-04-01")
    asked = len(venue.mirror.server.requests)
    assert not ensure(venue, ["BTCUSDT"], "2023-01-01", "2023-04-01").is_complete
    assert not ensure(venue, ["BTCUSDT"], "2023-01-01", "2023-04-01", use_rest=False).is_complete
    assert len(venue.mirror.server.requests) == asked


def test_a_damaged_archive_from_before_the_listing_tells_of_an_earlier_one(venue: Venue) -> None:
    rows = hours("2023-01-01", "2023-03-01")
    publish(venue, rows, "2023-01", ("2023-01", "2023-02"))
    venue.exchange.publish(HOURS, rows_between(rows, "2023-02-01", "2023-03-01"))
    with pytest.raises(ckvd.NotCachedError) as caught:
        fetch(venue, "2022-12-01", "2023-03-01")
    assert caught.value.missing == (Span.of("2023-01-01", "2023-02-01"),)
    assert isinstance(caught.value.__cause__, ChecksumMismatchError)
    gaps = read(venue, "2022-12-01", "2023-03-01").gaps
    assert [gap.reason for gap in gaps] == [ckvd.Reason.BEFORE_LISTING, ckvd.Reason.ARCHIVE_DAMAGED]
    publish(venue, rows, labels=("2023-01",))
    venue.time.advance_to(parse_time(TOMORROW))
    assert_equal(fetch(venue, "2023-01-01", "2023-03-01"), rows)


def test_the_listing_may_lie_in_a_damaged_archive(venue: Venue) -> None:
    rows = hours("2023-01-10", "2023-02-01")
    publish(venue, rows, "2023-01", ("2023-01",))
    venue.exchange.publish(HOURS, rows)
    klines = fetch(venue, "2023-01-01", "2023-02-01")
    assert_equal(klines, rows)
    assert [gap.reason for gap in klines.gaps] == [ckvd.Reason.BEFORE_LISTING]


def test_a_month_that_the_rest_interface_has_in_part_is_missing_in_part(venue: Venue) -> None:
    rows = hours("2023-01-01", "2023-04-01")
    publish(venue, rows, "2023-02")
    known = [
        *rows_between(rows, "2023-01-01", "2023-01-02"),
        *rows_between(rows, "2023-02-10", "2023-02-20"),
        *rows_between(rows, "2023-03-01", "2023-04-01"),
    ]
    venue.exchange.publish(HOURS, known)
    with pytest.raises(ckvd.NotCachedError) as caught:
        fetch(venue, "2023-01-01", "2023-04-01")
    assert caught.value.missing == (Span.of("2023-02-01", "2023-02-10"), Span.of("2023-02-20", "2023-03-01"))
    assert_equal(read(venue, "2023-02-01", "2023-03-01"), rows_between(rows, "2023-02-10", "2023-02-20"))
    publish(venue, rows)
    venue.time.advance_to(parse_time(TOMORROW))
    klines = fetch(venue, "2023-01-01", "2023-04-01")
    assert_equal(klines, rows)
    assert {source.origin for source in klines.sources} == {Origin.VISION_MONTHLY}


def test_bars_of_a_damaged_month_are_missed_beside_the_days_of_it_that_there_are(venue: Venue) -> None:
    rows = hours("2023-01-01", "2023-04-01")
    publish(venue, rows, "2023-02")
    venue.publish(HOURS, "2023-02-01", rows_between(rows, "2023-02-01", "2023-02-02"))
    for now, use_rest in ((TODAY, True), (TOMORROW, False), (TOMORROW, True)):
        venue.time.advance_to(parse_time(now))
        report = ensure(venue, ["BTCUSDT"], "2023-01-01", "2023-04-01", use_rest=use_rest)
        assert report.missing[HOURS] == (Span.of("2023-02-02", "2023-03-01"),)


def test_the_rest_interface_stands_in_for_a_damaged_archive_until_it_is_repaired(venue: Venue) -> None:
    rows = hours("2023-01-01", "2023-04-01")
    publish(venue, rows, "2023-02")
    venue.exchange.publish(HOURS, rows)
    klines = fetch(venue, "2023-01-01", "2023-04-01")
    assert_equal(klines, rows)
    assert Origin.REST in {source.origin for source in klines.sources}
    publish(venue, rows)
    venue.time.advance_to(parse_time("2025-03-20"))
    klines = fetch(venue, "2023-01-01", "2023-04-01")
    assert_equal(klines, rows)
    assert {source.origin for source in klines.sources} == {Origin.VISION_MONTHLY}


def test_a_repaired_archive_is_had_at_once_when_that_is_wished(venue: Venue) -> None:
    rows = hours("2023-01-01", "2023-04-01")
    publish(venue, rows, "2023-02")
    ensure(venue, ["BTCUSDT"], "2023-01-01", "2023-04-01")

    async def refresh() -> ckvd.Klines:
        async with venue.data() as data:
            return await data.get_klines("BTCUSDT", "1h", start="2023-01-01", end="2023-04-01", refresh=True)

    with pytest.raises(ckvd.NotCachedError) as caught:
        asyncio.run(refresh())
    assert isinstance(caught.value.__cause__, ChecksumMismatchError)
    publish(venue, rows)
    assert_equal(asyncio.run(refresh()), rows)


def test_a_hole_in_what_stands_in_for_a_damaged_archive_keeps_its_reason(venue: Venue) -> None:
    rows = hours("2023-01-01", "2023-02-01")
    publish(venue, rows, "2023-01", ("2023-01",))
    venue.exchange.publish(
        HOURS, [row for row in rows if row not in rows_between(rows, "2023-01-10", "2023-01-11")]
    )

    async def refresh() -> ckvd.Klines:
        async with venue.data() as data:
            return await data.get_klines("BTCUSDT", "1h", start="2023-01-01", end="2023-02-01", refresh=True)

    for _ in range(2):
        assert [gap.reason for gap in asyncio.run(refresh()).gaps] == [ckvd.Reason.ARCHIVE_DAMAGED]
    publish(venue, rows, labels=("2023-01",))
    venue.time.advance_to(parse_time(TOMORROW))
    assert_equal(fetch(venue, "2023-01-01", "2023-02-01"), rows)


def test_a_hole_at_the_edge_of_a_damaged_day_is_a_hole_like_others(venue: Venue) -> None:
    rows = hours("2024-03-18", "2024-03-20")
    venue.publish(HOURS, "2024-03-18", rows_between(rows, "2024-03-18", "2024-03-19"))
    venue.publish(HOURS, "2024-03-19", rows_between(rows, "2024-03-19", "2024-03-20"), digest="0" * 64)
    known = [row for row in rows if row not in rows_between(rows, "2024-03-19", "2024-03-19T02:00")]
    venue.exchange.publish(HOURS, known)
    klines = fetch(venue, "2024-03-18", "2024-03-20")
    assert_equal(klines, known)
    assert [(gap.bar_count, gap.reason) for gap in klines.gaps] == [(2, ckvd.Reason.ARCHIVE_DAMAGED)]

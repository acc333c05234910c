"""Holes are looked up elsewhere, and looking them up says nothing of what lies beside them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

import ckvd
from ckvd.cache import CacheFolder
from ckvd.errors import ChecksumMismatchError, SegmentCorruptError
from ckvd.maintenance.verification import Severity, Trouble, verify_cache
from ckvd.model.market import MINUTE_MS, SeriesKey
from ckvd.model.provenance import Origin
from ckvd.model.timespan import Span, parse_time
from ckvd.vision.folder_source import FolderArchiveSource
from support.caches import flip, mend, segment_paths
from support.loopback.exchange import Exchange
from support.loopback.rows import Row, make_rows, open_ms_of
from support.venue import HOURS, Venue, assert_equal, ensure, fetch, hours, rows_between

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from ckvd.vision.name import ArchiveName
    from ckvd.vision.source import FetchedArchive

MINUTES = SeriesKey.of("BTCUSDT", "1m")


@pytest.fixture
def venue(tmp_path: Path) -> Iterator[Venue]:
    with Venue(tmp_path, "2024-03-20T01:00") as venue:
        yield venue


def without(rows: Iterable[Row], *opens: str) -> list[Row]:
    lost = {parse_time(moment) for moment in opens}
    return [row for row in rows if open_ms_of(row) not in lost]


def minutes(start: str, end: str) -> list[Row]:
    return make_rows(range(parse_time(start), parse_time(end), MINUTE_MS), MINUTE_MS)


def test_a_hole_in_the_running_day_does_not_end_the_day(venue: Venue) -> None:
    rows = without(minutes("2024-03-20", "2024-03-20T13:00"), "2024-03-20T00:30")
    venue.exchange.publish(MINUTES, rows)
    # The hole is looked up again after six hours, in the middle of the day.
    for now in ("01:00", "02:00", "07:30", "08:00", "12:00"):
        venue.time.advance_to(parse_time(f"2024-03-20T{now}"))
        klines = fetch(venue, "2024-03-20", "now", MINUTES)
        assert_equal(klines, rows_between(rows, "2024-03-20", f"2024-03-20T{now}"))
        assert [(gap.start_ms, gap.bar_count) for gap in klines.gaps] == [(parse_time("2024-03-20T00:30"), 1)]


def test_a_healed_day_of_the_rest_interface_is_replaced_when_its_archive_appears(venue: Venue) -> None:
    rows = without(hours("2024-03-19", "2024-03-22"), "2024-03-20T01:00")
    venue.exchange.publish(HOURS, rows)
    for now in ("2024-03-20T03:30", "2024-03-20T10:30"):
        venue.time.advance_to(parse_time(now))
        fetch(venue, "2024-03-20", "now")
    corrected = [(*row[:5], "777.5", *row[6:]) for row in rows_between(rows, "2024-03-20", "2024-03-21")]
    venue.publish(HOURS, "2024-03-20", corrected)
    venue.time.advance_to(parse_time("2024-03-21T12:30"))
    klines = fetch(venue, "2024-03-20", "2024-03-21")
    assert_equal(klines, corrected)
    assert {source.origin for source in klines.sources} == {Origin.VISION_DAILY}


def test_a_hole_that_is_asked_for_alone_is_healed_with_its_day(venue: Venue) -> None:
    rows = hours("2024-03-18", "2024-03-19")
    venue.publish(HOURS, "2024-03-18", without(rows, "2024-03-18T05:00", "2024-03-18T07:00"))
    venue.exchange.publish(HOURS, rows)
    asked = rows_between(rows, "2024-03-18T04:00", "2024-03-18T06:00")
    assert_equal(fetch(venue, "2024-03-18T04:00", "2024-03-18T06:00"), asked)
    assert_equal(fetch(venue, "2024-03-18", "2024-03-19", offline=True), rows)


def test_what_is_not_closed_at_the_exchange_is_not_explained(venue: Venue) -> None:
    rows = hours("2024-03-18", "2024-03-19")
    venue.publish(HOURS, "2024-03-18", without(rows, "2024-03-18T05:00", "2024-03-18T20:00"))
    behind_ms = parse_time("2024-03-18T12:30")
    with Exchange({HOURS: rows}, clock=lambda: behind_ms) as exchange:
        klines = fetch(venue, "2024-03-18", "2024-03-19", rest_url=exchange.url)
    assert_equal(klines, without(rows, "2024-03-18T20:00"))
    assert [gap.reason for gap in klines.gaps] == [ckvd.Reason.NOT_IN_ARCHIVE]
    venue.exchange.publish(HOURS, rows)
    assert_equal(fetch(venue, "2024-03-18", "2024-03-19"), rows)


def test_bars_that_could_not_be_had_are_not_part_of_a_day_that_is_healed(venue: Venue) -> None:
    rows = without(hours("2024-03-20", "2024-03-20T13:00"), "2024-03-20T03:00")
    venue.exchange.publish(HOURS, rows)
    venue.time.advance_to(parse_time("2024-03-20T05:30"))
    fetch(venue, "2024-03-20", "now")
    venue.time.advance_to(parse_time("2024-03-20T12:30"))
    report = ensure(venue, ["BTCUSDT"], "2024-03-20", "now", use_rest=False)
    assert report.missing[HOURS] == (Span.of("2024-03-20T05:00", "2024-03-20T12:00"),)


def publish_short_month(venue: Venue, rows: Iterable[Row]) -> None:
    """A month that lacks some hours of the 10th, whose daily archive is damaged."""
    lost = [f"2024-02-10T{hour:02d}" for hour in range(3, 9)]
    month = rows_between(rows, "2024-02-01", "2024-03-01")
    venue.publish(HOURS, "2024-02", without(month, *(f"{moment}:00" for moment in lost)))
    venue.publish(HOURS, "2024-02-10", rows_between(rows, "2024-02-10", "2024-02-11"), digest="0" * 64)


def test_a_damaged_daily_archive_does_not_keep_the_rest_interface_from_healing_a_month(venue: Venue) -> None:
    rows = hours("2024-02-01", "2024-03-20T01:00")
    publish_short_month(venue, rows)
    venue.exchange.publish(HOURS, rows)
    report = ensure(venue, ["BTCUSDT"], "2024-02-01", "2024-03-01")
    assert [type(error) for error in report.errors] == [ChecksumMismatchError]
    assert_equal(fetch(venue, "2024-02-01", "2024-03-01", offline=True), rows_between(rows, "2024-02", "2024-03"))


def test_bars_that_a_damaged_daily_archive_may_have_are_looked_up_until_it_is_repaired(venue: Venue) -> None:
    rows = hours("2024-02-01", "2024-03-01")
    publish_short_month(venue, rows)
    klines = fetch(venue, "2024-02-01", "2024-03-01")
    assert [(gap.bar_count, gap.reason) for gap in klines.gaps] == [(6, ckvd.Reason.ARCHIVE_DAMAGED)]
    venue.publish(HOURS, "2024-02-10", rows_between(rows, "2024-02-10", "2024-02-11"))
    venue.time.advance_to(parse_time("2024-03-21"))
    assert_equal(fetch(venue, "2024-02-01", "2024-03-01"), rows)


@pytest.mark.parametrize("use_rest", [True, False])
def test_a_day_that_the_month_lacks_is_asked_for_again(venue: Venue, use_rest: bool) -> None:
    rows = hours("2024-02-01", "2024-03-01")
    day = rows_between(rows, "2024-02-10", "2024-02-11")
    venue.publish(HOURS, "2024-02", [row for row in rows if row not in day])
    ensure(venue, ["BTCUSDT"], "2024-02-01", "2024-03-01", use_rest=use_rest)
    venue.publish(HOURS, "2024-02-10", day)
    venue.time.advance_to(parse_time("2024-04-20"))
    assert_equal(fetch(venue, "2024-02-01", "2024-03-01", use_rest=use_rest), rows)


@pytest.mark.parametrize("use_rest", [True, False])
def test_a_daily_archive_that_vanishes_between_its_check_and_its_reading_fails_alone(
    venue: Venue, monkeypatch: pytest.MonkeyPatch, use_rest: bool
) -> None:
    rows = hours("2023-03-01", "2023-04-01")
    short = [row for row in rows if row not in rows_between(rows, "2023-03-24", "2023-03-24T05:00")]
    ether = SeriesKey.of("ETHUSDT", "1h")
    venue.publish(HOURS, "2023-03", short)
    venue.publish(HOURS, "2023-03-24", rows_between(rows, "2023-03-24", "2023-03-25"))
    venue.publish(ether, "2023-03", rows)
    venue.exchange.publish(HOURS, rows)
    verify = FolderArchiveSource._verify

    def verify_and_lose(source: FolderArchiveSource, name: ArchiveName) -> FetchedArchive:
        fetched = verify(source, name)
        if name.period.label == "2023-03-24":
            fetched.path.unlink()
        return fetched

    monkeypatch.setattr(FolderArchiveSource, "_verify", verify_and_lose)
    symbols, mirror = ["BTCUSDT", "ETHUSDT"], {"vision_url": venue.root, "listing_url": None}
    report = ensure(venue, symbols, "2023-03-01", "2023-04-01", use_rest=use_rest, **mirror)
    (error,) = report.errors
    assert isinstance(error, ckvd.ArchiveError)
    assert "BTCUSDT-1h-2023-03-24.zip: cannot be read: No such file or directory" in str(error)
    assert not report.missing[ether]
    assert_equal(fetch(venue, "2023-03-01", "2023-04-01", ether, offline=True), rows)
    assert_equal(fetch(venue, "2023-03-01", "2023-04-01", offline=True), rows if use_rest else short)


def test_bars_of_a_damaged_segment_are_not_stored_again_under_a_checksum_of_their_own(venue: Venue) -> None:
    rows = hours("2024-03-20", "2024-03-21")
    venue.exchange.publish(HOURS, rows)
    venue.time.advance_to(parse_time("2024-03-20T05:30"))
    fetch(venue, "2024-03-20", "now")
    folder = CacheFolder(venue.cache_path)
    (path,) = segment_paths(folder)
    flip(path)
    venue.time.advance_to(parse_time("2024-03-20T12:30"))
    report = ensure(venue, ["BTCUSDT"], "2024-03-20", "now")
    (error,) = [error for completion in report.completions for error in completion.errors]
    assert isinstance(error, SegmentCorruptError)
    assert str(path) in str(error)
    assert [one.trouble for one in verify_cache(folder) if one.severity is Severity.ERROR] == [Trouble.DAMAGED]
    mend(folder)
    assert_equal(fetch(venue, "2024-03-20", "now"), rows_between(rows, "2024-03-20", "2024-03-20T12:00"))

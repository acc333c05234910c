"""Where only archives may be asked, their listing says where they begin and end; holes between them are losses."""

from __future__ import annotations

import csv
import gzip
import shutil
from typing import TYPE_CHECKING, Any

import pytest

import ckvd
from ckvd.cache.folder import CacheFolder
from ckvd.cache.store import SeriesStore
from ckvd.errors import RegionRefusedError
from ckvd.model.market import DAY_MS, HOUR_MS, Market, SeriesKey
from ckvd.model.provenance import Absence
from ckvd.model.table import empty_table
from ckvd.model.timespan import Span, parse_time
from support.loopback.reply import Reply
from support.loopback.rows import make_row, make_rows
from support.venue import HOURS, Venue, assert_equal, ensure_series, fetch, hours, rows_between

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from support.loopback.rows import Row

Reason = ckvd.Reason
REFUSED = Reply(451, b'{"code": 0, "msg": "Service unavailable from a restricted location."}')
# Listed on 2023-05-10, delisted on 2023-08-20.
LIFE = hours("2023-05-10T08:00", "2023-08-20T04:00")
MONTHS = {"2023-05": "2023-06", "2023-06": "2023-07", "2023-07": "2023-08", "2023-08": "2023-09"}


@pytest.fixture
def venue(tmp_path: Path) -> Iterator[Venue]:
    with Venue(tmp_path, "2024-03-20T10:30") as venue:
        yield venue


def publish_months(venue: Venue, rows: Sequence[Row], *labels: str, series: SeriesKey = HOURS) -> None:
    for label in labels or MONTHS:
        venue.publish(series, label, rows_between(rows, label, MONTHS[label]))


def publish_days(venue: Venue, rows: Sequence[Row], start: str, end: str, series: SeriesKey = HOURS) -> None:
    for start_ms in range(parse_time(start), parse_time(end), DAY_MS):
        span = Span(start_ms, start_ms + DAY_MS)
        day = [row for row in rows if int(row[0]) in span]
        if day:
            venue.publish(series, str(span).partition("..")[0], day)


def read(venue: Venue, start: str, end: str, series: SeriesKey = HOURS) -> ckvd.Klines:
    with ckvd.open_cache(venue.cache_path) as cache:
        return cache.read_series(series, Span.of(start, end), missing="ignore")


def reasons(klines: ckvd.Klines) -> list[str]:
    return list(dict.fromkeys(gap.reason.value for gap in klines.gaps))


def from_site(_venue: Venue) -> dict[str, Any]:
    return {"use_rest": False}


def from_folder(venue: Venue) -> dict[str, Any]:
    return {"use_rest": False, "vision_url": venue.root}


def from_refused_region(venue: Venue) -> dict[str, Any]:
    venue.exchange.script(*[REFUSED] * 200)
    return {}


def from_behind_a_firewall(venue: Venue) -> dict[str, Any]:
    venue.exchange.script(*[Reply(403, b"<html>no</html>")] * 200)
    return {}


WAYS = [from_site, from_folder, from_refused_region, from_behind_a_firewall]


@pytest.mark.parametrize("way", WAYS)
def test_a_symbol_that_was_listed_and_delisted_inside_the_span_completes(
    venue: Venue, way: Callable[[Venue], dict[str, Any]]
) -> None:
    publish_months(venue, LIFE)
    publish_days(venue, LIFE, "2023-05-10", "2023-08-21")
    options = way(venue)
    report = ensure_series(venue, HOURS, "2023-01-01", "now", **options)
    assert report.is_complete
    klines = fetch(venue, "2023-01-01", "now", **options)
    assert_equal(klines, LIFE)
    assert reasons(klines) == ["before the first archive", "after the last archive"]
    assert klines.gaps[0].span == Span.of("2023-01-01", "2023-05-10T08:00")
    assert [type(error) for error in report.errors] == (
        [RegionRefusedError] if options.get("use_rest", True) else []
    )


def test_what_the_listing_has_settled_is_asked_for_when_its_time_has_come(venue: Venue) -> None:
    publish_months(venue, LIFE)
    publish_days(venue, LIFE, "2023-05-10", "2023-08-21")
    ensure_series(venue, HOURS, "2023-01-01", "2024-03-01", use_rest=False)
    asked = venue.request_count
    assert ensure_series(venue, HOURS, "2023-01-01", "2024-03-01", use_rest=False).is_complete
    assert venue.request_count == asked
    # The ticker is listed again.
    second = hours("2024-02-10", "2024-03-01")
    venue.publish(HOURS, "2024-02", second)
    venue.time.advance_to(parse_time("2024-09-01"))
    report = ensure_series(venue, HOURS, "2023-01-01", "2024-03-01", use_rest=False)
    assert_equal(read(venue, "2023-01-01", "2024-03-01"), [*LIFE, *second])
    # What was after the last archive is a hole between archives by now.
    assert report.missing[HOURS] == (Span.of("2023-08-21", "2024-02-10"),)


def test_a_hole_between_archives_stays_a_loss(venue: Venue) -> None:
    publish_months(venue, LIFE, "2023-05", "2023-06", "2023-08")
    report = ensure_series(venue, HOURS, "2023-01-01", "2024-01-01", use_rest=False)
    assert report.missing[HOURS] == (Span.of("2023-07-01", "2023-08-01"),)
    assert reasons(read(venue, "2023-07-01", "2023-08-01")) == ["no archive"]
    asked = venue.request_count
    assert not ensure_series(venue, HOURS, "2023-01-01", "2024-01-01", use_rest=False).is_complete
    assert venue.request_count == asked


@pytest.mark.parametrize("label", MONTHS)
def test_a_damaged_archive_stays_a_loss_also_where_it_is_the_first_or_the_last(venue: Venue, label: str) -> None:
    rows = hours("2023-05-01", "2023-09-01")
    for month, end in MONTHS.items():
        venue.publish(HOURS, month, rows_between(rows, month, end), digest="0" * 64 if month == label else None)
    report = ensure_series(venue, HOURS, "2023-04-01", "2023-10-01", use_rest=False)
    assert report.missing[HOURS] == (Span.of(label, MONTHS[label]),)
    assert report.failed


def test_a_symbol_without_any_archive_is_no_answer(venue: Venue) -> None:
    publish_months(venue, LIFE)
    nosuch = SeriesKey.of("NOSUCHUSDT", "1h")
    report = ensure_series(venue, nosuch, "2023-01-01", "2023-03-01", use_rest=False)
    assert report.missing[nosuch] == (Span.of("2023-01-01", "2023-03-01"),)


def test_a_listing_that_cannot_be_read_settles_nothing(venue: Venue) -> None:
    publish_months(venue, LIFE)
    venue.mirror.script("bucket", *[Reply(403, b"<Error><Code>AccessDenied</Code></Error>")] * 100)
    report = ensure_series(venue, HOURS, "2023-01-01", "2023-07-01", use_rest=False)
    assert report.missing[HOURS] == (Span.of("2023-01-01", "2023-05-10"),)
    assert reasons(read(venue, "2023-01-01", "2023-05-01")) == ["no archive"]


def cut(genuine: Reply) -> Reply:
    """A page of a listing whose end is lost."""
    return Reply(200, genuine.body[: len(genuine.body) * 2 // 3], genuine.headers)


def endless(genuine: Reply) -> Reply:
    """A page that says that there are more, and names the same again."""
    return Reply(200, genuine.body.replace(b"<IsTruncated>false", b"<IsTruncated>true"), genuine.headers)


@pytest.mark.parametrize("change", [cut, endless])
def test_a_listing_that_is_cut_off_settles_nothing(venue: Venue, change: Callable[[Reply], Reply]) -> None:
    publish_months(venue, LIFE)
    venue.mirror.script("bucket", *[change] * 1000)
    report = ensure_series(venue, HOURS, "2023-04-01", "2023-07-01", use_rest=False)
    assert report.missing[HOURS] == (Span.of("2023-04-01", "2023-05-10"),)


def test_a_listing_of_many_pages_is_read_to_its_end(tmp_path: Path) -> None:
    with Venue(tmp_path, "2024-03-20T10:30") as venue:
        publish_months(venue, LIFE)
        publish_days(venue, LIFE, "2023-05-10", "2023-08-21")
        venue.mirror._page_size = 7
        assert ensure_series(venue, HOURS, "2023-01-01", "now", use_rest=False).is_complete


def test_days_that_are_late_are_not_yet_an_end(venue: Venue) -> None:
    rows = hours("2024-03-01", "2024-03-20")
    publish_days(venue, rows, "2024-03-01", "2024-03-16")
    report = ensure_series(venue, HOURS, "2024-03-10", "now", use_rest=False)
    assert report.missing[HOURS] == (Span.of("2024-03-16", "2024-03-20T10:00"),)
    venue.time.advance_to(parse_time("2024-03-21T10:00"))
    publish_days(venue, rows, "2024-03-16", "2024-03-20")
    klines = fetch(venue, "2024-03-10", "2024-03-20", use_rest=False)
    assert_equal(klines, rows_between(rows, "2024-03-10", "2024-03-20"))
    # Nothing came for more than a week.
    venue.time.advance_to(parse_time("2024-04-02T10:00"))
    assert ensure_series(venue, HOURS, "2024-03-10", "now", use_rest=False).is_complete
    assert reasons(read(venue, "2024-03-10", "2024-04-02T10:00")) == ["after the last archive"]


def test_a_month_that_is_not_published_yet_is_no_end_where_there_are_no_days(venue: Venue) -> None:
    rows = hours("2024-01-01", "2024-04-01")
    venue.publish(HOURS, "2024-01", rows_between(rows, "2024-01-01", "2024-02-01"))
    venue.publish(HOURS, "2024-02", rows_between(rows, "2024-02-01", "2024-03-01"))
    venue.time.advance_to(parse_time("2024-04-10T10:00"))
    report = ensure_series(venue, HOURS, "2024-01-01", "2024-04-01", use_rest=False)
    assert report.missing[HOURS] == (Span.of("2024-03-01", "2024-04-01"),)
    venue.publish(HOURS, "2024-03", rows_between(rows, "2024-03-01", "2024-04-01"))
    venue.time.advance_to(parse_time("2024-05-01"))
    assert_equal(fetch(venue, "2024-01-01", "2024-04-01", use_rest=False), rows)


def test_a_month_that_is_cut_short_is_no_end_until_it_would_have_been_repaired(venue: Venue) -> None:
    rows = hours("2023-12-01", "2024-02-07")
    venue.publish(HOURS, "2023-12", rows_between(rows, "2023-12-01", "2024-01-01"))
    venue.publish(HOURS, "2024-01", rows_between(rows, "2024-01-01", "2024-01-07"))
    report = ensure_series(venue, HOURS, "2023-12-01", "2024-03-01", use_rest=False)
    assert report.missing[HOURS][-1].end_ms == parse_time("2024-03-01")
    venue.time.advance_to(parse_time("2024-09-01"))
    assert ensure_series(venue, HOURS, "2023-12-01", "2024-03-01", use_rest=False).is_complete


@pytest.mark.parametrize("is_given_up", [True, False])
def test_archives_of_weeks_that_were_given_up_are_no_end_of_the_series(venue: Venue, is_given_up: bool) -> None:
    weeks, days = SeriesKey.of("BTCUSDT", "1w"), SeriesKey.of("BTCUSDT", "1d")
    week_rows = make_rows(range(parse_time("2023-05-01"), parse_time("2023-06-01"), 7 * DAY_MS), 7 * DAY_MS)
    venue.publish(weeks, "2023-05", week_rows)
    day_rows = make_rows(range(parse_time("2023-05-01"), parse_time("2023-12-01"), DAY_MS), DAY_MS)
    venue.publish(days, "2023-05-31", rows_between(day_rows, "2023-05-31", "2023-06-01"))
    if is_given_up:
        venue.publish(days, "2023-11-30", rows_between(day_rows, "2023-11-30", "2023-12-01"))
    report = ensure_series(venue, weeks, "2023-05-01", "2023-10-02", use_rest=False)
    assert report.is_complete is not is_given_up


def test_with_the_rest_interface_it_is_asked_for_what_archives_have_settled(venue: Venue) -> None:
    publish_months(venue, LIFE)
    publish_days(venue, LIFE, "2023-05-10", "2023-08-21")
    ensure_series(venue, HOURS, "2023-05-01", "2024-01-01", use_rest=False)
    # The mirror had not all: the exchange has more on both sides.
    whole = hours("2023-05-02", "2023-12-01")
    venue.exchange.publish(HOURS, whole)
    klines = fetch(venue, "2023-05-01", "2024-01-01")
    assert_equal(klines, whole)
    assert reasons(klines) == ["before listing", "after delisting"]
    asked = venue.request_count
    fetch(venue, "2023-05-01", "2024-01-01")
    assert venue.request_count == asked


def test_a_refused_region_is_reported_and_settles_without_a_change_of_the_cache(venue: Venue) -> None:
    publish_months(venue, LIFE)
    publish_days(venue, LIFE, "2023-05-10", "2023-08-21")
    venue.exchange.script(*[REFUSED] * 200)
    ensure_series(venue, HOURS, "2023-01-01", "now")
    segments = sorted(path.name for path in venue.cache_path.rglob("*.ckvd"))
    requests = len(venue.mirror.server.requests)
    report = ensure_series(venue, HOURS, "2023-01-01", "now")
    assert report.is_complete
    assert [type(error) for error in report.errors] == [RegionRefusedError]
    assert sorted(path.name for path in venue.cache_path.rglob("*.ckvd")) == segments
    assert len(venue.mirror.server.requests) == requests


def test_what_only_the_rest_interface_has_stays_missing_where_the_region_is_refused(venue: Venue) -> None:
    rows = hours("2024-03-01", "2024-03-20")
    publish_days(venue, rows, "2024-03-01", "2024-03-20")
    venue.exchange.script(*[REFUSED] * 200)
    report = ensure_series(venue, HOURS, "2024-02-01", "now")
    assert report.missing[HOURS] == (Span.of("2024-03-20", "2024-03-20T10:00"),)
    assert reasons(read(venue, "2024-02-01", "2024-03-20T10:00")) == [
        "before the first archive",
        "not yet published",
    ]


def test_a_mirror_that_lost_its_first_month_is_asked_again_at_once_when_that_is_wished(venue: Venue) -> None:
    publish_months(venue, LIFE, "2023-06", "2023-07", "2023-08")
    assert ensure_series(venue, HOURS, "2023-05-01", "2023-08-20", use_rest=False).is_complete
    publish_months(venue, LIFE, "2023-05")
    report = ensure_series(venue, HOURS, "2023-05-01", "2023-08-20", use_rest=False, refresh=True)
    assert report.is_complete
    assert_equal(read(venue, "2023-05-01", "2023-08-21"), LIFE)


def test_real_archives_of_a_symbol_begin_with_its_listing(shared_data: Path, tmp_path: Path) -> None:
    minutes = SeriesKey.of("ARBUSDT", "1m")
    folder = "data/spot/daily/klines/ARBUSDT/1m"
    with Venue(tmp_path, "2024-03-20T10:30") as venue:
        shutil.copytree(shared_data / "vision" / folder, venue.root / folder)
        report = ensure_series(venue, minutes, "2023-01-01", "2023-06-01", use_rest=False)
        assert report.is_complete
        klines = read(venue, "2023-01-01", "2023-06-01", minutes)
    assert len(klines) > 50_000
    assert klines.gaps[0].reason is Reason.BEFORE_ARCHIVES
    assert klines.gaps[0].start_ms == parse_time("2023-01-01")
    assert klines.gaps[-1].span == Span.of("2023-05-01", "2023-06-01")
    assert klines.gaps[-1].reason is Reason.AFTER_ARCHIVES


def test_a_cache_of_an_older_version_completes_with_the_next_download(venue: Venue) -> None:
    """Older versions wrote "not in archive" without reading the listing, to be asked for again in months."""
    publish_months(venue, LIFE)
    publish_days(venue, LIFE, "2023-05-10", "2023-08-21")
    folder = CacheFolder.at(venue.cache_path)
    later_ms = parse_time("2025-01-01")
    for span in (Span.of("2022-01-01", "2023-05-01"), Span.of("2023-09-01", "2024-02-01")):
        old = Absence(span.start_ms, span.end_ms, Reason.NOT_IN_ARCHIVE, later_ms)
        SeriesStore(folder, HOURS).put(empty_table(HOURS), span, absences=[old], recheck_ms=later_ms)
    report = ensure_series(venue, HOURS, "2022-01-01", "2024-02-01", use_rest=False)
    assert report.is_complete
    assert reasons(read(venue, "2022-01-01", "2024-02-01")) == [
        "before the first archive",
        "after the last archive",
    ]
    asked = venue.request_count
    assert ensure_series(venue, HOURS, "2022-01-01", "2024-02-01", use_rest=False).is_complete
    assert venue.request_count == asked


def test_a_loss_of_an_older_version_is_looked_at_once_and_stays_a_loss(venue: Venue) -> None:
    publish_months(venue, LIFE, "2023-05", "2023-06", "2023-08")
    span, later_ms = Span.of("2023-07-01", "2023-08-01"), parse_time("2025-01-01")
    old = Absence(span.start_ms, span.end_ms, Reason.NOT_IN_ARCHIVE, later_ms)
    SeriesStore(CacheFolder.at(venue.cache_path), HOURS).put(
        empty_table(HOURS), span, absences=[old], recheck_ms=later_ms
    )
    for _ in range(2):
        report = ensure_series(venue, HOURS, "2023-06-01", "2023-08-10", use_rest=False)
        assert report.missing[HOURS] == (span,)
        asked = venue.request_count
    ensure_series(venue, HOURS, "2023-06-01", "2023-08-10", use_rest=False)
    assert venue.request_count == asked


def hours_of(path: Path) -> list[Row]:
    """Real bars of a file of other people, as rows of an archive."""
    rows = []
    with gzip.open(path, "rt") as file:
        for record in csv.DictReader(file):
            row = list(make_row(int(record["timestamp"]), int(record["timestamp"]) + HOUR_MS - 1))
            row[1:6] = [record[name] for name in ("open", "high", "low", "close", "volume")]
            rows.append(tuple(row))
    return rows


@pytest.mark.parametrize("is_suspended", [False, True])
def test_a_real_contract_begins_and_ends_where_its_files_do(
    shared_data: Path, tmp_path: Path, is_suspended: bool
) -> None:
    """Its files go on after its settlement on 2024-06-11, with flat bars: they are kept, and are no end."""
    waves = SeriesKey.of("WAVESUSDT", "1h", market="um")
    rows = rows_between(hours_of(shared_data / "delisted" / "WAVES_USDT_1h.csv.gz"), "2024-05", "2024-08")
    first = rows_between(rows, "2024-05-20", "2024-06")
    with Venue(tmp_path, "2026-07-01") as venue:
        venue.exchange.suspend(Market.UM, "WAVESUSDT")
        venue.publish(waves, "2024-05", first)
        venue.publish(waves, "2024-06", rows_between(rows, "2024-06", "2024-07"))
        venue.publish(waves, "2024-07", rows_between(rows, "2024-07", "2024-08"))
        report = ensure_series(venue, waves, "2023-01-01", "now", use_rest=is_suspended)
        assert (report.is_complete, report.errors) == (True, ())
        klines = read(venue, "2023-01-01", "2026-07-01", waves)
    assert_equal(klines, [*first, *rows_between(rows, "2024-06", "2024-08")])
    assert reasons(klines) == (
        ["before listing", "after delisting"]
        if is_suspended
        else ["before the first archive", "after the last archive"]
    )
    assert klines.gaps[-1].start_ms == parse_time("2024-08-01")

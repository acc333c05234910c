"""An update brings each series from where it ends to the present, and asks for nothing twice."""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import signal
import subprocess
import sys
import threading
from typing import TYPE_CHECKING, Any

import pytest

import ckvd
from ckvd.cache import CacheFolder
from ckvd.maintenance.verification import verify_cache
from ckvd.model.market import DAY_MS, HOUR_MS, SeriesKey
from ckvd.model.provenance import Reason
from ckvd.model.timespan import Span, format_time, parse_time
from support.locked import held_elsewhere
from support.loopback.rows import Row, make_rows, open_ms_of
from support.places import IS_WHOLE
from support.processes import ENVIRONMENT
from support.tables import folder_state
from support.venue import HOURS, Venue, assert_equal, ensure, ensure_series, hours, rows_between

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from ckvd.acquisition.report import DownloadPlan, DownloadReport, Progress

# The archive of the day before yesterday is there on the morning of the second; that of yesterday follows at eight.
START, NOW = "2024-03-01", "2024-03-03T03:30"
ETHER = SeriesKey.of("ETHUSDT", "1h")


def closed_hours(venue: Venue, start: str = START) -> list[Row]:
    return hours(start, format_time(venue.time.now_ms() // HOUR_MS * HOUR_MS))


def fill(venue: Venue, *symbols: str, rows: Sequence[Row] = ()) -> None:
    """Put symbols on the exchange, with two days and a month of bars to come, and the archive of the first day."""
    rows = rows or hours(START, "2024-04-15")
    for symbol in symbols:
        series = SeriesKey.of(symbol, "1h")
        venue.exchange.publish(series, rows)
        publish_day(venue, series, START)


def publish_day(venue: Venue, series: SeriesKey, day: str) -> None:
    venue.publish(series, day, hours(day, format_time(parse_time(day) + DAY_MS)))


def update(
    venue: Venue, *symbols: str, on_progress: Callable[[Progress], None] | None = None, **changes: Any
) -> DownloadReport:
    async def run() -> DownloadReport:
        async with venue.data(**changes) as data:
            return await data.update(symbols or None, on_progress=on_progress)

    return asyncio.run(run())


def survey_update(venue: Venue) -> DownloadPlan:
    async def run() -> DownloadPlan:
        async with venue.data() as data:
            return await data.survey_update(list(data.folder.series()))

    return asyncio.run(run())


def read(venue: Venue, series: SeriesKey = HOURS) -> ckvd.Klines:
    with ckvd.open_cache(venue.cache_path) as cache:
        return cache.read(series.symbol, series.bar_interval, market=series.market)


def assert_current(venue: Venue, *all_series: SeriesKey) -> None:
    for series in all_series:
        assert_equal(read(venue, series), closed_hours(venue))


@pytest.fixture
def venue(tmp_path: Path) -> Iterator[Venue]:
    with Venue(tmp_path, NOW) as venue:
        fill(venue, "BTCUSDT", "ETHUSDT")
        assert ensure(venue, ["BTCUSDT", "ETHUSDT"], START, "2024-03-03").is_complete
        yield venue


# --- What is asked for -------------------------------------------------------------------------------------


def test_every_series_is_brought_from_where_it_ends_to_the_last_closed_bar(venue: Venue) -> None:
    report = update(venue)
    assert report.is_complete
    assert list(report.spans) == [HOURS, ETHER]
    assert report.spans[HOURS] == Span.of("2024-03-03", "2024-03-03T03:00")
    assert_current(venue, HOURS, ETHER)


def test_a_second_update_makes_no_request(venue: Venue) -> None:
    update(venue)
    before = venue.request_count
    state = folder_state(venue.cache_path)
    report = update(venue)
    assert venue.request_count == before
    assert folder_state(venue.cache_path) == state
    assert (report.spans, report.current, report.is_complete, report.covered_before) == (
        {},
        (HOURS, ETHER),
        True,
        True,
    )


def test_only_bars_that_closed_meanwhile_are_asked_for(venue: Venue) -> None:
    update(venue)
    venue.time.advance(2 * HOUR_MS)
    asked = len(venue.mirror.server.requests)
    report = update(venue, "BTCUSDT")
    assert report.spans == {HOURS: Span.of("2024-03-03T03:00", "2024-03-03T05:00")}
    assert [one.rest_bar_count for one in report.completions] == [2]
    assert len(venue.mirror.server.requests) == asked
    assert_current(venue, HOURS)


def test_provisional_bars_are_replaced_when_their_archive_is_there(venue: Venue) -> None:
    update(venue)
    for series in (HOURS, ETHER):
        for day in ("2024-03-02", "2024-03-03"):
            publish_day(venue, series, day)
    venue.time.advance_to(parse_time("2024-03-04T09:30"))
    report = update(venue)
    assert {str(one.period) for one in report.stored} == {"2024-03-02", "2024-03-03"}
    assert_current(venue, HOURS, ETHER)
    names = {source.name.rpartition("/")[2] for source in read(venue).sources}
    assert {"BTCUSDT-1h-2024-03-02.zip", "BTCUSDT-1h-2024-03-03.zip"} <= names
    before = venue.request_count
    assert update(venue).covered_before
    assert venue.request_count == before


def test_what_was_unavailable_is_asked_for_when_its_time_has_come(venue: Venue) -> None:
    """Only archives may be asked: the second day has none yet."""
    solana = SeriesKey.of("SOLUSDT", "1h")
    publish_day(venue, solana, START)
    ensure_series(venue, solana, START, "2024-03-03", use_rest=False)
    before = venue.request_count
    assert update(venue, "SOLUSDT", use_rest=False).spans in (
        {},
        {solana: Span.of("2024-03-03", "2024-03-03T03:00")},
    )
    publish_day(venue, solana, "2024-03-02")
    asked = len([one for one in venue.mirror.server.requests if "SOLUSDT-1h-2024-03-02" in one.path])
    venue.time.advance_to(parse_time("2024-03-03T08:30"))
    report = update(venue, "SOLUSDT", use_rest=False)
    assert venue.request_count > before
    assert len([one for one in venue.mirror.server.requests if "SOLUSDT-1h-2024-03-02" in one.path]) > asked
    assert [str(one.period) for one in report.stored] == ["2024-03-02"]


def test_what_only_archives_were_asked_for_is_asked_of_the_exchange_when_it_may_be(venue: Venue) -> None:
    solana = SeriesKey.of("SOLUSDT", "1h")
    fill(venue, "SOLUSDT")
    ensure_series(venue, solana, START, "2024-03-03", use_rest=False)
    assert update(venue, "SOLUSDT").is_complete
    assert_current(venue, solana)
    before = venue.request_count
    assert update(venue, "SOLUSDT").covered_before
    assert venue.request_count == before


def test_what_was_never_asked_for_stays_unknown(venue: Venue) -> None:
    """Two parts of a series, and a time between them that nobody wanted."""
    venue.exchange.publish(HOURS, hours("2024-01-01", "2024-04-15"))
    ensure_series(venue, HOURS, "2024-02-01", "2024-02-02")
    before = held_spans(venue)
    update(venue)
    after = held_spans(venue)
    assert [str(span) for span in before] == ["2024-02-01..2024-02-02", "2024-03-01..2024-03-03"]
    assert [str(span) for span in after] == ["2024-02-01..2024-02-02", "2024-03-01..2024-03-03T03:00Z"]
    publish_day(venue, HOURS, "2024-02-01")
    venue.time.advance_to(parse_time("2024-03-20T12:30"))
    assert update(venue).is_complete  # also where the first part is due once more
    assert str(held_spans(venue)[0]) == "2024-02-01..2024-02-02"


def held_spans(venue: Venue) -> tuple[Span, ...]:
    with ckvd.open_cache(venue.cache_path) as cache:
        return cache.coverage(HOURS)


def test_the_end_of_a_series_that_has_ended_is_asked_for_once_a_day(venue: Venue) -> None:
    old = SeriesKey.of("OLDUSDT", "1h")
    venue.exchange.publish(old, hours(START, "2024-03-01T12:00"))
    ensure_series(venue, old, START, "2024-03-03T03:00")
    with ckvd.open_cache(venue.cache_path) as cache:
        gaps = cache.read("OLDUSDT", "1h", start=START, end="2024-03-03T03:00").gaps
    # The exchange may only be at rest since the last midnight.
    assert [gap.reason for gap in gaps] == [Reason.AFTER_DELISTING, Reason.HALTED]
    before = venue.request_count
    venue.time.advance(5 * HOUR_MS)  # before the time to ask again for what is not certain
    assert update(venue, "OLDUSDT").current == (old,)
    assert venue.request_count == before
    venue.time.advance(20 * HOUR_MS)
    assert old in update(venue, "OLDUSDT").spans


def test_a_segment_that_cannot_be_read_is_fetched_again(venue: Venue) -> None:
    update(venue)
    (first, *_) = sorted(CacheFolder(venue.cache_path).series_path(HOURS).glob("*.ckvd"))
    first.write_bytes(b"rubbish")
    assert update(venue).is_complete
    assert_current(venue, HOURS)


def test_the_filters_are_those_of_the_cache_verbs(venue: Venue) -> None:
    async def run(**filters: Any) -> list[SeriesKey]:
        async with venue.data() as data:
            return list((await data.update(**filters)).spans)

    venue.time.advance(HOUR_MS)
    assert asyncio.run(run(symbols="ETH*")) == [ETHER]
    assert asyncio.run(run(market=["um", "cm"])) == []
    assert asyncio.run(run(interval="1m")) == []
    assert asyncio.run(run(kind="klines", interval=["1h", "1d"], market="spot")) == [HOURS]
    with pytest.raises(ckvd.IdentityError, match="unknown market 'margin'"):
        asyncio.run(run(market="margin"))


def test_without_a_connection_what_is_due_is_missing(venue: Venue) -> None:
    before = venue.request_count
    report = update(venue, offline=True)
    assert report.missing == {key: (Span.of("2024-03-03", "2024-03-03T03:00"),) for key in (HOURS, ETHER)}
    assert venue.request_count == before


def test_an_empty_cache_has_nothing_to_update(tmp_path: Path) -> None:
    with Venue(tmp_path, NOW) as venue:
        report = update(venue)
        assert (report.spans, report.current, report.is_complete) == ({}, (), True)
        assert not venue.cache_path.exists()


def test_the_synchronous_door_does_the_same(venue: Venue) -> None:
    report = ckvd.update("BTC*", **venue.options())
    assert list(report.spans) == [HOURS]
    assert_current(venue, HOURS)


# --- Failures ----------------------------------------------------------------------------------------------


def test_a_series_that_is_locked_elsewhere_fails_alone(venue: Venue, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ckvd.cache.store.SERIES_LOCK_TIMEOUT_S", 0.05)
    monkeypatch.setattr("ckvd.cache.store.SeriesStore.__init__.__defaults__", (0.05,))
    with held_elsewhere(CacheFolder(venue.cache_path).lock_path(HOURS)):
        report = update(venue)
    assert {key for key, spans in report.missing.items() if spans} == {HOURS}
    assert all(isinstance(error, ckvd.CacheBusyError) for error in report.errors)
    assert report.errors
    assert_current(venue, ETHER)
    assert update(venue).is_complete
    assert_current(venue, HOURS)


def test_a_folder_that_cannot_be_read_fails_alone(venue: Venue) -> None:
    path = CacheFolder(venue.cache_path).series_path(HOURS)
    moved = path.with_name("1h-moved")
    path.rename(moved)
    path.symlink_to("nowhere")
    plan = survey_update(venue)
    assert (list(plan.refused), list(plan.spans)) == ([HOURS], [ETHER])
    assert "leads nowhere" in plan.to_json()["refused"][str(HOURS)]
    report = update(venue)
    assert list(report.refused) == [HOURS]
    assert "symbolic link that leads nowhere" in str(report.errors[0])
    assert not report.is_complete
    assert_current(venue, ETHER)


def test_two_updates_at_once_do_not_hurt_each_other(venue: Venue) -> None:
    venue.time.advance(5 * HOUR_MS)
    reports: list[DownloadReport] = []
    threads = [threading.Thread(target=lambda: reports.append(update(venue))) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [report.is_complete for report in reports] == [True] * 3
    assert_current(venue, HOURS, ETHER)
    assert not list(verify_cache(CacheFolder(venue.cache_path)))
    before = venue.request_count
    assert update(venue).covered_before
    assert venue.request_count == before


# --- A market ----------------------------------------------------------------------------------------------

# Three hundred symbols and ten kills in `make acceptance`.
SYMBOLS = [f"COIN{number:03}USDT" for number in range(300 if IS_WHOLE else 100)]
MARKET = [SeriesKey.of(symbol, "12h") for symbol in SYMBOLS]
HALF_DAY_MS = 12 * HOUR_MS
ROWS = make_rows(range(parse_time("2024-02-27"), parse_time("2024-03-20"), HALF_DAY_MS), HALF_DAY_MS)
# Some series are long enough for a listing.
LONG = MARKET[::10]
LONG_WHOLE, WHOLE = Span.of("2024-02-27", "2024-03-03T12:00"), Span.of("2024-03-01", "2024-03-03T12:00")


def publish_market(venue: Venue, all_series: Sequence[SeriesKey], *days: str) -> None:
    for series in all_series:
        for day in days:
            end = format_time(parse_time(day) + DAY_MS)
            venue.publish(series, day, rows_between(ROWS, day, end))


# An update by a process of its own, at a time that it is told.
UPDATE = """
import json, sys
import ckvd
options = json.loads(sys.argv[1])
present_ms = options.pop("present_ms")
ckvd.update(clock=lambda: present_ms, **options)
"""


def start_update(venue: Venue) -> subprocess.Popen[bytes]:
    options = {name: str(value) for name, value in venue.options().items() if name != "clock"}
    document = json.dumps(options | {"present_ms": venue.time.now_ms()})
    return subprocess.Popen([sys.executable, "-W", "error", "-c", UPDATE, document], env=ENVIRONMENT)


@pytest.mark.long
def test_a_market_is_filled_and_updated_and_nothing_is_asked_twice_also_after_kills(tmp_path: Path) -> None:
    with Venue(tmp_path, "2024-03-02T13:30") as venue:
        publish_market(venue, MARKET, "2024-03-01")
        publish_market(venue, LONG, "2024-02-27", "2024-02-28", "2024-02-29")
        for series in MARKET:
            venue.exchange.publish(series, ROWS)
        seen: list[Progress] = []

        async def fill_market() -> DownloadReport:
            async with venue.data() as data:
                names = [series.symbol for series in LONG]
                assert (await data.ensure(names, "12h", start=LONG_WHOLE.start_ms)).is_complete
                return await data.ensure(SYMBOLS, ["12h"], start=WHOLE.start_ms, on_progress=seen.append)

        assert asyncio.run(fill_market()).is_complete
        assert_totals_stand(seen)

        # A day later an update is killed again and again, and ends in what one that was left alone ends in.
        publish_market(venue, MARKET, "2024-03-02")
        venue.time.advance_to(parse_time("2024-03-03T13:30"))
        chance = random.Random(5)
        for _ in range(10 if IS_WHOLE else 3):
            wanted = venue.request_count + chance.randrange(1, 2 * len(MARKET))
            with start_update(venue) as process:
                while process.poll() is None and venue.request_count < wanted:
                    with contextlib.suppress(subprocess.TimeoutExpired):
                        process.wait(0.002)
                process.send_signal(signal.SIGKILL)
        with start_update(venue) as process:
            assert process.wait(120) == 0
        before = venue.request_count
        with start_update(venue) as process:
            assert process.wait(120) == 0
        assert venue.request_count == before
        with ckvd.open_cache(venue.cache_path) as cache:
            for series in MARKET:
                klines = cache.read(series.symbol, series.bar_interval)
                assert klines.span == (LONG_WHOLE if series in LONG else WHOLE)
                expected = [row for row in ROWS if open_ms_of(row) in klines.span]
                assert klines.open_time.tolist() == [open_ms_of(row) for row in expected]
                assert klines.close.tolist() == [float(row[4]) for row in expected]
        assert not list(verify_cache(CacheFolder(venue.cache_path)))
        leftovers = [path for path in venue.cache_path.rglob("*") if path.suffix in (".part", ".tmp")]
        assert leftovers == []


def assert_totals_stand(seen: Sequence[Progress]) -> None:
    """The totals are there before the first byte, and only grow."""
    totals = [progress.archive_total for progress in seen]
    assert totals == sorted(totals)
    assert all(progress.archive_count <= progress.archive_total for progress in seen)
    assert seen[0].nbytes == 0
    assert seen[0].completed_total == len(MARKET)
    assert seen[-1].completed_count == len(MARKET)
    steps = [progress.archive_count + progress.completed_count for progress in seen]
    assert steps == sorted(steps)

"""Archives with rows that do not belong: what is theirs is stored, and the rest is told."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

import ckvd
from ckvd.acquisition.report import Outcome
from ckvd.maintenance.verification import Severity, Trouble, is_clean, verify_cache
from ckvd.model.market import HOUR_MS
from ckvd.model.provenance import Origin
from ckvd.model.timespan import Span, parse_time
from support.command import run_here
from support.loopback.rows import Row, make_rows, open_ms_of
from support.venue import HOURS, Venue, assert_equal, ensure, fetch, hours, rows_between

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from ckvd.acquisition.report import DownloadReport

JANUARY = ("2023-01-01", "2023-02-01")


@pytest.fixture
def venue(tmp_path: Path) -> Iterator[Venue]:
    with Venue(tmp_path, "2024-03-20T10:30") as venue:
        yield venue


def half_hours(start: str, end: str) -> list[Row]:
    return make_rows(range(parse_time(start), parse_time(end), HOUR_MS // 2), HOUR_MS // 2)


def publish_days(venue: Venue, rows: list[Row]) -> None:
    for day in range(1, 32):
        following = f"2023-01-{day + 1:02}" if day < 31 else "2023-02-01"
        venue.publish(HOURS, f"2023-01-{day:02}", rows_between(rows, f"2023-01-{day:02}", following))


def spoiled(rows: list[Row]) -> list[Row]:
    """The same, with a high below the low in the third bar, and takers above the volume in the fifth."""
    changed = list(rows)
    changed[2] = (*rows[2][:2], "0.01", *rows[2][3:])
    changed[4] = (*rows[4][:9], "999999", *rows[4][10:])
    return changed


# --- Bars of another interval ------------------------------------------------------------------------------


def test_days_are_fetched_for_a_month_of_another_interval(venue: Venue) -> None:
    rows = hours(*JANUARY)
    venue.publish(HOURS, "2023-01", half_hours(*JANUARY))
    publish_days(venue, rows)
    report = ensure(venue, ["BTCUSDT"], *JANUARY, use_rest=False)
    assert report.is_complete
    (failed,) = report.failed
    assert failed.notes[0].endswith("expected 1h bars, found 1488 of 1488 bars that are as long as 30m bars")
    klines = fetch(venue, *JANUARY, use_rest=False)
    assert_equal(klines, rows)
    assert {source.origin for source in klines.sources} == {Origin.VISION_DAILY}


def test_the_rest_interface_is_asked_where_no_archive_is_of_the_interval(venue: Venue) -> None:
    rows = hours(*JANUARY)
    venue.publish(HOURS, "2023-01", half_hours(*JANUARY))
    venue.exchange.publish(HOURS, rows)
    assert_equal(fetch(venue, *JANUARY), rows)


def test_bars_of_another_interval_that_no_other_source_has_are_missing(venue: Venue) -> None:
    venue.publish(HOURS, "2023-01", half_hours(*JANUARY))
    report = ensure(venue, ["BTCUSDT"], *JANUARY, use_rest=False)
    assert report.missing[HOURS] == (Span.of(*JANUARY),)


# --- Rows of another period --------------------------------------------------------------------------------


@pytest.mark.parametrize("use_rest", [False, True])
def test_a_row_of_another_period_costs_nothing_but_a_note(venue: Venue, use_rest: bool) -> None:
    rows = hours("2023-01-01", "2023-02-01T01:00")
    venue.publish(HOURS, "2023-01", rows)
    report = ensure(venue, ["BTCUSDT"], *JANUARY, use_rest=use_rest)
    assert report.is_complete
    assert report.outside_row_count == 1
    (stored,) = report.stored
    assert stored.notes[-1] == "1 row outside of its period left out, 2023-02-01"
    assert stored.source is not None
    assert stored.source.outside_open_times == (parse_time("2023-02-01"),)
    klines = fetch(venue, *JANUARY, use_rest=use_rest)
    assert_equal(klines, rows[:-1])
    assert klines.sources[0].outside_row_count == 1
    with ckvd.open_cache(venue.cache_path) as cache:
        assert cache.coverage(HOURS) == (Span.of(*JANUARY),)


def test_an_archive_of_another_month_is_refused_and_said_to_be_that(venue: Venue) -> None:
    venue.publish(HOURS, "2023-01", hours("2023-02-01", "2023-03-01"))
    report = ensure(venue, ["BTCUSDT"], *JANUARY, use_rest=False)
    (failed,) = report.failed
    assert failed.outcome is Outcome.FAILED
    assert "from 2023-02-01 to 2023-02-28T23:00Z: these are the bars of another archive" in failed.notes[0]


# --- Impossible bars ---------------------------------------------------------------------------------------


def test_impossible_bars_of_archives_are_counted_kept_and_no_damage(venue: Venue) -> None:
    rows = spoiled(hours(*JANUARY))
    venue.publish(HOURS, "2023-01", rows)
    report = ensure(venue, ["BTCUSDT"], *JANUARY, use_rest=False)
    assert report.is_complete
    assert report.impossible_count == 2
    assert report.stored[0].notes[-1] == (
        "2 bars that no market can make kept as published, 2023-01-01T02:00Z, 2023-01-01T04:00Z"
    )
    klines = fetch(venue, *JANUARY, use_rest=False)
    assert_equal(klines, rows)
    assert klines.flag_counts == {ckvd.BarFlag.IMPOSSIBLE: 2}
    with ckvd.open_cache(venue.cache_path) as cache:
        findings = list(verify_cache(cache.folder))
    assert is_clean(findings)
    found = [(one.severity, one.trouble, one.message.split(":")[0], one.bar_count) for one in findings]
    assert found == [
        (Severity.NOTE, Trouble.IMPOSSIBLE_BARS, f"as published, {rule}", 1)
        for rule in ("a high that is not the highest", "takers bought more than was traded")
    ]


def test_impossible_bars_of_the_rest_interface_are_counted(venue: Venue) -> None:
    rows = spoiled(hours("2024-03-20", "2024-03-20T10:00"))
    venue.exchange.publish(HOURS, rows)
    report = ensure(venue, ["BTCUSDT"], "2024-03-20", "2024-03-20T10:00")
    assert report.is_complete
    assert report.impossible_count == 2
    assert report.completions[0].impossible_open_times == (open_ms_of(rows[2]), open_ms_of(rows[4]))
    klines = fetch(venue, "2024-03-20", "2024-03-20T10:00")
    assert [source.impossible_count for source in klines.sources] == [2]


def test_impossible_bars_that_fill_a_hole_are_counted_once(venue: Venue) -> None:
    rows = spoiled(hours(*JANUARY))
    venue.publish(HOURS, "2023-01", [row for place, row in enumerate(rows) if place != 2])
    venue.exchange.publish(HOURS, rows)
    report = ensure(venue, ["BTCUSDT"], *JANUARY)
    assert report.completions[0].impossible_open_times == (open_ms_of(rows[2]),)
    assert report.impossible_count == 2


# --- Bars without trades -----------------------------------------------------------------------------------


def test_a_settled_contract_is_told_of_as_information(venue: Venue) -> None:
    rows = hours(*JANUARY)
    flat = [(*row[:5], "0", row[6], "0", "0", "0", "0", "0") for row in rows[100:]]
    venue.publish(HOURS, "2023-01", [*rows[:100], *flat])

    def download() -> DownloadReport:
        return ensure(venue, ["BTCUSDT"], *JANUARY, use_rest=False)

    for report in (download(), download()):
        assert report.is_complete
        tail = report.untraded_tails[HOURS]
        assert (tail.start_ms, tail.bar_count) == (open_ms_of(rows[100]), 644)
    offline = asyncio.run(_offline(venue))
    assert offline.untraded_tails == report.untraded_tails
    assert ensure(venue, ["BTCUSDT"], "2023-01-01", "2023-01-03", use_rest=False).untraded_tails == {}


async def _offline(venue: Venue) -> DownloadReport:
    async with ckvd.CryptoKlineVisionData(cache=venue.cache_path, offline=True, clock=venue.time.now_ms) as data:
        return await data.ensure(["BTCUSDT"], "1h", start=JANUARY[0], end=JANUARY[1])


# --- On the command line -----------------------------------------------------------------------------------


def test_the_command_tells_all_of_it_and_ends_with_status_0(venue: Venue) -> None:
    rows = spoiled(hours("2023-01-01", "2023-02-01T02:00"))
    flat = [(*row[:5], "0", row[6], "0", "0", "0", "0", "0") for row in rows[100:]]
    venue.publish(HOURS, "2023-01", [*rows[:100], *flat])
    words = ("download", "BTCUSDT", "-i", "1h", "--start", JANUARY[0], "--end", JANUARY[1], "--no-rest")
    cache = ("--cache", str(venue.cache_path))
    finished = run_here(*words, *cache, "--vision-url", str(venue.root))
    assert finished.status == 0
    label = "ckvd: spot/klines/BTCUSDT/1h 2023-01: "
    assert f"{label}2 rows outside of its period left out, 2023-02-01, 2023-02-01T01:00Z\n" in finished.err
    assert f"{label}2 bars that no market can make kept as published, " in finished.err
    first, last = finished.out.splitlines()
    tail = "2023-01-05T04:00Z..2023-02-01 644 bars without a trade at the end, as published; "
    assert first == f"{HOURS}: {tail}the last bar that traded opens at 2023-01-05T03:00Z"
    unusual = ", 0 failed, 2 rows of other periods left out, 2 impossible bars"
    assert last.endswith(f"{unusual}, in {venue.cache_path}")
    assert "644 bars since 2023-01-05T04:00Z" in run_here("cache", "list", *cache).out
    assert tail in run_here("cache", "gaps", *cache).out
    assert tail in run_here("cache", "info", "BTCUSDT", "-i", "1h", *cache).out
    verified = run_here("cache", "verify", *cache)
    assert verified.status == 0
    assert f"untraded tail: {tail}" in verified.out

"""Bars come whole from wherever they are, and the second call makes no request."""

from __future__ import annotations

import asyncio
import shutil
from typing import TYPE_CHECKING

import pytest

import ckvd
from ckvd.model.market import DAY_MS, HOUR_MS, SeriesKey
from ckvd.model.provenance import Origin
from ckvd.model.table import BarFlag
from ckvd.model.timespan import Span, parse_time
from support.loopback.rows import make_rows, open_ms_of, rows_of_archive, rows_of_folder
from support.venue import HOURS, Venue, assert_equal, ensure, fetch, hours, rows_between

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def venue(tmp_path: Path) -> Iterator[Venue]:
    with Venue(tmp_path, "2024-03-20T10:30") as venue:
        yield venue


def test_months_then_days_then_the_rest_interface_make_one_whole(venue: Venue) -> None:
    rows = hours("2024-01-01", "2024-03-20T11:00")
    venue.publish(HOURS, "2024-01", rows_between(rows, "2024-01-01", "2024-02-01"))
    venue.publish(HOURS, "2024-02", rows_between(rows, "2024-02-01", "2024-03-01"))
    for day in range(1, 19):
        start = f"2024-03-{day:02d}"
        venue.publish(HOURS, start, rows_between(rows, start, f"2024-03-{day + 1:02d}"))
    venue.exchange.publish(HOURS, rows)
    klines = fetch(venue, "2024-01-01", "now")
    # The bar of 10:00 is still forming at 10:30.
    assert_equal(klines, rows_between(rows, "2024-01-01", "2024-03-20T10:00"))
    origins = [source.origin for source in klines.sources]
    assert origins[:2] == [Origin.VISION_MONTHLY] * 2
    assert origins.count(Origin.VISION_DAILY) == 18
    assert set(origins[20:]) == {Origin.REST}
    assert not klines.gaps
    asked = venue.request_count
    again = fetch(venue, "2024-01-01", "now")
    assert again == klines
    assert venue.request_count == asked


def test_real_archives_go_on_in_days_and_in_the_rest_interface(shared_data: Path, tmp_path: Path) -> None:
    source = shared_data / "vision" / "data" / "spot" / "monthly" / "klines" / "BTCUSDT" / "1h"
    with Venue(tmp_path, "2025-05-12T10:30") as venue:
        target = venue.root / "data" / "spot" / "monthly" / "klines" / "BTCUSDT" / "1h"
        target.mkdir(parents=True)
        for label in ("2024-11", "2024-12", "2025-01", "2025-02", "2025-03", "2025-04"):
            for path in source.glob(f"*-{label}.zip*"):
                shutil.copy(path, target)
        may = rows_of_archive(source / "BTCUSDT-1h-2025-05.zip")
        for day in range(1, 11):
            start = f"2025-05-{day:02d}"
            venue.publish(HOURS, start, rows_between(may, start, f"2025-05-{day + 1:02d}"))
        rows = [row for path in sorted(target.glob("*.zip")) for row in rows_of_archive(path)] + may
        venue.exchange.publish(HOURS, rows)
        klines = fetch(venue, "2024-11-01", "now")
        assert_equal(klines, rows_between(rows, "2024-11-01", "2025-05-12T10:00"))
        assert {source.origin for source in klines.sources} == set(Origin) - {Origin.UNKNOWN}
        asked = venue.request_count
        assert fetch(venue, "2024-11-01", "now") == klines
        assert venue.request_count == asked


def test_a_month_that_lacks_a_day_is_healed_from_the_daily_archive(venue: Venue) -> None:
    rows = hours("2024-02-01", "2024-03-01")
    short = [row for row in rows if not parse_time("2024-02-14") <= open_ms_of(row) < parse_time("2024-02-15")]
    venue.publish(HOURS, "2024-02", short)
    venue.publish(HOURS, "2024-02-14", rows_between(rows, "2024-02-14", "2024-02-15"))
    venue.exchange.publish(HOURS, short)
    klines = fetch(venue, "2024-02-01", "2024-03-01")
    assert_equal(klines, rows)
    assert not klines.gaps
    daily = [source for source in klines.sources if source.origin is Origin.VISION_DAILY]
    assert [(source.start_ms, source.end_ms) for source in daily] == [
        (parse_time("2024-02-14"), parse_time("2024-02-15"))
    ]
    asked = venue.request_count
    assert fetch(venue, "2024-02-01", "2024-03-01") == klines
    assert venue.request_count == asked


def test_bars_that_every_archive_lacks_are_healed_from_the_rest_interface(venue: Venue) -> None:
    rows = hours("2024-02-01", "2024-03-01")
    lost = {parse_time("2024-02-10T05:00"), parse_time("2024-02-10T06:00")}
    venue.publish(HOURS, "2024-02", [row for row in rows if open_ms_of(row) not in lost])
    venue.exchange.publish(HOURS, rows)
    klines = fetch(venue, "2024-02-01", "2024-03-01")
    assert_equal(klines, rows)
    assert Origin.REST in {source.origin for source in klines.sources}


def test_the_outage_of_2023_is_reported_as_halted(shared_data: Path, tmp_path: Path) -> None:
    minutes = SeriesKey.of("BTCUSDT", "1m")
    folder = shared_data / "vision" / "data" / "spot" / "daily" / "klines" / "BTCUSDT" / "1m"
    rows = rows_of_folder(folder, "*-2023-03-2[3-5].zip")
    with Venue(tmp_path, "2024-01-10", mirror_root=shared_data / "vision") as venue:
        venue.exchange.publish(minutes, rows)
        klines = fetch(venue, "2023-03-23", "2023-03-26", minutes)
        assert_equal(klines, rows)
        (gap,) = klines.gaps
        assert (gap.start_ms, gap.end_ms) == (parse_time("2023-03-24T12:40"), parse_time("2023-03-24T14:00"))
        assert (gap.bar_count, gap.reason) == (80, ckvd.Reason.HALTED)
        asked = venue.request_count
        assert fetch(venue, "2023-03-23", "2023-03-26", minutes).gaps == klines.gaps
        assert venue.request_count == asked


def test_a_month_with_hours_off_the_grid_comes_raw_and_flagged(shared_data: Path, tmp_path: Path) -> None:
    folder = shared_data / "vision" / "data" / "spot" / "monthly" / "klines" / "BTCUSDT" / "1h"
    rows = rows_of_archive(folder / "BTCUSDT-1h-2018-02.zip")
    with Venue(tmp_path, "2024-01-10", mirror_root=shared_data / "vision") as venue:
        venue.exchange.publish(HOURS, rows)
        klines = fetch(venue, "2018-02-01", "2018-03-01")
    assert_equal(klines, rows)
    assert klines.flag_counts[BarFlag.OFF_GRID] == 43
    assert {gap.reason for gap in klines.gaps} <= {ckvd.Reason.HALTED}


def test_what_came_from_the_rest_interface_is_replaced_when_its_archive_appears(venue: Venue) -> None:
    rows = hours("2024-03-18", "2024-03-23")
    venue.exchange.publish(HOURS, rows)
    first = fetch(venue, "2024-03-19", "now")
    assert {source.origin for source in first.sources} == {Origin.REST}
    venue.time.advance(DAY_MS)
    for day in ("19", "20"):
        venue.publish(HOURS, f"2024-03-{day}", rows_between(rows, f"2024-03-{day}", f"2024-03-{int(day) + 1}"))
    second = fetch(venue, "2024-03-19", "now")
    assert_equal(second, rows_between(rows, "2024-03-19", "2024-03-21T10:00"))
    origins = {source.start_ms: source.origin for source in second.sources}
    assert origins[parse_time("2024-03-19")] is Origin.VISION_DAILY
    assert origins[parse_time("2024-03-20")] is Origin.VISION_DAILY
    assert origins[parse_time("2024-03-21")] is Origin.REST


@pytest.mark.parametrize("ahead_ms", [0, 400, 700, 2000, 60_000])
def test_a_clock_that_is_ahead_ends_the_present_where_the_exchange_does(venue: Venue, ahead_ms: int) -> None:
    venue.time.advance_to(parse_time("2024-03-20T10:59:59.500Z"))
    rows = hours("2024-03-20", "2024-03-20T12:00")
    venue.exchange.publish(HOURS, rows)

    def clock() -> int:
        return venue.time.now_ms() + ahead_ms

    assert_equal(
        fetch(venue, "2024-03-20", "now", clock=clock), rows_between(rows, "2024-03-20", "2024-03-20T10:00")
    )
    assert ensure(venue, ["BTCUSDT"], "2024-03-20", "now", clock=clock).is_complete
    venue.time.advance(HOUR_MS)
    assert_equal(
        fetch(venue, "2024-03-20", "now", clock=clock), rows_between(rows, "2024-03-20", "2024-03-20T11:00")
    )


def test_a_clock_that_is_far_ahead_is_not_explained_away(venue: Venue) -> None:
    venue.exchange.publish(HOURS, hours("2024-03-20", "2024-03-20T12:00"))
    with pytest.raises(ckvd.NotCachedError) as caught:
        fetch(venue, "2024-03-20", "now", clock=lambda: venue.time.now_ms() + HOUR_MS)
    assert caught.value.missing == (Span.of("2024-03-20T10:00", "2024-03-20T11:00"),)


@pytest.mark.parametrize("use_rest", [True, False])
@pytest.mark.parametrize(
    ("start", "end"),
    [
        ("2024-03-18T00:00:00.500Z", "2024-03-19"),
        ("2024-03-18", "2024-03-18T05:00:00.250Z"),
        ("2024-03-18T22:30:00.001Z", "2024-03-20T05:59:59.999Z"),
        ("2024-03-18T05:00:00.001Z", "2024-03-18T05:00:00.002Z"),
    ],
)
def test_a_span_may_start_and_end_at_any_millisecond(venue: Venue, start: str, end: str, use_rest: bool) -> None:
    rows = hours("2024-03-18", "2024-03-20T11:00")
    venue.exchange.publish(HOURS, rows)
    if use_rest:
        assert_equal(fetch(venue, start, end), rows_between(rows, start, end))
        assert_equal(fetch(venue, start, end, offline=True), rows_between(rows, start, end))
    else:
        report = ensure(venue, ["BTCUSDT"], start, end, use_rest=False)
        assert report.missing[HOURS] == (Span.of(start, end),)
        assert not report.errors


def test_what_could_not_be_had_is_asked_for_again_when_that_is_wished(venue: Venue) -> None:
    start, end = "2023-01-01", "2023-03-01"
    rows = hours(start, end)
    lost = rows_between(rows, "2023-02-10T03:00", "2023-02-10T05:00")
    # January is a hole between archives.
    venue.publish(HOURS, "2022-12", hours("2022-12-01", "2023-01-01"))
    venue.publish(HOURS, "2023-02", [row for row in rows_between(rows, "2023-02", "2023-03") if row not in lost])

    async def ask(*, refresh: bool) -> ckvd.Klines:
        async with venue.data(use_rest=False) as data:
            report = await data.ensure("BTCUSDT", "1h", start=start, end=end, refresh=refresh)
            assert report.is_complete == refresh
            return await data.get_klines("BTCUSDT", "1h", start=start, end=end, missing="ignore", refresh=refresh)

    asyncio.run(ask(refresh=False))
    # The mirror was not whole.
    venue.publish(HOURS, "2023-01", rows_between(rows, "2023-01", "2023-02"))
    venue.publish(HOURS, "2023-02-10", rows_between(rows, "2023-02-10", "2023-02-11"))
    asked = venue.request_count
    asyncio.run(ask(refresh=False))
    assert venue.request_count == asked
    assert_equal(asyncio.run(ask(refresh=True)), rows)
    asked = venue.request_count
    asyncio.run(ask(refresh=True))
    assert venue.request_count == asked


def test_polling_keeps_the_tail_in_one_segment(venue: Venue) -> None:
    rows = hours("2024-03-20", "2024-03-21")
    venue.exchange.publish(HOURS, rows)
    for _ in range(5):
        klines = fetch(venue, "2024-03-20", "now")
        assert klines.is_view
        venue.time.advance(HOUR_MS)
    assert_equal(klines, rows_between(rows, "2024-03-20", "2024-03-20T14:00"))


def test_where_a_month_and_a_day_disagree_the_day_is_kept_and_it_is_reported(venue: Venue) -> None:
    rows = hours("2024-02-01", "2024-03-01")
    wrong_ms = parse_time("2024-02-14T03:00")
    lost_ms = parse_time("2024-02-14T05:00")
    month = [
        (row[0], "1.5", *row[2:]) if open_ms_of(row) == wrong_ms else row
        for row in rows
        if open_ms_of(row) != lost_ms
    ]
    venue.publish(HOURS, "2024-02", month)
    venue.publish(HOURS, "2024-02-14", rows_between(rows, "2024-02-14", "2024-02-15"))
    report = ensure(venue, ["BTCUSDT"], "2024-02-01", "2024-03-01", use_rest=False)
    assert report.completions[0].conflict_open_times == (wrong_ms,)
    assert_equal(fetch(venue, "2024-02-01", "2024-03-01", offline=True), rows)


def test_coin_margined_bars_come_from_all_sources(venue: Venue) -> None:
    series = SeriesKey.of("BTCUSD_PERP", "1h", market="cm")
    rows = hours("2024-02-01", "2024-03-20T11:00")
    venue.publish(series, "2024-02", rows_between(rows, "2024-02-01", "2024-03-01"))
    venue.exchange.publish(series, rows)
    venue.exchange.publish(
        SeriesKey.of("BTCUSD_PERP", "1d", market="cm"),
        make_rows(range(parse_time("2024-02-01"), parse_time("2024-03-20"), DAY_MS), DAY_MS),
    )
    klines = fetch(venue, "2024-02-01", "now", series)
    assert_equal(klines, rows_between(rows, "2024-02-01", "2024-03-20T10:00"))
    assert "base_volume" in klines.column_names

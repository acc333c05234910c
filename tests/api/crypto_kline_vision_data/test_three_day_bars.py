"""3d bars open on the day of the listing and every third day after it: real bars, from archives and from REST."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import numpy as np
import pytest

import ckvd
from ckvd.bars.resample import ResampledKlines
from ckvd.cache.coverage import uncovered_spans
from ckvd.cache.rows import read_grid
from ckvd.maintenance.gap_report import fill_by_month, report_gaps
from ckvd.maintenance.verification import Trouble, verify_cache
from ckvd.model.grid import Grid
from ckvd.model.market import DAY_MS, Interval, SeriesKey
from ckvd.model.provenance import Absence, Reason
from ckvd.model.table import empty_table
from ckvd.model.timespan import Span, format_time, parse_time
from support.long_intervals import (
    FUTURES,
    FUTURES_DAYS,
    SPOT_SYMBOLS,
    closed_before,
    days_of_futures,
    publish_months,
    rows_of_futures,
    rows_of_spot,
)
from support.loopback.rows import make_rows, open_ms_of
from support.models import ms
from support.tables import make_table
from support.venue import Venue, assert_equal, fetch

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from ckvd.acquisition.report import DownloadReport
    from support.loopback.rows import Row

# Of the five symbols, three have phases of their own.
THREE_PHASES = ("BTCUSDT", "SOLUSDT", "XRPUSDT")
SUMS = ("volume", "quote_volume", "taker_buy_volume", "taker_buy_quote_volume")


def spot(symbol: str, interval: str = "3d") -> SeriesKey:
    return SeriesKey.of(symbol, interval)


def first_day(rows: Sequence[Row]) -> str:
    return format_time(open_ms_of(rows[0]))


def rows_from(rows: Sequence[Row], start: str) -> list[Row]:
    return [row for row in rows if open_ms_of(row) >= parse_time(start)]


def ensure(
    venue: Venue, symbols: Sequence[str], start: str, interval: str = "3d", **changes: object
) -> DownloadReport:
    async def run() -> DownloadReport:
        async with venue.data(**changes) as data:
            return await data.ensure(symbols, interval, start=start, end="now")

    return asyncio.run(run())


def assert_in_order(venue: Venue, klines: ckvd.Klines, flags: dict[ckvd.BarFlag, int] | None = None) -> None:
    """No bar is unusual or missing, and neither the gap report nor the verification finds anything."""
    assert klines.flag_counts == (flags or {})
    assert klines.gaps == ()
    with ckvd.open_cache(venue.cache_path) as cache:
        report = report_gaps(cache.folder, klines.series, klines.span)
        assert report.gaps == ()
        fills = fill_by_month(report)
        assert sum(fill.expected_count for fill in fills) == sum(fill.bar_count for fill in fills) == len(klines)
        assert list(verify_cache(cache.folder)) == []


# --- From archives and from REST ---------------------------------------------------------------------------


@pytest.mark.long
@pytest.mark.parametrize("symbol", SPOT_SYMBOLS)
def test_bars_of_archives_are_neither_flagged_nor_missing(shared_data: Path, tmp_path: Path, symbol: str) -> None:
    rows = rows_of_spot(shared_data, symbol, "3d")
    with Venue(tmp_path, "2026-05-20") as venue:
        publish_months(venue, spot(symbol), rows)
        klines = fetch(venue, first_day(rows), "2026-04-01", spot(symbol), use_rest=False)
        assert_equal(klines, [row for row in rows if open_ms_of(row) < ms(2026, 4, 1)])
        assert_in_order(venue, klines)


@pytest.fixture(params=["2026-03-10T05:00", "2026-03-11T00:00", "2026-03-12T23:59:59"])
def today(request: pytest.FixtureRequest) -> str:
    """Three days in a row: on each another of the three phases begins a bar."""
    return str(request.param)


@pytest.mark.long
@pytest.mark.parametrize("symbol", THREE_PHASES)
def test_rest_has_every_closed_bar_on_every_day(shared_data: Path, tmp_path: Path, today: str, symbol: str) -> None:
    rows = rows_of_spot(shared_data, symbol, "3d")
    with Venue(tmp_path, today) as venue:
        venue.exchange.publish(spot(symbol), rows)
        klines = fetch(venue, "2025-11-01", "now", spot(symbol))
        assert_equal(klines, closed_before(rows_from(rows, "2025-11-01"), venue.time.now_ms()))
        assert_in_order(venue, klines)
        asked = venue.request_count
        assert fetch(venue, "2025-11-01", "now", spot(symbol)) == klines
        assert venue.request_count == asked


@pytest.mark.long
@pytest.mark.parametrize("symbol", THREE_PHASES)
def test_archives_are_continued_by_rest_on_every_day(
    shared_data: Path, tmp_path: Path, today: str, symbol: str
) -> None:
    rows = rows_of_spot(shared_data, symbol, "3d")
    with Venue(tmp_path, today) as venue:
        publish_months(venue, spot(symbol), [row for row in rows if open_ms_of(row) < ms(2026, 3, 1)])
        venue.exchange.publish(spot(symbol), rows)
        report = ensure(venue, [symbol], "2025-11-01")
        assert report.is_complete
        assert not report.errors
        klines = fetch(venue, "2025-11-01", "now", spot(symbol))
        assert_equal(klines, closed_before(rows_from(rows, "2025-11-01"), venue.time.now_ms()))
        assert_in_order(venue, klines)


@pytest.mark.long
@pytest.mark.parametrize("symbol", THREE_PHASES)
def test_a_cache_that_is_filled_day_by_day_gets_each_bar_when_it_closes(
    shared_data: Path, tmp_path: Path, symbol: str
) -> None:
    rows = rows_of_spot(shared_data, symbol, "3d")
    with Venue(tmp_path, "2026-03-10T05:00") as venue:
        venue.exchange.publish(spot(symbol), rows)
        for _ in range(8):
            klines = fetch(venue, "2026-02-20", "now", spot(symbol))
            assert_equal(klines, closed_before(rows_from(rows, "2026-02-20"), venue.time.now_ms()))
            assert_in_order(venue, klines)
            venue.time.advance(DAY_MS)


@pytest.mark.parametrize("symbol", THREE_PHASES)
def test_all_days_before_the_listing_are_settled(shared_data: Path, tmp_path: Path, symbol: str) -> None:
    rows = rows_of_spot(shared_data, symbol, "3d")
    first_ms = open_ms_of(rows[0])
    with Venue(tmp_path, "2026-03-10T05:00") as venue:
        venue.exchange.publish(spot(symbol), rows)
        start, end = (format_time(first_ms + days * DAY_MS) for days in (-20, 30))
        klines = fetch(venue, start, end, spot(symbol))
        assert [(gap.end_ms, gap.bar_count, gap.reason) for gap in klines.gaps] == [
            (first_ms, 6, Reason.BEFORE_LISTING)
        ]
        assert all(absence.recheck_ms == 0 for absence in klines.absences)


def test_a_symbol_that_is_not_listed_yet_has_reasons_and_no_number_of_bars_that_is_guessed(tmp_path: Path) -> None:
    series = spot("NEWUSDT")
    with Venue(tmp_path, "2026-03-10T05:00") as venue:
        # The exchange knows the symbol, and it has no bar yet.
        venue.exchange.publish(series, [])
        klines = fetch(venue, "2026-02-20", "2026-03-04", series)
        assert len(klines) == 0
        assert [(gap.bar_count, gap.reason) for gap in klines.gaps] == [(4, Reason.BEFORE_LISTING)]
        # Two days may have no bar, so that none is missing there.
        two_days = fetch(venue, "2026-02-20", "2026-02-22", series)
        assert two_days.gaps == ()
        assert two_days.absences[0].recheck_ms > venue.time.now_ms()
        # Its first bar opens on the 8th, and is closed on the 11th.
        venue.time.advance_to(ms(2026, 3, 15))
        venue.exchange.publish(series, make_rows(range(ms(2026, 3, 8), ms(2026, 3, 20), 3 * DAY_MS), 3 * DAY_MS))
        klines = fetch(venue, "2026-02-20", "now", series)
        assert klines.open_time.tolist() == [ms(2026, 3, 8), ms(2026, 3, 11)]
        assert [(gap.end_ms, gap.reason) for gap in klines.gaps] == [(ms(2026, 3, 8), Reason.BEFORE_LISTING)]


# --- A change of the phase ---------------------------------------------------------------------------------

OVERLAP = {ckvd.BarFlag.OVERLAPS_NEXT: 1}


@pytest.mark.long
def test_of_the_futures_only_the_overlap_is_flagged(shared_data: Path, tmp_path: Path) -> None:
    rows = rows_of_futures(shared_data)
    with Venue(tmp_path, "2026-08-16T05:00") as venue:
        publish_months(venue, FUTURES, [row for row in rows if open_ms_of(row) < ms(2026, 7, 1)])
        venue.exchange.publish(FUTURES, rows)
        klines = fetch(venue, "2021-01-02", "now", FUTURES)
        # The bar of 2026-08-15 was forming.
        assert_equal(klines, rows[:-1])
        assert_in_order(venue, klines, OVERLAP)
        assert klines.open_time[np.flatnonzero(klines.flags)].tolist() == [ms(2023, 8, 14)]
        # The grid is that of all held bars, also of what is read in part.
        with ckvd.open_cache(venue.cache_path) as cache:
            bar = cache.read("BTCUSDT", "3d", start="2023-08-14", end="2023-08-15", market="um")
            assert bar.grid == klines.grid
            assert bar.flag_counts == {}
            for start, end in (("2021-06-01", "2022-06-01"), ("2024-01-01", "2025-01-01")):
                part = cache.read("BTCUSDT", "3d", start=start, end=end, market="um")
                assert part.gaps == ()
                assert part.flag_counts == {}


@pytest.mark.long
def test_rest_has_every_closed_bar_on_every_day_around_the_change(shared_data: Path, tmp_path: Path) -> None:
    rows = rows_of_futures(shared_data)
    for day in range(13, 26):
        folder = tmp_path / str(day)
        folder.mkdir()
        with Venue(folder, f"2023-08-{day}T05:00") as venue:
            venue.exchange.publish(FUTURES, rows)
            klines = fetch(venue, "2023-07-01", "now", FUTURES)
            assert_equal(klines, closed_before(rows_from(rows, "2023-07-01"), venue.time.now_ms()))
            assert_in_order(venue, klines, OVERLAP if day >= 19 else None)


@pytest.mark.long
def test_a_cache_that_was_filled_through_the_change_learns_of_it(shared_data: Path, tmp_path: Path) -> None:
    rows = rows_of_futures(shared_data)
    with Venue(tmp_path, "2023-08-13T05:00") as venue:
        venue.exchange.publish(FUTURES, rows)
        for _ in range(13):
            klines = fetch(venue, "2023-07-01", "now", FUTURES)
            closed = closed_before(rows_from(rows, "2023-07-01"), venue.time.now_ms())
            # Of the new phase, a bar may be seen a day after it closed.
            assert len(closed) - 1 <= len(klines) <= len(closed)
            assert_equal(klines, closed[: len(klines)])
            assert klines.gaps == ()
            venue.time.advance(DAY_MS)
        assert len(klines) == len(closed)
        assert_in_order(venue, klines, OVERLAP)
        assert klines.grid.anchors_ms == (2 * DAY_MS, ms(2023, 8, 16))


# --- Panels ------------------------------------------------------------------------------------------------


def test_a_panel_has_each_bar_in_the_row_of_its_own_open(shared_data: Path, tmp_path: Path) -> None:
    with Venue(tmp_path, "2026-05-20") as venue:
        rows = {symbol: rows_from(rows_of_spot(shared_data, symbol, "3d"), "2025-10-01") for symbol in SPOT_SYMBOLS}
        for symbol in SPOT_SYMBOLS:
            publish_months(venue, spot(symbol), rows[symbol])
        ensure(venue, SPOT_SYMBOLS, "2025-10-01", use_rest=False)
        start_ms, end_ms = ms(2025, 10, 1), ms(2026, 4, 1)
        with ckvd.open_cache(venue.cache_path) as cache:
            panel = cache.panel(SPOT_SYMBOLS, "3d", start_ms, end_ms, ["close", "count"])
    # Three phases together have a row for each day.
    assert panel.open_time.tolist() == list(range(start_ms, end_ms, DAY_MS))
    assert not panel.off_grid_counts.any()
    for place, symbol in enumerate(SPOT_SYMBOLS):
        expected = [row for row in rows[symbol] if open_ms_of(row) < end_ms]
        own = panel.mask[:, place]
        assert panel.open_time[own].tolist() == [open_ms_of(row) for row in expected]
        assert panel.close[own, place].tolist() == [float(row[4]) for row in expected]
        assert panel["count"][own, place].tolist() == [float(row[8]) for row in expected]
        assert np.isnan(panel.close[~own, place]).all()


def test_symbols_of_one_phase_share_their_rows_and_one_without_bars_adds_none(
    shared_data: Path, tmp_path: Path
) -> None:
    with Venue(tmp_path, "2026-05-20") as venue:
        for symbol in ("SOLUSDT", "AVAXUSDT"):
            publish_months(venue, spot(symbol), rows_from(rows_of_spot(shared_data, symbol, "3d"), "2026-02-01"))
        ensure(venue, ["SOLUSDT", "AVAXUSDT"], "2026-02-01", use_rest=False)
        with ckvd.open_cache(venue.cache_path) as cache:
            span = ("2026-02-01", "2026-03-01")
            panel = cache.panel(["SOLUSDT", "NONEUSDT", "AVAXUSDT"], "3d", *span, missing="ignore")
            nothing = cache.panel(["NONEUSDT"], "3d", *span, missing="ignore")
    assert panel.mask[:, [0, 2]].all()
    assert not panel.mask[:, 1].any()
    assert np.diff(panel.open_time).tolist() == [3 * DAY_MS] * (len(panel) - 1)
    assert nothing.close.shape == (0, 1)


# --- Longer bars -------------------------------------------------------------------------------------------


def publish_days(venue: Venue, shared_data: Path, symbol: str, start: str) -> None:
    publish_months(venue, spot(symbol, "1d"), rows_from(rows_of_spot(shared_data, symbol, "1d"), start))


@pytest.mark.long
@pytest.mark.parametrize("symbol", SPOT_SYMBOLS)
def test_three_days_make_the_3d_bar_of_the_exchange(shared_data: Path, tmp_path: Path, symbol: str) -> None:
    rows = rows_of_spot(shared_data, symbol, "3d")
    start, end = first_day(rows), "2026-04-01"
    with Venue(tmp_path, "2026-05-20") as venue:
        publish_months(venue, spot(symbol), rows)
        publish_days(venue, shared_data, symbol, start)
        # One held bar tells the phase of all.
        fetch(venue, "2026-03-01", "2026-04-01", spot(symbol), use_rest=False)
        days = fetch(venue, start, end, spot(symbol, "1d"), use_rest=False)
        made = days.resample("3d")
        published = fetch(venue, start, end, spot(symbol), use_rest=False)
    assert made.open_time.tolist() == published.open_time.tolist()
    # Three days may reach beyond the span of the days.
    assert np.count_nonzero(~made.complete) <= 1
    is_whole = made.complete
    for name in ("open", "high", "low", "close", "count", "close_time"):
        assert np.array_equal(made[name][is_whole], published[name][is_whole]), name
    for name in SUMS:
        found, expected = made[name][is_whole], published[name][is_whole]
        # The doubles of larger decimals do not tell all their digits: see `sum_runs`.
        is_exact = expected < 2**25
        assert (found == expected)[is_exact].all(), name
        assert (np.abs(found - expected) <= 2 * np.spacing(expected)).all(), name


@pytest.mark.long
def test_three_days_of_futures_make_the_3d_bar_except_where_the_exchange_has_another(
    shared_data: Path, tmp_path: Path
) -> None:
    rows, days = rows_of_futures(shared_data), days_of_futures(shared_data)
    with Venue(tmp_path, "2026-08-16T05:00") as venue:
        publish_months(venue, FUTURES, [row for row in rows if open_ms_of(row) < ms(2026, 7, 1)])
        publish_months(venue, FUTURES_DAYS, [day for day in days if ms(2021, 1, 1) <= open_ms_of(day)])
        published = fetch(venue, "2021-01-02", "2026-05-01", FUTURES, use_rest=False)
        daily = fetch(venue, "2021-01-02", "2026-05-01", FUTURES_DAYS, use_rest=False)
        made = daily.resample("3d")
    assert made.open_time.tolist() == published.open_time.tolist()
    differing = {}
    for name in ("open", "high", "low", "close", "volume"):
        is_other = (made[name] != published[name]) & made.complete
        differing[name] = made.open_time[is_other].tolist()
    # Two bars have the 16th of August in common, and split its trades. It is a fact of the exchange that the bar of
    # the 6th of September has less volume than its days.
    overlap, following, short = ms(2023, 8, 14), ms(2023, 8, 16), ms(2023, 9, 6)
    assert differing == {
        "open": [following],
        "high": [following],
        "low": [],
        "close": [overlap],
        "volume": [overlap, following, short],
    }
    row = made.open_time.tolist().index(overlap)
    assert made.source_count[row - 1 : row + 2].tolist() == [3, 2, 3]
    assert made.complete[row]
    row = made.open_time.tolist().index(short)
    assert (published["volume"][row], made["volume"][row]) == (755995.08, 757742.323)


def test_the_days_of_one_symbol_are_made_like_those_of_another(shared_data: Path, tmp_path: Path) -> None:
    with Venue(tmp_path, "2026-05-20") as venue:
        publish_days(venue, shared_data, "BTCUSDT", "2026-01-01")
        days = fetch(venue, "2026-01-01", "2026-04-01", spot("BTCUSDT", "1d"), use_rest=False)
        with pytest.raises(ckvd.IdentityError, match=r"^3d bars of BTCUSDT cannot be made: .*as like="):
            days.resample("3d")
        with pytest.raises(ckvd.IdentityError, match=r"^6d bars of BTCUSDT cannot be made: .*as like="):
            days.resample("6d")
        publish_months(venue, spot("SOLUSDT"), rows_from(rows_of_spot(shared_data, "SOLUSDT", "3d"), "2026-02-01"))
        other = fetch(venue, "2026-02-01", "2026-04-01", spot("SOLUSDT"), use_rest=False)
    made = days.resample("3d", like=other)
    assert set((made.open_time // DAY_MS % 3).tolist()) == {2}
    assert set(other.open_time.tolist()) <= set(made.open_time.tolist())
    # What is made has a grid to go by itself.
    assert days.resample("3d", like=made).open_time.tolist() == made.open_time.tolist()
    assert days.resample("3d", like=days.resample("9d", like=other)).open_time.tolist() == made.open_time.tolist()


def test_the_grid_is_there_after_the_cache_was_closed_and_where_blocks_are_read(
    shared_data: Path, tmp_path: Path
) -> None:
    with Venue(tmp_path, "2026-05-20") as venue:
        publish_days(venue, shared_data, "BTCUSDT", "2026-01-01")
        publish_months(venue, spot("BTCUSDT"), rows_from(rows_of_spot(shared_data, "BTCUSDT", "3d"), "2026-01-01"))
        ensure(venue, ["BTCUSDT"], "2026-01-01", use_rest=False)
        ensure(venue, ["BTCUSDT"], "2026-01-01", "1d", use_rest=False)
    with ckvd.open_cache(venue.cache_path) as cache:
        days = cache.read("BTCUSDT", "1d", start="2026-01-01", end="2026-03-01")
        blocks = list(cache.scan("BTCUSDT", "1d", start="2026-01-01", end="2026-03-01", rows=10))
    for bars in (days, *blocks):
        assert set((bars.resample("3d").open_time // DAY_MS % 3).tolist()) == {1}


# --- Bars that are made of shorter ones on request ---------------------------------------------------------


def test_3d_bars_are_derived_where_a_held_bar_tells_their_days(shared_data: Path, tmp_path: Path) -> None:
    async def derive(venue: Venue, start: str, end: str) -> ckvd.Klines | ResampledKlines:
        async with venue.data(offline=True) as data:
            return await data.get_klines("BTCUSDT", "3d", start=start, end=end, derive=True)

    rows = rows_from(rows_of_spot(shared_data, "BTCUSDT", "3d"), "2026-01-01")
    with Venue(tmp_path, "2026-05-20") as venue:
        publish_days(venue, shared_data, "BTCUSDT", "2025-12-01")
        publish_months(venue, spot("BTCUSDT"), rows)
        ensure(venue, ["BTCUSDT"], "2025-12-01", "1d", use_rest=False)
        with pytest.raises(ckvd.NotCachedError):
            asyncio.run(derive(venue, "2026-01-02", "2026-03-01"))
        fetch(venue, "2026-02-01", "2026-03-01", spot("BTCUSDT"), use_rest=False)
        made = asyncio.run(derive(venue, "2026-01-02", "2026-03-01"))
    assert isinstance(made, ResampledKlines)
    expected = [row for row in rows if open_ms_of(row) < ms(2026, 3, 1)]
    assert made.open_time.tolist() == [open_ms_of(row) for row in expected]
    assert made.close.tolist() == [float(row[4]) for row in expected]
    assert made.complete.all()


# --- Caches of earlier versions ----------------------------------------------------------------------------


def test_what_an_earlier_version_recorded_of_days_within_a_bar_is_no_loss(tmp_path: Path) -> None:
    """It took 3d bars to open on the same days for all symbols, and missed one at the end of a month."""
    series = spot("SOLUSDT")
    opens = range(ms(2026, 2, 2), ms(2026, 3, 1), 3 * DAY_MS)  # SOLUSDT has the phase 2
    month, rest = Span(ms(2026, 2, 1), ms(2026, 2, 27)), Span(ms(2026, 2, 27), ms(2026, 3, 1))
    store = ckvd.cache.SeriesStore(ckvd.cache.CacheFolder(tmp_path), series)
    store.put(make_table(series, opens), month, absences=[Absence(month.start_ms, opens[0], Reason.HALTED)])
    recheck_ms = ms(2026, 5, 2)
    lost = Absence(rest.start_ms, rest.end_ms, Reason.NOT_IN_ARCHIVE, recheck_ms)
    store.put(empty_table(series), rest, absences=[lost], recheck_ms=recheck_ms)
    whole = Span(month.start_ms, rest.end_ms)
    assert uncovered_spans(store.folder, series, whole, ms(2026, 4, 1)) == ()
    with ckvd.open_cache(tmp_path) as cache:
        klines = cache.read_series(series, whole)
        assert sum(map(len, cache.scan("SOLUSDT", "3d", start=whole.start_ms, end=whole.end_ms))) == len(klines)
    assert klines.open_time.tolist() == list(opens)
    assert klines.flag_counts == {}
    assert klines.gaps == report_gaps(store.folder, series).gaps == ()
    assert Trouble.OFF_GRID not in {finding.trouble for finding in verify_cache(store.folder)}
    # Where a bar may open, it is lost still.
    longer = Span(rest.end_ms, ms(2026, 3, 8))
    lost = Absence(longer.start_ms, longer.end_ms, Reason.NOT_IN_ARCHIVE, recheck_ms)
    store.put(empty_table(series), longer, absences=[lost], recheck_ms=recheck_ms)
    assert uncovered_spans(store.folder, series, longer, ms(2026, 4, 1)) == (longer,)
    with ckvd.open_cache(tmp_path) as cache, pytest.raises(ckvd.NotCachedError) as raised:
        cache.read_series(series, Span(whole.start_ms, longer.end_ms))
    assert longer.end_ms == raised.value.missing[-1].end_ms


def test_a_damaged_segment_tells_nothing_of_the_grid_and_the_others_do(tmp_path: Path) -> None:
    series = spot("SOLUSDT")
    store = ckvd.cache.SeriesStore(ckvd.cache.CacheFolder(tmp_path), series)
    paths = []
    for start_ms in (ms(2026, 1, 1), ms(2026, 2, 1)):
        opens = [start_ms + (2 - start_ms // DAY_MS) % 3 * DAY_MS + 3 * DAY_MS * bar for bar in range(5)]
        paths.append(store.put(make_table(series, opens), Span(start_ms, start_ms + 20 * DAY_MS)))
    paths[0].write_bytes(paths[0].read_bytes()[:100])
    assert read_grid(store.folder, series) == Grid(Interval.D3, (2 * DAY_MS,))
    with ckvd.open_cache(tmp_path) as cache:
        assert cache.read("SOLUSDT", "3d", start="2026-02-01", end="2026-02-10").flag_counts == {}

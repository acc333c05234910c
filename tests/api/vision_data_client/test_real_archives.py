"""Real archives, through HTTP and the cache, against an independent reading of every cell."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from typing import TYPE_CHECKING

import numpy as np
import pytest

import ckvd
from ckvd.model.calendar import Cadence, Period
from ckvd.model.table import BarFlag
from ckvd.model.timespan import Span, parse_time
from ckvd.vision.name import ArchiveName
from support.archives import columns_of, read_rows
from support.loopback.mirror import Mirror
from support.places import SHARED_DATA, sample_of

if TYPE_CHECKING:
    from pathlib import Path

HOUR_MS = 3_600_000

# All of them need all archives in one cache, which takes ten seconds.
pytestmark = pytest.mark.long


@pytest.fixture(scope="module")
def vision() -> Path:
    folder = SHARED_DATA / "vision"
    if not folder.is_dir():
        pytest.skip("real data not present: ../shared/data")
    return folder


@pytest.fixture(scope="module")
def archives(vision: Path) -> dict[ckvd.SeriesKey, dict[Period, Path]]:
    found: dict[ckvd.SeriesKey, dict[Period, Path]] = defaultdict(dict)
    for path in sorted(vision.rglob("*.zip")):
        name = ArchiveName.of_path(path.relative_to(vision).as_posix())
        assert name is not None
        found[name.series][name.period] = path
    return dict(found)


@pytest.fixture(scope="module")
def cache_path(
    vision: Path, archives: dict[ckvd.SeriesKey, dict[Period, Path]], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A cache into which all real archives were downloaded from a loopback server."""
    path = tmp_path_factory.mktemp("cache")

    async def download(mirror: Mirror) -> None:
        async with ckvd.VisionDataClient(
            mirror.base_url, listing_url=mirror.listing_url, cache=path, is_checksum_required=True
        ) as client:
            for series, periods in archives.items():
                for span in spans_of(periods):
                    report = await client.download_series([series], span)
                    assert not report.failed

    with Mirror(vision) as mirror:
        asyncio.run(download(mirror))
    return path


def spans_of(periods: dict[Period, Path]) -> list[Span]:
    """Runs of periods without a month between that is not there."""
    spans: list[Span] = []
    for period in sorted(periods):
        if spans and period.start_ms - spans[-1].end_ms < 31 * 24 * HOUR_MS:
            spans[-1] = Span(spans[-1].start_ms, max(spans[-1].end_ms, period.span.end_ms))
        else:
            spans.append(period.span)
    return spans


def test_every_cell_equals_an_independent_reading(
    cache_path: Path, archives: dict[ckvd.SeriesKey, dict[Period, Path]]
) -> None:
    archive_count = 0
    with ckvd.open_cache(cache_path) as cache:
        for series, periods in archives.items():
            for period, path in sample_of(list(periods.items())):
                rows = read_rows(path)
                klines = cache.read_series(series, period.span)
                for name, expected in columns_of(rows, klines.column_names).items():
                    dtype = np.int64 if name in ("open_time", "close_time", "count") else np.float64
                    assert klines[name].tobytes() == np.array(expected, dtype).tobytes(), (path.name, name)
                archive_count += 1
    assert archive_count == sum(len(sample_of(list(periods))) for periods in archives.values()) > 300


def test_a_year_of_minutes_has_all_its_bars_and_the_outage_has_80(cache_path: Path) -> None:
    with ckvd.open_cache(cache_path) as cache:
        klines = cache.read("BTCUSDT", "1m", start="2023-01-01", end="2024-01-01")
    assert len(klines) == 525_520
    (gap,) = klines.gaps
    assert (gap.start_ms, gap.end_ms) == (parse_time("2023-03-24T12:40"), parse_time("2023-03-24T14:00"))
    assert gap.bar_count == 80
    flagged = klines.flag_counts
    assert flagged[BarFlag.ODD_CLOSE] >= 1
    outage = cache_flags(klines, "2023-03-24", "2023-03-25")
    assert np.count_nonzero(outage & BarFlag.ZERO_VOLUME) == 72


def cache_flags(klines: ckvd.Klines, start: str, end: str) -> np.ndarray:
    low, high = np.searchsorted(klines.open_time, (parse_time(start), parse_time(end)))
    return klines.flags[low:high]


def test_one_archive_is_read_as_a_view_of_its_map(cache_path: Path) -> None:
    with ckvd.open_cache(cache_path) as cache:
        day = cache.read("BTCUSDT", "1m", start="2023-03-24", end="2023-03-25")
        part = cache.read("BTCUSDT", "1m", start="2023-03-24T06:00", end="2023-03-24T07:00")
        assert day.is_view
        for name in ("open_time", "open", "high", "low", "close", "volume", "quote_volume", "count"):
            assert np.shares_memory(day[name], part[name]), name
            assert not day[name].flags.writeable
    (path,) = (cache_path / "spot/klines/BTCUSDT/1m").glob("2023*.ckvd")
    with ckvd.SegmentReader(path) as reader:
        column = reader["close"]
        assert np.shares_memory(column, np.frombuffer(reader._map, np.uint8))
        start = int(np.searchsorted(reader.open_time, day.open_time[0]))
        assert np.array_equal(column[start : start + len(day)], day.close)


def test_reading_changes_no_file(cache_path: Path) -> None:
    def state() -> dict[Path, tuple[int, int]]:
        return {
            path: (path.stat().st_mtime_ns, path.stat().st_size) for path in cache_path.rglob("*") if path.is_file()
        }

    before = state()
    with ckvd.open_cache(cache_path) as cache:
        klines = cache.read("BTCUSDT", "1h", start="2022-01-01", end="2024-06-26")
        assert klines.as_dict()
        assert klines.flags is not None
        assert klines.gaps is not None
    assert state() == before


def test_hours_off_the_grid_are_kept_and_flagged(cache_path: Path) -> None:
    with ckvd.open_cache(cache_path) as cache:
        klines = cache.read("BTCUSDT", "1h", start="2018-02-01", end="2018-03-01")
    off_grid = klines.open_time[(klines.flags & BarFlag.OFF_GRID) != 0]
    assert len(off_grid) == 43
    assert off_grid[0] == 1518168494789
    assert 1518319694789 in off_grid
    last = np.flatnonzero(klines.flags & BarFlag.OFF_GRID)[-1]
    assert klines.flags[last] & BarFlag.OVERLAPS_NEXT


def test_a_month_that_ends_early_ends_with_a_gap(cache_path: Path) -> None:
    with ckvd.open_cache(cache_path) as cache:
        klines = cache.read("BTCUSDT", "1h", start="2020-12-01", end="2021-01-01")
    assert klines.gaps[-1].start_ms == parse_time("2020-12-08")
    assert klines.gaps[-1].end_ms == parse_time("2021-01-01")
    assert len(klines) + sum(gap.bar_count for gap in klines.gaps) == 31 * 24


def test_a_single_minute_that_is_not_there_is_a_gap(cache_path: Path) -> None:
    with ckvd.open_cache(cache_path) as cache:
        klines = cache.read("SOLUSDT", "1m", start="2023-02-14", end="2023-02-15")
    assert [(gap.start_ms, gap.bar_count) for gap in klines.gaps] == [(parse_time("2023-02-14T16:39"), 1)]


def test_a_partial_first_day_of_trading_is_a_gap(cache_path: Path) -> None:
    with ckvd.open_cache(cache_path) as cache:
        klines = cache.read("ARBUSDT", "1m", start="2023-03-23", end="2023-03-24")
    assert klines.gaps[0].start_ms == parse_time("2023-03-23")
    assert klines.gaps[0].end_ms == klines.open_time[0]


def test_units_and_headers_of_the_archives_are_reported(cache_path: Path) -> None:
    with ckvd.open_cache(cache_path) as cache:
        hours = cache.read("BTCUSDT", "1h", start="2024-12-01", end="2025-02-01")
        with_header = cache.read("BTCUSDT", "5m", start="2025-01-01", end="2025-02-01", market="um")
        without = cache.read("BTCUSDT", "1m", start="2022-05-05", end="2022-05-07", market="um")
    assert [source.time_unit for source in hours.sources] == ["ms", "us"]
    assert [source.has_header for source in with_header.sources] == [True]
    assert [source.has_header for source in without.sources] == [False, False]
    assert all(source.is_checksum_published for source in hours.sources)


def test_ignored_cells_that_are_not_zero_are_kept(cache_path: Path) -> None:
    with ckvd.open_cache(cache_path) as cache:
        klines = cache.read("BTCUSDT", "1h", start="2017-12-01", end="2018-01-01")
    assert klines["ignore"].any()
    assert not klines["ignore"][klines.open_time >= parse_time("2017-12-19")].any()


def test_outages_of_futures_are_flat_bars_that_are_flagged(cache_path: Path) -> None:
    with ckvd.open_cache(cache_path) as cache:
        klines = cache.read("BTCUSDT", "5m", start="2025-08-29", end="2025-08-30", market="um")
    flat = (klines.flags & BarFlag.ZERO_VOLUME) != 0
    assert flat.any()
    assert np.array_equal(klines.high[flat], klines.low[flat])


def test_days_that_a_month_of_mark_prices_lacks_are_gaps(cache_path: Path) -> None:
    with ckvd.open_cache(cache_path) as cache:
        klines = cache.read(
            "BTCUSDT", "1m", start="2021-07-01", end="2021-08-01", market="um", kind="markPriceKlines"
        )
    spans = [(gap.start_ms, gap.end_ms) for gap in klines.gaps]
    assert (parse_time("2021-07-01"), parse_time("2021-07-02")) in spans
    assert any(start <= parse_time("2021-07-24T12:00") < end for start, end in spans)
    assert not klines.flag_counts.get(BarFlag.ZERO_VOLUME)


def test_contracts_and_base_volume_have_their_own_names(cache_path: Path) -> None:
    with ckvd.open_cache(cache_path) as cache:
        klines = cache.read("BTCUSD_PERP", "1h", start="2024-01-02", end="2024-01-03", market="cm")
    assert klines.volume[0] == 4207830
    assert klines["base_volume"][0] == 9401.41944763
    assert klines["taker_buy_base_volume"][0] == 4594.84130153
    with pytest.raises(KeyError, match="quote_volume"):
        klines["quote_volume"]


def test_months_and_days_that_overlap_give_each_bar_once(
    vision: Path, archives: dict[ckvd.SeriesKey, dict[Period, Path]], tmp_path: Path
) -> None:
    series = ckvd.SeriesKey.of("BTCUSDT", "1m")
    days = [period for period in archives[series] if period.cadence is Cadence.DAILY][:3]
    span = Span(days[0].start_ms, days[-1].span.end_ms)

    async def download() -> None:
        async with ckvd.VisionDataClient(vision, cache=tmp_path) as client:
            for day in days:
                await client.download_series([series], day.span)
            again = await client.download_series([series], span)
            assert again.covered_before

    asyncio.run(download())
    with ckvd.open_cache(tmp_path) as cache:
        klines = cache.read_series(series, span)
    assert len(klines) == len(np.unique(klines.open_time)) == 3 * 1440

"""A bound that is left out is where the bars that the cache holds begin or end."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from ckvd.cache import CacheFolder, KlineCache, SeriesStore
from ckvd.errors import NotCachedError
from ckvd.model.market import SeriesKey
from ckvd.model.provenance import Absence, Reason
from ckvd.model.table import KlineTable, empty_table
from ckvd.model.timespan import Span
from support.models import DAY_MS, MINUTE_MS, ms
from support.tables import BTCUSDT_1M, make_table, regular_table

if TYPE_CHECKING:
    from pathlib import Path

START_MS = ms(2024, 2, 28)
ETHUSDT_1M = SeriesKey.of("ETHUSDT", "1m")


def minutes(start: int, end: int) -> Span:
    return Span(START_MS + start * MINUTE_MS, START_MS + end * MINUTE_MS)


def put(root: Path, series: SeriesKey, span: Span) -> None:
    SeriesStore(CacheFolder(root), series).put(regular_table(series, span), span)


def put_absence(root: Path, series: SeriesKey, span: Span) -> None:
    absence = Absence(span.start_ms, span.end_ms, Reason.BEFORE_LISTING)
    SeriesStore(CacheFolder(root), series).put(make_table(series, []), span, absences=[absence])


@pytest.fixture
def cache(tmp_path: Path) -> KlineCache:
    """Two symbols: one with a recorded absence before and after its bars, the other with later bars."""
    put_absence(tmp_path, BTCUSDT_1M, minutes(-1440, 0))
    put(tmp_path, BTCUSDT_1M, minutes(0, 30))
    put(tmp_path, BTCUSDT_1M, minutes(30, 60))
    put_absence(tmp_path, BTCUSDT_1M, minutes(60, 90))
    put(tmp_path, ETHUSDT_1M, minutes(40, 80))
    return KlineCache(tmp_path)


def test_all_bars_are_read_and_not_the_time_without_bars_around_them(cache: KlineCache) -> None:
    with cache:
        klines = cache.read("BTCUSDT", "1m")
        assert klines.span == cache.held(BTCUSDT_1M) == minutes(0, 60)
        assert len(klines) == 60
        blocks = [block.open_time for block in cache.scan("BTCUSDT", "1m")]
        assert (np.concatenate(blocks) == klines.open_time).all()


def test_one_bound_is_enough(cache: KlineCache) -> None:
    with cache:
        assert cache.read("BTCUSDT", "1m", start=minutes(50, 50).start_ms).span == minutes(50, 60)
        assert cache.read("BTCUSDT", "1m", end=minutes(10, 10).start_ms).span == minutes(0, 10)


def test_a_bound_beyond_all_bars_leaves_nothing(cache: KlineCache) -> None:
    with cache:
        assert len(cache.read("BTCUSDT", "1m", start=minutes(70, 70).start_ms)) == 0
        assert len(cache.read("BTCUSDT", "1m", end=minutes(-5, -5).start_ms)) == 0


def test_a_hole_between_the_bars_is_still_an_error(tmp_path: Path) -> None:
    put(tmp_path, BTCUSDT_1M, minutes(0, 10))
    put(tmp_path, BTCUSDT_1M, minutes(20, 30))
    with KlineCache(tmp_path) as cache:
        with pytest.raises(NotCachedError) as caught:
            cache.read("BTCUSDT", "1m")
        assert caught.value.missing == (minutes(10, 20),)
        assert len(cache.read("BTCUSDT", "1m", missing="ignore")) == 20


def test_a_series_without_a_bar_is_not_cached(tmp_path: Path) -> None:
    put_absence(tmp_path, BTCUSDT_1M, minutes(0, 10))
    with KlineCache(tmp_path) as cache:
        for symbol in ("BTCUSDT", "ETHUSDT"):
            with pytest.raises(NotCachedError, match="has no bar of it"):
                cache.read(symbol, "1m")
            assert len(cache.read(symbol, "1m", missing="ignore")) == 0
        with pytest.raises(NotCachedError):
            cache.panel(["BTCUSDT"], "1m")
        assert len(cache.panel(["BTCUSDT"], "1m", missing="ignore")) == 0


def test_a_panel_has_the_union_of_what_its_symbols_have(cache: KlineCache) -> None:
    with cache:
        panel = cache.panel(["BTCUSDT", "ETHUSDT"], "1m")
        assert panel.span == minutes(0, 80)
        assert [int(number) for number in panel.mask.sum(axis=0)] == [60, 40]
        assert panel.mask[:60, 0].all()
        assert panel.mask[40:, 1].all()
        late = cache.panel(["BTCUSDT", "ETHUSDT"], "1m", start=minutes(50, 50).start_ms)
        assert late.span == minutes(50, 80)
        with pytest.raises(NotCachedError):  # a bound that is given has to be met
            cache.panel(["BTCUSDT", "ETHUSDT"], "1m", start=minutes(10, 10).start_ms)


def test_the_last_bar_of_days_and_months_ends_where_the_next_would_open(tmp_path: Path) -> None:
    for interval, end_ms in (("1d", START_MS + 3 * DAY_MS), ("1mo", ms(2024, 5, 1))):
        series = SeriesKey.of("BTCUSDT", interval)
        start_ms = START_MS if interval == "1d" else ms(2024, 2, 1)
        put(tmp_path, series, Span(start_ms, end_ms))
        with KlineCache(tmp_path) as cache:
            assert cache.held(series) == Span(start_ms, end_ms)


def test_rates_without_bounds_cover_the_bars_before_the_first_and_after_the_last(tmp_path: Path) -> None:
    rates = SeriesKey.of("BTCUSDT", market="um", kind="fundingRate")
    times = [START_MS + 12, START_MS + 480 * MINUTE_MS + 3]
    columns = {
        "open_time": np.array(times, np.int64),
        "interval_hours": np.full(2, 8, np.int64),
        "rate": np.array([0.25, 0.5]),
        "mark_price": np.full(2, np.nan),
    }
    store = SeriesStore(CacheFolder(tmp_path), rates)
    store.put(KlineTable(rates, columns, {}), minutes(0, 900))
    # What was not downloaded is no part of it.
    later = minutes(900, 1440)
    late = Absence(later.start_ms, later.end_ms, Reason.NOT_PUBLISHED)
    store.put(empty_table(rates), later, absences=[late])
    bars = SeriesKey.of("BTCUSDT", "1m", market="um")
    put(tmp_path, bars, minutes(0, 900))
    with KlineCache(tmp_path) as cache:
        funding, klines = cache.funding("BTCUSDT"), cache.read("BTCUSDT", "1m", market="um")
        assert funding.span == cache.held(rates) == minutes(0, 900)
        assert funding.on(klines)[[0, 480]].tolist() == [0.25, 0.5]
        assert funding.on(klines).sum() == 0.75
        assert cache.funding("BTCUSDT", start=times[0] + 1).time.tolist() == times[1:]
    with KlineCache(tmp_path / "other") as cache:
        with pytest.raises(NotCachedError, match="has no row of it"):
            cache.funding("BTCUSDT")
        assert not cache.funding("BTCUSDT", missing="ignore").span

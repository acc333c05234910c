"""`KlineCache.scan`: the bars of a read, in order, as views, in memory that does not grow."""

from __future__ import annotations

import mmap
import sys
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ckvd.cache import CacheFolder, KlineCache, SeriesStore, open_cache
from ckvd.errors import CacheBusyError, NotCachedError
from ckvd.model.provenance import Absence, Reason
from ckvd.model.timespan import Span
from support import leaks
from support.models import DAY_MS, MINUTE_MS
from support.tables import BTCUSDT_1M, make_table, regular_table

if TYPE_CHECKING:
    from pathlib import Path

FOUR_DAYS = Span(0, 4 * DAY_MS)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four days of minutes with holes, in segments of a day; the third has no bar."""
    folder = tmp_path_factory.mktemp("cache")
    rng = np.random.default_rng(3)
    opens = np.flatnonzero(rng.random(4 * 1440) < 0.9) * MINUTE_MS
    opens = opens[opens // DAY_MS != 2]
    table = make_table(BTCUSDT_1M, opens)
    for day in range(4):
        start, stop = opens.searchsorted([day * DAY_MS, (day + 1) * DAY_MS])
        store = SeriesStore(CacheFolder(folder), BTCUSDT_1M)
        store.put(table.rows(start, stop), Span(day * DAY_MS, (day + 1) * DAY_MS))
    return folder


@settings(max_examples=50)
@given(st.integers(0, 4 * 1440), st.integers(0, 4 * 1440), st.integers(1, 3000))
def test_the_blocks_of_a_scan_are_the_bars_of_a_read(root: Path, one: int, other: int, rows: int) -> None:
    start, end = (np.datetime64(minute, "m") for minute in sorted((one, other)))
    with open_cache(root) as cache:
        whole = cache.read("BTCUSDT", "1m", start=start, end=end)
        blocks = list(cache.scan("BTCUSDT", "1m", start=start, end=end, rows=rows))
    assert all(1 <= len(block) <= rows and block.is_view for block in blocks)
    for name in whole.column_names:
        joined = np.concatenate([block[name] for block in blocks]) if blocks else whole[name][:0]
        assert joined.tobytes() == whole[name].tobytes()
    for block in blocks:
        assert block.span.start_ms <= block.open_time[0] <= block.open_time[-1] < block.span.end_ms
    assert all(one.span.end_ms <= other.span.start_ms for one, other in pairwise(blocks))


def test_what_is_not_covered_raises_when_the_scan_is_asked_for(root: Path) -> None:
    with open_cache(root) as cache:
        with pytest.raises(NotCachedError):
            cache.scan("BTCUSDT", "1m", start=0, end="1970-01-06")
        blocks = list(cache.scan("BTCUSDT", "1m", start=0, end="1970-01-06", missing="ignore"))
        assert sum(map(len, blocks)) == len(cache.read("BTCUSDT", "1m", start=0, end="1970-01-05"))
        with pytest.raises(ValueError, match="at least one bar, not 0"):
            cache.scan("BTCUSDT", "1m", start=0, end="1970-01-02", rows=0)


def test_a_read_of_the_same_span_tells_what_no_block_covers(tmp_path: Path) -> None:
    store = SeriesStore(CacheFolder(tmp_path), BTCUSDT_1M)
    first, second, fourth = (Span(day * DAY_MS, (day + 1) * DAY_MS) for day in (0, 1, 3))
    halt = Absence(second.start_ms, second.end_ms, Reason.HALTED)
    store.put(regular_table(BTCUSDT_1M, first), first)
    store.put(make_table(BTCUSDT_1M, []), second, absences=[halt])
    store.put(regular_table(BTCUSDT_1M, fourth), fourth)
    with open_cache(tmp_path) as cache:
        blocks = list(cache.scan("BTCUSDT", "1m", start=0, end="1970-01-05", missing="ignore"))
        klines = cache.read("BTCUSDT", "1m", start=0, end="1970-01-05", missing="ignore")
    assert [block.span for block in blocks] == [first, fourth]
    assert [block.missing for block in blocks] == [(), ()]
    assert klines.missing == (Span(2 * DAY_MS, 3 * DAY_MS),)
    assert [gap.reason for gap in klines.gaps] == [Reason.HALTED, Reason.NOT_FETCHED]
    assert klines._columns.keys() == {"open_time"}


def test_the_replacement_of_a_segment_is_scanned_instead(tmp_path: Path) -> None:
    store = SeriesStore(CacheFolder(tmp_path), BTCUSDT_1M)
    table = regular_table(BTCUSDT_1M, FOUR_DAYS)
    days = [
        store.put(table.rows(day * 1440, (day + 1) * 1440), Span(day * DAY_MS, (day + 1) * DAY_MS))
        for day in range(4)
    ]
    with open_cache(tmp_path) as cache:
        scan = cache.scan("BTCUSDT", "1m", start=0, end="1970-01-05")
        opens = next(scan).open_time.tolist()
        store.put(table, FOUR_DAYS)
        for path in days:
            path.unlink()
        for block in scan:
            opens += block.open_time.tolist()
    assert opens == table.open_time.tolist()


def test_a_scan_that_never_finds_what_is_listed_gives_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    SeriesStore(CacheFolder(tmp_path), BTCUSDT_1M).put(regular_table(BTCUSDT_1M, FOUR_DAYS), FOUR_DAYS)

    def vanish(*_: object) -> None:
        raise FileNotFoundError

    monkeypatch.setattr(KlineCache, "_open_rows", vanish)
    with open_cache(tmp_path) as cache, pytest.raises(CacheBusyError, match="replaced 16 times"):
        next(cache.scan("BTCUSDT", "1m", start=0, end="1970-01-02"))


def test_blocks_stay_valid_after_their_memory_was_given_back(root: Path) -> None:
    with open_cache(root) as cache:
        blocks = list(cache.scan("BTCUSDT", "1m", start=0, end="1970-01-05", rows=100))
        whole = cache.read("BTCUSDT", "1m", start=0, end="1970-01-05")
    assert np.concatenate([block.close for block in blocks]).tobytes() == whole.close.tobytes()


@pytest.mark.skipif(sys.platform != "linux" or not hasattr(mmap, "MADV_DONTNEED"), reason="Linux gives back")
def test_a_scan_holds_no_more_than_a_few_blocks_in_memory(tmp_path: Path) -> None:
    span = Span(0, 400_000 * MINUTE_MS)
    SeriesStore(CacheFolder(tmp_path), BTCUSDT_1M).put(regular_table(BTCUSDT_1M, span), span)
    most_nbytes = 0
    with open_cache(tmp_path) as cache:
        for block in cache.scan("BTCUSDT", "1m", start="1970-01-01", end="1970-10-05T18:40", rows=10_000):
            block.close.sum()
            most_nbytes = max(most_nbytes, leaks.resident_nbytes(tmp_path))
        whole = cache.read("BTCUSDT", "1m", start="1970-01-01", end="1970-10-05T18:40")
        whole.close.sum()
        assert leaks.resident_nbytes(tmp_path) >= 400_000 * 8
    # At both ends a huge page, or the pages that the kernel maps around a fault.
    assert most_nbytes <= 2 * (2 << 20)


def test_a_span_whose_bars_were_unavailable_is_missing_for_a_scan_too(tmp_path: Path) -> None:
    day = Span(0, DAY_MS)
    absence = Absence(day.start_ms, day.end_ms, Reason.NOT_PUBLISHED)
    store = SeriesStore(CacheFolder(tmp_path), BTCUSDT_1M)
    store.put(make_table(BTCUSDT_1M, []), day, absences=[absence])
    with KlineCache(tmp_path) as cache:
        with pytest.raises(NotCachedError):
            list(cache.scan("BTCUSDT", "1m", start=0, end="1970-01-02"))
        assert list(cache.scan("BTCUSDT", "1m", start=0, end="1970-01-02", missing="ignore")) == []

"""A cache whose files change while it is read, that many use at once, or that is used after it was closed."""

from __future__ import annotations

import asyncio
import shutil
import signal
import threading
from concurrent.futures import ThreadPoolExecutor
from random import Random
from typing import TYPE_CHECKING, Any

import pytest

from ckvd.cache import CacheFolder, KlineCache, SeriesStore
from ckvd.cache.folder import SegmentName
from ckvd.cache.open_segments import OpenSegments, open_named
from ckvd.errors import CacheBusyError, NotCachedError, SegmentCorruptError
from ckvd.model.market import SeriesKey
from ckvd.model.timespan import Span
from ckvd.segment import SegmentReader, read_segment_header
from ckvd.utils.config import CACHE_READ_ATTEMPTS_MAX
from support import leaks
from support.after_listing import after_listing
from support.models import DAY_MS, MINUTE_MS
from support.processes import run_in_child
from support.tables import BTCUSDT_1M, regular_table

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

HOUR = Span(0, 60 * MINUTE_MS)
FIRST, SECOND = Span(0, 30 * MINUTE_MS), Span(30 * MINUTE_MS, 60 * MINUTE_MS)


@pytest.fixture
def folder(tmp_path: Path) -> CacheFolder:
    return CacheFolder(tmp_path)


def put(folder: CacheFolder, span: Span, close: float) -> Path:
    return SeriesStore(folder, BTCUSDT_1M).put(regular_table(BTCUSDT_1M, span, close=close), span)


# --- Writers -----------------------------------------------------------------------------------------------


def test_a_segment_that_was_packed_after_it_was_listed_is_looked_for_again(
    folder: CacheFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = [put(folder, FIRST, 1), put(folder, SECOND, 2)]

    def pack(time: int) -> None:
        if time == 1:
            put(folder, HOUR, 3)
            for path in old:
                path.unlink()

    listed = after_listing(monkeypatch, pack)
    with KlineCache(folder.root) as cache:
        klines = cache.read_series(BTCUSDT_1M, HOUR)
        assert klines.close.tolist() == [3] * 60
    assert listed == [2, 1]


def test_a_segment_that_was_pruned_after_it_was_listed_is_missing(
    folder: CacheFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(folder, FIRST, 1)
    gone = put(folder, SECOND, 2)
    after_listing(monkeypatch, lambda _: gone.unlink(missing_ok=True))
    with KlineCache(folder.root) as cache, pytest.raises(NotCachedError) as caught:
        cache.read_series(BTCUSDT_1M, HOUR)
    assert caught.value.missing == (SECOND,)


def test_a_reader_that_loses_every_race_gives_up(folder: CacheFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    newest = [put(folder, HOUR, 0)]

    def replace(time: int) -> None:
        before = newest.pop()
        newest.append(put(folder, HOUR, time))
        before.unlink()

    listed = after_listing(monkeypatch, replace)
    with KlineCache(folder.root) as cache, pytest.raises(CacheBusyError, match="were replaced 16 times"):
        cache.read_series(BTCUSDT_1M, HOUR)
    assert len(listed) == CACHE_READ_ATTEMPTS_MAX == 16


def test_a_segment_that_was_added_meanwhile_is_read_the_next_time(folder: CacheFolder) -> None:
    put(folder, HOUR, 1)
    with KlineCache(folder.root) as cache:
        before = cache.read_series(BTCUSDT_1M, HOUR)
        put(folder, SECOND, 2)
        assert cache.read_series(BTCUSDT_1M, HOUR).close.tolist() == [1] * 30 + [2] * 30
        assert before.close.tolist() == [1] * 60


# --- Swapped files -----------------------------------------------------------------------------------------


def test_a_segment_under_the_name_of_another_span_or_revision_is_refused(folder: CacheFolder) -> None:
    path = put(folder, FIRST, 1)
    revision = read_segment_header(path).revision
    for name in (SegmentName(SECOND, revision), SegmentName(FIRST, revision + 1)):
        swapped = path.with_name(name.file_name)
        shutil.copy(path, swapped)
        with (
            KlineCache(folder.root) as cache,
            pytest.raises(SegmentCorruptError, match="renamed or swapped") as caught,
        ):
            cache.read_series(BTCUSDT_1M, name.span)
        assert caught.value.path == str(swapped)
        swapped.unlink()


@pytest.mark.parametrize(
    "other",
    [
        SeriesKey.of("ETHUSDT", "1m"),
        SeriesKey.of("BTCUSDT", "1mo"),
        SeriesKey.of("BTCUSDT", "1m", market="um"),
        SeriesKey.of("BTCUSDT", "1m", market="um", kind="markPriceKlines"),
    ],
)
def test_a_segment_in_the_folder_of_another_series_is_refused(folder: CacheFolder, other: SeriesKey) -> None:
    path = put(folder, FIRST, 1)
    shutil.copy(path, folder.make_series_path(other) / path.name)
    with KlineCache(folder.root) as cache:
        with pytest.raises(SegmentCorruptError, match="renamed or swapped"):
            cache.read_series(other, FIRST)
        assert len(cache.read_series(BTCUSDT_1M, FIRST)) == 30


def test_a_refused_file_is_not_kept_open(folder: CacheFolder) -> None:
    path = put(folder, FIRST, 1)
    path.rename(path.with_name(SegmentName(SECOND, 1).file_name))
    before = leaks.count_maps(), leaks.count_descriptors()
    with KlineCache(folder.root) as cache:
        for _ in range(3):
            with pytest.raises(SegmentCorruptError):
                cache.read_series(BTCUSDT_1M, SECOND)
            assert (leaks.count_maps(), leaks.count_descriptors()) == before


# --- Closing -----------------------------------------------------------------------------------------------


def test_bars_stay_valid_when_the_cache_is_closed_and_its_folder_removed(folder: CacheFolder) -> None:
    put(folder, FIRST, 1)
    put(folder, SECOND, 2)
    with KlineCache(folder.root) as cache:
        view, gathered = cache.read_series(BTCUSDT_1M, FIRST), cache.read_series(BTCUSDT_1M, HOUR)
        closes = view.close
    shutil.rmtree(folder.root)
    assert closes.tolist() == [1] * 30
    # These columns are read for the first time.
    assert view.open.tolist() == [100.0 + row for row in range(30)]
    assert gathered.close.tolist() == [1] * 30 + [2] * 30
    assert gathered.count.tolist() == [*range(800, 830)] * 2


def test_closing_releases_all_maps_that_no_array_uses(folder: CacheFolder) -> None:
    put(folder, FIRST, 1)
    put(folder, SECOND, 2)
    before = leaks.count_maps(), leaks.count_descriptors()
    cache = KlineCache(folder.root)
    cache.read_series(BTCUSDT_1M, HOUR)
    assert leaks.count_maps() == before[0] + 2
    cache.close()
    cache.close()
    assert (leaks.count_maps(), leaks.count_descriptors()) == before


def test_a_closed_cache_is_refused(folder: CacheFolder) -> None:
    put(folder, HOUR, 1)
    cache = KlineCache(folder.root)
    cache.read_series(BTCUSDT_1M, HOUR)
    cache.close()
    with pytest.raises(ValueError, match="is closed"):
        cache.read_series(BTCUSDT_1M, HOUR)


def test_an_empty_closed_cache_is_refused_too(folder: CacheFolder) -> None:
    cache = KlineCache(folder.root)
    cache.close()
    with pytest.raises(ValueError, match="is closed"):
        cache.read_series(BTCUSDT_1M, HOUR, missing="ignore")


def test_leaving_asynchronously_closes_as_well(folder: CacheFolder) -> None:
    put(folder, HOUR, 1)

    async def read() -> KlineCache:
        async with KlineCache(folder.root) as cache:
            assert len(cache.read_series(BTCUSDT_1M, HOUR)) == 60
        return cache

    maps = leaks.count_maps()
    cache = asyncio.run(read())
    assert leaks.count_maps() == maps
    assert "closed" in repr(cache)


def test_the_representation_tells_the_folder_and_the_state(folder: CacheFolder) -> None:
    cache = KlineCache(folder.root)
    assert repr(cache) == f"<KlineCache {str(folder.root)!r} open>"
    cache.close()
    assert repr(cache) == f"<KlineCache {str(folder.root)!r} closed>"


# --- Many readers ------------------------------------------------------------------------------------------


def days(start: int, end: int) -> Span:
    return Span(start * DAY_MS, end * DAY_MS)


def test_views_stay_valid_while_more_segments_are_read_than_are_kept_open(
    folder: CacheFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ckvd.cache.open_segments._OPEN_SEGMENTS_MAX", 2)
    for day in range(6):
        put(folder, days(day, day + 1), day)
    maps = leaks.count_maps()
    with KlineCache(folder.root) as cache:
        kept = [cache.read_series(BTCUSDT_1M, days(day, day + 1)) for day in range(6)]
        assert [set(klines.close.tolist()) for klines in kept] == [{day} for day in range(6)]
        assert cache.read_series(BTCUSDT_1M, days(0, 6)).close.sum() == 15 * 1440
        kept.clear()
        assert leaks.count_maps() == maps + 2


def test_threads_that_read_one_cache_read_what_one_alone_does(
    folder: CacheFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ckvd.cache.open_segments._OPEN_SEGMENTS_MAX", 2)
    for day in range(6):
        put(folder, days(day, day + 1), day)
    together = threading.Barrier(4)

    def read(seed: int) -> int:
        random = Random(seed)
        together.wait()
        for _ in range(60):
            start, end = sorted(random.sample(range(7), 2))
            klines = cache.read_series(BTCUSDT_1M, days(start, end))
            assert klines.open_time.tolist() == list(range(start * DAY_MS, end * DAY_MS, MINUTE_MS))
            assert klines.close[::1440].tolist() == list(range(start, end))
        return seed

    with KlineCache(folder.root) as cache, ThreadPoolExecutor(4) as pool:
        assert list(pool.map(read, range(4))) == list(range(4))


def test_nothing_is_opened_after_closing(folder: CacheFolder) -> None:
    """A thread may be about to open a segment when another one closes the cache."""
    put(folder, FIRST, 0)
    (name,) = folder.segments(BTCUSDT_1M)
    maps = leaks.count_maps()
    segments = OpenSegments(folder)
    assert len(segments.rows(BTCUSDT_1M, name)) == 30
    segments.close()
    segments.close()
    with pytest.raises(ValueError, match="is closed"):
        segments.rows(BTCUSDT_1M, name)
    assert leaks.count_maps() == maps


def test_threads_read_while_another_one_writes(folder: CacheFolder) -> None:
    """Each read shows one put for each half, never a mixture and never an older one than before."""
    put(folder, FIRST, 0)
    put(folder, SECOND, 0)
    is_done = threading.Event()

    def read() -> list[float]:
        seen = [0.0]
        with KlineCache(folder.root) as cache:
            while not is_done.is_set():
                closes = cache.read_series(BTCUSDT_1M, FIRST).close
                assert len(closes) == 30
                assert len(set(closes.tolist())) == 1
                assert closes[0] >= seen[-1]
                seen.append(float(closes[0]))
        return seen

    with ThreadPoolExecutor(2) as pool:
        readers = [pool.submit(read) for _ in range(2)]
        try:
            for revision in range(1, 20):
                put(folder, HOUR if revision % 2 else FIRST, revision)
        finally:
            is_done.set()
        assert all(reader.result()[-1] <= 19 for reader in readers)
    with KlineCache(folder.root) as cache:
        assert cache.read_series(BTCUSDT_1M, HOUR).close.tolist() == [19] * 60


# --- Forked children ---------------------------------------------------------------------------------------


def test_a_child_that_is_forked_while_a_thread_holds_the_lock_reads(folder: CacheFolder) -> None:
    put(folder, FIRST, 1)
    (name,) = folder.segments(BTCUSDT_1M)
    segments = OpenSegments(folder)
    segments.rows(BTCUSDT_1M, name)

    def read(say: Callable[[str], None]) -> None:
        signal.alarm(10)
        say(str(len(segments.rows(BTCUSDT_1M, name))))

    with segments._lock:
        ended = run_in_child(read)
    segments.close()
    assert (ended.status, ended.lines) == (0, ("30",))


def test_opening_a_segment_keeps_no_other_thread_waiting(
    folder: CacheFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(folder, FIRST, 1)
    put(folder, SECOND, 2)
    first, second = sorted(folder.segments(BTCUSDT_1M))
    is_opening, may_go_on = threading.Event(), threading.Event()

    def open_slowly(folder: CacheFolder, series: SeriesKey, name: SegmentName, **options: Any) -> SegmentReader:
        if name == first:
            is_opening.set()
            assert may_go_on.wait(10)
        return open_named(folder, series, name, **options)

    monkeypatch.setattr("ckvd.cache.open_segments.open_named", open_slowly)
    segments = OpenSegments(folder)
    maps = leaks.count_maps()
    with ThreadPoolExecutor(2) as pool:
        waiting = [pool.submit(segments.rows, BTCUSDT_1M, first) for _ in range(2)]
        assert is_opening.wait(10)
        assert len(segments.rows(BTCUSDT_1M, second)) == 30
        may_go_on.set()
        assert [len(opened.result()) for opened in waiting] == [30, 30]
        del waiting
    assert leaks.count_maps() == maps + 2
    segments.close()
    assert leaks.count_maps() == maps

"""A `KlineCache` and a `SegmentReader` release the same, left with or without `await`, in any event loop."""

from __future__ import annotations

import asyncio
import gc
import mmap
import sys
import warnings
from typing import TYPE_CHECKING, Any

import pytest

from ckvd.cache import CacheFolder, KlineCache, SeriesStore
from ckvd.model.timespan import Span
from ckvd.segment import SegmentReader
from support import leaks
from support.models import MINUTE_MS
from support.processes import run_script
from support.release.closers import run
from support.tables import BTCUSDT_1M, regular_table

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine
    from pathlib import Path

SPAN = Span(0, 200_000 * MINUTE_MS)
ROW_COUNT = 200_000
# The kernel maps some pages around one that is used, or a huge page.
FEW_NBYTES = 3 << 20


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache with one segment of ten megabytes."""
    root = tmp_path_factory.mktemp("cache")
    SeriesStore(CacheFolder(root), BTCUSDT_1M).put(regular_table(BTCUSDT_1M, SPAN), SPAN)
    return root


def open_reader(root: Path) -> SegmentReader:
    (path,) = root.rglob("*.ckvd")
    return SegmentReader(path)


def close_of(opened: SegmentReader | KlineCache) -> Any:
    """Read every stored column, and keep ten closes."""
    rows: Any
    if isinstance(opened, SegmentReader):
        rows = opened.rows
    else:
        (rows,) = opened.read_series(BTCUSDT_1M, SPAN)._blocks
    for layout in rows.header.columns:
        if (column := rows.stored(layout.name)) is not None:
            column.sum()
    return rows.stored("close")[:10]


async def leave_asynchronously(opened: SegmentReader | KlineCache) -> None:
    async with opened:
        pass


def in_a_loop(opened: SegmentReader | KlineCache) -> None:
    run(lambda: leave_asynchronously(opened))


def without_a_loop(opened: SegmentReader | KlineCache) -> None:
    """As in a loop of trio, or any other."""
    finish(leave_asynchronously(opened))


def synchronously(opened: SegmentReader | KlineCache) -> None:
    with opened:
        pass


def by_close(opened: SegmentReader | KlineCache) -> None:
    opened.close()
    opened.close()


def finish(coroutine: Coroutine[Any, Any, None]) -> None:
    """Run a coroutine that must not suspend."""
    with pytest.raises(StopIteration):
        coroutine.send(None)


WAYS = [synchronously, in_a_loop, without_a_loop, by_close]


@pytest.mark.parametrize("leave", WAYS, ids=lambda leave: leave.__name__)
@pytest.mark.parametrize("opener", [open_reader, KlineCache], ids=["reader", "cache"])
def test_leaving_closes_every_map_that_nothing_views(
    root: Path, opener: Callable[[Path], Any], leave: Callable[[Any], None]
) -> None:
    before = leaks.count_descriptors(), leaks.count_maps()
    opened = opener(root)
    close_of(opened)
    leave(opened)
    assert (leaks.count_descriptors(), leaks.count_maps()) == before


@pytest.mark.skipif(sys.platform != "linux" or not hasattr(mmap, "MADV_DONTNEED"), reason="Linux gives back")
@pytest.mark.parametrize("leave", WAYS, ids=lambda leave: leave.__name__)
@pytest.mark.parametrize("opener", [open_reader, KlineCache], ids=["reader", "cache"])
def test_leaving_gives_back_the_memory_of_a_map_that_is_still_viewed(
    root: Path, opener: Callable[[Path], Any], leave: Callable[[Any], None]
) -> None:
    opened = opener(root)
    kept = close_of(opened)
    assert leaks.resident_nbytes(root) >= 5 * 8 * ROW_COUNT
    leave(opened)
    assert leaks.resident_nbytes(root) == 0
    assert kept.sum() > 0
    assert leaks.resident_nbytes(root) <= FEW_NBYTES


@pytest.mark.skipif(sys.platform != "linux" or not hasattr(mmap, "MADV_DONTNEED"), reason="Linux gives back")
def test_a_reader_that_nobody_closes_gives_its_memory_back_too(root: Path) -> None:
    reader = open_reader(root)
    kept = close_of(reader)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        del reader
        gc.collect()
    assert [warning.category for warning in caught] == [ResourceWarning]
    assert leaks.resident_nbytes(root) == 0
    assert kept.sum() > 0


def test_many_caches_are_left_at_once(root: Path) -> None:
    async def one() -> None:
        async with KlineCache(root) as cache:
            close_of(cache)
            await asyncio.sleep(0)

    async def main() -> None:
        await asyncio.gather(*(one() for _ in range(20)))

    before = leaks.count_descriptors(), leaks.count_maps()
    run(main)
    assert (leaks.count_descriptors(), leaks.count_maps()) == before


def test_a_cache_that_is_open_when_the_interpreter_ends_is_released_in_silence(tmp_path: Path) -> None:
    store = SeriesStore(CacheFolder(tmp_path), BTCUSDT_1M)
    for day in range(24):
        span = Span(day * 1440 * MINUTE_MS, (day + 1) * 1440 * MINUTE_MS)
        store.put(regular_table(BTCUSDT_1M, span), span)
    run_script(f"""
        import warnings, ckvd
        warnings.simplefilter("ignore", ResourceWarning)
        cache = ckvd.open_cache({str(tmp_path)!r})
        klines = cache.read("BTCUSDT", "1m", start="1970-01-01", end="1970-01-25")
        assert len(klines) == 24 * 1440
    """)

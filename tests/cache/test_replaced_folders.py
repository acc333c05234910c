"""A cache that stays open while others replace what it has opened, under the names that it knows.

Revisions start at 1 in a folder that was deleted, so its second filling gives other files the names of the first.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

from ckvd.cache import CacheFolder, KlineCache, SeriesStore
from ckvd.cache.folder import SegmentName
from ckvd.cache.open_segments import OpenSegments
from ckvd.maintenance.quarantine import list_quarantine, quarantine_file, restore
from ckvd.model.market import DAY_MS, SeriesKey
from ckvd.model.timespan import Span
from support import leaks
from support.disks import small_disk
from support.tables import folder_state, regular_table

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from ckvd.segment.reader import MappedRows

BTC = SeriesKey.of("BTCUSDT", "1h")
DAYS = Span(0, 3 * DAY_MS)
SHARED_MEMORY = Path("/dev/shm")
ROUNDS = 60


@pytest.fixture(params=["disk", "memory"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    """A folder on a disk, or on a file system in memory. Both give the inode of a deleted file to the next one."""
    if request.param == "disk":
        yield tmp_path
    elif not os.access(SHARED_MEMORY, os.W_OK):
        pytest.skip("no file system in memory")
    else:
        with tempfile.TemporaryDirectory(dir=SHARED_MEMORY) as folder:
            yield Path(folder)


def fill(root: Path, close: float) -> list[Path]:
    """Fill an empty folder with three days, each in a segment, in which every bar has the same close."""
    store = SeriesStore(CacheFolder(root), BTC)
    spans = [Span(day * DAY_MS, (day + 1) * DAY_MS) for day in range(3)]
    return [store.put(regular_table(BTC, span, close=close), span) for span in spans]


def closes(cache: KlineCache) -> set[float]:
    return set(cache.read_series(BTC, DAYS).close.tolist())


def test_a_folder_that_is_deleted_and_filled_again_is_read_as_it_is_now(place: Path) -> None:
    root = place / "cache"
    names: set[str] = set()
    kept = []
    with KlineCache(root) as cache:
        for number in range(ROUNDS):
            shutil.rmtree(root, ignore_errors=True)
            names |= {path.name for path in fill(root, float(number))}
            klines = cache.read_series(BTC, DAYS)
            assert set(klines.close.tolist()) == {float(number)}
            assert closes(cache) == {float(number)}
            kept.append(klines.blocks[0].column("close", BTC.interval))
    assert len(names) == 3, "every filling has the same names"
    assert [set(column.tolist()) for column in kept if column is not None] == [
        {float(number)} for number in range(ROUNDS)
    ], "what was read before stays as it was"


def test_segments_that_nobody_views_are_told_apart_when_their_inodes_are_given_again(place: Path) -> None:
    """Without an array of the old segments there is only the open map that keeps their inodes from being reused."""
    root = place / "cache"
    with KlineCache(root) as cache:
        for number in range(ROUNDS):
            shutil.rmtree(root, ignore_errors=True)
            fill(root, float(number))
            assert closes(cache) == {float(number)}
            assert [sum(block.close) for block in cache.scan("BTCUSDT", "1h", start=0, end="1970-01-02")] == [
                24 * number
            ]
            panel = cache.panel("BTCUSDT", "1h", 0, "1970-01-04")
            assert np.unique(panel.close).tolist() == [number]


def until_file_times_move_on(root: Path) -> None:
    """Older kernels tell the time of a file in steps of some milliseconds."""
    latest = max(path.stat().st_ctime_ns for path in root.rglob("*.ckvd"))
    probe = root.with_name("probe")
    for _ in range(1_000_000):
        probe.touch()
        if probe.stat().st_ctime_ns > latest:
            return
    raise AssertionError("the clock of the file system stands still")


def by_link(root: Path, other: Path) -> None:
    """Turn a link from one cache to another, in one step."""
    new = root.with_name("link")
    new.symlink_to(other, target_is_directory=True)
    new.replace(root)


def by_renaming_the_folder(root: Path, other: Path) -> None:
    root.rename(root.with_name("before"))
    shutil.copytree(other, root)


def by_copying_over(root: Path, other: Path) -> None:
    """Write into the files that are there: their inodes stay the same."""
    shutil.copytree(other, root, dirs_exist_ok=True)


def by_copying_over_with_times(root: Path, other: Path) -> None:
    """The same with the times of modification of the files before, as a tool that keeps times may leave it."""
    before = {path: path.stat() for path in root.rglob("*.ckvd")}
    shutil.copytree(other, root, dirs_exist_ok=True)
    for path, status in before.items():
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
        assert (path.stat().st_ino, path.stat().st_size) == (status.st_ino, status.st_size)


def by_renaming_over(root: Path, other: Path) -> None:
    """Put each file in place of the one of its name, as rsync does, with its time of modification."""
    for path in sorted(other.rglob("*.ckvd")):
        target = root / path.relative_to(other)
        status = target.stat()
        new = Path(shutil.copy(path, target.with_name(".new")))
        os.utime(new, ns=(status.st_atime_ns, status.st_mtime_ns))
        new.replace(target)


WAYS_WITH_OTHER_INODES = [by_link, by_renaming_the_folder, by_renaming_over]
WAYS_IN_PLACE = [by_copying_over, by_copying_over_with_times]


def switch(cache: KlineCache, place: Path, replace: Callable[[Path, Path], None]) -> None:
    """Have another cache take the place of one that was read already."""
    first, second = place / "first", place / "second"
    fill(first, 1.0)
    fill(second, 2.0)
    root = place / "klines"
    if replace is by_link:
        root.symlink_to(first, target_is_directory=True)
    else:
        shutil.copytree(first, root)
    assert closes(cache) == {1.0}
    until_file_times_move_on(root)
    replace(root, second)


@pytest.mark.parametrize("replace", WAYS_WITH_OTHER_INODES, ids=lambda way: way.__name__)
def test_a_cache_that_takes_the_place_of_another_is_read_as_it_is(
    place: Path, replace: Callable[[Path, Path], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ckvd.cache.open_segments.CACHE_STATUS_TRUST_S", 3600)
    with KlineCache(place / "klines") as cache:
        switch(cache, place, replace)
        assert closes(cache) == {2.0}


@pytest.mark.parametrize("replace", WAYS_IN_PLACE, ids=lambda way: way.__name__)
def test_files_that_are_written_over_in_place_are_read_anew_when_their_status_is_looked_at(
    place: Path, replace: Callable[[Path, Path], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ckvd.cache.open_segments.CACHE_STATUS_TRUST_S", 0)
    with KlineCache(place / "klines") as cache:
        switch(cache, place, replace)
        assert closes(cache) == {2.0}


def test_a_reader_that_reads_all_the_time_looks_at_the_status_now_and_then(place: Path) -> None:
    with KlineCache(place / "klines") as cache:
        switch(cache, place, by_copying_over)
        deadline_s = time.monotonic() + 60
        while closes(cache) != {2.0}:
            assert time.monotonic() < deadline_s, "the files of before are still read"


def test_the_same_inode_on_another_device_is_noticed_by_the_status(tmp_path: Path) -> None:
    """Two new file systems of one kind, filled in the same way, give the same numbers."""
    root = tmp_path / "klines"
    with small_disk(tmp_path / "one") as one, small_disk(tmp_path / "other") as other:
        paths = [fill(disk / "cache", close)[0] for disk, close in ((one, 1.0), (other, 2.0))]
        first, second = (path.stat() for path in paths)
        if (first.st_ino, first.st_size) != (second.st_ino, second.st_size):
            pytest.skip("these file systems do not give the same numbers")
        assert first.st_dev != second.st_dev
        root.symlink_to(one / "cache", target_is_directory=True)
        with KlineCache(root) as cache:
            assert closes(cache) == {1.0}
            by_link(root, other / "cache")
            deadline_s = time.monotonic() + 60
            while closes(cache) != {2.0}:
                assert time.monotonic() < deadline_s, "the other device is never noticed"


def test_a_listing_has_the_inodes_of_its_segments(place: Path) -> None:
    folder = CacheFolder(place / "cache")
    paths = fill(folder.root, 1.0)
    listing = folder.segments(BTC)
    assert listing.path == str(folder.series_path(BTC))
    assert listing.inodes == {path.name: path.stat().st_ino for path in paths}
    assert sorted(folder.segment_path(BTC, name) for name in listing) == sorted(paths)


def test_a_file_system_whose_listing_has_other_numbers_keeps_segments_open_too(place: Path) -> None:
    folder = CacheFolder(place / "cache")
    fill(folder.root, 1.0)
    listing = folder.segments(BTC)
    listing.inodes = dict.fromkeys(listing.inodes, 0)
    segments = OpenSegments(folder)
    before: dict[SegmentName, MappedRows] = {}
    for _ in range(3):
        segments.confirm(BTC, listing)
        for name in listing:
            rows = segments.rows(BTC, name)
            assert rows._buffer is before.setdefault(name, rows)._buffer
    segments.close()


def test_a_file_that_another_had_the_place_of_between_two_equal_listings_is_not_read(place: Path) -> None:
    """The listing is of the first cache, the file is opened in the second, and the first comes back."""
    first, second, root = place / "first", place / "second", place / "klines"
    fill(first, 1.0)
    fill(second, 2.0)
    root.symlink_to(first, target_is_directory=True)
    folder = CacheFolder(root)
    segments = OpenSegments(folder)
    listing = folder.segments(BTC)
    segments.confirm(BTC, listing)
    by_link(root, second)
    (name, *_) = listing
    assert segments.rows(BTC, name).column("close", BTC.interval)[0] == 2.0  # type: ignore[index]
    by_link(root, first)
    segments.confirm(BTC, folder.segments(BTC))
    assert segments.rows(BTC, name).column("close", BTC.interval)[0] == 1.0  # type: ignore[index]
    segments.close()


def test_the_map_of_a_segment_that_is_gone_is_closed_by_the_next_read(place: Path) -> None:
    root = place / "cache"
    paths = fill(root, 1.0)
    with KlineCache(root) as cache:
        maps = leaks.count_maps()
        closes(cache)
        assert leaks.count_maps() == maps + 3
        paths[0].unlink()
        assert len(cache.read_series(BTC, DAYS, missing="ignore")) == 48
        assert leaks.count_maps() == maps + 2


def test_a_segment_that_was_set_aside_and_restored_is_read_again(place: Path) -> None:
    folder = CacheFolder(place / "cache")
    fill(folder.root, 1.0)
    name = SegmentName(Span(0, DAY_MS), 1)
    with KlineCache(folder.root) as cache:
        assert len(cache.read_series(BTC, DAYS)) == 72
        assert quarantine_file(folder, BTC, name.file_name, "for this test") is not None
        assert len(cache.read_series(BTC, DAYS, missing="ignore")) == 48
        (aside,) = list_quarantine(folder)
        restore(folder, aside)
        assert len(cache.read_series(BTC, DAYS)) == 72


def test_readers_in_threads_see_one_filling_or_the_next(place: Path) -> None:
    """After a filling is complete, every read that begins sees it, in every thread."""
    root = place / "cache"
    fill(root, 0.0)
    filled = threading.Barrier(3)
    wrong: list[tuple[int, object]] = []

    with KlineCache(root) as cache:

        def work() -> None:
            for number in range(ROUNDS):
                filled.wait(60)
                try:
                    found = [closes(cache) for _ in range(3)]
                    if found != [{float(number)}] * 3:
                        wrong.append((number, found))
                except Exception as error:  # noqa: BLE001  (the other threads wait at the barrier)
                    wrong.append((number, error))
                filled.wait(60)

        threads = [threading.Thread(target=work) for _ in range(2)]
        for thread in threads:
            thread.start()
        for number in range(ROUNDS):
            if number:
                shutil.rmtree(root)
                fill(root, float(number))
            filled.wait(60)
            filled.wait(60)
        for thread in threads:
            thread.join()
    assert wrong == []


def test_a_cache_that_nobody_replaces_opens_each_segment_once(place: Path) -> None:
    paths = fill(place / "cache", 1.0)
    with KlineCache(place / "cache") as cache:
        first = cache.read_series(BTC, DAYS)
        again = cache.read_series(BTC, DAYS)
        before = folder_state(place / "cache")
        assert len(paths) == 3
        for one, other in zip(first.blocks, again.blocks, strict=True):
            mine, theirs = one.column("close", BTC.interval), other.column("open", BTC.interval)
            assert mine is not None
            assert theirs is not None
            assert one._buffer is other._buffer  # type: ignore[attr-defined]
    assert folder_state(place / "cache") == before

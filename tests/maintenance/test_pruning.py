"""Pruned bars are gone, all others stay as they were, and older bars never win again."""

from __future__ import annotations

import os
import shutil
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ckvd.cache import CacheFolder, KlineCache, SeriesStore, fault_points
from ckvd.cache.fault_points import Step
from ckvd.cache.folder import SegmentName
from ckvd.cache.locks import SeriesLock
from ckvd.cache.packing import PackReport, pack_series
from ckvd.cache.resolution import Winner, resolve
from ckvd.cache.selection import SeriesFilter
from ckvd.errors import CacheBusyError, CacheError
from ckvd.maintenance.pruning import (
    Pruning,
    carry_out,
    plan_pruning,
    plan_pruning_to_size,
    prune_span,
    removable,
)
from ckvd.maintenance.verification import verify_cache
from ckvd.model.market import HOUR_MS, SeriesKey
from ckvd.model.timespan import Span, difference
from ckvd.segment.reader import read_segment_header
from support.caches import day
from support.disks import small_disk
from support.tables import BTCUSDT_1M, regular_table

if TYPE_CHECKING:
    from pathlib import Path

HOURS = SeriesKey.of("BTCUSDT", "1h")


def put(folder: CacheFolder, span: Span, series: SeriesKey = HOURS, **columns: float) -> Path:
    return SeriesStore(folder, series).put(regular_table(series, span, **columns), span)


@pytest.fixture
def folder(tmp_path: Path) -> CacheFolder:
    return CacheFolder(tmp_path / "cache")


def test_a_plan_changes_nothing(folder: CacheFolder) -> None:
    put(folder, day(0, 10))
    put(folder, day(2, 3))
    (pruning,) = plan_pruning(folder, span=day(0, 4))
    assert pruning.bar_count == 96
    assert len(pruning.segments) == 2
    assert pruning.nbytes == sum(path.stat().st_size for path in folder.root.rglob("*.ckvd"))
    assert len(folder.segments(HOURS)) == 2


def test_a_series_that_is_pruned_leaves_no_folder(folder: CacheFolder) -> None:
    put(folder, day(0))
    put(folder, day(0), BTCUSDT_1M)
    prune_span(folder, HOURS)
    assert list(folder.series()) == [BTCUSDT_1M]
    prune_span(folder, BTCUSDT_1M)
    assert list(folder.series()) == []
    assert not (folder.root / "spot").exists()
    put(folder, day(0))


def test_folders_go_while_the_series_is_locked(folder: CacheFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    removed: list[Step] = []

    def look(step: Step) -> None:
        if step is Step.FOLDER_REMOVED:
            removed.append(step)
            with pytest.raises(CacheBusyError), SeriesLock(folder, HOURS, timeout_s=0.0):
                pass

    put(folder, day(0))
    monkeypatch.setattr(fault_points, "reach", look)
    prune_span(folder, HOURS)
    assert len(removed) == 4


def test_a_cut_segment_keeps_its_standing(folder: CacheFolder) -> None:
    store = SeriesStore(folder, HOURS)
    store.put(regular_table(HOURS, day(0, 4)), day(0, 4), is_provisional=True, recheck_ms=123)
    prune_span(folder, HOURS, day(1))
    headers = [read_segment_header(folder.series_path(HOURS) / n.file_name) for n in folder.segments(HOURS)]
    assert [(header.is_provisional, header.recheck_ms) for header in headers] == [(True, 123)] * 2


def test_a_view_outlives_its_segment(folder: CacheFolder) -> None:
    put(folder, day(0), open=5.0)
    with KlineCache(folder.root) as cache:
        view = cache.read_series(HOURS, day(0)).open
    prune_span(folder, HOURS)
    assert (view == 5.0).all()


def test_to_a_size_the_longest_unread_go_first(folder: CacheFolder) -> None:
    paths = [put(folder, day(number)) for number in range(4)]
    for path, age in zip(paths, (300, 100, 400, 200), strict=True):
        os.utime(path, (1_700_000_000 - age, 1_600_000_000))
    one = paths[0].stat().st_size
    prunings = plan_pruning_to_size(folder, 2 * one)
    assert [pruning.span for pruning in prunings] == [day(2), day(0)]
    assert plan_pruning_to_size(folder, 4 * one) == []
    assert plan_pruning_to_size(folder, 0, SeriesFilter(symbols=("ETH*",))) == []


def sizes(folder: CacheFolder) -> int:
    return sum(path.stat().st_size for path in folder.root.rglob("*.ckvd"))


def bars(folder: CacheFolder, span: Span) -> int:
    with KlineCache(folder.root) as cache:
        return len(cache.read_series(HOURS, span, missing="ignore"))


def test_to_a_size_superseded_segments_go_before_bars(folder: CacheFolder) -> None:
    put(folder, day(20))
    paths = [put(folder, day(number)) for number in range(4)]
    newest = put(folder, day(0, 4))
    os.utime(newest, (1, 1))
    nbytes = sizes(folder)
    dead_nbytes = sum(path.stat().st_size for path in paths)
    (pruning,) = plan_pruning_to_size(folder, nbytes - 1)
    assert (len(pruning.segments), pruning.bar_count, pruning.nbytes) == (4, 0, dead_nbytes)
    assert not pruning.span
    assert carry_out(folder, pruning).segments == pruning.segments
    assert sizes(folder) == nbytes - dead_nbytes
    assert bars(folder, day(0, 30)) == 5 * 24


def test_to_a_size_no_file_counts_twice_and_none_is_written_anew(folder: CacheFolder) -> None:
    paths = [put(folder, day(0, 4)), put(folder, day(2)), put(folder, day(3, 3)), put(folder, day(9))]
    for path, age in zip(paths, (400, 100, 200, 300), strict=True):
        os.utime(path, (1_700_000_000 - age, 1_600_000_000))
    nbytes = sizes(folder)
    assert [pruning.span for pruning in plan_pruning_to_size(folder, nbytes - 1)] == [day(9)]
    prunings = plan_pruning_to_size(folder, 0)
    assert [pruning.span for pruning in prunings] == [day(9), day(0, 6)]
    assert [len(pruning.segments) for pruning in prunings] == [1, 3]
    assert [pruning.bar_count for pruning in prunings] == [24, 6 * 24]
    assert sum(pruning.nbytes for pruning in prunings) == nbytes
    assert not any(pruning.kept for pruning in prunings)


def test_to_a_size_only_planned_segments_are_removed(folder: CacheFolder) -> None:
    put(folder, day(0, 4))
    put(folder, day(1))
    (pruning,) = plan_pruning_to_size(folder, 0)
    fresh = put(folder, day(1, 2), open=5.0)
    done = carry_out(folder, pruning)
    assert len(done.segments) == 2
    assert done.bar_count == 2 * 24
    assert list(folder.root.rglob("*.ckvd")) == [fresh]
    assert carry_out(folder, pruning).segments == ()
    assert bars(folder, day(0, 4)) == 2 * 24


def test_to_a_size_nothing_is_removed_above_a_restored_segment(folder: CacheFolder) -> None:
    old = put(folder, day(0), open=1.0)
    content = old.read_bytes()
    old.unlink()
    put(folder, day(0), open=2.0)
    (pruning,) = plan_pruning_to_size(folder, 0)
    old.write_bytes(content)
    assert carry_out(folder, pruning).segments == ()
    with KlineCache(folder.root) as cache:
        assert set(cache.read_series(HOURS, day(0)).open.tolist()) == {2.0}


@pytest.mark.parametrize("span", [day(0, 12), day(0, 3)])
def test_segments_packed_after_the_listing_are_pruned_too(
    folder: CacheFolder, monkeypatch: pytest.MonkeyPatch, span: Span
) -> None:
    for number in range(12):
        put(folder, day(number))
    genuine = SeriesStore.lock
    packed: list[PackReport] = []

    def pack_and_lock(store: SeriesStore) -> SeriesLock:
        if not packed:
            packed.append(PackReport(HOURS))
            packed.append(pack_series(folder, HOURS, is_thorough=True))
        return genuine(store)

    monkeypatch.setattr(SeriesStore, "lock", pack_and_lock)
    pruned = prune_span(folder, HOURS, span)
    assert packed[-1].packed
    assert pruned.bar_count == span.length_ms // HOUR_MS
    assert bars(folder, span) == 0
    assert bars(folder, day(0, 12)) == 12 * 24 - pruned.bar_count


def test_a_span_that_no_segment_can_be_cut_at_is_refused(folder: CacheFolder) -> None:
    with pytest.raises(ValueError, match="whole seconds"):
        plan_pruning(folder, span=Span(0, 1))


@settings(max_examples=25, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 20), st.integers(1, 8)), min_size=1, max_size=12),
    st.tuples(st.integers(0, 20), st.integers(1, 8)),
)
def test_pruning_removes_the_span_and_nothing_else(
    tmp_path_factory: pytest.TempPathFactory, puts: list[tuple[int, int]], pruned: tuple[int, int]
) -> None:
    folder = CacheFolder(tmp_path_factory.mktemp("pile"))
    for mark, (first, count) in enumerate(puts):
        put(folder, day(first, count), open=float(mark))
    span = day(*pruned)
    outside = difference([day(0, 30)], [span])
    with KlineCache(folder.root) as cache:
        before = [cache.read_series(HOURS, part, missing="ignore") for part in outside]
        prune_span(folder, HOURS, span)
        after = [cache.read_series(HOURS, part, missing="ignore") for part in outside]
        assert after == before
        assert [one.missing for one in after] == [one.missing for one in before]
        assert cache.read_series(HOURS, span, missing="ignore").missing == (span,)
    assert not [finding for finding in verify_cache(folder) if finding.trouble != "impossible bars"]


spans_of_days = st.tuples(st.integers(0, 12), st.integers(1, 6)).map(lambda days: day(*days))


@given(st.lists(spans_of_days, min_size=1, max_size=8), spans_of_days)
def test_what_is_removed_before_a_copy_loses_nothing_that_is_kept_and_lets_no_older_bar_win(
    spans: list[Span], pruned: Span
) -> None:
    segments = [SegmentName(span, revision) for revision, span in enumerate(spans, start=1)]
    touched = tuple(name for name in segments if name.span.overlaps(pruned))
    winners = resolve(day(0, 20), segments)
    kept = tuple(
        Winner(beyond, winner.segment)
        for winner in winners
        if winner.segment in touched
        for beyond in difference([winner.span], [pruned])
    )
    found = removable(Pruning(HOURS, pruned, touched, kept, 0, 0))
    assert [name.revision for name in found] == sorted(name.revision for name in found)
    for count in range(len(found) + 1):
        for number in range(20):
            before = resolve(day(number), segments)
            after = resolve(day(number), [name for name in segments if name not in found[:count]])
            assert after == before or (not after and day(number).overlaps(pruned))


def test_on_a_full_disk_what_needs_no_copy_goes_first_and_makes_room_for_the_copy(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk") as disk:
        folder = CacheFolder(disk / "cache")
        put(folder, day(0, 20))
        for number in range(20, 40):
            put(folder, day(number))
        (disk / "filler").write_bytes(b"x" * shutil.disk_usage(disk).free)
        pruning = prune_span(folder, HOURS, day(10, 30))
        assert (len(pruning.segments), pruning.bar_count) == (21, 720)
        with KlineCache(folder.root) as cache:
            assert cache.coverage(HOURS) == (day(0, 10),)
        assert not list(verify_cache(folder))


def test_on_a_full_disk_what_cannot_go_without_a_copy_is_named_and_stays(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk") as disk:
        folder = CacheFolder(disk / "cache")
        put(folder, day(0, 20))
        (disk / "filler").write_bytes(b"x" * shutil.disk_usage(disk).free)
        with pytest.raises(CacheError, match=r"make room on the disk.*have to be copied first") as refused:
            prune_span(folder, HOURS, day(10, 30))
        assert str(day(0, 10)) in str(refused.value)
        with KlineCache(folder.root) as cache:
            assert cache.coverage(HOURS) == (day(0, 20),)
        (disk / "filler").unlink()
        prune_span(folder, HOURS, day(10, 30))
        with KlineCache(folder.root) as cache:
            assert cache.coverage(HOURS) == (day(0, 10),)

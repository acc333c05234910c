"""A series that another process keeps locked is named, and does not keep the others from being looked after."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING, Any

import pytest

from ckvd.cache import CacheFolder, SeriesStore
from ckvd.cache.locks import FileLock
from ckvd.cache.open_segments import open_named
from ckvd.maintenance.quarantine import list_quarantine, quarantine_file
from ckvd.model.market import SeriesKey
from ckvd.model.timespan import Span
from cli.cache.run import run, run_any
from support.caches import day, flip
from support.locked import held_elsewhere
from support.tables import regular_table

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

# In the order in which they are worked on: the first is the one that is locked.
BUSY = SeriesKey.of("ADAUSDT", "1h")
FREE = SeriesKey.of("BTCUSDT", "1h")


@pytest.fixture(autouse=True)
def _short_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """Wait for a lock for a moment, and not for half a minute."""
    genuine = FileLock.__init__

    def init(lock: FileLock, path: Path, *, timeout_s: float, **more: Any) -> None:
        genuine(lock, path, timeout_s=min(timeout_s, 0.05), **more)

    monkeypatch.setattr(FileLock, "__init__", init)


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve days of two series, each day a segment, of which the last is damaged."""
    folder = CacheFolder(tmp_path_factory.mktemp("filled") / "cache")
    for series in (BUSY, FREE):
        for number in range(12):
            SeriesStore(folder, series).put(regular_table(series, day(number)), day(number))
        flip(max(folder.series_path(series).glob("*.ckvd")))
    return folder.root


@pytest.fixture
def folder(filled: Path, tmp_path: Path) -> Iterator[CacheFolder]:
    """A copy of that cache, of which one series is locked."""
    folder = CacheFolder(shutil.copytree(filled, tmp_path / "cache"))
    with held_elsewhere(folder.lock_path(BUSY)):
        yield folder


def test_repair_goes_on_with_the_others(folder: CacheFolder) -> None:
    ended = run_any(folder, "repair", "--no-fetch", "--yes")
    assert f"set aside {FREE}" in ended.stdout
    assert [aside.series for aside in list_quarantine(folder)] == [FREE]
    (busy,) = [line for line in ended.stderr.splitlines() if "locked" in line]
    assert busy.startswith(f"ckvd: {BUSY}: {folder.lock_path(BUSY)}: locked for ")


def test_repair_waits_once_for_a_series(folder: CacheFolder) -> None:
    for path in folder.series_path(BUSY).glob("*.ckvd"):
        flip(path)  # the last is as it was, and eleven are damaged
    ended = run_any(folder, "repair", "--no-fetch", "--yes")
    assert ended.stderr.count(f"{BUSY}: {folder.lock_path(BUSY)}: locked for ") == 1


def test_pack_goes_on_with_the_others(folder: CacheFolder) -> None:
    for series in (BUSY, FREE):
        flip(max(folder.series_path(series).glob("*.ckvd")))  # as it was
    ended = run_any(folder, "pack", "--yes")
    assert "1 segment made, 12 files" in ended.stdout
    assert len(folder.segments(FREE)) == 1
    assert f"ckvd: {BUSY}: {folder.lock_path(BUSY)}: locked for " in ended.stderr


def test_prune_goes_on_with_the_others(folder: CacheFolder) -> None:
    ended = run_any(folder, "prune", "--before", "2023-02-01", "--yes")
    assert len(folder.segments(FREE)) == 10
    assert len(folder.segments(BUSY)) == 12
    assert f"removed {FREE} " in ended.stdout
    assert f"removed {BUSY} " not in ended.stdout
    assert ended.stderr.startswith(f"ckvd: {BUSY}: {folder.lock_path(BUSY)}: locked for ")


def test_prune_to_a_size_goes_on_with_the_others_and_waits_once(folder: CacheFolder) -> None:
    ended = run_any(folder, "prune", "--max-size", "0", "--yes")
    assert folder.segments(FREE) == []
    assert len(folder.segments(BUSY)) == 12
    assert ended.stderr.count(f"ckvd: {BUSY}: ") == 1


def test_restoring_goes_on_with_the_others_and_waits_once(folder: CacheFolder) -> None:
    for number in range(3):
        assert quarantine_file(folder, FREE, min(folder.segments(FREE)).file_name, f"reason {number}")
    for aside in list_quarantine(folder):
        place = folder.root / ".quarantine" / str(BUSY)
        place.mkdir(parents=True, exist_ok=True)
        for path in (aside.path, aside.path.with_name(f"{aside.path.name}.json")):
            shutil.copy(path, place / path.name)
    ended = run_any(folder, "quarantine", "--restore", "all", "--yes")
    assert len(folder.segments(FREE)) == 12
    assert {aside.series for aside in list_quarantine(folder)} == {BUSY}
    assert ended.stderr.count("locked for ") == 1
    assert ended.stdout.endswith("3 files restored\n")


def test_prune_goes_on_behind_a_damaged_segment_that_reaches_beyond_the_span(tmp_path: Path) -> None:
    folder = CacheFolder(tmp_path / "other")
    for series in (BUSY, FREE):
        SeriesStore(folder, series).put(regular_table(series, day(0, 2)), day(0, 2))
    damaged = next(folder.series_path(BUSY).glob("*.ckvd"))
    flip(damaged)
    ended = run_any(folder, "prune", "--before", "2023-01-31", "--yes")
    assert f"ckvd: {BUSY}: {damaged}: " in ended.stderr
    assert damaged.exists()
    (kept,) = folder.segments(FREE)
    assert kept.span == Span.of("2023-01-31", "2023-02-01")
    with open_named(folder, FREE, kept) as reader:
        assert reader.header.row_count == 24


def test_only_series_of_the_filter_are_waited_for(folder: CacheFolder) -> None:
    assert f"removed {FREE} " in run(folder, "prune", FREE.symbol, "--before", "2023-02-01", "--yes")

"""Files that were set aside can be restored."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from ckvd.cache import CacheFolder, SeriesStore, fault_points
from ckvd.cache.fault_points import Step
from ckvd.cache.folder import SegmentName
from ckvd.cache.locks import SeriesLock
from ckvd.errors import CacheBusyError
from ckvd.maintenance.quarantine import discard, list_quarantine, quarantine_file, restore, settle
from ckvd.maintenance.repair import find_lost
from ckvd.model.market import SeriesKey
from ckvd.model.timespan import Span
from ckvd.segment.atomic_file import flush_folder
from support.caches import segment_paths
from support.tables import regular_table

if TYPE_CHECKING:
    from pathlib import Path
HOURS = SeriesKey.of("BTCUSDT", "1h", market="um")
MONTHS = (Span.of("2024-12-01", "2025-01-01"), Span.of("2025-01-01", "2025-02-01"))


@pytest.fixture
def folder(tmp_path: Path) -> CacheFolder:
    cache = CacheFolder(tmp_path / "cache")
    for month in MONTHS:
        SeriesStore(cache, HOURS).put(regular_table(HOURS, month), month)
    return cache


def set_aside_all(folder: CacheFolder) -> None:
    for path in segment_paths(folder):
        assert quarantine_file(folder, HOURS, path.name, "a test") is not None


def test_what_was_set_aside_can_be_restored_or_discarded(folder: CacheFolder) -> None:
    set_aside_all(folder)
    first, second = list_quarantine(folder)
    assert restore(folder, first) == folder.series_path(HOURS) / first.file_name
    discard(second)
    assert list_quarantine(folder) == []
    assert list((folder.root / ".quarantine").rglob("*.json")) == []


def test_the_folder_of_a_file_to_restore_is_made_while_the_series_is_locked(
    folder: CacheFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[Step] = []

    def try_lock(step: Step) -> None:
        made.append(step)
        if step is Step.FOLDER_MADE:
            with pytest.raises(CacheBusyError), SeriesLock(folder, HOURS, timeout_s=0.0):
                pass

    set_aside_all(folder)
    folder.series_path(HOURS).rmdir()
    monkeypatch.setattr(fault_points, "reach", try_lock)
    assert restore(folder, list_quarantine(folder)[0]).exists()
    assert made == [Step.FOLDER_MADE, Step.RESTORED]


def test_a_file_keeps_its_reason_when_its_folder_goes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = CacheFolder(tmp_path / "empty")
    path = SeriesStore(folder, HOURS).put(regular_table(HOURS, MONTHS[0]), MONTHS[0])

    def flush_and_lose(place: Path) -> None:
        if path.parent.exists() and not path.exists():
            path.parent.rmdir()
        flush_folder(place)

    monkeypatch.setattr("ckvd.maintenance.quarantine.flush_folder", flush_and_lose)
    assert quarantine_file(folder, HOURS, path.name, "a test") is not None
    assert not path.parent.exists()
    assert [aside.file_name for aside in list_quarantine(folder)] == [path.name]


def test_a_reason_has_the_keys_that_every_version_reads(folder: CacheFolder) -> None:
    first, second = segment_paths(folder)
    older = SegmentName(Span.of("2024-12-15", "2025-01-01"), 0)
    first.with_name(older.file_name).write_bytes(first.read_bytes())
    aside = quarantine_file(folder, HOURS, first.name, "a test")
    assert aside is not None
    assert aside.path.parent == folder.root / ".quarantine" / str(HOURS)
    document = json.loads(aside.path.with_name(f"{first.name}.json").read_text(encoding="utf-8"))
    assert list(document) == ["file_name", "reason", "since_ms", "stand_ins"]
    assert document["stand_ins"] == ["20241201T000000Z-20250101T000000Z-r3.ckvd"]
    assert list_quarantine(folder) == [aside]
    assert second.exists()


def test_a_file_that_is_back_is_listed_and_its_span_lost_as_long_as_a_tombstone_hides_it(
    folder: CacheFolder,
) -> None:
    first, _ = segment_paths(folder)
    older = SegmentName(Span.of("2024-12-15", "2025-01-01"), 0)
    first.with_name(older.file_name).write_bytes(first.read_bytes())
    aside = quarantine_file(folder, HOURS, first.name, "a test")
    assert aside is not None
    aside.path.rename(first)
    (hidden,) = list_quarantine(folder)
    assert (hidden.path, hidden.file_name, hidden.nbytes) == (aside.path, first.name, 0)
    (finding,) = find_lost(folder)
    assert finding.span == MONTHS[0]
    assert restore(folder, hidden) == first
    assert (list_quarantine(folder), find_lost(folder)) == ([], [])
    assert sorted(name.revision for name in folder.segments(HOURS)) == [0, 1, 2]
    assert list((folder.root / ".quarantine").rglob("*.json")) == []


def test_settling_does_nothing_while_the_file_is_in_quarantine(folder: CacheFolder) -> None:
    set_aside_all(folder)
    before = list_quarantine(folder)
    for aside in before:
        settle(folder, aside, folder.series_path(aside.series) / aside.file_name)
    assert list_quarantine(folder) == before

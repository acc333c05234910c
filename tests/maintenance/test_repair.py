"""Whatever is wrong with a file is found, set aside, and fetched again."""

from __future__ import annotations

import asyncio
import shutil
from typing import TYPE_CHECKING

import pytest

from ckvd.api.vision_data_client import VisionDataClient
from ckvd.cache import CacheFolder, KlineCache, SeriesStore, fault_points
from ckvd.cache.fault_points import Step
from ckvd.cache.folder import SegmentName
from ckvd.cache.locks import SeriesLock
from ckvd.errors import CacheBusyError
from ckvd.maintenance.leftovers import find_leftovers, remove_leftovers
from ckvd.maintenance.quarantine import discard, list_quarantine, restore
from ckvd.maintenance.repair import RepairReport, repair
from ckvd.maintenance.verification import Finding, Severity, Trouble, is_clean, verify_cache
from ckvd.model.market import SeriesKey
from ckvd.model.timespan import Span, now_ms
from ckvd.segment.writer import SegmentStatement, SegmentWriter, plan_columns
from ckvd.vision.folder_source import FolderArchiveSource
from support.places import SAMPLES
from support.tables import BTCUSDT_1M, regular_table

if TYPE_CHECKING:
    from pathlib import Path

HOURS = SeriesKey.of("BTCUSDT", "1h", market="um")
MONTHS = Span.of("2024-12-01", "2025-02-01")


@pytest.fixture
def folder(tmp_path: Path) -> CacheFolder:
    """Two months of hours from the sample mirror, each a segment."""
    cache = CacheFolder(tmp_path / "cache")

    async def download() -> None:
        async with VisionDataClient(SAMPLES, cache=cache.root) as vision:
            await vision.download_series([HOURS], MONTHS)

    asyncio.run(download())
    return cache


def segment_paths(folder: CacheFolder) -> list[Path]:
    return sorted(folder.series_path(HOURS).glob("*.ckvd"))


def look(folder: CacheFolder) -> list[Finding]:
    return list(verify_cache(folder))


def mend(folder: CacheFolder, source: FolderArchiveSource | None = None) -> RepairReport:
    return asyncio.run(repair(folder, look(folder), source or FolderArchiveSource(SAMPLES)))


def bars(folder: CacheFolder) -> dict[str, bytes]:
    with KlineCache(folder.root) as cache:
        klines = cache.read_series(HOURS, MONTHS)
        return {name: column.tobytes() for name, column in klines.as_dict().items()}


def flip(path: Path, position: int, bit: int = 0) -> None:
    content = bytearray(path.read_bytes())
    content[position] ^= 1 << bit
    path.write_bytes(content)


def test_a_cache_in_order_is_clean(folder: CacheFolder) -> None:
    assert look(folder) == []


def test_any_damaged_byte_is_found(tmp_path: Path) -> None:
    cache = CacheFolder(tmp_path / "small")
    day = Span.of("2024-01-01", "2024-01-02")
    SeriesStore(cache, SeriesKey.of("BTCUSDT", "1h")).put(regular_table(SeriesKey.of("BTCUSDT", "1h"), day), day)
    (path,) = cache.root.glob("spot/klines/BTCUSDT/1h/*.ckvd")
    genuine = path.read_bytes()
    missed = []
    for position in range(len(genuine)):
        path.write_bytes(
            genuine[:position] + bytes([genuine[position] ^ (1 << position % 8)]) + genuine[position + 1 :]
        )
        if is_clean(look(cache)):
            missed.append(position)
    assert missed == []


@pytest.mark.parametrize("position", [0, 9, 50, 200, 600, 5000, -1])
def test_a_damaged_byte_is_repaired_from_the_source(folder: CacheFolder, position: int) -> None:
    before = bars(folder)
    victim = segment_paths(folder)[1]
    flip(victim, position)
    damaged = victim.read_bytes()
    assert not is_clean(look(folder))
    report = mend(folder)
    assert report.is_complete
    assert [source.name.rpartition("/")[2] for source in report.refetched[0].stored] == ["BTCUSDT-1h-2025-01.zip"]
    assert look(folder) == []
    assert bars(folder) == before
    (aside,) = list_quarantine(folder)
    assert aside.path.read_bytes() == damaged
    assert aside.file_name == victim.name


@pytest.mark.parametrize(
    ("content", "trouble"),
    [
        (b"", Trouble.FOREIGN),
        (b"no segment", Trouble.FOREIGN),
        (b"\x89CKVD\r\n", Trouble.DAMAGED),
        (None, Trouble.DAMAGED),
    ],
)
def test_a_truncated_empty_or_foreign_file_is_repaired(
    folder: CacheFolder, content: bytes | None, trouble: Trouble
) -> None:
    before = bars(folder)
    victim = segment_paths(folder)[0]
    victim.write_bytes(victim.read_bytes()[:-8] if content is None else content)
    (finding,) = look(folder)
    assert (finding.severity, finding.trouble) == (Severity.ERROR, trouble)
    assert mend(folder).is_complete
    assert bars(folder) == before


def test_swapped_files_get_their_names_back_without_a_source(folder: CacheFolder, tmp_path: Path) -> None:
    before = bars(folder)
    one, other = segment_paths(folder)
    one.rename(tmp_path / "x")
    other.rename(one)
    (tmp_path / "x").rename(other)
    assert [finding.trouble for finding in look(folder)] == [Trouble.SWAPPED] * 2
    report = asyncio.run(repair(folder, look(folder)))
    assert report.is_complete
    assert sorted(report.renamed) == [one, other]
    assert look(folder) == []
    assert bars(folder) == before
    assert list_quarantine(folder) == []


def test_a_segment_of_another_series_goes_home(folder: CacheFolder) -> None:
    before = bars(folder)
    elsewhere = SeriesKey.of("ETHUSDT", "1h", market="um")
    folder.make_series_path(elsewhere)
    lost = segment_paths(folder)[0]
    lost.rename(folder.series_path(elsewhere) / lost.name)
    assert asyncio.run(repair(folder, look(folder))).renamed == (lost,)
    assert bars(folder) == before


def test_without_a_source_what_was_lost_is_told(folder: CacheFolder) -> None:
    flip(segment_paths(folder)[0], -1)
    report = asyncio.run(repair(folder, look(folder)))
    assert report.unrepaired == {HOURS: (Span.of("2024-12-01", "2025-01-01"),)}
    assert not report.is_complete


def test_a_source_that_lacks_the_archive_is_told(folder: CacheFolder, tmp_path: Path) -> None:
    flip(segment_paths(folder)[0], -1)
    (tmp_path / "empty" / "data").mkdir(parents=True)
    report = mend(folder, FolderArchiveSource(tmp_path / "empty"))
    assert report.unrepaired == {HOURS: (Span.of("2024-12-01", "2025-01-01"),)}


def test_a_source_that_cannot_be_reached_is_asked_once_for_a_month(folder: CacheFolder, tmp_path: Path) -> None:
    flip(segment_paths(folder)[0], -1)
    (refetched,) = mend(folder, FolderArchiveSource(tmp_path / "nowhere")).refetched
    assert len(refetched.failures) == 1
    assert refetched.unfetched == (Span.of("2024-12-01", "2025-01-01"),)


def test_what_stands_beneath_damage_is_not_believed(folder: CacheFolder) -> None:
    december = Span.of("2024-12-01", "2025-01-01")
    before = bars(folder)
    (old, _) = segment_paths(folder)
    newer = SegmentName(december, 9)
    table = regular_table(HOURS, december, open=1.0)
    path = folder.series_path(HOURS) / newer.file_name
    with SegmentWriter.of_table(path, SegmentStatement(HOURS, december, 9), table) as writer:
        writer.publish()
    flip(path, -1)
    report = mend(folder)
    assert report.is_complete
    assert old.exists()
    assert len(report.refetched[0].stored) == 1
    assert bars(folder) == before


def test_a_segment_of_a_later_version_stays_where_it_is(folder: CacheFolder) -> None:
    path = segment_paths(folder)[0]
    flip(path, 8, 1)
    flip(path, 20)
    (finding,) = look(folder)
    assert finding.trouble is Trouble.LATER_VERSION
    assert mend(folder).steps == ()
    assert path.exists()


def test_what_was_set_aside_can_be_restored_or_discarded(folder: CacheFolder) -> None:
    for path in segment_paths(folder):
        flip(path, -1)
    asyncio.run(repair(folder, look(folder)))
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

    for path in segment_paths(folder):
        flip(path, -1)
    asyncio.run(repair(folder, look(folder)))
    folder.series_path(HOURS).rmdir()
    monkeypatch.setattr(fault_points, "reach", try_lock)
    assert restore(folder, list_quarantine(folder)[0]).exists()
    assert made == [Step.FOLDER_MADE, Step.RESTORED]


def test_impossible_bars_are_warned_of_and_odd_ones_noted(tmp_path: Path) -> None:
    cache = CacheFolder(tmp_path / "odd")
    day = Span.of("2024-01-01", "2024-01-02")
    table = regular_table(
        BTCUSDT_1M,
        day,
        open=2.0,
        high=3.0,
        low=1.0,
        close=2.0,
        volume=1.0,
        taker_buy_volume=0.5,
        quote_volume=1.0,
        taker_buy_quote_volume=0.5,
    )
    table.columns["high"][5] = 1.5
    table.columns["taker_buy_volume"][7] = 2.0
    table.columns["close_time"][9] -= 7
    SeriesStore(cache, BTCUSDT_1M).put(table, day)
    found = {(finding.severity, finding.trouble, finding.bar_count) for finding in look(cache)}
    assert found == {
        (Severity.WARNING, Trouble.IMPOSSIBLE_BARS, 1),
        (Severity.NOTE, Trouble.OFF_GRID, 1),
    }
    assert list(verify_cache(cache, is_quick=True)) == []


def test_two_segments_of_one_revision_and_strangers_are_found(folder: CacheFolder) -> None:
    one = segment_paths(folder)[0]
    revision = one.stem.rpartition("-")[2]
    shutil.copy(one, one.with_name(f"20241201T000000Z-20241202T000000Z-{revision}.ckvd"))
    one.with_name("notes.txt").write_text("mine")
    troubles = [finding.trouble for finding in look(folder)]
    assert troubles == [Trouble.STRANGER, Trouble.SAME_REVISION, Trouble.SWAPPED]


def test_a_leftover_is_what_nobody_holds_and_has_its_age(folder: CacheFolder) -> None:
    table = regular_table(HOURS, Span.of("2025-02-01", "2025-02-02"))
    statement = SegmentStatement(HOURS, Span.of("2025-02-01", "2025-02-02"), 99)
    path = folder.series_path(HOURS)
    (path / ".dead.ckvd.1-aa.tmp").write_bytes(b"123")
    (folder.root / ".download-dead").mkdir()
    (folder.root / ".download-dead" / "archive-1.zip.part").write_bytes(b"1234")
    later_ms, much_later_ms = now_ms() + 120_000, now_ms() + 2 * 86_400_000
    with SegmentWriter(path / "living", statement, plan_columns(table), table.row_count):
        assert find_leftovers(folder) == []
        assert [leftover.nbytes for leftover in find_leftovers(folder, at_ms=later_ms)] == [3]
        found = remove_leftovers(folder, at_ms=much_later_ms)
        assert [leftover.nbytes for leftover in found] == [4, 3]
        assert len(list(path.glob(".*.tmp"))) == 1

"""Whatever is wrong with a file is found, set aside, and fetched again."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from ckvd.cache import CacheFolder, KlineCache
from ckvd.cache.folder import SegmentName
from ckvd.maintenance.quarantine import list_quarantine, quarantine_file
from ckvd.maintenance.repair import find_lost, plan_repair, repair
from ckvd.maintenance.verification import Finding, Severity, Trouble, is_clean, verify_cache
from ckvd.model.market import SeriesKey
from ckvd.model.timespan import Span
from ckvd.segment.writer import SegmentStatement, SegmentWriter
from support.caches import flip, mend, segment_paths
from support.places import SAMPLES
from support.tables import regular_table

if TYPE_CHECKING:
    from pathlib import Path

HOURS = SeriesKey.of("BTCUSDT", "1h", market="um")
MONTHS = Span.of("2024-12-01", "2025-02-01")


def look(folder: CacheFolder) -> list[Finding]:
    return list(verify_cache(folder))


def bars(folder: CacheFolder) -> dict[str, bytes]:
    with KlineCache(folder.root) as cache:
        klines = cache.read_series(HOURS, MONTHS)
        return {name: column.tobytes() for name, column in klines.as_dict().items()}


@pytest.mark.parametrize("position", [0, 9, 50, 200, 600, 5000, -1])
def test_a_damaged_byte_is_repaired_from_the_source(folder: CacheFolder, position: int) -> None:
    before = bars(folder)
    victim = segment_paths(folder)[1]
    flip(victim, position)
    damaged = victim.read_bytes()
    assert not is_clean(look(folder))
    report = mend(folder, SAMPLES)
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
    assert mend(folder, SAMPLES).is_complete
    assert bars(folder) == before


def test_swapped_files_get_their_names_back_without_a_source(folder: CacheFolder, tmp_path: Path) -> None:
    before = bars(folder)
    one, other = segment_paths(folder)
    one.rename(tmp_path / "x")
    other.rename(one)
    (tmp_path / "x").rename(other)
    assert [finding.trouble for finding in look(folder)] == [Trouble.SWAPPED] * 2
    report = mend(folder)
    assert report.is_complete
    assert sorted(report.renamed) == [one, other]
    assert look(folder) == []
    assert bars(folder) == before
    assert list_quarantine(folder) == []


@pytest.mark.parametrize("aside_count", [1, 2])
def test_a_repair_that_ended_half_way_through_swapped_names_is_gone_on_with(
    folder: CacheFolder, tmp_path: Path, aside_count: int
) -> None:
    before = bars(folder)
    one, other = segment_paths(folder)
    one.rename(tmp_path / "x")
    other.rename(one)
    (tmp_path / "x").rename(other)
    for path in (one, other)[:aside_count]:
        assert quarantine_file(folder, HOURS, path.name, f"{Trouble.SWAPPED}: as a repair says")
    lost = find_lost(folder, findings=look(folder))
    assert len(lost) == aside_count
    report = asyncio.run(repair(folder, [*look(folder), *lost]))
    assert report.is_complete
    assert sorted(report.renamed) == [one, other]
    assert (look(folder), find_lost(folder), list_quarantine(folder)) == ([], [], [])
    assert bars(folder) == before


def test_a_segment_in_the_folder_of_another_series_is_moved_back(folder: CacheFolder) -> None:
    before = bars(folder)
    elsewhere = SeriesKey.of("ETHUSDT", "1h", market="um")
    folder.make_series_path(elsewhere)
    lost = segment_paths(folder)[0]
    lost.rename(folder.series_path(elsewhere) / lost.name)
    assert mend(folder).renamed == (lost,)
    assert bars(folder) == before


def test_without_a_source_lost_spans_are_reported(folder: CacheFolder) -> None:
    flip(segment_paths(folder)[0])
    report = mend(folder)
    assert report.unrepaired == {HOURS: (Span.of("2024-12-01", "2025-01-01"),)}
    assert not report.is_complete


def test_spans_that_the_source_lacks_are_reported(folder: CacheFolder, tmp_path: Path) -> None:
    flip(segment_paths(folder)[0])
    (tmp_path / "empty" / "data").mkdir(parents=True)
    report = mend(folder, tmp_path / "empty")
    assert report.unrepaired == {HOURS: (Span.of("2024-12-01", "2025-01-01"),)}


def test_a_source_that_cannot_be_reached_is_asked_once_for_a_month(folder: CacheFolder, tmp_path: Path) -> None:
    flip(segment_paths(folder)[0])
    (refetched,) = mend(folder, tmp_path / "nowhere").refetched
    assert len(refetched.failures) == 1
    assert refetched.unfetched == (Span.of("2024-12-01", "2025-01-01"),)


def test_older_segments_under_a_damaged_one_do_not_win(folder: CacheFolder) -> None:
    december = Span.of("2024-12-01", "2025-01-01")
    before = bars(folder)
    (old, _) = segment_paths(folder)
    newer = SegmentName(december, 9)
    table = regular_table(HOURS, december, open=1.0)
    path = folder.series_path(HOURS) / newer.file_name
    with SegmentWriter.of_table(path, SegmentStatement(HOURS, december, 9), table) as writer:
        writer.publish()
    flip(path)
    report = mend(folder, SAMPLES)
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
    assert plan_repair(folder, [finding]) == ()
    assert mend(folder, SAMPLES).quarantined == ()
    assert path.exists()

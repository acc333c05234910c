"""Series of which no source had anything are named and removed; bars and answers stay."""

from __future__ import annotations

import asyncio
import threading
from typing import TYPE_CHECKING

import pytest

from ckvd.acquisition.completion.reasons import Reasons
from ckvd.acquisition.completion.scope import Scope
from ckvd.acquisition.completion.tail import Tail
from ckvd.cache import CacheFolder, SeriesStore
from ckvd.cache.coverage import read_coverage
from ckvd.maintenance.phantoms import is_phantom, remove_phantom
from ckvd.maintenance.quarantine import quarantine_file
from ckvd.maintenance.repair import plan_repair, repair
from ckvd.maintenance.verification import Severity, Trouble, is_clean, verify_cache
from ckvd.model.market import SeriesKey
from ckvd.model.provenance import Absence, Reason
from ckvd.vision.folder_source import FolderArchiveSource
from cli.cache.run import run, run_json
from support.caches import day, flip
from support.tables import make_table, regular_table

if TYPE_CHECKING:
    from pathlib import Path

    from ckvd.model.timespan import Span

HOURS = SeriesKey.of("BTCUSTD", "1h")
NOTHING = (Reason.NOT_IN_ARCHIVE, Reason.NO_ARCHIVE, Reason.NOT_PUBLISHED)


@pytest.fixture
def folder(tmp_path: Path) -> CacheFolder:
    return CacheFolder(tmp_path / "cache")


def put_absence(folder: CacheFolder, span: Span, reason: Reason) -> None:
    absence = Absence(span.start_ms, span.end_ms, reason, span.end_ms)
    SeriesStore(folder, HOURS).put(make_table(HOURS, []), span, absences=[absence], recheck_ms=span.end_ms)


def test_verification_names_a_phantom_and_repair_removes_it_with_its_folders(folder: CacheFolder) -> None:
    for number, reason in enumerate(NOTHING):
        put_absence(folder, day(number), reason)
    findings = list(verify_cache(folder))
    (finding,) = findings
    assert (finding.severity, finding.trouble, finding.series) == (Severity.NOTE, Trouble.PHANTOM, HOURS)
    assert finding.span == day(0, 3)
    assert is_clean(findings)
    (step,) = plan_repair(folder, findings)
    assert (step.lost, step.nbytes) == ((), folder.nbytes_of(HOURS, folder.segments(HOURS)))
    report = asyncio.run(repair(folder, findings))
    assert report.is_complete
    assert report.phantoms == (HOURS,)
    assert list(folder.series()) == []
    assert [path.name for path in folder.root.iterdir()] == [".locks"]
    assert list(verify_cache(folder)) == []


def test_a_revision_of_a_removed_phantom_is_not_taken_again(folder: CacheFolder) -> None:
    put_absence(folder, day(0), Reason.NOT_IN_ARCHIVE)
    (name,) = folder.segments(HOURS)
    assert remove_phantom(folder, HOURS)
    SeriesStore(folder, HOURS).put(regular_table(HOURS, day(0)), day(0))
    assert [segment.revision for segment in folder.segments(HOURS)] == [name.revision + 1]


@pytest.mark.parametrize("reason", [reason for reason in Reason if reason not in NOTHING])
def test_an_answer_a_damaged_archive_and_a_lost_file_are_worth_keeping(folder: CacheFolder, reason: Reason) -> None:
    put_absence(folder, day(0), Reason.NOT_IN_ARCHIVE)
    put_absence(folder, day(1), reason)
    assert not is_phantom(folder, HOURS)
    assert not remove_phantom(folder, HOURS)
    assert len(folder.segments(HOURS)) == 2


def test_a_series_with_a_bar_is_no_phantom_also_where_newer_absences_cover_it(folder: CacheFolder) -> None:
    SeriesStore(folder, HOURS).put(regular_table(HOURS, day(0)), day(0))
    put_absence(folder, day(0), Reason.NOT_IN_ARCHIVE)
    assert not is_phantom(folder, HOURS)
    assert not remove_phantom(folder, HOURS)


def test_a_damaged_segment_may_have_had_bars(folder: CacheFolder) -> None:
    put_absence(folder, day(0), Reason.NOT_IN_ARCHIVE)
    put_absence(folder, day(1), Reason.NOT_IN_ARCHIVE)
    flip(folder.segment_path(HOURS, folder.segments(HOURS)[0]), 40)
    assert not is_phantom(folder, HOURS)


def test_a_series_whose_file_is_in_quarantine_is_no_phantom(folder: CacheFolder) -> None:
    SeriesStore(folder, HOURS).put(regular_table(HOURS, day(0)), day(0))
    put_absence(folder, day(0), Reason.NOT_IN_ARCHIVE)
    SeriesStore(folder, HOURS).put(regular_table(HOURS, day(0)), day(0))
    newest = max(folder.segments(HOURS), key=lambda name: name.revision)
    quarantine_file(folder, HOURS, newest.file_name, "test")
    assert not is_phantom(folder, HOURS)


def test_bars_that_are_stored_while_a_phantom_is_to_be_removed_stay(folder: CacheFolder) -> None:
    put_absence(folder, day(0), Reason.NOT_IN_ARCHIVE)
    findings = list(verify_cache(folder))
    store = SeriesStore(folder, HOURS)
    removed: list[bool] = []
    with store.lock():
        # It waits for the lock, and sees what was stored meanwhile.
        thread = threading.Thread(target=lambda: removed.append(remove_phantom(folder, HOURS)))
        thread.start()
        path = folder.series_path(HOURS)
        SeriesStore(CacheFolder(folder.root.parent / "other"), HOURS).put(regular_table(HOURS, day(1)), day(1))
        (made,) = (folder.root.parent / "other").glob("*/*/*/*/*.ckvd")
        made.rename(path / made.name)
    thread.join()
    assert removed == [False]
    report = asyncio.run(repair(folder, findings))
    assert report.phantoms == ()
    assert len(folder.segments(HOURS)) == 2


def test_the_command_names_phantoms_and_removes_them_with_yes_only(folder: CacheFolder) -> None:
    put_absence(folder, day(0), Reason.NOT_IN_ARCHIVE)
    (listed,) = run_json(folder, "list")
    assert (listed["bar_count"], listed["missing_bar_count"]) == (0, 24)
    assert f"note: {folder.series_path(HOURS)}: phantom: no source had any of it" in run(folder, "verify")
    assert f"would remove {HOURS}, of which no source had anything" in run(folder, "repair", status=1)
    assert folder.segments(HOURS)
    assert f"removed {HOURS}, of which no source had anything" in run(folder, "repair", "--yes", "--no-fetch")
    run(folder, "repair")
    assert run_json(folder, "list") == []


def test_what_was_withheld_is_stored_where_something_else_of_the_series_came_meanwhile(folder: CacheFolder) -> None:
    mirror = folder.root.parent / "mirror"
    (mirror / "data").mkdir(parents=True)

    async def work(*, is_found: bool) -> list[bool]:
        scope = Scope(HOURS, day(0, 2), folder, None, day(90).start_ms)
        tail = Tail(scope, Reasons(scope, FolderArchiveSource(mirror)))
        (*_, last) = await tail.spans_to_fill([])
        assert (await tail.fill(last)).is_stored
        assert folder.segments(HOURS) == []
        if is_found:
            SeriesStore(folder, HOURS).put(regular_table(HOURS, day(0)), day(0))
        tail.settle()
        return [held.is_answered for held in read_coverage(folder, HOURS, day(0, 2))]

    assert asyncio.run(work(is_found=False)) == []
    assert asyncio.run(work(is_found=True)) == [True, False]

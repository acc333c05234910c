"""Leftovers are found and removed beside other users, and beside others who remove them as well."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from ckvd.cache import CacheFolder
from ckvd.cache.download_folder import download_folder
from ckvd.maintenance.leftovers import find_leftovers, remove_leftovers
from ckvd.maintenance.verification import verify_cache
from ckvd.model.market import SeriesKey
from ckvd.model.timespan import Span, now_ms
from ckvd.segment.writer import SegmentStatement, SegmentWriter, plan_columns
from support.processes import Ended, die, let_others_enter, run_in_child, void
from support.tables import regular_table

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

HOURS = SeriesKey.of("BTCUSDT", "1h", market="um")
MUCH_LATER_MS = now_ms() + 2 * 86_400_000


@pytest.fixture
def folder(tmp_path: Path) -> CacheFolder:
    cache = CacheFolder(tmp_path / "cache")
    cache.make_path(cache.root)
    return cache


def test_the_download_of_another_user_is_left_alone(folder: CacheFolder) -> None:
    if os.getuid() != 0:
        pytest.skip("only root can become somebody else")
    let_others_enter(folder.root)

    def work(say: Callable[[str], None]) -> None:
        os.setuid(65_534)
        say(str(list(verify_cache(folder))))
        say(str(remove_leftovers(folder, at_ms=MUCH_LATER_MS)))

    with download_folder(folder):
        assert run_in_child(work) == Ended(0, ("[]", "[]"))


def test_a_download_at_work_is_no_leftover_whatever_the_clock_says(folder: CacheFolder) -> None:
    with download_folder(folder) as place:
        (place / "archive.zip.part").write_bytes(b"123")
        assert remove_leftovers(folder, at_ms=MUCH_LATER_MS) == []
        assert place.exists()
    assert list(folder.root.iterdir()) == []


def test_leftovers_of_a_killed_download_are_removed_after_a_minute(folder: CacheFolder) -> None:
    def work(say: Callable[[str], None]) -> None:
        with download_folder(folder) as place:
            (place / "archive.zip.part").write_bytes(b"123")
            say(str(place))
            die()

    ended = run_in_child(work)
    assert remove_leftovers(folder) == []
    (leftover,) = remove_leftovers(folder, at_ms=now_ms() + 61_000)
    assert (str(leftover.path),) == ended.lines
    assert list(folder.root.iterdir()) == []


def test_a_forked_child_leaves_the_folder_to_the_process_that_made_it(folder: CacheFolder) -> None:
    manager = download_folder(folder)
    place = manager.__enter__()
    ended = run_in_child(lambda _: void(manager.__exit__(None, None, None)))
    assert ended == Ended(0, ())
    assert place.exists()
    assert remove_leftovers(folder, at_ms=MUCH_LATER_MS) == []
    manager.__exit__(None, None, None)
    assert not place.exists()


def test_a_folder_that_another_removes_meanwhile_is_no_error(
    folder: CacheFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = folder.root / ".download-a"
    place.mkdir()
    for number in range(3):
        (place / f"archive-{number}.zip.part").write_bytes(b"123")
    genuine = os.unlink

    def remove_all_and_unlink(path: str, *, dir_fd: int | None = None) -> None:
        if place.exists():
            for file in place.iterdir():
                genuine(file)
            place.rmdir()
        genuine(path, dir_fd=dir_fd)

    monkeypatch.setattr(os, "unlink", remove_all_and_unlink)
    assert [leftover.path for leftover in remove_leftovers(folder, at_ms=MUCH_LATER_MS)] == [place]
    assert list(folder.root.iterdir()) == []


def test_a_leftover_is_unlocked_and_has_its_age(folder: CacheFolder) -> None:
    table = regular_table(HOURS, Span.of("2025-02-01", "2025-02-02"))
    statement = SegmentStatement(HOURS, Span.of("2025-02-01", "2025-02-02"), 99)
    path = folder.make_series_path(HOURS)
    (path / ".dead.ckvd.1-aa.tmp").write_bytes(b"123")
    (folder.root / ".download-dead").mkdir()
    reasons = folder.make_path(folder.root / ".quarantine" / str(HOURS))
    (reasons / ".x.ckvd.json.1-aa.tmp").write_bytes(b"12345")
    (folder.root / ".download-dead" / "archive-1.zip.part").write_bytes(b"1234")
    later_ms, much_later_ms = now_ms() + 120_000, now_ms() + 2 * 86_400_000
    with SegmentWriter(path / "living", statement, plan_columns(table), table.row_count):
        assert find_leftovers(folder) == []
        assert [leftover.nbytes for leftover in find_leftovers(folder, at_ms=later_ms)] == [3, 5]
        found = remove_leftovers(folder, at_ms=much_later_ms)
        assert [leftover.nbytes for leftover in found] == [4, 3, 5]
        assert len(list(path.glob(".*.tmp"))) == 1

"""Leftovers are found and removed beside other users, and beside others who remove them as well."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
from typing import TYPE_CHECKING

import pytest

from ckvd.cache import CacheFolder, leftovers, locks
from ckvd.cache.download_folder import download_folder
from ckvd.cache.leftovers import Leftover, find_leftovers, remove_leftovers
from ckvd.cache.locks import SeriesLock
from ckvd.errors import CacheError
from ckvd.maintenance.verification import verify_cache
from ckvd.model.market import SeriesKey
from ckvd.model.timespan import Span, now_ms
from ckvd.segment import atomic_file
from ckvd.segment.writer import SegmentStatement, SegmentWriter, plan_columns
from support.processes import Ended, die, let_others_enter, run_in_child, void
from support.tables import regular_table

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
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


def test_leftovers_of_a_killed_download_are_removed_at_once(folder: CacheFolder) -> None:
    def work(say: Callable[[str], None]) -> None:
        with download_folder(folder) as place:
            (place / "archive.zip.part").write_bytes(b"123")
            say(str(place))
            die()

    ended = run_in_child(work)
    (leftover,) = remove_leftovers(folder)
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


@pytest.fixture
def left(folder: CacheFolder) -> list[int]:
    """The sizes of what dead processes left, and that of a file of somebody else's, which is none of it."""
    path = folder.make_series_path(HOURS)
    (path / ".dead.ckvd.1-aaaaaaaa.tmp").write_bytes(b"123")
    (path / ".mine.tmp").write_bytes(b"1234567")
    (path / ".link.ckvd.1-aaaaaaaa.tmp").symlink_to("/dev/null")
    (folder.root / ".download-dead").mkdir()
    (folder.root / ".download-dead" / "archive-1.zip.part").write_bytes(b"1234")
    reasons = folder.make_path(folder.root / ".quarantine" / str(HOURS))
    (reasons / ".x.ckvd.json.1-aaaaaaaa.tmp").write_bytes(b"12345")
    return [4, 3, 5]


@contextlib.contextmanager
def living_writer(folder: CacheFolder) -> Iterator[Path]:
    day = Span.of("2025-02-01", "2025-02-02")
    table = regular_table(HOURS, day)
    path = folder.make_series_path(HOURS) / "living"
    with SegmentWriter(path, SegmentStatement(HOURS, day, 99), plan_columns(table), table.row_count) as writer:
        yield writer.temporary_path


def test_what_is_unlocked_is_a_leftover_whatever_the_clock_says(folder: CacheFolder, left: list[int]) -> None:
    with living_writer(folder) as living, download_folder(folder) as place:
        assert [leftover.nbytes for leftover in find_leftovers(folder)] == left
        assert [leftover.nbytes for leftover in remove_leftovers(folder)] == left
        assert find_leftovers(folder, at_ms=MUCH_LATER_MS) == remove_leftovers(folder, at_ms=MUCH_LATER_MS) == []
        assert living.exists()
        assert place.exists()
    names = {path.name for path in folder.root.rglob("*") if path.is_symlink() or path.is_file()}
    assert {".mine.tmp", ".link.ckvd.1-aaaaaaaa.tmp"} <= names


def test_only_the_series_that_are_meant_are_cleared_and_all_downloads(folder: CacheFolder, left: list[int]) -> None:
    other = SeriesKey.of("BTCUSDT", "1h")
    (folder.make_series_path(other) / ".x.1-aaaaaaaa.tmp").write_bytes(b"123456")
    assert [leftover.nbytes for leftover in remove_leftovers(folder, [other])] == [left[0], 6]
    assert [leftover.nbytes for leftover in remove_leftovers(folder, [HOURS])] == left[1:]


@pytest.mark.parametrize("has_locks", [False, True], ids=["no locks", "locks of this machine only"])
def test_where_locks_tell_nothing_a_leftover_is_a_day_old(
    folder: CacheFolder, left: list[int], monkeypatch: pytest.MonkeyPatch, has_locks: bool
) -> None:
    def refuse(descriptor: int, operation: int) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    if has_locks:
        monkeypatch.setattr(leftovers, "local_lock_file_system", lambda _: "nfs")
    else:
        monkeypatch.setattr(fcntl, "flock", refuse)
    with living_writer(folder) as living:
        for act in (find_leftovers, remove_leftovers):
            assert act(folder) == act(folder, at_ms=now_ms() + 3_600_000) == []
        found = [leftover.nbytes for leftover in find_leftovers(folder, at_ms=MUCH_LATER_MS)]
        assert sorted(found) == sorted([*left, *([] if has_locks else [living.stat().st_size])])


def test_what_cannot_be_removed_is_named_and_keeps_nothing_else(folder: CacheFolder, left: list[int]) -> None:
    if os.getuid() != 0:
        pytest.skip("only root can become somebody else")
    let_others_enter(folder.series_path(HOURS))
    for open_to_all in (folder.root, folder.root / ".quarantine" / str(HOURS), folder.root / ".download-dead"):
        let_others_enter(open_to_all)
        open_to_all.chmod(0o777)

    def work(say: Callable[[str], None]) -> None:
        os.setuid(65_534)
        try:
            remove_leftovers(folder)
        except CacheError as error:
            say(str(error))

    (refusal,) = run_in_child(work).lines
    stuck = folder.series_path(HOURS) / ".dead.ckvd.1-aaaaaaaa.tmp"
    assert refusal.startswith(f"{stuck}: cannot be removed: Permission denied")
    assert [leftover.path for leftover in find_leftovers(folder)] == [stuck]
    assert left


def test_a_folder_of_a_series_without_anything_in_it_is_removed(folder: CacheFolder) -> None:
    path = folder.make_series_path(HOURS)
    with SeriesLock(folder, HOURS):
        assert remove_leftovers(folder) == []
        assert path.exists()  # somebody is changing it
    assert remove_leftovers(folder, [HOURS]) == []
    assert not (folder.root / "um").exists()


# --- Between making a file and locking it ------------------------------------------------------------------


def test_a_new_temporary_file_that_is_taken_for_a_leftover_is_made_again(
    folder: CacheFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    genuine = fcntl.flock
    (folder.make_series_path(HOURS) / "a segment").touch()
    taken: list[Leftover] = []

    def take_and_lock(descriptor: int, operation: int) -> None:
        if not taken and operation & fcntl.LOCK_EX:
            taken.extend(remove_leftovers(folder, [HOURS]))
        genuine(descriptor, operation)

    monkeypatch.setattr(fcntl, "flock", take_and_lock)
    with living_writer(folder) as living:
        assert [leftover.path.exists() for leftover in taken] == [False]
        assert living.exists()
        assert remove_leftovers(folder) == []


def test_a_new_temporary_file_that_is_being_removed_is_made_again(
    folder: CacheFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    genuine = fcntl.flock
    with contextlib.ExitStack() as removal:
        seen: list[Path] = []

        def hold_and_lock(descriptor: int, operation: int) -> None:
            if not seen and operation & fcntl.LOCK_EX:
                seen.extend(folder.series_path(HOURS).iterdir())
                assert removal.enter_context(atomic_file.holder_of(seen[0])) is False
            genuine(descriptor, operation)

        monkeypatch.setattr(fcntl, "flock", hold_and_lock)
        with living_writer(folder) as living:
            assert seen != [living]
            assert not seen[0].exists()


@pytest.mark.parametrize("is_removed", [True, False])
def test_a_new_folder_that_is_taken_for_a_leftover_is_made_again(
    folder: CacheFolder, monkeypatch: pytest.MonkeyPatch, is_removed: bool
) -> None:
    genuine = locks._open
    taken: list[Path] = []
    with contextlib.ExitStack() as removal:

        def take_and_open(path: Path) -> int:
            if not taken:
                taken.append(path.parent)
                if is_removed:
                    assert [leftover.path for leftover in remove_leftovers(folder)] == taken
                else:
                    assert removal.enter_context(atomic_file.holder_of(path, is_made=True)) is False
            return genuine(path)

        monkeypatch.setattr(locks, "_open", take_and_open)
        with download_folder(folder) as place:
            assert taken
            assert place != taken[0]
            assert place.exists()
    assert list(folder.root.iterdir()) == []

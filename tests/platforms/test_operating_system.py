"""Locks, flushes and mounts as Linux and macOS have them, on real files, folders and processes."""

from __future__ import annotations

import errno
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from ckvd.platforms import operating_system
from ckvd.segment.atomic_file import atomic_write, flush_folder
from support.disks import small_disk
from support.locked import held_elsewhere
from support.places import SOURCES
from support.processes import fork, run_in_child

if TYPE_CHECKING:
    from collections.abc import Callable

is_linux = pytest.mark.skipif(sys.platform != "linux", reason="on Linux, /proc and /dev/null are not flushed")


# --- Locks -------------------------------------------------------------------------------------------------


def test_a_lock_is_taken_unless_another_process_has_it(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    with held_elsewhere(path), path.open("r+b") as file:
        assert not operating_system.try_lock(file.fileno())
        assert not operating_system.try_lock(file.fileno(), is_shared=True)
    with path.open("r+b") as file:
        assert operating_system.try_lock(file.fileno())


def test_a_shared_lock_keeps_out_writers_alone(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    path.touch()
    with path.open("rb") as one, path.open("rb") as two:
        assert operating_system.try_lock(one.fileno(), is_shared=True)
        assert operating_system.try_lock(two.fileno(), is_shared=True)
        assert not operating_system.try_lock(two.fileno())


def test_unlocking_does_so_though_a_copy_of_the_descriptor_is_open(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    with path.open("wb") as file, path.open("rb") as other:
        copy = os.dup(file.fileno())
        try:
            assert operating_system.try_lock(file.fileno())
            operating_system.unlock(file.fileno())
            assert operating_system.try_lock(other.fileno())
        finally:
            os.close(copy)


def test_a_file_that_cannot_be_locked_is_an_error_and_not_one_that_another_has(tmp_path: Path) -> None:
    reading, writing = os.pipe()
    os.close(writing)
    os.close(reading)
    with pytest.raises(OSError, match=os.strerror(errno.EBADF)):
        operating_system.try_lock(reading)


def test_forked_children_do_what_was_asked_for_and_the_parent_does_not(tmp_path: Path) -> None:
    def work(say: Callable[[str], None]) -> None:
        told: list[int] = []
        operating_system.in_forked_children(lambda: told.append(os.getpid()))
        process = fork()
        if process == 0:
            os._exit(0 if told == [os.getpid()] else 1)
        say(f"{os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])} {told}")

    assert run_in_child(work).lines == ("0 []",)


# --- Flushes -----------------------------------------------------------------------------------------------


def test_files_and_folders_are_flushed(tmp_path: Path) -> None:
    with (tmp_path / "file").open("wb") as file:
        assert operating_system.flush_file(file.fileno())
    assert operating_system.flush_folder(tmp_path)
    assert operating_system.flush_folder(str(tmp_path))


@is_linux
def test_a_disk_that_does_not_flush_is_told_from_one_that_fails(tmp_path: Path) -> None:
    with Path("/dev/null").open("wb") as file:
        assert not operating_system.flush_file(file.fileno())
    assert not operating_system.flush_folder("/proc")
    with pytest.raises(FileNotFoundError):
        operating_system.flush_folder(tmp_path / "absent")
    with pytest.raises(NotADirectoryError):
        operating_system.flush_folder("/dev/null")


@is_linux
def test_a_disk_that_does_not_flush_is_named_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    flush_folder(Path("/proc"))
    flush_folder(Path("/proc"))
    flush_folder(Path("/proc/self"))
    with atomic_write(tmp_path / "file") as file:
        file.write(b"content")
    (record,) = caplog.records
    assert record.getMessage().startswith("/proc: this disk does not flush what is written: a power cut may cost")


# --- Elsewhere ---------------------------------------------------------------------------------------------


@is_linux
def test_the_table_of_mounts_names_what_is_mounted() -> None:
    table = operating_system.mount_table()
    assert table is not None
    assert "/proc" in {line.split(" ")[1] for line in table.splitlines()}


@is_linux
def test_only_disks_that_are_known_to_tell_of_changes_at_once_are_said_to(tmp_path: Path) -> None:
    with small_disk(tmp_path / "memory") as memory:
        assert operating_system.has_prompt_folders(memory.stat().st_dev)
    assert not operating_system.has_prompt_folders(Path("/proc").stat().st_dev)
    assert not operating_system.has_prompt_folders(os.makedev(4095, 1))


def test_no_other_module_asks_for_a_lock_or_a_flush() -> None:
    own = SOURCES / "ckvd" / "platforms" / "operating_system.py"
    for word in ("fcntl", "os.fsync", "register_at_fork", "O_CLOEXEC", "O_NOFOLLOW", "/proc/self"):
        users = {path for path in SOURCES.rglob("*.py") if word in path.read_text(encoding="utf-8")}
        assert users == {own}, word

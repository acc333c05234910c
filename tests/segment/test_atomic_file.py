"""A file that is written atomically has the old content or the new one, and nothing is left beside it."""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import zipfile
from typing import TYPE_CHECKING

import pytest

from ckvd.segment.atomic_file import TEMPORARY_SUFFIX, atomic_write
from support import leaks
from support.processes import die, run_in_child

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

CONTENT = b"0123456789" * 10_000


def disk_error() -> OSError:
    return OSError(errno.EIO, "it broke")


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("old", [None, b"old"])
def test_the_content_appears_at_the_end_of_the_block(tmp_path: Path, old: bytes | None) -> None:
    path = tmp_path / "file.txt"
    if old is not None:
        path.write_bytes(old)
    with atomic_write(path) as file:
        file.write(CONTENT)
        (temporary,) = set(tmp_path.iterdir()) - {path}
        assert temporary.match(f".file.txt.*{TEMPORARY_SUFFIX}")
        assert (path.read_bytes() if path.exists() else None) == old
    assert names_in(tmp_path) == ["file.txt"]
    assert path.read_bytes() == CONTENT


def test_the_caller_may_name_the_temporary_file(tmp_path: Path) -> None:
    with atomic_write(tmp_path / "file", temporary_name=".file.part") as file:
        file.write(b"x")
        assert names_in(tmp_path) == [".file.part"]
    assert names_in(tmp_path) == ["file"]


def test_a_temporary_name_in_use_is_refused_and_the_other_file_is_untouched(tmp_path: Path) -> None:
    (tmp_path / ".file.part").write_bytes(b"other")
    with pytest.raises(FileExistsError), atomic_write(tmp_path / "file", temporary_name=".file.part"):
        pytest.fail("entered")
    assert (tmp_path / ".file.part").read_bytes() == b"other"


def test_a_zip_can_be_written_which_seeks(tmp_path: Path) -> None:
    with atomic_write(tmp_path / "a.zip") as file, zipfile.ZipFile(file, "w") as archive:
        archive.writestr("member", CONTENT)
    with zipfile.ZipFile(tmp_path / "a.zip") as archive:
        assert archive.read("member") == CONTENT


@pytest.mark.parametrize("error", [disk_error, KeyboardInterrupt, ValueError])
def test_an_exception_in_the_block_comes_out_unchanged_and_leaves_the_old_file(
    tmp_path: Path, error: Callable[[], BaseException]
) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old")
    descriptors = leaks.count_descriptors()
    raised = error()

    def write_half() -> None:
        with atomic_write(path) as file:
            file.write(b"new")
            raise raised

    with pytest.raises(type(raised)) as caught:
        write_half()
    assert caught.value is raised
    assert names_in(tmp_path) == ["file"]
    assert path.read_bytes() == b"old"
    assert leaks.count_descriptors() == descriptors


@pytest.mark.parametrize("step", ["os.fsync", "pathlib.Path.replace"])
@pytest.mark.parametrize("error", [disk_error, KeyboardInterrupt])
def test_a_step_that_fails_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str, error: Callable[[], BaseException]
) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old")

    def fail(*_: object) -> None:
        raise error()

    def write() -> None:
        with atomic_write(path) as file:
            file.write(b"new")

    with monkeypatch.context() as patch:
        patch.setattr(step, fail)
        with pytest.raises(type(error())):
            write()
    assert names_in(tmp_path) == ["file"]
    assert path.read_bytes() == b"old"


def test_the_file_is_flushed_before_it_is_renamed_and_its_folder_after(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "file"
    flushed: list[tuple[str, bool]] = []
    fsync = os.fsync

    def note(descriptor: int) -> None:
        kind = "folder" if stat.S_ISDIR(os.fstat(descriptor).st_mode) else "file"
        flushed.append((kind, path.exists()))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", note)
    with atomic_write(path) as file:
        file.write(b"x")
    assert flushed == [("file", False), ("folder", True)]


def test_the_temporary_file_is_locked_while_it_is_written_and_free_after_its_writer_died(tmp_path: Path) -> None:
    def is_locked(path: Path) -> bool:
        with path.open("rb") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                return True
        return False

    with atomic_write(tmp_path / "file"):
        (temporary,) = tmp_path.iterdir()
        assert is_locked(temporary)

    def write_and_die(_: Callable[[str], None]) -> None:
        with atomic_write(tmp_path / "killed") as file:
            file.write(CONTENT)
            die()

    assert run_in_child(write_and_die).status < 0
    (leftover,) = tmp_path.glob(f".killed.*{TEMPORARY_SUFFIX}")
    assert not is_locked(leftover)
    assert not (tmp_path / "killed").exists()

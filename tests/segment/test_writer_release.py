"""A segment that is not published leaves nothing behind, whatever failed, and the error says what to do."""

from __future__ import annotations

import asyncio
import errno
import os
import stat
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from ckvd.errors import CacheError, CkvdError
from ckvd.model.timespan import Span
from ckvd.segment import SegmentReader, SegmentStatement, SegmentWriter
from ckvd.segment import writer as writer_module
from ckvd.segment.atomic_file import AtomicFile, flush_folder
from ckvd.segment.writer import plan_columns
from support import leaks
from support.models import MINUTE_MS
from support.processes import ENVIRONMENT, run_in_child, writing_nothing
from support.tables import BTCUSDT_1M, folder_state, regular_table, write_segment

if TYPE_CHECKING:
    from collections.abc import Callable

HOUR = Span(0, 60 * MINUTE_MS)
STATEMENT = SegmentStatement(BTCUSDT_1M, HOUR, 1)
TABLE = regular_table(BTCUSDT_1M, HOUR)


def fail(error: Callable[[], BaseException]) -> Callable[..., Any]:
    """Make a function that takes any arguments and raises."""

    def failing(*_: object, **__: object) -> Any:
        raise error()

    return failing


def disk_error() -> OSError:
    return OSError(errno.EIO, "it broke")


def write(folder: Path) -> None:
    write_segment(folder / "file.ckvd", TABLE, HOUR)


STEPS = [
    (AtomicFile, "truncate"),
    (AtomicFile, "write"),
    (AtomicFile, "rename"),
    (writer_module, "encode_header"),
    (writer_module, "place_columns"),
    (os, "fsync"),
    (Path, "replace"),
]


@pytest.mark.parametrize("error", [disk_error, MemoryError, KeyboardInterrupt, SystemExit])
@pytest.mark.parametrize(("owner", "name"), STEPS)
def test_nothing_is_left_behind_whichever_step_fails_in_whichever_way(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    owner: object,
    name: str,
    error: Callable[[], BaseException],
) -> None:
    descriptors = leaks.count_descriptors()
    with monkeypatch.context() as patch:
        patch.setattr(owner, name, fail(error))
        with pytest.raises(type(error())):
            write(tmp_path)
    assert list(tmp_path.iterdir()) == []
    assert leaks.count_descriptors() == descriptors


@pytest.mark.parametrize("error", [disk_error, KeyboardInterrupt])
def test_a_file_that_was_there_before_is_untouched_when_replacing_it_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Callable[[], BaseException]
) -> None:
    write(tmp_path)
    before = folder_state(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", fail(error))
        with pytest.raises((CacheError, KeyboardInterrupt)):
            write(tmp_path)
    assert folder_state(tmp_path) == before


def test_an_error_in_the_body_leaves_nothing_behind_and_comes_out_unchanged(tmp_path: Path) -> None:
    error = ZeroDivisionError("of the caller")
    with pytest.raises(ZeroDivisionError) as caught, SegmentWriter.of_table(tmp_path / "file", STATEMENT, TABLE):
        raise error
    assert caught.value is error
    assert list(tmp_path.iterdir()) == []


def test_leaving_without_publishing_leaves_nothing_behind(tmp_path: Path) -> None:
    with SegmentWriter.of_table(tmp_path / "file", STATEMENT, TABLE) as writer:
        writer.flush()
        assert len(list(tmp_path.iterdir())) == 1
    assert list(tmp_path.iterdir()) == []
    writer.close()


def test_leaving_is_quiet_if_the_temporary_file_was_removed(tmp_path: Path) -> None:
    with SegmentWriter.of_table(tmp_path / "file", STATEMENT, TABLE):
        (temporary,) = tmp_path.iterdir()
        temporary.unlink()


def test_publishing_fails_if_the_temporary_file_was_removed(tmp_path: Path) -> None:
    with SegmentWriter.of_table(tmp_path / "file", STATEMENT, TABLE) as writer:
        (temporary,) = tmp_path.iterdir()
        temporary.unlink()
        with pytest.raises(CacheError, match="cannot be written: No such file"):
            writer.publish()
    assert list(tmp_path.iterdir()) == []


# --- Asynchronously ----------------------------------------------------------------------------------------


def test_a_segment_published_within_async_with_stays_and_another_goes(tmp_path: Path) -> None:
    async def use() -> None:
        async with SegmentWriter.of_table(tmp_path / "published", STATEMENT, TABLE) as writer:
            writer.publish()
        async with SegmentWriter.of_table(tmp_path / "left", STATEMENT, TABLE) as writer:
            writer.flush()
        assert "closed" in repr(writer)

    asyncio.run(use())
    assert [path.name for path in tmp_path.iterdir()] == ["published"]


def test_cancellation_within_async_with_leaves_nothing_behind(tmp_path: Path) -> None:
    async def write_for_ever(is_open: asyncio.Event) -> None:
        async with SegmentWriter.of_table(tmp_path / "file", STATEMENT, TABLE):
            is_open.set()
            await asyncio.Event().wait()

    async def main() -> None:
        is_open = asyncio.Event()
        task = asyncio.create_task(write_for_ever(is_open))
        await is_open.wait()
        assert len(folder_state(tmp_path)) == 1
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    descriptors = leaks.count_descriptors()
    asyncio.run(main())
    assert list(tmp_path.iterdir()) == []
    assert leaks.count_descriptors() == descriptors


def test_a_time_limit_within_async_with_leaves_nothing_behind(tmp_path: Path) -> None:
    async def main() -> None:
        async with asyncio.timeout(0), SegmentWriter.of_table(tmp_path / "file", STATEMENT, TABLE):
            await asyncio.Event().wait()

    with pytest.raises(TimeoutError):
        asyncio.run(main())
    assert list(tmp_path.iterdir()) == []


# --- Writers that nobody closes ----------------------------------------------------------------------------


def test_a_writer_that_nobody_closes_warns_and_leaves_nothing_behind(tmp_path: Path) -> None:
    descriptors = leaks.count_descriptors()
    writer = SegmentWriter.of_table(tmp_path / "file", STATEMENT, TABLE)
    with pytest.warns(ResourceWarning, match=r"unclosed writer of .*file"):
        del writer
    assert list(tmp_path.iterdir()) == []
    assert leaks.count_descriptors() == descriptors


def test_a_writer_that_could_not_be_made_does_not_warn(tmp_path: Path) -> None:
    with pytest.raises(CacheError):
        SegmentWriter(tmp_path / "no" / "such" / "folder", STATEMENT, (), 0)
    assert list(tmp_path.iterdir()) == []


def test_the_representation_tells_the_state(tmp_path: Path) -> None:
    path = tmp_path / "file"
    writer = SegmentWriter(path, STATEMENT, plan_columns(TABLE), 60)
    writer.append(TABLE.rows(0, 25).columns)
    assert repr(writer) == f"<SegmentWriter {str(path)!r} 25 of 60 rows>"
    writer.close()
    assert repr(writer) == f"<SegmentWriter {str(path)!r} closed>"


# --- What the system refuses -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("number", "remedy"),
    [
        (errno.ENOSPC, "make room on the disk"),
        (errno.EDQUOT, "quota"),
        (errno.EFBIG, "limit of the process"),
        (errno.EROFS, "choose another cache folder"),
        (errno.EACCES, "choose another cache folder"),
        (errno.EPERM, "choose another cache folder"),
        (errno.EMFILE, "ulimit -n"),
        (errno.ENFILE, "too many open files"),
    ],
)
def test_what_the_system_refuses_is_an_error_of_the_cache_with_a_remedy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, remedy: str
) -> None:
    monkeypatch.setattr(AtomicFile, "write", fail(lambda: OSError(number, os.strerror(number))))
    with pytest.raises(CacheError) as caught:
        write(tmp_path)
    error = caught.value
    assert error.path == str(tmp_path / "file.ckvd")
    assert error.errno == number
    assert str(error).startswith(f"{error.path}: cannot be written: {os.strerror(number)}; ")
    assert remedy in str(error)
    assert isinstance(error, OSError)
    assert isinstance(error, CkvdError)
    assert isinstance(error.__cause__, OSError)


@pytest.mark.parametrize("parent", ["missing", "missing/below", "file", "file/below"])
def test_a_folder_that_is_missing_or_no_folder_is_an_error_of_the_cache(tmp_path: Path, parent: str) -> None:
    (tmp_path / "file").write_text("a regular file")
    before = folder_state(tmp_path)
    with pytest.raises(CacheError, match="cannot be written: ") as caught:
        write(tmp_path / parent)
    assert caught.value.errno in (errno.ENOENT, errno.ENOTDIR)
    assert folder_state(tmp_path) == before


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_may_not_be_written_is_an_error_of_the_cache(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    try:
        with pytest.raises(CacheError, match="choose another cache folder"):
            write(tmp_path)
    finally:
        tmp_path.chmod(0o700)
    assert list(tmp_path.iterdir()) == []


FULL_DISK = """
import resource, sys
from pathlib import Path
from ckvd.errors import CacheError
from ckvd.model.timespan import Span
from support.tables import BTCUSDT_1M, regular_table, write_segment

folder, limit = Path(sys.argv[1]), int(sys.argv[2])
span = Span(0, 86_400_000)
table = regular_table(BTCUSDT_1M, span)
write_segment(folder / "small.ckvd", table.rows(0, 1), span)
# Python ignores SIGXFSZ, so a write beyond the limit is an error of the system call.
resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
try:
    write_segment(folder / "large.ckvd", table, span)
except CacheError as error:
    print(error)
"""


@pytest.mark.parametrize("limit", [0, 4096, 100_000])
def test_a_full_disk_is_an_error_with_a_remedy_and_leaves_nothing_behind(tmp_path: Path, limit: int) -> None:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", FULL_DISK, str(tmp_path), str(limit)],
        check=True,
        capture_output=True,
        text=True,
        env=writing_nothing(ENVIRONMENT),
    )
    assert done.stderr == ""
    assert "large.ckvd: cannot be written: File too large; the file system or a limit of the process" in done.stdout
    assert [path.name for path in tmp_path.iterdir()] == ["small.ckvd"]
    with SegmentReader(tmp_path / "small.ckvd") as reader:
        reader.verify()


def test_the_folder_is_flushed_after_the_file_was_renamed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[str] = []
    replace, fsync = Path.replace, os.fsync

    def note_replace(path: Path, target: Path) -> Path:
        done.append("name")
        return replace(path, target)

    def note_fsync(descriptor: int) -> None:
        done.append("folder" if stat.S_ISDIR(os.fstat(descriptor).st_mode) else "file")
        fsync(descriptor)

    monkeypatch.setattr(Path, "replace", note_replace)
    monkeypatch.setattr(os, "fsync", note_fsync)
    write(tmp_path)
    assert done == ["file", "name", "folder"]
    with pytest.raises(FileNotFoundError):
        flush_folder(tmp_path / "missing")


def test_a_forked_child_leaves_the_file_to_the_process_that_writes_it(tmp_path: Path) -> None:
    with SegmentWriter.of_table(tmp_path / "file.ckvd", STATEMENT, TABLE) as writer:
        ended = run_in_child(lambda _: writer.close())
        assert (ended.status, ended.lines) == (0, ())
        assert writer.temporary_path.exists()
        path = writer.publish()
    with SegmentReader(path) as reader:
        reader.verify()

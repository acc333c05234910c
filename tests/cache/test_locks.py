"""Writers of one series take turns, across threads and processes, and a lock dies with its process."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import itertools
import os
import subprocess
import sys
import threading
from typing import TYPE_CHECKING

import pytest

from ckvd.cache import CacheFolder, SeriesStore, locks
from ckvd.cache.folder import SegmentName
from ckvd.cache.locks import FileLock, SeriesLock, describe_holder, local_lock_file_system
from ckvd.concurrency.stopping import stopped_by
from ckvd.errors import CacheBusyError, CacheError
from ckvd.model.market import SeriesKey
from ckvd.model.timespan import Span
from ckvd.segment.atomic_file import holder_of
from support.locked import held_elsewhere
from support.processes import die, fork, run_in_child
from support.tables import BTCUSDT_1M, regular_table

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

DAY = Span.of("2024-01-01", "2024-01-02")
ETHUSDT_1M = SeriesKey.of("ETHUSDT", "1m")

HOLDER = """
import sys
from pathlib import Path
from ckvd.cache import CacheFolder
from ckvd.cache.locks import SeriesLock
from ckvd.model.market import SeriesKey
with SeriesLock(CacheFolder(Path(sys.argv[1])), SeriesKey.of("BTCUSDT", "1m")) as lock:
    lock.take_revision([])
    print("held", flush=True)
    sys.stdin.readline()
"""


@pytest.fixture
def folder(tmp_path: Path) -> CacheFolder:
    return CacheFolder(tmp_path / "cache")


def start_holder(folder: CacheFolder) -> subprocess.Popen[str]:
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(folder.root)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert holder.stdout is not None
    assert holder.stdout.readline() == "held\n"
    return holder


def is_free(path: Path) -> bool:
    with holder_of(path) as is_held:
        assert is_held is not None
        return not is_held


def test_a_writer_that_waits_too_long_is_told_who_holds_the_series(folder: CacheFolder) -> None:
    with start_holder(folder) as holder:
        with (
            pytest.raises(CacheBusyError, match=f"process {holder.pid} on .*, since 20"),
            SeriesLock(folder, BTCUSDT_1M, timeout_s=0.01),
        ):
            pass
        with pytest.raises(CacheBusyError):
            SeriesStore(folder, BTCUSDT_1M, lock_timeout_s=0).put(regular_table(BTCUSDT_1M, DAY), DAY)
        assert not is_free(folder.lock_path(BTCUSDT_1M))
        holder.communicate("done\n")
    assert folder.segments(BTCUSDT_1M) == []
    assert is_free(folder.lock_path(BTCUSDT_1M))


def test_writers_of_another_series_do_not_wait(folder: CacheFolder) -> None:
    with start_holder(folder) as holder:
        SeriesStore(folder, ETHUSDT_1M, lock_timeout_s=0).put(regular_table(ETHUSDT_1M, DAY), DAY)
        holder.communicate("done\n")


def test_the_lock_dies_with_its_process(folder: CacheFolder) -> None:
    with start_holder(folder) as holder:
        holder.kill()
        holder.communicate()
    with SeriesLock(folder, BTCUSDT_1M, timeout_s=0):
        pass


def test_threads_exclude_each_other(folder: CacheFolder) -> None:
    folder.make_path(folder.root)
    inside: list[int] = []
    most = 0

    def work() -> None:
        nonlocal most
        for _ in range(25):
            with SeriesLock(folder, BTCUSDT_1M):
                inside.append(1)
                most = max(most, len(inside))
                inside.pop()

    threads = [threading.Thread(target=work) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == 1


def test_a_thread_that_waits_too_long_gets_an_error(folder: CacheFolder) -> None:
    with SeriesLock(folder, BTCUSDT_1M), pytest.raises(CacheBusyError), SeriesLock(folder, BTCUSDT_1M, timeout_s=0):
        pass


def test_a_forked_child_holds_no_lock_and_releases_none(folder: CacheFolder) -> None:
    folder.make_path(folder.root)
    lock = FileLock(folder.root / "a.lock", timeout_s=0)
    with lock:
        child = fork()
        if child == 0:
            status = 1
            try:
                lock.release()
                with pytest.raises(CacheBusyError):
                    FileLock(lock.path, timeout_s=0).acquire()
                status = 0
            finally:
                os._exit(status)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        assert not is_free(lock.path)
    assert is_free(lock.path)


def test_a_child_that_outlives_its_parent_does_not_keep_the_lock(folder: CacheFolder) -> None:
    script = HOLDER.replace(
        'print("held", flush=True)',
        "import os\n    if os.fork():\n        os._exit(0)\n"
        '    print("held", flush=True)\n    sys.stdin.readline()\n    os._exit(0)',
    )
    with subprocess.Popen(
        [sys.executable, "-c", script, str(folder.root)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        holder.wait()
        with SeriesLock(folder, BTCUSDT_1M, timeout_s=0):
            pass
        holder.communicate("done\n")


def test_a_lock_file_that_was_replaced_meanwhile_is_opened_anew(
    folder: CacheFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder.make_path(folder.root)
    path = folder.root / "a.lock"
    genuine = locks._open
    opened: list[int] = []

    def open_and_lose(path: Path) -> int:
        descriptor = genuine(path)
        if not opened:
            path.unlink()
        opened.append(descriptor)
        return descriptor

    monkeypatch.setattr(locks, "_open", open_and_lose)
    with FileLock(path, timeout_s=0):
        assert len(opened) == 2
        assert not is_free(path)


def test_a_revision_is_never_given_twice(folder: CacheFolder) -> None:
    store = SeriesStore(folder, BTCUSDT_1M)
    first = store.put(regular_table(BTCUSDT_1M, DAY), DAY)
    first.unlink()
    assert folder.segments(BTCUSDT_1M) == []
    assert store.put(regular_table(BTCUSDT_1M, DAY), DAY) != first


@pytest.mark.parametrize("content", [b"", b"\xff", b"[1]", b'{"revision": "x"}', b'{"revision": 7'])
def test_without_a_readable_record_revisions_go_on_from_the_segments(folder: CacheFolder, content: bytes) -> None:
    store = SeriesStore(folder, BTCUSDT_1M)
    for _ in range(3):
        store.put(regular_table(BTCUSDT_1M, DAY), DAY)
    folder.lock_path(BTCUSDT_1M).write_bytes(content)
    store.put(regular_table(BTCUSDT_1M, DAY), DAY)
    assert sorted(name.revision for name in folder.segments(BTCUSDT_1M)) == [1, 2, 3, 4]


def test_a_process_that_dies_while_it_writes_a_record_leaves_a_readable_one(folder: CacheFolder) -> None:
    store = SeriesStore(folder, BTCUSDT_1M)
    first = store.put(regular_table(BTCUSDT_1M, DAY), DAY)
    lock = FileLock(folder.lock_path(BTCUSDT_1M), timeout_s=0)
    with lock:
        lock.write_record(revision=7, note="longer than what comes after it")
    first.unlink()

    def work(say: Callable[[str], None]) -> None:
        genuine = os.ftruncate

        def cut_short(descriptor: int, nbytes: int) -> None:
            if os.path.samestat(os.fstat(descriptor), lock.path.stat()):
                die()
            genuine(descriptor, nbytes)

        os.ftruncate = cut_short
        store.put(regular_table(BTCUSDT_1M, DAY), DAY)
        say("survived")

    run_in_child(work)
    assert lock.read_record()["revision"] == 8
    store.put(regular_table(BTCUSDT_1M, DAY), DAY)
    assert max(name.revision for name in folder.segments(BTCUSDT_1M)) == 9


def test_a_record_replaces_a_long_file_of_rubbish(folder: CacheFolder) -> None:
    folder.make_path(folder.root)
    lock = FileLock(folder.root / "a.lock", timeout_s=0)
    lock.path.write_bytes(b"x" * 10_000)
    with lock:
        lock.write_record(revision=3)
        assert lock.read_record()["revision"] == 3


def test_a_held_file_is_not_free_where_only_writers_get_an_exclusive_lock(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    genuine = fcntl.flock

    def flock_of_nfs(descriptor: int, operation: int) -> None:
        access = fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_ACCMODE
        if operation & fcntl.LOCK_EX and access == os.O_RDONLY:
            raise OSError(errno.EBADF, os.strerror(errno.EBADF))
        genuine(descriptor, operation)

    monkeypatch.setattr(fcntl, "flock", flock_of_nfs)
    with FileLock(tmp_path / "a.lock", timeout_s=0) as lock:
        assert not is_free(lock.path)
    assert is_free(lock.path)


def test_a_file_system_without_locks_is_refused_with_a_remedy(
    folder: CacheFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(descriptor: int, operation: int) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    folder.make_path(folder.root)
    monkeypatch.setattr(fcntl, "flock", refuse)
    with pytest.raises(CacheError, match=r"this file system has no locks.*put the cache where there are"):
        FileLock(folder.root / "a.lock", timeout_s=0).acquire()


@pytest.mark.parametrize(
    ("kind", "options", "reaches_others"),
    [
        ("ext4", "rw,relatime", True),
        ("nfs4", "rw,vers=4.2,local_lock=none", True),
        ("nfs", "rw,vers=3,nolock,local_lock=all", False),
        ("nfs", "rw,local_lock=flock", False),
        ("cifs", "rw,nobrl", False),
        ("fuse.sshfs", "rw", False),
    ],
)
def test_the_mount_tells_how_far_locks_reach(tmp_path: Path, kind: str, options: str, reaches_others: bool) -> None:
    place = os.path.realpath(tmp_path)
    mounts = f"/dev/root / ext4 rw 0 0\nserver:/x {place} {kind} {options} 0 0\nproc /proc proc rw 0 0\n"
    assert local_lock_file_system(tmp_path / "cache", mounts) == (None if reaches_others else kind)


def test_a_holder_without_a_name_is_described_as_such() -> None:
    assert describe_holder({}) == "another process, which left no name"
    assert describe_holder({"host": "a", "process": "x", "since_ms": 1}) == "another process, which left no name"


def test_many_threads_publish_under_names_of_their_own(folder: CacheFolder) -> None:
    table = regular_table(BTCUSDT_1M, DAY)
    paths: list[Path] = []

    def work() -> None:
        paths.extend(SeriesStore(folder, BTCUSDT_1M).put(table, DAY) for _ in range(10))

    threads = [threading.Thread(target=work) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(paths)) == 60
    revisions = sorted(name.revision for name in folder.segments(BTCUSDT_1M))
    assert len(set(revisions)) == 60
    replaced = tuple(SegmentName(DAY, revision) for revision in revisions[:-1])
    assert SeriesStore(folder, BTCUSDT_1M).remove_superseded() == replaced


@pytest.mark.parametrize("is_elsewhere", [False, True], ids=["in a thread", "in a process"])
def test_a_wait_for_a_lock_can_be_told_to_stop(tmp_path: Path, is_elsewhere: bool) -> None:
    class StoppedError(Exception):
        pass

    calls = itertools.count()

    def check() -> None:
        if next(calls) == 5:
            raise StoppedError

    path = tmp_path / "lock"
    with contextlib.ExitStack() as stack:
        stack.enter_context(held_elsewhere(path) if is_elsewhere else FileLock(path, timeout_s=0))
        with pytest.raises(StoppedError), stopped_by(check):
            FileLock(path, timeout_s=60).acquire()
    with FileLock(path, timeout_s=0):
        pass

"""Locks: one writer at a time, across processes and threads.

`FileLock` is `flock` on a file that exists only for that. The kernel releases it when the process ends, whatever
ends it.

- Threads exclude each other too: each lock opens the file anew. One thread at a time asks the kernel.
- A thread that waits can be told to stop (`check_stop`).
- A lock file is a regular file. Who can write to a shared folder could plant a link or a second name of any file of
  another user, whose next download would write to it: a link is not followed, and a file with several names is
  written to only if it is a lock file already.
- A forked child holds no lock: it closes its copies of the descriptors at once.
- On NFS, Linux turns `flock` into a lock on the server, so that machines exclude each other. On a mount with
  `nolock` or `local_lock=flock`, and over sshfs, locks reach only this machine; `local_lock_file_system` tells. A
  file system without locks is an error.

`SeriesLock` excludes other writers of one series. Each series has a lock file of its own, outside of its folder. So
writers of different series never wait for each other, and the folder of a series can be removed. The file keeps the
last revision that was taken, so that the revision of a pruned segment is not taken again: readers rely on a name
meaning the same bytes for ever. In a cache that was copied without its lock files, the next revision follows from
the segments.
"""

from __future__ import annotations

import contextlib
import json
import os
import threading
import time
from typing import TYPE_CHECKING, Any, Final, Self
from weakref import WeakValueDictionary

from ckvd.concurrency.stopping import check_stop
from ckvd.errors import CacheBusyError, CacheError, cannot, shown, translated
from ckvd.model.timespan import format_time, now_ms
from ckvd.platforms.operating_system import (
    ERRNOS_WITHOUT_LOCKS,
    in_forked_children,
    mount_table,
    try_lock,
    unlock,
)
from ckvd.regular_file import IrregularFileError, open_regular, read_regular
from ckvd.utils.async_cleanup import warn
from ckvd.utils.config import LOCK_PAUSE_FIRST_S, LOCK_PAUSE_MAX_S, SEGMENT_REVISION_MAX, SERIES_LOCK_TIMEOUT_S

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path
    from types import TracebackType

    from ckvd.cache.folder import CacheFolder, SegmentName
    from ckvd.model.market import SeriesKey


_RECORD_NBYTES_MAX: Final = 4096

# Threads of this process queue at a gate, one for each path, before one of them asks the kernel.
_gates: WeakValueDictionary[str, threading.Lock] = WeakValueDictionary()
_gates_lock = threading.Lock()
_descriptors: set[int] = set()


def _forget_in_child() -> None:
    """Close the descriptors that a fork copied. The parent keeps its locks: closing a copy releases none."""
    global _gates_lock  # noqa: PLW0603  (a thread of the parent may hold it, and does not exist here)
    _gates_lock = threading.Lock()
    _gates.clear()
    while _descriptors:
        os.close(_descriptors.pop())


in_forked_children(_forget_in_child)


class FileLock:
    """An exclusive lock. A context manager; not re-entrant.

    Parameters
    ----------
    path : Path
        The file to lock. It is created if it is absent, and never removed. Its folder must exist.
    timeout_s : float
        How long to wait; 0 to try once.

    Raises
    ------
    CacheBusyError
        Another thread or process held it until the timeout. The message names the holder, if it left its name.
    CacheError
        The file cannot be made, or the file system has no locks.
    """

    def __init__(self, path: Path, *, timeout_s: float) -> None:
        self.path = path
        self._timeout_s = timeout_s
        self._descriptor: int | None = None
        self._process: int | None = None
        self._gate: threading.Lock | None = None

    def acquire(self) -> None:
        """Wait for the lock and take it. Errors: see the class."""
        deadline = time.monotonic() + self._timeout_s
        with _gates_lock:
            gate = _gates.setdefault(os.path.realpath(self.path), threading.Lock())
        self._enter(gate, deadline)
        try:
            self._descriptor = self._lock_file(deadline)
        except BaseException:
            gate.release()
            raise
        self._gate = gate
        self._process = os.getpid()

    def _enter(self, gate: threading.Lock, deadline: float) -> None:
        check_stop()
        # The first attempt waits for nothing. The others return so often that the wait can be told to stop.
        wait_s = 0.0
        while not gate.acquire(timeout=wait_s):
            check_stop()
            wait_s = min(deadline - time.monotonic(), LOCK_PAUSE_MAX_S)
            if wait_s <= 0:
                raise self._busy()

    def _lock_file(self, deadline: float) -> int:
        while True:
            descriptor = _open(self.path)
            _descriptors.add(descriptor)
            try:
                self._wait(descriptor, deadline)
                # The file may have been removed meanwhile, and others lock the one that replaced it.
                if _is_same_file(descriptor, self.path):
                    return descriptor
            except BaseException:
                _close(descriptor)
                raise
            _close(descriptor)

    def _wait(self, descriptor: int, deadline: float) -> None:
        pause_s = LOCK_PAUSE_FIRST_S
        while not _try_lock(descriptor, self.path):
            left_s = deadline - time.monotonic()
            if left_s <= 0:
                raise self._busy()
            check_stop()
            time.sleep(min(pause_s, left_s))
            pause_s = min(2 * pause_s, LOCK_PAUSE_MAX_S)

    def _busy(self) -> CacheBusyError:
        waited = f" for {self._timeout_s:g} s" if self._timeout_s else ""
        holder = describe_holder(self.read_record())
        return CacheBusyError(str(self.path), f"locked{waited} by {holder}; try again when it is done")

    def read_record(self) -> dict[str, Any]:
        """What the last holder wrote down; empty if that cannot be read."""
        try:
            if self._descriptor is None:
                content = read_regular(self.path, _RECORD_NBYTES_MAX)
            else:
                content = self._read(self._descriptor)
        except OSError:
            return {}
        return _parse_record(content)

    def _read(self, descriptor: int) -> bytes:
        os.lseek(descriptor, 0, os.SEEK_SET)
        return os.read(descriptor, _RECORD_NBYTES_MAX)

    def write_record(self, **facts: Any) -> None:
        """Write down who holds the lock, and other facts for the next holder.

        Raises
        ------
        CacheError
            The disk refused, or the file is another one under a second name.
        ValueError
            The lock is not held.
        """
        if self._descriptor is None:
            raise ValueError(f"{self.path}: the lock is not held")
        self._require_lock_file(self._descriptor)
        record = {**facts, "process": os.getpid(), "host": os.uname().nodename, "since_ms": now_ms()}
        with translated("be written", self.path):
            before = self._read(self._descriptor)
            # One write replaces the whole record, so that a process that dies leaves one that can be read.
            content = json.dumps(record).encode().ljust(len(before))
            try:
                _write_whole(self._descriptor, content)
            except OSError:
                # Half a record would be none, and a revision of it could be taken again.
                with contextlib.suppress(OSError):
                    _write_whole(self._descriptor, before)
                raise
            # Only rubbish is longer than a record. Some disks refuse to give a file the length that it has.
            if os.fstat(self._descriptor).st_size > len(content):
                os.ftruncate(self._descriptor, len(content))

    def _require_lock_file(self, descriptor: int) -> None:
        """Refuse a file that has another name, and content that no lock wrote."""
        status = os.fstat(descriptor)
        if status.st_nlink > 1 and status.st_size and "process" not in self.read_record():
            reason = "is a second name of a file that is no lock file: remove this name, which somebody has planted"
            raise CacheError(str(self.path), reason)

    def release(self) -> None:
        """Release the lock. Releasing it twice, or in a forked child, does nothing."""
        descriptor, self._descriptor = self._descriptor, None
        gate, self._gate = self._gate, None
        if descriptor is None or gate is None or self._process != os.getpid():
            return
        try:
            # Closing is not enough: a child that was forked in another way may hold a copy of the descriptor.
            unlock(descriptor)
        except OSError as error:
            # What the lock was held for is done, and closing releases it as well.
            warn("%s: the lock is released by closing alone: %s", self.path, error.strerror)
        finally:
            _close(descriptor)
            gate.release()

    def __enter__(self) -> Self:
        self.acquire()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {str(self.path)!r} {'free' if self._descriptor is None else 'held'}>"


def _open(path: Path) -> int:
    try:
        return open_regular(path, os.O_RDWR | os.O_CREAT)[0]
    except IrregularFileError as error:
        reason = f"cannot be locked: {error.strerror}; ckvd cache repair sets it aside"
        raise CacheError(str(path), reason, errno=error.errno) from error
    except OSError as error:
        raise cannot("be locked", path, error) from error


def _close(descriptor: int) -> None:
    _descriptors.discard(descriptor)
    try:
        os.close(descriptor)
    except OSError as error:  # it is closed even so
        warn("closing a lock file: %s", error.strerror)


def _write_whole(descriptor: int, content: bytes) -> None:
    """Write from the beginning of a file; one system call may write less."""
    os.lseek(descriptor, 0, os.SEEK_SET)
    while content:
        content = content[os.write(descriptor, content) :]


def _parse_record(content: bytes) -> dict[str, Any]:
    try:
        record = json.loads(content)
    except (ValueError, RecursionError):
        return {}
    return record if isinstance(record, dict) else {}


def _try_lock(descriptor: int, path: Path) -> bool:
    try:
        return try_lock(descriptor)
    except OSError as error:
        if error.errno in ERRNOS_WITHOUT_LOCKS:
            reason = (
                f"cannot be locked: {error.strerror}; this file system has no locks (an NFS mount without lockd?): "
                "put the cache where there are"
            )
            raise CacheError(str(path), reason, errno=error.errno) from error
        raise cannot("be locked", path, error) from error


def _is_same_file(descriptor: int, path: Path) -> bool:
    with translated("be locked", path):
        try:
            named = path.lstat()
        except FileNotFoundError:
            return False
        return os.path.samestat(os.fstat(descriptor), named)


def describe_holder(record: dict[str, Any]) -> str:
    """The holder of a lock in words, by the record that it wrote."""
    try:
        host, since = shown(record["host"]), format_time(int(record["since_ms"]))
        return f"process {int(record['process'])} on {host}, since {since}"
    except (KeyError, TypeError, ValueError, OverflowError):
        return "another process, which left no name"


class SeriesLock(FileLock):
    """Excludes other writers of a series. Readers need no lock.

    Parameters
    ----------
    folder : CacheFolder
    series : SeriesKey
    timeout_s : float
        How long to wait.

    Errors: see `FileLock`.
    """

    def __init__(self, folder: CacheFolder, series: SeriesKey, *, timeout_s: float = SERIES_LOCK_TIMEOUT_S) -> None:
        super().__init__(folder.lock_path(series), timeout_s=timeout_s)
        self._folder = folder
        self._series = series

    def acquire(self) -> None:
        """Wait for the lock and take it. Makes the folder of lock files if needed. Errors: see the class."""
        self._folder.make_path(self.path.parent)
        super().acquire()

    def take_revision(self, segments: Iterable[SegmentName]) -> int:
        """Take a revision that is higher than all that exist or existed.

        Parameters
        ----------
        segments : iterable of SegmentName
            The series' segments, listed while the lock is held.

        Raises
        ------
        CacheError
            There is no higher one: a segment claims the last. Or the record cannot be read or written: a revision
            of a segment that is gone could be taken again.
        """
        newest = max(segments, key=lambda name: name.revision, default=None)
        revision = 1 + max(self._last_revision(), 0 if newest is None else newest.revision)
        if newest is not None and revision > SEGMENT_REVISION_MAX:
            reason = (
                "claims the last revision there is, so that no other can follow; ckvd cache repair sets it aside"
            )
            raise CacheError(str(self._folder.segment_path(self._series, newest)), reason)
        self.write_record(revision=revision)
        return revision

    def _last_revision(self) -> int:
        """The last revision that was taken, by the record; 0 if it gives none that can be believed."""
        if self._descriptor is None:
            raise ValueError(f"{self.path}: the lock is not held")
        with translated("be read", self.path):
            content = self._read(self._descriptor)
        revision = _parse_record(content).get("revision", 0)
        return revision if type(revision) is int and 0 < revision < SEGMENT_REVISION_MAX else 0


# --- How far locks reach -----------------------------------------------------------------------------------


# By type of a shared file system: the mount options with which locks stay on this machine.
_LOCAL_OPTIONS: Final = {
    "nfs": ("nolock", "local_lock=all", "local_lock=flock"),
    "nfs4": ("nolock", "local_lock=all", "local_lock=flock"),
    "cifs": ("nobrl",),
    "smb3": ("nobrl",),
}
_NEVER_SHARED_LOCKS: Final = ("fuse.sshfs", "fuse.rclone", "fuse.s3fs", "9p")


def local_lock_file_system(folder: Path, mounts: str | None = None) -> str | None:
    """The type of a shared file system on which locks exclude no writers on other machines.

    Parameters
    ----------
    folder : Path
        It need not exist.
    mounts : str, optional
        The table of mounts, by default that of the system. Where there is none, nothing is known.

    Returns
    -------
    str or None
        None where locks reach every machine that uses the folder, as far as is known.
    """
    if mounts is None and (mounts := mount_table()) is None:
        return None
    place = os.path.realpath(folder)
    best = ("", "", "")
    for line in mounts.splitlines():
        fields = line.split(" ")
        if len(fields) < 4:
            continue
        point = fields[1].replace("\\040", " ")
        is_above = place == point or place.startswith(point.rstrip("/") + "/")
        if is_above and len(point) >= len(best[0]):
            best = (point, fields[2], fields[3])
    _, kind, options = best
    is_local = kind in _NEVER_SHARED_LOCKS or any(
        option in options.split(",") for option in _LOCAL_OPTIONS.get(kind, ())
    )
    return kind if is_local else None

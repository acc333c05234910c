"""Leftovers: temporary files and download folders of processes that were killed.

A writer holds a lock on its temporary file, and a download on a file in its folder: what is unlocked is abandoned,
whatever its age. A PID would prove nothing, since PIDs are reused and the process may run on another machine. While
something is being removed here it is locked too, and a writer whose new file is taken for abandoned in the moment
before it is locked makes another. So downloads and verbs that change series remove what they find at once. A folder
of a series without anything in it goes too: a process died before its first segment, or after the last was pruned.

Where locks do not work, or do not reach other machines, only age tells.
"""

from __future__ import annotations

import contextlib
import errno as errno_codes
import os
import shutil
import stat
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ckvd.cache import fault_points
from ckvd.cache.fault_points import Step
from ckvd.cache.folder import (
    DOWNLOAD_FOLDER_PREFIX,
    DOWNLOAD_LOCK_NAME,
    QUARANTINE_FOLDER,
    UNIVERSE_FOLDER,
    is_folder,
    remove_empty_folders,
)
from ckvd.cache.locks import SeriesLock, local_lock_file_system
from ckvd.errors import CacheBusyError, CacheError, cannot, translated
from ckvd.model.market import Market
from ckvd.model.timespan import now_ms
from ckvd.segment.atomic_file import final_name_of, holder_of
from ckvd.utils.config import UNLOCKED_LEFTOVER_AGE_MIN_S

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from ckvd.cache.folder import CacheFolder
    from ckvd.model.market import SeriesKey


@dataclass(frozen=True, slots=True)
class Leftover:
    """A file or folder that a process left behind, and its size."""

    path: Path
    nbytes: int


def find_leftovers(folder: CacheFolder, *, at_ms: int | None = None) -> list[Leftover]:
    """Find what dead processes left behind. The present is `at_ms`, or else now.

    Raises
    ------
    CacheError
        A folder cannot be listed.
    """
    paths = _candidates(folder, None)
    is_old = _Age(folder, at_ms)
    return [leftover for path in paths if (leftover := _abandoned(path, is_old)) is not None]


def remove_leftovers(
    folder: CacheFolder, series: Iterable[SeriesKey] | None = None, *, at_ms: int | None = None
) -> list[Leftover]:
    """Remove what dead processes left behind, and return it. Empty folders of series go without a word.

    Parameters
    ----------
    folder : CacheFolder
    series : iterable of SeriesKey, optional
        Remove abandoned downloads, and temporary files of these series only; by default of all.
    at_ms : int, optional
        The present.

    Raises
    ------
    CacheError
        A folder cannot be listed, or something cannot be removed. The rest was removed.
    """
    removed: list[Leftover] = []
    refusal: CacheError | None = None
    is_old = _Age(folder, at_ms)
    for path in _candidates(folder, series):
        try:
            leftover = _remove(path, is_old)
        except OSError as error:
            refusal = refusal or cannot("be removed", path, error)
            continue
        if leftover is not None:
            removed.append(leftover)
            fault_points.reach(Step.LEFTOVER_REMOVED)
    for key in _series_of(folder) if series is None else series:
        try:
            _remove_if_empty(folder, key)
        except CacheError as error:
            refusal = refusal or error
    if refusal is not None:
        raise refusal
    return removed


def _remove_if_empty(folder: CacheFolder, series: SeriesKey) -> None:
    path = folder.series_path(series)
    with translated("be listed", path):
        is_empty = is_folder(path) and not _scan(path)
    if is_empty:
        # A writer that has just made the folder makes it again.
        with contextlib.suppress(CacheBusyError), SeriesLock(folder, series, timeout_s=0):
            remove_empty_folders(path)


class _Age:
    """Whether a file is so old that nobody uses it, where locks tell nothing."""

    def __init__(self, folder: CacheFolder, at_ms: int | None) -> None:
        self._folder = folder
        self._now_s = (now_ms() if at_ms is None else at_ms) / 1000
        self._has_locks: bool | None = None

    def is_free(self, is_held: bool | None, changed_s: float) -> bool:
        """Whether nobody uses a file, from what its lock says and when it was changed."""
        if self._has_locks is None:
            self._has_locks = local_lock_file_system(self._folder.root) is None
        if is_held is not None and (is_held or self._has_locks):
            return not is_held
        return self._now_s - changed_s >= UNLOCKED_LEFTOVER_AGE_MIN_S


def _series_of(folder: CacheFolder) -> list[SeriesKey]:
    """The series of a cache. What cannot be listed is a finding of verification."""
    return list(folder.series(lambda _: None))


def _candidates(folder: CacheFolder, series: Iterable[SeriesKey] | None) -> list[Path]:
    try:
        found = [
            Path(entry.path)
            for entry in _scan(folder.root)
            if entry.name.startswith(DOWNLOAD_FOLDER_PREFIX) and entry.is_dir(follow_symlinks=False)
        ]
        if series is None:
            places = [folder.series_path(key) for key in _series_of(folder)]
            places += sorted((folder.root / QUARANTINE_FOLDER).glob("*/*/*/*"))
            places += [folder.root / UNIVERSE_FOLDER / market for market in Market]
        else:
            places = [folder.series_path(key) for key in series]
            if is_folder(folder.root / QUARANTINE_FOLDER):
                places += [folder.root / QUARANTINE_FOLDER / str(key) for key in series]
        for place in places:
            with contextlib.suppress(OSError):  # a finding of verification
                found += _temporaries_in(place)
    except OSError as error:
        raise cannot("be listed", folder.root, error) from error
    return found


def _temporaries_in(place: Path) -> list[Path]:
    return [
        Path(entry.path)
        for entry in _scan(place)
        if final_name_of(entry.name) is not None and entry.is_file(follow_symlinks=False)
    ]


def _scan(place: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(place) as entries:
            return sorted(entries, key=lambda entry: entry.name)
    except (FileNotFoundError, NotADirectoryError):
        return []


def _lock_of(path: Path) -> Path:
    """The file that is locked while a file or folder is in use. Raises OSError."""
    return path / DOWNLOAD_LOCK_NAME if stat.S_ISDIR(path.lstat().st_mode) else path


def _abandoned(path: Path, age: _Age) -> Leftover | None:
    """What was left behind, or None if it is in use, gone, or another user's."""
    try:
        with holder_of(_lock_of(path)) as is_held:
            return _measure(path, age, is_held)
    except FileNotFoundError:
        # It is gone, or there is no lock in it yet. The folder itself tells whether locks work.
        with contextlib.suppress(OSError), holder_of(path) as is_held:
            return _measure(path, age, is_held)
    except OSError:
        pass
    return None


def _measure(path: Path, age: _Age, is_held: bool | None) -> Leftover | None:
    own = path.lstat()
    below = list(_statuses_below(path)) if stat.S_ISDIR(own.st_mode) else [own]
    statuses = [status for status in below if not stat.S_ISDIR(status.st_mode)]
    changed_s = max(status.st_mtime for status in (own, *statuses))
    if not age.is_free(is_held, changed_s):
        return None
    return Leftover(path, sum(status.st_size for status in statuses))


def _statuses_below(path: Path) -> Iterator[os.stat_result]:
    """The status of everything in a folder, links not followed. What vanishes meanwhile is left out."""
    for entry in _scan(path):
        with contextlib.suppress(FileNotFoundError):
            status = entry.stat(follow_symlinks=False)
            yield status
            if stat.S_ISDIR(status.st_mode):
                yield from _statuses_below(Path(entry.path))


def _remove(path: Path, age: _Age) -> Leftover | None:
    """Remove what nobody holds, and lock it meanwhile. Raises OSError if it cannot be removed."""
    with contextlib.ExitStack() as stack:
        try:
            # A download that has just made its folder finds the lock taken, and makes another one.
            lock = _lock_of(path)
            is_held = stack.enter_context(holder_of(lock, is_made=lock != path))
            leftover = _measure(path, age, is_held)
        except (FileNotFoundError, PermissionError):
            return None  # just removed, or another user's, who may be using it
        if leftover is not None and lock != path:
            _remove_below(path)
        elif leftover is not None:
            path.unlink(missing_ok=True)
    if leftover is not None and lock != path:
        # Only now is it empty everywhere: NFS and FUSE keep a file that was removed while it was open, here the
        # lock, under another name.
        try:
            path.rmdir()
        except OSError as error:
            _raise_unless_gone(error)
    return leftover


def _remove_below(path: Path) -> None:
    """Remove everything in a folder, and itself if possible, also while another process does the same."""

    def judge(function: object, failed: str, error: BaseException) -> None:
        if not (function is os.rmdir and os.fspath(failed) == str(path)):
            _raise_unless_gone(error)

    if sys.version_info >= (3, 12):
        shutil.rmtree(path, onexc=judge)
    else:
        shutil.rmtree(path, onerror=lambda function, failed, found: judge(function, failed, found[1]))


def _raise_unless_gone(error: BaseException) -> None:
    # Not empty: a download that has just made the folder locked it after all, and uses it.
    if not (isinstance(error, OSError) and error.errno in (errno_codes.ENOENT, errno_codes.ENOTEMPTY)):
        raise error

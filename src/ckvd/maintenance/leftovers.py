"""Leftovers: temporary files and download folders of processes that were killed.

A writer holds a lock on its temporary file, and a download on a file in its folder: what is unlocked is abandoned.
A PID would prove nothing, since PIDs are reused and the process may run on another machine. A new file is spared
for a while, because it is locked a moment after it is made. A download folder without a lock file is judged by its
age.
"""

from __future__ import annotations

import shutil
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ckvd.cache import fault_points
from ckvd.cache.fault_points import Step
from ckvd.cache.folder import DOWNLOAD_FOLDER_PREFIX, DOWNLOAD_LOCK_NAME, QUARANTINE_FOLDER
from ckvd.cache.locks import is_free
from ckvd.errors import cannot
from ckvd.model.timespan import now_ms
from ckvd.segment.atomic_file import TEMPORARY_SUFFIX
from ckvd.utils.config import LEFTOVER_AGE_MIN_S, UNLOCKED_LEFTOVER_AGE_MIN_S

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from ckvd.cache.folder import CacheFolder


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
    now_s = (now_ms() if at_ms is None else at_ms) / 1000
    found = []
    for path in _candidates(folder):
        try:
            files = [path] if path.is_file() else [path, *(file for file in path.rglob("*") if file.is_file())]
            age_s = now_s - max(file.stat().st_mtime for file in files)
            nbytes = sum(file.stat().st_size for file in files if file.is_file())
            is_abandoned = _is_abandoned(path, age_s)
        except OSError:
            continue  # just removed, or another user's, who may be using it
        if is_abandoned:
            found.append(Leftover(path, nbytes))
    return found


def remove_leftovers(folder: CacheFolder, *, at_ms: int | None = None) -> list[Leftover]:
    """Remove what dead processes left behind, and return it. Errors: see `find_leftovers`."""
    found = find_leftovers(folder, at_ms=at_ms)
    for leftover in found:
        try:
            if leftover.path.is_dir():
                _remove_tree(leftover.path)
            else:
                leftover.path.unlink(missing_ok=True)
        except OSError as error:
            raise cannot("be removed", leftover.path, error) from error
        fault_points.reach(Step.LEFTOVER_REMOVED)
    return found


def _remove_tree(path: Path) -> None:
    """Remove a folder and everything in it, also while another process does the same."""
    if sys.version_info >= (3, 12):
        shutil.rmtree(path, onexc=lambda _function, _path, error: _raise_unless_gone(error))
    else:
        shutil.rmtree(path, onerror=lambda _function, _path, found: _raise_unless_gone(found[1]))


def _raise_unless_gone(error: BaseException) -> None:
    if not isinstance(error, FileNotFoundError):
        raise error


def _candidates(folder: CacheFolder) -> Iterator[Path]:
    try:
        yield from sorted(path for path in folder.root.glob(f"{DOWNLOAD_FOLDER_PREFIX}*") if path.is_dir())
        for series in folder.series():
            yield from sorted(folder.series_path(series).glob(f".*{TEMPORARY_SUFFIX}"))
        yield from sorted((folder.root / QUARANTINE_FOLDER).glob(f"*/*/*/*/.*{TEMPORARY_SUFFIX}"))
    except OSError as error:
        raise cannot("be listed", folder.root, error) from error


def _is_abandoned(path: Path, age_s: float) -> bool:
    if path.is_file():
        return age_s >= LEFTOVER_AGE_MIN_S and is_free(path)
    lock = path / DOWNLOAD_LOCK_NAME
    if lock.is_file():
        return age_s >= LEFTOVER_AGE_MIN_S and is_free(lock)
    return age_s >= UNLOCKED_LEFTOVER_AGE_MIN_S

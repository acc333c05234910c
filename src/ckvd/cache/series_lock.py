"""`SeriesLock`: writers of one series take turns, and no revision is given twice.

Each series has a lock file of its own in the folder `.locks` of the cache, so that writers of different series
never wait for each other, and a series' own folder can go. The file remembers the last revision that was given:
that of a pruned segment is not given again, because a name stands for the same bytes for ever, which readers rely
on. A cache that was copied without its lock files counts on from its segments.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Self

from ckvd.cache.file_lock import FileLock
from ckvd.utils.config import SERIES_LOCK_TIMEOUT_S

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path
    from types import TracebackType

    from ckvd.cache.folder import CacheFolder, SegmentName
    from ckvd.model.market import SeriesKey

LOCKS_FOLDER: Final = ".locks"


class SeriesLock:
    """The right to change the segments of a series. A context manager; readers need none.

    Parameters
    ----------
    folder : CacheFolder
    series : SeriesKey
    timeout_s : float
        How long to wait.

    Raises
    ------
    CacheBusyError
        Another writer of the series held it all the time.
    CacheError
        The lock file cannot be made, or the file system has no locks.
    """

    def __init__(self, folder: CacheFolder, series: SeriesKey, *, timeout_s: float = SERIES_LOCK_TIMEOUT_S) -> None:
        self._folder = folder
        self._lock = FileLock(lock_path(folder, series), timeout_s=timeout_s)

    def take_revision(self, segments: Iterable[SegmentName]) -> int:
        """A revision higher than all that there are and were.

        Parameters
        ----------
        segments : iterable of SegmentName
            The series' segments, listed while the lock is held.
        """
        revision = 1 + max(self._last_revision(), max((name.revision for name in segments), default=0))
        self._lock.write_record(revision=revision)
        return revision

    def _last_revision(self) -> int:
        revision = self._lock.read_record().get("revision", 0)
        return revision if isinstance(revision, int) and revision > 0 else 0

    def __enter__(self) -> Self:
        self._folder.make_path(self._lock.path.parent)
        self._lock.acquire()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._lock.release()


def lock_path(folder: CacheFolder, series: SeriesKey) -> Path:
    """The lock file of a series."""
    # Only a symbol may hold a dash, so that no two series share a name.
    name = f"{series.market}-{series.kind}-{series.symbol}-{series.interval}.lock"
    return folder.root / LOCKS_FOLDER / name

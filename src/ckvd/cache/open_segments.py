"""`OpenSegments`: segments that stay open between reads, as many as may."""

from __future__ import annotations

import os
import sys
import threading
import weakref
from collections import OrderedDict
from typing import TYPE_CHECKING, Final

from ckvd.cache.snapshot import open_named
from ckvd.utils.config import CACHE_OPEN_SEGMENTS_MAX

if TYPE_CHECKING:
    from ckvd.cache.folder import CacheFolder, SegmentName
    from ckvd.model.market import SeriesKey
    from ckvd.segment.reader import MappedRows, SegmentReader

# Before Python 3.13 each map holds a file descriptor, of which a process has about a thousand.
_OPEN_SEGMENTS_MAX: Final = CACHE_OPEN_SEGMENTS_MAX * (8 if sys.version_info >= (3, 13) else 1)


class OpenSegments:
    """Segments of a cache that were read, the least recently used leaving first. For several threads.

    A name stands for the same bytes for ever, because segments are immutable and revisions are not given twice. So
    a segment that is open needs no second look at its file.

    Parameters
    ----------
    folder : CacheFolder
    """

    def __init__(self, folder: CacheFolder) -> None:
        self._folder = folder
        self._readers: OrderedDict[tuple[SeriesKey, SegmentName], SegmentReader] = OrderedDict()
        self._lock = threading.Lock()
        self._is_closed = False
        _all.add(self)

    def rows(self, series: SeriesKey, name: SegmentName) -> MappedRows:
        """All rows of a segment, which is opened if it is not open.

        Raises
        ------
        FileNotFoundError
            It is not there any more.
        SegmentError, CacheError
            It cannot be used, or its header is that of another.
        ValueError
            The cache is closed.
        """
        key = (series, name)
        with self._lock:
            self._require_open()
            if (reader := self._readers.get(key)) is not None:
                self._readers.move_to_end(key)
                return reader.rows
        # Without the lock: other threads need not wait for the disk.
        opened = open_named(self._folder, series, name)
        try:
            return self._keep(key, opened)
        except BaseException:
            opened.close()
            raise

    def _keep(self, key: tuple[SeriesKey, SegmentName], opened: SegmentReader) -> MappedRows:
        """Keep a reader for later, unless another thread was faster."""
        surplus = None
        with self._lock:
            self._require_open()
            reader = self._readers.setdefault(key, opened)
            rows = reader.rows
            if reader is not opened:
                surplus = opened
            elif len(self._readers) > _OPEN_SEGMENTS_MAX:
                surplus = self._readers.popitem(last=False)[1]
        if surplus is not None:
            surplus.close()
        return rows

    def _require_open(self) -> None:
        if self._is_closed:
            raise ValueError(f"the cache {self._folder.root} is closed")

    def close(self) -> None:
        """Release every segment that no array uses. Closing twice is quiet."""
        with self._lock:
            self._is_closed = True
        while self._readers:
            self._readers.popitem()[1].close()

    def renew_lock(self) -> None:
        """Have a lock that is free, in a child that was forked while a thread of the parent held the one before."""
        self._lock = threading.Lock()


_all: Final[weakref.WeakSet[OpenSegments]] = weakref.WeakSet()


def _renew_locks() -> None:
    for segments in _all:
        segments.renew_lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew_locks)

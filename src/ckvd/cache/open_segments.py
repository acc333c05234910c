"""Opening segments by name, while others may be changing the series; `OpenSegments` keeps them open between reads.

A segment may be packed or pruned after it was listed and before it is opened. Its replacement is there by then, so
a reader that lists again finds it. A file may also have been renamed: a header that does not match the name is an
error, and the segment is not used.
"""

from __future__ import annotations

import sys
import threading
import time
import weakref
from collections import OrderedDict
from typing import TYPE_CHECKING, Final, TypeVar

from ckvd.errors import CacheBusyError, SegmentCorruptError, shown
from ckvd.model.table import fields_of
from ckvd.platforms.operating_system import in_forked_children
from ckvd.segment.reader import SegmentReader, read_last_row, read_segment_header
from ckvd.utils.config import CACHE_OPEN_SEGMENTS_MAX, CACHE_READ_ATTEMPTS_MAX, CACHE_STATUS_TRUST_S

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from ckvd.cache.folder import CacheFolder, Listing, SegmentName
    from ckvd.model.market import SeriesKey
    from ckvd.model.table import Column
    from ckvd.segment.checks import Verify
    from ckvd.segment.header import SegmentHeader
    from ckvd.segment.reader import MappedRows


Found = TypeVar("Found")


def look_again(folder: CacheFolder, series: SeriesKey, look: Callable[[], Found]) -> Found:
    """Read the segments of a series as they are at one moment. Try again if one of them vanishes meanwhile.

    Parameters
    ----------
    folder : CacheFolder
    series : SeriesKey
    look : callable
        Lists the segments and opens those that matter. Raises FileNotFoundError if one is gone by then.

    Raises
    ------
    CacheBusyError
        Segments were replaced each time.
    """
    for _ in range(CACHE_READ_ATTEMPTS_MAX):
        try:
            return look()
        except FileNotFoundError:
            continue
    raise replaced_too_often(folder, series)


def replaced_too_often(folder: CacheFolder, series: SeriesKey) -> CacheBusyError:
    """The error of a reader that lost every race with writers."""
    return CacheBusyError(
        str(folder.series_path(series)),
        f"its segments were replaced {CACHE_READ_ATTEMPTS_MAX} times while they were read; try again",
    )


def open_named(
    folder: CacheFolder, series: SeriesKey, name: SegmentName, *, verify: Verify = "never"
) -> SegmentReader:
    """Open a segment by its name. `verify` is that of `SegmentReader`.

    Raises
    ------
    FileNotFoundError
        It is gone.
    SegmentCorruptError
        It is damaged, or its header belongs to another segment.
    SegmentError, CacheError
        It cannot be used: see `SegmentReader`.
    """
    reader = SegmentReader(_path_of(folder, series, name), verify=verify)
    try:
        _require_name(reader.header, reader.path, series, name)
    except BaseException:
        reader.close()
        raise
    return reader


def read_named_header(folder: CacheFolder, series: SeriesKey, name: SegmentName) -> SegmentHeader:
    """Read the header of a segment by its name, without mapping the file. Errors: see `open_named`."""
    path = _path_of(folder, series, name)
    header = read_segment_header(path)
    _require_name(header, path, series, name)
    return header


def read_named_last_row(
    folder: CacheFolder, series: SeriesKey, name: SegmentName, columns: Sequence[str]
) -> dict[str, Column] | None:
    """Read cells of the last row of a segment by its name: see `read_last_row`. Errors: see `open_named`."""
    path = _path_of(folder, series, name)
    header, cells = read_last_row(path, columns)
    _require_name(header, path, series, name)
    return cells


def _require_name(header: SegmentHeader, path: str, series: SeriesKey, name: SegmentName) -> None:
    if header.span != name.span or header.revision != name.revision or not header.is_of(series):
        raise SegmentCorruptError(
            path,
            f"its header says {shown(header.series_text)} {header.span}, revision {header.revision}: "
            "the file was renamed or swapped",
        )
    if lacking := header.lacking(fields_of(series)):
        raise SegmentCorruptError(path, f"it lacks the columns {', '.join(lacking)}")


def _path_of(folder: CacheFolder, series: SeriesKey, name: SegmentName) -> str:
    # The text of a series is its path below the root. A string is joined faster than a Path.
    return f"{folder.root}/{series}/{name.file_name}"


# Before Python 3.13 each map holds a file descriptor, of which a process has about a thousand.
_OPEN_SEGMENTS_MAX: Final = CACHE_OPEN_SEGMENTS_MAX * (32 if sys.version_info >= (3, 13) else 1)

# What listings of FUSE have in place of an inode that is not known.
_UNKNOWN_INODES: Final = frozenset({0, 0xFFFF_FFFF})


class OpenSegments:
    """Segments that stay open between reads: a bounded number, the least recently used leaving first. Thread-safe.

    Within one folder a name means the same bytes for ever, because segments are immutable and no revision is given
    twice. But a folder may be deleted and filled again, with revisions from 1 on, or another cache may take its
    place. So `confirm` compares the inodes of each listing with those of the one before. On one device this is
    proof, because an open map keeps its inode from being given to another file, and it costs nothing. Files that
    are written over in place, and equal numbers on another device, are noticed by the status of the files, which is
    looked at again after `CACHE_STATUS_TRUST_S`. Disks by FUSE may list names without inodes: there, each read
    looks at the status.

    Parameters
    ----------
    folder : CacheFolder
    verify : {"never", "first"}
        See `SegmentReader`.
    """

    def __init__(self, folder: CacheFolder, *, verify: Verify = "never") -> None:
        self._folder = folder
        self._verify: Verify = verify
        # By series, so that a look at one does not take as long as there are others.
        self._readers: dict[SeriesKey, dict[SegmentName, SegmentReader]] = {}
        self._recent: OrderedDict[SegmentReader, tuple[SeriesKey, SegmentName]] = OrderedDict()
        # By the folder of a series: the inodes for which its open segments were last found current, and when.
        self._confirmed: dict[str, tuple[dict[str, int], float]] = {}
        self._lock = threading.Lock()
        self._is_closed = False
        _all.add(self)

    def confirm(self, series: SeriesKey, listing: Listing) -> None:
        """Close the segments of a series whose files are gone or were replaced, before a read uses them.

        Parameters
        ----------
        series : SeriesKey
        listing : Listing
            Of this series, made just now.

        Raises
        ------
        CacheError
            The status of a file cannot be read.
        """
        now_s = time.monotonic()
        inodes, confirmed_s = self._confirmed.get(listing.path, (None, 0.0))
        is_same = listing.inodes is inodes or listing.inodes == inodes
        if is_same and now_s - confirmed_s < CACHE_STATUS_TRUST_S:
            return
        with self._lock:
            opened = list(self._readers.get(series, {}).items())
        replaced = [(name, reader) for name, reader in opened if not reader.is_current()]
        with self._lock:
            for name, reader in replaced:
                if self._readers.get(series, {}).get(name) is reader:
                    self._drop(reader)
            if _UNKNOWN_INODES.isdisjoint(listing.inodes.values()):
                self._confirmed[listing.path] = listing.inodes, now_s
            else:  # no proof: each read looks at the files
                self._confirmed.pop(listing.path, None)
        for _, reader in replaced:
            reader.close()

    def rows(self, series: SeriesKey, name: SegmentName) -> MappedRows:
        """All rows of a segment, which is opened unless it is open.

        Raises
        ------
        FileNotFoundError, SegmentError, CacheError
            See `open_named`.
        ValueError
            The cache is closed.
        """
        with self._lock:
            self._require_open()
            of_series = self._readers.get(series)
            if of_series is not None and (reader := of_series.get(name)) is not None:
                self._recent.move_to_end(reader)
                return reader.rows
        # Outside the lock, so that other threads need not wait for the disk.
        opened = open_named(self._folder, series, name, verify=self._verify)
        try:
            return self._keep(series, name, opened)
        except BaseException:
            opened.close()
            raise

    def _keep(self, series: SeriesKey, name: SegmentName, opened: SegmentReader) -> MappedRows:
        """Keep a reader for later, unless another thread opened the same segment first."""
        surplus = []
        with self._lock:
            self._require_open()
            reader = self._readers.get(series, {}).get(name)
            if reader is not None and reader.is_same_file(opened):
                rows = reader.rows
                surplus.append(opened)
            else:
                rows = opened.rows
                if reader is not None:
                    surplus.append(self._drop(reader))
                self._readers.setdefault(series, {})[name] = opened
                self._recent[opened] = series, name
                if len(self._recent) > _OPEN_SEGMENTS_MAX:
                    surplus.append(self._drop(next(iter(self._recent))))
                self._distrust(opened)
        for one in surplus:
            one.close()
        return rows

    def _drop(self, reader: SegmentReader) -> SegmentReader:
        """Forget a reader that is kept; whoever calls this has the lock, and closes it."""
        series, name = self._recent.pop(reader)
        of_series = self._readers[series]
        del of_series[name]
        if not of_series:
            del self._readers[series]
        return reader

    def _distrust(self, opened: SegmentReader) -> None:
        """Forget the listing that was confirmed, if it has another file under this name."""
        folder, _, file_name = opened.path.rpartition("/")
        inodes, _ = self._confirmed.get(folder, ({}, 0.0))
        if inodes.get(file_name) != opened.inode:
            self._confirmed.pop(folder, None)

    def _require_open(self) -> None:
        if self._is_closed:
            raise ValueError(f"the cache {self._folder.root} is closed")

    def close(self) -> None:
        """Release every segment that no array uses. Closing twice does nothing."""
        with self._lock:
            self._is_closed = True
            readers, self._recent, self._readers = self._recent, OrderedDict(), {}
        for reader in readers:
            reader.close()

    def renew_lock(self) -> None:
        """Replace the lock in a forked child: a thread of the parent may have held it, and does not exist here."""
        self._lock = threading.Lock()


_all: Final[weakref.WeakSet[OpenSegments]] = weakref.WeakSet()


def _renew_locks() -> None:
    for segments in _all:
        segments.renew_lock()


in_forked_children(_renew_locks)

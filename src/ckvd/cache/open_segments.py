"""`OpenSegments`: segments that stay open between reads, as many as may."""

from __future__ import annotations

import sys
import threading
from collections import OrderedDict
from functools import lru_cache
from typing import TYPE_CHECKING, Final

from ckvd.errors import SegmentCorruptError
from ckvd.segment.reader import SegmentReader
from ckvd.utils.config import CACHE_OPEN_SEGMENTS_MAX

if TYPE_CHECKING:
    from ckvd.cache.folder import CacheFolder, SegmentName
    from ckvd.market import SeriesKey
    from ckvd.segment.reader import MappedRows

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
        with self._lock:
            if self._is_closed:
                raise ValueError(f"the cache {self._folder.root} is closed")
            reader = self._readers.get((series, name))
            if reader is None:
                reader = self._readers[series, name] = _open_named(self._folder, series, name)
                if len(self._readers) > _OPEN_SEGMENTS_MAX:
                    self._readers.popitem(last=False)[1].close()
            else:
                self._readers.move_to_end((series, name))
            return reader.rows

    def close(self) -> None:
        """Release every segment that no array uses. Closing twice is quiet."""
        with self._lock:
            self._is_closed = True
            while self._readers:
                self._readers.popitem()[1].close()


def _open_named(folder: CacheFolder, series: SeriesKey, name: SegmentName) -> SegmentReader:
    # The text of a series is where it lies under the root; a string is joined faster than a Path.
    reader = SegmentReader(f"{folder.root}/{series}/{_file_name(name)}")
    header = reader.header
    if header.span != name.span or header.revision != name.revision or not header.is_of(series):
        reader.close()
        raise SegmentCorruptError(
            reader.path,
            f"its header says {header.series} {header.span}, revision {header.revision}: "
            "the file was renamed or swapped",
        )
    return reader


@lru_cache(maxsize=1 << 14)
def _file_name(name: SegmentName) -> str:
    return name.file_name

"""Reading a segment without copying it: `SegmentReader` and the `MappedRows` it gives.

The file is checked, mapped read-only and its descriptor closed, all at construction. A column is
`numpy.frombuffer` over the map, a range of rows is a slice of it; `numpy.ndarray(buffer=...)` and `numpy.memmap`
would let the map be closed under a living view, which ends in a segmentation fault, and are not used.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import sys
import warnings
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from ckvd.errors import SegmentCorruptError, cannot
from ckvd.lifecycle import AsyncBlock, SyncBlock
from ckvd.model.calendar import regular_close_times
from ckvd.segment.header import SegmentHeader, decode_header, read_header_nbytes
from ckvd.segment.layout import ColumnLayout, Encoding
from ckvd.utils.async_cleanup import direct_file_cleanup
from ckvd.utils.config import SEGMENT_PAGE_NBYTES

if TYPE_CHECKING:
    import numpy.typing as npt

    from ckvd.lifecycle import Resource
    from ckvd.model.market import Interval
    from ckvd.model.provenance import Absence, Source
    from ckvd.model.table import Column, Times

# A map keeps a duplicate of its file's descriptor, unless it is told not to (Python 3.13).
_UNTRACKED: Final[dict[str, Any]] = {"trackfd": False} if sys.version_info >= (3, 13) else {}
_OPEN_FLAGS: Final = os.O_RDONLY | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)
# Asked for huge pages (Linux), the kernel reads a file that it has not cached yet in pieces of two megabytes and
# maps each with one fault. Pieces of a page, once cached, cost every later reader a fault for each sixteen.
_HUGE_PAGES: Final[int | None] = getattr(mmap, "MADV_HUGEPAGE", None)
_HUGE_PAGE_NBYTES: Final = 2 << 20
_GIVE_BACK: Final[int | None] = getattr(mmap, "MADV_DONTNEED", None) if sys.platform == "linux" else None
# A bar is first looked for this many rows around where it should be if none were missing.
_SEARCH_REACH_ROWS: Final = 1024


class MappedRows:
    """Consecutive rows of a mapped segment.

    It holds the map, not the reader: columns taken from it stay valid when the reader is closed and when the file
    is replaced or removed. The map goes with the last array and the last `MappedRows` that use it.

    Attributes
    ----------
    header : SegmentHeader
        Of the whole segment.
    start, stop : int
        The rows, counted in the segment.
    """

    __slots__ = ("_buffer", "header", "start", "stop")

    def __init__(self, header: SegmentHeader, buffer: npt.NDArray[np.uint8], start: int, stop: int) -> None:
        self.header = header
        self._buffer = buffer
        self.start = start
        self.stop = stop

    def __len__(self) -> int:
        return self.stop - self.start

    @property
    def sources(self) -> tuple[Source, ...]:
        """Where the rows of the segment came from."""
        return self.header.sources

    @property
    def absences(self) -> tuple[Absence, ...]:
        """Why rows are not in the segment."""
        return self.header.absences

    def rows(self, start: int, stop: int) -> MappedRows:
        """Some of these rows, counted from the first of them."""
        return MappedRows(self.header, self._buffer, self.start + start, self.start + stop)

    def between(self, start_ms: int, end_ms: int) -> MappedRows:
        """The rows that open in a half-open span of time.

        Few pages are touched, however many rows there are: see `_find`.
        """
        open_time = self.stored("open_time")
        if open_time is None:
            return self.rows(0, 0)
        start = self._find(open_time, start_ms)
        return self.rows(start, max(start, self._find(open_time, end_ms)))

    def _find(self, open_time: Times, moment_ms: int) -> int:
        """The first row at or after a moment: `open_time.searchsorted`, beginning where the row should be."""
        header, row_count = self.header, len(open_time)
        length_ms = header.last_open_ms - header.first_open_ms
        if length_ms <= 0 or not row_count:
            return int(open_time.searchsorted(moment_ms))
        # Bars lie evenly but for holes. The header only makes the guess; the open times themselves confirm it.
        guess = (moment_ms - header.first_open_ms) * (header.row_count - 1) // length_ms - self.start
        guess = min(max(guess, 0), row_count)
        if guess < row_count and open_time[guess] == moment_ms:
            return guess  # open times ascend strictly
        reach = _SEARCH_REACH_ROWS
        while True:
            low, high = max(guess - reach, 0), min(guess + reach, row_count)
            starts_before = low == 0 or open_time[low - 1] < moment_ms
            if starts_before and (high == row_count or open_time[high] >= moment_ms):
                return low + int(open_time[low:high].searchsorted(moment_ms))
            reach *= 8

    def give_back(self) -> None:
        """Let the system take the memory of the whole segment for something else.

        Arrays that view it stay valid: what is used again is mapped again.
        """
        _advise(_map_of(self._buffer), _GIVE_BACK)

    def layout(self, name: str) -> ColumnLayout | None:
        """How a column is kept, or None where the segment has no such column."""
        return self.header.column(name)

    def stored(self, name: str) -> Column | None:
        """A column as a read-only view of the map, or None where its values are not in the file.

        Returns
        -------
        ndarray, shape (len(self),), or None
            Contiguous. It keeps the map alive.
        """
        column = self.header.column(name)
        return None if column is None or column.encoding is not Encoding.STORED else self._view(column)

    def _view(self, column: ColumnLayout) -> Column:
        itemsize = column.dtype.itemsize
        start = column.offset + self.start * itemsize
        stop = column.offset + self.stop * itemsize
        return self._buffer[start:stop].view(column.dtype)

    def column(self, name: str, interval: Interval) -> Column | None:
        """A column, whether it is stored or follows from the header.

        Returns
        -------
        ndarray, shape (len(self),), or None
            Read-only. A stored column is a view, a constant one is broadcast from a single value, a regular
            close time is computed. None where the segment has no such column.
        """
        column = self.header.column(name)
        if column is None:
            return None
        if column.encoding is Encoding.STORED:
            return self._view(column)
        if column.encoding is Encoding.CONSTANT:
            return np.broadcast_to(column.constant_value, len(self))
        open_time = self.stored("open_time")
        closes = regular_close_times(np.empty(0, np.int64) if open_time is None else open_time, interval)
        closes.flags.writeable = False
        return closes


class SegmentReader(SyncBlock, AsyncBlock):
    """A segment, open for reading.

    A context manager of both kinds. Leaving it, or `close`, closes the map at once where no array uses it, and
    else with the last such array.

    Parameters
    ----------
    path : str or path-like

    Attributes
    ----------
    path : str
    header : SegmentHeader

    Raises
    ------
    FileNotFoundError
        There is no such file.
    CacheError
        It cannot be opened or mapped.
    SegmentForeignError, SegmentVersionError, SegmentCorruptError
        It is no segment, one of a later version, or damaged.
    """

    _map: mmap.mmap | None = None
    _buffer: npt.NDArray[np.uint8] | None = None

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = os.fspath(path)
        try:
            self.header, self._map = _map_segment(self.path)
        except FileNotFoundError:
            raise
        except OSError as error:
            raise cannot("be read", self.path, error) from error
        self._buffer = np.frombuffer(self._map, np.uint8)

    @property
    def rows(self) -> MappedRows:
        """All rows.

        Raises
        ------
        ValueError
            The reader is closed.
        """
        if self._buffer is None:
            raise ValueError(f"{self.path}: the reader is closed")
        return MappedRows(self.header, self._buffer, 0, self.header.row_count)

    @property
    def open_time(self) -> Times:
        """The open times of all rows, a view; empty where there are none."""
        stored = self.rows.stored("open_time")
        return np.empty(0, np.int64) if stored is None else stored

    def __getitem__(self, name: str) -> Column:
        """A column of all rows. Raises KeyError where the segment has none of that name."""
        column = self.rows.column(name, self.header.series.interval)
        if column is None:
            raise KeyError(name)
        return column

    def verify(self) -> None:
        """Compare every stored byte with its checksum, and the zeros between with zeros.

        Raises
        ------
        SegmentCorruptError
            A byte is not what was written.
        """
        from ckvd.inflate import crc32  # noqa: PLC0415  (whoever only reads need not load isal)

        buffer = self.rows._buffer  # noqa: SLF001  (the two classes are one module's business)
        end = self.header.header_nbytes
        for column in self.header.columns:
            if column.encoding is not Encoding.STORED or not self.header.row_count:
                continue
            stored = buffer[column.offset : column.offset + self.header.row_count * column.dtype.itemsize]
            found = crc32(stored)
            if found != column.crc32:
                raise SegmentCorruptError(
                    self.path, f"column {column.name}: its checksum is {found:#010x}, expected {column.crc32:#010x}"
                )
            if buffer[end : column.offset].any():
                raise SegmentCorruptError(self.path, f"bytes before column {column.name} are not zero")
            end = column.offset + len(stored)

    def close(self) -> None:
        """Release the map, and where arrays keep it, its memory until they are used. Closing twice is quiet."""
        self._buffer = None
        mapped = self._map
        direct_file_cleanup(self, "_map")
        if mapped is not None and not mapped.closed:
            _advise(mapped, _GIVE_BACK)

    @property
    def _resources(self) -> tuple[Resource, ...]:
        return (("_buffer", "segment bytes", True), ("_map", "segment map", False))

    def __del__(self) -> None:
        if self._map is not None:
            warnings.warn(f"unclosed segment {self.path}", ResourceWarning, source=self, stacklevel=2)
            self.close()

    def __repr__(self) -> str:
        state = "closed" if self._map is None else f"{self.header.row_count} bars of {self.header.span}"
        return f"<SegmentReader {self.path!r} {state}>"


def _map_of(buffer: npt.NDArray[np.uint8]) -> mmap.mmap | None:
    """The map that an array was made of; None for one that is no map's."""
    base: object = buffer.base
    owner = base.obj if isinstance(base, memoryview) else base
    return owner if isinstance(owner, mmap.mmap) else None


def _advise(mapped: mmap.mmap | None, advice: int | None) -> None:
    """Tell the kernel what will become of a map. It may not know the word, and then does what it always does."""
    if mapped is not None and advice is not None:
        with contextlib.suppress(OSError):
            mapped.madvise(advice)


def _map_segment(path: str) -> tuple[SegmentHeader, mmap.mmap]:
    descriptor = os.open(path, _OPEN_FLAGS)
    try:
        file_nbytes = os.fstat(descriptor).st_size
        header = _read_header(descriptor, path, file_nbytes)
        mapped = mmap.mmap(descriptor, file_nbytes, access=mmap.ACCESS_READ, **_UNTRACKED)
    finally:
        os.close(descriptor)
    if file_nbytes >= _HUGE_PAGE_NBYTES:
        _advise(mapped, _HUGE_PAGES)
    return header, mapped


def read_segment_header(path: str | os.PathLike[str]) -> SegmentHeader:
    """Read and check the header of a segment alone, without mapping the file. Errors: see `SegmentReader`."""
    try:
        descriptor = os.open(path, _OPEN_FLAGS)
        try:
            return _read_header(descriptor, os.fspath(path), os.fstat(descriptor).st_size)
        finally:
            os.close(descriptor)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise cannot("be read", path, error) from error


def _read_header(descriptor: int, path: str, file_nbytes: int) -> SegmentHeader:
    # One read holds the whole header of nearly every segment.
    content = os.read(descriptor, SEGMENT_PAGE_NBYTES)
    header_nbytes = read_header_nbytes(content, path, file_nbytes)
    while len(content) < header_nbytes:
        more = os.read(descriptor, header_nbytes - len(content))
        if not more:
            raise SegmentCorruptError(path, f"truncated: its header ends after {len(content)} bytes")
        content += more
    return _decode_header(content[:header_nbytes], path, file_nbytes)


# A worker opens the same segments again and again. What was checked is known by all of its bytes.
_decode_header: Final = lru_cache(maxsize=1024)(decode_header)

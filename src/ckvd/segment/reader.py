"""Reading a segment without copying it: `SegmentReader`, and the `MappedRows` that it gives.

With `verify="first"` it gives `CheckedRows`, whose columns are checked when they are first used.

The constructor checks the header, maps the file read-only and closes its descriptor. A column is `numpy.frombuffer`
over the map, and a range of rows is a slice of that. The map cannot be closed while an array views it: with
`numpy.ndarray(buffer=...)` or `numpy.memmap` it could, and using the array would be a segmentation fault.

A segment may be a symbolic link to a regular file, as in a cache that was copied as a farm of links: it is only
read, and what it leads to is checked like any segment. Anything else in its place is no segment: a pipe, a device,
a folder, a link that leads nowhere.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import sys
import warnings
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeVar

import numpy as np

from ckvd.errors import SegmentCorruptError, SegmentForeignError, cannot
from ckvd.lifecycle import AsyncBlock, SyncBlock
from ckvd.model.grid import regular_close_times
from ckvd.platforms.operating_system import HUGE_PAGES
from ckvd.regular_file import IrregularFileError, open_regular
from ckvd.segment.checks import check_column, checks_of, now_ns, require_verify
from ckvd.segment.header import SegmentHeader, decode_header, read_header_nbytes
from ckvd.segment.layout import ColumnLayout, Encoding
from ckvd.utils.async_cleanup import direct_file_cleanup, give_back
from ckvd.utils.config import SEGMENT_PAGE_NBYTES

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import numpy.typing as npt

    from ckvd.lifecycle import Resource
    from ckvd.model.market import Interval
    from ckvd.model.provenance import Absence, Source
    from ckvd.model.table import Column, Times
    from ckvd.segment.checks import ColumnChecks, Verify

# A map keeps a duplicate of the file's descriptor, unless it is told not to (Python 3.13).
_UNTRACKED: Final[dict[str, Any]] = {"trackfd": False} if sys.version_info >= (3, 13) else {}
# With huge pages (Linux), the kernel reads an uncached file two megabytes at a time, and maps them with one fault.
# Once a file is cached in small pages, every later reader pays one fault for each sixteen of them.
_HUGE_PAGE_NBYTES: Final = 2 << 20
# A bar is first searched for within this many rows of where it would be if no bars were missing.
_SEARCH_REACH_ROWS: Final = 1024
# Runs of evenly spaced rows that are kept for each open segment. In a year of 1m there are mostly fewer than ten.
_RUNS_MAX: Final = 64
_ONE_RUN: Final = (0,)

_Result = TypeVar("_Result")


class _Runs(NamedTuple):
    """Rows of a segment from `start` on and before `stop`, and those among them that do not open one step later."""

    start: int
    stop: int
    step_ms: int
    breaks: tuple[int, ...]


class _EvenRows:
    """What was found of the open times of an open segment. It is replaced as a whole: threads may share it."""

    __slots__ = ("found",)

    def __init__(self) -> None:
        self.found = _Runs(0, 0, 0, ())


class MappedRows:
    """Consecutive rows of a mapped segment.

    They refer to the map, not to the reader. Columns stay valid when the reader is closed, and when the file is
    replaced or removed. The map is released with the last array and the last `MappedRows` that use it.

    Attributes
    ----------
    header : SegmentHeader
        That of the whole segment.
    start, stop : int
        The first row, and the one after the last, counted from the beginning of the segment.
    """

    __slots__ = ("_buffer", "_even", "header", "start", "stop")

    def __init__(
        self,
        header: SegmentHeader,
        buffer: npt.NDArray[np.uint8],
        start: int,
        stop: int,
        even: _EvenRows | None = None,
    ) -> None:
        self.header = header
        self._buffer = buffer
        self.start = start
        self.stop = stop
        # All rows of a segment share what was found of its open times.
        self._even = _EvenRows() if even is None else even

    def __len__(self) -> int:
        return self.stop - self.start

    @property
    def sources(self) -> tuple[Source, ...]:
        """The sources of the whole segment."""
        return self.header.sources

    @property
    def absences(self) -> tuple[Absence, ...]:
        """The known reasons why bars are missing in the whole segment."""
        return self.header.absences

    def rows(self, start: int, stop: int) -> MappedRows:
        """Some of these rows, counted from the first one here."""
        return MappedRows(self.header, self._buffer, self.start + start, self.start + stop, self._even)

    def between(self, start_ms: int, end_ms: int) -> MappedRows:
        """The rows that open from `start_ms` on and before `end_ms`.

        However many rows there are, the search touches few pages: see `_find`.
        """
        open_time = self.stored("open_time")
        if open_time is None:
            return self.rows(0, 0)
        start = self._find(open_time, start_ms)
        return self.rows(start, max(start, self._find(open_time, end_ms)))

    def _find(self, open_time: Times, moment_ms: int) -> int:
        """The first row at or after a moment. Like `open_time.searchsorted`, but it starts from a good guess."""
        header, row_count = self.header, len(open_time)
        length_ms = header.last_open_ms - header.first_open_ms
        if length_ms <= 0 or not row_count:
            return int(open_time.searchsorted(moment_ms))
        # Bars are evenly spaced, except for gaps. The header gives only a guess, which the open times confirm.
        guess = (moment_ms - header.first_open_ms) * (header.row_count - 1) // length_ms - self.start
        guess = min(max(guess, 0), row_count)
        if guess < row_count and open_time[guess] == moment_ms:
            return guess  # open times ascend strictly, so there is no other
        reach = _SEARCH_REACH_ROWS
        while True:
            low, high = max(guess - reach, 0), min(guess + reach, row_count)
            starts_before = low == 0 or open_time[low - 1] < moment_ms
            if starts_before and (high == row_count or open_time[high] >= moment_ms):
                return low + int(open_time[low:high].searchsorted(moment_ms))
            reach *= 8

    def even_runs(self, step_ms: int) -> tuple[int, ...] | None:
        """The rows at which runs begin: within a run, each row opens `step_ms` after the one before.

        What was found is kept as long as the segment is open: asking again reads no open times.

        Returns
        -------
        tuple of int, or None
            Ascending, counted from the first row here, which is one of them. None if there are too many.
        """
        known = self._even.found
        if not (known.start <= self.start and self.stop <= known.stop and known.step_ms == step_ms):
            open_time = self.stored("open_time")
            if open_time is None:
                return ()
            breaks = np.flatnonzero(open_time[1:] - open_time[:-1] != step_ms)
            if len(breaks) >= _RUNS_MAX:
                return None
            known = _Runs(self.start, self.stop, step_ms, tuple((breaks + (self.start + 1)).tolist()))
            self._even.found = known
        if self.start == self.stop:
            return ()
        if not known.breaks:
            return _ONE_RUN
        return (0, *(row - self.start for row in known.breaks if self.start < row < self.stop))

    def give_back(self) -> None:
        """Tell the kernel that the memory of the whole segment is not needed for now.

        Arrays that view it stay valid: pages that are used again are mapped again.
        """
        if (mapped := _map_of(self._buffer)) is not None:
            give_back(mapped)

    def layout(self, name: str) -> ColumnLayout | None:
        """The layout of a column, or None if the segment has no such column."""
        return self.header.column(name)

    def stored(self, name: str) -> Column | None:
        """A column as a read-only view of the map, or None if its values are not stored in the file.

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

    def column(self, name: str, interval: Interval | None) -> Column | None:
        """A column, stored or not.

        Returns
        -------
        ndarray, shape (len(self),), or None
            Read-only. A stored column is a view of the map, a constant one is broadcast from a single value, and a
            regular close time is computed. None if the segment has no such column.
        """
        column = self.header.column(name)
        if column is None:
            return None
        if column.encoding is Encoding.STORED:
            return self._view(column)
        if column.encoding is Encoding.CONSTANT:
            return np.broadcast_to(column.constant_value, len(self))
        assert interval is not None, "only the close time of bars is regular"
        open_time = self.stored("open_time")
        closes = regular_close_times(np.empty(0, np.int64) if open_time is None else open_time, interval)
        closes.flags.writeable = False
        return closes


class CheckedRows(MappedRows):
    """Rows that compare a column of the segment with its checksum before they give anything of it.

    That reads the whole column of the segment, however few these rows are.
    """

    __slots__ = ("_checks", "_path")

    def __init__(self, rows: MappedRows, path: str, checks: ColumnChecks) -> None:
        super().__init__(rows.header, rows._buffer, rows.start, rows.stop, rows._even)  # noqa: SLF001  (a subclass)
        self._path = path
        self._checks = checks

    def rows(self, start: int, stop: int) -> CheckedRows:
        """Some of these rows, counted from the first one here."""
        return CheckedRows(super().rows(start, stop), self._path, self._checks)

    def _view(self, column: ColumnLayout) -> Column:
        self._checks.require(self._path, column, _stored_bytes(self._buffer, self.header, column))
        return super()._view(column)


def _stored_bytes(
    buffer: npt.NDArray[np.uint8], header: SegmentHeader, column: ColumnLayout
) -> npt.NDArray[np.uint8]:
    """The bytes of a stored column of the whole segment."""
    return buffer[column.offset : column.offset + header.row_count * column.dtype.itemsize]


class SegmentReader(SyncBlock, AsyncBlock):
    """An open segment.

    It is a context manager, synchronous and asynchronous. Leaving it, or `close`, closes the map at once if no
    array views it, else with the last such array.

    Parameters
    ----------
    path : str or path-like
    verify : {"never", "first"}
        With "first", a column is compared with its checksum when it is first used in the process, and damage raises
        SegmentCorruptError there: see `ckvd.open_cache`. `verify` checks all of the segment at once.

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
        It is damaged, of a later version, or no segment at all.
    """

    _map: mmap.mmap | None = None
    _buffer: npt.NDArray[np.uint8] | None = None
    _checks: ColumnChecks | None = None

    def __init__(self, path: str | os.PathLike[str], *, verify: Verify = "never") -> None:
        self.path = os.fspath(path)
        if verify == "never":
            self.header, self._map, self._version = _open(self.path, _map_segment)
        else:
            require_verify(verify)
            opened_ns = now_ns()
            self.header, self._map, self._version = _open(self.path, _map_segment)
            self._checks = checks_of(self._version, changed_ns=self._version[1], opened_ns=opened_ns)
        self._buffer = np.frombuffer(self._map, np.uint8)
        self._even = _EvenRows()

    @property
    def inode(self) -> int:
        """The number of the file on its device. No other file gets it as long as the reader is open."""
        return self._version[0]

    def is_current(self) -> bool:
        """Whether the path still leads to the file that is mapped, unchanged.

        The time of change tells of a file that was written over in place, whatever its other times say.

        Raises
        ------
        CacheError
            The status of the file cannot be read. That there is none is no error.
        """
        try:
            return _version_of(os.stat(self.path)) == self._version  # noqa: PTH116  (a Path takes twice the time)
        except (FileNotFoundError, NotADirectoryError):
            return False
        except OSError as error:
            raise cannot("be read", self.path, error) from error

    def is_same_file(self, other: SegmentReader) -> bool:
        """Whether another reader has mapped the same file, and it did not change in between."""
        return self._version == other._version

    @property
    def rows(self) -> MappedRows:
        """All rows. Raises ValueError if the reader is closed."""
        if self._buffer is None:
            raise ValueError(f"{self.path}: the reader is closed")
        rows = MappedRows(self.header, self._buffer, 0, self.header.row_count, self._even)
        return rows if self._checks is None else CheckedRows(rows, self.path, self._checks)

    @property
    def open_time(self) -> Times:
        """The open times of all rows as a view; empty if there are no rows."""
        stored = self.rows.stored("open_time")
        return np.empty(0, np.int64) if stored is None else stored

    def __getitem__(self, name: str) -> Column:
        """A column of all rows. Raises KeyError if the segment has no such column."""
        column = self.rows.column(name, self.header.series.interval)
        if column is None:
            raise KeyError(name)
        return column

    def verify(self) -> None:
        """Check the stored bytes against their checksums, and that the padding between is zero.

        Raises
        ------
        SegmentCorruptError
            A byte differs from what was written.
        """
        buffer = self.rows._buffer  # noqa: SLF001  (both classes belong to this module)
        end = self.header.header_nbytes
        for column in self.header.columns:
            if column.encoding is not Encoding.STORED or not self.header.row_count:
                continue
            stored = _stored_bytes(buffer, self.header, column)
            check_column(self.path, column, stored)
            if buffer[end : column.offset].any():
                raise SegmentCorruptError(self.path, f"bytes before column {column.name} are not zero")
            end = column.offset + len(stored)

    def close(self) -> None:
        """Close the map. If arrays view it, only its memory is released until they are used. Safe to repeat."""
        direct_file_cleanup(self, "_buffer", "_map")

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
    """The map that an array views; None for any other array."""
    base: object = buffer.base
    owner = base.obj if isinstance(base, memoryview) else base
    return owner if isinstance(owner, mmap.mmap) else None


def read_segment_header(path: str | os.PathLike[str]) -> SegmentHeader:
    """Read and check only the header of a segment, without mapping the file. Errors: see `SegmentReader`."""
    return _open(os.fspath(path), _read_header)


def read_open_times(path: str, header: SegmentHeader) -> Times:
    """Read the open times of a short segment whose header is known: cheaper than mapping the file.

    Returns
    -------
    ndarray of int64, shape (header.row_count,)
        Milliseconds, read-only, a copy.

    Raises
    ------
    FileNotFoundError
        There is no such file.
    CacheError
        It cannot be read.
    SegmentCorruptError
        It ends before its open times do.
    """
    column = header.column("open_time")
    if column is None or column.encoding is not Encoding.STORED:
        return np.empty(0, np.int64)
    nbytes = header.row_count * column.dtype.itemsize
    content = _open(path, lambda descriptor, _path, _status: os.pread(descriptor, nbytes, column.offset))
    if len(content) != nbytes:
        raise SegmentCorruptError(path, f"truncated: {len(content)} of the {nbytes} bytes of its open times")
    return np.frombuffer(content, np.int64)


def read_last_row(path: str, names: Sequence[str]) -> tuple[SegmentHeader, dict[str, Column] | None]:
    """Read the header of a segment and some cells of its last row: cheaper than mapping the file.

    Parameters
    ----------
    path : str
    names : sequence of str
        Columns that the segment has, stored or not.

    Returns
    -------
    header : SegmentHeader
    cells : dict of str to ndarray of shape (1,), or None
        None if there is no row.

    Raises
    ------
    FileNotFoundError, CacheError, SegmentError
        See `SegmentReader`.
    """

    def read(descriptor: int, path: str, status: os.stat_result) -> tuple[SegmentHeader, dict[str, Column] | None]:
        header = _read_header(descriptor, path, status)
        if not header.row_count:
            return header, None
        # The open time first: regular close times are computed from it.
        cells: dict[str, Column] = {}
        for name in ("open_time", *names):
            column = header.column(name)
            if column is None:
                raise SegmentCorruptError(path, f"it lacks the column {name}")
            if column.encoding is Encoding.CONSTANT:
                cells[name] = np.full(1, column.constant_value)
            elif column.encoding is Encoding.STORED:
                itemsize = column.dtype.itemsize
                content = os.pread(descriptor, itemsize, column.offset + (header.row_count - 1) * itemsize)
                if len(content) != itemsize:
                    raise SegmentCorruptError(path, f"truncated: its last {name} is not there")
                cells[name] = np.frombuffer(content, column.dtype)
            else:
                cells[name] = regular_close_times(cells["open_time"], header.series.bar_interval)
        return header, cells

    return _open(path, read)


def _version_of(status: os.stat_result) -> tuple[int, ...]:
    """What tells a file from every other one, and from itself after a change."""
    return status.st_ino, status.st_ctime_ns, status.st_size, status.st_dev


def _open(path: str, read: Callable[[int, str, os.stat_result], _Result]) -> _Result:
    """Call `read` with the descriptor of a file, its path and its status, and close the descriptor."""
    try:
        descriptor, status = open_regular(path, is_link_followed=True)
        try:
            return read(descriptor, path, status)
        finally:
            os.close(descriptor)
    except FileNotFoundError:
        raise
    except IrregularFileError as error:
        raise SegmentForeignError(path, f"no segment: {error.strerror}") from error
    except OSError as error:
        raise cannot("be read", path, error) from error


def _map_segment(
    descriptor: int, path: str, status: os.stat_result
) -> tuple[SegmentHeader, mmap.mmap, tuple[int, ...]]:
    file_nbytes = status.st_size
    header = _read_header(descriptor, path, status)
    try:
        mapped = mmap.mmap(descriptor, file_nbytes, access=mmap.ACCESS_READ, **_UNTRACKED)
    except ValueError as error:
        raise SegmentCorruptError(path, f"truncated while it was opened: {error}") from error
    if file_nbytes >= _HUGE_PAGE_NBYTES and HUGE_PAGES is not None:
        with contextlib.suppress(OSError):  # a kernel that refuses it behaves as usual
            mapped.madvise(HUGE_PAGES)
    return header, mapped, _version_of(status)


def _read_header(descriptor: int, path: str, status: os.stat_result) -> SegmentHeader:
    file_nbytes = status.st_size
    # Nearly every header fits into one read.
    content = os.read(descriptor, SEGMENT_PAGE_NBYTES)
    header_nbytes = read_header_nbytes(content, path, file_nbytes)
    while len(content) < header_nbytes:
        more = os.read(descriptor, header_nbytes - len(content))
        if not more:
            raise SegmentCorruptError(path, f"truncated: its header ends after {len(content)} bytes")
        content += more
    return _decode_header(content[:header_nbytes], path, file_nbytes)


# A worker opens the same segments again and again. Equal bytes need to be checked and decoded only once.
_decode_header: Final = lru_cache(maxsize=4096)(decode_header)

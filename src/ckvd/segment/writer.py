"""Writing a segment whole or not at all: `SegmentWriter`.

Rows go to a temporary file in the folder of the final one. `publish` writes the header, flushes the file to disk,
renames it into place and flushes the folder. If anything fails before the rename, nothing is left behind.
"""

from __future__ import annotations

import contextlib
import warnings
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ckvd.errors import cannot
from ckvd.lifecycle import AsyncBlock, SyncBlock
from ckvd.model.grid import regular_close_times
from ckvd.model.schema import COLUMN_DTYPES
from ckvd.model.table import bits_of
from ckvd.segment.atomic_file import AtomicFile, flush_file, flush_folder
from ckvd.segment.header import SegmentHeader, encode_header, encode_metadata
from ckvd.segment.layout import ColumnLayout, Encoding, place_columns
from ckvd.utils.async_cleanup import direct_file_cleanup

if TYPE_CHECKING:
    import os
    from collections.abc import Iterator, Mapping, Sequence

    from ckvd.lifecycle import Resource
    from ckvd.model.market import SeriesKey
    from ckvd.model.provenance import Absence, Source
    from ckvd.model.table import Column, KlineTable
    from ckvd.model.timespan import Span


@dataclass(frozen=True, slots=True)
class SegmentStatement:
    """The header of a new segment, apart from its rows and columns.

    Attributes
    ----------
    series : SeriesKey
    span : Span
        The open times that the segment covers, even if there are no bars.
    revision : int
        Higher than that of every segment that this one replaces.
    sources : sequence of Source
    absences : sequence of Absence
    is_provisional : bool
        Whether an archive of the span will replace the segment when it appears.
    recheck_ms : int
        When to ask a source again for absent bars; 0 for never.
    writer : str
        The program that writes the segment.
    later : str
        What a later version said of the segment as a whole, see `SegmentHeader.later`.
    """

    series: SeriesKey
    span: Span
    revision: int
    sources: Sequence[Source] = ()
    absences: Sequence[Absence] = ()
    is_provisional: bool = False
    recheck_ms: int = 0
    writer: str = "ckvd"
    later: str = ""


def plan_columns(table: KlineTable) -> tuple[ColumnLayout, ...]:
    """Decide how each column of a table is kept. A constant or regular column is not stored."""
    return tuple(_plan_column(name, column, table) for name, column in table.columns.items())


def _plan_column(name: str, column: Column, table: KlineTable) -> ColumnLayout:
    decimals = table.decimals.get(name)
    dtype = COLUMN_DTYPES[name]
    if name == "close_time" and np.array_equal(
        column, regular_close_times(table.open_time, table.series.bar_interval)
    ):
        return ColumnLayout(name, dtype, Encoding.REGULAR, decimals)
    if name != "open_time" and len(column):
        bits = bits_of(column)
        if bits[0] == bits[-1] and (bits == bits[0]).all():
            return ColumnLayout(name, dtype, Encoding.CONSTANT, decimals, constant=column[:1].tobytes())
    return ColumnLayout(name, dtype, Encoding.STORED, decimals)


class SegmentWriter(SyncBlock, AsyncBlock):
    """A segment that is being written.

    It is a context manager, synchronous and asynchronous. Leaving it without `publish` removes the temporary file.

    Parameters
    ----------
    path : path-like
        The final file. Its folder must exist.
    statement : SegmentStatement
    columns : sequence of ColumnLayout
        How each column is kept. The writer determines offsets and checksums.
    row_count : int
        How many rows will be appended in total.

    Raises
    ------
    CacheError
        The temporary file cannot be created.
    """

    _file: AtomicFile | None = None

    def __init__(
        self,
        path: str | os.PathLike[str],
        statement: SegmentStatement,
        columns: Sequence[ColumnLayout],
        row_count: int,
    ) -> None:
        self.path = Path(path)
        self._statement = statement
        self._metadata = encode_metadata(
            statement.series, statement.sources, statement.absences, statement.writer, statement.later
        )
        self._columns, self._header_nbytes, self._file_nbytes = place_columns(
            columns, row_count, len(self._metadata)
        )
        self._row_count = row_count
        self._rows_written = 0
        self._is_flushed = False
        self._first_open_ms = 0
        self._last_open_ms = 0
        try:
            with self._translating_errors():
                self._file = AtomicFile(self.path)
                self._file.lengthen(self._file_nbytes)
        except BaseException:
            self.close()
            raise

    @classmethod
    def of_table(
        cls, path: str | os.PathLike[str], statement: SegmentStatement, table: KlineTable
    ) -> SegmentWriter:
        """Make a writer to which all rows of a table have been appended."""
        writer = cls(path, statement, plan_columns(table), table.row_count)
        try:
            writer.append(table.columns)
        except BaseException:
            writer.close()
            raise
        return writer

    def append(self, columns: Mapping[str, Column]) -> None:
        """Append rows.

        Parameters
        ----------
        columns : mapping of str to ndarray, each of shape (n,)
            Every stored column, in its dtype. Open times continue those already appended.

        Raises
        ------
        CacheError
            The disk refused.
        ValueError
            The writer is closed, there are more rows than announced, or rows are out of order or outside the span,
            or columns differ in length.
        """
        file = self._require_open()
        open_time = columns["open_time"]
        if not len(open_time):
            return
        self._check_rows(columns, open_time)
        self._is_flushed = False
        with self._translating_errors():
            self._columns = tuple(
                self._append_column(file, column, columns[column.name])
                if column.encoding is Encoding.STORED
                else column
                for column in self._columns
            )
        if self._rows_written == 0:
            self._first_open_ms = int(open_time[0])
        self._rows_written += len(open_time)
        self._last_open_ms = int(open_time[-1])

    def _check_rows(self, columns: Mapping[str, Column], open_time: Column) -> None:
        follows = self._rows_written == 0 or open_time[0] > self._last_open_ms
        if not follows or not (open_time[1:] > open_time[:-1]).all():
            raise ValueError(f"{self.path.name}: open times must ascend strictly")
        span = self._statement.span
        if int(open_time[0]) not in span or int(open_time[-1]) not in span:
            raise ValueError(f"{self.path.name}: open times must lie in {span}")
        if self._rows_written + len(open_time) > self._row_count:
            raise ValueError(f"{self.path.name}: more rows than the {self._row_count} announced")
        for column in self._columns:
            if column.encoding is Encoding.STORED and len(found := columns[column.name]) != len(open_time):
                raise ValueError(
                    f"{self.path.name}: column {column.name} has {len(found)} rows, not {len(open_time)}"
                )

    def _append_column(self, file: AtomicFile, column: ColumnLayout, values: Column) -> ColumnLayout:
        from ckvd.platforms.inflate import crc32  # noqa: PLC0415  (reading alone should not load isal)

        content = np.ascontiguousarray(values, column.dtype)
        file.write_at(column.offset + self._rows_written * column.dtype.itemsize, content.data)
        return replace(column, crc32=crc32(content, column.crc32))

    def publish(self) -> Path:
        """Make the segment durable and visible under its final name, and close the writer.

        Returns
        -------
        Path
            The final file. It replaces an earlier file of that name.

        Raises
        ------
        CacheError
            The disk refused, and nothing is left behind. If only the folder cannot be flushed, the file is there.
        ValueError
            Fewer rows were appended than announced, or the writer is closed.
        """
        self.flush()
        self.rename()
        with self._translating_errors():
            flush_folder(self.path.parent)
        return self.path

    def flush(self) -> None:
        """Write the header and flush the file to disk. This is the slow part of `publish`.

        What was flushed and not changed since is not flushed again.
        """
        file = self._require_open()
        if self._is_flushed:
            return
        if self._rows_written != self._row_count:
            raise ValueError(f"{self.path.name}: {self._rows_written} rows of {self._row_count} were appended")
        with self._translating_errors():
            file.write_at(0, encode_header(self._header()))
            flush_file(file.fileno(), file.path)
        self._is_flushed = True

    @property
    def temporary_path(self) -> Path:
        """The temporary file. After `flush` it is a whole segment. Raises ValueError if the writer is closed."""
        return self._require_open().path

    def renumber(self, path: str | os.PathLike[str], revision: int) -> None:
        """Change the revision, and with it the final name. `flush` must follow, which writes the revision.

        Raises ValueError if the writer is closed.
        """
        self.path = self._require_open().final = Path(path)
        self._statement = replace(self._statement, revision=revision)
        self._is_flushed = False

    def rename(self) -> None:
        """Give the flushed file its final name and close the writer. `flush_folder` then makes the name durable."""
        try:
            with self._translating_errors():
                self._require_open().rename()
        finally:
            self.close()

    def _header(self) -> SegmentHeader:
        return SegmentHeader(
            span=self._statement.span,
            row_count=self._row_count,
            first_open_ms=self._first_open_ms,
            last_open_ms=self._last_open_ms,
            revision=self._statement.revision,
            columns=self._columns,
            header_nbytes=self._header_nbytes,
            file_nbytes=self._file_nbytes,
            is_provisional=self._statement.is_provisional,
            recheck_ms=self._statement.recheck_ms,
            metadata=self._metadata,
        )

    @contextlib.contextmanager
    def _translating_errors(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise cannot("be written", self.path, error) from error

    def _require_open(self) -> AtomicFile:
        if self._file is None:
            raise ValueError(f"{self.path.name}: the writer is closed")
        return self._file

    def close(self) -> None:
        """Close the file, and remove it unless it was published. Safe to repeat."""
        direct_file_cleanup(self, "_file")

    @property
    def _resources(self) -> tuple[Resource, ...]:
        return (("_file", "segment file", False),)

    def __del__(self) -> None:
        if self._file is not None:
            warnings.warn(f"unclosed writer of {self.path}", ResourceWarning, source=self, stacklevel=2)
            self.close()

    def __repr__(self) -> str:
        state = "closed" if self._file is None else f"{self._rows_written} of {self._row_count} rows"
        return f"<SegmentWriter {str(self.path)!r} {state}>"

"""Writing a segment so that it is there whole or not at all: `SegmentWriter`.

Rows go to a temporary file in the folder of the final one. `publish` writes the header, flushes the file to disk,
renames it into place and flushes the folder. Whatever happens before that, nothing is left behind.
"""

from __future__ import annotations

import os
import warnings
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ckvd.errors import cannot
from ckvd.lifecycle import AsyncBlock, SyncBlock
from ckvd.model.calendar import regular_close_times
from ckvd.model.table import COLUMN_DTYPES, bits_of
from ckvd.segment.atomic_file import AtomicFile, flush_folder
from ckvd.segment.header import SegmentHeader, encode_header, encode_metadata
from ckvd.segment.layout import ColumnLayout, Encoding, place_columns
from ckvd.utils.async_cleanup import direct_file_cleanup

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ckvd.lifecycle import Resource
    from ckvd.model.market import SeriesKey
    from ckvd.model.provenance import Absence, Source
    from ckvd.model.table import Column, KlineTable
    from ckvd.model.timespan import Span


@dataclass(frozen=True, slots=True)
class SegmentStatement:
    """What a segment is about to say, apart from its rows.

    Attributes
    ----------
    series : SeriesKey
    span : Span
        What it speaks of, also where it has no bar.
    revision : int
        Higher than that of every segment it stands in for.
    sources : sequence of Source
    absences : sequence of Absence
    is_provisional : bool
        Whether it is to be replaced when an archive of its span appears.
    recheck_ms : int
        When to ask for its span again; 0 for never.
    writer : str
        The program that wrote it.
    """

    series: SeriesKey
    span: Span
    revision: int
    sources: Sequence[Source] = ()
    absences: Sequence[Absence] = ()
    is_provisional: bool = False
    recheck_ms: int = 0
    writer: str = "ckvd"


def plan_columns(table: KlineTable) -> tuple[ColumnLayout, ...]:
    """Decide how each column of a table is kept: what is constant or regular needs no bytes."""
    return tuple(_plan_column(name, column, table) for name, column in table.columns.items())


def _plan_column(name: str, column: Column, table: KlineTable) -> ColumnLayout:
    decimals = table.decimals.get(name)
    dtype = COLUMN_DTYPES[name]
    if name == "close_time" and np.array_equal(column, regular_close_times(table.open_time, table.series.interval)):
        return ColumnLayout(name, dtype, Encoding.REGULAR, decimals)
    if name != "open_time" and len(column):
        # Bits are compared, not values: -0.0 equals 0.0 and is another cell.
        bits = bits_of(column)
        if bits[0] == bits[-1] and (bits == bits[0]).all():
            return ColumnLayout(name, dtype, Encoding.CONSTANT, decimals, constant=column[:1].tobytes())
    return ColumnLayout(name, dtype, Encoding.STORED, decimals)


class SegmentWriter(SyncBlock, AsyncBlock):
    """A segment, being written.

    A context manager of both kinds: leaving it without `publish` removes the temporary file.

    Parameters
    ----------
    path : path-like
        The final file. Its folder must exist.
    statement : SegmentStatement
    columns : sequence of ColumnLayout
        How each column is kept; offsets and checksums are found out here.
    row_count : int
        How many rows will be appended in all.

    Raises
    ------
    CacheError
        The temporary file cannot be made.
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
        self._metadata = encode_metadata(statement.series, statement.sources, statement.absences, statement.writer)
        self._columns, self._header_nbytes, self._file_nbytes = place_columns(
            columns, row_count, len(self._metadata)
        )
        self._row_count = row_count
        self._rows_written = 0
        self._first_open_ms = 0
        self._last_open_ms = 0
        try:
            self._file = AtomicFile(self.path)
            self._file.truncate(self._file_nbytes)
        except OSError as error:
            self.close()
            raise cannot("be written", self.path, error) from error
        except BaseException:
            self.close()
            raise

    @classmethod
    def of_table(
        cls, path: str | os.PathLike[str], statement: SegmentStatement, table: KlineTable
    ) -> SegmentWriter:
        """A writer to which all rows of a table are already appended."""
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
            Every stored column, with its dtype. Open times follow on those already appended.

        Raises
        ------
        CacheError
            The disk refused.
        ValueError
            The writer is closed, or the rows are more than were announced, out of order, or not as many
            in each column.
        """
        file = self._require_open()
        open_time = columns["open_time"]
        if not len(open_time):
            return
        self._check_order(open_time)
        self._check_lengths(columns, len(open_time))
        try:
            self._columns = tuple(
                self._append_column(file, column, columns[column.name])
                if column.encoding is Encoding.STORED
                else column
                for column in self._columns
            )
        except OSError as error:
            raise cannot("be written", self.path, error) from error
        self._rows_written += len(open_time)
        self._last_open_ms = int(open_time[-1])

    def _check_lengths(self, columns: Mapping[str, Column], row_count: int) -> None:
        for column in self._columns:
            if column.encoding is Encoding.STORED and len(columns[column.name]) != row_count:
                raise ValueError(
                    f"{self.path.name}: column {column.name} has {len(columns[column.name])} rows, not {row_count}"
                )

    def _check_order(self, open_time: Column) -> None:
        first_ms = int(open_time[0])
        last_ms = int(open_time[-1])
        follows = self._rows_written == 0 or first_ms > self._last_open_ms
        if not follows or not (open_time[1:] > open_time[:-1]).all():
            raise ValueError(f"{self.path.name}: open times must ascend strictly")
        if first_ms not in self._statement.span or last_ms not in self._statement.span:
            raise ValueError(f"{self.path.name}: open times must lie in {self._statement.span}")
        if self._rows_written + len(open_time) > self._row_count:
            raise ValueError(f"{self.path.name}: more rows than the {self._row_count} announced")
        if self._rows_written == 0:
            self._first_open_ms = first_ms

    def _append_column(self, file: AtomicFile, column: ColumnLayout, values: Column) -> ColumnLayout:
        from ckvd.inflate import crc32  # noqa: PLC0415  (whoever only reads need not load isal)

        content = np.ascontiguousarray(values, column.dtype)
        file.write_at(column.offset + self._rows_written * column.dtype.itemsize, content.data)
        return replace(column, crc32=crc32(content, column.crc32))

    def publish(self) -> Path:
        """Make the segment durable and visible under its final name.

        Returns
        -------
        Path
            The final file. A file of that name that was there before is replaced.

        Raises
        ------
        CacheError
            The disk refused; nothing is left behind.
        ValueError
            Fewer rows were appended than announced, or the writer is closed.
        """
        self.flush()
        self.rename()
        try:
            flush_folder(self.path.parent)
        except OSError as error:
            raise cannot("be written", self.path, error) from error
        return self.path

    def flush(self) -> None:
        """Write the header and flush the file to disk: the first half of `publish`, slow and repeatable."""
        file = self._require_open()
        if self._rows_written != self._row_count:
            raise ValueError(f"{self.path.name}: {self._rows_written} rows of {self._row_count} were appended")
        try:
            file.write_at(0, encode_header(self._header()))
            os.fsync(file.fileno())
        except OSError as error:
            raise cannot("be written", self.path, error) from error

    @property
    def temporary_path(self) -> Path:
        """Where the file lies until it is published: after `flush` it is a whole segment.

        Raises
        ------
        ValueError
            The writer is closed.
        """
        return self._require_open().path

    def renumber(self, path: str | os.PathLike[str], revision: int) -> None:
        """Change the revision, and with it the final name; `flush` writes it down.

        Raises
        ------
        ValueError
            The writer is closed.
        """
        self._require_open().set_final(Path(path))
        self.path = Path(path)
        self._statement = replace(self._statement, revision=revision)

    def rename(self) -> None:
        """Give a flushed file its final name and close it; `flush_folder` then makes the name durable."""
        try:
            self._require_open().rename()
        except OSError as error:
            raise cannot("be written", self.path, error) from error
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

    def _require_open(self) -> AtomicFile:
        if self._file is None:
            raise ValueError(f"{self.path.name}: the writer is closed")
        return self._file

    def close(self) -> None:
        """Close and remove the temporary file, if the segment was not published. Closing twice is quiet."""
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

"""Taking bars out of a cache, into files of other formats.

A file is written beside its final name, flushed, and renamed into place, so that nobody ever sees half of it.
"""

from __future__ import annotations

import os
import secrets
import zipfile
from dataclasses import dataclass
from enum import StrEnum
from typing import IO, TYPE_CHECKING, Any, Final, TypeAlias, cast

import numpy as np

from ckvd.cache import fault_points
from ckvd.cache.fault_points import Step
from ckvd.cache.rows import chunks_of, column_of, open_rows
from ckvd.errors import CacheError, ExportError, cannot
from ckvd.maintenance.export_arrow import columns_to_write, write_arrow, write_parquet
from ckvd.maintenance.export_csv import write_csv
from ckvd.model.calendar import Period, days_of, months_of
from ckvd.model.table import COLUMN_DTYPES
from ckvd.model.timespan import Span, format_time, union
from ckvd.segment.atomic_file import flush_folder
from ckvd.utils.config import EXPORT_GROUP_ROWS, MAINTENANCE_CHUNK_ROWS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from ckvd.cache.folder import CacheFolder
    from ckvd.model.market import SeriesKey
    from ckvd.segment.reader import MappedRows

_Write: TypeAlias = "Callable[[IO[bytes]], int]"
# The time that ZIP members are dated, so that the same bars make the same bytes.
_ZIP_EPOCH: Final = (1980, 1, 1, 0, 0, 0)


class ExportFormat(StrEnum):
    """What files are written. The value is also how their names end."""

    CSV = "csv"
    ARROW = "arrow"
    PARQUET = "parquet"
    NPZ = "npz"


class ExportCut(StrEnum):
    """How much goes into one file."""

    WHOLE = "whole"
    MONTH = "month"
    DAY = "day"


@dataclass(frozen=True, slots=True)
class ExportedFile:
    """A file that was written.

    Attributes
    ----------
    path : Path
    series : SeriesKey
    span : Span
        Every bar of it opens in here.
    bar_count, nbytes : int
    inexact_cell_count : int
        Cells of a CSV whose double another text of as many digits means as well, so that the digits may not be
        those of the source. Read again, each is the same double.
    """

    path: Path
    series: SeriesKey
    span: Span
    bar_count: int
    nbytes: int
    inexact_cell_count: int = 0

    def to_json(self) -> dict[str, Any]:
        """A JSON object."""
        return {
            "path": str(self.path),
            "series": str(self.series),
            "span": [self.span.start_ms, self.span.end_ms],
            "bar_count": self.bar_count,
            "nbytes": self.nbytes,
            "inexact_cell_count": self.inexact_cell_count,
        }


def export_series(
    folder: CacheFolder,
    series: SeriesKey,
    target: Path,
    *,
    file_format: ExportFormat = ExportFormat.CSV,
    cut: ExportCut = ExportCut.WHOLE,
    span: Span | None = None,
    is_overwriting: bool = False,
) -> Iterator[ExportedFile]:
    """Write the bars of a series into files, and tell of each when it is there.

    Parameters
    ----------
    folder : CacheFolder
    series : SeriesKey
    target : Path
        The folder to write to; files go to `<target>/<market>/<kind>/<symbol>/<interval>/`.
    file_format : ExportFormat
    cut : ExportCut
    span : Span, optional
        What to export, which the cache must cover; by default all that it covers.
    is_overwriting : bool
        Whether to replace files that are there.

    Yields
    ------
    ExportedFile

    Raises
    ------
    NotCachedError
        The cache does not cover the span.
    ExportError
        A file is there already, or the format's package is not installed.
    SegmentError, CacheError
        A segment cannot be read, or a file not be written.
    """
    covered = union(name.span for name in folder.segments(series)) if span is None else (span,)
    for part in covered:
        for label, piece in _pieces(part, cut):
            path = target / str(series) / f"{series.symbol}-{series.interval}-{label}.{file_format}"
            if path.exists() and not is_overwriting:
                raise ExportError(f"{path} is there already: remove it, or say that it may be overwritten")
            parts = open_rows(folder, series, piece)
            inexact_count = _write_file(path, _writer_of(file_format, parts, series, piece))
            bar_count = sum(map(len, parts))
            del parts
            yield ExportedFile(path, series, piece, bar_count, path.stat().st_size, inexact_count)


def _pieces(span: Span, cut: ExportCut) -> Iterator[tuple[str, Span]]:
    """The parts of a span that go into one file each, with what to call them."""
    if cut is ExportCut.WHOLE:
        start, end = (format_time(moment_ms).replace(":", "") for moment_ms in (span.start_ms, span.end_ms))
        yield f"{start}-{end}", span
        return
    periods: Iterator[Period] = months_of(span) if cut is ExportCut.MONTH else days_of(span)
    for period in periods:
        yield period.label, period.span.intersection(span)


def _writer_of(file_format: ExportFormat, parts: Sequence[MappedRows], series: SeriesKey, span: Span) -> _Write:
    names = columns_to_write(parts, series)

    def write(file: IO[bytes]) -> int:
        match file_format:
            case ExportFormat.CSV:
                chunks = chunks_of(parts, MAINTENANCE_CHUNK_ROWS)
                return write_csv(file, chunks, series, has_header=_has_header(parts, span))
            case ExportFormat.ARROW:
                write_arrow(file, chunks_of(parts, EXPORT_GROUP_ROWS), names, series)
            case ExportFormat.PARQUET:
                write_parquet(file, chunks_of(parts, EXPORT_GROUP_ROWS), names, series)
            case ExportFormat.NPZ:
                write_npz(file, parts, names, series)
        return 0

    return write


def _has_header(parts: Sequence[MappedRows], span: Span) -> bool:
    """Whether the archive of the first bars had a header."""
    sources = (source for part in parts for source in part.sources if source.span.overlaps(span))
    first = min(sources, key=lambda source: source.start_ms, default=None)
    return first is not None and first.has_header


def write_npz(file: IO[bytes], parts: Sequence[MappedRows], names: Sequence[str], series: SeriesKey) -> None:
    """Write an uncompressed npz file, column by column: the same bars make the same bytes."""
    row_count = sum(map(len, parts))
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        for name in names:
            member = zipfile.ZipInfo(f"{name}.npy", _ZIP_EPOCH)
            with archive.open(member, "w", force_zip64=True) as stream:
                described = {"descr": COLUMN_DTYPES[name].str, "fortran_order": False, "shape": (row_count,)}
                np.lib.format.write_array_header_1_0(cast("Any", stream), described)
                for rows in chunks_of(parts):
                    stream.write(np.ascontiguousarray(column_of(rows, name, series)).tobytes())
                    del rows


def _write_file(path: Path, write: _Write) -> int:
    """Write a file so that it is there whole or not at all."""
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with temporary.open("xb") as file:
                result = write(file)
                file.flush()
                os.fsync(file.fileno())
            fault_points.reach(Step.EXPORTED)
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
        flush_folder(path.parent)
    except CacheError:
        raise
    except OSError as error:
        raise cannot("be written", path, error) from error
    return result

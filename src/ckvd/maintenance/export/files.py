"""Exporting a series: which bars go into which file, and writing each file whole or not at all.

What a killed export left is removed by the next one into the same folder.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Final, Literal

from ckvd.cache import fault_points
from ckvd.cache.coverage import unavailable_spans_of
from ckvd.cache.fault_points import Step
from ckvd.cache.folder import is_there
from ckvd.cache.rows import chunks_of, open_rows
from ckvd.errors import ExportError, NotCachedError, cannot, translated
from ckvd.maintenance.export.columnar import write_arrow, write_npz
from ckvd.maintenance.export.csv_text import write_csv
from ckvd.maintenance.export.record_text import write_records
from ckvd.model.calendar import days_of, months_of
from ckvd.model.record import Record
from ckvd.model.timespan import Span, difference, format_time, union
from ckvd.segment.atomic_file import atomic_write, flush_folder, remove_abandoned

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from ckvd.cache.folder import CacheFolder
    from ckvd.model.market import SeriesKey
    from ckvd.segment.reader import MappedRows


class ExportFormat(StrEnum):
    """The format of the files. The value is also the suffix of their names."""

    CSV = "csv"
    ARROW = "arrow"
    PARQUET = "parquet"
    NPZ = "npz"


_SUFFIXES: Final = tuple(f".{file_format}" for file_format in ExportFormat)


class ExportCut(StrEnum):
    """How much goes into one file."""

    WHOLE = "whole"
    MONTH = "month"
    DAY = "day"


@dataclass(frozen=True, slots=True)
class ExportedFile(Record):
    """A file that was written.

    Attributes
    ----------
    path : Path
    series : SeriesKey
    span : Span
        From the first moment that the file covers to the last: every bar of the file opens in it.
    bar_count, nbytes : int
    inexact_cell_count : int
        Cells of a CSV whose digits may not be those of the source, because several texts of as many digits mean the
        same double. Read again, each is the same double.
    """

    path: Path
    series: SeriesKey
    span: Span
    bar_count: int
    nbytes: int
    inexact_cell_count: int = 0


def export_series(
    folder: CacheFolder,
    series: SeriesKey,
    target: Path,
    *,
    file_format: ExportFormat = ExportFormat.CSV,
    cut: ExportCut = ExportCut.WHOLE,
    span: Span | None = None,
    missing: Literal["raise", "ignore"] = "raise",
    is_overwriting: bool = False,
) -> Iterator[ExportedFile]:
    """Write the bars of a series into files, and yield each when it is complete. After the last, all are durable.

    Parameters
    ----------
    folder : CacheFolder
    series : SeriesKey
    target : Path
        The folder to write to; files go to `<target>/<market>/<kind>/<symbol>/<interval>/`, those of events to
        `.../events/`.
    file_format : ExportFormat
    cut : ExportCut
    span : Span, optional
        The span to export; by default all that the cache has.
    missing : {"raise", "ignore"}
        What to do where the cache does not have the span: raise before anything is written, or export the rest.
    is_overwriting : bool
        Whether to replace existing files.

    Yields
    ------
    ExportedFile
        One for each part without a hole in the coverage, or for each month or day with a part in it.

    Raises
    ------
    NotCachedError
        The cache does not cover the span, or bars of a part of it were unavailable.
    ExportError
        A file exists already, or the format's package is not installed.
    SegmentError, CacheError
        A segment cannot be read, or a file cannot be written.
    """
    place, prefix = target / str(series), f"{series.symbol}-{series.archive_label}-"
    remove_abandoned(place, lambda name: name.startswith(prefix) and name.endswith(_SUFFIXES))
    for label, parts in _cut(_parts_of(folder, series, span, missing), cut):
        path = place / f"{prefix}{label}.{file_format}"
        if is_there(path) and not is_overwriting:
            raise ExportError(f"{path} is there already: remove it, or say that it may be overwritten")
        blocks = [rows for part in parts for rows in open_rows(folder, series, part)]
        in_file = Span(parts[0].start_ms, parts[-1].end_ms)
        inexact_count, nbytes = _write_file(path, file_format, blocks, series, in_file)
        bar_count = sum(map(len, blocks))
        del blocks
        yield ExportedFile(path, series, in_file, bar_count, nbytes, inexact_count)
    _flush_names(target / str(series))


def _flush_names(folder: Path) -> None:
    try:
        flush_folder(folder)
    except FileNotFoundError:
        return  # there was nothing to write
    except OSError as error:
        raise cannot("be flushed", folder, error) from error


def _parts_of(
    folder: CacheFolder, series: SeriesKey, span: Span | None, missing: Literal["raise", "ignore"]
) -> tuple[Span, ...]:
    """The parts of a span that the cache has, disjoint and in order."""
    if missing not in ("raise", "ignore"):
        raise ValueError(f'missing is "raise" or "ignore", not {missing!r}')
    covered = union(name.span for name in folder.segments(series))
    wanted = covered if span is None else tuple(part.intersection(span) for part in covered if part.overlaps(span))
    unavailable = [lost for part in wanted for lost in unavailable_spans_of(folder, series, part)]
    parts = difference(wanted, unavailable)
    if span is not None and missing == "raise" and (lacking := difference([span], parts)):
        raise NotCachedError(f"{series}: the cache {folder.root} does not cover {lacking[0]} of {span}", lacking)
    return parts


def _cut(parts: Sequence[Span], cut: ExportCut) -> Iterator[tuple[str, list[Span]]]:
    """The parts of each file, with its label in the name of the file."""
    if cut is ExportCut.WHOLE:
        for part in parts:
            start, end = (format_time(moment_ms).replace(":", "") for moment_ms in (part.start_ms, part.end_ms))
            yield f"{start}-{end}", [part]
        return
    # A month with a hole in it is one file, not one for each part: both would have the same name.
    files: dict[str, list[Span]] = {}
    for part in parts:
        for period in months_of(part) if cut is ExportCut.MONTH else days_of(part):
            files.setdefault(period.label, []).append(period.span.intersection(part))
    yield from files.items()


def _write_file(
    path: Path, file_format: ExportFormat, blocks: Sequence[MappedRows], series: SeriesKey, span: Span
) -> tuple[int, int]:
    """Write a file whole or not at all. Return how many cells are inexact, and the length of the file."""
    inexact_count = 0
    with translated("be written", path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(path, is_name_durable=False) as file:
            if file_format is ExportFormat.CSV and not series.kind.is_bars:
                inexact_count = write_records(file, blocks, series)
            elif file_format is ExportFormat.CSV:
                inexact_count = write_csv(file, chunks_of(blocks), series, has_header=_has_header(blocks, span))
            elif file_format is ExportFormat.NPZ:
                write_npz(file, blocks, series)
            else:
                write_arrow(file, blocks, series, is_parquet=file_format is ExportFormat.PARQUET)
            nbytes = file.tell()
            fault_points.reach(Step.EXPORTED)
    return inexact_count, nbytes


def _has_header(blocks: Sequence[MappedRows], span: Span) -> bool:
    """Whether the archive of the first bars had a header line."""
    sources = (source for rows in blocks for source in rows.sources if source.span.overlaps(span))
    first = min(sources, key=lambda source: source.start_ms, default=None)
    return first is not None and first.has_header

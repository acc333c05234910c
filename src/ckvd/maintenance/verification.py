"""Finding what is wrong with a cache: every checksum, header, name, order and invariant. It changes nothing.

One segment is open at a time, and bars are looked at in chunks, so that memory stays flat however large a cache is.
"""

from __future__ import annotations

import os
import struct
from itertools import pairwise
from typing import TYPE_CHECKING, Final

import numpy as np

from ckvd.cache.folder import parse_segment_name
from ckvd.cache.locks import lock_reach
from ckvd.cache.rows import column_of
from ckvd.errors import CacheError, SegmentError, SegmentForeignError, SegmentVersionError, cannot
from ckvd.maintenance.findings import Finding, Severity, Trouble
from ckvd.maintenance.leftovers import find_leftovers
from ckvd.maintenance.selection import EVERYTHING
from ckvd.model.market import Kind
from ckvd.model.table import BarFlag, bar_flags, fields_of
from ckvd.model.timespan import format_time
from ckvd.segment.header import decode_header, read_header_nbytes
from ckvd.segment.layout import BYTE_ORDER, MAGIC, PREAMBLE_NBYTES, VERSION
from ckvd.segment.reader import SegmentReader
from ckvd.utils.config import MAINTENANCE_CHUNK_ROWS

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    import numpy.typing as npt

    from ckvd.cache.folder import CacheFolder, SegmentName
    from ckvd.maintenance.selection import SeriesFilter
    from ckvd.model.market import SeriesKey
    from ckvd.segment.reader import MappedRows

_EXAMPLES_MAX: Final = 3


def verify_cache(
    folder: CacheFolder, chosen: SeriesFilter = EVERYTHING, *, is_quick: bool = False
) -> Iterator[Finding]:
    """Find what is wrong with a cache, piece by piece.

    Parameters
    ----------
    folder : CacheFolder
    chosen : SeriesFilter
    is_quick : bool
        Look at names and headers only, not at the bars.

    Yields
    ------
    Finding
        In order of series and time.

    Raises
    ------
    CacheError
        A folder cannot be listed.
    """
    yield from verify_folder(folder)
    for series in chosen.choose(folder):
        yield from verify_series(folder, series, is_quick=is_quick)


def verify_folder(folder: CacheFolder) -> Iterator[Finding]:
    """Find what concerns a cache as a whole: how far locks reach, and leftovers. See `verify_cache`."""
    reach = lock_reach(folder.root)
    if not reach.reaches_others:
        message = (
            f"{reach.file_system} as mounted here excludes no writers on other machines: let one machine write"
        )
        yield Finding(Severity.WARNING, Trouble.LOCAL_LOCKS, folder.root, message)
    for leftover in find_leftovers(folder):
        message = f"{leftover.nbytes} bytes that a process left behind; ckvd cache prune --leftovers removes it"
        yield Finding(Severity.NOTE, Trouble.LEFTOVER, leftover.path, message)


def verify_series(folder: CacheFolder, series: SeriesKey, *, is_quick: bool = False) -> Iterator[Finding]:
    """Find what is wrong with a series. See `verify_cache`."""
    path = folder.series_path(series)
    yield from _find_strangers(path, series)
    segments = sorted(folder.segments(series))
    yield from _find_same_revisions(path, series, segments)
    for name in segments:
        yield from verify_segment(path / name.file_name, series, name, is_quick=is_quick)


def verify_segment(path: Path, series: SeriesKey, name: SegmentName, *, is_quick: bool = False) -> list[Finding]:
    """Find what is wrong with one segment; nothing, where it is gone."""
    try:
        with SegmentReader(path) as reader:
            return [
                Finding(severity, trouble, path, message, series, name.span, bar_count)
                for severity, trouble, message, bar_count in _look_at(reader, series, name, is_quick=is_quick)
            ]
    except FileNotFoundError:
        return []
    except SegmentVersionError as error:
        trouble, message = Trouble.LATER_VERSION, error.reason
        if _is_this_version(path):
            trouble, message = Trouble.DAMAGED, "its version was changed, all else in its header is of this version"
    except SegmentForeignError as error:
        trouble, message = Trouble.FOREIGN, error.reason
    except SegmentError as error:
        trouble, message = Trouble.DAMAGED, error.reason
    except CacheError as error:
        trouble, message = Trouble.UNREADABLE, error.reason
    return [Finding(Severity.ERROR, trouble, path, message, series, name.span)]


def _is_this_version(path: Path) -> bool:
    """Whether a segment that claims another version has a header of this one: the claim is not in its checksum."""
    try:
        with path.open("rb") as file:
            start = bytearray(file.read(PREAMBLE_NBYTES))
            file_nbytes = os.fstat(file.fileno()).st_size
            struct.pack_into("<HH", start, len(MAGIC), VERSION, BYTE_ORDER)
            rest = file.read(read_header_nbytes(bytes(start), str(path), file_nbytes) - len(start))
        decode_header(bytes(start) + rest, str(path), file_nbytes)
    except (OSError, SegmentError, struct.error):
        return False
    return True


_Remark = tuple[Severity, Trouble, str, int]


def _look_at(reader: SegmentReader, series: SeriesKey, name: SegmentName, *, is_quick: bool) -> Iterator[_Remark]:
    header = reader.header
    try:
        said = header.series
        _ = header.sources, header.absences
    except (ValueError, KeyError, TypeError) as error:
        yield Severity.ERROR, Trouble.DAMAGED, f"its metadata cannot be read: {error!r}", header.row_count
        return
    if (said, header.span, header.revision) != (series, name.span, name.revision):
        message = f"its header says {said} {header.span}, revision {header.revision}: it was renamed or swapped"
        yield Severity.ERROR, Trouble.SWAPPED, message, header.row_count
        return
    lacking = set(fields_of(series)) - {column.name for column in header.columns}
    if lacking:
        yield (
            Severity.ERROR,
            Trouble.DAMAGED,
            f"it lacks the columns {', '.join(sorted(lacking))}",
            header.row_count,
        )
        return
    if is_quick:
        return
    reader.verify()
    yield from _look_at_order(reader)
    yield from _look_at_bars(reader.rows, series)


def _look_at_order(reader: SegmentReader) -> Iterator[_Remark]:
    header, opens = reader.header, reader.open_time
    if len(opens) != header.row_count:
        yield Severity.ERROR, Trouble.DAMAGED, f"{len(opens)} open times for {header.row_count} bars", 0
        return
    if not len(opens):
        return
    unordered = sum(
        int(
            np.count_nonzero(
                opens[start + 1 : start + 1 + MAINTENANCE_CHUNK_ROWS] <= opens[start:-1][:MAINTENANCE_CHUNK_ROWS]
            )
        )
        for start in range(0, len(opens) - 1, MAINTENANCE_CHUNK_ROWS)
    )
    if unordered:
        yield Severity.ERROR, Trouble.UNORDERED, f"{unordered} bars do not open after the one before", unordered
    first_ms, last_ms = int(opens[0]), int(opens[-1])
    if (first_ms, last_ms) != (header.first_open_ms, header.last_open_ms):
        yield Severity.ERROR, Trouble.DAMAGED, "its header misstates the first or last open time", 0
    if first_ms not in header.span or last_ms not in header.span:
        message = f"bars from {format_time(first_ms)} to {format_time(last_ms)} open outside of {header.span}"
        yield Severity.ERROR, Trouble.UNORDERED, message, 0


def _look_at_bars(rows: MappedRows, series: SeriesKey) -> Iterator[_Remark]:
    """Count what no market could have made, and what does not lie on the grid. Both are kept as published."""
    impossible: dict[str, list[int]] = {}
    odd_count = 0
    for start in range(0, len(rows), MAINTENANCE_CHUNK_ROWS):
        chunk = rows.rows(start, min(start + MAINTENANCE_CHUNK_ROWS, len(rows)))
        opens = column_of(chunk, "open_time", series)
        for rule, broken in _broken_rules(chunk, series).items():
            impossible.setdefault(rule, []).extend(opens[broken].tolist())
        flags = bar_flags(opens, column_of(chunk, "close_time", series), None, series.interval)
        odd_count += int(np.count_nonzero(flags & (BarFlag.OFF_GRID | BarFlag.ODD_CLOSE)))
    for rule, found in impossible.items():
        if found:
            shown = ", ".join(map(format_time, found[:_EXAMPLES_MAX])) + (
                " ..." if len(found) > _EXAMPLES_MAX else ""
            )
            yield Severity.WARNING, Trouble.IMPOSSIBLE_BARS, f"{rule}: {len(found)} bars, {shown}", len(found)
    if odd_count:
        yield (
            Severity.NOTE,
            Trouble.OFF_GRID,
            f"{odd_count} bars open or close off the grid, as published",
            odd_count,
        )


def _broken_rules(rows: MappedRows, series: SeriesKey) -> dict[str, npt.NDArray[np.bool_]]:
    """For each rule, which of some bars break it."""
    names = fields_of(series)
    cells = [column_of(rows, name, series) for name in names]
    opens, first, high, low, last, volume, closes, value, count, taker_volume, taker_value, _ = cells
    broken = {
        "a high that is not the highest": (high < first) | (high < last) | (high < low),
        "a low that is not the lowest": (low > first) | (low > last),
        "closes before it opens": closes < opens,
        "a number that is not finite": ~np.isfinite(first + high + low + last + volume + value),
    }
    if series.kind is Kind.KLINES:
        broken |= {
            "takers bought more than was traded": (taker_volume > volume) | (taker_value > value),
            "a negative volume or count": (volume < 0) | (value < 0) | (count < 0) | (taker_volume < 0),
        }
    return broken


def _find_strangers(path: Path, series: SeriesKey) -> Iterator[Finding]:
    try:
        file_names = sorted(entry.name for entry in path.iterdir())
    except FileNotFoundError:
        return
    except OSError as error:
        raise cannot("be listed", path, error) from error
    for file_name in file_names:
        name = parse_segment_name(file_name)
        if name is not None and name.file_name != file_name:
            message = f"it is read as {name.file_name}, which is how it should be spelled"
            yield Finding(Severity.WARNING, Trouble.STRANGER, path / file_name, message, series)
        elif name is None and not file_name.startswith("."):
            message = "not written by ckvd, and passed over by it"
            yield Finding(Severity.NOTE, Trouble.STRANGER, path / file_name, message, series)


def _find_same_revisions(path: Path, series: SeriesKey, segments: Sequence[SegmentName]) -> Iterator[Finding]:
    by_revision = sorted(segments, key=lambda name: (name.revision, name.span))
    for one, other in pairwise(by_revision):
        if one.revision == other.revision and one.span.overlaps(other.span):
            message = f"{one.file_name} speaks of the same time with the same revision"
            yield Finding(
                Severity.WARNING, Trouble.SAME_REVISION, path / other.file_name, message, series, other.span
            )

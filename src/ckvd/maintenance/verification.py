"""Verification: finding what is wrong with a cache. It changes nothing.

Every checksum, header, name, order and invariant is checked, and each problem is a `Finding`. One segment is open
at a time, and its bars are read in chunks, so memory does not grow with the cache.
"""

from __future__ import annotations

import os
import struct
from dataclasses import dataclass
from enum import StrEnum
from functools import partial
from itertools import pairwise
from math import inf
from pathlib import Path
from typing import TYPE_CHECKING, Final, TypeAlias

import numpy as np

from ckvd.acquisition.completion.scope import outer_seconds
from ckvd.cache.folder import (
    LOCKS_FOLDER,
    QUARANTINE_FOLDER,
    UNIVERSE_FOLDER,
    has_impossible_revision,
    is_folder,
    is_there,
    parse_segment_name,
)
from ckvd.cache.leftovers import find_leftovers
from ckvd.cache.locks import local_lock_file_system
from ckvd.cache.resolution import hull, is_unfounded
from ckvd.cache.rows import column_of, read_grid
from ckvd.cache.untraded_tail import find_untraded_tail
from ckvd.errors import (
    CacheError,
    CkvdError,
    NoSnapshotError,
    SegmentError,
    SegmentForeignError,
    SegmentVersionError,
    SnapshotError,
    cannot,
    concerns_one_place,
    translated,
)
from ckvd.maintenance.metrics_places import find_day_fits, has_own_label
from ckvd.maintenance.misfiled import find_misfiled
from ckvd.maintenance.phantoms import is_phantom
from ckvd.model.grid import Grid
from ckvd.model.impossible_bars import broken_rules, impossible_bars
from ckvd.model.market import HOUR_MS, Kind, Market
from ckvd.model.provenance import Origin, Source
from ckvd.model.record import Record
from ckvd.model.settlements import settled_times
from ckvd.model.stray_bars import interval_fault
from ckvd.model.table import BarFlag, bar_flags, fields_of
from ckvd.model.timespan import Span, format_time, union
from ckvd.regular_file import irregular_kind, open_regular
from ckvd.segment.header import decode_header, read_header_nbytes
from ckvd.segment.layout import BYTE_ORDER, MAGIC, PREAMBLE_NBYTES, VERSION
from ckvd.segment.reader import SegmentReader
from ckvd.universe.snapshot import list_snapshots, read_snapshot
from ckvd.utils.config import FILE_TIME_STEP_S, MAINTENANCE_CHUNK_ROWS, SEGMENT_REVISION_MAX

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from ckvd.cache.folder import CacheFolder, SegmentName
    from ckvd.model.market import SeriesKey
    from ckvd.segment.reader import MappedRows


class Severity(StrEnum):
    """How bad a finding is."""

    ERROR = "error"  # bars cannot be read or trusted
    WARNING = "warning"  # bars can be read, and somebody should look
    NOTE = "note"  # worth knowing; the cache is in order


class Trouble(StrEnum):
    """What is wrong."""

    DAMAGED = "damaged"  # the bytes differ from what was written, or some are missing
    FOREIGN = "foreign"  # not a segment, although its name is that of one
    SWAPPED = "swapped"  # a segment with the name of another one
    LATER_VERSION = "later version"  # written by a later ckvd, or on a machine of another byte order
    UNREADABLE = "unreadable"  # the system refuses to read it
    UNORDERED = "unordered"  # open times do not ascend, or lie outside of the span
    SAME_REVISION = "same revision"  # two segments overlap, and neither is newer
    OTHER_INTERVAL = "another interval"  # bars of another interval than that of the series, from one of its sources
    IMPOSSIBLE_BARS = "impossible bars"  # as published: a high that is not the highest, and the like
    UNTRADED_TAIL = "untraded tail"  # as published: bars without a trade at the end of the series
    OFF_GRID = "off the grid"  # as published: bars that open or close off the grid
    OTHER_MINUTES = "other minutes"  # metrics that fit the klines of five minutes earlier or later than their own
    UNFOUNDED = "unfounded"  # "not in archive" is said of a time for which no archive was read
    REVISION = "revision"  # of a segment, and so high that no writer can have taken it, or that none can follow
    LOCK_FILE = "lock file"  # something that is no regular file is in its place: nobody can write to the series
    STRANGER = "stranger"  # a file in the folder of a series without the name of a segment
    LOST = "lost"  # a file in quarantine covers it, and the cache does not (`repair.find_lost`)
    MISFILED = "misfiled"  # a folder under a second name of a series, which nothing reads
    PHANTOM = "phantom"  # a series of which no source had anything
    SNAPSHOT = "snapshot"  # one of the universe that is damaged
    LEFTOVER = "leftover"  # of a process that died
    LOCAL_LOCKS = "local locks"  # locks do not exclude writers on other machines


REPAIRABLE: Final = (
    Trouble.DAMAGED,
    Trouble.FOREIGN,
    Trouble.SWAPPED,
    Trouble.UNORDERED,
    Trouble.OTHER_INTERVAL,
    Trouble.REVISION,
    Trouble.LOCK_FILE,
)
"""What `repair` sets aside and fetches again."""


@dataclass(frozen=True, slots=True)
class Finding(Record):
    """One thing that is wrong, or worth knowing.

    Attributes
    ----------
    severity : Severity
    trouble : Trouble
    path : Path
        The file or folder.
    message : str
        What was expected and found.
    series : SeriesKey or None
    span : Span or None
        What the file covers, by its name; of an untraded tail, from its first bar to its last; of metrics that fit
        other minutes, from the first such day to the last.
    bar_count : int
        How many bars are concerned; 0 where that is unknown.
    """

    severity: Severity
    trouble: Trouble
    path: Path
    message: str
    series: SeriesKey | None = None
    span: Span | None = None
    bar_count: int = 0


def is_clean(findings: list[Finding]) -> bool:
    """Whether all findings are notes."""
    return all(finding.severity is Severity.NOTE for finding in findings)


_EXAMPLES_MAX: Final = 3


def verify_cache(
    folder: CacheFolder,
    chosen: Iterable[SeriesKey] | None = None,
    *,
    is_quick: bool = False,
    since_ms: int | None = None,
) -> Iterator[Finding]:
    """Find what is wrong with a cache, one series after the other.

    Parameters
    ----------
    folder : CacheFolder
    chosen : iterable of SeriesKey, optional
        All series of the cache by default.
    is_quick : bool
        Check names and headers only, not the bars.
    since_ms : int, optional
        Look only into segments that were changed since: see `changed_since`. Names are checked all the same.

    Yields
    ------
    Finding
        In order of series and time.

    Raises
    ------
    CacheError
        The disk fails as a whole. A folder or file that cannot be read is a finding.
    """
    yield from _verify_folder(folder)
    yield from find_unlisted(folder)
    for series in folder.series(_void) if chosen is None else chosen:
        yield from verify_series(folder, series, is_quick=is_quick, since_ms=since_ms)


def changed_since(folder: CacheFolder, series: SeriesKey, since_ms: int | None) -> list[SegmentName]:
    """The segments of a series whose files were written, replaced, restored or renamed since a moment, in order.

    What tells is the time at which the status of a file last changed. A copy that keeps the time of modification
    (`rsync -a`, `cp -p`) cannot set it, and damage by the disk itself leaves both as they are. None for the moment
    means all segments. Files of the seconds before the moment are among them, since clocks of file systems are
    coarse, and files whose status cannot be read.

    Raises
    ------
    CacheError
        The folder cannot be listed.
    """
    segments = sorted(folder.segments(series))
    if since_ms is None:
        return segments
    first_s = since_ms / 1000 - FILE_TIME_STEP_S
    return [name for name in segments if _changed_s(folder, series, name) >= first_s]


def _changed_s(folder: CacheFolder, series: SeriesKey, name: SegmentName) -> float:
    """When a file last changed; never if it is gone, and always if nobody knows."""
    try:
        # Some file systems know only the time of modification.
        return max((max(one.st_ctime, one.st_mtime) for one in folder.statuses(series, [name])), default=-inf)
    except CacheError:
        return inf


def find_unlisted(folder: CacheFolder) -> list[Finding]:
    """The folders of a cache that cannot be listed, so that it is unknown which series they have."""
    errors: list[CkvdError] = []
    for _ in folder.series(errors.append):
        pass
    # The folder of all series may be the one that cannot be listed.
    by_path = {error.path: error for error in errors if isinstance(error, CacheError)}
    return [_unreadable(error) for error in by_path.values()]


def _void(_error: CkvdError) -> None:
    """Do nothing about an error that `find_unlisted` has found."""


def _unreadable(error: CacheError, series: SeriesKey | None = None) -> Finding:
    return Finding(Severity.ERROR, Trouble.UNREADABLE, Path(error.path), error.reason, series)


def _verify_folder(folder: CacheFolder) -> Iterator[Finding]:
    """Check the cache as a whole: how far locks reach, leftovers, and folders under second names."""
    file_system = local_lock_file_system(folder.root)
    if file_system is not None:
        message = f"{file_system} as mounted here excludes no writers on other machines: let one machine write"
        yield Finding(Severity.WARNING, Trouble.LOCAL_LOCKS, folder.root, message)
    for place in (folder.root / LOCKS_FOLDER, folder.root / QUARANTINE_FOLDER, folder.root / UNIVERSE_FOLDER):
        try:
            with translated("be read", place):
                is_wrong = is_there(place) and not is_folder(place)
        except CacheError as error:
            yield _unreadable(error)
            continue
        if is_wrong:
            message = f"{irregular_kind(place) or 'a file'} stands where a folder should be: move it away"
            yield Finding(Severity.ERROR, Trouble.UNREADABLE, place, message)
    yield from _verify_snapshots(folder)
    for leftover in find_leftovers(folder):
        message = f"{leftover.nbytes} bytes that a process left behind; ckvd cache prune --leftovers removes it"
        yield Finding(Severity.NOTE, Trouble.LEFTOVER, leftover.path, message)
    for one in find_misfiled(folder, _void):
        message = f"its bars are those of {one.series}, and nothing reads them here; ckvd cache repair moves them"
        yield Finding(Severity.WARNING, Trouble.MISFILED, one.path, message, one.series, one.span)


def _verify_snapshots(folder: CacheFolder) -> Iterator[Finding]:
    """Check every snapshot of the universe."""
    for market in Market:
        try:
            names = list_snapshots(folder, market)
        except CacheError as error:
            if error.path != str(folder.root):  # `find_unlisted` names that one
                yield _unreadable(error)
            continue
        for name in names:
            try:
                read_snapshot(folder, market, name)
            except SnapshotError as error:
                yield Finding(Severity.ERROR, Trouble.SNAPSHOT, Path(error.path), error.reason)
            except NoSnapshotError:
                continue  # removed meanwhile
            except CacheError as error:
                yield _unreadable(error)


def verify_series(
    folder: CacheFolder, series: SeriesKey, *, is_quick: bool = False, since_ms: int | None = None
) -> Iterator[Finding]:
    """Find what is wrong with one series. See `verify_cache`."""
    try:
        yield from _verify_series(folder, series, is_quick=is_quick, since_ms=since_ms)
    except CacheError as error:
        if not concerns_one_place(error):
            raise
        yield _unreadable(error, series)


def _verify_series(
    folder: CacheFolder, series: SeriesKey, *, is_quick: bool, since_ms: int | None
) -> Iterator[Finding]:
    path = folder.series_path(series)
    if kind := irregular_kind(folder.lock_path(series)):
        message = f"{kind}, expected a lock file: nobody can write to {series}; ckvd cache repair sets it aside"
        yield Finding(Severity.ERROR, Trouble.LOCK_FILE, folder.lock_path(series), message, series)
    yield from _find_strangers(path, series)
    segments = sorted(folder.segments(series))
    yield from _find_same_revisions(path, series, segments)
    yield from _find_last_revisions(path, series, segments)
    is_unknown = is_phantom(folder, series)
    if is_unknown:
        message = "no source had any of it: is the symbol mistyped? ckvd cache repair removes it"
        yield Finding(Severity.NOTE, Trouble.PHANTOM, path, message, series, hull(segments))
    chosen = changed_since(folder, series, since_ms)
    if since_ms is not None and not chosen:
        return
    grid = Grid.of(series.interval) if is_quick else read_grid(folder, series)
    for name in chosen:
        for finding in verify_segment(path / name.file_name, series, name, grid, is_quick=is_quick):
            # Of a phantom it is known that no archive was there.
            if not (is_unknown and finding.trouble is Trouble.UNFOUNDED):
                yield finding
    if series.kind is Kind.METRICS and not is_quick:
        yield from _check_places(folder, series, [name.span for name in chosen])
    if not is_quick and (tail := find_untraded_tail(folder, series)) is not None:
        yield Finding(Severity.NOTE, Trouble.UNTRADED_TAIL, path, str(tail), series, tail.span, tail.bar_count)


def verify_segment(
    path: Path, series: SeriesKey, name: SegmentName, grid: Grid | None = None, *, is_quick: bool = False
) -> list[Finding]:
    """Find what is wrong with one segment. One that is gone has no findings.

    Without the grid of the series, no 3d bar that opens at midnight is said to be off it.
    """
    grid = grid or Grid.of(series.interval)
    try:
        with SegmentReader(path) as reader:
            return [
                Finding(severity, trouble, path, message, series, name.span, bar_count)
                for severity, trouble, message, bar_count in _check(reader, series, name, grid, is_quick=is_quick)
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
    """Whether a header is of this version apart from the version number, which its checksum does not cover."""
    try:
        descriptor, status = open_regular(path, is_link_followed=True)
        with os.fdopen(descriptor, "rb") as file:
            start = bytearray(file.read(PREAMBLE_NBYTES))
            file_nbytes = status.st_size
            struct.pack_into("<HH", start, len(MAGIC), VERSION, BYTE_ORDER)
            rest = file.read(read_header_nbytes(bytes(start), str(path), file_nbytes) - len(start))
        decode_header(bytes(start) + rest, str(path), file_nbytes)
    except (OSError, SegmentError, struct.error):
        return False
    return True


# Severity, trouble, message, and how many bars are concerned.
_Remark: TypeAlias = tuple[Severity, Trouble, str, int]


def _check(
    reader: SegmentReader, series: SeriesKey, name: SegmentName, grid: Grid, *, is_quick: bool
) -> Iterator[_Remark]:
    header = reader.header
    try:
        found = header.series
        _ = header.sources, header.absences, header.later
    except SegmentError as error:
        yield Severity.ERROR, Trouble.DAMAGED, error.reason, header.row_count
        return
    if (found, header.span, header.revision) != (series, name.span, name.revision):
        message = f"its header says {found} {header.span}, revision {header.revision}: it was renamed or swapped"
        yield Severity.ERROR, Trouble.SWAPPED, message, header.row_count
        return
    lacking = header.lacking(fields_of(series))
    if lacking:
        message = f"it lacks the columns {', '.join(lacking)}"
        yield Severity.ERROR, Trouble.DAMAGED, message, header.row_count
        return
    if is_unfounded(header):
        message = 'it says "not in archive", and no archive was read for it: ckvd download asks for it'
        yield Severity.WARNING, Trouble.UNFOUNDED, message, 0
    if is_quick:
        return
    reader.verify()
    unordered = list(_check_order(reader))
    yield from unordered
    if not series.kind.is_bars:
        yield from _check_records(reader.rows, series, grid)
        return
    if not unordered:
        yield from _check_interval(reader.rows, series)
    yield from _check_bars(reader.rows, series, grid)


def _check_order(reader: SegmentReader) -> Iterator[_Remark]:
    header, opens = reader.header, reader.open_time
    if len(opens) != header.row_count:
        yield Severity.ERROR, Trouble.DAMAGED, f"{len(opens)} open times for {header.row_count} bars", 0
        return
    if not len(opens):
        return
    unordered = int(np.count_nonzero(opens[1:] <= opens[:-1]))
    if unordered:
        yield Severity.ERROR, Trouble.UNORDERED, f"{unordered} bars do not open after the one before", unordered
    first_ms, last_ms = int(opens[0]), int(opens[-1])
    if (first_ms, last_ms) != (header.first_open_ms, header.last_open_ms):
        yield Severity.ERROR, Trouble.DAMAGED, "its header misstates the first or last open time", 0
    if first_ms not in header.span or last_ms not in header.span:
        message = f"bars from {format_time(first_ms)} to {format_time(last_ms)} open outside of {header.span}"
        yield Severity.ERROR, Trouble.UNORDERED, message, 0


def _check_interval(rows: MappedRows, series: SeriesKey) -> Iterator[_Remark]:
    for source, fault, row_count in _find_other_intervals(rows, series):
        yield Severity.ERROR, Trouble.OTHER_INTERVAL, f"{source.name}: {fault}", row_count


def find_other_intervals(rows: MappedRows, series: SeriesKey) -> tuple[Span, ...]:
    """The spans of a segment whose source brought bars of another interval: in whole seconds, disjoint, in order.

    Caches of earlier versions may have such bars; an archive with them is refused now.
    """
    return union(outer_seconds(source.span) for source, _, _ in _find_other_intervals(rows, series))


def _find_other_intervals(rows: MappedRows, series: SeriesKey) -> Iterator[tuple[Source, str, int]]:
    """Each source that brought bars of another interval, why that is so, and its bars.

    Packing joins archives, and each of them may have a few odd bars. So the rule is applied to each source.
    """
    if not series.kind.is_bars:
        return
    for source in rows.sources or (_unknown_source(rows),):
        part = rows.between(source.start_ms, source.end_ms)
        if not len(part):
            continue
        fault = interval_fault(
            column_of(part, "open_time", series), column_of(part, "close_time", series), series.bar_interval
        )
        if fault is not None:
            yield source, fault, len(part)


def _unknown_source(rows: MappedRows) -> Source:
    """A source for the bars of a segment that names none."""
    span = rows.header.span
    return Source(Origin.REST, "its bars", span.start_ms, span.end_ms)


def _check_bars(rows: MappedRows, series: SeriesKey, grid: Grid) -> Iterator[_Remark]:
    """Count the bars that no market can make, and those off the grid. Both are kept as published."""
    impossible: dict[str, list[int]] = {}
    infinite: list[int] = []
    odd_count = 0
    for start in range(0, len(rows), MAINTENANCE_CHUNK_ROWS):
        chunk = rows.rows(start, min(start + MAINTENANCE_CHUNK_ROWS, len(rows)))
        column = partial(column_of, chunk, series=series)
        opens = column("open_time")
        if impossible_bars(column, series).any():
            for rule, broken in broken_rules(column, series).items():
                impossible.setdefault(rule, []).extend(opens[broken].tolist())
        is_finite = [np.isfinite(column(name)) for name in fields_of(series)[:-1] if not name.endswith("_time")]
        infinite += opens[~np.all(is_finite, axis=0)].tolist()
        flags = bar_flags(opens, column("close_time"), None, grid)
        odd_count += int(np.count_nonzero(flags & (BarFlag.OFF_GRID | BarFlag.ODD_CLOSE)))
    for rule, found in impossible.items():
        if found:
            yield Severity.NOTE, Trouble.IMPOSSIBLE_BARS, f"as published, {_with_examples(rule, found)}", len(found)
    if infinite:
        # No archive has such a cell: whoever wrote the segment made it.
        message = _with_examples("a number that is not finite", infinite)
        yield Severity.WARNING, Trouble.IMPOSSIBLE_BARS, message, len(infinite)
    if odd_count:
        message = f"{odd_count} bars open or close off the grid, as published"
        yield Severity.NOTE, Trouble.OFF_GRID, message, odd_count


def _check_records(rows: MappedRows, series: SeriesKey, grid: Grid) -> Iterator[_Remark]:
    """Count the rows of funding rates or metrics that are unusual: infinite, off the grid, or of another label."""
    infinite: list[int] = []
    mislabelled: list[int] = []
    odd_count = 0
    for start in range(0, len(rows), MAINTENANCE_CHUNK_ROWS):
        chunk = rows.rows(start, min(start + MAINTENANCE_CHUNK_ROWS, len(rows)))
        opens = column_of(chunk, "open_time", series)
        is_infinite = [np.isinf(column_of(chunk, name, series)) for name in fields_of(series)]
        infinite += opens[np.any(is_infinite, axis=0)].tolist()
        if series.kind is Kind.METRICS:
            odd_count += int(np.count_nonzero(~grid.has_points(opens)))
            mislabelled += opens[~has_own_label(opens, column_of(chunk, "create_time", series))].tolist()
        else:
            odd_count += int(np.count_nonzero(settled_times(opens) % HOUR_MS))
    if infinite:
        message = _with_examples("a number that is not finite", infinite, "row")
        yield Severity.WARNING, Trouble.IMPOSSIBLE_BARS, message, len(infinite)
    if mislabelled:
        # No archive is read like that: whoever wrote the segment placed them.
        message = _with_examples("labelled with neither end of their five minutes", mislabelled, "row")
        yield Severity.WARNING, Trouble.OTHER_MINUTES, message, len(mislabelled)
    if odd_count:
        points = "five minutes" if series.kind is Kind.METRICS else "full hours"
        yield Severity.NOTE, Trouble.OFF_GRID, f"{odd_count} rows are not at {points}, as published", odd_count


def _check_places(folder: CacheFolder, series: SeriesKey, spans: Sequence[Span]) -> Iterator[Finding]:
    """Find the days whose metrics fit other five minutes of the klines than those at which they lie."""
    fits = [fit for fit in find_day_fits(folder, series, spans) if fit.place]
    for place, severity, what in (
        (
            1,
            Severity.WARNING,
            "after their own: they count as known five minutes too early; trust none of them",
        ),
        (-1, Severity.NOTE, "before their own: they count as known five minutes late"),
    ):
        found = [fit for fit in fits if fit.place == place]
        if not found:
            continue
        days = union(fit.span for fit in found)
        shown = ", ".join(map(str, days[:_EXAMPLES_MAX])) + (" ..." if len(days) > _EXAMPLES_MAX else "")
        which = "1 day" if len(found) == 1 else f"{len(found)} days"
        message = f"by the takers' volumes in klines, the rows of {which} describe the minutes {what}: {shown}"
        span = Span(days[0].start_ms, days[-1].end_ms)
        row_count = sum(fit.row_count for fit in found)
        path = folder.series_path(series)
        yield Finding(severity, Trouble.OTHER_MINUTES, path, message, series, span, row_count)


def _with_examples(rule: str, found: Sequence[int], noun: str = "bar") -> str:
    more = " ..." if len(found) > _EXAMPLES_MAX else ""
    return f"{rule}: {len(found)} {noun}s, {', '.join(map(format_time, found[:_EXAMPLES_MAX]))}{more}"


def _find_strangers(path: Path, series: SeriesKey) -> Iterator[Finding]:
    try:
        file_names = sorted(file.name for file in path.iterdir())
    except FileNotFoundError:
        return
    except OSError as error:
        raise cannot("be listed", path, error) from error
    for file_name in file_names:
        name = parse_segment_name(file_name)
        if has_impossible_revision(file_name):
            message = (
                f"no revision is above {SEGMENT_REVISION_MAX}, so ckvd ignores it; ckvd cache repair sets it aside"
            )
            yield Finding(Severity.ERROR, Trouble.REVISION, path / file_name, message, series)
        elif name is not None and name.file_name != file_name:
            message = f"it is read as {name.file_name}, which is how it should be spelled"
            yield Finding(Severity.WARNING, Trouble.STRANGER, path / file_name, message, series)
        elif name is None and not file_name.startswith("."):
            message = "not written by ckvd, which ignores it"
            yield Finding(Severity.NOTE, Trouble.STRANGER, path / file_name, message, series)


def _find_last_revisions(path: Path, series: SeriesKey, segments: Sequence[SegmentName]) -> Iterator[Finding]:
    for name in segments:
        if name.revision == SEGMENT_REVISION_MAX:
            message = f"no revision can follow {SEGMENT_REVISION_MAX}, so nobody can write to {series}"
            yield Finding(Severity.ERROR, Trouble.REVISION, path / name.file_name, message, series, name.span)


def _find_same_revisions(path: Path, series: SeriesKey, segments: Sequence[SegmentName]) -> Iterator[Finding]:
    by_revision = sorted(segments, key=lambda name: (name.revision, name.span))
    for one, other in pairwise(by_revision):
        if one.revision == other.revision and one.span.overlaps(other.span):
            message = f"{one.file_name} covers the same time with the same revision"
            file = path / other.file_name
            yield Finding(Severity.WARNING, Trouble.SAME_REVISION, file, message, series, other.span)

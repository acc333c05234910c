"""Misfiled series: folders that an older ckvd filled under a second name of a series, and moving them home.

All contracts of a pair have one index, so the index prices of `BTCUSD_PERP` are those of `BTCUSD`; and full-width
letters mean the usual ones. `SeriesKey` refuses such names, so nothing reads these folders any more.

Bars that the series lacks are copied into it. They are provisional, so that the next download replaces them where
the archives of the right name have them. Then the files are set aside in the quarantine of the series. A process
that dies in between leaves bars in both places, and the next move finds nothing left to copy.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ckvd.cache import fault_points
from ckvd.cache.coverage import read_coverage
from ckvd.cache.fault_points import Step
from ckvd.cache.folder import (
    LOCK_SUFFIX,
    LOCKS_FOLDER,
    SegmentName,
    is_there,
    list_names,
    parse_segment_name,
    remove_empty_folders,
)
from ckvd.cache.locks import FileLock
from ckvd.cache.resolution import hull, is_answered, resolve
from ckvd.cache.rows import read_contents, table_of
from ckvd.cache.store import SeriesStore
from ckvd.errors import (
    CacheBusyError,
    IdentityError,
    SegmentCorruptError,
    cannot,
    containing,
    shown,
)
from ckvd.maintenance.quarantine import Quarantined, set_aside_misfiled
from ckvd.model.calendar import days_of, months_of
from ckvd.model.market import Kind, Market, SeriesKey
from ckvd.model.provenance import earliest_recheck_ms, narrow
from ckvd.model.schema import has_daily_archives
from ckvd.model.table import merge_tables, rows_within
from ckvd.model.timespan import Span, difference, union
from ckvd.segment.reader import SegmentReader
from ckvd.utils.config import CACHE_READ_ATTEMPTS_MAX, SERIES_LOCK_TIMEOUT_S

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from ckvd.cache.folder import CacheFolder
    from ckvd.cache.resolution import Winner
    from ckvd.errors import CkvdError
    from ckvd.model.provenance import Absence, Source
    from ckvd.model.table import KlineTable


@dataclass(frozen=True, slots=True)
class Misfiled:
    """A folder of segments under a second name of a series.

    Attributes
    ----------
    path : Path
        The folder.
    written : str
        The name, as in the headers of its segments.
    series : SeriesKey
        The series that its bars are of.
    segments : tuple of SegmentName
        In order.
    nbytes : int
        Bytes of the segments.
    """

    path: Path
    written: str
    series: SeriesKey
    segments: tuple[SegmentName, ...]
    nbytes: int

    @property
    def span(self) -> Span:
        """From the first covered moment to the last."""
        return hull(self.segments)


@dataclass(frozen=True, slots=True)
class Moved:
    """What moving a misfiled series home did.

    Attributes
    ----------
    misfiled : Misfiled
    bar_count : int
        Bars that the series lacked and has now.
    set_aside : tuple of Quarantined
        The files with bars; they are kept in quarantine.
    """

    misfiled: Misfiled
    bar_count: int
    set_aside: tuple[Quarantined, ...]


def find_misfiled(folder: CacheFolder, refuse: Callable[[CkvdError], None] | None = None) -> list[Misfiled]:
    """Find the misfiled series that have segments, in order.

    Parameters
    ----------
    folder : CacheFolder
    refuse : callable, optional
        Called with the error of each folder that cannot be read; the others are looked at all the same.

    Raises
    ------
    CacheError
        A folder cannot be read, and there is no `refuse`.
    """
    found = []
    for market in Market:
        for kind in Kind:
            root = folder.root / market / kind
            for symbol in _names(root, refuse):
                for interval in _names(root / symbol, refuse):
                    with containing(refuse):
                        found.append(_misfiled_in(root / symbol / interval, market, kind))
    return [misfiled for misfiled in found if misfiled is not None]


def _names(path: Path, refuse: Callable[[CkvdError], None] | None) -> list[str]:
    with containing(refuse):
        return list_names(path)
    return []


def _misfiled_in(path: Path, market: Market, kind: Kind) -> Misfiled | None:
    """What a folder has of another series than that of its name; None for all others."""
    symbol, interval = path.parts[-2:]
    try:
        series = SeriesKey.of_older(symbol, interval, market=market, kind=kind)
        if series.symbol == symbol or series.folder_name != interval:
            return None
        names = sorted(filter(None, (parse_segment_name(file.name) for file in path.iterdir())))
        nbytes = sum((path / name.file_name).lstat().st_size for name in names)
    except (IdentityError, FileNotFoundError, NotADirectoryError):
        return None  # the folder of another program, or just moved by another process
    except OSError as error:
        raise cannot("be listed", path, error) from error
    return Misfiled(path, f"{market}/{kind}/{symbol}/{interval}", series, tuple(names), nbytes) if names else None


def move_home(folder: CacheFolder, misfiled: Misfiled, *, at_ms: int) -> Moved:
    """Copy the bars of a misfiled series that its series lacks, then set its files aside.

    Where both have a bar, that of the series stays. Files without a bar are removed.

    Parameters
    ----------
    folder : CacheFolder
    misfiled : Misfiled
    at_ms : int
        The present: from then on the copied bars are due to be fetched under the right name.

    Raises
    ------
    SegmentError
        A segment is damaged, or not of the misfiled series: nothing was set aside.
    CacheBusyError, CacheError
        A series is locked or kept changing, or a file cannot be written or moved.
    """
    locks = folder.make_path(folder.root / LOCKS_FOLDER)
    lock = locks / (misfiled.written.replace("/", "-") + LOCK_SUFFIX)
    # An older version of ckvd may be writing under that name.
    with FileLock(lock, timeout_s=SERIES_LOCK_TIMEOUT_S):
        names = [name for name in misfiled.segments if is_there(misfiled.path / name.file_name)]
        bar_count = sum(_copy(folder, misfiled, winner, at_ms) for winner in resolve(hull(names), names))
        SeriesStore(folder, misfiled.series).flush()
        # The oldest first: should the process die here, bars that were replaced do not win again.
        oldest_first = sorted(names, key=lambda name: name.revision)
        aside = [_set_aside(folder, misfiled, name) for name in oldest_first]
        remove_empty_folders(misfiled.path)
    return Moved(misfiled, bar_count, tuple(one for one in aside if one is not None))


def _open(misfiled: Misfiled, name: SegmentName) -> SegmentReader:
    """Open a misfiled segment and check every byte of it."""
    reader = SegmentReader(misfiled.path / name.file_name)
    try:
        _require_intact(reader, misfiled, name)
    except BaseException:
        reader.close()
        raise
    return reader


def _require_intact(reader: SegmentReader, misfiled: Misfiled, name: SegmentName) -> None:
    header = reader.header
    if (header.series_text, header.span, header.revision) != (misfiled.written, name.span, name.revision):
        reason = f"its header says {shown(header.series_text)} {header.span}, revision {header.revision}"
        raise SegmentCorruptError(reader.path, f"{reason}: it was renamed or swapped, and is not moved")
    reader.verify()


def _copy(folder: CacheFolder, misfiled: Misfiled, winner: Winner, at_ms: int) -> int:
    """Copy what the series lacks of the winning part of a segment; return how many bars."""
    with _open(misfiled, winner.segment) as reader:
        rows = reader.rows.between(winner.span.start_ms, winner.span.end_ms)
        part = _Part(
            table_of([rows], misfiled.series),
            tuple(narrow(rows.sources, winner.span)),
            tuple(narrow(rows.absences, winner.span)),
            is_answered=is_answered(reader.header),
        )
        return _Copying(folder, misfiled.series, part, at_ms).copy(winner.span)


@dataclass(frozen=True, slots=True, eq=False)
class _Part:
    """The contents of the winning part of a misfiled segment."""

    table: KlineTable
    sources: tuple[Source, ...]
    absences: tuple[Absence, ...]
    is_answered: bool


@dataclass(frozen=True, slots=True, eq=False)
class _Copying:
    """Copying one part into its series."""

    folder: CacheFolder
    series: SeriesKey
    part: _Part
    at_ms: int

    def copy(self, span: Span) -> int:
        """Copy what the series lacks of a span, again where others change it meanwhile."""
        bar_count = 0
        for _ in range(CACHE_READ_ATTEMPTS_MAX):
            segments = self.folder.segments(self.series)
            answered = union(one.span for one in read_coverage(self.folder, self.series, span) if one.is_answered)
            lacking = difference([span], answered)
            counts = [self._add(piece, segments) for piece in lacking if self.part.is_answered]
            counts += [self._merge(piece, segments) for held in answered for piece in self._days(held)]
            bar_count += sum(count for count in counts if count is not None)
            if None not in counts:
                return bar_count
        reason = f"its segments were changed {CACHE_READ_ATTEMPTS_MAX} times while bars were copied; try again"
        raise CacheBusyError(str(self.folder.series_path(self.series)), reason)

    def _add(self, span: Span, segments: list[SegmentName]) -> int | None:
        """Store a span that the series does not have. None where another writer changed it meanwhile."""
        table, absences = rows_within(self.part.table, span), narrow(self.part.absences, span)
        has_bars = bool(table.row_count)
        path = SeriesStore(self.folder, self.series).put_in_place(
            resolve(span, segments),
            table,
            span,
            sources=narrow(self.part.sources, span),
            absences=absences,
            is_provisional=has_bars,
            recheck_ms=self.at_ms if has_bars else earliest_recheck_ms(absences),
            is_durable=False,
        )
        return None if path is None else table.row_count

    def _days(self, held: Span) -> list[Span]:
        """The days of a span that the series has, where the part may have bars that the series lacks."""
        opens = rows_within(self.part.table, held).open_time
        known = read_contents(self.folder, self.series, held).table.open_time
        extra = np.setdiff1d(opens, known)
        periods = days_of(held) if has_daily_archives(self.series) else months_of(held)
        pieces = [period.span.intersection(held) for period in periods]
        return [piece for piece in pieces if np.any((extra >= piece.start_ms) & (extra < piece.end_ms))]

    def _merge(self, span: Span, segments: list[SegmentName]) -> int | None:
        """Add bars to a span that the series has. None where another writer changed it meanwhile."""
        contents = read_contents(self.folder, self.series, span)
        merged = merge_tables(self.series, [contents.table, rows_within(self.part.table, span)])
        path = SeriesStore(self.folder, self.series).put_in_place(
            resolve(span, segments),
            merged.table,
            span,
            sources=(*contents.sources, *narrow(self.part.sources, span)),
            absences=contents.absences,
            is_provisional=bool(contents.provisional),
            recheck_ms=earliest_recheck_ms(contents.absences),
            is_durable=False,
        )
        return None if path is None else merged.table.row_count - contents.table.row_count


def _set_aside(folder: CacheFolder, misfiled: Misfiled, name: SegmentName) -> Quarantined | None:
    path = misfiled.path / name.file_name
    with _open(misfiled, name) as reader:
        has_bars = reader.header.row_count > 0
    if has_bars:
        reason = f"it was filed as {misfiled.written}; its bars are in {misfiled.series}"
        quarantined = set_aside_misfiled(folder, misfiled.series, path, reason)
        fault_points.reach(Step.QUARANTINED)
        return quarantined
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        raise cannot("be removed", path, error) from error
    fault_points.reach(Step.PRUNED)
    return None

"""Pruning: making room by removing spans from a cache.

The segments that overlap the span are removed, the oldest revision first, so that older bars never win again. Their
parts outside of the span are copied into new segments before. Where the disk has no room for a copy, what needs
none is removed first. Views that a backtest holds stay valid.
"""

from __future__ import annotations

import contextlib
import errno as errno_codes
import os
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from ckvd.cache.fault_points import Step
from ckvd.cache.folder import remove_empty_folders
from ckvd.cache.packing import merge_segments
from ckvd.cache.packing_plan import Merge, PackInput
from ckvd.cache.resolution import Winner, hull, resolve, superseded
from ckvd.cache.rows import count_rows
from ckvd.cache.selection import EVERYTHING
from ckvd.cache.store import SeriesStore
from ckvd.errors import CacheBusyError, CacheError, SegmentError, cannot, containing
from ckvd.model.timespan import Span, difference

if TYPE_CHECKING:
    from collections.abc import Callable, Container, Iterable, Sequence
    from pathlib import Path

    from ckvd.cache.folder import CacheFolder, SegmentName
    from ckvd.cache.selection import SeriesFilter
    from ckvd.errors import CkvdError
    from ckvd.model.market import SeriesKey

# All years in which times are valid.
ALL_TIME: Final = Span.of("1970-01-01", "2200-01-01")
_NOTHING: Final = Span(0, 0)
_FULL: Final = (errno_codes.ENOSPC, errno_codes.EDQUOT)
_ATTEMPTS_MAX: Final = 8


@dataclass(frozen=True, slots=True)
class Pruning:
    """What pruning removes from a series.

    Attributes
    ----------
    series : SeriesKey
    span : Span
        The span that will not be covered any more; empty where only superseded segments are removed.
    segments : tuple of SegmentName
        Segments to remove.
    kept : tuple of Winner
        Their winning parts outside of the span, which are copied into new segments.
    bar_count : int
        Bars that are removed.
    nbytes : int
        Bytes of the segments.
    """

    series: SeriesKey
    span: Span
    segments: tuple[SegmentName, ...]
    kept: tuple[Winner, ...]
    bar_count: int
    nbytes: int


def plan_pruning(
    folder: CacheFolder,
    chosen: SeriesFilter = EVERYTHING,
    span: Span = ALL_TIME,
    refuse: Callable[[CkvdError], None] | None = None,
) -> list[Pruning]:
    """Plan the removal of a span from some series. It changes nothing; `prune_span` does it.

    Parameters
    ----------
    folder : CacheFolder
    chosen : SeriesFilter
    span : Span
        On whole seconds; everything by default.
    refuse : callable, optional
        Called with the error of each series or folder that cannot be read; the others are planned for all the same.

    Raises
    ------
    SegmentError, CacheError
        A segment or folder cannot be read, and there is no `refuse`.
    """
    if span.start_ms % 1000 or span.end_ms % 1000:
        raise ValueError(f"segments start and end on whole seconds, so cannot be cut at {span}")
    prunings = []
    for series in chosen.choose(folder, refuse):
        with containing(refuse):
            prunings.append(_plan_series(folder, series, span))
    return [pruning for pruning in prunings if pruning.segments]


def plan_pruning_to_size(
    folder: CacheFolder,
    nbytes_max: int,
    chosen: SeriesFilter = EVERYTHING,
    refuse: Callable[[CkvdError], None] | None = None,
) -> list[Pruning]:
    """Plan what to remove so that the chosen series take at most `nbytes_max`. `carry_out` does it.

    Superseded segments go first, then the least recently read. Segments that overlap go together, so nothing has to
    be copied. How precise the order is depends on the file system: most record a read once a day, and those mounted
    with `noatime` never; then the age of the file counts. What cannot be read does not count.

    `refuse` and errors: see `plan_pruning`.
    """
    replaced: list[Pruning] = []
    candidates: list[_Group] = []
    total = 0
    for series in chosen.choose(folder, refuse):
        with containing(refuse):
            segments = folder.segments(series)
            dead = tuple(superseded(segments))
            dead_nbytes = folder.nbytes_of(series, dead)
            groups = _groups_of(folder, series, [name for name in segments if name not in dead])
            total += dead_nbytes + sum(group.nbytes for group in groups)
            candidates += groups
            if dead:
                replaced.append(Pruning(series, _NOTHING, dead, (), 0, dead_nbytes))
    prunings = []
    if total > nbytes_max:
        prunings += replaced
        total -= sum(pruning.nbytes for pruning in replaced)
    for group in sorted(candidates):
        if total <= nbytes_max:
            break
        prunings.append(_plan_series(folder, group.series, group.span, group.segments))
        total -= group.nbytes
    return prunings


@dataclass(frozen=True, slots=True, order=True)
class _Group:
    """Segments that overlap each other, directly or by way of others."""

    last_read_ms: int
    series: SeriesKey
    span: Span
    segments: tuple[SegmentName, ...]
    nbytes: int


def _groups_of(folder: CacheFolder, series: SeriesKey, segments: Iterable[SegmentName]) -> list[_Group]:
    grouped: list[list[SegmentName]] = []
    end_ms = 0
    for name in sorted(segments):
        if grouped and name.span.start_ms < end_ms:
            grouped[-1].append(name)
            end_ms = max(end_ms, name.span.end_ms)
        else:
            grouped.append([name])
            end_ms = name.span.end_ms
    groups = []
    for names in grouped:
        statuses = folder.statuses(series, names)
        # A segment that was only written counts as read then.
        read_ms = max((int(max(status.st_atime, status.st_mtime) * 1000) for status in statuses), default=0)
        nbytes = sum(status.st_size for status in statuses)
        groups.append(_Group(read_ms, series, hull(names), tuple(names), nbytes))
    return groups


def carry_out(folder: CacheFolder, pruning: Pruning) -> Pruning:
    """Remove the segments of a plan of `plan_pruning_to_size`, durably. Segments published since then stay.

    Returns
    -------
    Pruning
        What was removed: nothing if an older segment is back, which would win then.

    Raises
    ------
    SegmentError
        A segment that replaced others is damaged; they are kept.
    CacheBusyError, CacheError
        See `prune_span`.
    """
    store = SeriesStore(folder, pruning.series)
    if not pruning.span:
        return _remove_superseded(store)
    with store.lock():
        segments = folder.segments(pruning.series)
        names = set(pruning.segments).intersection(segments)
        newest = max((name.revision for name in names), default=0)
        others = (name for name in segments if name not in names and name.span.overlaps(pruning.span))
        if any(name.revision < newest for name in others):
            names.clear()
        found = _plan_series(folder, pruning.series, pruning.span, names)
        _remove(store, names)
    return found


def _remove_superseded(store: SeriesStore) -> Pruning:
    found = superseded(store.folder.segments(store.series))
    known_nbytes = {name: store.folder.nbytes_of(store.series, [name]) for name in found}
    gone = store.remove_superseded()
    return Pruning(store.series, _NOTHING, gone, (), 0, sum(known_nbytes.get(name, 0) for name in gone))


def prune_span(folder: CacheFolder, series: SeriesKey, span: Span = ALL_TIME) -> Pruning:
    """Remove a span of a series from the cache, durably.

    Returns
    -------
    Pruning
        What was removed.

    Raises
    ------
    CacheBusyError
        The series is locked, or kept changing.
    SegmentError
        A segment that reaches beyond the span is damaged; it is kept.
    CacheError
        A file cannot be written or removed. If the disk is full, what needs no copy was removed all the same.
    """
    store = SeriesStore(folder, series)
    freed: list[Pruning] = []
    for _ in range(_ATTEMPTS_MAX):
        planned = _plan_series(folder, series, span)
        if not planned.segments:
            return _joined([*freed, planned])
        try:
            is_kept = all(_keep(store, winner) for winner in planned.kept)
        except CacheError as error:
            freed.append(_free(store, planned, error))
            continue
        if not is_kept:
            continue
        with store.lock():
            # Other writers may have packed or published meanwhile: their segments go as well.
            found = _plan_series(folder, series, span)
            # The parts beyond the span have their own segments now, unless another writer has added some.
            if found.kept:
                continue
            if not all(span.covers(name.span) for name in found.segments):
                store.flush()
            _remove(store, found.segments)
        return _joined([*freed, replace(found, kept=planned.kept)])
    raise CacheBusyError(str(folder.series_path(series)), f"it changed {_ATTEMPTS_MAX} times while it was pruned")


def _free(store: SeriesStore, planned: Pruning, error: CacheError) -> Pruning:
    """Remove what can be removed before anything is copied, on a disk that has no room for a copy.

    Raises the error where that is nothing, or where the disk is not full.
    """
    if error.errno not in _FULL:
        raise error
    with store.lock():
        names = removable(_plan_series(store.folder, store.series, planned.span))
        freed = _plan_series(store.folder, store.series, planned.span, names)
        store.remove(names, Step.PRUNED)
    if not names:
        kept = ", ".join(str(winner.span) for winner in planned.kept)
        remedy = f"what is left of the span shares its segments with {kept}, which have to be copied first"
        raise CacheError(error.path, f"{error.reason}; {remedy}", errno=error.errno) from error
    return freed


def _joined(parts: Sequence[Pruning]) -> Pruning:
    """The steps in which a span of a series was removed, as one. The last has the copies."""
    return replace(
        parts[-1],
        segments=tuple(sorted(name for part in parts for name in part.segments)),
        bar_count=sum(part.bar_count for part in parts),
        nbytes=sum(part.nbytes for part in parts),
    )


def removable(planned: Pruning) -> list[SegmentName]:
    """The segments that can be removed before anything is copied, the oldest revision first. Pure.

    None of their bars are kept, and no older segment that stays would win in their place.
    """
    keeping = {winner.segment for winner in planned.kept}
    found: list[SegmentName] = []
    staying: list[SegmentName] = []
    for name in sorted(planned.segments, key=lambda name: name.revision):
        stays = name in keeping or any(name.span.overlaps(older.span) for older in staying)
        (staying if stays else found).append(name)
    return found


def _remove(store: SeriesStore, names: Iterable[SegmentName]) -> None:
    """Remove segments, the oldest revision first, and folders that are then empty. The series is locked."""
    store.remove(sorted(names, key=lambda name: name.revision), Step.PRUNED)
    remove_empty_folders(store.folder.series_path(store.series))


def _plan_series(
    folder: CacheFolder, series: SeriesKey, span: Span, chosen: Container[SegmentName] | None = None
) -> Pruning:
    """Plan the removal of the segments that overlap a span: all of them, or those that were chosen."""
    segments = folder.segments(series)
    touched = tuple(
        sorted(name for name in segments if name.span.overlaps(span) and (chosen is None or name in chosen))
    )
    winners = [winner for winner in resolve(hull(touched), segments) if winner.segment in touched]
    kept = tuple(
        Winner(beyond, winner.segment) for winner in winners for beyond in difference([winner.span], [span])
    )
    path = folder.series_path(series)
    removed = [(winner.segment, winner.span.intersection(span)) for winner in winners]
    bar_count = sum(_count_unread(path / name.file_name, within) for name, within in removed if within)
    return Pruning(series, span, touched, kept, bar_count, folder.nbytes_of(series, touched))


def _count_unread(file: Path, span: Span) -> int:
    """Count the bars of a segment that open in a span; 0 where it is gone or damaged.

    Its time of access is put back: a plan that is only shown would otherwise change which segments go first.
    """
    try:
        status = file.lstat()
        row_count = count_rows(file, span)
    except (FileNotFoundError, SegmentError):
        return 0
    except CacheError:
        raise
    except OSError as error:
        raise cannot("be read", file, error) from error
    with contextlib.suppress(OSError, NotImplementedError):
        # Not through a link: what it leads to may be somebody else's.
        os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns), follow_symlinks=False)
    return row_count


def _keep(store: SeriesStore, winner: Winner) -> bool:
    """Copy a winning part of a segment into a new one. False if the segment is gone or does not win there."""
    file = store.folder.series_path(store.series) / winner.segment.file_name
    try:
        row_count = count_rows(file, winner.span)
        return merge_segments(store, Merge((PackInput(winner, row_count, is_closed=True),))) is not None
    except FileNotFoundError:
        return False

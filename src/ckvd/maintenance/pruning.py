"""Making room: removing what the cache says of a span.

Segments that lie in the span are removed, the oldest revision first, so that nothing old ever speaks again. What
sticks out of it is copied into a segment of its own before that. Views that a backtest holds stay valid.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from ckvd.cache import fault_points
from ckvd.cache.fault_points import Step
from ckvd.cache.ownership import Holding, resolve
from ckvd.cache.packing import count_rows, ignore_rows, merge_pieces
from ckvd.cache.packing_plan import Merge, Piece
from ckvd.cache.series_store import SeriesStore
from ckvd.errors import CacheBusyError, SegmentError
from ckvd.maintenance.selection import EVERYTHING
from ckvd.timespan import Span, difference

if TYPE_CHECKING:
    from ckvd.cache.folder import CacheFolder, SegmentName
    from ckvd.maintenance.selection import SeriesFilter
    from ckvd.market import SeriesKey

# All the years that times are understood in.
ALL_TIME: Final = Span.of("1970-01-01", "2200-01-01")
_ATTEMPTS_MAX: Final = 8


@dataclass(frozen=True, slots=True)
class Pruning:
    """What pruning a span of a series removes.

    Attributes
    ----------
    series : SeriesKey
    span : Span
        What the cache will not speak of any more.
    segments : tuple of SegmentName
        Segments that go.
    kept : tuple of Holding
        Parts of them that stick out of the span, and are written anew.
    bar_count : int
        Bars that go.
    nbytes : int
        How long the segments are.
    last_read_ms : int
        When one of them was last read, as far as the file system keeps that.
    """

    series: SeriesKey
    span: Span
    segments: tuple[SegmentName, ...]
    kept: tuple[Holding, ...]
    bar_count: int
    nbytes: int
    last_read_ms: int = 0


def plan_pruning(folder: CacheFolder, chosen: SeriesFilter = EVERYTHING, span: Span = ALL_TIME) -> list[Pruning]:
    """Find out what pruning a span of some series would remove. It changes nothing.

    Parameters
    ----------
    folder : CacheFolder
    chosen : SeriesFilter
    span : Span
        On whole seconds; everything by default.

    Raises
    ------
    SegmentError, CacheError
        A segment or folder cannot be read.
    """
    if span.start_ms % 1000 or span.end_ms % 1000:
        raise ValueError(f"segments start and end on whole seconds, so cannot be cut at {span}")
    prunings = (_plan_series(folder, series, span) for series in chosen.choose(folder))
    return [pruning for pruning in prunings if pruning.segments]


def plan_pruning_to_size(folder: CacheFolder, nbytes_max: int, chosen: SeriesFilter = EVERYTHING) -> list[Pruning]:
    """Find out what to remove so that the chosen series take no more than some bytes.

    Segments go in the order in which they were last read, the longest ago first. How exactly that is known depends
    on the file system: most note it once a day, and those mounted with `noatime` never; then the age of the file
    counts.
    """
    candidates: list[tuple[int, SeriesKey, Span, int]] = []
    total = 0
    for series in chosen.choose(folder):
        for name in sorted(folder.segments(series)):
            with contextlib.suppress(FileNotFoundError):
                status = (folder.series_path(series) / name.file_name).stat()
                read_ms = int(max(status.st_atime, status.st_mtime) * 1000)
                candidates.append((read_ms, series, name.span, status.st_size))
                total += status.st_size
    prunings = []
    for _, series, span, nbytes in sorted(candidates):
        if total <= nbytes_max:
            break
        prunings.append(_plan_series(folder, series, span))
        total -= nbytes
    return prunings


def prune_span(folder: CacheFolder, series: SeriesKey, span: Span = ALL_TIME) -> Pruning:
    """Remove what the cache says of a span of a series, durably.

    Returns
    -------
    Pruning
        What was removed.

    Raises
    ------
    CacheBusyError
        The series is locked, or kept changing.
    SegmentError
        A segment that sticks out of the span is damaged; it is kept.
    CacheError
        A file cannot be written or removed.
    """
    store = SeriesStore(folder, series)
    for _ in range(_ATTEMPTS_MAX):
        pruning = _plan_series(folder, series, span)
        if not pruning.segments:
            return pruning
        if not all(_keep(store, holding) for holding in pruning.kept):
            continue
        with store.lock():
            held = resolve(ALL_TIME, folder.segments(series))
            # Only what nothing else needs may go: the parts that stick out have segments of their own by now.
            needed = {h.segment for h in held if difference([h.span], [span])} & set(pruning.segments)
            if needed:
                continue
            store.remove(sorted(pruning.segments, key=lambda name: name.revision), Step.PRUNED)
            _remove_empty_folders(folder, series)
        return pruning
    raise CacheBusyError(str(folder.series_path(series)), f"it changed {_ATTEMPTS_MAX} times while it was pruned")


def _plan_series(folder: CacheFolder, series: SeriesKey, span: Span) -> Pruning:
    segments = folder.segments(series)
    path = folder.series_path(series)
    touched = tuple(sorted(name for name in segments if name.span.overlaps(span)))
    held = [holding for holding in resolve(ALL_TIME, segments) if holding.segment in touched]
    kept = tuple(Holding(part, holding.segment) for holding in held for part in difference([holding.span], [span]))
    nbytes = bar_count = 0
    last_read_ms = 0
    with contextlib.suppress(FileNotFoundError):  # something else removed it: the next look will tell
        for name in touched:
            status = (path / name.file_name).stat()
            nbytes += status.st_size
            last_read_ms = max(last_read_ms, int(max(status.st_atime, status.st_mtime) * 1000))
        for holding in held:
            cut = holding.span.intersection(span)
            if cut:
                with contextlib.suppress(SegmentError):  # nobody knows how many bars a damaged one has
                    bar_count += count_rows(path / holding.segment.file_name, cut)
    return Pruning(series, span, touched, kept, bar_count, nbytes, last_read_ms)


def _keep(store: SeriesStore, holding: Holding) -> bool:
    """Write a part of a segment anew; false where it does not hold any more."""
    file = store.folder.series_path(store.series) / holding.segment.file_name
    try:
        row_count = count_rows(file, holding.span)
        return merge_pieces(store, Merge((Piece(holding, row_count, is_closed=True),)), ignore_rows) is not None
    except FileNotFoundError:
        return False


def _remove_empty_folders(folder: CacheFolder, series: SeriesKey) -> None:
    """Remove the folder of a series, whose lock is held, and those above it, as far as nothing is in them."""
    path = folder.series_path(series)
    for place in (path, *path.parents[:3]):
        try:
            place.rmdir()
        except OSError:
            return  # something is in it
        fault_points.reach(Step.FOLDER_REMOVED)

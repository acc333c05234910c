"""Tombstones: empty segments that hide older ones where a segment was set aside.

Without a tombstone the older segments would win again, although the segment that was set aside had replaced their
bars. A tombstone has the highest revision, no rows, and one absence: the span is not fetched, and due at once. It
is removed when the file that was set aside is back.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ckvd.cache import fault_points
from ckvd.cache.fault_points import Step
from ckvd.cache.folder import SegmentName
from ckvd.cache.resolution import resolve
from ckvd.cache.store import SeriesStore
from ckvd.model.provenance import Absence, Reason
from ckvd.model.table import empty_table
from ckvd.model.timespan import Span, difference
from ckvd.segment.writer import SegmentStatement, SegmentWriter
from ckvd.utils.config import SEGMENT_REVISION_MAX

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from ckvd.cache.folder import CacheFolder
    from ckvd.cache.locks import SeriesLock
    from ckvd.model.market import SeriesKey


def spans_to_hide(
    name: SegmentName, segments: Sequence[SegmentName], returning: Iterable[SegmentName] = ()
) -> tuple[Span, ...]:
    """Find where older segments would win if one were set aside. Pure.

    Parameters
    ----------
    name : SegmentName
        The one to set aside. It is among the segments.
    segments : sequence of SegmentName
    returning : iterable of SegmentName
        Segments that will be restored later.

    Returns
    -------
    tuple of Span
        Disjoint. Each lies inside or outside of the newer segments that return, so that the tombstones inside can
        be removed then.
    """
    lost = [winner.span for winner in resolve(name.span, segments) if winner.segment == name]
    coming = list(returning)
    older = [other for other in segments if other != name]
    older += [other for other in coming if other.revision < name.revision]
    newer = [other.span for other in coming if other.revision > name.revision]
    outside = difference(lost, newer)
    inside = difference(lost, outside)
    spans = (*outside, *inside)
    return tuple(sorted(span for span in spans if any(other.span.overlaps(span) for other in older)))


def publish_tombstones(
    folder: CacheFolder,
    series: SeriesKey,
    lock: SeriesLock,
    spans: Iterable[Span],
    *,
    leaving: SegmentName,
    at_ms: int,
) -> tuple[SegmentName, ...]:
    """Publish a tombstone for each span, durably. The caller holds the lock.

    Parameters
    ----------
    folder : CacheFolder
    series : SeriesKey
    lock : SeriesLock
        Of the series, held since the spans were found and until the file is set aside.
    spans : iterable of Span
        From `spans_to_hide`.
    leaving : SegmentName
        The segment that is about to be set aside. If it claims the last revision, no tombstone could be newer, and
        none has to be.
    at_ms : int
        When the spans are due to be fetched.

    Raises
    ------
    CacheError
        The folder cannot be written.
    """
    path = folder.series_path(series)
    published = []
    for span in spans:
        staying = (one for one in folder.segments(series) if one != leaving or one.revision < SEGMENT_REVISION_MAX)
        name = SegmentName(span, lock.take_revision(staying))
        absence = Absence(span.start_ms, span.end_ms, Reason.NOT_FETCHED, at_ms)
        statement = SegmentStatement(series, span, name.revision, (), (absence,), recheck_ms=at_ms)
        with SegmentWriter.of_table(path / name.file_name, statement, empty_table(series)) as writer:
            writer.flush()
            writer.rename()
        fault_points.reach(Step.SEGMENT_NAMED)
        published.append(name)
    if published:
        SeriesStore(folder, series).flush()
        fault_points.reach(Step.SEGMENT_PUBLISHED)
    return tuple(published)


def withdraw_tombstones(
    folder: CacheFolder, series: SeriesKey, name: SegmentName, tombstones: Iterable[SegmentName]
) -> None:
    """Remove the tombstones of a segment, except where a segment older than it would then win.

    The caller holds the lock. Raises CacheError if the folder cannot be read or written.
    """
    segments = folder.segments(series)
    withdrawn = []
    for tombstone in tombstones:
        # They are disjoint: whether one is there makes no difference to another.
        winners = resolve(tombstone.span, [other for other in segments if other != tombstone])
        if tombstone in segments and all(winner.segment.revision >= name.revision for winner in winners):
            withdrawn.append(tombstone)
    if withdrawn:
        SeriesStore(folder, series).remove(withdrawn, Step.SUPERSEDED_REMOVED)

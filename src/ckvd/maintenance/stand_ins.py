"""What is said in place of a segment that is set aside: that nothing is known there, and is to be asked for.

Without that, the segments beneath would speak again, and what they say was replaced by what is set aside. A
stand-in is an empty segment above them. It goes when the file that it stands in for is back.
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

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from ckvd.cache.folder import CacheFolder
    from ckvd.cache.locks import SeriesLock
    from ckvd.model.market import SeriesKey


def spans_to_stand_in_for(
    name: SegmentName, segments: Sequence[SegmentName], returning: Iterable[SegmentName] = ()
) -> tuple[Span, ...]:
    """Where older segments would speak if one were set aside. Pure.

    Parameters
    ----------
    name : SegmentName
        The one to set aside, which is among the segments.
    segments : sequence of SegmentName
    returning : iterable of SegmentName
        Segments that are not there now and are about to be.

    Returns
    -------
    tuple of Span
        Disjoint. None lies partly in a newer segment that is returning, which may then speak for all of it.
    """
    lost = [winner.span for winner in resolve(name.span, segments) if winner.segment == name]
    coming = list(returning)
    older = [other for other in segments if other != name]
    older += [other for other in coming if other.revision < name.revision]
    newer = [other.span for other in coming if other.revision > name.revision]
    beside = difference(lost, newer)
    pieces = (*beside, *difference(lost, beside))
    return tuple(sorted(piece for piece in pieces if any(other.span.overlaps(piece) for other in older)))


def publish_stand_ins(
    folder: CacheFolder, series: SeriesKey, lock: SeriesLock, spans: Iterable[Span], *, at_ms: int
) -> tuple[SegmentName, ...]:
    """Say of some spans, durably, that nothing is known there. The caller holds the lock.

    Parameters
    ----------
    folder : CacheFolder
    series : SeriesKey
    lock : SeriesLock
        It is held from when the spans were found until the file is set aside.
    spans : iterable of Span
        From `spans_to_stand_in_for`.
    at_ms : int
        From when on they are to be asked for.

    Raises
    ------
    CacheError
        The folder cannot be written.
    """
    path = folder.series_path(series)
    published = []
    for span in spans:
        name = SegmentName(span, lock.take_revision(folder.segments(series)))
        absence = Absence(span.start_ms, span.end_ms, Reason.NOT_FETCHED, at_ms)
        statement = SegmentStatement(series, span, name.revision, (), (absence,), recheck_ms=at_ms)
        with SegmentWriter.of_table(path / name.file_name, statement, empty_table(series)) as writer:
            writer.publish()
        fault_points.reach(Step.SEGMENT_PUBLISHED)
        published.append(name)
    return tuple(published)


def withdraw_stand_ins(
    folder: CacheFolder, series: SeriesKey, name: SegmentName, stand_ins: Iterable[SegmentName]
) -> None:
    """Remove what stands in for a segment, where nothing older than that would then speak.

    The caller holds the lock of the series.

    Raises
    ------
    CacheError
        The folder cannot be read or written.
    """
    for stand_in in stand_ins:
        segments = folder.segments(series)
        others = [other for other in segments if other != stand_in]
        holders = (winner.segment for winner in resolve(stand_in.span, others))
        if stand_in in segments and all(holder.revision >= name.revision for holder in holders):
            SeriesStore(folder, series).remove([stand_in], Step.SUPERSEDED_REMOVED)

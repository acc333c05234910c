"""Resolution: which segment wins at each moment of a span. Pure.

Segments of one series may cover the same moments: a daily and a monthly archive, a packed segment and those that it
was packed from. The segment with the highest revision wins in its whole span, bars and gaps alike. So every bar is
read once.
"""

from __future__ import annotations

import heapq
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

from ckvd.model.provenance import Reason
from ckvd.model.timespan import Span, difference, union

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Sequence

    from ckvd.cache.folder import SegmentName
    from ckvd.segment.header import SegmentHeader
    from ckvd.segment.reader import MappedRows


@dataclass(frozen=True, slots=True)
class Winner:
    """A part of a span, and the segment that wins there."""

    span: Span
    segment: SegmentName


def resolve(span: Span, segments: Iterable[SegmentName]) -> list[Winner]:
    """Find the segment that wins at each moment of a span.

    Returns
    -------
    list of Winner
        Disjoint, in order, each as long as possible. Moments that no segment covers are in none of them.
    """
    met = [segment for segment in segments if segment.span.overlaps(span)]
    if len(met) > 1:
        met.sort(key=lambda segment: segment.span)
        if any(one.span.end_ms > other.span.start_ms for one, other in pairwise(met)):
            return _sweep(span, met)
    return [Winner(segment.span.intersection(span), segment) for segment in met]


def _sweep(span: Span, met: Sequence[SegmentName]) -> list[Winner]:
    bounds = sorted({bound for segment in met for bound in (segment.span.start_ms, segment.span.end_ms)})
    waiting = list(reversed(met))
    # The highest revision first. Of equal ones, which no writer makes, the later start: the result is unambiguous.
    active: list[tuple[int, int, SegmentName]] = []
    winners: list[Winner] = []
    for start_ms, end_ms in pairwise(bounds):
        while waiting and waiting[-1].span.start_ms <= start_ms:
            segment = waiting.pop()
            heapq.heappush(active, (-segment.revision, -segment.span.start_ms, segment))
        while active and active[0][2].span.end_ms <= start_ms:
            heapq.heappop(active)
        part = Span(start_ms, end_ms).intersection(span)
        if not active or not part:
            continue
        segment = active[0][2]
        if winners and winners[-1].segment == segment and winners[-1].span.end_ms == part.start_ms:
            winners[-1] = Winner(Span(winners[-1].span.start_ms, part.end_ms), segment)
        else:
            winners.append(Winner(part, segment))
    return winners


def is_answered(header: SegmentHeader) -> bool:
    """Whether a segment has bars, or records that none exist; False where it records that bars were unavailable."""
    return header.row_count > 0 or all(absence.reason.is_answer for absence in header.absences)


def is_unfounded(header: SegmentHeader) -> bool:
    """Whether a segment without bars says "not in archive" of a time for which no archive was read.

    Earlier versions wrote that of pruned bars, although the archive was not asked for. It is asked for now.
    """
    if header.row_count:
        return False
    read = [source.span for source in header.sources if source.origin.is_archive]
    stated = [absence.span for absence in header.absences if absence.reason is Reason.NOT_IN_ARCHIVE]
    return bool(difference([span.intersection(header.span) for span in stated], read))


def unavailable_spans(winners: Sequence[Winner], parts: Sequence[MappedRows]) -> tuple[Span, ...]:
    """Where the segment that wins only records that bars were unavailable."""
    if all(rows.header.row_count for rows in parts):
        return ()  # as mostly, and this is a part of every read
    return union(
        winner.span
        for winner, rows in zip(winners, parts, strict=True)
        # Nearly all segments have rows, and taking the absences apart is slow.
        if not (rows.header.row_count or is_answered(rows.header))
    )


def hull(segments: Collection[SegmentName]) -> Span:
    """From the first moment that some segments cover to the last; empty where there are none."""
    if not segments:
        return Span(0, 0)
    return Span(min(name.span.start_ms for name in segments), max(name.span.end_ms for name in segments))


def superseded(segments: Iterable[SegmentName]) -> dict[SegmentName, tuple[SegmentName, ...]]:
    """Find the segments that win nowhere, each with those that win instead.

    Returns
    -------
    dict of SegmentName to tuple of SegmentName
        In order of time.
    """
    listed = sorted(segments)
    winners = resolve(hull(listed), listed)
    winning = {winner.segment for winner in winners}
    return {
        segment: tuple(dict.fromkeys(winner.segment for winner in winners if winner.span.overlaps(segment.span)))
        for segment in listed
        if segment not in winning
    }

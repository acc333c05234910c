"""Which bars of a series are missing, and why; and how full each month is.

Segment by segment, so that memory stays flat: no column is gathered.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from ckvd.cache.open_segments import look_again, open_named
from ckvd.cache.resolution import resolve
from ckvd.model.calendar import grid_count, months_of
from ckvd.model.gaps import find_gaps
from ckvd.model.provenance import Gap, Reason
from ckvd.model.timespan import Span, difference, union

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ckvd.cache.folder import CacheFolder
    from ckvd.cache.resolution import Winner
    from ckvd.model.market import Interval, SeriesKey


@dataclass(frozen=True, slots=True)
class GapReport:
    """The missing bars of a series.

    Attributes
    ----------
    series : SeriesKey
    span : Span
        What was looked at.
    gaps : tuple of Gap
        In order; what the cache does not cover is `Reason.NOT_FETCHED`.
    """

    series: SeriesKey
    span: Span
    gaps: tuple[Gap, ...]

    @property
    def bar_counts(self) -> dict[Reason, int]:
        """How many bars are missing for each reason."""
        counts: dict[Reason, int] = {}
        for gap in self.gaps:
            counts[gap.reason] = counts.get(gap.reason, 0) + gap.bar_count
        return counts

    def to_json(self) -> dict[str, Any]:
        """A JSON object; times in milliseconds."""
        return {
            "series": str(self.series),
            "span": [self.span.start_ms, self.span.end_ms],
            "bar_counts": {reason.value: count for reason, count in self.bar_counts.items()},
            "gaps": [
                {
                    "start_ms": gap.start_ms,
                    "end_ms": gap.end_ms,
                    "bar_count": gap.bar_count,
                    "reason": gap.reason.value,
                }
                for gap in self.gaps
            ],
        }


@dataclass(frozen=True, slots=True)
class MonthFill:
    """How full a month is.

    Attributes
    ----------
    start_ms : int
        Its first millisecond.
    expected_count : int
        Bars of the grid in it, as far as it lies in what was looked at.
    bar_count : int
        How many of them are there.
    """

    start_ms: int
    expected_count: int
    bar_count: int


def report_gaps(folder: CacheFolder, series: SeriesKey, span: Span | None = None) -> GapReport:
    """Find the missing bars of a series.

    Parameters
    ----------
    folder : CacheFolder
    series : SeriesKey
    span : Span, optional
        Where to look; by default from the first covered moment to the last.

    Raises
    ------
    CacheBusyError
        Its segments were replaced again and again meanwhile.
    SegmentError, CacheError
        A segment cannot be used.
    """
    return look_again(folder, series, partial(_report_once, folder, series, span))


def _report_once(folder: CacheFolder, series: SeriesKey, span: Span | None) -> GapReport:
    segments = folder.segments(series)
    if span is None:
        coverage = union(name.span for name in segments)
        span = Span(coverage[0].start_ms, coverage[-1].end_ms) if coverage else Span(0, 0)
    winners = resolve(span, segments)
    gaps = [gap for winner in winners for gap in _gaps_of(folder, series, winner)]
    for hole in difference([span], [winner.span for winner in winners]):
        count = grid_count(hole, series.interval)
        if count:
            gaps.append(Gap(hole.start_ms, hole.end_ms, count, Reason.NOT_FETCHED))
    return GapReport(series, span, _join(gaps))


def _gaps_of(folder: CacheFolder, series: SeriesKey, winner: Winner) -> tuple[Gap, ...]:
    with open_named(folder, series, winner.segment) as reader:
        rows = reader.rows.between(winner.span.start_ms, winner.span.end_ms)
        opens = rows.stored("open_time")
        opens = np.empty(0, np.int64) if opens is None else opens
        return find_gaps(opens, [winner.span], series.interval, rows.absences)


def _join(gaps: Iterable[Gap]) -> tuple[Gap, ...]:
    """Gaps in order, those that a seam between segments cut made whole."""
    joined: list[Gap] = []
    for gap in sorted(gaps, key=lambda gap: gap.start_ms):
        before = joined[-1] if joined else None
        if before is not None and before.end_ms == gap.start_ms and before.reason is gap.reason:
            joined[-1] = Gap(before.start_ms, gap.end_ms, before.bar_count + gap.bar_count, gap.reason)
        else:
            joined.append(gap)
    return tuple(joined)


def fill_by_month(report: GapReport, interval: Interval) -> tuple[MonthFill, ...]:
    """How full each month of a report is, in order."""
    fills = []
    for month in months_of(report.span):
        part = month.span.intersection(report.span)
        expected = grid_count(part, interval)
        missing = sum(
            grid_count(gap.span.intersection(part), interval) for gap in report.gaps if gap.span.overlaps(part)
        )
        fills.append(MonthFill(month.start_ms, expected, expected - missing))
    return tuple(fills)

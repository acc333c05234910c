"""The gap report: which bars of a series are missing, why, and how full each month is.

Of events it is settlements that are missing: see `ckvd.maintenance.settlement_gaps`.

Segments are read one by one, and no column is gathered, so memory stays flat.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from ckvd.cache.open_segments import look_again, open_named
from ckvd.cache.resolution import hull, resolve
from ckvd.cache.rows import read_grid
from ckvd.cache.untraded_tail import untraded_tail_of
from ckvd.maintenance.settlement_gaps import find_settlement_gaps
from ckvd.model.calendar import months_of
from ckvd.model.gaps import find_gaps
from ckvd.model.grid import Grid
from ckvd.model.market import Interval
from ckvd.model.provenance import Gap, Reason
from ckvd.model.record import Record, as_json, fields_as_json
from ckvd.model.timespan import Span, difference

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ckvd.cache.folder import CacheFolder
    from ckvd.cache.resolution import Winner
    from ckvd.cache.untraded_tail import UntradedTail
    from ckvd.model.market import SeriesKey


@dataclass(frozen=True, slots=True)
class GapReport(Record):
    """The missing bars of a series.

    Attributes
    ----------
    series : SeriesKey
    span : Span
        The span that was searched.
    gaps : tuple of Gap
        In order; uncovered bars have the reason `Reason.NOT_FETCHED`. Of events their number is unknown there: 0.
    grid : Grid
        That of the series. Where the phase of 3d bars is unknown, as many bars are missing as every phase has.
    untraded_tail : UntradedTail or None
        The bars at the end of the series in which nobody traded, if they last for a day or more and the span
        reaches them. They are not missing.
    """

    series: SeriesKey
    span: Span
    gaps: tuple[Gap, ...]
    grid: Grid
    untraded_tail: UntradedTail | None = None

    @property
    def bar_counts(self) -> dict[Reason, int]:
        """How many bars are missing for each reason."""
        counts: dict[Reason, int] = {}
        for gap in self.gaps:
            counts[gap.reason] = counts.get(gap.reason, 0) + gap.bar_count
        return counts

    def to_json(self) -> dict[str, Any]:
        """A JSON object: its fields without the grid, and how many bars are missing for each reason."""
        document = fields_as_json(self)
        del document["grid"]
        rest = {name: document.pop(name) for name in ("gaps", "untraded_tail")}
        return document | {"bar_counts": as_json(self.bar_counts)} | rest


@dataclass(frozen=True, slots=True)
class MonthFill:
    """How full a month is.

    Attributes
    ----------
    start_ms : int
        Its first millisecond.
    expected_count : int
        Bars of the grid in the part of it that was searched; of events, its hours.
    bar_count : int
        How many of them exist, or are no part of a gap.
    """

    start_ms: int
    expected_count: int
    bar_count: int


def report_gaps(folder: CacheFolder, series: SeriesKey, span: Span | None = None) -> GapReport:
    """Find the missing bars of a series in a span, by default from its first covered moment to its last.

    Raises
    ------
    CacheBusyError
        Its segments were replaced each time before they were read.
    SegmentError, CacheError
        A segment cannot be used.
    """
    return look_again(folder, series, partial(_report_once, folder, series, span))


def _report_once(folder: CacheFolder, series: SeriesKey, span: Span | None) -> GapReport:
    segments = folder.segments(series)
    span = hull(segments) if span is None else span
    winners = resolve(span, segments)
    grid = read_grid(folder, series)
    if grid.is_of_events:
        return GapReport(series, span, find_settlement_gaps(folder, series, span, winners), grid)
    gaps = [gap for winner in winners for gap in _gaps_of(folder, series, winner, grid)]
    for uncovered in difference([span], [winner.span for winner in winners]):
        count = grid.count_min(uncovered)
        if count:
            gaps.append(Gap(uncovered.start_ms, uncovered.end_ms, count, Reason.NOT_FETCHED))
    whole = resolve(hull(segments), segments)
    tail = untraded_tail_of(folder, series, whole)
    if tail is not None and not tail.span.overlaps(span):
        tail = None
    return GapReport(series, span, _join(gaps), grid, tail)


def _gaps_of(folder: CacheFolder, series: SeriesKey, winner: Winner, grid: Grid) -> tuple[Gap, ...]:
    with open_named(folder, series, winner.segment) as reader:
        rows = reader.rows.between(winner.span.start_ms, winner.span.end_ms)
        opens = rows.stored("open_time")
        opens = np.empty(0, np.int64) if opens is None else opens
        return find_gaps(opens, [winner.span], grid, rows.absences)


def _join(gaps: Iterable[Gap]) -> tuple[Gap, ...]:
    """Sort gaps, and join those that a boundary between segments has split."""
    joined: list[Gap] = []
    for gap in sorted(gaps, key=lambda gap: gap.start_ms):
        before = joined[-1] if joined else None
        if before is not None and before.end_ms == gap.start_ms and before.reason is gap.reason:
            joined[-1] = Gap(before.start_ms, gap.end_ms, before.bar_count + gap.bar_count, gap.reason)
        else:
            joined.append(gap)
    return tuple(joined)


def fill_by_month(report: GapReport) -> tuple[MonthFill, ...]:
    """How full each month of a report is, in order."""
    grid = Grid.of(Interval.H1) if report.grid.is_of_events else report.grid
    fills = []
    for month in months_of(report.span):
        searched = month.span.intersection(report.span)
        expected = grid.count_min(searched)
        gaps = (gap.span for gap in report.gaps if gap.span.overlaps(searched))
        missing = sum(grid.count_min(gap.intersection(searched)) for gap in gaps)
        fills.append(MonthFill(month.start_ms, expected, expected - missing))
    return tuple(fills)

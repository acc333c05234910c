"""Slow and simple doubles of what the package computes: the grid walked with `datetime`, spans as sets."""

from __future__ import annotations

import calendar
import datetime as dt
from typing import TYPE_CHECKING

from ckvd.model.grid import Grid
from ckvd.model.market import Interval
from ckvd.model.timespan import Span

if TYPE_CHECKING:
    from collections.abc import Iterable

EPOCH = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
MILLISECOND = dt.timedelta(milliseconds=1)
MINUTE_MS = 60_000
HOUR_MS = 3_600_000
DAY_MS = 86_400_000

LENGTHS = {
    Interval.S1: dt.timedelta(seconds=1),
    Interval.M1: dt.timedelta(minutes=1),
    Interval.M3: dt.timedelta(minutes=3),
    Interval.M5: dt.timedelta(minutes=5),
    Interval.M15: dt.timedelta(minutes=15),
    Interval.M30: dt.timedelta(minutes=30),
    Interval.H1: dt.timedelta(hours=1),
    Interval.H2: dt.timedelta(hours=2),
    Interval.H4: dt.timedelta(hours=4),
    Interval.H6: dt.timedelta(hours=6),
    Interval.H8: dt.timedelta(hours=8),
    Interval.H12: dt.timedelta(hours=12),
    Interval.D1: dt.timedelta(days=1),
    Interval.D3: dt.timedelta(days=3),
    Interval.W1: dt.timedelta(days=7),
}


def utc(moment_ms: int) -> dt.datetime:
    return EPOCH + moment_ms * MILLISECOND


def ms(*parts: int) -> int:
    """Milliseconds of a date or time in UTC: `ms(2024, 2, 29, 12)`."""
    return (dt.datetime(*parts, tzinfo=dt.UTC) - EPOCH) // MILLISECOND  # type: ignore[arg-type,misc]


def bar_start(moment_ms: int, interval: Interval) -> int:
    """Where the bar that holds a moment would open."""
    moment = utc(moment_ms)
    midnight = moment.replace(hour=0, minute=0, second=0, microsecond=0)
    match interval:
        case Interval.MO1:
            start = midnight.replace(day=1)
        case Interval.W1:
            start = midnight - dt.timedelta(days=midnight.weekday())
        case Interval.D3:
            start = midnight - dt.timedelta(days=(midnight.toordinal() - EPOCH.toordinal()) % 3)
        case _:
            start = midnight + (moment - midnight) // LENGTHS[interval] * LENGTHS[interval]
    return (start - EPOCH) // MILLISECOND


def bar_end(moment_ms: int, interval: Interval) -> int:
    """Where the bar that holds a moment would end."""
    start = utc(bar_start(moment_ms, interval))
    if interval is Interval.MO1:
        length = dt.timedelta(days=calendar.monthrange(start.year, start.month)[1])
    else:
        length = LENGTHS[interval]
    return (start + length - EPOCH) // MILLISECOND


def grid_of(interval: Interval) -> Grid:
    """The grid of an interval. That of 3d bars counts from the epoch, as `bar_start` does."""
    return Grid(interval, (0,)) if interval is Interval.D3 else Grid.of(interval)


def bar_starts(span: Span, interval: Interval) -> list[int]:
    """Every point of the grid in a span, by walking from bar to bar."""
    point_ms = bar_start(span.start_ms, interval)
    points = []
    while point_ms < span.end_ms:
        if point_ms >= span.start_ms:
            points.append(point_ms)
        point_ms = bar_end(point_ms, interval)
    return points


def moments_of(spans: Iterable[Span], unit_ms: int = 1) -> set[int]:
    """The moments of spans whose bounds are multiples of a unit, counted in it."""
    return {moment for span in spans for moment in range(span.start_ms // unit_ms, -(-span.end_ms // unit_ms))}


def runs_of(moments: Iterable[int], unit_ms: int = 1) -> tuple[Span, ...]:
    """The inverse of `moments_of`: disjoint spans in order, as long as can be."""
    runs: list[list[int]] = []
    for moment in sorted(moments):
        if runs and runs[-1][1] == moment:
            runs[-1][1] = moment + 1
        else:
            runs.append([moment, moment + 1])
    return tuple(Span(start * unit_ms, end * unit_ms) for start, end in runs)

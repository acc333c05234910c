"""The calendar: the months and days of archives, the grid of bars, and when bars are closed and archives published.

Regular bars open at multiples of their interval since the epoch; bars of a week open on Mondays, bars of a month on
the first. Everything here is pure, and all times are integer milliseconds since 1970-01-01 UTC.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import re
from dataclasses import dataclass
from enum import StrEnum
from functools import cache
from typing import TYPE_CHECKING, Final

import numpy as np

from ckvd.errors import TimeError
from ckvd.model.market import DAY_MS, HOUR_MS, Interval
from ckvd.model.timespan import Span

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy.typing as npt

_EPOCH: Final = dt.date(1970, 1, 1)
# 1970-01-01 was a Thursday.
_FIRST_MONDAY_MS: Final = 4 * DAY_MS
# Binance promises no time. As observed, daily archives appear on the next day at about 08:30 UTC, monthly ones
# between the first Monday and the 13th of the next month.
_DAILY_PUBLISHED_AFTER_MS: Final = 8 * HOUR_MS


# --- Months and days ---------------------------------------------------------------------------------------


class Cadence(StrEnum):
    """How much time one archive covers."""

    MONTHLY = "monthly"
    DAILY = "daily"


@dataclass(frozen=True, slots=True, order=True)
class Period:
    """The month or the day of one archive.

    Attributes
    ----------
    start_ms : int
        The first millisecond of the period.
    cadence : Cadence
    """

    start_ms: int
    cadence: Cadence

    @classmethod
    def of_label(cls, label: str) -> Period:
        """Read `2024-01` as a month or `2024-01-31` as a day. Leading zeros are optional (`2020-8`).

        Raises
        ------
        TimeError
            The label is neither a month nor a day.
        """
        if match := re.fullmatch(r"(\d{4})-(\d{1,2})(?:-(\d{1,2}))?", label, re.ASCII):
            year, month, day = match.groups()
            with contextlib.suppress(ValueError):
                start = dt.date(int(year), int(month), int(day or 1))
                return cls(_ms_of(start), Cadence.DAILY if day else Cadence.MONTHLY)
        raise TimeError(f"{label!r} is no archive period: expected YYYY-MM or YYYY-MM-DD")

    @property
    def span(self) -> Span:
        """The whole period."""
        if self.cadence is Cadence.DAILY:
            return Span(self.start_ms, self.start_ms + DAY_MS)
        return Span(self.start_ms, next_month_ms(self.start_ms))

    @property
    def label(self) -> str:
        """`2024-01` or `2024-01-31`."""
        date = _EPOCH + dt.timedelta(days=self.start_ms // DAY_MS)
        return f"{date:%Y-%m}" if self.cadence is Cadence.MONTHLY else f"{date:%Y-%m-%d}"

    def __str__(self) -> str:
        return self.label


def months_of(span: Span) -> Iterator[Period]:
    """Every month that overlaps a span, in order."""
    start_ms = month_start_ms(span.start_ms)
    while span and start_ms < span.end_ms:
        yield Period(start_ms, Cadence.MONTHLY)
        start_ms = next_month_ms(start_ms)


def days_of(span: Span) -> Iterator[Period]:
    """Every day that overlaps a span, in order."""
    if span:
        for start_ms in range(span.start_ms // DAY_MS * DAY_MS, span.end_ms, DAY_MS):
            yield Period(start_ms, Cadence.DAILY)


def month_start_ms(moment_ms: int) -> int:
    """The first millisecond of the month of a moment."""
    return _month_bounds_ms(moment_ms // DAY_MS)[0]


def next_month_ms(moment_ms: int) -> int:
    """The first millisecond of the month after that of a moment."""
    return _month_bounds_ms(moment_ms // DAY_MS)[1]


def _ms_of(date: dt.date) -> int:
    return (date - _EPOCH).days * DAY_MS


@cache
def _month_bounds_ms(day_number: int) -> tuple[int, int]:
    first = (_EPOCH + dt.timedelta(days=day_number)).replace(day=1)
    following = (first + dt.timedelta(days=32)).replace(day=1)
    return _ms_of(first), _ms_of(following)


# --- The grid of bars --------------------------------------------------------------------------------------


def grid_origin_ms(interval: Interval) -> int:
    """A grid point. All others are a whole number of intervals away, if the interval has a fixed length."""
    return _FIRST_MONDAY_MS if interval is Interval.W1 else 0


def grid_floor(moment_ms: int, interval: Interval) -> int:
    """The last grid point at or before a moment."""
    step_ms = interval.fixed_ms
    if step_ms is None:
        return month_start_ms(moment_ms)
    origin_ms = grid_origin_ms(interval)
    return (moment_ms - origin_ms) // step_ms * step_ms + origin_ms


def grid_next(moment_ms: int, interval: Interval) -> int:
    """The first grid point after a moment: the end of the bar that contains the moment."""
    step_ms = interval.fixed_ms
    return next_month_ms(moment_ms) if step_ms is None else grid_floor(moment_ms, interval) + step_ms


def grid_ceil(moment_ms: int, interval: Interval) -> int:
    """The first grid point at or after a moment."""
    floor_ms = grid_floor(moment_ms, interval)
    return floor_ms if floor_ms == moment_ms else grid_next(floor_ms, interval)


def grid_opens(span: Span, interval: Interval) -> npt.NDArray[np.int64]:
    """Every grid point in a span.

    Returns
    -------
    ndarray of int64, shape (grid_count(span, interval),)
        Milliseconds, ascending.
    """
    step_ms = interval.fixed_ms
    if step_ms is None:
        opens = [period.start_ms for period in months_of(span) if period.start_ms in span]
        return np.array(opens, dtype=np.int64)
    return np.arange(grid_ceil(span.start_ms, interval), span.end_ms, step_ms, dtype=np.int64)


def grid_count(span: Span, interval: Interval) -> int:
    """The number of grid points in a span."""
    step_ms = interval.fixed_ms
    if step_ms is None:
        return sum(period.start_ms in span for period in months_of(span))
    return max(0, -((grid_ceil(span.start_ms, interval) - span.end_ms) // step_ms))


def grid_index(moments_ms: npt.NDArray[np.int64], interval: Interval) -> npt.NDArray[np.int64]:
    """The number of the grid slot of each moment. A slot runs from one grid point to the next.

    Numbers of neighbouring slots differ by one. Months are counted from January 1970.
    """
    step_ms = interval.fixed_ms
    if step_ms is None:
        return moments_ms.astype("datetime64[ms]").astype("datetime64[M]").astype(np.int64)
    return (moments_ms - grid_origin_ms(interval)) // step_ms


def grid_points(slots: npt.NDArray[np.int64], interval: Interval) -> npt.NDArray[np.int64]:
    """The grid point at which each slot starts: the inverse of `grid_index`."""
    step_ms = interval.fixed_ms
    if step_ms is None:
        return slots.astype("datetime64[M]").astype("datetime64[ms]").astype(np.int64)
    return slots * step_ms + grid_origin_ms(interval)


def grid_floors(moments_ms: npt.NDArray[np.int64], interval: Interval) -> npt.NDArray[np.int64]:
    """`grid_floor` of each of many moments."""
    step_ms = interval.fixed_ms
    if step_ms is None:
        return grid_points(grid_index(moments_ms, interval), interval)
    return moments_ms - (moments_ms - grid_origin_ms(interval)) % step_ms


def regular_close_times(opens_ms: npt.NDArray[np.int64], interval: Interval) -> npt.NDArray[np.int64]:
    """The close time of regular bars: one millisecond less than an interval after their open times.

    A bar of a month closes with the last millisecond of its month.
    """
    step_ms = interval.fixed_ms
    if step_ms is not None:
        return opens_ms + (step_ms - 1)
    return grid_points(grid_index(opens_ms, interval) + 1, interval) - 1


# --- What is closed, and what is published -----------------------------------------------------------------


def publication_ms(period: Period) -> int:
    """The earliest time at which an archive may be published, in milliseconds."""
    end_ms = period.span.end_ms
    if period.cadence is Cadence.DAILY:
        return end_ms + _DAILY_PUBLISHED_AFTER_MS
    # The first Monday of the next month, which may be its first day.
    return grid_floor(end_ms - 1, Interval.W1) + 7 * DAY_MS


def closed_part(span: Span, interval: Interval, now_ms: int) -> Span:
    """The part of a span whose bars are closed. Later bars still change."""
    end_ms = max(span.start_ms, min(span.end_ms, grid_floor(now_ms, interval)))
    return Span(span.start_ms, end_ms)

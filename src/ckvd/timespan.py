"""Time: half-open spans in milliseconds, the months and days that archives are cut by, and the bar grid.

All times are integer milliseconds since 1970-01-01 UTC. Everything here is pure.
"""

from __future__ import annotations

import datetime as dt
import re
from dataclasses import dataclass
from enum import StrEnum
from functools import cache
from typing import TYPE_CHECKING, Final, TypeAlias

import numpy as np
import numpy.typing as npt

from ckvd.errors import TimeError
from ckvd.market import DAY_MS, Interval

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

TimeLike: TypeAlias = "str | int | dt.datetime | dt.date | np.datetime64 | np.integer"

_EPOCH: Final = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
_MILLISECOND: Final = dt.timedelta(milliseconds=1)
# 1970-01-01 was a Thursday; weekly bars open on Mondays.
_FIRST_MONDAY_MS: Final = 4 * DAY_MS
# Times outside these years are taken for mistakes of unit (seconds or microseconds).
_YEAR_MIN, _YEAR_MAX = 1970, 2200
_TIME_MIN_MS: Final = 0
_TIME_MAX_MS: Final = int((dt.datetime(_YEAR_MAX, 1, 1, tzinfo=dt.UTC) - _EPOCH) / _MILLISECOND)


def parse_time(value: TimeLike) -> int:
    """Understand a time.

    Parameters
    ----------
    value : str, int, datetime, date or numpy.datetime64
        An ISO 8601 date or time, `now`, a `datetime` (naive means UTC), or integer milliseconds.

    Returns
    -------
    int
        Milliseconds since the epoch; anything finer is refused, not rounded.

    Raises
    ------
    TimeError
        The value is no time, or lies outside the years 1970 to 2200.
    """
    moment_ms = _to_ms(value)
    if not _TIME_MIN_MS <= moment_ms <= _TIME_MAX_MS:
        raise TimeError(
            f"time {value!r} lies outside the years {_YEAR_MIN} to {_YEAR_MAX}: integers are milliseconds"
        )
    return moment_ms


def _to_ms(value: TimeLike) -> int:
    if isinstance(value, bool):
        raise TimeError(f"{value!r} is no time: expected an ISO date, a datetime or integer milliseconds")
    if isinstance(value, (int, np.integer)):
        return int(value)
    if isinstance(value, np.datetime64):
        return _datetime64_to_ms(value)
    if isinstance(value, str):
        return _text_to_ms(value)
    if isinstance(value, dt.datetime):
        aware = value if value.tzinfo is not None else value.replace(tzinfo=dt.UTC)
        milliseconds, rest = divmod(aware - _EPOCH, _MILLISECOND)
        if rest:
            raise TimeError(f"time {value.isoformat()} is finer than a millisecond: round it first")
        return milliseconds
    if isinstance(value, dt.date):
        return (value - _EPOCH.date()).days * DAY_MS
    raise TimeError(f"{value!r} is no time: expected an ISO date, a datetime or integer milliseconds")


def _datetime64_to_ms(value: np.datetime64) -> int:
    if np.isnat(value):
        raise TimeError("NaT is no time: expected an ISO date, a datetime or integer milliseconds")
    try:
        moment = value.astype("datetime64[ms]")
    except OverflowError:
        raise TimeError(f"time {value} lies outside the years {_YEAR_MIN} to {_YEAR_MAX}") from None
    # Compared as it was given: older numpy wraps around in silence, also while it compares.
    if moment.astype(value.dtype) != value:
        raise TimeError(f"time {value} is finer than a millisecond: round it first")
    return int(moment.astype(np.int64))


def _text_to_ms(text: str) -> int:
    if text == "now":
        return now_ms()
    if re.fullmatch(r"\d{4}-\d{2}", text):
        text += "-01"
    fraction = re.search(r"[.,](\d+)", text)
    if fraction is not None and fraction[1][3:].strip("0"):
        # Beyond the sixth digit `fromisoformat` would cut off in silence.
        raise TimeError(f"time {text!r} is finer than a millisecond: round it first")
    try:
        return _to_ms(dt.datetime.fromisoformat(text))
    except ValueError as error:
        if isinstance(error, TimeError):
            raise
        raise TimeError(
            f"{text!r} is no time: expected an ISO date or time such as 2024-01-31 or 2024-01-31T12:00Z"
        ) from None


def now_ms() -> int:
    """The present, in milliseconds."""
    return (dt.datetime.now(dt.UTC) - _EPOCH) // _MILLISECOND


def format_time(moment_ms: int) -> str:
    """ISO text in UTC, as short as it can be without losing anything."""
    moment = _EPOCH + moment_ms * _MILLISECOND
    if moment_ms % DAY_MS == 0:
        return moment.strftime("%Y-%m-%d")
    if moment_ms % 1000:
        return moment.isoformat(timespec="milliseconds").removesuffix("+00:00") + "Z"
    return moment.isoformat(timespec="minutes" if moment_ms % 60_000 == 0 else "seconds")[:-6] + "Z"


@dataclass(frozen=True, slots=True, order=True)
class Span:
    """A half-open stretch of time: `start_ms` is in it, `end_ms` is not. Never negative; it may be empty."""

    start_ms: int
    end_ms: int

    def __post_init__(self) -> None:
        if self.end_ms < self.start_ms:
            raise TimeError(
                f"span ends before it starts: {format_time(self.start_ms)} to {format_time(self.end_ms)}"
            )

    @classmethod
    def of(cls, start: TimeLike, end: TimeLike) -> Span:
        """Understand both ends with `parse_time`."""
        return cls(parse_time(start), parse_time(end))

    @property
    def length_ms(self) -> int:
        """Length in milliseconds."""
        return self.end_ms - self.start_ms

    def __bool__(self) -> bool:
        return self.end_ms > self.start_ms

    def __contains__(self, moment_ms: int) -> bool:
        return self.start_ms <= moment_ms < self.end_ms

    def __str__(self) -> str:
        return f"{format_time(self.start_ms)}..{format_time(self.end_ms)}"

    def intersection(self, other: Span) -> Span:
        """What lies in both; empty where they do not meet."""
        start_ms = max(self.start_ms, other.start_ms)
        return Span(start_ms, max(start_ms, min(self.end_ms, other.end_ms)))

    def overlaps(self, other: Span) -> bool:
        """Whether some moment lies in both."""
        return max(self.start_ms, other.start_ms) < min(self.end_ms, other.end_ms)

    def covers(self, other: Span) -> bool:
        """Whether every moment of `other` lies in this span."""
        return self.start_ms <= other.start_ms and other.end_ms <= self.end_ms


def union(spans: Iterable[Span]) -> tuple[Span, ...]:
    """The same moments as disjoint spans in order, touching ones joined, empty ones gone."""
    joined: list[Span] = []
    for span in sorted(span for span in spans if span):
        if joined and span.start_ms <= joined[-1].end_ms:
            joined[-1] = Span(joined[-1].start_ms, max(joined[-1].end_ms, span.end_ms))
        else:
            joined.append(span)
    return tuple(joined)


def difference(spans: Iterable[Span], removed: Iterable[Span]) -> tuple[Span, ...]:
    """The moments of `spans` that lie in none of `removed`, as disjoint spans in order."""
    left: list[Span] = []
    holes = union(removed)
    for span in union(spans):
        start_ms = span.start_ms
        for hole in holes:
            if hole.end_ms <= start_ms:
                continue
            if hole.start_ms >= span.end_ms:
                break
            if hole.start_ms > start_ms:
                left.append(Span(start_ms, hole.start_ms))
            start_ms = hole.end_ms
        if start_ms < span.end_ms:
            left.append(Span(start_ms, span.end_ms))
    return tuple(left)


# --- The calendar of archives ------------------------------------------------------------------------------


class Cadence(StrEnum):
    """How much time one archive holds."""

    MONTHLY = "monthly"
    DAILY = "daily"


@dataclass(frozen=True, slots=True, order=True)
class Period:
    """One month or one day, as archives are cut.

    Attributes
    ----------
    start_ms : int
        Its first millisecond.
    cadence : Cadence
    """

    start_ms: int
    cadence: Cadence

    @classmethod
    def of_label(cls, label: str) -> Period:
        """Read `2024-01` as a month or `2024-01-31` as a day. A lone digit (`2020-8`) is understood as well.

        Raises
        ------
        TimeError
            The label is neither.
        """
        match = re.fullmatch(r"(\d{4})-(\d{1,2})(?:-(\d{1,2}))?", label, re.ASCII)
        try:
            if match is None:
                raise ValueError  # noqa: TRY301  (one remedy for both ways to be wrong)
            year, month, day = (int(part) if part else None for part in match.groups())
            start = dt.date(year or 0, month or 0, 1 if day is None else day)
        except ValueError:
            raise TimeError(f"{label!r} is no archive period: expected YYYY-MM or YYYY-MM-DD") from None
        return cls(_to_ms(start), Cadence.MONTHLY if day is None else Cadence.DAILY)

    @property
    def span(self) -> Span:
        """All of its moments."""
        if self.cadence is Cadence.DAILY:
            return Span(self.start_ms, self.start_ms + DAY_MS)
        return Span(self.start_ms, next_month_ms(self.start_ms))

    @property
    def label(self) -> str:
        """`2024-01` or `2024-01-31`."""
        date = (_EPOCH + self.start_ms * _MILLISECOND).date()
        return f"{date:%Y-%m}" if self.cadence is Cadence.MONTHLY else f"{date:%Y-%m-%d}"

    def __str__(self) -> str:
        return self.label


def month_start_ms(moment_ms: int) -> int:
    """The first millisecond of the month that holds a moment."""
    return _month_bounds_ms(moment_ms // DAY_MS)[0]


def next_month_ms(moment_ms: int) -> int:
    """The first millisecond of the month after the one that holds a moment."""
    return _month_bounds_ms(moment_ms // DAY_MS)[1]


@cache
def _month_bounds_ms(day_number: int) -> tuple[int, int]:
    first = (_EPOCH.date() + dt.timedelta(days=day_number)).replace(day=1)
    following = (first + dt.timedelta(days=32)).replace(day=1)
    return _to_ms(first), _to_ms(following)


def months_of(span: Span) -> Iterator[Period]:
    """Every month that shares a moment with the span, in order."""
    start_ms = month_start_ms(span.start_ms)
    while start_ms < span.end_ms:
        if span:
            yield Period(start_ms, Cadence.MONTHLY)
        start_ms = next_month_ms(start_ms)


def days_of(span: Span) -> Iterator[Period]:
    """Every day that shares a moment with the span, in order."""
    if span:
        for start_ms in range(span.start_ms // DAY_MS * DAY_MS, span.end_ms, DAY_MS):
            yield Period(start_ms, Cadence.DAILY)


# --- The bar grid ------------------------------------------------------------------------------------------
# A regular bar opens on its interval's grid: multiples of the interval since the epoch, Mondays for weeks,
# the first of the month for months.


def grid_floor(moment_ms: int, interval: Interval) -> int:
    """The last grid point at or before a moment."""
    step_ms = interval.fixed_ms
    if step_ms is None:
        return month_start_ms(moment_ms)
    origin_ms = grid_origin_ms(interval)
    return (moment_ms - origin_ms) // step_ms * step_ms + origin_ms


def grid_next(open_ms: int, interval: Interval) -> int:
    """The grid point after the one at or before a moment: where the bar that holds the moment ends."""
    step_ms = interval.fixed_ms
    return next_month_ms(open_ms) if step_ms is None else grid_floor(open_ms, interval) + step_ms


def grid_ceil(moment_ms: int, interval: Interval) -> int:
    """The first grid point at or after a moment."""
    floor_ms = grid_floor(moment_ms, interval)
    return floor_ms if floor_ms == moment_ms else grid_next(floor_ms, interval)


def grid_origin_ms(interval: Interval) -> int:
    """A grid point that all others are a whole number of (fixed) intervals away from."""
    return _FIRST_MONDAY_MS if interval is Interval.W1 else 0


def grid_opens(span: Span, interval: Interval) -> npt.NDArray[np.int64]:
    """Every grid point in a span, as int64 milliseconds, ascending."""
    step_ms = interval.fixed_ms
    if step_ms is None:
        opens = [period.start_ms for period in months_of(span) if period.start_ms in span]
        return np.array(opens, dtype=np.int64)
    return np.arange(grid_ceil(span.start_ms, interval), span.end_ms, step_ms, dtype=np.int64)


def grid_count(span: Span, interval: Interval) -> int:
    """How many grid points a span holds."""
    step_ms = interval.fixed_ms
    if step_ms is None:
        return sum(period.start_ms in span for period in months_of(span))
    return max(0, -((grid_ceil(span.start_ms, interval) - span.end_ms) // step_ms))


def grid_index(moments_ms: npt.NDArray[np.int64], interval: Interval) -> npt.NDArray[np.int64]:
    """Number the cells of the grid: neighbouring cells differ by one. All moments of a cell have its number."""
    step_ms = interval.fixed_ms
    if step_ms is None:
        return moments_ms.astype("datetime64[ms]").astype("datetime64[M]").astype(np.int64)
    return (moments_ms - grid_origin_ms(interval)) // step_ms


def grid_point(index: int, interval: Interval) -> int:
    """Where a cell of the grid starts: the inverse of `grid_index`."""
    step_ms = interval.fixed_ms
    if step_ms is None:
        return int(np.datetime64(index, "M").astype("datetime64[ms]").astype(np.int64))
    return index * step_ms + grid_origin_ms(interval)


def grid_floors(opens_ms: npt.NDArray[np.int64], interval: Interval) -> npt.NDArray[np.int64]:
    """`grid_floor` of each of many moments."""
    step_ms = interval.fixed_ms
    if step_ms is None:
        months = opens_ms.astype("datetime64[ms]").astype("datetime64[M]")
        return months.astype("datetime64[ms]").astype(np.int64)
    origin_ms = grid_origin_ms(interval)
    return opens_ms - (opens_ms - origin_ms) % step_ms


def regular_close_times(opens_ms: npt.NDArray[np.int64], interval: Interval) -> npt.NDArray[np.int64]:
    """The last millisecond of each bar if it is regular: an interval after its open, less one."""
    step_ms = interval.fixed_ms
    if step_ms is not None:
        return opens_ms + (step_ms - 1)
    months = opens_ms.astype("datetime64[ms]").astype("datetime64[M]") + np.timedelta64(1, "M")
    return months.astype("datetime64[ms]").astype(np.int64) - 1

"""Parsing and formatting times, and half-open spans of time.

All times are integer milliseconds since 1970-01-01 UTC. Only `now_ms` reads a clock, and `parse_time` asks it for a
time that is relative to the present, unless it is told the present; everything else is pure.
"""

from __future__ import annotations

import datetime as dt
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, TypeAlias

import numpy as np

from ckvd.errors import TimeError
from ckvd.model.market import DAY_MS, SECOND_MS, UNIT_MS

if TYPE_CHECKING:
    from collections.abc import Iterable

TimeLike: TypeAlias = "str | int | float | dt.datetime | dt.date | np.datetime64 | np.integer | np.floating"

_EPOCH: Final = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
_MILLISECOND: Final = dt.timedelta(milliseconds=1)
_YEAR_MIN, _YEAR_MAX = 1970, 2200
_TIME_MAX_MS: Final = (dt.datetime(_YEAR_MAX, 1, 1, tzinfo=dt.UTC) - _EPOCH) // _MILLISECOND
# A lower number is a time in seconds, to the year 5138. In milliseconds it would lie before March 1973, long before
# the first bar. Zero is the same moment in all units.
_NUMBER_MIN_MS: Final = 10**11
_FINER_UNITS: Final = (("microseconds", 10**3), ("nanoseconds", 10**6))
_EXPECTED: Final = "expected an ISO date, a datetime or integer milliseconds"
# Times before the present: `12h`, `30d`, `2w`. Months and years differ in length, and `m` may be taken for months.
_BEFORE_NOW: Final = re.compile(r"(\d{1,7})([hdw])", re.ASCII)
# The last letters of all texts that are relative to the present; no other time ends with one of them.
_RELATIVE_ENDINGS: Final = ("w", "y", "h", "d")


def parse_time(value: TimeLike, *, present_ms: int | None = None) -> int:
    """Convert a time to milliseconds.

    Parameters
    ----------
    value : str, int, float, datetime, date or numpy.datetime64
        An ISO 8601 date or time, a text that is relative to the present, a `datetime` (naive means UTC), or
        milliseconds as an integer or a whole float. 0 is the earliest time, in any unit.

        Relative to the present are `now`, `today` and `yesterday` (the midnight, UTC, with which they began), and
        a whole number with `h`, `d` or `w`: so many hours, days of 24 hours or weeks before now. They are lower
        case, without blanks. Now is the second that has begun, because segments can be cut at whole seconds only.
    present_ms : int, optional
        The present, for texts that are relative to it; by default that of the system's clock.

    Returns
    -------
    int
        Milliseconds since the epoch.

    Raises
    ------
    TimeError
        The value is not a time, is finer than a millisecond, or lies outside the years 1970 to 2200. Numbers in
        another unit are refused: seconds (below 10**11), microseconds and nanoseconds.
    """
    moment_ms = _to_ms(value, present_ms)
    if not 0 <= moment_ms <= _TIME_MAX_MS:
        raise TimeError(
            f"time {value!r} lies outside the years {_YEAR_MIN} to {_YEAR_MAX}: integers are milliseconds"
        )
    return moment_ms


def is_relative(text: str) -> bool:
    """Whether a text, if it is a time at all, is relative to the present: it means another moment later on."""
    return text.endswith(_RELATIVE_ENDINGS)


def _to_ms(value: TimeLike, present_ms: int | None = None) -> int:
    # numpy counts a difference of times among its integers.
    if isinstance(value, (bool, np.timedelta64)):
        raise TimeError(f"{value!r} is no time: {_EXPECTED}")
    if isinstance(value, (int, float, np.integer, np.floating)):
        return _number_to_ms(value)
    if isinstance(value, np.datetime64):
        return _datetime64_to_ms(value)
    if isinstance(value, str):
        return _text_to_ms(value, present_ms)
    if isinstance(value, dt.datetime):
        if value != value:  # noqa: PLR0124  (pandas' NaT is a datetime that differs from itself)
            raise TimeError(f"NaT is no time: {_EXPECTED}")
        aware = value if value.tzinfo is not None else value.replace(tzinfo=dt.UTC)
        milliseconds, rest = divmod(aware - _EPOCH, _MILLISECOND)
        if rest:
            raise TimeError(f"time {value.isoformat()} is finer than a millisecond: round it first")
        return milliseconds
    if isinstance(value, dt.date):
        return (value - _EPOCH.date()).days * DAY_MS
    raise TimeError(f"{value!r} is no time: {_EXPECTED}")


def _number_to_ms(value: float | np.integer | np.floating) -> int:
    if isinstance(value, np.floating) and value.dtype.itemsize < 8:
        raise TimeError(f"{value!r} is no time: {value.dtype} cannot hold milliseconds, make it a float64 or int64")
    try:
        whole = int(value)
    except (ValueError, OverflowError):  # NaN and infinity
        raise TimeError(f"{value!r} is no time: {_EXPECTED}") from None
    if value != 0 and 0 <= whole < _NUMBER_MIN_MS:
        raise TimeError(
            f"time {value!r}: these look like seconds; numbers are milliseconds, so multiply by 1000"
            + (f", or write the date as text: {date}" if (date := _date_of_digits(whole)) else "")
        )
    for unit, per_ms in _FINER_UNITS:
        if _NUMBER_MIN_MS <= whole // per_ms <= _TIME_MAX_MS < whole:
            raise TimeError(
                f"time {value!r}: these look like {unit}; numbers are milliseconds, so divide by {per_ms} (//)"
            )
    if value != whole:
        raise TimeError(f"time {value!r} is finer than a millisecond: round it first")
    return whole


def _date_of_digits(number: int) -> str | None:
    """The date that a number such as 20230131 spells."""
    try:
        day = dt.datetime.strptime(str(number), "%Y%m%d").replace(tzinfo=dt.UTC)
    except ValueError:
        return None
    return f"'{day:%Y-%m-%d}'" if _YEAR_MIN <= day.year < _YEAR_MAX else None


def _datetime64_to_ms(value: np.datetime64) -> int:
    if np.isnat(value):
        raise TimeError(f"NaT is no time: {_EXPECTED}")
    try:
        moment = value.astype("datetime64[ms]")
    except OverflowError:
        raise TimeError(f"time {value} lies outside the years {_YEAR_MIN} to {_YEAR_MAX}") from None
    # Compared in the given unit: older numpy overflows silently, also when it compares different units.
    if moment.astype(value.dtype) != value:
        raise TimeError(f"time {value} is finer than a millisecond: round it first")
    return int(moment.astype(np.int64))


def _text_to_ms(text: str, present_ms: int | None) -> int:
    if is_relative(text):
        return _relative_to_ms(text, now_ms() if present_ms is None else present_ms)
    # A date has at most eight digits. Longer ones that happen to spell a date and a time are none.
    if re.fullmatch(r"\d{9,}", text, re.ASCII):
        # With more than nanoseconds have there is nothing that could have been meant, and `int` has a limit.
        raise _no_time(text, _meaning_of_digits(int(text)) if len(text) <= 19 else "")
    if re.fullmatch(r"\d{4}-\d{2}", text):
        text += "-01"
    fraction = re.search(r"[.,](\d+)", text)
    if fraction is not None and fraction[1][3:].strip("0"):
        # `fromisoformat` silently drops digits after the sixth.
        raise TimeError(f"time {text!r} is finer than a millisecond: round it first")
    try:
        moment = dt.datetime.fromisoformat(text)
    except ValueError:
        raise _no_time(text) from None
    return _to_ms(moment)


def _relative_to_ms(text: str, present_ms: int) -> int:
    midnight_ms = present_ms // DAY_MS * DAY_MS
    present_ms = present_ms // SECOND_MS * SECOND_MS
    named = {"now": present_ms, "today": midnight_ms, "yesterday": midnight_ms - DAY_MS}
    if text in named:
        return named[text]
    if (match := _BEFORE_NOW.fullmatch(text)) is None:
        raise _no_time(text)
    return present_ms - int(match[1]) * UNIT_MS[match[2]]


def _no_time(text: str, remedy: str = "") -> TimeError:
    return TimeError(
        f"{text!r} is no time: expected an ISO date or time such as 2024-01-31 or 2024-01-31T12:00Z, or now, "
        f"today, yesterday, or a time before now such as 12h, 30d or 2w{remedy}"
    )


def _meaning_of_digits(number: int) -> str:
    """Which unit some digits look like, and the text of that time."""
    units = (("seconds", number * 1000), ("milliseconds", number))
    for unit, moment_ms in (*units, *((unit, number // per_ms) for unit, per_ms in _FINER_UNITS)):
        if _NUMBER_MIN_MS <= moment_ms <= _TIME_MAX_MS:
            return f"; these look like {unit}, of {format_time(moment_ms)}"
    return ""


def now_ms() -> int:
    """The present time, in milliseconds."""
    return (dt.datetime.now(dt.UTC) - _EPOCH) // _MILLISECOND


def format_time(moment_ms: int) -> str:
    """Format a time as ISO text in UTC, as short as possible without loss; as a number if no date has it."""
    try:
        moment = _EPOCH + moment_ms * _MILLISECOND
    except OverflowError:
        return f"{moment_ms} ms"
    if moment_ms % DAY_MS == 0:
        return moment.strftime("%Y-%m-%d")
    if moment_ms % 1000:
        return moment.isoformat(timespec="milliseconds").removesuffix("+00:00") + "Z"
    return moment.isoformat(timespec="minutes" if moment_ms % 60_000 == 0 else "seconds")[:-6] + "Z"


def compact_time(moment_ms: int) -> str:
    """The second of a time, as names of files have it: 20230101T000000Z."""
    return f"{_EPOCH + moment_ms * _MILLISECOND:%Y%m%dT%H%M%SZ}"


def parse_compact_time(text: str) -> int:
    """The inverse of `compact_time`, milliseconds. Raises ValueError if there is no such time."""
    return (dt.datetime.fromisoformat(text) - _EPOCH) // _MILLISECOND


@dataclass(frozen=True, slots=True, order=True)
class Span:
    """A half-open span of time: it contains `start_ms` and not `end_ms`. It may be empty.

    Attributes
    ----------
    start_ms, end_ms : int
        Milliseconds. The end is not before the start.
    """

    start_ms: int
    end_ms: int

    def __post_init__(self) -> None:
        if self.end_ms < self.start_ms:
            raise TimeError(
                f"span ends before it starts: {format_time(self.start_ms)} to {format_time(self.end_ms)}"
            )

    @classmethod
    def of(cls, start: TimeLike, end: TimeLike, *, present_ms: int | None = None) -> Span:
        """Make a span from two times that `parse_time` accepts, of one present."""
        if present_ms is None and isinstance(start, str) and isinstance(end, str):
            # Two looks at the clock could lie before and after midnight.
            present_ms = now_ms() if is_relative(start) or is_relative(end) else 0
        return cls(parse_time(start, present_ms=present_ms), parse_time(end, present_ms=present_ms))

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
        """The part common to both spans; empty where they do not overlap."""
        # Nearly always one covers the other, and making a span takes longer than finding that out.
        if self.covers(other):
            return other
        if other.covers(self):
            return self
        start_ms = max(self.start_ms, other.start_ms)
        return Span(start_ms, max(start_ms, min(self.end_ms, other.end_ms)))

    def overlaps(self, other: Span) -> bool:
        """Whether the spans have a moment in common."""
        return max(self.start_ms, other.start_ms) < min(self.end_ms, other.end_ms)

    def covers(self, other: Span) -> bool:
        """Whether this span contains all of `other`."""
        return self.start_ms <= other.start_ms and other.end_ms <= self.end_ms


def union(spans: Iterable[Span]) -> tuple[Span, ...]:
    """The moments of all spans, as disjoint spans in order. Adjacent spans are joined, empty ones dropped."""
    joined: list[Span] = []
    for span in sorted(span for span in spans if span):
        if joined and span.start_ms <= joined[-1].end_ms:
            joined[-1] = Span(joined[-1].start_ms, max(joined[-1].end_ms, span.end_ms))
        else:
            joined.append(span)
    return tuple(joined)


def difference(spans: Iterable[Span], removed: Iterable[Span]) -> tuple[Span, ...]:
    """The moments of `spans` outside all of `removed`, as disjoint spans in order."""
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

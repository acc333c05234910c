"""The calendar: the months and days of archives, and when archives are published.

Everything here is pure, and all times are integer milliseconds since 1970-01-01 UTC.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import re
from dataclasses import dataclass
from enum import StrEnum
from functools import cache
from typing import TYPE_CHECKING, Final

from ckvd.errors import TimeError
from ckvd.model.market import DAY_MS, HOUR_MS
from ckvd.model.timespan import Span

if TYPE_CHECKING:
    from collections.abc import Iterator

_EPOCH: Final = dt.date(1970, 1, 1)
# 1970-01-01 was a Thursday.
FIRST_MONDAY_MS: Final = 4 * DAY_MS
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


def period_of(moment_ms: int, cadence: Cadence) -> Period:
    """The month or day of a moment."""
    start_ms = month_start_ms(moment_ms) if cadence is Cadence.MONTHLY else moment_ms // DAY_MS * DAY_MS
    return Period(start_ms, cadence)


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


# --- What is published -------------------------------------------------------------------------------------


def publication_ms(period: Period) -> int:
    """The earliest time at which an archive may be published, in milliseconds."""
    end_ms = period.span.end_ms
    if period.cadence is Cadence.DAILY:
        return end_ms + _DAILY_PUBLISHED_AFTER_MS
    # The first Monday of the next month, which may be its first day.
    return end_ms + (FIRST_MONDAY_MS - end_ms) % (7 * DAY_MS)

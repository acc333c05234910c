"""The calendar of archives: the months and days that they are cut by. Pure."""

from __future__ import annotations

import datetime as dt
import re
from dataclasses import dataclass
from enum import StrEnum
from functools import cache
from typing import TYPE_CHECKING, Final

from ckvd.errors import TimeError
from ckvd.market import DAY_MS
from ckvd.timespan import Span

if TYPE_CHECKING:
    from collections.abc import Iterator

_EPOCH: Final = dt.date(1970, 1, 1)


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
        return cls(_ms_of(start), Cadence.MONTHLY if day is None else Cadence.DAILY)

    @property
    def span(self) -> Span:
        """All of its moments."""
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


def month_start_ms(moment_ms: int) -> int:
    """The first millisecond of the month that holds a moment."""
    return _month_bounds_ms(moment_ms // DAY_MS)[0]


def next_month_ms(moment_ms: int) -> int:
    """The first millisecond of the month after the one that holds a moment."""
    return _month_bounds_ms(moment_ms // DAY_MS)[1]


def _ms_of(date: dt.date) -> int:
    return (date - _EPOCH).days * DAY_MS


@cache
def _month_bounds_ms(day_number: int) -> tuple[int, int]:
    first = (_EPOCH + dt.timedelta(days=day_number)).replace(day=1)
    following = (first + dt.timedelta(days=32)).replace(day=1)
    return _ms_of(first), _ms_of(following)


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

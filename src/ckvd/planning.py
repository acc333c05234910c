"""Deciding what to fetch. Pure: values in, values out.

A closed month comes as one monthly archive, where that is published. A month that has none yet, or never had, or of
which a part is there already, comes as daily archives. What no archive has yet comes from the REST interface. The
executor tells the planner what it learned (which archives turned out to be unavailable) and asks again, until there
is nothing left to do.

When archives can be published was observed, not promised: daily ones appear on the next day, about 08:30 UTC;
monthly ones between the first Monday and the 13th of the next month.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from ckvd.grid import grid_floor
from ckvd.market import DAY_MS, HOUR_MS, Interval
from ckvd.period import Cadence, Period, days_of, months_of
from ckvd.timespan import Span, difference, union

if TYPE_CHECKING:
    from collections.abc import Container, Iterator, Sequence

    from ckvd.market import SeriesKey

_DAILY_PUBLISHED_AFTER_MS: Final = 8 * HOUR_MS


@dataclass(frozen=True, slots=True)
class Covered:
    """A span that the cache speaks of.

    Attributes
    ----------
    span : Span
    recheck_ms : int
        From this time on it counts as not covered, because something better may have appeared; 0 for never.
    is_answered : bool
        False for the statement that nothing could be had until then: it is not asked for, and still missing.
    """

    span: Span
    recheck_ms: int = 0
    is_answered: bool = True

    def is_due(self, now_ms: int) -> bool:
        """Whether the time to ask again has come."""
        return 0 < self.recheck_ms <= now_ms


@dataclass(frozen=True, slots=True, order=True)
class ArchiveStep:
    """Fetch one archive; it covers all of its period."""

    period: Period

    @property
    def span(self) -> Span:
        """What will be covered."""
        return self.period.span


@dataclass(frozen=True, slots=True, order=True)
class RestStep:
    """Ask the REST interface for the bars that open in a span."""

    span: Span


@dataclass(frozen=True, slots=True)
class Plan:
    """What to fetch, in order of time.

    Attributes
    ----------
    archives : tuple of ArchiveStep
    rest : tuple of RestStep
    unplanned : tuple of Span
        What is wanted, closed and not covered, and cannot be had from the sources that may be used.
    """

    archives: tuple[ArchiveStep, ...]
    rest: tuple[RestStep, ...]
    unplanned: tuple[Span, ...]


def publication_ms(period: Period) -> int:
    """The earliest time at which an archive may have been published, in milliseconds."""
    end_ms = period.span.end_ms
    if period.cadence is Cadence.DAILY:
        return end_ms + _DAILY_PUBLISHED_AFTER_MS
    # Weeks of the grid start on Mondays; a month whose first day is a Monday is published on that day.
    return grid_floor(end_ms - 1, Interval.W1) + 7 * DAY_MS


def closed_part(span: Span, interval: Interval, now_ms: int) -> Span:
    """The part of a span whose bars are closed: what lies after it is not data yet."""
    end_ms = max(span.start_ms, min(span.end_ms, grid_floor(now_ms, interval)))
    return Span(span.start_ms, end_ms)


def plan(
    series: SeriesKey,
    wanted: Span,
    covered: Sequence[Covered],
    *,
    now_ms: int,
    unavailable: Container[Period] = frozenset(),
    use_rest: bool = False,
) -> Plan:
    """Decide what to fetch so that `wanted` is covered as far as it can be.

    Parameters
    ----------
    series : SeriesKey
    wanted : Span
    covered : sequence of Covered
        What the cache speaks of already.
    now_ms : int
        The present.
    unavailable : container of Period
        Archives that are known not to be there, or could not be used.
    use_rest : bool
        Whether the REST interface may be asked for what no archive has.

    Returns
    -------
    Plan
        Every moment that is wanted, closed and not covered lies in exactly one step, or in `unplanned`. No step
        is for a moment that is covered for good, except that an archive brings all of its period.
    """
    firm = [held.span for held in covered if not held.is_due(now_ms)]
    needed = difference([closed_part(wanted, series.interval, now_ms)], firm)
    archives: list[ArchiveStep] = []
    without_archive: list[Span] = []
    for month in _months_touched(needed):
        lacking = [span.intersection(month.span) for span in needed if span.overlaps(month.span)]
        is_untouched = not any(span.overlaps(month.span) for span in firm)
        if is_untouched and _can_be_fetched(month, now_ms, unavailable):
            archives.append(ArchiveStep(month))
        elif series.interval.has_daily_archives:
            for day in _days_touched(lacking):
                day_firm = any(span.overlaps(day.span) for span in firm)
                if not day_firm and _can_be_fetched(day, now_ms, unavailable):
                    archives.append(ArchiveStep(day))
                else:
                    without_archive += [span.intersection(day.span) for span in lacking if span.overlaps(day.span)]
        else:
            without_archive += lacking
    left = union(without_archive)
    if use_rest:
        return Plan(tuple(archives), tuple(RestStep(span) for span in left), ())
    return Plan(tuple(archives), (), left)


def _can_be_fetched(period: Period, now_ms: int, unavailable: Container[Period]) -> bool:
    return publication_ms(period) <= now_ms and period not in unavailable


def _months_touched(spans: Sequence[Span]) -> Iterator[Period]:
    yield from dict.fromkeys(month for span in spans for month in months_of(span))


def _days_touched(spans: Sequence[Span]) -> Iterator[Period]:
    yield from dict.fromkeys(day for span in spans for day in days_of(span))

"""Which archives to fetch. Pure: values in, values out.

A closed month comes as one monthly archive, once that is published. A month without one, or of which the cache
covers a part, comes as daily archives. The rest is unplanned: the REST interface may have it. The download tells
the planner which archives turned out to be unavailable and asks again, until nothing is left to fetch.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ckvd.model.calendar import Period, closed_part, days_of, months_of, publication_ms
from ckvd.model.timespan import Span, difference, union

if TYPE_CHECKING:
    from collections.abc import Container, Iterator, Sequence

    from ckvd.cache.coverage import Covered
    from ckvd.model.market import SeriesKey


@dataclass(frozen=True, slots=True)
class Plan:
    """What to fetch, in order of time.

    Attributes
    ----------
    archives : tuple of Period
        Each archive covers all of its period.
    unplanned : tuple of Span
        What is wanted, closed and not covered, and is in none of the archives.
    """

    archives: tuple[Period, ...]
    unplanned: tuple[Span, ...]


def plan(
    series: SeriesKey,
    wanted: Span,
    covered: Sequence[Covered],
    *,
    now_ms: int,
    unavailable: Container[Period] = frozenset(),
) -> Plan:
    """Decide which archives to fetch for `wanted`.

    Parameters
    ----------
    series : SeriesKey
    wanted : Span
    covered : sequence of Covered
        What the cache covers already.
    now_ms : int
        The present.
    unavailable : container of Period
        Archives that are known not to exist, or cannot be used.

    Returns
    -------
    Plan
        Every moment that is wanted, closed and not covered lies in exactly one archive, or in `unplanned`. No
        archive is fetched for a moment that is covered for good, except that it brings all of its period.
    """
    firm = [held.span for held in covered if not held.is_due(now_ms)]
    needed = difference([closed_part(wanted, series.interval, now_ms)], firm)
    archives: list[Period] = []
    without_archive: list[Span] = []
    for month in _months_touched(needed):
        lacking = [span.intersection(month.span) for span in needed if span.overlaps(month.span)]
        is_untouched = not any(span.overlaps(month.span) for span in firm)
        if is_untouched and _can_be_fetched(month, now_ms, unavailable):
            archives.append(month)
        elif series.interval.has_daily_archives:
            for day in _days_touched(lacking):
                day_firm = any(span.overlaps(day.span) for span in firm)
                if not day_firm and _can_be_fetched(day, now_ms, unavailable):
                    archives.append(day)
                else:
                    without_archive += [span.intersection(day.span) for span in lacking if span.overlaps(day.span)]
        else:
            without_archive += lacking
    return Plan(tuple(archives), union(without_archive))


def _can_be_fetched(period: Period, now_ms: int, unavailable: Container[Period]) -> bool:
    return publication_ms(period) <= now_ms and period not in unavailable


def _months_touched(spans: Sequence[Span]) -> Iterator[Period]:
    yield from dict.fromkeys(month for span in spans for month in months_of(span))


def _days_touched(spans: Sequence[Span]) -> Iterator[Period]:
    yield from dict.fromkeys(day for span in spans for day in days_of(span))

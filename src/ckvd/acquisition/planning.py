"""Which archives to fetch. Pure: values in, values out.

A closed month comes as one monthly archive, once that is published. A month without one, or of which the cache
covers a part, comes as daily archives. The rest is in no archive: the REST interface may have it. The download
tells the planner which archives turned out to be unavailable and asks again, until nothing is left to fetch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ckvd.model.calendar import days_of, months_of, publication_ms
from ckvd.model.grid import Grid, closed_part
from ckvd.model.timespan import difference

if TYPE_CHECKING:
    from collections.abc import Callable, Container, Iterable, Sequence

    from ckvd.cache.coverage import Covered
    from ckvd.model.calendar import Period
    from ckvd.model.market import SeriesKey
    from ckvd.model.timespan import Span


def plan(
    series: SeriesKey,
    wanted: Span,
    covered: Sequence[Covered],
    *,
    now_ms: int,
    unavailable: Container[Period] = frozenset(),
) -> tuple[Period, ...]:
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
    tuple of Period
        Disjoint, in order of time. Each archive brings all of its period, and overlaps nothing that is covered and
        not due. What is wanted, closed and not covered may be in none of them.
    """
    firm = [held.span for held in covered if not held.is_due(now_ms)]
    # Archives are whole months where the phase of bars matters, so that it need not be known.
    needed = difference([closed_part(wanted, Grid.of(series.interval), now_ms)], firm)

    def is_to_fetch(period: Period) -> bool:
        is_published = publication_ms(period) <= now_ms and period not in unavailable
        return is_published and not any(map(period.span.overlaps, firm))

    archives: list[Period] = []
    for month in _touched(needed, months_of):
        if is_to_fetch(month):
            archives.append(month)
        elif series.interval.has_daily_archives:
            lacking = [span.intersection(month.span) for span in needed if span.overlaps(month.span)]
            archives += filter(is_to_fetch, _touched(lacking, days_of))
    return tuple(archives)


def _touched(spans: Iterable[Span], periods_of: Callable[[Span], Iterable[Period]]) -> Iterable[Period]:
    """The months or days that overlap some spans in order, each once."""
    return dict.fromkeys(period for span in spans for period in periods_of(span))

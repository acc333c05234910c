"""Which archives to fetch. Pure: values in, values out.

A closed month comes as one monthly archive, once that is published. A month without one, or of which the cache
covers a part, comes as daily archives; where a day has none, the monthly archive is fetched for the part. The rest
is in no archive: the REST interface may have it. The download tells the planner which archives turned out to be
unavailable and asks again, until nothing is left to fetch.

An archive may overlap what is covered, because a part of its period was pruned, set aside or never fetched. It is
fetched whole, and only stored where the cache has nothing to keep (`ckvd.acquisition.ingest`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ckvd.model.calendar import days_of, months_of, publication_ms
from ckvd.model.grid import Grid, closed_part
from ckvd.model.schema import has_daily_archives, has_monthly_archives
from ckvd.model.timespan import difference

if TYPE_CHECKING:
    from collections.abc import Callable, Container, Iterable, Sequence

    from ckvd.cache.coverage import Covered
    from ckvd.model.calendar import Period
    from ckvd.model.market import SeriesKey
    from ckvd.model.timespan import Span


@dataclass(frozen=True, slots=True)
class Wanted:
    """What is wanted of one series.

    Attributes
    ----------
    series : SeriesKey
    span : Span
    left_out : tuple of Span
        Parts of the span that nobody asked for. Nothing is fetched for them.
    """

    series: SeriesKey
    span: Span
    left_out: tuple[Span, ...] = ()


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
        Disjoint, in order of time. Each archive brings something that is wanted, closed and not covered, or covered
        and due. Some of that may be in none of them.
    """
    firm = [held.span for held in covered if not held.is_due(now_ms)]
    # Archives are whole months where the phase of bars matters, so that it need not be known.
    needed = difference([closed_part(wanted, Grid.of(series.interval), now_ms)], firm)

    def is_available(period: Period) -> bool:
        return publication_ms(period) <= now_ms and period not in unavailable

    archives: list[Period] = []
    for month in _touched(needed, months_of):
        lacking = [span.intersection(month.span) for span in needed if span.overlaps(month.span)]
        has_month = has_monthly_archives(series) and is_available(month)
        if has_month and not any(map(month.span.overlaps, firm)):
            archives.append(month)
            continue
        days = list(_touched(lacking, days_of)) if has_daily_archives(series) else []
        available = list(filter(is_available, days))
        # Days do for a month that is held in part, if all of them are there.
        archives += [month] if has_month and (not days or len(available) < len(days)) else available
    return tuple(archives)


def _touched(spans: Iterable[Span], periods_of: Callable[[Span], Iterable[Period]]) -> Iterable[Period]:
    """The months or days that overlap some spans in order, each once."""
    return dict.fromkeys(period for span in spans for period in periods_of(span))

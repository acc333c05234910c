"""Which request comes next, and whether a page answers its request. Pure.

A page with fewer rows than its limit has all bars of its span. A full page may have been cut, and what is left of
the span is requested again: on the side where the exchange cuts, all of it; on the other side, only a part that has
room for a bar of the grid, so that no bar is lost if the exchange cuts on the unexpected side. Settlements of
funding have no grid, and their pages are seldom full: what is left is requested on both sides. Each request is for
a smaller span than the one before, so that holes, bars off the grid and wrong pages cannot make an endless loop.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ckvd.model.grid import Grid
from ckvd.model.stray_bars import interval_fault
from ckvd.model.timespan import Span

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ckvd.model.market import Interval
    from ckvd.model.table import Times
    from ckvd.rest.endpoint import MarketRules


@dataclass(frozen=True, slots=True)
class PageRequest:
    """A request for one page: the span in which its bars open, and the most rows that it may have."""

    span: Span
    limit: int


def windows(span: Span, rules: MarketRules) -> Iterator[Span]:
    """Cut a span into windows no longer than one request may ask for, in order."""
    length_ms = rules.span_max_ms or max(1, span.length_ms)
    for start_ms in range(span.start_ms, span.end_ms, length_ms):
        yield Span(start_ms, min(span.end_ms, start_ms + length_ms))


def request_for(span: Span, interval: Interval | None, rules: MarketRules) -> PageRequest:
    """The next request for a span.

    Its limit is one row more than the grid may have bars, so that a page with all of them is not full.
    """
    if interval is None:
        return PageRequest(span, rules.page_rows)
    return PageRequest(span, min(rules.page_rows, Grid.of(interval).count_max(span) + 1))


def fault_of(asked: PageRequest, opens_ms: Times, closes_ms: Times | None, interval: Interval | None) -> str | None:
    """Why a page does not answer its request; None if it does.

    Bars of another interval are no answer, and with those of a shorter one, reading on would take for ever.

    Parameters
    ----------
    asked : PageRequest
    opens_ms, closes_ms : ndarray of int64, shape (n,)
        The open and close times of the rows, in the order of the page. Settlements of funding have no close times.
    interval : Interval or None
    """
    if len(opens_ms) > asked.limit:
        return f"expected at most {asked.limit} rows, found {len(opens_ms)}"
    if not len(opens_ms):
        return None
    if np.any(opens_ms[1:] <= opens_ms[:-1]):
        row = int(np.argmax(opens_ms[1:] <= opens_ms[:-1]))
        return f"expected ascending open times, found {opens_ms[row]} before {opens_ms[row + 1]}"
    first_ms, last_ms = int(opens_ms[0]), int(opens_ms[-1])
    if first_ms not in asked.span or last_ms not in asked.span:
        rows = "settlements" if interval is None else "bars that open"
        return f"expected {rows} in {asked.span}, found {first_ms} to {last_ms}: the page does not advance"
    if closes_ms is None or interval is None:
        return None
    return interval_fault(opens_ms, closes_ms, interval)


def left_over(
    asked: PageRequest, opens_ms: Times, interval: Interval | None, rules: MarketRules
) -> tuple[Span, ...]:
    """The spans still to be requested after a page without fault, in order."""
    if len(opens_ms) < asked.limit:
        return ()
    before = Span(asked.span.start_ms, int(opens_ms[0]))
    after = Span(int(opens_ms[-1]) + 1, asked.span.end_ms)
    cut = before if rules.is_newest_first else after
    grid = Grid.of_bars(interval, opens_ms)
    is_anywhere = grid.is_of_events
    return tuple(left for left in (before, after) if left and (is_anywhere or left is cut or grid.count_max(left)))

"""Which request comes next, and what of an answer is data. Pure.

A page with fewer rows than were asked for holds all bars of its span. A full one may have been cut, and what is
left of the span is asked for again: on the side where the exchange cuts, all that is left; on the other side, what
has room for a bar of the grid, so that no bar is lost where an answer is cut on the side that was not expected.
Each request is for less than the one before it, so that holes, bars off the grid and strange answers all come to
an end. Imports `timespan`, `kline` and `endpoint`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from ckvd.model.calendar import grid_count, grid_floor
from ckvd.model.timespan import Span

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ckvd.model.market import Interval
    from ckvd.model.table import Times
    from ckvd.rest.endpoint import MarketRules

# Bars have been off their grid where trading was halted, and two have opened in one cell of it. Many more than the
# grid has are no bars of this interval, and reading on would take for ever.
_STRAY_BARS_MAX: Final = 16


@dataclass(frozen=True, slots=True)
class PageRequest:
    """A request for one page.

    Attributes
    ----------
    span : Span
        Where the bars open.
    limit : int
        The most rows to answer with.
    """

    span: Span
    limit: int


def windows(span: Span, rules: MarketRules) -> Iterator[Span]:
    """A span in pieces that the exchange answers, in order."""
    length_ms = rules.span_max_ms or max(1, span.length_ms)
    for start_ms in range(span.start_ms, span.end_ms, length_ms):
        yield Span(start_ms, min(span.end_ms, start_ms + length_ms))


def request_for(span: Span, interval: Interval, rules: MarketRules) -> PageRequest:
    """The next request for a span.

    It asks for one row more than the grid has bars, so that a page with all of them is not full.
    """
    return PageRequest(span, min(rules.page_rows, grid_count(span, interval) + 1))


def fault_of(asked: PageRequest, opens_ms: Times, interval: Interval) -> str | None:
    """Why a page is no answer to its request; None if it is one.

    Parameters
    ----------
    asked : PageRequest
    opens_ms : ndarray of int64, shape (n,)
        The open times of the rows, in the order of the answer.
    interval : Interval
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
        return f"expected bars that open in {asked.span}, found {first_ms} to {last_ms}: the page does not advance"
    cell_count = grid_count(Span(first_ms, last_ms + 1), interval)
    if len(opens_ms) > 2 * cell_count + _STRAY_BARS_MAX:
        return f"found {len(opens_ms)} bars where the grid has {cell_count}"
    return None


def left_over(asked: PageRequest, opens_ms: Times, interval: Interval, rules: MarketRules) -> tuple[Span, ...]:
    """What is still to be asked for after a page without fault, in order."""
    if len(opens_ms) < asked.limit:
        return ()
    before = Span(asked.span.start_ms, int(opens_ms[0]))
    after = Span(int(opens_ms[-1]) + 1, asked.span.end_ms)
    cut = before if rules.is_newest_first else after
    return tuple(part for part in (before, after) if part and (part is cut or grid_count(part, interval)))


def closed_count(open_ms: Times, close_ms: Times, interval: Interval, now_ms: int) -> int:
    """How many bars were closed at a time: those before the first that was not.

    A bar is closed when its own close time has passed, and its cell of the grid is over: the exchange has ended
    bars early, where trading was halted.

    Parameters
    ----------
    open_ms, close_ms : ndarray of int64, shape (n,)
        Ascending by open time.
    interval : Interval
    now_ms : int
    """
    is_open = (close_ms >= now_ms) | (open_ms >= grid_floor(now_ms, interval))
    return int(np.argmax(is_open)) if np.any(is_open) else len(open_ms)

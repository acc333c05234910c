"""Paging against a model: every bar of a span is fetched once, with any page size and any gaps."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ckvd.model.grid import regular_close_times
from ckvd.model.market import Interval
from ckvd.model.timespan import Span
from ckvd.rest.endpoint import MarketRules
from ckvd.rest.pages import PageRequest, fault_of, left_over, request_for, windows
from support import strategies
from support.models import MINUTE_MS, bar_start

if TYPE_CHECKING:
    from collections.abc import Sequence


def serve(opens: Sequence[int], asked: PageRequest, *, is_newest_first: bool) -> list[int]:
    found = [open_ms for open_ms in opens if open_ms in asked.span]
    return found[-asked.limit :] if is_newest_first else found[: asked.limit]


def walk(
    opens: Sequence[int], span: Span, interval: Interval, rules: MarketRules, is_newest_first: bool
) -> list[int]:
    """Fetch a span from a list of open times, and count the requests."""
    collected: list[int] = []
    request_count = 0
    for window in windows(span, rules):
        left = [window]
        while left:
            asked = request_for(left.pop(), interval, rules)
            page = np.array(serve(opens, asked, is_newest_first=is_newest_first), np.int64)
            assert fault_of(asked, page, regular_close_times(page, interval), interval) is None
            collected += page.tolist()
            left += left_over(asked, page, interval, rules)
            request_count += 1
            assert request_count <= 3 * len(opens) + 3 * len(list(windows(span, rules))) + 3
    return sorted(collected)


@given(
    data=st.data(),
    interval=st.sampled_from([Interval.M1, Interval.H1, Interval.D1, Interval.D3, Interval.W1, Interval.MO1]),
    page_rows=st.integers(1, 5),
    is_newest_first=st.booleans(),
    is_cut_as_documented=st.booleans(),
    is_short_of_time=st.booleans(),
)
def test_pages_of_any_size_bring_every_bar_once(
    data: st.DataObject,
    interval: Interval,
    page_rows: int,
    is_newest_first: bool,
    is_cut_as_documented: bool,
    is_short_of_time: bool,
) -> None:
    span = data.draw(strategies.segment_spans(interval, 30))
    opens = data.draw(strategies.open_times(span, interval))
    if not is_cut_as_documented:  # No bar of the grid is lost even then.
        opens = [open_ms for open_ms in opens if bar_start(open_ms, interval) == open_ms]
    span_max_ms = max(1, span.length_ms // 3) if is_short_of_time else None
    rules = MarketRules("", ((page_rows, 1),), span_max_ms, is_newest_first=is_newest_first == is_cut_as_documented)
    wanted = data.draw(strategies.spans(span.start_ms, span.end_ms))
    expected = [open_ms for open_ms in opens if open_ms in wanted]
    assert walk(opens, wanted, interval, rules, is_newest_first) == expected


@pytest.mark.parametrize(
    ("opens", "is_newest_first"),
    [([60, 120, 130], False), ([10, 60, 120], True)],
    ids=["the last is cut off", "the first is cut off"],
)
def test_a_stray_bar_behind_a_full_page_is_not_lost(opens: list[int], is_newest_first: bool) -> None:
    opens_ms = [minute * MINUTE_MS for minute in opens]
    span = Span(opens_ms[0] - 1, opens_ms[-1] + 1)
    rules = MarketRules("", ((2, 1),), is_newest_first=is_newest_first)
    assert walk(opens_ms, span, Interval.H1, rules, is_newest_first) == opens_ms

"""The weight budget and the clock of a host, against a simulated exchange and step by step."""

from __future__ import annotations

import heapq
from collections import Counter
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from ckvd.rest.weight import RequestBudget, ServerClock, WeightBudget

delays = st.integers(0, 90_000).map(lambda delay_ms: delay_ms / 1000)


@given(
    requests=st.lists(st.tuples(delays, st.integers(1, 10), delays, delays), min_size=1, max_size=40),
    capacity=st.integers(10, 40),
    ahead_s=st.floats(-100, 100),
    guess_s=st.floats(-200, 200),
    is_dated=st.booleans(),
)
@example(requests=[(0.0, 4, 1.0, 0.0), (0.0, 7, 0.0, 0.0)], capacity=10, ahead_s=0.0, guess_s=1.0, is_dated=True)
@example(requests=[(0.0, 4, 21.0, 0.0), (0.0, 7, 0.0, 0.0)], capacity=10, ahead_s=19.0, guess_s=0.0, is_dated=False)
def test_no_order_of_events_exceeds_the_capacity(
    requests: list[tuple[float, int, float, float]],
    capacity: int,
    ahead_s: float,
    guess_s: float,
    is_dated: bool,
) -> None:
    """Requests start at any time, and take any time to the exchange and back. The clocks differ."""
    if not is_dated:  # Then only the clock of this machine counts, and it has to be right.
        guess_s = ahead_s
    start_s = 1_700_000_000.0
    budget = WeightBudget(capacity, ServerClock(guess_s), share=1.0)
    counted: Counter[int] = Counter()
    events: list[tuple[float, int, str, tuple[Any, ...]]] = []
    number = 0

    def at(moment_s: float, what: str, *details: Any) -> None:
        nonlocal number
        number += 1
        heapq.heappush(events, (moment_s, number, what, details))

    for come_s, weight, there_s, back_s in requests:
        at(start_s + come_s, "ask", weight, there_s, back_s)
    sent_count = 0
    while events:
        now_s, _, what, details = heapq.heappop(events)
        if what == "ask":
            weight, there_s, back_s = details
            if wait_s := budget.wait_s(weight, now_s):
                at(now_s + wait_s, what, *details)
            else:
                budget.reserve(weight)
                sent_count += 1
                at(now_s + there_s, "count", weight, now_s, back_s)
        elif what == "count":
            weight, sent_s, back_s = details
            window = int((now_s + ahead_s) // 60)
            counted[window] += weight
            assert counted[window] <= capacity
            date_s = int(now_s + ahead_s) if is_dated else None
            at(now_s + back_s, "settle", weight, counted[window], date_s, sent_s)
        else:
            weight, used, date_s, sent_s = details
            budget.settle(weight, used=used, date_s=date_s, sent_s=sent_s, now_s=now_s)
    assert sent_count == len(requests)
    assert budget.in_flight == 0


def test_a_request_heavier_than_the_budget_goes_alone() -> None:
    budget = WeightBudget(5, ServerClock(0.0), share=1.0)
    assert budget.wait_s(10, 60.0) == 0
    budget.reserve(10)
    assert budget.wait_s(1, 60.0) > 0
    budget.settle(10, used=10, date_s=60, sent_s=60.0, now_s=60.0)
    assert budget.wait_s(10, 61.0) == pytest.approx(59.0, abs=0.01)
    assert budget.wait_s(10, 120.1) == 0


def test_requests_without_an_answer_count() -> None:
    budget = WeightBudget(10, ServerClock(0.0), share=1.0)
    for _ in range(5):
        assert budget.wait_s(2, 60.0) == 0
        budget.reserve(2)
        budget.lose(2)
    assert budget.wait_s(2, 60.0) > 0
    assert repr(budget) == "<WeightBudget: 10 used, 0 under way, of 10>"


def test_answers_that_do_not_tell_the_sum_are_added_up() -> None:
    budget = WeightBudget(10, ServerClock(0.0), share=1.0)
    for date_s in (60, 61, None):
        budget.reserve(3)
        budget.settle(3, used=None, date_s=date_s, sent_s=60.0, now_s=61.0)
    assert budget.used == 9


def test_a_clock_that_was_thought_ahead_is_set_back() -> None:
    clock = ServerClock(30.0)
    assert clock.observe(100, 99.5, 100.5)
    assert clock.earliest_s(100.5) == 100.0
    assert not clock.observe(101, 101.0, 101.2)
    assert clock.earliest_s(101.2) == pytest.approx(101.0)
    # A slow response bounds the clock less closely, and takes nothing back.
    assert not clock.observe(101, 101.3, 105.0)
    assert clock.earliest_s(105.0) == pytest.approx(104.8)


def test_a_minute_that_was_begun_too_early_goes_on() -> None:
    budget = WeightBudget(10, ServerClock(5.0), share=1.0)
    assert budget.wait_s(8, 56.0) == 0
    budget.reserve(8)
    budget.settle(8, used=10, date_s=56, sent_s=56.0, now_s=56.5)
    assert budget.used == 10
    assert budget.wait_s(1, 58.0) == pytest.approx(2.5, abs=0.1)
    assert budget.wait_s(1, 61.0) == 0


@given(
    limit=st.integers(1, 6),
    steps=st.lists(st.tuples(st.sampled_from(["send", "answer", "fail"]), st.integers(0, 30), st.floats(0, 1))),
)
def test_no_stretch_of_time_has_more_requests_than_the_limit(
    limit: int, steps: list[tuple[str, int, float]]
) -> None:
    """At whatever moment between its sending and its end the exchange counts a request."""
    now_s = 0.0
    budget = RequestBudget(limit, lambda: now_s, window_s=50, share=1)
    under_way_s: list[float] = []
    counted_s: list[float] = []
    for action, pause_s, share in steps:
        now_s += pause_s
        if action == "send":
            wait_s = budget.wait_s(1, now_s)
            if not wait_s:
                budget.reserve(1)
                under_way_s.append(now_s)
            elif len(under_way_s) < limit:
                assert wait_s <= 51
        elif under_way_s:
            end = budget.settle if action == "answer" else budget.lose
            end(1)
            sent_s = under_way_s.pop()
            counted_s.append(sent_s + share * (now_s - sent_s))
    for last_s in counted_s:
        assert sum(last_s - 50 <= one_s <= last_s for one_s in counted_s) <= limit


def test_requests_that_ended_long_enough_ago_leave_room() -> None:
    now_s = 0.0
    budget = RequestBudget(2, lambda: now_s, window_s=50, share=1)
    for now_s in (0.0, 10.0):
        assert budget.wait_s(1, now_s) == 0
        budget.reserve(1)
        budget.settle(1)
    wait_s = budget.wait_s(1, 20)
    assert 30 < wait_s < 30.1
    assert budget.wait_s(1, 20 + wait_s) == 0


def test_a_pause_holds_for_requests_too() -> None:
    budget = RequestBudget(2, lambda: 0.0, window_s=50, share=1)
    budget.pause(7)
    assert budget.wait_s(1, 0) == 7
    assert budget.wait_s(1, 7) == 0

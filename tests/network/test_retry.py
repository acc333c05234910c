from __future__ import annotations

import datetime as dt
import random
from email.utils import format_datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ckvd.errors import HttpStatusError, NetworkError, NetworkTimeoutError
from ckvd.network.response import Head
from ckvd.network.retry import Failure, RetryPolicy, failure_of_status, parse_retry_after

NOW = dt.datetime(2026, 1, 2, 3, 4, 5, tzinfo=dt.UTC)
POLICY = RetryPolicy(attempts_max=5, backoff_first_s=0.5, backoff_max_s=30.0, retry_after_max_s=120.0)


def failure(*, is_transient: bool = True, retry_after_s: float | None = None) -> Failure:
    return Failure("http://host/x", "it broke", is_transient=is_transient, retry_after_s=retry_after_s)


@given(st.integers(1, 10_000), st.integers())
def test_a_wait_lies_between_zero_and_a_limit_that_doubles_up_to_its_maximum(attempt: int, seed: int) -> None:
    policy = RetryPolicy(attempts_max=100_000, backoff_first_s=0.5, backoff_max_s=30.0)
    wait_s = policy.wait_s(attempt, failure(), random.Random(seed))
    assert wait_s is not None
    assert 0.0 <= wait_s <= min(30.0, 0.5 * 2 ** min(attempt - 1, 10))


@given(st.integers(1, 4), st.floats(0, 120), st.integers())
def test_a_server_that_names_a_pause_gets_it_and_the_jitter(attempt: int, pause_s: float, seed: int) -> None:
    wait_s = POLICY.wait_s(attempt, failure(retry_after_s=pause_s), random.Random(seed))
    assert wait_s is not None
    assert pause_s <= wait_s <= pause_s + POLICY.backoff_limit_s(attempt)


def test_the_same_seed_waits_the_same() -> None:
    waits = [[POLICY.wait_s(n, failure(), rng) for n in range(1, 5)] for rng in map(random.Random, (7, 7, 8))]
    assert waits[0] == waits[1] != waits[2]


@pytest.mark.parametrize(
    ("attempt", "last"),
    [
        (5, failure()),
        (6, failure()),
        (1, failure(is_transient=False)),
        (1, failure(retry_after_s=120.5)),
        (1, failure(retry_after_s=float("inf"))),
    ],
)
def test_it_gives_up_after_the_last_attempt_for_good_reasons_and_for_long_pauses(
    attempt: int, last: Failure
) -> None:
    assert POLICY.wait_s(attempt, last, random.Random(0)) is None


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 504, 599])
def test_too_fast_and_server_errors_are_worth_another_attempt(status: int) -> None:
    found = failure_of_status(Head("http://host/x", status, {"retry-after": "3"}), NOW)
    assert found is not None
    assert found.is_transient
    assert found.retry_after_s == 3.0
    assert isinstance(found.to_error(), HttpStatusError)
    assert found.to_error().status == status


@pytest.mark.parametrize("status", [200, 204, 206, 301, 400, 401, 403, 404, 410, 416, 418, 451])
def test_every_other_status_is_an_answer(status: int) -> None:
    assert failure_of_status(Head("http://host/x", status, {"retry-after": "3"}), NOW) is None


@pytest.mark.parametrize(
    ("text", "pause_s"),
    [
        ("0", 0.0),
        (" 17 ", 17.0),
        ("1.5", 1.5),
        ("9" * 400, 100 * 366 * 86_400.0),
        (format_datetime(NOW + dt.timedelta(seconds=90), usegmt=True), 90.0),
        ("Fri, 02 Jan 2026 03:05:05 -0000", 60.0),
        ("Fri, 02 Jan 2026 04:04:06 +0100", 1.0),
        (format_datetime(NOW - dt.timedelta(days=1), usegmt=True), 0.0),
        ("", None),
        ("-5", None),
        ("soon", None),
        ("٣", None),
        ("Mon, 99 Jan 2026 03:05:05 GMT", None),
    ],
)
def test_retry_after_is_seconds_or_a_date(text: str, pause_s: float | None) -> None:
    assert parse_retry_after(text, NOW) == pause_s


@given(st.text())
def test_any_retry_after_is_a_pause_or_nothing(text: str) -> None:
    pause_s = parse_retry_after(text, NOW)
    assert pause_s is None or pause_s >= 0.0


def test_a_date_counts_from_the_time_of_the_server_when_it_tells() -> None:
    headers = {"retry-after": "Fri, 02 Jan 2026 12:00:30 GMT", "date": "Fri, 02 Jan 2026 12:00:00 GMT"}
    found = failure_of_status(Head("http://host/x", 503, headers), NOW)
    assert found is not None
    assert found.retry_after_s == 30.0


def test_the_error_says_what_was_asked_for_why_it_failed_and_how_often() -> None:
    timeout = Failure("http://host/x", "it stalled", is_transient=True, error_type=NetworkTimeoutError)
    error = timeout.to_error(5)
    assert isinstance(error, NetworkTimeoutError)
    assert isinstance(error, NetworkError)
    assert isinstance(error, TimeoutError)
    assert (error.url, error.status) == ("http://host/x", None)
    assert str(error) == "http://host/x: it stalled (attempt 5, the last)"
    assert "asks to wait 600 s" in str(failure(retry_after_s=600.0).to_error())

"""Periods of archives, compared with a slow model that uses `datetime`."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from ckvd.errors import TimeError
from ckvd.model.calendar import (
    Cadence,
    Period,
    days_of,
    month_start_ms,
    months_of,
    next_month_ms,
)
from ckvd.model.market import Interval
from ckvd.model.timespan import Span
from support.models import DAY_MS, bar_end, bar_start, ms
from support.strategies import moments

# --- Months and days ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("label", "cadence", "start_ms", "canonical"),
    [
        ("2024-02", Cadence.MONTHLY, ms(2024, 2, 1), "2024-02"),
        ("2020-8", Cadence.MONTHLY, ms(2020, 8, 1), "2020-08"),
        ("2024-02-29", Cadence.DAILY, ms(2024, 2, 29), "2024-02-29"),
        ("2020-8-5", Cadence.DAILY, ms(2020, 8, 5), "2020-08-05"),
        ("2020-08-5", Cadence.DAILY, ms(2020, 8, 5), "2020-08-05"),
    ],
)
def test_a_label_is_read_with_or_without_leading_zeros(
    label: str, cadence: Cadence, start_ms: int, canonical: str
) -> None:
    period = Period.of_label(label)
    assert period == Period(start_ms, cadence)
    assert period.label == str(period) == canonical


@pytest.mark.parametrize(
    "label",
    [
        "",
        "2024",
        "2024-",
        "2024-00",
        "2024-13",
        "2024-02-30",
        "2023-02-29",
        "2024-01-00",
        "0000-01",
        "2024-001",
        "2024-01-01-01",
        "24-01",
        "2024_01",
        " 2024-01",
        "2024-01\n",
        "-2024-01",
        "\N{FULLWIDTH DIGIT TWO}024-02",
    ],
)
def test_a_label_that_names_no_month_or_day_is_refused(label: str) -> None:
    with pytest.raises(TimeError, match="is no archive period: expected YYYY-MM or YYYY-MM-DD"):
        Period.of_label(label)


@given(moments(0, ms(2200, 1, 1) - 1), st.sampled_from(Cadence))
def test_a_period_is_equal_to_the_one_that_its_label_names(moment_ms: int, cadence: Cadence) -> None:
    periods = list((months_of if cadence is Cadence.MONTHLY else days_of)(Span(moment_ms, moment_ms + 1)))
    assert [Period.of_label(period.label) for period in periods] == periods
    assert [moment_ms in period.span for period in periods] == [True]


def test_a_month_is_as_long_as_the_calendar_has_it() -> None:
    lengths = [Period.of_label(f"{year}-02").span.length_ms // DAY_MS for year in (2000, 2023, 2024, 2100)]
    assert lengths == [29, 28, 29, 28]
    assert Period.of_label("2023-12").span == Span(ms(2023, 12, 1), ms(2024, 1, 1))
    assert Period.of_label("2024-02-29").span == Span(ms(2024, 2, 29), ms(2024, 3, 1))


@given(moments(), st.integers(0, 100 * DAY_MS))
@example(ms(2024, 1, 31), 0)
@example(ms(2024, 1, 31), DAY_MS)
@example(ms(2024, 1, 31), DAY_MS + 1)
def test_the_months_and_days_of_a_span_are_those_that_overlap_it(start_ms: int, length_ms: int) -> None:
    span = Span(start_ms, start_ms + length_ms)
    for of_span, interval in ((months_of, Interval.MO1), (days_of, Interval.D1)):
        expected = []
        point_ms = bar_start(start_ms, interval)
        while point_ms < span.end_ms and span:
            expected.append(Span(point_ms, point_ms := bar_end(point_ms, interval)))
        assert [period.span for period in of_span(span)] == expected


@given(moments(0))
def test_the_months_around_a_moment_are_those_of_the_calendar(moment_ms: int) -> None:
    assert month_start_ms(moment_ms) == bar_start(moment_ms, Interval.MO1)
    assert next_month_ms(moment_ms) == bar_end(moment_ms, Interval.MO1)

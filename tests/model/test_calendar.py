"""Periods of archives, and the grid of every interval compared with a slow model that uses `datetime`."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from ckvd.errors import TimeError
from ckvd.model.calendar import (
    Cadence,
    Period,
    days_of,
    grid_ceil,
    grid_count,
    grid_floor,
    grid_floors,
    grid_index,
    grid_next,
    grid_opens,
    grid_origin_ms,
    grid_points,
    month_start_ms,
    months_of,
    next_month_ms,
    regular_close_times,
)
from ckvd.model.market import Interval
from ckvd.model.timespan import Span
from support.models import DAY_MS, bar_end, bar_start, bar_starts, ms
from support.strategies import moments

intervals = st.sampled_from(Interval)
each_interval = pytest.mark.parametrize("interval", Interval)
# So many examples that each of the sixteen intervals gets some.
MANY = settings(max_examples=250)


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


# --- The grid of bars --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("interval", "moment_ms", "start_ms", "end_ms"),
    [
        # 2024-02-29 was a Thursday; the week began on Monday the 26th.
        (Interval.W1, ms(2024, 2, 29, 12), ms(2024, 2, 26), ms(2024, 3, 4)),
        (Interval.W1, ms(2024, 2, 26), ms(2024, 2, 26), ms(2024, 3, 4)),
        (Interval.W1, ms(2024, 2, 26) - 1, ms(2024, 2, 19), ms(2024, 2, 26)),
        # Bars of three days count from 1970-01-01, whatever the month: 19,782 days to 2024-02-29 are 3 x 6,594.
        (Interval.D3, ms(2024, 2, 29, 12), ms(2024, 2, 29), ms(2024, 3, 3)),
        (Interval.D3, ms(2024, 2, 28), ms(2024, 2, 26), ms(2024, 2, 29)),
        (Interval.D3, 0, 0, 3 * DAY_MS),
        (Interval.MO1, ms(2024, 2, 29, 12), ms(2024, 2, 1), ms(2024, 3, 1)),
        (Interval.MO1, ms(2023, 2, 28), ms(2023, 2, 1), ms(2023, 3, 1)),
        (Interval.MO1, ms(2023, 12, 31), ms(2023, 12, 1), ms(2024, 1, 1)),
        (Interval.H8, ms(2024, 2, 29, 15), ms(2024, 2, 29, 8), ms(2024, 2, 29, 16)),
    ],
)
def test_bars_of_days_weeks_and_months_lie_where_the_exchange_has_them(
    interval: Interval, moment_ms: int, start_ms: int, end_ms: int
) -> None:
    assert (grid_floor(moment_ms, interval), grid_next(moment_ms, interval)) == (start_ms, end_ms)
    assert (bar_start(moment_ms, interval), bar_end(moment_ms, interval)) == (start_ms, end_ms)


@MANY
@given(intervals, moments(0))
def test_floor_next_and_ceil_of_a_moment_are_those_of_the_calendar(interval: Interval, moment_ms: int) -> None:
    start_ms, end_ms = bar_start(moment_ms, interval), bar_end(moment_ms, interval)
    assert grid_floor(moment_ms, interval) == start_ms
    assert grid_next(moment_ms, interval) == end_ms
    assert grid_ceil(moment_ms, interval) == (start_ms if start_ms == moment_ms else end_ms)


@MANY
@given(intervals, moments(0), st.integers(0, 20), st.integers(-1, 1))
def test_the_points_of_a_span_are_listed_and_counted_as_by_the_model(
    interval: Interval, start_ms: int, bar_count: int, shift_ms: int
) -> None:
    end_ms = start_ms
    for _ in range(bar_count):
        end_ms = bar_end(end_ms, interval)
    span = Span(start_ms, max(start_ms, end_ms + shift_ms))
    opens = grid_opens(span, interval)
    assert opens.dtype == np.int64
    assert opens.tolist() == bar_starts(span, interval)
    assert grid_count(span, interval) == len(opens)


@MANY
@given(intervals, moments(0))
def test_neighbouring_slots_have_neighbouring_numbers_and_a_number_gives_the_start_of_its_slot(
    interval: Interval, moment_ms: int
) -> None:
    start_ms, end_ms = bar_start(moment_ms, interval), bar_end(moment_ms, interval)
    moments_ms = np.array([start_ms - 1, start_ms, moment_ms, end_ms - 1, end_ms])
    before, first, within, last, after = grid_index(moments_ms, interval).tolist()
    assert before + 1 == first == within == last == after - 1
    assert grid_points(np.array([first, after]), interval).tolist() == [start_ms, end_ms]


@given(intervals, st.lists(moments(0), max_size=5))
def test_arrays_of_moments_give_the_same_as_single_moments(interval: Interval, some: list[int]) -> None:
    moments_ms = np.array(some, np.int64)
    assert grid_floors(moments_ms, interval).tolist() == [bar_start(moment, interval) for moment in some]
    opens = grid_floors(moments_ms, interval)
    expected = [bar_end(open_ms, interval) - 1 for open_ms in opens.tolist()]
    assert regular_close_times(opens, interval).tolist() == expected


LATE = np.array([ms(2024, 2, 5, 0, 0, 14)])


def test_a_late_bar_closes_an_interval_after_its_open() -> None:
    assert regular_close_times(LATE, Interval.H1).tolist() == [ms(2024, 2, 5, 1, 0, 14) - 1]


def test_a_late_bar_of_a_month_closes_at_the_end_of_its_month() -> None:
    assert regular_close_times(LATE, Interval.MO1).tolist() == [ms(2024, 3, 1) - 1]


@each_interval
def test_the_origin_of_a_grid_is_one_of_its_points(interval: Interval) -> None:
    origin_ms = grid_origin_ms(interval)
    assert grid_floor(origin_ms, interval) == origin_ms == bar_start(origin_ms, interval)

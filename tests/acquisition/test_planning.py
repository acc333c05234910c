"""Plans, against a model that decides for every four hours by themselves."""

from __future__ import annotations

import calendar
import datetime as dt
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ckvd.acquisition.planning import plan
from ckvd.cache.coverage import Covered
from ckvd.model.calendar import Cadence, Period, days_of, months_of, publication_ms
from ckvd.model.grid import closed_part
from ckvd.model.market import Interval, SeriesKey
from ckvd.model.timespan import Span
from support.models import (
    DAY_MS,
    EPOCH,
    HOUR_MS,
    MILLISECOND,
    bar_end,
    bar_start,
    grid_of,
    moments_of,
    ms,
    utc,
)  # fmt: skip
from support.strategies import moments, spans

if TYPE_CHECKING:
    from collections.abc import Iterable

# The model counts time in slots of four hours: days are published at 08:00, and most bars end on such an hour.
SLOT_MS = 4 * HOUR_MS
# The second of these months has a leap day; a Monday follows on the third, which is published then.
FIRST_MS, LAST_MS = ms(2024, 1, 1), ms(2024, 4, 1)
MONTHS = list(months_of(Span(FIRST_MS, LAST_MS)))
SOME = settings(max_examples=60)
PERIODS = [*MONTHS, *days_of(Span(FIRST_MS, LAST_MS))]


def slots_of(some: Iterable[Span]) -> set[int]:
    return moments_of(some, SLOT_MS)


@cache
def slot_end(slot: int, interval: Interval) -> int:
    """When all bars that hold a moment of a slot are over."""
    return bar_end((slot + 1) * SLOT_MS - 1, interval)


@dataclass(frozen=True)
class Situation:
    """What a plan is made of. All times are bounds of slots."""

    interval: Interval
    wanted: Span
    covered: list[Covered]
    now_ms: int
    unavailable: frozenset[Period]

    @property
    def plan(self) -> tuple[Period, ...]:
        series = SeriesKey.of("BTCUSDT", self.interval)
        return plan(
            series,
            self.wanted,
            self.covered,
            now_ms=self.now_ms,
            unavailable=self.unavailable,
        )

    @property
    def firm(self) -> set[int]:
        """Slots that are covered, and not to be asked for again yet."""
        return slots_of(held.span for held in self.covered if held.recheck_ms == 0 or held.recheck_ms > self.now_ms)

    def can_be(self, period: Period) -> bool:
        """Whether an archive may be published, and is not known to be unavailable."""
        return publication_ms(period) <= self.now_ms and period not in self.unavailable

    @property
    def needed(self) -> set[int]:
        """Slots that are wanted, in a bar that has closed, and not firmly covered."""
        return {
            slot for slot in slots_of([self.wanted]) - self.firm if slot_end(slot, self.interval) <= self.now_ms
        }


@st.composite
def situations(draw: st.DrawFn) -> Situation:
    slots = spans(FIRST_MS, LAST_MS, SLOT_MS)
    days = spans(FIRST_MS, LAST_MS, DAY_MS)
    periods = st.sampled_from(PERIODS).map(lambda period: period.span)
    now_ms = draw(st.integers(FIRST_MS // SLOT_MS, (LAST_MS + 30 * DAY_MS) // SLOT_MS)) * SLOT_MS
    recheck_ms = st.sampled_from([0, 0, now_ms - DAY_MS, now_ms, now_ms + SLOT_MS])
    covered = st.lists(st.builds(Covered, slots | days | periods, recheck_ms), max_size=5)
    return Situation(
        interval=draw(
            st.sampled_from([Interval.M1, Interval.H1, Interval.H8, Interval.D1, Interval.W1, Interval.MO1])
        ),
        wanted=draw(slots | days),
        covered=draw(covered),
        now_ms=now_ms,
        unavailable=draw(st.frozensets(st.sampled_from(PERIODS), max_size=6)),
    )


# --- Properties --------------------------------------------------------------------------------------------


@SOME
@given(situations())
def test_archives_are_in_order_of_time_and_no_two_share_a_moment(situation: Situation) -> None:
    for one, other in pairwise(situation.plan):
        assert one.span.end_ms <= other.span.start_ms


@SOME
@given(situations())
def test_every_archive_brings_something_that_is_needed(situation: Situation) -> None:
    for period in situation.plan:
        assert slots_of([period.span]) & situation.needed


@SOME
@given(situations())
def test_no_archive_is_planned_before_it_can_be_there_or_known_not_to_be(situation: Situation) -> None:
    for period in situation.plan:
        assert situation.can_be(period)


@SOME
@given(situations())
def test_a_month_comes_as_days_where_a_part_of_it_is_there_and_else_as_one_archive(situation: Situation) -> None:
    planned = set(situation.plan)
    needed, firm = situation.needed, situation.firm
    for month in MONTHS:
        lacking = [day for day in days_of(month.span) if slots_of([day.span]) & needed]
        days = [day for day in lacking if situation.can_be(day)] if situation.interval.has_daily_archives else []
        is_monthly = bool(lacking) and situation.can_be(month)
        if slots_of([month.span]) & firm and days == lacking:
            is_monthly = False
        assert (month in planned) == is_monthly
        assert [day for day in days_of(month.span) if day in planned] == ([] if is_monthly else days)


@SOME
@given(situations())
def test_all_that_is_needed_is_in_the_plan_unless_no_archive_can_have_it(situation: Situation) -> None:
    planned = slots_of(period.span for period in situation.plan)
    cadences = [Cadence.MONTHLY, *([Cadence.DAILY] if situation.interval.has_daily_archives else [])]
    available = [period for period in PERIODS if period.cadence in cadences and situation.can_be(period)]
    assert planned >= situation.needed & slots_of(period.span for period in available)


@SOME
@given(situations())
def test_a_plan_that_was_carried_out_leaves_nothing_to_do(situation: Situation) -> None:
    found = situation.plan
    done = [Covered(archive.span) for archive in found]
    again = Situation(
        situation.interval,
        situation.wanted,
        situation.covered + done,
        situation.now_ms,
        situation.unavailable,
    ).plan
    assert again == ()


# --- Publication -------------------------------------------------------------------------------------------


@given(moments())
def test_a_day_is_published_on_the_next_one_after_eight_in_the_morning(moment_ms: int) -> None:
    (day,) = days_of(Span(moment_ms, moment_ms + 1))
    next_day = utc(day.start_ms) + dt.timedelta(days=1)
    assert publication_ms(day) == (next_day.replace(hour=8) - EPOCH) // MILLISECOND


@given(moments())
def test_a_month_is_published_on_the_first_monday_of_the_next_one(moment_ms: int) -> None:
    (month,) = months_of(Span(moment_ms, moment_ms + 1))
    start = utc(month.start_ms)
    first = start + dt.timedelta(days=calendar.monthrange(start.year, start.month)[1])
    mondays = [
        first + dt.timedelta(days=day) for day in range(7) if (first + dt.timedelta(days=day)).weekday() == 0
    ]
    assert publication_ms(month) == (mondays[0] - EPOCH) // MILLISECOND
    assert publication_ms(month) >= month.span.end_ms


@given(spans(FIRST_MS, LAST_MS), st.sampled_from(Interval), moments(FIRST_MS, LAST_MS))
def test_the_closed_part_of_a_span_ends_with_the_last_bar_that_closed(
    span: Span, interval: Interval, now_ms: int
) -> None:
    part = closed_part(span, grid_of(interval), now_ms)
    assert part.start_ms == span.start_ms
    assert span.covers(part)
    last_ms, start_ms = bar_start(part.end_ms - 1, interval), bar_start(part.end_ms, interval)
    following_ms = start_ms if start_ms == part.end_ms else bar_end(start_ms, interval)
    if last_ms in part:
        assert bar_end(last_ms, interval) <= now_ms
    if following_ms in span:
        assert bar_end(following_ms, interval) > now_ms


# --- By example --------------------------------------------------------------------------------------------

BTCUSDT_1M = SeriesKey.of("BTCUSDT", "1m")
LONG_AFTER_MS = ms(2024, 12, 1)


def periods(*labels: str) -> tuple[Period, ...]:
    return tuple(Period.of_label(label) for label in labels)


def test_closed_months_come_by_month_the_current_one_by_day_and_the_tail_not_at_all() -> None:
    now_ms = ms(2024, 3, 6, 9, 30)
    wanted = Span(ms(2024, 1, 15), ms(2024, 4, 1))
    assert plan(BTCUSDT_1M, wanted, [], now_ms=now_ms) == periods(
        "2024-01", "2024-02", "2024-03-01", "2024-03-02", "2024-03-03", "2024-03-04", "2024-03-05"
    )


def test_days_stand_in_for_a_month_that_is_late_or_absent() -> None:
    february = [f"2024-02-{day:02}" for day in range(1, 30)]
    wanted = Span(ms(2024, 2, 1), ms(2024, 3, 1))
    late = plan(BTCUSDT_1M, wanted, [], now_ms=ms(2024, 3, 3, 9))
    assert late == periods(*february)
    absent = frozenset([Period.of_label("2024-02")])
    assert plan(BTCUSDT_1M, wanted, [], now_ms=LONG_AFTER_MS, unavailable=absent) == periods(*february)


def test_days_complete_a_month_of_which_a_part_is_there() -> None:
    wanted = Span(ms(2024, 2, 1), ms(2024, 3, 1))
    covered = [Covered(Span(ms(2024, 2, 3), ms(2024, 3, 1)))]
    found = plan(BTCUSDT_1M, wanted, covered, now_ms=LONG_AFTER_MS)
    assert found == periods("2024-02-01", "2024-02-02")


def test_what_is_left_of_a_day_that_is_partly_there_comes_with_the_day() -> None:
    day = Span(ms(2024, 2, 3), ms(2024, 2, 4))
    covered = [Covered(Span(day.start_ms, ms(2024, 2, 3, 10)))]
    found = plan(BTCUSDT_1M, day, covered, now_ms=LONG_AFTER_MS)
    assert found == periods("2024-02-03")


def test_what_is_left_of_a_month_comes_with_the_month_where_it_has_no_day() -> None:
    wanted = Span(ms(2024, 2, 1), ms(2024, 3, 1))
    covered = [Covered(Span(ms(2024, 2, 3), ms(2024, 3, 1)))]
    absent = frozenset(periods("2024-02-02"))
    found = plan(BTCUSDT_1M, wanted, covered, now_ms=LONG_AFTER_MS, unavailable=absent)
    assert found == periods("2024-02")


def test_what_is_left_of_a_month_of_long_bars_comes_with_the_month() -> None:
    wanted = Span(ms(2024, 2, 1), ms(2024, 3, 1))
    covered = [Covered(Span(ms(2024, 2, 8), ms(2024, 2, 15)))]
    found = plan(SeriesKey.of("BTCUSDT", "1w"), wanted, covered, now_ms=LONG_AFTER_MS)
    assert found == periods("2024-02")


@pytest.mark.parametrize("interval", ["3d", "1w", "1mo"])
def test_long_bars_have_no_daily_archives(interval: str) -> None:
    wanted = Span(ms(2024, 2, 1), ms(2024, 3, 1))
    absent = frozenset([Period.of_label("2024-02")])
    found = plan(SeriesKey.of("BTCUSDT", interval), wanted, [], now_ms=LONG_AFTER_MS, unavailable=absent)
    assert found == ()


@pytest.mark.parametrize("now_ms", [ms(2024, 2, 1), ms(2024, 2, 1) - 1, 0])
def test_nothing_is_asked_of_the_future(now_ms: int) -> None:
    wanted = Span(ms(2024, 2, 1), ms(2024, 3, 1))
    assert plan(BTCUSDT_1M, wanted, [], now_ms=now_ms) == ()


def test_nothing_is_planned_for_an_empty_span() -> None:
    moment_ms = ms(2024, 2, 1)
    assert plan(BTCUSDT_1M, Span(moment_ms, moment_ms), [], now_ms=LONG_AFTER_MS) == ()


@pytest.mark.parametrize(("recheck_ms", "is_due"), [(0, False), (999, True), (1000, True), (1001, False)])
def test_what_is_to_be_asked_for_again_counts_as_covered_until_then(recheck_ms: int, is_due: bool) -> None:
    assert Covered(Span(0, 1), recheck_ms).is_due(1000) == is_due


def test_a_month_is_fetched_again_when_all_that_is_known_of_it_is_due() -> None:
    wanted = Span(ms(2024, 2, 1), ms(2024, 3, 1))
    covered = [Covered(wanted, recheck_ms=ms(2024, 6, 1))]
    assert plan(BTCUSDT_1M, wanted, covered, now_ms=ms(2024, 6, 1) - 1) == ()
    assert plan(BTCUSDT_1M, wanted, covered, now_ms=ms(2024, 6, 1)) == periods("2024-02")

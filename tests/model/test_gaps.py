"""Finding missing bars, compared with a model that walks the grid bar by bar."""

from __future__ import annotations

from itertools import groupby
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from ckvd.model.gaps import count_filled, find_gaps
from ckvd.model.grid import Grid
from ckvd.model.market import Interval
from ckvd.model.provenance import Absence, Gap, Reason
from ckvd.model.timespan import Span, union
from support.models import DAY_MS, MINUTE_MS, bar_end, bar_start, bar_starts, grid_of, ms
from support.strategies import absences, moments, spans

if TYPE_CHECKING:
    from collections.abc import Sequence

START = ms(2024, 2, 28)


def reason_of(point_ms: int, known: Sequence[Absence]) -> Reason:
    """The reason of the last absence that covers a point of the grid."""
    reasons = [absence.reason for absence in known if absence.start_ms <= point_ms < absence.end_ms]
    return reasons[-1] if reasons else Reason.NOT_IN_ARCHIVE


def walk_gaps(
    open_time: Sequence[int], where: Sequence[Span], interval: Interval, known: Sequence[Absence] = ()
) -> list[Gap]:
    present = {bar_start(open_ms, interval) for open_ms in open_time}
    gaps = []
    for span in where:
        points = [
            (point, None if point in present else reason_of(point, known)) for point in bar_starts(span, interval)
        ]
        for reason, run in groupby(points, key=lambda item: item[1]):
            missing = [point for point, _ in run]
            if reason is not None:
                gaps.append(Gap(missing[0], bar_end(missing[-1], interval), len(missing), reason))
    return gaps


def find(
    open_time: Sequence[int], where: Sequence[Span], interval: Interval, known: Sequence[Absence] = ()
) -> list[Gap]:
    return list(find_gaps(np.array(open_time, np.int64), where, grid_of(interval), known))


@st.composite
def situations(draw: st.DrawFn) -> tuple[list[int], tuple[Span, ...], Interval, list[Absence]]:
    """Some of about twenty bars, the spans in which bars are expected, and absences."""
    interval = draw(st.sampled_from(Interval))
    start_ms = draw(moments())
    end_ms = start_ms
    for _ in range(draw(st.integers(0, 20))):
        end_ms = bar_end(end_ms, interval)
    within = st.sampled_from(bar_starts(Span(start_ms, end_ms), interval) or [start_ms])
    within |= st.integers(start_ms, end_ms)
    bounds = st.tuples(within, within).map(lambda pair: Span(min(pair), max(pair)))
    open_time = sorted(draw(st.sets(within, max_size=20)))
    where = union(draw(st.lists(bounds, max_size=3)))
    return open_time, where, interval, draw(st.lists(absences(bounds), max_size=4))


@given(situations())
def test_the_gaps_are_those_of_the_model(
    situation: tuple[list[int], tuple[Span, ...], Interval, list[Absence]],
) -> None:
    assert find(*situation) == walk_gaps(*situation)


@given(situations())
def test_bars_and_gaps_together_fill_the_grid(
    situation: tuple[list[int], tuple[Span, ...], Interval, list[Absence]],
) -> None:
    open_time, where, interval, _ = situation
    missing = [point for gap in find(*situation) for point in bar_starts(gap.span, interval)]
    expected = {point for span in where for point in bar_starts(span, interval)}
    assert len(missing) == len(set(missing)) == sum(gap.bar_count for gap in find(*situation))
    assert set(missing) == expected - {bar_start(open_ms, interval) for open_ms in open_time}


def minutes(*numbers: float) -> list[int]:
    return [START + int(number * MINUTE_MS) for number in numbers]


def minute_span(start: float, end: float) -> Span:
    return Span(*minutes(start, end))


def test_without_missing_bars_there_are_no_gaps() -> None:
    assert find(minutes(0, 1, 2), [minute_span(0, 3)], Interval.M1) == []
    assert find([], [], Interval.M1) == []
    assert find([], [minute_span(1, 1)], Interval.M1) == []


def test_a_run_of_missing_bars_is_one_gap_at_the_start_within_and_at_the_end() -> None:
    gaps = find(minutes(2, 5, 6), [minute_span(0, 9)], Interval.M1)
    assert [(gap.span, gap.bar_count) for gap in gaps] == [
        (minute_span(0, 2), 2),
        (minute_span(3, 5), 2),
        (minute_span(7, 9), 2),
    ]
    assert {gap.reason for gap in gaps} == {Reason.NOT_IN_ARCHIVE}


def test_a_bar_that_opens_late_fills_its_own_slot_only() -> None:
    assert find(minutes(0, 1.25, 2), [minute_span(0, 3)], Interval.M1) == []
    (gap,) = find(minutes(0, 1.25), [minute_span(0, 3)], Interval.M1)
    assert gap.span == minute_span(2, 3)


def test_only_bars_whose_grid_point_lies_in_a_span_are_expected() -> None:
    (gap,) = find([], [minute_span(0.5, 2.5)], Interval.M1)
    assert (gap.span, gap.bar_count) == (minute_span(1, 3), 2)
    assert find([], [minute_span(0.5, 0.75)], Interval.M1) == []


def test_a_missing_month_is_one_bar_however_long_it_is() -> None:
    opens = [ms(2024, 1, 1), ms(2024, 3, 1)]
    (gap,) = find(opens, [Span(ms(2024, 1, 1), ms(2024, 4, 1))], Interval.MO1)
    assert gap == Gap(ms(2024, 2, 1), ms(2024, 3, 1), 1, Reason.NOT_IN_ARCHIVE)


def halted(start: float, end: float, reason: Reason = Reason.HALTED) -> Absence:
    span = minute_span(start, end)
    return Absence(span.start_ms, span.end_ms, reason)


def test_reasons_split_a_gap() -> None:
    gaps = find([], [minute_span(0, 9)], Interval.M1, [halted(2, 4)])
    assert [(gap.span, gap.bar_count, gap.reason) for gap in gaps] == [
        (minute_span(0, 2), 2, Reason.NOT_IN_ARCHIVE),
        (minute_span(2, 4), 2, Reason.HALTED),
        (minute_span(4, 9), 5, Reason.NOT_IN_ARCHIVE),
    ]


def test_neighbouring_missing_bars_with_one_reason_from_two_absences_are_one_gap() -> None:
    (gap,) = find([], [minute_span(0, 4)], Interval.M1, [halted(2, 4), halted(0, 2)])
    assert (gap.span, gap.bar_count, gap.reason) == (minute_span(0, 4), 4, Reason.HALTED)


@pytest.mark.parametrize("first_comes_last", [False, True])
def test_of_two_reasons_the_later_wins(first_comes_last: bool) -> None:
    known = [halted(0, 4), halted(1, 2, Reason.ARCHIVE_DAMAGED)]
    if first_comes_last:
        known.reverse()
    reasons = [gap.reason for gap in find([], [minute_span(0, 4)], Interval.M1, known)]
    whole, split = [Reason.HALTED], [Reason.HALTED, Reason.ARCHIVE_DAMAGED, Reason.HALTED]
    assert reasons == (whole if first_comes_last else split)


def test_an_absence_of_bars_that_exist_makes_no_gap() -> None:
    assert find(minutes(0, 1), [minute_span(0, 2)], Interval.M1, [halted(0, 2)]) == []


@given(spans(0, 10_000))
@example(Span(0, 0))
def test_a_gap_is_shown_with_its_span_its_count_and_its_reason(span: Span) -> None:
    assert str(Gap(span.start_ms, span.end_ms, 1, Reason.HALTED)) == f"{span} 1 bar halted"
    assert str(Gap(span.start_ms, span.end_ms, 2, Reason.NOT_FETCHED)) == f"{span} 2 bars not fetched"


def test_gaps_of_a_year_of_minutes_are_found_without_walking_them() -> None:
    span = Span(ms(2023, 1, 1), ms(2024, 1, 1))
    present = np.arange(span.start_ms, span.end_ms, MINUTE_MS)
    outage = (ms(2023, 3, 24, 12, 40), ms(2023, 3, 24, 14))
    kept = present[(present < outage[0]) | (present >= outage[1])]
    known = [Absence(ms(2023, 3, 24), ms(2023, 3, 25), Reason.HALTED)]
    assert find_gaps(kept, [span], grid_of(Interval.M1), known) == (Gap(*outage, 80, Reason.HALTED),)


@given(situations())
def test_the_slots_with_a_bar_are_all_but_those_that_gaps_tell(
    situation: tuple[list[int], tuple[Span, ...], Interval, list[Absence]],
) -> None:
    open_time, where, interval, _ = situation
    grid = grid_of(interval)
    for span in where:
        opens = np.array([open_ms for open_ms in open_time if open_ms in span], np.int64)
        told = sum(gap.bar_count for gap in find_gaps(opens, [span], grid))
        assert count_filled(opens, span, grid) == grid.count(span) - told


@given(
    st.lists(st.tuples(st.integers(0, 99_999), st.integers(1, 9_999)), max_size=6),
    st.sets(st.integers(0, 99_999), max_size=6),
    st.integers(0, MINUTE_MS - 1),
)
def test_holes_in_many_bars_are_found_without_looking_at_each_bar(
    holes: list[tuple[int, int]], late: set[int], offset_ms: int
) -> None:
    span = Span(START, START + 100_000 * MINUTE_MS)
    opens = np.arange(span.start_ms, span.end_ms, MINUTE_MS)
    opens[list(late)] += offset_ms
    kept = np.ones(len(opens), bool)
    for start, length in holes:
        kept[start : start + length] = False
    opens = opens[kept]
    assert count_filled(opens, span, Grid.of(Interval.M1)) == np.count_nonzero(kept)


# --- 3d bars -----------------------------------------------------------------------------------------------


def days(*numbers: float) -> list[int]:
    return [START + round(number * DAY_MS) for number in numbers]


@given(st.sets(st.integers(0, 30)), st.integers(0, 30), st.integers(0, 30), st.sampled_from([0, 0.25]))
def test_of_3d_bars_of_an_unknown_phase_no_more_are_missing_than_of_any_phase(
    found: set[int], start: int, length: int, late: float
) -> None:
    open_time = np.array(days(*sorted(day + late for day in found)), np.int64)
    span = Span(*days(start, start + length))
    certain = find_gaps(open_time, [span], Grid.of(Interval.D3))
    for phase in range(3):
        grid = Grid(Interval.D3, (phase * DAY_MS,))
        of_phase = find_gaps(open_time, [span], grid)
        assert sum(gap.bar_count for gap in certain) <= sum(gap.bar_count for gap in of_phase)
    assert all(gap.bar_count == gap.span.length_ms // (3 * DAY_MS) > 0 for gap in certain)


def test_three_days_without_a_bar_lack_one_and_two_need_not() -> None:
    unknown, nothing = Grid.of(Interval.D3), np.empty(0, np.int64)
    start_ms, split_ms, end_ms = days(0, 4, 8)
    known = Absence(start_ms, split_ms, Reason.HALTED)
    assert find_gaps(nothing, [Span(start_ms, end_ms)], unknown, [known]) == (
        Gap(start_ms, split_ms, 1, Reason.HALTED),
        Gap(split_ms, end_ms, 1, Reason.NOT_IN_ARCHIVE),
    )
    assert find_gaps(nothing, [Span(*days(0, 2))], unknown) == ()


def test_the_short_slot_of_a_change_is_one_bar() -> None:
    opens = days(0, 3, 6, 8, 11, 14)
    grid = Grid.of_bars(Interval.D3, np.array(opens))
    whole = Span(*days(0, 17))
    assert find_gaps(np.array(opens), [whole], grid) == ()
    (gap,) = find_gaps(np.array(days(0, 3, 8, 11, 14)), [whole], grid)
    assert (gap.span, gap.bar_count) == (Span(*days(6, 8)), 1)

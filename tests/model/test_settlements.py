"""Missing settlements, where the hours between them change at any time."""

from __future__ import annotations

import csv
import itertools
from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ckvd.model.market import HOUR_MS
from ckvd.model.provenance import Absence, Reason
from ckvd.model.settlements import find_missing_settlements, known_hours, settled_times
from ckvd.model.timespan import Span
from support.places import SHARED_DATA

START = Span.of("2025-09-01", "2025-09-02").start_ms


def gaps_in(
    hours: list[int], published: list[int] | int, span: tuple[int, int], absences: tuple[Absence, ...] = ()
) -> list[tuple[int, int, int]]:
    """The gaps between settlements at some hours: from when to when, in hours, and how many are missing."""
    times = START + np.array(hours, np.int64) * HOUR_MS + np.arange(len(hours)) % 32
    told = np.broadcast_to(np.array(published, np.int64), len(hours)).copy()
    covered = [Span(START + span[0] * HOUR_MS, START + span[1] * HOUR_MS)]
    found = find_missing_settlements(times, told, covered, absences)
    return [((gap.start_ms - START) // HOUR_MS, (gap.end_ms - START) // HOUR_MS, gap.bar_count) for gap in found]


@dataclass(frozen=True)
class Schedule:
    """All settlements of a contract, in hours, the interval at each, and where one interval begins."""

    hours: list[int]
    intervals: list[int]


@st.composite
def schedules(draw: st.DrawFn) -> Schedule:
    """Runs of settlements every 8, 4 or 1 hours; between two runs there may be a single step of 2 or 3 hours."""
    hours, intervals, hour = [], [], 0
    for _ in range(draw(st.integers(1, 4))):
        interval = draw(st.sampled_from((8, 4, 1)))
        for _ in range(draw(st.integers(3, 8))):
            hours.append(hour)
            intervals.append(interval)
            hour += interval
        if draw(st.booleans()) and interval > 1:
            # The next run starts early.
            hour -= interval - min(interval, draw(st.sampled_from((2, 3))))
    return Schedule(hours, intervals)


@given(schedule=schedules(), is_published=st.booleans())
def test_no_settlement_of_a_whole_schedule_is_missing(schedule: Schedule, is_published: bool) -> None:
    span = (0, schedule.hours[-1] + 1)
    assert gaps_in(schedule.hours, schedule.intervals if is_published else 0, span) == []


@given(schedule=schedules(), data=st.data())
def test_settlements_are_missing_where_a_step_is_longer_than_both_of_its_intervals(
    schedule: Schedule, data: st.DataObject
) -> None:
    kept = [
        (hour, interval)
        for hour, interval in zip(schedule.hours, schedule.intervals, strict=True)
        if data.draw(st.integers(0, 4))
    ]
    expected = []
    for (before, told), (after, told_after) in itertools.pairwise(kept):
        if after - before > max(told, told_after):
            due = list(range(before + told, after, told))
            expected.append((due[0], after, len(due)))
    if not kept:
        return
    # Where the span begins and ends with a settlement, nothing is missing before and after.
    span = (kept[0][0], kept[-1][0] + 1)
    assert gaps_in([hour for hour, _ in kept], [interval for _, interval in kept], span) == expected


@given(
    interval=st.sampled_from((8, 4, 1)), before=st.integers(3, 9), lost=st.integers(1, 5), after=st.integers(3, 9)
)
def test_a_hole_in_settlements_of_one_interval_is_found_also_where_no_source_says_it(
    interval: int, before: int, lost: int, after: int
) -> None:
    kept = [*range(before), *range(before + lost, before + lost + after)]
    hours = [place * interval for place in kept]
    expected = [(before * interval, (before + lost) * interval, lost)]
    assert gaps_in(hours, 0, (0, hours[-1] + 1)) == expected


def test_at_its_ends_a_span_lacks_what_even_the_longest_interval_would_have() -> None:
    assert gaps_in([7, 11, 15], 4, (0, 23)) == []
    assert gaps_in([8, 16], 8, (0, 24)) == [(0, 8, 1)]
    assert gaps_in([0, 4], 4, (0, 13)) == [(8, 13, 2)]
    # Nobody knows how many there should be in a day without any. Eight hours may have none.
    assert gaps_in([], 8, (0, 24)) == [(0, 24, 0)]
    assert gaps_in([], 8, (0, 8)) == []
    halted = Absence(START, START + 99 * HOUR_MS, Reason.HALTED)
    assert gaps_in([], 8, (0, 24), (halted,)) == [(0, 24, 0)]


@given(
    hour=st.integers(0, 500_000),
    delay=st.one_of(st.integers(-59_999, 59_999), st.integers(60_000, HOUR_MS - 60_000)),
)
def test_a_settlement_is_that_of_the_full_hour_less_than_a_minute_away(hour: int, delay: int) -> None:
    time = hour * HOUR_MS + delay
    expected = hour * HOUR_MS if abs(delay) < 60_000 else time
    assert settled_times(np.array([time])).tolist() == [expected]


def test_hours_that_are_published_stay_as_they_are() -> None:
    times = START + np.array([0, 8, 16]) * HOUR_MS
    assert known_hours(times, np.array([4, 0, 8])).tolist() == [4, 8, 8]
    assert known_hours(times[:1], np.array([0])).tolist() == [0]
    assert known_hours(times[:0], np.empty(0, np.int64)).tolist() == []


@pytest.mark.skipif(not SHARED_DATA.exists(), reason="the real data do not lie beside the repository")
def test_real_settlements_of_many_intervals_have_no_gap() -> None:
    files = sorted((SHARED_DATA / "funding" / "rest").glob("*.csv"))
    assert files
    for file in files:
        with file.open(encoding="utf-8") as text:
            rows = list(csv.DictReader(text))
        name = next(name for name in rows[0] if "time" in name.lower())
        times = np.sort(np.array([int(row[name]) for row in rows]))
        covered = [Span(int(times[0]) // HOUR_MS * HOUR_MS, int(times[-1]) + 1)]
        assert find_missing_settlements(times, np.zeros(len(times), np.int64), covered) == (), file.name
        # Of a settlement that is taken out between others of its interval, the gap is found.
        steps = np.diff(settled_times(times))
        same = np.flatnonzero(
            (steps[:-3] == steps[1:-2]) & (steps[1:-2] == steps[2:-1]) & (steps[2:-1] == steps[3:])
        )
        lost = int(same[len(same) // 2]) + 2
        (gap,) = find_missing_settlements(np.delete(times, lost), np.zeros(len(times) - 1, np.int64), covered)
        assert (gap.start_ms, gap.bar_count) == (int(settled_times(times)[lost]), 1), file.name

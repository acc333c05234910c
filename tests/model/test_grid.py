"""The grid of every interval compared with a slow model that uses `datetime`, and the phases of 3d bars with one
that walks from day to day."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ckvd.model.grid import Grid, closed_part, regular_close_times
from ckvd.model.market import Interval
from ckvd.model.timespan import Span
from support.models import DAY_MS, bar_end, bar_start, bar_starts, grid_of, ms
from support.strategies import moments

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

intervals = st.sampled_from(Interval)
# So many examples that each of the sixteen intervals gets some.
MANY = settings(max_examples=250)
THREE_DAYS_MS = 3 * DAY_MS

# --- The grid of the calendar ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("interval", "moment_ms", "start_ms", "end_ms"),
    [
        # 2024-02-29 was a Thursday; the week began on Monday the 26th.
        (Interval.W1, ms(2024, 2, 29, 12), ms(2024, 2, 26), ms(2024, 3, 4)),
        (Interval.W1, ms(2024, 2, 26), ms(2024, 2, 26), ms(2024, 3, 4)),
        (Interval.W1, ms(2024, 2, 26) - 1, ms(2024, 2, 19), ms(2024, 2, 26)),
        # Of this phase, 3d bars count from 1970-01-01, whatever the month: 19,782 days to 2024-02-29 are 3 x 6,594.
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
    assert (grid_of(interval).floor(moment_ms), grid_of(interval).next(moment_ms)) == (start_ms, end_ms)
    assert (bar_start(moment_ms, interval), bar_end(moment_ms, interval)) == (start_ms, end_ms)


@MANY
@given(intervals, moments(0))
def test_floor_next_and_ceil_of_a_moment_are_those_of_the_calendar(interval: Interval, moment_ms: int) -> None:
    start_ms, end_ms = bar_start(moment_ms, interval), bar_end(moment_ms, interval)
    grid = grid_of(interval)
    assert grid.floor(moment_ms) == start_ms
    assert grid.next(moment_ms) == end_ms
    assert grid.slot(moment_ms) == Span(start_ms, end_ms)
    assert grid.ceil(moment_ms) == (start_ms if start_ms == moment_ms else end_ms)


@MANY
@given(intervals, moments(0), st.integers(0, 20), st.integers(-1, 1))
def test_the_points_of_a_span_are_listed_and_counted_as_by_the_model(
    interval: Interval, start_ms: int, bar_count: int, shift_ms: int
) -> None:
    end_ms = start_ms
    for _ in range(bar_count):
        end_ms = bar_end(end_ms, interval)
    span = Span(start_ms, max(start_ms, end_ms + shift_ms))
    grid = grid_of(interval)
    opens = grid.opens(span)
    assert opens.dtype == np.int64
    assert opens.tolist() == bar_starts(span, interval)
    assert grid.count(span) == grid.count_min(span) == grid.count_max(span) == len(opens)


@MANY
@given(intervals, moments(0))
def test_neighbouring_slots_have_neighbouring_numbers_and_a_number_gives_the_start_of_its_slot(
    interval: Interval, moment_ms: int
) -> None:
    start_ms, end_ms = bar_start(moment_ms, interval), bar_end(moment_ms, interval)
    moments_ms = np.array([start_ms - 1, start_ms, moment_ms, end_ms - 1, end_ms])
    before, first, within, last, after = grid_of(interval).index(moments_ms).tolist()
    assert before + 1 == first == within == last == after - 1
    assert grid_of(interval).points(np.array([first, after])).tolist() == [start_ms, end_ms]


@given(intervals, st.lists(moments(0), max_size=5))
def test_arrays_of_moments_give_the_same_as_single_moments(interval: Interval, some: list[int]) -> None:
    moments_ms = np.array(some, np.int64)
    opens = grid_of(interval).floors(moments_ms)
    assert opens.tolist() == [bar_start(moment, interval) for moment in some]
    assert grid_of(interval).has_points(moments_ms).tolist() == [
        bar_start(moment, interval) == moment for moment in some
    ]
    expected = [bar_end(open_ms, interval) - 1 for open_ms in opens.tolist()]
    assert regular_close_times(opens, interval).tolist() == expected


LATE = np.array([ms(2024, 2, 5, 0, 0, 14)])


def test_a_late_bar_closes_an_interval_after_its_open() -> None:
    assert regular_close_times(LATE, Interval.H1).tolist() == [ms(2024, 2, 5, 1, 0, 14) - 1]


def test_a_late_bar_of_a_month_closes_at_the_end_of_its_month() -> None:
    assert regular_close_times(LATE, Interval.MO1).tolist() == [ms(2024, 3, 1) - 1]


# --- Phases of 3d bars -------------------------------------------------------------------------------------

FIRST_DAY, LAST_DAY = 18_000, 18_060


def walk(runs: Sequence[tuple[int, int]], first_day: int, last_day: int) -> list[int]:
    """The days on which bars open, walked day by day: a run holds from its day on, the first one before it too."""
    found = []
    for day in range(first_day, last_day):
        run_day = max((start for start, _ in runs if start <= day), default=runs[0][0])
        if (day - run_day) % 3 == 0:
            found.append(day)
    return found


@st.composite
def phases(draw: st.DrawFn) -> list[tuple[int, int]]:
    """Runs of bars: the day of the first, and how many there are. Neighbouring runs differ in their phase."""
    day, runs = FIRST_DAY + draw(st.integers(0, 5)), []
    for _ in range(draw(st.integers(1, 4))):
        bar_count = draw(st.integers(2, 5))
        runs.append((day, bar_count))
        # The next phase begins a day or two early or late.
        day += 3 * bar_count + draw(st.sampled_from([-2, -1, 1, 2]))
    return runs


def grid_of_runs(runs: Sequence[tuple[int, int]]) -> Grid:
    first, *changes = (day * DAY_MS for day, _ in runs)
    return Grid(Interval.D3, (first % THREE_DAYS_MS, *changes))


def days_of_runs(runs: Sequence[tuple[int, int]]) -> list[int]:
    return [day + 3 * bar for day, bar_count in runs for bar in range(bar_count)]


def grid_of_days(days: Sequence[float]) -> Grid:
    return Grid.of_bars(Interval.D3, np.array([round(day * DAY_MS) for day in sorted(days)], np.int64))


@given(phases())
def test_every_lasting_change_of_the_bars_is_a_phase_of_the_grid(runs: list[tuple[int, int]]) -> None:
    assert grid_of_days(days_of_runs(runs)) == grid_of_runs(runs)


@given(phases(), st.data())
def test_a_bar_by_itself_or_late_changes_no_phase(runs: list[tuple[int, int]], data: st.DataObject) -> None:
    days: list[float] = list(days_of_runs(runs))
    odd: list[float] = []
    for day, bar_count in runs:
        # Not the first or last bar of a phase: what is beside it might be a phase of its own.
        if bar_count > 3 and data.draw(st.booleans()):
            odd.append(day + 3 + data.draw(st.sampled_from([1, 2, 0.25, 14 / 86_400])))
    assert grid_of_days([*days, *odd]) == grid_of_runs(runs)
    on_grid = grid_of_runs(runs).has_points(np.array([round(day * DAY_MS) for day in odd], np.int64))
    assert not on_grid.any()


@given(phases(), st.data())
def test_missing_bars_change_no_phase_that_keeps_two(runs: list[tuple[int, int]], data: st.DataObject) -> None:
    kept = []
    for day, bar_count in runs:
        middle = [day + 3 * bar for bar in range(1, bar_count - 1)]
        kept += [day, *(one for one in middle if data.draw(st.booleans())), day + 3 * (bar_count - 1)]
    assert grid_of_days(kept) == grid_of_runs(runs)


@given(phases(), st.integers(FIRST_DAY * DAY_MS, LAST_DAY * DAY_MS), st.integers(0, 30 * DAY_MS))
def test_a_grid_with_phases_is_that_of_the_walk(
    runs: list[tuple[int, int]], moment_ms: int, length_ms: int
) -> None:
    grid = grid_of_runs(runs)
    points = [day * DAY_MS for day in walk(runs, FIRST_DAY - 20, LAST_DAY + 60)]
    before = [point for point in points if point <= moment_ms]
    after = [point for point in points if point > moment_ms]
    assert (grid.floor(moment_ms), grid.next(moment_ms)) == (before[-1], after[0])
    assert grid.slot(moment_ms) == Span(before[-1], after[0])
    assert grid.ceil(moment_ms) == (moment_ms if before[-1] == moment_ms else after[0])
    span = Span(moment_ms, moment_ms + length_ms)
    within = [point for point in points if point in span]
    assert grid.opens(span).tolist() == within
    assert grid.count(span) == grid.count_min(span) == grid.count_max(span) == len(within)
    slots = grid.index(np.array(points))
    assert np.diff(slots).tolist() == [1] * (len(points) - 1)
    assert grid.points(slots).tolist() == points
    inner = np.array([moment_ms, *(point - 1 for point in points[1:])])
    assert grid.floors(inner).tolist() == [before[-1], *points[:-1]]
    assert grid.index(inner)[1:].tolist() == slots[:-1].tolist()


@given(phases(), st.integers(FIRST_DAY * DAY_MS, LAST_DAY * DAY_MS))
def test_what_is_closed_does_not_depend_on_the_phase(runs: list[tuple[int, int]], now_ms: int) -> None:
    points = [day * DAY_MS for day in walk(runs, FIRST_DAY - 20, LAST_DAY + 60)]
    closed = [point for point in points if point + THREE_DAYS_MS <= now_ms]
    whole = Span((FIRST_DAY - 20) * DAY_MS, (LAST_DAY + 60) * DAY_MS)
    known = closed_part(whole, grid_of_runs(runs), now_ms)
    unknown = closed_part(whole, Grid.of(Interval.D3), now_ms)
    assert [point for point in points if point in known] == closed
    assert [point for point in points if point in unknown] == closed
    # What was asked for while the phase was unknown is all that is wanted when it is known.
    assert unknown.covers(known)


@given(st.sampled_from([0, 1, 2]), st.integers(FIRST_DAY * DAY_MS, LAST_DAY * DAY_MS), st.integers(0, 30 * DAY_MS))
def test_an_unknown_phase_bounds_the_number_of_bars(phase: int, start_ms: int, length_ms: int) -> None:
    span, unknown = Span(start_ms, start_ms + length_ms), Grid.of(Interval.D3)
    count = Grid(Interval.D3, (phase * DAY_MS,)).count(span)
    assert unknown.count_min(span) <= count <= unknown.count_max(span) <= unknown.count_min(span) + 1


def test_an_unknown_phase_is_not_guessed() -> None:
    grid, span, some = Grid.of(Interval.D3), Span(0, 30 * DAY_MS), np.array([0])
    assert not grid.is_known
    assert grid == grid_of_days([]) == grid_of_days([18_000.25])
    for call in (grid.floor, grid.next, grid.ceil):
        with pytest.raises(ValueError, match="the phase of 3d bars is unknown"):
            call(0)
    for ask in (grid.opens, grid.count):
        with pytest.raises(ValueError, match="the phase of 3d bars is unknown"):
            ask(span)
    for number in (grid.index, grid.points, grid.floors):
        with pytest.raises(ValueError, match="the phase of 3d bars is unknown"):
            number(some)
    # A bar may open on any day, and fills the three days from there.
    assert grid.has_points(np.array([0, DAY_MS, DAY_MS + 1])).tolist() == [True, True, False]
    assert grid.slot(DAY_MS + 14_000) == Span(DAY_MS, 4 * DAY_MS)


def test_the_last_bar_by_itself_begins_a_phase_and_one_between_others_does_not() -> None:
    old = [18_000, 18_003, 18_006]
    first, change = 0, 18_008 * DAY_MS
    assert grid_of_days([*old, 18_008]).anchors_ms == (first, change)
    assert grid_of_days([*old, 18_008, 18_009]).anchors_ms == (first,)
    assert grid_of_days([*old, 18_008, 18_011]).anchors_ms == (first, change)
    # Of bars that are known in part, the first may be the last one of a phase.
    assert grid_of_days([18_006, 18_008, 18_011]).anchors_ms == (first, change)
    # One bar between two phases belongs to neither.
    assert grid_of_days([*old, 18_010, 18_014, 18_017]).anchors_ms == (first, 18_014 * DAY_MS)


def test_only_3d_bars_tell_their_grid() -> None:
    for interval in set(Interval) - {Interval.D3}:
        assert Grid.of_bars(interval, np.array([DAY_MS + 7])) is Grid.of(interval)


# --- The phases of the exchange ----------------------------------------------------------------------------


def test_each_symbol_of_the_spot_market_has_one_phase(shared_data: Path) -> None:
    found = {}
    for folder in sorted((shared_data / "long_intervals" / "spot").iterdir()):
        rows = [row for path in sorted((folder / "3d").glob("*.json")) for row in json.loads(path.read_text())]
        opens = np.array([row[0] for row in rows])
        grid = Grid.of_bars(Interval.D3, opens)
        assert grid.has_points(opens).all()
        assert grid.opens(Span(int(opens[0]), int(opens[-1]) + 1)).tolist() == opens.tolist()
        found[folder.name] = [anchor_ms // DAY_MS for anchor_ms in grid.anchors_ms]
    assert found == {"BTCUSDT": [1], "SOLUSDT": [2], "AVAXUSDT": [2], "XRPUSDT": [0], "DOTUSDT": [0]}


def test_the_phase_of_the_futures_changed_once_and_the_slot_before_is_short(shared_data: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    times = parquet.read_table(shared_data / "long_intervals" / "um" / "BTCUSDT_3d.parquet")["openTime"]
    opens = np.array(times).astype("datetime64[ms]").astype(np.int64)
    grid = Grid.of_bars(Interval.D3, opens)
    assert grid.anchors_ms == (2 * DAY_MS, ms(2023, 8, 16))
    assert grid.slot(ms(2023, 8, 15)) == Span(ms(2023, 8, 14), ms(2023, 8, 16))
    assert grid.opens(Span(int(opens[0]), int(opens[-1]) + 1)).tolist() == opens.tolist()
    # As the exchange went on, each new bar was a point of the grid that the bars until then tell.
    for count in range(1, len(opens) + 1):
        assert Grid.of_bars(Interval.D3, opens[:count]).has_points(opens[:count]).all()

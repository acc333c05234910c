"""Bars of another interval are told from those of a series, and from what halts leave behind."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ckvd.acquisition.ingest import expected_of
from ckvd.decode.decode import decode_archive
from ckvd.model.grid import Grid, regular_close_times
from ckvd.model.market import DAY_MS, HOUR_MS, Interval, parse_interval
from ckvd.model.stray_bars import interval_fault
from ckvd.model.timespan import Span
from ckvd.vision.name import ArchiveName
from support.models import MINUTE_MS, ms

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from ckvd.model.table import Times

DAY = Span.of("2024-01-01", "2024-01-02")
MONTH = Span.of("2024-02-01", "2024-03-01")
QUARTER = Span.of("2024-01-01", "2024-04-01")


def grid_opens(span: Span, interval: Interval) -> Times:
    grid = Grid.of(interval)
    return (grid if grid.is_known else Grid(interval, (0,))).opens(span)


def regular(opens: Sequence[int] | Times, interval: Interval) -> tuple[Times, Times]:
    opens_ms = np.array(opens, np.int64)
    return opens_ms, regular_close_times(opens_ms, interval)


def fault(opens: Sequence[int] | Times, of: Interval, expected: Interval) -> str | None:
    """The fault of bars that are as long as those of one interval, and were expected to be of another."""
    return interval_fault(*regular(opens, of), expected)


@pytest.mark.parametrize("found", Interval)
def test_any_interval_is_told_from_any_other(found: Interval) -> None:
    opens = grid_opens(QUARTER, found)[:200]
    assert fault(opens, found, found) is None
    for expected in Interval:
        if expected is not found:
            share = f"{len(opens)} of {len(opens)}"
            message = f"expected {expected} bars, found {share} bars that are as long as {found} bars"
            assert fault(opens, found, expected) == message


@pytest.mark.parametrize("found", Interval)
def test_shorter_bars_are_told_by_their_distance_also_where_their_close_times_lie(found: Interval) -> None:
    opens = grid_opens(QUARTER, found)[:40]
    for expected in Interval:
        message = fault(opens, expected, expected)
        is_shorter = list(Interval).index(found) < list(Interval).index(expected)
        assert (message is not None) == (is_shorter and len(opens) > 17)
        if message is not None:
            assert message.endswith(f"open too soon after the bar before, as {found} bars do")


def test_a_part_of_a_month_in_shorter_bars_is_found() -> None:
    hours, halves = (
        grid_opens(MONTH, Interval.H1),
        grid_opens(DAY, Interval.M30)[:6] + (MONTH.start_ms - DAY.start_ms),
    )
    opens = np.sort(np.concatenate((hours, halves + 6 * HOUR_MS + 60_000)))
    is_half = np.isin(opens, halves + 6 * HOUR_MS + 60_000)
    closes = np.where(is_half, opens + 30 * MINUTE_MS - 1, opens + HOUR_MS - 1)
    assert interval_fault(opens, closes, Interval.H1) == (
        f"expected 1h bars, found 6 of {len(opens)} bars that are as long as 30m bars"
    )


@pytest.mark.parametrize(("count", "is_fault"), [(0, False), (4, False), (5, True)])
def test_a_few_bars_of_another_length_are_what_a_halt_may_leave(count: int, is_fault: bool) -> None:
    opens, closes = regular(grid_opens(DAY, Interval.M1), Interval.M1)
    closes[:count] = opens[:count] + 3 * MINUTE_MS - 1
    assert (interval_fault(opens, closes, Interval.M1) is not None) == is_fault


@pytest.mark.parametrize(("rows", "count", "is_fault"), [(1, 1, True), (2, 1, True), (4, 1, False), (7, 2, True)])
def test_of_few_bars_a_share_counts(rows: int, count: int, is_fault: bool) -> None:
    opens, closes = regular([DAY.start_ms + row * 4 * HOUR_MS for row in range(rows)], Interval.H4)
    closes[:count] = opens[:count] + 2 * HOUR_MS - 1
    assert (interval_fault(opens, closes, Interval.H4) is not None) == is_fault


@pytest.mark.parametrize("late_ms", [14_789, 28 * MINUTE_MS + 14_789])
def test_bars_off_the_grid_after_a_halt_are_of_their_interval(late_ms: int) -> None:
    opens = [DAY.start_ms + n * HOUR_MS + (late_ms if 9 <= n < 52 else 0) for n in range(200) if not 2 <= n < 9]
    assert fault(opens, Interval.H1, Interval.H1) is None


@given(st.lists(st.integers(0, 400), min_size=1, max_size=400))
def test_bars_that_jitter_are_of_their_interval(jitter_ms: list[int]) -> None:
    opens = [DAY.start_ms + n * MINUTE_MS + 14_000 + late_ms for n, late_ms in enumerate(jitter_ms)]
    assert fault(opens, Interval.M1, Interval.M1) is None


@given(st.integers(0, 2), st.sets(st.integers(0, 60)), st.lists(st.integers(0, 300), max_size=3))
def test_any_phase_of_3d_bars_and_any_changes_of_it_are_right(
    phase: int, missing: set[int], changes: list[int]
) -> None:
    opens, day = [], phase
    for number in range(61):
        if number not in missing:
            opens.append(day * DAY_MS)
        day += 2 if number in changes else 3
    assert fault(opens, Interval.D3, Interval.D3) is None


def test_bars_cut_short_at_any_other_moment_are_of_their_interval() -> None:
    opens, closes = regular(grid_opens(DAY, Interval.M1), Interval.M1)
    assert interval_fault(opens, closes + 1, Interval.M1) is None
    assert interval_fault(opens, closes - 12_345, Interval.M1) is None


@pytest.mark.parametrize("interval", Interval)
def test_no_bars_and_one_bar_are_of_any_interval(interval: Interval) -> None:
    assert fault([], interval, interval) is None
    assert fault([ms(2024, 1, 1)], interval, interval) is None


@pytest.mark.long
def test_no_real_archive_is_of_another_interval_and_each_is_told_from_its_neighbours(shared_data: Path) -> None:
    root = shared_data / "vision"
    for path in root.rglob("*.zip"):
        name = ArchiveName.of_path(path.relative_to(root).as_posix())
        assert name is not None
        table = decode_archive(path.read_bytes(), expected_of(name)).table
        opens, closes = table.open_time, table.columns["close_time"]
        for interval in Interval:
            assert (interval_fault(opens, closes, interval) is None) == (interval is name.series.interval), path


def test_no_real_answer_of_long_bars_is_of_another_interval(shared_data: Path) -> None:
    paths = [*(shared_data / "long_intervals").rglob("*.json"), *(shared_data / "rest").glob("api_v3_klines*.json")]
    row_count = 0
    for path in paths:
        interval = parse_interval(path.name.split("__")[2] if "__" in path.name else path.parent.name)
        rows = json.loads(path.read_text())
        opens, closes = (np.array([row[field] for row in rows], np.int64) for field in (0, 6))
        assert interval_fault(opens, closes, interval) is None, path
        row_count += len(rows)
    assert row_count > 20_000

"""Sums of runs: exact for published decimals, nearly exact for other numbers."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from ckvd.bars.decimal_sums import sum_runs

if TYPE_CHECKING:
    from ckvd.model.table import Column, Times

SCALE = 10**8
LARGEST = 2**25 * SCALE - 1
ROUNDING = 2.0**-53
CHANCE_COUNTS = np.array([
    76, 57, 46, 25, 28, 4, 7, 2, 16, 73, 58, 82, 45, 54, 87, 65, 57, 49, 50, 84, 25, 73, 60, 1, 36, 77,
    50, 3, 69, 65, 76, 16, 8, 77, 2, 49, 8, 27, 43, 38, 36, 3, 1, 12, 1, 60, 47, 58, 23, 55, 69, 35, 42,
    89, 72, 88, 34, 62, 85, 58, 75, 62, 63, 35, 78, 13, 52, 65, 76, 47, 34, 28, 38, 44, 64, 80, 7, 84
])  # fmt: skip


@st.composite
def run_lengths(draw: st.DrawFn) -> Times:
    """Runs of the same length, except for a few, or runs of any lengths."""
    run_count = draw(st.integers(1, 200))
    counts = np.full(run_count, draw(st.sampled_from([1, 2, 5, 24, 60, 64, 65, 96])))
    for position in draw(st.lists(st.integers(0, run_count - 1), max_size=3)):
        counts[position] = draw(st.integers(1, 60))
    if draw(st.booleans()):
        counts = np.random.default_rng(draw(st.integers(0, 99))).integers(1, 90, run_count)
    return counts


def starts_of(counts: Times) -> Times:
    return np.cumsum(counts) - counts


def runs_of(cells: list[int] | list[float], counts: Times) -> list[list[int] | list[float]]:
    return [cells[start : start + count] for start, count in zip(starts_of(counts), counts, strict=True)]


def assert_is_sum_of(found: Column, wholes: list[int], counts: Times) -> None:
    """Check that each sum is the sum of multiples of 1e-8, rounded to the nearest double, except for near ties."""
    for sum_, run in zip(found.tolist(), runs_of(wholes, counts), strict=True):
        exact = Fraction(sum(run), SCALE)  # type: ignore[arg-type]
        assert abs(Fraction(sum_) - exact) <= Fraction(math.ulp(float(exact))) * Fraction(501, 1000)


@given(run_lengths(), st.integers(0, 2**32), st.integers(0, 15), st.integers(0, 15))
def test_the_sum_of_decimals_is_the_decimal_sum(counts: Times, seed: int, fewest: int, more: int) -> None:
    rng = np.random.default_rng(seed)
    magnitudes = 10.0 ** rng.uniform(fewest, fewest + more, int(counts.sum()))
    wholes = np.minimum(rng.random(len(magnitudes)) * magnitudes, LARGEST).astype(np.int64)
    found = sum_runs(wholes / SCALE, starts_of(counts), counts)
    assert_is_sum_of(found, wholes.tolist(), counts)


@pytest.mark.parametrize("count", [60, 64, 96, 300_000])
@pytest.mark.parametrize("largest", [10**9, 10**12, 10**15, LARGEST])
def test_decimal_sums_are_right_across_blocks(count: int, largest: int) -> None:
    counts = np.full(600_000 // count, count)
    counts[len(counts) // 2] = count - 7  # a shorter run
    wholes = np.random.default_rng(largest + count).integers(0, largest, int(counts.sum()))
    found = sum_runs(wholes / SCALE, starts_of(counts), counts)
    assert_is_sum_of(found, wholes.tolist(), counts)


@given(run_lengths(), st.integers(0, 2**32))
def test_a_cell_beyond_the_range_of_decimals_does_not_change_the_other_sums(counts: Times, seed: int) -> None:
    rng = np.random.default_rng(seed)
    cells = np.round(rng.random(int(counts.sum())) * 1e7, 8)
    expected = sum_runs(cells, starts_of(counts), counts)
    touched = int(rng.integers(len(counts)))
    cells[starts_of(counts)[touched]] += 1e12
    found = sum_runs(cells, starts_of(counts), counts)
    exact = math.fsum(runs_of(cells.tolist(), counts)[touched])
    assert found[touched] == pytest.approx(exact, rel=64 * ROUNDING, abs=0)
    expected[touched] = found[touched]
    assert found.tobytes() == expected.tobytes()


@given(run_lengths(), st.integers(0, 2**32), st.floats(-200, 200), st.floats(0, 100))
@example(CHANCE_COUNTS, 0, 1.5, 3.0)  # a sum is near a decimal by chance
def test_the_sum_of_any_doubles_is_nearly_exact(counts: Times, seed: int, low: float, range_: float) -> None:
    rng = np.random.default_rng(seed)
    cells = rng.uniform(1, 10, int(counts.sum())) * 10.0 ** rng.uniform(low, low + range_, int(counts.sum()))
    found = sum_runs(cells, starts_of(counts), counts)
    for sum_, run in zip(found.tolist(), runs_of(cells.tolist(), counts), strict=True):
        assert sum_ == pytest.approx(math.fsum(run), rel=64 * ROUNDING, abs=0)


@given(run_lengths(), st.integers(0, 2**32))
def test_the_error_for_cells_of_both_signs_is_a_small_share_of_their_magnitudes(counts: Times, seed: int) -> None:
    cells = np.random.default_rng(seed).normal(0, 1e3, int(counts.sum()))
    found = sum_runs(cells, starts_of(counts), counts)
    for sum_, run in zip(found.tolist(), runs_of(cells.tolist(), counts), strict=True):
        assert abs(sum_ - math.fsum(run)) <= 64 * ROUNDING * math.fsum(map(abs, run))


@given(run_lengths(), st.integers(0, 2**32))
def test_integers_add_up_exactly(counts: Times, seed: int) -> None:
    cells = np.random.default_rng(seed).integers(-(10**15), 10**15, int(counts.sum()))
    found = sum_runs(cells, starts_of(counts), counts)
    assert found.dtype == np.int64
    assert found.tolist() == [sum(run) for run in runs_of(cells.tolist(), counts)]


@given(run_lengths(), st.integers(0, LARGEST))
def test_a_constant_column_has_the_same_sums_as_a_copy_of_it(counts: Times, whole: int) -> None:
    for cell in (np.float64(whole / SCALE), np.int64(whole)):
        column = np.broadcast_to(cell, int(counts.sum()))
        found = sum_runs(column, starts_of(counts), counts)
        assert found.tobytes() == sum_runs(column.copy(), starts_of(counts), counts).tobytes()


@pytest.mark.parametrize("cell", [math.inf, -math.inf, math.nan, 1e308, 1.7e308])
@pytest.mark.parametrize("neighbour", [1.0, 5e7, 1e12, 0.1234567891])
def test_infinite_nan_and_huge_cells_change_their_own_run_only(cell: float, neighbour: float) -> None:
    counts = np.array([2, 2, 2])
    found = sum_runs(np.array([neighbour, 1.0, cell, 1.0, neighbour, 1.0]), starts_of(counts), counts)
    assert found.tolist() == pytest.approx([neighbour + 1.0, cell + 1.0, neighbour + 1.0], nan_ok=True, rel=1e-15)


def test_a_sum_that_overflows_is_infinite_and_no_other_sum_is() -> None:
    counts = np.array([2, 2, 2])
    found = sum_runs(np.array([1.7e308, 1.7e308, 1.0, 2.0, math.inf, -math.inf]), starts_of(counts), counts)
    assert found[:2].tolist() == [math.inf, 3.0]
    assert math.isnan(found[2])

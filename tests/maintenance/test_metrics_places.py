"""The taker ratio tells which five minutes a row of metrics describes."""

from __future__ import annotations

import csv
import io
import math
import zipfile

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ckvd.maintenance.metrics_places import fit_days, has_own_label
from ckvd.model.market import DAY_MS
from ckvd.model.timespan import Span
from support.places import SHARED_DATA
from support.records import FIVE, METRICS, ms_of, ratio_of, read_text, real_rows

DAY = Span.of("2024-03-01", "2024-03-02")
YEAR = SHARED_DATA / "vision/data/futures/um/monthly/klines/BTCUSDT/5m"


def bars_of(numbers: range, noise: float = 0.0) -> tuple[list[int], list[float], list[float]]:
    """The open times, volumes and taker volumes of bars, beside their ratios by some share."""
    bought = []
    for number in numbers:
        ratio = float(ratio_of(number)) * (1 + noise * math.cos(number * 7.7))
        bought.append(10 * ratio / (1 + ratio))
    return [number * FIVE for number in numbers], [10.0] * len(numbers), bought


def fit(open_time: list[int], ratio: list[float], bars: tuple[list[int], list[float], list[float]]) -> list[int]:
    opens, volume, bought = (np.array(column) for column in bars)
    found = fit_days(np.array(open_time, np.int64), np.array(ratio, np.float64), opens, volume, bought)
    return [one.place for one in found]


@given(
    shift=st.sampled_from((-1, 0, 1)),
    noise=st.sampled_from((0.0, 0.01, 0.03)),
    lost=st.sets(st.integers(0, 287), max_size=200),
    blank=st.sets(st.integers(0, 287), max_size=40),
)
def test_the_place_of_a_day_is_found_by_the_rows_that_can_be_compared(
    shift: int, noise: float, lost: set[int], blank: set[int]
) -> None:
    first = DAY.start_ms // FIVE
    described = [first + place for place in range(1, 287) if place not in lost]
    ratio = [math.nan if number - first in blank else float(ratio_of(number)) for number in described]
    open_time = [(number - shift) * FIVE for number in described]
    places = fit(open_time, ratio, bars_of(range(first - 2, first + 290), noise))
    assert places == [shift if len(described) - sum(map(math.isnan, ratio)) >= 12 else 0]


def test_each_day_is_judged_by_itself() -> None:
    first = DAY.start_ms // FIVE
    shifts = (0, 1, -1, 0)
    rows = [
        ((first + day * 288 + place) * FIVE, float(ratio_of(first + day * 288 + place + shift)))
        for day, shift in enumerate(shifts)
        for place in range(288)
    ]
    bars = bars_of(range(first - 2, first + 4 * 288 + 2), 0.02)
    assert fit([time for time, _ in rows], [ratio for _, ratio in rows], bars) == list(shifts)


def test_what_tells_nothing_is_left_where_it_is() -> None:
    first = DAY.start_ms // FIVE
    bars = bars_of(range(first - 1, first + 289))
    opens = [number * FIVE for number in range(first, first + 288)]
    # One ratio all day, ratios of no bar at all, and none.
    assert fit(opens, [1.0] * 288, (bars[0], bars[1], [5.0] * 290)) == [0]
    assert fit(opens, [float(ratio_of(number * 31)) for number in range(288)], bars) == [0]
    assert fit(opens, [math.nan] * 288, bars) == []
    assert fit([], [], bars) == []
    assert fit(opens, [1.0] * 288, ([], [], [])) == []
    # Takers only bought, or nobody traded.
    assert fit(opens, [1.0] * 288, (bars[0], bars[1], [10.0] * 290)) == []
    assert fit(opens, [1.0] * 288, (bars[0], [0.0] * 290, [0.0] * 290)) == []


def test_a_row_has_the_label_of_either_end_of_its_five_minutes() -> None:
    ages = np.array([0, FIVE, 1, -FIVE, 2 * FIVE])
    opens = np.full(5, DAY.start_ms)
    assert has_own_label(opens, opens + ages).tolist() == [True, True, False, False, False]


@pytest.mark.skipif(not YEAR.exists(), reason="the real data do not lie beside the repository")
def test_real_rows_that_are_labelled_by_ends_fit_the_real_bars_before_their_labels() -> None:
    rows = read_text(real_rows("metrics")[METRICS, "2025-11-02"])
    labels = np.array([ms_of(row[0]) for row in rows])
    ratio = np.array([float(row[-1]) for row in rows])
    with zipfile.ZipFile(YEAR / "BTCUSDT-5m-2025-11.zip") as archive:
        text = archive.read(archive.namelist()[0]).decode()
    lines = list(csv.reader(io.StringIO(text)))[1:]
    bars = [
        np.array([number(line[place]) for line in lines]) for place, number in ((0, int), (5, float), (9, float))
    ]
    (of_ends,) = fit_days(labels - FIVE, ratio, bars[0].astype(np.int64), *bars[1:])
    assert of_ends.distances[1] < 0.02
    assert min(of_ends.distances[0], of_ends.distances[2]) > 0.15
    (of_starts,) = fit_days(labels, ratio, bars[0].astype(np.int64), *bars[1:])
    assert of_starts.distances[0] == of_ends.distances[1]
    assert of_starts.span == Span(of_starts.start_ms, of_starts.start_ms + DAY_MS)

"""The bars at the end of a series in which nobody traded are found, whatever segments they lie in."""

from __future__ import annotations

import csv
import gzip
import tempfile
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ckvd.cache import CacheFolder, SeriesStore, open_cache, rows, untraded_tail
from ckvd.cache.untraded_tail import UntradedTail, find_untraded_tail, find_untraded_tails
from ckvd.model.market import DAY_MS, HOUR_MS, Kind, SeriesKey
from ckvd.model.provenance import Absence, Reason
from ckvd.model.table import KlineTable, empty_table
from ckvd.model.timespan import Span, parse_time
from support.caches import flip, segment_paths
from support.strategies import BAR_KINDS
from support.tables import make_table

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ckvd.model.table import Column
    from ckvd.segment.reader import MappedRows

HOURS = SeriesKey.of("WAVESUSDT", "1h", market="um")
START_MS = parse_time("2024-06-01")


def hours(traded: Sequence[bool], first: int = 0, series: SeriesKey = HOURS) -> KlineTable:
    """An hour for each item: one in which somebody traded, or a flat one."""
    opens = [START_MS + (first + number) * HOUR_MS for number in range(len(traded))]
    volume = np.array(traded, np.float64)
    return make_table(
        series, opens, volume=volume, count=volume.astype(np.int64), taker_buy_volume=0, taker_buy_quote_volume=0
    )


def span_of(first: int, count: int) -> Span:
    return Span(START_MS + first * HOUR_MS, START_MS + (first + count) * HOUR_MS)


def put(folder: CacheFolder, traded: Sequence[bool], first: int = 0, series: SeriesKey = HOURS) -> None:
    SeriesStore(folder, series).put(hours(traded, first, series), span_of(first, len(traded)))


@pytest.fixture
def folder(tmp_path: Path) -> CacheFolder:
    return CacheFolder(tmp_path / "cache")


def test_a_contract_that_was_settled_has_a_tail(folder: CacheFolder) -> None:
    put(folder, [True] * 30 + [False] * 100)
    tail = find_untraded_tail(folder, HOURS)
    assert tail == UntradedTail(START_MS + 30 * HOUR_MS, START_MS + 130 * HOUR_MS, 100, START_MS + 29 * HOUR_MS)
    assert str(tail) == (
        "2024-06-02T06:00Z..2024-06-06T10:00Z 100 bars without a trade at the end, as published; "
        "the last bar that traded opens at 2024-06-02T05:00Z"
    )


def test_a_series_in_which_nobody_ever_traded_has_no_last_trade(folder: CacheFolder) -> None:
    put(folder, [False] * 48)
    assert find_untraded_tail(folder, HOURS) == UntradedTail(START_MS, START_MS + 2 * DAY_MS, 48, None)


@pytest.mark.parametrize(("count", "is_tail"), [(1, False), (23, False), (24, True)])
def test_a_tail_lasts_for_a_day_or_more(folder: CacheFolder, count: int, is_tail: bool) -> None:
    put(folder, [True] * 30 + [False] * count)
    assert (find_untraded_tail(folder, HOURS) is not None) == is_tail


def test_quiet_bars_in_the_middle_are_no_tail(folder: CacheFolder) -> None:
    put(folder, [True] + [False] * 500 + [True])
    assert find_untraded_tail(folder, HOURS) is None


def test_an_absence_after_the_last_bar_does_not_end_the_series(folder: CacheFolder) -> None:
    put(folder, [True] * 30 + [False] * 30)
    after = span_of(60, 500)
    gone = Absence(after.start_ms, after.end_ms, Reason.AFTER_DELISTING)
    SeriesStore(folder, HOURS).put(empty_table(HOURS), after, absences=[gone])
    tail = find_untraded_tail(folder, HOURS)
    assert tail is not None
    assert (tail.bar_count, tail.end_ms) == (30, START_MS + 60 * HOUR_MS)


def test_bars_that_newer_segments_replaced_do_not_count(folder: CacheFolder) -> None:
    put(folder, [False] * 100)
    put(folder, [True] * 10, first=90)
    assert find_untraded_tail(folder, HOURS) is None
    put(folder, [False] * 10, first=90)
    tail = find_untraded_tail(folder, HOURS)
    assert tail is not None
    assert tail.bar_count == 100


@pytest.mark.parametrize("kind", [kind for kind in BAR_KINDS if kind is not Kind.KLINES])
def test_sampled_prices_have_no_tail(folder: CacheFolder, kind: Kind) -> None:
    series = SeriesKey.of("WAVESUSDT", "1h", market="um", kind=kind)
    put(folder, [False] * 100, series=series)
    assert find_untraded_tail(folder, series) is None


def test_a_segment_that_cannot_be_read_ends_the_search(folder: CacheFolder) -> None:
    put(folder, [False] * 50)
    put(folder, [False] * 50, first=50)
    flip(segment_paths(folder)[0], 40)
    tail = find_untraded_tail(folder, HOURS)
    assert tail is not None
    assert (tail.bar_count, tail.last_traded_ms) == (50, None)


def test_an_empty_cache_has_no_tail(folder: CacheFolder) -> None:
    assert find_untraded_tail(folder, HOURS) is None


def test_only_tails_that_a_span_reaches_are_named(folder: CacheFolder) -> None:
    put(folder, [True] * 30 + [False] * 100)
    assert find_untraded_tails(folder, {HOURS: span_of(0, 30)}) == {}
    assert list(find_untraded_tails(folder, {HOURS: span_of(0, 31)})) == [HOURS]


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 400), min_size=1, max_size=6), st.lists(st.integers(0, 1300), max_size=6))
def test_the_tail_is_what_a_walk_from_the_end_finds(runs: list[int], cuts: list[int]) -> None:
    traded = [number % 2 == 0 for number, run in enumerate(runs) for _ in range(run)]
    bounds = sorted({0, len(traded), *(cut for cut in cuts if cut < len(traded))})
    with tempfile.TemporaryDirectory() as place:
        folder = CacheFolder(Path(place))
        for first, stop in pairwise(bounds):
            put(folder, traded[first:stop], first)
        count = 0
        while count < len(traded) and not traded[-1 - count]:
            count += 1
        tail = find_untraded_tail(folder, HOURS)
        assert (0 if tail is None else tail.bar_count) == (count if count >= 24 else 0)


@pytest.mark.parametrize(
    ("quiet_end", "expected"),
    [(0, {}), (1, {"close_time": 1, "volume": 512, "count": 512})],
    ids=["the last row alone", "one block"],
)
def test_a_series_that_trades_costs_one_small_read(
    folder: CacheFolder, monkeypatch: pytest.MonkeyPatch, quiet_end: int, expected: dict[str, int]
) -> None:
    """However long the series is, and whatever was quiet in its middle."""
    put(folder, [True, False] * 20_000 + [True] + [False] * quiet_end)
    looked_at: list[tuple[str, int]] = []

    def column_of(some: MappedRows, name: str, series: SeriesKey) -> Column:
        looked_at.append((name, len(some)))
        return genuine(some, name, series)

    genuine = rows.column_of
    monkeypatch.setattr(untraded_tail, "column_of", column_of)
    assert find_untraded_tail(folder, HOURS) is None
    read = {name: count for name, count in looked_at if name != "open_time"}  # a view: looked up in one place
    assert read == expected


def test_the_phantom_bars_of_waves_are_told_apart_everywhere(folder: CacheFolder, shared_data: Path) -> None:
    with gzip.open(shared_data / "delisted" / "WAVES_USDT_1h.csv.gz", "rt") as file:
        bars = [row[:6] for row in csv.reader(file)][1:]
    opens = np.array([bar[0] for bar in bars], np.int64)
    prices: dict[str, Any] = {
        name: np.array([bar[field] for bar in bars], np.float64)
        for field, name in enumerate(("open", "high", "low", "close", "volume"), start=1)
    }
    table = make_table(
        HOURS, opens, **prices, count=prices["volume"] > 0, taker_buy_volume=0, taker_buy_quote_volume=0
    )
    span = Span(int(opens[0]), int(opens[-1]) + HOUR_MS)
    SeriesStore(folder, HOURS).put(table, span)
    last_ms = parse_time("2024-06-11T08:00")
    expected = UntradedTail(last_ms + HOUR_MS, span.end_ms, 17_426, last_ms)
    assert find_untraded_tail(folder, HOURS) == expected
    with open_cache(folder.root) as cache:
        klines = cache.read_series(HOURS, span)
        assert np.flatnonzero(klines.traded)[-1] == len(bars) - 1 - 17_426
        days = klines.resample("1d")
        assert days.traded_count[days.open_time == parse_time("2024-06-11")].tolist() == [9]
        assert not days.traded_count[days.open_time > parse_time("2024-06-11")].any()
        panel = cache.panel("WAVESUSDT", "1h", span.start_ms, span.end_ms, market="um", traded=True)
        assert panel.mask.sum() == klines.traded.sum()
        assert np.isnan(panel.close[-17_426:]).all()

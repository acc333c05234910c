"""Funding rates: which bar each belongs to, what positions pay, and which are missing."""

from __future__ import annotations

import datetime as dt
import itertools
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ckvd.bars.funding import Funding
from ckvd.bars.klines import Klines
from ckvd.bars.resample import resample
from ckvd.errors import ColumnError, NotCachedError
from ckvd.model.market import SeriesKey
from ckvd.model.provenance import Absence, Reason
from ckvd.model.table import KlineTable
from ckvd.model.timespan import Span
from support.block import Block
from support.records import FUNDING, HOUR
from support.tables import make_table

MINUTE = 60_000
START = Span.of("2024-01-31", "2024-02-01").start_ms
LENGTHS = {"5m": 5 * MINUTE, "1h": HOUR, "4h": 4 * HOUR, "8h": 8 * HOUR, "1d": 24 * HOUR}
COIN = SeriesKey.of("BTCUSD_PERP", market="cm", kind="fundingRate")


def funding_of(
    times: list[int],
    rates: list[float],
    *,
    hours: list[int] | int = 8,
    marks: list[float] | float = math.nan,
    span: Span | None = None,
    series: SeriesKey = FUNDING,
    missing: tuple[Span, ...] = (),
    absences: tuple[Absence, ...] = (),
) -> Funding:
    columns = {
        "open_time": np.array(times, np.int64),
        "interval_hours": np.broadcast_to(np.array(hours, np.int64), len(times)).copy(),
        "rate": np.array(rates, np.float64),
        "mark_price": np.broadcast_to(np.array(marks, np.float64), len(times)).copy(),
    }
    block = Block(KlineTable(series, columns, {}), absences=absences)
    return Funding(series, span or Span(START - 400 * 24 * HOUR, START + 400 * 24 * HOUR), [block], missing)


def klines_of(opens: list[int], interval: str = "1h", **columns: Any) -> Klines:
    series = SeriesKey.of("BTCUSDT", interval, market="um")
    table = make_table(series, opens, **columns)
    return Klines(series, Span(START - 400 * 24 * HOUR, START + 400 * 24 * HOUR), [Block(table)])


# --- An independent model ----------------------------------------------------------------------------------


def settled_of(time: int) -> int:
    """The full hour that a time is less than a minute away from; else the time."""
    for hour in (time // HOUR * HOUR, time // HOUR * HOUR + HOUR):
        if abs(time - hour) < MINUTE:
            return hour
    return time


def end_of(opens: list[int], place: int, interval: str) -> int:
    """The end of a bar: after its interval, or at the open of the next bar."""
    if interval == "1mo":
        moment = dt.datetime.fromtimestamp(opens[place] / 1000, dt.UTC)
        after = dt.datetime(moment.year + moment.month // 12, moment.month % 12 + 1, 1, tzinfo=dt.UTC)
        end = int(after.timestamp() * 1000)
    else:
        end = opens[place] + LENGTHS[interval]
    return min(end, *opens[place + 1 : place + 2]) if place + 1 < len(opens) else end


def bar_of(time: int, opens: list[int], interval: str) -> int | None:
    """The bar that a settlement belongs to: the one that is open, or else the next; None before and after all."""
    settled = settled_of(time)
    if not opens or settled < opens[0] or settled >= end_of(opens, len(opens) - 1, interval):
        return None
    for place in range(len(opens)):
        if settled < end_of(opens, place, interval):
            return place
    raise AssertionError(time)


@st.composite
def settlements(draw: st.DrawFn) -> tuple[list[int], list[float]]:
    """Settlements every few hours, a few milliseconds early or late, some of them far from a full hour."""
    steps = draw(st.lists(st.sampled_from((1, 2, 4, 8)), max_size=40))
    hours = [START + step * HOUR for step in itertools.accumulate(steps)]
    delays = st.one_of(st.integers(0, 31), st.sampled_from((-MINUTE + 1, -3, 59_999, 60_000, 20 * MINUTE)))
    times = [hour + draw(delays) for hour in hours]
    rates = [draw(st.floats(-0.02, 0.02)) for _ in times]
    return times, rates


@st.composite
def bar_opens(draw: st.DrawFn) -> tuple[str, list[int]]:
    """Bars of an interval with holes between them, some of which open late, around the settlements."""
    interval = draw(st.sampled_from((*LENGTHS, "1mo")))
    if interval == "1mo":
        first = draw(st.integers(0, 3))
        months = [f"{2023 + month // 12}-{month % 12 + 1:02}-01" for month in range(11 + first, 15)]
        opens = [Span.of(month, "2025-01-01").start_ms for month in months]
    else:
        length = LENGTHS[interval]
        start = START // length * length + draw(st.integers(-3, 3)) * length
        opens = [start + place * length for place in range(draw(st.integers(0, 60)))]
    kept = [moment for moment in opens if draw(st.integers(0, 9))]
    return interval, [moment + draw(st.sampled_from((0, 0, 0, 14_789))) for moment in kept]


@given(found=settlements(), bars=bar_opens())
def test_each_rate_belongs_to_the_bar_that_is_open_or_to_the_next_one(
    found: tuple[list[int], list[float]], bars: tuple[str, list[int]]
) -> None:
    (times, rates), (interval, opens) = found, bars
    expected = [0.0] * len(opens)
    for time, rate in zip(times, rates, strict=True):
        place = bar_of(time, opens, interval)
        if place is not None:
            expected[place] += rate
            # None is counted before it was settled: the bar ends after that.
            assert end_of(opens, place, interval) > settled_of(time)
    assert funding_of(times, rates).on(klines_of(opens, interval)).tolist() == expected


@given(
    found=settlements(),
    bars=bar_opens(),
    is_coin=st.booleans(),
    data=st.data(),
)
def test_positions_receive_what_the_rates_of_their_bars_cost_them(
    found: tuple[list[int], list[float]], bars: tuple[str, list[int]], is_coin: bool, data: st.DataObject
) -> None:
    (times, rates), (interval, opens) = found, bars
    marks = [data.draw(st.one_of(st.just(math.nan), st.floats(1, 1e5))) for _ in times]
    held = [data.draw(st.floats(-1e3, 1e3)) for _ in opens]
    klines = klines_of(opens, interval)
    expected = [0.0] * len(opens)
    for time, rate, mark in zip(times, rates, marks, strict=True):
        place = bar_of(time, opens, interval)
        if place is not None:
            price = float(klines.open[place]) if math.isnan(mark) else mark
            expected[place] -= held[place] * (100 / price if is_coin else price) * rate
    funding = funding_of(times, rates, marks=marks, series=COIN if is_coin else FUNDING)
    received = funding.pay(held, klines, contract_size=100.0 if is_coin else None)
    assert received.tolist() == pytest.approx(expected, rel=1e-9, abs=1e-9)


def test_what_hours_are_charged_is_all_that_was_settled() -> None:
    times = [START + step * 8 * HOUR + step % 31 for step in range(90)]
    rates = [(step % 7 - 2) / 1e4 for step in range(90)]
    hours = klines_of([START + step * HOUR for step in range(90 * 8)])
    charged = funding_of(times, rates).on(hours)
    assert np.count_nonzero(charged) == np.count_nonzero(rates)
    assert charged.sum() == pytest.approx(math.fsum(rates), rel=1e-12)
    # Longer bars are charged the same.
    assert funding_of(times, rates).on(resample(hours, "1d")).sum() == pytest.approx(math.fsum(rates), rel=1e-12)


def test_funding_that_does_not_cover_the_bars_is_refused() -> None:
    day = Span(START, START + 24 * HOUR)
    bars = klines_of([START + step * HOUR for step in range(25)])
    with pytest.raises(NotCachedError, match="the funding does not cover"):
        funding_of([START], [0.1], span=day).on(bars)
    # A week ends after the span that it opens in.
    week = klines_of([START - 2 * 24 * HOUR], "1w")
    with pytest.raises(NotCachedError, match="read it from 2024-01-29 to 2024-02-05"):
        funding_of([START], [0.1], span=day).on(week)
    with pytest.raises(NotCachedError):
        funding_of([START], [0.1], missing=(day,)).pay([1.0] * 25, bars)


def test_what_does_not_fit_is_refused() -> None:
    bars = klines_of([START])
    with pytest.raises(ValueError, match="expected a position for each of 1 bars"):
        funding_of([START], [0.1]).pay([1.0, 2.0], bars)
    with pytest.raises(ValueError, match="has no contract_size"):
        funding_of([START], [0.1]).pay([1.0], bars, contract_size=10)
    with pytest.raises(ValueError, match="needs the contract_size"):
        funding_of([START], [0.1], series=COIN).pay([1.0], bars)
    for size in (0, -10, math.nan, math.inf):
        with pytest.raises(ValueError, match="is a positive number"):
            funding_of([START], [0.1], series=COIN).pay([1.0], bars, contract_size=size)
    with pytest.raises(ColumnError, match="its times are 'time'"):
        _ = funding_of([START], [0.1])["open_time"]


def test_hours_that_a_source_does_not_say_are_told_by_the_settlements_around() -> None:
    times = [START + hour * HOUR + 5 for hour in (0, 8, 16, 20, 24, 48)]
    funding = funding_of(times, [0.0] * 6, hours=[0, 0, 8, 0, 4, 0])
    # After the last one but one a settlement is missing, so nobody knows.
    assert funding.interval_hours.tolist() == [8, 8, 8, 4, 4, 0]
    assert not funding.interval_hours.flags.writeable
    assert funding.settled_time.tolist() == [time - 5 for time in times]


def test_missing_settlements_have_the_reason_that_is_known() -> None:
    span = Span(START, START + 64 * HOUR)
    times = [START + hour * HOUR for hour in (0, 8, 24, 32, 56)]
    absence = Absence(START + 32 * HOUR, START + 64 * HOUR, Reason.HALTED)
    funding = funding_of(times, [0.0] * 5, span=span, absences=(absence,))
    assert [((gap.start_ms - START) // HOUR, gap.bar_count, gap.reason) for gap in funding.gaps] == [
        (16, 1, Reason.NOT_IN_ARCHIVE),
        (40, 2, Reason.HALTED),
    ]


def test_settlements_that_are_missing_for_several_reasons_are_a_gap_for_each() -> None:
    span = Span(START, START + 72 * HOUR)
    ended = (
        Absence(START + 24 * HOUR, START + 48 * HOUR, Reason.NOT_IN_ARCHIVE),
        Absence(START + 48 * HOUR, START + 72 * HOUR, Reason.AFTER_ARCHIVES),
    )
    funding = funding_of([START, START + 8 * HOUR], [0.0] * 2, span=span, absences=ended[1:])
    expected = [(16, 48, 4, Reason.NOT_IN_ARCHIVE), (48, 72, 3, Reason.AFTER_ARCHIVES)]
    found = [
        ((gap.start_ms - START) // HOUR, (gap.end_ms - START) // HOUR, gap.bar_count, gap.reason)
        for gap in funding.gaps
    ]
    assert found == expected
    # A known reason of a part counts there, also where it is the same as none.
    again = funding_of([START, START + 8 * HOUR], [0.0] * 2, span=span, absences=ended)
    assert again.gaps == funding.gaps

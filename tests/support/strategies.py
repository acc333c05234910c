"""Hypothesis strategies for several modules: series, spans, and bars as odd as those of a source."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from ckvd.model.grid import regular_close_times
from ckvd.model.market import Interval, Kind, Market, SeriesKey, pair_of
from ckvd.model.provenance import Absence, Labels, Origin, Reason, Source
from ckvd.model.schema import COLUMN_DTYPES
from ckvd.model.table import CLOSE_TIME_US, OPEN_TIME_US, Decimals, KlineTable, fields_of
from ckvd.model.timespan import Span
from support.models import bar_end, bar_start, bar_starts, ms

if TYPE_CHECKING:
    from ckvd.model.table import Column

FIRST_MS, LAST_MS = ms(2017, 1, 1), ms(2032, 1, 1)
SECOND_MS = 1000
INT64 = st.integers(-(2**63), 2**63 - 1)
SYMBOLS = ("BTCUSDT", "BTCUSD_PERP", "BTCUSDT_260626", "ICPUSDT_SETTLED", "1000SATSUSDT", "币安人生USDT")


# The kinds whose rows are bars, and the intervals of each kind.
BAR_KINDS = tuple(kind for kind in Kind if kind not in (Kind.FUNDING_RATE, Kind.METRICS))


def intervals_of(market: Market, kind: Kind) -> list[Interval | None]:
    """The intervals that a series may have; None stands for events."""
    if kind is Kind.FUNDING_RATE:
        return [None]
    if kind is Kind.METRICS:
        return [Interval.M5]
    return [interval for interval in Interval if market is Market.SPOT or interval is not Interval.S1]


@st.composite
def series_keys(draw: st.DrawFn, kinds: tuple[Kind, ...] = tuple(Kind)) -> SeriesKey:
    """Any series that may exist, of some kinds."""
    market = draw(st.sampled_from(Market))
    kind = Kind.KLINES if market is Market.SPOT else draw(st.sampled_from(kinds))
    symbol = draw(st.sampled_from(SYMBOLS))
    interval = draw(st.sampled_from(intervals_of(market, kind)))
    return SeriesKey(market, kind, pair_of(symbol) if kind is Kind.INDEX_PRICE else symbol, interval)


def bar_series_keys() -> st.SearchStrategy[SeriesKey]:
    """Any series of bars."""
    return series_keys(BAR_KINDS)


@st.composite
def moments(draw: st.DrawFn, first_ms: int = FIRST_MS, last_ms: int = LAST_MS) -> int:
    """Milliseconds, often where bars of some interval meet, or one beside that."""
    moment_ms = draw(st.integers(first_ms, last_ms))
    if draw(st.booleans()):
        moment_ms = bar_start(moment_ms, draw(st.sampled_from(Interval))) + draw(st.integers(-1, 1))
    return min(max(moment_ms, first_ms), last_ms)


@st.composite
def spans(draw: st.DrawFn, start_ms: int, end_ms: int, unit_ms: int = 1) -> Span:
    """Spans within bounds, of whole units; they may be empty."""
    bounds = st.integers(start_ms // unit_ms, end_ms // unit_ms)
    start, end = sorted((draw(bounds), draw(bounds)))
    return Span(start * unit_ms, end * unit_ms)


@st.composite
def segment_spans(draw: st.DrawFn, interval: Interval | None, bar_count_max: int = 12) -> Span:
    """Spans on whole seconds, not empty, and no longer than some bars. Events settle every eight hours at most."""
    interval = interval or Interval.H8
    start_ms = draw(moments()) // SECOND_MS * SECOND_MS
    end_ms = start_ms
    for _ in range(draw(st.integers(1, bar_count_max))):
        end_ms = bar_end(end_ms, interval)
    # Mostly whole bars, and else an end within the last one.
    cut_s = draw(st.just(0) | st.integers(0, (end_ms - start_ms - 1) // SECOND_MS))
    return Span(start_ms, end_ms - cut_s * SECOND_MS)


@st.composite
def open_times(draw: st.DrawFn, span: Span, interval: Interval | None) -> list[int]:
    """Ascending open times in a span: bars of the grid, of which some may be missing, some late, some anywhere."""
    interval = interval or Interval.H8
    chosen = {point for point in bar_starts(span, interval) if draw(st.integers(0, 3))}
    if draw(st.booleans()):
        chosen |= draw(st.sets(st.integers(span.start_ms, span.end_ms - 1), max_size=4))
    return sorted(chosen)


@st.composite
def tables(draw: st.DrawFn, series: SeriesKey, span: Span) -> KlineTable:
    """Bars that open in a span, with any cells: constant columns, odd close times, -0.0, denormals, huge ones."""
    opens = np.array(draw(open_times(span, series.interval)), np.int64)
    columns: dict[str, Column] = {}
    for name in fields_of(series):
        is_float = COLUMN_DTYPES[name].kind == "f"
        floats = st.floats(allow_nan=series.kind not in BAR_KINDS)
        columns[name] = draw(cells(name, len(opens), floats if is_float else INT64))
    columns["open_time"] = opens
    if series.kind not in BAR_KINDS:
        return KlineTable(series, columns, draw(decimals_of(series)))
    if draw(st.booleans()):
        columns["close_time"] = regular_close_times(opens, series.bar_interval)
    for name in (OPEN_TIME_US, CLOSE_TIME_US):
        if draw(st.booleans()):
            columns[name] = draw(cells(name, len(opens), st.integers(0, 999)))
    return KlineTable(series, columns, draw(decimals_of(series)))


def cells(name: str, count: int, elements: st.SearchStrategy[float]) -> st.SearchStrategy[Column]:
    """A column: cells of their own, or one for all rows."""
    dtype = COLUMN_DTYPES[name]
    varied = npst.arrays(dtype, count, elements=elements)
    return varied | elements.map(lambda cell: np.full(count, cell, dtype))


def decimals_of(series: SeriesKey) -> st.SearchStrategy[dict[str, Decimals]]:
    """What is known of how the float cells were written."""
    names = [name for name in fields_of(series) if COLUMN_DTYPES[name].kind == "f"]
    digits = st.tuples(st.integers(0, 17), st.integers(0, 17)).map(lambda pair: Decimals(min(pair), max(pair)))
    return st.dictionaries(st.sampled_from(names), digits)


@st.composite
def sources(draw: st.DrawFn) -> Source:
    """Records of archives and requests."""
    span = draw(spans(FIRST_MS, LAST_MS))
    counts = st.integers(0, 2**53)
    return Source(
        origin=draw(st.sampled_from(Origin)),
        name=draw(st.text()),
        start_ms=span.start_ms,
        end_ms=span.end_ms,
        sha256=draw(st.just("") | st.binary(min_size=32, max_size=32).map(bytes.hex)),
        is_checksum_published=draw(st.booleans()),
        etag=draw(st.text(max_size=8)),
        last_modified=draw(st.text(max_size=8)),
        row_count=draw(counts),
        duplicate_row_count=draw(counts),
        conflict_count=draw(counts),
        conflict_open_times=tuple(draw(st.lists(INT64, max_size=3))),
        unordered_row_count=draw(counts),
        outside_row_count=draw(counts),
        outside_open_times=tuple(draw(st.lists(INT64, max_size=3))),
        impossible_count=draw(counts),
        impossible_open_times=tuple(draw(st.lists(INT64, max_size=3))),
        has_header=draw(st.booleans()),
        time_unit=draw(st.sampled_from(["ms", "us", "mixed"])),
        labels=draw(st.sampled_from(Labels)).value,
        is_preferred=draw(st.booleans()),
    )


def absences(within: st.SearchStrategy[Span]) -> st.SearchStrategy[Absence]:
    """Reasons for missing bars in some spans."""
    return st.builds(
        lambda span, reason, recheck_ms: Absence(span.start_ms, span.end_ms, reason, recheck_ms),
        within,
        st.sampled_from(Reason),
        st.just(0) | moments(),
    )

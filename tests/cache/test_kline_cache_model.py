"""Any pile of overlapping segments reads like a dict of rows in which later puts replace earlier ones."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass, field
from itertools import groupby
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ckvd import open_cache
from ckvd.cache import SeriesStore
from ckvd.errors import NotCachedError
from support.models import MINUTE_MS, moments_of, ms, runs_of
from support.strategies import spans
from support.tables import BTCUSDT_1M, make_table

if TYPE_CHECKING:
    from ckvd.cache import KlineCache
    from ckvd.model.timespan import Span

# Half an hour on each side of a midnight.
FIRST_MS, LAST_MS = ms(2024, 2, 28, 23, 30), ms(2024, 2, 29, 0, 30)


@dataclass
class Model:
    """The bars of a series: each put replaces all bars in its span."""

    closes: dict[int, float] = field(default_factory=dict)
    put_of: dict[int, int] = field(default_factory=dict)  # by minute

    def put(self, number: int, span: Span, rows: dict[int, float]) -> None:
        self.closes = {open_ms: close for open_ms, close in self.closes.items() if open_ms not in span} | rows
        self.put_of |= dict.fromkeys(moments_of([span], MINUTE_MS), number)

    def rows(self, span: Span) -> dict[int, float]:
        return {open_ms: close for open_ms, close in sorted(self.closes.items()) if open_ms in span}

    def missing(self, span: Span) -> tuple[Span, ...]:
        seconds = moments_of([span], 1000)
        return runs_of({second for second in seconds if second // 60 not in self.put_of}, 1000)

    def block_count(self, span: Span) -> int:
        """From how many runs of one segment the rows come."""
        minutes = sorted(moments_of([span], MINUTE_MS))
        with_rows = {open_ms // MINUTE_MS for open_ms in self.rows(span)}
        return sum(any(minute in with_rows for minute in run) for _, run in groupby(minutes, key=self.put_of.get))


@st.composite
def puts(draw: st.DrawFn) -> tuple[Span, list[int]]:
    """A span in whole minutes of the window, and the open times of its bars: some missing, some late."""
    span = draw(spans(FIRST_MS, LAST_MS, MINUTE_MS).filter(bool))
    minutes = draw(st.sets(st.sampled_from(sorted(moments_of([span], MINUTE_MS)))))
    late_ms = draw(st.sampled_from([0, 0, 14_789]))
    return span, sorted(minute * MINUTE_MS + late_ms for minute in minutes)


@settings(max_examples=60)
@given(st.lists(puts(), max_size=6), st.lists(spans(FIRST_MS, LAST_MS, 1000), min_size=1, max_size=3))
def test_a_read_gives_what_was_put_last(made: list[tuple[Span, list[int]]], wanted: list[Span]) -> None:
    model = Model()
    with tempfile.TemporaryDirectory() as folder, open_cache(folder) as cache:
        for number, (span, opens) in enumerate(made):
            closes = 1000.0 * number + np.arange(len(opens))
            SeriesStore(cache.folder, BTCUSDT_1M).put(make_table(BTCUSDT_1M, opens, close=closes), span)
            model.put(number, span, dict(zip(opens, closes.tolist(), strict=True)))
        assert cache.coverage(BTCUSDT_1M) == runs_of(model.put_of, MINUTE_MS)
        for span in wanted:
            check(cache, span, model)


def check(cache: KlineCache, span: Span, model: Model) -> None:
    klines = cache.read_series(BTCUSDT_1M, span, missing="ignore")
    rows = model.rows(span)
    assert klines.open_time.tolist() == list(rows)
    assert klines.close.tolist() == list(rows.values())
    assert klines.close_time.tolist() == [open_ms + MINUTE_MS - 1 for open_ms in rows]
    assert klines.missing == model.missing(span)
    assert klines.is_view == (model.block_count(span) <= 1)
    if klines.missing:
        with pytest.raises(NotCachedError) as caught:
            cache.read_series(BTCUSDT_1M, span)
        assert caught.value.missing == klines.missing
    else:
        assert cache.read_series(BTCUSDT_1M, span) == klines

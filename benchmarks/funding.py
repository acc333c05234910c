"""What does it cost to place a year of funding rates on a year of minutes?"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

import ckvd
from benchmarks.material import SYMBOL, make_table, store
from benchmarks.measure import Result, Target, files_under, heat, take_turns
from benchmarks.peers import load
from ckvd.model.market import HOUR_MS, MINUTE_MS, SeriesKey
from ckvd.model.table import KlineTable
from ckvd.model.timespan import Span

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from benchmarks.measure import Effort


def run(folder: Path, effort: Effort) -> list[Result]:
    """Rates every eight hours, some milliseconds late, and the bars that they belong to."""
    span = Span.of("2023-01-01", "2023-02-01" if effort.is_quick else "2024-01-01")
    series = SeriesKey.of(SYMBOL, "1m", market="um")
    store(folder, make_table(series, span), span)
    store(folder, _make_funding(span), span)
    modules = load("pandas")
    with ckvd.open_cache(folder) as cache:
        klines = cache.read_series(series, span)
        funding = cache.funding(SYMBOL, start=span.start_ms, end=span.end_ms)
        contenders: dict[str, Callable[[], Any]] = {"ckvd": lambda: funding.on(klines)}
        if pandas := modules["pandas"]:
            contenders["pandas"] = partial(_with_pandas, pandas, klines, funding)
        expected = np.zeros(len(klines))
        expected[:: 8 * HOUR_MS // MINUTE_MS] = funding.rate
        assert all(np.array_equal(call(), expected) for call in contenders.values())
        timings = take_turns(
            contenders,
            round_count=effort.of(5, 1),
            prepare=partial(heat, files_under(folder)),
            turn_s=effort.of(20, 1) / 100,
        )
    targets: tuple[Target, ...] = ()
    if "pandas" in timings:
        ratio = timings["pandas"].median_s / timings["ckvd"].median_s
        targets = (Target("funding of a year on its minutes, against pandas", 5, ratio),)
    return [
        Result(
            "funding on klines",
            "What does it cost to place a year of rates on the bars in which they were settled?",
            f"{len(funding)} rates and {len(klines):,} minutes of {span}",
            "warm; both are read already",
            tuple(timings.values()),
            targets,
            () if modules["pandas"] else ("pandas is not installed: skipped",),
        )
    ]


def _make_funding(span: Span) -> KlineTable:
    rng = np.random.default_rng(3)
    times = np.arange(span.start_ms, span.end_ms, 8 * HOUR_MS)
    columns = {
        "open_time": times + rng.integers(0, 32, len(times)),
        "interval_hours": np.full(len(times), 8),
        "rate": np.round(rng.normal(1e-4, 1e-4, len(times)), 8),
        "mark_price": np.full(len(times), np.nan),
    }
    return KlineTable(SeriesKey.of(SYMBOL, market="um", kind="fundingRate"), columns, {})


def _with_pandas(pandas: Any, klines: ckvd.Klines, funding: ckvd.Funding) -> Any:
    """As a user does it: round the times to the minute, sum, and look each bar up."""
    times = pandas.to_datetime(funding.time, unit="ms").floor("min")
    rates = pandas.Series(funding.rate).groupby(times).sum()
    bars = pandas.to_datetime(klines.open_time, unit="ms")
    return rates.reindex(bars, fill_value=0.0).to_numpy()

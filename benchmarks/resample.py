"""How long does it take to aggregate five years of minutes to hours?"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

import ckvd
from benchmarks.breakdown import own_times
from benchmarks.material import SYMBOL, make_table, minutes, store
from benchmarks.measure import Result, Target, files_under, heat, take_turns
from benchmarks.peers import load

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from benchmarks.measure import Effort

SUMS = ("volume", "quote_volume", "taker_buy_volume", "taker_buy_quote_volume", "count")


def run(folder: Path, effort: Effort) -> list[Result]:
    """Resample columns in memory (peers) and mapped ones (`ckvd`). Sums of the peers differ in the last digits."""
    series, span = minutes(5, day_count=effort.of(0, 30))
    root = folder / "cache"
    store(root, make_table(series, span), span)
    modules = load("pandas", "polars")
    with ckvd.open_cache(root) as cache:
        klines = cache.read(SYMBOL, "1m", start=span.start_ms, end=span.end_ms)
    columns = {name: klines[name].copy() for name in klines.column_names}

    def ours() -> dict[str, Any]:
        return klines.resample("1h").as_dict()

    contenders: dict[str, Callable[[], dict[str, Any]]] = {"ckvd": ours}
    if modules["pandas"]:
        contenders["pandas"] = _with_pandas(modules["pandas"], columns)
    if modules["polars"]:
        contenders["polars"] = _with_polars(modules["polars"], columns)
    expected = ours()
    for name, call in contenders.items():
        found = call()
        for column in ("open", "high", "low", "close", "count"):
            assert np.array_equal(found[column], expected[column]), (name, column)
        for column in SUMS:
            assert np.allclose(found[column], expected[column], rtol=1e-14, atol=0), (name, column)
    timings = take_turns(
        contenders,
        round_count=effort.of(6, 1),
        prepare=partial(heat, files_under(root)),
        turn_s=effort.of(30, 1) / 100,
    )
    wanted = {"pandas": 10, "polars": 2}
    targets = tuple(
        Target(
            f"resample 5 years of 1m to 1h, against {peer}",
            times,
            timings[peer].median_s / timings["ckvd"].median_s,
        )
        for peer, times in wanted.items()
        if peer in timings
    )
    profile = f"where it goes, under the profiler: {own_times(ours, count=effort.of(10, 1))}"
    notes = tuple(f"{name} is not installed: skipped" for name in wanted if not modules[name])
    return [
        Result(
            "resample 1m to 1h",
            "How long does it take to make hours of minutes?",
            f"1m bars of {span}, ten columns aggregated; ckvd sums decimals exactly, the others add doubles",
            "warm: the peers in memory, ckvd over the map",
            tuple(timings.values()),
            targets,
            (profile, *notes),
        )
    ]


def _with_pandas(pandas: Any, columns: dict[str, Any]) -> Callable[[], dict[str, Any]]:
    frame = pandas.DataFrame(columns, index=pandas.to_datetime(columns["open_time"], unit="ms"))
    rules = {"open": "first", "high": "max", "low": "min", "close": "last"} | dict.fromkeys(SUMS, "sum")

    def call() -> dict[str, Any]:
        hours = frame.resample("1h").agg(rules)
        return {name: hours[name].to_numpy() for name in rules}

    return call


def _with_polars(polars: Any, columns: dict[str, Any]) -> Callable[[], dict[str, Any]]:
    frame = polars.DataFrame(columns).with_columns(time=polars.from_epoch("open_time", "ms")).set_sorted("time")

    def call() -> dict[str, Any]:
        hours = frame.group_by_dynamic("time", every="1h").agg(
            polars.first("open"),
            polars.max("high"),
            polars.min("low"),
            polars.last("close"),
            *map(polars.sum, SUMS),
        )
        return {name: hours[name].to_numpy() for name in ("open", "high", "low", "close", *SUMS)}

    return call

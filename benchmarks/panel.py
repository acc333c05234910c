"""How long does it take to put a year of hours of 200 symbols on one grid?"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

import ckvd
from benchmarks.breakdown import own_times
from benchmarks.material import make_table, store
from benchmarks.measure import Result, Target, files_under, heat, take_turns
from benchmarks.peers import load
from ckvd.model.market import SeriesKey
from ckvd.model.timespan import Span

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from benchmarks.measure import Effort

COLUMNS = ("open", "high", "low", "close", "volume")


def run(folder: Path, effort: Effort) -> list[Result]:
    """Read one Parquet file a symbol, as a folder of downloads has them. pandas and polars align by open time."""
    span = Span.of("2023-01-01", "2024-01-01") if not effort.is_quick else Span.of("2023-01-01", "2023-02-01")
    symbols = [f"SYM{number:03}USDT" for number in range(effort.of(200, 5))]
    root, files = folder / "cache", folder / "parquet"
    files.mkdir()
    modules = load("pyarrow", "pyarrow.parquet", "pandas", "polars")
    for number, symbol in enumerate(symbols):
        table = make_table(SeriesKey.of(symbol, "1h"), span, seed=number)
        store(root, table, span)
        if modules["pyarrow"]:
            columns = {name: table.columns[name] for name in ("open_time", *COLUMNS)}
            modules["pyarrow.parquet"].write_table(modules["pyarrow"].table(columns), files / f"{symbol}.parquet")
    warm = partial(heat, files_under(root, files))
    with ckvd.open_cache(root) as cache:
        return [
            _compare(cache, symbols, names, span, files, modules, effort, warm) for names in (COLUMNS, ("close",))
        ]


def _compare(
    cache: ckvd.KlineCache, symbols: list[str], names: tuple[str, ...], span: Span, files: Path,
    modules: dict[str, Any], effort: Effort, warm: Callable[[], None],
) -> Result:  # fmt: skip
    def ours() -> dict[str, Any]:
        return dict(cache.panel(symbols, "1h", span.start_ms, span.end_ms, names).columns)

    expected = ours()

    def copied() -> dict[str, Any]:
        return {name: column.copy(order="F") for name, column in expected.items()}

    contenders: dict[str, Callable[[], dict[str, Any]]] = {"ckvd": ours, "copying the panel in memory": copied}
    if modules["pyarrow"] and modules["pandas"]:
        contenders["pandas from Parquet"] = partial(_with_pandas, modules["pandas"], files, symbols, names)
    if modules["pyarrow"] and modules["polars"]:
        contenders["polars from Parquet"] = partial(_with_polars, modules["polars"], files, symbols, names)
    for name, call in contenders.items():
        found = call()
        assert all(np.array_equal(found[column], expected[column], equal_nan=True) for column in names), name
    timings = take_turns(contenders, round_count=effort.of(2, 1), prepare=warm, turn_s=effort.of(20, 1) / 100)
    label = (
        f"panel of {len(symbols)} symbols x 1 year of 1h, {len(names)} {'column' if len(names) == 1 else 'columns'}"
    )
    own_s = timings["ckvd"].median_s
    targets = [
        Target(f"{label}, against {peer}", 10, timings[peer].median_s / own_s)
        for peer in ("pandas from Parquet", "polars from Parquet")
        if peer in timings
    ]
    copy_s = timings["copying the panel in memory"].median_s
    targets.append(Target(f"{label}, speed against copying that memory", 0.5, copy_s / own_s))
    return Result(
        label,
        "How long does it take to read them onto one grid of (time, symbol)?",
        f"hours of {span}, one segment and one Parquet file a symbol",
        "warm; the cache keeps its segments open between two panels",
        tuple(timings.values()),
        tuple(targets),
        (
            f"where it goes, under the profiler: {own_times(ours, count=effort.of(10, 1))}",
            *(f"{name} is not installed: skipped" for name in ("pyarrow", "pandas", "polars") if not modules[name]),
        ),
    )


def _with_pandas(pandas: Any, files: Path, symbols: list[str], names: tuple[str, ...]) -> dict[str, Any]:
    frames = {
        symbol: pandas.read_parquet(files / f"{symbol}.parquet", columns=["open_time", *names]).set_index(
            "open_time"
        )
        for symbol in symbols
    }
    return {
        name: pandas.concat({symbol: frame[name] for symbol, frame in frames.items()}, axis=1).to_numpy()
        for name in names
    }


def _with_polars(polars: Any, files: Path, symbols: list[str], names: tuple[str, ...]) -> dict[str, Any]:
    whole = polars.concat(
        [
            polars.scan_parquet(files / f"{symbol}.parquet")
            .select("open_time", *names)
            .with_columns(symbol=polars.lit(symbol))
            for symbol in symbols
        ]
    ).collect()
    wide = whole.pivot(on="symbol", index="open_time", values=list(names)).sort("open_time")
    # With a single value, polars names the columns by the symbol alone.
    prefixes = {name: f"{name}_" if len(names) > 1 else "" for name in names}
    return {name: wide.select([f"{prefixes[name]}{symbol}" for symbol in symbols]).to_numpy() for name in names}

"""How long does it take to sum a whole column from a fresh map, compared with an array in memory?"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import numpy as np

import ckvd
from benchmarks.breakdown import Steps
from benchmarks.material import SYMBOL, make_table, minutes, store
from benchmarks.measure import Result, Target, files_under, heat, take_turns

if TYPE_CHECKING:
    from pathlib import Path

    from benchmarks.measure import Effort


def run(folder: Path, effort: Effort) -> list[Result]:
    series, span = minutes(5, day_count=effort.of(0, 60))
    root = folder / "cache"
    table = make_table(series, span)
    store(root, table, span)
    in_memory = table.columns["close"].copy()

    def fresh_map() -> float:
        with ckvd.open_cache(root) as cache:
            return float(cache.read(SYMBOL, "1m", start=span.start_ms, end=span.end_ms).close.sum())

    with ckvd.open_cache(root) as kept:
        whole = kept.read(SYMBOL, "1m", start=span.start_ms, end=span.end_ms)

        def open_map() -> float:
            return float(whole.close.sum())

        def blocks() -> float:
            return sum(
                float(block.close.sum()) for block in kept.scan(SYMBOL, "1m", start=span.start_ms, end=span.end_ms)
            )

        contenders = {
            "array in memory": lambda: float(in_memory.sum()),
            "ckvd, fresh map": fresh_map,
            "ckvd, mapped before": open_map,
            "ckvd, cache.scan in blocks of 65,536 bars": blocks,
        }
        sums = [call() for call in contenders.values()]
        assert np.allclose(sums, sums[0], rtol=1e-12)
        warm = partial(heat, files_under(root))
        timings = take_turns(contenders, round_count=effort.of(8, 1), prepare=warm, turn_s=effort.of(10, 1) / 100)
    ratio = timings["ckvd, fresh map"].median_s / timings["array in memory"].median_s
    target = Target(
        "full scan of a column from a fresh map, against the same sum in memory", 1.3, ratio, is_at_least=False
    )
    return [
        Result(
            "full scan",
            "What does it cost to sum a whole column, map and unmap included?",
            f"closes of {span}, 1m, {in_memory.nbytes / 1e6:.0f} MB",
            "warm",
            tuple(timings.values()),
            (target,),
            (f"where it goes, from a fresh map: {_profile(root, effort)}",),
        )
    ]


def _profile(root: Path, effort: Effort) -> Steps:
    steps = Steps()
    path = next(root.rglob("*.ckvd"))
    for _ in range(effort.of(200, 2)):
        with steps.walk():
            with steps.step("opening, checking and mapping"):
                reader = ckvd.SegmentReader(path)
            with steps.step("the sum of a column of which no page is mapped"):
                reader["close"].sum()
            with steps.step("the same once more"):
                reader["close"].sum()
            with steps.step("unmapping"):
                reader.close()
    return steps

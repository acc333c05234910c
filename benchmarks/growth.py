"""Does a series cost more if the cache has many?"""

from __future__ import annotations

import json
import subprocess
import sys
from typing import TYPE_CHECKING, Any

from benchmarks.material import make_table, store
from benchmarks.measure import Result, Target, Timing, files_under, heat, timing_of
from ckvd.model.market import SeriesKey
from ckvd.model.timespan import Span

if TYPE_CHECKING:
    from pathlib import Path

    from benchmarks.measure import Effort

# Every step some times, the first one cold of this process; then what it holds.
_WORKER = """
import asyncio, json, os, resource, sys, time
import numpy as np
import ckvd
from ckvd.cache.folder import CacheFolder
from ckvd.maintenance.inventory import list_series

root, end, count, rounds = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
symbols = [f"SYM{number:04}USDT" for number in range(count)]
span = "2023-01-01", end
spent = {}

def timed(name, call, times=rounds):
    for _ in range(times):
        found = None  # its memory is there for the next one
        start = time.process_time()
        found = call()
        spent.setdefault(name, []).append(time.process_time() - start)
    return found

async def download():
    async with ckvd.CryptoKlineVisionData(cache=root, vision_url=root, use_rest=False) as client:
        return await client.ensure(symbols, "1h", start=span[0], end=span[1])

def held():
    return len(os.listdir("/proc/self/fd")) if os.path.exists("/proc/self/fd") else 0

before = held()
with ckvd.open_cache(root) as cache:
    close = timed("first panel", lambda: cache.panel(symbols, "1h", *span).close, 1)
    timed("next panel", lambda: cache.panel(symbols, "1h", *span))
    kept = held() - before
    out = np.empty_like(close)
    timed("panel into an array", lambda: cache.panel(symbols, "1h", *span, out=out))
    timed("panel of float32", lambda: cache.panel(symbols, "1h", *span, dtype=np.float32))
    timed("copying a panel", lambda: close.copy(order="F"))
    assert np.array_equal(out, close)
assert sum(1 for _ in timed("list", lambda: list(list_series(CacheFolder.at(root))))) >= count
report = timed("download with nothing to do", lambda: asyncio.run(download()))
assert report.covered_before, report
memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
print(json.dumps({"spent": spent, "kept": kept, "left": held() - before, "memory": memory, "cells": close.nbytes}))
"""
_STEPS = ("first panel", "next panel", "list", "download with nothing to do")


def run(folder: Path, effort: Effort) -> list[Result]:
    """Ten times as many series should take ten times as long: look at 10, 100 and 1,000, each in a new process."""
    end = "2024-01-01" if not effort.is_quick else "2023-01-08"
    span = Span.of("2023-01-01", end)
    counts = (10, 100, 1000) if not effort.is_quick else (2, 4, 8)
    found: dict[int, dict[str, Any]] = {}
    for count in counts:
        root = folder / f"cache-{count}"
        for number in range(count):
            store(root, make_table(SeriesKey.of(f"SYM{number:04}USDT", "1h"), span, seed=number), span)
        heat(files_under(root))
        argv = [sys.executable, "-c", _WORKER, str(root), end, str(count), str(effort.of(7, 2))]
        found[count] = json.loads(subprocess.run(argv, check=True, stdout=subprocess.PIPE, text=True).stdout)
    some, many = counts[-2:]
    timings = {(name, count): timing_of(_label(name, count), found[count]["spent"][name])
               for name in found[many]["spent"] for count in counts}  # fmt: skip
    targets = [
        Target(
            f"{name}, processor time of a series of {many:,} against one of {some:,}",
            1.5,
            _ratio(timings[name, many], timings[name, some]) * some / many,
            is_at_least=False,
        )
        for name in _STEPS
    ]
    copying = timings["copying a panel", many]
    targets.append(
        Target(
            f"next panel of {many:,} series, against copying its memory",
            5,
            _ratio(timings["next panel", many], copying),
            is_at_least=False,
        )
    )
    notes = [
        f"{count:,} series: at most {of['memory'] / 1e6:.0f} MB in memory, a panel has {of['cells'] / 1e6:.1f} MB; "
        f"{of['kept']} descriptors while the cache is open, {of['left']} after that"
        for count, of in found.items()
    ]
    return [
        Result(
            "growth",
            "How much processor time, memory and descriptors do 10, 100 and 1,000 series take?",
            f"hours of {span}, one segment a series, one column",
            "warm; a panel of a cache that stays open, from the second on with all of its segments open",
            tuple(timings.values()),
            tuple(targets),
            tuple(notes),
        )
    ]


def _label(name: str, count: int) -> str:
    return f"{name}, {count:,} series"


def _ratio(one: Timing, other: Timing) -> float:
    # A clock of processor time may stand still over a short run.
    return one.median_s / max(other.median_s, 1e-6)

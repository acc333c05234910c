"""How long does it take to ask who was listed on a day, and to put all of them on one grid?"""

from __future__ import annotations

import random
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

import ckvd
from benchmarks.material import make_table, store
from benchmarks.measure import Result, Target, files_under, heat, take_turns
from ckvd.cache.folder import CacheFolder
from ckvd.model.life import Life
from ckvd.model.market import DAY_MS, ContractType, Market, SeriesKey
from ckvd.model.timespan import Span
from ckvd.universe.snapshot import Snapshot, encode_snapshot, write_snapshot

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from benchmarks.measure import Effort


def run(folder: Path, effort: Effort) -> list[Result]:
    """A snapshot as long as that of spot, and a panel of lives against one of the same symbols, whole."""
    root = folder / "cache"
    span = Span.of("2023-01-01", "2024-01-01") if not effort.is_quick else Span.of("2023-01-01", "2023-02-01")
    names = [f"SYM{number:03}USDT" for number in range(effort.of(200, 5))]
    for number, symbol in enumerate(names):
        store(root, make_table(SeriesKey.of(symbol, "1h"), span, seed=number), span)
    others = [f"OLD{number:04}USDT" for number in range(effort.of(3800, 20))]
    snapshot = Snapshot(Market.SPOT, span.end_ms, tuple(sorted(_lives(names, others, span))))
    write_snapshot(CacheFolder(root), snapshot)
    with ckvd.open_cache(root) as cache:
        return [_asking(cache, snapshot, effort), _panels(cache, root, names, span, effort)]


def _lives(names: list[str], others: list[str], span: Span) -> list[Life]:
    """Lives of symbols that the cache has, each of which begins or ends within the span, and of many others."""
    rng = random.Random(1)
    lives = []
    for symbol in (*names, *others):
        first_ms = span.start_ms + rng.randrange(-1000, 180) * DAY_MS
        end_ms = first_ms + rng.randrange(200, 2000) * DAY_MS if rng.random() < 0.5 else None
        lives.append(
            Life(Market.SPOT, symbol, first_ms, symbol, symbol[:-4], "USDT", ContractType.SPOT, end_ms=end_ms)
        )
    return lives


def _asking(cache: ckvd.KlineCache, snapshot: Snapshot, effort: Effort) -> Result:
    count = len(cache.universe("spot", on="2023-01-15", quote="USDT"))

    def looking_at_each() -> int:
        day_ms = Span.of("2023-01-15", "2023-01-16")
        return sum(life.quote == "USDT" and life.overlaps(day_ms) for life in snapshot.lives)

    contenders: dict[str, Callable[[], Any]] = {
        "ckvd": lambda: len(cache.universe("spot", on="2023-01-15", quote="USDT")),
        "a loop over the lives in memory": looking_at_each,
    }
    assert all(call() == count for call in contenders.values())
    timings = take_turns(contenders, round_count=effort.of(3, 1), turn_s=effort.of(20, 1) / 100)
    ratio = timings["a loop over the lives in memory"].median_s / timings["ckvd"].median_s
    return Result(
        f"who was listed on a day, among {len(snapshot.lives)} lives",
        "How long does it take to choose them from the newest snapshot?",
        f"one snapshot of {len(encode_snapshot(snapshot))} bytes",
        "warm; the process keeps the snapshot parsed",
        tuple(timings.values()),
        (Target(f"who was listed on a day, among {len(snapshot.lives)} lives, speed against a loop", 0.5, ratio),),
    )


def _panels(cache: ckvd.KlineCache, root: Path, names: list[str], span: Span, effort: Effort) -> Result:
    lives = cache.universe("spot", start=span.start_ms, end=span.end_ms, names="SYM*")

    def of_lives() -> Any:
        return cache.panel(lives, "1h", span.start_ms, span.end_ms, ("close",))

    def of_symbols() -> Any:
        return cache.panel(names, "1h", span.start_ms, span.end_ms, ("close",))

    panel, whole = of_lives(), of_symbols()
    columns = [names.index(life.symbol) for life in lives]
    assert np.array_equal(panel.close[panel.mask], whole.close[:, columns][panel.mask])
    timings = take_turns(
        {"ckvd": of_lives, "the symbols, whole": of_symbols},
        round_count=effort.of(3, 1),
        prepare=partial(heat, files_under(root)),
        turn_s=effort.of(20, 1) / 100,
    )
    ratio = timings["the symbols, whole"].median_s / timings["ckvd"].median_s
    return Result(
        f"panel of {len(lives)} lives x 1 year of 1h",
        "What does it cost to cut each column to a life, and to say why cells are missing?",
        f"hours of {span}, one segment a symbol",
        "warm; the cache keeps its segments open between two panels",
        tuple(timings.values()),
        (Target(f"panel of {len(lives)} lives, speed against one of their symbols", 0.5, ratio),),
    )

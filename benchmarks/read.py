"""How long does it take to read a day, a month, a year or all of five years of minutes?"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

import ckvd
from benchmarks.breakdown import Steps
from benchmarks.material import SYMBOL, make_table, minutes, store
from benchmarks.measure import Result, Target, files_under, heat, take_turns
from benchmarks.peers import write_peers
from ckvd.cache import CacheFolder
from ckvd.cache.resolution import resolve
from ckvd.model.market import DAY_MS
from ckvd.model.timespan import Span

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from benchmarks.measure import Effort, Timing
    from benchmarks.peers import ReadPeer

SIX = ("open_time", "open", "high", "low", "close", "volume")
OURS, OURS_FRESH = "ckvd, cache open", "ckvd, cache opened for it"


def run(folder: Path, effort: Effort) -> list[Result]:
    """Read with all contenders. The peers open their file each time, as `ckvd` does in its second row."""
    series, span = minutes(5, day_count=effort.of(0, 60))
    root = folder / "cache"
    table = make_table(series, span)
    store(root, table, span)
    peers, skipped = write_peers(folder, dict(table.columns))
    spans = {
        "one day": Span(span.end_ms - 40 * DAY_MS, span.end_ms - 39 * DAY_MS),
        "one month": Span(span.end_ms - 45 * DAY_MS, span.end_ms - 15 * DAY_MS),
        "one year": Span(max(span.start_ms, span.end_ms - 500 * DAY_MS), span.end_ms - 15 * DAY_MS),
    }
    warm = partial(heat, files_under(root, *{peer.path for peer in peers}))
    results = []
    with ckvd.open_cache(root) as cache:
        for label, part in spans.items():
            contenders: dict[str, Callable[[], Any]] = {
                OURS: partial(_sum_closes, cache, part),
                OURS_FRESH: partial(_sum_fresh, root, part),
            }
            for peer in peers:
                contenders[peer.name] = partial(_sum_of_peer, peer, part)
            _require_equal_sums(contenders)
            timings = take_turns(
                contenders, round_count=effort.of(3, 1), prepare=warm, turn_s=effort.of(10, 1) / 100
            )
            targets = _month_targets(timings) if label == "one month" else ()
            notes = [*skipped, *([_profile(root, part, effort)] if targets else [])]
            results.append(_result(f"read {label}, sum its closes", timings, targets, notes, span))
        results.append(_read_all(cache, root, span, peers, warm, skipped, effort))
    return results


def _sum_closes(cache: ckvd.KlineCache, span: Span) -> float:
    klines = cache.read(SYMBOL, "1m", start=span.start_ms, end=span.end_ms)
    return float(klines.close.sum())


def _sum_of_peer(peer: ReadPeer, span: Span) -> float:
    return float(peer.read(("close",), span.start_ms, span.end_ms)[0].sum())


def _sum_fresh(root: Path, span: Span) -> float:
    with ckvd.open_cache(root) as cache:
        return _sum_closes(cache, span)


def _require_equal_sums(contenders: dict[str, Callable[[], Any]]) -> None:
    sums = {name: float(call()) for name, call in contenders.items()}
    expected = sums[OURS]
    wrong = {name: found for name, found in sums.items() if not np.isclose(found, expected, rtol=1e-12)}
    assert not wrong, f"expected {expected}: {wrong}"


def _profile(root: Path, span: Span, effort: Effort) -> str:
    """Time the steps of a read that opens its cache. A step takes longer here than in a loop of its own."""
    steps = Steps()
    series = ckvd.SeriesKey.of(SYMBOL, "1m")
    folder = CacheFolder.at(root).series_path(series)
    for _ in range(effort.of(500, 5)):
        with steps.walk():
            with steps.step("opening the cache"):
                cache = ckvd.open_cache(root)
            with steps.step("listing the series' folder"):
                segments = cache.folder.segments(series)
            with steps.step("choosing segments"):
                winners = resolve(span, segments)
            with steps.step("opening, checking and mapping the segment"):
                reader = ckvd.SegmentReader(folder / winners[0].segment.file_name)
            with steps.step("finding the rows"):
                found = reader.rows.between(span.start_ms, span.end_ms)
            with steps.step("the struct and its column"):
                closes = ckvd.Klines(series, span, [found], ()).close
            with steps.step("summing it, with the page faults"):
                closes.sum()
            del found, closes
            with steps.step("unmapping and closing"):
                reader.close()
                cache.close()
    return f"where it goes, when the cache is opened for it: {steps}"


def _month_targets(timings: dict[str, Timing]) -> tuple[Target, ...]:
    wanted = {
        "Arrow IPC as write_feather leaves it": 40,
        "Arrow IPC, one record batch": 3,
        "Parquet (pyarrow)": 100,
    }
    return tuple(
        Target(
            f"`cache.read` of a month of 5 packed years + sum, against {peer} ({how})",
            times,
            timings[peer].median_s / timings[ours].median_s,
        )
        for peer, times in wanted.items()
        if peer in timings
        for how, ours in (("cache open", OURS), ("cache opened for it", OURS_FRESH))
    )


def _read_all(
    cache: Any, root: Path, span: Span, peers: Any, warm: Any, skipped: list[str], effort: Effort
) -> Result:
    def ours() -> list[Any]:
        klines = cache.read(SYMBOL, "1m", start=span.start_ms, end=span.end_ms)
        return [klines[name] for name in SIX]

    def fresh() -> list[Any]:
        with ckvd.open_cache(root) as opened:
            klines = opened.read(SYMBOL, "1m", start=span.start_ms, end=span.end_ms)
            return [klines[name] for name in SIX]

    contenders: dict[str, Callable[[], Any]] = {OURS: ours, OURS_FRESH: fresh}
    for peer in peers:
        contenders[peer.name] = partial(peer.read, SIX, None, None)
    expected = ours()
    assert not any(column.flags.owndata or column.flags.writeable for column in expected), "columns are views"
    for name, call in contenders.items():
        for column, found in zip(expected, call(), strict=True):
            assert np.array_equal(column, found), name
    timings = take_turns(contenders, round_count=effort.of(3, 1), prepare=warm, turn_s=effort.of(10, 1) / 100)
    targets = tuple(
        Target(
            f"all of 5 years, 6 columns, as numpy: a view, no bytes copied ({how})",
            60,
            timings[ours_].median_s * 1e6,
            is_at_least=False,
            unit="microseconds",
        )
        for how, ours_ in (("cache open", OURS), ("cache opened for it", OURS_FRESH))
    )
    return _result("read all, 6 columns, as numpy", timings, targets, skipped, span)


def _result(
    name: str, timings: dict[str, Timing], targets: tuple[Target, ...], skipped: list[str], span: Span
) -> Result:
    return Result(
        name,
        f"How long does it take to {name}?",
        f"1m bars of {span}, one segment; the peers' files hold the same columns",
        "warm: files in the page cache as reading them once leaves them",
        tuple(timings.values()),
        targets,
        tuple(skipped),
    )

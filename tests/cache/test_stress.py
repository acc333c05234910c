"""Writers, readers, packers and pruners on one cache at the same time: nobody fails, and nobody reads a wrong bar.

Every day is written whole, again and again, by one writer, with a number that grows; a pruned day is written again
with a higher one. So each day that a reader sees must be whole, of one number, and never of a lower one.
"""

from __future__ import annotations

import os
import time
import traceback
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import pytest

from ckvd.cache import CacheFolder, KlineCache, SeriesStore
from ckvd.cache.packing import pack_series
from ckvd.maintenance.pruning import prune_span
from ckvd.maintenance.quarantine import list_quarantine, quarantine_file, restore
from ckvd.maintenance.verification import is_clean, verify_cache
from ckvd.model.market import DAY_MS, SeriesKey
from ckvd.model.timespan import Span
from support import leaks
from support.processes import fork
from support.tables import regular_table

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

# `make kills` gives them longer.
STRESS_S, WHOLE_S = (30.0, 8.0) if os.environ.get("CKVD_KILLS") == "whole" else (8.0, 3.0)
WRITERS = 4
READERS = 8
DAYS = 32
SERIES = (SeriesKey.of("BTCUSDT", "1h"), SeriesKey.of("ETHUSDT", "1h"))
START = Span.of("2023-01-01", "2023-01-02").start_ms
GOOD = {"high": 1e12, "low": 0.0, "volume": 1e9, "taker_buy_volume": 0.0, "quote_volume": 1e9}


def day(number: int, count: int = 1) -> Span:
    return Span(START + number * DAY_MS, START + (number + count) * DAY_MS)


def write(folder: CacheFolder, writer: int, until_s: float) -> None:
    """Each writer owns every fourth day of both series; now and then it packs, or prunes a day of its own."""
    generator = np.random.default_rng(writer)
    number = 0
    while time.monotonic() < until_s:
        number += 1
        series = SERIES[int(generator.integers(2))]
        owned = writer + WRITERS * int(generator.integers(DAYS // WRITERS))
        table = regular_table(
            series, day(owned), open=float(number), close=float(number), taker_buy_quote_volume=0.0, **GOOD
        )
        SeriesStore(folder, series).put(table, day(owned))
        if number % 7 == writer:
            pack_series(folder, series, is_thorough=number % 2 == 0)
        if number % 11 == writer:
            prune_span(folder, series, day(owned))


def read(folder: CacheFolder, reader: int, until_s: float) -> int:
    """Read spans of days, with a cache that stays open and one that is new each time."""
    generator = np.random.default_rng(100 + reader)
    seen = {series: np.zeros(DAYS) for series in SERIES}
    count = 0
    with KlineCache(folder.root) as kept:
        while time.monotonic() < until_s:
            count += 1
            series = SERIES[count % 2]
            first = int(generator.integers(DAYS))
            span = day(first, int(generator.integers(1, DAYS - first + 1)))
            if count % 3:
                check(kept, series, span, seen[series])
            else:
                with KlineCache(folder.root) as cache:
                    check(cache, series, span, seen[series])
    return count


def check(
    cache: KlineCache, series: SeriesKey, span: Span, seen: np.ndarray[tuple[int], np.dtype[np.float64]]
) -> None:
    klines = cache.read_series(series, span, missing="ignore")
    opens, marks = klines.open_time, klines.open
    days = (opens - START) // DAY_MS
    assert np.array_equal(marks, klines.close)
    for number in np.unique(days).tolist():
        of_day = marks[days == number]
        assert len(of_day) == 24, f"{series} {day(number)}: {len(of_day)} bars"
        assert (of_day == of_day[0]).all(), f"{series} {day(number)}: mixed {set(of_day.tolist())}"
        assert of_day[0] >= seen[number], f"{series} {day(number)}: {of_day[0]} after {seen[number]}"
        seen[number] = of_day[0]
    missing = sum(part.length_ms for part in klines.missing) // DAY_MS
    assert missing + len(np.unique(days)) == span.length_ms // DAY_MS


@pytest.mark.long
def test_four_writers_and_eight_readers_get_along(tmp_path: Path) -> None:
    folder = CacheFolder(tmp_path / "cache")
    until_s = time.monotonic() + STRESS_S
    children = [start(partial(write, folder, number, until_s)) for number in range(WRITERS)]
    children += [start(partial(read, folder, number, until_s)) for number in range(READERS)]
    for pid in children:
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    findings = list(verify_cache(folder))
    assert is_clean(findings), findings
    assert not list(folder.root.rglob("*.tmp"))
    for series in SERIES:
        pack_series(folder, series)
        assert len(folder.segments(series)) <= DAYS


@pytest.mark.long
def test_whole_series_may_go_while_others_are_stored_and_restored(tmp_path: Path) -> None:
    folder = CacheFolder(tmp_path / "cache")
    until_s = time.monotonic() + WHOLE_S
    for pid in [start(partial(come_and_go, folder, number, until_s)) for number in range(WRITERS)]:
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert is_clean(findings := list(verify_cache(folder))), findings
    assert not list_quarantine(folder)
    assert not list(folder.root.rglob("*.json"))


def come_and_go(folder: CacheFolder, writer: int, until_s: float) -> None:
    """Store a day, prune all there is of a series with its folders, or set a segment aside and put it back."""
    generator = np.random.default_rng(200 + writer)
    while time.monotonic() < until_s:
        series = SERIES[int(generator.integers(2))]
        what = generator.integers(3)
        if what == 0:
            SeriesStore(folder, series).put(regular_table(series, day(writer), **GOOD), day(writer))
        elif what == 1:
            prune_span(folder, series)
        for name in folder.segments(series)[:1] if what == 2 else ():
            aside = quarantine_file(folder, series, name.file_name, "to be put back")
            if aside is not None:
                restore(folder, aside)


def start(work: Callable[[], object]) -> int:
    """Fork a child that fails if its work fails, or leaves something behind."""
    child = fork()
    if child:
        return child
    status = 1
    try:
        with leaks.watch() as watch:
            work()
        status = int(bool(watch.findings))
        for finding in watch.findings:
            print(finding, flush=True)
    except BaseException:  # noqa: BLE001  (nothing may leave a child that was forked in a test)
        traceback.print_exc()
    finally:
        os._exit(status)

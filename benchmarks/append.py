"""Does adding a day cost more if the history is long?"""

from __future__ import annotations

import shutil
from itertools import count
from typing import TYPE_CHECKING

import ckvd
from benchmarks.material import SYMBOL, make_table, minutes, store
from benchmarks.measure import Result, Target, take_turns
from ckvd.model.market import DAY_MS
from ckvd.model.timespan import Span

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from benchmarks.measure import Effort


def run(folder: Path, effort: Effort) -> list[Result]:
    series, whole = minutes(5, day_count=effort.of(0, 90))
    day = Span(whole.end_ms, whole.end_ms + DAY_MS)
    added = make_table(series, day, seed=1)
    contenders: dict[str, Callable[[], object]] = {}
    for label, span in (("1 month", Span(whole.end_ms - 31 * DAY_MS, whole.end_ms)), ("5 years", whole)):
        root = folder / label.replace(" ", "-")
        store(root, make_table(series, span), span)
        numbers = count()

        def append(root: Path = root, numbers: count[int] = numbers) -> None:
            # Each call adds another day. Only the listing of the folder grows, and equally for both.
            shift_ms = next(numbers) * DAY_MS
            columns = dict(added.columns)
            columns["open_time"] = added.columns["open_time"] + shift_ms
            columns["close_time"] = added.columns["close_time"] + shift_ms
            store(root, type(added)(series, columns, {}), Span(day.start_ms + shift_ms, day.end_ms + shift_ms))

        contenders[f"append a day to {label}"] = append
    timings = take_turns(contenders, round_count=effort.of(10, 1), turn_s=effort.of(10, 1) / 100, calls_max=10)
    with ckvd.open_cache(folder / "5-years") as cache:
        after = cache.read(SYMBOL, "1m", start=day.start_ms, end=day.end_ms)
        assert after.close.tolist() == added.columns["close"].tolist()
    short, long = timings.values()
    shutil.rmtree(folder / "5-years")
    return [
        Result(
            "append a day",
            "What does it cost to add a day of minutes to a short and to a long history?",
            "1,440 bars, durable when the call returns",
            "warm",
            tuple(timings.values()),
            (
                Target(
                    "append a day to 5 years, against to 1 month",
                    1.2,
                    long.median_s / short.median_s,
                    is_at_least=False,
                ),
            ),
        )
    ]

"""Timing contenders in turns, again and again, so that a busy moment of the machine slows down all of them."""

from __future__ import annotations

import gc
import os
import statistics
import sys
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from pathlib import Path


@dataclass(frozen=True, slots=True)
class Timing:
    """How long one contender took.

    Attributes
    ----------
    name : str
    median_s : float
    low_s, high_s : float
        A tenth of the runs was faster, and a tenth was slower.
    run_count : int
    """

    name: str
    median_s: float
    low_s: float
    high_s: float
    run_count: int


@dataclass(frozen=True, slots=True)
class Target:
    """One line of the table of targets.

    Attributes
    ----------
    what : str
    wanted : float
    found : float
    is_at_least : bool
        Whether a larger value is better.
    unit : str
    """

    what: str
    wanted: float
    found: float
    is_at_least: bool = True
    unit: str = "times"

    @property
    def is_reached(self) -> bool:
        return self.found >= self.wanted if self.is_at_least else self.found <= self.wanted


@dataclass(frozen=True, slots=True)
class Result:
    """The result of one benchmark.

    Attributes
    ----------
    name, question : str
    material : str
        The data.
    state : str
        Whether files are in the page cache, and the like.
    timings : tuple of Timing
    targets : tuple of Target
    notes : tuple of str
        For example, which peers are not installed.
    """

    name: str
    question: str
    material: str
    state: str
    timings: tuple[Timing, ...]
    targets: tuple[Target, ...]
    notes: tuple[str, ...] = field(default=())


@dataclass(frozen=True, slots=True)
class Effort:
    """How much work to do: all of it, or little in a quick run that only shows that everything works."""

    is_quick: bool

    def of(self, whole: int, quick: int) -> int:
        return quick if self.is_quick else whole


def take_turns(
    contenders: Mapping[str, Callable[[], object]],
    *,
    round_count: int,
    prepare: Callable[[], None] = lambda: None,
    tidy: Callable[[], None] = lambda: None,
    turn_s: float = 0.02,
    calls_max: int = 200,
) -> dict[str, Timing]:
    """Time contenders in turns: A B C, A B C, ...

    Parameters
    ----------
    contenders : mapping of str to callable
    round_count : int
    prepare : callable
        Called before each round.
    tidy : callable
        Called before each call, and not timed.
    turn_s : float
        In its turn a contender is called once untimed, then repeatedly until it has used this time.
    calls_max : int
        The most timed calls in a turn.
    """
    runs: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(round_count):
        prepare()
        for name, call in contenders.items():
            tidy()
            call()
            gc.collect()
            spent_s, count = 0.0, 0
            while count == 0 or (spent_s < turn_s and count < calls_max):
                tidy()
                start_s = time.perf_counter()
                call()
                run_s = time.perf_counter() - start_s
                runs[name].append(run_s)
                spent_s, count = spent_s + run_s, count + 1
    return {name: timing_of(name, values) for name, values in runs.items()}


def timing_of(name: str, runs_s: list[float]) -> Timing:
    ordered = sorted(runs_s)
    tenth = len(ordered) // 10
    return Timing(name, statistics.median(ordered), ordered[tenth], ordered[-1 - tenth], len(ordered))


def format_seconds(duration_s: float) -> str:
    for unit, scale in (("s", 1.0), ("ms", 1e-3)):
        if duration_s >= scale:
            return f"{duration_s / scale:.3g} {unit}"
    return f"{duration_s / 1e-6:.3g} µs"


def files_under(*places: Path) -> list[Path]:
    return [
        path
        for place in places
        for path in ([place] if place.is_file() else sorted(place.rglob("*")))
        if path.is_file()
    ]


def heat(paths: Iterable[Path]) -> None:
    """Bring files into the page cache by reading them from start to end: the same state for all contenders.

    Cached pages are dropped first: those that were faulted in one by one stay small, and are slow to map later.
    """
    for path in paths:
        with path.open("rb", buffering=0) as file:
            if sys.platform == "linux":
                os.fsync(file.fileno())
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
            while file.read(8 << 20):
                pass

"""Taking turns: contenders are timed one after the other, again and again, so that a busy moment hits them all."""

from __future__ import annotations

import gc
import os
import statistics
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from pathlib import Path


@dataclass(frozen=True, slots=True)
class Timing:
    """What one contender needed.

    Attributes
    ----------
    name : str
    median_s : float
    low_s, high_s : float
        The first and the last tenth of the runs lie outside.
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
        Whether more is better.
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
    """One benchmark.

    Attributes
    ----------
    name, question, material, state : str
        What is asked, of which data, and whether files are in the page cache.
    timings : tuple of Timing
    targets : tuple of Target
    notes : tuple of str
        Also which peers are not installed.
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
    """How much work a run is: whole, or a smoke run that only shows that everything works."""

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
    """Time contenders in turn: A B C, A B C, ...

    Parameters
    ----------
    contenders : mapping of str to callable
    round_count : int
    prepare : callable
        Called before each round.
    tidy : callable
        Called before each call, and not timed.
    turn_s : float
        A contender is called in its turn until this time is over, after one call that does not count.
    calls_max : int
        But no more often than this.
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
    """Bring files into the page cache as reading them from start to end leaves them there, the same for everybody.

    Pages that came one by one stay small and are slow to map for everybody who comes later; so they go first.
    """
    for path in paths:
        with path.open("rb", buffering=0) as file:
            if hasattr(os, "posix_fadvise"):
                os.fsync(file.fileno())
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
            while file.read(8 << 20):
                pass

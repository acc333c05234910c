"""Where the time goes: the times of steps, and the own times of functions under the profiler."""

from __future__ import annotations

import cProfile
import pstats
import statistics
import time
from collections import defaultdict
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.measure import format_seconds

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

SHOWN = 7


class Steps:
    """Times of the steps of a walk that is repeated: the median time of each step in a walk."""

    def __init__(self) -> None:
        self._walks: list[dict[str, float]] = []

    @contextmanager
    def walk(self) -> Iterator[None]:
        self._walks.append(defaultdict(float))
        yield

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        """Time a step of the present walk. Steps of the same name add up."""
        start_s = time.perf_counter()
        yield
        self._walks[-1][name] += time.perf_counter() - start_s

    @property
    def whole_s(self) -> float:
        """The time of all steps."""
        return sum(self._medians().values())

    def __str__(self) -> str:
        parts = (f"{name} {format_seconds(spent_s)}" for name, spent_s in self._medians().items())
        return f"{', '.join(parts)}; together {format_seconds(self.whole_s)}"

    def _medians(self) -> dict[str, float]:
        return {name: statistics.median(walk[name] for walk in self._walks) for name in self._walks[0]}


def own_times(call: Callable[[], object], *, count: int) -> str:
    """The shares of functions in the time of some calls, callees excluded. The profiler exaggerates short ones."""
    profile = cProfile.Profile()
    for _ in range(count):
        profile.runcall(call)
    rows = pstats.Stats(profile).stats  # type: ignore[attr-defined]
    own_s = {_name(place): row[2] for place, row in rows.items()}
    whole_s = sum(own_s.values())
    largest = sorted(own_s.items(), key=lambda item: item[1], reverse=True)[:SHOWN]
    return ", ".join(f"{name} {spent_s / whole_s:.0%}" for name, spent_s in largest)


def _name(place: tuple[str, int, str]) -> str:
    path, _, name = place
    return f"`{name.strip('{}')}`" if path == "~" else f"`{Path(path).stem}.{name}`"

"""What does it cost to open, read and close a segment, and what stays behind? `python -m benchmarks.release`

Ten thousand readers are opened one after the other, plainly, and with each array in a reference cycle of the
caller. They are released in three ways: ckvd collects garbage when a released map is still alive; a full collection
follows each close; and nothing collects garbage.
"""

from __future__ import annotations

import argparse
import gc
import importlib.util
import os
import sys
import tempfile
import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final

from benchmarks.material import SYMBOL, make_table, store
from benchmarks.measure import Effort, Result, Target, timing_of
from ckvd.model.market import DAY_MS, SeriesKey
from ckvd.model.timespan import Span
from ckvd.segment import SegmentReader
from ckvd.utils import config

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from benchmarks.measure import Timing

CHART_PATH = Path(__file__).parent / "release.png"

# Packages that a backtest has loaded as well. A full collection traverses all of their objects.
COMPANY: Final = ("curl_cffi", "pandas")
SAMPLE_COUNT: Final = 100
HAS_UNTRACKED_MAPS: Final = sys.version_info >= (3, 13)
WARM_UP_CYCLES: Final = 500
MEMORY_GROWTH_MAX_MB: Final = 2.0


@dataclass(slots=True)
class Course:
    """One way of releasing: its cost, and the resources that the process had beyond those at the start.

    Attributes
    ----------
    cost_us : float
        Mean processor time for a cycle, including collections.
    runs_s : list of float
        Mean wall-clock time for a cycle, in each hundredth of the cycles.
    samples : list of (cycle, descriptors, maps, megabytes)
    """

    name: str
    is_bounded: bool
    cost_us: float = 0.0
    runs_s: list[float] = field(default_factory=list)
    samples: list[tuple[int, int, int, float]] = field(default_factory=list)

    @property
    def most(self) -> tuple[int, int, float]:
        _, descriptors, maps, memory_mb = zip(*self.samples, strict=True)
        return max(descriptors), max(maps), max(memory_mb)


class Node:
    """An object of the caller that refers to itself and to an array."""


def plain(path: Path) -> float:
    with SegmentReader(path) as reader:
        return float(reader["close"][-1])


def in_a_cycle(path: Path) -> float:
    with SegmentReader(path) as reader:
        node = Node()
        node.__dict__.update(me=node, close=reader["close"])
        return float(reader["close"][-1])


@contextmanager
def collecting_garbage(*, is_forced: bool, is_automatic: bool) -> Iterator[None]:
    """Set, within the block, whether ckvd forces collections, and whether Python collects automatically."""
    before = config.ENABLE_FORCED_GC
    config.ENABLE_FORCED_GC = is_forced
    if not is_automatic:
        gc.disable()
    try:
        yield
    finally:
        config.ENABLE_FORCED_GC = before
        gc.enable()
        gc.collect()


def follow(course: Course, cycle: Callable[[], object], cycle_count: int) -> Course:
    """Run a cycle many times, and measure its cost and what stays behind."""
    for _ in range(min(WARM_UP_CYCLES, cycle_count)):
        cycle()
    gc.collect()
    first = held()
    spent_s, slice_count = 0.0, max(cycle_count // SAMPLE_COUNT, 1)
    for done in range(slice_count, cycle_count + 1, slice_count):
        clock_s, processor_s = time.perf_counter(), time.process_time()
        for _ in range(slice_count):
            cycle()
        spent_s += time.process_time() - processor_s
        course.runs_s.append((time.perf_counter() - clock_s) / slice_count)
        now = held()
        course.samples.append((done, now[0] - first[0], now[1] - first[1], now[2] - first[2]))
    course.cost_us = spent_s / done * 1e6
    return course


def held() -> tuple[int, int, float]:
    """Count the descriptors, maps of segments and megabytes of the process; zeros if /proc is missing."""
    if not Path("/proc/self/maps").exists():
        return 0, 0, 0.0
    resident_pages = int(Path("/proc/self/statm").read_text().split()[1])
    return (
        len(os.listdir("/proc/self/fd")),  # noqa: PTH208 - a listing is all that is needed
        Path("/proc/self/maps").read_bytes().count(b".ckvd\n"),
        resident_pages * os.sysconf("SC_PAGESIZE") / 1e6,
    )


def follow_all(path: Path, effort: Effort) -> list[Course]:
    count, collecting_count = effort.of(10_000, 300), effort.of(300, 20)

    def collecting() -> None:
        in_a_cycle(path)
        gc.collect()

    with collecting_garbage(is_forced=True, is_automatic=True):
        courses = [
            follow(Course("plain", is_bounded=True), lambda: plain(path), count),
            follow(Course("cycles", is_bounded=True), lambda: in_a_cycle(path), count),
        ]
    with collecting_garbage(is_forced=True, is_automatic=False):
        name = "cycles, automatic collector off"
        courses.append(follow(Course(name, is_bounded=True), lambda: in_a_cycle(path), count))
    with collecting_garbage(is_forced=False, is_automatic=True):
        name = f"cycles, collecting all at each close ({collecting_count} only)"
        courses.append(follow(Course(name, is_bounded=False), collecting, collecting_count))
    with collecting_garbage(is_forced=False, is_automatic=False):
        # Before Python 3.13 each map needs a descriptor, and a process may have a thousand of them.
        name, kept_count = "cycles, never collecting", effort.of(count if HAS_UNTRACKED_MAPS else 400, 100)
        courses.append(follow(Course(name, is_bounded=False), lambda: in_a_cycle(path), kept_count))
    return courses


def run(folder: Path, effort: Effort) -> list[Result]:
    company = [name for name in COMPANY if importlib.util.find_spec(name) is not None]
    for name in company:
        importlib.import_module(name)
    day = Span(0, DAY_MS)
    path = store(folder, make_table(SeriesKey.of(SYMBOL, "1m"), day), day)
    courses = follow_all(path, effort)
    notes = [describe(course) for course in courses]
    notes.append(draw(courses, CHART_PATH) if not effort.is_quick else "no chart is drawn of a quick run")
    return [
        Result(
            "release",
            "What does it cost to open, read and close a segment, and what is left of it?",
            f"a day of 1m bars, {effort.of(10_000, 300)} times; loaded beside it: {' and '.join(company)}",
            "warm; costs in the targets are processor time, collections included",
            tuple(timings(courses)),
            tuple(targets(courses)),
            tuple(notes),
        )
    ]


def timings(courses: Sequence[Course]) -> list[Timing]:
    return [timing_of(course.name, course.runs_s) for course in courses]


def targets(courses: Sequence[Course]) -> list[Target]:
    bounded = [course for course in courses if course.is_bounded]
    collecting = next(course for course in courses if "at each close" in course.name)
    worst_us = max(course.cost_us for course in bounded)
    descriptors, maps, memory_mb = (
        max(column) for column in zip(*(course.most for course in bounded), strict=True)
    )
    return [
        Target("a segment opened, read and closed", 100, worst_us, is_at_least=False, unit="µs"),
        Target("descriptors above the start, meanwhile", 50, descriptors, is_at_least=False, unit="in all"),
        Target("maps above the start, meanwhile", 50, maps, is_at_least=False, unit="in all"),
        Target("memory above the start, meanwhile", MEMORY_GROWTH_MAX_MB, memory_mb, is_at_least=False, unit="MB"),
        Target("cheaper than collecting at each close", 50, collecting.cost_us / worst_us),
    ]


def describe(course: Course) -> str:
    descriptors, maps, memory_mb = course.most
    return (
        f"{course.name}: {course.cost_us:.1f} µs of processor time; at most {descriptors} descriptors, {maps} maps "
        f"and {memory_mb:.1f} MB above the start"
    )


def draw(courses: Sequence[Course], path: Path) -> str:
    """Draw the resources over the cycles, and return a note about the chart."""
    if importlib.util.find_spec("matplotlib") is None:
        return "no chart: matplotlib is not installed"
    from matplotlib.figure import Figure  # noqa: PLC0415 - it is an extra, and slow to import

    figure = Figure(figsize=(12, 3.6), layout="constrained")
    panels = figure.subplots(1, 3)
    for panel, column, title in zip(panels, (1, 2, 3), ("descriptors", "maps", "memory (MB)"), strict=True):
        for course in courses:
            panel.plot(
                [sample[0] for sample in course.samples],
                [sample[column] for sample in course.samples],
                label=f"{course.name}: {course.cost_us:,.0f} µs",
            )
        panel.set(title=f"{title} above the start", xlabel="segments opened, read and closed", yscale="symlog")
        panel.set_ylim(-0.2, max(60, *(sample[column] for course in courses for sample in course.samples)))
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=3, fontsize="small")
    figure.savefig(path, dpi=100)
    return f"the curves are in {path.name}"


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.release", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="few cycles: shows that everything works")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(prefix="ckvd-benchmark-") as folder:
        (result,) = run(Path(folder), Effort(options.quick))
    print(f"{result.question} {result.material}; {result.state}.")
    print(*(f"  {note}" for note in result.notes), sep="\n")
    for target in result.targets:
        verdict = "reached" if target.is_reached else "MISSED"
        sign = "at least" if target.is_at_least else "at most"
        print(f"{target.what}: {target.found:.3g} {target.unit}, {sign} {target.wanted:g}: {verdict}")


if __name__ == "__main__":
    main()

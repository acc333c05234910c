"""Writing results as a Markdown page, as JSON, and as a chart of the targets."""

from __future__ import annotations

import dataclasses
import datetime as dt
import json
import os
import platform
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from benchmarks.measure import format_seconds
from benchmarks.peers import load

if TYPE_CHECKING:
    from collections.abc import Sequence

    from benchmarks.measure import Result, Target

PACKAGES = ("numpy", "isal", "pandas", "polars", "pyarrow", "duckdb", "h5py", "arcticdb")


def machine() -> dict[str, str]:
    """Describe the machine, the interpreter and the packages that are measured."""
    cpu = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        models = [
            line.partition(":")[2].strip()
            for line in info.read_text().splitlines()
            if line.startswith("model name")
        ]
        cpu = models[0] if models else cpu
    versions = []
    for name in PACKAGES:
        try:
            versions.append(f"{name} {metadata.version(name)}")
        except metadata.PackageNotFoundError:
            versions.append(f"{name} not installed")
    load_average = os.getloadavg()[0] if hasattr(os, "getloadavg") else float("nan")
    return {
        "date": f"{dt.datetime.now(dt.UTC):%Y-%m-%d %H:%M} UTC",
        "machine": f"{cpu}, {os.cpu_count()} cores, {platform.system()} {platform.release().partition('-')[0]}",
        "python": platform.python_version(),
        "packages": ", ".join(versions),
        "load average before": f"{load_average:.1f} (of other work; ratios hold, absolute times are longer)",
    }


_BEYOND_MAX = 1000.0


def to_markdown(results: Sequence[Result], where: dict[str, str]) -> str:
    lines = ["# Results", "", *(f"- {name}: {value}" for name, value in where.items()), "", "## Targets", ""]
    lines += ["| what | wanted | found | |", "|---|---|---|---|"]
    lines += [_target_row(target) for result in results for target in result.targets]
    for result in results:
        lines += ["", f"## {result.name}", "", f"{result.question} {_sentence(result)}", ""]
        if result.timings:
            lines += ["| | median | middle four fifths | runs |", "|---|---|---|---|"]
            lines += [
                f"| {timing.name} | {format_seconds(timing.median_s)} "
                f"| {format_seconds(timing.low_s)} to {format_seconds(timing.high_s)} | {timing.run_count} |"
                for timing in result.timings
            ]
        lines += [f"\n{note[0].upper()}{note[1:]}." for note in result.notes]
    return "\n".join(lines) + "\n"


def _target_row(target: Target) -> str:
    sign = "at least" if target.is_at_least else "at most"
    return (
        f"| {target.what} | {sign} {target.wanted:g} {target.unit} | {target.found:.3g} {target.unit} "
        f"| {'reached' if target.is_reached else '**missed**'} |"
    )


def _sentence(result: Result) -> str:
    return "; ".join(part for part in (result.material, result.state) if part) + "."


def write(results: Sequence[Result], where: dict[str, str], folder: Path) -> list[Path]:
    """Write RESULTS.md, results.json and, if matplotlib is installed, results.svg."""
    paths = [folder / "RESULTS.md", folder / "results.json"]
    paths[0].write_text(to_markdown(results, where))
    record = {"where": where, "results": [dataclasses.asdict(result) for result in results]}
    paths[1].write_text(json.dumps(record, indent=1) + "\n")
    if load("matplotlib")["matplotlib"]:
        paths.append(folder / "results.svg")
        _draw(results, paths[-1])
    return paths


def times_beyond(target: Target) -> float:
    """How many times better than wanted the value is, limited to 1/1000 to 1000, because it may be zero."""
    found, wanted = (target.found, target.wanted) if target.is_at_least else (target.wanted, target.found)
    return min(max(found / wanted if wanted else _BEYOND_MAX, 1 / _BEYOND_MAX), _BEYOND_MAX)


def _draw(results: Sequence[Result], path: Path) -> None:
    """Draw one bar for each target, to the right if it was exceeded, to the left if it was missed."""
    from matplotlib.figure import Figure  # noqa: PLC0415 - it may not be installed

    targets = [target for result in results for target in result.targets][::-1]
    beyond = [times_beyond(target) for target in targets]
    figure = Figure(figsize=(11, 0.34 * len(targets) + 1), layout="constrained")
    axes = figure.subplots()
    colours = ["#2a7f62" if ratio >= 1 else "#b3462c" for ratio in beyond]
    axes.barh(range(len(targets)), np.log2(beyond), color=colours)
    axes.set_yticks(range(len(targets)), [target.what.replace("`", "") for target in targets], fontsize=7)
    ticks = np.arange(np.floor(min(np.log2(beyond))), np.ceil(max(np.log2(beyond))) + 1)
    axes.set_xticks(ticks, [f"{2.0**tick:g}" for tick in ticks])
    axes.axvline(0, color="black", linewidth=0.8)
    axes.set_xlabel("times better than the target")
    figure.savefig(path, metadata={"Date": None})

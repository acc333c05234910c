"""A smoke run of every benchmark: that they work and that all peers compute the same, not how fast they are."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from support.places import REPOSITORY

if TYPE_CHECKING:
    from pathlib import Path

sys.path.insert(0, str(REPOSITORY))

report = importlib.import_module("benchmarks.report")
measure = importlib.import_module("benchmarks.measure")
names = importlib.import_module("benchmarks.__main__").NAMES


@pytest.mark.long
@pytest.mark.parametrize("name", names)
def test_a_benchmark_runs_and_its_peers_agree(name: str) -> None:
    # A process of its own: the peers start threads and open files that they never close.
    path = os.pathsep.join([str(REPOSITORY / "src"), str(REPOSITORY), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks", "--quick", name],
        env=dict(os.environ, PYTHONPATH=path),
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "## Targets" in done.stdout
    # Without a peer on this machine there may be nothing to compare with, which is said.
    assert any(word in done.stdout for word in ("| reached |", "| **missed** |", "skipped"))


def test_turns_are_taken_in_turn() -> None:
    calls: list[str] = []
    timings = measure.take_turns(
        {"a": lambda: calls.append("a"), "b": lambda: calls.append("b")},
        round_count=2,
        prepare=lambda: calls.append("-"),
        turn_s=0,
    )
    assert "".join(calls) == "-aabb-aabb"
    assert [timing.run_count for timing in timings.values()] == [2, 2]


@pytest.mark.parametrize(
    ("found", "is_at_least", "is_reached"), [(2, True, True), (1, True, False), (2, False, False)]
)
def test_a_target_is_reached_from_its_own_side(found: float, is_at_least: bool, is_reached: bool) -> None:
    target = measure.Target("speed", 1.5, found, is_at_least=is_at_least)
    assert target.is_reached is is_reached
    result = measure.Result("one", "Why?", "bars", "warm", (), (target,), ("a note",))
    page = report.to_markdown([result], {"date": "today"})
    assert ("| reached |" in page, "| **missed** |" in page) == (is_reached, not is_reached)


def test_nothing_at_all_is_better_than_any_bound() -> None:
    assert report.times_beyond(measure.Target("leak", 2, 0, is_at_least=False)) == 1000
    assert report.times_beyond(measure.Target("leak", 2, 4, is_at_least=False)) == 0.5
    assert report.times_beyond(measure.Target("speed", 2, 4)) == 2


def test_results_are_written_as_page_and_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # The package that draws the chart opens fonts and keeps them open.
    monkeypatch.setattr(report, "load", lambda name: {name: None})
    timing = measure.timing_of("one", [0.001, 0.002, 0.003])
    result = measure.Result("read", "Why?", "bars", "warm", (timing,), (measure.Target("speed", 2, 3),))
    paths = report.write([result], report.machine(), tmp_path)
    assert paths[0].read_text().count("| one | 2 ms |") == 1
    assert json.loads(paths[1].read_text())["results"][0]["targets"][0]["found"] == 3

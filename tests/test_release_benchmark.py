"""The benchmark of leaving runs, and what it counts is bounded; its times mean something in a whole run only."""

from __future__ import annotations

import subprocess
import sys

import pytest

from support.places import REPOSITORY
from support.processes import ENVIRONMENT


@pytest.mark.long
def test_a_quick_run_shows_each_way_to_release_and_keeps_what_is_counted_in_bounds() -> None:
    result = subprocess.run(
        [sys.executable, "-m", "benchmarks.release", "--quick"],
        cwd=REPOSITORY,
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert (result.returncode, result.stderr) == (0, "")
    for words in ("plain: ", "cycles: ", "collector off: ", "at each close (20 only): ", "never collecting: "):
        assert words in result.stdout
    for counted in ("descriptors above the start, ", "maps above the start, "):
        (line,) = [line for line in result.stdout.splitlines() if counted in line and "at most 50" in line]
        assert line.endswith("reached")

"""The tests of leaving are worth something: each bad way to close fails the test that is there for it."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import bad_closing
from subprocesses import ENVIRONMENT, ROOT

Verdict = subprocess.CompletedProcess[str]

TESTS = [Path(__file__).parent / name for name in ("test_closers.py", "test_cancellation.py")]


def run_the_test_that_notices(closing: str) -> Verdict:
    return subprocess.run(
        [
            *(sys.executable, "-m", "pytest", "-xqs", "-p", "bad_closing", "--closing", closing),
            *("-k", bad_closing.BAD[closing].noticed_by, "-p", "no:cacheprovider", "-p", "no:hypothesispytest"),
            *map(str, TESTS),
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env=ENVIRONMENT,
    )


@pytest.fixture(scope="module")
def verdicts() -> dict[str, Verdict]:
    """What pytest says of each bad way. They are tried side by side."""
    with ThreadPoolExecutor(max_workers=os.cpu_count()) as pool:
        return dict(zip(bad_closing.BAD, pool.map(run_the_test_that_notices, bad_closing.BAD), strict=True))


@pytest.mark.parametrize("closing", bad_closing.BAD)
def test_a_bad_way_to_close_is_noticed(closing: str, verdicts: dict[str, Verdict]) -> None:
    result = verdicts[closing]
    # 1: a test failed, or a hanging one ended the run; 5: there is no test of that name.
    assert result.returncode == 1, result.stdout + result.stderr
    assert re.search(r"\b1 (failed|error)", result.stdout) or "Timeout (" in result.stderr, (
        result.stdout + result.stderr
    )

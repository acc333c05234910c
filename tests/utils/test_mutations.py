"""Mutation tests of closing: each bad way to close makes the test against it fail."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import TypeAlias

import pytest

from support.places import REPOSITORY
from support.processes import ENVIRONMENT
from support.release import bad_closing

# The exit status and the output of pytest.
Verdict: TypeAlias = tuple[int, str]

TESTS = [str(Path(__file__).parent / name) for name in ("test_closers.py", "test_cancellation.py")]

# Everything is imported and collected once. For each bad way, a fork runs the test against it.
SCRIPT = """
    import contextlib, io, json, os, sys, tempfile
    import pytest

    def run(closing, file):
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
        chosen = ["-k", noticed_by[closing]]
        status = pytest.main(["-xqs", "-p", "support.release.bad_closing", "--closing", closing, *chosen, *common])
        sys.stdout.flush()
        os._exit(status)

    def wait():
        pid, status = os.wait()
        closing, file = running.pop(pid)
        file.seek(0)
        verdicts[closing] = os.waitstatus_to_exitcode(status), file.read()
        file.close()

    noticed_by = json.loads(sys.argv[1])
    common = ["-p", "no:cacheprovider", "-p", "no:hypothesispytest", *sys.argv[2:]]
    with contextlib.redirect_stdout(io.StringIO()):
        pytest.main(["-q", "--collect-only", *common])
    running, verdicts = {}, {}
    for closing in noticed_by:
        while len(running) >= (os.cpu_count() or 1):
            wait()
        file = tempfile.TemporaryFile("w+")
        if not (pid := os.fork()):
            run(closing, file)
        running[pid] = closing, file
    while running:
        wait()
    print(json.dumps(verdicts))
"""


@pytest.fixture(scope="module")
def verdicts() -> dict[str, Verdict]:
    """The exit status and output of pytest for each bad way."""
    noticed_by = json.dumps({closing: swap.noticed_by for closing, swap in bad_closing.BAD.items()})
    result = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(SCRIPT), noticed_by, *TESTS],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        env=ENVIRONMENT,
    )
    assert (result.returncode, result.stderr) == (0, "")
    found: dict[str, Verdict] = json.loads(result.stdout)
    return found


@pytest.mark.parametrize("closing", bad_closing.BAD)
def test_a_bad_way_to_close_is_noticed(closing: str, verdicts: dict[str, Verdict]) -> None:
    exit_status, printed = verdicts[closing]
    # 1: a test failed, or hung and ended the run. 5: there is no test of this name.
    assert exit_status == 1, printed
    assert re.search(r"\b1 (failed|error)", printed) or "Timeout (" in printed, printed

"""Mutation tests of release: each bad way to close, and each fault of one line, makes the test against it fail."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import textwrap
from typing import TypeAlias

import pytest

from support.places import REPOSITORY
from support.processes import ENVIRONMENT
from support.release.bad_closing import BAD
from support.release.mutants import MUTANTS

# The exit status and the output of pytest.
Verdict: TypeAlias = tuple[int, str]

CLOSERS = ["utils/test_closers.py", "utils/test_cancellation.py"]
# Each third of the faults of one line, or all of them: `make mutants`.
CHOSEN = MUTANTS if os.environ.get("CKVD_TEST_MUTANTS") else dict(list(MUTANTS.items())[::3])
# What pytest is told for each fault.
RUNS: dict[str, list[str]] = {
    **{
        name: ["-p", "support.release.bad_closing", "--closing", name, "-k", swap.noticed_by, *CLOSERS]
        for name, swap in BAD.items()
    },
    **{
        name: ["-p", "support.release.mutants", "--mutant", name, "-k", mutant.noticed_by[1], mutant.noticed_by[0]]
        for name, mutant in CHOSEN.items()
    },
}

# Everything is imported and collected once. For each fault, a fork runs the tests against it.
SCRIPT = """
    import contextlib, io, json, os, sys, tempfile
    import pytest

    def run(arguments, file):
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
        # A folder of its own: runs that share one would remove each other's old folders at the same time.
        status = pytest.main(["-xqs", "--basetemp", os.path.join(folder, str(os.getpid())), *arguments, *common])
        sys.stdout.flush()
        os._exit(status)

    def wait():
        pid, status = os.wait()
        name, file = running.pop(pid)
        file.seek(0)
        verdicts[name] = os.waitstatus_to_exitcode(status), file.read()
        file.close()

    runs, folder = json.load(sys.stdin), sys.argv[1]
    os.chdir("tests")
    common = ["-p", "no:cacheprovider", "-p", "no:hypothesispytest", "-p", "no:xdist"]
    files = sorted({argument for arguments in runs.values() for argument in arguments if argument.endswith(".py")})
    with contextlib.redirect_stdout(io.StringIO()):
        pytest.main(["-q", "--collect-only", *files, *common])
    running, verdicts = {}, {}
    for name, arguments in runs.items():
        while len(running) >= (os.cpu_count() or 1):
            wait()
        file = tempfile.TemporaryFile("w+")
        if not (pid := os.fork()):
            run(arguments, file)
        running[pid] = name, file
    while running:
        wait()
    print(json.dumps(verdicts))
"""


@pytest.fixture(scope="module")
def verdicts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Verdict]:
    """The exit status and output of pytest for each fault."""
    result = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(SCRIPT), tmp_path_factory.mktemp("runs")],
        cwd=REPOSITORY,
        input=json.dumps(RUNS),
        capture_output=True,
        text=True,
        timeout=1200,
        check=False,
        env=ENVIRONMENT,
    )
    assert (result.returncode, result.stderr) == (0, "")
    found: dict[str, Verdict] = json.loads(result.stdout)
    return found


@pytest.mark.parametrize("name", MUTANTS)
def test_a_fault_of_one_line_can_be_made(name: str) -> None:
    """Its text still stands in the code, once, and the code with the fault compiles."""
    path, text = MUTANTS[name].source()
    compile(text, path, "exec", dont_inherit=True)


@pytest.mark.long
@pytest.mark.parametrize("name", RUNS)
def test_a_fault_in_the_release_is_noticed(name: str, verdicts: dict[str, Verdict]) -> None:
    exit_status, printed = verdicts[name]
    if re.search(r"^\d+ skipped(?!.*passed)", printed, re.MULTILINE):
        pytest.skip("on this interpreter the fault changes nothing")
    # 1: a test failed, or hung and ended the run. 5: there is no test of this name.
    assert exit_status == 1, printed
    assert re.search(r"\b1 (failed|error)", printed) or "Timeout (" in printed, printed

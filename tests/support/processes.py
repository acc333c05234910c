"""Scripts and functions that run in a process of their own: to be killed, starved, denied rights or measured."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import traceback
import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ckvd.cache import fault_points
from support.places import SOURCES, TESTS

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from ckvd.cache.fault_points import Step

# --- Scripts -----------------------------------------------------------------------------------------------

# A process with it can import the package and the helpers beside this module.
ENVIRONMENT = os.environ | {"PYTHONPATH": os.pathsep.join([str(SOURCES), str(TESTS)])}
# What tells a process to measure its coverage. Empty if coverage is not measured.
MEASURING = {name: value for name, value in os.environ.items() if name.startswith("COVERAGE_")}


def writing_nothing(environment: Mapping[str, str]) -> dict[str, str]:
    """The environment for a process that writes no coverage and no compiled modules.

    A disk that refuses could keep the beginning of a compiled module, which breaks whoever imports it later.
    """
    kept = {name: value for name, value in environment.items() if name not in MEASURING}
    return kept | {"PYTHONDONTWRITEBYTECODE": "1"}


def run_script(script: str, *, prepare: Callable[[], object] | None = None) -> str:
    """Run a script in a new interpreter, with warnings as errors, and return its output.

    It must succeed and print nothing to standard error.
    """
    result = subprocess.run(
        [sys.executable, "-W", "error", "-c", textwrap.dedent(script)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        env=ENVIRONMENT,
        preexec_fn=prepare,
    )
    assert (result.returncode, result.stderr) == (0, ""), result.stdout + result.stderr
    return result.stdout


# --- Forked children ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Ended:
    """How a child ended: its exit status, negative for a signal, and the lines that it sent before."""

    status: int
    lines: tuple[str, ...]


def fork() -> int:
    """Fork as `os.fork` does. Python 3.15 warns of the idle threads of BLAS too."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*multi-threaded, use of fork", category=DeprecationWarning)
        return os.fork()


def run_in_child(work: Callable[[Callable[[str], None]], None]) -> Ended:
    """Fork, call `work` with a function that sends a line to the parent, and wait for the end."""
    reading, writing = os.pipe()
    child = fork()
    if child == 0:
        status = 1
        try:
            os.close(reading)
            work(lambda line: void(os.write(writing, f"{line}\n".encode())))
            status = 0
        except BaseException:  # noqa: BLE001  (a child that was forked in a test must not go on with other tests)
            os.write(writing, traceback.format_exc().encode())
        finally:
            os._exit(status)
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        sent = pipe.read().decode()
    return Ended(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), tuple(sent.splitlines()))


def let_others_enter(path: Path) -> None:
    """Let every user read a folder and enter those above it. Those of pytest are private."""
    for place in (path, *path.parents):
        if place.stat().st_mode & 0o005 != 0o005:
            place.chmod(0o755)


def void(_: object) -> None:
    """Return nothing."""


# --- Fault points ------------------------------------------------------------------------------------------


def steps_of(work: Callable[[], None]) -> list[Step]:
    """The steps that some work reaches, in order."""
    steps: list[Step] = []
    genuine, fault_points.reach = fault_points.reach, steps.append
    try:
        work()
    finally:
        fault_points.reach = genuine
    return steps


def telling(steps: list[Step]) -> list[int]:
    """The steps worth stopping at: of a step that is repeated, the first and the last."""
    return [
        number
        for number, step in enumerate(steps)
        if number in (0, len(steps) - 1) or steps[number - 1] is not step or steps[number + 1] is not step
    ]


def at_step(number: int, act: Callable[[], None]) -> None:
    """From now on in this process, act at the step with a number, counted from 0. For children."""
    count = 0

    def reach(_: Step) -> None:
        nonlocal count
        if count == number:
            act()
        count += 1

    fault_points.reach = reach


def die() -> None:
    """End this process as a power cut would."""
    os.kill(os.getpid(), signal.SIGKILL)

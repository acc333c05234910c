"""Running a function in a child process, to be killed, starved or robbed of its rights."""

from __future__ import annotations

import os
import signal
import traceback
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ckvd.cache import fault_points

if TYPE_CHECKING:
    from collections.abc import Callable

    from ckvd.cache.fault_points import Step


@dataclass(frozen=True)
class Ended:
    """How a child ended: its exit status, negative for a signal, and the lines that it said before."""

    status: int
    lines: tuple[str, ...]


def run_in_child(work: Callable[[Callable[[str], None]], None]) -> Ended:
    """Fork, call `work` with a function that says a line to the parent, and wait for the end."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        status = 1
        try:
            os.close(reading)
            work(lambda line: void(os.write(writing, f"{line}\n".encode())))
            status = 0
        except BaseException:  # noqa: BLE001  (nothing may leave a child that was forked in a test)
            os.write(writing, traceback.format_exc().encode())
        finally:
            os._exit(status)
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        said = pipe.read().decode()
    return Ended(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), tuple(said.splitlines()))


def void(_: object) -> None:
    """Return nothing."""


def steps_of(work: Callable[[], None]) -> list[Step]:
    """The steps that some work comes to, in order."""
    steps: list[Step] = []
    genuine, fault_points.reach = fault_points.reach, steps.append
    try:
        work()
    finally:
        fault_points.reach = genuine
    return steps


def telling(steps: list[Step]) -> list[int]:
    """Which of some steps to stop at: of a step that is repeated, the first and last."""
    return [
        number
        for number, step in enumerate(steps)
        if number in (0, len(steps) - 1) or steps[number - 1] is not step or steps[number + 1] is not step
    ]


def at_step(number: int, act: Callable[[], None]) -> None:
    """From now on in this process: do something at the step of a number, counted from 0. For children."""
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

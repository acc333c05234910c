"""A request may be given up at any place of its answer, in any way: the interpreter goes on.

Each way has a process of its own. An abort in it is a failure that names the place.
"""

from __future__ import annotations

import subprocess
import sys

import pytest

from support.processes import ENVIRONMENT
from support.release.half_answers import WAYS, servers

# asyncio and cffi say that a loop was closed over its tasks.
LEAVE_TASKS = ("closing_the_loop", "forgetting_the_session", "leaving_it_to_the_interpreter")


@pytest.mark.long
@pytest.mark.parametrize("way", WAYS)
def test_giving_up_in_the_middle_of_an_answer_does_not_end_the_interpreter(way: str) -> None:
    finished = subprocess.run(
        [sys.executable, "-W", "error", "-c", f"from support.release import half_answers as h; h.give_up({way!r})"],
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    places = [*servers(), "done"]
    assert (finished.returncode, finished.stdout.splitlines()) == (0, places), finished.stderr[-3000:]
    if way not in LEAVE_TASKS:
        assert finished.stderr == ""

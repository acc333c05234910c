"""Scripts that run in an interpreter of their own: what they prove concerns a whole process."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from typing import TYPE_CHECKING

from support.places import SOURCES, TESTS

if TYPE_CHECKING:
    from collections.abc import Callable


# What both the project and the helpers beside this module are imported with.
ENVIRONMENT = os.environ | {"PYTHONPATH": os.pathsep.join([str(SOURCES), str(TESTS)])}


def run_script(script: str, *, prepare: Callable[[], object] | None = None) -> str:
    """Run a script, with warnings as errors, and return what it prints. It must succeed and not print to stderr."""
    result = subprocess.run(
        [sys.executable, "-W", "error", "-c", textwrap.dedent(script)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        env=ENVIRONMENT,
        preexec_fn=prepare,
    )
    assert (result.returncode, result.stderr) == (0, ""), result.stdout
    return result.stdout

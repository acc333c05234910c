"""Commands that a signal ends at their Nth event: an import, a file opened, a name made, changed or removed.

Python announces such events to audit hooks before they happen. A command that does the same twice has the same
events in the same order, so the Nth can be chosen by a seed, and a failure comes again.
"""

from __future__ import annotations

import mmap
import os
import random
import signal
import subprocess
import sys
import tempfile
import traceback
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from ckvd.cache import fault_points
from ckvd.cli import main
from ckvd.cli.stop_signals import STOP_SIGNALS
from support import command
from support.processes import fork

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

STATUSES: Final = {
    signal.SIGKILL: -signal.SIGKILL,
    **{number: 128 + number for number in STOP_SIGNALS},
}
# At how many events of each command it is killed: a number, or `whole` for all of them. Without it, at a sample.
_WANTED: Final = os.environ.get("CKVD_KILLS", "")


@dataclass(frozen=True, slots=True)
class Killed:
    """How a command ended, what it printed, and how many events it had."""

    status: int
    out: str
    err: str
    event_count: int


def sample(seed: str, event_count: int, sample_count: int, *, whole_count: int = sys.maxsize) -> list[int]:
    """Some events, which depend on a seed only; as many as the environment wants, else as `sample_count` says."""
    wanted = whole_count if _WANTED == "whole" else int(_WANTED or sample_count)
    return sorted(random.Random(seed).sample(range(event_count), min(wanted, event_count)))


# --- While the interpreter starts --------------------------------------------------------------------------

# A module that every interpreter imports when it starts, from the folder that comes first on its path.
_SITE = """
import os, sys

def watch(number, wanted):
    count = None

    def hook(event, arguments):
        nonlocal count
        if event != "import" and event != "exec" and event != "open" and event != "marshal.loads":
            return
        if event == "import" and arguments[0].startswith("ckvd.cli") and count is None:
            count = -1
        if count is None:
            return
        count += 1
        if count == wanted:
            os.kill(os.getpid(), number)

    sys.addaudithook(hook)
    return lambda: count

import atexit
counted = watch(int(os.environ["KILLS_SIGNAL"]), int(os.environ["KILLS_EVENT"]))
atexit.register(lambda: print("events", counted(), file=sys.stderr))
"""


def run_from_its_start(argv: Sequence[str], home: Path, number: int, event: int) -> Killed:
    """Run a command whose interpreter sends itself a signal at an event after the first import of ckvd's own.

    With an event of -1 it runs to its end, and its events are counted.
    """
    site = home / "site"
    site.mkdir(exist_ok=True)
    (site / "sitecustomize.py").write_text(_SITE, encoding="utf-8")
    environment = command.environment(home, KILLS_SIGNAL=str(int(number)), KILLS_EVENT=str(event))
    environment["PYTHONPATH"] = os.pathsep.join([str(site), environment["PYTHONPATH"]])
    with command.interruptible():
        finished = subprocess.run(
            argv,
            env=environment,
            cwd=home,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=command.TIMEOUT_S,
            check=False,
        )
    lines = finished.stderr.splitlines(keepends=True)
    counts = [int(line.split()[1]) for line in lines if line.startswith("events ") and "None" not in line]
    err = "".join(line for line in lines if not line.startswith("events "))
    return Killed(finished.returncode, finished.stdout, err, max(counts, default=0))


# --- In a forked child -------------------------------------------------------------------------------------

# What changes a folder, and what is looked at before a change.
_EVENTS: Final = frozenset(
    {
        *("open", "os.listdir", "os.scandir", "os.mkdir", "os.rename", "os.link", "os.remove", "os.rmdir"),
        *("os.truncate", "fcntl.flock", "shutil.rmtree", "tempfile.mkdtemp"),
    }
)


def run_forked(
    words: Sequence[str | os.PathLike[str]], watched: Path, number: int = signal.SIGKILL, event: int = -1
) -> Killed:
    """Run a command in a forked child, which sends itself a signal at an event below a folder or at a fault point.

    Forking is faster than starting an interpreter, and nothing is imported. With an event of -1 it runs to its end.
    """
    count = mmap.mmap(-1, 8)  # shared with the child
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        child = fork()
        if child == 0:
            status = 70
            try:
                for descriptor, file in ((1, out), (2, err)):
                    os.dup2(file.fileno(), descriptor)
                sys.stdout, sys.stderr = open(1, "w", closefd=False), open(2, "w", closefd=False)  # noqa: SIM115
                for stop_signal in STOP_SIGNALS:
                    signal.signal(stop_signal, signal.SIG_DFL)
                _watch(count, os.fspath(watched), number, event)
                sys.argv = ["ckvd", *(os.fspath(word) for word in words)]
                main.run()
            except SystemExit as end:
                status = int(end.code or 0)
            except BaseException:  # noqa: BLE001  (a child that was forked in a test must not go on with other tests)
                traceback.print_exc()
            finally:
                sys.stdout.flush()
                sys.stderr.flush()
                os._exit(status)
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        said = []
        for file in (out, err):
            file.seek(0)
            said.append(file.read().decode())
        event_count = int.from_bytes(count[:], "little")
        count.close()
    return Killed(status, said[0], said[1], event_count)


def _watch(count: mmap.mmap, watched: str, number: int, event: int) -> None:
    seen = 0

    def reach(_: object = None) -> None:
        nonlocal seen
        if seen == event:
            os.kill(os.getpid(), number)
        seen += 1
        count[:] = seen.to_bytes(8, "little")

    def hook(name: str, arguments: tuple[object, ...]) -> None:
        if name in _EVENTS and _is_below(watched, name, arguments):
            reach()

    fault_points.reach = reach
    sys.addaudithook(hook)


def _is_below(watched: str, name: str, arguments: tuple[object, ...]) -> bool:
    if name == "fcntl.flock":
        return True
    paths = [argument for argument in arguments if isinstance(argument, str | os.PathLike)]
    # Names without a path are those of the folder that is being removed.
    return any(os.fspath(path).startswith(watched) or "/" not in os.fspath(path) for path in paths[:2])

"""What child processes are asked to do in tests: a child imports it by name."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

from ckvd.concurrency.stopping import check_stop
from ckvd.errors import ArchiveError

_PROGRAM = b"from ckvd.concurrency.processes import serve"


def refuse(archive: str) -> None:
    """Raise an error with attributes."""
    raise ArchiveError(archive, "for a test", row=7)


def talk() -> tuple[str, str]:
    """Print something, and read what there is to read."""
    print("a word", flush=True)
    return sys.stdin.read(), "said"


def die_unless(path: str) -> str:
    """Die where a file is not there yet, and make it."""
    marker = Path(path)
    if not marker.exists():
        marker.touch()
        die()
    return "alive"


def die() -> None:
    """Die without a word."""
    os.kill(os.getpid(), signal.SIGKILL)


def work_until_stopped(path: str) -> None:
    """Make a file, and remove it when told to stop."""
    marker = Path(path)
    marker.touch()
    try:
        while True:
            check_stop()
    finally:
        marker.unlink()


def wait_for_ever(path: str) -> None:
    """Make a file, and never ask whether to stop."""
    Path(path).touch()
    while True:
        signal.pause()


def child_pids(parent: int) -> list[int]:
    """The child processes that serve a process, as Linux lists them."""
    found = []
    for folder in Path("/proc").iterdir():
        if not folder.name.isdigit():
            continue
        try:
            status = (folder / "stat").read_text().rpartition(")")[2].split()
            program = (folder / "cmdline").read_bytes()
        except OSError:
            continue  # it ended meanwhile
        if int(status[1]) == parent and status[0] != "Z" and _PROGRAM in program:
            found.append(int(folder.name))
    return found


def is_alive(pid: int) -> bool:
    """Whether a process exists and has not ended."""
    try:
        return (Path("/proc") / str(pid) / "stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False

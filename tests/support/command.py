"""Runs the command `ckvd` as users do, in a process of its own, in which every warning is an error."""

from __future__ import annotations

import contextlib
import io
import os
import pty
import select
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

from ckvd.cli.app import app
from ckvd.cli.stop_signals import STOP_SIGNALS
from support.places import REPOSITORY
from support.processes import MEASURING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

TIMEOUT_S = 60.0


@dataclass(frozen=True, slots=True)
class Finished:
    """How a command ended, and what it printed."""

    status: int
    out: str
    err: str


def environment(home: Path, **more: str) -> dict[str, str]:
    """An almost empty environment, in which nothing leads off this machine."""
    return {
        "HOME": str(home),
        "PATH": os.environ["PATH"],
        "LANG": "C.UTF-8",
        "PYTHONPATH": str(REPOSITORY / "src"),
        "CKVD_VISION_URL": str(home / "no-mirror"),
        "CKVD_REST_URL": "http://127.0.0.1:9",
        **MEASURING,
        **more,
    }


def arguments_of(*arguments: str | os.PathLike[str]) -> list[str]:
    return [sys.executable, "-W", "error", "-m", "ckvd", *(os.fspath(argument) for argument in arguments)]


def run(*arguments: str | os.PathLike[str], home: Path, **environ: str) -> Finished:
    """Run the command to its end, without a terminal."""
    finished = subprocess.run(
        arguments_of(*arguments),
        env=environment(home, **environ),
        cwd=home,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        encoding="utf-8",
        timeout=TIMEOUT_S,
        check=False,
    )
    return Finished(finished.returncode, finished.stdout, finished.stderr)


def run_here(*arguments: str | os.PathLike[str]) -> Finished:
    """Run the command in this process. This is faster, and enough where the process makes no difference."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            app([os.fspath(argument) for argument in arguments], prog_name="ckvd")
        except SystemExit as end:
            return Finished(int(end.code or 0), out.getvalue(), err.getvalue())
    raise AssertionError("it did not end")


@contextlib.contextmanager
def interruptible() -> Iterator[None]:
    """Start processes that react to Ctrl-C, SIGTERM and SIGHUP, whatever this one does.

    A shell lets its jobs in the background ignore SIGINT, `nohup` has SIGHUP ignored, and children inherit that.
    """
    before = {number: signal.getsignal(number) for number in STOP_SIGNALS}
    for number in before:
        signal.signal(number, signal.default_int_handler if number is signal.SIGINT else signal.SIG_DFL)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def started(*arguments: str | os.PathLike[str], home: Path, **options: Any) -> Iterator[subprocess.Popen[str]]:
    """Start the command; its output is in pipes unless options of `Popen` say otherwise. It ends with the block."""
    pipes: dict[str, Any] = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with interruptible():
        process = subprocess.Popen(
            arguments_of(*arguments),
            cwd=home,
            text=True,
            encoding="utf-8",
            **(pipes | {"env": environment(home)} | options),
        )
    with process:
        try:
            yield process
        finally:
            process.kill()


class Terminal:
    """A terminal for a command, which keeps what was shown. A context manager."""

    def __enter__(self) -> Self:
        self._screen, self.end = pty.openpty()
        self.shown = ""
        return self

    def __exit__(self, *_error: object) -> None:
        os.close(self._screen)
        if self.end >= 0:
            os.close(self.end)

    @property
    def options(self) -> dict[str, Any]:
        """Options for `started`: the command runs in this terminal."""
        return {"stdin": self.end, "stdout": self.end, "stderr": self.end}

    def read_until(self, text: str) -> None:
        """Wait until something is shown."""
        deadline_s = time.monotonic() + TIMEOUT_S
        while text not in self.shown:
            assert self._read(deadline_s), self.shown

    def read_to_the_end(self) -> None:
        """Wait until no process has the terminal open."""
        os.close(self.end)
        self.end = -1
        deadline_s = time.monotonic() + TIMEOUT_S
        while self._read(deadline_s):
            pass

    def _read(self, deadline_s: float) -> bool:
        ready, _, _ = select.select([self._screen], [], [], max(0.0, deadline_s - time.monotonic()))
        assert ready, f"nothing more was shown after {self.shown!r}"
        try:
            piece = os.read(self._screen, 65536)
        except OSError:  # EIO: the last process that had it open has ended
            return False
        self.shown += piece.decode("utf-8", "replace")
        return bool(piece)

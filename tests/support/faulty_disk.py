"""A disk that fails on request: a C library that is preloaded, and commands that run with it.

The library (`faulty_disk.c`) counts the system calls of some kinds on what lies in one folder, and has the Nth of
them fail: that one alone, or it and all later ones, or a write that writes only half. What the standard library and
numpy call fails as well.

A command of its own takes half a second to load. `FaultyCommands` loads once, and forks for each command.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
import sys
import textwrap
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Self

import pytest

from support.command import Finished, environment

if TYPE_CHECKING:
    from types import TracebackType

SOURCE = Path(__file__).with_suffix(".c")

CALLS = (
    *("open", "create", "read", "write", "truncate", "sync", "close", "map"),
    *("rename", "unlink", "mkdir", "rmdir", "list", "lock", "status"),
)
"""Kinds of calls. To `create` is to open for writing, to `list` is to open a folder or ask for its next name."""

CHANGES = ("create", "write", "truncate", "rename", "unlink", "mkdir", "rmdir")
GROWTH = ("create", "write", "mkdir", "sync")

ONCE, LASTING, SHORT = "once", "lasting", "short"


@dataclass(frozen=True, slots=True)
class Fault:
    """Which calls fail, and how.

    Attributes
    ----------
    calls : tuple of str
        Of `CALLS`.
    error : int
        The `errno` of the calls that fail.
    mode : str
        `ONCE`; `LASTING`, for the first and all later ones; or `SHORT`, for a write that writes half and succeeds.
    first : int
        Which call fails first, counted from 1; 0 for none.
    """

    calls: tuple[str, ...]
    error: int = errno.EIO
    mode: str = ONCE
    first: int = 0

    def __str__(self) -> str:
        what = "half a write" if self.mode == SHORT else errno.errorcode[self.error]
        return f"{'+'.join(self.calls)} {what} {self.mode} {self.first}"

    def environ(self, folder: Path, tally: Path | None = None) -> dict[str, str]:
        """The variables that tell the library. The calls that it counts are lines of the tally."""
        return {
            "FAULTY_DISK_FOLDER": str(folder),
            "FAULTY_DISK_CALLS": ",".join(self.calls),
            "FAULTY_DISK_FIRST": str(self.first),
            "FAULTY_DISK_ERRNO": str(self.error),
            "FAULTY_DISK_MODE": self.mode,
            "FAULTY_DISK_TALLY": "" if tally is None else str(tally),
        }


def compile_library(place: Path) -> Path:
    """Compile the library into a folder. The test is skipped where that is impossible."""
    compiler = shutil.which("cc")
    if not sys.platform.startswith("linux"):
        pytest.skip("calls are made to fail by LD_PRELOAD and /proc, which are those of Linux")
    if compiler is None:
        pytest.skip("calls are made to fail by a library in C, and this machine has no compiler `cc`")
    library = place / "faulty_disk.so"
    command = [compiler, "-shared", "-fPIC", "-O1", "-Wall", "-Wextra", "-o", str(library), str(SOURCE), "-ldl"]
    subprocess.run(command, check=True)
    return library


# The parent forks for each line of its input. The child is the command, and ends as an interpreter ends.
_SCRIPT = """
    import ctypes, gc, json, os, signal, sys, warnings

    import ckvd.acquisition.completion, ckvd.acquisition.download, ckvd.api.crypto_kline_vision_data, ckvd.cli.app
    import ckvd.api.vision_data_client, ckvd.maintenance.export.columnar
    from ckvd.cli.main import run

    gc.collect()
    gc.freeze()  # else each child looks through all of it, and copies it
    # Of the threads of numpy's BLAS, which rest.
    warnings.filterwarnings("ignore", message=".*multi-threaded, use of fork", category=DeprecationWarning)
    arm = ctypes.CDLL(sys.argv[1]).faulty_disk_arm
    for line in sys.stdin:
        command = json.loads(line)
        child = os.fork()
        if child == 0:
            break
        _, status = os.waitpid(child, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)
    else:
        sys.exit()
    os.environ.update(command["environ"])
    signal.alarm(command["timeout_s"])
    for descriptor, name in ((0, os.devnull), (1, command["out"]), (2, command["err"])):
        opened = os.open(name, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o600)
        os.dup2(opened, descriptor)
        os.close(opened)
    sys.argv = ["ckvd", *command["arguments"]]
    arm()
    run()
"""


@dataclass(slots=True)
class FaultyCommands:
    """Runs commands whose calls on a folder fail, each in a fork of one process. A context manager.

    Attributes
    ----------
    library : Path
        From `compile_library`.
    place : Path
        A folder for what the commands print. Nothing fails in it.
    """

    library: Path
    place: Path
    _process: subprocess.Popen[str] = field(init=False)

    def __enter__(self) -> Self:
        environ = environment(self.place, LD_PRELOAD=str(self.library), OPENBLAS_NUM_THREADS="1")
        self._process = subprocess.Popen(
            [sys.executable, "-W", "error", "-c", textwrap.dedent(_SCRIPT), str(self.library)],
            env=environ,
            cwd=self.place,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.communicate()

    def run(
        self, *arguments: str | os.PathLike[str], fault: Fault, folder: Path, timeout_s: int = 20
    ) -> tuple[Finished, list[str]]:
        """Run a command to its end. One that takes too long is ended, with the status of SIGALRM.

        Returns
        -------
        Finished
            How it ended.
        list of str
            The calls that were counted, in order: the kind and the path, after a `!` if it failed.
        """
        out, err, tally = (self.place / name for name in ("out", "err", "tally"))
        tally.write_text("")
        command = {
            "arguments": [os.fspath(argument) for argument in arguments],
            "environ": fault.environ(folder, tally),
            "timeout_s": timeout_s,
            "out": str(out),
            "err": str(err),
        }
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(command) + "\n")
        self._process.stdin.flush()
        status = int(self._process.stdout.readline())
        finished = Finished(status, out.read_text("utf-8"), err.read_text("utf-8"))
        return finished, tally.read_text("utf-8", "surrogateescape").splitlines()

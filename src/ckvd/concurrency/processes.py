"""Work in child processes, which do not share the GIL: `ChildProcesses`, and `serve`, which such a child runs.

A child is a new interpreter with the paths of its parent. It does not run the script of the parent again, so that
script needs no `__main__` guard, and the child inherits no threads and no locks. Calls come through a pipe on its
standard input, and results go back through another on its standard output.

The first pipe is also its lifeline. Where it is closed, by the parent or because the parent died in whatever way,
the child ends: while it waits for a call, or at its next `check_stop`, like a thread that is told to stop, and
removes what it was writing. Signals of the terminal do not reach it, so Ctrl-C is a matter of the parent. A death
signal of the system is not used: it would come when the *thread* ends that started the child.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import pickle
import select
import signal
import subprocess
import sys
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NoReturn, ParamSpec, TypeVar, cast

from ckvd.concurrency.stopping import check_stop, stopped_by
from ckvd.errors import ClientClosedError, WorkerDiedError
from ckvd.utils.config import CLEANUP_GRACE_S, PROCESS_STOP_TIMEOUT_S, PROCESS_WAIT_S

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import BinaryIO

logger = logging.getLogger(__name__)

_T = TypeVar("_T")
_P = ParamSpec("_P")

_PROGRAM: Final = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[1]); from ckvd.concurrency.processes import serve; serve()"
)
# numpy's linear algebra is not used: each child would start a thread for each processor for it.
_ENVIRONMENT: Final = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}


# How often a child that has nothing to do looks whether its parent is there.
_IDLE_CHECK_MS: Final = 1000

# --- The parent --------------------------------------------------------------------------------------------


def can_start() -> bool:
    """Whether this program can start Python: one that embeds it, or is frozen, has no interpreter to start."""
    return bool(sys.executable) and not getattr(sys, "frozen", False)


class ChildProcesses:
    """Child processes that call functions. Each starts when it is needed first. Any thread may call.

    As many are busy as threads call at a time. One that dies during a call is replaced, and the call is made once
    more.

    Attributes
    ----------
    lost_count : int
        How many died during a call, or had to be killed: each may have left something behind.
    """

    # How long closing may take.
    cleanup_budget_s: Final = 2 * PROCESS_STOP_TIMEOUT_S + CLEANUP_GRACE_S

    def __init__(self) -> None:
        self.lost_count = 0
        # Guards what follows.
        self._lock = threading.Lock()
        self._is_closed = False
        self._idle: list[_Child] = []
        self._busy: set[_Child] = set()

    def __repr__(self) -> str:
        state = "closed" if self._is_closed else f"{len(self._busy)} busy, {len(self._idle)} idle"
        return f"<ChildProcesses: {state}>"

    @property
    def pids(self) -> tuple[int, ...]:
        """The process IDs of the children."""
        with self._lock:
            return tuple(child.pid for child in (*self._idle, *self._busy))

    def call(self, name: str, function: Callable[_P, _T], *args: _P.args, **kwargs: _P.kwargs) -> _T:
        """Call a function in a child, and wait for its result.

        Parameters
        ----------
        name : str
            What an error calls the work.
        function : callable
            Of a module that a child can import. It and its arguments, result and errors are pickled.

        Raises
        ------
        WorkerDiedError
            The child died, and so did the next one with the same call; or none can be started.
        ClientClosedError
            The work was told to stop, or the processes are closed.
        """
        died: _ChildDiedError | None = None
        for _ in range(2):
            child = self._take(name)
            try:
                result = child.call(function, args, kwargs)
            except _ChildDiedError as error:
                died = error
                self._let_go(child)
                logger.warning("a process that stored %s %s; it is tried once more", name, died)
                continue
            except BaseException:
                self._let_go(child)
                raise
            self._give_back(child)
            if isinstance(result, _Raised):
                raise result.error
            return cast("_T", result)
        raise WorkerDiedError(name, f"{died}, twice")

    def _take(self, name: str) -> _Child:
        with self._lock:
            if self._is_closed:
                raise ClientClosedError("the client was closed before the work was done")
            try:
                child = self._idle.pop() if self._idle else _Child()
            except OSError as error:
                raise WorkerDiedError(name, f"cannot be started ({error.strerror})") from error
            self._busy.add(child)
            return child

    def _give_back(self, child: _Child) -> None:
        with self._lock:
            self._busy.discard(child)
            if not self._is_closed:
                self._idle.append(child)
                return
        child.close()

    def _let_go(self, child: _Child) -> None:
        """End a child that died, or that has not finished its call."""
        child.close()
        with self._lock:
            self._busy.discard(child)
            self.lost_count += child.is_lost

    def close(self) -> None:
        """End all children, and wait for that for a bounded time. Safe to repeat."""
        with self._lock:
            self._is_closed = True
            idle, busy = tuple(self._idle), tuple(self._busy)
            self._idle.clear()
        for child in idle:
            child.hang_up()
        for child in idle:
            child.close()
        for child in busy:
            # Whoever waits for it was told to stop, and has not done so. The pipes are his.
            child.kill()
            self.lost_count += 1

    async def aclose(self) -> None:
        """`close`, in a thread."""
        await asyncio.to_thread(self.close)


class _ChildDiedError(Exception):
    """A child ended without a result. The message says how."""


@dataclass(frozen=True, slots=True)
class _Raised:
    """In place of a result: what a function raised."""

    error: Exception


class _Child:
    """A child process and the pipes to it. One thread at a time uses it; only `kill` is for any thread."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(  # noqa: S603 - the interpreter that runs this, and a constant program
            [sys.executable, "-c", _PROGRAM, json.dumps([*map(str, sys.path)]), str(os.getpid())],
            bufsize=0,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=os.environ | _ENVIRONMENT,
            process_group=0,
        )
        self._calls = cast("BinaryIO", self._process.stdin)
        self._results = cast("BinaryIO", self._process.stdout)
        self.pid = self._process.pid

    def call(self, function: Callable[..., Any], args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
        try:
            _write(self._calls, (function, args, kwargs))
        except BrokenPipeError:
            raise self._death() from None
        poll = select.poll()
        poll.register(self._results, select.POLLIN)
        while not poll.poll(1000 * PROCESS_WAIT_S):
            check_stop()
        try:
            return _read(self._results)
        except EOFError:
            raise self._death() from None

    def _death(self) -> _ChildDiedError:
        """What became of a child that gave no result."""
        self.close()
        status = self._process.returncode
        if status is not None and status < 0:
            return _ChildDiedError(f"was killed by {_signal_name(-status)}")
        return _ChildDiedError(f"ended with status {status}")

    @property
    def is_lost(self) -> bool:
        """Whether it ended in another way than in order, or has not ended."""
        return self._process.returncode != 0

    def hang_up(self) -> None:
        """Tell it to end."""
        with contextlib.suppress(OSError):
            self._calls.close()

    def kill(self) -> None:
        """End it at once."""
        self._process.kill()

    def close(self) -> None:
        """End it: in order if it does so in time, and otherwise at once. Safe to repeat."""
        self.hang_up()
        if not self._has_ended_in_time():
            self._process.kill()
            if not self._has_ended_in_time():
                logger.warning("process %d waits for the disk, and ends when that answers", self.pid)
        self._results.close()

    def _has_ended_in_time(self) -> bool:
        try:
            self._process.wait(PROCESS_STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            return False
        return True


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


# --- The pipes ---------------------------------------------------------------------------------------------

_LENGTH_NBYTES: Final = 8


def _write(pipe: BinaryIO, message: object) -> None:
    content = pickle.dumps(message, pickle.HIGHEST_PROTOCOL)
    left = memoryview(len(content).to_bytes(_LENGTH_NBYTES, "little") + content)
    while left:
        left = left[pipe.write(left) :]


def _read(pipe: BinaryIO) -> Any:
    """Read a message. Raises EOFError if the pipe was closed before its end."""
    nbytes = int.from_bytes(_read_all(pipe, _LENGTH_NBYTES), "little")
    # Only the other process, which runs the same program for the same user, writes to this pipe.
    return pickle.loads(_read_all(pipe, nbytes))  # noqa: S301


def _read_all(pipe: BinaryIO, nbytes: int) -> bytes:
    parts = []
    while nbytes:
        part = pipe.read(nbytes)
        if not part:
            raise EOFError
        parts.append(part)
        nbytes -= len(part)
    return b"".join(parts)


# --- The child ---------------------------------------------------------------------------------------------


def serve() -> NoReturn:
    """Call what the parent asks for, until it hangs up. Whatever is printed meanwhile goes to standard error."""
    calls = os.fdopen(os.dup(0), "rb", buffering=0)
    results = os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(2, 1)
    # Whoever asks for input gets none: the calls are not for him.
    with Path(os.devnull).open("rb") as nothing:
        os.dup2(nothing.fileno(), 0)
    lifeline = select.poll()
    lifeline.register(calls, select.POLLIN)
    parent = int(sys.argv[2])

    def check() -> None:
        # During a call the parent sends nothing: whatever there is to read is the end of the pipe. Another child
        # of the parent may keep the pipe open, if it was forked.
        if lifeline.poll(0) or os.getppid() != parent:
            raise ClientClosedError("the process that asked for the work has ended, or does not wait for it")

    with stopped_by(check), contextlib.suppress(EOFError, BrokenPipeError, ClientClosedError):
        while True:
            while not lifeline.poll(_IDLE_CHECK_MS):
                check()
            function, args, kwargs = _read(calls)
            _write(results, _outcome(function, args, kwargs))
    # There is nothing to tidy up, and the parent waits.
    os._exit(0)


def _outcome(function: Callable[..., Any], args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
    try:
        return function(*args, **kwargs)
    except ClientClosedError:
        raise
    except Exception as error:  # noqa: BLE001 - raised in the parent
        return _Raised(error)

"""Signals that end the command: Ctrl-C (SIGINT), SIGTERM and SIGHUP. All of them end it in the same orderly way.

- While the command is loaded nothing has been changed, and a signal ends the process at once. An exception would
  not do: C code that imports numpy prints it, and the import system loses it.
- During a verb the first signal raises `Stopped`, or cancels the task of a verb that runs an event loop. What is
  being written is removed on the way out. Where Python loses the exception, as in a finalizer, it is raised again.
- A second signal ends the process at once, and so does a way out that takes too long. What then stays behind is
  unlocked, and the next command removes it. A signal right after the first belongs to it: `timeout` and terminals
  may send one twice.
- A signal that the parent process told this one to ignore, as `nohup` does, stays ignored.

Nothing here runs unless `ckvd.cli.main` takes the signals: a program that uses the library keeps its own handlers.
`main` needs this module before the rest is loaded, so it imports little.
"""

from __future__ import annotations

import os
import signal
import sys
import time

from ckvd.cli import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine
    from types import FrameType, TracebackType
    from typing import Any, Final, TypeVar

    _T = TypeVar("_T")

STOP_SIGNALS: Final = tuple(
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)
)
# A signal this soon after the first is taken for the same one.
SAME_SIGNAL_S: Final = 1.0
# The longest way out. Leaving waits a few times for work in threads, half a second each.
WAY_OUT_S: Final = 8.0
# How often it is looked whether `Stopped` was lost.
_LOST_POLL_S: Final = 0.02

_ERASE_LINE: Final = "\r\x1b[K"
_KEPT: Final = "what was finished is in the cache, and the same command goes on from there"


class Stopped(SystemExit):
    """A signal ends the command. It is a `SystemExit`, so that neither click nor asyncio take it for an error."""

    code: int


class StopSignals:
    """The signals that end this process, and which of them has come.

    Attributes
    ----------
    received : signal.Signals or None
        The first that came.
    """

    def __init__(self) -> None:
        self.received: signal.Signals | None = None
        self._received_s = 0.0
        # Whether a verb is at work, so that there is something to leave in order.
        self._is_at_work = False
        # Set by a verb that runs an event loop.
        self._cancel: Callable[[], None] | None = None
        # Whether `Stopped` was raised where Python could only report it, and whether it is raised again.
        self._is_lost = False
        self._is_again = False

    def take(self) -> None:
        """From now on, handle the signals that this process does not ignore."""
        for number in STOP_SIGNALS:
            # None: not handled by Python. The process that started this one may have it ignored.
            if signal.getsignal(number) not in (signal.SIG_IGN, None):
                signal.signal(number, self._on_signal)

    def __enter__(self) -> None:
        """In the block a verb is at work: a signal raises `Stopped`. Before and after it, it ends the process."""
        self._is_at_work = True

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._is_at_work = False
        if self.received is not None:
            raise self._stopped() from None  # whatever came of it meanwhile

    def run(self, work: Coroutine[Any, Any, _T]) -> _T:
        """Run a coroutine in an event loop of its own. A signal cancels it, and is raised when it has ended."""
        try:
            import asyncio  # noqa: PLC0415  (most verbs need no event loop, and `main` not yet)

            return asyncio.run(self._cancellable(work))
        except BaseException:
            if self.received is None:
                raise
            raise self._stopped() from None
        finally:
            work.close()  # A signal may have come before it began: Python would warn.

    async def _cancellable(self, work: Coroutine[Any, Any, _T]) -> _T:
        import asyncio  # noqa: PLC0415  (it is loaded)

        loop, task = asyncio.get_running_loop(), asyncio.current_task()
        assert task is not None, "asyncio runs coroutines in tasks"

        def cancel() -> None:
            task.cancel()
            loop.call_soon_threadsafe(lambda: None)  # wakes it up

        self._cancel = cancel
        try:
            return await work
        finally:
            self._cancel = None

    @property
    def message(self) -> str:
        """What is said of the end. Raises AssertionError if no signal has come."""
        assert self.received is not None, "no signal has come"
        return f"{_describe(self.received)}: {_KEPT}"

    def _stopped(self) -> Stopped:
        assert self.received is not None, "no signal has come"
        return Stopped(128 + self.received)

    def _on_signal(self, number: int, _frame: FrameType | None) -> None:
        if self._is_again:
            self._is_again = False
        elif self.received is None:
            self.received, self._received_s = signal.Signals(number), time.monotonic()
            if not self._is_at_work:
                self._end_at_once(self.message)
            self._watch_the_way_out(self.received)
        elif time.monotonic() - self._received_s < SAME_SIGNAL_S:
            return
        else:
            self._end_at_once(f"{_describe(self.received)} twice: ended at once; the next command cleans up")
        if self._cancel is not None:
            self._cancel()
        elif self._is_at_work:
            raise self._stopped()

    # --- The way out ---------------------------------------------------------------------------------------

    def _watch_the_way_out(self, number: signal.Signals) -> None:
        import _thread  # noqa: PLC0415  (`threading` would wait for a lock that the interrupted code may hold)

        report = sys.unraisablehook

        def note_lost(unraisable: sys.UnraisableHookArgs) -> None:
            if isinstance(unraisable.exc_value, Stopped):
                self._is_lost = True
            else:
                report(unraisable)

        def watch() -> None:
            end_s = time.monotonic() + WAY_OUT_S
            while time.monotonic() < end_s:
                time.sleep(_LOST_POLL_S)
                if self._is_lost:
                    self._is_lost, self._is_again = False, True
                    _thread.interrupt_main(number)
            self._end_at_once(f"{_describe(number)}: ended after {WAY_OUT_S:g} s in which the work did not stop")

        sys.unraisablehook = note_lost
        _thread.start_new_thread(watch, ())

    def _end_at_once(self, message: str) -> None:
        """End the process without leaving anything in order. Callable from a handler and from any thread."""
        assert self.received is not None, "a signal has come"
        # A progress bar may be there.
        is_screen = os.isatty(2) and os.environ.get("TERM", "dumb") not in ("dumb", "unknown")
        try:
            os.write(2, f"{_ERASE_LINE * is_screen}ckvd: {message}\n".encode())
        except OSError:
            pass  # nobody reads it
        finally:
            os._exit(128 + self.received)


def _describe(number: signal.Signals) -> str:
    return "interrupted" if number is signal.SIGINT else f"ended by {number.name}"


# The signals of a process are one, and so is what handles them.
stop_signals: Final = StopSignals()

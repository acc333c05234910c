"""`check_stop`: where work in a thread asks whether it was told to stop.

A thread cannot be cancelled. So whatever waits, changes something on disk, or goes on to the next part of long work
calls `check_stop` before. Where nobody can stop the work, as in a program without an event loop, that does nothing.
Imports nothing of the project, and not asyncio: a program that only reads needs neither.
"""

from __future__ import annotations

from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_check: ContextVar[Callable[[], None] | None] = ContextVar("ckvd_check_stop", default=None)


def check_stop() -> None:
    """Raise an error if this work was told to stop, by cancelling its caller or closing its client."""
    check = _check.get()
    if check is not None:
        check()


@contextmanager
def stopped_by(check: Callable[[], None]) -> Iterator[None]:
    """In the block, `check_stop` calls a function, which raises an error to stop the work."""
    before = _check.set(check)
    try:
        yield
    finally:
        _check.reset(before)

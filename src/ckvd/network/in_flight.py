"""Requests under way: each is a task that is known here, so that closing can end them all.

A caller who waits for a request is told at once when the client is closed, even if the request itself ignores that
it was cancelled; so nobody waits for ever, and nobody is handed what a closed session makes of half an answer. The
caller's own cancellation stays a `CancelledError`. Imports `errors` and `utils.config`.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Final, TypeVar

from ckvd.errors import ClientClosedError
from ckvd.utils.config import CLEANUP_GRACE_S, RESOURCE_CLEANUP_TIMEOUT

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

logger = logging.getLogger(__name__)

_T = TypeVar("_T")

# Whoever closes this allows it RESOURCE_CLEANUP_TIMEOUT: the wait is over before that.
_END_TIMEOUT_S: Final = RESOURCE_CLEANUP_TIMEOUT - CLEANUP_GRACE_S

# The event loop refers to its tasks weakly. Here a request stays alive until it has ended, closed or not.
_under_way: set[asyncio.Task[Any]] = set()


@dataclass(frozen=True, slots=True, eq=False)
class _Request:
    """A task, and what wakes its caller when the client is closed."""

    task: asyncio.Task[Any]
    is_closing: asyncio.Future[None]

    def end(self) -> None:
        if not self.is_closing.done():
            self.is_closing.set_result(None)
        self.task.cancel()


class RequestsInFlight:
    """The requests of one client, all on one event loop: that of the first.

    Attributes
    ----------
    loop : asyncio.AbstractEventLoop or None
        Where they run; None before the first. Closing is done there while it runs.
    is_closed : bool
    """

    def __init__(self) -> None:
        self.loop: asyncio.AbstractEventLoop | None = None
        self.is_closed = False
        self._requests: set[_Request] = set()

    def __len__(self) -> int:
        return len(self._requests)

    def __repr__(self) -> str:
        return f"<RequestsInFlight: {'closed' if self.is_closed else 'open'}, {len(self)} under way>"

    async def run(self, make: Callable[[], Coroutine[Any, Any, _T]], label: str) -> _T:
        """Run a request as a task of its own, and wait for it.

        Parameters
        ----------
        make : callable
            Makes the coroutine. Not called when the client is closed.
        label : str
            What the task and errors call it.

        Raises
        ------
        ClientClosedError
            The client is closed, was closed meanwhile, or belongs to another event loop.
        """
        self._admit(label)
        loop = asyncio.get_running_loop()
        task = loop.create_task(make(), name=label)
        if not task.done():  # An eager task factory may have run it to its end.
            request = _Request(task, loop.create_future())
            self._requests.add(request)
            _under_way.add(task)
            task.add_done_callback(partial(self._forget, request))
            await self._outcome(request)
        if self.is_closed and (not task.done() or task.cancelled()):
            raise ClientClosedError(f"the client was closed while a request was under way: {label}")
        return task.result()

    async def aclose(self) -> None:
        """Refuse new requests, and cancel and await those under way, for a bounded time. Safe on any loop."""
        self.is_closed = True
        owner = self.loop
        if owner is asyncio.get_running_loop():
            await self._end_all()
        elif owner is not None and owner.is_running():
            ending = asyncio.wrap_future(asyncio.run_coroutine_threadsafe(self._end_all(), owner))
            await asyncio.wait((ending,), timeout=RESOURCE_CLEANUP_TIMEOUT)
        else:
            # That loop has ended, or stands still: what it still holds cannot be awaited, only marked.
            for request in tuple(self._requests):
                with contextlib.suppress(RuntimeError):
                    request.end()

    async def _end_all(self) -> None:
        requests = tuple(self._requests)
        for request in requests:
            request.end()
        tasks = {request.task for request in requests} - {asyncio.current_task()}
        if tasks:
            _, deaf = await asyncio.wait(tasks, timeout=_END_TIMEOUT_S)
            if deaf:
                logger.warning("%d requests ignore that they were cancelled, and are left behind", len(deaf))

    def _admit(self, label: str) -> None:
        if self.is_closed:
            raise ClientClosedError(f"the client is closed: {label}")
        loop = asyncio.get_running_loop()
        self.loop = self.loop or loop
        if self.loop is not loop:
            raise ClientClosedError(
                f"the client belongs to another event loop: {label}; make one client for each loop"
            )

    async def _outcome(self, request: _Request) -> None:
        """Wait until a request has ended or the client is closed. A cancelled caller cancels the request."""
        try:
            await asyncio.wait((request.task, request.is_closing), return_when=asyncio.FIRST_COMPLETED)
        except asyncio.CancelledError:
            request.task.cancel()
            await asyncio.wait((request.task,), timeout=CLEANUP_GRACE_S)
            raise

    def _forget(self, request: _Request, task: asyncio.Task[Any]) -> None:
        self._requests.discard(request)
        _under_way.discard(task)
        if not task.cancelled():
            task.exception()  # read, so that nobody complains about one whose caller has left

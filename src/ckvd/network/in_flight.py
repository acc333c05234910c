"""Requests under way: each runs as a task that is registered here, so that closing can end them all.

When the client is closed, whoever waits for a request gets an error at once, even if the request ignores its
cancellation. So nobody waits for ever, and nobody gets the half of a response that a closed session returns. The
caller's own cancellation stays a `CancelledError`.
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

# Closing may take RESOURCE_CLEANUP_TIMEOUT. This wait ends before that.
_END_TIMEOUT_S: Final = RESOURCE_CLEANUP_TIMEOUT - CLEANUP_GRACE_S

# The event loop holds its tasks weakly. This keeps a request alive until it has ended, even after closing.
_under_way: set[asyncio.Task[Any]] = set()


@dataclass(frozen=True, slots=True, eq=False)
class _Request:
    """A task, and a future that wakes its caller when the client is closed."""

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
        The loop that they run on; None before the first. While it runs, `aclose` does its work there.
    is_closed : bool
    """

    # Waiting for another loop takes RESOURCE_CLEANUP_TIMEOUT. Whoever closes this gives it a little more.
    cleanup_budget_s: Final = RESOURCE_CLEANUP_TIMEOUT + CLEANUP_GRACE_S

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
            Makes the coroutine. It is not called if the client is closed.
        label : str
            Names the request in errors, and its task.

        Raises
        ------
        ClientClosedError
            The client is closed, was closed meanwhile, or belongs to another event loop.
        """
        self._admit(label)
        loop = asyncio.get_running_loop()
        task = loop.create_task(make(), name=label)
        if not task.done():  # An eager task factory may have run it to the end.
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
            # That loop is closed or does not run: its tasks can be cancelled, but not awaited.
            for request in tuple(self._requests):
                with contextlib.suppress(RuntimeError):
                    request.end()

    async def _end_all(self) -> None:
        requests = tuple(self._requests)
        for request in requests:
            request.end()
        tasks = {request.task for request in requests} - {asyncio.current_task()}
        if tasks:
            _, pending = await asyncio.wait(tasks, timeout=_END_TIMEOUT_S)
            if pending:
                logger.warning("%d requests ignore their cancellation, and are left behind", len(pending))

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
            task.exception()  # read, so that asyncio does not complain about it when its caller has left

"""Concurrency: coroutines together, and work in threads that can be stopped.

`run_together` and `run_bounded` run coroutines, `in_thread` and `Batching` work in threads, and `Workers` stops it.

A thread cannot be cancelled, so its work is told to stop: it raises an error at its next `check_stop`. A caller
that is cancelled tells its own work, a client that is closed tells all of it. Either then waits until the step at
hand has ended, for a bounded time. So nothing is written after that, and nobody waits for a lock that others hold.

`Batching` starts an item at once if a thread is free. If all threads are busy, items wait, and the next free thread
takes as many of them as may go into one batch. So a slow item delays no other item, and fast items share the cost
of a batch: a switch to a thread and back, a flush to disk.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import threading
from concurrent.futures import Future as ThreadFuture
from contextvars import ContextVar, copy_context
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Final, Generic, ParamSpec, TypeVar, cast

from ckvd.concurrency.stopping import check_stop, stopped_by
from ckvd.errors import ClientClosedError
from ckvd.utils.config import CLEANUP_GRACE_S, THREAD_STOP_TIMEOUT_S

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterable, Iterator, Sequence

logger = logging.getLogger(__name__)

Item = TypeVar("Item")
Result = TypeVar("Result")
_T = TypeVar("_T")
_P = ParamSpec("_P")


# --- Stopping ----------------------------------------------------------------------------------------------


class _Step:
    """Work in a thread, or waiting for one.

    Attributes
    ----------
    is_stopped : bool
        Whether it should stop. Set by its caller, read by its thread.
    has_begun : bool
        Whether it is or was in a thread. Set there before `is_stopped` is read, and read after that is set: so one
        of both sees the other.
    ended : concurrent.futures.Future
        Done when a step that has begun has ended.
    """

    __slots__ = ("ended", "has_begun", "is_stopped")

    def __init__(self) -> None:
        self.is_stopped = False
        self.has_begun = False
        self.ended: ThreadFuture[None] = ThreadFuture()

    def begin(self) -> None:
        self.ended.set_running_or_notify_cancel()  # whoever waits for it cannot cancel it
        self.has_begun = True

    def end(self) -> None:
        self.ended.set_result(None)

    def check(self) -> None:
        if self.is_stopped:
            raise ClientClosedError("the client was closed, or its caller cancelled, before the work was done")


async def _until_ended(steps: Iterable[_Step]) -> int:
    """Wait for those that have begun, for a bounded time. Return how many have not ended."""
    waiting = [asyncio.wrap_future(step.ended) for step in steps if step.has_begun and not step.ended.done()]
    if not waiting:
        return 0
    _, left = await asyncio.wait(waiting, timeout=THREAD_STOP_TIMEOUT_S)
    if left:
        logger.warning("%d steps in threads do not stop, and are left behind", len(left))
    return len(left)


class Workers:
    """The work of one client in threads. Closing it stops that work.

    Attributes
    ----------
    is_closed : bool
    """

    # How long closing may take.
    cleanup_budget_s: Final = THREAD_STOP_TIMEOUT_S + CLEANUP_GRACE_S

    def __init__(self) -> None:
        self.is_closed = False
        self._steps: set[_Step] = set()

    def __repr__(self) -> str:
        return f"<Workers: {'closed' if self.is_closed else 'open'}, {len(self._steps)} under way>"

    @contextlib.contextmanager
    def employed(self) -> Iterator[None]:
        """In the block, and in tasks that are made in it, work in threads is that of this client.

        Within the block of another client it is that of both, and closing either stops it.

        Raises
        ------
        ClientClosedError
            It was closed.
        """
        self.require_open()
        before = _owners.set((*_owners.get(), self))
        try:
            yield
        finally:
            _owners.reset(before)

    def require_open(self) -> None:
        """Raise an error if it was closed."""
        if self.is_closed:
            raise ClientClosedError("the client is closed")

    def stop(self) -> None:
        """Refuse new work, and tell the rest to stop. Does not wait."""
        self.is_closed = True
        for step in tuple(self._steps):
            step.is_stopped = True

    async def aclose(self) -> None:
        """Stop, and wait until the steps at hand have ended, for a bounded time. Safe on any loop."""
        self.stop()
        await _until_ended(tuple(self._steps))

    def take(self, step: _Step) -> None:
        """Note a step, so that closing stops it."""
        self.require_open()
        self._steps.add(step)

    def forget(self, step: _Step) -> None:
        """Forget a step that has ended."""
        self._steps.discard(step)


_owners: ContextVar[tuple[Workers, ...]] = ContextVar("ckvd_workers", default=())


@contextlib.contextmanager
def _new_step() -> Iterator[_Step]:
    """A step that its caller awaits in the block."""
    step, owners = _Step(), _owners.get()

    def forget(_: object) -> None:
        for owner in owners:
            owner.forget(step)

    try:
        for owner in owners:
            owner.take(step)
        yield step
    finally:
        step.is_stopped = True  # if it has not begun, it may do so at this very moment
        if step.has_begun:
            step.ended.add_done_callback(forget)
        else:
            forget(step)


async def in_thread(function: Callable[_P, _T], *args: _P.args, **kwargs: _P.kwargs) -> _T:
    """Call a function in a thread, like `asyncio.to_thread`, but stop it if the caller is cancelled.

    Raises
    ------
    ClientClosedError
        The client was closed before the call has returned.
    """
    with _new_step() as step:

        def work() -> _T:
            step.begin()
            try:
                with stopped_by(step.check):
                    check_stop()
                    return function(*args, **kwargs)
            finally:
                step.end()

        future = asyncio.get_running_loop().run_in_executor(None, copy_context().run, work)
        future.add_done_callback(_forget_outcome)
        try:
            await asyncio.wait((future,))
        except asyncio.CancelledError:
            step.is_stopped = True
            if step.has_begun:
                await _until_ended([step])
            else:
                future.cancel()
            raise
        return future.result()


def _forget_outcome(future: asyncio.Future[Any]) -> None:
    """Read the error of work whose caller has left, so that asyncio does not complain about it."""
    if not future.cancelled():
        future.exception()


# --- Batching ----------------------------------------------------------------------------------------------


@dataclass(eq=False, slots=True)
class _Ticket(Generic[Item, Result]):
    """An item, the future of its result, and the step that processes it."""

    item: Item
    result: asyncio.Future[Result]
    step: _Step


class Batching(Generic[Item, Result]):
    """Process items in batches, in several threads. Any event loop may submit items.

    Parameters
    ----------
    work : callable
        Takes a batch of items, and returns a result or an exception for each. It runs in a thread. An exception
        that it raises is the outcome of all items.
    choose : callable
        Takes all waiting items, the oldest first, and returns the indices of the next batch, at least one. It runs
        in a thread.
    thread_count : int, optional
        By default as many threads as there are processors.
    """

    def __init__(
        self,
        work: Callable[[list[Item]], Sequence[Result | Exception]],
        choose: Callable[[Sequence[Item]], Sequence[int]],
        thread_count: int | None = None,
    ) -> None:
        self._thread_count_max = thread_count or os.cpu_count() or 1
        self._work = work
        self._choose = choose
        # Guards the two attributes below.
        self._lock = threading.Lock()
        self._waiting: list[_Ticket[Item, Result]] = []
        self._thread_count = 0

    async def do(self, item: Item) -> Result:
        """Process an item, alone or in a batch, and return its result.

        If the caller is cancelled, an item that still waits is withdrawn. A batch that has begun stops when the
        callers of all its items are cancelled or closed.

        Raises
        ------
        ClientClosedError
            The client was closed before the item was processed.
        """
        loop = asyncio.get_running_loop()
        with _new_step() as step:
            ticket: _Ticket[Item, Result] = _Ticket(item, loop.create_future(), step)
            with self._lock:
                self._waiting.append(ticket)
            # Not at once, so that items submitted in one turn of the loop can share a batch.
            loop.call_soon(self._start_thread)
            try:
                return await ticket.result
            except asyncio.CancelledError:
                step.is_stopped = True
                await _until_ended([step])
                raise
            finally:
                with self._lock:
                    if ticket in self._waiting:
                        self._waiting.remove(ticket)

    def _start_thread(self) -> None:
        """Start one more thread if an item waits, and not all threads are busy."""
        with self._lock:
            if self._waiting and self._thread_count < self._thread_count_max:
                asyncio.get_running_loop().run_in_executor(None, self._work_on_waiting)
                self._thread_count += 1

    def _work_on_waiting(self) -> None:
        # A thread continues while items wait, so that the next batch does not wait for the loop.
        while batch := self._take_batch():
            outcomes: Sequence[Result | BaseException]
            try:
                with stopped_by(partial(_check_all, batch)):
                    check_stop()
                    outcomes = self._work([ticket.item for ticket in batch])
            except BaseException as error:  # noqa: BLE001 - raised to the callers of all items
                outcomes = [error] * len(batch)
            for ticket in batch:
                ticket.step.end()
            for loop in {ticket.result.get_loop() for ticket in batch}:
                with contextlib.suppress(RuntimeError):  # the loop is closed, so nobody waits
                    loop.call_soon_threadsafe(_resolve_futures, loop, batch, outcomes)

    def _take_batch(self) -> list[_Ticket[Item, Result]]:
        with self._lock:
            if not self._waiting:
                self._thread_count -= 1
                return []
            chosen = set(self._choose([ticket.item for ticket in self._waiting]))
            batch = [ticket for index, ticket in enumerate(self._waiting) if index in chosen]
            self._waiting = [ticket for index, ticket in enumerate(self._waiting) if index not in chosen]
            for ticket in batch:
                ticket.step.begin()
            return batch


def _check_all(batch: Sequence[_Ticket[Any, Any]]) -> None:
    """Stop work that nobody waits for any more."""
    if all(ticket.step.is_stopped for ticket in batch):
        batch[0].step.check()


def _resolve_futures(
    loop: asyncio.AbstractEventLoop,
    batch: Sequence[_Ticket[Item, Result]],
    outcomes: Sequence[Result | BaseException],
) -> None:
    """Resolve the futures that belong to one loop."""
    for ticket, outcome in zip(batch, outcomes, strict=True):
        if ticket.result.get_loop() is not loop or ticket.result.done():
            continue  # done: the caller was cancelled
        if isinstance(outcome, BaseException):
            ticket.result.set_exception(outcome)
        else:
            ticket.result.set_result(outcome)


# --- Coroutines --------------------------------------------------------------------------------------------


async def run_together(coroutines: Iterable[Coroutine[Any, Any, _T]]) -> list[_T]:
    """Run coroutines concurrently and return their results in order.

    If one fails, the others are cancelled and awaited, and its error is raised without a group around it, because
    the others failed for the same reason or were cancelled.
    """
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(coroutine) for coroutine in coroutines]
    except BaseExceptionGroup as errors:
        first: BaseException = errors
        while isinstance(first, BaseExceptionGroup):
            first = first.exceptions[0]
        raise first from first.__cause__  # without the group as its context, and with its own cause
    return [task.result() for task in tasks]


async def run_bounded(
    work: Callable[[Item], Coroutine[Any, Any, _T]], items: Sequence[Item], *, count: int
) -> list[_T]:
    """Call a coroutine function with each of many items, and return the results in the order of the items.

    At most `count` calls are under way, and no more tasks exist: items that wait cost nothing. Errors are those of
    `run_together`; no other item is begun after one.
    """
    results: list[_T | None] = [None] * len(items)
    waiting = iter(enumerate(items))

    async def work_on_waiting() -> None:
        for place, item in waiting:
            results[place] = await work(item)

    await run_together([work_on_waiting() for _ in range(min(count, len(items)))])
    return cast("list[_T]", results)

"""Concurrency: `run_together` for coroutines, `Batching` for work in threads.

`Batching` starts an item at once if a thread is free. If all threads are busy, items wait, and the next free thread
takes as many of them as may go into one batch. So a slow item delays no other item, and fast items share the cost
of a batch: a switch to a thread and back, a flush to disk.

Imports nothing of the project.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterable, Sequence

Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(eq=False, slots=True)
class _Ticket(Generic[Item, Result]):
    """An item, and the future of its result."""

    item: Item
    result: asyncio.Future[Result]


class Batching(Generic[Item, Result]):
    """Process items in batches, in as many threads as there are processors. Any event loop may submit items.

    Parameters
    ----------
    work : callable
        Takes a batch of items, and returns a result or an exception for each. It runs in a thread. An exception
        that it raises is the outcome of all items.
    choose : callable
        Takes all waiting items, the oldest first, and returns the indices of the next batch, at least one. It runs
        in a thread.
    """

    def __init__(
        self,
        work: Callable[[list[Item]], Sequence[Result | Exception]],
        choose: Callable[[Sequence[Item]], Sequence[int]],
    ) -> None:
        self._work = work
        self._choose = choose
        # Guards the two attributes below.
        self._lock = threading.Lock()
        self._waiting: list[_Ticket[Item, Result]] = []
        self._thread_count = 0

    async def do(self, item: Item) -> Result:
        """Process an item, alone or in a batch, and return its result.

        If the caller is cancelled, an item that still waits is withdrawn. Work that has begun continues to its end.
        """
        loop = asyncio.get_running_loop()
        ticket: _Ticket[Item, Result] = _Ticket(item, loop.create_future())
        with self._lock:
            self._waiting.append(ticket)
        # Not at once, so that items submitted in one turn of the loop can share a batch.
        loop.call_soon(self._start_thread)
        try:
            return await ticket.result
        finally:
            with self._lock:
                if ticket in self._waiting:
                    self._waiting.remove(ticket)

    def _start_thread(self) -> None:
        """Start one more thread if an item waits, and not all threads are busy."""
        with self._lock:
            if self._waiting and self._thread_count < (os.cpu_count() or 1):
                asyncio.get_running_loop().run_in_executor(None, self._work_on_waiting)
                self._thread_count += 1

    def _work_on_waiting(self) -> None:
        # A thread continues while items wait, so that the next batch does not wait for the loop.
        while batch := self._take_batch():
            outcomes: Sequence[Result | BaseException]
            try:
                outcomes = self._work([ticket.item for ticket in batch])
            except BaseException as error:  # noqa: BLE001 - raised to the callers of all items
                outcomes = [error] * len(batch)
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
            return batch


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


_T = TypeVar("_T")


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

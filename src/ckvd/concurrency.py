"""Doing several things at the same time: `run_together` for coroutines, `Batching` for work in threads.

`Batching` starts on an item at once while a thread is free. While all threads are busy items wait, and the next
free thread takes as many as may go together. So slow items never wait for each other, and fast ones share what a
batch costs: a hop to a thread and back, a flush to disk.

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
    """A waiting item, and the future of its result."""

    item: Item
    result: asyncio.Future[Result]


class Batching(Generic[Item, Result]):
    """Work on items in as many threads as there are processors. Items may come from several event loops.

    Parameters
    ----------
    work : callable
        Takes items and returns the result of each, or the exception of each. Runs in a thread. An exception that
        it raises is raised for all of them.
    choose : callable
        Takes all waiting items, the oldest first, and returns the places of those that go together, at least one.
        Runs in a thread.
    """

    def __init__(
        self,
        work: Callable[[list[Item]], Sequence[Result | Exception]],
        choose: Callable[[Sequence[Item]], Sequence[int]],
    ) -> None:
        self._work = work
        self._choose = choose
        # Guards the two attributes below.
        self._state = threading.Lock()
        self._waiting: list[_Ticket[Item, Result]] = []
        self._thread_count = 0

    async def do(self, item: Item) -> Result:
        """Work on an item, alone or with others.

        A cancelled caller takes back an item that still waits. Work that has begun goes on to its end.
        """
        loop = asyncio.get_running_loop()
        ticket: _Ticket[Item, Result] = _Ticket(item, loop.create_future())
        with self._state:
            self._waiting.append(ticket)
        # Not at once: items that arrive in one turn of the loop may go together.
        loop.call_soon(self._employ)
        try:
            return await ticket.result
        finally:
            with self._state:
                if ticket in self._waiting:
                    self._waiting.remove(ticket)

    def _employ(self) -> None:
        """Start one more thread if there is work for it."""
        with self._state:
            if self._waiting and self._thread_count < (os.cpu_count() or 1):
                asyncio.get_running_loop().run_in_executor(None, self._work_on_waiting)
                self._thread_count += 1

    def _work_on_waiting(self) -> None:
        # A thread goes on while items wait, so that the next batch need not wait for the loop.
        while batch := self._take_batch():
            outcomes: Sequence[Result | BaseException]
            try:
                outcomes = self._work([ticket.item for ticket in batch])
            except BaseException as error:  # noqa: BLE001 - it is raised to whoever waits for an item
                outcomes = [error] * len(batch)
            for loop in {ticket.result.get_loop() for ticket in batch}:
                with contextlib.suppress(RuntimeError):  # the loop is closed, so nobody waits
                    loop.call_soon_threadsafe(_deliver, loop, batch, outcomes)

    def _take_batch(self) -> list[_Ticket[Item, Result]]:
        with self._state:
            if not self._waiting:
                self._thread_count -= 1
                return []
            places = set(self._choose([ticket.item for ticket in self._waiting]))
            batch = [ticket for place, ticket in enumerate(self._waiting) if place in places]
            self._waiting = [ticket for place, ticket in enumerate(self._waiting) if place not in places]
            return batch


def _deliver(
    loop: asyncio.AbstractEventLoop,
    batch: Sequence[_Ticket[Item, Result]],
    outcomes: Sequence[Result | BaseException],
) -> None:
    """Resolve the futures that belong to one loop."""
    for ticket, outcome in zip(batch, outcomes, strict=True):
        if ticket.result.get_loop() is not loop or ticket.result.done():
            continue  # done: its caller was cancelled
        if isinstance(outcome, BaseException):
            ticket.result.set_exception(outcome)
        else:
            ticket.result.set_result(outcome)


_T = TypeVar("_T")


async def run_together(coroutines: Iterable[Coroutine[Any, Any, _T]]) -> list[_T]:
    """Run coroutines at the same time and return their results in order.

    When one fails the others are cancelled and awaited, and its error is raised without a group around it: the
    others failed for the same reason, or were cancelled because of it.
    """
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(coroutine) for coroutine in coroutines]
    except BaseExceptionGroup as errors:
        first: BaseException = errors
        while isinstance(first, BaseExceptionGroup):
            first = first.exceptions[0]
        raise first from None
    return [task.result() for task in tasks]

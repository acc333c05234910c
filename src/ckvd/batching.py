"""Work in threads on what waits, several items at a time: `Batching`.

An item that comes while a thread is free is worked on at once. While all are busy items wait, and the next thread
that is free takes along as many as may go together. So where items come slowly none waits for another, and where
they come fast, what a batch costs (a hop to a thread and back, a flush to disk) is shared by many.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(eq=False, slots=True)
class _Ticket(Generic[Item, Result]):
    """An item that waits, and the promise of what becomes of it."""

    item: Item
    result: asyncio.Future[Result]


class Batching(Generic[Item, Result]):
    """Works on items, in as many threads as there are processors. Items may come from several event loops.

    Parameters
    ----------
    work : callable
        Takes items and gives for each its result, or the exception that is its own; runs in a thread. What it
        raises instead is raised for all of them.
    choose : callable
        Takes all items that wait, the longest waiting one first, and gives the places of those that go together,
        at least one; runs in a thread.
    """

    def __init__(
        self,
        work: Callable[[list[Item]], Sequence[Result | Exception]],
        choose: Callable[[Sequence[Item]], Sequence[int]],
    ) -> None:
        self._work = work
        self._choose = choose
        # Held while one of the following is looked at or changed.
        self._state = threading.Lock()
        self._waiting: list[_Ticket[Item, Result]] = []
        self._thread_count = 0

    async def do(self, item: Item) -> Result:
        """Work on an item, alone or with others.

        Whoever is cancelled takes back an item that still waits; one that is worked on is worked on to the end.
        """
        loop = asyncio.get_running_loop()
        ticket: _Ticket[Item, Result] = _Ticket(item, loop.create_future())
        with self._state:
            self._waiting.append(ticket)
        # Not at once: items that are handed over in one turn of the loop may go together.
        loop.call_soon(self._employ)
        try:
            return await ticket.result
        finally:
            with self._state:
                if ticket in self._waiting:
                    self._waiting.remove(ticket)

    def _employ(self) -> None:
        """Have one more thread, if there is something to do for it."""
        with self._state:
            if self._waiting and self._thread_count < (os.cpu_count() or 1):
                asyncio.get_running_loop().run_in_executor(None, self._work_on_what_waits)
                self._thread_count += 1

    def _work_on_what_waits(self) -> None:
        # A thread goes on as long as something waits: the next batch need not wait for the loop.
        while batch := self._take_batch():
            outcomes: Sequence[Result | BaseException]
            try:
                outcomes = self._work([ticket.item for ticket in batch])
            except BaseException as error:  # noqa: BLE001 - it is raised where the items came from
                outcomes = [error] * len(batch)
            for loop in {ticket.result.get_loop() for ticket in batch}:
                with contextlib.suppress(RuntimeError):  # the loop was closed: nobody waits any more
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
    """Keep the promises that were made in a loop."""
    for ticket, outcome in zip(batch, outcomes, strict=True):
        if ticket.result.get_loop() is not loop or ticket.result.done():
            continue  # done where whoever asked was cancelled
        if isinstance(outcome, BaseException):
            ticket.result.set_exception(outcome)
        else:
            ticket.result.set_result(outcome)

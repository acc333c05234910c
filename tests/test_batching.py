"""What waits is worked on together, and each item gets what is its own, whatever becomes of the others."""

from __future__ import annotations

import asyncio
import os
import threading
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ckvd.concurrency import Batching
from support import strategies  # noqa: F401 - no example fails for the time that it took

if TYPE_CHECKING:
    from collections.abc import Sequence

WAIT_S = 10


def choose_all(waiting: Sequence[int]) -> range:
    return range(len(waiting))


def choose_first(_waiting: Sequence[int]) -> list[int]:
    return [0]


class Gate:
    """Work that goes on when it is told to, and notes what came together."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.has_started = threading.Semaphore(0)
        self.may_go_on = threading.Event()

    def work(self, items: list[int]) -> list[int | Exception]:
        self.batches.append(items)
        self.has_started.release()
        assert self.may_go_on.wait(WAIT_S)
        return [-item for item in items]

    async def start(self, count: int) -> None:
        for _ in range(count):
            assert await asyncio.to_thread(self.has_started.acquire, timeout=WAIT_S)


@given(st.lists(st.integers(0, 3), max_size=30), st.integers(1, 5))
def test_every_item_gets_its_own_result_or_error(turns: list[int], modulus: int) -> None:
    """Items come in some turns of the loop, and go together by their remainder."""
    batches: list[list[int]] = []

    def work(items: list[int]) -> list[int | Exception]:
        batches.append(items)
        return [ValueError(item) if item % 3 == 2 else item * item for item in items]

    def choose(waiting: Sequence[int]) -> list[int]:
        return [place for place, item in enumerate(waiting) if item % modulus == waiting[0] % modulus]

    async def ask(batching: Batching[int, int], item: int, turn_count: int) -> int | str:
        for _ in range(turn_count):
            await asyncio.sleep(0)
        try:
            return await batching.do(item)
        except ValueError as error:
            return str(error)

    async def main() -> list[int | str]:
        batching = Batching(work, choose)
        return await asyncio.gather(*(ask(batching, item, turns_) for item, turns_ in enumerate(turns)))

    expected = [str(item) if item % 3 == 2 else item * item for item in range(len(turns))]
    assert asyncio.run(main()) == expected
    assert sorted(item for batch in batches for item in batch) == list(range(len(turns)))
    assert all(len({item % modulus for item in batch}) == 1 for batch in batches)


def test_what_comes_in_one_turn_goes_together() -> None:
    batches: list[list[int]] = []

    def work(items: list[int]) -> list[int]:
        batches.append(items)
        return items

    async def main() -> None:
        batching = Batching(work, choose_all)
        await asyncio.gather(*map(batching.do, range(50)))

    asyncio.run(main())
    assert batches == [list(range(50))]


def test_no_more_threads_work_than_there_are_processors() -> None:
    count = os.cpu_count() or 1
    gate = Gate()

    async def main() -> None:
        batching = Batching(gate.work, choose_first)
        tasks = [asyncio.create_task(batching.do(item)) for item in range(count + 3)]
        await gate.start(count)
        assert not gate.has_started.acquire(timeout=0.05)
        gate.may_go_on.set()
        assert await asyncio.gather(*tasks) == [-item for item in range(count + 3)]

    asyncio.run(main())


def test_what_the_work_raises_is_raised_for_all_that_went_together_and_for_no_others() -> None:
    def work(items: list[int]) -> list[int]:
        if 1 in items:
            raise OSError("no")
        return items

    async def main() -> list[int | BaseException]:
        batching = Batching(
            work, lambda waiting: [place for place in range(len(waiting)) if waiting[place] < 3] or [0]
        )
        return await asyncio.gather(*map(batching.do, range(5)), return_exceptions=True)

    found = asyncio.run(main())
    assert [str(outcome) for outcome in found] == ["no", "no", "no", "3", "4"]


def test_an_item_that_is_taken_back_is_not_worked_on_and_the_others_are() -> None:
    count = os.cpu_count() or 1
    gate = Gate()

    async def main() -> None:
        batching = Batching(gate.work, choose_first)
        tasks = [asyncio.create_task(batching.do(item)) for item in range(count + 2)]
        await gate.start(count)
        waiting, worked_on = tasks[count], tasks[0]
        for task in (waiting, worked_on):
            task.cancel()
        assert all(
            isinstance(outcome, asyncio.CancelledError)
            for outcome in await asyncio.gather(waiting, worked_on, return_exceptions=True)
        )
        gate.may_go_on.set()
        left = [task for task in tasks if task not in (waiting, worked_on)]
        assert await asyncio.gather(*left) == [-item for item in range(count + 2) if item not in (0, count)]

    asyncio.run(main())
    assert sorted(gate.batches) == [[item] for item in range(count + 2) if item != count]


def close_a_loop_whose_threads_are_busy(gate: Gate, batching: Batching[int, int]) -> None:
    """As many items as there are threads are worked on when the loop that asked for them is closed."""

    async def ask_and_cancel() -> None:
        tasks = [asyncio.create_task(batching.do(item)) for item in range(os.cpu_count() or 1)]
        await gate.start(len(tasks))
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    loop = asyncio.new_event_loop()
    try:
        loop.run_until_complete(ask_and_cancel())
    finally:
        loop.close()


def test_a_loop_that_closed_meanwhile_holds_up_no_later_one() -> None:
    gate = Gate()
    batching = Batching(gate.work, choose_first)

    async def main() -> int:
        return await batching.do(7)

    close_a_loop_whose_threads_are_busy(gate, batching)
    gate.may_go_on.set()
    assert asyncio.run(asyncio.wait_for(main(), WAIT_S)) == -7


def test_items_of_several_loops_go_together_and_return_each_to_its_own() -> None:
    gate = Gate()
    batching = Batching(gate.work, choose_all)
    found: dict[int, int] = {}

    async def main(item: int) -> None:
        found[item] = await batching.do(item)

    threads = [threading.Thread(target=asyncio.run, args=(main(item),)) for item in range(12)]
    for thread in threads:
        thread.start()
    gate.may_go_on.set()
    for thread in threads:
        thread.join(WAIT_S)
    assert found == {item: -item for item in range(12)}


def test_what_a_thread_of_a_closed_loop_takes_along_is_delivered() -> None:
    """The threads of the closed loop are still there, so that no other one is employed for the later item."""
    gate = Gate()
    batching = Batching(gate.work, choose_first)

    async def main() -> int:
        task = asyncio.create_task(batching.do(7))
        for _ in range(10):
            await asyncio.sleep(0)
        gate.may_go_on.set()
        return await task

    close_a_loop_whose_threads_are_busy(gate, batching)
    assert asyncio.run(main()) == -7


def test_a_result_that_is_no_exception_may_be_anything() -> None:
    async def main() -> list[object]:
        batching: Batching[object, object] = Batching(lambda items: items, lambda waiting: range(len(waiting)))
        return await asyncio.gather(*map(batching.do, [None, ValueError, (), "x"]))

    assert asyncio.run(main()) == [None, ValueError, (), "x"]


@pytest.mark.parametrize("count", [1, 200])
def test_a_thread_goes_on_with_what_waits(count: int) -> None:
    """There are not many more threads than processors, however many items came by themselves."""
    names: set[str] = set()

    def work(items: list[int]) -> list[int]:
        names.add(threading.current_thread().name)
        return items

    async def main() -> list[int]:
        batching = Batching(work, choose_first)
        return await asyncio.gather(*map(batching.do, range(count)))

    assert asyncio.run(main()) == list(range(count))
    assert len(names) <= 2 * (os.cpu_count() or 1)

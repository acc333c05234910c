"""Items are processed in batches, and coroutines run together; each gets its own result."""

from __future__ import annotations

import asyncio
import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ckvd.concurrency.stopping import check_stop
from ckvd.concurrency.work import Batching, Workers, in_thread, run_bounded, run_together
from ckvd.errors import ClientClosedError
from ckvd.utils.config import THREAD_STOP_TIMEOUT_S
from support.stopwatch import LOADED, Stopwatch

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Sequence

WAIT_S = 10


# --- Batching ----------------------------------------------------------------------------------------------


def choose_all(waiting: Sequence[int]) -> range:
    return range(len(waiting))


def choose_first(_waiting: Sequence[int]) -> list[int]:
    return [0]


class Gate:
    """Work that waits for a signal, and records its batches."""

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
    """Items are submitted in different turns of the loop; items with one remainder go into one batch."""
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


def test_items_of_one_turn_of_the_loop_are_one_batch() -> None:
    batches: list[list[int]] = []

    def work(items: list[int]) -> list[int]:
        batches.append(items)
        return items

    async def main() -> None:
        batching = Batching(work, choose_all)
        await asyncio.gather(*map(batching.do, range(50)))

    asyncio.run(main())
    assert batches == [list(range(50))]


@pytest.mark.parametrize("thread_count", [None, 1])
def test_there_are_no_more_threads_than_processors_or_than_asked_for(thread_count: int | None) -> None:
    count = thread_count or os.cpu_count() or 1
    gate = Gate()

    async def main() -> None:
        batching = Batching(gate.work, choose_first, thread_count)
        tasks = [asyncio.create_task(batching.do(item)) for item in range(count + 3)]
        await gate.start(count)
        assert not gate.has_started.acquire(timeout=0.05)
        gate.may_go_on.set()
        assert await asyncio.gather(*tasks) == [-item for item in range(count + 3)]

    asyncio.run(main())


def test_an_error_of_the_work_is_raised_for_all_items_of_its_batch_and_for_no_others() -> None:
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


def test_a_withdrawn_item_is_not_processed_and_the_others_are() -> None:
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
    """All threads are busy with items of a loop when that loop is closed."""

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


def test_a_closed_loop_does_not_block_later_loops() -> None:
    gate = Gate()
    batching = Batching(gate.work, choose_first)

    async def main() -> int:
        return await batching.do(7)

    close_a_loop_whose_threads_are_busy(gate, batching)
    gate.may_go_on.set()
    assert asyncio.run(asyncio.wait_for(main(), WAIT_S)) == -7


def test_items_of_several_loops_share_batches_and_return_to_their_own_loops() -> None:
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


def test_the_result_of_an_item_that_a_thread_of_a_closed_loop_processes_is_delivered() -> None:
    """The threads of the closed loop are still running, so no other thread is started for the later item."""
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


def test_a_result_may_be_any_object_but_an_exception() -> None:
    async def main() -> list[object]:
        batching: Batching[object, object] = Batching(lambda items: items, lambda waiting: range(len(waiting)))
        return await asyncio.gather(*map(batching.do, [None, ValueError, (), "x"]))

    assert asyncio.run(main()) == [None, ValueError, (), "x"]


@pytest.mark.parametrize("count", [1, 200])
def test_a_thread_continues_with_waiting_items(count: int) -> None:
    """There are not many more threads than processors, however many items are submitted."""
    names: set[str] = set()

    def work(items: list[int]) -> list[int]:
        names.add(threading.current_thread().name)
        return items

    async def main() -> list[int]:
        batching = Batching(work, choose_first)
        return await asyncio.gather(*map(batching.do, range(count)))

    assert asyncio.run(main()) == list(range(count))
    assert len(names) <= 2 * (os.cpu_count() or 1)


# --- Running together --------------------------------------------------------------------------------------


class OwnError(Exception):
    pass


class Steps:
    """Coroutines that record how they end."""

    def __init__(self) -> None:
        self._waiting_count = 0
        self.two_wait = asyncio.Event()
        self.ended: set[str] = set()
        self.goes_on = asyncio.Event()

    async def wait(self, name: str) -> str:
        self._waiting_count += 1
        if self._waiting_count == 2:
            self.two_wait.set()
        try:
            await self.goes_on.wait()
        except asyncio.CancelledError:
            await asyncio.sleep(0)  # a cleanup that takes time
            self.ended.add(f"{name} cancelled")
            raise
        self.ended.add(name)
        return name

    async def open(self, name: str) -> str:
        self.goes_on.set()
        return name

    async def fail(self, error: Exception) -> str:
        await self.two_wait.wait()
        raise error


def test_results_come_in_the_order_of_the_coroutines() -> None:
    async def main() -> None:
        steps = Steps()
        assert await run_together([steps.wait("a"), steps.wait("b"), steps.open("c")]) == ["a", "b", "c"]

    asyncio.run(main())


def test_nothing_to_run_gives_no_results() -> None:
    assert asyncio.run(run_together([])) == []


def test_they_run_at_the_same_time() -> None:
    async def main() -> None:
        barrier = asyncio.Barrier(3)
        assert sorted(await run_together([barrier.wait() for _ in range(3)])) == [0, 1, 2]

    asyncio.run(main())


def test_one_failure_cancels_the_others_and_waits_for_their_end() -> None:
    async def main() -> None:
        steps, error = Steps(), OwnError("the first")
        with pytest.raises(OwnError) as caught:
            await run_together([steps.wait("a"), steps.fail(error), steps.wait("b")])
        assert caught.value is error
        assert (error.__cause__, error.__suppress_context__) == (None, True)
        assert steps.ended == {"a cancelled", "b cancelled"}
        assert asyncio.all_tasks() == {asyncio.current_task()}

    asyncio.run(main())


def test_a_failure_keeps_its_cause() -> None:
    async def fail() -> None:
        raise OwnError("the cache") from OSError("the disk")

    with pytest.raises(OwnError) as caught:
        asyncio.run(run_together([fail(), asyncio.sleep(0)]))
    assert isinstance(caught.value.__cause__, OSError)


def test_of_several_failures_one_is_raised_without_a_group_around_it() -> None:
    async def fail(number: int) -> None:
        raise OwnError(number)

    with pytest.raises(OwnError) as caught:
        asyncio.run(run_together([fail(1), fail(2)]))
    assert caught.value.args == (1,)


def test_nested_failures_come_out_of_all_groups() -> None:
    async def fail() -> None:
        raise OwnError

    async def nested() -> list[None]:
        return await run_together([fail()])

    with pytest.raises(OwnError):
        asyncio.run(run_together([nested(), nested()]))


def test_the_cancellation_of_the_caller_stays_a_cancellation() -> None:
    async def main() -> None:
        steps = Steps()
        task = asyncio.create_task(run_together([steps.wait("a"), steps.wait("b")]))
        await steps.two_wait.wait()
        task.cancel("enough")
        with pytest.raises(asyncio.CancelledError):
            await task
        assert task.cancelled()
        assert steps.ended == {"a cancelled", "b cancelled"}

    asyncio.run(main())


def test_a_timeout_of_the_caller_stays_a_timeout() -> None:
    async def main() -> None:
        steps = Steps()
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.01):
                await run_together([steps.wait("a"), steps.wait("b")])
        assert steps.ended == {"a cancelled", "b cancelled"}

    asyncio.run(main())


# --- Stopping ----------------------------------------------------------------------------------------------


class Endless:
    """Work that goes on until it is told to stop."""

    def __init__(self) -> None:
        self.has_begun = threading.Event()
        self.has_ended = threading.Event()

    def work(self, items: object = None) -> list[int]:
        self.has_begun.set()
        try:
            for _ in range(WAIT_S * 1000):
                check_stop()
                time.sleep(0.001)
            raise AssertionError
        finally:
            self.has_ended.set()

    async def begun(self) -> None:
        assert await asyncio.to_thread(self.has_begun.wait, WAIT_S)


class Deaf(Endless):
    """Work that ends when it is allowed to."""

    def __init__(self) -> None:
        super().__init__()
        self.may_end = threading.Event()

    def work(self, items: object = None) -> list[int]:
        self.has_begun.set()
        assert self.may_end.wait(WAIT_S)
        return [0]


def in_any_way(endless: Endless) -> list[Callable[[], Coroutine[Any, Any, object]]]:
    return [lambda: in_thread(endless.work), lambda: Batching(endless.work, choose_all).do(1)]


ANY_WAY = pytest.mark.parametrize("way", [0, 1], ids=["in_thread", "Batching"])


def test_a_call_in_a_thread_returns_or_raises_what_the_function_does() -> None:
    async def main() -> None:
        assert await in_thread(divmod, 7, 2) == (3, 1)
        assert await in_thread(int, "11", base=2) == 3
        with pytest.raises(ZeroDivisionError):
            await in_thread(divmod, 7, 0)
        with Workers().employed():
            assert await in_thread(threading.get_ident) != threading.get_ident()

    asyncio.run(main())
    check_stop()  # nobody can stop this thread


@ANY_WAY
def test_work_of_a_cancelled_caller_has_ended_when_the_caller_goes_on(way: int) -> None:
    async def main() -> None:
        caller = asyncio.ensure_future(in_any_way(endless)[way]())
        await endless.begun()
        caller.cancel()
        with pytest.raises(asyncio.CancelledError):
            await caller
        assert endless.has_ended.is_set()

    endless = Endless()
    asyncio.run(main())


@ANY_WAY
def test_closing_ends_work_and_its_callers_and_refuses_more(way: int) -> None:
    async def main() -> None:
        workers = Workers()
        with workers.employed():
            callers = [asyncio.ensure_future(in_any_way(endless)[way]()) for _ in range(20)]
        await endless.begun()
        await workers.aclose()
        assert endless.has_ended.is_set()
        outcomes = await asyncio.gather(*callers, return_exceptions=True)
        assert {type(outcome) for outcome in outcomes} == {ClientClosedError}
        with pytest.raises(ClientClosedError), workers.employed():
            pass
        await workers.aclose()
        assert repr(workers) == "<Workers: closed, 0 under way>"

    endless = Endless()
    asyncio.run(main())


@ANY_WAY
def test_work_for_a_client_within_another_is_ended_by_closing_either(way: int) -> None:
    async def main(closed: int) -> None:
        endless, both = Endless(), (Workers(), Workers())
        with both[0].employed(), both[1].employed():
            caller = asyncio.ensure_future(in_any_way(endless)[way]())
        await endless.begun()
        await both[closed].aclose()
        assert endless.has_ended.is_set()
        with pytest.raises(ClientClosedError):
            await caller

    for closed in (0, 1):
        asyncio.run(main(closed))


@ANY_WAY
def test_work_that_does_not_stop_is_left_behind_after_a_bounded_time(
    way: int, caplog: pytest.LogCaptureFixture
) -> None:
    async def main(deaf: Deaf, *, is_cancelled: bool) -> None:
        workers = Workers()
        with workers.employed():
            caller = asyncio.ensure_future(in_any_way(deaf)[way]())
        await deaf.begun()
        with Stopwatch() as leaving:
            if is_cancelled:
                caller.cancel()
                await asyncio.wait((caller,))
            else:
                await workers.aclose()
        assert leaving.wall_s > THREAD_STOP_TIMEOUT_S * 0.9
        assert leaving.elapsed_s < THREAD_STOP_TIMEOUT_S * LOADED
        deaf.may_end.set()
        await asyncio.gather(caller, return_exceptions=True)

    for is_cancelled in (False, True):
        asyncio.run(main(Deaf(), is_cancelled=is_cancelled))
    assert [record.message for record in caplog.records] == [
        "1 steps in threads do not stop, and are left behind"
    ] * 2


def test_closing_on_another_loop_waits_for_the_work_of_the_first() -> None:
    endless, workers = Endless(), Workers()
    outcomes: list[object] = []

    async def work() -> None:
        with workers.employed():
            outcomes.extend(await asyncio.gather(in_thread(endless.work), return_exceptions=True))

    thread = threading.Thread(target=asyncio.run, args=(work(),))
    thread.start()
    assert endless.has_begun.wait(WAIT_S)
    asyncio.run(workers.aclose())
    assert endless.has_ended.is_set()
    thread.join(WAIT_S)
    assert [type(outcome) for outcome in outcomes] == [ClientClosedError]


def test_work_that_waits_for_a_thread_never_begins_after_its_caller_was_cancelled() -> None:
    begun: list[int] = []

    async def main() -> None:
        deaf = Deaf()
        asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(1))
        first = asyncio.ensure_future(in_thread(deaf.work))
        await asyncio.get_running_loop().run_in_executor(other, deaf.has_begun.wait, WAIT_S)
        second = asyncio.ensure_future(in_thread(begun.append, 1))
        await asyncio.sleep(0)
        second.cancel()
        await asyncio.wait((second,))
        deaf.may_end.set()
        await first

    with ThreadPoolExecutor(1) as other:
        asyncio.run(main())
    assert begun == []


def test_a_batch_goes_on_until_nobody_waits_for_it() -> None:
    async def main() -> None:
        endless = Endless()
        batching: Batching[int, int] = Batching(endless.work, choose_all)
        callers = [asyncio.ensure_future(batching.do(item)) for item in range(3)]
        await endless.begun()
        for caller in callers[:2]:
            caller.cancel()
        await asyncio.wait(callers[:2])
        assert not endless.has_ended.is_set()
        callers[2].cancel()
        await asyncio.wait(callers)
        assert endless.has_ended.is_set()

    asyncio.run(main())


# --- Many items --------------------------------------------------------------------------------------------


@given(st.integers(0, 30), st.integers(1, 8))
def test_no_more_than_so_many_calls_are_under_way_and_results_keep_the_order(item_count: int, count: int) -> None:
    under_way: set[int] = set()
    peaks = [0]

    async def work(item: int) -> int:
        under_way.add(item)
        peaks.append(len(under_way))
        for _ in range(1 + item % 3):
            await asyncio.sleep(0)
        under_way.discard(item)
        return -item

    assert asyncio.run(run_bounded(work, range(item_count), count=count)) == [-item for item in range(item_count)]
    assert max(peaks) <= count
    assert max(peaks) == min(count, item_count)


def test_after_an_error_no_other_item_is_begun() -> None:
    begun: list[int] = []

    async def work(item: int) -> None:
        begun.append(item)
        if item == 2:
            raise LookupError(item)
        await asyncio.sleep(0)

    with pytest.raises(LookupError):
        asyncio.run(run_bounded(work, range(1000), count=3))
    assert len(begun) < 10

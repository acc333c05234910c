"""Coroutines run together end together, and one error stands for all."""

from __future__ import annotations

import asyncio

import pytest

from ckvd.concurrency import run_together


class OwnError(Exception):
    pass


class Steps:
    """Coroutines that note how they end."""

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
            await asyncio.sleep(0)  # what is cleaned up takes its time
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

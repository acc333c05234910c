"""The caller's cancellation is no error: it is deferred until the time of the step is up, and then raised.

The suite's leak check also asserts in each test that no closer is orphaned.
"""

from __future__ import annotations

import asyncio
import gc
import weakref

import pytest

from ckvd.utils import config
from ckvd.utils.async_cleanup import close_resource_with_timeout, direct_resource_cleanup
from ckvd.utils.config import CLEANUP_GRACE_S, RESOURCE_CLEANUP_TIMEOUT
from support.release.closers import (
    SLACK_S,
    TASK_FACTORIES,
    Closer,
    Deaf,
    Hanging,
    Raising,
    RaisingWhenCancelled,
    Slow,
    SlowInSteps,
    cancel_at,
    run,
)
from support.stopwatch import Stopwatch


class Owner:
    """Owns two closers, which are closed one after the other."""

    def __init__(self, first: Closer, second: Closer) -> None:
        self.first: Closer | None = first
        self.second: Closer | None = second

    async def __aenter__(self) -> None:
        pass

    async def __aexit__(self, *error: object) -> None:
        await direct_resource_cleanup(self, ("first", "first", False), ("second", "second", False))


@pytest.mark.parametrize("is_eager", TASK_FACTORIES)
def test_cancelled_while_leaving_reaches_the_caller_after_all_is_closed(is_eager: bool) -> None:
    async def main() -> None:
        first, second = Slow(), SlowInSteps()

        async def leave() -> None:
            async with Owner(first, second):
                pass

        leaving = asyncio.create_task(leave())
        await cancel_at(first.started, leaving, "stop")
        with pytest.raises(asyncio.CancelledError, match="stop"):
            await leaving
        assert leaving.cancelled()
        assert first.was_closed
        assert second.was_closed

    run(main, is_eager=is_eager)


def test_the_cancellation_is_held_until_the_closer_has_ended() -> None:
    async def main() -> None:
        closer = Slow()
        leaving = asyncio.create_task(close_resource_with_timeout(closer, "thing"))
        await cancel_at(closer.started, leaving)
        with pytest.raises(asyncio.CancelledError):
            await leaving
        assert closer.was_closed

    run(main)


def test_a_cancellation_does_not_change_the_time_of_a_closer() -> None:
    async def main() -> None:
        closer = Hanging()
        with Stopwatch() as watch:
            leaving = asyncio.create_task(close_resource_with_timeout(closer, "thing"))
            await cancel_at(closer.started, leaving)
            with pytest.raises(asyncio.CancelledError):
                await leaving
        assert watch.wall_s >= RESOURCE_CLEANUP_TIMEOUT
        assert watch.elapsed_s < RESOURCE_CLEANUP_TIMEOUT + CLEANUP_GRACE_S + SLACK_S
        assert closer.was_cancelled

    run(main)


@pytest.mark.parametrize("is_eager", TASK_FACTORIES)
def test_cancelled_again_and_again_leaves_no_orphan(is_eager: bool) -> None:
    async def main() -> None:
        first, second = Slow(), RaisingWhenCancelled()

        async def leave() -> None:
            async with Owner(first, second):
                pass

        leaving = asyncio.create_task(leave())
        await cancel_at(first.started, leaving, "one")
        await cancel_at(second.started, leaving, "two")
        for _ in range(3):
            await asyncio.sleep(0)
            leaving.cancel("three")
        with pytest.raises(asyncio.CancelledError, match="one"):
            await leaving
        assert leaving.cancelling() == 5
        assert first.was_closed
        assert second.ended.is_set()

    run(main, is_eager=is_eager)


def test_a_cancellation_during_the_grace_of_a_deaf_closer_is_raised_after_the_grace() -> None:
    async def main() -> None:
        closer = Deaf()
        leaving = asyncio.create_task(close_resource_with_timeout(closer, "thing", 0.01))
        await cancel_at(closer.was_deaf, leaving)
        with pytest.raises(asyncio.CancelledError):
            await leaving
        closer.release.set()
        await asyncio.wait_for(closer.ended.wait(), 5)

    run(main)


@pytest.mark.parametrize("is_eager", TASK_FACTORIES)
def test_cancelled_before_leaving_begins_to_wait_closes_everything(is_eager: bool) -> None:
    async def main() -> None:
        closer = Slow()

        async def leave() -> None:
            task = asyncio.current_task()
            assert task is not None
            task.cancel()
            await close_resource_with_timeout(closer, "thing")

        with pytest.raises(asyncio.CancelledError):
            await asyncio.create_task(leave())
        assert closer.was_closed

    run(main, is_eager=is_eager)


def test_a_timeout_in_the_body_is_a_timeout() -> None:
    async def main() -> None:
        first, second = Slow(), Slow()
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.01), Owner(first, second):
                await asyncio.Event().wait()
        assert first.was_closed
        assert second.was_closed

    run(main)


@pytest.mark.parametrize("is_eager", TASK_FACTORIES)
def test_a_timeout_while_leaving_is_a_timeout(is_eager: bool) -> None:
    async def main() -> None:
        first, second = Slow(), Hanging()
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.005), Owner(first, second):
                pass
        task = asyncio.current_task()
        assert task is not None
        assert task.cancelling() == 0
        assert first.was_closed
        assert second.was_cancelled

    run(main, is_eager=is_eager)


def test_nested_timeouts_each_fire_once() -> None:
    async def main() -> None:
        closer = Slow()

        async def leave_twice_timed(outer: asyncio.Timeout) -> None:
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.005):
                    await close_resource_with_timeout(closer, "thing")
            assert not outer.expired()
            outer.reschedule(asyncio.get_running_loop().time())
            await asyncio.Event().wait()

        with pytest.raises(TimeoutError):
            async with asyncio.timeout(60) as outer:
                await leave_twice_timed(outer)
        assert closer.was_closed

    run(main)


def test_a_failing_sibling_in_a_task_group_stops_a_child_that_is_leaving() -> None:
    async def main() -> None:
        first, second = Slow(), Slow()
        went_on = False

        async def child() -> None:
            nonlocal went_on
            async with Owner(first, second):
                pass
            went_on = True

        async def sibling() -> None:
            await first.started.wait()
            raise ZeroDivisionError

        async def family() -> None:
            async with asyncio.TaskGroup() as group:
                group.create_task(child())
                group.create_task(sibling())

        with pytest.raises(ExceptionGroup) as caught:
            await family()
        assert [type(error) for error in caught.value.exceptions] == [ZeroDivisionError]
        assert not went_on
        assert first.was_closed
        assert second.was_closed

    run(main)


def test_the_error_of_the_body_comes_out_unchanged_when_closers_fail_as_well() -> None:
    async def main() -> None:
        error = ZeroDivisionError("of the body")
        with pytest.raises(ZeroDivisionError) as caught:
            async with Owner(Raising(), Hanging()):
                raise error
        assert caught.value is error
        assert error.__context__ is None
        assert error.__cause__ is None

    run(main)


def test_the_cancellation_pins_nothing_that_was_released(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(config, "ENABLE_FORCED_GC", False)

    async def main() -> None:
        first = Slow()
        owner = Owner(first, Slow())
        held: list[object] = [owner, owner.first, owner.second]
        references = [weakref.ref(resource) for resource in held]
        held.clear()

        async def leave(owner: Owner) -> None:
            async with owner:
                pass

        leaving = asyncio.create_task(leave(owner))
        started = first.started
        del first, owner
        await cancel_at(started, leaving)
        with pytest.raises(asyncio.CancelledError):
            await leaving
        del leaving
        await asyncio.sleep(0)  # The loop's handle of this step refers to the awaited task.
        assert [reference() is None for reference in references] == [True] * 3

    gc.collect()
    gc.disable()
    try:
        run(main)
    finally:
        gc.enable()

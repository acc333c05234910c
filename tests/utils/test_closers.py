"""Whatever a closer does, closing it stays within its timeout, raises nothing, and asyncio reports nothing.

The suite's leak check asserts in each test that asyncio reports nothing and that no task is left.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import threading
import time
import weakref
from typing import Any

import pytest

from ckvd.utils import async_cleanup
from ckvd.utils.async_cleanup import close_resource_with_timeout
from ckvd.utils.config import CLEANUP_GRACE_S, RESOURCE_CLEANUP_TIMEOUT
from support.release.closers import (
    DEAF,
    FAILING,
    NEVER_ENDING,
    SLACK_S,
    TASK_FACTORIES,
    WELL_BEHAVED,
    Closer,
    Deaf,
    DeafAndRaising,
    Fast,
    Hanging,
    ReturningFuture,
    Slow,
    SlowInSteps,
    Tidying,
    run,
)
from support.stopwatch import Stopwatch

LOGGER = async_cleanup.__name__


async def close_and_measure(closer: object) -> Stopwatch:
    with Stopwatch() as closing:
        await close_resource_with_timeout(closer, "thing")
    return closing


def assert_its_time_was_up(closing: Stopwatch, timeout_s: float) -> None:
    assert timeout_s <= closing.wall_s
    assert closing.elapsed_s < timeout_s + CLEANUP_GRACE_S + SLACK_S


@pytest.mark.parametrize("is_eager", TASK_FACTORIES)
@pytest.mark.parametrize("kind", WELL_BEHAVED)
def test_a_well_behaved_closer_has_ended_when_leaving_ends(
    kind: type[Closer], is_eager: bool, caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        closer = kind()
        assert (await close_and_measure(closer)).elapsed_s < RESOURCE_CLEANUP_TIMEOUT + SLACK_S
        assert closer.was_closed
        assert closer.call_count == 1

    run(main, is_eager=is_eager)
    assert not caplog.records


@pytest.mark.parametrize("is_eager", TASK_FACTORIES)
@pytest.mark.parametrize("kind", FAILING)
def test_an_error_is_logged_and_not_raised(
    kind: type[Closer], is_eager: bool, caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        closer = kind()
        assert (await close_and_measure(closer)).elapsed_s < RESOURCE_CLEANUP_TIMEOUT + SLACK_S
        assert closer.call_count == 1

    run(main, is_eager=is_eager)
    (record,) = caplog.records
    assert (record.name, record.levelno) == (LOGGER, logging.WARNING)
    assert record.getMessage().startswith("closing thing ")


@pytest.mark.parametrize("is_eager", TASK_FACTORIES)
@pytest.mark.parametrize("kind", NEVER_ENDING)
def test_a_closer_that_never_ends_is_cancelled_when_its_time_is_up(
    kind: type[Closer], is_eager: bool, caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        closer = kind()
        assert_its_time_was_up(await close_and_measure(closer), RESOURCE_CLEANUP_TIMEOUT)
        assert closer.ended.is_set()
        assert not closer.was_closed

    run(main, is_eager=is_eager)
    assert len(caplog.records) == 1


@pytest.mark.parametrize("is_eager", TASK_FACTORIES)
@pytest.mark.parametrize("kind", DEAF)
def test_a_closer_deaf_to_its_cancellation_is_left_behind_and_kept_until_it_ends(
    kind: type[Deaf], is_eager: bool, caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        closer = kind()
        try:
            assert_its_time_was_up(await close_and_measure(closer), RESOURCE_CLEANUP_TIMEOUT)
            assert closer.cancel_count == 1
            assert not closer.ended.is_set()
        finally:
            closer.release.set()  # otherwise a test that fails never ends
        await asyncio.wait_for(closer.ended.wait(), 5)

    run(main, is_eager=is_eager)
    messages = [record.getMessage() for record in caplog.records if record.name == LOGGER]
    assert "left behind" in messages[0]
    assert messages[1:] == (["closing thing failed: OSError('failed late')"] if kind is DeafAndRaising else [])


def test_a_cancelled_closer_gets_a_grace_to_tidy_up() -> None:
    async def main() -> None:
        closer = Tidying()
        await close_resource_with_timeout(closer, "thing")
        assert closer.was_tidied

    run(main)


def test_a_closer_that_only_refers_to_itself_survives_being_left_behind() -> None:
    class Alone:
        """Waits for a future that only its own task refers to."""

        def __init__(self) -> None:
            self.waits_for: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        async def aclose(self) -> None:
            while not self.waits_for.done():
                try:
                    await asyncio.shield(self.waits_for)
                except asyncio.CancelledError:
                    continue

    async def main() -> None:
        closer = Alone()
        waits_for = weakref.ref(closer.waits_for)
        await close_resource_with_timeout(closer, "thing", 0.01)
        del closer
        gc.collect()
        future = waits_for()
        assert future is not None
        future.set_result(None)
        for _ in range(5):
            await asyncio.sleep(0)

    run(main)


@pytest.mark.parametrize("timeout_s", [0.0, 0.01, 0.05])
def test_the_timeout_is_the_one_given(timeout_s: float) -> None:
    async def main() -> None:
        closer = Hanging()
        with Stopwatch() as closing:
            await close_resource_with_timeout(closer, "thing", timeout_s)
        assert_its_time_was_up(closing, timeout_s)
        assert closer.was_cancelled

    run(main)


@pytest.mark.parametrize("kind", [Slow, SlowInSteps, ReturningFuture])
def test_a_loop_that_stalls_meanwhile_does_not_abort_a_healthy_closer(
    kind: type[Closer], caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        closer = kind()
        # By the third turn from now, the closer has started.
        soon = asyncio.get_running_loop().call_soon
        soon(soon, soon, time.sleep, 2 * RESOURCE_CLEANUP_TIMEOUT)
        await close_resource_with_timeout(closer, "thing")
        assert closer.was_closed
        assert not closer.was_cancelled

    run(main)
    assert not caplog.records


class WithEverything:
    """Closes in all three ways."""

    def __init__(self) -> None:
        self.calls: list[Any] = []

    async def aclose(self) -> None:
        self.calls.append("aclose")

    def close(self) -> None:
        self.calls.append("close")

    async def __aexit__(self, *error: object) -> None:
        self.calls.append(("__aexit__", *error))


class WithoutAclose(WithEverything):
    aclose = None  # type: ignore[assignment]


class WithExitOnly(WithoutAclose):
    close = None  # type: ignore[assignment]


class WithNothing:
    """Has every attribute on the instance, as mocks do, and none on its type."""

    def __init__(self) -> None:
        self.calls: list[Any] = []

    def __getattr__(self, name: str) -> Any:
        return lambda *args: self.calls.append((name, *args))


@pytest.mark.parametrize(
    ("kind", "calls"),
    [
        (WithEverything, ["aclose"]),
        (WithoutAclose, ["close"]),
        (WithExitOnly, [("__aexit__", None, None, None)]),
        (WithNothing, []),
    ],
)
def test_the_first_closer_that_the_type_has_is_called(
    kind: type[WithEverything | WithNothing], calls: list[Any]
) -> None:
    async def main() -> None:
        resource = kind()
        await close_resource_with_timeout(resource, "thing")
        assert resource.calls == calls

    run(main)


@pytest.mark.parametrize("flag", ["closed", "is_closed", "_closed"])
def test_a_resource_that_is_closed_already_is_left_alone(flag: str) -> None:
    async def main() -> None:
        closer = Fast()
        setattr(closer, flag, True)
        await close_resource_with_timeout(closer, "thing")
        assert closer.call_count == 0

    run(main)


def test_objects_without_a_closer_are_ignored(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        for nothing in (None, 0, {}, object()):
            await close_resource_with_timeout(nothing, "thing")

    run(main)
    assert not caplog.records


def test_a_resource_whose_loop_runs_in_another_thread_is_closed_there() -> None:
    class AtHome(Closer):
        def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
            super().__init__()
            self.loop = loop
            self.closed_on: asyncio.AbstractEventLoop | None = None

        async def _close(self) -> None:
            self.closed_on = asyncio.get_running_loop()

    home = asyncio.new_event_loop()
    thread = threading.Thread(target=home.run_forever)
    thread.start()
    try:
        closer = AtHome(home)

        async def main() -> None:
            await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(asyncio.sleep(0), home))  # The loop runs.
            await close_resource_with_timeout(closer, "thing")

        run(main)
        assert closer.was_closed
        assert closer.closed_on is home
    finally:
        home.call_soon_threadsafe(home.stop)
        thread.join()
        home.close()

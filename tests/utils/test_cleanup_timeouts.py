"""Each resource is given the time of its kind, and a resource that holds others the time of all of them.

The resources here ignore their cancellation, and the log says after which time they were left behind.
"""

from __future__ import annotations

import asyncio
import re
import time
from typing import TYPE_CHECKING, Any

import pytest

from ckvd.lifecycle import AsyncBlock, Resource
from ckvd.utils import config
from ckvd.utils.async_cleanup import (
    cleanup_client,
    cleanup_file_handle,
    close_resource_with_timeout,
    direct_resource_cleanup,
)
from support.release.closers import SLACK_S, Closer, Deaf, Hanging, Slow, run
from support.release.other_loops import stalled_loop
from support.stopwatch import Stopwatch

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable


def test_the_timeouts_are_those_that_are_documented() -> None:
    assert config.RESOURCE_CLEANUP_TIMEOUT == 0.1
    assert config.HTTP_CLIENT_CLEANUP_TIMEOUT == 0.2
    assert config.FILE_CLEANUP_TIMEOUT == 0.3
    assert config.CLEANUP_GRACE_S == 0.05
    assert config.ENABLE_FORCED_GC is True


class DeafClient(Deaf):
    def request(self) -> None: ...


class DeafFile(Deaf):
    def fileno(self) -> int:
        return 0


class AsynchronousDeafFile(DeafFile):
    """Has a coroutine function `close`, as libraries for asynchronous files do."""

    aclose = None  # type: ignore[assignment]

    async def close(self) -> None:
        await Deaf.aclose(self)


class Owner:
    def __init__(self, resource: object) -> None:
        self.resource = resource


async def leave(resource: object) -> None:
    await direct_resource_cleanup(Owner(resource), ("resource", "thing", False))


async def close_thing(resource: object) -> None:
    await close_resource_with_timeout(resource, "thing")


async def close_file(resource: object) -> None:
    assert not await cleanup_file_handle(resource)


async def close_within_a_time(resource: object) -> None:
    await close_resource_with_timeout(resource, "thing", 0.15)


CASES = [
    (leave, Deaf, 0.1),
    (leave, DeafClient, 0.2),
    (leave, DeafFile, 0.3),
    (leave, AsynchronousDeafFile, 0.3),
    (close_thing, Deaf, 0.1),
    (close_thing, DeafClient, 0.2),
    (close_thing, DeafFile, 0.3),
    (close_within_a_time, DeafFile, 0.15),
    (cleanup_client, Deaf, 0.2),
    (cleanup_client, DeafClient, 0.2),
    (close_file, AsynchronousDeafFile, 0.3),
]


@pytest.mark.parametrize(("close", "kind", "timeout_s"), CASES)
def test_each_resource_is_given_the_time_of_its_kind(
    close: Callable[[object], Awaitable[None]],
    kind: type[Deaf],
    timeout_s: float,
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def main() -> None:
        closer = kind()
        try:
            with Stopwatch() as closing:
                await close(closer)
            assert closing.wall_s >= timeout_s
            assert closing.elapsed_s < timeout_s + config.CLEANUP_GRACE_S + SLACK_S
        finally:
            closer.release.set()
        await asyncio.wait_for(closer.ended.wait(), 5)

    run(main)
    assert given_s(caplog) == [timeout_s]


def given_s(caplog: pytest.LogCaptureFixture) -> list[float]:
    """After which times resources were left behind."""
    found = re.findall(r"is left behind: it ignores its cancellation after ([\d.]+) s", caplog.text)
    return [float(text) for text in found]


class Holder(AsyncBlock):
    """Holds some resources, closed one after the other."""

    def __init__(self, *held: object, is_external: bool = False) -> None:
        self._names = [f"held_{number}" for number in range(len(held))]
        self._is_external = is_external
        for name, resource in zip(self._names, held, strict=True):
            setattr(self, name, resource)

    @property
    def _resources(self) -> tuple[Resource, ...]:
        return tuple((name, name, self._is_external) for name in self._names)


class SlowClient(Closer):
    """Takes three quarters of what an HTTP client may take."""

    def request(self) -> None: ...

    async def _close(self) -> None:
        await asyncio.sleep(0.15)


@pytest.mark.parametrize("depth", [0, 1, 2, 3])
def test_a_healthy_session_is_closed_however_deep_its_client_is_held(
    depth: int, caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        sessions = SlowClient(), SlowClient()
        holder = Holder(*sessions)
        for _ in range(depth):
            holder = Holder(holder)
        async with holder:
            pass
        assert [session.was_closed for session in sessions] == [True, True]
        assert [session.was_cancelled for session in sessions] == [False, False]

    run(main)
    assert not caplog.records


def test_the_outer_budget_covers_the_inner_with_its_grace() -> None:
    grace_s = config.CLEANUP_GRACE_S
    assert Holder().cleanup_budget_s == pytest.approx(grace_s)
    assert Holder(None, {}).cleanup_budget_s == pytest.approx(grace_s)
    inner = Holder(run(in_a_loop(SlowClient)), run(in_a_loop(Slow)))
    assert inner.cleanup_budget_s == pytest.approx(0.2 + 0.1 + 3 * grace_s)
    assert Holder(inner).cleanup_budget_s == pytest.approx(0.2 + 0.1 + 5 * grace_s)
    assert Holder(inner, is_external=True).cleanup_budget_s == pytest.approx(grace_s)


def in_a_loop(kind: Callable[[], Any]) -> Callable[[], Any]:
    async def make() -> Any:
        return kind()

    return make


def test_a_hanging_session_is_cut_off_once_and_nothing_around_it(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        hanging, after = Hanging(), Slow()
        async with Holder(Holder(Holder(hanging), after)):
            pass
        assert hanging.was_cancelled
        assert after.was_closed

    run(main)
    assert [record.getMessage() for record in caplog.records] == ["closing held_0 was cancelled before it ended"]


# --- Resources of another loop -----------------------------------------------------------------------------


class AtHome:
    """A resource that belongs to an event loop in another thread."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop

    async def aclose(self) -> None:
        """Close at once, as soon as the loop gets to it."""


def test_a_resource_whose_loop_is_stalled_in_another_thread_is_waited_for_no_longer_than_others(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def main(home: asyncio.AbstractEventLoop) -> None:
        with Stopwatch() as closing:
            await leave(AtHome(home))
        assert closing.wall_s >= 0.1
        assert closing.elapsed_s < 0.1 + config.CLEANUP_GRACE_S + SLACK_S

    with stalled_loop() as home:
        run(lambda: main(home))
    assert [record.getMessage() for record in caplog.records] == ["closing thing was cancelled before it ended"]


def test_the_time_is_the_present_one_of_the_configuration(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(config, "RESOURCE_CLEANUP_TIMEOUT", 0.01)

    async def main() -> None:
        start_s = time.monotonic()
        await close_resource_with_timeout(Hanging(), "thing")
        assert time.monotonic() - start_s >= 0.01

    run(main)

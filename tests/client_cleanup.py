"""What every client promises about leaving: the same properties for each of them.

A test file has a `Subject` for its client and calls what is here by name. Each function asserts one property; the
fixture that compares descriptors, maps, threads and tasks asserts what all have in common.
"""

from __future__ import annotations

import asyncio
import time
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest
from curl_cffi import AsyncSession

import leaks
from ckvd.errors import ClientClosedError
from ckvd.utils.config import CLEANUP_GRACE_S, HTTP_CLIENT_CLEANUP_TIMEOUT, RESOURCE_CLEANUP_TIMEOUT
from closers import SLACK_S, Deaf, Hanging, Raising, Slow, run

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from closers import Closer
    from loopback.server import LoopbackServer


class BodyError(Exception):
    """What a body raises."""


@dataclass(frozen=True)
class Subject:
    """A client, and what it is asked for.

    Attributes
    ----------
    name : str
        Of the class.
    server : LoopbackServer
        Who answers it.
    make : callable
        A new client; `make(client=session)` for one over a session of the caller's.
    fetch : callable
        Ask the client for something.
    attributes : tuple of str
        What it holds, and is None when it has been left. The first can be closed.
    """

    name: str
    server: LoopbackServer
    make: Callable[..., Any]
    fetch: Callable[[Any], Awaitable[object]]
    attributes: tuple[str, ...]


def assert_released(subject: Subject, client: Any) -> None:
    assert [getattr(client, name) for name in subject.attributes] == [None] * len(subject.attributes)


# --- Leaving -----------------------------------------------------------------------------------------------


def leaves_unused(subject: Subject, *, is_eager: bool = False) -> None:
    async def main() -> None:
        async with subject.make() as client:
            pass
        assert_released(subject, client)

    run(main, is_eager=is_eager)
    assert subject.server.connection_count == 0


def leaves_after_fetching(subject: Subject, *, is_eager: bool = False) -> None:
    async def main() -> None:
        async with subject.make() as client:
            first = await subject.fetch(client)
        assert_released(subject, client)
        assert first is not None

    run(main, is_eager=is_eager)
    subject.server.wait_until_idle()


def leaves_many_times_in_a_row(subject: Subject, round_count: int) -> None:
    """On one event loop, then each time on another."""

    async def one_round() -> None:
        async with subject.make() as client:
            await subject.fetch(client)

    async def rounds(count: int) -> None:
        for _ in range(count):
            await one_round()

    run(one_round)
    subject.server.wait_until_idle()
    before = leaks.count_descriptors()
    run(lambda: rounds(round_count))
    subject.server.wait_until_idle()
    for _ in range(round_count):
        run(one_round)
    subject.server.wait_until_idle()
    assert leaks.count_descriptors() <= before


def leaves_twice_at_once_and_without_entering(subject: Subject) -> None:
    async def main() -> None:
        client = subject.make()
        await subject.fetch(client)
        await asyncio.gather(client.aclose(), client.aclose())
        await client.aclose()
        async with client:
            pass
        assert_released(subject, client)
        with pytest.raises(ClientClosedError):
            await subject.fetch(client)

    run(main)


def leaves_on_another_loop(subject: Subject) -> None:
    client = subject.make()

    async def fetch() -> None:
        await subject.fetch(client)

    run(fetch)
    run(client.aclose)
    assert_released(subject, client)
    subject.server.wait_until_idle()


def leaves_a_session_of_the_caller_open(subject: Subject) -> None:
    async def main() -> None:
        async with AsyncSession[Any]() as session:
            for _ in range(2):
                async with subject.make(client=session) as client:
                    assert await subject.fetch(client) is not None
                assert_released(subject, client)
            answer = await session.get(subject.server.url, proxies={"http": ""})
            assert answer.status_code

    run(main)


# --- Errors while leaving ----------------------------------------------------------------------------------


def leaves_quietly_when_closing_fails(
    subject: Subject, kind: type[Closer], caplog: pytest.LogCaptureFixture
) -> None:
    """Whatever closing does, leaving takes no longer than its timeout, raises nothing, and logs what went wrong."""

    async def main() -> None:
        client = subject.make()
        async with AsyncExitStack() as stack:
            await replace_with(kind(), subject, client, stack)
            start_s = time.monotonic()
            await client.aclose()
            spent_s = time.monotonic() - start_s
        assert_released(subject, client)
        step_s = max(RESOURCE_CLEANUP_TIMEOUT, HTTP_CLIENT_CLEANUP_TIMEOUT) + CLEANUP_GRACE_S
        assert spent_s < step_s + SLACK_S

    run(main)
    assert bool(caplog.records) == (kind is not Slow)


def raises_the_error_of_the_body_when_closing_fails_too(subject: Subject) -> None:
    body = BodyError("of the body")
    client = subject.make()

    async def main() -> None:
        async with AsyncExitStack() as stack, client:
            await replace_with(Raising(), subject, client, stack)
            raise body

    with pytest.raises(BodyError) as caught:
        run(main)
    assert caught.value is body
    assert body.__context__ is None
    assert_released(subject, client)


def is_cancelled_while_leaving_and_says_so(subject: Subject) -> None:
    async def main() -> None:
        client = subject.make()
        closer = Hanging()
        async with AsyncExitStack() as stack:
            await replace_with(closer, subject, client, stack)
            task = asyncio.create_task(client.aclose())
            await closer.started.wait()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
        assert closer.was_cancelled
        assert_released(subject, client)

    run(main)


async def replace_with(closer: Closer, subject: Subject, client: Any, stack: AsyncExitStack) -> None:
    """Put a closer in place of what a client holds, after it was used; release both at the end."""
    await subject.fetch(client)
    name = subject.attributes[0]
    stack.push_async_callback(getattr(client, name).aclose)
    setattr(client, name, closer)
    if isinstance(closer, Deaf):
        stack.callback(closer.release.set)


FAILING = [Slow, Raising, Hanging, Deaf]


# --- Leaving under requests --------------------------------------------------------------------------------


def ends_those_who_wait_for_an_answer(silent: Subject, caller_count: int = 8) -> None:
    """Leaving with requests under way takes less than 0.4 s, and each caller is told that the client was closed."""

    async def main() -> None:
        async with silent.make() as client:
            callers = [asyncio.ensure_future(silent.fetch(client)) for _ in range(caller_count)]
            await asyncio.to_thread(silent.server.wait_for_requests, 1)
            start_s = time.monotonic()
        assert time.monotonic() - start_s < 0.4
        outcomes = await asyncio.gather(*callers, return_exceptions=True)
        assert [type(outcome) for outcome in outcomes] == [ClientClosedError] * caller_count
        assert asyncio.all_tasks() == {asyncio.current_task()}

    run(main)
    silent.server.wait_until_idle()


def is_stopped_by_a_failing_sibling(silent: Subject) -> None:
    async def fail() -> None:
        await asyncio.to_thread(silent.server.wait_for_requests, 1)
        raise BodyError

    async def main() -> None:
        async with silent.make() as client, asyncio.TaskGroup() as group:
            group.create_task(asyncio.wait_for(silent.fetch(client), 60))
            group.create_task(fail())

    with pytest.raises(ExceptionGroup) as caught:
        run(main)
    assert [type(error) for error in caught.value.exceptions] == [BodyError]
    silent.server.wait_until_idle()


def lets_a_timeout_be_a_timeout(silent: Subject) -> None:
    async def main() -> None:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.1), silent.make() as client:
                await silent.fetch(client)

    run(main)
    silent.server.wait_until_idle()

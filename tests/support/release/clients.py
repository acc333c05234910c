"""What every client must do when it is left. A test file makes a `Subject` of its client and calls these functions.

Each function asserts one property. The leak watch of all tests asserts that nothing is left behind.
"""

from __future__ import annotations

import asyncio
import signal
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest
from curl_cffi import AsyncSession

from ckvd.errors import ClientClosedError
from ckvd.utils.config import CLEANUP_GRACE_S, HTTP_CLIENT_CLEANUP_TIMEOUT, RESOURCE_CLEANUP_TIMEOUT
from support import leaks
from support.processes import run_script
from support.release.closers import SLACK_S, Deaf, Hanging, Raising, Slow, run
from support.stopwatch import Stopwatch

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from support.loopback.server import LoopbackServer
    from support.release.closers import Closer


class BodyError(Exception):
    """Raised by a body."""


@dataclass(frozen=True)
class Subject:
    """A client, and a request to it.

    Attributes
    ----------
    name : str
        The name of its class.
    server : LoopbackServer
        The server that answers it.
    make : callable
        Makes a client; `make(client=session)` makes one that uses a session of the caller.
    fetch : callable
        Requests something through the client.
    attributes : tuple of str
        The names of what it holds: all are None after it was left. The first has `aclose`.
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
    """Leaving takes no longer than its timeout, raises nothing, and logs what went wrong."""

    async def main() -> None:
        client = subject.make()
        async with AsyncExitStack() as stack:
            await replace_with(kind(), subject, client, stack)
            with Stopwatch() as leaving:
                await client.aclose()
        assert_released(subject, client)
        step_s = max(RESOURCE_CLEANUP_TIMEOUT, HTTP_CLIENT_CLEANUP_TIMEOUT) + CLEANUP_GRACE_S
        assert leaving.elapsed_s < step_s + SLACK_S

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


def lets_a_timeout_while_leaving_be_a_timeout(subject: Subject) -> None:
    async def main() -> None:
        client = subject.make()
        closer = Hanging()
        async with AsyncExitStack() as stack:
            await replace_with(closer, subject, client, stack)
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.02), client:
                    pass
        assert closer.was_cancelled
        assert_released(subject, client)

    run(main)


def interrupts_when_it_is_interrupted_while_leaving(subject: Subject, client: str, fetch: str) -> None:
    """In a process of its own, closing the first part sends SIGINT. All is closed before it is raised.

    Parameters
    ----------
    client, fetch : str
        Code that makes a client of a server at `url` with a cache in `folder`, and code that requests something.
    """
    script = f"""
        import asyncio, logging, os, signal, tempfile, threading
        import ckvd
        from support import leaks
        from support.loopback.reply import Gate, Reply
        from support.loopback.server import LoopbackServer

        class Interrupting:
            def __init__(self, part):
                self.part = part
            async def aclose(self):
                os.kill(os.getpid(), signal.SIGINT)
                await self.part.aclose()

        async def main(url, server):
            async with {client} as client:
                callers = [asyncio.ensure_future({fetch}) for _ in range(3)]
                await asyncio.to_thread(server.wait_for_requests, 1)
                name = {subject.attributes[0]!r}
                setattr(client, name, Interrupting(getattr(client, name)))
                asyncio.current_task().add_done_callback(lambda _: outcomes.extend(
                    type(caller.exception()).__name__ for caller in callers
                ))
            print("went on")

        logging.disable()  # On a loaded machine, a step that runs out of time is logged.
        outcomes = []
        with leaks.watch() as watch, tempfile.TemporaryDirectory() as folder:
            with LoopbackServer(lambda _: Reply(200, b"[]", head_gate=Gate())) as server:
                try:
                    asyncio.run(main(server.url, server))
                except KeyboardInterrupt:
                    print("interrupted", *outcomes)
        print(watch.findings)
    """
    printed = run_script(script, prepare=lambda: signal.signal(signal.SIGINT, signal.default_int_handler))
    assert printed.splitlines() == ["interrupted" + 3 * " ClientClosedError", "[]"]


async def replace_with(closer: Closer, subject: Subject, client: Any, stack: AsyncExitStack) -> None:
    """Use a client, then replace the first thing that it holds by a closer. Release both at the end."""
    await subject.fetch(client)
    name = subject.attributes[0]
    stack.push_async_callback(getattr(client, name).aclose)
    setattr(client, name, closer)
    if isinstance(closer, Deaf):
        stack.callback(closer.release.set)


FAILING = [Slow, Raising, Hanging, Deaf]

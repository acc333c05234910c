"""An unclosed session is released in every state of its event loop, and also within callbacks of curl."""

from __future__ import annotations

import asyncio
import gc
import time
from typing import TYPE_CHECKING, Any

import pytest

from ckvd.errors import ClientClosedError
from ckvd.network.retry import RetryPolicy
from ckvd.network.session import open_session, release_session
from ckvd.network.transport import Transport
from support import leaks
from support.loopback.reply import Gate, Reply
from support.loopback.server import LoopbackServer
from support.processes import run_script
from support.release import unclosed
from support.release.clients import Subject
from support.release.closers import run
from support.stopwatch import LOADED

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


@pytest.fixture
def server() -> Iterator[LoopbackServer]:
    with LoopbackServer(lambda _: Reply(200, b"fine")) as server:
        yield server


@pytest.mark.parametrize("situation", unclosed.SITUATIONS, ids=lambda situation: situation.__name__)
def test_an_unclosed_transport_warns_once_and_is_released(
    server: LoopbackServer, situation: Callable[[Subject], None]
) -> None:
    situation(Subject("Transport", server, Transport, lambda transport: transport.get(server.url), ()))


def test_a_transport_whose_init_failed_gives_no_warning() -> None:
    with pytest.raises(TypeError):
        Transport(no_such_option=1)  # type: ignore[call-arg]
    gc.collect()


def test_a_part_leaves_its_release_and_the_warning_to_its_owner(server: LoopbackServer) -> None:
    """Of an owner and its part in one reference cycle, either may be finalized first."""

    async def main() -> None:
        part = Transport().part()
        await part.get(server.url)
        part.__del__()
        assert part.is_connected
        await part.aclose()

    run(main)


def test_releasing_an_unused_session_starts_no_task() -> None:
    async def main() -> None:
        release_session(open_session(1))
        assert asyncio.all_tasks() == {asyncio.current_task()}

    run(main)


def test_a_session_that_is_released_in_a_callback_of_curl_is_closed_right_after_it(server: LoopbackServer) -> None:
    async def main() -> None:
        before = leaks.count_descriptors()
        session = open_session(1)

        def receive(chunk: bytes) -> int:
            release_session(session)
            return len(chunk)

        response: Any = await session.request("GET", server.url, content_callback=receive)
        assert response.status_code == 200
        await asyncio.to_thread(server.wait_until_idle)
        assert leaks.count_descriptors() == before

    run(main)


def test_a_caller_whose_transport_is_released_during_a_request_gets_an_error() -> None:
    async def main() -> None:
        transport = Transport(retry=RetryPolicy(backoff_first_s=0.0))
        caller = asyncio.create_task(transport.get(silent.url))
        await asyncio.to_thread(silent.wait_for_requests, 1)
        transport.release()
        with pytest.raises(ClientClosedError):
            await asyncio.wait_for(caller, 5)

    with LoopbackServer(lambda _: Reply(200, bytes(1000), head_gate=Gate())) as silent:
        run(main)


@pytest.mark.parametrize("is_loop_closed_by_asyncio", [False, True])
def test_an_interpreter_with_an_unclosed_client_ends_at_once_with_one_warning(
    is_loop_closed_by_asyncio: bool,
) -> None:
    script = f"""
        import asyncio, os, time
        from ckvd.network.transport import Transport
        from support.loopback.server import LoopbackServer, Reply

        async def use():
            await transport.get(server.url)

        os.dup2(1, 2)  # To see what is printed at the very end.
        transport = Transport()
        with LoopbackServer(lambda _: Reply(200, b"fine")) as server:
            if {is_loop_closed_by_asyncio}:
                asyncio.run(use())
            else:
                loop = asyncio.new_event_loop()
                loop.run_until_complete(use())
                loop.close()
        print(time.monotonic(), flush=True)
    """
    end_s, *complaints = run_script(script).splitlines()
    assert time.monotonic() - float(end_s) < 1 * LOADED
    # Warnings are errors, and an error in a finalizer is printed.
    assert [line for line in complaints if not line.startswith((" ", "Traceback"))] == [
        complaints[0],
        "ResourceWarning: unclosed <Transport: 0 of 8 requests under way>: use `async with`",
    ]

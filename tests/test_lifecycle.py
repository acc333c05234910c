"""A session that nobody closed is released wherever its loop is, and whatever curl does just then."""

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
from support import leaks, unclosed
from support.client_cleanup import Subject
from support.closers import run
from support.loopback.reply import Gate, Reply
from support.loopback.server import LoopbackServer
from support.subprocesses import run_script

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


@pytest.fixture
def server() -> Iterator[LoopbackServer]:
    with LoopbackServer(lambda _: Reply(200, b"fine")) as server:
        yield server


@pytest.mark.parametrize("situation", unclosed.SITUATIONS, ids=lambda situation: situation.__name__)
def test_a_transport_warns_once_and_lets_go_when_nobody_closes_it(
    server: LoopbackServer, situation: Callable[[Subject], None]
) -> None:
    situation(Subject("Transport", server, Transport, lambda transport: transport.get(server.url), ()))


def test_a_transport_that_was_not_quite_made_goes_in_silence() -> None:
    with pytest.raises(TypeError):
        Transport(no_such_option=1)  # type: ignore[call-arg]
    gc.collect()


def test_a_session_that_was_not_used_is_released_and_makes_no_task() -> None:
    async def main() -> None:
        release_session(open_session(1))
        assert asyncio.all_tasks() == {asyncio.current_task()}

    run(main)


def test_a_session_is_not_closed_inside_of_a_callback_of_curl_but_right_after_it(server: LoopbackServer) -> None:
    async def main() -> None:
        before = leaks.count_descriptors()
        session = open_session(1)

        def receive(piece: bytes) -> int:
            release_session(session)
            return len(piece)

        answer: Any = await session.request("GET", server.url, content_callback=receive)
        assert answer.status_code == 200
        await asyncio.to_thread(server.wait_until_idle)
        assert leaks.count_descriptors() == before

    run(main)


def test_who_waits_for_a_request_when_its_transport_is_released_gets_an_error() -> None:
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
def test_an_interpreter_ends_at_once_and_in_order_with_a_client_that_nobody_closed(
    is_loop_closed_by_asyncio: bool,
) -> None:
    script = f"""
        import asyncio, os, time
        from ckvd.network.transport import Transport
        from support.loopback.server import LoopbackServer, Reply

        async def use():
            await transport.get(server.url)

        os.dup2(1, 2)  # What is printed at the very end shall be seen.
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
    assert time.monotonic() - float(end_s) < 5
    # Warnings are errors, and an error in a finalizer is printed.
    assert [line for line in complaints if not line.startswith((" ", "Traceback"))] == [
        complaints[0],
        "ResourceWarning: unclosed <Transport: 0 of 8 requests under way>: use `async with`",
    ]

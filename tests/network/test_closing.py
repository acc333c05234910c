"""Closing a transport during its requests: all of them end in time, and none returns half a response."""

from __future__ import annotations

import asyncio
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from curl_cffi import AsyncSession

from ckvd.errors import ClientClosedError
from ckvd.network.retry import RetryPolicy
from ckvd.network.transport import Transport
from support import leaks
from support.loopback.reply import Framing, Gate
from support.loopback.server import LoopbackServer, Reply
from support.release import unanswered
from support.release.closers import run

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

BODY = bytes(1_000_000)
SILENT = Reply(200, BODY, head_gate=Gate())
HALF = Reply(200, BODY, sent_nbytes=500_000, body_gate=Gate())
HALF_CHUNKED = Reply(200, BODY, sent_nbytes=500_000, body_gate=Gate(), framing=Framing.CHUNKED)

is_proc_there = pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="counts descriptors in /proc")


def start(count: int, make: Callable[[int], Coroutine[Any, Any, Any]]) -> list[asyncio.Task[Any]]:
    return [asyncio.create_task(make(n)) for n in range(count)]


async def outcomes(callers: list[asyncio.Task[Any]]) -> list[type]:
    return [type(outcome) for outcome in await asyncio.gather(*callers, return_exceptions=True)]


@is_proc_there
@pytest.mark.parametrize("reply", [SILENT, HALF, HALF_CHUNKED], ids=["silent", "mid-body", "in chunks"])
def test_leaving_under_eight_requests_leaves_nothing(reply: Reply, tmp_path: Path) -> None:
    async def main() -> None:
        transport = Transport()
        callers = start(4, lambda _: transport.get(server.url))
        callers += start(4, lambda n: transport.download(server.url, tmp_path / str(n)))
        await asyncio.to_thread(server.wait_for_requests, 8)
        await transport.aclose()
        assert await outcomes(callers) == [ClientClosedError] * 8
        assert asyncio.all_tasks() == {asyncio.current_task()}
        await asyncio.to_thread(server.wait_until_idle)
        assert leaks.count_descriptors() == before

    with LoopbackServer(lambda _: reply) as server:
        asyncio.run(asyncio.to_thread(int))
        before = leaks.count_descriptors() + 3  # the event loop has a selector and a pair of sockets
        asyncio.run(main())
    assert list(tmp_path.iterdir()) == []


def test_leaving_is_quick_while_callers_wait() -> None:
    unanswered.leaves_soon_while_callers_wait("Transport()", "client.get(url)")


@pytest.mark.parametrize("is_external", [False, True])
def test_five_who_wait_for_one_connection_all_end(is_external: bool) -> None:
    async def main() -> None:
        session = AsyncSession[Any](max_clients=1) if is_external else None
        transport = Transport(session, concurrency=5 if is_external else 1)
        callers = start(5, lambda _: transport.get(server.url))
        await asyncio.to_thread(server.wait_for_requests, 1)
        await transport.aclose()
        async with asyncio.timeout(1):
            assert await outcomes(callers) == [ClientClosedError] * 5
        if session is not None:
            await session.close()

    with LoopbackServer(lambda _: SILENT) as server:
        asyncio.run(main())
    assert len(server.requests) == 1


def test_a_wait_between_two_attempts_ends_as_well() -> None:
    async def main() -> None:
        async with Transport(retry=RetryPolicy(backoff_first_s=60, backoff_max_s=60)) as transport:
            callers = [*start(2, lambda _: transport.get(server.url)), *start(1, lambda _: transport.sleep(60))]
            await asyncio.to_thread(server.wait_for_requests, 2)
        assert await outcomes(callers) == [ClientClosedError] * 3

    with LoopbackServer(lambda _: Reply(500)) as server:
        asyncio.run(main())


def test_a_closed_transport_says_so_and_closing_again_is_quiet(tmp_path: Path) -> None:
    async def main() -> None:
        transport = Transport()
        assert not transport.is_closed
        await asyncio.gather(transport.aclose(), transport.aclose())
        await transport.aclose()
        assert transport.is_closed
        assert repr(transport) == "<Transport: closed>"
        for call in (
            transport.get("http://127.0.0.1/"),
            transport.request("http://127.0.0.1/"),
            transport.download("http://127.0.0.1/", tmp_path / "x"),
            transport.sleep(0),
        ):
            with pytest.raises(ClientClosedError, match="the client is closed"):
                await call

    asyncio.run(main())
    assert list(tmp_path.iterdir()) == []


def test_the_callers_own_cancellation_stays_one_and_frees_the_place(tmp_path: Path) -> None:
    replies = [HALF, Reply(200, b"next")]
    path = tmp_path / "x"

    async def main() -> None:
        async with Transport(concurrency=1) as transport:
            caller = asyncio.create_task(transport.download(server.url, path))
            await asyncio.to_thread(server.wait_for_requests, 1)
            caller.cancel()
            with pytest.raises(asyncio.CancelledError):
                await caller
            assert not path.exists()
            assert (await transport.get(server.url)).body == b"next"

    with LoopbackServer(lambda _: replies.pop(0)) as server:
        asyncio.run(main())


def test_a_timeout_around_the_transport_is_a_timeout_error() -> None:
    async def main() -> None:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.1), Transport() as transport:
                await transport.get(server.url)

    with LoopbackServer(lambda _: SILENT) as server:
        asyncio.run(main())


def test_a_loop_that_ends_under_a_request_cancels_it(tmp_path: Path) -> None:
    async def main() -> None:
        caller = asyncio.create_task(transport.download(server.url, tmp_path / "x"))
        await asyncio.to_thread(server.wait_for_requests, 1)
        callers.append(caller)

    callers: list[asyncio.Task[Any]] = []
    transport = Transport()
    with LoopbackServer(lambda _: HALF) as server:
        asyncio.run(main())
        assert callers[0].cancelled()
        with pytest.raises(ClientClosedError, match="another event loop"):
            asyncio.run(transport.get(server.url))
        asyncio.run(transport.aclose())
    assert list(tmp_path.iterdir()) == []


def test_closing_from_another_thread_ends_requests_and_closes_the_session() -> None:
    transport = Transport()
    ended: list[type] = []
    is_closed = threading.Event()

    async def call() -> None:
        ended.extend(await outcomes(start(3, lambda _: transport.get(server.url))))
        await asyncio.to_thread(is_closed.wait, 5)

    with LoopbackServer(lambda _: HALF) as server:
        thread = threading.Thread(target=asyncio.run, args=(call(),))
        thread.start()
        server.wait_for_requests(3)
        asyncio.run(transport.aclose())
        is_closed.set()
        thread.join(5)
        assert not thread.is_alive()
        server.wait_until_idle()
    assert ended == [ClientClosedError] * 3


def test_closing_where_no_event_loop_of_asyncio_runs_releases_the_session(caplog: pytest.LogCaptureFixture) -> None:
    """As under trio. It does not suspend."""

    async def use() -> None:
        await transport.get(server.url)

    async def leave() -> None:
        async with transport:
            pass

    for is_used in (False, True):
        transport = Transport()
        before = leaks.count_descriptors()
        with LoopbackServer(lambda _: Reply(200, b"fine")) as server:
            if is_used:
                asyncio.run(use())
            with pytest.raises(StopIteration):
                leave().send(None)
            server.wait_until_idle()
        assert not caplog.records
        assert transport.is_closed
        assert leaks.count_descriptors() == before


@pytest.mark.skipif(sys.version_info < (3, 12), reason="eager tasks came with Python 3.12")
def test_eager_tasks_make_no_difference(tmp_path: Path) -> None:
    replies = [Reply(200, b"fine"), SILENT, HALF]

    async def main() -> None:
        async with Transport() as transport:
            assert (await transport.get(server.url)).body == b"fine"
            callers = start(1, lambda _: transport.get(server.url))
            callers += start(1, lambda n: transport.download(server.url, tmp_path / str(n)))
            await asyncio.to_thread(server.wait_for_requests, 3)
        assert await outcomes(callers) == [ClientClosedError] * 2

    with LoopbackServer(lambda _: replies.pop(0)) as server:
        run(main, is_eager=True)
    assert list(tmp_path.iterdir()) == []


@is_proc_there
def test_a_hundred_transports_and_loops_take_no_descriptor_more() -> None:
    async def main() -> None:
        async with Transport() as transport:
            await transport.get(server.url)

    with LoopbackServer(lambda _: Reply(200, b"x")) as server:
        asyncio.run(main())
        server.wait_until_idle()
        before = leaks.count_descriptors()
        for _ in range(100):
            asyncio.run(main())
        server.wait_until_idle()
        assert leaks.count_descriptors() == before

"""Sessions of curl_cffi are closed on any event loop, any number of times, and swallow no cancellation."""

from __future__ import annotations

import asyncio
import threading
from typing import TYPE_CHECKING, Any

import pytest
from curl_cffi import AsyncSession

from ckvd.utils.async_cleanup import cleanup_client
from support.release.closers import TASK_FACTORIES, run

if TYPE_CHECKING:
    from collections.abc import Iterator


async def open_session() -> AsyncSession[Any]:
    """Open a session of curl_cffi with file descriptors and a task, as if it had been used."""
    session: AsyncSession[Any] = AsyncSession()
    assert session.acurl is not None
    await asyncio.sleep(0)
    return session


@pytest.mark.parametrize("is_eager", TASK_FACTORIES)
def test_a_session_of_curl_is_closed_and_closing_it_again_does_nothing(
    is_eager: bool, caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        session = await open_session()
        await cleanup_client(session)
        assert session._closed
        await cleanup_client(session)

    run(main, is_eager=is_eager)
    assert not caplog.records


def test_a_session_of_curl_that_was_never_used_is_closed() -> None:
    async def main() -> None:
        session: AsyncSession[Any] = AsyncSession()
        await cleanup_client(session)
        assert session._closed

    run(main)


def test_a_session_of_curl_whose_loop_is_closed_is_closed_on_another(caplog: pytest.LogCaptureFixture) -> None:
    session = run(open_session)
    run(lambda: cleanup_client(session))
    assert session._closed
    assert not caplog.records


@pytest.fixture
def other_loop() -> Iterator[asyncio.AbstractEventLoop]:
    """An event loop that runs in another thread."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    yield loop
    loop.call_soon_threadsafe(loop.stop)
    thread.join()
    loop.close()


def test_a_session_of_curl_whose_loop_runs_in_another_thread_is_closed_there(
    other_loop: asyncio.AbstractEventLoop, caplog: pytest.LogCaptureFixture
) -> None:
    session = asyncio.run_coroutine_threadsafe(open_session(), other_loop).result(5)
    run(lambda: cleanup_client(session))
    assert session._closed
    assert not caplog.records


def test_a_cancellation_that_curl_would_swallow_reaches_the_caller() -> None:
    async def main() -> None:
        session = await open_session()

        async def leave() -> None:
            task = asyncio.current_task()
            assert task is not None
            asyncio.get_running_loop().call_soon(task.cancel)
            await cleanup_client(session)

        with pytest.raises(asyncio.CancelledError):
            await asyncio.create_task(leave())
        assert session._closed

    run(main)

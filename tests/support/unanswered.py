"""What every client promises about leaving while somebody waits for an answer of a server that does not go on.

Used as `client_cleanup` is, and with its `Subject`.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest
from curl_cffi import AsyncSession

from ckvd.errors import ClientClosedError
from support import leaks
from support.client_cleanup import BodyError
from support.closers import run
from support.loopback.reply import Framing, Gate, Reply
from support.stopwatch import Stopwatch

if TYPE_CHECKING:
    from support.client_cleanup import Subject

_BODY = b"[" + bytes(100_000)

# Where an answer stops: those who wait for the rest would take it for one that is cut off.
SILENCES = {
    "before the head": Reply(200, _BODY, head_gate=Gate()),
    "in mid-body": Reply(200, _BODY, sent_nbytes=50_000, body_gate=Gate()),
    "in mid-body in chunks": Reply(200, _BODY, sent_nbytes=50_000, body_gate=Gate(), framing=Framing.CHUNKED),
}


def ends_those_who_wait_for_an_answer(silent: Subject, caller_count: int = 8) -> None:
    """Leaving with requests under way takes less than 0.4 s, and each caller is told that the client was closed."""

    async def main() -> None:
        before = leaks.count_descriptors()
        client = await silent.make().__aenter__()
        callers = [asyncio.ensure_future(silent.fetch(client)) for _ in range(caller_count)]
        await asyncio.to_thread(silent.server.wait_for_requests, 1)
        with Stopwatch() as leaving:
            await client.__aexit__(None, None, None)
        assert leaving.elapsed_s < 0.4
        outcomes = await asyncio.gather(*callers, return_exceptions=True)
        assert [type(outcome) for outcome in outcomes] == [ClientClosedError] * caller_count
        assert asyncio.all_tasks() == {asyncio.current_task()}
        silent.server.wait_until_idle()
        assert leaks.count_descriptors() == before

    run(main)


def ends_five_who_wait_for_one_connection(silent: Subject, **options: Any) -> None:
    """The options give the client one place on the line; without any it gets a session that has one."""

    async def main() -> None:
        async with AsyncSession[Any](max_clients=1) as session:
            async with silent.make(**(options or {"client": session})) as client:
                callers = [asyncio.ensure_future(silent.fetch(client)) for _ in range(5)]
                await asyncio.to_thread(silent.server.wait_for_requests, 1)
            async with asyncio.timeout(1):
                outcomes = await asyncio.gather(*callers, return_exceptions=True)
        assert [type(outcome) for outcome in outcomes] == [ClientClosedError] * 5

    run(main)
    assert silent.server.connection_count == 1


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

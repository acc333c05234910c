"""What every client must do when it is left while callers wait for a server that has fallen silent.

Used like `clients`, with its `Subject`.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest
from curl_cffi import AsyncSession

from ckvd.errors import ClientClosedError
from support import leaks
from support.loopback.reply import Framing, Gate, Reply
from support.processes import run_script
from support.release.clients import BodyError
from support.release.closers import run
from support.stopwatch import LOADED

if TYPE_CHECKING:
    from support.release.clients import Subject

_BODY = b"[" + bytes(100_000)

# Where the answer stops. After the first bytes, a caller could take it for a truncated one.
SILENCES = {
    "before the head": Reply(200, _BODY, head_gate=Gate()),
    "in mid-body": Reply(200, _BODY, sent_nbytes=50_000, body_gate=Gate()),
    "in mid-body in chunks": Reply(200, _BODY, sent_nbytes=50_000, body_gate=Gate(), framing=Framing.CHUNKED),
}


# On an idle machine, leaving with requests under way takes less than this.
LEAVING_S = 0.4


def leaves_soon_while_callers_wait(client: str, fetch: str) -> None:
    """Leave in a process of its own, wherever the answer stops.

    Parameters
    ----------
    client, fetch : str
        Code that makes a client of a server at `url` with a cache in `folder`, and code that requests something.
    """
    script = f"""
        import asyncio, logging, tempfile
        import ckvd
        from ckvd.network.transport import Transport
        from support.loopback.server import LoopbackServer
        from support.stopwatch import Stopwatch
        from support.release.unanswered import SILENCES

        async def main(url, server, folder):
            client = {client}
            callers = [asyncio.ensure_future({fetch}) for _ in range(40)]
            await asyncio.to_thread(server.wait_for_requests, 1)
            with Stopwatch() as leaving:
                await client.aclose()
            print(leaving.elapsed_s)
            outcomes = await asyncio.gather(*callers, return_exceptions=True)
            assert {{type(outcome) for outcome in outcomes}} == {{ckvd.ClientClosedError}}

        logging.disable()  # On a loaded machine, a step that runs out of time is logged.
        for silence in SILENCES.values():
            with tempfile.TemporaryDirectory() as folder, LoopbackServer(lambda _: silence) as server:
                asyncio.run(main(server.url, server, folder))
    """
    took_s = [float(line) for line in run_script(script).splitlines()]
    assert len(took_s) == len(SILENCES)
    assert max(took_s) < LEAVING_S * LOADED


def ends_those_who_wait_for_an_answer(silent: Subject, caller_count: int = 8) -> None:
    """Each caller is told that the client was closed."""

    async def main() -> None:
        await asyncio.to_thread(int)  # uvloop makes its descriptors when it needs them.
        before = leaks.count_descriptors()
        client = await silent.make().__aenter__()
        callers = [asyncio.ensure_future(silent.fetch(client)) for _ in range(caller_count)]
        await asyncio.to_thread(silent.server.wait_for_requests, 1)
        await client.__aexit__(None, None, None)
        outcomes = await asyncio.gather(*callers, return_exceptions=True)
        assert [type(outcome) for outcome in outcomes] == [ClientClosedError] * caller_count
        assert asyncio.all_tasks() == {asyncio.current_task()}
        silent.server.wait_until_idle()
        assert leaks.count_descriptors() == before

    run(main)


def ends_five_who_wait_for_one_connection(silent: Subject, **options: Any) -> None:
    """The options limit the client to one connection. Without options, a session of the caller does."""

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

from __future__ import annotations

import asyncio
import threading

import pytest

from ckvd.errors import ClientClosedError
from ckvd.network.in_flight import RequestsInFlight
from ckvd.utils.config import RESOURCE_CLEANUP_TIMEOUT
from support.release.closers import SLACK_S, TASK_FACTORIES, run
from support.release.other_loops import stalled_loop
from support.stopwatch import LOADED, Stopwatch


async def forever() -> None:
    await asyncio.Event().wait()


async def turns(count: int = 3) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


def tasks_but_this() -> set[asyncio.Task[object]]:
    current = asyncio.current_task()
    return {task for task in asyncio.all_tasks() if task is not current}


eagerness = pytest.mark.parametrize("is_eager", TASK_FACTORIES)


@eagerness
def test_what_a_request_returns_or_raises_reaches_its_caller(is_eager: bool) -> None:
    async def answer() -> int:
        await asyncio.sleep(0)
        return 7

    async def at_once() -> int:
        return 8

    async def fail() -> int:
        raise LookupError("no")

    async def main() -> None:
        requests = RequestsInFlight()
        assert await requests.run(answer, "a") == 7
        assert await requests.run(at_once, "b") == 8
        with pytest.raises(LookupError, match="no"):
            await requests.run(fail, "c")
        await turns()
        assert len(requests) == 0
        assert not tasks_but_this()

    run(main, is_eager=is_eager)


@eagerness
def test_closing_ends_what_is_under_way_and_its_callers_are_told(is_eager: bool) -> None:
    async def main() -> None:
        requests = RequestsInFlight()
        callers = [asyncio.create_task(requests.run(forever, f"request {n}")) for n in range(5)]
        await turns()
        assert len(requests) == 5
        await requests.aclose()
        outcomes = await asyncio.gather(*callers, return_exceptions=True)
        assert [type(outcome) for outcome in outcomes] == [ClientClosedError] * 5
        assert "closed while a request was under way: request 0" in str(outcomes[0])
        assert len(requests) == 0
        assert not tasks_but_this()

    run(main, is_eager=is_eager)


def test_a_closed_one_refuses_and_makes_nothing() -> None:
    async def main() -> None:
        requests = RequestsInFlight()
        await requests.aclose()
        await requests.aclose()
        with pytest.raises(ClientClosedError, match="the client is closed: late"):
            await requests.run(lambda: pytest.fail("it was made"), "late")

    asyncio.run(main())


def test_a_request_that_ignores_cancellation_delays_neither_its_caller_nor_closing() -> None:
    async def main() -> None:
        release = asyncio.Event()

        async def deaf() -> str:
            while not release.is_set():
                try:
                    await release.wait()
                except asyncio.CancelledError:
                    continue
            return "too late"

        requests = RequestsInFlight()
        caller = asyncio.create_task(requests.run(deaf, "deaf"))
        await turns()
        with Stopwatch() as closed:
            closing = asyncio.create_task(requests.aclose())
            with pytest.raises(ClientClosedError):
                await caller
            assert not closing.done()
            await closing
        assert closed.elapsed_s < RESOURCE_CLEANUP_TIMEOUT * LOADED
        release.set()
        await turns()
        assert not tasks_but_this()

    asyncio.run(main())


@eagerness
def test_the_callers_own_cancellation_stays_one_and_ends_the_request(is_eager: bool) -> None:
    async def main() -> None:
        requests = RequestsInFlight()
        caller = asyncio.create_task(requests.run(forever, "cancelled"))
        await turns()
        caller.cancel()
        with pytest.raises(asyncio.CancelledError):
            await caller
        await turns()
        assert len(requests) == 0
        assert not tasks_but_this()

    run(main, is_eager=is_eager)


def test_a_caller_cancelled_while_the_client_closes_sees_its_cancellation() -> None:
    async def main() -> None:
        requests = RequestsInFlight()
        caller = asyncio.create_task(requests.run(forever, "both"))
        await turns()
        closing = asyncio.create_task(requests.aclose())
        caller.cancel()
        with pytest.raises(asyncio.CancelledError):
            await caller
        await closing

    asyncio.run(main())


def test_a_callers_timeout_is_a_timeout_error_and_a_failing_sibling_stops_the_request() -> None:
    async def fail() -> None:
        raise LookupError("sibling")

    async def siblings(requests: RequestsInFlight) -> None:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(requests.run(forever, "child"))
            tasks.create_task(fail())

    async def main() -> None:
        requests = RequestsInFlight()
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.01):
                await requests.run(forever, "slow")
        with pytest.raises(ExceptionGroup) as group:
            await siblings(requests)
        assert [type(error) for error in group.value.exceptions] == [LookupError]
        await turns()
        assert len(requests) == 0

    asyncio.run(main())


def test_an_error_after_the_caller_has_left_disturbs_nobody(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        async def fail_when_cancelled() -> None:
            try:
                await forever()
            finally:
                raise LookupError("on the way out")

        requests = RequestsInFlight()
        caller = asyncio.create_task(requests.run(fail_when_cancelled, "fails late"))
        await turns()
        caller.cancel()
        with pytest.raises(asyncio.CancelledError):
            await caller

    asyncio.run(main())
    assert not [record for record in caplog.records if record.name == "asyncio"]


def test_it_belongs_to_one_loop() -> None:
    requests = RequestsInFlight()
    asyncio.run(requests.run(lambda: asyncio.sleep(0), "first"))
    with pytest.raises(ClientClosedError, match="another event loop"):
        asyncio.run(requests.run(lambda: asyncio.sleep(0), "second"))
    asyncio.run(requests.aclose())


def test_closing_from_another_thread_ends_requests_where_they_run() -> None:
    outcomes: list[BaseException | None] = []
    requests = RequestsInFlight()
    is_waiting = threading.Event()

    async def wait() -> None:
        is_waiting.set()
        await forever()

    async def call() -> None:
        outcomes.extend(await asyncio.gather(requests.run(wait, "elsewhere"), return_exceptions=True))

    thread = threading.Thread(target=asyncio.run, args=(call(),))
    thread.start()
    assert is_waiting.wait(5)
    asyncio.run(requests.aclose())
    thread.join(5)
    assert not thread.is_alive()
    assert [type(outcome) for outcome in outcomes] == [ClientClosedError]


def test_closing_does_not_wait_for_a_loop_that_is_stalled_in_another_thread() -> None:
    requests = RequestsInFlight()
    with stalled_loop() as home:
        requests.loop = home
        with Stopwatch() as closing:
            asyncio.run(requests.aclose())
        assert closing.elapsed_s < RESOURCE_CLEANUP_TIMEOUT + SLACK_S
    assert requests.is_closed


def test_the_representation_tells_the_state() -> None:
    async def main() -> None:
        requests = RequestsInFlight()
        caller = asyncio.create_task(requests.run(forever, "x"))
        await turns()
        assert repr(requests) == "<RequestsInFlight: open, 1 under way>"
        await requests.aclose()
        await asyncio.gather(caller, return_exceptions=True)
        assert repr(requests) == "<RequestsInFlight: closed, 0 under way>"

    asyncio.run(main())

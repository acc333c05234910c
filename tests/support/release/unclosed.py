"""What every client must do if nobody closes it: warn once, with its name, and release all descriptors at once.

Each function is a situation in which a client is garbage. No event loop runs between that and the check of what is
left.
"""

from __future__ import annotations

import asyncio
import gc
import threading
import warnings
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from curl_cffi import AsyncSession

from support import leaks
from support.release.closers import run

if TYPE_CHECKING:
    from collections.abc import Iterator

    from support.release.clients import Subject


class Node:
    """A reference cycle that holds an object."""

    def __init__(self, held: object) -> None:
        self.held = held
        self.me = self


@contextmanager
def let_go(subject: Subject) -> Iterator[None]:
    """In the block, a client that was used loses its last reference."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield
    texts = [str(warning.message) for warning in caught if warning.category is ResourceWarning]
    assert len(texts) == 1, texts
    assert texts[0].startswith(f"unclosed <{subject.name}")


def assert_nothing_is_left(subject: Subject, descriptor_count: int) -> None:
    subject.server.wait_until_idle()
    assert leaks.count_descriptors() == descriptor_count


async def used(subject: Subject) -> Any:
    client = subject.make()
    await subject.fetch(client)
    return client


async def warm_up(subject: Subject) -> None:
    """Create everything that is created once in a process."""
    client = await used(subject)
    await client.aclose()
    await asyncio.to_thread(subject.server.wait_until_idle)


def on_its_loop(subject: Subject) -> None:
    async def main() -> None:
        await warm_up(subject)
        before = leaks.count_descriptors()
        client = await used(subject)
        tasks = asyncio.all_tasks()
        with let_go(subject):
            del client
        assert_nothing_is_left(subject, before)
        assert asyncio.all_tasks() == tasks

    run(main)


def in_a_cycle_on_its_loop(subject: Subject) -> None:
    async def main() -> None:
        await warm_up(subject)
        before = leaks.count_descriptors()
        Node(await used(subject))
        with let_go(subject):
            gc.collect()
        assert_nothing_is_left(subject, before)

    gc.collect()
    run(main)


def after_its_loop(subject: Subject) -> None:
    run(lambda: warm_up(subject))
    before = leaks.count_descriptors()
    client = run(lambda: used(subject))
    with let_go(subject):
        del client
    assert_nothing_is_left(subject, before)


def while_its_loop_stands_still(subject: Subject) -> None:
    with asyncio.Runner() as runner:
        runner.run(warm_up(subject))
        before = leaks.count_descriptors()
        client = runner.run(used(subject))
        with let_go(subject):
            del client
        assert_nothing_is_left(subject, before)


def after_its_loop_was_closed_with_all_it_had_to_do(subject: Subject) -> None:
    run(lambda: warm_up(subject))
    before = leaks.count_descriptors()
    loop = asyncio.new_event_loop()
    client = loop.run_until_complete(used(subject))
    loop.run_until_complete(loop.shutdown_default_executor())
    loop.close()
    with let_go(subject):
        del client
    assert_nothing_is_left(subject, before)


def while_its_loop_runs_in_another_thread(subject: Subject) -> None:
    """Only that thread can release it, and does so as soon as its loop gets to it."""
    clients: list[Any] = []
    is_used, may_end = threading.Event(), threading.Event()

    async def main() -> None:
        await warm_up(subject)
        clients.append(await used(subject))
        is_used.set()
        await asyncio.to_thread(may_end.wait)

    thread = threading.Thread(target=run, args=(main,))
    thread.start()
    assert is_used.wait(10)
    with let_go(subject):
        clients.clear()
    subject.server.wait_until_idle()
    may_end.set()
    thread.join(10)
    assert not thread.is_alive()


def without_having_been_used(subject: Subject) -> None:
    """It holds nothing, so it must not warn: warnings are errors."""
    before = leaks.count_descriptors()
    subject.make()
    assert leaks.count_descriptors() == before


def with_a_session_of_the_caller(subject: Subject) -> None:
    """It owns no connection, so there is no warning. The session stays open, also if the client is released."""

    async def main() -> None:
        async with AsyncSession[Any]() as session:
            client = subject.make(client=session)
            await subject.fetch(client)
            Node(client)
            del client
            gc.collect()
            await still_works(session)
            client = subject.make(client=session)
            await subject.fetch(client)
            client.release()
            del client
            await still_works(session)

    async def still_works(session: AsyncSession[Any]) -> None:
        response = await session.get(subject.server.url, proxies={"http": ""})
        assert response.status_code

    gc.collect()
    run(main)


SITUATIONS = [
    on_its_loop,
    in_a_cycle_on_its_loop,
    after_its_loop,
    while_its_loop_stands_still,
    after_its_loop_was_closed_with_all_it_had_to_do,
    while_its_loop_runs_in_another_thread,
    without_having_been_used,
]

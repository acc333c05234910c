"""What every class that holds a file or a map must do when it is left, synchronously or asynchronously.

A test file has a fixture `holder` with a `Holder` for its class, and inherits the tests of `Leaving`.
"""

from __future__ import annotations

import asyncio
import gc
import io
import warnings
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest

from support import leaks
from support.release.closers import TASK_FACTORIES, run

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine


class BodyError(Exception):
    """Raised by a body."""


class FailingFile(io.RawIOBase):
    """A file whose `close` fails."""

    def close(self) -> None:
        if not self.closed:
            super().close()
            raise OSError("failed")


@dataclass(frozen=True)
class Holder:
    """An object that holds a file, and how it is used.

    Attributes
    ----------
    make : callable
        Makes one.
    use : callable
        Uses it.
    attribute : str
        The attribute with its file; None after it was left.
    """

    make: Callable[[], Any]
    use: Callable[[Any], object]
    attribute: str


def held() -> tuple[int, int]:
    return leaks.count_descriptors(), leaks.count_maps()


def leave_in_turn(holder: Holder, *, is_used: bool) -> None:
    """Leave one synchronously."""
    with holder.make() as left:
        if is_used:
            holder.use(left)
    assert getattr(left, holder.attribute) is None


async def leave_in_turn_asynchronously(holder: Holder, *, is_used: bool) -> None:
    async with holder.make() as left:
        if is_used:
            holder.use(left)
    assert getattr(left, holder.attribute) is None


def leaves_unused_and_after_use(holder: Holder, *, is_eager: bool = False) -> None:
    before = held()
    for is_used in (False, True):
        leave_in_turn(holder, is_used=is_used)
        assert held() == before
        run(lambda is_used=is_used: leave_in_turn_asynchronously(holder, is_used=is_used), is_eager=is_eager)  # type: ignore[misc]
        assert held() == before


def leaves_many_times_in_a_row(holder: Holder, round_count: int) -> None:
    async def rounds() -> None:
        for _ in range(round_count):
            await leave_in_turn_asynchronously(holder, is_used=True)

    before = held()
    for _ in range(round_count):
        leave_in_turn(holder, is_used=True)
    assert held() == before
    run(rounds)
    assert held() == before


def leaves_twice_at_once_and_without_entering(holder: Holder) -> None:
    async def main(left: Any) -> None:
        await asyncio.gather(*(left.__aexit__(None, None, None) for _ in range(5)))
        left.close()
        async with left:
            pass
        with left:
            pass

    before = held()
    left = holder.make()
    holder.use(left)
    run(lambda: main(left))
    assert getattr(left, holder.attribute) is None
    assert held() == before


def leaves_on_another_loop(holder: Holder) -> None:
    async def enter() -> Any:
        left = await holder.make().__aenter__()
        holder.use(left)
        return left

    before = held()
    left = run(enter)
    run(lambda: left.__aexit__(None, None, None))
    assert getattr(left, holder.attribute) is None
    assert held() == before


def raises_the_error_of_the_body_when_closing_fails_too(holder: Holder, caplog: pytest.LogCaptureFixture) -> None:
    def break_in(left: Any, body: BodyError) -> None:
        files.append(getattr(left, holder.attribute))
        setattr(left, holder.attribute, FailingFile())
        raise body

    async def leave_asynchronously(body: BodyError) -> None:
        async with holder.make() as left:
            break_in(left, body)

    async def leave(body: BodyError) -> None:
        with holder.make() as left:
            break_in(left, body)

    files: list[Any] = []
    before = held()
    for leaving in (leave, leave_asynchronously):
        body = BodyError("of the body")
        with pytest.raises(BodyError) as caught:
            run(partial(leaving, body))
        assert caught.value is body
        assert body.__context__ is None
        del caught, body
        files.pop().close()
    assert ["OSError('failed')" in record.getMessage() for record in caplog.records] == [True, True]
    assert held() == before


def lets_cancellations_and_timeouts_through(holder: Holder) -> None:
    async def wait(is_open: asyncio.Event) -> None:
        async with holder.make() as left:
            holder.use(left)
            is_open.set()
            await asyncio.Event().wait()

    async def main() -> None:
        before = held()
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.01):
                await wait(asyncio.Event())
        is_open = asyncio.Event()
        waiting = asyncio.create_task(wait(is_open))
        await is_open.wait()
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        with pytest.raises(ExceptionGroup):
            await with_a_failing_sibling(wait(asyncio.Event()))
        assert held() == before

    run(main)


async def with_a_failing_sibling(waiting: Coroutine[Any, Any, None]) -> None:
    async def fail() -> None:
        raise BodyError

    async with asyncio.TaskGroup() as group:
        group.create_task(waiting)
        group.create_task(fail())


def warns_once_and_lets_go_when_nobody_closes_it(holder: Holder, words: str) -> None:
    """By reference count and in a cycle, with and without an event loop, and without making a task."""

    async def main() -> None:
        tasks = asyncio.all_tasks()
        in_the_end()
        assert asyncio.all_tasks() == tasks

    def in_the_end() -> None:
        before = held()
        for is_cyclic in (False, True):
            left = holder.make()
            holder.use(left)
            if is_cyclic:
                left.me = left
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                del left
                gc.collect()
            texts = [str(warning.message) for warning in caught if warning.category is ResourceWarning]
            assert len(texts) == 1
            assert texts[0].startswith(words)
            assert held() == before

    gc.collect()
    in_the_end()
    run(main)


class Leaving:
    """The tests, inherited by a class for each class that holds a file.

    Attributes
    ----------
    unclosed_words : str
        The first words of the warning if nobody closes it.
    """

    unclosed_words: str

    @pytest.mark.parametrize("is_eager", TASK_FACTORIES)
    def test_it_leaves_unused_and_after_use(self, holder: Holder, is_eager: bool) -> None:
        leaves_unused_and_after_use(holder, is_eager=is_eager)

    def test_it_leaves_many_times_in_a_row(self, holder: Holder) -> None:
        leaves_many_times_in_a_row(holder, 300)

    def test_it_leaves_twice_at_once_and_without_entering(self, holder: Holder) -> None:
        leaves_twice_at_once_and_without_entering(holder)

    def test_it_leaves_on_another_loop(self, holder: Holder) -> None:
        leaves_on_another_loop(holder)

    def test_it_raises_the_error_of_the_body_when_closing_fails_too(
        self, holder: Holder, caplog: pytest.LogCaptureFixture
    ) -> None:
        raises_the_error_of_the_body_when_closing_fails_too(holder, caplog)

    def test_it_lets_cancellations_and_timeouts_through(self, holder: Holder) -> None:
        lets_cancellations_and_timeouts_through(holder)

    def test_it_warns_once_and_lets_go_when_nobody_closes_it(self, holder: Holder) -> None:
        warns_once_and_lets_go_when_nobody_closes_it(holder, self.unclosed_words)

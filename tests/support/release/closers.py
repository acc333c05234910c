"""Resources that close well or badly, and a runner for lazy and eager tasks."""

from __future__ import annotations

import asyncio
import sys
from typing import TYPE_CHECKING, Any, TypeVar

import pytest

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine, Generator

T = TypeVar("T")

# A busy machine may add this to a time that is asserted. The timeouts themselves are below 0.4 s.
SLACK_S = 1.0

TASK_FACTORIES = [
    pytest.param(False, id="lazy"),
    pytest.param(
        True, id="eager", marks=pytest.mark.skipif(sys.version_info < (3, 12), reason="no eager tasks before 3.12")
    ),
]


# Makes the loops of `run`. A test may replace it.
new_event_loop: Callable[[], asyncio.AbstractEventLoop] | None = None


def run(main: Callable[[], Coroutine[Any, Any, T]], *, is_eager: bool = False) -> T:
    """Run a coroutine function to its end on a loop of its own."""
    with asyncio.Runner(loop_factory=new_event_loop) as runner:
        if is_eager:
            runner.get_loop().set_task_factory(asyncio.eager_task_factory)  # type: ignore[attr-defined,unused-ignore]
        return runner.run(main())


async def cancel_at(event: asyncio.Event, task: asyncio.Task[Any], message: str | None = None) -> None:
    """Cancel a task as soon as an event happens."""
    await event.wait()
    task.cancel(message)


class Closer:
    """A resource that records how its closing went. Each kind defines how it closes."""

    def __init__(self) -> None:
        self.call_count = 0
        self.was_closed = False
        self.was_cancelled = False
        self.started = asyncio.Event()
        self.ended = asyncio.Event()

    async def aclose(self) -> None:
        self.call_count += 1
        self.started.set()
        try:
            await self._close()
            self.was_closed = True
        except asyncio.CancelledError:
            self.was_cancelled = True
            raise
        finally:
            self.ended.set()

    async def _close(self) -> None:
        """Close at once. Most kinds override this."""


class Fast(Closer):
    """Closes without a pause."""


class Slow(Closer):
    """Takes a while, but less than its timeout."""

    async def _close(self) -> None:
        await asyncio.sleep(0.02)


class SlowInSteps(Closer):
    """Takes a while, in a task of its own, as in libraries."""

    async def _close(self) -> None:
        await asyncio.create_task(asyncio.sleep(0.02))


class WaitingForATurn(Closer):
    """Waits for the next turn of the event loop."""

    async def _close(self) -> None:
        await asyncio.sleep(0)


class Hanging(Closer):
    """Never ends by itself."""

    async def _close(self) -> None:
        await asyncio.Event().wait()


class Tidying(Closer):
    """Never ends by itself. When it is cancelled, it needs a moment to tidy up."""

    def __init__(self) -> None:
        super().__init__()
        self.was_tidied = False

    async def _close(self) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            for _ in range(5):
                await asyncio.sleep(0)
            self.was_tidied = True


class Deaf(Closer):
    """Ignores its cancellation until it is released."""

    def __init__(self) -> None:
        super().__init__()
        self.release = asyncio.Event()
        self.was_deaf = asyncio.Event()
        self.cancel_count = 0

    async def _close(self) -> None:
        while not self.release.is_set():
            try:
                await self.release.wait()
            except asyncio.CancelledError:
                self.cancel_count += 1
                self.was_deaf.set()


class DeafAndRaising(Deaf):
    """Ignores its cancellation, and fails when nobody waits for it any more."""

    async def _close(self) -> None:
        await super()._close()
        raise OSError("failed late")


class Raising(Closer):
    """Fails at once."""

    async def _close(self) -> None:
        raise OSError("failed")


class RaisingWhenCancelled(Closer):
    """Answers its cancellation with another error."""

    async def _close(self) -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            raise OSError("failed when cancelled") from None


class CancellingItself(Closer):
    """Cancels the task it runs in."""

    async def _close(self) -> None:
        task = asyncio.current_task()
        assert task is not None
        task.cancel()
        await asyncio.sleep(0)


class RaisingCancelled(Closer):
    """Raises a cancellation that is not its own."""

    async def _close(self) -> None:
        raise asyncio.CancelledError


class Synchronous(Closer):
    """Has a plain `close`, which returns None."""

    aclose = None  # type: ignore[assignment]

    def close(self) -> Awaitable[None] | None:
        self.call_count += 1
        self.was_closed = True
        return None


class SynchronousRaising(Synchronous):
    """Has a plain `close`, which fails."""

    def close(self) -> None:
        self.call_count += 1
        raise OSError("failed")


class ReturningFuture(Synchronous):
    """Has a plain `close`, which returns a future."""

    def close(self) -> Awaitable[None]:
        self.call_count += 1
        loop = asyncio.get_running_loop()
        future = loop.create_future()
        future.add_done_callback(lambda _: setattr(self, "was_closed", True))
        loop.call_later(0.01, future.set_result, None)
        return future


class ReturningAwaitable(Synchronous):
    """Has a plain `close`, which returns an awaitable that is neither a future nor a coroutine."""

    def close(self) -> Awaitable[None]:
        self.call_count += 1
        return _ClosingBy(self)


class _ClosingBy:
    def __init__(self, closer: Closer) -> None:
        self._closer = closer

    def __await__(self) -> Generator[Any, None, None]:
        yield from asyncio.sleep(0).__await__()
        self._closer.was_closed = True


WELL_BEHAVED = [Fast, Slow, SlowInSteps, Synchronous, ReturningFuture, ReturningAwaitable]
FAILING = [Raising, SynchronousRaising, CancellingItself, RaisingCancelled]
NEVER_ENDING = [Hanging, Tidying, RaisingWhenCancelled]
DEAF = [Deaf, DeafAndRaising]

"""How an object that holds something is left: `with`, `async with`, and the finalizer of one that was not closed.

A class names what it holds and inherits the rest. Every asynchronous exit goes through `direct_resource_cleanup`.
Of the project, only `utils.async_cleanup` is imported.
"""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Self, TypeAlias

from ckvd.utils.async_cleanup import direct_resource_cleanup

if TYPE_CHECKING:
    from types import TracebackType

# The attribute, a label for the log, and whether it was handed in from outside.
Resource: TypeAlias = "tuple[str, str, bool]"


class SyncBlock:
    """A context manager whose exit is `close`."""

    __slots__ = ()

    def close(self) -> None:
        """Release what is held. Closing twice is quiet."""
        raise NotImplementedError

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class AsyncBlock:
    """An asynchronous context manager whose exit is the direct cleanup of its resources."""

    __slots__ = ()

    @property
    def _resources(self) -> tuple[Resource, ...]:
        """What it holds, in the order of closing."""
        raise NotImplementedError

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await direct_resource_cleanup(self, *self._resources)


class ConnectionHolder(AsyncBlock):
    """What holds connections until it is awaited to close.

    An instance that goes without being closed releases its connections at once, and a `ResourceWarning` names it.
    One that has opened none goes in silence.

    A finalizer may run in any thread, on any line of code, with the event loop running, standing still or gone. So
    it awaits nothing and starts nothing.
    """

    _is_part = False

    async def aclose(self) -> None:
        """End what is under way, whose callers get `ClientClosedError`, and close what it owns. Safe to repeat."""
        await self.__aexit__(None, None, None)

    def part(self) -> Self:
        """Itself, as a part of another object: that one releases it, and warns for both.

        Of two objects that go together in a reference cycle, the part may well be finalized first.
        """
        self._is_part = True
        return self

    @property
    def is_connected(self) -> bool:
        """Whether it holds connections of its own. A finalizer asks, even if `__init__` failed half-way."""
        raise NotImplementedError

    def release(self) -> None:
        """Close without awaiting, as a finalizer has to; `aclose` is better. It cannot be used any more."""
        raise NotImplementedError

    def __del__(self) -> None:
        if self._is_part or not self.is_connected:
            return
        description = repr(self)
        self.release()
        warnings.warn(f"unclosed {description}: use `async with`", ResourceWarning, source=self, stacklevel=2)

"""The exits of objects that own resources: `with`, `async with`, and the finalizer of an unclosed object.

A class declares its resources and inherits the rest. Every asynchronous exit goes through
`direct_resource_cleanup`. Of the project, only `utils.async_cleanup` is imported.
"""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, NoReturn, Self, TypeAlias

from ckvd.utils.async_cleanup import direct_resource_cleanup, exit_budget_s, is_asyncio_running

if TYPE_CHECKING:
    from types import TracebackType

# The attribute, a label for the log, and whether somebody else owns the resource.
Resource: TypeAlias = "tuple[str, str, bool]"


class SyncBlock:
    """A context manager whose exit is `close`."""

    __slots__ = ()

    def close(self) -> None:
        """Release the resources. Closing again does nothing."""
        raise NotImplementedError

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class AsyncBlock:
    """An asynchronous context manager whose exit is `direct_resource_cleanup` of its resources."""

    __slots__ = ()

    @property
    def _resources(self) -> tuple[Resource, ...]:
        """The resources, in the order of closing."""
        raise NotImplementedError

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await direct_resource_cleanup(self, *self._resources)

    @property
    def cleanup_budget_s(self) -> float:
        """The longest that leaving takes. Whoever holds this object gives it that time."""
        return exit_budget_s(self, *self._resources)


class ConnectionHolder(AsyncBlock):
    """An object that holds connections until it is closed asynchronously.

    If an instance is garbage-collected without being closed, its connections are released at once, and a
    `ResourceWarning` names it. There is no warning if it has no connections.

    A finalizer may run in any thread, at any line of code, while the event loop runs, is stopped or is gone. So it
    awaits nothing and starts nothing.
    """

    _is_part = False

    if not TYPE_CHECKING:  # a type checker complains of `with` by itself

        def __enter__(self) -> NoReturn:
            raise TypeError(
                f"{type(self).__name__} is asynchronous: use `async with` in place of `with`; "
                "without an event loop, call ckvd.get_klines or ckvd.ensure"
            )

        def __exit__(self, *_error: object) -> None:
            """Exist, so that `with` gets as far as to call `__enter__`."""

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if is_asyncio_running():
            await super().__aexit__(kind, error, trace)
        else:
            self.release()  # Nothing can be awaited, under trio for one.

    async def aclose(self) -> None:
        """Cancel all requests, whose callers get `ClientClosedError`, and close the resources. Safe to repeat."""
        await self.__aexit__(None, None, None)

    def part(self) -> Self:
        """Return itself as a part of another object, which releases it and warns for both.

        Without this, the part would warn as well: of two objects that are collected in one reference cycle, either
        may be finalized first.
        """
        self._is_part = True
        return self

    @property
    def is_connected(self) -> bool:
        """Whether it holds connections of its own. The finalizer asks this even if `__init__` has failed."""
        raise NotImplementedError

    def release(self) -> None:
        """Close without awaiting, as a finalizer must. Prefer `aclose`. The object cannot be used afterwards."""
        raise NotImplementedError

    def __del__(self) -> None:
        if self._is_part or not self.is_connected:
            return
        description = repr(self)
        self.release()
        warnings.warn(f"unclosed {description}: use `async with`", ResourceWarning, source=self, stacklevel=2)

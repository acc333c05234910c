"""The release of files, memory maps and clients. Every object that owns one uses this module.

An `__aexit__` is `await direct_resource_cleanup(self, ("_client", "HTTP client", self._client_is_external))`,
an `__exit__` is `direct_file_cleanup(self, "_columns", "_map")`. Both keep the same order:

1. Capture every reference, then set every attribute to None. There is no `await` above this line, so an exit that
   is repeated, concurrent, or without entry finds nothing to do.
2. Close files and maps, synchronously.
3. Close all other resources in the order given, each in its own task and within its timeout.
4. Log errors and continue. The caller's cancellation is not an error: it is deferred until the step's time is up,
   and raised when everything is done.
5. Collect garbage if a released object is still alive.

The invariant: nothing here raises because a resource cannot be closed, nothing waits longer than its timeout and
the grace, and nothing keeps a reference to a released object, except to a closer that is still running. Of the
project, only `config` is imported.
"""

from __future__ import annotations

import gc
import inspect
import io
import math
import mmap
import threading
import time
import weakref
from typing import TYPE_CHECKING, Final, TypeAlias

from ckvd.utils import config

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable, Iterable

FileHandle: TypeAlias = mmap.mmap | io.IOBase

# Looked up in this order, and on the type: instances of mocks and proxies have every attribute.
_CLOSERS: Final = ("aclose", "close", "__aexit__")
_CLOSED_FLAGS: Final = ("closed", "is_closed", "_closed")

# How many suspects may wait for a collection of each generation. The sum bounds the file descriptors of garbage.
# The youngest has the largest number, because each collection moves objects in use to an older generation. The
# number for a full collection grows up to the maximum while full collections free nothing.
_PATIENCE: Final = (24, 12, 12)
_PATIENCE_MAX: Final = 512
# The least time between two collections of the youngest generation if the first did not help.
_PAUSE_MIN_S: Final = 0.005

# The event loop has only weak references to its tasks. These keep closers alive until they end.
_closing: set[asyncio.Task[None]] = set()


async def direct_resource_cleanup(instance: object, *resources: tuple[str, str, bool]) -> None:
    """Release the resources of an instance: the whole `__aexit__` of a class.

    Parameters
    ----------
    instance : object
        The owner. Each attribute named below is None afterwards.
    *resources : tuple of (str, str, bool)
        The attribute, a label for the log, and whether somebody else owns the resource. Files and maps are closed
        first, then the others one by one in the order given. References to resources with another owner, and to
        objects without a closer (a dict of arrays that view a map), are dropped before anything is closed.

    Raises
    ------
    asyncio.CancelledError
        If the caller was cancelled meanwhile, after everything has been released.
    """
    files, others = _capture(instance, resources)
    pinned = _close_files(files)  # Nothing was awaited so far.
    closed, held = await _close_others(others)
    _forced_collection.settle(pinned + closed)
    if held is not None:
        try:
            raise held
        finally:
            del held  # An exception and a frame of its traceback that refers to it are a reference cycle.


def direct_file_cleanup(instance: object, *attributes: str) -> None:
    """Release the files and maps of an instance: the whole `__exit__` or `close()` of a class.

    Parameters
    ----------
    instance : object
        The owner. Each attribute named below is None afterwards.
    *attributes : str
        Attributes with a file, a memory map, or a view of one (an array, a dict of arrays). Files and maps are
        closed in the order given. References to other objects are dropped first; those are never closed.
    """
    captured = [getattr(instance, name, None) for name in attributes]
    for name in attributes:
        setattr(instance, name, None)
    files = [resource for resource in captured if isinstance(resource, FileHandle)]
    del captured
    _forced_collection.settle(_close_files(files))


def _warn(message: str, *arguments: object) -> None:
    # A tenth of the package's import time without numpy, and most processes log nothing here.
    import logging  # noqa: PLC0415

    logging.getLogger(__name__).warning(message, *arguments, stacklevel=2)


def _capture(
    instance: object, resources: Iterable[tuple[str, str, bool]]
) -> tuple[list[FileHandle], list[tuple[object, str]]]:
    """Set the attributes to None. Return the owned resources: files and maps, and others that have a closer."""
    files: list[FileHandle] = []
    others: list[tuple[object, str]] = []
    for attribute, label, is_external in resources:
        resource = getattr(instance, attribute, None)
        if is_external:
            continue
        if isinstance(resource, FileHandle):
            files.append(resource)
        elif any(hasattr(type(resource), name) for name in _CLOSERS):
            others.append((resource, label))
    for attribute, _, _ in resources:
        setattr(instance, attribute, None)
    return files, others


def _close_files(files: list[FileHandle]) -> list[weakref.ref[object]]:
    """Close the files, emptying the list, and return weak references to maps that views keep open."""
    pinned: list[weakref.ref[object]] = []
    while files:
        if not cleanup_file_handle(handle := files.pop(0)):
            pinned.append(weakref.ref(handle))
    return pinned


async def _close_others(
    others: list[tuple[object, str]],
) -> tuple[list[weakref.ref[object]], asyncio.CancelledError | None]:
    """Close other resources, emptying the list, and return weak references and the caller's cancellation."""
    closed: list[weakref.ref[object]] = []
    first: asyncio.CancelledError | None = None
    while others:
        resource, label = others.pop(0)
        closed += [weakref.ref(resource)] if type(resource).__weakrefoffset__ else []
        held = await _close_within(resource, label, _timeout_for(resource))
        first = first or held
    return closed, first


def _timeout_for(resource: object) -> float:
    """Return the timeout in seconds for this kind of resource."""
    if hasattr(type(resource), "request"):
        return config.HTTP_CLIENT_CLEANUP_TIMEOUT
    if hasattr(type(resource), "fileno"):
        return config.FILE_CLEANUP_TIMEOUT
    return config.RESOURCE_CLEANUP_TIMEOUT


def cleanup_file_handle(handle: FileHandle) -> bool:
    """Close a file or a memory map, synchronously.

    Parameters
    ----------
    handle : mmap.mmap or io.IOBase
        The file or map. It may be closed already.

    Returns
    -------
    bool
        True if it is closed. False if views of the map are alive: they stay readable, and the memory is unmapped
        with the last view.
    """
    try:
        handle.close()
    except BufferError:
        return False
    except Exception as error:  # noqa: BLE001 - logged, and the cleanup continues
        _warn("closing %s failed: %s", type(handle).__name__, repr(error))
    return handle.closed


async def cleanup_client(client: object) -> None:
    """Close an HTTP client: one of curl_cffi, or any with `aclose` or `close`.

    Cancel and await its requests in flight first. Otherwise curl_cffi gives their callers a truncated response and
    no error.

    Parameters
    ----------
    client : object
        The client. It may be closed already. If its event loop runs in another thread, it is closed there.

    Raises
    ------
    asyncio.CancelledError
        If the caller was cancelled meanwhile, after the client was closed or its time was up.
    """
    await close_resource_with_timeout(client, "HTTP client", config.HTTP_CLIENT_CLEANUP_TIMEOUT)


async def close_resource_with_timeout(
    resource: object,
    label: str,
    timeout: float = config.RESOURCE_CLEANUP_TIMEOUT,  # noqa: ASYNC109 - nothing is raised after this time
) -> None:
    """Close one resource in its own task, within a timeout.

    Parameters
    ----------
    resource : object
        The first of `aclose`, `close` and `__aexit__` that its type has is called, and awaited if the result is
        awaitable. Its errors are logged.
    label : str
        The name of the resource in the log.
    timeout : float
        Seconds until the task is cancelled. It is left behind `config.CLEANUP_GRACE_S` later.

    Raises
    ------
    asyncio.CancelledError
        If the caller was cancelled meanwhile, after the resource was closed or its time was up.
    """
    held = await _close_within(resource, label, timeout)
    if held is not None:
        try:
            raise held
        finally:
            del held


async def _close_within(resource: object, label: str, timeout_s: float) -> asyncio.CancelledError | None:
    """Close one resource and return the caller's cancellation, if there was one meanwhile."""
    import asyncio  # noqa: PLC0415  (loaded already; readers of segments do not need it)

    task = asyncio.get_running_loop().create_task(_call_closer(resource), name=f"closing {label}")
    if task.done():  # With an eager task factory.
        _report(task)
        return None
    _closing.add(task)
    task.add_done_callback(_report)
    held = await _watch(task, timeout_s)
    if not task.done():
        task.cancel()
        later = await _watch(task, config.CLEANUP_GRACE_S)
        held = held or later
    if not task.done():
        _warn("%s is left behind: it ignores its cancellation after %g s", task.get_name(), timeout_s)
    return held


async def _watch(task: asyncio.Task[None], timeout_s: float) -> asyncio.CancelledError | None:
    """Wait for a task until a timeout, and return the first cancellation of the caller meanwhile."""
    import asyncio  # noqa: PLC0415  (loaded already; readers of segments do not need it)

    loop = asyncio.get_running_loop()
    deadline = loop.time() + timeout_s
    first: asyncio.CancelledError | None = None
    while not task.done():
        # When the time is up, the event loop gets one more turn, in which a task ends that only a stalled loop
        # delayed.
        left = max(deadline - loop.time(), 0.0)
        try:
            await asyncio.wait({task}, timeout=left)
        except asyncio.CancelledError as error:
            # The traceback would keep frames alive, and with them the resources to be released.
            first = first or error.with_traceback(None)
        if not left:
            break
    return first


async def _call_closer(resource: object) -> None:
    """Call the closer of a resource, on the event loop of the resource if that loop runs in another thread."""
    import asyncio  # noqa: PLC0415  (loaded already; readers of segments do not need it)

    if any(getattr(resource, flag, None) is True for flag in _CLOSED_FLAGS):
        return
    here, owner = asyncio.get_running_loop(), getattr(resource, "loop", None)
    if isinstance(owner, asyncio.AbstractEventLoop) and owner is not here and owner.is_running():
        await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(_call_closer(resource), owner))
        return
    name = next((name for name in _CLOSERS if callable(getattr(type(resource), name, None))), None)
    if name is None:
        return
    closer = getattr(resource, name)
    result = closer(None, None, None) if name == "__aexit__" else closer()
    if inspect.isawaitable(result):
        await result


def _report(task: asyncio.Task[None]) -> None:
    """Log the error of a closer. This retrieves its exception, so that asyncio does not report it as well."""
    _closing.discard(task)
    if task.cancelled():
        _warn("%s was cancelled before it ended", task.get_name())
    elif (error := task.exception()) is not None:
        # As text: an exception in a log record would keep its traceback and all objects of its frames alive.
        _warn("%s failed: %s", task.get_name(), repr(error))


class _ForcedCollection:
    """Garbage collection if released objects are still alive, within a share of the process's time.

    An object that is alive after its release is a suspect: it is in a reference cycle, or kept by the caller on
    purpose. The youngest generation is collected at once, and then all generations if that did not help, as long as
    collections take no more than their share of the time. Survivors move to an older generation, also those of a
    cycle that the caller is about to drop. So without time to spare, suspects wait for a collection of each
    generation until there are several. Survivors of a full collection are kept on purpose, and are not suspects.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._suspects: weakref.WeakValueDictionary[int, object] = weakref.WeakValueDictionary()
        # For each generation: the suspects that survived its collection, how many may wait for the next collection,
        # and when there is time for it.
        self._survivors = [0, 0, 0]
        self._patience = [*_PATIENCE]
        self._next_s = [-math.inf, math.inf, -math.inf]
        self._lock = threading.Lock()

    def settle(self, released: list[weakref.ref[object]]) -> None:
        """Collect garbage if a released object is alive, or an earlier suspect is left."""
        if not (released or self._suspects) or not config.ENABLE_FORCED_GC:
            return
        for reference in released:
            if (resource := reference()) is not None:
                self._suspects[id(resource)] = resource
                del resource
        # A finalizer in this collection or another thread may call this method. One collection at a time is enough.
        if not self._lock.acquire(blocking=False):
            return
        try:
            for generation in (0, 1, 2):
                if self._suspects and self._is_due(generation):
                    self._collect(generation)
        finally:
            self._lock.release()

    def _is_due(self, generation: int) -> bool:
        count = len(self._suspects)
        self._survivors = [min(survivors, count) for survivors in self._survivors]
        candidates = self._survivors[generation - 1] if generation else count
        waiting = candidates - self._survivors[generation]
        return waiting >= self._patience[generation] or self._clock() >= self._next_s[generation]

    def _collect(self, generation: int) -> None:
        count, start_s = len(self._suspects), self._clock()
        gc.collect(generation)
        end_s, is_full = self._clock(), generation == 2
        is_fruitful = len(self._suspects) < count
        if is_full:
            self._suspects.clear()
        self._survivors[: generation + 1] = [len(self._suspects)] * (generation + 1)
        if is_fruitful:
            self._patience[2] = _PATIENCE[2]
        elif is_full:
            self._patience[2] = min(2 * self._patience[2], _PATIENCE_MAX)
        if is_full or (generation == 0 and self._suspects):
            pause_s = (end_s - start_s) * (1 / config.FORCED_GC_TIME_SHARE - 1)
            self._next_s[generation] = end_s + max(pause_s, _PAUSE_MIN_S)


_forced_collection: Final = _ForcedCollection()

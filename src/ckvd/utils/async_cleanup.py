"""The release pattern, once: how everything that holds a file, a memory map or a client lets go of it.

An `__aexit__` is `await direct_resource_cleanup(self, ("_client", "HTTP client", self._client_is_external))`,
an `__exit__` is `direct_file_cleanup(self, "_columns", "_map")`, and both keep the same order:

1. Every reference is captured, then every attribute is None. Nothing is awaited above this line, so leaving
   twice, at the same time or without having entered finds nothing to do.
2. Files and maps are closed, synchronously.
3. Everything else is closed in the order given, each in a task of its own and within its timeout.
4. What fails is logged and goes no further. The caller's own cancellation is no failure: it is held until the
   step's time is spent, and raised when all is done.
5. Garbage is collected where something that was released is seen to be alive still.

The invariant: nothing here raises because a resource could not be closed, nothing waits longer than its timeout
and the grace, and nothing keeps a reference to what it released; only a closer that is still running is kept.
Of the project, `config` is all that is imported.
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

# In this order, and on the type: a mock, or a proxy, has every attribute one asks its instance for.
_CLOSERS: Final = ("aclose", "close", "__aexit__")
_CLOSED_FLAGS: Final = ("closed", "is_closed", "_closed")

# How many suspects may wait for each generation: together they bound the descriptors of garbage. Most wait for the
# youngest, as collecting ages what is in use; up to the maximum for a full one that was seen to free nothing.
_PATIENCE: Final = (24, 12, 12)
_PATIENCE_MAX: Final = 512
# How long the youngest generation is left alone at least, after it was collected and did not help.
_PAUSE_MIN_S: Final = 0.005

# The event loop refers to its tasks weakly. Here a closer stays alive until it has ended.
_closing: set[asyncio.Task[None]] = set()


async def direct_resource_cleanup(instance: object, *resources: tuple[str, str, bool]) -> None:
    """Release what an instance holds: the whole `__aexit__` of a class.

    Parameters
    ----------
    instance : object
        The object that is left. Each attribute named below is None afterwards.
    *resources : tuple of (str, str, bool)
        The attribute, a label for the log, and whether it was handed in from outside. Files and maps are closed
        first, the others one after the other in the order given. What came from outside, and what has nothing to
        close (a dict of arrays that view a map), is dropped before anything is closed.

    Raises
    ------
    asyncio.CancelledError
        When the caller was cancelled meanwhile, after everything has been released.
    """
    files, others = _capture(instance, resources)
    pinned = _close_files(files)  # Nothing was awaited so far.
    closed, held = await _close_others(others)
    _forced_collection.settle(pinned + closed)
    if held is not None:
        try:
            raise held
        finally:
            del held  # A frame that an exception came through, and that names it, is a reference cycle.


def direct_file_cleanup(instance: object, *attributes: str) -> None:
    """Release the files and maps that an instance holds: the whole `__exit__` or `close()` of a class.

    Parameters
    ----------
    instance : object
        The object that is left. Each attribute named below is None afterwards.
    *attributes : str
        Attributes with a file, a memory map, or what views one (an array, a dict of arrays). Files and maps are
        closed in the order given; all else is dropped before that, and never closed.
    """
    captured = [getattr(instance, name, None) for name in attributes]
    for name in attributes:
        setattr(instance, name, None)
    files = [resource for resource in captured if isinstance(resource, FileHandle)]
    del captured
    _forced_collection.settle(_close_files(files))


def _warn(message: str, *arguments: object) -> None:
    import logging  # noqa: PLC0415  (a tenth of what importing the package adds to numpy, for nothing in most processes)

    logging.getLogger(__name__).warning(message, *arguments, stacklevel=2)


def _capture(
    instance: object, resources: Iterable[tuple[str, str, bool]]
) -> tuple[list[FileHandle], list[tuple[object, str]]]:
    """Take what is owned and can be closed out of the instance: files and maps, and the rest with its labels."""
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
    """Close the files, emptying the list, and return weak references to those that are still pinned."""
    pinned: list[weakref.ref[object]] = []
    while files:
        if not cleanup_file_handle(handle := files.pop(0)):
            pinned.append(weakref.ref(handle))
    return pinned


async def _close_others(
    others: list[tuple[object, str]],
) -> tuple[list[weakref.ref[object]], asyncio.CancelledError | None]:
    """Close the rest, emptying the list, and return weak references to it and the cancellation that came."""
    closed: list[weakref.ref[object]] = []
    first: asyncio.CancelledError | None = None
    while others:
        resource, label = others.pop(0)
        closed += [weakref.ref(resource)] if type(resource).__weakrefoffset__ else []
        held = await _close_within(resource, label, _timeout_for(resource))
        first = first or held
    return closed, first


def _timeout_for(resource: object) -> float:
    """Return the seconds that the kind of the resource is allowed."""
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
        What to close. A closed one is left as it is.

    Returns
    -------
    bool
        True when it is released. False when views of it are alive: they stay readable, and the memory is
        unmapped when the last one goes.
    """
    try:
        handle.close()
    except BufferError:
        return False
    except Exception as error:  # noqa: BLE001 - whatever a file raises, leaving goes on; it is logged
        _warn("closing %s failed: %s", type(handle).__name__, repr(error))
    return handle.closed


async def cleanup_client(client: object) -> None:
    """Close an HTTP client: one of curl_cffi, or any with `aclose` or `close`.

    Its requests in flight have to be cancelled and awaited before: curl_cffi hands a caller who still waits for
    one a truncated response and no error.

    Parameters
    ----------
    client : object
        What to close. A client that is closed is left as it is, and one whose loop runs in another thread is
        closed over there.

    Raises
    ------
    asyncio.CancelledError
        When the caller was cancelled meanwhile, after the client was closed or its time was up.
    """
    await close_resource_with_timeout(client, "HTTP client", config.HTTP_CLIENT_CLEANUP_TIMEOUT)


async def close_resource_with_timeout(
    resource: object,
    label: str,
    timeout: float = config.RESOURCE_CLEANUP_TIMEOUT,  # noqa: ASYNC109 - a budget, not a deadline that raises
) -> None:
    """Close one resource in a task of its own, within a time.

    Parameters
    ----------
    resource : object
        What to close: the first of `aclose`, `close` and `__aexit__` that its type has is called, and awaited if
        there is something to await. What it raises is logged.
    label : str
        What the log calls it.
    timeout : float
        Seconds until it is cancelled; `config.CLEANUP_GRACE_S` more until it is left behind.

    Raises
    ------
    asyncio.CancelledError
        When the caller was cancelled meanwhile: after the resource was closed, or its time was up.
    """
    held = await _close_within(resource, label, timeout)
    if held is not None:
        try:
            raise held
        finally:
            del held


async def _close_within(resource: object, label: str, timeout_s: float) -> asyncio.CancelledError | None:
    """Close one resource and return the caller's cancellation, if it came meanwhile."""
    import asyncio  # noqa: PLC0415  (whoever closes asynchronously has loaded it; who only reads need not)

    task = asyncio.get_running_loop().create_task(_call_closer(resource), name=f"closing {label}")
    if task.done():  # An eager task factory has run it to its end.
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
    """Wait for a task, but no longer than a time, and return the first cancellation that came meanwhile."""
    import asyncio  # noqa: PLC0415  (whoever closes asynchronously has loaded it; who only reads need not)

    loop = asyncio.get_running_loop()
    deadline = loop.time() + timeout_s
    first: asyncio.CancelledError | None = None
    while not task.done():
        # Once the time is up the loop gets one more turn: if something had stalled it, a healthy task ends now.
        left = max(deadline - loop.time(), 0.0)
        try:
            await asyncio.wait({task}, timeout=left)
        except asyncio.CancelledError as error:
            # Its traceback would pin the frames it passed through, and with them what is being released.
            first = first or error.with_traceback(None)
        if not left:
            break
    return first


async def _call_closer(resource: object) -> None:
    """Call the closer of a resource, on the loop that the resource belongs to if that one runs elsewhere."""
    import asyncio  # noqa: PLC0415  (whoever closes asynchronously has loaded it; who only reads need not)

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
    """Read how a closer ended, so that nobody else complains about it, and log what went wrong."""
    _closing.discard(task)
    if task.cancelled():
        _warn("%s was cancelled before it ended", task.get_name())
    elif (error := task.exception()) is not None:
        # As text: a log record that keeps the exception keeps its traceback, and all that its frames name.
        _warn("%s failed: %s", task.get_name(), repr(error))


class _ForcedCollection:
    """Collects garbage on evidence, and no more often than can be afforded.

    What lives on after its release is a suspect: it is in a reference cycle, or kept by the caller on purpose.
    The youngest generation is collected at once, and all of them if that did not help, each as long as it takes
    but a share of the time. Whatever is alive then, also a cycle that the caller is about to let go of, moves to
    an older generation. So when there is no time, suspects wait for each generation until they are a handful.
    What survives a full collection is kept on purpose, and no suspect any more.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._suspects: weakref.WeakValueDictionary[int, object] = weakref.WeakValueDictionary()
        # For each generation: how many suspects survived it, how many may wait for it, and when it has time again.
        self._survivors = [0, 0, 0]
        self._patience = [*_PATIENCE]
        self._next_s = [-math.inf, math.inf, -math.inf]
        self._lock = threading.Lock()

    def settle(self, released: list[weakref.ref[object]]) -> None:
        """Collect if something that was released is alive, or a suspect is left from before."""
        if not (released or self._suspects) or not config.ENABLE_FORCED_GC:
            return
        for reference in released:
            if (resource := reference()) is not None:
                self._suspects[id(resource)] = resource
                del resource
        # A finalizer that the collector runs may come back here, and so may another thread: one is enough.
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

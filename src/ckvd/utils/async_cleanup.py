"""The release of files, memory maps and clients. Every object that owns one uses this module.

An `__aexit__` is `await direct_resource_cleanup(self, ("_client", "HTTP client", self._client_is_external))`,
an `__exit__` is `direct_file_cleanup(self, "_columns", "_map")`. Both keep the same order:

1. Capture every reference, then set every attribute to None. There is no `await` above this line, so an exit that
   is repeated, concurrent, or without entry finds nothing to do.
2. Close files, maps and all else that closes synchronously, before anything is awaited. A map that is still viewed
   gives its memory back.
3. Close all other resources in the order given, each in its own task and within its timeout.
4. Log errors and continue. The caller's cancellation is not an error: it is deferred until the step's time is up,
   and raised when everything is done.
5. Collect garbage if a released object is still alive: see `ForcedCollection`.

The invariant: nothing here raises because a resource cannot be closed, nothing waits longer than its timeout and
the grace, and nothing keeps a reference to a released object, except to a closer that is still running. The first
two steps need no event loop, so an object that holds only files can be left in any. Of the project, only `config`
is imported.

Errors are logged as warnings, each step at DEBUG. Where nobody listens at DEBUG, a step costs a tenth of a
microsecond more. The `logging` module takes a tenth of the package's import time without numpy, so it is imported
only to report an error, or once somebody else has imported it.
"""

from __future__ import annotations

import functools
import gc
import inspect
import io
import math
import mmap
import sys
import threading
import time
import weakref
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from ckvd.utils import config

if TYPE_CHECKING:
    import asyncio
    import logging
    from collections.abc import Awaitable, Callable, Generator, Iterable

    Alive = weakref.WeakValueDictionary[int, object]

FileHandle: TypeAlias = mmap.mmap | io.IOBase
# The same, for `isinstance`: it takes long with an abstract class.
_FILE_TYPES: Final[tuple[Any, ...]] = (mmap.mmap, io.IOBase.__base__)

# Looked up in this order, and on the type: instances of mocks and proxies have every attribute.
_CLOSERS: Final = ("aclose", "close", "__aexit__")
_CLOSED_FLAGS: Final = ("closed", "is_closed", "_closed")
_GIVE_BACK: Final[int | None] = getattr(mmap, "MADV_DONTNEED", None) if sys.platform == "linux" else None

LOGGER_NAME: Final = "ckvd.utils.async_cleanup"
_DEBUG: Final = 10

# The event loop has only weak references to its tasks. These keep closers alive until they end.
_closing: set[asyncio.Task[None]] = set()


# --- The exits ---------------------------------------------------------------------------------------------


async def direct_resource_cleanup(instance: object, *resources: tuple[str, str, bool]) -> None:
    """Release the resources of an instance: the whole `__aexit__` of a class.

    Parameters
    ----------
    instance : object
        The owner. Each attribute named below is None afterwards.
    *resources : tuple of (str, str, bool)
        The attribute, a label for the log, and whether somebody else owns the resource. Files, maps and all else
        that closes synchronously are closed first, then the others one by one in the order given. References to
        resources with another owner, and to objects without a closer (a dict of arrays that view a map), are
        dropped before anything is closed.

    Raises
    ------
    asyncio.CancelledError
        If the caller was cancelled meanwhile, after everything has been released.
    """
    logger = listener()
    files, others = _capture(instance, resources)
    if logger is not None:
        logger.debug("%s: captured %s", type(instance).__name__, _labels_of(files, others))
    pinned = _close_files(files, others, logger)  # Nothing was awaited so far.
    closed, held = await _close_others(others)
    settle(pinned + closed)
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
        Attributes with a file, a memory map, something else that closes synchronously, or a view of a map (an
        array, a dict of arrays). What can be closed is closed in the order given. References to other objects are
        dropped first; those are never closed.
    """
    logger = listener()
    captured = [(getattr(instance, name, None), name) for name in attributes]
    for name in attributes:
        setattr(instance, name, None)
    files = [(resource, name) for resource, name in captured if resource is not None and _is_file(resource)]
    del captured
    if logger is not None:
        logger.debug("%s: captured %s", type(instance).__name__, _labels_of(files, []))
    settle(_close_files(files, [], logger))


def exit_budget_s(instance: object, *resources: tuple[str, str, bool]) -> float:
    """The longest that `direct_resource_cleanup` takes with these resources, in seconds.

    An object that is left this way is given this time if it is a resource of another one. So a session may take as
    long as ever, however deep its client is held.
    """
    budget_s = config.CLEANUP_GRACE_S
    for attribute, _, is_external in resources:
        resource = getattr(instance, attribute, None)
        if not is_external and _has_closer(resource) and not _is_file(resource):
            budget_s += _timeout_for(resource) + config.CLEANUP_GRACE_S
    return budget_s


# --- Capturing ---------------------------------------------------------------------------------------------


def _capture(
    instance: object, resources: Iterable[tuple[str, str, bool]]
) -> tuple[list[tuple[Any, str]], list[tuple[object, str]]]:
    """Set the attributes to None. Return the owned resources: files and the like, and others that have a closer."""
    files: list[tuple[Any, str]] = []
    others: list[tuple[object, str]] = []
    for attribute, label, is_external in resources:
        resource = getattr(instance, attribute, None)
        if is_external or resource is None:
            continue
        if _is_file(resource):
            files.append((resource, label))
        elif _has_closer(resource):
            others.append((resource, label))
    for attribute, _, _ in resources:
        setattr(instance, attribute, None)
    return files, others


def _labels_of(files: list[tuple[Any, str]], others: list[tuple[object, str]]) -> str:
    return ", ".join(label for _, label in (*files, *others)) or "nothing"


def _is_file(resource: object) -> bool:
    """Whether a resource is closed in the synchronous step.

    That is a file, a map, or all else whose type has a `close` that is not a coroutine function, and no `aclose`.
    An HTTP client is not: its requests have to end before. Neither is what belongs to an event loop.
    """
    if isinstance(resource, _FILE_TYPES):
        return True
    kind = type(resource)
    closer = getattr(kind, "close", None)
    return (
        closer is not None
        and callable(closer)
        and not inspect.iscoroutinefunction(closer)
        and not any(callable(getattr(kind, name, None)) for name in ("aclose", "request"))
        and _loop_of(resource) is None
    )


def _has_closer(resource: object) -> bool:
    return any(callable(getattr(type(resource), name, None)) for name in _CLOSERS)


# --- Files -------------------------------------------------------------------------------------------------


class FileCleanup(int):
    """Whether a handle is closed: true or false, equal to True or False, and `await` returns it as a bool.

    Where the handle can only be closed asynchronously, awaiting this closes it.
    """

    _late: _Closing | None = None

    def __await__(self) -> Generator[Any, None, bool]:
        if (late := self._late) is None:
            return bool(self)
        label, timeout_s = type(late.handle).__name__, config.FILE_CLEANUP_TIMEOUT
        yield from close_resource_with_timeout(late, label, timeout_s).__await__()
        return late.has_ended

    def __repr__(self) -> str:
        return repr(bool(self))


def cleanup_file_handle(handle: object) -> FileCleanup:
    """Close a file, a memory map or the like, synchronously. Awaiting the result is allowed and changes nothing.

    Parameters
    ----------
    handle : object
        A file, a `mmap.mmap`, a socket, a `zipfile.ZipFile`: anything with a `close`. It may be closed already. An
        asynchronous file, whose `close` returns an awaitable, is closed by awaiting the result, within
        `config.FILE_CLEANUP_TIMEOUT`. None is closed.

    Returns
    -------
    FileCleanup
        True if it is closed. False if views of the map are alive: they stay readable, and the memory is unmapped
        with the last view. Also False for what cannot be closed: an error is logged, and a `numpy.memmap` is itself
        a view, whose map must not be closed under it.
    """
    outcome = _close_now(handle, type(handle).__name__, listener())
    if isinstance(outcome, bool):
        return FileCleanup(outcome)
    cleanup = FileCleanup()
    cleanup._late = _Closing(handle, outcome)  # noqa: SLF001  (both belong to this module)
    return cleanup


def give_back(mapped: mmap.mmap) -> None:
    """Tell the kernel that the memory of a map is not needed for now (Linux). A kernel that refuses does nothing.

    Views stay valid: pages that are used again are mapped again. Only a read-only map is given back, because the
    changes to a private one would be lost.
    """
    if _GIVE_BACK is None:
        return
    try:
        with memoryview(mapped) as view:
            if view.readonly:
                mapped.madvise(_GIVE_BACK)
    except (OSError, ValueError):
        return


def _close_files(
    files: list[tuple[Any, str]], others: list[tuple[object, str]], logger: logging.Logger | None
) -> list[weakref.ref[object]]:
    """Close the files, emptying the list, and return weak references to those that may still hold something.

    What turns out to be closed asynchronously is put before the others.
    """
    pinned: list[weakref.ref[object]] = []
    late: list[tuple[object, str]] = []
    while files:
        handle, label = files.pop(0)
        outcome = _close_now(handle, label, logger)
        if outcome is True and isinstance(handle, _FILE_TYPES):
            continue
        if not isinstance(outcome, bool):
            late.append((_Closing(handle, outcome), label))
        elif type(handle).__weakrefoffset__:
            pinned.append(weakref.ref(handle))
    if late:
        others[:0] = late
    return pinned


def _close_now(handle: Any, label: str, logger: logging.Logger | None) -> bool | Awaitable[object]:
    """Close a handle, and return whether it is closed, or what has to be awaited until it is."""
    start_s = time.perf_counter() if logger is not None else 0.0
    try:
        if isinstance(handle, _FILE_TYPES):
            handle.close()
            outcome: bool | Awaitable[object] = True
        else:
            outcome = _close_other_kind(handle)
    except BufferError:
        if isinstance(handle, mmap.mmap):
            give_back(handle)
        if logger is not None:
            logger.debug("%s is pinned: views of it are alive, and it is unmapped with the last", label)
        return False
    except Exception as error:  # noqa: BLE001 - logged, and the cleanup continues
        warn("closing %s failed: %s", label, repr(error))
        return isinstance(handle, _FILE_TYPES) and bool(handle.closed)
    if logger is not None:
        logger.debug("closed %s in %.3f ms", label, (time.perf_counter() - start_s) * 1e3)
    return outcome


def _close_other_kind(handle: Any) -> bool | Awaitable[object]:
    """`_close_now` for what is neither a map nor a file of `io`. It may raise anything."""
    if handle is None:
        return True
    if not callable(getattr(type(handle), "close", None)):
        return False
    if not _says_closed(handle):
        result = handle.close()
        if inspect.isawaitable(result):
            return result
    # A socket that was closed is still open as long as a file made of it.
    return getattr(handle, "closed", True) is not False and not _has_descriptor(handle)


def _has_descriptor(handle: Any) -> bool:
    try:
        return callable(getattr(type(handle), "fileno", None)) and bool(handle.fileno() >= 0)
    except Exception:  # noqa: BLE001 - a closed file has none
        return False


def _says_closed(resource: object) -> bool:
    return any(getattr(resource, flag, None) is True for flag in _CLOSED_FLAGS)


class _Closing:
    """Something that has begun to close, and has to be awaited."""

    def __init__(self, handle: object, closing: Awaitable[object]) -> None:
        self.handle = handle
        self.has_ended = False
        self._closing = closing

    @property
    def cleanup_budget_s(self) -> float:
        """What the handle itself would get."""
        return _timeout_for(self.handle)

    async def aclose(self) -> None:
        """Wait for the end."""
        await self._closing
        self.has_ended = True


# --- Other resources ---------------------------------------------------------------------------------------


async def _close_others(
    others: list[tuple[object, str]],
) -> tuple[list[weakref.ref[object]], asyncio.CancelledError | None]:
    """Close other resources, emptying the list, and return weak references and the caller's cancellation."""
    closed: list[weakref.ref[object]] = []
    if not others:
        return closed, None
    import asyncio  # noqa: PLC0415  (readers of segments do not need it)

    first: asyncio.CancelledError | None = None
    while others:
        resource, label = others.pop(0)
        closed += [weakref.ref(resource)] if type(resource).__weakrefoffset__ else []
        try:
            if _is_client(resource):
                await cleanup_client(resource, label)
            else:
                await close_resource_with_timeout(resource, label)
        except asyncio.CancelledError as error:
            # The traceback would keep frames alive, and with them the resources to be released.
            first = first or error.with_traceback(None)
    return closed, first


def _is_client(resource: object) -> bool:
    return callable(getattr(type(resource), "request", None))


def _timeout_for(resource: object) -> float:
    """Return the timeout in seconds for a resource: that of its kind, or its own budget if that is longer."""
    if _is_client(resource):
        usual_s = config.HTTP_CLIENT_CLEANUP_TIMEOUT
    elif callable(getattr(type(resource), "fileno", None)):
        usual_s = config.FILE_CLEANUP_TIMEOUT
    else:
        usual_s = config.RESOURCE_CLEANUP_TIMEOUT
    # What is left through `direct_resource_cleanup` itself has resources with timeouts of their own.
    is_nested = hasattr(type(resource), "cleanup_budget_s")
    return max(usual_s, resource.cleanup_budget_s) if is_nested else usual_s  # type: ignore[attr-defined]


async def cleanup_client(client: object, label: str = "HTTP client") -> None:
    """Close an HTTP client: one of curl_cffi, or any with `aclose` or `close`.

    Cancel and await its requests in flight first. Otherwise curl_cffi gives their callers a truncated response and
    no error.

    Parameters
    ----------
    client : object
        The client. It may be closed already. If its event loop runs in another thread, it is closed there.
    label : str
        Its name in the log.

    Raises
    ------
    asyncio.CancelledError
        If the caller was cancelled meanwhile, after the client was closed or its time was up.
    """
    timeout_s = max(config.HTTP_CLIENT_CLEANUP_TIMEOUT, _timeout_for(client))
    await close_resource_with_timeout(client, label, timeout_s)


async def close_resource_with_timeout(
    resource: object,
    label: str,
    timeout: float | None = None,  # noqa: ASYNC109 - nothing is raised after this time
) -> None:
    """Close one resource in its own task, within a timeout.

    Parameters
    ----------
    resource : object
        The first of `aclose`, `close` and `__aexit__` that its type has is called, and awaited if the result is
        awaitable. Its errors are logged.
    label : str
        The name of the resource in the log.
    timeout : float, optional
        Seconds until the task is cancelled. It is left behind `config.CLEANUP_GRACE_S` later. The default is the
        timeout of its kind, see `config`; one that holds resources itself gets the time that all of them may take.

    Raises
    ------
    asyncio.CancelledError
        If the caller was cancelled meanwhile, after the resource was closed or its time was up.
    """
    held = await _close_within(resource, label, _timeout_for(resource) if timeout is None else timeout)
    if held is not None:
        try:
            raise held
        finally:
            del held


async def _close_within(resource: object, label: str, timeout_s: float) -> asyncio.CancelledError | None:
    """Close one resource and return the caller's cancellation, if there was one meanwhile."""
    import asyncio  # noqa: PLC0415  (loaded already; readers of segments do not need it)

    if not is_asyncio_running():
        _close_without_loop(resource, label)
        return None
    task = asyncio.get_running_loop().create_task(_call_closer(resource, label), name=f"closing {label}")
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
        warn("%s is left behind: it ignores its cancellation after %g s", task.get_name(), timeout_s)
    return held


def is_asyncio_running() -> bool:
    """Whether an event loop of asyncio runs in this thread, so that something can be awaited for a bounded time."""
    import asyncio  # noqa: PLC0415  (loaded already; readers of segments do not need it)

    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


def _close_without_loop(resource: object, label: str) -> None:
    """Close one resource where asyncio does not run: all that its closer does before it waits for something."""
    closing = _call_closer(resource, label)
    try:
        closing.send(None)
    except StopIteration:
        return
    except Exception as error:  # noqa: BLE001 - logged, and the cleanup continues
        warn("closing %s failed: %s", label, repr(error))
        return
    closing.close()
    warn("closing %s was given up: it waits, and asyncio does not run here", label)


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
            first = first or error
        if not left:
            break
    return first


async def _call_closer(resource: object, label: str) -> None:
    """Call the closer of a resource, on the event loop of the resource if that loop runs in another thread."""
    if _says_closed(resource):
        return
    if (owner := _other_loop(resource)) is not None:
        import asyncio  # noqa: PLC0415  (loaded already; readers of segments do not need it)

        await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(_call_closer(resource, label), owner))
        return
    name = next((name for name in _CLOSERS if callable(getattr(type(resource), name, None))), None)
    if name is None:
        return
    logger = listener()
    start_s = time.perf_counter() if logger is not None else 0.0
    closer = getattr(resource, name)
    result = closer(None, None, None) if name == "__aexit__" else closer()
    if inspect.isawaitable(result):
        await result
    if logger is not None:
        logger.debug("closed %s in %.3f ms", label, (time.perf_counter() - start_s) * 1e3)


def _loop_of(resource: object) -> Any:
    try:
        return getattr(resource, "loop", None)
    except Exception:  # noqa: BLE001 - a property of somebody else's class
        return None


def _other_loop(resource: object) -> asyncio.AbstractEventLoop | None:
    """The event loop that a resource belongs to, if it runs elsewhere than here."""
    import asyncio  # noqa: PLC0415  (loaded already; readers of segments do not need it)

    owner = _loop_of(resource)
    if not isinstance(owner, asyncio.AbstractEventLoop) or not owner.is_running():
        return None
    return None if is_asyncio_running() and owner is asyncio.get_running_loop() else owner


def _report(task: asyncio.Task[None]) -> None:
    """Log the error of a closer. This retrieves its exception, so that asyncio does not report it as well."""
    _closing.discard(task)
    if task.cancelled():
        warn("%s was cancelled before it ended", task.get_name())
    elif (error := task.exception()) is not None:
        # As text: an exception in a log record would keep its traceback and all objects of its frames alive.
        warn("%s failed: %s", task.get_name(), repr(error))


# --- Forced collection -------------------------------------------------------------------------------------------

# How many suspects may wait for a collection of each young generation. The youngest has the larger number, because
# each collection moves objects in use to an older generation. Young collections look at what was allocated since
# the last one, so together they look at each object twice, and need no share of the time.
_PATIENCE: Final = (24, 12)
# The least time between two collections of the youngest generation if the first did not help.
_PAUSE_MIN_S: Final = 0.005
# What a full collection takes for each allocated block of memory, until one was measured.
_BLOCK_COST_S: Final = 50e-9
# So few more cannot be an eighth of what a process may have.
_FEW: Final = 8
# Linux allows so many maps unless it is told otherwise.
_MAPS_MAX: Final = 65_530


class _Supply:
    """Something of which a process may have only so many, and the released objects that still hold one.

    Parameters
    ----------
    capacity : callable
        How many the process may have.
    """

    def __init__(self, capacity: Callable[[], int]) -> None:
        self.holders: Alive = weakref.WeakValueDictionary()
        self._capacity = capacity
        self._kept_count = 0

    def is_short(self) -> bool:
        """Whether so many are held that a collection cannot wait."""
        count = len(self.holders)
        if count - self._kept_count < _FEW:
            return False
        capacity = self._capacity()
        return count >= capacity // 4 and count - self._kept_count >= capacity // 8

    def count_kept(self) -> None:
        """After a full collection, all that is held is in use."""
        self._kept_count = len(self.holders)


@functools.cache
def map_capacity() -> int:
    """How many memory maps a process may have."""
    try:
        # As bytes: at the end of the interpreter, text can no longer be decoded.
        return int(Path("/proc/sys/vm/max_map_count").read_bytes())
    except (OSError, ValueError):
        return _MAPS_MAX


def descriptor_capacity() -> int:
    """How many file descriptors this process may have open."""
    try:
        import resource  # noqa: PLC0415  (reading needs it only when many files are held)
    except ImportError:  # At the end of the interpreter nothing can be imported, and all is about to be released.
        return _MAPS_MAX
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return _MAPS_MAX if soft == resource.RLIM_INFINITY else soft


def _holds_descriptor(suspect: object) -> bool:
    """Whether a released object may still have a file descriptor. A map has none with `trackfd=False`."""
    if not isinstance(suspect, mmap.mmap):
        return True
    try:
        suspect.size()
    except (OSError, ValueError):
        return False
    return True


class ForcedCollection:
    """Collects garbage if released objects are still alive: `settle`, called at the end of each release.

    An object that is alive after its release is a suspect: it is in a reference cycle, or kept by the caller on
    purpose. Only a collection tells which. Two things are wanted, and either alone would be easy:

    - **The share**: forced full collections take at most `FORCED_GC_TIME_SHARE` of the time. They may be ahead
      of it by `FORCED_GC_ADVANCE_S`, which a collection of a usual heap is: it happens at once, and no other
      before the share has caught up. One of a larger heap happens when suspects have waited for the rest of its
      time. So results that are kept on purpose cost their share and no more, however many objects are alive.
    - **The guarantee**: garbage does not use up the file descriptors and memory maps of the process.

    Both hold while the share leaves time for a full collection after each suspect that the young ones did not
    free. Otherwise suspects wait, up to a limit: once released maps that are alive take a quarter of the maps
    or descriptors that the process may have, the share gives way. A full collection then happens whatever it
    costs, because a process without descriptors cannot go on, and a slow one can. The next that breaks the
    share happens when an eighth more is taken than the last one left. So maps that are kept on purpose break
    the share six times at most before the process has no more, and the guarantee holds as long as the caller
    keeps less than seven eighths of them.

    Parameters
    ----------
    clock : callable
        Seconds by a monotonic clock.
    maps, descriptors : callable
        How many of them the process may have.
    blocks : callable
        How many blocks of memory are allocated. A full collection is expected to take a time in proportion.
    """

    def __init__(
        self,
        clock: Callable[[], float] = time.monotonic,
        maps: Callable[[], int] = map_capacity,
        descriptors: Callable[[], int] = descriptor_capacity,
        blocks: Callable[[], int] = sys.getallocatedblocks,
    ) -> None:
        self._clock = clock
        self._blocks = blocks
        # What no full collection has looked at yet. What survives one is in use, and no suspect.
        self._suspects: Alive = weakref.WeakValueDictionary()
        self._maps, self._descriptors = _Supply(maps), _Supply(descriptors)
        # The suspects that survived a collection of each young generation.
        self._survivors = [0, 0]
        self._next_young_s = -math.inf
        # The time that full collections may take, earned up to a moment. Negative if they are ahead of their share.
        self._credit_s = 0.0
        self._earned_until_s = clock()
        # What the next full collection is expected to take.
        self._cost_s = 0.0
        self._block_cost_s = _BLOCK_COST_S
        self._lock = threading.Lock()

    def settle(self, released: Iterable[weakref.ref[object]]) -> None:
        """Collect garbage if a released object is alive, or an earlier suspect is left."""
        if not (released or self._suspects) or not config.ENABLE_FORCED_GC:
            return
        before_count = len(self._suspects)
        for reference in released:
            if (resource := reference()) is not None:
                self._suspect(resource)
                del resource
        # A finalizer in this collection or another thread may call this method. One collection at a time is enough.
        if not self._suspects or not self._lock.acquire(blocking=False):
            return
        try:
            now_s = self._clock()
            if before_count < self._survivors[0]:
                self._survivors = [min(survivors, before_count) for survivors in self._survivors]
            self._earn(now_s, most_s=self._needed_s() if before_count else 0.0)
            if len(self._suspects) - self._survivors[0] >= _PATIENCE[0] or now_s >= self._next_young_s:
                self._collect(0)
            if self._survivors[0] - self._survivors[1] >= _PATIENCE[1]:
                self._collect(1)
            if self._suspects and self._is_full_due():
                self._collect(2)
        finally:
            self._lock.release()

    def _suspect(self, resource: object) -> None:
        self._suspects[id(resource)] = resource
        if isinstance(resource, mmap.mmap):
            self._maps.holders[id(resource)] = resource
        if _holds_descriptor(resource):
            self._descriptors.holders[id(resource)] = resource

    def _earn(self, now_s: float, most_s: float) -> None:
        """Earn a share of the time since the last call, and save no more than the most that is of use."""
        earned_s = self._credit_s + config.FORCED_GC_TIME_SHARE * (now_s - self._earned_until_s)
        self._credit_s, self._earned_until_s = min(earned_s, most_s), now_s

    def _needed_s(self) -> float:
        """The credit that the next full collection needs."""
        return max(self._cost_s - config.FORCED_GC_ADVANCE_S, 0.0)

    def _is_full_due(self) -> bool:
        if self._credit_s >= self._needed_s():
            # The heap may have grown since. Counting its blocks takes a thousandth of collecting it.
            self._cost_s = self._block_cost_s * self._blocks()
            if self._credit_s >= self._needed_s():
                return True
        return self._maps.is_short() or self._descriptors.is_short()

    def _collect(self, generation: int) -> None:
        count, start_s = len(self._suspects), self._clock()
        gc.collect(generation)
        end_s, left_count = self._clock(), len(self._suspects)
        took_s = end_s - start_s
        if (logger := listener()) is not None:
            logger.debug(
                "forced collection of generation %d: %.3f ms, %d of %d released objects freed",
                generation, took_s * 1e3, count - left_count, count,
            )  # fmt: skip
        if generation == 2:
            self._credit_s -= took_s
            self._block_cost_s = took_s / self._blocks()
            self._cost_s = took_s
            self._suspects = weakref.WeakValueDictionary()
            self._survivors = [0, 0]
            self._maps.count_kept()
            self._descriptors.count_kept()
            return
        self._survivors[: generation + 1] = [left_count] * (generation + 1)
        if generation == 0 and left_count:
            pause_s = took_s * (1 / config.FORCED_GC_TIME_SHARE - 1)
            self._next_young_s = end_s + max(pause_s, _PAUSE_MIN_S)


settle: Final = ForcedCollection().settle


# --- The log -----------------------------------------------------------------------------------------------------


@functools.cache
def _logger() -> logging.Logger:
    import logging  # noqa: PLC0415  (see the module's docstring)

    return logging.getLogger(LOGGER_NAME)


def listener() -> logging.Logger | None:
    """The logger if somebody listens at DEBUG, else None. Ask before a step is described or timed."""
    if "logging" not in sys.modules:
        return None  # Nobody can have asked for anything.
    logger = _logger()
    return logger if logger.isEnabledFor(_DEBUG) else None


def warn(message: str, *arguments: object) -> None:
    """Log an error that goes no further."""
    _logger().warning(message, *arguments, stacklevel=2)

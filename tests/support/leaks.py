"""What a test may leave behind: nothing. Snapshots of a process, and what grew between two of them.

Descriptors, file-backed memory maps, threads and asyncio tasks are compared; errors on the `asyncio` logger and
exceptions that nobody could raise (finalizers, coroutines never awaited under `-W error`) are overheard. Growth
that happens once in a process is not a leak: shared libraries, and the pipe of multiprocessing's tracker.

It needs nothing but the standard library, so that a script in a subprocess can use it as well:

    with leaks.watch() as watch:
        ...
    assert not watch.findings
"""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import sys
import threading
import weakref
from collections import Counter
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

# A thread that was told to end may take this long to do so.
THREAD_JOIN_S = 1.0

_SYSTEM_FOLDERS = (b"/usr/lib", b"/usr/share", b"/lib", *(os.fsencode(p) for p in {sys.prefix, sys.base_prefix}))


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What a process holds."""

    descriptors: dict[int, str]
    maps: Counter[str]
    threads: frozenset[threading.Thread]
    tasks: weakref.WeakSet[asyncio.Task[Any]]


@dataclass(slots=True)
class Watch:
    """What was held at the start, what was overheard since, and at the end what is left too much."""

    before: Snapshot
    overheard: list[str] = field(default_factory=list)
    findings: list[str] = field(default_factory=list)

    def finish(self) -> None:
        """Collect garbage, compare, and fill `findings`."""
        gc.collect()
        found = compare(self.before, take_snapshot())
        if found:  # A second look, after what is about to end has ended.
            for thread in set(threading.enumerate()) - self.before.threads - {threading.current_thread()}:
                thread.join(THREAD_JOIN_S)
            gc.collect()
            found = compare(self.before, take_snapshot())
        self.findings = found + self.overheard


@contextmanager
def watch() -> Iterator[Watch]:
    """Watch the block, and fill `findings` at its end, unless it raises or has called `finish` itself."""
    result = Watch(take_snapshot())
    handler = _Overhear(result.overheard)
    logger = logging.getLogger("asyncio")
    hook = sys.unraisablehook

    def overhear(unraisable: sys.UnraisableHookArgs) -> None:
        # As text: keeping the object would bring it back to life.
        what = unraisable.err_msg or "Exception ignored in"
        result.overheard.append(
            f"unraisable: {what} {unraisable.object!r}: {unraisable.exc_type.__name__}: {unraisable.exc_value}"
        )

    logger.addHandler(handler)
    sys.unraisablehook = overhear
    try:
        yield result
        result.finish()
    finally:
        sys.unraisablehook = hook
        logger.removeHandler(handler)


class _Overhear(logging.Handler):
    """Keeps the text of the errors that are logged."""

    def __init__(self, texts: list[str]) -> None:
        super().__init__(logging.ERROR)
        self._texts = texts

    def emit(self, record: logging.LogRecord) -> None:
        self._texts.append(f"asyncio logged: {record.getMessage()}")


def take_snapshot() -> Snapshot:
    return Snapshot(
        descriptors=_list_descriptors(),
        maps=_count_maps(),
        threads=frozenset(threading.enumerate()),
        tasks=weakref.WeakSet(_list_tasks()),
    )


def compare(before: Snapshot, after: Snapshot) -> list[str]:
    """Describe what the later snapshot has too much."""
    return [
        *_compare_descriptors(before.descriptors, after.descriptors),
        *(
            f"memory map of {path}: {count - before.maps[path]} more"
            for path, count in after.maps.items()
            if count > before.maps[path]
        ),
        *(f"thread {thread!r}" for thread in after.threads - before.threads if thread.is_alive()),
        *(f"task {task!r}" for task in after.tasks if task not in before.tasks and not task.done()),
    ]


def count_descriptors() -> int:
    return len(_list_descriptors())


def count_maps() -> int:
    """Count the file-backed maps; 0 where /proc is missing."""
    return _count_maps().total()


def _compare_descriptors(before: dict[int, str], after: dict[int, str]) -> list[str]:
    if len(after) <= len(before):
        return []
    tracker = sys.modules.get("multiprocessing.resource_tracker")
    once = getattr(getattr(tracker, "_resource_tracker", None), "_fd", None)
    return [f"descriptor {fd}: {target}" for fd, target in after.items() if fd not in before and fd != once]


def _list_descriptors() -> dict[int, str]:
    folder = "/proc/self/fd" if os.path.isdir("/proc/self/fd") else "/dev/fd"  # noqa: PTH112 - hot
    found = {}
    for name in os.listdir(folder):  # noqa: PTH208 - hot
        try:
            found[int(name)] = os.readlink(f"{folder}/{name}") if folder == "/proc/self/fd" else "?"  # noqa: PTH115
        except OSError:  # The descriptor of the listing itself.
            continue
    return found


def _count_maps() -> Counter[str]:
    try:
        with open("/proc/self/maps", "rb") as file:  # noqa: PTH123 - hot
            lines = file.read().splitlines()
    except FileNotFoundError:
        return Counter()
    # An anonymous map that is shared, as Python makes them, reads "/dev/zero (deleted)".
    paths = (line[line.index(b"/") :] for line in lines if b" /" in line and b".so" not in line)
    return Counter(os.fsdecode(path) for path in paths if not path.startswith(_SYSTEM_FOLDERS))


def _list_tasks() -> list[asyncio.Task[Any]]:
    """List the tasks of all loops, of which asyncio shows those of a running one only."""
    registries = [getattr(asyncio.tasks, name, ()) for name in ("_all_tasks", "_scheduled_tasks", "_eager_tasks")]
    for _ in range(1000):
        try:
            return [task for registry in registries for task in list(registry)]
        except RuntimeError:  # Another thread has just started one.
            continue
    return []

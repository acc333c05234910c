"""Finds what a test leaves behind: compares two snapshots of a process.

Descriptors, file-backed memory maps, threads and asyncio tasks are compared. Errors on the `asyncio` logger and
exceptions that cannot be raised (in finalizers; coroutines never awaited, with `-W error`) are recorded. What grows
once in a process is not a leak: shared libraries, and the pipe of multiprocessing's tracker.

It needs only the standard library, so that a script in a subprocess can use it too:

    with leaks.watch() as watch:
        ...
    assert not watch.findings
"""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import re
import sys
import threading
import weakref
from collections import Counter
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

# A thread that was told to end may take this long.
THREAD_JOIN_S = 1.0

# The path in a line of /proc/self/maps, unless it lies in a folder of the system or of Python. Most lines are of
# the system: a pattern skips them fast. A shared anonymous map, as Python makes them, reads "/dev/zero (deleted)".
_SYSTEM_FOLDERS = ("/usr/lib", "/usr/share", "/lib", *map(os.path.realpath, {sys.prefix, sys.base_prefix}))
_MAPPED_PATH = re.compile(rb" (?!%b)(/.*)" % b"|".join(re.escape(os.fsencode(path)) for path in _SYSTEM_FOLDERS))


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What a process holds."""

    descriptors: dict[int, str]
    maps: Counter[str]
    threads: frozenset[threading.Thread]
    tasks: weakref.WeakSet[asyncio.Task[Any]]


@dataclass(slots=True)
class Watch:
    """What the process held at the start, the errors since then, and what it holds too much at the end."""

    before: Snapshot
    overheard: list[str] = field(default_factory=list)
    findings: list[str] = field(default_factory=list)

    def finish(self) -> None:
        """Collect garbage, compare, and fill `findings`."""
        gc.collect()
        found = compare(self.before, take_snapshot())
        if found:  # Look again after everything that is about to end has ended.
            for thread in set(threading.enumerate()) - self.before.threads - {threading.current_thread()}:
                thread.join(THREAD_JOIN_S)
            gc.collect()
            found = compare(self.before, take_snapshot())
        self.findings = found + self.overheard


@contextmanager
def watch() -> Iterator[Watch]:
    """Watch the block. Fill `findings` at its end, unless the block raises."""
    result = Watch(take_snapshot())
    handler = _Overhear(result.overheard)
    logger = logging.getLogger("asyncio")
    hook = sys.unraisablehook

    def overhear(unraisable: sys.UnraisableHookArgs) -> None:
        # As text: a reference to the object would resurrect it.
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
    """Records the text of logged errors."""

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
    """Describe what is in the later snapshot and not in the earlier one."""
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


def resident_nbytes(folder: Path) -> int:
    """How much of the files in a folder this process has mapped and in memory."""
    resident = 0
    is_ours = False
    for line in Path("/proc/self/smaps").read_text(encoding="utf-8").splitlines():
        fields = line.split()
        if "-" in fields[0]:
            is_ours = str(folder) in line
        elif is_ours and fields[0] == "Rss:":
            resident += int(fields[1]) * 1024
    return resident


def _compare_descriptors(before: dict[int, str], after: dict[int, str]) -> list[str]:
    if len(after) <= len(before):
        return []
    tracker = sys.modules.get("multiprocessing.resource_tracker")
    once = getattr(getattr(tracker, "_resource_tracker", None), "_fd", None)
    # libffi keeps its own file open, once it has made a callback.
    return [
        f"descriptor {fd}: {target}"
        for fd, target in after.items()
        if fd not in before and fd != once and ".so." not in target
    ]


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
            paths = _MAPPED_PATH.findall(file.read())
    except FileNotFoundError:
        return Counter()
    return Counter(os.fsdecode(path) for path in paths if b".so" not in path)


def _list_tasks() -> list[asyncio.Task[Any]]:
    """List the tasks of all loops. asyncio itself shows only those of a running loop."""
    if sys.version_info >= (3, 14):  # It keeps them out of Python's sight.
        return [found for found in gc.get_objects() if isinstance(found, asyncio.Task)]
    registries = [getattr(asyncio.tasks, name, ()) for name in ("_all_tasks", "_scheduled_tasks", "_eager_tasks")]
    for _ in range(1000):
        try:
            return [task for registry in registries for task in list(registry)]
        except RuntimeError:  # Another thread has just started one.
            continue
    return []

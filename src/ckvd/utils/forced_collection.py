"""Garbage collection if released objects are still alive: `settle`, called at the end of each release.

An object that is alive after its release is a suspect: it is in a reference cycle, or kept by the caller on
purpose. Only a collection tells which. Two things are wanted, and either alone would be easy:

- **The share**: forced full collections take at most `FORCED_GC_TIME_SHARE` of the time. They may be ahead of it by
  `FORCED_GC_ADVANCE_S`, which a collection of a usual heap is: it happens at once, and no other before the share
  has caught up. One of a larger heap happens when suspects have waited for the rest of its time. So results that
  are kept on purpose cost their share and no more, however many objects are alive.
- **The guarantee**: garbage does not use up the file descriptors and memory maps of the process.

Both hold while the share leaves time for a full collection after each suspect that the young ones did not free.
Otherwise suspects wait, up to a limit: once released maps that are alive take a quarter of the maps or descriptors
that the process may have, the share gives way. A full collection then happens whatever it costs, because a process
without descriptors cannot go on, and a slow one can. The next that breaks the share happens when an eighth more is
taken than the last one left. So maps that are kept on purpose break the share six times at most before the process
has no more, and the guarantee holds as long as the caller keeps less than seven eighths of them.

Of the project, only `config` and `cleanup_log` are imported.
"""

from __future__ import annotations

import functools
import gc
import math
import mmap
import sys
import threading
import time
import weakref
from pathlib import Path
from typing import TYPE_CHECKING, Final

from ckvd.utils import config
from ckvd.utils.cleanup_log import listener

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    Alive = weakref.WeakValueDictionary[int, object]

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
        return int(Path("/proc/sys/vm/max_map_count").read_text(encoding="ascii"))
    except (OSError, ValueError):
        return _MAPS_MAX


def descriptor_capacity() -> int:
    """How many file descriptors this process may have open."""
    try:
        import resource  # noqa: PLC0415  (it is missing on Windows)
    except ImportError:
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
    """Suspects, and when to collect them.

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

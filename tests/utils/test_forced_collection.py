"""Forced full collections take their share of the time, until descriptors or maps are about to run out."""

from __future__ import annotations

import gc
import mmap
import sys
import threading
import weakref
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from ckvd.utils import async_cleanup, config
from ckvd.utils.async_cleanup import (
    ForcedCollection,
    descriptor_capacity,
    direct_file_cleanup,
    direct_resource_cleanup,
    map_capacity,
)
from support.processes import run_script
from support.release.closers import run

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


class Clock:
    """A clock that a test sets."""

    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


class Thing:
    """An object that can be in a reference cycle."""

    def __init__(self, *kept: object) -> None:
        self.kept = kept
        self.me: Thing | None = None

    def circular(self) -> Thing:
        self.me = self
        return self


def weak(resource: object) -> list[weakref.ref[object]]:
    return [weakref.ref(resource)]


class Client(Thing):
    """An object with a closer that can be in a reference cycle."""

    async def aclose(self) -> None:
        pass


class Owner:
    """Owns a client."""

    def __init__(self, client: Any) -> None:
        self.client = client


class Collections:
    """Counts the collections of each generation, and lets each full one take a time."""

    def __init__(self, clock: Clock | None = None, full_s: float = 0.0) -> None:
        self.counts = [0, 0, 0]
        self._clock = clock
        self._full_s = full_s

    def __call__(self, phase: str, info: dict[str, int]) -> None:
        if phase == "stop":
            self.counts[info["generation"]] += 1
            if self._clock is not None and info["generation"] == 2:
                self._clock.now_s += self._full_s

    @contextmanager
    def counting(self) -> Iterator[None]:
        gc.collect()
        gc.disable()  # So that only forced collections are counted.
        gc.callbacks.append(self)
        try:
            yield
        finally:
            gc.callbacks.remove(self)
            gc.enable()


@pytest.fixture
def clock() -> Clock:
    return Clock()


# How many maps and descriptors the process may have, unless a test says otherwise.
CAPACITY = 1_000_000


@pytest.fixture(autouse=True)
def forced(monkeypatch: pytest.MonkeyPatch, clock: Clock) -> ForcedCollection:
    """A new instance, without suspects, of a process with few objects."""
    forced = ForcedCollection(clock, lambda: CAPACITY, lambda: CAPACITY, lambda: 1)
    monkeypatch.setattr(async_cleanup, "settle", forced.settle)
    return forced


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "file"
    path.write_bytes(bytes(4096))
    return path


class Reader:
    """A map and a view of it, released as by readers of segments."""

    def __init__(self, path: Path) -> None:
        with path.open("rb") as file:
            self.map: Any = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        self.array: Any = np.frombuffer(self.map, dtype=np.float64)

    def close(self) -> None:
        direct_file_cleanup(self, "array", "map")


def test_without_live_objects_nothing_is_collected(path: Path) -> None:
    collections = Collections()
    with collections.counting():
        for _ in range(100):
            Reader(path).close()
        for _ in range(10):
            owner = Owner(Client())
            run(lambda owner=owner: direct_resource_cleanup(owner, ("client", "client", False)))  # type: ignore[misc]
    assert collections.counts == [0, 0, 0]


def test_a_map_in_a_cycle_of_the_caller_is_unmapped_by_leaving(path: Path) -> None:
    collections = Collections()
    with collections.counting():
        reader = Reader(path)
        mapped = weakref.ref(reader.map)
        Thing(reader.array).circular()
        reader.close()
        assert mapped() is None
    assert collections.counts == [1, 0, 0]


def test_a_map_in_a_cycle_is_unmapped_by_leaving_asynchronously(path: Path) -> None:
    reader = Reader(path)
    mapped = weakref.ref(reader.map)
    Thing(reader.array).circular()
    run(lambda: direct_resource_cleanup(reader, ("array", "array", True), ("map", "map", False)))
    assert mapped() is None


def test_a_map_in_an_old_cycle_is_unmapped_by_leaving(path: Path) -> None:
    collections = Collections()
    with collections.counting():
        reader = Reader(path)
        mapped = weakref.ref(reader.map)
        thing = Thing(reader.array).circular()
        gc.collect()
        del thing
        reader.close()
        assert mapped() is None
    assert collections.counts == [1, 0, 2]


def test_a_client_in_a_cycle_is_freed_by_leaving() -> None:
    owner = Owner(Client().circular())
    client = weakref.ref(owner.client)
    run(lambda: direct_resource_cleanup(owner, ("client", "client", False)))
    assert client() is None


def test_a_view_kept_on_purpose_stays_readable_and_its_map_is_unmapped_with_it(path: Path) -> None:
    reader = Reader(path)
    mapped, array = weakref.ref(reader.map), reader.array
    reader.close()
    assert array.sum() == 0.0
    assert not array.flags.writeable
    del array
    assert mapped() is None


def test_switching_it_off_stops_collections_and_changes_nothing_else(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(config, "ENABLE_FORCED_GC", False)
    collections = Collections()
    with collections.counting():
        reader = Reader(path)
        mapped = weakref.ref(reader.map)
        Thing(reader.array).circular()
        reader.close()
        assert mapped() is not None
        assert (reader.map, reader.array) == (None, None)
    assert collections.counts == [0, 0, 0]


# --- The share ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("full_s", [0.001, 0.01, 0.04, 0.2, 1.0])
@pytest.mark.parametrize("kept_count", [1, 5, 10_000])
def test_full_collections_take_their_share_of_the_time_and_no_more(
    forced: ForcedCollection, clock: Clock, full_s: float, kept_count: int
) -> None:
    """Something is alive at each of 10,000 exits, 2 ms apart, and the most is made of what a collection takes."""
    collections = Collections(clock, full_s)
    kept = [Thing() for _ in range(kept_count)]
    start_s = clock.now_s
    with collections.counting():
        for i in range(10_000):
            clock.now_s += 0.002
            forced.settle(weak(kept[i % kept_count]))
            took_s = full_s * collections.counts[2]
            assert took_s <= 0.05 * (clock.now_s - start_s) + max(full_s, config.FORCED_GC_ADVANCE_S)
    assert 0.7 * 0.05 * (clock.now_s - start_s) <= took_s


def test_the_share_is_the_one_that_is_documented() -> None:
    assert config.FORCED_GC_TIME_SHARE == 0.05


def test_a_long_collection_waits_until_its_time_has_been_earned(
    clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also the first, whose time is only expected."""
    forced = ForcedCollection(clock, lambda: CAPACITY, lambda: CAPACITY, lambda: 21_000_000)  # 1.05 s
    collections = Collections(clock, 1.0)
    with collections.counting():
        kept = Thing()
        forced.settle(weak(kept))
        forced.settle([])
        clock.now_s += 19.9
        forced.settle([])
        assert collections.counts[2] == 0
        clock.now_s += 0.2
        forced.settle([])
        assert collections.counts[2] == 1
        del kept


def test_time_in_which_nothing_waited_does_not_count(clock: Clock) -> None:
    """An hour is a share of three minutes. They are not spent at the end of it."""
    forced = ForcedCollection(clock, lambda: CAPACITY, lambda: CAPACITY, lambda: 21_000_000)  # 1.05 s
    collections = Collections(clock, 1.0)
    kept = [Thing() for _ in range(100)]
    with collections.counting():
        for thing in kept[:2]:
            forced.settle(weak(thing))
        del kept[:2], thing
        clock.now_s += 3600.0
        for thing in kept:
            forced.settle(weak(thing))
            clock.now_s += 0.01
    assert collections.counts[2] == 0


def test_a_heap_that_has_grown_is_expected_to_take_longer(clock: Clock) -> None:
    heap = [1000]
    forced = ForcedCollection(clock, lambda: CAPACITY, lambda: CAPACITY, lambda: heap[0])
    collections = Collections(clock, 0.001)
    kept = [Thing(), Thing()]
    with collections.counting():
        forced.settle(weak(kept[0]))
        assert collections.counts[2] == 1
        heap[0] = 1_000_000  # a second
        clock.now_s += 1.0
        forced.settle(weak(kept[1]))
        assert collections.counts[2] == 1


def test_what_survived_a_full_collection_causes_no_other(forced: ForcedCollection, clock: Clock) -> None:
    collections = Collections(clock)
    kept = [Thing() for _ in range(50)]
    with collections.counting():
        for thing in kept:
            forced.settle(weak(thing))
        clock.now_s += 1000.0
        forced.settle([])
        counts = list(collections.counts)
        for _ in range(100):
            clock.now_s += 1000.0
            forced.settle([])
    assert collections.counts == counts


def test_ten_thousand_kept_objects_cause_no_full_collection_that_there_is_no_time_for(
    forced: ForcedCollection, clock: Clock
) -> None:
    collections = Collections(clock, full_s=1.0)
    kept = []
    with collections.counting():
        for _ in range(10_000):
            kept.append(Thing())
            forced.settle(weak(kept[-1]))
    assert collections.counts[2] == 1


def test_a_collection_that_there_was_no_time_for_happens_at_a_later_exit(
    forced: ForcedCollection, clock: Clock
) -> None:
    collections = Collections(clock, full_s=1.0)
    with collections.counting():
        kept = Thing()
        forced.settle(weak(kept))  # This uses up all the time.
        thing = Thing().circular()
        reference = weakref.ref(thing)
        forced.settle(weak(thing))
        gc.collect(1)  # By now it is old.
        del thing
        clock.now_s += 10.0
        forced.settle([])
        assert reference() is not None
        clock.now_s += 30.0
        forced.settle([])
        assert reference() is None
        del kept


def test_young_garbage_needs_no_full_collection(forced: ForcedCollection, clock: Clock) -> None:
    """Each cycle is still in use at its own exit, and garbage at the next ones."""
    collections = Collections(clock, full_s=1.0)
    references: list[weakref.ref[object]] = []
    with collections.counting():
        kept = Thing()
        forced.settle(weak(kept))  # This uses up all the time.
        for _ in range(3000):
            thing = Thing().circular()
            references += weak(thing)
            forced.settle(references[-1:])
            del thing
            references = [reference for reference in references if reference() is not None]
            assert len(references) < 50
        del kept
    assert collections.counts[2] < 3


# --- The guarantee -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("scarce", ["maps", "descriptors"])
def test_garbage_takes_a_quarter_of_what_there_is_at_most_even_without_time_to_collect_it(
    clock: Clock, path: Path, scarce: str
) -> None:
    few, many = (lambda: 400), (lambda: CAPACITY)
    forced = ForcedCollection(
        clock, few if scarce == "maps" else many, many if scarce == "maps" else few, lambda: 1
    )
    collections = Collections(clock, full_s=1.0)
    old: list[Any] = []
    for _ in range(1000):
        with path.open("rb") as file:
            old.append(Thing(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)).circular())
    references = [weakref.ref(thing.kept[0]) for thing in old]
    most = 0
    with collections.counting():  # All of them are in the oldest generation now.
        for reference in references:
            forced.settle([reference])
            old.pop(0)
            most = max(most, sum(reference() is not None for reference in references) - len(old))
    assert 90 <= most <= 101
    assert collections.counts[2] <= 12


def test_what_the_caller_keeps_breaks_the_share_six_times_before_there_is_no_more(clock: Clock) -> None:
    forced = ForcedCollection(clock, lambda: CAPACITY, lambda: 800, lambda: 1)
    collections = Collections(clock, full_s=1000.0)
    kept = []
    with collections.counting():
        for _ in range(799):
            kept.append(Thing())
            forced.settle(weak(kept[-1]))
    assert collections.counts[2] == 1 + 6


def test_windows_of_kept_results_break_the_share_once_and_not_each_time(clock: Clock) -> None:
    forced = ForcedCollection(clock, lambda: CAPACITY, lambda: 800, lambda: 1)
    collections = Collections(clock, full_s=1000.0)
    window = []
    with collections.counting():
        for _ in range(20 * 250):
            window.append(Thing())
            forced.settle(weak(window[-1]))
            if len(window) == 250:
                window.clear()
    assert collections.counts[2] <= 3


def test_a_map_without_a_descriptor_takes_none(clock: Clock, path: Path) -> None:
    """Such maps are kept by the thousand with a limit of 256 descriptors."""
    forced = ForcedCollection(clock, lambda: CAPACITY, lambda: 8, lambda: 1)
    collections = Collections(clock, full_s=1000.0)
    if sys.version_info < (3, 13):
        pytest.skip("each map keeps a descriptor before Python 3.13")
    with path.open("rb") as file:
        kept = [mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ, trackfd=False) for _ in range(100)]
    with collections.counting():
        for mapped in kept:
            forced.settle(weak(mapped))
    assert collections.counts[2] == 1
    for mapped in kept:
        mapped.close()


def test_a_process_may_have_some_maps_and_descriptors() -> None:
    assert map_capacity() >= 1024
    assert descriptor_capacity() >= 64


def test_old_garbage_does_not_use_up_the_descriptors_of_a_process_with_a_large_heap() -> None:
    """With the collector off, 300,000 objects alive and 256 descriptors, 2,000 maps become garbage in old age."""
    script = """
        import gc, mmap, resource, tempfile
        from ckvd.utils import async_cleanup
        from ckvd.utils.async_cleanup import direct_file_cleanup

        class Node:
            def __init__(self, file):
                self.me = self
                self.map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
                self.view = memoryview(self.map)

        resource.setrlimit(resource.RLIMIT_NOFILE, (256, 256))
        alive = [[i] for i in range(300_000)]
        gc.disable()
        with tempfile.TemporaryFile() as file:
            file.write(bytes(4096))
            file.flush()
            for _ in range(40):
                nodes = [Node(file) for _ in range(50)]
                gc.collect(1)  # They are in the oldest generation now.
                while nodes:
                    direct_file_cleanup(nodes.pop(), "map")
    """
    run_script(script)


# --- Others ------------------------------------------------------------------------------------------------


def test_another_thread_does_not_wait_for_a_collection(forced: ForcedCollection) -> None:
    kept = Thing()
    ended = []

    def in_another_thread(phase: str, info: dict[str, int]) -> None:
        thread = threading.Thread(target=forced.settle, args=(weak(kept),))
        thread.start()
        thread.join(5)
        ended.append(not thread.is_alive())

    gc.callbacks.append(in_another_thread)
    try:
        forced.settle(weak(kept))
    finally:
        gc.callbacks.remove(in_another_thread)
    assert ended
    assert all(ended)


def test_a_finalizer_that_releases_something_during_a_collection_does_no_harm(forced: ForcedCollection) -> None:
    class Leaving(Thing):
        def __del__(self) -> None:
            forced.settle(weak(kept))

    kept = Thing()
    references = weak(Leaving().circular())
    forced.settle(references)
    assert references[0]() is None

"""Forced collections keep file descriptors and maps few, and take only a small share of the time."""

from __future__ import annotations

import gc
import mmap
import weakref
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from ckvd.utils import async_cleanup, config
from ckvd.utils.async_cleanup import _ForcedCollection, direct_file_cleanup, direct_resource_cleanup
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
    """Counts the collections of each generation."""

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


@pytest.fixture(autouse=True)
def forced(monkeypatch: pytest.MonkeyPatch, clock: Clock) -> _ForcedCollection:
    """A new instance, without suspects."""
    forced = _ForcedCollection(clock)
    monkeypatch.setattr(async_cleanup, "_forced_collection", forced)
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


def test_full_collections_take_their_share_of_the_time_and_no_more(forced: _ForcedCollection, clock: Clock) -> None:
    """Something is alive at each of 10,000 exits, 40 microseconds apart, and a full collection takes 10 ms."""
    collections = Collections(clock, full_s=0.01)
    kept = [Thing() for _ in range(5)]
    start_s = clock.now_s
    with collections.counting():
        for i in range(10_000):
            clock.now_s += 40e-6
            forced.settle(weak(kept[i % 5]))
    took_s = 0.01 * collections.counts[2]
    assert 0 < took_s <= config.FORCED_GC_TIME_SHARE * (clock.now_s - start_s) + 0.01


def test_ten_thousand_kept_objects_cause_few_full_collections(forced: _ForcedCollection, clock: Clock) -> None:
    """The clock stands still, so that only the number of suspects can cause full collections."""
    collections = Collections(clock, full_s=1.0)
    kept = []
    with collections.counting():
        for _ in range(10_000):
            kept.append(Thing())
            forced.settle(weak(kept[-1]))
    assert collections.counts[2] < 40


def test_the_amount_of_garbage_is_bounded_even_without_time_to_collect_it(
    forced: _ForcedCollection, clock: Clock
) -> None:
    collections = Collections(clock, full_s=1.0)
    most = 0
    old = [Thing().circular() for _ in range(1000)]
    references = [weakref.ref(thing) for thing in old]
    with collections.counting():  # All of them are in the oldest generation now.
        for reference in references:
            forced.settle(weak(reference()))
            old.pop(0)
            most = max(most, sum(reference() is not None for reference in references) - len(old))
    assert most < 50


def test_a_collection_that_there_was_no_time_for_happens_at_a_later_exit(
    forced: _ForcedCollection, clock: Clock
) -> None:
    collections = Collections(clock, full_s=1.0)
    with collections.counting():
        kept = Thing()
        forced.settle(weak(kept))  # This uses up all the time.
        thing = Thing().circular()
        reference = weakref.ref(thing)
        forced.settle(weak(thing))
        del thing
        forced.settle([])
        assert reference() is not None
        clock.now_s += 20.0
        forced.settle([])
        assert reference() is None
        del kept


def test_a_finalizer_that_releases_something_during_a_collection_does_no_harm(forced: _ForcedCollection) -> None:
    class Leaving(Thing):
        def __del__(self) -> None:
            forced.settle(weak(kept))

    kept = Thing()
    references = weak(Leaving().circular())
    forced.settle(references)
    assert references[0]() is None

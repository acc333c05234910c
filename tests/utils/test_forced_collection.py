"""Garbage is collected on evidence: descriptors and maps stay few, and collecting takes little of the time."""

from __future__ import annotations

import gc
import json
import mmap
import os
import subprocess
import sys
import textwrap
import weakref
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from ckvd.utils import async_cleanup, config
from ckvd.utils.async_cleanup import _ForcedCollection, direct_file_cleanup, direct_resource_cleanup
from closers import run

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).resolve().parents[2]


class Clock:
    """Time that passes when it is told to."""

    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


class Thing:
    """Something that can be in a cycle."""

    def __init__(self, *kept: object) -> None:
        self.kept = kept
        self.me: Thing | None = None

    def circular(self) -> Thing:
        self.me = self
        return self


def weak(resource: object) -> list[weakref.ref[object]]:
    return [weakref.ref(resource)]


class Client(Thing):
    """Something to close that can be in a cycle."""

    async def aclose(self) -> None:
        pass


class Owner:
    """Holds a client."""

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
        gc.disable()  # So that all that is counted is forced.
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
    """A collection without a past."""
    forced = _ForcedCollection(clock)
    monkeypatch.setattr(async_cleanup, "_forced_collection", forced)
    return forced


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "file"
    path.write_bytes(bytes(4096))
    return path


class Reader:
    """A map and a view of it, left as readers are."""

    def __init__(self, path: Path) -> None:
        with path.open("rb") as file:
            self.map: Any = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        self.array: Any = np.frombuffer(self.map, dtype=np.float64)

    def close(self) -> None:
        direct_file_cleanup(self, "array", "map")


def test_nothing_alive_is_nothing_to_collect(path: Path) -> None:
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


def test_a_view_kept_on_purpose_stays_readable_and_is_unmapped_when_it_goes(path: Path) -> None:
    reader = Reader(path)
    mapped, array = weakref.ref(reader.map), reader.array
    reader.close()
    assert array.sum() == 0.0
    assert not array.flags.writeable
    del array
    assert mapped() is None


def test_switched_off_it_collects_nothing_and_changes_nothing_else(
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


def test_keeping_all_of_ten_thousand_is_seen_through_soon(forced: _ForcedCollection, clock: Clock) -> None:
    """Time stands still, so that only the number of suspects can cause full collections."""
    collections = Collections(clock, full_s=1.0)
    kept = []
    with collections.counting():
        for _ in range(10_000):
            kept.append(Thing())
            forced.settle(weak(kept[-1]))
    assert collections.counts[2] < 40


def test_garbage_is_bounded_in_number_though_there_is_no_time_for_it(
    forced: _ForcedCollection, clock: Clock
) -> None:
    collections = Collections(clock, full_s=1.0)
    most = 0
    old = [Thing().circular() for _ in range(1000)]
    references = [weakref.ref(thing) for thing in old]
    with collections.counting():  # All of them are old now.
        for reference in references:
            forced.settle(weak(reference()))
            old.pop(0)
            most = max(most, sum(reference() is not None for reference in references) - len(old))
    assert most < 50


def test_what_could_not_be_afforded_is_made_up_for_at_the_next_exit(
    forced: _ForcedCollection, clock: Clock
) -> None:
    collections = Collections(clock, full_s=1.0)
    with collections.counting():
        kept = Thing()
        forced.settle(weak(kept))  # That took all the time there was.
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


def test_a_finalizer_that_leaves_something_during_a_collection_does_no_harm(forced: _ForcedCollection) -> None:
    class Leaving(Thing):
        def __del__(self) -> None:
            forced.settle(weak(kept))

    kept = Thing()
    references = weak(Leaving().circular())
    forced.settle(references)
    assert references[0]() is None


def run_script(script: str) -> str:
    """Run a script in an interpreter of its own, and return what it prints."""
    result = subprocess.run(
        [sys.executable, "-W", "error", "-c", textwrap.dedent(script)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        env=os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT / "src"), str(ROOT / "tests")])},
    )
    assert (result.returncode, result.stderr) == (0, "")
    return result.stdout


SCRIPT = """
    import gc, json, mmap, os, pathlib, sys, tempfile, time
    import curl_cffi, numpy as np
    import leaks
    from ckvd.utils.async_cleanup import direct_file_cleanup

    class Reader:
        def __init__(self):
            with open(path, "rb") as file:
                self.map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
            self.array = np.frombuffer(self.map, dtype=np.float64)

        def close(self):
            direct_file_cleanup(self, "array", "map")

    class Node:
        pass

    def in_a_cycle(array):
        node = Node()
        node.me, node.array = node, array
        return node

    def without_cycles():
        reader = Reader()
        reader.array.sum()
        reader.close()

    def in_a_cycle_that_outlives_its_reader():
        reader = Reader()
        node = in_a_cycle(reader.array)
        reader.close()

    def in_a_cycle_that_is_gone():
        reader = Reader()
        in_a_cycle(reader.array)
        reader.close()

    def in_cycles_of_which_many_are_under_way():
        reader = Reader()
        under_way.append((reader, in_a_cycle(reader.array)))
        if len(under_way) > 8:
            under_way.pop(0)[0].close()

    def kept_in_windows():
        reader = Reader()
        window.append(reader.array)
        if len(window) > 20:
            window.clear()
        reader.close()

    under_way, window, figures = [], [], []
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "file")
        with open(path, "wb") as file:
            file.write(bytes(4096))
        for use, count, is_automatic in (
            (without_cycles, 10_000, True),
            (in_a_cycle_that_outlives_its_reader, 10_000, True),
            (in_a_cycle_that_outlives_its_reader, 10_000, False),
            (in_a_cycle_that_is_gone, 10_000, True),
            (in_a_cycle_that_is_gone, 10_000, False),
            (in_cycles_of_which_many_are_under_way, 1_000, True),
            (kept_in_windows, 1_000, True),
        ):
            gc.collect()
            gc.enable() if is_automatic else gc.disable()
            before = leaks.count_descriptors(), leaks.count_maps()
            most, start_s = 0, time.process_time()
            for i in range(count):
                use()
                if i % 100 == 99:
                    most = max(most, leaks.count_descriptors() - before[0], leaks.count_maps() - before[1])
            took_us = (time.process_time() - start_s) / count * 1e6
            figures.append([use.__name__, count, is_automatic, most, took_us])
    print(json.dumps(figures))
"""


@pytest.mark.skipif(sys.platform == "win32", reason="there are no descriptors to count")
def test_ten_thousand_readers_leave_descriptors_and_maps_flat_at_a_hundred_microseconds_each() -> None:
    figures = json.loads(run_script(SCRIPT))
    print(*figures, sep="\n")
    assert [figure for figure in figures if figure[3] > 50] == []
    assert [figure for figure in figures if figure[1] == 10_000 and figure[4] > 100] == []


def test_a_view_that_outlives_its_reader_is_unmapped_when_it_goes_and_not_before() -> None:
    script = """
        import mmap, tempfile
        import numpy as np
        import leaks
        from ckvd.utils.async_cleanup import direct_file_cleanup

        class Reader:
            def __init__(self, file):
                self.map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
                self.array = np.frombuffer(self.map, dtype=np.float64)

        with tempfile.TemporaryFile() as file:
            file.write(np.arange(100_000.0).tobytes())
            file.flush()
            before = leaks.count_maps()
            reader = Reader(file)
        view = reader.array[1:99_999]
        direct_file_cleanup(reader, "array", "map")
        del reader
        assert leaks.count_maps() == before + 1
        assert view.sum() == sum(range(1, 99_999))
        del view
        assert leaks.count_maps() == before
    """
    run_script(script)

"""An exit first sets all attributes to None, then closes files, then all other resources in order."""

from __future__ import annotations

import asyncio
import gc
import io
import logging
import mmap
import os
import signal
import sys
import weakref
from typing import TYPE_CHECKING, Any

import pytest

from ckvd.utils import async_cleanup, config
from ckvd.utils.async_cleanup import (
    cleanup_file_handle,
    direct_file_cleanup,
    direct_resource_cleanup,
)
from support.processes import run_script
from support.release.closers import TASK_FACTORIES, Closer, Fast, Hanging, Raising, Slow, run

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "file"
    path.write_bytes(bytes(4096))
    return path


def map_file(path: Path) -> mmap.mmap:
    with path.open("rb") as file:
        return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)


class Owner:
    """Owns the given resources."""

    def __init__(self, **resources: Any) -> None:
        self.__dict__.update(resources)

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(name)

    async def leave(self, *names: str, is_external: bool = False) -> None:
        await direct_resource_cleanup(self, *((name, name, is_external) for name in names))


class Observing(Closer):
    """Records the attributes of its owner, and whether a file is closed, when it is closed."""

    def __init__(self) -> None:
        super().__init__()
        self.owner: Owner | None = None
        self.file: Any = None
        self.seen: list[object] = []

    async def _close(self) -> None:
        assert self.owner is not None
        self.seen = [*vars(self.owner).values(), self.file.closed]


@pytest.mark.parametrize("is_eager", TASK_FACTORIES)
def test_every_attribute_is_none_and_every_file_closed_before_anything_is_awaited(
    path: Path, is_eager: bool
) -> None:
    async def main() -> None:
        first, file = Observing(), path.open("rb")
        owner = Owner(first=first, second=Slow(), file=file)
        first.owner, first.file = owner, file
        await owner.leave("first", "second", "file")
        assert first.seen == [None, None, None, True]

    run(main, is_eager=is_eager)


def test_resources_are_closed_in_the_order_given() -> None:
    order: list[str] = []

    class Named(Closer):
        def __init__(self, name: str) -> None:
            super().__init__()
            self.name = name

        async def _close(self) -> None:
            order.append(f"{self.name} begins")
            await asyncio.sleep(0)
            order.append(f"{self.name} ends")

    async def main() -> None:
        await Owner(a=Named("a"), b=Named("b"), c=Named("c")).leave("b", "c", "a")

    run(main)
    assert order == ["b begins", "b ends", "c begins", "c ends", "a begins", "a ends"]


@pytest.mark.parametrize("bad", [Raising, Hanging])
def test_a_bad_closer_does_not_keep_the_next_from_being_closed(bad: type[Closer]) -> None:
    async def main() -> None:
        good = Slow()
        await Owner(bad=bad(), good=good).leave("bad", "good")
        assert good.was_closed

    run(main)


def test_external_resources_are_dropped_and_never_closed(path: Path) -> None:
    async def main() -> None:
        closer, file, mapped = Fast(), path.open("rb"), map_file(path)
        owner = Owner(closer=closer, file=file, mapped=mapped)
        await owner.leave("closer", "file", "mapped", is_external=True)
        assert vars(owner) == {"closer": None, "file": None, "mapped": None}
        assert closer.call_count == 0
        assert not file.closed
        assert not mapped.closed
        file.close()
        mapped.close()

    run(main)


def test_leaving_twice_closes_once() -> None:
    async def main() -> None:
        closer = Slow()
        owner = Owner(closer=closer)
        await owner.leave("closer")
        await owner.leave("closer")
        assert closer.call_count == 1

    run(main)


@pytest.mark.parametrize("is_eager", TASK_FACTORIES)
def test_leaving_concurrently_closes_once(is_eager: bool) -> None:
    async def main() -> None:
        closer = Slow()
        owner = Owner(closer=closer)
        await asyncio.gather(*(owner.leave("closer") for _ in range(5)))
        assert closer.call_count == 1
        assert closer.was_closed

    run(main, is_eager=is_eager)


def test_leaving_without_having_entered_does_nothing(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        owner = Owner()
        await owner.leave("client", "file")
        assert vars(owner) == {"client": None, "file": None}

    run(main)
    direct_file_cleanup(Owner(), "file", "map")
    assert not caplog.records


def test_leaving_on_another_loop_than_the_one_entered_closes_everything() -> None:
    async def enter() -> Owner:
        closer = Slow()
        asyncio.get_running_loop().call_soon(closer.started.set)
        await closer.started.wait()  # Waiting binds the event to this loop.
        return Owner(closer=closer)

    owner = run(enter)
    closer = owner.closer
    run(lambda: owner.leave("closer"))
    assert closer.was_closed


def test_released_resources_are_freed_at_once(monkeypatch: pytest.MonkeyPatch, path: Path) -> None:
    monkeypatch.setattr(config, "ENABLE_FORCED_GC", False)

    async def main() -> None:
        resources: list[Any] = [Slow(), Raising(), Hanging(), map_file(path), path.open("rb")]
        references = [weakref.ref(resource) for resource in resources]
        owner = Owner(**{f"r{i}": resource for i, resource in enumerate(resources)})
        resources.clear()
        await owner.leave("r0", "r1", "r2", "r3", "r4")
        await asyncio.sleep(0)
        assert [reference() is None for reference in references] == [True] * 5

    gc.collect()
    gc.disable()
    try:
        run(main)
    finally:
        gc.enable()


@pytest.mark.parametrize("leave", ["synchronously", "asynchronously"])
def test_views_that_are_dropped_by_the_same_exit_do_not_pin_their_map(path: Path, leave: str) -> None:
    mapped = map_file(path)
    owner = Owner(columns={"open": memoryview(mapped)}, mapped=mapped)
    if leave == "synchronously":
        direct_file_cleanup(owner, "mapped", "columns")
    else:
        run(lambda: owner.leave("mapped", "columns"))
    assert mapped.closed
    assert vars(owner) == {"columns": None, "mapped": None}


def test_a_closed_file_or_map_is_released(path: Path) -> None:
    for handle in (path.open("rb"), map_file(path), io.BytesIO()):
        assert cleanup_file_handle(handle)
        assert handle.closed
        assert cleanup_file_handle(handle)


def test_a_map_is_not_closed_while_a_view_of_it_is_alive(path: Path) -> None:
    mapped = map_file(path)
    view = memoryview(mapped)
    assert not cleanup_file_handle(mapped)
    assert view[0] == 0
    view.release()
    assert cleanup_file_handle(mapped)


def test_a_file_that_cannot_be_flushed_is_logged_and_released(caplog: pytest.LogCaptureFixture) -> None:
    reader, writer = os.pipe()
    file = os.fdopen(writer, "wb")
    file.write(b"for nobody")
    os.close(reader)
    assert cleanup_file_handle(file)
    (record,) = caplog.records
    assert (record.name, record.levelno) == (async_cleanup.__name__, logging.WARNING)
    assert "BrokenPipeError" in record.getMessage()


@pytest.mark.skipif(sys.platform == "win32", reason="a process cannot send SIGINT to itself only")
def test_a_keyboard_interrupt_while_leaving_is_raised_after_everything_is_closed() -> None:
    script = """
        import asyncio, os, signal
        from support import leaks
        from support.release.closers import Closer
        from ckvd.utils.async_cleanup import direct_resource_cleanup

        class Interrupting(Closer):
            async def _close(self):
                os.kill(os.getpid(), signal.SIGINT)
                await asyncio.sleep(0.02)

        class Owner:
            def __init__(self):
                self.first, self.second = closers
            async def __aenter__(self):
                pass
            async def __aexit__(self, *error):
                await direct_resource_cleanup(self, ("first", "first", False), ("second", "second", False))

        async def main():
            async with Owner():
                pass
            print("went on")

        closers = Interrupting(), Closer()
        with leaks.watch() as watch:
            try:
                asyncio.run(main())
            except KeyboardInterrupt:
                print("interrupted", *(closer.was_closed for closer in closers))
        print(watch.findings)
    """
    printed = run_script(script, prepare=lambda: signal.signal(signal.SIGINT, signal.default_int_handler))
    assert printed.splitlines() == ["interrupted True True", "[]"]

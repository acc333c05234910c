"""An exit first sets all attributes to None, then closes files, then all other resources in order."""

from __future__ import annotations

import asyncio
import gc
import logging
import mmap
import os
import re
import signal
import socket
import tempfile
import weakref
import zipfile
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from ckvd.utils import async_cleanup, config
from ckvd.utils.async_cleanup import (
    cleanup_file_handle,
    direct_file_cleanup,
    direct_resource_cleanup,
)
from support import leaks
from support.processes import run_script
from support.release.closers import (
    TASK_FACTORIES,
    Closer,
    Fast,
    Hanging,
    Raising,
    ReturningAwaitable,
    ReturningFuture,
    Slow,
    Synchronous,
    WaitingForATurn,
    run,
)

if TYPE_CHECKING:
    from collections.abc import Callable
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


def test_between_the_call_and_the_closing_of_files_nothing_else_runs(path: Path) -> None:
    """The event loop gets its next turn when every attribute is None and every file closed."""

    async def main() -> None:
        file, synchronous = path.open("rb"), Synchronous()
        owner = Owner(closer=Slow(), file=file, synchronous=synchronous)
        seen: list[object] = []
        asyncio.get_running_loop().call_soon(
            lambda: seen.extend([*vars(owner).values(), file.closed, synchronous.was_closed])
        )
        await owner.leave("closer", "file", "synchronous")
        assert seen == [None, None, None, True, True]

    run(main)


def test_what_closes_synchronously_needs_no_event_loop(path: Path) -> None:
    """As under trio. Leaving does not even suspend."""
    resources: dict[str, Any] = {"file": path.open("rb"), "mapped": map_file(path), "synchronous": Synchronous()}
    owner = Owner(**resources)
    with pytest.raises(StopIteration):
        owner.leave(*resources).send(None)
    assert vars(owner) == dict.fromkeys(resources)
    assert resources["file"].closed
    assert resources["mapped"].closed
    assert resources["synchronous"].was_closed


def test_without_an_event_loop_closers_run_until_they_wait(caplog: pytest.LogCaptureFixture) -> None:
    fast, slow, raising = Fast(), WaitingForATurn(), Raising()
    with pytest.raises(StopIteration):
        Owner(slow=slow, raising=raising, fast=fast).leave("slow", "raising", "fast").send(None)
    assert fast.was_closed
    assert not slow.was_closed
    given_up, failed = (record.getMessage() for record in caplog.records)
    assert given_up == "closing slow was given up: it waits, and asyncio does not run here"
    assert failed == "closing raising failed: OSError('failed')"


def test_a_client_with_a_synchronous_close_is_closed_after_what_stands_before_it() -> None:
    """Its requests have to end first."""
    order: list[str] = []

    class Requests(Closer):
        async def _close(self) -> None:
            await asyncio.sleep(0)
            order.append("requests")

    class Client:
        def request(self) -> None: ...

        def close(self) -> None:
            order.append("client")

    async def main() -> None:
        await Owner(requests=Requests(), client=Client()).leave("requests", "client")

    run(main)
    assert order == ["requests", "client"]


def test_a_synchronous_close_that_returns_an_awaitable_is_awaited() -> None:
    async def main() -> None:
        closers = ReturningFuture(), ReturningAwaitable()
        await Owner(first=closers[0], second=closers[1]).leave("first", "second")
        assert [closer.was_closed for closer in closers] == [True, True]

    run(main)


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


# --- cleanup_file_handle -----------------------------------------------------------------------------------


def open_zip(path: Path) -> zipfile.ZipFile:
    return zipfile.ZipFile(path.with_suffix(".zip"), "w")


def open_file(path: Path) -> object:
    return path.open("rb")


def open_raw_file(path: Path) -> object:
    return path.open("rb", buffering=0)


def open_text(path: Path) -> object:
    return path.open(encoding="utf-8")


def open_socket(path: Path) -> object:
    return socket.socket()


def open_temporary_file(path: Path) -> object:
    return tempfile.NamedTemporaryFile(dir=path.parent)


def open_none(path: Path) -> None:
    return None


OPENERS = [
    map_file, open_file, open_raw_file, open_text, open_zip, open_socket, open_temporary_file, open_none,
]  # fmt: skip


@pytest.mark.parametrize("opener", OPENERS, ids=lambda opener: opener.__name__)
def test_a_handle_of_any_kind_is_closed_and_the_answer_may_be_awaited(
    path: Path, opener: Callable[[Path], Any], caplog: pytest.LogCaptureFixture
) -> None:
    before = leaks.count_descriptors(), leaks.count_maps()
    handle = opener(path)
    for _ in range(2):
        answer = cleanup_file_handle(handle)
        assert answer
        assert int(answer) == 1
        assert repr(answer) == "True"
        assert run(lambda: awaiting(handle)) is True
    assert (leaks.count_descriptors(), leaks.count_maps()) == before
    assert not caplog.records


async def awaiting(handle: object) -> bool:
    return await cleanup_file_handle(handle)


def test_the_answer_is_awaited_without_suspending(path: Path) -> None:
    """So it can be awaited in any event loop."""
    with pytest.raises(StopIteration) as caught:
        awaiting(path.open("rb")).send(None)
    assert caught.value.value is True


def test_a_memmap_is_a_view_and_stays_readable(path: Path) -> None:
    """Closing its map under it would make the next read a segmentation fault."""
    array = np.memmap(path, np.uint8, "r")
    assert not cleanup_file_handle(array)
    assert run(lambda: awaiting(array)) is False
    assert array.sum() == 0


@pytest.mark.parametrize("nothing", [0, "path", {}, object(), [1, 2]], ids=["0", "path", "dict", "object", "list"])
def test_what_has_no_close_is_not_closed(nothing: object, caplog: pytest.LogCaptureFixture) -> None:
    assert not cleanup_file_handle(nothing)
    assert run(lambda: awaiting(nothing)) is False
    assert not caplog.records


def test_a_socket_is_open_as_long_as_a_file_made_of_it() -> None:
    made, peer = socket.socketpair()
    file = made.makefile("rb")
    for _ in range(2):
        assert not cleanup_file_handle(made)
    assert cleanup_file_handle(file)
    assert cleanup_file_handle(made)
    assert made.fileno() < 0
    peer.close()


class AsynchronousFile:
    """A file of a library for asynchronous files."""

    closed = False

    async def close(self) -> None:
        await asyncio.sleep(0)
        self.closed = True


def test_an_asynchronous_file_is_closed_by_awaiting_the_answer() -> None:
    async def main() -> None:
        file = AsynchronousFile()
        answer = cleanup_file_handle(file)
        assert not answer
        assert await answer is True
        assert file.closed
        assert await cleanup_file_handle(file) is True

    run(main)


class Hostile:
    """Fails however it is asked."""

    @property
    def closed(self) -> bool:
        raise RuntimeError("closed?")

    loop = closed

    def close(self) -> None:
        raise RuntimeError("close!")


def test_nothing_is_raised_by_a_handle_that_fails_however_it_is_asked(caplog: pytest.LogCaptureFixture) -> None:
    assert not cleanup_file_handle(Hostile())
    owner = Owner(hostile=Hostile())
    run(lambda: owner.leave("hostile"))
    direct_file_cleanup(Owner(hostile=Hostile()), "hostile")
    assert len(caplog.records) == 3


def test_a_zip_file_that_cannot_be_closed_yet_is_logged_and_not_closed(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    archive = open_zip(path)
    member = archive.open("member", "w")
    assert not cleanup_file_handle(archive)
    assert "ValueError" in caplog.text
    member.close()
    assert cleanup_file_handle(archive)


def test_a_map_is_not_closed_while_a_view_of_it_is_alive(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    mapped = map_file(path)
    view = memoryview(mapped)
    assert not cleanup_file_handle(mapped)
    assert run(lambda: awaiting(mapped)) is False
    assert view[0] == 0
    view.release()
    assert cleanup_file_handle(mapped)
    assert not caplog.records


def test_a_map_with_private_changes_keeps_them_when_it_is_pinned(path: Path) -> None:
    with path.open("r+b") as file:
        mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
    mapped[:3] = b"new"
    view = memoryview(mapped)
    assert not cleanup_file_handle(mapped)
    assert bytes(view[:3]) == b"new"
    view.release()
    mapped.close()


def test_a_file_that_cannot_be_flushed_is_logged_and_released(caplog: pytest.LogCaptureFixture) -> None:
    reader, writer = os.pipe()
    file = os.fdopen(writer, "wb")
    file.write(b"for nobody")
    os.close(reader)
    assert cleanup_file_handle(file)
    assert file.closed
    (record,) = caplog.records
    assert (record.name, record.levelno) == (async_cleanup.__name__, logging.WARNING)
    assert "BrokenPipeError" in record.getMessage()


# --- The log -----------------------------------------------------------------------------------------------


def test_each_step_is_told_at_debug(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    mapped = map_file(path)
    view = memoryview(mapped)
    owner = Owner(client=Slow(), file=path.open("rb"), mapped=mapped, session=Fast())
    resources = [("client", "client", False), ("file", "file", False), ("mapped", "segment map", False)]
    with caplog.at_level(logging.DEBUG, async_cleanup.__name__):
        run(lambda: direct_resource_cleanup(owner, *resources, ("session", "session", True)))
    captured, file, pinned, client, *collections = [record.getMessage() for record in caplog.records]
    assert captured == "Owner: captured file, segment map, client"
    assert re.fullmatch(r"closed file in \d+\.\d{3} ms", file)
    assert pinned == "segment map is pinned: views of it are alive, and it is unmapped with the last"
    closed = re.fullmatch(r"closed client in (\d+\.\d{3}) ms", client)
    assert closed is not None
    assert float(closed[1]) >= 19
    assert collections
    for collection in collections:
        assert re.fullmatch(
            r"forced collection of generation [012]: .* ms, 0 of \d+ released objects freed", collection
        )
    assert {record.name for record in caplog.records} == {async_cleanup.__name__}
    view.release()
    mapped.close()


def test_nothing_is_told_below_debug(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, async_cleanup.__name__):
        assert async_cleanup.listener() is None
        run(lambda: Owner(client=Slow(), mapped=map_file(path)).leave("client", "mapped"))
    assert not caplog.records


def test_a_quiet_release_does_not_import_logging() -> None:
    printed = run_script("""
        import sys, tempfile
        from ckvd.utils.async_cleanup import direct_file_cleanup

        class Owner:
            file = tempfile.TemporaryFile()

        had = "logging" in sys.modules
        direct_file_cleanup(Owner(), "file")
        print(had or "logging" not in sys.modules)
    """)
    assert printed == "True\n"


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

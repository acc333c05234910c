"""Servers that stop in the middle of an answer, at each place where curl holds something of it.

In every one of these places a client may give up, in every one of the ways of `WAYS`. Both are for scripts in
processes of their own: what they look for is an interpreter that aborts.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import signal
import socket
import tempfile
import threading
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from curl_cffi import AsyncSession

from ckvd.errors import ClientClosedError, NetworkError
from ckvd.network.retry import RetryPolicy
from ckvd.network.session import open_session, release_session
from ckvd.network.transport import Transport

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine
    from types import TracebackType

# A path begins a redirect if it is the first of these, and then continues at the second.
_REDIRECT, _REDIRECTED = "/redirect", "/redirected"

# The bytes after which the server falls silent.
BEGINNINGS = {
    "nothing": b"",
    "half a status line": b"HTTP/1.1 20",
    "a status line": b"HTTP/1.1 200 OK\r\n",
    "half a header": b"HTTP/1.1 200 OK\r\nContent-Le",
    "a header": b"HTTP/1.1 200 OK\r\nX: 1\r\n",
    "a folded header": b"HTTP/1.1 200 OK\r\nX: 1\r\n 2\r\n",
    "half a redirect": b"HTTP/1.1 302 Found\r\nLocation: /y\r\n",
    "half a 404": b"HTTP/1.1 404 Not Found\r\nA: b\r\n",
    "half a 100": b"HTTP/1.1 100 Continue\r\nA: b\r\n",
    "a header after a 100": b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nX: 1\r\n",
    "a header after a 103": b"HTTP/1.1 103 Early Hints\r\nLink: a\r\n\r\nHTTP/1.1 200 OK\r\nX: 1\r\n",
    "all headers": b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n",
    "half a body": b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n" + bytes(50),
    "half a chunk": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n64\r\n" + bytes(50),
    "half the trailers": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\nA: b\r\n",
    "half a compressed body": b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\n\r\n\x1f\x8b\x08" + bytes(7) + b"\x4b",
    "a redirect to half a header": b"HTTP/1.1 302 Found\r\nContent-Length: 0\r\nLocation: /redirected\r\n\r\n",
}


class HalfServer:
    """Sends the beginning of an answer, and nothing after it. A context manager.

    Parameters
    ----------
    beginning : bytes
    is_tls, is_full : bool
        Whether it should be asked for TLS, which it does not know; and whether it accepts no connection.
    """

    def __init__(self, beginning: bytes, *, is_tls: bool = False, is_full: bool = False) -> None:
        self._beginning = beginning
        self._is_tls = is_tls
        self._is_full = is_full
        self._changed = threading.Condition()
        self._sent_count = 0
        self._connections: list[socket.socket] = []
        self._threads: list[threading.Thread] = []

    def __enter__(self) -> Self:
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=0 if self._is_full else 64)
        if self._is_full:
            # Of a full queue, Linux drops what asks to be let in, and the client waits.
            self._connections += [socket.create_connection(self._listener.getsockname()) for _ in range(1)]
        else:
            self._start(self._accept)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)  # it wakes the thread that accepts
        self._listener.close()
        for connection in self._connections:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(10)
        for connection in self._connections:
            connection.close()

    @property
    def url(self) -> str:
        scheme = "https" if self._is_tls else "http"
        redirect = _REDIRECT if _REDIRECTED.encode() in self._beginning else ""
        return f"{scheme}://127.0.0.1:{self._listener.getsockname()[1]}{redirect}"

    async def until_heard(self, count: int) -> None:
        """Wait until so many clients have received all that they will ever receive."""
        if not self._is_full:
            await asyncio.to_thread(self._wait, count)
        # What was sent over loopback can be read at once; so the loop reads it in its next turns.
        for _ in range(100):
            await asyncio.sleep(0)

    def _wait(self, count: int) -> None:
        with self._changed:
            assert self._changed.wait_for(lambda: self._sent_count >= count, 10)

    def _start(self, work: Callable[..., None], *arguments: object) -> None:
        thread = threading.Thread(target=work, args=arguments)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                self._connections.append(connection)
                self._start(self._answer, connection)

    def _answer(self, connection: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while request := connection.recv(65536):
                is_second = _REDIRECTED.encode() in request
                connection.sendall(BEGINNINGS["a header"] if is_second else self._beginning)
                if _REDIRECT.encode() + b" " not in request:
                    with self._changed:
                        self._sent_count += 1
                        self._changed.notify_all()


def servers() -> dict[str, HalfServer]:
    """A server for each place."""
    made = {name: HalfServer(beginning) for name, beginning in BEGINNINGS.items()}
    made["half a handshake"] = HalfServer(b"", is_tls=True)
    made["half a connection"] = HalfServer(b"", is_full=True)
    return made


# --- Ways of giving up -------------------------------------------------------------------------------------

_ONCE = RetryPolicy(attempts_max=1)


class GivingUpError(Exception):
    """Raised in the body of a block."""


def _start(transport: Transport, url: str, folder: Path) -> list[asyncio.Task[Any]]:
    """One request of each kind: with its body into memory, and into a file."""
    return [
        asyncio.ensure_future(transport.get(url)),
        asyncio.ensure_future(transport.download(url, folder / "body")),
    ]


async def _outcomes(callers: list[asyncio.Task[Any]]) -> set[type]:
    return {type(outcome) for outcome in await asyncio.gather(*callers, return_exceptions=True)}


async def cancelling(server: HalfServer, folder: Path) -> None:
    async with Transport() as transport:
        callers = _start(transport, server.url, folder)
        await server.until_heard(2)
        for caller in callers:
            caller.cancel()
        assert await _outcomes(callers) == {asyncio.CancelledError}


async def timing_out(server: HalfServer, folder: Path) -> None:
    async with Transport() as transport:
        caller = asyncio.ensure_future(transport.download(server.url, folder / "body"))
        await server.until_heard(1)
        try:
            async with asyncio.timeout(0):
                await caller
        except TimeoutError:
            return
    raise AssertionError


async def closing(server: HalfServer, folder: Path) -> None:
    transport = Transport()
    callers = _start(transport, server.url, folder)
    await server.until_heard(2)
    await transport.aclose()
    assert await _outcomes(callers) == {ClientClosedError}


async def leaving_the_block(server: HalfServer, folder: Path) -> None:
    with contextlib.suppress(GivingUpError):
        async with Transport() as transport:
            callers = _start(transport, server.url, folder)
            await server.until_heard(2)
            raise GivingUpError
    assert await _outcomes(callers) == {ClientClosedError}


async def waiting_until_it_stalls(server: HalfServer, folder: Path) -> None:
    async with Transport(stall_timeout_s=0.2, retry=_ONCE) as transport:
        outcomes = await asyncio.gather(*_start(transport, server.url, folder), return_exceptions=True)
    assert all(isinstance(outcome, NetworkError) for outcome in outcomes), outcomes


async def waiting_until_it_takes_too_long(server: HalfServer, folder: Path) -> None:
    async with Transport(transfer_timeout_s=0.2, retry=_ONCE) as transport:
        outcomes = await asyncio.gather(*_start(transport, server.url, folder), return_exceptions=True)
    assert all(isinstance(outcome, NetworkError) for outcome in outcomes), outcomes


async def trying_again(server: HalfServer, folder: Path) -> None:
    """The next request takes the same parts of curl_cffi, and is given up too."""
    async with Transport(concurrency=1) as transport:
        for number in range(3):
            caller = asyncio.ensure_future(transport.get(server.url))
            await server.until_heard(number + 1)
            caller.cancel()
            assert await _outcomes([caller]) == {asyncio.CancelledError}


async def in_a_session_of_the_caller(server: HalfServer, folder: Path) -> None:
    async with AsyncSession[Any](curl_options=dict(open_session(1).curl_options or {})) as session:
        async with Transport(session) as transport:
            callers = _start(transport, server.url, folder)
            await server.until_heard(2)
            callers[0].cancel()
        assert await _outcomes(callers) == {asyncio.CancelledError, ClientClosedError}


async def closing_the_session(server: HalfServer, folder: Path) -> None:
    session = open_session(2)
    callers = [asyncio.ensure_future(session.request("GET", server.url)) for _ in range(2)]
    await server.until_heard(2)
    callers[0].cancel()  # it lets go of curl while the session waits in `close`
    await session.close()
    await _outcomes(callers)


async def releasing_the_session(server: HalfServer, folder: Path) -> None:
    session = open_session(2)
    callers = [asyncio.ensure_future(session.request("GET", server.url)) for _ in range(2)]
    await server.until_heard(2)
    callers[0].cancel()
    release_session(session)
    await _outcomes(callers)


async def pausing(server: HalfServer, folder: Path) -> None:
    """With a body that waits in curl until it is asked for."""
    pause = 0x10000001
    async with open_session(1) as session:
        caller = asyncio.ensure_future(session.request("GET", server.url, content_callback=lambda _: pause))
        await server.until_heard(1)
        caller.cancel()
        await _outcomes([caller])


def _interrupting(server: HalfServer, folder: Path) -> None:
    async def main() -> None:
        async with Transport() as transport:
            callers = _start(transport, server.url, folder)
            await server.until_heard(2)
            signal.raise_signal(signal.SIGINT)
            await asyncio.gather(*callers)

    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell has its background jobs ignore it
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(main())
        raise AssertionError


def _ending_the_loop(server: HalfServer, folder: Path) -> None:
    callers: list[asyncio.Task[Any]] = []

    async def main() -> None:
        callers.extend(_start(transport, server.url, folder))
        await server.until_heard(2)

    transport = Transport()
    asyncio.run(main())
    assert all(caller.cancelled() for caller in callers)
    asyncio.run(transport.aclose())


def _closing_the_loop(server: HalfServer, folder: Path) -> None:
    """Nothing is cancelled, and nothing is ever run again."""

    callers: list[asyncio.Task[Any]] = []
    transport = Transport()

    async def main() -> None:
        callers.extend(_start(transport, server.url, folder))
        await server.until_heard(2)
        await asyncio.get_running_loop().shutdown_default_executor()

    loop = asyncio.new_event_loop()
    loop.run_until_complete(main())
    loop.close()
    with warnings.catch_warnings(action="ignore"):
        transport.release()
        callers.clear()
        gc.collect()


def _forgetting_the_session(server: HalfServer, folder: Path) -> None:
    """Session, request and loop are garbage together. What curl uses is older than the request, and goes first."""

    async def main() -> None:
        session = open_session(1)
        first = asyncio.ensure_future(session.request("GET", server.url))
        await server.until_heard(1)
        first.cancel()
        await _outcomes([first])
        session.forgotten = asyncio.ensure_future(session.request("GET", server.url))  # type: ignore[attr-defined]
        await server.until_heard(2)
        await asyncio.get_running_loop().shutdown_default_executor()

    loop = asyncio.new_event_loop()
    loop.set_exception_handler(lambda *_: None)  # it says that tasks were destroyed while they were pending
    with warnings.catch_warnings(action="ignore"):
        loop.run_until_complete(main())
        loop.close()
        del loop
        gc.collect()


def _leaving_it_to_the_interpreter(server: HalfServer, folder: Path) -> None:
    """What is left when the process ends is torn down in no order at all."""

    async def main() -> None:
        _left.extend(_start(transport, server.url, folder))
        _left.extend(asyncio.ensure_future(session.request("GET", server.url)) for session in _sessions)
        await server.until_heard(3)
        await asyncio.get_running_loop().shutdown_default_executor()

    transport = Transport()
    loop = asyncio.new_event_loop()
    loop.set_exception_handler(lambda *_: None)
    asyncio.set_event_loop(loop)
    _sessions.append(_run_now(loop, open_session, 1))
    loop.run_until_complete(main())
    _left.extend([transport, loop])


_left: list[Any] = []
_sessions: list[Any] = []


def _run_now(loop: asyncio.AbstractEventLoop, call: Callable[..., Any], *arguments: object) -> Any:
    async def run() -> Any:
        return call(*arguments)

    return loop.run_until_complete(run())


def _in_a_loop(
    way: Callable[[HalfServer, Path], Coroutine[Any, Any, None]],
) -> Callable[[HalfServer, Path], None]:
    def run(server: HalfServer, folder: Path) -> None:
        asyncio.run(way(server, folder))
        assert list(folder.iterdir()) == []

    return run


WAYS: dict[str, Callable[[HalfServer, Path], None]] = {
    way.__name__: _in_a_loop(way)
    for way in (
        cancelling,
        timing_out,
        closing,
        leaving_the_block,
        waiting_until_it_stalls,
        waiting_until_it_takes_too_long,
        trying_again,
        in_a_session_of_the_caller,
        closing_the_session,
        releasing_the_session,
        pausing,
    )
} | {
    way.__name__.lstrip("_"): way
    for way in (
        _interrupting,
        _ending_the_loop,
        _closing_the_loop,
        _forgetting_the_session,
        _leaving_it_to_the_interpreter,
    )
}


def give_up(name: str) -> None:
    """Give up in one way, in every place. The last line that is printed says where an abort happened."""
    for place, server in servers().items():
        print(place, flush=True)
        with server, tempfile.TemporaryDirectory() as folder:
            WAYS[name](server, Path(folder))
    print("done", flush=True)

"""`LoopbackServer`: a real HTTP/1.1 server on 127.0.0.1, in a thread of its own.

A handler is a plain function from `Request` to `Reply`; it runs in the server's thread. Nothing sleeps to wait for
something else: tests wait for requests that have come in, and replies wait for gates that tests open.

Leaving the server ends every connection, and asserts that its thread, its loop and its descriptors are gone.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
import threading
from collections import Counter
from collections.abc import Callable
from typing import TYPE_CHECKING, Self, TypeAlias, cast

from support.loopback.reply import Ending, Reply, Request

if TYPE_CHECKING:
    from types import TracebackType

__all__ = ["Handler", "LoopbackServer", "Reply", "Request"]

WAIT_TIMEOUT_S = 10.0

Handler: TypeAlias = Callable[[Request], Reply]


class LoopbackServer:
    """Serves a handler on a free port of 127.0.0.1. A context manager, for synchronous and asyncio code.

    Attributes
    ----------
    requests : list of Request
        All so far, in the order in which they came.
    connection_count : int
        Connections accepted so far.
    peak_concurrency : int
        The most requests that were being answered at one time.
    errors : list of Exception
        What handlers raised. The client sees status 500 then, and leaving the server raises the first.
    """

    def __init__(self, handler: Handler) -> None:
        self.requests: list[Request] = []
        self.connection_count = 0
        self.peak_concurrency = 0
        self.errors: list[Exception] = []
        self._handler = handler
        self._answering_count = 0
        self._changed = threading.Condition()
        self._arrivals: set[asyncio.Task[None]] = set()
        self._connections: set[_Connection] = set()

    def __enter__(self) -> Self:
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=256)
        self._listener.settimeout(0)
        self._port: int = self._listener.getsockname()[1]
        self._is_serving = threading.Event()
        self._thread = threading.Thread(target=asyncio.run, args=(self._serve(),), name="loopback server")
        self._thread.start()
        assert self._is_serving.wait(WAIT_TIMEOUT_S)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(WAIT_TIMEOUT_S)
        assert not self._thread.is_alive()
        assert self._loop.is_closed()
        assert self._listener.fileno() == -1
        assert not self._connections
        if self.errors and error is None:
            raise self.errors[0]

    @property
    def url(self) -> str:
        """Its address, without a slash at the end."""
        return f"http://127.0.0.1:{self._port}"

    def count(self, path: str) -> int:
        """How often a path was asked for."""
        return Counter(request.path for request in self.requests)[path]

    def wait_for_requests(self, count: int) -> None:
        """Wait until so many requests have come in all. From asyncio: with `asyncio.to_thread`."""
        self._wait_until(lambda: len(self.requests) >= count)

    def wait_until_idle(self) -> None:
        """Wait until no request is being answered and nobody is connected."""
        self._wait_until(lambda: not self._answering_count and not self._connections)

    def _wait_until(self, condition: Callable[[], bool]) -> None:
        with self._changed:
            assert self._changed.wait_for(condition, WAIT_TIMEOUT_S), f"{len(self.requests)} requests came"

    # --- In the server's thread ----------------------------------------------------------------------------

    async def _serve(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._stop = asyncio.Event()
        self._loop.add_reader(self._listener, self._accept)
        self._is_serving.set()
        await self._stop.wait()
        self._loop.remove_reader(self._listener)
        self._listener.close()
        await asyncio.gather(*self._arrivals)
        connections = tuple(self._connections)
        for connection in connections:
            connection.transport.abort()
        await asyncio.gather(*(connection.task for connection in connections))

    def _accept(self) -> None:
        # Accepting here, and not with asyncio.Server, knows of each connection from its first moment, so that
        # none is lost when the server stops just then.
        with contextlib.suppress(BlockingIOError, ConnectionAbortedError):
            accepted, _ = self._listener.accept()
            arrival = self._loop.create_task(self._greet(accepted))
            self._arrivals.add(arrival)
            arrival.add_done_callback(self._arrivals.discard)

    async def _greet(self, accepted: socket.socket) -> None:
        await self._loop.connect_accepted_socket(lambda: _Connection(self), accepted)

    def connected(self, connection: _Connection) -> None:
        with self._changed:
            self._connections.add(connection)
            self.connection_count += 1

    def disconnected(self, connection: _Connection) -> None:
        with self._changed:
            self._connections.discard(connection)
            self._changed.notify_all()

    async def answer(self, request: Request, connection: _Connection) -> bool:
        """Answer one request; return whether the connection can take another."""
        with self._changed:
            self.requests.append(request)
            self._answering_count += 1
            self.peak_concurrency = max(self.peak_concurrency, self._answering_count)
            self._changed.notify_all()
        try:
            try:
                reply = self._handler(request)
            except Exception as error:  # noqa: BLE001 - it is raised again where the server is left
                self.errors.append(error)
                reply = Reply(500, repr(error).encode())
            await connection.send(reply, is_head=request.method == "HEAD")
            return reply.is_reusable
        finally:
            with self._changed:
                self._answering_count -= 1
                self._changed.notify_all()


class _Connection(asyncio.Protocol):
    """One connection: its requests are answered one after the other, by a task that ends with it."""

    transport: asyncio.Transport
    task: asyncio.Task[None]

    def __init__(self, server: LoopbackServer) -> None:
        self._server = server
        self._received = bytearray()
        self._has_received = asyncio.Event()
        self._is_flushed = asyncio.Event()
        self._is_flushed.set()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)
        self.transport.set_write_buffer_limits(0)  # so that to resume writing means: the kernel has all of it
        # asyncio does so only for sockets that name their protocol, and those of `create_server` do not. Without
        # it, each small body would wait 40 ms for the client's delayed acknowledgement of its head.
        transport.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._server.connected(self)
        self.task = asyncio.get_running_loop().create_task(self._converse())

    def data_received(self, data: bytes) -> None:
        self._received += data
        self._has_received.set()

    def pause_writing(self) -> None:
        self._is_flushed.clear()

    def resume_writing(self) -> None:
        self._is_flushed.set()

    def connection_lost(self, exc: Exception | None) -> None:
        self.task.cancel()
        # The socket is closed right after this. Whoever waits for the end wants its descriptor gone as well.
        asyncio.get_running_loop().call_soon(self._server.disconnected, self)

    async def _converse(self) -> None:
        with contextlib.suppress(asyncio.CancelledError):
            while await self._server.answer(await self._next_request(), self):
                pass
            self.transport.close()

    async def _next_request(self) -> Request:
        while (end := self._received.find(b"\r\n\r\n")) < 0:
            self._has_received.clear()
            await self._has_received.wait()
        head = bytes(self._received[:end])
        del self._received[: end + 4]
        return Request.of_head(head)

    async def send(self, reply: Reply, *, is_head: bool) -> None:
        if reply.head_gate is not None:
            await reply.head_gate.wait()
        await self._write(reply.head)
        for piece in () if is_head else reply.pieces:
            await self._write(piece)
            if reply.drip_pause_s:
                await asyncio.sleep(reply.drip_pause_s)
        if reply.body_gate is not None:
            await reply.body_gate.wait()
        if reply.ending is Ending.RESET:
            self._reset()
        elif not is_head and reply.tail:
            await self._write(reply.tail)

    async def _write(self, data: bytes) -> None:
        if self.transport.is_closing():
            await asyncio.Event().wait()  # until `connection_lost` cancels this, in the next turn of the loop
        self.transport.write(data)
        await self._is_flushed.wait()

    def _reset(self) -> None:
        # Closing a socket that may not linger sends RST in place of FIN.
        linger = struct.pack("ii", 1, 0)
        self.transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        self.transport.abort()

from __future__ import annotations

import asyncio
import http.client
import socket
import threading
from pathlib import Path

import pytest

from support.loopback.mirror import Mirror, publish
from support.loopback.server import LoopbackServer, Reply, Request


def descriptors() -> set[str]:
    return {link.name for link in Path("/proc/self/fd").iterdir()}


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="counts descriptors in /proc")
def test_a_server_leaves_neither_a_thread_nor_a_descriptor_behind() -> None:
    before = threading.active_count(), descriptors()
    for _ in range(5):
        with (
            LoopbackServer(lambda _: Reply(200, b"x")) as server,
            socket.create_connection(("127.0.0.1", server._port)),
        ):
            pass
    assert (threading.active_count(), descriptors()) == before


def test_it_keeps_connections_counts_requests_and_decodes_addresses() -> None:
    def echo(request: Request) -> Reply:
        return Reply(200, f"{request.path} {dict(request.query)}".encode(), {"X-Extra": "1"})

    with LoopbackServer(echo) as server:
        connection = http.client.HTTPConnection(server.url.removeprefix("http://"))
        for _ in range(3):
            connection.request("GET", "/%E5%B8%81/x?prefix=a%2Fb&empty=")
            answer = connection.getresponse()
            assert answer.read().decode() == "/币/x {'prefix': 'a/b', 'empty': ''}"
            assert answer.headers["X-Extra"] == "1"
        connection.close()
        server.wait_until_idle()
    assert server.count("/币/x") == 3
    assert (server.connection_count, server.peak_concurrency) == (1, 1)


def test_what_a_handler_raises_is_raised_where_the_server_is_left() -> None:
    def fail(_: Request) -> Reply:
        raise LookupError("a mistake in a test")

    connection = None
    with pytest.raises(LookupError, match="a mistake"), LoopbackServer(fail) as server:  # noqa: PT012
        connection = http.client.HTTPConnection(server.url.removeprefix("http://"))
        connection.request("GET", "/")
        assert connection.getresponse().status == 500
        connection.close()


def test_it_serves_asyncio_code_in_the_same_process() -> None:
    async def main(server: LoopbackServer) -> bytes:
        reader, writer = await asyncio.open_connection("127.0.0.1", server._port)
        writer.write(b"GET / HTTP/1.1\r\n\r\n")
        head = await reader.readuntil(b"\r\n\r\n")
        writer.close()
        await writer.wait_closed()
        return head

    with LoopbackServer(lambda _: Reply(204)) as server:
        assert asyncio.run(main(server)).startswith(b"HTTP/1.1 204")


def test_a_mirror_follows_its_script_and_is_genuine_afterwards(tmp_path: Path) -> None:
    publish(tmp_path, "data/a/x.zip", b"genuine")

    def get(path: str) -> tuple[int, bytes]:
        connection = http.client.HTTPConnection(mirror.base_url.removeprefix("http://"))
        connection.request("GET", path)
        answer = connection.getresponse()
        content = answer.status, answer.read()
        connection.close()
        return content

    with Mirror(tmp_path) as mirror:
        mirror.script("data/a/x.zip", Reply(500), lambda genuine: Reply(200, genuine.body.upper()))
        assert [get("/data/a/x.zip") for _ in range(3)] == [(500, b""), (200, b"GENUINE"), (200, b"genuine")]
        assert get("/data/a/y.zip")[0] == 404
        assert get("/data/../../x")[0] == 404
        assert mirror.count("data/a/x.zip") == 3

from __future__ import annotations

import asyncio
import contextlib
import gzip
import hashlib
import random
import socket
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import TYPE_CHECKING, Any

import pytest
from curl_cffi import AsyncSession

from ckvd.errors import CacheError, HttpStatusError, NetworkError, NetworkTimeoutError
from ckvd.network.response import DownloadedFile, Response
from ckvd.network.retry import Failure, RetryPolicy
from ckvd.network.transport import Transport
from support.disks import files_no_longer_than
from support.loopback.reply import Ending, Framing, Gate
from support.loopback.server import LoopbackServer, Reply, Request
from support.stopwatch import Stopwatch

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

BODY = random.Random(5).randbytes(300_000)
AT_ONCE = RetryPolicy(attempts_max=3, backoff_first_s=0.0)
ONCE = RetryPolicy(attempts_max=1)


class Waits:
    """Replaces sleeping, and records for how long."""

    def __init__(self) -> None:
        self.seconds: list[float] = []

    async def __call__(self, delay_s: float) -> None:
        self.seconds.append(delay_s)


def scripted(*replies: Reply) -> LoopbackServer:
    """A server that gives each reply once, and the last one for ever."""
    left = list(replies)
    return LoopbackServer(lambda _: left.pop(0) if len(left) > 1 else left[0])


def run(
    server: LoopbackServer, main: Callable[[Transport, str], Awaitable[Any]], *, session: Any = None, **options: Any
) -> Any:
    """Run code with a transport, and the address of something on the server."""

    async def opened() -> Any:
        async with contextlib.AsyncExitStack() as stack:
            external = await stack.enter_async_context(session()) if session else None
            transport = await stack.enter_async_context(Transport(external, **{"retry": AT_ONCE, **options}))
            return await main(transport, f"{server.url}/x")

    with server:
        return asyncio.run(opened())


def get(transport: Transport, url: str) -> Awaitable[Response]:
    return transport.get(url)


def download_to(path: Path, seen: list[int] | None = None) -> Callable[[Transport, str], Awaitable[Any]]:
    return lambda transport, url: transport.download(url, path, on_bytes=None if seen is None else seen.append)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "x.part"


# --- Responses ---------------------------------------------------------------------------------------------


def test_a_response_has_a_status_headers_in_lower_case_and_a_body() -> None:
    response = run(scripted(Reply(200, BODY, {"X-Thing": "Yes"})), get)
    assert (response.status, response.headers["x-thing"], response.body) == (200, "Yes", BODY)


@pytest.mark.parametrize("status", [204, 304, 400, 403, 404, 418, 451])
def test_a_status_that_asks_for_no_other_attempt_is_a_response(status: int) -> None:
    server = scripted(Reply(status, b"" if status in (204, 304) else b"why"))
    assert run(server, get).status == status
    assert len(server.requests) == 1


def test_a_query_is_percent_encoded() -> None:
    server = scripted(Reply())
    run(server, lambda transport, url: transport.get(url, {"prefix": "data/币 &=", "limit": 5}))
    assert server.requests[0].query == {"prefix": "data/币 &=", "limit": "5"}
    assert "prefix=data/%E5%B8%81%20%26%3D&limit=5" in server.requests[0].target


def test_an_encoded_body_is_decoded_and_its_content_length_counts_encoded_bytes() -> None:
    server = scripted(Reply(200, gzip.compress(BODY * 2), {"Content-Encoding": "gzip"}))
    assert run(server, get).body == BODY * 2


@pytest.mark.parametrize("framing", [Framing.CHUNKED, Framing.CLOSE])
def test_a_body_without_a_length_ends_where_its_framing_says(framing: Framing, path: Path) -> None:
    assert run(scripted(Reply(200, BODY, framing=framing)), get).body == BODY
    assert run(scripted(Reply(200, BODY, framing=framing)), download_to(path)).nbytes == len(BODY)


def test_a_body_longer_than_its_bound_is_refused_at_once() -> None:
    server = scripted(Reply(200, BODY))
    with pytest.raises(NetworkError, match="longer than 1000 bytes"):
        run(server, lambda transport, url: transport.get(url, nbytes_max=1000))
    assert len(server.requests) == 1


def test_a_download_longer_than_its_bound_counts_no_bytes_and_leaves_no_file(path: Path) -> None:
    seen: list[int] = []
    server = scripted(Reply(200, BODY))
    with pytest.raises(NetworkError, match="longer than 100000 bytes"):
        run(server, lambda t, url: t.download(url, path, on_bytes=seen.append, nbytes_max=100_000))
    assert len(seen) > 1
    assert sum(seen) == 0
    assert len(server.requests) == 1
    assert not path.exists()


def test_a_small_encoded_body_cannot_grow_beyond_its_bound() -> None:
    server = scripted(Reply(200, gzip.compress(bytes(1 << 24)), {"Content-Encoding": "gzip"}))
    with pytest.raises(NetworkError, match="longer than 1000000 bytes"):
        run(server, lambda transport, url: transport.get(url, nbytes_max=1_000_000))


# --- Attempts ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "broken",
    [
        Reply(500),
        Reply(429),
        Reply(200, BODY, stated_nbytes=len(BODY) + 1),
        Reply(200, BODY, sent_nbytes=1000),
        Reply(200, BODY, sent_nbytes=0),
        Reply(200, BODY, sent_nbytes=1000, ending=Ending.RESET),
        Reply(200, BODY, sent_nbytes=1000, framing=Framing.CHUNKED),
        Reply(200, BODY, sent_nbytes=1000, framing=Framing.CHUNKED, ending=Ending.RESET),
    ],
    ids=["500", "429", "one byte short", "short", "no body", "reset", "short chunks", "reset in chunks"],
)
def test_two_failures_and_then_a_response_give_the_response(broken: Reply, path: Path) -> None:
    assert run(scripted(broken, broken, Reply(200, BODY)), get).body == BODY
    seen: list[int] = []
    found = run(scripted(broken, broken, Reply(200, BODY)), download_to(path, seen))
    assert isinstance(found, DownloadedFile)
    assert (found.attempt_count, found.nbytes, found.sha256) == (3, len(BODY), hashlib.sha256(BODY).hexdigest())
    assert path.read_bytes() == BODY
    assert sum(seen) == len(BODY)


@pytest.mark.parametrize(
    ("broken", "reason"),
    [
        (Reply(503), "the server answered 503"),
        (Reply(200, BODY, sent_nbytes=1000), "1000|299000"),
        (Reply(200, BODY, sent_nbytes=1000, ending=Ending.RESET), "reset|Recv failure|299000"),
    ],
)
def test_a_lasting_failure_is_an_error_after_the_last_attempt(broken: Reply, reason: str, path: Path) -> None:
    for main in (get, download_to(path)):
        server = scripted(broken)
        with pytest.raises(NetworkError, match=rf"/x: .*({reason}).*\(attempt 3, the last\)"):
            run(server, main)
        assert len(server.requests) == 3
    assert not path.exists()


def test_nobody_listening_is_an_error_after_the_last_attempt() -> None:
    waits = Waits()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]

    async def main() -> None:
        async with Transport(retry=RetryPolicy(attempts_max=4, backoff_first_s=0.5), sleep=waits) as transport:
            await transport.get(f"http://127.0.0.1:{port}/")

    with pytest.raises(NetworkError, match="attempt 4") as caught:
        asyncio.run(main())
    assert caught.value.status is None
    assert len(waits.seconds) == 3
    assert all(seconds <= 0.5 * 2**n for n, seconds in enumerate(waits.seconds))


@pytest.mark.parametrize("pause", ["7", "date"])
def test_a_server_that_asks_for_a_pause_gets_it(pause: str) -> None:
    now = datetime.now(UTC)
    text = format_datetime(now + timedelta(seconds=7), usegmt=True) if pause == "date" else pause
    headers = {"Retry-After": text, "Date": format_datetime(now, usegmt=True)}
    waits = Waits()
    response = run(scripted(Reply(429, b"", headers), Reply(200, b"ok")), get, retry=RetryPolicy(), sleep=waits)
    assert response.body == b"ok"
    assert len(waits.seconds) == 1
    assert 7.0 <= waits.seconds[0] <= 7.5


def test_a_server_that_asks_for_too_long_a_pause_is_reported_and_not_waited_for() -> None:
    waits = Waits()
    with pytest.raises(HttpStatusError, match="asks to wait 3600 s") as caught:
        run(scripted(Reply(429, b"", {"Retry-After": "3600"})), get, sleep=waits)
    assert caught.value.status == 429
    assert waits.seconds == []


def test_one_request_is_one_attempt_and_every_status_is_a_response() -> None:
    server = scripted(Reply(429, b"slow down", {"Retry-After": "9"}))
    response = run(server, lambda transport, url: transport.request(url))
    assert (response.status, response.body, response.headers["retry-after"]) == (429, b"slow down", "9")
    short = scripted(Reply(200, BODY, sent_nbytes=10))
    failure = run(short, lambda transport, url: transport.request(url))
    assert isinstance(failure, Failure)
    assert failure.is_transient
    assert isinstance(failure.to_error(), NetworkError)
    assert len(server.requests) == len(short.requests) == 1


@pytest.mark.parametrize(
    "headers",
    [
        {"Content-Length": "9" * 5000, "Transfer-Encoding": "chunked"},
        {"Retry-After": "9" * 5000},
        {"Date": "9" * 5000},
        {"Date": "Fri, 31 Dec 9999 23:59:59 GMT", "Retry-After": "9" * 400},
        {"Date": "Mon, 01 Jan 0001 00:00:00 +1400"},
        {"ETag": "\x1b[31m" * 1000},
        {f"X-{number}": "y" * 1000 for number in range(100)},
    ],
)
@pytest.mark.parametrize("status", [200, 503])
def test_a_strange_header_is_no_error_of_its_own(headers: dict[str, str], status: int, path: Path) -> None:
    reply = Reply(status, b"fine", headers, framing=Framing.CHUNKED)
    for main in (get, download_to(path)):
        try:
            run(scripted(reply), main, retry=ONCE)
        except NetworkError:
            assert status == 503 or "Content-Length" in headers


def test_a_redirect_to_a_very_long_address_is_refused() -> None:
    with pytest.raises(
        NetworkError, match=r"an address of at most 4096 characters, was redirected to one of 80\d\d"
    ):
        run(scripted(Reply(302, headers={"Location": "/" + "x" * 8000}), Reply(200)), get)


def test_control_characters_of_a_server_reach_no_message() -> None:
    for location in ("http://127.0.0.1:1/\x1b[31m\x9b", "x\x1b[31m://host/", "/\x1b[31m\x07"):
        with pytest.raises(NetworkError) as caught:
            run(scripted(Reply(302, headers={"Location": location}), Reply(503)), get, retry=ONCE)
        assert str(caught.value).isprintable()


# --- Time --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "hanging",
    [Reply(200, BODY, head_gate=Gate()), Reply(200, BODY, sent_nbytes=1000, body_gate=Gate())],
    ids=["before the head", "in mid-body"],
)
def test_a_transfer_that_brings_nothing_for_a_while_has_stalled(hanging: Reply, path: Path) -> None:
    for main in (get, download_to(path)):
        with Stopwatch() as waiting, pytest.raises(NetworkTimeoutError, match=r"nothing came for 0\.15 s"):
            run(scripted(hanging), main, stall_timeout_s=0.15, retry=ONCE)
        assert waiting.elapsed_s < 1.0
    assert not path.exists()


def test_a_stalled_transfer_is_tried_again(path: Path) -> None:
    stalled = Reply(200, BODY, sent_nbytes=1000, body_gate=Gate())
    found = run(scripted(stalled, Reply(200, BODY)), download_to(path), stall_timeout_s=0.15)
    assert (found.attempt_count, path.read_bytes()) == (2, BODY)


def test_a_slow_drip_does_not_stall_however_long_it_takes_in_all(path: Path) -> None:
    drip = Reply(200, BODY[:1000], drip_nbytes=100, drip_pause_s=0.05)
    assert run(scripted(drip), download_to(path), stall_timeout_s=0.3).nbytes == 1000


def test_a_slow_drip_ends_at_the_limit_for_the_whole(path: Path) -> None:
    drip = Reply(200, BODY, drip_nbytes=100, drip_pause_s=0.02)
    with pytest.raises(NetworkTimeoutError, match=r"longer than 0\.2 s"):
        run(scripted(drip), download_to(path), transfer_timeout_s=0.2, retry=ONCE)
    assert not path.exists()


def test_a_body_that_comes_too_slowly_ends_long_before_the_limit_for_the_whole(path: Path) -> None:
    drip = Reply(200, BODY, drip_nbytes=1, drip_pause_s=0.02)
    for main in (get, download_to(path)):
        with pytest.raises(
            NetworkTimeoutError, match=r"expected at least 1000 bytes a second after 0\.2 s, found \d+ b"
        ):
            run(scripted(drip), main, least_nbytes_s=1000, grace_s=0.2, retry=ONCE)
    assert not path.exists()


def test_a_body_that_comes_fast_enough_may_take_longer_than_the_grace(path: Path) -> None:
    drip = Reply(200, BODY[:5000], drip_nbytes=500, drip_pause_s=0.05)
    assert run(scripted(drip), download_to(path), least_nbytes_s=1000, grace_s=0.2).nbytes == 5000


def test_a_response_in_memory_has_a_shorter_limit_than_a_download(path: Path) -> None:
    drip = Reply(200, BODY[:3000], drip_nbytes=500, drip_pause_s=0.1)
    with pytest.raises(NetworkTimeoutError, match=r"longer than 0\.2 s"):
        run(scripted(drip), get, answer_timeout_s=0.2, retry=ONCE)
    assert run(scripted(drip), download_to(path), answer_timeout_s=0.2).nbytes == 3000


def test_after_the_time_for_the_whole_nothing_is_tried_again(path: Path) -> None:
    drip = Reply(200, BODY, drip_nbytes=100, drip_pause_s=0.02)
    for main in (get, download_to(path)):
        server = scripted(drip)
        with pytest.raises(NetworkTimeoutError, match=r"longer than 0\.2 s"):
            run(server, main, transfer_timeout_s=0.2)
        assert len(server.requests) == 1


def test_short_attempts_are_repeated_until_they_have_taken_the_time_for_the_whole(path: Path) -> None:
    stalled = Reply(200, BODY, sent_nbytes=1000, body_gate=Gate())
    server = scripted(stalled)
    with pytest.raises(NetworkTimeoutError, match="nothing came"):
        run(server, get, stall_timeout_s=0.1, transfer_timeout_s=0.15, retry=replace(AT_ONCE, attempts_max=9))
    assert len(server.requests) == 2


@pytest.mark.parametrize("is_external", [False, True])
def test_waiting_for_a_place_in_the_queue_is_no_stall(is_external: bool) -> None:
    gates = [Gate() for _ in range(4)]
    pending = list(gates)

    async def main(transport: Transport, url: str) -> None:
        responses = [asyncio.create_task(transport.get(url)) for _ in gates]
        for count, gate in enumerate(gates, 1):
            await asyncio.to_thread(server.wait_for_requests, count)
            await asyncio.sleep(0.1)
            gate.open()
        assert [response.status for response in await asyncio.gather(*responses)] == [200] * 4

    server = LoopbackServer(lambda _: Reply(200, head_gate=pending.pop(0)))
    if is_external:
        run(server, main, session=lambda: AsyncSession(max_clients=1), stall_timeout_s=0.35)
    else:
        run(server, main, concurrency=1, stall_timeout_s=0.35)


# --- Connections -------------------------------------------------------------------------------------------


def test_connections_are_used_again() -> None:
    async def main(transport: Transport, url: str) -> None:
        for _ in range(30):
            await transport.get(url)

    server = scripted(Reply(200, BODY))
    run(server, main)
    assert (len(server.requests), server.connection_count) == (30, 1)


def test_no_more_requests_are_sent_at_a_time_than_allowed() -> None:
    gate = Gate()

    async def main(transport: Transport, url: str) -> None:
        responses = [asyncio.create_task(transport.get(url)) for _ in range(20)]
        await asyncio.to_thread(server.wait_for_requests, 3)
        assert repr(transport) == "<Transport: 20 of 3 requests under way>"
        gate.open()
        await asyncio.gather(*responses)

    server = LoopbackServer(lambda _: Reply(200, head_gate=gate))
    run(server, main, concurrency=3)
    assert server.peak_concurrency == 3
    assert server.connection_count <= 4


def test_loopback_is_reached_directly_whatever_proxy_the_environment_names(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    monkeypatch.setenv("no_proxy", "example.org")
    assert run(scripted(Reply()), get).status == 200


@pytest.mark.parametrize("is_external", [False, True])
def test_a_redirect_is_followed_over_http_and_nowhere_else(is_external: bool, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_bytes(b"secret")

    def redirect(request: Request) -> Reply:
        target = secret.as_uri() if request.path == "/x" else "/z"
        return Reply(200, b"there") if request.path == "/z" else Reply(302, b"moved", {"Location": target})

    session = AsyncSession if is_external else None
    server = LoopbackServer(redirect)
    with pytest.raises(NetworkError):
        run(server, get, session=session)
    assert server.count("/x") == 1
    response = run(LoopbackServer(redirect), lambda transport, url: transport.get(url + "/y"), session=session)
    assert (response.url[-2:], response.body) == ("/z", b"there")


def test_a_redirect_that_never_ends_is_an_error() -> None:
    server = scripted(Reply(302, b"", {"Location": "/x"}))
    with pytest.raises(NetworkError):
        run(server, get)
    assert len(server.requests) < 10


@pytest.mark.parametrize("url", ["file:///etc/hostname", "ftp://127.0.0.1/x", "/x", "http://", "http:///x", ""])
def test_an_address_that_is_not_of_http_is_refused(url: str, path: Path) -> None:
    server = scripted(Reply())
    for main in (lambda t, _: t.get(url), lambda t, _: t.download(url, path)):
        with pytest.raises(NetworkError, match="expected an address of http"):
            run(server, main)
    assert not path.exists()


# --- Files -------------------------------------------------------------------------------------------------


def test_a_refused_download_is_a_response_and_leaves_no_file(path: Path) -> None:
    seen: list[int] = []
    response = run(scripted(Reply(404, b"no such key" * 10_000)), download_to(path, seen))
    assert isinstance(response, Response)
    assert response.status == 404
    assert response.body.startswith(b"no such key")
    assert len(response.body) <= 64 << 10
    assert sum(seen) == 0
    assert not path.exists()


@pytest.mark.parametrize(
    ("status", "length"),
    [(200, 300_000), (200, 2000), (404, 2000)],
    ids=["while it comes", "when the file is closed", "when a refusal is read back"],
)
def test_a_disk_that_refuses_is_an_error_of_the_disk_and_not_tried_again(
    status: int, length: int, path: Path
) -> None:
    server = scripted(Reply(status, BODY[:length]))
    with (
        files_no_longer_than(1000),
        pytest.raises(CacheError, match=r"x\.part: cannot be written with what is downloaded: .*; ") as e,
    ):
        run(server, download_to(path))
    assert e.value.errno is not None
    assert len(server.requests) == 1
    assert not path.exists()


def test_a_folder_that_is_not_there_is_an_error_of_the_disk(path: Path) -> None:
    server = scripted(Reply(200, BODY))
    with pytest.raises(CacheError):
        run(server, download_to(path / "y"))
    assert server.requests == []


def test_what_the_progress_callback_raises_reaches_the_caller_as_it_is(path: Path) -> None:
    class OwnError(OSError):
        pass

    def fail(_: int) -> None:
        raise OwnError("of the caller")

    server = scripted(Reply(200, BODY))
    with pytest.raises(OwnError, match="of the caller"):
        run(server, lambda transport, url: transport.download(url, path, on_bytes=fail))
    assert len(server.requests) == 1
    assert not path.exists()


# --- A session from outside --------------------------------------------------------------------------------


def test_a_session_from_outside_is_used_and_never_closed() -> None:
    async def main() -> None:
        async with AsyncSession[Any](headers={"X-From": "outside"}) as session:
            async with Transport(session) as transport:
                await transport.get(server.url)
            assert transport.is_closed
            assert (await session.get(server.url)).status_code == 200
        assert [request.headers["x-from"] for request in server.requests] == ["outside"] * 2

    with scripted(Reply()) as server:
        asyncio.run(main())


def test_a_session_set_to_raise_for_statuses_still_answers() -> None:
    response = run(scripted(Reply(404, b"gone")), get, session=lambda: AsyncSession(raise_for_status=True))
    assert (response.status, response.body) == (404, b"gone")


@pytest.mark.parametrize(
    "reply",
    [Reply(200, BODY, head_gate=Gate()), Reply(200, BODY, sent_nbytes=1000, body_gate=Gate())],
    ids=["before the head", "in mid-body"],
)
def test_a_session_closed_by_its_owner_under_a_request_yields_no_response(reply: Reply, path: Path) -> None:
    async def main() -> None:
        session = AsyncSession[Any]()
        transport = Transport(session, retry=AT_ONCE)
        callers = [
            asyncio.create_task(transport.get(server.url)),
            asyncio.create_task(transport.download(server.url, path)),
        ]
        await asyncio.to_thread(server.wait_for_requests, 2)
        await session.close()
        outcomes = await asyncio.gather(*callers, return_exceptions=True)
        assert [type(outcome) for outcome in outcomes] == [NetworkError] * 2
        await transport.aclose()

    with LoopbackServer(lambda _: reply) as server:
        asyncio.run(main())
    assert not path.exists()

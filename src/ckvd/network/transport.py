"""`Transport`: requests over one session, retried, bounded in number, and ended when it is closed.

`request` is one attempt, `get` tries again, `download` does so into a file. Everything that waits here, for a place
in the queue, for bytes, or for the next attempt, is a request under way: closing ends it.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import logging
import random
from dataclasses import replace
from typing import TYPE_CHECKING, Final, TypeVar
from urllib.parse import quote, urlencode

from ckvd.errors import ClientClosedError
from ckvd.lifecycle import ConnectionHolder, Resource
from ckvd.network.in_flight import RequestsInFlight
from ckvd.network.request import Limits, send_request
from ckvd.network.response import DownloadedFile, Response
from ckvd.network.retry import Failure, RetryPolicy, failure_of_status
from ckvd.network.session import OwnSession, open_session
from ckvd.network.sink import FileSink, MemorySink
from ckvd.utils.config import (
    ARCHIVE_CSV_NBYTES_MAX,
    CONNECT_TIMEOUT_S,
    DOWNLOAD_CONCURRENCY,
    STALL_TIMEOUT_S,
    TRANSFER_TIMEOUT_S,
)

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine, Mapping
    from pathlib import Path
    from typing import Any

    from curl_cffi import AsyncSession
    from curl_cffi import Response as CurlResponse

__all__ = ["DownloadedFile", "Response", "Transport"]

logger = logging.getLogger(__name__)

# A page of a listing has half a megabyte, the longest answer of the REST interface some fifteen.
_BODY_NBYTES_MAX: Final = 64 << 20
# An answer that is no archive is kept this far, to say what it was.
_REFUSAL_NBYTES_MAX: Final = 64 << 10

_T = TypeVar("_T")
_Answer = TypeVar("_Answer", bound="Response | DownloadedFile")


class Transport(ConnectionHolder):
    """Requests over one curl_cffi session.

    The session is opened by the first request, and belongs to that request's event loop. `async with` closes it.

    Parameters
    ----------
    session : curl_cffi.AsyncSession, optional
        One to use in place of its own. It is never closed here, and should not retry by itself.
    concurrency : int
        Requests on the line at a time; the others wait.
    connect_timeout_s, stall_timeout_s, transfer_timeout_s : float
        How long an attempt may take until there is a connection, without a byte of the body, and in all.
    retry : RetryPolicy
    rng : random.Random, optional
        Where the jitter of the waits comes from.
    sleep : callable
        Waits between attempts.
    """

    _session: AsyncSession[CurlResponse] | None = None
    _requests: RequestsInFlight | None = None

    def __init__(
        self,
        session: AsyncSession[CurlResponse] | None = None,
        *,
        concurrency: int = DOWNLOAD_CONCURRENCY,
        connect_timeout_s: float = CONNECT_TIMEOUT_S,
        stall_timeout_s: float = STALL_TIMEOUT_S,
        transfer_timeout_s: float = TRANSFER_TIMEOUT_S,
        retry: RetryPolicy | None = None,
        rng: random.Random | None = None,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._session = session
        self._session_is_external = session is not None
        self._requests = RequestsInFlight()
        # Behind a session's own limit requests would wait without being on the line, and seem to stall.
        self._concurrency = concurrency if session is None else min(concurrency, session.max_clients)
        self._places = asyncio.Semaphore(self._concurrency)
        self._limits = Limits(connect_timeout_s, stall_timeout_s, transfer_timeout_s)
        self._retry = retry or RetryPolicy()
        self._rng = rng or random.Random()  # noqa: S311 - it spreads requests in time, it keeps no secret
        self._sleep = sleep

    def __repr__(self) -> str:
        if self._requests is None:
            return "<Transport: closed>"
        return f"<Transport: {len(self._requests)} of {self._concurrency} requests under way>"

    @property
    def loop(self) -> asyncio.AbstractEventLoop | None:
        """The event loop that it belongs to; None before the first request."""
        return self._requests.loop if self._requests is not None else None

    @property
    def is_closed(self) -> bool:
        """Whether it was closed."""
        return self._requests is None

    @property
    def _resources(self) -> tuple[Resource, ...]:
        return (
            ("_requests", "requests in flight", False),
            ("_session", "HTTP session", self._session_is_external),
        )

    @property
    def is_connected(self) -> bool:
        """Whether it has opened a session."""
        return isinstance(self._session, OwnSession)

    def release(self) -> None:
        """Close the session without awaiting; whoever waits for a request gets an error."""
        session, self._session, self._requests = self._session, None, None
        if isinstance(session, OwnSession):
            session.release()

    # --- Requests ------------------------------------------------------------------------------------------

    async def request(
        self,
        url: str,
        params: Mapping[str, str | int] | None = None,
        *,
        headers: Mapping[str, str] | None = None,
        nbytes_max: int = _BODY_NBYTES_MAX,
    ) -> Response:
        """Ask once. Every status is an answer.

        Parameters
        ----------
        url : str
        params : mapping of str to str or int, optional
            The query, not percent-encoded.
        headers : mapping of str to str, optional
        nbytes_max : int
            The longest body to take, after decoding.

        Raises
        ------
        NetworkError, NetworkTimeoutError
            There was no answer, or not all of it.
        ClientClosedError
        """
        address = _with_query(url, params)
        answer = await self._track(lambda: self._ask(address, headers, nbytes_max), f"GET {address}")
        if isinstance(answer, Failure):
            raise answer.to_error()
        return answer

    async def get(
        self,
        url: str,
        params: Mapping[str, str | int] | None = None,
        *,
        headers: Mapping[str, str] | None = None,
        nbytes_max: int = _BODY_NBYTES_MAX,
    ) -> Response:
        """Ask until there is an answer, as often as the policy allows. The parameters are those of `request`.

        Raises
        ------
        NetworkError, NetworkTimeoutError
            There was no whole answer at last.
        HttpStatusError
            It was 408, 429 or 5xx at last. Every other status is an answer.
        ClientClosedError
        """
        address = _with_query(url, params)
        answer, _ = await self._track(
            lambda: self._persist(lambda: self._ask(address, headers, nbytes_max)), f"GET {address}"
        )
        return answer

    async def download(
        self,
        url: str,
        path: Path,
        *,
        on_bytes: Callable[[int], None] | None = None,
        headers: Mapping[str, str] | None = None,
        nbytes_max: int = ARCHIVE_CSV_NBYTES_MAX,
    ) -> DownloadedFile | Response:
        """Stream a body into a file, hashing it, as often as the policy allows until all of it is there.

        Parameters
        ----------
        url : str
        path : Path
            Created or emptied, and removed unless all of it is there at last.
        on_bytes : callable, optional
            Called with the length of each piece, and with a negative number when an attempt is given up and
            what it brought does not count.
        headers : mapping of str to str, optional
        nbytes_max : int
            The longest body to take.

        Returns
        -------
        DownloadedFile or Response
            A response, with the beginning of its body, when the status is not 200: there is no file then.

        Raises
        ------
        NetworkError, NetworkTimeoutError, HttpStatusError
            As from `get`.
        CacheError
            The file cannot be written. Another attempt would not help, and is not made.
        ClientClosedError
        """

        async def attempt() -> DownloadedFile | Response | Failure:
            return await self._fill(url, path, on_bytes, headers, nbytes_max)

        answer, attempt_count = await self._track(lambda: self._persist(attempt), f"download {url}")
        if isinstance(answer, Response):
            return answer
        return replace(answer, attempt_count=attempt_count)

    async def sleep(self, delay_s: float) -> None:
        """Wait, but no longer than the transport is open.

        Raises
        ------
        ClientClosedError
        """

        async def wait() -> None:
            await self._sleep(delay_s)

        await self._track(wait, f"a wait of {delay_s:g} s")

    # --- Attempts ------------------------------------------------------------------------------------------

    async def _track(self, make: Callable[[], Coroutine[Any, Any, _T]], label: str) -> _T:
        if self._requests is None:
            raise ClientClosedError(f"the client is closed: {label}")
        return await self._requests.run(make, label)

    async def _persist(self, attempt: Callable[[], Awaitable[_Answer | Failure]]) -> tuple[_Answer, int]:
        """Repeat an attempt as the policy says; return its answer and how many it took."""
        number = 1
        while True:
            answer = await attempt()
            failure = _failure_of(answer)
            if failure is None:
                assert not isinstance(answer, Failure)
                return answer, number
            wait_s = self._retry.wait_s(number, failure, self._rng)
            if wait_s is None:
                raise failure.to_error(number)
            logger.info("%s: %s; trying again in %.1f s", failure.url, failure.reason, wait_s)
            await self._sleep(wait_s)
            number += 1

    async def _ask(self, url: str, headers: Mapping[str, str] | None, nbytes_max: int) -> Response | Failure:
        """One attempt at a body in memory."""
        sink = MemorySink(nbytes_max)
        async with self._places:
            head = await send_request(
                self._open(), url, sink, self._limits, headers=headers, accept_encoding="gzip, deflate, br"
            )
        return head if isinstance(head, Failure) else Response(head.url, head.status, head.headers, sink.body)

    async def _fill(
        self,
        url: str,
        path: Path,
        on_bytes: Callable[[int], None] | None,
        headers: Mapping[str, str] | None,
        nbytes_max: int,
    ) -> DownloadedFile | Response | Failure:
        """One attempt at a body in a file."""
        async with self._places:
            with FileSink(path, nbytes_max, on_bytes) as sink:
                head = await send_request(
                    self._open(), url, sink, self._limits, headers=headers, accept_encoding="identity"
                )
                if not isinstance(head, Failure) and head.status == 200:
                    sink.keep()
                    return DownloadedFile(head.url, head.headers, path, sink.nbytes, sink.sha256)
                if on_bytes is not None and sink.nbytes:
                    on_bytes(-sink.nbytes)
                if isinstance(head, Failure):
                    return head
                return Response(head.url, head.status, head.headers, sink.head(_REFUSAL_NBYTES_MAX))

    def _open(self) -> AsyncSession[CurlResponse]:
        if self._requests is None:
            raise ClientClosedError("the client is closed")
        if self._session is None:
            self._session = open_session(self._concurrency)
        return self._session


def _failure_of(answer: Response | DownloadedFile | Failure) -> Failure | None:
    if isinstance(answer, Response):
        return failure_of_status(answer.url, answer.status, answer.headers, dt.datetime.now(dt.UTC))
    return answer if isinstance(answer, Failure) else None


def _with_query(url: str, params: Mapping[str, str | int] | None) -> str:
    return f"{url}?{urlencode(params, safe='/', quote_via=quote)}" if params else url

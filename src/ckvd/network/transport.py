"""`Transport`: requests over one session, retried, bounded in number, and ended when it is closed.

`request` is one attempt, `get` tries again, `download` tries again and writes a file. Whatever waits here, for a
slot, for bytes or for the next attempt, is a request under way: closing ends it.

What knows curl_cffi (`session`, `request`) is loaded for the first request: without that package everything works
that needs no network.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import logging
import random
from dataclasses import replace
from typing import TYPE_CHECKING, Final, TypeVar, cast
from urllib.parse import quote, urlencode

from ckvd.errors import ClientClosedError, needs
from ckvd.lifecycle import ConnectionHolder, Resource
from ckvd.network.in_flight import RequestsInFlight
from ckvd.network.limits import Limits
from ckvd.network.response import DownloadedFile, Response
from ckvd.network.retry import Failure, RetryPolicy, failure_of_status
from ckvd.network.sink import FileSink, MemorySink
from ckvd.utils.config import (
    ANSWER_NBYTES_MAX,
    ANSWER_TIMEOUT_S,
    ARCHIVE_CSV_NBYTES_MAX,
    CONNECT_TIMEOUT_S,
    DOWNLOAD_CONCURRENCY,
    LEAST_SPEED_GRACE_S,
    LEAST_SPEED_NBYTES_S,
    STALL_TIMEOUT_S,
    TRANSFER_TIMEOUT_S,
)

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine, Mapping
    from pathlib import Path
    from typing import Any

    from curl_cffi import AsyncSession
    from curl_cffi import Response as CurlResponse

    from ckvd.network.session import OwnSession

logger = logging.getLogger(__name__)

# How much of a refused download's body is kept, for the error.
_REFUSAL_NBYTES_MAX: Final = 64 << 10

_T = TypeVar("_T")
_Result = TypeVar("_Result", bound="Response | DownloadedFile")


class Transport(ConnectionHolder):
    """Requests over one curl_cffi session.

    The first request opens the session, on the event loop of that request. `async with` closes it.

    Parameters
    ----------
    session : curl_cffi.AsyncSession, optional
        A session to use instead. It is never closed here, and should not retry by itself. Its requests become safe
        to give up, see `session.make_safe`.
    concurrency : int
        Requests sent at a time; the others wait for a slot.
    connect_timeout_s, stall_timeout_s, transfer_timeout_s : float
        How long an attempt may take to connect, how long no byte may arrive, and how long it may take in all. No
        attempt begins after earlier ones that took this long together.
    answer_timeout_s : float
        The last of these for a response in memory, where it is shorter.
    least_nbytes_s, grace_s : float
        The least speed of a body in bytes a second, on average since its request began, and the time before it
        counts.
    retry : RetryPolicy
    sleep : callable
        Waits between attempts.

    Attributes
    ----------
    slots : asyncio.Semaphore
        One slot for each request that is sent. `get` and `download` take one for each attempt; whoever calls
        `request` takes one before.
    """

    _session: AsyncSession[CurlResponse] | None = None
    _requests: RequestsInFlight | None = None
    # Set once a session was opened here.
    _release_session: Callable[[OwnSession], None] | None = None

    def __init__(
        self,
        session: AsyncSession[CurlResponse] | None = None,
        *,
        concurrency: int = DOWNLOAD_CONCURRENCY,
        connect_timeout_s: float = CONNECT_TIMEOUT_S,
        stall_timeout_s: float = STALL_TIMEOUT_S,
        transfer_timeout_s: float = TRANSFER_TIMEOUT_S,
        answer_timeout_s: float = ANSWER_TIMEOUT_S,
        least_nbytes_s: float = LEAST_SPEED_NBYTES_S,
        grace_s: float = LEAST_SPEED_GRACE_S,
        retry: RetryPolicy | None = None,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._session = session
        self._session_is_external = session is not None
        if session is not None:
            from ckvd.network.session import make_safe  # noqa: PLC0415  (see above)

            make_safe(session)
        self._requests = RequestsInFlight()
        # A request that waits for the session's own limit is not sent, and would seem to stall.
        self._concurrency = concurrency if session is None else min(concurrency, session.max_clients)
        self.slots = asyncio.Semaphore(self._concurrency)
        self._limits = Limits(connect_timeout_s, stall_timeout_s, transfer_timeout_s, least_nbytes_s, grace_s)
        self._answer_limits = replace(self._limits, transfer_s=min(answer_timeout_s, transfer_timeout_s))
        self._retry = retry or RetryPolicy()
        self._rng = random.Random()  # noqa: S311 - it spreads requests in time, it keeps no secret
        self._sleep = sleep

    def __repr__(self) -> str:
        if self._requests is None:
            return "<Transport: closed>"
        return f"<Transport: {len(self._requests)} of {self._concurrency} requests under way>"

    @property
    def loop(self) -> asyncio.AbstractEventLoop | None:
        """The event loop of its requests; None before the first."""
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
        """Whether it holds a session that it opened itself."""
        return self._session is not None and self._release_session is not None

    def release(self) -> None:
        """Close the session without awaiting. Whoever waits for a request gets an error."""
        session, self._session, self._requests = self._session, None, None
        if session is not None and self._release_session is not None:
            self._release_session(cast("OwnSession", session))

    # --- Requests ------------------------------------------------------------------------------------------

    async def request(
        self, url: str, params: Mapping[str, str | int] | None = None, *, nbytes_max: int = ANSWER_NBYTES_MAX
    ) -> Response | Failure:
        """Send a request once. The caller holds a slot until this returns.

        Parameters
        ----------
        url : str
        params : mapping of str to str or int, optional
            The query, not percent-encoded.
        nbytes_max : int
            The longest body to take, after decoding.

        Returns
        -------
        Response or Failure
            A response, whatever its status; a failure if there was none, or not all of it.

        Raises
        ------
        ClientClosedError
        """
        address = _with_query(url, params)
        return await self._track(lambda: self._receive(address, None, nbytes_max), f"GET {address}")

    async def get(
        self,
        url: str,
        params: Mapping[str, str | int] | None = None,
        *,
        headers: Mapping[str, str] | None = None,
        nbytes_max: int = ANSWER_NBYTES_MAX,
    ) -> Response:
        """Send a request until there is a response, as often as the policy allows.

        Parameters
        ----------
        url, params
            See `request`.
        headers : mapping of str to str, optional
        nbytes_max : int
            The longest body to take, after decoding.

        Raises
        ------
        NetworkError, NetworkTimeoutError
            The last attempt brought no response, or not all of one.
        HttpStatusError
            The last response had status 408, 429 or 5xx. Every other status is returned.
        ClientClosedError
        """
        address = _with_query(url, params)

        async def attempt() -> Response | Failure:
            return await self._receive(address, headers, nbytes_max)

        response, _ = await self._track(lambda: self._persist(attempt, self._answer_limits), f"GET {address}")
        return response

    async def download(
        self,
        url: str,
        path: Path,
        *,
        on_bytes: Callable[[int], None] | None = None,
        headers: Mapping[str, str] | None = None,
        nbytes_max: int = ARCHIVE_CSV_NBYTES_MAX,
    ) -> DownloadedFile | Response:
        """Stream a body into a file and hash it. Try as often as the policy allows, until all of it is there.

        Parameters
        ----------
        url : str
        path : Path
            Created or emptied, and removed unless the whole body was written.
        on_bytes : callable, optional
            Called with the length of each chunk, and with a negative number when an attempt has failed and its
            bytes do not count.
        headers : mapping of str to str, optional
        nbytes_max : int
            The longest body to take.

        Returns
        -------
        DownloadedFile or Response
            A response, with the beginning of its body, if the status is not 200. There is no file then.

        Raises
        ------
        NetworkError, NetworkTimeoutError, HttpStatusError
            As from `get`.
        CacheError
            The file cannot be written. Another attempt would not help, and is not made.
        ClientClosedError
        """

        async def attempt() -> DownloadedFile | Response | Failure:
            return await self._receive_into_file(url, path, on_bytes, headers, nbytes_max)

        result, attempt_count = await self._track(lambda: self._persist(attempt, self._limits), f"download {url}")
        return result if isinstance(result, Response) else replace(result, attempt_count=attempt_count)

    async def sleep(self, delay_s: float) -> None:
        """Wait. Closing the transport ends the wait.

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

    async def _persist(
        self, attempt: Callable[[], Awaitable[_Result | Failure]], limits: Limits
    ) -> tuple[_Result, int]:
        """Repeat an attempt as the policy and the time for the whole allow.

        Return its result and the number of attempts.
        """
        loop = asyncio.get_running_loop()
        number, took_s = 1, 0.0
        while True:
            async with self.slots:
                began_s = loop.time()
                result = await attempt()
                took_s += loop.time() - began_s
            if isinstance(result, Failure):
                failure = result
            elif (judged := failure_of_status(result, dt.datetime.now(dt.UTC))) is not None:
                failure = judged
            else:
                return result, number
            wait_s = self._retry.wait_s(number, failure, self._rng)
            if wait_s is None or took_s >= limits.transfer_s:
                raise failure.to_error(number)
            logger.info("%s: %s; trying again in %.1f s", failure.url, failure.reason, wait_s)
            await self._sleep(wait_s)
            number += 1

    async def _receive(self, url: str, headers: Mapping[str, str] | None, nbytes_max: int) -> Response | Failure:
        """Send a request once, with its body into memory."""
        sink = MemorySink(nbytes_max)
        session = self._open()
        from ckvd.network.request import send_request  # noqa: PLC0415  (see above)

        head = await send_request(
            session, url, sink, self._answer_limits, headers=headers, accept_encoding="gzip, deflate, br"
        )
        return head if isinstance(head, Failure) else Response(head.url, head.status, head.headers, sink.body)

    async def _receive_into_file(
        self,
        url: str,
        path: Path,
        on_bytes: Callable[[int], None] | None,
        headers: Mapping[str, str] | None,
        nbytes_max: int,
    ) -> DownloadedFile | Response | Failure:
        """Send a request once, with its body into a file."""
        session = self._open()
        from ckvd.network.request import send_request  # noqa: PLC0415  (see above)

        with FileSink(path, nbytes_max, on_bytes) as sink:
            head = await send_request(session, url, sink, self._limits, headers=headers, accept_encoding="identity")
            if not isinstance(head, Failure) and head.status == 200:
                sink.keep()
                return DownloadedFile(head.url, head.status, head.headers, path, sink.nbytes, sink.sha256)
            if on_bytes is not None and sink.nbytes:
                on_bytes(-sink.nbytes)
            if isinstance(head, Failure):
                return head
            return Response(head.url, head.status, head.headers, sink.head(_REFUSAL_NBYTES_MAX))

    def _open(self) -> AsyncSession[CurlResponse]:
        """The session, opened now if there is none."""
        if self._requests is None:
            raise ClientClosedError("the client is closed")
        if self._session is None:
            with needs("curl_cffi", "fetching", "pip install curl_cffi"):
                from ckvd.network.session import open_session, release_session  # noqa: PLC0415  (see above)
            # A finalizer that runs while the interpreter ends cannot import anything.
            self._release_session = release_session
            self._session = open_session(self._concurrency)
        return self._session


def _with_query(url: str, params: Mapping[str, str | int] | None) -> str:
    return f"{url}?{urlencode(params, safe='/', quote_via=quote)}" if params else url

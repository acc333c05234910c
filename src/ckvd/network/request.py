"""One request and its answer, within limits of time, and not believed before it is whole.

curl_cffi hands out an answer even when its session was closed in mid-body: a status of zero and a body shorter than
its `Content-Length` are failures here, whatever curl says.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from curl_cffi import CurlError

from ckvd.errors import NetworkTimeoutError
from ckvd.network.response import Head
from ckvd.network.retry import Failure
from ckvd.network.session import SCHEMES, answer_of_curl, failure_of_curl
from ckvd.network.sink import BodyTooLongError
from ckvd.utils.config import CONNECT_TIMEOUT_S, STALL_TIMEOUT_S, TRANSFER_TIMEOUT_S

if TYPE_CHECKING:
    from collections.abc import Mapping

    from curl_cffi import AsyncSession
    from curl_cffi import Response as CurlResponse

    from ckvd.network.sink import Sink


@dataclass(frozen=True, slots=True)
class Limits:
    """How long a request may take, in seconds.

    Attributes
    ----------
    connect_s : float
        Until there is a connection.
    stall_s : float
        Without a byte of the body, also before the first.
    transfer_s : float
        In all.
    """

    connect_s: float = CONNECT_TIMEOUT_S
    stall_s: float = STALL_TIMEOUT_S
    transfer_s: float = TRANSFER_TIMEOUT_S


async def send_request(
    session: AsyncSession[CurlResponse],
    url: str,
    sink: Sink,
    limits: Limits,
    *,
    headers: Mapping[str, str] | None = None,
    accept_encoding: str,
) -> Head | Failure:
    """Ask once, and write the body of the answer, whatever its status, to a sink.

    Parameters
    ----------
    session : curl_cffi.AsyncSession
    url : str
        With its query, percent-encoded.
    sink : Sink
    limits : Limits
    headers : mapping of str to str, optional
    accept_encoding : str
        `identity` for a body that must arrive as it is stored.

    Returns
    -------
    Head or Failure
        A failure when there was no answer, or not all of it.

    Raises
    ------
    Exception
        What the sink raised.
    """
    if (failure := _scheme_failure(url)) is not None:
        return failure
    loop = asyncio.get_running_loop()
    whole, stall = asyncio.timeout(limits.transfer_s), asyncio.timeout(limits.stall_s)

    def receive(piece: bytes) -> int:
        sink.write(piece)
        if not stall.expired():
            stall.reschedule(loop.time() + limits.stall_s)
        return len(piece)

    try:
        async with whole, stall:
            answer = await session.request(
                "GET",
                url,
                headers=dict(headers or {}),
                content_callback=receive,
                accept_encoding=accept_encoding,
                # Of the two only the first is curl's own affair; their sum stands behind the limit above.
                timeout=(limits.connect_s, limits.transfer_s),
            )
    except TimeoutError:
        if stall.expired():
            return _timeout_failure(url, f"nothing came for {limits.stall_s:g} s")
        if whole.expired():
            return _timeout_failure(url, f"it took longer than {limits.transfer_s:g} s")
        raise
    except BodyTooLongError as error:
        return Failure(url, str(error), is_transient=False)
    except CurlError as error:
        refused = answer_of_curl(error)
        if refused is None:
            return failure_of_curl(error, url)
        answer = refused
    head = Head(
        answer.url, answer.status_code, {name.lower(): value or "" for name, value in answer.headers.items()}
    )
    return _incomplete(url, head, sink.nbytes) or head


def _scheme_failure(url: str) -> Failure | None:
    parts = urlsplit(url)
    if parts.scheme in SCHEMES and parts.hostname:
        return None
    return Failure(url, f"expected an address of http or https, found scheme {parts.scheme!r}", is_transient=False)


def _timeout_failure(url: str, reason: str) -> Failure:
    return Failure(url, reason, is_transient=True, error_type=NetworkTimeoutError)


def _incomplete(url: str, head: Head, nbytes: int) -> Failure | None:
    """The reason not to believe an answer that curl believes."""
    if not head.status:
        return Failure(url, "the connection ended before an answer", is_transient=True)
    if (failure := _scheme_failure(head.url)) is not None:
        return failure
    stated = head.headers.get("content-length", "")
    # A length counts the bytes on the line, an encoded body is counted after decoding.
    is_encoded = head.headers.get("content-encoding", "identity") not in ("", "identity")
    if stated.isdecimal() and not is_encoded and int(stated) != nbytes:
        return Failure(url, f"the body has {nbytes} bytes of {stated}", is_transient=True, status=head.status)
    return None

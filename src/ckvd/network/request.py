"""One request and its response, within time limits. An incomplete response is a failure.

curl_cffi returns a response even when its session was closed in mid-body. A status of zero and a body shorter than
its `Content-Length` are therefore failures here, whatever curl says.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from curl_cffi import CurlError

from ckvd.errors import NetworkTimeoutError, shown
from ckvd.network.response import Head, parse_count
from ckvd.network.retry import Failure
from ckvd.network.session import SCHEMES, failure_of_curl, response_of_curl
from ckvd.network.sink import BodyTooLongError
from ckvd.utils.config import ADDRESS_LENGTH_MAX

if TYPE_CHECKING:
    from collections.abc import Mapping

    from curl_cffi import AsyncSession
    from curl_cffi import Response as CurlResponse

    from ckvd.network.limits import Limits
    from ckvd.network.sink import Sink


async def send_request(
    session: AsyncSession[CurlResponse],
    url: str,
    sink: Sink,
    limits: Limits,
    *,
    headers: Mapping[str, str] | None,
    accept_encoding: str,
) -> Head | Failure:
    """Send a request once, and write the body of its response, whatever the status, to a sink.

    Errors of the sink pass through.

    Parameters
    ----------
    session : curl_cffi.AsyncSession
    url : str
        With its query, percent-encoded.
    sink : Sink
    limits : Limits
    headers : mapping of str to str or None
    accept_encoding : str
        `identity` for a body that must arrive as it is stored.

    Returns
    -------
    Head or Failure
        A failure if there was no response, or not all of it.
    """
    if (failure := _scheme_failure(url)) is not None:
        return failure
    loop = asyncio.get_running_loop()
    began_s = loop.time()
    whole, stall = asyncio.timeout(limits.transfer_s), asyncio.timeout(limits.stall_s)

    def receive(chunk: bytes) -> int:
        sink.write(chunk)
        if not stall.expired():
            stall.reschedule(min(loop.time() + limits.stall_s, began_s + limits.earned_s(sink.nbytes)))
        return len(chunk)

    try:
        async with whole, stall:
            response = await session.request(
                "GET",
                url,
                headers=dict(headers or {}),
                content_callback=receive,
                accept_encoding=accept_encoding,
                # curl enforces the first. It ends a transfer after the sum of both, later than the limit above.
                timeout=(limits.connect_s, limits.transfer_s),
            )
    except TimeoutError:
        if not (stall.expired() or whole.expired()):
            raise
        reason = limits.reason(sink.nbytes, loop.time() - began_s, is_whole=not stall.expired())
        return Failure(url, reason, is_transient=True, error_type=NetworkTimeoutError)
    except BodyTooLongError as error:
        return Failure(url, str(error), is_transient=False)
    except CurlError as error:
        refused = response_of_curl(error)
        if refused is None:
            return failure_of_curl(error, url)
        response = refused
    headers_received = {name.lower(): value or "" for name, value in response.headers.items()}
    head = Head(response.url, response.status_code, headers_received)
    return _incomplete(url, head, sink.nbytes) or head


def _scheme_failure(url: str) -> Failure | None:
    parts = urlsplit(url)
    if parts.scheme in SCHEMES and parts.hostname:
        return None
    return Failure(url, f"expected an address of http or https, found scheme {parts.scheme!r}", is_transient=False)


def _incomplete(url: str, head: Head, nbytes: int) -> Failure | None:
    """The failure of a response that curl takes for complete, if it is not."""
    if not head.status:
        return Failure(url, "the connection ended before a response", is_transient=True)
    if (failure := _scheme_failure(head.url)) is not None:
        return failure
    if len(head.url) > ADDRESS_LENGTH_MAX:
        reason = f"expected an address of at most {ADDRESS_LENGTH_MAX} characters, was redirected to one of"
        return Failure(url, f"{reason} {len(head.url)}: {shown(head.url)}", is_transient=False)
    stated = parse_count(head.headers.get("content-length", ""))
    # Content-Length counts the bytes that were sent; the sink counts an encoded body after decoding.
    is_encoded = head.headers.get("content-encoding", "identity") not in ("", "identity")
    if stated is not None and not is_encoded and stated != nbytes:
        return Failure(url, f"the body has {nbytes} bytes of {stated}", is_transient=True, status=head.status)
    return None

"""curl_cffi at its boundary: how a session is opened, how one is let go that was not closed, what its errors mean.

Nothing of curl_cffi leaves this room: its exceptions become a `Failure` here.
"""

# ruff: noqa: SLF001 - what curl_cffi closes by awaiting cannot be closed in a finalizer from outside

from __future__ import annotations

import asyncio
import contextlib
import os
import re
from typing import TYPE_CHECKING, Any, Final

from curl_cffi import AsyncSession, CurlECode, CurlError, CurlMOpt, CurlOpt
from curl_cffi.requests import exceptions

from ckvd.errors import NetworkError, NetworkTimeoutError
from ckvd.network.retry import Failure

if TYPE_CHECKING:
    from curl_cffi import Response

SCHEMES: Final = ("http", "https")
_LOOPBACK: Final = ("localhost", "127.0.0.0/8", "::1")
_REDIRECTS_MAX: Final = 5

# The same request will fail in the same way.
_PERMANENT: Final = (
    exceptions.InvalidSchema,
    exceptions.InvalidURL,
    exceptions.CertificateVerifyError,
    exceptions.TooManyRedirects,
    exceptions.InterfaceError,
    exceptions.SessionClosed,
)
_PERMANENT_CODES: Final = (
    CurlECode.SSL_CERTPROBLEM,
    CurlECode.SSL_CIPHER,
    CurlECode.SSL_CACERT_BADFILE,
    CurlECode.UNKNOWN_OPTION,
    CurlECode.NOT_BUILT_IN,
)
# curl_cffi wraps curl's own sentence in advice for its own users.
_CURL_MESSAGE: Final = re.compile(r"curl: \(\d+\) (?P<sentence>.*?)\.? See https://", re.DOTALL)


def open_session(connections_max: int) -> AsyncSession[Response]:
    """Open a session on the running loop. Connections are reused; whoever opens it closes it.

    Parameters
    ----------
    connections_max : int
        Requests that may be under way at a time.

    Notes
    -----
    curl would follow `file://` and other schemes: only HTTP is allowed, for redirects too. Loopback hosts are
    reached directly even where the environment names a proxy. Archives are public, so nothing needs to look like
    a browser, and no cookie is kept.
    """
    return AsyncSession(
        max_clients=connections_max,
        max_redirects=_REDIRECTS_MAX,
        discard_cookies=True,
        headers={"User-Agent": "ckvd"},
        curl_options={
            CurlOpt.PROTOCOLS_STR: ",".join(SCHEMES),
            CurlOpt.REDIR_PROTOCOLS_STR: ",".join(SCHEMES),
            CurlOpt.NOPROXY: _no_proxy(),
        },
    )


def _no_proxy() -> str:
    # The option replaces the variable of the environment, and a lone asterisk is only understood on its own.
    from_environment = os.environ.get("no_proxy") or os.environ.get("NO_PROXY") or ""
    return "*" if from_environment.strip() == "*" else ",".join(filter(None, (*_LOOPBACK, from_environment)))


def release_session(session: AsyncSession[Response]) -> None:
    """Close a session synchronously: without awaiting anything, and whatever its event loop does.

    While curl is at work for it, in the thread of its loop or further up the stack of this one, it must not be
    closed: then the loop closes it as soon as it can.
    """
    curl = session._acurl  # the property would make one, and with it a task
    if curl is None:
        return
    if _is_at_work(session, curl):
        try:
            session.loop.call_soon_threadsafe(_close_without_awaiting, session, curl)
        except RuntimeError:  # That loop has just been closed.
            _close_without_awaiting(session, curl)
    else:
        _close_without_awaiting(session, curl)


def _is_at_work(session: AsyncSession[Response], curl: Any) -> bool:
    if session.loop.is_running() and session.loop is not asyncio._get_running_loop():
        return True
    # Inside of its own callbacks curl refuses to be told anything.
    return bool(curl.setopt(CurlMOpt.TIMERDATA, curl._self_handle))


def _close_without_awaiting(session: AsyncSession[Response], curl: Any) -> None:
    """Run the session's own `close` up to its end in one go, with nothing in it to wait for."""
    nothing: asyncio.Future[None] = session.loop.create_future()
    nothing.cancel()
    # What it waits for is a task of its own that looks after curl ten times a second. On a loop that will not run
    # any more it cannot end, which is no reason to complain.
    task, curl._timeout_checker = curl._timeout_checker, nothing
    task._log_destroy_pending = False
    if not session.loop.is_closed():
        task.cancel()
    else:
        # Nobody is left to be told that a request has ended, and trying to would fail.
        curl._curl2future = dict.fromkeys(curl._curl2future, nothing)
    closing = session.close()
    with contextlib.suppress(StopIteration):
        closing.send(None)
    closing.close()


def failure_of_curl(error: CurlError, url: str) -> Failure:
    """Say what an error of curl means for a request."""
    match = _CURL_MESSAGE.search(str(error))
    sentence = match["sentence"] if match else str(error)
    code = int(error.code)
    is_timeout = isinstance(error, exceptions.Timeout)
    return Failure(
        url,
        f"{sentence} (curl {code})" if code else sentence,
        is_transient=not isinstance(error, _PERMANENT) and code not in _PERMANENT_CODES,
        error_type=NetworkTimeoutError if is_timeout else NetworkError,
    )


def answer_of_curl(error: CurlError) -> Response | None:
    """The answer inside an error, if it is one: a session set to raise for statuses turns answers into errors."""
    response: Response | None = getattr(error, "response", None)
    return response if isinstance(error, exceptions.HTTPError) and not error.code else None

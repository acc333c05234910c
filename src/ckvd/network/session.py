"""curl_cffi at its boundary: its sessions, closing one without awaiting, and what its errors mean.

Nothing of curl_cffi leaves this room: its exceptions become a `Failure` here. `INNER_PARTS` lists what is used of
curl_cffi and asyncio beyond what they document.

curl calls back into Python for each header line, and also while it is told to let go of a transfer: it then passes
on the lines that it has kept back. curl_cffi frees the targets of these calls before it tells curl to let go, and
cffi aborts the interpreter. So here curl lets go first (`_let_go_first`), and the curl of an `OwnSession` keeps the
targets alive until it has (`_OwnCurl.add_handle`), whichever of session, request and loop is collected first.
"""

# ruff: noqa: SLF001 - see `INNER_PARTS`

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import weakref
from functools import partial
from importlib.metadata import version
from typing import TYPE_CHECKING, Any, Final
from weakref import WeakSet

from curl_cffi import AsyncCurl, AsyncSession, Curl, CurlECode, CurlError, CurlMOpt, CurlOpt, Response
from curl_cffi.requests import exceptions

from ckvd.errors import DependencyError, NetworkError, NetworkTimeoutError, shown
from ckvd.network.retry import Failure

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

# A finalizer cannot await the closing of a session. It closes one with these parts: owner, name, purpose.
# `open_session` refuses if one is missing.
INNER_PARTS: Final[tuple[tuple[type, str, str], ...]] = (
    (AsyncSession, "acurl", "overridden, to know whether a session has a curl: asking for it makes one"),
    (AsyncSession, "close", "awaits nothing but `close` of its curl"),
    (AsyncSession, "release_curl", "overridden, so that curl lets go of a transfer before its callbacks are freed"),
    (AsyncCurl, "add_handle", "overridden, to know the futures of requests under way, and keep their callbacks"),
    (AsyncCurl, "remove_handle", "makes curl let go of a transfer, and may be repeated"),
    (AsyncCurl, "close", "awaits nothing but a task of its own, which it has cancelled"),
    (AsyncCurl, "setopt", "returns an error inside curl's own callbacks"),
    (asyncio.Task, "_log_destroy_pending", "silences that task on an event loop that never runs again"),
)
# The versions of curl_cffi that were tested. `pyproject.toml` has the same bounds.
TESTED_VERSIONS: Final = ">=0.16,<0.18"

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
# curl_cffi wraps curl's own sentence in advice for its users.
_CURL_MESSAGE: Final = re.compile(r"curl: \(\d+\) (?P<sentence>.*?)\.? See https://", re.DOTALL)


class _OwnCurl(AsyncCurl):
    """The curl of an `OwnSession`. Closing it twice is quiet: its session closes it again."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(loop=loop)
        self._under_way: WeakSet[asyncio.Future[None]] = WeakSet()
        self._kept: dict[Curl, tuple[object, ...]] = {}
        self._was_closed = False

    def add_handle(self, curl: Curl) -> asyncio.Future[None]:
        """Begin a request; the future is done when it has ended."""
        request: asyncio.Future[None] = super().add_handle(curl)
        self._under_way.add(request)
        # A `Curl` that is collected frees the targets of its callbacks, and then tells curl to let go.
        self._kept[curl] = tuple(vars(curl).values())
        return request

    def remove_handle(self, curl: Curl) -> None:
        """Make curl let go of a request. Repeating it does nothing."""
        if not self._was_closed:  # A curl that was closed has let go of everything.
            super().remove_handle(curl)
            self._kept.pop(curl, None)

    async def close(self) -> None:
        """See `AsyncCurl.close`."""
        if not self._was_closed:
            await super().close()  # type: ignore[no-untyped-call]
            self._was_closed = True
            self._kept.clear()

    def is_at_work(self) -> bool:
        """Whether one of curl's own callbacks is further up the stack: there it refuses every option."""
        # The option makes no difference: curl is closed next.
        return bool(self.setopt(CurlMOpt.MAX_TOTAL_CONNECTIONS, 0))  # type: ignore[no-untyped-call]

    def close_now(self) -> None:
        """Close without awaiting.

        On a closed loop, cancelling a request or a task raises an error, because its callbacks cannot run. It is
        cancelled all the same, and the next call skips it.
        """
        if self.loop.is_closed():
            for request in tuple(self._under_way):
                with contextlib.suppress(RuntimeError):
                    request.cancel()
            with contextlib.suppress(RuntimeError):
                _run_in_one_go(self.close())
        _run_in_one_go(self.close())


class OwnSession(AsyncSession[Response]):
    """A session that ckvd opened, and may have to close without awaiting.

    Attributes
    ----------
    own_curl : AsyncCurl or None
        The curl of its requests; None before the first. `acurl` would make one.
    """

    own_curl: _OwnCurl | None = None

    @property
    def acurl(self) -> AsyncCurl:
        """The curl of its requests, made at the first use."""
        if self.own_curl is None:
            self.own_curl = _OwnCurl(self.loop)
        return self.own_curl

    def release_curl(self, curl: Curl) -> None:
        """Take back what a request used, whether it has ended or is given up."""
        _let_go_first(self.acurl, super().release_curl, curl)


def make_safe(session: AsyncSession[Any]) -> None:
    """Let requests of a session that ckvd did not open be given up at any time.

    The session gets a `release_curl` of its own: that of its class lets the interpreter abort. Nothing else of it
    is changed.
    """
    if not isinstance(session, OwnSession) and "release_curl" not in vars(session):
        own = weakref.ref(session)
        vars(session)["release_curl"] = partial(_release_curl_of, own)


def _release_curl_of(reference: weakref.ref[AsyncSession[Any]], curl: Curl) -> None:
    session = reference()
    assert session is not None  # it runs the request
    _let_go_first(session.acurl, partial(type(session).release_curl, session), curl)


def _let_go_first(acurl: AsyncCurl, release: Callable[[Curl], None], curl: Curl) -> None:
    with contextlib.suppress(TypeError):  # raised by a curl that was closed, which has let go of everything
        acurl.remove_handle(curl)
    release(curl)


def open_session(connections_max: int) -> OwnSession:
    """Open a session on the running loop. Connections are reused; whoever opens it closes it.

    Parameters
    ----------
    connections_max : int
        Requests that may be under way at a time.

    Raises
    ------
    DependencyError
        The installed curl_cffi lacks one of the `INNER_PARTS`.

    Notes
    -----
    curl would follow `file://` and other schemes: only HTTP is allowed, for redirects too. Loopback hosts are
    reached directly even where the environment names a proxy. Archives are public, so nothing needs to look like
    a browser, and no cookie is kept.
    """
    _require_inner_parts()
    return OwnSession(
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


def _require_inner_parts() -> None:
    missing = [f"{owner.__name__}.{name}" for owner, name, _ in INNER_PARTS if not hasattr(owner, name)]
    if missing:
        raise DependencyError("curl_cffi", version("curl_cffi"), missing, TESTED_VERSIONS)


def _no_proxy() -> str:
    # The option replaces the environment variable. curl understands an asterisk only as the whole list.
    from_environment = os.environ.get("no_proxy") or os.environ.get("NO_PROXY") or ""
    return "*" if from_environment.strip() == "*" else ",".join(filter(None, (*_LOOPBACK, from_environment)))


def release_session(session: OwnSession) -> None:
    """Close a session without awaiting, whatever its event loop does.

    It must not be closed while curl is at work, in the thread of its loop or further up this stack. In that case
    the loop closes it as soon as it can.
    """
    curl = session.own_curl
    if curl is None:
        return
    loop = session.loop
    is_elsewhere = loop.is_running() and loop is not _running_loop()
    if is_elsewhere or curl.is_at_work():
        with contextlib.suppress(RuntimeError):  # raised if that loop has just been closed
            loop.call_soon_threadsafe(_close_now, session, curl)
            return
    _close_now(session, curl)


def _close_now(session: OwnSession, curl: _OwnCurl) -> None:
    curl.close_now()
    _run_in_one_go(session.close())


def _running_loop() -> asyncio.AbstractEventLoop | None:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None


def _run_in_one_go(closing: Coroutine[Any, Any, None]) -> None:
    """Run a coroutine to its end without a loop. It may await nothing but a task that it has cancelled."""
    with contextlib.suppress(StopIteration):
        task = closing.send(None)
        # On a loop that never runs again the task cannot end, and asyncio would complain.
        task._log_destroy_pending = False
        closing.throw(asyncio.CancelledError())


def failure_of_curl(error: CurlError, url: str) -> Failure:
    """The failure of a request that curl ended with an error."""
    match = _CURL_MESSAGE.search(str(error))
    sentence = shown(match["sentence"] if match else str(error))  # it may quote the server
    code = int(error.code)
    is_timeout = isinstance(error, exceptions.Timeout)
    return Failure(
        url,
        f"{sentence} (curl {code})" if code else sentence,
        is_transient=not isinstance(error, _PERMANENT) and code not in _PERMANENT_CODES,
        error_type=NetworkTimeoutError if is_timeout else NetworkError,
    )


def response_of_curl(error: CurlError) -> Response | None:
    """The response inside an error, if there is one: a session set to raise for statuses makes errors of them."""
    response: Response | None = getattr(error, "response", None)
    return response if isinstance(error, exceptions.HTTPError) and not error.code else None

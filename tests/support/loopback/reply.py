"""What a client asks, and what it is answered: `Request`, `Reply`, and what a reply does wrong.

What misbehaves is part of the reply: less body than stated, a reset, a pause until a `Gate` opens, a slow drip.
"""

from __future__ import annotations

import asyncio
import threading
from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING
from urllib.parse import parse_qsl, unquote

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

_PIECE_NBYTES = 64 << 10


class Framing(Enum):
    """How the client learns where the body ends."""

    LENGTH = "Content-Length"
    CHUNKED = "chunks"
    CLOSE = "the end of the connection"


class Ending(Enum):
    """What happens to the connection after the reply."""

    KEEP = "kept for the next request"
    CLOSE = "closed in order"
    RESET = "reset: the client sees an error"


class Gate:
    """What a reply waits for. It opens once, from any thread; one that never opens is a hang."""

    def __init__(self) -> None:
        self._is_open = False
        self._lock = threading.Lock()
        self._waiting: list[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = []

    def open(self) -> None:
        with self._lock:
            self._is_open = True
            waiting, self._waiting = self._waiting, []
        for loop, event in waiting:
            if not loop.is_closed():
                loop.call_soon_threadsafe(event.set)

    async def wait(self) -> None:
        event = asyncio.Event()
        with self._lock:
            if self._is_open:
                return
            self._waiting.append((asyncio.get_running_loop(), event))
        await event.wait()


@dataclass(frozen=True, slots=True)
class Request:
    """What a client asked for.

    Attributes
    ----------
    target : str
        As sent.
    path : str
        Percent-decoded, without the query.
    query : mapping of str to str
        Percent-decoded.
    headers : mapping of str to str
        Names in lower case.
    """

    method: str
    target: str
    path: str
    query: Mapping[str, str]
    headers: Mapping[str, str]

    @classmethod
    def of_head(cls, head: bytes) -> Request:
        """Read the head of a request that has no body."""
        first, *lines = head.decode("latin-1").rstrip("\r\n").split("\r\n")
        method, target, _ = first.split(" ")
        path, _, query = target.partition("?")
        pairs = (line.partition(":") for line in lines)
        headers = {name.strip().lower(): value.strip() for name, _, value in pairs}
        return cls(method, target, unquote(path), dict(parse_qsl(query, keep_blank_values=True)), headers)


@dataclass(frozen=True, slots=True)
class Reply:
    """What a server answers, and what it does wrong.

    Attributes
    ----------
    framing : Framing
    stated_nbytes : int, optional
        The Content-Length to state, if it is not the length of the body.
    sent_nbytes : int, optional
        How much of the body is sent; all of it if not given.
    ending : Ending
    head_gate : Gate, optional
        Waited for before anything is sent.
    body_gate : Gate, optional
        Waited for after all that is sent of the body, before the ending.
    drip_nbytes, drip_pause_s : int, float
        The body in pieces of that length, with a pause after each.
    """

    status: int = 200
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)
    framing: Framing = Framing.LENGTH
    stated_nbytes: int | None = None
    sent_nbytes: int | None = None
    ending: Ending = Ending.KEEP
    head_gate: Gate | None = None
    body_gate: Gate | None = None
    drip_nbytes: int = _PIECE_NBYTES
    drip_pause_s: float = 0.0

    @property
    def sent(self) -> bytes:
        return self.body if self.sent_nbytes is None else self.body[: self.sent_nbytes]

    @property
    def is_reusable(self) -> bool:
        """Whether the connection can take another request afterwards."""
        stated = len(self.body) if self.stated_nbytes is None else self.stated_nbytes
        return self.ending is Ending.KEEP and self.framing is not Framing.CLOSE and len(self.sent) == stated

    @property
    def head(self) -> bytes:
        headers = {"Connection": "keep-alive" if self.is_reusable else "close"}
        if self.framing is Framing.LENGTH:
            headers["Content-Length"] = str(len(self.body) if self.stated_nbytes is None else self.stated_nbytes)
        elif self.framing is Framing.CHUNKED:
            headers["Transfer-Encoding"] = "chunked"
        headers.update(self.headers)
        lines = [f"HTTP/1.1 {self.status} Reply", *(f"{name}: {value}" for name, value in headers.items())]
        return "\r\n".join([*lines, "", ""]).encode("latin-1")

    @property
    def pieces(self) -> Iterator[bytes]:
        """What is sent of the body, framed."""
        for start in range(0, len(self.sent), self.drip_nbytes):
            piece = self.sent[start : start + self.drip_nbytes]
            yield b"%x\r\n%b\r\n" % (len(piece), piece) if self.framing is Framing.CHUNKED else piece

    @property
    def tail(self) -> bytes:
        """What says that the body is complete, if it is."""
        return b"0\r\n\r\n" if self.framing is Framing.CHUNKED and len(self.sent) == len(self.body) else b""

"""Responses: the head of a response, a response in memory, a downloaded file, and dates in headers.

Header names are in lower case throughout. Imports nothing of the project.
"""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path


@dataclass(frozen=True, slots=True)
class Head:
    """A response without its body.

    Attributes
    ----------
    url : str
        Where it came from, after redirects.
    status : int
    headers : mapping of str to str
        Names in lower case.
    """

    url: str
    status: int
    headers: Mapping[str, str]

    @property
    def date(self) -> dt.datetime | None:
        """When the server made it, by the server's clock, in whole seconds; None if it does not say."""
        return parse_http_date(self.headers.get("date", ""))


@dataclass(frozen=True, slots=True)
class Response(Head):
    """A response with its body in memory.

    Attributes
    ----------
    body : bytes
        Decoded.
    """

    body: bytes


@dataclass(frozen=True, slots=True)
class DownloadedFile(Head):
    """A response with its body in a file.

    Attributes
    ----------
    path : Path
    nbytes : int
    sha256 : str
        64 hexadecimal digits.
    attempt_count : int
        The number of the attempt that succeeded, counted from 1.
    """

    path: Path
    nbytes: int
    sha256: str
    attempt_count: int = 1


def parse_http_date(text: str) -> dt.datetime | None:
    """Read a date as headers give it (RFC 9110), `Sat, 01 Jun 2024 12:00:00 GMT`.

    Returns
    -------
    datetime or None
        In UTC, with its time zone; None if the text is no date.
    """
    try:
        date = parsedate_to_datetime(text)
        # A zone of -0000 means UTC of unknown origin, and comes back without one.
        return date.replace(tzinfo=dt.UTC) if date.tzinfo is None else date.astimezone(dt.UTC)
    except (ValueError, TypeError, OverflowError, IndexError):
        return None

"""Responses: the head of a response, a response in memory, a downloaded file, and dates in headers.

Header names are in lower case throughout. Imports nothing of the project.
"""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

# No length, weight or pause has more digits, and 64 bits hold as many.
_DIGITS_MAX: Final = 18
_DATE_LENGTH_MAX: Final = 100
_YEARS: Final = range(1970, 2200)


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


def parse_count(text: str) -> int | None:
    """Read a whole number as headers give it.

    Returns
    -------
    int or None
        At most 10**18 - 1, whatever a longer number says; None if the text is no number.
    """
    if not (text.isascii() and text.isdecimal()):
        return None
    digits = text.lstrip("0")
    return int(digits or "0") if len(digits) <= _DIGITS_MAX else 10**_DIGITS_MAX - 1


def parse_http_date(text: str) -> dt.datetime | None:
    """Read a date as headers give it (RFC 9110), `Sat, 01 Jun 2024 12:00:00 GMT`.

    Returns
    -------
    datetime or None
        In UTC, with its time zone; None if the text is no date, or one of another age: from those, no sum with
        a pause leaves the range of dates.
    """
    if len(text) > _DATE_LENGTH_MAX:
        return None
    try:
        date = parsedate_to_datetime(text)
        # A zone of -0000 means UTC of unknown origin, and comes back without one.
        date = date.replace(tzinfo=dt.UTC) if date.tzinfo is None else date.astimezone(dt.UTC)
    except (ValueError, TypeError, OverflowError, IndexError):
        return None
    return date if date.year in _YEARS else None

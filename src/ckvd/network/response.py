"""What comes back: the head of an answer, an answer in memory, a file that was downloaded.

Header names are in lower case throughout. Imports nothing of the project.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path


@dataclass(frozen=True, slots=True)
class Head:
    """What an answer says before its body.

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


@dataclass(frozen=True, slots=True)
class Response:
    """An answer, whole.

    Attributes
    ----------
    url : str
        Where it came from, after redirects.
    status : int
    headers : mapping of str to str
        Names in lower case.
    body : bytes
    """

    url: str
    status: int
    headers: Mapping[str, str]
    body: bytes


@dataclass(frozen=True, slots=True)
class DownloadedFile:
    """A file that was downloaded, whole.

    Attributes
    ----------
    url : str
        Where it came from, after redirects.
    headers : mapping of str to str
        Names in lower case.
    path : Path
    nbytes : int
    sha256 : str
        64 hexadecimal digits.
    attempt_count : int
        The number of the attempt that succeeded, counted from 1.
    """

    url: str
    headers: Mapping[str, str]
    path: Path
    nbytes: int
    sha256: str
    attempt_count: int = 1

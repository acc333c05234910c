"""Where archives come from: what every source of archives can do, and what it answers.

A mirror in a folder (`folder_source`) and one behind HTTP (`ckvd.vision.http_source`) are such sources.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from ckvd.errors import ArchiveError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from ckvd.model.calendar import Cadence
    from ckvd.model.market import SeriesKey
    from ckvd.vision.name import ArchiveName


@dataclass(frozen=True, slots=True)
class FetchedArchive:
    """An archive whose bytes are in a local file and hash to what was published.

    Attributes
    ----------
    name : ArchiveName
    path : Path
        The file with its bytes. It belongs to the caller, unless `is_temporary` is false.
    is_temporary : bool
        Whether the file was made for this call, so that the caller removes it after use.
    nbytes : int
        Its length.
    sha256 : str
        What its bytes hash to, 64 hexadecimal digits.
    is_checksum_published : bool
        False when the source has no CHECKSUM to compare with.
    etag, last_modified : str or None
        What the source said of the version; HTTP header text, empty where it said nothing.
    attempt_count : int
        How many attempts it took.
    """

    name: ArchiveName
    path: Path
    is_temporary: bool
    nbytes: int
    sha256: str
    is_checksum_published: bool
    etag: str
    last_modified: str
    attempt_count: int

    def read_bytes(self) -> bytes:
        """Read the whole file. A file of a mirror in a folder may vanish after it was verified.

        Raises
        ------
        ArchiveError
            It cannot be read.
        """
        try:
            return b"".join(read_pieces(self.path, self.nbytes + 1))
        except OSError as error:
            raise ArchiveError(str(self.path), f"cannot be read: {error.strerror}") from error


@dataclass(frozen=True, slots=True)
class AbsentArchive:
    """The source answered that it has no such archive.

    Attributes
    ----------
    name : ArchiveName
    where : str
        The URL or file that was asked for.
    """

    name: ArchiveName
    where: str


@dataclass(frozen=True, slots=True)
class ListedArchive:
    """One line of a source's listing.

    Attributes
    ----------
    name : ArchiveName
        With the path as listed, which may differ from the usual spelling.
    nbytes : int
    etag, last_modified : str
        As the listing gives them; empty where it does not.
    has_checksum : bool
        Whether a CHECKSUM file is listed beside it.
    """

    name: ArchiveName
    nbytes: int
    etag: str
    last_modified: str
    has_checksum: bool


def read_pieces(path: Path, nbytes: int) -> Iterator[bytes]:
    """The bytes of a file, at most so many at a time, with the fewest system calls.

    A file object takes as long to make and to close as a small file takes to read, and each of its nine calls
    releases the GIL and waits for it again.

    Raises
    ------
    OSError
        It cannot be read.
    """
    descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_BINARY", 0))
    try:
        while piece := os.read(descriptor, nbytes):
            yield piece
    finally:
        os.close(descriptor)


class ArchiveSource(Protocol):
    """What can be asked of a source of archives."""

    async def fetch(
        self, name: ArchiveName, folder: Path, *, on_bytes: Callable[[int], None] | None = None
    ) -> FetchedArchive | AbsentArchive:
        """Bring one archive, verified.

        Parameters
        ----------
        name : ArchiveName
        folder : Path
            Where a temporary file may be made. It exists.
        on_bytes : callable, optional
            Called with the number of bytes that each piece brought, and with a negative number when an attempt
            is given up and what it brought does not count.

        Raises
        ------
        ChecksumMismatchError, ChecksumMissingError, ArchiveError
            The bytes cannot be believed.
        NetworkError
            It could not be had.
        """
        ...

    async def list_archives(self, series: SeriesKey, cadence: Cadence) -> list[ListedArchive]:
        """All archives of a series, in the order of their periods."""
        ...

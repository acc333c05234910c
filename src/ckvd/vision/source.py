"""The interface of a source of archives, and what it returns.

`folder_source` and `http_source` implement it.
"""

from __future__ import annotations

import contextlib
import io
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, BinaryIO, Protocol, cast

from ckvd.errors import ArchiveError
from ckvd.regular_file import open_regular

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from ckvd.model.calendar import Cadence
    from ckvd.model.market import Interval, Kind, Market, SeriesKey
    from ckvd.vision.name import ArchiveName


@dataclass(frozen=True, slots=True)
class FetchedArchive:
    """An archive in a local file. Its bytes match its CHECKSUM, if the source has one.

    Attributes
    ----------
    name : ArchiveName
    path : Path
        The file.
    is_temporary : bool
        Whether the file was made for the caller, who removes it after use. Other files are not to be changed.
    nbytes : int
        The length of the file.
    sha256 : str
        The SHA-256 of its bytes, 64 hexadecimal digits.
    is_checksum_published : bool
        False if the source has no CHECKSUM to compare with.
    etag, last_modified : str
        The version of the file as the source gives it, as the text of HTTP headers; empty if it gives none.
    attempt_count : int
        Attempts that it took.
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
        """Read the whole file. Raises ArchiveError if it cannot: a file of a folder may have vanished."""
        try:
            return b"".join(read_chunks(self.path, self.nbytes + 1))
        except OSError as error:
            raise ArchiveError(str(self.path), f"cannot be read: {error.strerror}") from error

    def open(self) -> BinaryIO:
        """Open the file, unbuffered. Whatever of it cannot be read is an `ArchiveError`, as in `read_bytes`."""
        try:
            descriptor, _ = open_regular(self.path, is_link_followed=True)
        except OSError as error:
            raise ArchiveError(str(self.path), f"cannot be read: {error.strerror}") from error
        return cast("BinaryIO", _ArchiveFile(descriptor, self.path))


class _ArchiveFile(io.FileIO):
    """An open archive. The disk may fail at any read."""

    def __init__(self, descriptor: int, path: Path) -> None:
        super().__init__(descriptor)
        self._path = path

    def read(self, size: int | None = -1, /) -> bytes:
        try:
            return super().read(size) or b""
        except OSError as error:
            raise ArchiveError(str(self._path), f"cannot be read: {error.strerror}") from error


@dataclass(frozen=True, slots=True)
class AbsentArchive:
    """The source has no such archive, and said so. `where` is the URL or file that does not exist."""

    name: ArchiveName
    where: str


@dataclass(frozen=True, slots=True)
class ListedArchive:
    """An archive in the listing of a source.

    Attributes
    ----------
    name : ArchiveName
        With the path as listed, which may differ from the usual spelling.
    nbytes : int
    etag, last_modified : str
        As listed; empty if the listing gives none.
    """

    name: ArchiveName
    nbytes: int
    etag: str
    last_modified: str


def read_chunks(path: Path, nbytes: int) -> Iterator[bytes]:
    """Read a file with the fewest system calls, at most `nbytes` at a time.

    Opening and closing a file object takes as long as reading a small file, and each of its nine system calls
    releases the GIL and has to acquire it again. The file may be a link to a regular file: see `open_regular`.
    """
    descriptor, _ = open_regular(path, is_link_followed=True)
    try:
        while chunk := os.read(descriptor, nbytes):
            yield chunk
    finally:
        # It is closed even so, all was read, and a generator that is not used up has nobody to raise to.
        with contextlib.suppress(OSError):
            os.close(descriptor)


class ArchiveSource(Protocol):
    """A source of archives. All methods raise `ClientClosedError` if it is closed, or was closed meanwhile."""

    async def fetch(
        self, name: ArchiveName, folder: Path, *, on_bytes: Callable[[int], None] | None = None
    ) -> FetchedArchive | AbsentArchive:
        """Fetch and verify one archive.

        Parameters
        ----------
        name : ArchiveName
        folder : Path
            An existing folder for a temporary file.
        on_bytes : callable, optional
            Called with the length of each chunk, and with a negative number when an attempt has failed and its
            bytes do not count.

        Raises
        ------
        ChecksumMismatchError
            The bytes do not match the CHECKSUM.
        ChecksumMissingError
            There is no CHECKSUM, and the source requires one.
        ArchiveError
            The CHECKSUM is invalid.
        NetworkError
            The archive is unavailable.
        CacheError
            The temporary file cannot be written.
        """
        ...

    async def list_archives(
        self, series: SeriesKey, cadence: Cadence, *, from_ms: int = 0, is_first_enough: bool = False
    ) -> list[ListedArchive]:
        """The archives of a series, in the order of their periods.

        Parameters
        ----------
        series : SeriesKey
        cadence : Cadence
        from_ms : int
            Only archives of periods that start then or later.
        is_first_enough : bool
            Whether the first archive is enough. Others may follow it in the list.

        Raises
        ------
        NetworkError
            The source has no listing, or it is unavailable.
        ArchiveError
            The listing is invalid.
        """
        ...

    async def list_symbols(self, market: Market, kind: Kind, cadence: Cadence) -> list[str]:
        """The symbols that have a folder of archives, in order. Errors: see `list_archives`."""
        ...

    async def list_intervals(self, market: Market, kind: Kind, symbol: str, cadence: Cadence) -> list[Interval]:
        """The intervals of which a symbol has a folder, from the shortest on. Errors: see `list_archives`."""
        ...

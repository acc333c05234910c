"""Where a body goes while it arrives: into memory, or into a file that is hashed on the way.

A sink counts and bounds what it takes. An error that it raises ends the transfer and reaches the caller unchanged,
so that a full disk is never taken for a failed connection.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from typing import TYPE_CHECKING, Final, Protocol, Self

from ckvd.errors import cannot
from ckvd.regular_file import open_regular

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path
    from types import TracebackType

    from ckvd.errors import CacheError

# curl hands over chunks of 16 KiB. Larger writes are faster.
_BUFFER_NBYTES: Final = 1 << 18


class BodyTooLongError(Exception):
    """A body is longer than its sink takes. It does not leave this package."""


class Sink(Protocol):
    """What a body can be written to."""

    nbytes: int

    def write(self, chunk: bytes) -> None:
        """Take the next chunk."""
        ...


class MemorySink:
    """A body in memory, of a bounded length."""

    def __init__(self, nbytes_max: int) -> None:
        self.nbytes = 0
        self._nbytes_max = nbytes_max
        self._chunks: list[bytes] = []

    def write(self, chunk: bytes) -> None:
        """Take the next chunk."""
        self.nbytes = _bounded_sum(self.nbytes, chunk, self._nbytes_max)
        self._chunks.append(chunk)

    @property
    def body(self) -> bytes:
        """All chunks, joined."""
        return b"".join(self._chunks)


class FileSink:
    """A body in a file, of a bounded length, hashed while it arrives.

    A context manager. Its exit removes the file, unless `keep` was called.

    Parameters
    ----------
    path : Path
        Created or emptied.
    nbytes_max : int
    on_bytes : callable, optional
        Called with the length of each chunk, after it was written.

    Raises
    ------
    CacheError
        The file cannot be written.
    """

    def __init__(self, path: Path, nbytes_max: int, on_bytes: Callable[[int], None] | None = None) -> None:
        self.path = path
        self.nbytes = 0
        self._nbytes_max = nbytes_max
        self._on_bytes = on_bytes
        self._hash = hashlib.sha256()
        self._is_kept = False
        try:
            descriptor, _ = open_regular(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC)
            self._file = os.fdopen(descriptor, "w+b", buffering=_BUFFER_NBYTES)
        except OSError as error:
            raise _disk_error(path, error) from error

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if not self._is_kept:
            # Writing what is buffered may fail. Nobody will read it.
            with contextlib.suppress(OSError):
                self._file.close()
            with contextlib.suppress(OSError):
                self.path.unlink()

    def write(self, chunk: bytes) -> None:
        """Take the next chunk."""
        self.nbytes = _bounded_sum(self.nbytes, chunk, self._nbytes_max)
        try:
            self._file.write(chunk)
        except OSError as error:
            raise _disk_error(self.path, error) from error
        self._hash.update(chunk)
        if self._on_bytes is not None:
            self._on_bytes(len(chunk))

    @property
    def sha256(self) -> str:
        """The SHA-256 of the bytes so far, 64 hexadecimal digits."""
        return self._hash.hexdigest()

    def head(self, nbytes_max: int) -> bytes:
        """Read back the first bytes."""
        try:
            self._file.seek(0)  # writes what is buffered
            return self._file.read(nbytes_max)
        except OSError as error:
            raise _disk_error(self.path, error) from error

    def keep(self) -> None:
        """Finish the file, and do not remove it."""
        try:
            self._file.close()
        except OSError as error:
            raise _disk_error(self.path, error) from error
        self._is_kept = True


def _bounded_sum(nbytes: int, chunk: bytes, nbytes_max: int) -> int:
    if nbytes + len(chunk) > nbytes_max:
        raise BodyTooLongError(f"the body is longer than {nbytes_max} bytes")
    return nbytes + len(chunk)


def _disk_error(path: Path, error: OSError) -> CacheError:
    return cannot("be written with what is downloaded", path, error)

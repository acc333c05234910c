"""Where a body goes while it arrives: into memory, or into a file that is hashed on the way.

A sink counts and bounds what it takes. What it raises ends the transfer and reaches the caller as it is, so a full
disk is never mistaken for a bad line. Imports `errors`.
"""

from __future__ import annotations

import contextlib
import hashlib
from typing import TYPE_CHECKING, Final, Protocol, Self

from ckvd.errors import cannot

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path
    from types import TracebackType

    from ckvd.errors import CacheError

# Pieces come in 16 KiB; the disk likes them larger.
_BUFFER_NBYTES: Final = 1 << 18


class BodyTooLongError(Exception):
    """A body longer than its sink takes. It stays inside this package."""


class Sink(Protocol):
    """What a body can be written to."""

    nbytes: int

    def write(self, piece: bytes) -> None:
        """Take the next piece."""
        ...


class MemorySink:
    """A body in memory, of a bounded length."""

    def __init__(self, nbytes_max: int) -> None:
        self.nbytes = 0
        self._nbytes_max = nbytes_max
        self._pieces: list[bytes] = []

    def write(self, piece: bytes) -> None:
        """Take the next piece."""
        self.nbytes += len(piece)
        if self.nbytes > self._nbytes_max:
            raise BodyTooLongError(f"the body is longer than {self._nbytes_max} bytes")
        self._pieces.append(piece)

    @property
    def body(self) -> bytes:
        """All that came."""
        return b"".join(self._pieces)


class FileSink:
    """A body in a file, of a bounded length, hashed while it comes.

    A context manager: the file is removed when it is left, unless `keep` was called.

    Parameters
    ----------
    path : Path
        Created or emptied.
    nbytes_max : int
    on_bytes : callable, optional
        Called with the length of each piece, after it was written.

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
            self._file = path.open("w+b", buffering=_BUFFER_NBYTES)
        except OSError as error:
            raise _disk_error(path, error) from error

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if not self._is_kept:
            # What is buffered cannot always be written; nobody will read it.
            with contextlib.suppress(OSError):
                self._file.close()
            with contextlib.suppress(OSError):
                self.path.unlink()

    def write(self, piece: bytes) -> None:
        """Take the next piece."""
        self.nbytes += len(piece)
        if self.nbytes > self._nbytes_max:
            raise BodyTooLongError(f"the body is longer than {self._nbytes_max} bytes")
        try:
            self._file.write(piece)
        except OSError as error:
            raise _disk_error(self.path, error) from error
        self._hash.update(piece)
        if self._on_bytes is not None:
            self._on_bytes(len(piece))

    @property
    def sha256(self) -> str:
        """What the bytes so far hash to, 64 hexadecimal digits."""
        return self._hash.hexdigest()

    def head(self, nbytes_max: int) -> bytes:
        """The first bytes, read back."""
        self._file.seek(0)
        return self._file.read(nbytes_max)

    def keep(self) -> None:
        """Finish the file and leave it where it is."""
        try:
            self._file.close()
        except OSError as error:
            raise _disk_error(self.path, error) from error
        self._is_kept = True


def _disk_error(path: Path, error: OSError) -> CacheError:
    return cannot("be written with what is downloaded", path, error)

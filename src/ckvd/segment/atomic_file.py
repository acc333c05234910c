"""A file that appears under its name whole or not at all: `AtomicFile`, and making names durable.

Everything is written to a temporary file in the folder of the final one, which is renamed when it is whole. A name
is durable when its folder was flushed: `flush_folder`.
"""

from __future__ import annotations

import contextlib
import io
import os
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from pathlib import Path

fcntl: Any
try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

TEMPORARY_SUFFIX: Final = ".tmp"


class AtomicFile(io.FileIO):
    """A temporary file beside its final name, which goes away when it is closed before it was renamed.

    A forked child that closes its copy of it leaves the file to the process that made it.
    """

    def __init__(self, final: Path) -> None:
        self._final = final
        self._is_published = False
        self._process = os.getpid()
        name = f".{final.name}.{os.getpid()}-{os.urandom(4).hex()}{TEMPORARY_SUFFIX}"
        self._path = final.with_name(name)
        super().__init__(self._path, "xb")
        _claim_file(self.fileno())

    @property
    def path(self) -> Path:
        """Where it lies until it is published."""
        return self._path

    def aim(self, final: Path) -> None:
        """Change the name that it will get."""
        self._final = final

    def write_at(self, offset: int, content: bytes | memoryview) -> None:
        """Write all of a content; a single system call may take only a part of it."""
        self.seek(offset)
        left = memoryview(content).cast("B")
        while left:
            left = left[self.write(left) :]

    def rename(self) -> None:
        """Close the file and give it its final name."""
        # Closed first: some systems refuse to rename an open file.
        super().close()
        try:
            self._path.replace(self._final)
        except BaseException:
            self._remove()
            raise
        self._is_published = True

    def close(self) -> None:
        """Close the file, and remove it unless it was renamed."""
        if not self.closed:
            try:
                super().close()
            finally:
                self._remove()

    def _remove(self) -> None:
        if self._process != os.getpid():
            return
        with contextlib.suppress(FileNotFoundError):
            self._path.unlink()


def _claim_file(descriptor: int) -> None:
    """Show other processes that somebody writes an open file: its lock is held until the last descriptor closes.

    Maintenance removes temporary files that nobody holds. Where a file system has no locks, it goes by age alone.
    """
    if fcntl is not None:
        with contextlib.suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)


def flush_folder(folder: Path) -> None:
    """Make the names in a folder durable."""
    descriptor = os.open(folder, os.O_RDONLY | getattr(os, "O_DIRECTORY", 0))
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

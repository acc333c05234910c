"""Writing any file whole or not at all: `atomic_write`, and the `AtomicFile` behind it.

The content goes to a temporary file in the folder of the final one. The file is flushed to disk, renamed, and the
folder is flushed, which makes the name durable. A crash leaves the old file or the new one, never half of one, and
perhaps the temporary file. A writer holds a lock on it, so maintenance can tell a leftover from a file in use.

`with atomic_write(path) as file:` does all of that. A segment needs the steps one by one, and uses `AtomicFile`.
Both raise plain `OSError`: the caller knows what it was writing, and translates. Of the project, only
`concurrency.stopping` is imported.
"""

from __future__ import annotations

import contextlib
import io
import os
from typing import IO, TYPE_CHECKING, Any, Final

from ckvd.concurrency.stopping import check_stop

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

fcntl: Any
try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

# Between two pieces, writing in a thread can be told to stop.
_PIECE_NBYTES: Final = 16 << 20

TEMPORARY_SUFFIX: Final = ".tmp"
"""Temporary files are named `.{final name}.{PID}-{random}.tmp`, unless the caller names them."""


@contextlib.contextmanager
def atomic_write(
    path: Path, *, temporary_name: str | None = None, is_name_durable: bool = True
) -> Iterator[IO[bytes]]:
    """Open a file for writing that gets its name at the end of the block, whole and durable.

    An exception in the block removes the temporary file and leaves what had the name before.

    Parameters
    ----------
    path : Path
        The final name, in a folder that exists. A regular file of that name is replaced. So is anything else, such
        as a symbolic link or a device: the caller has to refuse those.
    temporary_name : str, optional
        The file's name within the block; by default one that ends with `TEMPORARY_SUFFIX`. It must be unused.
    is_name_durable : bool
        False if more files follow in the folder, and the caller ends them with `flush_folder`.

    Yields
    ------
    binary file
        Buffered and seekable, for writing only.

    Raises
    ------
    OSError
        The system refused, and nothing is left behind. If only the folder cannot be flushed, the file is there.
    """
    with AtomicFile(path, temporary_name) as raw:
        # Not closed: closing it would flush the half of a file that an exception left.
        file = io.BufferedWriter(raw)
        yield file
        file.flush()
        os.fsync(raw.fileno())
        raw.rename()
    if is_name_durable:
        flush_folder(path.parent)


class AtomicFile(io.FileIO):
    """A temporary file beside its final name. Closing it removes it, unless it was renamed before.

    A forked child that closes its copy leaves the file to the process that made it.

    Attributes
    ----------
    path : Path
        The temporary file, until it is renamed.
    final : Path
        The final name. It may be changed to another one in the same folder.
    """

    def __init__(self, final: Path, temporary_name: str | None = None) -> None:
        check_stop()
        self.final = final
        self._process = os.getpid()
        self.path = final.with_name(
            temporary_name or f".{final.name}.{os.getpid()}-{os.urandom(4).hex()}{TEMPORARY_SUFFIX}"
        )
        super().__init__(self.path, "xb")
        _lock_file(self.fileno())

    def write_at(self, offset: int, content: bytes | memoryview) -> None:
        """Write the whole content; one system call may write less."""
        self.seek(offset)
        left = memoryview(content).cast("B")
        while left:
            check_stop()
            left = left[self.write(left[:_PIECE_NBYTES]) :]

    def rename(self) -> None:
        """Close the file and give it its final name."""
        check_stop()
        # Closed first: some systems refuse to rename an open file.
        super().close()
        try:
            self.path.replace(self.final)
        except BaseException:
            self._remove()
            raise

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
            self.path.unlink()


def _lock_file(descriptor: int) -> None:
    """Lock an open file until its last descriptor is closed, which also happens when the process dies.

    Maintenance removes unlocked temporary files. On a file system without locks, it judges by age alone.
    """
    if fcntl is not None:
        with contextlib.suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)


def flush_folder(folder: Path) -> None:
    """Flush a folder to disk, which makes the names in it durable."""
    descriptor = os.open(folder, os.O_RDONLY | getattr(os, "O_DIRECTORY", 0))
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

"""Writing any file whole or not at all: `atomic_write`, and the `AtomicFile` behind it.

The content goes to a temporary file in the folder of the final one. The file is flushed to disk, renamed, and the
folder is flushed, which makes the name durable. A crash leaves the old file or the new one, never half of one, and
perhaps the temporary file. A writer holds a lock on it, so `holder_of` can tell a leftover from a file in use, and
`remove_abandoned` removes those of a folder that is not a cache's. A disk that does not flush is named once.

`with atomic_write(path) as file:` does all of that. A segment needs the steps one by one, and uses `AtomicFile`.
Both raise plain `OSError`: the caller knows what it was writing, and translates. Of the project, only lower floors
are imported.
"""

from __future__ import annotations

import contextlib
import errno as errno_codes
import io
import os
import re
from typing import IO, TYPE_CHECKING, Final

from ckvd.concurrency.stopping import check_stop
from ckvd.platforms import operating_system
from ckvd.utils.async_cleanup import warn

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path
# Between two pieces, writing in a thread can be told to stop.
_PIECE_NBYTES: Final = 16 << 20

TEMPORARY_SUFFIX: Final = ".tmp"
"""Temporary files are named `.{final name}.{PID}-{random}.tmp`, unless the caller names them."""

_TEMPORARY_NAME: Final = re.compile(r"\.(.+)\.[0-9]+-[0-9a-f]{8}\.tmp")
# How often a new temporary file may be taken for a leftover in the moment before it is locked.
_LOCK_ATTEMPTS_MAX: Final = 8

# What a disk answers that makes no file longer but by writing to it, such as some of FAT.
_ERRNOS_WITHOUT_LENGTHENING: Final = (errno_codes.EPERM, errno_codes.ENOTSUP, errno_codes.ENOSYS)

# The devices that were named because they do not flush.
_unflushed: Final[set[int]] = set()


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
        flush_file(raw.fileno(), path)
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
        for _ in range(_LOCK_ATTEMPTS_MAX):
            self.path = final.with_name(
                temporary_name or f".{final.name}.{os.getpid()}-{os.urandom(4).hex()}{TEMPORARY_SUFFIX}"
            )
            super().__init__(self.path, "xb")
            if _lock_file(self.fileno(), self.path) or temporary_name is not None:
                return
            super().close()
            self._remove()
        raise OSError(errno_codes.EBUSY, os.strerror(errno_codes.EBUSY), str(self.path))

    def write_at(self, offset: int, content: bytes | memoryview) -> None:
        """Write the whole content; one system call may write less."""
        self.seek(offset)
        left = memoryview(content).cast("B")
        while left:
            check_stop()
            left = left[self.write(left[:_PIECE_NBYTES]) :]

    def lengthen(self, nbytes: int) -> None:
        """Give the empty file its length, filled with zeros. Some disks cannot do that without writing them."""
        try:
            self.truncate(nbytes)
        except OSError as error:
            if error.errno not in _ERRNOS_WITHOUT_LENGTHENING:
                raise
            piece = bytes(min(nbytes, _PIECE_NBYTES))
            for offset in range(0, nbytes, _PIECE_NBYTES):
                self.write_at(offset, memoryview(piece)[: nbytes - offset])

    def rename(self) -> None:
        """Close the file and give it its final name."""
        check_stop()
        try:
            # Closed first: some systems refuse to rename an open file.
            super().close()
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
        try:
            self.path.unlink()
        except FileNotFoundError:
            pass
        except OSError as error:
            # Maintenance finds it. The error for which it is removed is the one that counts.
            warn("%s: cannot be removed: %s", self.path, error.strerror)


def _lock_file(descriptor: int, path: Path) -> bool:
    """Lock an open file until its last descriptor is closed, which also happens when the process dies.

    False if another process took it for a leftover in the moment before, and removes it. On a file system without
    locks, maintenance judges by age alone.
    """
    try:
        if not operating_system.try_lock(descriptor):
            return False
    except OSError:
        return True
    try:
        return os.path.samestat(os.fstat(descriptor), path.lstat())
    except FileNotFoundError:
        return False


# --- Leftovers ---------------------------------------------------------------------------------------------


def final_name_of(name: str) -> str | None:
    """The final name in the name of a temporary file; None for any other file."""
    match = _TEMPORARY_NAME.fullmatch(name)
    return None if match is None else match[1]


@contextlib.contextmanager
def holder_of(path: Path, *, is_made: bool = False) -> Iterator[bool | None]:
    """Find whether a living process has a file locked. If none has, none can lock it within the block.

    Parameters
    ----------
    path : Path
        Links are not followed, and pipes are not waited for.
    is_made : bool
        Whether to make the file if it is absent.

    Yields
    ------
    bool or None
        None where locks do not work.

    Raises
    ------
    OSError
        The file is absent, or cannot be opened.
    """
    flags = os.O_CREAT | os.O_RDWR if is_made else os.O_RDONLY
    descriptor = os.open(path, flags | operating_system.AT_ONCE | operating_system.UNLINKED, 0o666)
    try:
        yield _is_locked(descriptor)
    finally:
        os.close(descriptor)


def _is_locked(descriptor: int) -> bool | None:
    try:
        # NFS gives an exclusive lock only to a writer. A shared one keeps writers out as well.
        return not operating_system.try_lock(descriptor, is_shared=True)
    except OSError:
        return None


def remove_abandoned(folder: Path, is_ours: Callable[[str], bool]) -> None:
    """Remove temporary files that killed processes left in a folder of the user's.

    Parameters
    ----------
    folder : Path
        It need not exist.
    is_ours : callable
        Takes a final name: whether the caller writes files of such names here. Other files are left alone, and so
        is what cannot be removed or where locks do not work.
    """
    try:
        names = [path.name for path in folder.iterdir()]
    except OSError:
        return
    for name in names:
        final = final_name_of(name)
        if final is not None and is_ours(final):
            with contextlib.suppress(OSError), holder_of(folder / name) as is_held:
                if is_held is False:
                    (folder / name).unlink()


def flush_folder(folder: Path) -> None:
    """Flush a folder to disk, which makes the names in it durable. A disk that flushes no folders is named once."""
    if not operating_system.flush_folder(folder):
        _name_unflushed(folder.stat().st_dev, folder)


def flush_file(descriptor: int, path: Path) -> None:
    """Flush an open file to disk. A disk that flushes no files is named once."""
    if not operating_system.flush_file(descriptor):
        _name_unflushed(os.fstat(descriptor).st_dev, path)


def _name_unflushed(device: int, path: Path) -> None:
    if device not in _unflushed:
        _unflushed.add(device)
        warn("%s: this disk does not flush what is written: a power cut may cost what was just stored", path)

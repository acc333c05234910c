"""What differs between operating systems: locks and flushes of files, mounts, and hints about memory.

POSIX is taken for granted: `flock`, links, and files that can be replaced and deleted while they are mapped. All of
it was run on Linux. The branches for macOS are type-checked only. On Windows `import ckvd` refuses.

A disk may promise less than its system: `flush_file` and `flush_folder` say whether it flushed, and the locks raise
an error of `ERRNOS_WITHOUT_LOCKS` on a disk without locks. Imports nothing of the project.
"""

from __future__ import annotations

import errno as errno_codes
import fcntl
import mmap
import os
import sys
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable

ERRNOS_WITHOUT_LOCKS: Final = frozenset(
    {errno_codes.ENOLCK, errno_codes.ENOTSUP, errno_codes.EOPNOTSUPP, errno_codes.ENOSYS}
)
"""What a disk without locks answers."""

# What a disk answers that does not flush what it is asked to.
_ERRNOS_WITHOUT_FLUSHES: Final = frozenset(
    {errno_codes.EINVAL, errno_codes.ENOTSUP, errno_codes.EOPNOTSUPP, errno_codes.ENOSYS, errno_codes.ENOTTY}
)

AT_ONCE: Final = os.O_NONBLOCK | os.O_CLOEXEC
"""Flags of `os.open` for a place where others write: a pipe is not waited for. No child inherits the file."""

UNLINKED: Final = os.O_NOFOLLOW
"""The flag of `os.open` by which the last part of a path may be no symbolic link."""

HUGE_PAGES: Final[int | None] = getattr(mmap, "MADV_HUGEPAGE", None)
"""The advice by which the kernel maps two megabytes at a time (Linux); None elsewhere."""


# --- Locks -------------------------------------------------------------------------------------------------


def try_lock(descriptor: int, *, is_shared: bool = False) -> bool:
    """Lock an open file with `flock`, without waiting. The system unlocks it when its last descriptor is closed.

    Parameters
    ----------
    descriptor : int
    is_shared : bool
        Whether others may have a shared lock beside this one. NFS gives an exclusive lock only to a writer.

    Returns
    -------
    bool
        False if another has it locked.

    Raises
    ------
    OSError
        The disk refuses: one without locks by an error of `ERRNOS_WITHOUT_LOCKS`.
    """
    try:
        fcntl.flock(descriptor, (fcntl.LOCK_SH if is_shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        return False
    return True


def unlock(descriptor: int) -> None:
    """Unlock an open file, also where a child that was forked has a copy of the descriptor. Raises OSError."""
    fcntl.flock(descriptor, fcntl.LOCK_UN)


def in_forked_children(act: Callable[[], object]) -> None:
    """Call `act` in every child that this process forks from now on, before anything else of the project runs."""
    os.register_at_fork(after_in_child=act)


# --- Flushes -----------------------------------------------------------------------------------------------


def flush_file(descriptor: int) -> bool:
    """Flush an open file to its disk, through the cache of the disk. False if this disk does not flush.

    Raises OSError if it flushes and failed.
    """
    if sys.platform == "darwin":
        # There `fsync` reaches the cache of the disk. Disks on a network refuse more.
        try:
            fcntl.fcntl(descriptor, fcntl.F_FULLFSYNC)
        except OSError as error:
            if error.errno not in _ERRNOS_WITHOUT_FLUSHES:
                raise
        else:
            return True
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in _ERRNOS_WITHOUT_FLUSHES:
            raise
        return False
    return True


def flush_folder(folder: str | os.PathLike[str]) -> bool:
    """Flush a folder, which makes the names in it durable. False if this disk does not flush folders.

    Raises OSError if there is no such folder, or flushing it failed.
    """
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        return flush_file(descriptor)
    finally:
        os.close(descriptor)


# --- Mounts ------------------------------------------------------------------------------------------------


def mount_table() -> str | None:
    """What is mounted where, a line each: device, folder, type, options (Linux). None where nobody says."""
    try:
        with open("/proc/self/mounts", encoding="utf-8", errors="surrogateescape") as file:  # noqa: PTH123 - no pathlib
            return file.read()
    except OSError:
        return None


# Of these the time of change of a folder tells at once of each change of its names, whoever made it. Disks on a
# network may tell of it a minute later; of FUSE it depends on the program behind it.
_PROMPT_FILE_SYSTEMS: Final = frozenset((b"ext2", b"ext3", b"ext4", b"xfs", b"f2fs", b"bcachefs", b"zfs", b"tmpfs"))


def has_prompt_folders(device: int) -> bool:
    """Whether the time of change of a folder on a device is a new one as soon as a name in it is made or removed.

    False where the system does not say what is mounted there.

    Parameters
    ----------
    device : int
        The number that the status of a file on it has.
    """
    wanted = f"{os.major(device)}:{os.minor(device)}".encode()
    try:
        with open("/proc/self/mountinfo", "rb") as file:  # noqa: PTH123  (no pathlib)
            for line in file:
                mount, _, file_system = line.partition(b" - ")
                if mount.split(b" ", 3)[2] == wanted:
                    return file_system.split(b" ", 1)[0] in _PROMPT_FILE_SYSTEMS
    except OSError:
        pass
    return False

"""Opening a file at a place where others may write too: it has to be a regular file, and opening it never waits.

Somebody may have put a symbolic link, a named pipe, a socket, a device or a folder where a file should be. A link
could lead a writer to any file of its user, and a pipe would keep a reader waiting for ever. So nothing is opened
for writing through a link, a pipe is opened without waiting, and what was opened is looked at before it is used.

A link in the *path* of a file is followed: the folder of a cache, of a series or of a mirror may be a link to a
larger disk. Of the project, only `platforms.operating_system` is imported.
"""

from __future__ import annotations

import errno as errno_codes
import os
import stat
from typing import Final

from ckvd.platforms.operating_system import AT_ONCE, UNLINKED

_LINK: Final = "a symbolic link"
# What systems answer when something that is no regular file is opened.
_ERRNOS: Final = {
    errno_codes.ELOOP, errno_codes.EMLINK, errno_codes.ENOENT, errno_codes.ENOTDIR, errno_codes.ENXIO,
    errno_codes.EISDIR, errno_codes.ENODEV, errno_codes.EOPNOTSUPP,
}  # fmt: skip
_KINDS: Final = (
    (stat.S_ISREG, ""),
    (stat.S_ISLNK, _LINK),
    (stat.S_ISFIFO, "a named pipe"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISDIR, "a folder"),
)


class IrregularFileError(OSError):
    """Something that is no regular file has the name of one. Its `strerror` says what it is."""


def open_regular(
    path: str | os.PathLike[str], flags: int = os.O_RDONLY, *, is_link_followed: bool = False
) -> tuple[int, os.stat_result]:
    """Open a regular file.

    Parameters
    ----------
    path : str or path-like
    flags : int
        As for `os.open`. A file that is created may be read and written by everybody whom the umask leaves.
    is_link_followed : bool
        Whether the last part of the path may be a symbolic link to a regular file. Only for reading.

    Returns
    -------
    descriptor : int
        The caller closes it.
    status : os.stat_result
        Of the file that was opened.

    Raises
    ------
    IrregularFileError
        It is no regular file. A link that leads nowhere is one of these, and no `FileNotFoundError`.
    OSError
        It cannot be opened.
    """
    try:
        descriptor = os.open(path, flags | AT_ONCE | (0 if is_link_followed else UNLINKED), 0o666)
    except OSError as error:
        if error.errno in _ERRNOS and (kind := irregular_kind(path)):
            is_lost = is_link_followed and kind == _LINK
            raise _irregular(path, f"{kind} that leads to no file" if is_lost else kind) from error
        raise
    try:
        status = os.fstat(descriptor)
        _require_regular(path, status)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor, status


def _require_regular(path: str | os.PathLike[str], status: os.stat_result) -> None:
    if not stat.S_ISREG(status.st_mode):
        raise _irregular(path, _kind_of(status.st_mode))


def read_regular(path: str | os.PathLike[str], nbytes_max: int) -> bytes:
    """The first bytes of a regular file, at most so many; not through a link. Errors: see `open_regular`."""
    descriptor, _ = open_regular(path)
    with os.fdopen(descriptor, "rb") as file:
        return file.read(nbytes_max)


def irregular_kind(path: str | os.PathLike[str]) -> str:
    """What a path leads to, if that is no regular file: `a symbolic link`; else, or if there is nothing, empty."""
    try:
        return _kind_of(os.lstat(path).st_mode)
    except OSError:
        return ""


def _kind_of(mode: int) -> str:
    return next((kind for is_kind, kind in _KINDS if is_kind(mode)), "a device")


def _irregular(path: str | os.PathLike[str], kind: str) -> IrregularFileError:
    reason = f"it is {kind}, expected a regular file"
    return IrregularFileError(errno_codes.EINVAL, reason, os.fspath(path))

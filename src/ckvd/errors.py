"""All exceptions of ckvd: one root, `CkvdError`, and leaves that also inherit the builtin that fits.

A message says what went wrong, with which file or series, what was expected and found, and what to do about it.
What a program may need is also an attribute. Errors of other packages are translated where they enter. This module
imports nothing of the project.
"""

from __future__ import annotations

import errno as errno_codes
import os
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence


class SpanOfTime(Protocol):
    """A half-open span of time. `ckvd.Span` is one; this protocol keeps this module free of imports."""

    @property
    def start_ms(self) -> int:
        """The first millisecond."""
        ...

    @property
    def end_ms(self) -> int:
        """The first millisecond after the span."""
        ...


class CkvdError(Exception):
    """The root of all errors of ckvd. They can be pickled, with their attributes and without their cause."""

    def __reduce__(self) -> tuple[Any, ...]:
        return _restored, (type(self), self.args, self.__dict__)


def _restored(kind: type[CkvdError], args: tuple[Any, ...], attributes: dict[str, Any]) -> CkvdError:
    """An error by its arguments and attributes. Its own `__init__` takes others."""
    error = kind.__new__(kind)
    super(CkvdError, error).__init__(*args)
    error.__dict__.update(attributes)
    return error


_FOREIGN_LENGTH_MAX: Final = 200


def shown(foreign: object, length_max: int = _FOREIGN_LENGTH_MAX) -> str:
    """Text that came from outside, as it may stand in a message.

    Parameters
    ----------
    foreign : object
        Text, bytes, or anything with a `str`.
    length_max : int
        The longest part of it to show, in characters.

    Returns
    -------
    str
        One line. Control characters, which could change what a terminal shows, are escaped.
    """
    whole = foreign if isinstance(foreign, bytes) else str(foreign)
    head = whole[: 4 * length_max]  # cut before it is split and escaped: it may have megabytes
    text = head.decode("utf-8", "backslashreplace") if isinstance(head, bytes) else head
    line = " ".join(text.split())
    safe = "".join(mark if mark.isprintable() else mark.encode("unicode_escape").decode() for mark in line)
    is_all = len(safe) <= length_max and not whole[len(head) :].strip()
    return safe if is_all else f"{safe[:length_max]}..."


# --- Arguments ---------------------------------------------------------------------------------------------


class IdentityError(CkvdError, ValueError):
    """A market, kind, symbol or interval that names no series."""


class TimeError(CkvdError, ValueError):
    """A time that cannot be parsed, or a span that ends before it starts."""


class AddressError(CkvdError, ValueError):
    """An address of a source that is neither HTTP nor a folder."""


class ColumnError(CkvdError, KeyError):
    """A column that the series does not have."""

    def __str__(self) -> str:
        # KeyError would show the message in quotes.
        return str(self.args[0])


class PanelArrayError(CkvdError, ValueError):
    """An array that a panel cannot be written to, or a type that its cells cannot have."""


class ColumnAttributeError(ColumnError, AttributeError):
    """A column that the series does not have was asked for as an attribute: `hasattr` is then false."""


# --- Archives ----------------------------------------------------------------------------------------------


class ArchiveError(CkvdError, ValueError):
    """An archive that is damaged, invalid or not verified.

    Attributes
    ----------
    archive : str
        The name of the archive.
    row : int or None
        The invalid line of the CSV, counted from 1 and including a header line. None if the fault is not in a line.
    reason : str
        What was expected, and what was found.
    """

    def __init__(self, archive: str, reason: str, *, row: int | None = None) -> None:
        self.archive = archive
        self.reason = reason
        self.row = row
        where = archive if row is None else f"{archive}, line {row}"
        super().__init__(f"{where}: {reason}")


class ChecksumMismatchError(ArchiveError):
    """The SHA-256 of an archive differs from that in its CHECKSUM file.

    Attributes
    ----------
    expected, found : str
        Both hashes, as 64 hexadecimal digits.
    """

    def __init__(self, archive: str, *, expected: str, found: str, remedy: str) -> None:
        self.expected = expected
        self.found = found
        super().__init__(archive, f"its CHECKSUM says SHA-256 {expected}, the bytes hash to {found}; {remedy}")


class ChecksumMissingError(ArchiveError):
    """An archive without the required CHECKSUM file."""


# --- Segments and the cache --------------------------------------------------------------------------------


class SegmentError(CkvdError, ValueError):
    """A segment file that cannot be used.

    Attributes
    ----------
    path : str
        The file.
    """

    def __init__(self, path: str, reason: str) -> None:
        self.path = path
        self.reason = reason
        super().__init__(f"{path}: {reason}")


class SegmentCorruptError(SegmentError):
    """A truncated or damaged segment, or one whose content does not match its file name."""


class SegmentForeignError(SegmentError):
    """A file that is not a segment."""


class SegmentVersionError(SegmentError):
    """A segment of a later format version, or of another byte order."""


class CacheError(CkvdError, OSError):
    """The cache folder cannot be read or written.

    Attributes
    ----------
    path : str
        The file or folder.
    """

    def __init__(self, path: str, reason: str, *, errno: int | None = None) -> None:
        self.path = path
        self.reason = reason
        super().__init__(errno, f"{path}: {reason}")

    def __str__(self) -> str:
        return str(self.args[1])


class CacheBusyError(CacheError):
    """Another process kept changing or locking the series for too long."""


_NOT_PERMITTED: Final = "its owner or its rights forbid it: choose another cache folder, or change its rights"
_REMEDIES: Final = {
    errno_codes.ENOSPC: "make room on the disk, and run it again: what was stored before is safe",
    errno_codes.EDQUOT: "the disk quota is used up: make room, and run it again",
    errno_codes.EFBIG: "the file system or a limit of the process forbids files of this size",
    errno_codes.EROFS: "the file system is mounted read-only: choose another cache folder",
    errno_codes.EACCES: _NOT_PERMITTED,
    errno_codes.EPERM: _NOT_PERMITTED,
    errno_codes.EMFILE: "too many open files: close readers, or raise the limit (ulimit -n)",
    errno_codes.ENFILE: "too many open files on the whole system",
    errno_codes.EIO: "the disk fails: look into the system's log, and copy the cache while it can be read",
    errno_codes.ENOTDIR: "a file stands where a folder should be: move it away",
    errno_codes.ELOOP: "symbolic links lead in circles: remove them",
}


def cannot(verb: str, path: str | os.PathLike[str], error: OSError) -> CacheError:
    """Make a `CacheError` of an error of the operating system, with a remedy.

    Parameters
    ----------
    verb : str
        The operation that failed, in the passive, such as `be written`.
    path : path-like
        The file or folder.
    error : OSError
    """
    remedy = _REMEDIES.get(error.errno or 0)
    reason = f"cannot {verb}: {error.strerror or error}" + (f"; {remedy}" if remedy else "")
    return CacheError(os.fspath(path), reason, errno=error.errno)


@contextmanager
def translated(verb: str, path: str | os.PathLike[str]) -> Iterator[None]:
    """Turn an error of the operating system in the block into that of `cannot`. Errors of ckvd pass unchanged.

    Parameters
    ----------
    verb, path
        See `cannot`.
    """
    try:
        yield
    except CkvdError:  # some of them are errors of the operating system as well
        raise
    except OSError as error:
        raise cannot(verb, path, error) from error


class NotCachedError(CkvdError, LookupError):
    """The cache does not cover the bars that were asked for.

    Attributes
    ----------
    missing : tuple of Span
        The spans that the cache does not cover, in order.
    """

    def __init__(self, message: str, missing: Sequence[SpanOfTime]) -> None:
        self.missing = tuple(missing)
        super().__init__(message)


class NoSnapshotError(CkvdError, LookupError):
    """The cache has no snapshot of the universe of a market."""


class SnapshotError(CkvdError, ValueError):
    """A snapshot of the universe that is damaged, or no snapshot.

    Attributes
    ----------
    path : str
        The file.
    """

    def __init__(self, path: str, reason: str) -> None:
        self.path = path
        self.reason = reason
        super().__init__(f"{path}: {reason}")


class UnknownLifeError(CkvdError, LookupError):
    """A name that no life in a choice has, or more than one.

    Attributes
    ----------
    names : tuple of str
        The keys of the lives that it may mean.
    """

    def __init__(self, message: str, names: Sequence[str]) -> None:
        self.names = tuple(names)
        super().__init__(message)


# --- Maintenance -------------------------------------------------------------------------------------------


class DataLockError(CkvdError, ValueError):
    """A file that was expected to be a data lock, and is none."""


class ExportError(CkvdError, ValueError):
    """An export of no data, or in a format whose package is not installed."""


# --- Network -----------------------------------------------------------------------------------------------


class NetworkError(CkvdError, ConnectionError):
    """A request that failed, and is not tried again.

    Attributes
    ----------
    url : str
        The URL of the request.
    status : int or None
        The HTTP status of the last response; None if there was none.
    """

    def __init__(self, url: str, reason: str, *, status: int | None = None) -> None:
        self.url = url
        self.reason = reason
        self.status = status
        super().__init__(f"{url}: {reason}")


class NetworkTimeoutError(NetworkError, TimeoutError):
    """A request that stalled, or exceeded its time limit."""


class HttpStatusError(NetworkError):
    """A response with an error status."""


class ClientClosedError(CkvdError, RuntimeError):
    """A client was used after it was closed, or was closed during the request."""


class WorkerDiedError(CkvdError, RuntimeError):
    """A process that did some work died, and so did the next one that tried; or none could be started.

    Attributes
    ----------
    work : str
        What it was working on.
    """

    def __init__(self, work: str, how: str) -> None:
        self.work = work
        super().__init__(
            f"{work}: the process that stores it {how}; if memory runs out, use fewer or none (workers=1)"
        )


class DependencyError(CkvdError, ImportError):
    """An installed package lacks something that ckvd needs: it is of another version than those tested.

    Attributes
    ----------
    name : str
        The package.
    version : str
        The version that is installed.
    missing : tuple of str
        What it lacks.
    """

    def __init__(self, package: str, version: str, missing: Sequence[str], tested: str) -> None:
        self.version = version
        self.missing = tuple(missing)
        super().__init__(
            f"{package} {version} is installed, and lacks {', '.join(missing)}; "
            f"ckvd was tested with {package}{tested}: install one of these versions",
            name=package,
        )


class ForeignModulesError(CkvdError, ImportError):
    """Another package has put modules into the folder of ckvd.

    Attributes
    ----------
    foreign : tuple of str
        The names of its files and folders.
    """

    def __init__(self, folder: str, foreign: Sequence[str]) -> None:
        self.foreign = tuple(foreign)
        super().__init__(
            f"{folder} holds what is not ckvd's: {', '.join(foreign)}; another package of the same import name is "
            "installed too, such as crypto-kline-vision-data: uninstall both, and install ckvd again",
            name="ckvd",
        )


class PlatformError(CkvdError, ImportError):
    """The operating system is one on which ckvd does not run."""

    def __init__(self) -> None:
        super().__init__(
            "ckvd needs a POSIX system, and does not run on Windows itself: install and run it in WSL, the Windows "
            "Subsystem for Linux",
            name="ckvd",
        )


class NotInstalledError(DependencyError):
    """A package that is needed for what was asked is not installed. See `needs`.

    Attributes
    ----------
    name : str
        The package.
    """

    def __init__(self, package: str, purpose: str, remedy: str) -> None:
        self.version = ""
        self.missing = ()
        ImportError.__init__(self, f"{purpose} needs {package}, which is not installed: {remedy}", name=package)


@contextmanager
def needs(package: str, purpose: str, remedy: str) -> Iterator[None]:
    """Import something of a package in the block, and say what to install if there is no such package.

    Raises
    ------
    NotInstalledError
        For `purpose`, such as "fetching".
    """
    try:
        yield
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != package:
            raise
        raise NotInstalledError(package, purpose, remedy) from None


class NotFetchedError(NotCachedError, NetworkError):
    """The cache does not cover the bars that were asked for, because a request for them failed.

    Its message begins with that of the failed request, which is its cause.

    Attributes
    ----------
    missing : tuple of Span
        The spans that the cache does not cover, in order.
    url, reason, status
        Of the failed request, see `NetworkError`.
    """

    def __init__(self, failure: NetworkError, consequence: str, missing: Sequence[SpanOfTime]) -> None:
        # Without the layout of `NetworkError`, whose message is made of its address and reason.
        Exception.__init__(self, f"{failure}; {consequence}")
        self.url, self.reason, self.status = failure.url, failure.reason, failure.status
        self.missing = tuple(missing)


# --- REST --------------------------------------------------------------------------------------------------


class ExchangeError(NetworkError):
    """The exchange refused a request.

    Attributes
    ----------
    code : int or None
        The exchange's own error code, such as -1121; None if it gave none.
    message : str
        The exchange's message, or its beginning.
    """

    def __init__(
        self, url: str, reason: str, *, status: int | None = None, code: int | None = None, message: str = ""
    ) -> None:
        self.code = code
        self.message = message
        super().__init__(url, reason, status=status)


class InvalidSymbolError(ExchangeError, LookupError):
    """The exchange does not know the symbol or pair in this market."""


class NotTradingError(ExchangeError, LookupError):
    """The exchange knows the contract, and has no bars of it: it does not trade yet, or no longer."""


class RateLimitError(ExchangeError):
    """The exchange still reports too many requests, after all the waits that the policy allows.

    Attributes
    ----------
    retry_after_s : float or None
        The pause that the exchange asked for last, in seconds.
    """

    def __init__(
        self,
        url: str,
        reason: str,
        *,
        retry_after_s: float | None = None,
        status: int | None = None,
        code: int | None = None,
        message: str = "",
    ) -> None:
        self.retry_after_s = retry_after_s
        super().__init__(url, reason, status=status, code=code, message=message)


class BannedError(ExchangeError):
    """The exchange has banned this IP address. No request is sent to it before the ban ends.

    Attributes
    ----------
    until_ms : int
        When the ban ends, by the exchange's clock, in milliseconds.
    """

    def __init__(
        self,
        url: str,
        reason: str,
        *,
        until_ms: int,
        status: int | None = None,
        code: int | None = None,
        message: str = "",
    ) -> None:
        self.until_ms = until_ms
        super().__init__(url, reason, status=status, code=code, message=message)


class RegionRefusedError(ExchangeError):
    """The exchange or its firewall refuses the region of this IP address."""


class RestAnswerError(NetworkError, ValueError):
    """An invalid response of the REST interface.

    Attributes
    ----------
    row : int or None
        The invalid row, counted from 1; None if the fault is not in a row.
    """

    def __init__(self, url: str, reason: str, *, row: int | None = None) -> None:
        self.row = row
        super().__init__(url, reason if row is None else f"row {row}: {reason}")


_ERRNOS_OF_EVERYTHING: Final = (
    errno_codes.ENOSPC,
    errno_codes.EDQUOT,
    errno_codes.EROFS,
    errno_codes.EMFILE,
    errno_codes.ENFILE,
    errno_codes.ENOMEM,
)


def concerns_one_place(error: CkvdError) -> bool:
    """Whether an error is that of one segment, file or folder, so that other series can be worked on all the same.

    A full or read-only disk, and a process that has no descriptors left, would fail the others as well.
    """
    if isinstance(error, CacheError):
        return error.errno not in _ERRNOS_OF_EVERYTHING
    return isinstance(error, SegmentError)


@contextmanager
def containing(refuse: Callable[[CkvdError], None] | None) -> Iterator[None]:
    """Hand the error of a block to `refuse`, if there is one and the error concerns one place only."""
    try:
        yield
    except (CacheError, SegmentError) as error:
        if refuse is None or not concerns_one_place(error):
            raise
        refuse(error)


FATAL_ERRORS: Final = (CacheError, ClientClosedError, DependencyError)
"""After one of these no other archive or series can succeed: code that collects errors raises them.

`CacheBusyError` is none: it fails one series, and code that collects errors catches it before these.
"""

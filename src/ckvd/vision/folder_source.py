"""`FolderArchiveSource`: archives from a folder laid out like the publisher's site, without a network.

Files are read in a thread, so that the event loop stays free. They are never moved or changed.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import stat
from email.utils import formatdate
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final, ParamSpec, TypeVar

from ckvd.concurrency.stopping import check_stop
from ckvd.concurrency.work import Batching, in_thread
from ckvd.errors import ChecksumMismatchError, ChecksumMissingError, CkvdError, ClientClosedError, NetworkError
from ckvd.model.calendar import Cadence
from ckvd.regular_file import irregular_kind
from ckvd.utils.config import CHECKSUM_NBYTES_MAX, FOLDER_BATCH_DAYS_MAX
from ckvd.vision.checksum import parse_checksum
from ckvd.vision.listing import ListedFile, listed_archives, listed_intervals, listed_symbols
from ckvd.vision.name import archive_folder, symbols_folder
from ckvd.vision.source import AbsentArchive, FetchedArchive, read_chunks

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from ckvd.model.market import Interval, Kind, Market, SeriesKey
    from ckvd.vision.name import ArchiveName
    from ckvd.vision.source import ListedArchive

_CHUNK_NBYTES: Final = 1 << 20

_T = TypeVar("_T")
_P = ParamSpec("_P")


class FolderArchiveSource:
    """A mirror in a folder: an `ArchiveSource`.

    Parameters
    ----------
    root : path
        The folder that contains `data/`.
    is_checksum_required : bool
        Whether to refuse an archive without a CHECKSUM file.

    Attributes
    ----------
    is_closed : bool
    """

    def __init__(self, root: str | os.PathLike[str], *, is_checksum_required: bool = False) -> None:
        self._root = Path(root)
        self.is_closed = False
        self._is_checksum_required = is_checksum_required
        self._verifying: Batching[ArchiveName, FetchedArchive | AbsentArchive] = Batching(
            self._verify_each, choose_small
        )

    def close(self) -> None:
        """Refuse new calls. Those under way raise `ClientClosedError`. No file stays open, so none is closed."""
        self.is_closed = True

    def __repr__(self) -> str:
        return f"<FolderArchiveSource: {'closed' if self.is_closed else self._root}>"

    async def fetch(
        self,
        name: ArchiveName,
        folder: Path,  # noqa: ARG002 - for sources that download a file
        *,
        on_bytes: Callable[[int], None] | None = None,
    ) -> FetchedArchive | AbsentArchive:
        """Verify one archive in its place: see `ArchiveSource.fetch`."""
        self._require_open()
        fetched = await self._verifying.do(name)
        self._require_open()
        if on_bytes is not None and isinstance(fetched, FetchedArchive):
            on_bytes(fetched.nbytes)
        return fetched

    async def list_archives(
        self,
        series: SeriesKey,
        cadence: Cadence,
        *,
        from_ms: int = 0,
        is_first_enough: bool = False,  # noqa: ARG002 - a folder is listed whole
    ) -> list[ListedArchive]:
        """See `ArchiveSource.list_archives`."""
        listed = await self._in_thread(self._list, series, cadence)
        return [one for one in listed if one.name.period.start_ms >= from_ms]

    async def list_symbols(self, market: Market, kind: Kind, cadence: Cadence) -> list[str]:
        """See `ArchiveSource.list_symbols`."""
        folders = await self._in_thread(self._list_folders, symbols_folder(market, kind, cadence))
        return listed_symbols(folders, market, kind)

    async def list_intervals(self, market: Market, kind: Kind, symbol: str, cadence: Cadence) -> list[Interval]:
        """See `ArchiveSource.list_intervals`."""
        folder = f"{symbols_folder(market, kind, cadence)}{symbol}/"
        return listed_intervals(await self._in_thread(self._list_folders, folder))

    async def _in_thread(self, function: Callable[_P, _T], *args: _P.args, **kwargs: _P.kwargs) -> _T:
        self._require_open()
        result = await in_thread(function, *args, **kwargs)
        self._require_open()
        return result

    def _require_open(self) -> None:
        if self.is_closed:
            raise ClientClosedError(f"the client is closed: {self._root}")

    def _verify_each(self, names: list[ArchiveName]) -> list[FetchedArchive | AbsentArchive | CkvdError]:
        return [self._outcome(name) for name in names]

    def _outcome(self, name: ArchiveName) -> FetchedArchive | AbsentArchive | CkvdError:
        try:
            return self._find_and_verify(name)
        except CkvdError as error:
            return error
        except OSError as error:
            return _unreadable(self._root / name.path, error)

    def _find_and_verify(self, name: ArchiveName) -> FetchedArchive | AbsentArchive:
        """Verify an archive under its usual spelling, or a month under another spelling that the folder has."""
        try:
            return self._verify(name)
        except FileNotFoundError:
            self._require_mirror()
        if kind := irregular_kind(self._root / name.path):
            raise NetworkError(str(self._root / name.path), f"cannot read it: it is {kind} that leads to no file")
        listed = self._list(name.series, Cadence.MONTHLY) if name.period.cadence is Cadence.MONTHLY else []
        spelled = next((archive.name for archive in listed if archive.name.period == name.period), None)
        return AbsentArchive(name, str(self._root / name.path)) if spelled is None else self._verify(spelled)

    def _verify(self, name: ArchiveName) -> FetchedArchive:
        path = self._root / name.path
        status = path.stat()
        digest = hashlib.sha256()
        for chunk in read_chunks(path, min(status.st_size + 1, _CHUNK_NBYTES)):
            check_stop()
            digest.update(chunk)
        sha256 = digest.hexdigest()
        try:
            # One chunk is enough: a longer file is no CHECKSUM.
            checksum = next(read_chunks(self._root / name.checksum_path, CHECKSUM_NBYTES_MAX), b"")
        except FileNotFoundError:
            checksum = None
        if checksum is None and self._is_checksum_required:
            raise ChecksumMissingError(str(path), "it has no CHECKSUM file, and one is required")
        if checksum is not None:
            expected = parse_checksum(checksum, name.file_name)
            if sha256 != expected:
                raise ChecksumMismatchError(
                    str(path), expected=expected, found=sha256, remedy="copy both files anew from where they came"
                )
        return FetchedArchive(
            name,
            path,
            is_temporary=False,
            nbytes=status.st_size,
            sha256=sha256,
            is_checksum_published=checksum is not None,
            etag="",
            last_modified=formatdate(status.st_mtime, usegmt=True),
            attempt_count=1,
        )

    def _list(self, series: SeriesKey, cadence: Cadence) -> list[ListedArchive]:
        folder = archive_folder(series, cadence)
        return listed_archives(self._scan(folder, partial(_listed, folder)))

    def _list_folders(self, folder: str) -> list[str]:
        """The folders in a folder. A link to a folder is one."""
        return self._scan(folder, lambda entry: f"{folder}{entry.name}/" if entry.is_dir() else "")

    def _scan(self, folder: str, look: Callable[[os.DirEntry[str]], _T]) -> list[_T]:
        """What each entry of a folder of the mirror is; nothing of a folder that does not exist."""
        found = []
        try:
            self._require_mirror()
            with os.scandir(self._root / folder) as entries:
                for entry in entries:
                    # A file may vanish meanwhile, as a temporary file of rsync does. The others are still there.
                    with contextlib.suppress(FileNotFoundError):
                        found.append(look(entry))
        except NetworkError:
            raise
        except FileNotFoundError:
            return []
        except OSError as error:
            raise _unreadable(self._root / folder, error) from error
        return found

    def _require_mirror(self) -> None:
        # A folder that is not mounted is empty. That does not mean that there are no archives.
        try:
            is_there = stat.S_ISDIR((self._root / "data").stat().st_mode)
        except (FileNotFoundError, NotADirectoryError):
            is_there = False
        except OSError as error:
            raise _unreadable(self._root, error) from error
        if not is_there:
            raise NetworkError(str(self._root), "expected a mirror of the archives, found no folder 'data' in it")


def choose_small(names: Sequence[ArchiveName]) -> list[int]:
    """The indices of the names to verify together: the first, with other days if it is that of a day.

    A hop to a thread takes longer than verifying a day.
    """
    if names[0].period.cadence is Cadence.MONTHLY:
        return [0]
    days = [index for index, name in enumerate(names) if name.period.cadence is Cadence.DAILY]
    return days[:FOLDER_BATCH_DAYS_MAX]


def _unreadable(path: Path, error: OSError) -> NetworkError:
    return NetworkError(str(error.filename or path), f"cannot read it: {error.strerror}")


def _listed(folder: str, entry: os.DirEntry[str]) -> ListedFile:
    # Whatever has the name of an archive is listed, and fetching says why it cannot be read. Without it in the
    # list it would count as an archive that does not exist.
    try:
        status = entry.stat()
    except OSError:
        status = entry.stat(follow_symlinks=False)  # of a link that leads nowhere
    return ListedFile(folder + entry.name, status.st_size, "", formatdate(status.st_mtime, usegmt=True))

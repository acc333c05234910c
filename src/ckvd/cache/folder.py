"""The folder of a cache: every name in it, and listing its series and segments.

    <market>/<kind>/<symbol>/<interval>/                  a series, such as spot/klines/BTCUSDT/1m. Series of events
                                                          have `events` in place of an interval.
        <start>-<end>-r<revision>.ckvd                    a segment: 20230101T000000Z-20230201T000000Z-r1.ckvd
        .<final name>.<process>-<random>.tmp              one that is being written (`ckvd.segment.atomic_file`)
    .locks/<market>-<kind>-<symbol>-<interval>.lock       the lock file of a series
    .quarantine/<market>/<kind>/<symbol>/<interval>/      files of a series that were set aside
        <file name>, <file name>.json                     such a file, and why it is there
    .universe/<market>/                                   snapshots of who was listed when
        <time>-<hash>.universe                            20260822T033815Z-1f2e3d4c5b6a7988.universe
    .download-<random>/                                   archives that are being downloaded
        .lock                                             locked while that process is at work

The folder of the cache, of a market, symbol or series may be a symbolic link to a folder, such as one on a larger
disk. A link that leads nowhere is an error and no empty folder: the disk may not be mounted.

The name of a segment gives its span and revision, so that a read opens no other segments than it needs. The header
gives the same, and a segment whose header and name differ is refused.
"""

from __future__ import annotations

import contextlib
import os
import re
import stat
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from ckvd.cache import fault_points
from ckvd.cache.fault_points import Step
from ckvd.concurrency.stopping import check_stop
from ckvd.errors import CacheBusyError, CacheError, CkvdError, IdentityError, cannot, containing, needs, translated
from ckvd.model.market import Interval, Kind, Market, SeriesKey
from ckvd.model.timespan import Span, compact_time, parse_compact_time
from ckvd.segment.atomic_file import flush_folder
from ckvd.utils.config import (
    FOLDER_ATTEMPTS_MAX,
    LISTING_ATOMIC_NAMES_MAX,
    LISTING_ATTEMPTS_MAX,
    SEGMENT_REVISION_MAX,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

# Every name in the folder, but those of temporary files: see `ckvd.segment.atomic_file.TEMPORARY_SUFFIX`.
SEGMENT_SUFFIX: Final = ".ckvd"
LOCKS_FOLDER: Final = ".locks"
LOCK_SUFFIX: Final = ".lock"
QUARANTINE_FOLDER: Final = ".quarantine"
QUARANTINE_REASON_SUFFIX: Final = ".json"
UNIVERSE_FOLDER: Final = ".universe"
UNIVERSE_SUFFIX: Final = ".universe"
DOWNLOAD_FOLDER_PREFIX: Final = ".download-"
DOWNLOAD_LOCK_NAME: Final = ".lock"

_NAME: Final = re.compile(r"(\d{8}T\d{6}Z)-(\d{8}T\d{6}Z)-r(0|[1-9]\d{0,99})\.ckvd", re.ASCII)
_REVISION_DIGITS_MAX: Final = len(str(SEGMENT_REVISION_MAX))
# Folders from that of the cache to that of a series.
_DEPTH: Final = 5


@dataclass(frozen=True, slots=True, order=True)
class SegmentName:
    """The name of a segment file, parsed.

    Attributes
    ----------
    span : Span
        What the segment covers, on whole seconds.
    revision : int
        Where segments overlap, the one with the highest revision wins. At most `SEGMENT_REVISION_MAX`.
    """

    span: Span
    revision: int

    @property
    def file_name(self) -> str:
        """The name of the file."""
        return _format_name(self)


# Formatting takes some thirty times as long as looking it up, and a listing needs a name more than once.
@lru_cache(maxsize=1 << 14)
def _format_name(name: SegmentName) -> str:
    start, end = (_format_second(moment_ms) for moment_ms in (name.span.start_ms, name.span.end_ms))
    return f"{start}-{end}-r{name.revision}{SEGMENT_SUFFIX}"


def _format_second(moment_ms: int) -> str:
    if moment_ms % 1000:
        raise ValueError(f"a segment starts and ends on whole seconds, not at {moment_ms} ms")
    return compact_time(moment_ms)


@lru_cache(maxsize=1 << 16)
def parse_segment_name(file_name: str) -> SegmentName | None:
    """Read the name of a segment file; None for any other file."""
    match = _NAME.fullmatch(file_name)
    if match is None or _is_beyond(match[3]):
        return None
    try:
        span = Span(parse_compact_time(match[1]), parse_compact_time(match[2]))
    except ValueError:
        return None
    return SegmentName(span, int(match[3]))


def has_impossible_revision(file_name: str) -> bool:
    """Whether a name is that of a segment but for its revision, which no writer can have taken."""
    match = _NAME.fullmatch(file_name)
    return match is not None and _is_beyond(match[3])


def _is_beyond(digits: str) -> bool:
    return len(digits) > _REVISION_DIGITS_MAX or int(digits) > SEGMENT_REVISION_MAX


class Listing(list[SegmentName]):
    """The segments that a series has at one moment, in no order.

    Attributes
    ----------
    path : str
        The folder of the series.
    inodes : dict of str to int
        The number of each file in the folder, as the folder has it. It cost no further system call.
    resolved : tuple or None
        For whoever reads the same span again and again: the last one, and what was found for it.
    """

    __slots__ = ("inodes", "path", "resolved")

    path: str
    inodes: dict[str, int]
    resolved: tuple[Any, ...] | None


@dataclass(frozen=True, slots=True)
class CacheFolder:
    """The folder of a cache.

    Attributes
    ----------
    root : Path
        It need not exist yet.
    """

    root: Path

    @classmethod
    def at(cls, root: str | os.PathLike[str] | None = None) -> CacheFolder:
        """A folder by its path (`~` is expanded), or the default one. The path is made absolute.

        The default is the environment's `CKVD_CACHE_DIR`, else the user's cache folder of the platform.
        """
        chosen = root if root is not None else os.environ.get("CKVD_CACHE_DIR")
        if not chosen:
            with needs("platformdirs", "the default cache folder", "name a folder, or pip install platformdirs"):
                from platformdirs import user_cache_path  # noqa: PLC0415  (needed only for the default)
            return cls(user_cache_path("ckvd", appauthor=False))
        path = Path(chosen)
        # Expanding a path costs as much as listing a folder.
        return cls(path if path.is_absolute() else path.expanduser().absolute())

    def series_path(self, series: SeriesKey) -> Path:
        """The folder of a series, in which its segments lie."""
        # One step, because each takes a Path of its own.
        return self.root / f"{series.market}/{series.kind}/{series.symbol}/{series.folder_name}"

    def series_text_path(self, series: SeriesKey) -> str:
        """The folder of a series as text, which is joined and listed faster than a Path."""
        return f"{self.root}/{series.market}/{series.kind}/{series.symbol}/{series.folder_name}"

    def segment_path(self, series: SeriesKey, name: SegmentName) -> Path:
        """The file of a segment."""
        return self.series_path(series) / name.file_name

    def lock_path(self, series: SeriesKey) -> Path:
        """The lock file of a series."""
        # Only a symbol may contain a dash, so no two series share a name.
        name = f"{series.market}-{series.kind}-{series.symbol}-{series.folder_name}{LOCK_SUFFIX}"
        return self.root / LOCKS_FOLDER / name

    def make_series_path(self, series: SeriesKey) -> Path:
        """Make the folder of a series. Errors: see `make_path`."""
        return self.make_path(self.series_path(series))

    def make_path(self, path: Path) -> Path:
        """Make a folder and those above it, unless they exist, and make their names durable.

        Raises
        ------
        CacheError
            It cannot be made.
        """
        check_stop()
        for attempts_left in range(FOLDER_ATTEMPTS_MAX - 1, -1, -1):
            try:
                absent = [folder for folder in (path, *path.parents) if not is_folder(folder)]
                for folder in reversed(absent):
                    folder.mkdir(exist_ok=True)
                    flush_folder(folder.parent)
                    fault_points.reach(Step.FOLDER_MADE)
                break
            except OSError as error:
                # Pruning removes folders that it emptied: maybe the one in which the next is about to be made, or
                # one that `mkdir` found there and does not find when it looks again.
                is_race = isinstance(error, (FileNotFoundError, FileExistsError))
                if not is_race or not attempts_left:
                    raise cannot("be made", path, error) from error
        return path

    def has_root(self) -> bool:
        """Whether the folder exists. Raises CacheError if the system does not say."""
        with translated("be read", self.root):
            return is_folder(self.root)

    def segments(self, series: SeriesKey) -> Listing:
        """List the segments that a series has at one moment, in no order. Other files are skipped.

        Raises
        ------
        CacheBusyError
            They changed each time while they were listed.
        CacheError
            The folder cannot be listed.
        """
        path = self.series_text_path(series)
        inodes = _scan(path)
        if len(inodes) > LISTING_ATOMIC_NAMES_MAX:
            # Listing a long folder takes several system calls. A segment that replaces others might be added where
            # the listing has been, and the others removed where it comes next. Two equal listings are complete.
            inodes = _scan_twice(path, inodes)
        listing = Listing([name for name in map(parse_segment_name, inodes) if name is not None])
        listing.path, listing.inodes, listing.resolved = path, inodes, None
        return listing

    def statuses(self, series: SeriesKey, names: Iterable[SegmentName]) -> list[os.stat_result]:
        """The file status of some segments of a series, in order. Segments that are gone are left out.

        Raises
        ------
        CacheError
            The status of a file cannot be read.
        """
        path = self.series_text_path(series)
        found = []
        for name in names:
            try:
                found.append(_status(f"{path}/{name.file_name}"))
            except FileNotFoundError:
                continue
            except OSError as error:
                raise cannot("be read", f"{path}/{name.file_name}", error) from error
        return found

    def nbytes_of(self, series: SeriesKey, names: Iterable[SegmentName]) -> int:
        """The size of some segments of a series on disk. Errors: see `statuses`."""
        return sum(status.st_size for status in self.statuses(series, names))

    def series(self, refuse: Callable[[CkvdError], None] | None = None) -> Iterator[SeriesKey]:
        """List the series that have a folder, in order of market, kind, symbol and interval.

        Parameters
        ----------
        refuse : callable, optional
            Called with the error of each folder that cannot be listed; the others are listed all the same.

        Raises
        ------
        CacheError
            A folder cannot be listed, and there is no `refuse`.
        """
        for market in Market:
            for kind in Kind:
                path = f"{self.root}/{market}/{kind}"
                for symbol in _list(path, refuse):
                    names = _list(f"{path}/{symbol}", refuse)
                    yield from sorted(_series_of(market, kind, symbol, names))

    def intervals(self, market: Market, symbol: str) -> list[Interval]:
        """The intervals of which the cache has a folder of klines, from the shortest on. Errors: see `segments`."""
        names = set(list_names(f"{self.root}/{market}/{Kind.KLINES}/{symbol}"))
        return [interval for interval in Interval if interval in names]


def _series_of(market: Market, kind: Kind, symbol: str, names: Sequence[str]) -> Iterator[SeriesKey]:
    for name in names:
        with contextlib.suppress(IdentityError):  # the folder of another program
            yield SeriesKey.of_folder(symbol, name, market=market, kind=kind)


def remove_empty_folders(path: Path) -> None:
    """Remove the folder of a locked series, and those above it, as long as they are empty."""
    for place in (path, *path.parents[:3]):
        try:
            place.rmdir()
        except OSError:
            return  # not empty
        fault_points.reach(Step.FOLDER_REMOVED)


def _list(path: str, refuse: Callable[[CkvdError], None] | None) -> list[str]:
    with containing(refuse):
        return list_names(path)
    return []


def _lost_link(path: str) -> str | None:
    """The folder of a cache on the way to a series that is a link which leads nowhere; None if there is none."""
    for _ in range(_DEPTH):
        # A Path takes twice the time, and every new series comes here.
        with translated("be listed", path):
            try:
                is_link = stat.S_ISLNK(os.lstat(path).st_mode)
            except (FileNotFoundError, NotADirectoryError):
                path = os.path.dirname(path)  # noqa: PTH120
                continue
            return path if is_link and not _leads_somewhere(path) else None
    return None


def _leads_somewhere(path: str) -> bool:
    try:
        os.stat(path)  # noqa: PTH116
    except (FileNotFoundError, NotADirectoryError):
        return False
    return True


def _status(path: str) -> os.stat_result:
    """The status of a file, or of a link that leads nowhere."""
    # There may be tens of thousands; a Path takes twice the time.
    try:
        return os.stat(path)  # noqa: PTH116
    except OSError:
        return os.lstat(path)


def list_names(path: str | os.PathLike[str]) -> list[str]:
    """The names in a folder, in order; none if there is no such folder.

    Unlike `glob`, it takes no folder that cannot be listed for an empty one.

    Raises
    ------
    CacheError
        The folder cannot be listed.
    """
    return sorted(_scan(os.fspath(path)))


def is_there(path: Path) -> bool:
    """Whether anything has a name, be it a link that leads nowhere.

    Unlike `os.path.lexists`, it takes no file of which the system does not say for one that is absent.

    Raises
    ------
    CacheError
        The system does not say.
    """
    with translated("be read", path):
        try:
            path.lstat()
        except (FileNotFoundError, NotADirectoryError):
            return False
        return True


def is_folder(path: Path) -> bool:
    """Whether there is such a folder, or a link to one.

    Unlike `Path.is_dir`, it takes no folder of which the system does not say for one that is absent, and raises
    OSError.
    """
    try:
        return stat.S_ISDIR(path.stat().st_mode)
    except (FileNotFoundError, NotADirectoryError):
        return False


def _scan(path: str) -> dict[str, int]:
    """The names in a folder, each with its inode."""
    try:
        # As fast as `os.listdir`, which drops the inodes. The iterator closes itself at its end.
        return {entry.name: entry.inode() for entry in os.scandir(path)}
    except (FileNotFoundError, NotADirectoryError) as error:
        if lost := _lost_link(path):
            reason = (
                "cannot be listed: it is a symbolic link that leads nowhere; is the disk of its folder mounted?"
            )
            raise CacheError(lost, reason) from error
        return {}
    except OSError as error:
        raise cannot("be listed", path, error) from error


def _scan_twice(path: str, inodes: dict[str, int]) -> dict[str, int]:
    for _ in range(LISTING_ATTEMPTS_MAX):
        again = _scan(path)
        # Temporary files come and go all the time, and do not matter.
        if {name for name in again if name[0] != "."} == {name for name in inodes if name[0] != "."}:
            return again
        inodes = again
    raise CacheBusyError(path, f"it changed {LISTING_ATTEMPTS_MAX} times while it was listed; try again")

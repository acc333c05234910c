"""The quarantine: files that were set aside instead of deleted, with the reason, and that can be restored.

A file of a series moves to `.quarantine/<series>/` in the cache, beside a small JSON file that says why and when.
First come tombstones, where older segments would win again (`ckvd.maintenance.tombstones`), then the reason, then
the file. So a file in quarantine always has a reason, and older bars never come back. A file that is restored
leaves the quarantine last, when its tombstones are gone: until then it is listed, and restoring it again goes on
where an error or a kill ended it.
"""

from __future__ import annotations

import contextlib
import errno as errno_codes
import json
import os
import re
import shutil
import stat
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from ckvd.cache import fault_points
from ckvd.cache.fault_points import Step
from ckvd.cache.folder import (
    LOCK_SUFFIX,
    QUARANTINE_FOLDER,
    QUARANTINE_REASON_SUFFIX,
    SegmentName,
    is_there,
    list_names,
    parse_segment_name,
)
from ckvd.cache.locks import SeriesLock
from ckvd.errors import CacheError, IdentityError, SegmentError, cannot, shown, translated
from ckvd.maintenance.tombstones import publish_tombstones, spans_to_hide, withdraw_tombstones
from ckvd.model.market import SeriesKey
from ckvd.model.timespan import now_ms
from ckvd.regular_file import IrregularFileError, irregular_kind, open_regular, read_regular
from ckvd.segment.atomic_file import atomic_write, flush_folder
from ckvd.segment.reader import read_segment_header

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

    from ckvd.cache.folder import CacheFolder

# The key in stored reasons: tombstones were once called stand-ins.
_TOMBSTONES_KEY: Final = "stand_ins"
# Folders between that of the cache and the files of a series.
_SERIES_DEPTH: Final = 4
_REASON_NBYTES_MAX: Final = 1 << 20
_REASON_LENGTH_MAX: Final = 2000
# What reading JSON of an unexpected form raises.
_FOREIGN_ERRORS: Final = (ValueError, LookupError, TypeError, AttributeError, ArithmeticError)
# Where a file cannot have a second name: on a disk without links, on another disk, or because it is a folder.
_ERRNOS_WITHOUT_LINKS: Final = frozenset(
    {errno_codes.EPERM, errno_codes.ENOTSUP, errno_codes.ENOSYS, errno_codes.EMLINK, errno_codes.EXDEV}
)


@dataclass(frozen=True, slots=True)
class Quarantined:
    """A file in quarantine.

    Attributes
    ----------
    path : Path
        The file in quarantine. There is none if only its tombstones are left, which hide what is below them.
    series : SeriesKey
        The series whose folder it was in.
    file_name : str
        Its name there.
    reason : str
    since_ms : int
    nbytes : int
    tombstones : tuple of SegmentName
        Tombstones that were published for it.
    """

    path: Path
    series: SeriesKey
    file_name: str
    reason: str
    since_ms: int
    nbytes: int
    tombstones: tuple[SegmentName, ...] = ()


def quarantine_file(
    folder: CacheFolder,
    series: SeriesKey,
    file_name: str,
    reason: str,
    *,
    condition: Callable[[], bool] = lambda: True,
    returning: Iterable[SegmentName] = (),
    at_ms: int | None = None,
) -> Quarantined | None:
    """Set a file of a series aside.

    If the process dies here, the file is still in place, or its span is due to be fetched. Older bars never win.

    Parameters
    ----------
    folder : CacheFolder
    series : SeriesKey
    file_name, reason : str
    condition : callable
        Called with the series locked: whether to set the file aside after all.
    returning : iterable of SegmentName
        Segments of the series that will be restored later.
    at_ms : int, optional
        The present. From then on the lost span is due to be fetched.

    Returns
    -------
    Quarantined or None
        None where the file is gone, or the condition was false.

    Raises
    ------
    CacheBusyError, CacheError
        The series is locked, or the file cannot be moved.
    """
    source = folder.series_path(series) / file_name
    place = folder.make_path(folder.root / QUARANTINE_FOLDER / str(series))
    since_ms = now_ms()
    with SeriesLock(folder, series) as lock:
        nbytes = _nbytes_of(source)
        if nbytes is None or not condition():
            return None
        tombstones: tuple[SegmentName, ...] = ()
        if (name := parse_segment_name(file_name)) is not None:
            spans = spans_to_hide(name, folder.segments(series), returning)
            tombstones = publish_tombstones(
                folder, series, lock, spans, leaving=name, at_ms=since_ms if at_ms is None else at_ms
            )
        quarantined = Quarantined(
            _unused_path(place, file_name), series, file_name, reason, since_ms, nbytes, tombstones
        )
        if not _move_aside(source, quarantined):
            return None
        fault_points.reach(Step.QUARANTINED)
    return quarantined


def set_aside_misfiled(folder: CacheFolder, series: SeriesKey, source: Path, reason: str) -> Quarantined | None:
    """Set aside a file that lies outside of the folder of its series, where nothing wins in its place.

    The caller holds the lock of the folder that it lies in.

    Parameters
    ----------
    folder : CacheFolder
    series : SeriesKey
        The series that its bars are of.
    source : Path
    reason : str

    Returns
    -------
    Quarantined or None
        None where the file is gone. Errors: see `quarantine_file`.
    """
    place = folder.make_path(folder.root / QUARANTINE_FOLDER / str(series))
    with SeriesLock(folder, series):
        nbytes = _nbytes_of(source)
        if nbytes is None:
            return None
        quarantined = Quarantined(_unused_path(place, source.name), series, source.name, reason, now_ms(), nbytes)
        return quarantined if _move_aside(source, quarantined) else None


def set_aside_lock_file(folder: CacheFolder, series: SeriesKey, reason: str) -> Quarantined | None:
    """Set aside what is in the place of the lock file of a series, and is no file: nobody can lock it.

    Returns
    -------
    Quarantined or None
        None where it is gone or a file by now. Errors: see `quarantine_file`.
    """
    source = folder.lock_path(series)
    place = folder.make_path(folder.root / QUARANTINE_FOLDER / str(series))
    nbytes = _nbytes_of(source)
    if nbytes is None or not irregular_kind(source):
        return None
    quarantined = Quarantined(_unused_path(place, source.name), series, source.name, reason, now_ms(), nbytes)
    return quarantined if _move_aside(source, quarantined) else None


def _nbytes_of(source: Path) -> int | None:
    try:
        return source.lstat().st_size
    except FileNotFoundError:
        return None
    except OSError as error:
        raise cannot("be set aside", source, error) from error


def _move_aside(source: Path, quarantined: Quarantined) -> bool:
    """Write the reason and move the file, durably. False where the file is gone."""
    try:
        _write_reason(quarantined)
        fault_points.reach(Step.REASON_WRITTEN)
        try:
            _move(source, quarantined.path)
        except FileNotFoundError:
            _reason_path(quarantined.path).unlink(missing_ok=True)
            return False
        flush_folder(quarantined.path.parent)
        with contextlib.suppress(FileNotFoundError):  # the folder is gone, and so is the name in it
            flush_folder(source.parent)
    except OSError as error:
        raise cannot("be set aside", source, error) from error
    return True


def _move(source: Path, target: Path) -> None:
    """Rename a file. Where its series is a link to another disk, copy it, whole and durably, and remove it."""
    try:
        source.rename(target)
    except OSError as error:
        if error.errno != errno_codes.EXDEV:
            raise
        if stat.S_ISLNK(source.lstat().st_mode):
            target.symlink_to(source.readlink())
        else:
            descriptor, _ = open_regular(source)
            with os.fdopen(descriptor, "rb") as content, atomic_write(target) as copy:
                shutil.copyfileobj(content, copy)
        source.unlink()


def list_quarantine(folder: CacheFolder) -> list[Quarantined]:
    """All files in quarantine, in order of series and name. Raises CacheError if the folder cannot be read."""
    found = [_read(folder, path) for path in list_series_files(folder.root / QUARANTINE_FOLDER)]
    return [quarantined for quarantined in found if quarantined is not None]


def list_series_files(root: Path) -> list[Path]:
    """The paths of all names in the folders of series below a folder. Raises CacheError if one cannot be listed."""
    places = [root]
    for _ in range(_SERIES_DEPTH):
        places = [place / name for place in places for name in list_names(place)]
    return [place / name for place in places for name in list_names(place)]


def restore(folder: CacheFolder, quarantined: Quarantined, file_name: str | None = None) -> Path:
    """Move a file back to its series. Under its old name it wins again where it won before.

    Parameters
    ----------
    folder : CacheFolder
    quarantined : Quarantined
    file_name : str, optional
        A new name; by default the old one.

    Returns
    -------
    Path
        The file.

    Raises
    ------
    CacheError
        Another file has the name now, the file cannot be moved, or its header names no series that can be read.
    """
    if quarantined.file_name.endswith(LOCK_SUFFIX):
        reason = "stood in the place of a lock file, and nothing needs it; ckvd cache prune --quarantine removes it"
        raise CacheError(str(quarantined.path), reason)
    _require_readable_name(quarantined)
    target = folder.series_path(quarantined.series) / (file_name or quarantined.file_name)
    with SeriesLock(folder, quarantined.series):
        # Made with the series locked: pruning removes empty folders.
        path = folder.make_series_path(quarantined.series)
        is_gone = not is_there(quarantined.path)
        is_back = is_gone or _is_same(target, quarantined.path)
        if is_there(target) and not is_back:
            raise CacheError(str(target), "is there already, and a segment is never overwritten")
        with translated("be restored", quarantined.path):
            if not is_back:
                _put_beside(quarantined.path, target)
            flush_folder(path)
        fault_points.reach(Step.RESTORED)
        if target.name == quarantined.file_name:
            _settle(folder, quarantined)
    return target


def settle(folder: CacheFolder, quarantined: Quarantined, place: Path) -> None:
    """Let a file leave the quarantine that was restored to a place under another name, with its tombstones.

    Tombstones stay where older segments would win; the file stays listed with them. Nothing is done unless the file
    is in that place.

    Raises
    ------
    CacheBusyError, CacheError
        The series is locked, or a file cannot be removed.
    """
    with SeriesLock(folder, quarantined.series):
        if not is_there(quarantined.path) or _is_same(place, quarantined.path):
            _settle(folder, quarantined)


def _settle(folder: CacheFolder, quarantined: Quarantined) -> None:
    """`settle`, with the series locked and the file where it belongs."""
    name = parse_segment_name(quarantined.file_name)
    if name is not None:
        withdraw_tombstones(folder, quarantined.series, name, quarantined.tombstones)
    if not _has_tombstones(folder, quarantined.series, quarantined.tombstones):
        discard(quarantined)


def _has_tombstones(folder: CacheFolder, series: SeriesKey, tombstones: Iterable[SegmentName]) -> bool:
    segments = folder.segments(series)
    return any(name in segments for name in tombstones)


def _is_same(path: Path, other: Path) -> bool:
    """Whether two paths are names of one file. Raises CacheError if the system does not say."""
    with translated("be read", other):
        try:
            return path.samefile(other)
        except (FileNotFoundError, NotADirectoryError):
            return False


def _put_beside(source: Path, target: Path) -> None:
    """Give a file a second name, so that it stays in quarantine until its tombstones are gone.

    Below tombstones, packing would remove it. File systems without links move it.
    """
    try:
        target.hardlink_to(source)
    except OSError as error:
        if error.errno not in _ERRNOS_WITHOUT_LINKS:
            raise
        _move(source, target)


def _require_readable_name(quarantined: Quarantined) -> None:
    """Refuse a file whose bars were moved to the series of their right name: it would hide them."""
    try:
        header = read_segment_header(quarantined.path)
        is_right, found = header.is_of(quarantined.series), header.series_text
    except (FileNotFoundError, SegmentError):
        return  # damaged: it goes back as it is
    if is_right:
        return
    try:
        _ = header.series
    except SegmentError as error:
        refusal = error.__cause__
        if isinstance(refusal, IdentityError):
            reason = f"it was filed as {found}, and {quarantined.series} has its bars now ({refusal})"
            raise CacheError(str(quarantined.path), f"cannot be restored: {reason}") from None


def discard(quarantined: Quarantined) -> None:
    """Delete a file in quarantine for good. Raises CacheError if that is impossible."""
    try:
        with contextlib.suppress(FileNotFoundError):
            if stat.S_ISDIR(quarantined.path.lstat().st_mode):
                shutil.rmtree(quarantined.path)  # a folder that had the name of a segment
            else:
                quarantined.path.unlink()
        _reason_path(quarantined.path).unlink(missing_ok=True)
    except OSError as error:
        raise cannot("be deleted", quarantined.path, error) from error


def _reason_path(path: Path) -> Path:
    return path.with_name(path.name + QUARANTINE_REASON_SUFFIX)


def _unused_path(place: Path, file_name: str) -> Path:
    """A path that no file in quarantine has: with the file's own name, or with a number after it."""
    number = 1
    target = place / file_name
    while is_there(target):
        number += 1
        target = place / f"{file_name}.{number}"
    return target


def _write_reason(quarantined: Quarantined) -> None:
    document = {
        "file_name": quarantined.file_name,
        "reason": quarantined.reason,
        "since_ms": quarantined.since_ms,
        _TOMBSTONES_KEY: [name.file_name for name in quarantined.tombstones],
    }
    with atomic_write(_reason_path(quarantined.path)) as file:
        file.write((json.dumps(document, ensure_ascii=False) + "\n").encode())


def _read(folder: CacheFolder, reason_path: Path) -> Quarantined | None:
    if not reason_path.name.endswith(QUARANTINE_REASON_SUFFIX):
        return None
    path = reason_path.with_name(reason_path.name.removesuffix(QUARANTINE_REASON_SUFFIX))
    market, kind, symbol, interval = path.parts[-5:-1]
    with translated("be read", reason_path):
        try:
            series = SeriesKey.of_older(symbol, interval, market=market, kind=kind)
            document = json.loads(read_regular(reason_path, _REASON_NBYTES_MAX))
            named = (parse_segment_name(file_name) for file_name in document.get(_TOMBSTONES_KEY, ()))
            tombstones = tuple(name for name in named if name is not None)
            file_name = document["file_name"]
            # Restoring a file under a name that leads elsewhere would write outside of the cache.
            if not re.fullmatch(re.escape(file_name) + r"(\.\d+)?", path.name):
                return None
            nbytes = 0
            if is_there(path) or not _has_tombstones(folder, series, tombstones):
                nbytes = path.lstat().st_size
            reason = shown(document["reason"], _REASON_LENGTH_MAX)
            return Quarantined(path, series, file_name, reason, int(document["since_ms"]), nbytes, tombstones)
        except (FileNotFoundError, IrregularFileError, RecursionError, *_FOREIGN_ERRORS):
            return None  # a process died between the reason and the file, or ckvd did not write the reason

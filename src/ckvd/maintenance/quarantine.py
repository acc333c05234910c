"""Setting files aside instead of deleting them, with the reason, so that they can be looked at and restored.

A file of a series goes to `.quarantine/<series>/` in the cache, beside a small JSON file that says why and when.
The reason is written first: a file in quarantine always has one.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from ckvd.cache import fault_points
from ckvd.cache.fault_points import Step
from ckvd.cache.series_lock import SeriesLock
from ckvd.errors import CacheError, cannot
from ckvd.market import SeriesKey
from ckvd.segment.unpublished_file import flush_folder
from ckvd.timespan import now_ms

if TYPE_CHECKING:
    from pathlib import Path

    from ckvd.cache.folder import CacheFolder

QUARANTINE_FOLDER: Final = ".quarantine"
_REASON_SUFFIX: Final = ".json"


@dataclass(frozen=True, slots=True)
class Quarantined:
    """A file that was set aside.

    Attributes
    ----------
    path : Path
        Where it lies.
    series : SeriesKey
        Whose folder it was in.
    file_name : str
        What it was called there.
    reason : str
        Why.
    since_ms : int
    nbytes : int
    """

    path: Path
    series: SeriesKey
    file_name: str
    reason: str
    since_ms: int
    nbytes: int


def quarantine_file(folder: CacheFolder, series: SeriesKey, file_name: str, reason: str) -> Quarantined | None:
    """Set a file of a series aside; None where it is gone already.

    Raises
    ------
    CacheBusyError, CacheError
        The series is locked, or the file cannot be moved.
    """
    source = folder.series_path(series) / file_name
    place = folder.make_path(folder.root / QUARANTINE_FOLDER / str(series))
    since_ms = now_ms()
    with SeriesLock(folder, series):
        target = _free_path(place, file_name)
        try:
            nbytes = source.stat().st_size
            _write_reason(target, {"file_name": file_name, "reason": reason, "since_ms": since_ms})
            fault_points.reach(Step.REASON_WRITTEN)
            source.rename(target)
            flush_folder(place)
            flush_folder(source.parent)
        except FileNotFoundError:
            _reason_path(target).unlink(missing_ok=True)
            return None
        except OSError as error:
            raise cannot("be set aside", source, error) from error
        fault_points.reach(Step.QUARANTINED)
    return Quarantined(target, series, file_name, reason, since_ms, nbytes)


def list_quarantine(folder: CacheFolder) -> list[Quarantined]:
    """All files that were set aside, in order.

    Raises
    ------
    CacheError
        The folder cannot be read.
    """
    root = folder.root / QUARANTINE_FOLDER
    try:
        reasons = sorted(root.glob(f"*/*/*/*/*{_REASON_SUFFIX}"))
        found = [_read(path.with_name(path.name.removesuffix(_REASON_SUFFIX)), path) for path in reasons]
    except OSError as error:
        raise cannot("be read", root, error) from error
    return [quarantined for quarantined in found if quarantined is not None]


def restore(folder: CacheFolder, quarantined: Quarantined, file_name: str | None = None) -> Path:
    """Put a file back where it was, or under another name.

    Parameters
    ----------
    folder : CacheFolder
    quarantined : Quarantined
    file_name : str, optional
        Its new name; by default the one that it had.

    Returns
    -------
    Path
        The file.

    Raises
    ------
    CacheError
        Another file has the name by now, or it cannot be moved.
    """
    target = folder.series_path(quarantined.series) / (file_name or quarantined.file_name)
    with SeriesLock(folder, quarantined.series):
        # With the lock held, so that a folder which is still empty is not pruned away.
        path = folder.make_series_path(quarantined.series)
        if target.exists():
            raise CacheError(str(target), "is there already, and a segment is never overwritten")
        try:
            quarantined.path.rename(target)
            flush_folder(path)
            _reason_path(quarantined.path).unlink(missing_ok=True)
        except OSError as error:
            raise cannot("be restored", quarantined.path, error) from error
        fault_points.reach(Step.RESTORED)
    return target


def discard(quarantined: Quarantined) -> None:
    """Delete a file that was set aside, for good.

    Raises
    ------
    CacheError
        It cannot be deleted.
    """
    try:
        quarantined.path.unlink(missing_ok=True)
        _reason_path(quarantined.path).unlink(missing_ok=True)
    except OSError as error:
        raise cannot("be deleted", quarantined.path, error) from error


def _reason_path(path: Path) -> Path:
    return path.with_name(path.name + _REASON_SUFFIX)


def _free_path(place: Path, file_name: str) -> Path:
    """A name that no file in quarantine has: the file's own, or that and a number."""
    number = 1
    target = place / file_name
    while target.exists():
        number += 1
        target = place / f"{file_name}.{number}"
    return target


def _write_reason(target: Path, record: dict[str, Any]) -> None:
    _reason_path(target).write_text(json.dumps(record, ensure_ascii=False) + "\n", encoding="utf-8")


def _read(path: Path, reason_path: Path) -> Quarantined | None:
    market, kind, symbol, interval = path.parts[-5:-1]
    try:
        series = SeriesKey.of(symbol, interval, market=market, kind=kind)
        record = json.loads(reason_path.read_text(encoding="utf-8"))
        return Quarantined(
            path, series, record["file_name"], record["reason"], int(record["since_ms"]), path.stat().st_size
        )
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return None  # a process died between the reason and the file, or the reason is somebody else's file

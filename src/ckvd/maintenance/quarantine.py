"""Setting files aside instead of deleting them, with the reason, so that they can be looked at and restored.

A file of a series goes to `.quarantine/<series>/` in the cache, beside a small JSON file that says why and when.
The reason is written first: a file in quarantine always has one. Where older segments would speak in place of the
file, it is said before that nothing is known there (`ckvd.maintenance.stand_ins`).
"""

from __future__ import annotations

import contextlib
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ckvd.cache import fault_points
from ckvd.cache.fault_points import Step
from ckvd.cache.folder import QUARANTINE_FOLDER, QUARANTINE_REASON_SUFFIX, SegmentName, parse_segment_name
from ckvd.cache.locks import SeriesLock
from ckvd.errors import CacheError, cannot
from ckvd.maintenance.stand_ins import publish_stand_ins, spans_to_stand_in_for, withdraw_stand_ins
from ckvd.model.market import SeriesKey
from ckvd.model.timespan import now_ms
from ckvd.segment.atomic_file import flush_folder

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

    from ckvd.cache.folder import CacheFolder


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
    stand_ins : tuple of SegmentName
        What was published so that nothing older speaks in its place.
    """

    path: Path
    series: SeriesKey
    file_name: str
    reason: str
    since_ms: int
    nbytes: int
    stand_ins: tuple[SegmentName, ...] = ()


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

    A process that dies meanwhile leaves the file where it is, or its time to be asked for: never older bars.

    Parameters
    ----------
    folder : CacheFolder
    series : SeriesKey
    file_name, reason : str
    condition : callable
        Asked, while the series is locked, whether the file should still be set aside.
    returning : iterable of SegmentName
        Segments of the series that will be restored later.
    at_ms : int, optional
        The present: from then on, what was lost is to be asked for.

    Returns
    -------
    Quarantined or None
        None where the file is gone already, or the condition did not hold.

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
        stand_ins: tuple[SegmentName, ...] = ()
        if (name := parse_segment_name(file_name)) is not None:
            spans = spans_to_stand_in_for(name, folder.segments(series), returning)
            stand_ins = publish_stand_ins(folder, series, lock, spans, at_ms=since_ms if at_ms is None else at_ms)
        quarantined = Quarantined(
            _free_path(place, file_name), series, file_name, reason, since_ms, nbytes, stand_ins
        )
        if not _move_aside(source, quarantined):
            return None
        fault_points.reach(Step.QUARANTINED)
    return quarantined


def _nbytes_of(source: Path) -> int | None:
    try:
        return source.stat().st_size
    except FileNotFoundError:
        return None
    except OSError as error:
        raise cannot("be set aside", source, error) from error


def _move_aside(source: Path, quarantined: Quarantined) -> bool:
    """Write the reason, move the file and make that durable; false where the file is gone."""
    try:
        _write_reason(quarantined)
        fault_points.reach(Step.REASON_WRITTEN)
        try:
            source.rename(quarantined.path)
        except FileNotFoundError:
            _reason_path(quarantined.path).unlink(missing_ok=True)
            return False
        flush_folder(quarantined.path.parent)
        with contextlib.suppress(FileNotFoundError):  # with the folder, the name in it has gone for good
            flush_folder(source.parent)
    except OSError as error:
        raise cannot("be set aside", source, error) from error
    return True


def list_quarantine(folder: CacheFolder) -> list[Quarantined]:
    """All files that were set aside, in order.

    Raises
    ------
    CacheError
        The folder cannot be read.
    """
    root = folder.root / QUARANTINE_FOLDER
    try:
        reasons = sorted(root.glob(f"*/*/*/*/*{QUARANTINE_REASON_SUFFIX}"))
        found = [_read(path.with_name(path.name.removesuffix(QUARANTINE_REASON_SUFFIX)), path) for path in reasons]
    except OSError as error:
        raise cannot("be read", root, error) from error
    return [quarantined for quarantined in found if quarantined is not None]


def restore(folder: CacheFolder, quarantined: Quarantined, file_name: str | None = None) -> Path:
    """Put a file back where it was, or under another name. Where it was, it speaks again for what it spoke for.

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
        name = parse_segment_name(quarantined.file_name)
        if name is not None and target.name == quarantined.file_name:
            withdraw_stand_ins(folder, quarantined.series, name, quarantined.stand_ins)
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
    return path.with_name(path.name + QUARANTINE_REASON_SUFFIX)


def _free_path(place: Path, file_name: str) -> Path:
    """A name that no file in quarantine has: the file's own, or that and a number."""
    number = 1
    target = place / file_name
    while target.exists():
        number += 1
        target = place / f"{file_name}.{number}"
    return target


def _write_reason(quarantined: Quarantined) -> None:
    record = {
        "file_name": quarantined.file_name,
        "reason": quarantined.reason,
        "since_ms": quarantined.since_ms,
        "stand_ins": [name.file_name for name in quarantined.stand_ins],
    }
    content = json.dumps(record, ensure_ascii=False) + "\n"
    _reason_path(quarantined.path).write_text(content, encoding="utf-8")


def _read(path: Path, reason_path: Path) -> Quarantined | None:
    market, kind, symbol, interval = path.parts[-5:-1]
    try:
        series = SeriesKey.of(symbol, interval, market=market, kind=kind)
        record = json.loads(reason_path.read_text(encoding="utf-8"))
        stand_ins = (parse_segment_name(file_name) for file_name in record.get("stand_ins", ()))
        return Quarantined(
            path,
            series,
            record["file_name"],
            record["reason"],
            int(record["since_ms"]),
            path.stat().st_size,
            tuple(name for name in stand_ins if name is not None),
        )
    except (FileNotFoundError, ValueError, KeyError, TypeError, AttributeError):
        return None  # a process died between the reason and the file, or the reason is somebody else's file

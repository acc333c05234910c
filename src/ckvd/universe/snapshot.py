"""`Snapshot`: the lives of a market as they were known at one time, in an immutable file.

A file is one line, `ckvd universe, version 1, SHA-256 <hash>`, and a JSON document, whose bytes the hash is of. Its
name has the time and the beginning of the hash: `20260822T033815Z-1f2e3d4c5b6a7988.universe`. So the newest before
some time is found without opening any, and a file that was changed is refused.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from dataclasses import dataclass, fields
from functools import cached_property
from typing import TYPE_CHECKING, Any, Final

from ckvd.cache import fault_points
from ckvd.cache.fault_points import Step
from ckvd.cache.folder import UNIVERSE_FOLDER, UNIVERSE_SUFFIX, list_names
from ckvd.errors import NoSnapshotError, SnapshotError, cannot, shown, translated
from ckvd.model.life import EndReason, EndSource, FirstSource, Life
from ckvd.model.market import ContractType, Market
from ckvd.model.record import Record, as_json, fields_as_json
from ckvd.model.timespan import compact_time, format_time, parse_compact_time
from ckvd.regular_file import open_regular
from ckvd.segment.atomic_file import atomic_write, remove_abandoned
from ckvd.utils.config import SNAPSHOT_NBYTES_MAX, SNAPSHOTS_KEPT_MAX

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from ckvd.cache.folder import CacheFolder

_TITLE: Final = b"ckvd universe, version 1, SHA-256 "
_HEX_DIGITS: Final = 64
_NAME_DIGITS: Final = 16
_NAME: Final = re.compile(rf"(\d{{8}}T\d{{6}}Z)-([0-9a-f]{{{_NAME_DIGITS}}})\{UNIVERSE_SUFFIX}", re.ASCII)
# Snapshots that were read, by path, inode, size and time of change.
_kept: Final[dict[tuple[str, int, int, int], Snapshot]] = {}
_ENUMS: Final[Mapping[str, type]] = {
    "market": Market,
    "contract": ContractType,
    "first_source": FirstSource,
    "end_reason": EndReason,
    "end_source": EndSource,
}


@dataclass(frozen=True)
class Snapshot(Record):
    """The lives of a market as they were known at one time.

    Attributes
    ----------
    market : Market
    made_ms : int
        When it was made, on a whole second, milliseconds.
    lives : tuple of Life
        In order of ticker and time.
    listing : str
        The source of archives that was listed.
    exchange_info : str
        The address that gave the list of symbols; empty if it was unavailable.
    unavailable : str
        Why there was no list of symbols; empty if there was one.
    notes : tuple of str
        What else was noticed, such as names that no series can have.
    """

    market: Market
    made_ms: int
    lives: tuple[Life, ...]
    listing: str = ""
    exchange_info: str = ""
    unavailable: str = ""
    notes: tuple[str, ...] = ()

    @cached_property
    def name(self) -> str:
        """The name of its file."""
        return _name_of(self.made_ms, _hash(_document_of(self)))

    def __str__(self) -> str:
        return f"{self.market} at {format_time(self.made_ms)}"


# --- Bytes -------------------------------------------------------------------------------------------------


def encode_snapshot(snapshot: Snapshot) -> bytes:
    """The bytes of its file. Equal snapshots have equal bytes."""
    document = _document_of(snapshot)
    return _TITLE + _hash(document).encode() + b"\n" + document


def _document_of(snapshot: Snapshot) -> bytes:
    document = {
        field.name: as_json(getattr(snapshot, field.name)) for field in fields(snapshot) if field.name != "lives"
    }
    document["lives"] = [
        {name: value for name, value in fields_as_json(life).items() if value != _DEFAULTS.get(name, _NEVER)}
        for life in snapshot.lives
    ]
    return json.dumps(document, ensure_ascii=False, separators=(",", ":")).encode()


_NEVER: Final = object()
_DEFAULTS: Final[dict[str, Any]] = {
    # A tuple is a list in JSON.
    field.name: [] if field.default == () else field.default
    for field in fields(Life)
    if field.name not in ("market", "ticker", "first_ms", "symbol", "base", "quote", "contract")
}


def _hash(document: bytes) -> str:
    return hashlib.sha256(document).hexdigest()


def decode_snapshot(content: bytes, where: str) -> Snapshot:
    """The inverse of `encode_snapshot`.

    Raises
    ------
    SnapshotError
        The content is no snapshot, or was changed.
    """
    head, _, document = content.partition(b"\n")
    if not head.startswith(_TITLE) or len(head) != len(_TITLE) + _HEX_DIGITS:
        raise _refused(where, f"expected a snapshot of version 1, found {shown(head, 80)!r}")
    expected = head[len(_TITLE) :].decode("ascii", "replace")
    if (found := _hash(document)) != expected:
        raise _refused(where, f"it says SHA-256 {shown(expected)}, its bytes hash to {found}")
    try:
        return _snapshot_of(json.loads(document))
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise _refused(where, f"its document is none of a snapshot: {shown(error)}") from error


def _refused(where: str, reason: str) -> SnapshotError:
    return SnapshotError(where, f"{reason}; remove the file, and make a new one (ckvd universe refresh)")


def _snapshot_of(document: dict[str, Any]) -> Snapshot:
    lives = tuple(_life_of(record) for record in document.pop("lives"))
    notes = tuple(document.pop("notes"))
    return Snapshot(market=Market(document.pop("market")), lives=lives, notes=notes, **document)


def _life_of(record: dict[str, Any]) -> Life:
    for name, kind in _ENUMS.items():
        if record.get(name) is not None:
            record[name] = kind(record[name])
    if "permissions" in record:
        record["permissions"] = tuple(record["permissions"])
    return Life(**record)


# --- Files -------------------------------------------------------------------------------------------------


def snapshots_path(folder: CacheFolder, market: Market) -> Path:
    """The folder of the snapshots of a market."""
    return folder.root / UNIVERSE_FOLDER / market


def _name_of(made_ms: int, sha256: str) -> str:
    return f"{compact_time(made_ms)}-{sha256[:_NAME_DIGITS]}{UNIVERSE_SUFFIX}"


def _made_ms(name: str) -> int | None:
    """When the snapshot of a file was made, by its name; None for any other file."""
    match = _NAME.fullmatch(name)
    if match is None:
        return None
    try:
        return parse_compact_time(match[1])
    except ValueError:
        return None


def list_snapshots(folder: CacheFolder, market: Market) -> list[str]:
    """The names of the snapshots of a market, the oldest first. Raises CacheError if it cannot be listed."""
    return [name for name in list_names(snapshots_path(folder, market)) if _made_ms(name) is not None]


def write_snapshot(folder: CacheFolder, snapshot: Snapshot) -> Path:
    """Store a snapshot, whole and durable, and return its file.

    Raises
    ------
    CacheError
        It cannot be written.
    """
    content = encode_snapshot(snapshot)
    path = folder.make_path(snapshots_path(folder, snapshot.market)) / snapshot.name
    remove_abandoned(path.parent, lambda name: _made_ms(name) is not None)
    try:
        with atomic_write(path) as file:
            file.write(content)
    except OSError as error:
        raise cannot("be written", path, error) from error
    fault_points.reach(Step.SNAPSHOT_WRITTEN)
    return path


def newest_snapshot(folder: CacheFolder, market: Market, as_of_ms: int | None = None) -> Snapshot | None:
    """The newest snapshot of a market, or the newest made at or before a time; None if there is none.

    Raises
    ------
    SnapshotError
        It is damaged.
    CacheError
        It cannot be read.
    """
    names = list_snapshots(folder, market)
    for name in reversed(names):
        made_ms = _made_ms(name)
        if as_of_ms is None or (made_ms is not None and made_ms <= as_of_ms):
            return read_snapshot(folder, market, name)
    return None


def oldest_snapshot_ms(folder: CacheFolder, market: Market) -> int | None:
    """When the first snapshot of a market in a cache was made; None if there is none. Errors: `list_snapshots`."""
    names = list_snapshots(folder, market)
    return _made_ms(names[0]) if names else None


def find_snapshot(folder: CacheFolder, market: Market, as_of_ms: int | None = None) -> Snapshot:
    """`newest_snapshot`, which has to be there.

    Raises
    ------
    NoSnapshotError
        There is none. The error says how to make one.
    SnapshotError, CacheError
        See `newest_snapshot`.
    """
    snapshot = newest_snapshot(folder, market, as_of_ms)
    if snapshot is not None:
        return snapshot
    names = list_snapshots(folder, market)
    remedy = f"make one: ckvd universe refresh --market {market}"
    if names:
        first_ms = _made_ms(names[0])
        remedy = f"the oldest was made at {format_time(first_ms or 0)}; ask without as_of, or for a later time"
    when = "" if as_of_ms is None else f" made at or before {format_time(as_of_ms)}"
    raise NoSnapshotError(f"the cache {folder.root} has no snapshot of the universe of {market}{when}: {remedy}")


def read_snapshot(folder: CacheFolder, market: Market, name: str) -> Snapshot:
    """Read a snapshot by the name of its file.

    A process keeps the latest ones parsed, as long as their files are unchanged.

    Raises
    ------
    NoSnapshotError
        There is no such file.
    SnapshotError
        It is damaged, or that of another market or time.
    CacheError
        It cannot be read.
    """
    path = snapshots_path(folder, market) / name
    try:
        descriptor, status = open_regular(path)
    except FileNotFoundError:
        raise NoSnapshotError(f"{path}: there is no such snapshot of the universe of {market}") from None
    except OSError as error:
        raise cannot("be read", path, error) from error
    with os.fdopen(descriptor, "rb") as file:
        identity = (str(path), status.st_ino, status.st_size, status.st_mtime_ns)
        snapshot = _kept.get(identity)
        if snapshot is not None:
            return snapshot
        if status.st_size > SNAPSHOT_NBYTES_MAX:
            raise _refused(str(path), f"expected at most {SNAPSHOT_NBYTES_MAX} bytes, found {status.st_size}")
        with translated("be read", path):
            content = file.read(SNAPSHOT_NBYTES_MAX)
    snapshot = decode_snapshot(content, str(path))
    expected = _name_of(snapshot.made_ms, content[len(_TITLE) :][:_HEX_DIGITS].decode())
    if snapshot.market is not market or name != expected:
        raise _refused(str(path), f"it is the snapshot {expected} of market {snapshot.market}")
    while len(_kept) >= SNAPSHOTS_KEPT_MAX:
        _kept.pop(next(iter(_kept)), None)
    _kept[identity] = snapshot
    return snapshot

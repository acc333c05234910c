"""What a program tells the disk, in order, and what a power cut may leave of it.

`recorded` notes each flush, rename, link, removal and new folder below a folder. `states` then plays them on a disk
that keeps no more than it must:

- The content of a file survives as it was when the file was last flushed. A file that was never flushed is empty.
- A name that appeared or vanished since its folder was last flushed may survive or not, each by itself.
- A file that was moved to another folder is in one of them at least.
"""

from __future__ import annotations

import contextlib
import fcntl
import itertools
import os
import random
import stat
import sys
import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal, TypeAlias
from unittest import mock

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

Kind: TypeAlias = Literal["flush file", "flush folder", "rename", "link", "remove", "make folder", "remove folder"]
Files: TypeAlias = "dict[str, bytes]"
"""The files that a disk has, by their path below the folder."""

# Of so many unsettled names, all combinations are tried.
_ALL_COMBINATIONS_MAX: Final = 6
_SOME_COMBINATIONS: Final = 24


@dataclass(frozen=True, slots=True)
class Operation:
    """One step, with paths below the folder. The content is that of the file at this moment."""

    kind: Kind
    path: str
    target: str = ""
    content: bytes = b""


# --- Recording ---------------------------------------------------------------------------------------------


@contextlib.contextmanager
def recorded(folder: Path) -> Iterator[list[Operation]]:
    """Note what this process does below a folder, while it is done."""
    recorder = _Recorder(str(folder))
    with contextlib.ExitStack() as stack:
        for name in ("fsync", "rename", "replace", "link", "unlink", "remove", "mkdir", "rmdir"):
            stack.enter_context(mock.patch.object(os, name, recorder.wrap(name, getattr(os, name))))
        yield recorder.operations


class _Recorder:
    def __init__(self, root: str) -> None:
        self._root = root
        # One step at a time, so that the order in which they are noted is that in which they are done.
        self._lock = threading.RLock()
        self.operations: list[Operation] = []

    def wrap(self, name: str, genuine: Callable[..., Any]) -> Callable[..., Any]:
        note = getattr(self, f"_{name}", self._other)

        def call(*arguments: Any, **options: Any) -> Any:
            with self._lock:
                described = note(name, *arguments, **options)
                result = genuine(*arguments, **options)
                if described is not None:
                    self.operations.append(described)
                return result

        return call

    def _below(self, path: Any, dir_fd: int | None = None) -> str | None:
        place = os.path.join(path_of(dir_fd) if dir_fd is not None else "", os.fspath(path))  # noqa: PTH118
        if place == self._root:
            return "."
        return place.removeprefix(self._root + "/") if place.startswith(self._root + "/") else None

    def _fsync(self, _name: str, descriptor: int) -> Operation | None:
        path = path_of(descriptor)
        below = self._below(path)
        if below is None:
            return None
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            return Operation("flush folder", below)
        return Operation("flush file", below, content=Path(path).read_bytes())

    def _link(self, _name: str, source: Any, target: Any, **_options: Any) -> Operation | None:
        below, new = self._below(source), self._below(target)
        return None if below is None or new is None else Operation("link", below, new)

    def _rename(self, _name: str, source: Any, target: Any) -> Operation | None:
        below, new = self._below(source), self._below(target)
        if below is None or new is None:
            return None
        content = Path(source).read_bytes() if Path(source).is_file() else b""
        return Operation("rename", below, new, content)

    _replace = _rename

    def _other(self, name: str, path: Any, *_: Any, dir_fd: int | None = None) -> Operation | None:
        kinds: dict[str, Kind] = {"mkdir": "make folder", "rmdir": "remove folder"}
        below = self._below(path, dir_fd)
        return None if below is None else Operation(kinds.get(name, "remove"), below)


def path_of(descriptor: int) -> str:
    """The path of an open file."""
    if sys.platform == "darwin":
        return fcntl.fcntl(descriptor, fcntl.F_GETPATH, bytes(1024)).rstrip(b"\0").decode()
    return os.readlink(f"/proc/self/fd/{descriptor}")  # noqa: PTH115


# --- A disk that keeps no more than it must ----------------------------------------------------------------


@dataclass(eq=False, slots=True)
class _File:
    """A file: its content, and what of it is on the disk."""

    content: bytes = b""
    flushed: bytes = b""


@dataclass(eq=False, slots=True)
class _Change:
    """A name that appeared or vanished, and may not be on the disk yet."""

    folder: str
    name: str
    entry: _File | None  # None: the name vanished; an entry of a folder has no content
    # Of a file that was moved away: the change by which it appeared elsewhere.
    arrival: _Change | None = None


@dataclass
class _Disk:
    # By folder, the names that are on the disk for certain.
    settled: dict[str, dict[str, _File]] = field(default_factory=dict)
    pending: list[_Change] = field(default_factory=list)
    # What a program sees.
    names: dict[str, _File] = field(default_factory=dict)

    @classmethod
    def of(cls, files: Files, folders: Sequence[str]) -> _Disk:
        disk = cls()
        for path in folders:
            disk.names[path] = _File()
            disk.settled.setdefault(_parent(path), {})[_name(path)] = disk.names[path]
        for path, content in files.items():
            disk.names[path] = _File(content, content)
            disk.settled.setdefault(_parent(path), {})[_name(path)] = disk.names[path]
        return disk

    def _change(self, path: str, entry: _File | None, arrival: _Change | None = None) -> _Change:
        change = _Change(_parent(path), _name(path), entry, arrival)
        self.pending.append(change)
        if entry is None:
            self.names.pop(path, None)
        else:
            self.names[path] = entry
        return change

    def do(self, operation: Operation) -> None:
        path = operation.path
        match operation.kind:
            case "flush file":
                # A name of a file that is being written is no matter of this disk until the file is renamed.
                file = self.names.setdefault(path, _File())
                file.content = file.flushed = operation.content
            case "flush folder":
                for change in [one for one in self.pending if one.folder == path]:
                    self._settle(change)
            case "rename":
                file = self.names.setdefault(path, _File())
                file.content = operation.content
                if file.flushed != operation.content:
                    file.flushed = b""
                arrival = self._change(operation.target, file)
                if _name(path) in self.settled.get(_parent(path), {}) or self._is_pending(path):
                    self._change(path, None, arrival)
                else:
                    self.names.pop(path, None)
            case "link":
                self._change(operation.target, self.names[path])
            case "remove" | "remove folder":
                if path in self.names:
                    self._change(path, None)
            case "make folder":
                self._change(path, _File())

    def _is_pending(self, path: str) -> bool:
        return any((one.folder, one.name) == (_parent(path), _name(path)) for one in self.pending)

    def _settle(self, change: _Change) -> None:
        self.pending.remove(change)
        _apply(self.settled, change)

    def after_a_cut(self, survives: Sequence[bool]) -> Files:
        """The files that are there if some of the pending changes survived."""
        entries = {folder: dict(names) for folder, names in self.settled.items()}
        surviving = [change for change, is_kept in zip(self.pending, survives, strict=True) if is_kept]
        for change in surviving:
            is_nowhere = change.arrival is not None and change.arrival in self.pending
            if not (is_nowhere and change.arrival not in surviving):
                _apply(entries, change)
        return dict(_walk(entries, "."))

    def states(self, chance: random.Random) -> Iterator[Files]:
        count = len(self.pending)
        if count <= _ALL_COMBINATIONS_MAX:
            yield from map(self.after_a_cut, itertools.product((False, True), repeat=count))
            return
        is_new = [change.entry is not None for change in self.pending]
        for survives in ([True] * count, [False] * count, is_new, [not one for one in is_new]):
            yield self.after_a_cut(survives)
        for _ in range(_SOME_COMBINATIONS):
            share = chance.random()
            yield self.after_a_cut([chance.random() < share for _ in range(count)])


def _apply(entries: dict[str, dict[str, _File]], change: _Change) -> None:
    names = entries.setdefault(change.folder, {})
    if change.entry is None:
        names.pop(change.name, None)
    else:
        names[change.name] = change.entry


def _walk(entries: dict[str, dict[str, _File]], folder: str) -> Iterator[tuple[str, bytes]]:
    for name, entry in entries.get(folder, {}).items():
        path = name if folder == "." else f"{folder}/{name}"
        if path in entries:
            yield from _walk(entries, path)
        elif "." in name[1:]:  # a folder without anything in it is no file
            yield path, entry.flushed


def _parent(path: str) -> str:
    return path.rpartition("/")[0] or "."


def _name(path: str) -> str:
    return path.rpartition("/")[2]


def files_of(folder: Path) -> tuple[Files, list[str]]:
    """The files below a folder with their content, and the folders."""
    paths = sorted(folder.rglob("*"))
    files = {str(path.relative_to(folder)): path.read_bytes() for path in paths if path.is_file()}
    return files, [str(path.relative_to(folder)) for path in paths if path.is_dir()]


def states(before: tuple[Files, list[str]], operations: Sequence[Operation]) -> Iterator[tuple[int, Files]]:
    """What a power cut may leave after each number of operations; 0 is before the first."""
    disk = _Disk.of(*before)
    chance = random.Random(0)
    yield 0, disk.after_a_cut(())
    for number, operation in enumerate(operations, 1):
        disk.do(operation)
        for state in disk.states(chance):
            yield number, state


def unsettled(operations: Sequence[Operation]) -> set[str]:
    """The names that appeared in folders which were not flushed since."""
    waiting: set[str] = set()
    for operation in operations:
        if operation.kind in ("rename", "link"):
            waiting.add(operation.target)
        elif operation.kind == "flush folder":
            waiting = {path for path in waiting if _parent(path) != operation.path}
    return waiting


def moves_to_quarantine(operations: Sequence[Operation]) -> list[int]:
    """The places of the operations that set a segment aside."""
    return [
        number
        for number, operation in enumerate(operations)
        if operation.kind == "rename" and "/.quarantine/" in operation.target and operation.path.endswith(".ckvd")
    ]

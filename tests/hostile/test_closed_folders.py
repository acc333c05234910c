"""What the system refuses to tell is not taken for absent: another user may not enter a folder, and is told so.

`Path.is_file`, `is_dir` and `exists` are False there since Python 3.14, and so nothing decides by them.
"""

from __future__ import annotations

import ast
import os
from typing import TYPE_CHECKING

import pytest

from ckvd.cache import CacheFolder
from ckvd.cache.leftovers import find_leftovers, remove_leftovers
from ckvd.errors import CacheError, NetworkError
from ckvd.maintenance.data_lock import write_lock
from ckvd.maintenance.quarantine import Quarantined, discard
from ckvd.maintenance.verification import Trouble, verify_cache
from ckvd.model.calendar import Cadence
from ckvd.model.market import SeriesKey
from ckvd.vision.folder_source import FolderArchiveSource
from support.places import SOURCES
from support.processes import let_others_enter, run_in_child

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

HOURS = SeriesKey.of("BTCUSDT", "1h")
STRANGER = 65_534
is_root = pytest.mark.skipif(os.getuid() != 0, reason="only root can become somebody else")


@pytest.fixture
def closed(tmp_path: Path) -> Path:
    """A folder that nobody but its owner may enter or list."""
    place = tmp_path / "closed"
    place.mkdir()
    let_others_enter(tmp_path)
    place.chmod(0o700)
    return place


def as_stranger(act: Callable[[], object], *errors: type[Exception]) -> str:
    """What another user gets: the message of the error that is expected, or `done`."""

    def work(say: Callable[[str], None]) -> None:
        os.setuid(STRANGER)
        try:
            act()
        except errors as error:
            say(str(error))
        else:
            say("done")

    ended = run_in_child(work)
    assert len(ended.lines) == 1, ended
    (line,) = ended.lines
    return line


@is_root
def test_a_mirror_that_may_not_be_entered_is_not_one_without_archives(closed: Path) -> None:
    (closed / "data").mkdir()
    source = FolderArchiveSource(closed)
    for act in (source._require_mirror, lambda: source._list(HOURS, Cadence.MONTHLY)):
        act()  # whoever may enter finds no archive
        assert as_stranger(act, NetworkError).endswith("cannot read it: Permission denied")


@is_root
def test_a_data_lock_in_a_closed_folder_is_not_written_and_not_lost(closed: Path) -> None:
    path = closed / "lock"
    path.write_text("before")
    assert "cannot be written: Permission denied" in as_stranger(lambda: write_lock(path, "after"), CacheError)
    assert path.read_text() == "before"


@is_root
def test_leftovers_in_a_closed_series_are_named_or_left_and_never_a_traceback(tmp_path: Path) -> None:
    folder = CacheFolder(tmp_path / "cache")
    path = folder.make_series_path(HOURS)
    (path / ".x.ckvd.1-aaaaaaaa.tmp").write_bytes(b"123")
    let_others_enter(path.parent)
    path.chmod(0o700)
    told = as_stranger(lambda: remove_leftovers(folder, [HOURS]), CacheError)
    assert told.startswith(f"{path}: cannot be listed: Permission denied")
    assert as_stranger(lambda: find_leftovers(folder), CacheError) == "done"
    assert [leftover.nbytes for leftover in find_leftovers(folder)] == [3]


@is_root
def test_a_closed_download_of_another_user_is_left_alone_also_where_its_lock_is_gone(tmp_path: Path) -> None:
    folder = CacheFolder(tmp_path / "cache")
    place = folder.make_path(folder.root / ".download-theirs" / "inner")
    let_others_enter(place.parent)
    folder.root.chmod(0o777)
    place.chmod(0o700)
    (place / "archive").write_bytes(b"123")
    as_stranger(lambda: remove_leftovers(folder), CacheError)
    assert (place / "archive").read_bytes() == b"123"


@is_root
def test_a_file_in_a_closed_quarantine_is_not_given_up_without_a_word(closed: Path) -> None:
    path = closed / "file"
    path.write_bytes(b"123")
    told = as_stranger(lambda: discard(Quarantined(path, HOURS, "file", "it was damaged", 0, 3)), CacheError)
    assert told.startswith(f"{path}: cannot be deleted: Permission denied")
    assert path.read_bytes() == b"123"


@is_root
def test_verification_names_a_folder_behind_a_closed_one(tmp_path: Path, closed: Path) -> None:
    (closed / "locks").mkdir()
    folder = CacheFolder(tmp_path / "cache")
    folder.make_path(folder.root)
    (folder.root / ".locks").symlink_to(closed / "locks")
    let_others_enter(folder.root)

    def work(say: Callable[[str], None]) -> None:
        os.setuid(STRANGER)
        for finding in verify_cache(folder):
            say(f"{finding.trouble} {finding.path.name} {finding.message}")

    (line,) = run_in_child(work).lines
    assert line.startswith(f"{Trouble.UNREADABLE} .locks cannot be read: Permission denied")


def test_nothing_asks_whether_a_file_is_there_without_an_answer_for_do_not_know() -> None:
    found = [
        f"{path.relative_to(SOURCES)}:{node.lineno} {node.func.attr}"
        for path in sorted(SOURCES.rglob("*.py"))
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and node.func.attr in {"is_file", "is_dir", "exists", "isfile", "isdir", "lexists", "islink", "is_symlink"}
        and not (isinstance(node.func.value, ast.Name) and node.func.value.id == "entry")  # as the listing says
    ]
    assert not found, found

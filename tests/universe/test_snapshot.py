"""Snapshots as files: whole, immutable, dated, and refused if anything in them changed."""

from __future__ import annotations

import hashlib
import os
import signal
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ckvd.cache import CacheFolder
from ckvd.cache.leftovers import find_leftovers, remove_leftovers
from ckvd.errors import CacheError, NoSnapshotError, SnapshotError
from ckvd.maintenance.verification import Severity, Trouble, is_clean, verify_cache
from ckvd.model.life import EndReason, EndSource, FirstSource, Life
from ckvd.model.market import ContractType, Market
from ckvd.model.timespan import parse_time
from ckvd.universe.snapshot import (
    Snapshot,
    decode_snapshot,
    encode_snapshot,
    find_snapshot,
    list_snapshots,
    newest_snapshot,
    read_snapshot,
    snapshots_path,
    write_snapshot,
)
from support.power import recorded
from support.processes import run_in_child
from support.universes import life

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

MOMENTS = st.integers(0, 2**42)
WORDS = st.text(max_size=6)
LIVES = st.builds(
    Life,
    market=st.just(Market.UM),
    ticker=WORDS,
    first_ms=MOMENTS,
    symbol=WORDS,
    base=WORDS,
    quote=WORDS,
    contract=st.sampled_from(ContractType),
    multiplier=st.sampled_from([1, 1000]),
    is_leveraged=st.booleans(),
    first_source=st.sampled_from(FirstSource),
    end_ms=st.none() | MOMENTS,
    end_reason=st.sampled_from(EndReason),
    end_source=st.none() | st.sampled_from(EndSource),
    listed_ms=st.none() | MOMENTS,
    delivery_ms=st.none() | MOMENTS,
    status=WORDS,
    renamed_to=WORDS,
    contract_size=st.none() | st.integers(1, 100),
    permissions=st.lists(WORDS, max_size=2).map(tuple),
    first_archive_ms=st.none() | MOMENTS,
    last_archive_ms=st.none() | MOMENTS,
    previous_end_ms=st.none() | MOMENTS,
    last_traded_ms=st.none() | MOMENTS,
)
SNAPSHOTS = st.builds(
    Snapshot,
    market=st.just(Market.UM),
    made_ms=st.integers(0, 2**32).map(lambda second: second * 1000),
    lives=st.lists(LIVES, max_size=3).map(tuple),
    listing=WORDS,
    exchange_info=WORDS,
    unavailable=WORDS,
    notes=st.lists(WORDS, max_size=2).map(tuple),
)


@pytest.fixture
def folder(tmp_path: Path) -> CacheFolder:
    return CacheFolder(tmp_path / "cache")


def snapshot(at: str, *lives: Life) -> Snapshot:
    return Snapshot(Market.UM, parse_time(at), lives or (life("AUSDT", "2020-01-01"),))


@given(SNAPSHOTS)
def test_a_snapshot_comes_back_as_it_was_from_the_same_bytes(made: Snapshot) -> None:
    content = encode_snapshot(made)
    back = decode_snapshot(content, "there")
    assert back == made
    assert encode_snapshot(back) == content


@given(SNAPSHOTS, st.data())
def test_a_snapshot_of_which_a_byte_differs_is_refused(made: Snapshot, data: st.DataObject) -> None:
    content = bytearray(encode_snapshot(made))
    content[data.draw(st.integers(0, len(content) - 1))] ^= data.draw(st.integers(1, 255))
    with pytest.raises(SnapshotError, match=r"^there: .*ckvd universe refresh"):
        decode_snapshot(bytes(content), "there")


@given(SNAPSHOTS, st.data())
def test_a_snapshot_that_is_cut_off_is_refused(made: Snapshot, data: st.DataObject) -> None:
    content = encode_snapshot(made)
    with pytest.raises(SnapshotError):
        decode_snapshot(content[: data.draw(st.integers(0, len(content) - 1))], "there")


@pytest.mark.parametrize("document", [b"[]", b"{}", b'{"lives": [], "notes": [], "market": "moon"}', b"[" * 10**5])
def test_a_document_of_another_form_is_refused_though_its_hash_is_right(document: bytes) -> None:
    head = b"ckvd universe, version 1, SHA-256 " + hashlib.sha256(document).hexdigest().encode()
    with pytest.raises(SnapshotError, match="its document is none of a snapshot"):
        decode_snapshot(head + b"\n" + document, "there")


def test_the_newest_snapshot_is_found_and_the_newest_before_a_time(folder: CacheFolder) -> None:
    made = [snapshot(at, life("AUSDT", at)) for at in ("2024-01-01", "2024-06-01T12:00:01Z", "2025-01-01")]
    for one in reversed(made):
        write_snapshot(folder, one)
    assert list_snapshots(folder, Market.UM) == [one.name for one in made]
    assert list_snapshots(folder, Market.SPOT) == []
    assert newest_snapshot(folder, Market.UM) == made[2]
    assert find_snapshot(folder, Market.UM, parse_time("2024-12-31")) == made[1]
    assert find_snapshot(folder, Market.UM, made[1].made_ms) == made[1]
    assert find_snapshot(folder, Market.UM, made[1].made_ms - 1) == made[0]


def test_where_there_is_none_the_error_says_how_to_make_one(folder: CacheFolder) -> None:
    with pytest.raises(
        NoSnapshotError, match=r"has no snapshot .* of um: make one: ckvd universe refresh --market um"
    ):
        find_snapshot(folder, Market.UM)
    write_snapshot(folder, snapshot("2024-01-01"))
    with pytest.raises(NoSnapshotError, match="made at or before 2023-01-01: the oldest was made at 2024-01-01"):
        find_snapshot(folder, Market.UM, parse_time("2023-01-01"))
    with pytest.raises(NoSnapshotError, match="there is no such snapshot"):
        read_snapshot(folder, Market.UM, "20240101T000000Z-0000000000000000.universe")


def test_a_snapshot_under_another_name_or_market_is_refused(folder: CacheFolder) -> None:
    path = write_snapshot(folder, snapshot("2024-01-01"))
    renamed = path.with_name(path.name.replace("2024", "2025", 1))
    renamed.write_bytes(path.read_bytes())
    with pytest.raises(SnapshotError, match=f"it is the snapshot {path.name} of market um"):
        find_snapshot(folder, Market.UM)
    moved = snapshots_path(folder, Market.SPOT) / path.name
    moved.parent.mkdir()
    moved.write_bytes(path.read_bytes())
    with pytest.raises(SnapshotError, match="of market um"):
        find_snapshot(folder, Market.SPOT)


def test_a_file_that_changes_after_it_was_read_is_read_again(folder: CacheFolder) -> None:
    path = write_snapshot(folder, snapshot("2024-01-01"))
    assert find_snapshot(folder, Market.UM) is find_snapshot(folder, Market.UM)
    path.write_bytes(path.read_bytes() + b" ")
    with pytest.raises(SnapshotError, match="its bytes hash to"):
        find_snapshot(folder, Market.UM)


def test_what_is_no_regular_file_is_not_read_and_never_waited_for(folder: CacheFolder) -> None:
    path = write_snapshot(folder, snapshot("2024-01-01"))
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(CacheError, match="a named pipe, expected a regular file"):
        find_snapshot(folder, Market.UM)


def test_other_files_are_no_snapshots_and_writing_twice_leaves_one(folder: CacheFolder) -> None:
    path = write_snapshot(folder, snapshot("2024-01-01"))
    assert write_snapshot(folder, snapshot("2024-01-01")) == path
    for name in ("notes.txt", "20241301T000000Z-0000000000000000.universe", f".{path.name}.1-0123abcd.tmp"):
        (path.parent / name).write_text("x")
    assert list_snapshots(folder, Market.UM) == [path.name]
    write_snapshot(folder, snapshot("2024-01-02"))
    assert not list(path.parent.glob(".*.tmp"))


def test_a_kill_while_a_snapshot_is_written_leaves_the_one_before(folder: CacheFolder) -> None:
    before, after = snapshot("2024-01-01"), snapshot("2024-01-02")
    write_snapshot(folder, before)

    def work(say: Callable[[str], None]) -> None:
        def kill(*_: object) -> None:
            os.kill(os.getpid(), signal.SIGKILL)

        os.fsync = kill  # type: ignore[assignment]
        write_snapshot(folder, after)
        say("survived")

    ended = run_in_child(work)
    assert (ended.status, ended.lines) == (-signal.SIGKILL, ())
    assert newest_snapshot(folder, Market.UM) == before
    (leftover,) = find_leftovers(folder)
    assert leftover.path.parent == snapshots_path(folder, Market.UM)
    assert [one.path for one in remove_leftovers(folder)] == [leftover.path]
    write_snapshot(folder, after)
    assert newest_snapshot(folder, Market.UM) == after
    assert is_clean(list(verify_cache(folder)))


def test_a_snapshot_is_flushed_before_it_gets_its_name_and_then_its_folder(tmp_path: Path) -> None:
    folder = CacheFolder(tmp_path / "cache")
    write_snapshot(folder, snapshot("2024-01-01"))
    with recorded(tmp_path) as operations:
        path = write_snapshot(folder, snapshot("2024-01-02"))
    assert [one.kind for one in operations] == ["flush file", "rename", "flush folder"]
    assert operations[0].content == path.read_bytes()


def test_verifying_a_cache_names_a_damaged_snapshot(folder: CacheFolder) -> None:
    whole = write_snapshot(folder, snapshot("2024-01-01"))
    damaged = write_snapshot(folder, snapshot("2024-01-02"))
    damaged.write_bytes(damaged.read_bytes()[:-1])
    (finding,) = verify_cache(folder)
    assert (finding.path, finding.severity, finding.trouble) == (damaged, Severity.ERROR, Trouble.SNAPSHOT)
    assert "ckvd universe refresh" in finding.message
    assert newest_snapshot(folder, Market.UM, parse_time("2024-01-01")) == read_snapshot(
        folder, Market.UM, whole.name
    )

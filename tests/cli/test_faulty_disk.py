"""Whichever call on the disk fails, each verb ends with a sentence and the right status, and loses nothing.

A sample. Every verb with every fault at up to twelve of its calls, in hours: CKVD_FAULTS=whole, or `make faults`.
"""

from __future__ import annotations

import errno
import json
import os
import random
import subprocess
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from ckvd.cache import CacheFolder
from cli.faulty_verbs import FAULTS, UM_HOURS, VERBS, WINTER, Workplace
from support.command import arguments_of, environment
from support.faulty_disk import CHANGES, GROWTH, LASTING, SHORT, Fault, FaultyCommands, compile_library
from support.loopback.mirror import Mirror
from support.places import SAMPLES
from support.processes import writing_nothing

if TYPE_CHECKING:
    from collections.abc import Iterator

IS_WHOLE = os.environ.get("CKVD_FAULTS") == "whole"
# Every second verb, with one fault, where not all are tried.
TRIED = list(VERBS) if IS_WHOLE else list(VERBS)[::2]
SEED = 20_250_401
# Of each verb and fault, where all are tried.
CALLS_MAX = 12


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workplace]:
    root = tmp_path_factory.mktemp("faulty")
    place = root / "printed"
    place.mkdir()
    library = compile_library(root)
    with Mirror(SAMPLES) as mirror, FaultyCommands(library, place) as commands:
        yield Workplace(root / "work", commands, mirror.base_url)


def faults_of(workplace: Workplace, verb: str) -> list[Fault]:
    """The faults to try with a verb. In the sample, each kind of fault is as likely as any other."""
    counted = [(fault, workplace.count(verb, fault.calls)) for fault in FAULTS]
    dice = random.Random(f"{SEED} {verb}")
    if IS_WHOLE:
        tried = {fault: dice.sample(range(1, count + 1), min(count, CALLS_MAX)) for fault, count in counted}
        return [replace(fault, first=first) for fault, numbers in tried.items() for first in sorted(numbers)]
    fault, count = dice.choice([(fault, count) for fault, count in counted if count])
    return [replace(fault, first=dice.randint(1, count))]


@pytest.mark.parametrize("verb", TRIED)
def test_a_verb_whose_disk_fails_says_so_and_loses_nothing(workplace: Workplace, verb: str) -> None:
    wrong = [(str(fault), found) for fault in faults_of(workplace, verb) if (found := workplace.check(verb, fault))]
    assert not wrong, "\n".join(f"{fault}: " + "\n".join(found) for fault, found in wrong)


# --- Kinds that were found -----------------------------------------------------------------------------------


@pytest.mark.parametrize("first", [1, 9, 13])
def test_a_file_system_that_turns_read_only_during_a_download_is_named(workplace: Workplace, first: int) -> None:
    fault = Fault(CHANGES, errno.EROFS, LASTING, first)
    assert workplace.check("download over HTTP", fault) == []
    ended, _ = workplace.commands.run(*workplace.prepare("download over HTTP"), fault=fault, folder=workplace.place)
    assert ended.status == 1
    (line,) = [line for line in ended.err.splitlines() if line.startswith("ckvd: ")]
    assert "Read-only file system; the file system is mounted read-only: choose another cache folder" in line


def test_a_command_of_its_own_says_the_same(workplace: Workplace) -> None:
    words = workplace.prepare("download over HTTP")
    variables = Fault(GROWTH, errno.ENOSPC, LASTING, 9).environ(workplace.place)
    environ = environment(workplace.root, LD_PRELOAD=str(workplace.commands.library), **variables)
    ended = subprocess.run(
        arguments_of(*words),
        env=writing_nothing(environ),
        cwd=workplace.root,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ended.returncode == 1
    assert "No space left on device; make room on the disk, and run it again" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_a_lock_that_cannot_be_released_costs_nothing(workplace: Workplace) -> None:
    words = workplace.prepare("download from a folder")
    # Of a lock file, each second call is a release.
    fault = Fault(("lock",), errno.EIO, first=2)
    ended, tally = workplace.commands.run(*words, fault=fault, folder=workplace.place / "cache/.locks")
    assert [line[0] for line in tally[:2]] == ["l", "!"]
    assert ended.status == 0
    assert "the lock is released by closing alone: Input/output error" in ended.err


@pytest.mark.parametrize("mode", [SHORT, LASTING])
def test_half_a_record_of_a_lock_is_never_left(workplace: Workplace, mode: str) -> None:
    words = workplace.prepare("download from a folder")
    locks = workplace.place / "cache/.locks"
    workplace.commands.run(*words, fault=Fault(()), folder=locks)
    folder = CacheFolder(workplace.place / "cache")
    newest = max(name.revision for name in folder.segments(UM_HOURS))
    pruned, _ = workplace.commands.run(
        *("cache", "prune", "BTCUSDT", "--yes", "--cache", folder.root), fault=Fault(()), folder=locks
    )
    assert pruned.status == 0
    ended, tally = workplace.commands.run(*words, fault=Fault(("write",), errno.ENOSPC, mode, 1), folder=locks)
    assert tally[0].startswith("!write")
    assert ended.status == (0 if mode == SHORT else 1)
    if mode == LASTING:
        assert json.loads(folder.lock_path(UM_HOURS).read_bytes())["revision"] >= newest
    workplace.commands.run(*words, fault=Fault(()), folder=locks)
    # A name means the same bytes for ever.
    assert min(name.revision for name in folder.segments(UM_HOURS)) > newest


def test_a_record_that_cannot_be_read_is_not_taken_for_an_empty_one(workplace: Workplace) -> None:
    words = workplace.prepare("download from a folder")
    locks = workplace.place / "cache/.locks"
    ended, tally = workplace.commands.run(*words, fault=Fault(("read",), first=1), folder=locks)
    assert tally[0].startswith("!read")
    assert ended.status == 1
    assert ".lock: cannot be read: Input/output error" in ended.err


def test_a_quarantine_that_cannot_be_listed_is_not_taken_for_an_empty_one(workplace: Workplace) -> None:
    for verb in ("quarantine", "repair what is lost"):
        words = workplace.prepare(verb)
        aside = workplace.place / "cache/.quarantine"
        ended, _ = workplace.commands.run(*words, fault=Fault(("list",), errno.EACCES, LASTING, 1), folder=aside)
        assert (ended.status, ended.out) == (1, ""), verb
        assert f"{aside}: cannot be listed: Permission denied" in ended.err


def test_a_restored_file_is_listed_until_its_tombstones_are_gone(workplace: Workplace) -> None:
    words = workplace.prepare("restore")
    cache = workplace.place / "cache"
    series = cache / "spot/klines/ETHUSDT/1h"
    ended, _ = workplace.commands.run(*words, fault=Fault(("unlink",), errno.EACCES, LASTING, 1), folder=series)
    assert ended.status == 1
    assert ".ckvd: cannot be removed: Permission denied" in ended.err
    listing = ("cache", "quarantine", "--json", "--cache", cache)
    (hidden,) = json.loads(workplace.commands.run(*listing, fault=Fault(()), folder=cache)[0].out)[-1:]
    assert (series / hidden["file_name"]).exists()
    repair = ("cache", "repair", "--cache", cache)
    assert hidden["file_name"] in workplace.commands.run(*repair, fault=Fault(()), folder=cache)[0].out
    workplace.commands.run(*words, fault=Fault(()), folder=cache)
    left = json.loads(workplace.commands.run(*listing, fault=Fault(()), folder=cache)[0].out)
    assert hidden["file_name"] not in [aside["file_name"] for aside in left]


def test_a_mirror_whose_disk_fails_is_named(workplace: Workplace) -> None:
    words = workplace.prepare("audit and store")
    for call in ("open", "read", "list", "status"):
        ended, tally = workplace.commands.run(
            *words, fault=Fault((call,), mode=LASTING, first=1), folder=workplace.place / "mirror"
        )
        if tally:
            assert ended.status == 1, call
            assert "Input/output error" in ended.err, call
            assert "Traceback" not in ended.err, call


def test_the_verbs_begin_with_what_they_should(workplace: Workplace) -> None:
    statuses = {verb: workplace.sound(verb)[0].status for verb in ("repair", "prune a span", "audit", "pack")}
    assert statuses == {"repair": 1, "prune a span": 0, "audit": 1, "pack": 0}
    _, before, after = workplace.sound("download from a folder")
    assert (len(before.bars), len(after.bars)) == (0, WINTER.length_ms // 3_600_000)


@pytest.mark.parametrize("error", [errno.EINVAL, errno.ENOTSUP])
def test_a_disk_that_does_not_flush_is_named_once_and_keeps_nothing_back(workplace: Workplace, error: int) -> None:
    fault = Fault(("sync",), error, LASTING, 1)
    ended, _ = workplace.commands.run(*workplace.prepare("download over HTTP"), fault=fault, folder=workplace.place)
    assert ended.status == 0
    (line,) = [line for line in ended.err.splitlines() if "flush" in line]
    assert line.endswith("this disk does not flush what is written: a power cut may cost what was just stored")


def test_a_disk_without_locks_is_refused_for_writing_with_a_remedy(workplace: Workplace) -> None:
    fault = Fault(("lock",), errno.ENOTSUP, LASTING, 1)
    ended, _ = workplace.commands.run(*workplace.prepare("download over HTTP"), fault=fault, folder=workplace.place)
    assert ended.status == 1
    (line,) = [line for line in ended.err.splitlines() if line.startswith("ckvd: ")]
    assert "this file system has no locks" in line
    assert line.endswith("put the cache where there are")

"""Lost bars are reported by every repair, with status 1, until they are back."""

from __future__ import annotations

import asyncio
import json
import os
import resource
import shutil
import signal
import subprocess
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from ckvd.cache import CacheFolder
from ckvd.cache.coverage import uncovered_spans
from ckvd.maintenance.repair import repair
from ckvd.maintenance.verification import is_clean, verify_cache
from ckvd.model.market import SeriesKey
from ckvd.model.timespan import Span, now_ms
from ckvd.vision.folder_source import FolderArchiveSource
from support import command
from support.caches import download
from support.command import Finished
from support.disks import small_disk
from support.places import SAMPLES
from support.processes import at_step, die, run_in_child, steps_of, telling, writing_nothing
from support.tables import regular_table, write_segment

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

HOURS = SeriesKey.of("BTCUSDT", "1h")
MARCH = Span.of("2023-03-01", "2023-04-01")
LOST = f"ckvd: {HOURS}: {MARCH} is lost; try again, or ckvd download"
NOBODY = 65_534


def damage(folder: CacheFolder, series: SeriesKey = HOURS) -> Path:
    (path,) = folder.series_path(series).glob("*.ckvd")
    path.write_bytes(path.read_bytes()[:-1])
    return path


@pytest.fixture
def folder(tmp_path: Path) -> CacheFolder:
    """A month, which is damaged."""
    cache = download(tmp_path / "cache", HOURS, MARCH)
    damage(cache)
    return cache


def ckvd(folder: CacheFolder, *words: str | os.PathLike[str]) -> Finished:
    return command.run_here("cache", *words, "--cache", folder.root)


def repair_from_samples(folder: CacheFolder) -> Finished:
    return ckvd(folder, "repair", "--yes", "--vision-url", SAMPLES)


def repair_in_a_process(folder: CacheFolder, before: Callable[[], object] | None = None) -> Finished:
    """Repair from the samples in a process of its own, which calls a function before it starts."""
    words = ("cache", "repair", "--yes", "--vision-url", SAMPLES, "--cache", folder.root)
    home = folder.root.parent
    options = {"preexec_fn": before, "env": writing_nothing(command.environment(home))}
    with command.started(*words, home=home, **options) as process:
        out, err = process.communicate(timeout=command.TIMEOUT_S)
    return Finished(process.returncode, out, err)


def assert_reported_until_it_is_back(folder: CacheFolder) -> None:
    """Without a source, with one that lacks it, and in a dry run: the month is lost. Then it is fetched."""
    for words in (["--no-fetch"], ["--vision-url", str(folder.root / ".locks")], ["--no-fetch", "ETH*", "BTC*"]):
        again = ckvd(folder, "repair", "--yes", *words)
        assert (again.status, again.out) == (1, "")
        assert LOST in again.err
    planned = ckvd(folder, "repair")
    assert planned.status == 1
    assert f"would fetch {MARCH}" in planned.out
    assert planned.out.endswith("; add --yes to do it\n")
    done = repair_from_samples(folder)
    assert (done.status, done.err) == (0, "")
    assert done.out == "fetched data/spot/monthly/klines/BTCUSDT/1h/BTCUSDT-1h-2023-03.zip\n"
    for options in ([], ["--yes"]):
        settled = ckvd(folder, "repair", *options)
        assert (settled.status, settled.err) == (0, "")
    assert ckvd(folder, "verify").status == 0
    assert len(json.loads(ckvd(folder, "quarantine", "--json").out)) == 1


def assert_refused(finished: Finished, reason: str) -> None:
    """What was done, why no more, and what is lost: no traceback."""
    assert finished.status == 1
    assert finished.out.startswith(f"set aside {HOURS} 2023")
    assert len(finished.out.splitlines()) == 1
    refusal, lost, ways_out = finished.err.splitlines()
    assert refusal.startswith("ckvd: ")
    assert reason in refusal
    assert lost == LOST
    assert ways_out.startswith("ckvd: ckvd cache quarantine --restore puts back")


def test_a_file_system_that_refuses_the_segment(folder: CacheFolder) -> None:
    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, resource.RLIM_INFINITY))

    assert_refused(repair_in_a_process(folder, limit), "too large; the file system or a limit")
    assert_reported_until_it_is_back(folder)


def test_a_disk_that_is_full(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk") as disk:
        folder = download(disk / "cache", HOURS, MARCH)
        damage(folder)
        filler = disk / "filler"
        filler.write_bytes(b"x" * (shutil.disk_usage(disk).free - 30_000))
        assert_refused(repair_in_a_process(folder), "No space left on device; make room on the disk")
        filler.unlink()
        assert_reported_until_it_is_back(folder)


def test_a_disk_that_is_read_only_loses_nothing(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk") as disk:
        folder = download(disk / "cache", HOURS, MARCH)
        path = damage(folder)
        subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
        for _ in range(2):
            refused = repair_in_a_process(folder)
            assert (refused.status, refused.out) == (1, "")
            assert "the file system is mounted read-only" in refused.err
            assert len(refused.err.splitlines()) == 1
            assert path.exists()


@pytest.fixture
def foreign_folder() -> Iterator[CacheFolder]:
    """A damaged month in a cache of another user, who may change the series and not put an archive beside it."""
    if os.getuid() != 0:
        pytest.skip("only root can become somebody else")
    with tempfile.TemporaryDirectory() as name:
        folder = download(Path(name) / "cache", HOURS, MARCH)
        damage(folder)
        Path(name).chmod(0o755)
        (folder.root / ".quarantine").mkdir()
        for path in folder.root.rglob("*"):
            path.chmod(0o777 if path.is_dir() else 0o666)
        folder.root.chmod(0o755)
        yield folder


def test_a_folder_whose_rights_forbid_it(foreign_folder: CacheFolder) -> None:
    def work(say: Callable[[str], None]) -> None:
        os.setuid(NOBODY)
        say(json.dumps(asdict(repair_from_samples(foreign_folder))))

    (said,) = run_in_child(work).lines
    assert_refused(Finished(**json.loads(said)), "Permission denied; its owner or its rights forbid it")
    assert_reported_until_it_is_back(foreign_folder)


def test_a_file_that_cannot_be_set_aside_after_one_that_was(foreign_folder: CacheFolder) -> None:
    other = SeriesKey.of("BTCUSDT", "1h", market="um")
    download(foreign_folder.root, other, Span.of("2024-12-01", "2025-01-01"))
    path = damage(foreign_folder, other)
    for lock in (foreign_folder.root / ".locks").iterdir():
        lock.chmod(0o666)

    def work(say: Callable[[str], None]) -> None:
        os.setuid(NOBODY)
        say(json.dumps(asdict(ckvd(foreign_folder, "repair", "--yes", "--no-fetch"))))

    (said,) = run_in_child(work).lines
    assert_refused(Finished(**json.loads(said)), f"{path}: cannot be set aside: Permission denied")
    assert path.exists()
    prune = ckvd(foreign_folder, "prune", "--market", "um", "--yes")
    assert prune.status == 0
    assert_reported_until_it_is_back(foreign_folder)


@pytest.mark.parametrize("has_older", [False, True], ids=["alone", "above an older month"])
def test_a_kill_at_any_step_of_a_repair(folder: CacheFolder, tmp_path: Path, has_older: bool) -> None:
    if has_older:
        path = next(folder.series_path(HOURS).glob("*.ckvd"))
        path.rename(path.with_name(path.name.replace("-r1.", "-r2.")))
        older = regular_table(HOURS, MARCH, volume=1e9, high=1e9, low=0.0, quote_volume=1e9)
        write_segment(path, older, MARCH)

    def work(cache: CacheFolder) -> None:
        asyncio.run(repair(cache, list(verify_cache(cache)), FolderArchiveSource(SAMPLES)))

    def copy(name: str) -> CacheFolder:
        return CacheFolder(shutil.copytree(folder.root, tmp_path / name / "cache"))

    whole = copy("whole")
    steps = steps_of(lambda: work(whole))
    lost_count = 0
    for number in telling(steps):
        cache = copy(str(number))

        def die_at_work(_: Callable[[str], None], number: int = number, cache: CacheFolder = cache) -> None:
            at_step(number, die)
            work(cache)

        assert run_in_child(die_at_work).status == -signal.SIGKILL
        is_whole = is_clean(list(verify_cache(cache)))
        if is_whole and not uncovered_spans(cache, HOURS, MARCH, now_ms()):
            continue  # the month was stored before
        lost_count += 1
        again = ckvd(cache, "repair", "--yes", "--no-fetch")
        assert (again.status, again.err.startswith(LOST)) == (1, True), steps[number]
        assert ("set aside" in again.out) != is_whole
        assert_reported_until_it_is_back(cache)
    assert 0 < lost_count < len(telling(steps))


def test_json_reports_it_as_well(folder: CacheFolder) -> None:
    ckvd(folder, "repair", "--yes", "--no-fetch")
    (aside,) = json.loads(ckvd(folder, "quarantine", "--json").out)
    (step,) = json.loads(ckvd(folder, "repair", "--json").out)
    march = [MARCH.start_ms, MARCH.end_ms]
    assert (step["trouble"], step["path"], step["series"]) == ("lost", aside["path"], str(HOURS))
    assert (step["span"], step["lost"], step["nbytes"]) == (march, [march], aside["nbytes"])
    report: dict[str, Any] = json.loads(ckvd(folder, "repair", "--yes", "--no-fetch", "--json").out)
    assert report["unrepaired"] == {str(HOURS): [march]}
    assert (report["quarantined"], report["fetched"], report["failures"]) == ([], [], [])


@pytest.mark.parametrize(
    ("words", "then"),
    [
        (("quarantine", "--restore", "all", "--yes"), "would set aside"),
        (("prune", "--quarantine", "--yes"), "0 files"),
    ],
)
def test_the_ways_out_that_it_names(folder: CacheFolder, words: tuple[str, ...], then: str) -> None:
    lost = ckvd(folder, "repair", "--yes", "--no-fetch").err
    assert "ckvd download" in lost
    assert f"ckvd cache {words[0]} {words[1]}" in lost
    assert ckvd(folder, *words).status == 0
    assert then in ckvd(folder, "repair").out


def test_only_the_series_that_are_meant(folder: CacheFolder) -> None:
    download(folder.root, SeriesKey.of("BTCUSDT", "1h", market="um"), Span.of("2024-12-01", "2025-01-01"))
    ckvd(folder, "repair", "--yes", "--no-fetch")
    assert ckvd(folder, "repair", "--market", "um", "--yes", "--no-fetch") == Finished(0, "", "")


def test_a_series_of_which_nothing_is_left(folder: CacheFolder) -> None:
    ckvd(folder, "repair", "--yes", "--no-fetch")
    shutil.rmtree(folder.root / "spot", ignore_errors=True)  # its folder may have gone with the last segment
    for words in (("BTCUSDT",), ()):
        again = ckvd(folder, "repair", "--yes", "--no-fetch", *words)
        assert (again.status, again.out) == (1, "")
        assert LOST in again.err
    assert repair_from_samples(folder).status == 0


def test_months_that_are_set_aside_twice_are_lost_once(folder: CacheFolder) -> None:
    repair_from_samples(folder)
    damage(folder)
    for words in ((), ("--yes", "--no-fetch"), ("--yes", "--no-fetch")):
        said = ckvd(folder, "repair", *words)
        assert said.status == 1
        assert (said.out + said.err).count(str(MARCH)) == 1
    assert len(json.loads(ckvd(folder, "quarantine", "--json").out)) == 2

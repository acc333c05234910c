"""A process that dies, or whose disk is full, at any step leaves a valid cache with all that was stored."""

from __future__ import annotations

import asyncio
import os
import resource
import shutil
import signal
from typing import TYPE_CHECKING

import pytest

from ckvd.cache import CacheFolder, KlineCache, SeriesStore
from ckvd.cache.fault_points import Step
from ckvd.cache.leftovers import remove_leftovers
from ckvd.cache.packing import pack_series
from ckvd.errors import CacheError
from ckvd.maintenance.export import ExportCut, export_series
from ckvd.maintenance.pruning import prune_span
from ckvd.maintenance.quarantine import list_quarantine, quarantine_file, restore
from ckvd.maintenance.repair import repair
from ckvd.maintenance.verification import is_clean, verify_cache
from ckvd.model.market import DAY_MS, SeriesKey
from ckvd.model.timespan import Span, now_ms
from ckvd.segment.reader import SegmentReader
from support.disks import small_disk
from support.processes import at_step, die, let_others_enter, run_in_child, steps_of, telling
from support.tables import regular_table

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

HOURS = SeriesKey.of("BTCUSDT", "1h")
START = Span.of("2023-01-01", "2023-01-02").start_ms
ALL = Span(START, START + 40 * DAY_MS)
GOOD = {"high": 1e9, "low": 0.0, "volume": 1e9, "taker_buy_volume": 0.0, "quote_volume": 1e9}

Bars = dict[int, float]


def day(number: int, count: int = 1) -> Span:
    return Span(START + number * DAY_MS, START + (number + count) * DAY_MS)


def put(folder: CacheFolder, span: Span, mark: float) -> None:
    table = regular_table(HOURS, span, open=mark, close=mark, taker_buy_quote_volume=0.0, **GOOD)
    SeriesStore(folder, HOURS).put(table, span)


def bars_of(folder: CacheFolder) -> Bars:
    with KlineCache(folder.root) as cache:
        klines = cache.read_series(HOURS, ALL, missing="ignore")
        return dict(zip(klines.open_time.tolist(), klines.open.tolist(), strict=True))


def make_base(root: Path) -> CacheFolder:
    folder = CacheFolder(root)
    for number in range(14):
        put(folder, day(number), float(number))
    return folder


def publish(folder: CacheFolder) -> None:
    put(folder, day(14), 99.0)


def publish_first(folder: CacheFolder) -> None:
    shutil.rmtree(folder.root)
    publish(folder)


def pack(folder: CacheFolder) -> None:
    pack_series(folder, HOURS)


def replace(folder: CacheFolder) -> None:
    put(folder, day(3, 2), 99.0)
    SeriesStore(folder, HOURS).remove_superseded()


def prune(folder: CacheFolder) -> None:
    pack_series(folder, HOURS)
    prune_span(folder, HOURS, Span(day(2).start_ms + DAY_MS // 2, day(5).start_ms))


def prune_away(folder: CacheFolder) -> None:
    prune_span(folder, HOURS)


def set_aside(folder: CacheFolder) -> None:
    path = next(folder.series_path(HOURS).glob("*-r7.ckvd"))
    if path.stat().st_size:
        content = path.read_bytes()
        path.write_bytes(content[:-1])
    asyncio.run(repair(folder, list(verify_cache(folder))))


def put_back(folder: CacheFolder) -> None:
    quarantine_file(folder, HOURS, next(folder.series_path(HOURS).glob("*-r7.ckvd")).name, "test")
    (aside,) = list_quarantine(folder)
    restore(folder, aside)


SCENARIOS: dict[str, Callable[[CacheFolder], None]] = {
    "publish": publish,
    "publish first": publish_first,
    "pack": pack,
    "replace": replace,
    "prune": prune,
    "prune away": prune_away,
    "put back": put_back,
}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> CacheFolder:
    return make_base(tmp_path_factory.mktemp("crash") / "base")


def copy_of(base: CacheFolder, root: Path) -> CacheFolder:
    shutil.rmtree(root, ignore_errors=True)
    return CacheFolder(shutil.copytree(base.root, root))


def check(folder: CacheFolder, before: Bars, after: Bars) -> None:
    """Each bar is as it was before or as it should be afterwards, and all is in order."""
    findings = list(verify_cache(folder))
    assert is_clean(findings), findings
    found = bars_of(folder)
    for open_ms in before.keys() | after.keys() | found.keys():
        assert found.get(open_ms) in (before.get(open_ms), after.get(open_ms))
    later_ms = now_ms() + 2 * DAY_MS
    remove_leftovers(folder, at_ms=later_ms)
    assert not list(folder.root.rglob("*.tmp"))
    assert bars_of(folder) == found


@pytest.mark.parametrize("name", SCENARIOS)
def test_a_kill_at_any_step_leaves_old_or_new(base: CacheFolder, tmp_path: Path, name: str) -> None:
    scenario = SCENARIOS[name]
    before = {} if name == "publish first" else bars_of(base)
    whole = copy_of(base, tmp_path / "whole")
    steps = steps_of(lambda: scenario(whole))
    after = bars_of(whole)
    assert steps
    for number in telling(steps):
        folder = copy_of(base, tmp_path / "cut")

        def work(say: Callable[[str], None], number: int = number, folder: CacheFolder = folder) -> None:
            at_step(number, die)
            scenario(folder)
            say("survived")

        ended = run_in_child(work)
        assert (ended.status, ended.lines) == (-signal.SIGKILL, ()), (number, steps[number], ended.lines)
        if name == "put back":
            check(folder, before, {})  # a file in quarantine is missing for a while
        else:
            check(folder, before, after)
            scenario(folder)
            assert bars_of(folder) == after, steps[number]


def test_every_step_is_tested(base: CacheFolder, tmp_path: Path) -> None:
    reached: set[Step] = set()
    for scenario in SCENARIOS.values():
        folder = copy_of(base, tmp_path / "steps")
        reached.update(steps_of(lambda scenario=scenario, folder=folder: scenario(folder)))  # type: ignore[misc]
    # Repairs, leftovers, exports and snapshots are killed in tests of their own.
    assert reached == set(Step) - {Step.LEFTOVER_REMOVED, Step.EXPORTED, Step.SNAPSHOT_WRITTEN}


def test_a_kill_while_leftovers_are_removed_leaves_bars_alone(base: CacheFolder, tmp_path: Path) -> None:
    folder = copy_of(base, tmp_path / "cut")
    for number in range(3):
        (folder.series_path(HOURS) / f".x{number}.1-aaaaaaaa.tmp").write_bytes(b"x")
    later_ms = now_ms() + DAY_MS

    def work(_: Callable[[str], None]) -> None:
        at_step(1, die)
        remove_leftovers(folder, at_ms=later_ms)

    assert run_in_child(work).status == -signal.SIGKILL
    assert len(list(folder.root.rglob("*.tmp"))) == 1
    assert bars_of(folder) == bars_of(base)


def test_a_kill_while_a_file_is_exported_leaves_no_half_file(base: CacheFolder, tmp_path: Path) -> None:
    def work(_: Callable[[str], None]) -> None:
        at_step(2, die)
        list(export_series(base, HOURS, tmp_path, cut=ExportCut.DAY))

    assert run_in_child(work).status == -signal.SIGKILL
    assert [path.stat().st_size > 0 for path in tmp_path.rglob("*.csv")] == [True, True]


def test_a_kill_while_a_damaged_file_is_set_aside_loses_only_that(base: CacheFolder, tmp_path: Path) -> None:
    whole = copy_of(base, tmp_path / "whole")
    steps = steps_of(lambda: set_aside(whole))
    after = bars_of(whole)
    for number in telling(steps):
        folder = copy_of(base, tmp_path / "cut")

        def work(_: Callable[[str], None], number: int = number, folder: CacheFolder = folder) -> None:
            at_step(number, die)
            set_aside(folder)

        assert run_in_child(work).status == -signal.SIGKILL
        asyncio.run(repair(folder, list(verify_cache(folder))))
        check(folder, after, after)
        assert len(list_quarantine(folder)) == 1


@pytest.mark.parametrize("name", ["publish", "publish first", "pack", "replace", "prune"])
def test_a_full_disk_at_any_step_leaves_old_or_new_and_says_so(
    base: CacheFolder, tmp_path: Path, name: str
) -> None:
    scenario = SCENARIOS[name]
    before = {} if name == "publish first" else bars_of(base)
    whole = copy_of(base, tmp_path / "whole")
    steps = steps_of(lambda: scenario(whole))
    after = bars_of(whole)
    for number in [-1, *telling(steps)]:
        folder = copy_of(base, tmp_path / "cut")

        def fill() -> None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (0, resource.RLIM_INFINITY))

        def work(say: Callable[[str], None], number: int = number, folder: CacheFolder = folder) -> None:
            if number < 0:
                fill()
            else:
                at_step(number, fill)
            try:
                scenario(folder)
            except CacheError as error:
                say(str(error))

        ended = run_in_child(work)
        assert ended.status == 0, ended.lines
        assert all("cannot be" in line and "limit" in line for line in ended.lines), ended.lines
        check(folder, before, after)


def test_a_small_disk_that_fills_up_while_packing_keeps_all_bars(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk") as disk:
        folder = CacheFolder(disk / "cache")
        stored: Bars = {}
        for number in range(30):
            put(folder, day(number), float(number))
            stored |= dict.fromkeys(range(day(number).start_ms, day(number).end_ms, 3_600_000), float(number))
        fill_but(disk, 20_000)
        with pytest.raises(CacheError, match="make room on the disk"):
            pack_series(folder, HOURS)
        with pytest.raises(CacheError, match="make room on the disk"):
            put_until_full(folder, stored)
        assert is_clean(list(verify_cache(folder)))
        with KlineCache(folder.root) as cache:
            klines = cache.read_series(HOURS, day(0, 10_000), missing="ignore")
            assert dict(zip(klines.open_time.tolist(), klines.open.tolist(), strict=True)) == stored
            del klines
        assert not list(folder.root.rglob("*.tmp"))


def put_until_full(folder: CacheFolder, stored: Bars) -> None:
    for number in range(30, 10_000):
        put(folder, day(number), float(number))
        stored |= dict.fromkeys(range(day(number).start_ms, day(number).end_ms, 3_600_000), float(number))


def fill_but(disk: Path, nbytes: int) -> None:
    """Leave so many bytes free."""
    free = shutil.disk_usage(disk).free
    (disk / "filler").write_bytes(b"x" * max(free - nbytes, 0))


def test_a_folder_of_another_owner_is_named_with_a_remedy(base: CacheFolder, tmp_path: Path) -> None:
    if os.getuid() != 0:
        pytest.skip("only root can become somebody else")
    folder = copy_of(base, tmp_path / "cut")
    let_others_enter(tmp_path)

    def work(say: Callable[[str], None]) -> None:
        os.setuid(65_534)
        try:
            publish(folder)
        except CacheError as error:
            say(str(error))

    ended = run_in_child(work)
    assert ended.status == 0, ended.lines
    assert "its owner or its rights forbid it" in ended.lines[0]
    assert bars_of(folder) == bars_of(base)


def test_too_many_open_files_are_named_with_a_remedy(base: CacheFolder, tmp_path: Path) -> None:
    folder = copy_of(base, tmp_path / "cut")

    def work(say: Callable[[str], None]) -> None:
        _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (256, hard))
        descriptors = []
        try:
            while True:
                descriptors.append(os.dup(1))
        except OSError:
            pass
        for work in (publish, pack):
            try:
                work(folder)
            except CacheError as error:
                say(str(error))

    ended = run_in_child(work)
    assert ended.status == 0, ended.lines
    assert len(ended.lines) == 2
    assert all("too many open files" in line for line in ended.lines), ended.lines
    assert bars_of(folder) == bars_of(base)


def test_a_view_stays_valid_through_packing_replacement_and_pruning(base: CacheFolder, tmp_path: Path) -> None:
    folder = copy_of(base, tmp_path / "views")
    with KlineCache(folder.root) as cache:
        view = cache.read_series(HOURS, day(3)).open
    for change in (replace, pack, prune):
        change(folder)
        assert (view == 3.0).all()
    with SegmentReader(next(folder.series_path(HOURS).glob("*.ckvd"))) as reader:
        column = reader["open"]
    prune_span(folder, HOURS)
    assert column.sum() >= 0

"""A cache on FAT, exFAT, an overlay and a read-only mount: the same bars, and whatever the disk can promise.

The first two ignore case, have neither links nor rights, and by FUSE no inodes in listings; FAT counts times in two
seconds. They are really mounted, which only root may do.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import textwrap
from typing import TYPE_CHECKING

import numpy as np
import pytest

import ckvd
from ckvd.cache import CacheFolder, SeriesStore
from ckvd.cache.download_folder import download_folder
from ckvd.cache.locks import SeriesLock
from ckvd.errors import CacheBusyError, CacheError, IdentityError
from ckvd.maintenance.quarantine import list_quarantine, restore
from ckvd.maintenance.verification import Trouble, verify_cache
from ckvd.model.market import DAY_MS
from ckvd.model.table import fields_of
from ckvd.model.timespan import Span, format_time, now_ms
from cli.cache.run import run, run_any
from support.caches import download, flip, mend, segment_paths
from support.disks import KINDS, disk_of, read_only
from support.locked import held_elsewhere
from support.loopback.mirror import Mirror
from support.places import SAMPLES
from support.processes import die, run_in_child, run_script
from support.tables import BTCUSDT_1M, folder_state, regular_table, same_bits

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

DAYS = Span.of("2024-12-31", "2025-01-02")
HOURS = ckvd.SeriesKey.of("ETHUSDT", "1h")
MANY_DAYS = Span.of("2024-01-01", "2024-01-21")
CHINESE, ITS_DAY = ckvd.SeriesKey.of("币安人生USDT", "5m"), Span.of("2025-10-20", "2025-10-21")


@pytest.fixture(autouse=True)
def _mirror(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CKVD_VISION_URL", str(SAMPLES))


@pytest.fixture
def usual(tmp_path: Path) -> CacheFolder:
    """A cache on the usual disk: a series that was downloaded, and one of many days, each in a segment."""
    return fill(tmp_path / "usual")


@pytest.fixture(params=KINDS)
def disk(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    with disk_of(request.param, tmp_path / "mounted") as place:
        yield place


@pytest.fixture
def folder(disk: Path) -> CacheFolder:
    """The same cache on a disk of another kind. Under an overlay lies what it began with."""
    lower = disk.with_name("lower")
    fill((lower if lower.is_dir() else disk) / "cache")
    return CacheFolder(disk / "cache")


def fill(root: Path) -> CacheFolder:
    folder = download(root, BTCUSDT_1M, DAYS)
    for start_ms in range(MANY_DAYS.start_ms, MANY_DAYS.end_ms, DAY_MS):
        day = Span(start_ms, start_ms + DAY_MS)
        SeriesStore(folder, HOURS).put(regular_table(HOURS, day), day)
    return folder


def assert_same_bars(one: CacheFolder, other: CacheFolder, series: ckvd.SeriesKey, span: Span) -> None:
    with ckvd.open_cache(one.root) as cache, ckvd.open_cache(other.root) as usual:
        found, expected = cache.read_series(series, span), usual.read_series(series, span)
        assert len(found) == len(expected) > 0
        for name in fields_of(series):
            assert same_bits(found[name], expected[name]), name
        assert np.array_equal(found.flags, expected.flags)


def keeps_what_is_written_over(place: Path) -> bool:
    """Whether a disk keeps what is written where something was read before: the records of locks are."""
    path = place / "probe"
    path.write_bytes(b"old")
    with path.open("r+b", buffering=0) as file:
        file.read()
        file.seek(0)
        file.write(b"new")
    is_kept = path.read_bytes() == b"new"
    path.unlink()
    return is_kept


def unusual(folder: CacheFolder) -> list[Trouble]:
    return [finding.trouble for finding in verify_cache(folder)]


def test_an_open_cache_sees_each_change_at_once(folder: CacheFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also if the clock says that the folder was left alone for an hour."""
    monkeypatch.setattr("ckvd.cache.known_listings.now_ns", lambda: now_ms() * 1_000_000 + 3_600_000_000_000)
    first, *_ = sorted(segment_paths(folder))
    aside = folder.root / "aside"
    series = BTCUSDT_1M if BTCUSDT_1M.symbol in first.parts else HOURS
    with ckvd.open_cache(folder.root) as cache:
        coverage = folder.segments(series)
        for _ in range(20):
            assert sorted(cache._listed(series)) == sorted(coverage)
            first.rename(aside)
            assert len(cache._listed(series)) == len(coverage) - 1
            aside.rename(first)


def test_bars_are_downloaded_read_packed_and_exported_as_on_the_usual_disk(
    folder: CacheFolder, usual: CacheFolder
) -> None:
    for series, span in ((BTCUSDT_1M, DAYS), (HOURS, MANY_DAYS)):
        assert_same_bars(folder, usual, series, span)
    for cache in (folder, usual):
        assert "1 segment made" in run(cache, "pack", "--yes")
        run(cache, "export", "--to", str(cache.root / "out"), "--cut", "month")
    spans = [[path.name.partition("-r")[0] for path in segment_paths(cache)] for cache in (folder, usual)]
    assert spans[0] == spans[1]
    assert_same_bars(folder, usual, HOURS, MANY_DAYS)
    found, expected = (folder_state(cache.root / "out") for cache in (folder, usual))
    assert {name: content for name, (content, _) in found.items()} == {
        name: content for name, (content, _) in expected.items()
    }
    assert unusual(folder) == []


def test_an_archive_of_a_symbol_beyond_ascii_is_stored_or_the_disk_is_named(folder: CacheFolder) -> None:
    refused: CacheError | None = None
    try:
        download(folder.root, CHINESE, ITS_DAY)
    except CacheError as error:
        refused = error
    if refused is not None:
        assert CHINESE.symbol in refused.path  # fusefat keeps no such names
        assert "Operation not permitted" in refused.reason
    else:
        with ckvd.open_cache(folder.root) as cache:
            assert len(cache.read_series(CHINESE, ITS_DAY)) == 192  # it was listed at eight
    assert unusual(folder) == []
    assert not list(folder.root.glob(".download-*"))


def test_damage_is_found_also_among_what_was_written_since(folder: CacheFolder) -> None:
    before = format_time(now_ms() - DAY_MS)
    paths = segment_paths(folder)
    flip(paths[-1])
    assert unusual(folder) == [Trouble.DAMAGED]
    result = run(folder, "verify", "--since", before, status=1)
    assert "1 error" in result
    assert f"{len(paths)} segments looked at, 0 left out" in result


def test_what_was_set_aside_without_links_is_restored(folder: CacheFolder) -> None:
    path = segment_paths(folder)[-1]
    content = path.read_bytes()
    flip(path)
    mend(folder)
    (quarantined,) = list_quarantine(folder)
    assert not path.exists()
    flip(quarantined.path)
    assert restore(folder, quarantined) == path
    assert path.read_bytes() == content
    assert list_quarantine(folder) == []
    assert unusual(folder) == []


def test_a_data_lock_on_the_disk_is_that_of_the_usual_disk(
    folder: CacheFolder, usual: CacheFolder, tmp_path: Path
) -> None:
    run(folder, "lock", str(folder.root / "lock"))
    run(usual, "lock", str(tmp_path / "lock"))
    assert (folder.root / "lock").read_bytes() == (tmp_path / "lock").read_bytes()
    assert "same" in run(folder, "check-lock", str(tmp_path / "lock"))


def test_a_series_that_another_process_holds_is_locked(folder: CacheFolder) -> None:
    lock = SeriesLock(folder, HOURS, timeout_s=0)
    with held_elsewhere(folder.lock_path(HOURS)), pytest.raises(CacheBusyError):
        lock.acquire()
    SeriesStore(folder, HOURS).put(regular_table(HOURS, day := Span(0, DAY_MS)), day)
    assert len(folder.segments(HOURS)) == 21


def test_a_revision_is_not_taken_again_when_its_segment_is_gone(folder: CacheFolder) -> None:
    if not keeps_what_is_written_over(folder.root):
        pytest.skip(
            "this driver (fusefat) loses what is written over: there, revisions follow from the segments alone"
        )
    with SeriesLock(folder, HOURS, timeout_s=0) as lock:
        revision = lock.take_revision(folder.segments(HOURS))
    with SeriesLock(folder, HOURS, timeout_s=0) as lock:
        assert lock.read_record()["process"] == os.getpid()
        assert lock.take_revision([]) == revision + 1


def test_what_a_killed_download_left_is_removed_and_what_lives_is_not(folder: CacheFolder) -> None:
    def work(say: Callable[[str], None]) -> None:
        with download_folder(folder) as place:
            (place / "archive.zip.part").write_bytes(b"123")
            say(str(place))
            die()

    run_in_child(work)
    with download_folder(folder) as place:
        assert unusual(folder) == [Trouble.LEFTOVER]
        run(folder, "prune", "--leftovers", "--yes")
        assert [path.name for path in folder.root.glob(".download-*")] == [place.name]
    assert not list(folder.root.glob(".download-*"))


def test_an_open_cache_notices_a_series_that_was_filled_again(folder: CacheFolder) -> None:
    day = Span(MANY_DAYS.start_ms, MANY_DAYS.start_ms + DAY_MS)
    with ckvd.open_cache(folder.root) as cache:
        for close in (7.0, 8.0, 9.0):
            # FUSE keeps what is mapped under another name, and so the folder.
            shutil.rmtree(folder.series_path(HOURS), ignore_errors=True)
            folder.lock_path(HOURS).unlink()
            SeriesStore(folder, HOURS).put(regular_table(HOURS, day, close=close), day)
            assert set(cache.read_series(HOURS, day).close.tolist()) == {close}


# --- Names -------------------------------------------------------------------------------------------------

# Python announces each file before it is opened, made, renamed or linked. The first two arguments may be paths.
NAMING = """
    import contextlib, io, os, sys
    import ckvd
    from ckvd.cli.app import app
    os.environ["CKVD_VISION_URL"], os.environ["CKVD_REST_URL"] = mirror, "http://127.0.0.1:9"
    names = set()

    def note(event, arguments):
        if event in ("open", "os.mkdir", "os.rename", "os.link", "os.symlink", "tempfile.mkdtemp"):
            for path in arguments[:2]:
                if isinstance(path, (str, os.PathLike)) and os.fspath(path).startswith((cache, out)):
                    names.add(os.path.relpath(path, os.path.dirname(cache)))

    sys.addaudithook(note)

    def run(*words):
        said = io.StringIO()
        with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
            try:
                app([*words, "--cache", cache], prog_name="ckvd")
            except SystemExit as end:
                return end.code

    download = lambda symbol, *words: run("download", symbol, "--no-rest", *words)
    days = "--start", "2024-12-31", "--end", "2025-01-02"
    assert download("BTCUSDT", "-i", "1m", *days) == 0
    assert download("BTCUSDT", "-i", "1mo", "--start", "2024-12-01", "--end", "2025-02-01") == 0
    assert download("BTCUSD_PERP", "-m", "cm", "-i", "1h", "--start", "2024-01-01", "--end", "2024-01-04") == 0
    assert download("\u5e01\u5b89\u4eba\u751fUSDT", "-i", "5m", "--start", "2025-10-20", "--end", "2025-10-21") == 0
    for format in "csv", "npz":
        for cut in "whole", "month", "day":
            assert run("cache", "export", "--to", f"{out}/{format}-{cut}", "--format", format, "--cut", cut) == 0
    part = "--start", "2024-12-31T01:00", "--end", "2024-12-31T02:30"
    assert run("cache", "export", "BTCUSDT", "-i", "1m", "--to", f"{out}/part", *part) == 0
    assert run("cache", "lock", f"{out}/lock") == 0
    for file_name in os.listdir(f"{cache}/spot/klines/BTCUSDT/1m"):
        with open(f"{cache}/spot/klines/BTCUSDT/1m/{file_name}", "r+b") as file:
            file.seek(-1, 2)
            file.write(b"x")
    assert run("cache", "repair", "--no-fetch", "--yes") == 1
    assert run("cache", "quarantine", "--restore", "all", "--yes") == 0
    assert run("cache", "repair", "--yes") == 0
    assert run("cache", "prune", "--before", "2024-12-31T12:00", "--yes") == 0
    assert run("cache", "pack", "--yes") == 0
    print("\\n".join(sorted(names)))
"""


def test_every_name_that_is_written_is_one_that_fat_can_hold_and_tell_apart(tmp_path: Path) -> None:
    with Mirror(SAMPLES) as mirror:
        places = {"cache": tmp_path / "cache", "out": tmp_path / "out", "mirror": mirror.base_url}
        given = "".join(f"{name} = {str(place)!r}\n" for name, place in places.items())
        paths = run_script(given + textwrap.dedent(NAMING)).splitlines()
    parts = {part for path in paths for part in path.split("/")}
    for kind in (r".*\.ckvd", r"\..+\.tmp", r"\.download-\w+", r".+\.lock", r".+\.json", r".+\.part", r".+\.csv"):
        assert any(re.fullmatch(kind, part) for part in parts), kind
    for part in parts:
        assert not re.search(r'[\x00-\x1f\x7f<>:"|?*\\]', part), part
        assert part[-1] not in ". ", part
        assert part[0] != " ", part
        assert len(part.encode("utf-16-le")) <= 2 * 255, part
        assert part.partition(".")[0].upper() not in {"CON", "PRN", "AUX", "NUL"}, part
    assert len({path.casefold() for path in paths}) == len(paths)


def test_no_two_symbols_differ_by_case_only() -> None:
    names: dict[str, str] = {}
    for symbol in [f"A{chr(code)}" for code in range(0x10000)] + ["STRASSE", "STRA\u1e9eE"]:
        with contextlib.suppress(IdentityError):
            ckvd.SeriesKey.of(symbol, "1h")
            assert names.setdefault(symbol.casefold(), symbol) == symbol
    assert len(names) > 10_000
    assert len({interval.casefold() for interval in ckvd.Interval}) == len(ckvd.Interval)


# --- A read-only mount -------------------------------------------------------------------------------------


@pytest.fixture
def sealed(usual: CacheFolder, tmp_path: Path) -> Iterator[CacheFolder]:
    with read_only(usual.root, tmp_path / "sealed") as place:
        yield CacheFolder(place)


def test_a_read_only_cache_is_read_listed_verified_locked_and_exported(
    sealed: CacheFolder, usual: CacheFolder, tmp_path: Path
) -> None:
    before = folder_state(usual.root)
    assert_same_bars(sealed, usual, BTCUSDT_1M, DAYS)
    for verb in (["list"], ["stats"], ["gaps"], ["verify"], ["quarantine"], ["info", "ETHUSDT", "-i", "1h"]):
        run(sealed, *verb)
    run(sealed, "lock", str(tmp_path / "lock"))
    run(sealed, "check-lock", str(tmp_path / "lock"))
    run(sealed, "export", "--to", str(tmp_path / "out"))
    bars = ckvd.get_klines("BTCUSDT", "1m", start="2024-12-31", end="2025-01-02", cache=sealed.root, use_rest=False)
    assert len(bars) == 2880
    assert folder_state(usual.root) == before


@pytest.mark.parametrize(
    "words",
    [
        ["pack", "--yes"],
        ["prune", "--before", "2024-01-10", "--yes"],
        ["prune", "--max-size", "1kB", "--yes"],
        ["export", "--to", "{root}/out"],
        ["lock", "{root}/lock"],
        ["audit"],
    ],
    ids=lambda words: words[0],
)
def test_what_would_write_says_once_for_each_series_that_the_mount_is_read_only(
    sealed: CacheFolder, usual: CacheFolder, words: list[str]
) -> None:
    before = folder_state(usual.root)
    ended = run_any(sealed, *(word.format(root=sealed.root) for word in words))
    lines = ended.stderr.splitlines()
    assert lines
    for line in lines:
        assert "Read-only file system; the file system is mounted read-only: choose another cache folder" in line
    assert len(set(lines)) == len(lines) <= 2
    assert folder_state(usual.root) == before


def test_what_a_read_only_cache_lacks_is_not_downloaded_and_says_why(sealed: CacheFolder) -> None:
    with pytest.raises(CacheError, match=f"{sealed.root}: cannot be written: .* mounted read-only"):
        download(sealed.root, CHINESE, ITS_DAY)

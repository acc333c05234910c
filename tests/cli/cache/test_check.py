"""`ckvd cache verify`, `repair`, `quarantine` and `audit`."""

from __future__ import annotations

import json
import os
import shutil
import time
from pathlib import Path
from typing import TYPE_CHECKING

from ckvd.cache import CacheFolder, SeriesStore
from ckvd.model.market import SeriesKey
from cli.cache.run import DAY, HOURS, MARCH, damage, run, run_any, run_json
from support.archives import make_archive, path_of
from support.loopback.mirror import publish
from support.places import SAMPLES
from support.tables import regular_table

if TYPE_CHECKING:
    import pytest

SECONDS = SeriesKey.of("BNBBTC", "1s")
MONTH = path_of("BTCUSDT", "1h", "2023-03")


def test_verify_and_repair_find_and_fix(folder: CacheFolder) -> None:
    assert run(folder, "verify").endswith("0 errors, 0 warnings, 1 note\n")
    path = damage(folder)
    (finding,) = run_json(folder, "verify", status=1)
    assert finding["trouble"] == "damaged"
    assert run_json(folder, "verify", "--quick") == []
    plan = run(folder, "repair", status=1)
    assert f"would set aside {path}" in plan
    assert "add --yes" in plan
    assert path.exists()
    done = run(folder, "repair", "--vision-url", str(SAMPLES), "--yes")
    assert "fetched data/spot/monthly/klines/BTCUSDT/1h/BTCUSDT-1h-2023-03.zip" in done
    run(folder, "verify")
    (aside,) = run_json(folder, "quarantine")
    assert aside["file_name"] == path.name
    assert "would be restored" in run(folder, "quarantine", "--restore", "all")
    run(folder, "quarantine", "--restore", path.name, "--yes")
    assert path.exists()
    run(folder, "quarantine", "--restore", path.name, "--yes", status=1)


def test_repair_without_fetching_reports_lost_spans(folder: CacheFolder) -> None:
    damage(folder)
    document = run_json(folder, "repair", "--no-fetch", "--yes", status=1)
    assert document["unrepaired"] == {str(HOURS): [[MARCH.start_ms, MARCH.end_ms]]}


def test_audit_compares_with_the_source(folder: CacheFolder, tmp_path: Path) -> None:
    assert run(folder, "audit", "--vision-url", str(SAMPLES)).endswith("2 unchanged\n")
    mirror = shutil.copytree(SAMPLES, tmp_path / "mirror")
    (mirror / "data/spot/monthly/klines/BTCUSDT/1h/BTCUSDT-1h-2023-03.zip").unlink()
    found = run_json(folder, "audit", "BTCUSDT", "--vision-url", str(mirror), status=1)
    assert found[0]["change"] == "gone"


def test_repair_prints_each_change(folder: CacheFolder) -> None:
    damaged = damage(folder)
    (seconds,) = folder.series_path(SECONDS).glob("*.ckvd")
    misnamed = seconds.rename(seconds.with_name("20230101T000000Z-20230102T000000Z-r7.ckvd"))
    leftover = folder.root / ".download-x"
    leftover.mkdir()
    os.utime(leftover, (1e9, 1e9))
    plan = run(folder, "repair", "--json", status=1)
    assert [step["trouble"] for step in json.loads(plan)] == ["swapped", "damaged"]
    done = run(folder, "repair", "--vision-url", str(SAMPLES), "--yes")
    assert f"set aside {HOURS} {damaged.name}: " in done
    assert f"named {seconds} as its header says\n" in done
    assert f"removed the leftover {leftover}\n" in done
    assert not misnamed.exists()


def test_repair_complains_of_spans_that_the_source_lacks(folder: CacheFolder, tmp_path: Path) -> None:
    damage(folder)
    mirror = tmp_path / "mirror"
    (mirror / "data").mkdir(parents=True)
    result = run_any(folder, "repair", "--vision-url", str(mirror), "--yes")
    complaints = result.stderr.splitlines()
    assert all(line.startswith("ckvd: ") for line in complaints)
    assert f"ckvd: {HOURS}: {MARCH} is lost; try again, or ckvd download" in complaints
    assert "fetched" not in result.stdout


def test_repair_complains_of_an_invalid_archive(folder: CacheFolder, tmp_path: Path) -> None:
    damage(folder)
    publish(tmp_path / "mirror", MONTH, b"no archive")
    result = run_any(folder, "repair", "--vision-url", str(tmp_path / "mirror"), "--yes")
    assert result.stderr.startswith("ckvd: BTCUSDT-1h-2023-03.zip: it is no ZIP")


def test_quarantine_shows_what_was_set_aside_and_why(folder: CacheFolder) -> None:
    assert run(folder, "quarantine") == "series\tfile\tsize\tsince\treason\n"
    path = damage(folder)
    run(folder, "repair", "--no-fetch", "--yes", status=1)
    (line,) = run(folder, "quarantine").splitlines()[1:]
    assert line.split("\t")[:2] == [str(HOURS), path.name]
    assert run(folder, "quarantine", "BNB*").splitlines()[1:] == []
    assert "no file 'x' is in quarantine" in run_any(folder, "quarantine", "--restore", "x").stderr
    assert "1 file would be restored; add --yes to do it\n" in run(folder, "quarantine", "--restore", "all")
    assert "1 file restored\n" in run(folder, "quarantine", "--restore", "all", "--yes")


def test_audit_shows_which_bars_changed_and_stores_them(folder: CacheFolder, tmp_path: Path) -> None:
    mirror = shutil.copytree(SAMPLES, tmp_path / "mirror")
    publish(mirror, MONTH, make_archive(MONTH))
    shown = run(folder, "audit", "BTCUSDT", "--vision-url", str(mirror), status=1).splitlines()
    assert shown[0].startswith(f"{MONTH}: changed: 743 bars differ, 1 added, 0 removed (")
    assert shown[1].startswith("  2023-03-01 open 27900.0 -> 10.0, high 27953.29 -> 12.5, low ")
    assert shown[20].startswith("  2023-03-01T19:00Z open ")
    assert shown[21:23] == [
        "  and more that differ: see --json",
        "  2023-03-24T13:00Z added",
    ]
    assert shown[-1] == "1 changed"
    stored = run(folder, "audit", "BTCUSDT", "--vision-url", str(mirror), "--yes")
    assert stored.startswith(f"{MONTH}: changed, stored: 743 bars differ")
    assert run(folder, "audit", "BTCUSDT", "--vision-url", str(mirror)).endswith("1 unchanged\n")


def test_audit_complains_of_archives_that_are_gone(folder: CacheFolder, tmp_path: Path) -> None:
    mirror = shutil.copytree(SAMPLES, tmp_path / "mirror")
    (mirror / MONTH).unlink()
    result = run_any(folder, "audit", "--vision-url", str(mirror))
    assert result.stderr.startswith(f"ckvd: {MONTH}: gone: ")
    assert result.stdout == "1 unchanged, 1 gone\n"


def test_audit_of_no_archives_says_so(tmp_path: Path) -> None:
    assert run(CacheFolder(tmp_path), "audit", "--vision-url", str(SAMPLES)) == "no archives\n"


def pass_the_millisecond_of(path: Path) -> None:
    """Wait until the clock has left the millisecond in which a file was changed."""
    changed_ms = path.stat().st_ctime_ns // 1_000_000
    deadline_s = time.monotonic() + 60
    while time.time_ns() // 1_000_000 <= changed_ms:
        assert time.monotonic() < deadline_s


def test_verify_since_looks_only_at_what_is_new_and_says_how_much_it_left_out(
    folder: CacheFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ckvd.maintenance.verification.FILE_TIME_STEP_S", 0.0)
    old = damage(folder)
    pass_the_millisecond_of(old)
    everything = run_json(folder, "verify", "--since", "1970-01-01", status=1)
    assert (everything["segment_count"], everything["left_out_count"]) == (2, 0)
    assert [finding["path"] for finding in everything["findings"] if finding["severity"] == "error"] == [str(old)]
    began = everything["began"]
    nothing = run_json(folder, "verify", "--since", began)
    assert {**nothing, "began": None} == {"began": None, "segment_count": 0, "left_out_count": 2, "findings": []}
    # What comes now is looked at, what was there is not.
    SeriesStore(folder, HOURS).put(regular_table(HOURS, DAY), DAY)
    (new,) = set(folder.series_path(HOURS).glob("*.ckvd")) - {old}
    assert run_json(folder, "verify", "--since", began)["findings"] == []
    content = bytearray(new.read_bytes())
    content[-1] ^= 1
    new.write_bytes(content)
    pass_the_millisecond_of(new)
    said = run(folder, "verify", "--since", began, status=1).splitlines()
    assert said[0].startswith(f"error: {new}: damaged: column ")
    assert said[-2] == f"1 segment looked at, 2 left out, which did not change since {began}"
    following = said[-1].removeprefix("next time: --since ")
    assert run_json(folder, "verify", "--since", following)["segment_count"] == 0


def test_verify_since_looks_at_what_was_restored_with_its_old_time_of_modification(
    folder: CacheFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ckvd.maintenance.verification.FILE_TIME_STEP_S", 0.0)
    path = damage(folder)
    os.utime(path, (1e9, 1e9))
    backup = Path(shutil.copy2(path, tmp_path / "backup"))
    pass_the_millisecond_of(backup)
    path.unlink()
    began = run_json(folder, "verify", "--since", "now")["began"]
    assert run_json(folder, "verify", "--since", began)["segment_count"] == 0
    shutil.copy2(backup, path)
    assert path.stat().st_mtime == 1e9
    found = run_json(folder, "verify", "--since", began, status=1)
    assert [finding["path"] for finding in found["findings"]] == [str(path)]


def test_verify_since_takes_what_was_changed_in_the_seconds_before_because_clocks_are_coarse(
    folder: CacheFolder,
) -> None:
    damage(folder)
    assert run_json(folder, "verify", "--since", "now", status=1)["segment_count"] == 2


def test_verify_since_takes_the_times_that_other_verbs_take(folder: CacheFolder) -> None:
    for since in ("2023", "2099-01-01", "lately", "7 d", "1700000000"):
        run_any(folder, "verify", "--since", since, status=2)
    assert "lies in the future" in run_any(folder, "verify", "--since", "2099-01-01", status=2).stderr
    for since in (
        "2023-01",
        "2023-01-31",
        "2023-01-31T12:00Z",
        "2023-01-31T12:00:00.5+01:00",
        "yesterday",
        "7d",
        "now",
    ):
        run(folder, "verify", "--quick", "--since", since)


def test_verify_since_finds_what_a_listing_shows_also_of_old_files(folder: CacheFolder) -> None:
    (folder.series_path(HOURS) / "notes.txt").write_text("x", encoding="utf-8")
    troubles = [finding["trouble"] for finding in run_json(folder, "verify", "--since", "now")["findings"]]
    assert "stranger" in troubles

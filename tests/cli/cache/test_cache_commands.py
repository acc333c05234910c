"""Every verb of `ckvd cache`: what it prints, what it changes, and its exit status."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import time
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from ckvd.api.vision_data_client import VisionDataClient
from ckvd.cache import CacheFolder, KlineCache, SeriesStore
from ckvd.cli.app import app
from ckvd.cli.cache.app import app as cache_app
from ckvd.cli.cache.look import draw_calendar
from ckvd.maintenance.gap_report import MonthFill
from ckvd.model.calendar import days_of
from ckvd.model.market import SeriesKey
from ckvd.model.timespan import Span
from support.places import SAMPLES
from support.tables import regular_table

HOURS = SeriesKey.of("BTCUSDT", "1h")
DAY = Span.of("2023-03-01", "2023-03-02")
MARCH = Span.of("2023-03-01", "2023-04-01")
VERBS = [command.name or command.callback.__name__ for command in cache_app.registered_commands if command.callback]


@pytest.fixture
def folder(tmp_path: Path) -> CacheFolder:
    cache = CacheFolder(tmp_path / "cache")

    async def download() -> None:
        async with VisionDataClient(SAMPLES, cache=cache.root) as vision:
            await vision.download_series([HOURS], MARCH)
            await vision.download("BNBBTC", "1s", start="2023-01-01", end="2023-01-02")

    asyncio.run(download())
    return cache


def run_any(folder: CacheFolder, *words: str, status: int = 1) -> Result:
    result = CliRunner().invoke(app, ["cache", *words, "--cache", str(folder.root)])
    assert result.exit_code == status, result.output
    return result


def run(folder: CacheFolder, *words: str, status: int = 0) -> str:
    return run_any(folder, *words, status=status).stdout


def run_json(folder: CacheFolder, *words: str, status: int = 0) -> Any:
    return json.loads(run(folder, *words, "--json", status=status))


def damage(folder: CacheFolder) -> Path:
    path = next(folder.series_path(HOURS).glob("*.ckvd"))
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    return path


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_help_json_and_filters(verb: str) -> None:
    result = CliRunner().invoke(app, ["cache", verb, "--help"])
    assert result.exit_code == 0
    assert "--json" in result.stdout
    assert "--cache" in result.stdout
    filters = [option in result.stdout for option in ("--market", "--kind", "--interval", "* and ?")]
    assert all(filters) == (verb not in ("info", "check-lock"))


def test_list_shows_series_as_lines_and_as_json(folder: CacheFolder) -> None:
    lines = run(folder, "list").splitlines()
    assert lines[0].split("\t")[:4] == ["series", "span", "holes", "bars"]
    assert [line.split("\t")[0] for line in lines[1:]] == ["spot/klines/BNBBTC/1s", "spot/klines/BTCUSDT/1h"]
    (series,) = run_json(folder, "list", "btc*", "-m", "spot", "-k", "klines", "-i", "1h")
    assert series["bar_count"] == 743
    assert series["origins"] == {"vision-monthly": 1}


WORDS_OF_CHECKS = {
    "list": (),
    "stats": (),
    "gaps": (),
    "verify": (),
    "repair": (),
    "audit": ("--vision-url", str(SAMPLES)),
    "pack": (),
    "export": ("--to", "exported"),
    "lock": ("bars.lock",),
}


@pytest.mark.parametrize("verb", WORDS_OF_CHECKS)
def test_what_is_not_in_the_cache_is_no_success(
    folder: CacheFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, verb: str
) -> None:
    monkeypatch.chdir(tmp_path)
    nowhere = CacheFolder(tmp_path / "nowhere")
    words = (verb, *WORDS_OF_CHECKS[verb])
    for place, filters in ((folder, ("NOPE",)), (folder, ("-m", "um")), (nowhere, ()), (nowhere, ("--json",))):
        result = run_any(place, *words, *filters)
        assert (result.stdout, result.stderr) == ("", f"ckvd: nothing of that is in the cache {place.root}\n")
    assert [path.name for path in tmp_path.iterdir()] == ["cache"]


def test_a_cache_that_is_there_may_be_empty(tmp_path: Path) -> None:
    empty = CacheFolder(tmp_path)
    assert run_json(empty, "list") == []
    assert run(empty, "verify").startswith("0 errors, 0 warnings")
    assert "nothing of that" in run_any(empty, "verify", "BTCUSDT").stderr


def test_a_month_may_be_named_as_the_exchange_does(tmp_path: Path) -> None:
    folder = CacheFolder(tmp_path / "cache")
    year = Span.of("2023-01-01", "2024-01-01")
    for interval in ("1mo", "1m"):
        series = SeriesKey.of("BTCUSDT", interval)
        SeriesStore(folder, series).put(regular_table(series, year if interval == "1mo" else DAY), year)
    for name in ("1mo", "1M"):
        assert [one["interval"] for one in run_json(folder, "list", "-i", name)] == ["1mo"]
        assert run_json(folder, "info", "BTCUSDT", "-i", name)["interval"] == "1mo"
    assert len(run_json(folder, "list", "-i", "1M", "-i", "1m")) == 2
    assert "unknown interval '7m': expected one of 1s, 1m" in run_any(folder, "list", "-i", "7m", status=2).stderr


def test_info_shows_segments_and_sources(folder: CacheFolder) -> None:
    assert "source data/spot/monthly/klines/BTCUSDT/1h/BTCUSDT-1h-2023-03.zip" in run(
        folder, "info", "BTCUSDT", "-i", "1h"
    )
    described = run_json(folder, "info", "btcusdt", "-i", "1h")
    assert described["segments"][0]["row_count"] == 743
    assert described["findings"] == []
    run(folder, "info", "ETHUSDT", "-i", "1h", status=1)
    run(folder, "info", "BTC/USDT", "-i", "1h", status=2)


def test_stats_sum_up(folder: CacheFolder) -> None:
    assert "packing would merge 0 segments" in run(folder, "stats")
    groups = run_json(folder, "stats")["groups"]
    assert sum(group["bar_count"] for group in groups) == 743 + 86_400


def test_gaps_show_spans_and_a_calendar(folder: CacheFolder) -> None:
    text = run(folder, "gaps", "BTCUSDT")
    assert "2023-03-24T13:00Z..2023-03-24T14:00Z 1 bar" in text
    assert "2023   9" in text
    (report,) = run_json(folder, "gaps", "BTCUSDT", "--start", "2023-02-28", "--end", "2023-03-02", status=1)
    assert report["bar_counts"] == {"not fetched": 24}


@pytest.mark.parametrize("span", [("--start", "2023-04-01"), ("--end", "2023-03-01")])
def test_gaps_beyond_the_ends_of_a_series_are_not_said_to_be_none(
    folder: CacheFolder, span: tuple[str, ...]
) -> None:
    assert "nothing of that is in the cache" in run_any(folder, "gaps", "BTCUSDT", *span).stderr
    whole = (*span, "--start", "2023-02-28", "--end", "2023-04-02")
    (report,) = run_json(folder, "gaps", "BTCUSDT", *whole, status=1)
    assert report["bar_counts"]["not fetched"] == 48


def test_a_calendar_has_a_sign_for_each_month() -> None:
    start_ms = [
        Span.of(month, "2025-01-01").start_ms for month in ("2023-11-01", "2023-12-01", "2024-01-01", "2024-02-01")
    ]
    fills = [MonthFill(ms, 100, count) for ms, count in zip(start_ms, (100, 99, 1, 0), strict=True)]
    assert draw_calendar(tuple(fills)) == ["     JFMAMJJASOND", "2023           #9", "2024 1.          "]


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


def test_repair_without_fetching_tells_what_is_lost(folder: CacheFolder) -> None:
    damage(folder)
    document = run_json(folder, "repair", "--no-fetch", "--yes", status=1)
    assert document["unrepaired"] == {str(HOURS): [[MARCH.start_ms, MARCH.end_ms]]}


def test_audit_compares_with_the_source(folder: CacheFolder, tmp_path: Path) -> None:
    assert run(folder, "audit", "--vision-url", str(SAMPLES)).endswith("2 unchanged\n")
    assert "1 unchanged" in run(folder, "audit", "BTCUSDT", "--days", "--vision-url", str(SAMPLES))
    mirror = shutil.copytree(SAMPLES, tmp_path / "mirror")
    (mirror / "data/spot/monthly/klines/BTCUSDT/1h/BTCUSDT-1h-2023-03.zip").unlink()
    found = run_json(folder, "audit", "BTCUSDT", "--vision-url", str(mirror), status=1)
    assert found[0]["change"] == "gone"


def test_pack_shows_and_does(tmp_path: Path) -> None:
    folder = CacheFolder(tmp_path / "cache")
    for period in days_of(Span.of("2023-01-01", "2023-01-21")):
        SeriesStore(folder, HOURS).put(regular_table(HOURS, period.span), period.span)
    assert "would merge or remove 20 files" in run(folder, "pack")
    assert len(folder.segments(HOURS)) == 20
    (report,) = run_json(folder, "pack", "--yes")
    assert len(report["packed"]) == 1
    assert len(report["removed"]) == 20
    assert "0 segments made, 0 files" in run(folder, "pack", "--yes")


def test_prune_shows_and_does(folder: CacheFolder) -> None:
    run(folder, "prune", status=2)
    run(folder, "prune", "--before", "2023-03-10", "--start", "2023-01-01", status=2)
    run(folder, "prune", "--max-size", "much", status=2)
    text = run(folder, "prune", "BTCUSDT", "--before", "2023-03-11")
    assert "would remove spot/klines/BTCUSDT/1h 1970-01-01..2023-03-11: 240 bars, 1 file" in text
    assert "1 part written anew" in text
    run(folder, "prune", "BTCUSDT", "--before", "2023-03-11", "--yes")
    with KlineCache(folder.root) as cache:
        assert cache.coverage(HOURS) == (Span.of("2023-03-11", "2023-04-01"),)
    run(folder, "prune", "--max-size", "0", "--yes")
    assert run_json(folder, "list") == []


def test_prune_removes_leftovers_and_quarantine(folder: CacheFolder) -> None:
    damage(folder)
    run(folder, "repair", "--no-fetch", "--yes", status=1)
    leftover = folder.root / ".download-x"
    leftover.mkdir()
    past_s = time.time() - 10 * 86_400
    os.utime(leftover, (past_s, past_s))
    document = run_json(folder, "prune", "--leftovers", "--quarantine")
    assert (len(document["leftovers"]), len(document["quarantine"])) == (1, 1)
    assert leftover.exists()
    run(folder, "prune", "--leftovers", "--quarantine", "--yes")
    assert not leftover.exists()
    assert run_json(folder, "quarantine") == []
    assert len(run_json(folder, "list")) == 1


def test_export_writes_files(folder: CacheFolder, tmp_path: Path) -> None:
    out = tmp_path / "out"
    (file,) = run_json(folder, "export", "BTCUSDT", "--to", str(out))
    assert Path(file["path"]).read_bytes().count(b"\n") == 743
    run(folder, "export", "BTCUSDT", "--to", str(out), status=1)
    run(folder, "export", "BTCUSDT", "--to", str(out), "--overwrite", "--format", "npz")
    run(folder, "export", "ETHUSDT", "--to", str(out), status=1)


@pytest.mark.parametrize(
    ("span", "exported"),
    [
        (("--start", "2023-03-30"), [("2023-03-30", "2023-04-01")]),
        (("--start", "2023-02-01"), [("2023-03-01", "2023-03-11"), ("2023-03-21", "2023-04-01")]),
        (("--end", "2023-03-02"), [("2023-03-01", "2023-03-02")]),
        (("--end", "2023-03-22"), [("2023-03-01", "2023-03-11"), ("2023-03-21", "2023-03-22")]),
        (("--start", "2023-03-01", "--end", "2023-03-02"), [("2023-03-01", "2023-03-02")]),
        (("--start", "2023-04-01"), None),
        (("--end", "2023-03-01"), None),
        (("--start", "2023-02-01", "--end", "2023-03-02"), None),
    ],
)
def test_export_takes_an_open_end_as_that_of_the_series(
    folder: CacheFolder, tmp_path: Path, span: tuple[str, ...], exported: list[tuple[str, str]] | None
) -> None:
    run(folder, "prune", "BTCUSDT", "--start", "2023-03-11", "--end", "2023-03-21", "--yes")
    words = ("export", "BTCUSDT", "--to", str(tmp_path / "out"), *span)
    if exported is None:
        run(folder, *words, status=1)
        assert not (tmp_path / "out").exists()
    else:
        files = run_json(folder, *words)
        spans = [Span.of(start, end) for start, end in exported]
        assert [file["span"] for file in files] == [[part.start_ms, part.end_ms] for part in spans]


def test_a_lock_tells_whether_bars_are_the_same(folder: CacheFolder, tmp_path: Path) -> None:
    lock = tmp_path / "data.lock"
    assert "2 spans, 87,143 bars" in run(folder, "lock", str(lock))
    assert run(folder, "lock", "-") == lock.read_text()
    shown = [f"{one['sha256']} {one['bar_count']}" for one in run_json(folder, "lock", "-")]
    assert shown == [" ".join(line.split()[:2]) for line in lock.read_text().splitlines()[1:]]
    assert run(folder, "check-lock", str(lock)).count("same:") == 2
    run(folder, "prune", "BNBBTC", "--yes")
    assert [line["verdict"] for line in run_json(folder, "check-lock", str(lock), status=1)] == ["missing", "same"]
    run(folder, "lock", str(lock), "NONE", status=1)
    run(folder, "check-lock", str(tmp_path / "none"), status=1)


def test_a_lock_replaces_a_file_only_where_it_is_told_to(folder: CacheFolder, tmp_path: Path) -> None:
    strategy = tmp_path / "strategy.py"
    strategy.write_text("print('years of work')\n", encoding="utf-8")
    result = run_any(folder, "lock", str(strategy))
    assert (result.exit_code, result.stdout) == (1, "")
    assert f"{strategy} is there already" in result.stderr
    assert strategy.read_text(encoding="utf-8") == "print('years of work')\n"
    run(folder, "lock", str(strategy), "--overwrite")
    assert strategy.read_text(encoding="utf-8") == run(folder, "lock", "-")


@pytest.mark.parametrize("symbol", ["BTCUSDT", "btcusdt", "BTC*"])
def test_a_lock_is_not_called_like_a_symbol_of_the_cache(
    folder: CacheFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, symbol: str
) -> None:
    monkeypatch.chdir(tmp_path)
    assert "name the file first" in run_any(folder, "lock", symbol, status=2).stderr
    assert [path.name for path in tmp_path.iterdir()] == ["cache"]
    run(folder, "lock", "NONE.lock", symbol)

"""`ckvd cache pack` and `prune`."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING

import pytest

from ckvd.cache import CacheFolder, KlineCache, SeriesStore
from ckvd.model.calendar import days_of
from ckvd.model.timespan import Span
from cli.cache.run import HOURS, damage, run, run_any, run_json
from support.tables import regular_table

if TYPE_CHECKING:
    from pathlib import Path


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


def test_pack_names_each_merge_and_what_it_refuses(tmp_path: Path) -> None:
    folder = CacheFolder(tmp_path / "cache")
    for period in days_of(Span.of("2023-01-01", "2023-01-21")):
        SeriesStore(folder, HOURS).put(regular_table(HOURS, period.span), period.span)
    merge = f"{HOURS}: 20 segments of 480 bars in 2023-01-01..2023-01-21\n"
    shown = run(folder, "pack")
    assert shown.startswith(f"{merge}would merge or remove 20 files of ")
    assert shown.endswith("; add --yes to do it\n")
    path = damage(folder)
    result = run_any(folder, "pack", "--yes")
    assert path.name in result.stderr
    assert result.stdout.endswith("0 segments made, 0 files of 0 B removed\n")
    (report,) = run_json(folder, "pack", "--yes", status=1)
    assert path.name in report["refusals"][0]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ((), "say what to remove: series, a span, --before, --max-size, --leftovers or --quarantine"),
        (("--before", "2023-03-01", "--end", "2023-04-01"), "choose one of --start/--end, --before and --max-size"),
        (("--max-size", "1 GB", "--end", "2023-04-01"), "choose one of --start/--end, --before and --max-size"),
        (("--max-size", "1 XB"), "'1 XB' is no size: expected a number with B, kB, MB, GB or TB"),
        (("--before", "2023-03-01T00:00:00.5Z"), "segments start and end on whole seconds"),
    ],
)
def test_prune_refuses_contradictory_options(folder: CacheFolder, options: tuple[str, ...], said: str) -> None:
    result = run_any(folder, "prune", *options, status=2)
    assert result.stdout == ""
    assert result.stderr.startswith(f"ckvd: {said}")


@pytest.mark.parametrize(("size", "is_too_small"), [("1.5 GB", False), ("2mb", True), ("0", True)])
def test_prune_understands_sizes(folder: CacheFolder, size: str, is_too_small: bool) -> None:
    shown = run(folder, "prune", "--max-size", size)
    assert ("add --yes" in shown) == is_too_small

"""`ckvd cache pack` and `prune`."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING

from ckvd.cache import CacheFolder, KlineCache, SeriesStore
from ckvd.model.calendar import days_of
from ckvd.model.timespan import Span
from cli.cache.run import HOURS, damage, run, run_json
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

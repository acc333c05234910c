"""`ckvd cache list`, `info`, `stats` and `gaps`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from ckvd.cache import CacheFolder, SeriesStore
from ckvd.cli.cache.look import draw_calendar
from ckvd.maintenance.gap_report import MonthFill
from ckvd.model.market import SeriesKey
from ckvd.model.provenance import Absence, Reason
from ckvd.model.timespan import Span
from cli.cache.run import DAY, HOURS, MARCH, run, run_any, run_json
from support.tables import regular_table

if TYPE_CHECKING:
    from pathlib import Path


def test_list_shows_series_as_lines_and_as_json(folder: CacheFolder) -> None:
    lines = run(folder, "list").splitlines()
    assert lines[0].split("\t")[:5] == ["series", "span", "holes", "bars", "missing"]
    assert [line.split("\t")[2:5] for line in lines[1:]] == [["0", "86400", "0"], ["0", "743", "1"]]
    assert [line.split("\t")[0] for line in lines[1:]] == ["spot/klines/BNBBTC/1s", "spot/klines/BTCUSDT/1h"]
    (series,) = run_json(folder, "list", "btc*", "-m", "spot", "-k", "klines", "-i", "1h")
    assert (series["bar_count"], series["missing_bar_count"]) == (743, 1)
    assert series["origins"] == {"vision-monthly": 1}


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
def test_a_span_outside_of_a_series_is_not_reported_as_without_gaps(
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


def test_info_shows_the_findings_of_a_quick_look(folder: CacheFolder) -> None:
    (folder.series_path(HOURS) / "notes.txt").write_text("mine", encoding="utf-8")
    lines = run(folder, "info", "BTCUSDT", "-i", "1h").splitlines()
    assert lines[:2] == [f"{HOURS}: 743 bars, {lines[0].split(', ')[1]}", f"covers {MARCH}"]
    assert lines[-1].startswith("note: notes.txt: ")


def test_info_shows_when_a_segment_is_due_again(tmp_path: Path) -> None:
    folder = CacheFolder(tmp_path / "cache")
    absence = Absence(DAY.start_ms, DAY.end_ms, Reason.NOT_FETCHED, MARCH.end_ms)
    SeriesStore(folder, HOURS).put(
        regular_table(HOURS, Span(0, 0)), DAY, absences=[absence], recheck_ms=MARCH.end_ms
    )
    lines = run(folder, "info", "BTCUSDT", "-i", "1h").splitlines()
    assert "covers 2023-03-01..2023-03-02" in lines
    assert any(line.endswith("closed, ask again 2023-04-01") for line in lines)
    assert "absent 2023-03-01..2023-03-02 not fetched, ask again 2023-04-01" in lines


def test_stats_of_an_empty_cache_have_no_ages(tmp_path: Path) -> None:
    assert "written from" not in run(CacheFolder(tmp_path), "stats")


def test_gaps_pass_over_series_without_segments(folder: CacheFolder) -> None:
    folder.make_series_path(SeriesKey.of("ETHUSDT", "1h"))
    shown = run(folder, "gaps", "*USDT", "--no-calendar").splitlines()
    assert shown == [
        f"{HOURS} {MARCH}: 1 not in archive",
        "  2023-03-24T13:00Z..2023-03-24T14:00Z 1 bar not in archive",
    ]
    assert "nothing of that" in run_any(folder, "gaps", "ETHUSDT").stderr

"""`ckvd cache audit --against` and `repair --prefer`: wrong bars are named with their cells, and replaced."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from cli.cache.run import run, run_any, run_json
from support.venue import HOURS, Venue
from support.wrong_month import JANUARY, WrongMonth

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

MONTH = "data/spot/monthly/klines/BTCUSDT/1h/BTCUSDT-1h-2023-01.zip"
DAY = "data/spot/daily/klines/BTCUSDT/1h/BTCUSDT-1h-2023-01-10.zip"


@pytest.fixture
def wrong(tmp_path: Path) -> Iterator[WrongMonth]:
    with Venue(tmp_path, "2023-06-20T10:30") as venue:
        yield WrongMonth(venue)


def where(wrong: WrongMonth) -> list[str]:
    return ["--vision-url", str(wrong.venue.root), "--rest-url", wrong.venue.exchange.url]


def test_audit_against_days_names_the_bars_the_cells_and_the_sources(wrong: WrongMonth) -> None:
    shown = run(wrong.folder, "audit", "--against", "days", *where(wrong), status=1).splitlines()
    numbers = f"19 bars differ, 0 only in {DAY}, 0 only in the cache, from {MONTH}"
    assert shown[0] == f"{HOURS} 2023-01-10..2023-01-11: differs: {numbers}"
    right = wrong.wrong[0]
    assert shown[1] == (
        f"  2023-01-10T05:00Z high 9999.5 -> {float(right[2])}, volume 99999.125 -> {float(right[5])}"
    )
    assert "  and more that differ: see --json" in shown
    assert shown[-1] == "744 bars compared, 28 agrees, 3 differs"


def test_repair_prefers_days_only_when_it_is_told_to(wrong: WrongMonth) -> None:
    before = wrong.folder.segments(HOURS)
    planned = run(wrong.folder, "repair", "--prefer", "days", *where(wrong), status=1)
    assert planned.endswith("would replace or add 45 bars; add --yes to do it\n")
    assert wrong.folder.segments(HOURS) == before
    done = run(wrong.folder, "repair", "--prefer", "days", "--yes", *where(wrong))
    assert done.endswith("45 bars replaced or added\n")
    assert "differs, stored: 19 bars" in done
    again = run(wrong.folder, "repair", "--prefer", "days", *where(wrong))
    assert again.endswith("would replace or add 0 bars\n")
    run(wrong.folder, "audit", "--against", "days", *where(wrong))
    run(wrong.folder, "verify")
    info = run(wrong.folder, "info", "BTCUSDT", "-i", "1h").splitlines()
    assert any(line.startswith(f"source {DAY} 24 rows ") and line.endswith(" confirmed preferred") for line in info)
    assert any(line.startswith(f"source {MONTH} 744 rows ") and line.endswith(" confirmed") for line in info)


def test_repair_prefers_the_rest_interface_for_a_span(wrong: WrongMonth) -> None:
    span = ["--start", "2023-01-11", "--end", "2023-01-20"]
    run(wrong.folder, "repair", "--prefer", "rest", *span, "--yes", *where(wrong))
    (one,) = run_json(wrong.folder, "audit", "--against", "rest", *where(wrong), status=1)
    assert one["span"] == [JANUARY.start_ms, JANUARY.end_ms]
    assert one["difference"]["changed_count"] == 19


def test_what_was_not_compared_is_said(wrong: WrongMonth) -> None:
    wrong.venue.unpublish(HOURS, "2023-01-20")
    shown = run(wrong.folder, "audit", "--against", "days", "--start", "2023-01-15", *where(wrong))
    assert f"{HOURS} 2023-01-20..2023-01-21: not compared: 1 day has no daily archive\n" in shown
    wrong.publish_day("2023-01-21", digest="0" * 64)
    result = run_any(wrong.folder, "audit", "--against", "days", "--start", "2023-01-15", *where(wrong))
    assert "ckvd: " in result.stderr
    assert "CHECKSUM" in result.stderr
    nothing = run(wrong.folder, "audit", "--against", "finer", status=1)
    assert "not compared: 744 bars have no complete run of shorter bars in the cache\n" in nothing


@pytest.mark.parametrize(
    "words",
    [
        ("audit", "--against", "days", "--yes"),
        ("audit", "--against", "days", "--thorough"),
        ("audit", "--against", "rest", "--start", "2023-01-01T00:00:00.500"),
        ("audit", "--against", "hours"),
        ("repair", "--prefer", "finer"),
        ("repair", "--start", "2023-01-01"),
    ],
)
def test_what_makes_no_sense_is_refused(wrong: WrongMonth, words: tuple[str, ...]) -> None:
    run_any(wrong.folder, *words, status=2)

"""Whatever is wrong with a file is found."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

import pytest

from ckvd.cache import CacheFolder, SeriesStore
from ckvd.maintenance.verification import Finding, Severity, Trouble, is_clean, verify_cache
from ckvd.model.market import SeriesKey
from ckvd.model.timespan import Span
from support.caches import segment_paths
from support.places import sample_of
from support.tables import BTCUSDT_1M, regular_table

if TYPE_CHECKING:
    from pathlib import Path
HOURS = SeriesKey.of("BTCUSDT", "1h", market="um")
MONTHS = Span.of("2024-12-01", "2025-02-01")


def look(folder: CacheFolder) -> list[Finding]:
    return list(verify_cache(folder))


def test_a_cache_in_order_is_clean(folder: CacheFolder) -> None:
    assert look(folder) == []


@pytest.mark.long
def test_any_damaged_byte_is_found(tmp_path: Path) -> None:
    cache = CacheFolder(tmp_path / "small")
    day = Span.of("2024-01-01", "2024-01-02")
    SeriesStore(cache, SeriesKey.of("BTCUSDT", "1h")).put(regular_table(SeriesKey.of("BTCUSDT", "1h"), day), day)
    (path,) = cache.root.glob("spot/klines/BTCUSDT/1h/*.ckvd")
    genuine = path.read_bytes()
    missed = []
    for position in sample_of(range(len(genuine))):
        path.write_bytes(
            genuine[:position] + bytes([genuine[position] ^ (1 << position % 8)]) + genuine[position + 1 :]
        )
        if is_clean(look(cache)):
            missed.append(position)
    assert missed == []


def test_impossible_and_odd_bars_are_as_published_and_noted(tmp_path: Path) -> None:
    cache = CacheFolder(tmp_path / "odd")
    day = Span.of("2024-01-01", "2024-01-02")
    table = regular_table(
        BTCUSDT_1M,
        day,
        open=2.0,
        high=3.0,
        low=1.0,
        close=2.0,
        volume=1.0,
        taker_buy_volume=0.5,
        quote_volume=1.0,
        taker_buy_quote_volume=0.5,
    )
    table.columns["high"][5] = 1.5
    table.columns["taker_buy_volume"][7] = 2.0
    table.columns["close_time"][9] -= 7
    SeriesStore(cache, BTCUSDT_1M).put(table, day)
    found = {(finding.severity, finding.trouble, finding.bar_count) for finding in look(cache)}
    assert found == {
        (Severity.NOTE, Trouble.IMPOSSIBLE_BARS, 1),
        (Severity.NOTE, Trouble.OFF_GRID, 1),
    }
    assert is_clean(look(cache))
    assert list(verify_cache(cache, is_quick=True)) == []


def test_a_number_that_is_not_finite_was_never_published_and_is_warned_of(tmp_path: Path) -> None:
    cache = CacheFolder(tmp_path / "cache")
    day = Span.of("2024-01-01", "2024-01-02")
    table = regular_table(BTCUSDT_1M, day)
    table.columns["quote_volume"][5] = float("inf")
    table.columns["close"][7] = float("nan")
    SeriesStore(cache, BTCUSDT_1M).put(table, day)
    found = {(finding.severity, finding.trouble, finding.bar_count) for finding in look(cache)}
    assert found == {(Severity.WARNING, Trouble.IMPOSSIBLE_BARS, 2)}


def test_bars_near_the_largest_double_are_finite(tmp_path: Path) -> None:
    cache = CacheFolder(tmp_path / "cache")
    day = Span.of("2024-01-01", "2024-01-02")
    names = ("open", "high", "low", "close", "volume", "quote_volume")
    columns = dict.fromkeys(names, 1e308) | {"taker_buy_volume": 0.0, "taker_buy_quote_volume": 0.0}
    SeriesStore(cache, BTCUSDT_1M).put(regular_table(BTCUSDT_1M, day, **columns), day)
    assert look(cache) == []


def test_two_segments_of_one_revision_and_strangers_are_found(folder: CacheFolder) -> None:
    one = segment_paths(folder)[0]
    revision = one.stem.rpartition("-")[2]
    shutil.copy(one, one.with_name(f"20241201T000000Z-20241202T000000Z-{revision}.ckvd"))
    one.with_name("notes.txt").write_text("mine")
    troubles = [finding.trouble for finding in look(folder)]
    assert troubles == [Trouble.STRANGER, Trouble.SAME_REVISION, Trouble.SWAPPED]

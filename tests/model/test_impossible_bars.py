"""Bars that no market can make are found, by any rule, and no others."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ckvd.acquisition.ingest import expected_of
from ckvd.decode.decode import decode_archive
from ckvd.model.impossible_bars import broken_rules, impossible_bars
from ckvd.model.market import Kind, SeriesKey
from ckvd.vision.name import ArchiveName
from support.impossible import is_impossible
from support.strategies import BAR_KINDS
from support.tables import make_table

if TYPE_CHECKING:
    from pathlib import Path

    from ckvd.model.table import KlineTable

SPOT = SeriesKey.of("BTCUSDT", "1m")
COIN = SeriesKey.of("BTCUSD_PERP", "1m", market="cm")
PRICES = [SeriesKey.of("BTCUSDT", "1m", market="um", kind=kind) for kind in BAR_KINDS if kind is not Kind.KLINES]
PREMIUM = SeriesKey.of("BTCUSDT", "1m", market="um", kind=Kind.PREMIUM_INDEX)

SOUND = {
    "open": 2.0, "high": 4.0, "low": 1.0, "close": 3.0, "volume": 5.0, "count": 6, "taker_buy_volume": 5.0
}  # fmt: skip


def bar(series: SeriesKey, **changes: float) -> KlineTable:
    value = "base_volume" if series is COIN else "quote_volume"
    taker = "taker_buy_base_volume" if series is COIN else "taker_buy_quote_volume"
    names = {"value": value, "taker_value": taker}
    cells: dict[str, Any] = SOUND | {value: 7.0, taker: 7.0}
    return make_table(series, [0], **cells | {names.get(name, name): cell for name, cell in changes.items()})


def rules_of(table: KlineTable) -> set[str]:
    found = {rule for rule, broken in broken_rules(table.column, table.series).items() if broken.any()}
    assert impossible_bars(table.column, table.series).tolist() == [bool(found)]
    return found


HIGH, LOW = "a high that is not the highest", "a low that is not the lowest"
ZERO, TAKERS = "a price of zero or below", "takers bought more than was traded"
NEGATIVE, EMPTY = "a negative volume or count", "trades without a volume"


@pytest.mark.parametrize(
    ("changes", "rules"),
    [
        ({}, set()),
        ({"open": 1.0, "high": 1.0, "close": 1.0}, set()),
        ({"high": 2.5}, {HIGH}),
        ({"low": 2.5}, {LOW}),
        ({"low": 5.0}, {HIGH, LOW}),
        ({"open": 4.5}, {HIGH}),
        ({"close": 0.5}, {LOW}),
        ({"close_time": -1}, {"closes before it opens"}),
        ({"low": 0.0}, {ZERO}),
        ({"low": -0.0}, {ZERO}),
        ({"open": 0.0, "high": 0.0, "low": 0.0, "close": 0.0}, {ZERO}),
        ({"taker_buy_volume": 5.5}, {TAKERS}),
        ({"taker_value": 7.5}, {TAKERS}),
        ({"count": -1}, {NEGATIVE}),
        ({"taker_buy_volume": -1.0}, {NEGATIVE}),
        ({"taker_value": -1.0}, {NEGATIVE}),
        ({"volume": 0.0, "taker_buy_volume": 0.0}, {EMPTY}),
        ({"volume": 0.0, "taker_buy_volume": 0.0, "count": 0}, set()),
        # Both volumes are rounded, and a price may be that small.
        ({"value": 0.0, "taker_value": 0.0}, set()),
    ],
)
def test_each_rule_has_its_name(changes: dict[str, float], rules: set[str]) -> None:
    for series in (SPOT, COIN):
        assert rules_of(bar(series, **changes)) == rules


@pytest.mark.parametrize("series", PRICES)
def test_the_volumes_of_sampled_prices_mean_nothing(series: SeriesKey) -> None:
    odd = {"volume": 0.0, "taker_buy_volume": 9.0, "taker_value": 9.0, "count": 60}
    assert rules_of(bar(series, **odd)) == set()
    assert rules_of(bar(series, high=2.5)) == {HIGH}


def test_a_premium_may_be_zero_or_negative() -> None:
    negative = {"open": -0.2, "high": 0.0, "low": -0.3, "close": -0.1}
    assert rules_of(bar(PREMIUM, **negative)) == set()
    assert all(ZERO in rules_of(bar(series, **negative)) for series in PRICES if series != PREMIUM)


CELLS = st.sampled_from([-1.0, -0.0, 0.0, 1.0, 2.0, 3.0])
NAMES = ("open", "high", "low", "close", "volume", "count", "taker_buy_volume", "value", "taker_value")


@given(st.sampled_from([SPOT, COIN, *PRICES]), st.fixed_dictionaries(dict.fromkeys(NAMES, CELLS)))
def test_a_bar_is_impossible_as_the_rules_one_by_one_say(series: SeriesKey, cells: dict[str, float]) -> None:
    table = bar(series, **cells)
    assert bool(rules_of(table)) == is_impossible(table, 0)


@pytest.mark.long
def test_no_bar_of_a_real_archive_is_impossible(shared_data: Path) -> None:
    root, row_count = shared_data / "vision", 0
    for path in root.rglob("*.zip"):
        name = ArchiveName.of_path(path.relative_to(root).as_posix())
        assert name is not None
        decoded = decode_archive(path.read_bytes(), expected_of(name))
        assert decoded.impossible_open_times.tolist() == [], path
        row_count += decoded.row_count
        if name.series.kind is Kind.KLINES:
            volume, count = decoded.table.column("volume"), decoded.table.column("count")
            assert np.array_equal(volume == 0, count == 0), path
    assert row_count == 1_440_184

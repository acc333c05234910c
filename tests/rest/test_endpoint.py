"""The symbol or pair of a request, and its weight."""

from __future__ import annotations

import pytest

from ckvd.model.market import Market, SeriesKey
from ckvd.rest.endpoint import RULES, Endpoint


@pytest.mark.parametrize("symbol", ["BTCUSDT_260626", "BTCUSD_PERP", "ICPUSDT_SETTLED"])
def test_an_index_is_that_of_the_pair(symbol: str) -> None:
    series = SeriesKey.of(symbol, "1h", market="um", kind="indexPriceKlines")
    pair = symbol if symbol.endswith("SETTLED") else symbol.partition("_")[0]
    assert Endpoint.of(series).subject == ("pair", pair)


def test_a_small_request_weighs_little() -> None:
    weights = {
        market: [rules.weight_of(n) for n in (1, 99, 100, 499, 500, 1000)] for market, rules in RULES.items()
    }
    assert weights[Market.SPOT] == [2] * 6
    assert weights[Market.UM] == weights[Market.CM] == [1, 1, 2, 2, 5, 5]
    assert {market: rules.page_rows for market, rules in RULES.items()} == {"spot": 1000, "um": 499, "cm": 499}

"""The symbol or pair of a request, and its weight."""

from __future__ import annotations

import pytest

from ckvd.model.market import Kind, Market, SeriesKey
from ckvd.rest.endpoint import RULES, Endpoint


@pytest.mark.parametrize("symbol", ["BTCUSDT", "ICPUSDT_SETTLED"])
@pytest.mark.parametrize("market", ["um", "cm"])
def test_an_index_is_asked_for_by_its_pair_and_all_else_by_symbol(symbol: str, market: str) -> None:
    for kind in set(Kind) - {Kind.METRICS}:
        interval = "1h" if kind.is_bars else None
        subject = Endpoint.of(SeriesKey.of(symbol, interval, market=market, kind=kind)).subject
        assert subject == ("pair" if kind is Kind.INDEX_PRICE else "symbol", symbol)


def test_a_small_request_weighs_little() -> None:
    weights = {
        market: [rules.weight_of(n) for n in (1, 99, 100, 499, 500, 1000)] for market, rules in RULES.items()
    }
    assert weights[Market.SPOT] == [2] * 6
    assert weights[Market.UM] == weights[Market.CM] == [1, 1, 2, 2, 5, 5]
    assert {market: rules.page_rows for market, rules in RULES.items()} == {"spot": 1000, "um": 499, "cm": 499}

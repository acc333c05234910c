"""What names of symbols tell, and that real names tell it right."""

from __future__ import annotations

import pytest

from ckvd.model.market import ContractType, Market
from ckvd.model.timespan import parse_time
from ckvd.universe.ticker import is_leveraged, multiplier_of, parse_ticker, split_pair
from support.universes import HAS_REAL, real_info

real = pytest.mark.skipif(not HAS_REAL, reason="the recorded answers of the exchange are not there")


@pytest.mark.parametrize(
    ("symbol", "name", "count"),
    [
        ("AERGOUSDTSETTLED", "AERGOUSDT", 1),
        ("AERGOUSDTSETTLEDSETTLED", "AERGOUSDT", 2),
        ("ICPUSDT_SETTLED", "ICPUSDT", 1),
        ("ICPUSDT_SETTLED_SETTLED", "ICPUSDT", 2),
        ("ICPUSDT", "ICPUSDT", 0),
        ("SETTLED", "SETTLED", 0),
    ],
)
def test_a_settled_name_belongs_to_the_ticker_that_it_was(symbol: str, name: str, count: int) -> None:
    ticker = parse_ticker(symbol, Market.UM)
    assert (ticker.name, ticker.settled_count) == (name, count)


@pytest.mark.parametrize(
    ("symbol", "market", "base", "quote", "contract", "delivery"),
    [
        ("BTCUSDT", Market.SPOT, "BTC", "USDT", ContractType.SPOT, None),
        ("BTCUSDT", Market.UM, "BTC", "USDT", ContractType.PERPETUAL, None),
        ("BTCUSDT_260626", Market.UM, "BTC", "USDT", ContractType.QUARTERLY, "2026-06-26T08:00Z"),
        ("BTCUSDT_269926", Market.UM, "BTC", "USDT", ContractType.QUARTERLY, None),
        ("BTCUSD_PERP", Market.CM, "BTC", "USD", ContractType.PERPETUAL, None),
        ("BTCUSD_210924", Market.CM, "BTC", "USD", ContractType.QUARTERLY, "2021-09-24T08:00Z"),
        ("BTCUSD", Market.CM, "BTC", "USD", ContractType.UNKNOWN, None),
        ("ADAEUR", Market.SPOT, "ADA", "EUR", ContractType.SPOT, None),
        ("BTCU", Market.UM, "BTC", "U", ContractType.PERPETUAL, None),
        ("SPCXUSD1", Market.UM, "SPCX", "USD1", ContractType.PERPETUAL, None),
        ("龙虾USDT", Market.UM, "龙虾", "USDT", ContractType.PERPETUAL, None),
        ("IDOL", Market.UM, "IDOL", "", ContractType.PERPETUAL, None),
    ],
)
def test_base_quote_contract_and_delivery(
    symbol: str, market: Market, base: str, quote: str, contract: ContractType, delivery: str | None
) -> None:
    ticker = parse_ticker(symbol, market)
    assert (ticker.base, ticker.quote, ticker.contract) == (base, quote, contract)
    assert ticker.delivery_ms == (None if delivery is None else parse_time(delivery))


@pytest.mark.parametrize(
    ("base", "multiplier"),
    [
        ("1000PEPE", 1000),
        ("1000000MOG", 1_000_000),
        ("1MBABYDOGE", 1_000_000),
        ("1000X", 1000),
        ("1INCH", 1),
        ("100X", 1),
        ("1000", 1),
        ("BTC", 1),
    ],
)
def test_the_multiplier_of_a_base(base: str, multiplier: int) -> None:
    assert multiplier_of(base) == multiplier


@real
def test_pairs_of_the_recorded_answers_are_split_as_the_exchange_splits_them() -> None:
    spot = real_info("spot_2021-10-12", Market.SPOT).contracts.values()
    assert [one.symbol for one in spot if split_pair(one.symbol, Market.SPOT) != (one.base, one.quote)] == []
    for market, name in ((Market.UM, "fapi_2026-03-31"), (Market.CM, "dapi_2021-07-21")):
        tickers = [(one, parse_ticker(one.symbol, market)) for one in real_info(name, market).contracts.values()]
        wrong = [one.symbol for one, ticker in tickers if (ticker.base, ticker.quote) != (one.base, one.quote)]
        assert wrong == (["IDOL"] if market is Market.UM else [])
        wrong = [
            one.symbol for one, ticker in tickers if ticker.delivery_ms and ticker.delivery_ms != one.delivery_ms
        ]
        assert wrong == []


@real
def test_leveraged_tokens_are_told_from_coins_whose_names_end_alike() -> None:
    contracts = real_info("spot_2021-10-12", Market.SPOT).contracts.values()
    leveraged = {one.base for one in contracts if is_leveraged(one.base, Market.SPOT)}
    assert {one.base for one in contracts if "LEVERAGED" in one.permissions} <= leveraged
    others = leveraged - {one.base for one in contracts if "LEVERAGED" in one.permissions}
    assert all(base.endswith(("BULL", "BEAR")) for base in others)
    assert not any(is_leveraged(base, Market.SPOT) for base in ("JUP", "SYRUP", "PUMP", "SUPER"))
    assert not is_leveraged("BTCUP", Market.UM)

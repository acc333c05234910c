"""Answers of `exchangeInfo`: what is read, and what is refused whole."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ckvd.errors import RestAnswerError
from ckvd.model.market import ContractType, Market
from ckvd.universe.exchange_info import parse_exchange_info
from support.universes import HAS_REAL, NO_DELIVERY_MS, entry, info_body, info_of, real_info

real = pytest.mark.skipif(not HAS_REAL, reason="the recorded answers of the exchange are not there")


@pytest.mark.parametrize(
    ("word", "contract"),
    [
        ("PERPETUAL", ContractType.PERPETUAL),
        ("TRADIFI_PERPETUAL", ContractType.TRADFI_PERPETUAL),
        ("CURRENT_QUARTER", ContractType.QUARTERLY),
        ("CURRENT_QUARTER DELIVERING", ContractType.QUARTERLY),
        ("NEXT_QUARTER", ContractType.QUARTERLY),
        ("", ContractType.UNKNOWN),
        ("SOMETHING_NEW", ContractType.UNKNOWN),
    ],
)
def test_contract_types_are_read_with_a_blank_in_them_and_empty(word: str, contract: ContractType) -> None:
    (found,) = info_of(entry("BTCUSDT", contractType=word)).contracts.values()
    assert found.contract is contract


@pytest.mark.parametrize("delivery_ms", [NO_DELIVERY_MS, 4133404802000, 4133408400000, 0, None])
def test_a_delivery_date_of_the_far_future_is_none(delivery_ms: int | None) -> None:
    (found,) = info_of(entry("BTCUSDT", deliveryDate=delivery_ms)).contracts.values()
    assert found.delivery_ms is None


def test_coin_margined_contracts_have_a_contract_status_and_a_size() -> None:
    perpetual = entry("BTCUSD_PERP", "2020-08-10", contractStatus="TRADING", contractSize=100, quoteAsset="USD")
    del perpetual["status"]
    (found,) = info_of(perpetual, market=Market.CM).contracts.values()
    assert (found.status, found.contract_size) == ("TRADING", 100)


def test_permission_sets_of_spot_count_where_permissions_are_empty() -> None:
    spot = {
        "symbol": "ETHBTC",
        "status": "BREAK",
        "permissions": [],
        "permissionSets": [["SPOT", "MARGIN"], ["SPOT", "GRID"]],
    }
    (found,) = info_of(spot, market=Market.SPOT).contracts.values()
    assert (found.permissions, found.contract, found.listed_ms) == (
        ("SPOT", "MARGIN", "GRID"),
        ContractType.SPOT,
        None,
    )


def test_names_that_no_series_can_have_are_named() -> None:
    info = info_of(entry("BTCUSDT"), entry("../../x"))
    assert (list(info.contracts), info.ignored) == (["BTCUSDT"], ("../../x",))


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"", "expected exchangeInfo as JSON"),
        (b"<html>maintenance</html>", "expected exchangeInfo as JSON"),
        (b"[" * 100_000, "expected exchangeInfo as JSON"),
        (b"[]", "expected exchangeInfo as a JSON object"),
        (b"{}", "expected a list of symbols"),
        (b'{"symbols": []}', "expected a list of symbols"),
        (info_body({"symbol": ""}), "row 1: expected a symbol"),
        (info_body(entry("BTCUSDT"), entry("BTCUSDT")), "row 2: it has the symbol BTCUSDT twice"),
        (info_body(entry("BTCUSDT", onboardDate="soon")), "row 1: expected a whole number as onboardDate"),
        (info_body(entry("BTCUSDT", onboardDate=-1)), "row 1: expected a whole number as onboardDate"),
        (info_body(entry("BTCUSDT", status=7)), "row 1: expected text as status"),
        (info_body(entry("BTCUSDT", permissionSets={"a": 1})), "row 1: expected a list as permissionSets"),
        (info_body(entry("BTCUSDT", permissionSets=[[1]])), "row 1: expected words in permissionSets"),
        (info_body({"symbol": "ETHBTC", "status": "TRADING"}), "row 1: ETHBTC is no symbol of market um"),
    ],
)
def test_a_malformed_answer_is_refused_whole(body: bytes, reason: str) -> None:
    with pytest.raises(RestAnswerError, match=f"^https://host/info: {reason}"):
        parse_exchange_info(body, "https://host/info", Market.UM)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


@given(st.sampled_from(sorted(entry("BTCUSDT"))) | st.sampled_from(["permissions", "contractSize"]), JSON)
def test_whatever_stands_in_a_field_the_answer_is_read_or_refused(name: str, value: Any) -> None:
    body = json.dumps({"symbols": [entry("BTCUSDT") | {name: value}]}).encode()
    try:
        info = parse_exchange_info(body, "there", Market.UM)
    except RestAnswerError:
        return
    assert len(info.contracts) + len(info.ignored) == 1


@real
@pytest.mark.parametrize(
    ("name", "market", "count"),
    [
        ("fapi_2025-10-17", Market.UM, 623),
        ("fapi_2026-03-31", Market.UM, 705),
        ("spot_2021-10-12", Market.SPOT, 1695),
        ("dapi_2021-07-21", Market.CM, 36),
    ],
)
def test_every_symbol_of_a_recorded_answer_is_read(name: str, market: Market, count: int) -> None:
    info = real_info(name, market)
    assert (len(info.contracts), info.ignored) == (count, ())
    assert all(one.status and one.base and one.quote for one in info.contracts.values())
    assert all(one.contract is not ContractType.UNKNOWN for one in info.contracts.values())
    others = [other for other in Market if (other is Market.SPOT) != (market is Market.SPOT)]
    for other in others:
        with pytest.raises(RestAnswerError, match=f"is no symbol of market {other}"):
            real_info(name, other)

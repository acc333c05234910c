"""`ExchangeInfo`: the list of all symbols that the exchange gives (`exchangeInfo`), parsed and checked. Pure.

The markets differ: COIN-M has `contractStatus` in place of `status`, spot has neither a listing date nor a contract
type, and its `permissions` are empty since `permissionSets` came. An answer of another shape is refused whole: to
take a part of it for all would delist the rest.

Sources: https://developers.binance.com/docs, and recorded answers of 2021 to 2026.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from ckvd.errors import IdentityError, RestAnswerError, shown
from ckvd.model.market import ContractType, Interval, Kind, Market, SeriesKey

if TYPE_CHECKING:
    from collections.abc import Mapping

# A later delivery date means that there is none: 4133404800000 is usual, and 4133404802000 and others were seen.
_NO_DELIVERY_FROM_MS: Final = 4_102_444_800_000
_TIME_MAX_MS: Final = 1 << 53


class _EntryError(ValueError):
    """An entry that is none."""


@dataclass(frozen=True, slots=True)
class ListedContract:
    """One symbol of `exchangeInfo`.

    Attributes
    ----------
    symbol : str
    base, quote : str
        Empty where the answer leaves them out.
    contract : ContractType
        `UNKNOWN` where the answer does not tell, with an empty or a new type.
    status : str
    listed_ms, delivery_ms : int or None
        Milliseconds; None where there is none.
    contract_size : int or None
    permissions : tuple of str
        `permissions` and all of `permissionSets`, each once.
    """

    symbol: str
    base: str
    quote: str
    contract: ContractType
    status: str
    listed_ms: int | None
    delivery_ms: int | None
    contract_size: int | None
    permissions: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ExchangeInfo:
    """All symbols of a market.

    Attributes
    ----------
    market : Market
    where : str
        Where the answer came from.
    server_ms : int or None
        The time of the exchange when it answered.
    contracts : mapping of str to ListedContract
        By symbol.
    ignored : tuple of str
        Names that no series can have.
    """

    market: Market
    where: str
    server_ms: int | None
    contracts: Mapping[str, ListedContract]
    ignored: tuple[str, ...] = ()


def parse_exchange_info(body: bytes, where: str, market: Market) -> ExchangeInfo:
    """Read an answer.

    Raises
    ------
    RestAnswerError
        It is none, or that of another market. The error names the entry, counted from 1.
    """
    document = _parse_json(body, where)
    symbols = document.get("symbols")
    if not isinstance(symbols, list) or not symbols:
        raise RestAnswerError(where, f"expected a list of symbols in exchangeInfo, found {shown(symbols, 80)!r}")
    contracts: dict[str, ListedContract] = {}
    ignored: list[str] = []
    for row, entry in enumerate(symbols, start=1):
        try:
            contract = _contract_of(entry, market)
        except _EntryError as error:
            raise RestAnswerError(where, str(error), row=row) from None
        if contract.symbol in contracts:
            raise RestAnswerError(where, f"it has the symbol {shown(contract.symbol)} twice", row=row)
        try:
            SeriesKey(market, Kind.KLINES, contract.symbol, Interval.D1)
        except IdentityError:
            ignored.append(contract.symbol)
            continue
        contracts[contract.symbol] = contract
    server_ms = _whole(document, "serverTime") if "serverTime" in document else None
    return ExchangeInfo(market, where, server_ms, contracts, tuple(ignored))


def _parse_json(body: bytes, where: str) -> dict[str, Any]:
    try:
        document = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise RestAnswerError(where, f"expected exchangeInfo as JSON, found {shown(body, 80)!r}") from error
    if not isinstance(document, dict):
        raise RestAnswerError(where, f"expected exchangeInfo as a JSON object, found {shown(body, 80)!r}")
    return document


def _contract_of(entry: object, market: Market) -> ListedContract:
    if not isinstance(entry, dict):
        raise _EntryError(f"expected a JSON object for a symbol, found {shown(entry, 80)!r}")
    symbol = _text(entry, "symbol")
    if not symbol:
        raise _EntryError(f"expected a symbol, found none in {shown(entry, 80)!r}")
    is_spot = market is Market.SPOT
    if is_spot == ("contractType" in entry):
        raise _EntryError(f"{shown(symbol)} is no symbol of market {market}: its contractType tells")
    status = _text(entry, "contractStatus" if "contractStatus" in entry else "status")
    delivery_ms = _optional_time(entry, "deliveryDate")
    size = _whole(entry, "contractSize") if entry.get("contractSize") is not None else None
    return ListedContract(
        symbol,
        _text(entry, "baseAsset"),
        _text(entry, "quoteAsset"),
        ContractType.SPOT if is_spot else _contract_type(_text(entry, "contractType")),
        status,
        _optional_time(entry, "onboardDate"),
        None if delivery_ms is None or delivery_ms >= _NO_DELIVERY_FROM_MS else delivery_ms,
        size,
        _permissions(entry),
    )


def _contract_type(word: str) -> ContractType:
    """The contract type in a word such as `CURRENT_QUARTER DELIVERING`."""
    if "QUARTER" in word or "MONTH" in word:
        return ContractType.QUARTERLY
    if word.startswith("TRADIFI_PERPETUAL"):
        return ContractType.TRADFI_PERPETUAL
    return ContractType.PERPETUAL if word.startswith("PERPETUAL") else ContractType.UNKNOWN


def _text(entry: Mapping[str, Any], name: str) -> str:
    value = entry.get(name, "")
    if not isinstance(value, str):
        raise _EntryError(f"expected text as {name}, found {shown(value, 80)!r}")
    return value


def _whole(entry: Mapping[str, Any], name: str) -> int:
    value = entry[name]
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < _TIME_MAX_MS:
        raise _EntryError(f"expected a whole number as {name}, found {shown(value, 80)!r}")
    return value


def _optional_time(entry: Mapping[str, Any], name: str) -> int | None:
    return (_whole(entry, name) or None) if entry.get(name) is not None else None


def _permissions(entry: Mapping[str, Any]) -> tuple[str, ...]:
    """All permissions. `permissionSets` of spot is a list of lists, that of futures was a list of words."""
    found: list[str] = []
    for name in ("permissions", "permissionSets"):
        given = entry.get(name) or []
        if not isinstance(given, list):
            raise _EntryError(f"expected a list as {name}, found {shown(given, 80)!r}")
        for one in given:
            words = one if isinstance(one, list) else [one]
            if not all(isinstance(word, str) for word in words):
                raise _EntryError(f"expected words in {name}, found {shown(one, 80)!r}")
            found += words
    return tuple(dict.fromkeys(found))

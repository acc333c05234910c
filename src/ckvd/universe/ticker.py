"""Names of symbols: ticker, base, quote, contract type, multiplier and delivery. Pure.

A name tells less than the exchange does: where `exchangeInfo` has a symbol, its base and quote count. Contracts
that were delisted long ago are in listings only, and their names are all there is.
"""

from __future__ import annotations

import datetime as dt
import re
from dataclasses import dataclass
from typing import Final

from ckvd.model.market import ContractType, Market

# Also doubled: the exchange settled AERGOUSDT twice.
_SETTLED: Final = re.compile(r"(?:_?SETTLED)+$")
_DELIVERY: Final = re.compile(r"_(\d{2})(\d{2})(\d{2})$", re.ASCII)
_PERPETUAL_SUFFIX: Final = "_PERP"
# Quarterlies are delivered at 08:00 UTC: so is each of those in recorded answers of `exchangeInfo`.
_DELIVERY_HOUR: Final = 8
_MULTIPLIER: Final = re.compile(r"(10{3,})(?=\D)", re.ASCII)
_MILLION: Final = re.compile(r"1M(?=[A-Z]{3})")

# The quotes that spot and futures had, 2017 to 2026. Of two that fit the longer one is taken. AEUR is left out: it
# is hardly a quote, and would be found in ADAEUR.
_QUOTES: Final = tuple(
    sorted(
        (
            *(
                "USDT",
                "USDC",
                "BUSD",
                "FDUSD",
                "TUSD",
                "USDP",
                "USDS",
                "PAX",
                "USD1",
                "USDE",
                "RLUSD",
                "BFUSD",
                "XUSD",
            ),
            *("EURI", "UST", "DAI", "VAI", "USD"),
            *("BTC", "ETH", "BNB", "XRP", "TRX", "DOGE", "DOT", "SOL"),
            *("EUR", "GBP", "AUD", "TRY", "BRL", "RUB", "UAH", "NGN", "ZAR", "ARS", "PLN", "RON", "JPY", "MXN"),
            *("CZK", "COP", "IDR", "IDRT", "BIDR", "BKRW", "BVND", "GYEN"),
        ),
        key=len,
        reverse=True,
    )
)
# One letter ends many names; it is taken only where nothing else fits.
_LAST_QUOTE: Final = "U"
_COIN_MARGINED_QUOTE: Final = "USD"

# Leveraged tokens of spot. UP and DOWN are those that `exchangeInfo` of 2021-10-12 permits as LEVERAGED, BULL and
# BEAR older ones that it permits as SPOT. Names alone do not tell: JUP, SYRUP and PUMP are coins.
_UP_DOWN: Final = frozenset(
    f"{coin}{way}"
    for coin in (
        *("BTC", "ETH", "BNB", "ADA", "LINK", "XTZ", "TRX", "XRP", "DOT", "EOS", "LTC", "UNI", "SXP", "FIL", "YFI"),
        *("BCH", "AAVE", "SUSHI", "XLM", "1INCH"),
    )
    for way in ("UP", "DOWN")
)
_BULL_BEAR: Final = frozenset(
    f"{coin}{way}" for coin in ("", "ETH", "EOS", "BNB", "XRP") for way in ("BULL", "BEAR")
)
_LEVERAGED: Final = _UP_DOWN | _BULL_BEAR


@dataclass(frozen=True, slots=True)
class Ticker:
    """What the name of a symbol tells.

    Attributes
    ----------
    name : str
        The ticker under which it was traded: the symbol without SETTLED.
    settled_count : int
        How often SETTLED stands at the end of the symbol.
    base, quote : str
        The quote is empty, and the base the whole pair, where no known quote ends it.
    contract : ContractType
    delivery_ms : int or None
        When a quarterly is delivered, milliseconds.
    """

    name: str
    settled_count: int
    base: str
    quote: str
    contract: ContractType
    delivery_ms: int | None


def parse_ticker(symbol: str, market: Market) -> Ticker:
    """Read the name of a symbol."""
    settled = _SETTLED.search(symbol)
    is_settled = settled is not None and settled.start() > 0
    name = symbol[: settled.start()] if settled is not None and is_settled else symbol
    settled_count = settled[0].count("SETTLED") if settled is not None and is_settled else 0
    delivery_ms = None
    pair = name
    if market is Market.SPOT:
        contract = ContractType.SPOT
    elif name.endswith(_PERPETUAL_SUFFIX):
        contract, pair = ContractType.PERPETUAL, name.removesuffix(_PERPETUAL_SUFFIX)
    elif (date := _DELIVERY.search(name)) is not None:
        contract, pair, delivery_ms = ContractType.QUARTERLY, name[: date.start()], _delivery_ms(*date.groups())
    else:
        contract = ContractType.PERPETUAL if market is Market.UM else ContractType.UNKNOWN
    base, quote = split_pair(pair, market)
    return Ticker(name, settled_count, base, quote, contract, delivery_ms)


def _delivery_ms(year: str, month: str, day: str) -> int | None:
    try:
        moment = dt.datetime(2000 + int(year), int(month), int(day), _DELIVERY_HOUR, tzinfo=dt.UTC)
    except ValueError:
        return None
    return int(moment.timestamp()) * 1000


def split_pair(pair: str, market: Market) -> tuple[str, str]:
    """The base and the quote of a pair, by its name."""
    # Without this, BNBUSD of COIN-M would be quoted in BUSD.
    for quote in (_COIN_MARGINED_QUOTE,) if market is Market.CM else (*_QUOTES, _LAST_QUOTE):
        if pair.endswith(quote) and len(pair) > len(quote):
            return pair.removesuffix(quote), quote
    return pair, ""


def multiplier_of(base: str) -> int:
    """The coins in one unit of a base: 1000 of `1000PEPE`, a million of `1MBABYDOGE`, else 1."""
    if match := _MULTIPLIER.match(base):
        return int(match[1])
    return 1_000_000 if _MILLION.match(base) else 1


def is_leveraged(base: str, market: Market) -> bool:
    """Whether a base is a leveraged token of spot."""
    return market is Market.SPOT and base in _LEVERAGED

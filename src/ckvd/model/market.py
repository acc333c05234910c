"""The identity of a series: `SeriesKey`, made of `Market`, `Kind`, symbol and `Interval`.

A `SeriesKey` is validated when it is made, and trusted everywhere else. Of the project, only `errors` and `config`
are imported.
"""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, TypeVar

from ckvd.errors import IdentityError
from ckvd.utils.config import SYMBOL_LENGTH_MAX

SECOND_MS: Final = 1_000
MINUTE_MS: Final = 60 * SECOND_MS
HOUR_MS: Final = 60 * MINUTE_MS
DAY_MS: Final = 24 * HOUR_MS


class Market(StrEnum):
    """A market of the exchange: `spot`, USD-margined futures `um`, coin-margined futures `cm`."""

    SPOT = "spot"
    UM = "um"
    CM = "cm"


class Kind(StrEnum):
    """What bars are made from: trades (`klines`), or one of the prices that only futures have."""

    KLINES = "klines"
    MARK_PRICE = "markPriceKlines"
    INDEX_PRICE = "indexPriceKlines"
    PREMIUM_INDEX = "premiumIndexKlines"


class ContractType(StrEnum):
    """What a symbol trades."""

    SPOT = "spot"
    PERPETUAL = "perpetual"
    TRADFI_PERPETUAL = "tradfi perpetual"  # of a share, an index, a metal
    QUARTERLY = "quarterly"
    UNKNOWN = "unknown"


class Interval(StrEnum):
    """The length of a bar, named as in archive names. The REST interface writes `1M` for `1mo`."""

    S1 = "1s"
    M1 = "1m"
    M3 = "3m"
    M5 = "5m"
    M15 = "15m"
    M30 = "30m"
    H1 = "1h"
    H2 = "2h"
    H4 = "4h"
    H6 = "6h"
    H8 = "8h"
    H12 = "12h"
    D1 = "1d"
    D3 = "3d"
    W1 = "1w"
    MO1 = "1mo"

    @property
    def fixed_ms(self) -> int | None:
        """The length in milliseconds; None for months, whose length varies."""
        return _FIXED_MS[self]

    @property
    def rest_name(self) -> str:
        """The name in the REST interface."""
        return "1M" if self is Interval.MO1 else self.value

    @property
    def has_daily_archives(self) -> bool:
        """Whether daily archives exist. Intervals longer than a day have monthly archives only."""
        return self not in (Interval.D3, Interval.W1, Interval.MO1)


# The units of intervals, except months, whose length varies.
UNIT_MS: Final = {"s": SECOND_MS, "m": MINUTE_MS, "h": HOUR_MS, "d": DAY_MS, "w": 7 * DAY_MS}
_FIXED_MS: Final[dict[Interval, int | None]] = {
    interval: None if interval is Interval.MO1 else int(interval.value[:-1]) * UNIT_MS[interval.value[-1]]
    for interval in Interval
}

# A contract is its pair with a delivery date or PERP. `_SETTLED` is part of the symbol of a pair.
_CONTRACT: Final = re.compile(r"_(?:[0-9]{6}|PERP)$")

_Choice = TypeVar("_Choice", Market, Kind, Interval)


def _choose(choices: type[_Choice], value: str, noun: str) -> _Choice:
    try:
        return choices(value)
    except ValueError:
        known = ", ".join(choice.value for choice in choices)
        raise IdentityError(f"unknown {noun} {value!r}: expected one of {known}") from None


def parse_interval(value: str) -> Interval:
    """Parse an interval: its name in archives, or `1M`, the name of a month in the REST interface.

    Raises
    ------
    IdentityError
        No interval has this name.
    """
    return Interval.MO1 if value == "1M" else _choose(Interval, value, "interval")


def parse_market(value: str) -> Market:
    """Parse the name of a market. Raises IdentityError if there is no such market."""
    return _choose(Market, value, "market")


# https://learn.microsoft.com/windows/win32/fileio/naming-a-file: also before a suffix.
_DEVICES: Final = frozenset(
    {"CON", "PRN", "AUX", "NUL", *(f"{port}{number}" for port in ("COM", "LPT") for number in "0123456789¹²³")}
)


def _validate_symbol(symbol: object) -> None:
    if not isinstance(symbol, str):
        raise IdentityError(f"a symbol is text, found {type(symbol).__name__}: {symbol!r}")
    if not 1 <= len(symbol) <= SYMBOL_LENGTH_MAX:
        raise IdentityError(
            f"symbol {symbol[:80]!r} has {len(symbol)} characters: expected 1 to {SYMBOL_LENGTH_MAX}"
        )
    strange = [char for char in symbol if not (char.isalnum() or char in "_-.")]
    if strange or ".." in symbol or symbol[0] in ".-" or symbol[-1] == ".":
        found = f"found {strange[0]!r}" if strange else "found a leading, trailing or double dot, or a leading dash"
        raise IdentityError(
            f"symbol {symbol!r} cannot name a folder: expected letters, digits, '_', '-' and single dots; {found}"
        )
    if symbol.partition(".")[0].upper() in _DEVICES:
        raise IdentityError(f"symbol {symbol!r} cannot name a folder on every disk: Windows keeps it for a device")
    if unicodedata.normalize("NFC", symbol) != symbol:
        raise IdentityError(f"symbol {symbol!r} is not in Unicode normal form C: normalise it first")
    if (usual := unicodedata.normalize("NFKC", symbol)) != symbol:
        # Full-width letters and the like: the same symbol for people, another one for the exchange.
        raise IdentityError(f"symbol {symbol!r} has letters of a special width or form: did you mean {usual!r}?")
    if symbol != symbol.upper():
        raise IdentityError(f"symbol {symbol!r} has lower-case letters: did you mean {symbol.upper()!r}?")
    if (other := symbol.casefold().upper()) != symbol:  # the capital sharp s, and the dotted I
        raise IdentityError(f"symbol {symbol!r} cannot be told from {other!r} on a disk that ignores case")


def pair_of(symbol: str) -> str:
    """The pair of a contract: `BTCUSD` for `BTCUSD_PERP`, `BTCUSDT` for `BTCUSDT_260626`; a pair is its own."""
    return _CONTRACT.sub("", symbol)


@dataclass(frozen=True, slots=True, order=True)
class SeriesKey:
    """The identity of one series of bars. `SeriesKey.of` makes it from text.

    Attributes
    ----------
    market : Market
    kind : Kind
    symbol : str
        As the exchange writes it: `BTCUSDT`, `BTCUSD_PERP`, `BTCUSDT_260626`. The symbol of index prices is the
        pair (`BTCUSD`), because all contracts of a pair have one index; that of all other kinds is the contract.
    interval : Interval
    """

    market: Market
    kind: Kind
    symbol: str
    interval: Interval

    def __post_init__(self) -> None:
        _validate_symbol(self.symbol)
        if self.market is Market.SPOT and self.kind is not Kind.KLINES:
            raise IdentityError(f"{self.kind} exist for futures only: choose market um or cm, or kind klines")
        if self.market is not Market.SPOT and self.interval is Interval.S1:
            raise IdentityError(f"1s bars exist for spot only, not for market {self.market}")
        if self.kind is Kind.INDEX_PRICE and (pair := pair_of(self.symbol)) != self.symbol:
            raise IdentityError(
                f"{self.symbol!r} is a contract, and {self.kind} are those of its pair: use the symbol {pair!r}"
            )

    @classmethod
    def of(cls, symbol: str, interval: str, *, market: str = "spot", kind: str = "klines") -> SeriesKey:
        """Make a key from text.

        Raises
        ------
        IdentityError
            The market, kind or interval is unknown, they do not fit together, or the symbol cannot name a folder.
        """
        return cls(_choose(Market, market, "market"), _choose(Kind, kind, "kind"), symbol, parse_interval(interval))

    @classmethod
    def of_older(cls, symbol: str, interval: str, *, market: str, kind: str) -> SeriesKey:
        """Make a key from text that an older version of ckvd may have written.

        Names that it accepted beside the one of the series mean that series: index prices by a contract are those
        of its pair, and full-width letters are the usual ones. Errors: see `of`.
        """
        usual = unicodedata.normalize("NFKC", symbol)
        return cls.of(pair_of(usual) if kind == Kind.INDEX_PRICE else usual, interval, market=market, kind=kind)

    def __str__(self) -> str:
        return f"{self.market}/{self.kind}/{self.symbol}/{self.interval}"

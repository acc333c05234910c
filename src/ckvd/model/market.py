"""The identity of a series: `SeriesKey`, made of `Market`, `Kind`, symbol and `Interval`.

A `SeriesKey` is validated when it is made, and trusted everywhere else. Of the project, only `errors` and `config`
are imported.
"""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Final, TypeVar

from ckvd.errors import IdentityError
from ckvd.utils.config import SYMBOL_LENGTH_MAX

if TYPE_CHECKING:
    from collections.abc import Iterable

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
    """What a series holds: bars of trades (`klines`), or what only futures have.

    That is bars of three other prices, the rates that positions pay (`fundingRate`), and open interest with ratios
    (`metrics`).
    """

    KLINES = "klines"
    MARK_PRICE = "markPriceKlines"
    INDEX_PRICE = "indexPriceKlines"
    PREMIUM_INDEX = "premiumIndexKlines"
    FUNDING_RATE = "fundingRate"
    METRICS = "metrics"

    @property
    def is_bars(self) -> bool:
        """Whether rows are bars, which have an open, a close and the prices between."""
        return self is not Kind.FUNDING_RATE and self is not Kind.METRICS


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


# How long the time is that a row of metrics describes.
METRICS_STEP_MS: Final = 5 * MINUTE_MS
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


def parse_market(value: str) -> Market:
    """Parse the name of a market. Raises IdentityError if no market has it."""
    return _choose(Market, value, "market")


def parse_kind(value: str) -> Kind:
    """Parse the name of a kind. Raises IdentityError if no kind has it."""
    return _choose(Kind, value, "kind")


def parse_interval(value: str) -> Interval:
    """Parse an interval: its name in archives, or `1M`, the name of a month in the REST interface.

    Raises
    ------
    IdentityError
        No interval has this name.
    """
    if value == EVENTS:
        raise IdentityError(f"{EVENTS!r} is no interval, but stands in its place where there is none: leave it out")
    return Interval.MO1 if value == "1M" else _choose(Interval, value, "interval")


# https://learn.microsoft.com/windows/win32/fileio/naming-a-file: also before a suffix.
_DEVICES: Final = frozenset(
    {"CON", "PRN", "AUX", "NUL", *(f"{port}{number}" for port in ("COM", "LPT") for number in "0123456789¹²³")}
)

# In place of an interval, in the names of folders.
EVENTS: Final = "events"


def require_symbol(symbol: object) -> None:
    """Raise IdentityError unless a text can be a symbol, and can name a folder on every disk."""
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
    interval : Interval or None
        None for funding rates, which are events. Metrics have 5m.
    """

    market: Market
    kind: Kind
    symbol: str
    interval: Interval | None

    def __post_init__(self) -> None:
        require_symbol(self.symbol)
        if self.market is Market.SPOT and self.kind is not Kind.KLINES:
            raise IdentityError(f"{self.kind} exist for futures only: choose market um or cm, or kind klines")
        if (self.interval is None) is not (self.kind is Kind.FUNDING_RATE):
            raise IdentityError(
                f"{self.kind} need an interval, such as 1h"
                if self.interval is None
                else f"{self.kind} are events and have no interval: leave {self.interval} out"
            )
        if self.kind is Kind.METRICS and self.interval is not Interval.M5:
            raise IdentityError(f"{self.kind} are published every 5m only, not {self.interval}: leave it out")
        if self.market is not Market.SPOT and self.interval is Interval.S1:
            raise IdentityError(f"1s bars exist for spot only, not for market {self.market}")
        if self.kind is Kind.INDEX_PRICE and (pair := pair_of(self.symbol)) != self.symbol:
            raise IdentityError(
                f"{self.symbol!r} is a contract, and {self.kind} are those of its pair: use the symbol {pair!r}"
            )

    @classmethod
    def of(
        cls, symbol: str, interval: str | None = None, *, market: str = "spot", kind: str = "klines"
    ) -> SeriesKey:
        """Make a key from text.

        Parameters
        ----------
        symbol, market, kind : str
        interval : str, optional
            Of bars. Funding rates have none, and metrics only 5m, which may be left out.

        Raises
        ------
        IdentityError
            The market, kind or interval is unknown, they do not fit together, or the symbol cannot name a folder.
        """
        chosen = parse_kind(kind)
        if interval is None and chosen is Kind.METRICS:
            interval = Interval.M5
        length = None if interval is None else parse_interval(interval)
        return cls(parse_market(market), chosen, symbol, length)

    @classmethod
    def of_folder(cls, symbol: str, name: str, *, market: str, kind: str) -> SeriesKey:
        """Make a key from the name of its folder: see `folder_name`. Errors: see `of`."""
        key = cls.of(symbol, None if name == EVENTS else name, market=market, kind=kind)
        if key.folder_name != name:
            raise IdentityError(f"{name!r} is no folder of a series: expected {key.folder_name!r}")
        return key

    @classmethod
    def of_older(cls, symbol: str, interval: str, *, market: str, kind: str) -> SeriesKey:
        """Make a key from text that an older version of ckvd may have written: see `folder_name` for the interval.

        Names that it accepted beside the one of the series mean that series: index prices by a contract are those
        of its pair, and full-width letters are the usual ones. Errors: see `of`.
        """
        usual = unicodedata.normalize("NFKC", symbol)
        if interval == EVENTS:
            return cls.of_folder(usual, interval, market=market, kind=kind)
        return cls.of(pair_of(usual) if kind == Kind.INDEX_PRICE else usual, interval, market=market, kind=kind)

    @property
    def bar_interval(self) -> Interval:
        """The interval of a series on a grid. Raises IdentityError for events, which have none."""
        if self.interval is None:
            raise IdentityError(f"{self} are events and have no interval: ask for a kind of bars")
        return self.interval

    @property
    def folder_name(self) -> str:
        """The name of its folder: the interval, or `events` where there is none."""
        return EVENTS if self.interval is None else self.interval.value

    @property
    def archive_label(self) -> str:
        """What stands for the interval in the names of archives: of funding and metrics it is the kind."""
        return self.folder_name if self.kind.is_bars else self.kind.value

    def __str__(self) -> str:
        return f"{self.market}/{self.kind}/{self.symbol}/{self.folder_name}"


def series_of(
    symbols: str | Iterable[str], intervals: str | Iterable[str] | None, *, market: str, kind: str
) -> list[SeriesKey]:
    """Each symbol at each interval, in this order, each series once. Kinds without bars need no interval.

    Errors: see `SeriesKey.of`.
    """
    names = (symbols,) if isinstance(symbols, str) else symbols
    lengths = (intervals,) if intervals is None or isinstance(intervals, str) else tuple(intervals)
    series = (SeriesKey.of(name, length, market=market, kind=kind) for name in names for length in lengths)
    return list(dict.fromkeys(series))

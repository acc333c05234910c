"""`Life`: one incarnation of a symbol, from its listing to its end, and the keys that name lives in a choice. Pure.

A ticker may live twice: the exchange delists a contract, and lists another one under the same name. Bars of both
lie in one series, and are never to be read as one history. Archives go on after the end of a life, with flat bars
of zero volume: files are not life.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from ckvd.model.calendar import month_start_ms
from ckvd.model.market import DAY_MS, ContractType, Interval, Market
from ckvd.model.record import Record, fields_as_json
from ckvd.model.timespan import Span, format_time

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence


class EndReason(StrEnum):
    """Why a life ended."""

    ALIVE = "alive"  # when the snapshot was made; an end that lies after it is planned
    DELISTED = "delisted"
    DELIVERED = "delivered"
    SETTLED = "settled"  # its archives go on under another name, with SETTLED at the end
    RENAMED = "renamed"  # the exchange listed its coin under another name: see `Life.renamed_to`
    UNKNOWN = "unknown"  # no source tells whether it is alive, or why it ended


class FirstSource(StrEnum):
    """Where the beginning of a life is from."""

    FACT = "known fact"
    LISTING_DATE = "listing date"
    FIRST_ARCHIVE = "first archive"
    GAP = "end of a gap in the archives"
    SETTLED_ARCHIVE = "first archive under a settled name"  # of the life before: this one began then, or soon after
    FIRST_SEEN = "first seen"  # by a snapshot: it began then, or before


class EndSource(StrEnum):
    """Where the end of a life is from."""

    FACT = "known fact"
    DELIVERY_DATE = "delivery date"
    LAST_TRADED = "last traded bar"
    LAST_ARCHIVE = "last archive"  # an upper bound: archives go on after the end
    SETTLED_ARCHIVE = "first archive under a settled name"  # an upper bound
    NEXT_LISTING = "next listing"  # an upper bound: the next life of the ticker began then

    @property
    def is_bound(self) -> bool:
        """Whether the life ended then, or before."""
        return self in (EndSource.LAST_ARCHIVE, EndSource.SETTLED_ARCHIVE, EndSource.NEXT_LISTING)


@dataclass(frozen=True, slots=True, order=True)
class Life(Record):
    """One incarnation of a symbol.

    Attributes
    ----------
    market : Market
    ticker : str
        The name under which it was traded.
    first_ms : int
        When it began, milliseconds: the first day of its archives, or the listing date where that lies in the day.
        Listing dates alone are not taken: of old contracts they are placeholders.
    symbol : str
        The name of its archives, and in the REST interface. It is the ticker, unless the archives of a settled
        contract were moved (`AIAUSDTSETTLED`).
    base, quote : str
        As the exchange writes them: `1000PEPE`, `USDT`.
    contract : ContractType
    multiplier : int
        Coins in one unit of the base: 1000 for `1000PEPE`, 1,000,000 for `1MBABYDOGE`, else 1.
    is_leveraged : bool
        Whether it is a leveraged token of spot (`BTCUP`, `BEAR`).
    first_source : FirstSource
    end_ms : int or None
        When it ended or will be delivered, milliseconds, not included. None if no end is known.
    end_reason : EndReason
    end_source : EndSource or None
        None if no end is known.
    listed_ms, delivery_ms : int or None
        `onboardDate` and `deliveryDate` of the exchange, milliseconds. Spot has neither.
    status : str
        The last status that the exchange gave (`TRADING`, `SETTLING`, `BREAK`); empty if it gave none.
    renamed_to : str
        The ticker under which the exchange listed its coin then: another life, never spliced. Mostly empty.
    contract_size : int or None
        Of COIN-M, in units of the quote.
    permissions : tuple of str
        Of spot, as the exchange gave them last.
    first_archive_ms, last_archive_ms : int or None
        The beginning of the first archive of the life and the end of the last one of its symbol, milliseconds.
    previous_end_ms : int or None
        When the life before it in the same archives ended.
    last_traded_ms : int or None
        When the last bar that traded opens, where `Universe.last_traded` was asked and the cache tells.
    """

    market: Market
    ticker: str
    first_ms: int
    symbol: str
    base: str
    quote: str
    contract: ContractType
    multiplier: int = 1
    is_leveraged: bool = False
    first_source: FirstSource = FirstSource.FIRST_ARCHIVE
    end_ms: int | None = None
    end_reason: EndReason = EndReason.UNKNOWN
    end_source: EndSource | None = None
    listed_ms: int | None = None
    delivery_ms: int | None = None
    status: str = ""
    renamed_to: str = ""
    contract_size: int | None = None
    permissions: tuple[str, ...] = ()
    first_archive_ms: int | None = None
    last_archive_ms: int | None = None
    previous_end_ms: int | None = None
    last_traded_ms: int | None = None

    @property
    def coin(self) -> str:
        """The base without its multiplier: `PEPE` for `1000PEPE`."""
        return self.base if self.multiplier == 1 else self.base.removeprefix("1M").lstrip("10")

    @property
    def end_is_bound(self) -> bool:
        """Whether `end_ms` is an upper bound only."""
        return self.end_source is not None and self.end_source.is_bound

    @property
    def dated_key(self) -> str:
        """`BNXUSDT@2022-04-01`: the ticker and the first day."""
        return f"{self.ticker}@{format_time(self.first_ms // DAY_MS * DAY_MS)}"

    def overlaps(self, span: Span) -> bool:
        """Whether it was alive at any time in a span."""
        end_ms = span.end_ms if self.end_ms is None else min(self.end_ms, span.end_ms)
        return max(self.first_ms, span.start_ms) < end_ms

    def bars_span(self, interval: Interval, span: Span) -> Span:
        """The part of a span in which its bars open.

        The bar in which it began belongs to it, unless the life before it was still alive when that bar opened.
        Where it did not live in the span, the result is empty.
        """
        if (length_ms := interval.fixed_ms) is None:  # months differ in length
            start_ms = month_start_ms(self.first_ms)
        else:
            start_ms = self.first_ms - length_ms + 1
        start_ms = max(start_ms, 0, self.previous_end_ms or 0, span.start_ms)
        end_ms = span.end_ms if self.end_ms is None else min(self.end_ms, span.end_ms)
        start_ms = min(start_ms, span.end_ms)
        return Span(start_ms, max(start_ms, end_ms))

    def to_json(self) -> dict[str, Any]:
        """A JSON object: its fields, and whether its end is a bound only."""
        return {**fields_as_json(self), "end_is_bound": self.end_is_bound}

    def __str__(self) -> str:
        end = "" if self.end_ms is None else format_time(self.end_ms)
        return f"{self.market}/{self.ticker} {format_time(self.first_ms)}..{end}"


@dataclass(frozen=True, slots=True)
class LastTrade:
    """The last bar that traded in a span of a series.

    Attributes
    ----------
    open_ms, end_ms : int
        When the bar opens and ends, milliseconds.
    is_followed : bool
        Whether bars follow in the span, for a day or more, in which nobody traded.
    """

    open_ms: int
    end_ms: int
    is_followed: bool


def keys_of(lives: Sequence[Life]) -> tuple[str, ...]:
    """The key of each life: its ticker where that is unique among them, else with its first day."""
    counts = Counter(life.ticker for life in lives)
    return tuple(life.ticker if counts[life.ticker] == 1 else life.dated_key for life in lives)


def lives_within(lives: Iterable[Life], symbol: str, span: Span) -> tuple[Life, ...]:
    """The lives whose bars a series of a symbol has in a span, in order."""
    return tuple(sorted(life for life in lives if life.symbol == symbol and life.overlaps(span)))

"""`Endpoint`: how a series is asked for, and what the exchange allows in one request. Pure.

The rules are those of the publisher's documentation, and where answers were seen to differ from it, what is safe
under both. Imports `market`, `timespan` and the constants.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from ckvd.model.market import DAY_MS, Kind, Market

if TYPE_CHECKING:
    from ckvd.model.market import SeriesKey
    from ckvd.model.timespan import Span

# A delivery date or PERP makes a contract of a pair. `_SETTLED` is part of a symbol.
_CONTRACT: Final = re.compile(r"_(?:[0-9]{6}|PERP)$")


@dataclass(frozen=True, slots=True)
class MarketRules:
    """What the exchange allows in one market.

    Attributes
    ----------
    root : str
        The path that all requests begin with.
    weights : tuple of (int, int)
        The most rows of a request and its weight, ascending.
    span_max_ms : int or None
        The longest time between `startTime` and `endTime`.
    is_newest_first : bool
        Whether a span with more bars than rows are asked for is answered with its last bars, not its first.
    """

    root: str
    weights: tuple[tuple[int, int], ...]
    span_max_ms: int | None = None
    is_newest_first: bool = False

    @property
    def rows_max(self) -> int:
        """The most rows that one request may ask for."""
        return self.weights[-1][0]

    @property
    def page_rows(self) -> int:
        """The rows of a request that brings the most for its weight."""
        return max(self.weights, key=lambda band: band[0] / band[1])[0]

    def weight_of(self, limit: int) -> int:
        """The weight of a request for so many rows."""
        return next(weight for rows, weight in self.weights if limit <= rows)


# The documentation counts 100 and 500 rows to the next band, the exchange was seen not to: these are under both.
_FUTURES_WEIGHTS: Final = ((99, 1), (499, 2), (1000, 5), (1500, 10))

RULES: Final[dict[Market, MarketRules]] = {
    Market.SPOT: MarketRules("/api/v3", ((1000, 2),)),
    Market.UM: MarketRules("/fapi/v1", _FUTURES_WEIGHTS),
    Market.CM: MarketRules("/dapi/v1", _FUTURES_WEIGHTS, span_max_ms=200 * DAY_MS, is_newest_first=True),
}


@dataclass(frozen=True, slots=True)
class Endpoint:
    """How one series is asked for.

    Attributes
    ----------
    path : str
    subject : tuple of (str, str)
        The parameter that names the symbol or pair, and its value.
    interval : str
        As the REST interface writes it.
    rules : MarketRules
    """

    path: str
    subject: tuple[str, str]
    interval: str
    rules: MarketRules

    @classmethod
    def of(cls, series: SeriesKey) -> Endpoint:
        """The endpoint of a series."""
        rules = RULES[series.market]
        is_of_pair = series.kind is Kind.INDEX_PRICE
        subject = ("pair", pair_of(series.symbol)) if is_of_pair else ("symbol", series.symbol)
        return cls(f"{rules.root}/{series.kind}", subject, series.interval.rest_name, rules)

    def params(self, span: Span, limit: int) -> dict[str, str | int]:
        """The query for bars that open in a span: the exchange counts both ends in."""
        name, value = self.subject
        return {
            name: value,
            "interval": self.interval,
            "startTime": span.start_ms,
            "endTime": span.end_ms - 1,
            "limit": limit,
        }

    def params_of_first(self, from_ms: int = 0) -> dict[str, str | int]:
        """The query for the first bar from a moment on, where a span may be as long as one likes."""
        name, value = self.subject
        return {name: value, "interval": self.interval, "startTime": from_ms, "limit": 1}


def pair_of(symbol: str) -> str:
    """The pair that a contract is made on: `BTCUSD` for `BTCUSD_PERP`, `BTCUSDT` for `BTCUSDT_260626`."""
    return _CONTRACT.sub("", symbol)

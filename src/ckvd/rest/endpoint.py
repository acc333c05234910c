"""`Endpoint`: the request for rows of a series, and what the exchange allows in one request. Pure.

The rules follow the exchange's documentation. Where its responses were seen to differ, the rules are safe under
both.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from ckvd.errors import IdentityError
from ckvd.model.market import DAY_MS, Kind, Market
from ckvd.model.schema import schema_of

if TYPE_CHECKING:
    from ckvd.model.market import SeriesKey
    from ckvd.model.timespan import Span


@dataclass(frozen=True, slots=True)
class MarketRules:
    """What the exchange allows in one market.

    Attributes
    ----------
    root : str
        The beginning of all paths.
    weights : tuple of (int, int)
        Row limits, ascending, each with the weight of a request up to that limit.
    span_max_ms : int or None
        The longest time between `startTime` and `endTime`.
    is_newest_first : bool
        Whether a page of a span that has more bars than the limit has the last bars of the span, not the first.
    is_counted_apart : bool
        Whether requests also count against a limit of their own, apart from that of weights.
    exchange_info_weight : int
        The weight of a request for the list of all symbols.
    """

    root: str
    weights: tuple[tuple[int, int], ...]
    span_max_ms: int | None = None
    is_newest_first: bool = False
    is_counted_apart: bool = False
    exchange_info_weight: int = 1

    @property
    def page_rows(self) -> int:
        """The limit with the most rows for its weight."""
        return max(self.weights, key=lambda band: band[0] / band[1])[0]

    def weight_of(self, limit: int) -> int:
        """The weight of a request with a limit."""
        return next(weight for rows, weight in self.weights if limit <= rows)


# By the documentation, limits of 100 and 500 weigh as much as the next band; the exchange was seen to count less.
# These limits weigh the same under both.
_FUTURES_WEIGHTS: Final = ((99, 1), (499, 2), (1000, 5), (1500, 10))

RULES: Final[dict[Market, MarketRules]] = {
    Market.SPOT: MarketRules("/api/v3", ((1000, 2),), exchange_info_weight=20),
    Market.UM: MarketRules("/fapi/v1", _FUTURES_WEIGHTS),
    Market.CM: MarketRules("/dapi/v1", _FUTURES_WEIGHTS, span_max_ms=200 * DAY_MS, is_newest_first=True),
}
# By the documentation, a page has the first settlements of its span. Of coin-margined contracts it is not known how
# long a span may be, nor that they do not have the last ones first, as their bars do.
FUNDING_RULES: Final[dict[Market, MarketRules]] = {
    Market.UM: MarketRules("/fapi/v1", ((1000, 1),), is_counted_apart=True),
    Market.CM: MarketRules(
        "/dapi/v1", ((1000, 1),), span_max_ms=200 * DAY_MS, is_newest_first=True, is_counted_apart=True
    ),
}


@dataclass(frozen=True, slots=True)
class Endpoint:
    """The request for rows of one series.

    Attributes
    ----------
    path : str
    subject : tuple of (str, str)
        The parameter that names the symbol or pair, and its value.
    interval : str or None
        As the REST interface writes it; None for funding rates.
    rules : MarketRules
    """

    path: str
    subject: tuple[str, str]
    interval: str | None
    rules: MarketRules

    @classmethod
    def of(cls, series: SeriesKey) -> Endpoint:
        """The endpoint of a series. Metrics have none: see `Schema.has_rest`."""
        if not schema_of(series).has_rest:
            raise IdentityError(f"the REST interface has no history of {series}: its archives are the only source")
        if series.kind is Kind.FUNDING_RATE:
            rules = FUNDING_RULES[series.market]
            return cls(f"{rules.root}/fundingRate", ("symbol", series.symbol), None, rules)
        rules = RULES[series.market]
        noun = "pair" if series.kind is Kind.INDEX_PRICE else "symbol"
        return cls(f"{rules.root}/{series.kind}", (noun, series.symbol), series.bar_interval.rest_name, rules)

    def params(self, span: Span, limit: int) -> dict[str, str | int]:
        """The query for rows of a span. For the exchange both ends are inclusive."""
        return {
            **self._named,
            "startTime": span.start_ms,
            "endTime": span.end_ms - 1,
            "limit": limit,
        }

    def params_of_first(self, from_ms: int) -> dict[str, str | int]:
        """The query for the first row from a time on, in markets without a longest span."""
        return {**self._named, "startTime": from_ms, "limit": 1}

    @property
    def _named(self) -> dict[str, str | int]:
        name, value = self.subject
        return {name: value} if self.interval is None else {name: value, "interval": self.interval}

"""What the rows of each kind hold: `Schema`, and `schema_of`, the one table of kinds. Pure.

A kind is a schema. Decoding, segments, the cache, packing and export ask it for columns, and know no kind by name.
Klines and the three prices of futures are bars. Funding rates are events, and metrics are samples of five minutes:
they have no close time and no prices.

Every table is ordered by its first column, `open_time`: the open of a bar, the settlement of a funding rate, the
beginning of the five minutes that a row of metrics describes.

Sources: the header lines of the archives, and for the meaning of funding and metrics
https://developers.binance.com/docs/derivatives/usds-margined-futures/market-data/rest-api
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from ckvd.model.calendar import Cadence
from ckvd.model.market import Kind, Market

if TYPE_CHECKING:
    from ckvd.model.market import SeriesKey


@dataclass(frozen=True, slots=True)
class Schema:
    """The columns of a kind.

    Attributes
    ----------
    columns : tuple of str
        Of tables and segments, in order. The first is `open_time`.
    header : tuple of str
        The names in the header line of archives, in order.
    cadences : tuple of Cadence
        Which archives there are. Bars longer than a day have monthly ones only, whatever this says.
    has_rest : bool
        Whether the REST interface has the history, so that it can be asked for what no archive has.
    """

    columns: tuple[str, ...]
    header: tuple[str, ...]
    cadences: tuple[Cadence, ...] = (Cadence.MONTHLY, Cadence.DAILY)
    has_rest: bool = True


# The twelve fields of a row of bars, in the order of archives and of the REST interface. These are also the names
# in the header line of archives, in every market.
QUOTE_FIELDS: Final = (
    "open_time", "open", "high", "low", "close", "volume", "close_time", "quote_volume", "count",
    "taker_buy_volume", "taker_buy_quote_volume", "ignore",
)  # fmt: skip
# Of coin-margined contracts, `volume` and `taker_buy_volume` count contracts. The other two volumes are in base
# asset, although the header line of archives calls them quote volumes.
_BASE_FIELDS: Final = (
    "open_time", "open", "high", "low", "close", "volume", "close_time", "base_volume", "count",
    "taker_buy_volume", "taker_buy_base_volume", "ignore",
)  # fmt: skip

FIELD_COUNT: Final = 12
INTEGER_FIELDS: Final = (0, 6, 8)
FLOAT_FIELDS: Final = (1, 2, 3, 4, 5, 7, 9, 10, 11)

_QUOTE_BARS: Final = Schema(QUOTE_FIELDS, QUOTE_FIELDS)
_BASE_BARS: Final = Schema(_BASE_FIELDS, QUOTE_FIELDS)
FUNDING: Final = Schema(
    # The hours are 0 where the source does not say them, the mark price is NaN where it does not.
    columns=("open_time", "interval_hours", "rate", "mark_price"),
    header=("calc_time", "funding_interval_hours", "last_funding_rate"),
    cadences=(Cadence.MONTHLY,),
)
METRICS: Final = Schema(
    columns=(
        "open_time", "create_time", "open_interest", "open_interest_value",
        "count_toptrader_long_short_ratio", "sum_toptrader_long_short_ratio",
        "count_long_short_ratio", "sum_taker_long_short_vol_ratio",
    ),
    header=(
        "create_time", "symbol", "sum_open_interest", "sum_open_interest_value",
        "count_toptrader_long_short_ratio", "sum_toptrader_long_short_ratio",
        "count_long_short_ratio", "sum_taker_long_short_vol_ratio",
    ),
    cadences=(Cadence.DAILY,),
    # It keeps the last 30 days, in answers of another form.
    has_rest=False,
)  # fmt: skip

COLUMN_DTYPES: Final[dict[str, np.dtype[Any]]] = (
    {
        name: np.dtype("<i8" if position in INTEGER_FIELDS else "<f8")
        for fields in (QUOTE_FIELDS, _BASE_FIELDS)
        for position, name in enumerate(fields)
    }
    | {"open_time_us": np.dtype("<i2"), "close_time_us": np.dtype("<i2")}
    | {"interval_hours": np.dtype("<i8"), "create_time": np.dtype("<i8")}
    | {name: np.dtype("<f8") for name in (*FUNDING.columns[2:], *METRICS.columns[2:])}
)


def schema_of(series: SeriesKey) -> Schema:
    """The schema of a series. Of bars it depends on the market too: what their volumes count."""
    if series.kind is Kind.FUNDING_RATE:
        return FUNDING
    if series.kind is Kind.METRICS:
        return METRICS
    return _BASE_BARS if series.market is Market.CM and series.kind is Kind.KLINES else _QUOTE_BARS


def cadences_of(series: SeriesKey) -> tuple[Cadence, ...]:
    """Which archives a series has. Bars longer than a day have monthly ones only."""
    interval = series.interval
    if interval is not None and not interval.has_daily_archives:
        return (Cadence.MONTHLY,)
    return schema_of(series).cadences


def has_daily_archives(series: SeriesKey) -> bool:
    """Whether a series has daily archives."""
    return Cadence.DAILY in cadences_of(series)


def has_monthly_archives(series: SeriesKey) -> bool:
    """Whether a series has monthly archives."""
    return Cadence.MONTHLY in cadences_of(series)

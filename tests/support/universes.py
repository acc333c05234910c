"""Universes made by hand, and the recorded answers and listings of the exchange."""

from __future__ import annotations

import csv
import gzip
import json
from typing import TYPE_CHECKING, Any, Final

from ckvd.model.calendar import Period, days_of, months_of
from ckvd.model.life import Life
from ckvd.model.market import ContractType, Market, SeriesKey
from ckvd.model.timespan import Span, parse_time
from ckvd.universe.exchange_info import ExchangeInfo, parse_exchange_info
from ckvd.universe.listing import ListedSymbol
from ckvd.vision.name import ArchiveName
from support.loopback.mirror import publish
from support.places import SHARED_DATA

if TYPE_CHECKING:
    from pathlib import Path

NO_DELIVERY_MS: Final = 4133404800000


def life(ticker: str, first: str, end: str | None = None, **changes: Any) -> Life:
    """A perpetual of USD-M. Its name ends with USDT."""
    given: dict[str, Any] = {
        "market": Market.UM,
        "symbol": ticker,
        "base": ticker.removesuffix("USDT"),
        "quote": "USDT",
        "contract": ContractType.PERPETUAL,
        "end_ms": None if end is None else parse_time(end),
    }
    return Life(ticker=ticker, first_ms=parse_time(first), **(given | changes))


def listed(symbol: str, first: str, last: str, *gaps: tuple[str, str]) -> ListedSymbol:
    return ListedSymbol(symbol, parse_time(first), parse_time(last), tuple(Span.of(*gap) for gap in gaps))


def entry(symbol: str, onboard: str | None = None, **changes: Any) -> dict[str, Any]:
    """A perpetual of USD-M in `exchangeInfo`."""
    given = {
        "symbol": symbol,
        "pair": symbol,
        "contractType": "PERPETUAL",
        "deliveryDate": NO_DELIVERY_MS,
        "onboardDate": parse_time(onboard) if onboard else 0,
        "status": "TRADING",
        "baseAsset": symbol.removesuffix("USDT"),
        "quoteAsset": "USDT",
    }
    return given | changes


def info_body(*entries: dict[str, Any], at: str = "2026-01-01") -> bytes:
    return json.dumps({"timezone": "UTC", "serverTime": parse_time(at), "symbols": list(entries)}).encode()


def info_of(*entries: dict[str, Any], market: Market = Market.UM) -> ExchangeInfo:
    return parse_exchange_info(info_body(*entries), "exchangeInfo", market)


def publish_archives(root: Path, series: SeriesKey, first: str, last: str, *, daily_from: str) -> None:
    """Put archives into a mirror as the publisher does: months before a day, and all days. They hold nothing.

    `first` and `last` are days, both included.
    """
    days = Span(parse_time(first), Period.of_label(last).span.end_ms)
    months = Span(days.start_ms, max(days.start_ms, min(days.end_ms, parse_time(daily_from))))
    periods = [*days_of(days), *(month for month in months_of(months) if month.span.end_ms <= months.end_ms)]
    for period in periods:
        publish(root, ArchiveName(series, period).path, b"")


# --- Real data ---------------------------------------------------------------------------------------------

HAS_REAL: Final = (SHARED_DATA / "exchange_info").is_dir()


def real_info(name: str, market: Market) -> ExchangeInfo:
    """A recorded answer. Some begin with a line about the address and time, and end with another."""
    text = gzip.decompress((SHARED_DATA / "exchange_info" / f"{name}.json.gz").read_bytes()).decode()
    start = text.index("{")
    _, end = json.JSONDecoder().raw_decode(text[start:])
    return parse_exchange_info(text[start : start + end].encode(), name, market)


def real_listing(market: Market, last: str) -> list[ListedSymbol]:
    """The symbols of the recorded listing, as if the archives of all went on to a day."""
    path = SHARED_DATA / "listings" / f"{market}_earliest_dates.csv"
    with path.open(encoding="utf-8", newline="") as file:
        return [listed(row["symbol"], row["earliest_date"], last) for row in csv.DictReader(file)]

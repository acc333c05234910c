"""`RestDataClient`: closed bars and rates of funding from the REST interface of the exchange.

It holds a transport and a host for each market, and fetches the pages of a span.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

from ckvd.decode.records import RecordRows
from ckvd.errors import ClientClosedError, RestAnswerError
from ckvd.lifecycle import ConnectionHolder, Resource
from ckvd.model.grid import Grid, closed_part
from ckvd.model.market import DAY_MS, Interval, Market, SeriesKey, parse_market
from ckvd.model.timespan import Span, difference, now_ms
from ckvd.network.retry import RetryPolicy
from ckvd.network.transport import Transport
from ckvd.rest.answer import Page, RestAnswer, assemble
from ckvd.rest.endpoint import RULES, Endpoint
from ckvd.rest.host import ExchangeHost
from ckvd.rest.pages import fault_of, left_over, request_for, windows
from ckvd.rest.rows import read_rows
from ckvd.rest.settlements import read_settlements
from ckvd.utils.config import (
    EXCHANGE_INFO_NBYTES_MAX,
    REST_CM_EARLIEST_MS,
    REST_CONCURRENCY,
    REST_URL_CM,
    REST_URL_SPOT,
    REST_URL_UM,
    REST_WEIGHT_LIMIT_FUTURES,
    REST_WEIGHT_LIMIT_SPOT,
    REST_WEIGHT_SHARE,
    REST_WEIGHT_WINDOW_S,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from curl_cffi import AsyncSession
    from curl_cffi import Response as CurlResponse

    from ckvd.decode.rows import RawRows
    from ckvd.model.table import Times
    from ckvd.network.response import Response

__all__ = ["ExchangeInfoAnswer", "RestAnswer", "RestDataClient"]

_URLS: Final = {Market.SPOT: REST_URL_SPOT, Market.UM: REST_URL_UM, Market.CM: REST_URL_CM}
_WEIGHT_LIMITS: Final = {
    Market.SPOT: REST_WEIGHT_LIMIT_SPOT,
    Market.UM: REST_WEIGHT_LIMIT_FUTURES,
    Market.CM: REST_WEIGHT_LIMIT_FUTURES,
}


@dataclass(frozen=True, slots=True)
class ExchangeInfoAnswer:
    """The list of all symbols of a market, not parsed.

    Attributes
    ----------
    market : Market
    url : str
        The address that answered.
    body : bytes
        JSON.
    """

    market: Market
    url: str
    body: bytes


class RestDataClient(ConnectionHolder):
    """Fetch bars from the exchange.

    An asynchronous context manager. Use one client for all tasks: they share its connections, and it keeps them
    together within the limits of the exchange.

    Parameters
    ----------
    base_url : str or mapping of str to str, optional
        The address of the exchange, for all markets or for each (`spot`, `um`, `cm`). The default is the
        environment's `CKVD_REST_URL_SPOT`, `CKVD_REST_URL_UM` or `CKVD_REST_URL_CM`, else its `CKVD_REST_URL`, else
        the exchange's own addresses.
    client : curl_cffi.AsyncSession, optional
        A session to use. It is never closed here.
    concurrency : int
        Requests sent at a time, to all hosts together.
    weight_limits : mapping of str to int, optional
        The request weight that the exchange allows in a window, for some of the markets.
    weight_share : float
        The part of it that this client uses; the rest is for other processes behind the same IP address.
    weight_window_s : float
        The length of a window.
    retry : RetryPolicy, optional
    clock : callable
        The present in milliseconds.
    steady_clock : callable
        Seconds by a monotonic clock. It measures pauses.
    transport_options
        Passed on to `Transport`: timeouts and `sleep`.
    """

    _transport: Transport | None = None
    _hosts: dict[Market, ExchangeHost] | None = None

    def __init__(
        self,
        *,
        base_url: str | Mapping[str, str] | None = None,
        client: AsyncSession[CurlResponse] | None = None,
        concurrency: int = REST_CONCURRENCY,
        weight_limits: Mapping[str, int] | None = None,
        weight_share: float = REST_WEIGHT_SHARE,
        weight_window_s: float = REST_WEIGHT_WINDOW_S,
        retry: RetryPolicy | None = None,
        clock: Callable[[], int] = now_ms,
        steady_clock: Callable[[], float] = time.monotonic,
        **transport_options: Any,
    ) -> None:
        self._clock = clock
        self._client = client
        self._client_is_external = client is not None
        policy = retry or RetryPolicy()
        transport = Transport(client, concurrency=concurrency, retry=policy, **transport_options).part()
        limits = weight_limits or {}
        self._transport = transport
        self._hosts = {
            market: ExchangeHost(
                _url_of(market, base_url),
                market,
                transport,
                retry=policy,
                weight_limit=limits.get(market, _WEIGHT_LIMITS[market]),
                window_s=weight_window_s,
                share=weight_share,
                steady_s=steady_clock,
            )
            for market in Market
        }

    async def fetch(self, series: SeriesKey, span: Span) -> RestAnswer:
        """Fetch the closed bars that open in a span, or the rates of funding that were settled in it.

        A bar that still forms is neither requested nor returned. Bars that the exchange does not have are left out;
        `RestAnswer.span` is the span that the answer covers.

        Raises
        ------
        InvalidSymbolError
            The market has no such symbol.
        IdentityError
            The REST interface has no such history: see `Schema.has_rest`.
        BannedError
            The exchange has banned this IP address. No request is sent until the ban ends.
        RateLimitError, RegionRefusedError, ExchangeError
            The exchange refuses for another reason.
        RestAnswerError
            A response is invalid.
        NetworkError
            There was no response.
        ClientClosedError
            The client is or was closed.
        """
        asked_ms = self._clock()
        wanted = closed_part(span, Grid.of(series.interval), asked_ms)
        pages = await self._fetch_pages(series, wanted)
        return assemble(series, wanted, pages, asked_ms)

    async def first_open_ms(self, series: SeriesKey, from_ms: int = 0) -> int | None:
        """When the first bar of a series opens, by default its listing.

        Parameters
        ----------
        series : SeriesKey
        from_ms : int
            Ignore bars that open earlier.

        Returns
        -------
        int or None
            Milliseconds; None if there are no bars. The bar need not be closed.

        Raises
        ------
        ExchangeError, RestAnswerError, NetworkError, ClientClosedError
            See `fetch`.
        """
        endpoint = Endpoint.of(series)
        if endpoint.rules.span_max_ms is None:
            params = endpoint.params_of_first(from_ms)
            response, _ = await self._ask(series, endpoint, params, 1)
            opens_ms, _ = _times_of(_read(response, series))
            return next(iter(opens_ms.tolist()), None)
        return await self._search_first_open_ms(series, max(from_ms, REST_CM_EARLIEST_MS))

    async def exchange_info(self, market: str) -> ExchangeInfoAnswer:
        """Fetch the list of all symbols of a market, as the exchange answers it.

        Parameters
        ----------
        market : {"spot", "um", "cm"}

        Returns
        -------
        ExchangeInfoAnswer
            Its body is not parsed: `ckvd.universe` does that.

        Raises
        ------
        IdentityError
            There is no such market.
        ExchangeError, NetworkError, ClientClosedError
            See `fetch`. An answer of more than `EXCHANGE_INFO_NBYTES_MAX` bytes is a NetworkError.
        """
        chosen = parse_market(market)
        rules = RULES[chosen]
        host = self._host_of(chosen)
        response, _ = await host.ask(
            f"{rules.root}/exchangeInfo", {}, rules.exchange_info_weight, nbytes_max=EXCHANGE_INFO_NBYTES_MAX
        )
        return ExchangeInfoAnswer(chosen, response.url, response.body)

    async def _search_first_open_ms(self, series: SeriesKey, from_ms: int) -> int | None:
        """Find the first bar in a market with a longest span: first its day, then the bar."""
        rules, end_ms = Endpoint.of(series).rules, self._clock()
        if series.interval is None or not series.interval.has_daily_archives:
            return await self._first_of(series, windows(Span(from_ms, max(from_ms, end_ms)), rules))
        daily = SeriesKey(series.market, series.kind, series.symbol, Interval.D1)
        # The bar of the day may open before `from_ms`, and others of that day after it.
        day_ms: int | None = Grid.of(Interval.D1).floor(from_ms)
        while day_ms is not None and day_ms < end_ms:
            day_ms = await self._first_of(daily, windows(Span(day_ms, end_ms), rules))
            if day_ms is not None:
                day = Span(max(day_ms, from_ms), day_ms + DAY_MS)
                found_ms = await self._first_of(series, [day])
                if found_ms is not None:
                    return found_ms
                day_ms = day.end_ms
        return None

    async def _first_of(self, series: SeriesKey, spans: Iterable[Span]) -> int | None:
        """When the first bar in one of the spans opens."""
        for span in spans:
            opens_ms = [_times_of(page.rows)[0] for page in await self._fetch_pages(series, span)]
            found = [int(opens[0]) for opens in opens_ms if len(opens)]
            if found:
                return min(found)
        return None

    async def _fetch_pages(self, series: SeriesKey, span: Span) -> list[Page]:
        """Fetch the pages of a span, one after the other, until nothing of it is left."""
        endpoint = Endpoint.of(series)
        pages: list[Page] = []
        for window in windows(span, endpoint.rules):
            left = [window]
            while left:
                asked = request_for(left.pop(), series.interval, endpoint.rules)
                params = endpoint.params(asked.span, asked.limit)
                response, count = await self._ask(series, endpoint, params, asked.limit)
                rows, url = _read(response, series), response.url
                opens_ms, closes_ms = _times_of(rows)
                fault = fault_of(asked, opens_ms, closes_ms, series.interval)
                if fault is not None:
                    raise RestAnswerError(url, fault)
                still = left_over(asked, opens_ms, series.interval, endpoint.rules)
                left += still
                (covered,) = difference([asked.span], still)
                name = f"{endpoint.path}?{urlsplit(url).query}"
                date_ms = None if response.date is None else int(response.date.timestamp() * 1000)
                pages.append(Page(covered, rows, url, name, date_ms, count))
        return pages

    async def _ask(
        self, series: SeriesKey, endpoint: Endpoint, params: Mapping[str, str | int], limit: int
    ) -> tuple[Response, int]:
        rules = endpoint.rules
        return await self._host_of(series.market).ask(
            endpoint.path, params, rules.weight_of(limit), is_counted_apart=rules.is_counted_apart
        )

    def _host_of(self, market: Market) -> ExchangeHost:
        if self._hosts is None:
            raise ClientClosedError("the REST client is closed")
        return self._hosts[market]

    @property
    def is_connected(self) -> bool:
        """Whether it holds connections of its own."""
        return self._transport is not None and self._transport.is_connected

    def release(self) -> None:
        """See `ConnectionHolder.release`."""
        transport, self._transport, self._hosts = self._transport, None, None
        if transport is not None:
            transport.release()

    @property
    def _resources(self) -> tuple[Resource, ...]:
        return (
            ("_hosts", "hosts", False),
            ("_transport", "HTTP transport", False),
            ("_client", "HTTP client", self._client_is_external),
        )

    def __repr__(self) -> str:
        if self._hosts is None:
            return "<RestDataClient: closed>"
        return f"<RestDataClient: {', '.join(dict.fromkeys(host.base_url for host in self._hosts.values()))}>"


def _read(response: Response, series: SeriesKey) -> RawRows | RecordRows:
    if series.kind.is_bars:
        return read_rows(response.body, response.url)
    return read_settlements(response.body, series, response.url)


def _times_of(rows: RawRows | RecordRows) -> tuple[Times, Times | None]:
    """The open and close times of bars; of settlements their times alone."""
    if isinstance(rows, RecordRows):
        return rows.columns["open_time"], None
    return rows.cells[0], rows.cells[6]


def _url_of(market: Market, base_url: str | Mapping[str, str] | None) -> str:
    chosen = base_url.get(market) if isinstance(base_url, Mapping) else base_url
    environment = os.environ
    return (
        chosen
        or environment.get(f"CKVD_REST_URL_{market.upper()}")
        or environment.get("CKVD_REST_URL")
        or _URLS[market]
    )

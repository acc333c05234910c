"""`RestDataClient`: closed bars from the REST interface of the exchange.

It holds a transport and the hosts of the markets, and walks through the pages of a span. What a page is asked for,
how an answer is read and how the exchange's limits are kept is in `ckvd.rest`.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

from ckvd.errors import ClientClosedError, RestAnswerError
from ckvd.lifecycle import ConnectionHolder, Resource
from ckvd.model.calendar import closed_part, grid_floor
from ckvd.model.market import DAY_MS, Interval, Market, SeriesKey
from ckvd.model.timespan import Span, difference, now_ms
from ckvd.network.retry import RetryPolicy
from ckvd.network.transport import Transport
from ckvd.rest.answer import Page, RestAnswer, assemble
from ckvd.rest.endpoint import Endpoint
from ckvd.rest.host import ExchangeHost
from ckvd.rest.pages import fault_of, left_over, request_for, windows
from ckvd.rest.rows import read_rows
from ckvd.utils.config import (
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
    from ckvd.rest.host import DatedResponse

__all__ = ["RestAnswer", "RestDataClient"]

_URLS: Final = {Market.SPOT: REST_URL_SPOT, Market.UM: REST_URL_UM, Market.CM: REST_URL_CM}
_WEIGHT_LIMITS: Final = {
    Market.SPOT: REST_WEIGHT_LIMIT_SPOT,
    Market.UM: REST_WEIGHT_LIMIT_FUTURES,
    Market.CM: REST_WEIGHT_LIMIT_FUTURES,
}


class RestDataClient(ConnectionHolder):
    """Asks the exchange for bars.

    An asynchronous context manager. Use one for all tasks: connections are kept, and the limits of the exchange
    are kept for all of them together.

    Parameters
    ----------
    base_url : str or mapping of str to str, optional
        The address of the exchange, for all markets or for each (`spot`, `um`, `cm`). The default is the
        environment's `CKVD_REST_URL_SPOT`, `CKVD_REST_URL_UM` or `CKVD_REST_URL_CM`, else its `CKVD_REST_URL`,
        else the exchange's own addresses.
    client : curl_cffi.AsyncSession, optional
        A session to use. It is never closed here.
    concurrency : int
        Requests on the line at a time.
    weight_limits : mapping of str to int, optional
        The request weight that the exchange allows in a window, for some of the markets.
    weight_share : float
        How much of it this client uses; the rest is for other processes behind the same address.
    weight_window_s : float
        The length of a window.
    retry : RetryPolicy, optional
    clock : callable
        The present in milliseconds.
    steady_clock : callable
        Seconds, by a clock that is never set: it measures pauses.
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
        """Fetch the closed bars that open in a span.

        A bar that still forms is never among them, nor asked for. What the exchange does not have is simply not
        there: `RestAnswer.span` says how far the answer speaks.

        Raises
        ------
        InvalidSymbolError
            The market has no such symbol.
        BannedError
            The exchange has banned this address; nothing is sent to it until the ban ends.
        RateLimitError, RegionRefusedError, ExchangeError
            The exchange refuses for another reason.
        RestAnswerError
            An answer cannot be believed.
        NetworkError
            There was no answer.
        ClientClosedError
            The client is or was closed.
        """
        asked_ms = self._clock()
        wanted = closed_part(span, series.interval, asked_ms)
        pages = await self._fetch_pages(series, wanted)
        return assemble(series, wanted, pages, asked_ms)

    async def first_open_ms(self, series: SeriesKey, from_ms: int = 0) -> int | None:
        """When the first bar of a series opened: its listing. Or the first from a time on.

        Parameters
        ----------
        series : SeriesKey
        from_ms : int
            Bars that open earlier are passed over.

        Returns
        -------
        int or None
            Milliseconds; None where there are no bars. The bar need not be closed. Errors are those of `fetch`.
        """
        endpoint = Endpoint.of(series)
        if endpoint.rules.span_max_ms is None:
            params = endpoint.params_of_first(from_ms)
            answer = await self._host_of(series).ask(endpoint.path, params, endpoint.rules.weight_of(1))
            return next(iter(_rows_of(answer).cells[0].tolist()), None)
        return await self._search_first_open_ms(series, max(from_ms, REST_CM_EARLIEST_MS))

    async def _search_first_open_ms(self, series: SeriesKey, from_ms: int) -> int | None:
        """Find the first bar where no request reaches to the present: first its day, then the bar."""
        rules, end_ms = Endpoint.of(series).rules, self._clock()
        if not series.interval.has_daily_archives:
            return await self._first_of(series, windows(Span(from_ms, max(from_ms, end_ms)), rules))
        daily = SeriesKey(series.market, series.kind, series.symbol, Interval.D1)
        # The bar of the day may open before `from_ms`, and others of that day after it.
        day_ms: int | None = grid_floor(from_ms, Interval.D1)
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
        """When the first bar that opens in one of the spans does so."""
        for span in spans:
            opens_ms = [page.rows.cells[0] for page in await self._fetch_pages(series, span)]
            found = [int(opens[0]) for opens in opens_ms if len(opens)]
            if found:
                return min(found)
        return None

    async def _fetch_pages(self, series: SeriesKey, span: Span) -> list[Page]:
        """Ask for the pages of a span, one after the other, until nothing is left of it."""
        endpoint, host = Endpoint.of(series), self._host_of(series)
        pages: list[Page] = []
        for window in windows(span, endpoint.rules):
            left = [window]
            while left:
                asked = request_for(left.pop(), series.interval, endpoint.rules)
                params = endpoint.params(asked.span, asked.limit)
                answer = await host.ask(endpoint.path, params, endpoint.rules.weight_of(asked.limit))
                rows, url = _rows_of(answer), answer.response.url
                fault = fault_of(asked, rows.cells[0], series.interval)
                if fault is not None:
                    raise RestAnswerError(url, fault)
                still = left_over(asked, rows.cells[0], series.interval, endpoint.rules)
                left += still
                (held,) = difference([asked.span], still)
                name = f"{endpoint.path}?{urlsplit(url).query}"
                pages.append(Page(held, rows, url, name, answer.date_ms, answer.attempt_count))
        return pages

    def _host_of(self, series: SeriesKey) -> ExchangeHost:
        if self._hosts is None:
            raise ClientClosedError("the REST client is closed")
        return self._hosts[series.market]

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


def _url_of(market: Market, base_url: str | Mapping[str, str] | None) -> str:
    chosen = base_url.get(market) if isinstance(base_url, Mapping) else base_url
    environment = os.environ
    return (
        chosen
        or environment.get(f"CKVD_REST_URL_{market.upper()}")
        or environment.get("CKVD_REST_URL")
        or _URLS[market]
    )


def _rows_of(answer: DatedResponse) -> RawRows:
    return read_rows(answer.response.body, answer.response.url)

"""Fetching a span: every closed bar once, with any pages, gaps and clocks."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from ckvd.errors import ClientClosedError, IdentityError, NetworkError, RegionRefusedError, RestAnswerError
from ckvd.model.grid import Grid
from ckvd.model.market import Interval, Kind, Market, SeriesKey
from ckvd.model.provenance import Origin
from ckvd.model.timespan import Span, union
from ckvd.network.retry import RetryPolicy
from ckvd.rest.endpoint import RULES
from ckvd.rest.rest_data_client import ExchangeInfoAnswer, RestAnswer, RestDataClient
from support.loopback.clock import VirtualTime
from support.loopback.exchange import Exchange
from support.loopback.reply import Reply
from support.loopback.rows import make_row, make_rows, open_ms_of
from support.models import DAY_MS, HOUR_MS, MINUTE_MS, ms

if TYPE_CHECKING:
    from support.loopback.rows import Row

SPOT = SeriesKey.of("BTCUSDT", "1m")
UM = SeriesKey.of("BTCUSDT", "1m", market="um")
CM = SeriesKey.of("BTCUSD_PERP", "1m", market="cm")
NOW_MS = ms(2024, 6, 1, 12)


def fetch(exchange: Exchange, series: SeriesKey, span: Span, **options: Any) -> RestAnswer:
    async def main() -> RestAnswer:
        async with RestDataClient(base_url=exchange.url, **{"clock": lambda: NOW_MS, **options}) as client:
            return await client.fetch(series, span)

    return asyncio.run(main())


def opens_of(answer: RestAnswer) -> list[int]:
    return [int(open_ms) for open_ms in answer.table.open_time]


def exchange_at(now_ms: int, rows: dict[SeriesKey, list[Row]]) -> Exchange:
    return Exchange(rows, clock=VirtualTime(now_ms).now_ms)


@pytest.mark.parametrize(("series", "page_count"), [(SPOT, 3), (UM, 6), (CM, 6)], ids=str)
def test_two_days_come_in_pages_and_each_bar_comes_once(series: SeriesKey, page_count: int) -> None:
    span = Span(ms(2024, 5, 1), ms(2024, 5, 3))
    opens = list(range(span.start_ms - DAY_MS, span.end_ms + DAY_MS, MINUTE_MS))
    with exchange_at(NOW_MS, {series: make_rows(opens, MINUTE_MS)}) as exchange:
        answer = fetch(exchange, series, span)
    assert opens_of(answer) == [open_ms for open_ms in opens if open_ms in span]
    assert answer.table.columns["close"].tolist() == [
        float(make_row(open_ms, 0)[4]) for open_ms in opens if open_ms in span
    ]
    assert answer.span == span
    assert answer.request_count == page_count == exchange.request_count == len(answer.sources)
    assert all(source.origin is Origin.REST for source in answer.sources)
    assert union(source.span for source in answer.sources) == (span,)
    assert sum(source.span.length_ms for source in answer.sources) == span.length_ms
    assert sum(source.row_count for source in answer.sources) == 2880


@pytest.mark.parametrize(
    ("series", "path", "subject"),
    [
        (SeriesKey.of("币安人生USDT", "1h"), "/api/v3/klines", {"symbol": "币安人生USDT"}),
        (SeriesKey.of("BTCUSDT", "1mo"), "/api/v3/klines", {"symbol": "BTCUSDT", "interval": "1M"}),
        (SeriesKey.of("BTCUSDT_260626", "1h", market="um"), "/fapi/v1/klines", {"symbol": "BTCUSDT_260626"}),
        (
            SeriesKey.of("BTCUSDT", "1h", market="um", kind="markPriceKlines"),
            "/fapi/v1/markPriceKlines",
            {"symbol": "BTCUSDT"},
        ),
        (
            SeriesKey.of("BTCUSDT", "1h", market="um", kind="indexPriceKlines"),
            "/fapi/v1/indexPriceKlines",
            {"pair": "BTCUSDT"},
        ),
        (
            SeriesKey.of("BTCUSDT", "1h", market="um", kind="premiumIndexKlines"),
            "/fapi/v1/premiumIndexKlines",
            {"symbol": "BTCUSDT"},
        ),
        (
            SeriesKey.of("BTCUSD_200925", "1h", market="cm", kind="markPriceKlines"),
            "/dapi/v1/markPriceKlines",
            {"symbol": "BTCUSD_200925"},
        ),
        (
            SeriesKey.of("BTCUSD", "1h", market="cm", kind="indexPriceKlines"),
            "/dapi/v1/indexPriceKlines",
            {"pair": "BTCUSD"},
        ),
    ],
    ids=str,
)
def test_a_series_is_asked_for_by_its_own_path(series: SeriesKey, path: str, subject: dict[str, str]) -> None:
    span = Span(ms(2024, 1, 1), ms(2024, 2, 1))
    end_ms = Grid.of(series.interval).next(span.start_ms)
    with exchange_at(NOW_MS, {series: [make_row(span.start_ms, end_ms - 1)]}) as exchange:
        assert opens_of(fetch(exchange, series, span)) == [span.start_ms]
        (request, *_) = exchange.server.requests
    assert request.path == path
    assert request.query.items() >= subject.items()
    assert ("symbol" in request.query) != ("pair" in request.query)
    assert request.query["startTime"] == str(span.start_ms)
    assert request.query["endTime"] == str(span.end_ms - 1)


def test_premiums_below_zero_and_bare_numbers_keep_their_text() -> None:
    series = SeriesKey.of("BTCUSDT", "1h", market="um", kind="premiumIndexKlines")
    cells = ["-0.00039615", "-0.00000792", "-0.00140974", "-0.00046270"]
    row = (str(ms(2024, 1, 1)), *cells, "0", str(ms(2024, 1, 1, 1) - 1), "0", "720", "0", "0", "0")
    bare = f"[[{','.join(row)}]]".encode()
    with exchange_at(NOW_MS, {series: [row]}) as exchange:
        exchange.script(lambda genuine: genuine, lambda genuine: type(genuine)(200, bare, genuine.headers))
        for _ in range(2):
            answer = fetch(exchange, series, Span(ms(2024, 1, 1), ms(2024, 1, 2)))
            found = [answer.table.columns[name].tolist() for name in ("open", "high", "low", "close")]
            assert found == [[float(cell)] for cell in cells]
            assert (answer.table.decimals["open"].least, answer.table.decimals["open"].most) == (8, 8)


def test_an_impossible_close_time_is_blamed_on_its_row_in_its_page() -> None:
    span = Span(ms(2024, 5, 1), ms(2024, 5, 3))
    rows = make_rows(range(span.start_ms, span.end_ms, MINUTE_MS), MINUTE_MS)
    rows[1500] = make_row(open_ms_of(rows[1500]), -1)
    with exchange_at(NOW_MS, {SPOT: rows}) as exchange, pytest.raises(RestAnswerError) as caught:
        fetch(exchange, SPOT, span)
    assert caught.value.row == 501
    assert f"startTime={open_ms_of(rows[999]) + 1}&" in caught.value.url


# --- The last bar ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("exchange_ms", "client_ms", "last_closed_ms"),
    [
        pytest.param(NOW_MS + 30_000, NOW_MS + 30_000, NOW_MS - MINUTE_MS, id="in a bar"),
        pytest.param(NOW_MS, NOW_MS, NOW_MS - MINUTE_MS, id="just closed"),
        pytest.param(NOW_MS - 1, NOW_MS - 1, NOW_MS - 2 * MINUTE_MS, id="about to close"),
        pytest.param(NOW_MS + 30_000, NOW_MS + 90_000, NOW_MS - MINUTE_MS, id="the client's clock is ahead"),
        pytest.param(NOW_MS + 90_000, NOW_MS + 30_000, NOW_MS - MINUTE_MS, id="the client's clock is behind"),
    ],
)
def test_a_bar_that_forms_is_never_data(exchange_ms: int, client_ms: int, last_closed_ms: int) -> None:
    span = Span(ms(2024, 6, 1), ms(2024, 6, 2))
    opens = range(span.start_ms, span.end_ms, MINUTE_MS)
    with exchange_at(exchange_ms, {SPOT: make_rows(opens, MINUTE_MS)}) as exchange:
        answer = fetch(exchange, SPOT, span, clock=lambda: client_ms)
    assert opens_of(answer)[-1] == last_closed_ms
    assert answer.span == Span(span.start_ms, last_closed_ms + MINUTE_MS)


def test_a_span_that_has_not_begun_is_not_asked_for() -> None:
    with exchange_at(NOW_MS, {SPOT: []}) as exchange:
        answer = fetch(exchange, SPOT, Span(NOW_MS, NOW_MS + DAY_MS))
        assert (answer.request_count, exchange.request_count, answer.table.row_count) == (0, 0, 0)
    assert not answer.span


# --- Holes and bars off the grid ---------------------------------------------------------------------------


@pytest.mark.parametrize("series", [SPOT, UM], ids=str)
def test_years_before_a_listing_take_one_request_more(series: SeriesKey) -> None:
    opens = range(ms(2024, 5, 30, 22), ms(2024, 6, 1), MINUTE_MS)
    with exchange_at(NOW_MS, {series: make_rows(opens, MINUTE_MS)}) as exchange:
        answer = fetch(exchange, series, Span(ms(2017, 1, 1), ms(2024, 6, 1)))
    assert opens_of(answer) == list(opens)
    page_rows = RULES[series.market].page_rows
    assert answer.request_count == -(-len(opens) // page_rows) + 1


def test_a_halt_is_a_hole_and_an_empty_span_an_empty_table() -> None:
    halt = Span(ms(2024, 5, 1, 12, 39), ms(2024, 5, 1, 14))
    opens = [t for t in range(ms(2024, 5, 1), ms(2024, 5, 2), MINUTE_MS) if t not in halt]
    with exchange_at(NOW_MS, {SPOT: make_rows(opens, MINUTE_MS)}) as exchange:
        assert opens_of(fetch(exchange, SPOT, Span(ms(2024, 5, 1), ms(2024, 5, 2)))) == opens
        answer = fetch(exchange, SPOT, halt)
    assert (answer.table.row_count, answer.span, answer.request_count) == (0, halt, 1)
    assert [source.row_count for source in answer.sources] == [0]


@pytest.mark.parametrize("market", ["spot", "um", "cm"])
def test_hours_that_open_late_come_as_they_are(market: str) -> None:
    series = SeriesKey.of("BTCUSDT", "1h", market=market)
    late_ms = 28 * MINUTE_MS + 14_789
    day_ms = ms(2018, 2, 9) if market != "cm" else ms(2022, 2, 9)
    opens = [day_ms + n * HOUR_MS + (late_ms if 9 <= n < 52 else 0) for n in range(1200) if not 2 <= n < 9]
    rows = [make_row(open_ms, open_ms + HOUR_MS - 1) for open_ms in opens]
    with exchange_at(NOW_MS, {series: rows}) as exchange:
        assert opens_of(fetch(exchange, series, Span(day_ms, day_ms + 60 * DAY_MS))) == opens
        assert opens_of(fetch(exchange, series, Span(opens[3] + 1, opens[7]))) == opens[4:7]


def test_years_of_coin_margined_bars_never_ask_for_more_than_200_days() -> None:
    series = SeriesKey.of("BTCUSD_PERP", "1h", market="cm")
    opens = range(ms(2021, 3, 1), ms(2023, 3, 1), HOUR_MS)
    with exchange_at(NOW_MS, {series: make_rows(opens, HOUR_MS)}) as exchange:
        answer = fetch(exchange, series, Span(ms(2020, 1, 1), ms(2024, 1, 1)))
        asked = [Span(int(r.query["startTime"]), int(r.query["endTime"]) + 1) for r in exchange.server.requests]
    assert opens_of(answer) == list(opens)
    assert max(span.length_ms for span in asked) == 200 * DAY_MS


# --- The first bar -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "series",
    [
        SPOT,
        UM,
        CM,
        SeriesKey.of("BTCUSD_PERP", "1mo", market="cm"),
        SeriesKey.of("BTCUSD", "4h", market="cm", kind=Kind.INDEX_PRICE),
    ],
    ids=str,
)
def test_the_first_bar_is_found_from_the_beginning_and_from_a_time_on(series: SeriesKey) -> None:
    listed_ms = ms(2022, 11, 1, 16) if series.interval is not Interval.MO1 else ms(2022, 11, 1)
    step_ms = series.bar_interval.fixed_ms or 30 * DAY_MS
    again_ms = listed_ms + 400 * step_ms if series.interval is not Interval.MO1 else ms(2024, 1, 1)
    rows = {series: make_rows([listed_ms, listed_ms + step_ms, again_ms], step_ms)}
    daily = SeriesKey(series.market, series.kind, series.symbol, Interval.D1)
    if series.bar_interval.has_daily_archives:
        days = sorted({open_ms_of(row) // DAY_MS * DAY_MS for row in rows[series]})
        rows[daily] = make_rows(days, DAY_MS)

    async def main() -> list[int | None]:
        async with RestDataClient(base_url=exchange.url, clock=lambda: NOW_MS) as client:
            moments = (0, listed_ms, listed_ms + 1, listed_ms + step_ms + 1, again_ms + 1)
            return [await client.first_open_ms(series, moment_ms) for moment_ms in moments]

    with exchange_at(NOW_MS, rows) as exchange:
        assert asyncio.run(main()) == [listed_ms, listed_ms, listed_ms + step_ms, again_ms, None]


# --- Hosts and leaving -------------------------------------------------------------------------------------


def test_each_market_has_its_host_by_argument_then_environment_then_default(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in ("", "_SPOT", "_UM", "_CM"):
        monkeypatch.delenv(f"CKVD_REST_URL{name}", raising=False)
    official = "<RestDataClient: https://api.binance.com, https://fapi.binance.com, https://dapi.binance.com>"
    assert repr(RestDataClient()) == official
    monkeypatch.setenv("CKVD_REST_URL", "http://all.example/")
    assert repr(RestDataClient()) == "<RestDataClient: http://all.example>"
    monkeypatch.setenv("CKVD_REST_URL_UM", "http://um.example")
    client = RestDataClient(base_url={"cm": "http://cm.example"})
    assert repr(client) == "<RestDataClient: http://all.example, http://um.example, http://cm.example>"
    assert repr(RestDataClient(base_url="http://one.example")) == "<RestDataClient: http://one.example>"


def test_a_closed_client_says_so() -> None:
    async def main() -> None:
        client = RestDataClient()
        await client.aclose()
        await client.aclose()
        assert repr(client) == "<RestDataClient: closed>"
        with pytest.raises(ClientClosedError):
            await client.fetch(SPOT, Span(0, NOW_MS))
        with pytest.raises(ClientClosedError):
            await client.first_open_ms(SPOT)

    asyncio.run(main())


# --- The list of symbols -----------------------------------------------------------------------------------


def ask_info(exchange: Exchange, market: str) -> ExchangeInfoAnswer:
    async def main() -> ExchangeInfoAnswer:
        retry = RetryPolicy(attempts_max=2, backoff_first_s=0)
        async with RestDataClient(base_url=exchange.url, retry=retry) as client:
            return await client.exchange_info(market)

    return asyncio.run(main())


@pytest.mark.parametrize(
    ("market", "path"),
    [("spot", "/api/v3/exchangeInfo"), ("um", "/fapi/v1/exchangeInfo"), ("cm", "/dapi/v1/exchangeInfo")],
)
def test_the_list_of_symbols_is_given_as_the_exchange_answers_it(market: str, path: str) -> None:
    body = b'{"symbols": []}' + b" " * (5 << 20)  # longer than a page of bars may be
    with exchange_at(NOW_MS, {}) as exchange:
        exchange.publish_info(Market(market), body)
        answer = ask_info(exchange, market)
    assert (answer.market, answer.url, answer.body) == (market, exchange.url + path, body)


def test_a_list_that_is_refused_or_too_long_is_a_typed_error(monkeypatch: pytest.MonkeyPatch) -> None:
    with exchange_at(NOW_MS, {}) as exchange:
        exchange.publish_info(Market.UM, b'{"symbols": []}')
        exchange.script(Reply(451, b'{"code": 0, "msg": "Service unavailable from a restricted location"}'))
        with pytest.raises(RegionRefusedError):
            ask_info(exchange, "um")
        exchange.script(Reply(503, b""))
        assert ask_info(exchange, "um").body == b'{"symbols": []}'
        monkeypatch.setattr("ckvd.rest.rest_data_client.EXCHANGE_INFO_NBYTES_MAX", 10)
        with pytest.raises(NetworkError, match="10"):
            ask_info(exchange, "um")
        with pytest.raises(IdentityError, match="unknown market 'moon'"):
            ask_info(exchange, "moon")

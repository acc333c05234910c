"""Which exception a response without rows becomes, which requests are tried again, and which pages are refused."""

from __future__ import annotations

import asyncio
import contextlib
import json
from typing import TYPE_CHECKING, Any

import pytest

from ckvd.errors import (
    BannedError,
    CkvdError,
    ExchangeError,
    HttpStatusError,
    InvalidSymbolError,
    NetworkError,
    NotTradingError,
    RateLimitError,
    RegionRefusedError,
    RestAnswerError,
)
from ckvd.model.market import Market, SeriesKey
from ckvd.model.timespan import Span
from ckvd.network.retry import RetryPolicy
from ckvd.rest.refusal import DECISIONS, Decision
from ckvd.rest.rest_data_client import RestAnswer, RestDataClient
from support.loopback.clock import VirtualTime
from support.loopback.exchange import Exchange
from support.loopback.reply import Ending, Reply
from support.loopback.rows import make_rows, to_json
from support.models import MINUTE_MS, ms

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

NOW_MS = ms(2024, 6, 1, 12)
SERIES = SeriesKey.of("BTCUSDT", "1m")
HOUR = Span(ms(2024, 5, 1), ms(2024, 5, 1, 1))
ROWS = make_rows(range(HOUR.start_ms, HOUR.end_ms, MINUTE_MS), MINUTE_MS)
GOOD: list[Any] = json.loads(to_json(ROWS[:1]))[0]


def ask(
    *steps: Reply, series: SeriesKey = SERIES, attempts_max: int = 1, rows: Sequence[Any] = ROWS
) -> tuple[RestAnswer, int]:
    """Fetch an hour from an exchange that first sends these replies, and count the requests."""
    time = VirtualTime(NOW_MS)

    async def main() -> RestAnswer:
        async with RestDataClient(
            base_url=exchange.url,
            clock=time.now_ms,
            steady_clock=time.steady_s,
            sleep=time.sleep,
            retry=RetryPolicy(attempts_max=attempts_max),
        ) as client:
            return await client.fetch(series, HOUR)

    with Exchange({SERIES: rows}, clock=time.now_ms) as exchange:
        exchange.script(*steps)
        return asyncio.run(main()), exchange.request_count


def refusal(status: int, body: bytes) -> ExchangeError | HttpStatusError:
    with pytest.raises(NetworkError) as caught:
        ask(Reply(status, body))
    assert caught.value.status == status
    error = caught.value
    assert isinstance(error, (ExchangeError, HttpStatusError))
    assert "127.0.0.1" in error.url
    return error


def error_body(code: int, message: str) -> bytes:
    return json.dumps({"code": code, "msg": message}).encode()


# --- Refusals ----------------------------------------------------------------------------------------------


def test_a_symbol_that_the_market_does_not_know_has_an_error_of_its_own() -> None:
    with pytest.raises(InvalidSymbolError, match="market spot has no such symbol") as caught:
        ask(series=SeriesKey.of("NOSUCHUSDT", "1m"))
    assert (caught.value.code, caught.value.message, caught.value.status) == (-1121, "Invalid symbol.", 400)
    assert isinstance(caught.value, LookupError)
    assert isinstance(caught.value, ConnectionError)
    assert isinstance(caught.value, CkvdError)


def test_a_pair_that_the_market_does_not_know_as_well() -> None:
    series = SeriesKey.of("NOSUCHUSD", "1h", market="cm", kind="indexPriceKlines")
    with pytest.raises(InvalidSymbolError) as caught:
        ask(series=series)
    assert caught.value.code == -4144


@pytest.mark.parametrize(
    ("status", "code", "message"),
    [
        (400, -1120, "Invalid interval."),
        (400, -4088, "Maximum time interval is 200 days."),
        (400, -1130, "Data sent for parameter 'limit' is not valid."),
        (401, -2014, "API-key format invalid."),
    ],
)
def test_other_errors_carry_code_and_message(status: int, code: int, message: str) -> None:
    error = refusal(status, error_body(code, message))
    assert type(error) is ExchangeError
    assert (error.code, error.message) == (code, message)
    assert f"{status}, code {code}: {message}" in str(error)


def test_a_refusal_of_the_region_says_what_to_do() -> None:
    body = error_body(0, "Service unavailable from a restricted location according to 'b. Eligibility'.")
    error = refusal(451, body)
    assert type(error) is RegionRefusedError
    assert "data-api.binance.vision" in str(error)
    assert error.code == 0


def test_futures_have_no_other_host_and_are_told_so() -> None:
    with pytest.raises(RegionRefusedError, match="CKVD_REST_URL_UM"):
        ask(Reply(451, b"<html>no</html>"), series=SeriesKey.of("BTCUSDT", "1m", market="um"))


def test_a_firewall_answers_with_a_page() -> None:
    error = refusal(403, b"<HTML>\n<H1>403 ERROR</H1>\nRequest   blocked.\n</HTML>" + b" " * 5000)
    assert type(error) is RegionRefusedError
    assert error.code is None
    assert error.message == "<HTML> <H1>403 ERROR</H1> Request blocked. </HTML>"


@pytest.mark.parametrize(
    "body", [b"<html>not found</html>", b"", b"[]", b"[" * 100_000, b'{"msg": "who?"}', b"\xff"]
)
def test_a_status_without_a_code_is_the_status(body: bytes) -> None:
    assert type(refusal(404, body)) is HttpStatusError


STRANGE_HEADERS = [
    {"X-MBX-USED-WEIGHT-1M": "9" * 5000},
    {"Retry-After": "9" * 400},
    {"Retry-After": "9" * 5000},
    {"Retry-After": "Fri, 31 Dec 9999 23:59:59 GMT"},
    {"Date": "Fri, 31 Dec 9999 23:59:59 GMT"},
    {"Date": "Mon, 01 Jan 0001 00:00:00 GMT", "Retry-After": "5"},
    {"Date": "9" * 5000},
]


@pytest.mark.parametrize("headers", STRANGE_HEADERS, ids=range(len(STRANGE_HEADERS)))
@pytest.mark.parametrize("status", [200, 403, 404, 418, 429, 451, 500])
def test_a_strange_header_is_no_error_of_its_own(status: int, headers: dict[str, str]) -> None:
    body = to_json(ROWS) if status == 200 else error_body(-1003, "no")
    with contextlib.nullcontext() if status == 200 else pytest.raises(NetworkError, match=r"^.{1,1000}$"):
        ask(Reply(status, body, headers))


@pytest.mark.parametrize("status", [400, 403, 404, 418, 429, 500])
@pytest.mark.parametrize(
    "body",
    [
        b'{"code": -1, "msg": "\\u001b[2J\\r\\nckvd: all is well\\u202e\\u009b"}',
        b"\x1b]0;title\x07\r\n\xc2\x9b31m",
        b'{"code": ' + b"9" * 4000 + b', "msg": "x"}',
        b'{"code": ' + b"9" * 5000 + b', "msg": "x"}',
        b'{"code": 1, "msg": "' + b"x" * 100_000 + b'"}',
        b'{"code": 1, "msg": ' + b"[" * 10_000 + b"]" * 10_000 + b"}",
        b"[" * 1_000_000,
    ],
    ids=range(7),
)
def test_a_message_of_the_server_is_one_short_line_without_control_characters(status: int, body: bytes) -> None:
    error = refusal(status, body)
    assert str(error).isprintable()
    assert len(str(error)) < 1000


@pytest.mark.parametrize(
    "body",
    [
        b"\x1b[2J\r\n",
        b"[[\x1b]]",
        b'[["\\u001b", 1, 1]]',
        b"[" * 1_000_000,
        b"[" + b"9" * 5000 + b"]",
        b"[" + b" " * (4 << 20),
    ],
    ids=range(6),
)
def test_rows_that_are_none_are_one_short_line(body: bytes) -> None:
    with pytest.raises(NetworkError) as caught:
        ask(Reply(200, body))
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 1000


# --- Documented codes --------------------------------------------------------------------------------------

_ERRORS = {
    Decision.UNKNOWN: InvalidSymbolError,
    Decision.NOT_TRADING: NotTradingError,
    Decision.WAIT: RateLimitError,
    Decision.REFUSED: RegionRefusedError,
    Decision.RETRY: ExchangeError,
    Decision.FATAL: ExchangeError,
}
_MARKETS = {
    Market.SPOT: SERIES,
    Market.UM: SeriesKey.of("BTCUSDT", "1m", market="um"),
    Market.CM: SeriesKey.of("BTCUSD_PERP", "1m", market="cm"),
}


@pytest.mark.parametrize(("market", "code"), DECISIONS)
def test_each_documented_code_has_the_error_of_its_decision(market: Market, code: int) -> None:
    decision = DECISIONS[market, code]
    with pytest.raises(ExchangeError) as caught:
        ask(Reply(400, error_body(code, "As it is said.")), series=_MARKETS[market])
    assert type(caught.value) is _ERRORS[decision]
    assert (caught.value.code, caught.value.message, caught.value.status) == (code, "As it is said.", 400)
    assert "As it is said." in str(caught.value)


@pytest.mark.parametrize(("market", "code"), DECISIONS)
def test_a_documented_code_is_tried_again_only_where_that_may_help(market: Market, code: int) -> None:
    series, time = _MARKETS[market], VirtualTime(NOW_MS)

    async def main() -> int:
        async with RestDataClient(
            base_url=exchange.url,
            clock=time.now_ms,
            steady_clock=time.steady_s,
            sleep=time.sleep,
            retry=RetryPolicy(attempts_max=3),
        ) as client:
            try:
                return (await client.fetch(series, HOUR)).table.row_count
            except ExchangeError:
                return 0

    with Exchange({series: ROWS}, clock=time.now_ms) as exchange:
        exchange.script(Reply(400, error_body(code, "")))
        row_count, request_count = asyncio.run(main()), exchange.request_count
    is_repeated = DECISIONS[market, code] in (Decision.RETRY, Decision.WAIT)
    assert (row_count, request_count) == ((60, 2) if is_repeated else (0, 1))


@pytest.mark.parametrize(
    ("market", "code", "decision"),
    [
        # The same number means different things.
        (Market.SPOT, -1122, Decision.FATAL),
        (Market.UM, -1122, Decision.NOT_TRADING),
        (Market.CM, -1122, Decision.NOT_TRADING),
        (Market.UM, -4087, Decision.FATAL),
        (Market.CM, -4087, Decision.UNKNOWN),
        (Market.UM, -4144, Decision.UNKNOWN),
        (Market.SPOT, -1004, Decision.RETRY),
        (Market.UM, -1004, Decision.FATAL),
        (Market.UM, -1011, Decision.REFUSED),
        (Market.SPOT, -1121, Decision.UNKNOWN),
        (Market.SPOT, -1003, Decision.WAIT),
        (Market.SPOT, -1008, Decision.RETRY),
        (Market.CM, -4088, Decision.FATAL),
    ],
)
def test_the_table_says_what_the_documents_say(market: Market, code: int, decision: Decision) -> None:
    assert DECISIONS[market, code] is decision


def test_a_code_that_nobody_documented_is_reported_and_not_repeated() -> None:
    error = refusal(400, error_body(-9876, "What?"))
    assert type(error) is ExchangeError
    with pytest.raises(ExchangeError):
        ask(Reply(400, error_body(-9876, "What?")), attempts_max=5)


def test_a_contract_that_does_not_trade_is_no_unknown_symbol() -> None:
    series = SeriesKey.of("WAVESUSDT", "1h", market="um")
    with pytest.raises(NotTradingError, match="does not trade in market um: not yet, or no longer") as caught:
        ask(Reply(400, error_body(-1122, "Invalid symbol status.")), series=series)
    assert not isinstance(caught.value, InvalidSymbolError)
    assert isinstance(caught.value, LookupError)


def test_bodies_that_users_reported_are_read(shared_data: Path) -> None:
    reported = json.loads((shared_data / "rest" / "errors.json").read_text())
    expected = {418: BannedError, 429: RateLimitError, 403: RegionRefusedError}
    for one in reported:
        body = one["body"] if isinstance(one["body"], str) else json.dumps(one["body"])
        status = one["status"] or 401
        with pytest.raises(ExchangeError) as caught:
            ask(Reply(status, body.encode()), attempts_max=1)
        code = one["body"].get("code") if isinstance(one["body"], dict) else None
        if code == -1121:
            assert type(caught.value) is InvalidSymbolError
        else:
            assert type(caught.value) is expected.get(status, ExchangeError)
        assert caught.value.code == code


# --- Second attempts ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "step",
    [
        Reply(500, b"<html>oops</html>"),
        Reply(503, error_body(-1001, "Internal error; unable to process your request. Please try again.")),
        Reply(408),
        Reply(200, to_json(ROWS), ending=Ending.RESET, sent_nbytes=10),
        Reply(200, to_json(ROWS), ending=Ending.CLOSE, sent_nbytes=10),
    ],
    ids=["500", "503", "408", "reset", "cut short"],
)
def test_a_transient_failure_is_tried_again(step: Reply) -> None:
    answer, request_count = ask(step, step, attempts_max=3)
    assert answer.table.row_count == 60
    assert answer.request_count == request_count == 3


def test_the_last_attempt_raises_its_own_error() -> None:
    with pytest.raises(HttpStatusError, match="found status 502"):
        ask(Reply(500), Reply(502), attempts_max=2)
    with pytest.raises(ExchangeError, match="-1001"):
        ask(Reply(500, error_body(-1001, "Internal error.")))
    with pytest.raises(NetworkError):
        ask(Reply(200, ending=Ending.RESET, sent_nbytes=0, body=b"[]"))


def test_a_permanent_error_is_not_tried_again() -> None:
    with pytest.raises(ExchangeError):
        ask(Reply(400, error_body(-1120, "Invalid interval.")), attempts_max=5)


def test_an_address_that_is_not_of_http_is_refused_without_a_second_attempt() -> None:
    waits: list[float] = []

    async def sleep(delay_s: float) -> None:
        waits.append(delay_s)

    async def main() -> None:
        async with RestDataClient(base_url="ftp://127.0.0.1", sleep=sleep) as client:
            await client.fetch(SERIES, HOUR)

    with pytest.raises(NetworkError, match="expected an address of http"):
        asyncio.run(main())
    assert waits == []


# --- Invalid bodies and pages ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"<html>",
        b"{}",
        b'{"code":0,"msg":"ok"}',
        b"null",
        b"1",
        b"[[NaN]]",
        b"[" * 100_000,
        b"[[1]",
        b"\xff\xfe",
    ],
    ids=lambda body: repr(body[:20]),
)
def test_a_body_without_rows_is_refused(body: bytes) -> None:
    with pytest.raises(RestAnswerError) as caught:
        ask(Reply(200, body))
    assert len(str(caught.value)) < 500


def page(*opens_ms: int) -> Reply:
    return Reply(200, to_json(make_rows(opens_ms, MINUTE_MS)))


@pytest.mark.parametrize(
    ("reply", "reason"),
    [
        (page(HOUR.start_ms - 1), "does not advance"),
        (page(HOUR.end_ms), "does not advance"),
        (page(HOUR.start_ms, HOUR.end_ms), "does not advance"),
        (page(HOUR.start_ms + MINUTE_MS, HOUR.start_ms), "ascending"),
        (page(HOUR.start_ms, HOUR.start_ms), "ascending"),
        (page(*range(HOUR.start_ms, HOUR.start_ms + 62)), "at most 61 rows"),
        (page(*range(HOUR.start_ms, HOUR.start_ms + 50)), "too soon"),
        (page(HOUR.start_ms * 1000), "does not advance"),
    ],
)
def test_a_page_that_does_not_answer_its_request_is_refused(reply: Reply, reason: str) -> None:
    with pytest.raises(RestAnswerError, match=reason):
        ask(reply)


def test_a_server_that_ignores_where_to_start_is_found_out() -> None:
    series = SeriesKey.of("BTCUSDT", "1m", market="um")
    body = to_json(make_rows(range(HOUR.start_ms, HOUR.start_ms + 499 * MINUTE_MS, MINUTE_MS), MINUTE_MS))

    async def main() -> None:
        async with RestDataClient(base_url=exchange.url) as client:
            with pytest.raises(RestAnswerError, match="does not advance"):
                await client.fetch(series, Span(HOUR.start_ms, HOUR.start_ms + 1000 * MINUTE_MS))

    with Exchange({}) as exchange:
        exchange.script(*[Reply(200, body)] * 10)
        asyncio.run(main())
        assert exchange.request_count == 2


def test_a_close_time_outside_all_years_is_refused() -> None:
    with pytest.raises(RestAnswerError, match="close_time"):
        ask(Reply(200, json.dumps([[*GOOD[:6], 10**17, *GOOD[7:]]]).encode()))

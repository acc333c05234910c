"""The rates of funding by REST: every settlement of a span once, exactly as written, within a limit of its own."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ckvd.errors import IdentityError, InvalidSymbolError, NotTradingError, RestAnswerError
from ckvd.model.market import HOUR_MS, Kind, Market, SeriesKey
from ckvd.model.provenance import Origin
from ckvd.model.timespan import Span, parse_time, union
from ckvd.rest.endpoint import FUNDING_RULES, MarketRules
from ckvd.rest.pages import fault_of, left_over, request_for, windows
from ckvd.rest.rest_data_client import RestAnswer, RestDataClient
from ckvd.rest.settlements import read_settlements
from support.loopback.clock import VirtualTime
from support.loopback.exchange import Exchange
from support.loopback.reply import Reply
from support.settlements import settlements

if TYPE_CHECKING:
    from pathlib import Path

    from support.loopback.rows import Row

UM = SeriesKey.of("BTCUSDT", market="um", kind="fundingRate")
CM = SeriesKey.of("BTCUSD_PERP", market="cm", kind="fundingRate")
NOW = "2024-06-01T12:00"
# The fields that an answer for one settlement must have.
USUAL = {"symbol": "BTCUSDT", "fundingTime": 1, "fundingRate": "0.0001", "markPrice": "2"}


def fetch(exchange: Exchange, series: SeriesKey, start: str, end: str, **options: Any) -> RestAnswer:
    async def main() -> RestAnswer:
        async with RestDataClient(base_url=exchange.url, **options) as client:
            return await client.fetch(series, Span.of(start, end))

    return asyncio.run(main())


def assert_holds(answer: RestAnswer, rows: list[Row]) -> None:
    columns = answer.table.columns
    assert columns["open_time"].tolist() == [int(time) for time, _, _ in rows]
    assert columns["rate"].tolist() == [float(rate) for _, rate, _ in rows]
    marks = np.array([float(mark or "nan") for _, _, mark in rows])
    assert columns["mark_price"].tobytes() == marks.tobytes()
    assert not columns["interval_hours"].any()


# --- Paging ------------------------------------------------------------------------------------------------


@given(
    times=st.sets(st.integers(0, 400)).map(sorted),
    wanted=st.tuples(st.integers(0, 400), st.integers(0, 400)).map(sorted),
    page_rows=st.integers(1, 7),
    span_max_ms=st.none() | st.integers(1, 400),
    is_newest_first=st.booleans(),
    is_said=st.booleans(),
)
def test_pages_of_any_size_bring_every_settlement_once_whichever_side_is_cut(
    times: list[int],
    wanted: list[int],
    page_rows: int,
    span_max_ms: int | None,
    is_newest_first: bool,
    is_said: bool,
) -> None:
    rules = MarketRules("", ((page_rows, 1),), span_max_ms, is_newest_first=is_newest_first is is_said)
    found: list[int] = []
    request_count = 0
    for window in windows(Span(*wanted), rules):
        left = [window]
        while left:
            asked = request_for(left.pop(), None, rules)
            inside = [time for time in times if time in asked.span]
            page = np.array(inside[-page_rows:] if is_newest_first else inside[:page_rows], np.int64)
            assert fault_of(asked, page, None, None) is None
            still = left_over(asked, page, None, rules)
            assert sum(one.length_ms for one in still) < asked.span.length_ms
            found += page.tolist()
            left += still
            request_count += 1
    assert sorted(found) == [time for time in times if wanted[0] <= time < wanted[1]]
    assert request_count <= 3 * len(found) + 2 + len(list(windows(Span(*wanted), rules)))


@pytest.mark.parametrize("is_newest_first", [False, True])
@pytest.mark.parametrize("series", [UM, CM], ids=str)
def test_more_settlements_than_a_page_holds_come_whole(series: SeriesKey, is_newest_first: bool) -> None:
    rows = settlements("2024-01-01", "2024-06-01", hours=1)
    time = VirtualTime(parse_time(NOW))
    with Exchange({series: rows}, clock=time.now_ms, is_funding_newest_first=is_newest_first) as exchange:
        answer = fetch(exchange, series, "2024-01-01", "2024-06-01", clock=time.now_ms)
        requests = exchange.server.requests
    assert_holds(answer, rows)
    assert answer.span == Span.of("2024-01-01", "2024-06-01")
    assert union(source.span for source in answer.sources) == (answer.span,)
    assert sum(source.span.length_ms for source in answer.sources) == answer.span.length_ms
    assert {source.origin for source in answer.sources} == {Origin.REST}
    assert {request.query["limit"] for request in requests} == {"1000"}
    assert answer.table.decimals["mark_price"].most == 8


@pytest.mark.parametrize("is_newest_first", [False, True])
def test_the_first_coin_margined_settlement_is_found_whichever_side_is_cut(is_newest_first: bool) -> None:
    rows = settlements("2022-03-04T08:00", "2024-06-01")
    time = VirtualTime(parse_time(NOW))

    async def ask(exchange: Exchange) -> list[int | None]:
        async with RestDataClient(base_url=exchange.url, clock=time.now_ms) as client:
            starts_ms = (0, parse_time("2023-01-01T00:30"), parse_time("2024-05-31T20:00"))
            return [await client.first_open_ms(CM, start_ms) for start_ms in starts_ms]

    with Exchange({CM: rows}, clock=time.now_ms, is_funding_newest_first=is_newest_first) as exchange:
        found = asyncio.run(ask(exchange))
    times = [int(row[0]) for row in rows]
    later = next(one for one in times if one > parse_time("2023-01-01T00:30"))
    assert found == [times[0], later, None]


def test_the_first_settlement_of_a_usd_margined_contract_takes_one_request() -> None:
    rows = settlements("2022-03-04T08:00", "2024-06-01")
    time = VirtualTime(parse_time(NOW))

    async def ask(exchange: Exchange) -> int | None:
        async with RestDataClient(base_url=exchange.url, clock=time.now_ms) as client:
            return await client.first_open_ms(UM)

    with Exchange({UM: rows}, clock=time.now_ms) as exchange:
        assert asyncio.run(ask(exchange)) == int(rows[0][0])
        assert exchange.request_count == 1


def test_recorded_years_come_whole(shared_data: Path) -> None:
    recording = json.loads((shared_data / "funding" / "binance_BTC_funding_rates.json").read_bytes())
    rows: list[Row] = [(str(row["time"]), row["funding_rate"], "") for row in recording]
    assert len(rows) > 3000
    last_ms = int(rows[-1][0])
    with Exchange({UM: rows}, clock=lambda: last_ms + HOUR_MS) as exchange:
        answer = fetch(exchange, UM, "2022-01-01", "2030-01-01", clock=lambda: last_ms + HOUR_MS)
    assert_holds(answer, rows)


# --- What is published -------------------------------------------------------------------------------------


@pytest.mark.parametrize("minutes_ahead", [0, 30])
def test_the_last_minutes_are_left_out_by_the_clock_that_is_behind(minutes_ahead: int) -> None:
    rows = settlements("2024-05-31", "2024-06-02")
    exchange_ms, ours_ms = parse_time("2024-06-01T08:20"), parse_time("2024-06-01T08:20") + 60_000 * minutes_ahead
    with Exchange({UM: rows}, clock=lambda: exchange_ms) as exchange:
        answer = fetch(exchange, UM, "2024-05-31", "2024-06-02", clock=lambda: ours_ms)
    assert answer.span == Span.of("2024-05-31", "2024-06-01T08:10")
    assert_holds(answer, rows[:5])


def test_a_settlement_of_the_last_minutes_may_not_be_there_yet() -> None:
    rows = settlements("2024-05-31", "2024-06-02")
    with Exchange({UM: rows}, clock=lambda: parse_time("2024-06-01T08:05")) as exchange:
        answer = fetch(exchange, UM, "2024-05-31", "2024-06-02", clock=lambda: parse_time("2024-06-01T08:30"))
    assert answer.span == Span.of("2024-05-31", "2024-06-01T07:55")
    assert_holds(answer, rows[:4])


def test_a_delivery_contract_has_none() -> None:
    series = SeriesKey.of("BTCUSD_240628", market="cm", kind="fundingRate")
    with Exchange({series: []}, clock=lambda: parse_time(NOW)) as exchange:
        answer = fetch(exchange, series, "2024-05-01", "2024-05-02", clock=lambda: parse_time(NOW))
    assert answer.table.row_count == 0
    assert answer.span == Span.of("2024-05-01", "2024-05-02")


def test_an_unknown_symbol_and_a_contract_that_does_not_trade_are_told_apart() -> None:
    with Exchange({UM: []}, clock=lambda: parse_time(NOW)) as exchange:
        with pytest.raises(InvalidSymbolError):
            fetch(exchange, SeriesKey.of("NONEUSDT", market="um", kind="fundingRate"), "2024-05-01", "2024-05-02")
        exchange.suspend(Market.UM, "BTCUSDT")
        with pytest.raises(NotTradingError):
            fetch(exchange, UM, "2024-05-01", "2024-05-02")


def test_metrics_are_not_asked_for() -> None:
    series = SeriesKey.of("BTCUSDT", market="um", kind=Kind.METRICS)
    with Exchange({UM: []}) as exchange:
        with pytest.raises(IdentityError, match="archives are the only source"):
            fetch(exchange, series, "2024-05-01", "2024-05-02")
        assert exchange.request_count == 0


# --- Answers -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["rest_fapi_fundingRate.json", "rest_dapi_fundingRate.json"])
def test_a_recorded_answer_is_read_cell_by_cell(shared_data: Path, name: str) -> None:
    body = (shared_data / "funding" / name).read_bytes()
    expected = json.loads(body)
    series = CM if "dapi" in name else UM
    rows = read_settlements(body, series, name)
    assert rows.columns["open_time"].tolist() == [row["fundingTime"] for row in expected]
    assert rows.columns["rate"].tolist() == [float(row["fundingRate"]) for row in expected]
    marks = np.array([float(row["markPrice"] or "nan") for row in expected])
    assert rows.columns["mark_price"].tobytes() == marks.tobytes()


@given(
    st.lists(st.tuples(st.integers(0, 2**53), st.decimals(allow_nan=False, allow_infinity=False), st.booleans()))
)
def test_every_number_equals_float_of_its_text(cells: list[tuple[int, Any, bool]]) -> None:
    answer = [
        {**USUAL, "fundingTime": time, "fundingRate": f"{rate:f}", "markPrice": f"{rate:f}" if has_mark else ""}
        for time, rate, has_mark in cells
        if abs(float(rate)) < 1e300
    ]
    rows = read_settlements(json.dumps(answer).encode(), UM, "")
    assert rows.columns["rate"].tolist() == [float(row["fundingRate"]) for row in answer]  # type: ignore[arg-type]
    marks = np.array([float(row["markPrice"] or "nan") for row in answer])  # type: ignore[arg-type]
    assert rows.columns["mark_price"].tobytes() == marks.tobytes()


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"symbol": "ETHUSDT"}, "row 2: symbol: expected 'BTCUSDT', found 'ETHUSDT'"),
        ({"symbol": None}, "row 2: symbol: expected 'BTCUSDT', found None"),
        ({"rateType": "Special"}, "row 2: rateType: expected 'Regular', found 'Special'"),
        ({"fundingTime": "1"}, "row 2: fundingTime: expected an integer, found '1'"),
        ({"fundingTime": True}, "row 2: fundingTime: expected an integer, found True"),
        ({"fundingTime": 10**30}, "row 2: fundingTime: expected an integer, found 1000"),
        ({"fundingRate": ""}, "row 2: fundingRate: expected a decimal number, found ''"),
        ({"fundingRate": "\ud800"}, "row 2: fundingRate: expected a decimal number"),
        ({"fundingRate": "1e999"}, "row 2: fundingRate: expected a finite number"),
        ({"markPrice": "nan"}, "row 2: markPrice: expected a decimal number, found 'nan'"),
        ({"markPrice": None}, "row 2: markPrice: expected a decimal number, found None"),
    ],
)
def test_a_settlement_that_cannot_be_read_is_named(change: dict[str, object], reason: str) -> None:
    body = json.dumps([USUAL, {**USUAL, **change}]).encode()
    with pytest.raises(RestAnswerError) as caught:
        read_settlements(body, UM, "there")
    assert reason in str(caught.value)
    assert caught.value.row == 2


@pytest.mark.parametrize("body", [b"", b"{}", b'{"code":0}', b"[1]", b"[[1]]", b"[null]", b"[" * 100_000, b"\xff"])
def test_another_body_is_refused(body: bytes) -> None:
    with pytest.raises(RestAnswerError):
        read_settlements(body, UM, "there")


def test_what_newer_answers_add_does_not_matter() -> None:
    body = json.dumps([{**USUAL, "rateType": "Regular", "more": [1]}]).encode()
    assert read_settlements(body, UM, "").columns["rate"].tolist() == [0.0001]
    without = {name: cell for name, cell in USUAL.items() if name != "markPrice"}
    assert np.isnan(read_settlements(json.dumps([without]).encode(), UM, "").columns["mark_price"]).all()


HOURS_OF_A_DAY = [parse_time("2024-05-01") + hour * HOUR_MS for hour in (0, 8, 16)]


@pytest.mark.parametrize(
    ("times", "reason"),
    [
        ([HOURS_OF_A_DAY[1], HOURS_OF_A_DAY[0]], "ascending"),
        ([HOURS_OF_A_DAY[0], HOURS_OF_A_DAY[0]], "ascending"),
        ([HOURS_OF_A_DAY[0] - 1], "does not advance"),
        ([HOURS_OF_A_DAY[0] + 24 * HOUR_MS], "does not advance"),
        ([HOURS_OF_A_DAY[0] + row for row in range(1001)], "at most 1000"),
    ],
    ids=["out of order", "twice", "before the span", "after the span", "too many"],
)
def test_a_page_that_does_not_answer_its_request_is_refused(times: list[int], reason: str) -> None:
    body = json.dumps([{**USUAL, "fundingTime": time} for time in times]).encode()
    with Exchange({UM: []}, clock=lambda: parse_time(NOW)) as exchange:
        exchange.script(Reply(200, body))
        with pytest.raises(RestAnswerError, match=reason):
            fetch(exchange, UM, "2024-05-01", "2024-05-02")
        assert exchange.request_count == 1


# --- The limit of requests ---------------------------------------------------------------------------------


def test_no_five_minutes_have_more_requests_than_the_exchange_allows() -> None:
    time = VirtualTime(parse_time("2024-06-01T12:00:50"))
    rows = settlements("2024-05-01", "2024-06-01")
    day = Span.of("2024-05-03", "2024-05-04")

    async def ask(exchange: Exchange) -> None:
        async with RestDataClient(
            base_url=exchange.url,
            clock=time.now_ms,
            steady_clock=time.steady_s,
            sleep=time.sleep,
            weight_share=1,
        ) as client:
            answers = await asyncio.gather(*(client.fetch(UM, day) for _ in range(540)))
        assert {answer.table.row_count for answer in answers} == {3}

    with Exchange({UM: rows}, clock=time.now_ms) as exchange:
        asyncio.run(ask(exchange))
    account = exchange.accounts[Market.UM]
    asked_ms = account.funding_asked_ms
    assert len(asked_ms) == 540
    in_five_minutes = [sum(0 <= later - one < 300_000 for later in asked_ms) for one in asked_ms]
    assert max(in_five_minutes) <= 500
    assert account.refused_count == 0
    # It is nearly used up.
    assert asked_ms[480] == asked_ms[0]
    assert asked_ms[-1] - asked_ms[0] < 310_000


def test_bars_do_not_wait_for_the_limit_of_funding() -> None:
    time = VirtualTime(parse_time("2024-06-01T12:00:00"))
    bars = SeriesKey.of("BTCUSDT", "1h", market="um")
    day = Span.of("2024-05-03", "2024-05-04")

    async def ask(exchange: Exchange) -> int:
        async with RestDataClient(
            base_url=exchange.url, clock=time.now_ms, steady_clock=time.steady_s, sleep=time.sleep
        ) as client:
            for _ in range(60):
                await client.fetch(UM, day)
            before_ms = time.now_ms()
            for _ in range(60):
                await client.fetch(bars, day)
            return time.now_ms() - before_ms

    with Exchange({UM: settlements("2024-05-01", "2024-06-01"), bars: []}, clock=time.now_ms) as exchange:
        assert asyncio.run(ask(exchange)) == 0


def test_after_too_many_requests_nothing_is_sent_until_the_pause_is_over() -> None:
    time = VirtualTime(parse_time(NOW))
    with Exchange({UM: settlements("2024-05-01", "2024-06-01")}, clock=time.now_ms) as exchange:
        exchange.script(Reply(429, b'{"code":-1003,"msg":"Too many requests"}', {"Retry-After": "7"}))
        answer = fetch(
            exchange,
            UM,
            "2024-05-03",
            "2024-05-04",
            clock=time.now_ms,
            steady_clock=time.steady_s,
            sleep=time.sleep,
        )
        waited_ms = exchange.accounts[Market.UM].funding_asked_ms[-1] - parse_time(NOW)
    assert answer.request_count == 2
    assert waited_ms >= 7000


def test_both_markets_count_apart() -> None:
    assert all(rules.is_counted_apart and rules.page_rows == 1000 for rules in FUNDING_RULES.values())

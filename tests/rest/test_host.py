"""The limits of the exchange: all tasks together keep them, and what happens after one was exceeded."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
from typing import Any

import pytest

from ckvd.errors import BannedError, ClientClosedError, HttpStatusError, RateLimitError
from ckvd.model.market import Market, SeriesKey
from ckvd.model.timespan import Span
from ckvd.network.retry import RetryPolicy
from ckvd.rest.rest_data_client import RestDataClient
from support.loopback.clock import VirtualTime
from support.loopback.exchange import Exchange
from support.loopback.reply import Gate, Reply
from support.loopback.rows import make_rows
from support.models import HOUR_MS, MINUTE_MS, ms

NOW_MS = ms(2024, 6, 1, 12, 0)
SERIES = SeriesKey.of("BTCUSDT", "1m", market="um")
DAY = Span(ms(2024, 5, 1), ms(2024, 5, 2))
ROWS = {SERIES: make_rows(range(DAY.start_ms, DAY.end_ms, MINUTE_MS), MINUTE_MS)}
SPENT = Reply(429, b'{"code":-1003,"msg":"Too many requests."}', {"Retry-After": "100"})


def client_at(exchange: Exchange, time: VirtualTime, **options: Any) -> RestDataClient:
    return RestDataClient(
        base_url=exchange.url,
        **{"clock": time.now_ms, "steady_clock": time.steady_s, "sleep": time.sleep, **options},
    )


# --- Fifty tasks -------------------------------------------------------------------------------------------


async def fetch_hours(client: RestDataClient, count: int) -> int:
    """Fetch the first hours of the day, one after the other: a weight of 1 each. Return the number of bars."""
    spans = [Span(DAY.start_ms + n * HOUR_MS, DAY.start_ms + (n + 1) * HOUR_MS) for n in range(count)]
    return sum([(await client.fetch(SERIES, span)).table.row_count for span in spans])


def test_fifty_tasks_never_exceed_the_limit() -> None:
    time = VirtualTime(NOW_MS)

    async def main() -> list[int]:
        async with client_at(exchange, time, weight_limits={"um": 60}, concurrency=16) as client:
            return await asyncio.gather(*(fetch_hours(client, 6) for _ in range(50)))

    with Exchange(ROWS, clock=time.now_ms, weight_limits={Market.UM: 60}, patience=1) as exchange:
        assert asyncio.run(main()) == [360] * 50
        account = exchange.accounts[Market.UM]
    assert account.weights.total() == 300
    assert account.refused_count == account.banned_until_ms == 0
    # 48 is the client's share of 60. Requests under way at the end of a minute count twice, which may waste some.
    assert max(account.weights.values()) <= 48
    assert len(account.weights) <= -(-300 // (48 - 2 * 16))


def test_fifty_tasks_never_exceed_the_limit_by_the_real_clock() -> None:
    async def main() -> list[int]:
        async with RestDataClient(
            base_url=exchange.url, weight_limits={"um": 100}, weight_window_s=1.0, concurrency=16
        ) as client:
            return await asyncio.gather(*(fetch_hours(client, 2) for _ in range(50)))

    with Exchange(ROWS, weight_limits={Market.UM: 100}, window_ms=1000, patience=1) as exchange:
        assert asyncio.run(main()) == [120] * 50
        account = exchange.accounts[Market.UM]
    assert account.weights.total() == 100
    assert account.refused_count == account.banned_until_ms == 0
    assert max(account.weights.values()) <= 80


def test_weight_used_by_other_processes_is_respected() -> None:
    time = VirtualTime(NOW_MS)

    async def main() -> None:
        async with client_at(exchange, time, weight_limits={"um": 100}, concurrency=4) as client:
            await fetch_hours(client, 1)
            exchange.spend(Market.UM, 70)
            await asyncio.gather(*(fetch_hours(client, 2) for _ in range(20)))

    with Exchange(ROWS, clock=time.now_ms, weight_limits={Market.UM: 100}) as exchange:
        asyncio.run(main())
        account = exchange.accounts[Market.UM]
    first, second = (account.weights[window] for window in sorted(account.weights))
    assert 71 < first <= 80
    assert second == 1 + 70 + 40 - first
    assert account.refused_count == 0


def test_markets_have_limits_of_their_own() -> None:
    time = VirtualTime(NOW_MS)
    spot = SeriesKey.of("BTCUSDT", "1m")

    async def main() -> None:
        async with client_at(exchange, time, weight_limits={"um": 10}) as client:
            await client.fetch(SERIES, DAY)
            await client.fetch(spot, DAY)

    with Exchange({**ROWS, spot: ROWS[SERIES]}, clock=time.now_ms, weight_limits={Market.UM: 10}) as exchange:
        asyncio.run(main())
        assert [account.weights.total() for account in exchange.accounts.values()] == [4, 6, 0]
    assert time.now_ms() == NOW_MS


# --- 429 ---------------------------------------------------------------------------------------------------


def test_after_a_429_every_task_waits_as_long_as_the_server_asks() -> None:
    time = VirtualTime(NOW_MS)
    came_ms: list[int] = []

    def note(genuine: Reply) -> Reply:
        came_ms.append(time.now_ms())
        return genuine

    async def main() -> None:
        async with client_at(exchange, time, concurrency=1) as client:
            await asyncio.gather(*(client.fetch(SERIES, DAY) for _ in range(3)))

    with Exchange(ROWS, clock=time.now_ms) as exchange:
        exchange.script(note, SPENT, *[note] * 20)
        asyncio.run(main())
    before, *after = came_ms
    assert before == NOW_MS
    assert min(after) >= NOW_MS + 100_000
    assert len(after) == 3 * 3 - 1


def test_after_a_429_nothing_is_left_of_the_minute() -> None:
    time = VirtualTime(NOW_MS)

    async def main() -> None:
        async with client_at(exchange, time) as client:
            await client.fetch(SERIES, DAY)

    with Exchange(ROWS, clock=time.now_ms) as exchange:
        exchange.script(Reply(429, SPENT.body, {"Retry-After": "7"}))
        asyncio.run(main())
    assert time.now_ms() >= NOW_MS + MINUTE_MS


def test_a_429_without_a_pause_waits_for_the_next_minute() -> None:
    time = VirtualTime(NOW_MS + 20_000)

    async def main() -> int:
        async with client_at(exchange, time) as client:
            return (await client.fetch(SERIES, DAY)).request_count

    with Exchange(ROWS, clock=time.now_ms) as exchange:
        exchange.script(Reply(429, b"slow down"))
        assert asyncio.run(main()) == 4
    assert NOW_MS + MINUTE_MS <= time.now_ms() < NOW_MS + MINUTE_MS + 1000


def test_an_outage_lasts_as_long_as_the_exchange_says() -> None:
    time = VirtualTime(NOW_MS)

    async def main() -> None:
        async with client_at(exchange, time) as client:
            assert (await client.fetch(SERIES, DAY)).table.row_count == 1440
            assert NOW_MS + 30_000 <= time.now_ms() < NOW_MS + 31_000
            with pytest.raises(HttpStatusError):
                await client.fetch(SERIES, DAY)

    with Exchange(ROWS, clock=time.now_ms) as exchange:
        exchange.script(Reply(503, headers={"Retry-After": "30"}), *[lambda genuine: genuine] * 3)
        exchange.script(Reply(503, headers={"Retry-After": "121"}))
        asyncio.run(main())


@pytest.mark.parametrize(("retry_after", "request_count"), [("7", 3), ("121", 1)])
def test_attempts_end(retry_after: str, request_count: int) -> None:
    time = VirtualTime(NOW_MS)

    async def main() -> None:
        async with client_at(exchange, time, retry=RetryPolicy(attempts_max=3)) as client:
            with pytest.raises(RateLimitError, match=f"asks to wait {retry_after} s") as caught:
                await client.fetch(SERIES, DAY)
            assert (caught.value.retry_after_s, caught.value.status) == (float(retry_after), 429)
            assert (caught.value.code, caught.value.message) == (-1003, "Too many requests.")

    with Exchange(ROWS, clock=time.now_ms) as exchange:
        exchange.script(*[Reply(429, SPENT.body, {"Retry-After": retry_after})] * 5)
        asyncio.run(main())
        assert exchange.request_count == request_count


def test_a_pause_that_is_too_long_is_an_error_for_every_task_at_once() -> None:
    time = VirtualTime(NOW_MS)

    async def main() -> None:
        async with client_at(exchange, time, concurrency=1) as client:
            outcomes = await asyncio.gather(*(client.fetch(SERIES, DAY) for _ in range(5)), return_exceptions=True)
            assert [type(outcome) for outcome in outcomes] == [RateLimitError] * 5
            assert [str(outcome).count("not sent") for outcome in outcomes] == [0, 1, 1, 1, 1]
            assert exchange.request_count == 1
            assert time.now_ms() == NOW_MS
            time.advance(300_000)
            assert (await client.fetch(SERIES, DAY)).table.row_count == 1440

    with Exchange(ROWS, clock=time.now_ms) as exchange:
        exchange.script(Reply(429, SPENT.body, {"Retry-After": "300"}))
        asyncio.run(main())


# --- 418 ---------------------------------------------------------------------------------------------------


def test_a_ban_stops_everything_and_says_until_when() -> None:
    time = VirtualTime(NOW_MS)
    until_ms = NOW_MS + 5 * MINUTE_MS
    body = b'{"code":-1003,"msg":"Way too many requests; IP banned until %d"}' % until_ms

    async def main() -> None:
        async with client_at(exchange, time, concurrency=2) as client:
            outcomes = await asyncio.gather(*(client.fetch(SERIES, DAY) for _ in range(50)), return_exceptions=True)
            assert {type(outcome) for outcome in outcomes} == {BannedError}
            assert {outcome.until_ms for outcome in outcomes if isinstance(outcome, BannedError)} == {until_ms}
            assert all("2024-06-01T12:05Z" in str(outcome) for outcome in outcomes)
            assert exchange.request_count <= 2
            time.advance_to(until_ms - 1)
            with pytest.raises(BannedError, match="not sent"):
                await client.fetch(SERIES, DAY)
            assert exchange.request_count <= 2
            time.advance_to(until_ms)
            assert (await client.fetch(SERIES, DAY)).table.row_count == 1440

    with Exchange(ROWS, clock=time.now_ms) as exchange:
        exchange.script(*[Reply(418, body, {"Retry-After": "240"})] * 2)
        asyncio.run(main())


def test_a_ban_reaches_those_who_wait_for_the_next_minute() -> None:
    time = VirtualTime(NOW_MS)
    gate = Gate()

    async def never(_: float) -> None:
        await asyncio.Event().wait()

    async def main() -> None:
        async with client_at(exchange, time, concurrency=2, weight_limits={"um": 5}, sleep=never) as client:
            tasks = [asyncio.create_task(client.fetch(SERIES, DAY)) for _ in range(5)]
            await asyncio.to_thread(exchange.server.wait_for_requests, 2)
            gate.open()
            outcomes = await asyncio.gather(*tasks, return_exceptions=True)
            assert [type(outcome) for outcome in outcomes] == [BannedError] * 5

    with Exchange(ROWS, clock=time.now_ms) as exchange:
        exchange.script(*[lambda _: Reply(418, b"banned", head_gate=gate)] * 2)
        asyncio.run(main())
        assert exchange.request_count == 2


@pytest.mark.parametrize(
    ("retry_after", "message", "until_ms"),
    [
        ("240", "", NOW_MS + 240_000),
        ("", f"IP banned until {NOW_MS + 300_000}.", NOW_MS + 300_000),
        ("240", f"IP banned until {NOW_MS + 300_000}.", NOW_MS + 300_000),
        ("400", f"IP banned until {NOW_MS + 300_000}.", NOW_MS + 400_000),
        ("", "", NOW_MS + 120_000),
        ("9" * 400, "", NOW_MS + 366 * 86_400_000),
    ],
)
def test_a_ban_ends_when_the_later_of_both_says(retry_after: str, message: str, until_ms: int) -> None:
    time = VirtualTime(NOW_MS)

    async def main() -> None:
        async with client_at(exchange, time) as client:
            with pytest.raises(BannedError) as caught:
                await client.first_open_ms(SERIES)
            assert caught.value.until_ms == until_ms

    with Exchange(ROWS, clock=time.now_ms) as exchange:
        exchange.script(Reply(418, b'{"code":-1003,"msg":"%b"}' % message.encode(), {"Retry-After": retry_after}))
        asyncio.run(main())


def test_a_client_that_ignores_the_limit_is_banned() -> None:
    """The other tests rely on it: the exchange of these tests bans as the real one does."""
    time = VirtualTime(NOW_MS)

    def ask() -> int:
        connection = http.client.HTTPConnection(exchange.url.removeprefix("http://"))
        with contextlib.closing(connection):
            connection.request("GET", f"/fapi/v1/klines?symbol={SERIES.symbol}&interval={SERIES.interval}&limit=1")
            return connection.getresponse().status

    async def main() -> None:
        async with client_at(exchange, time) as client:
            with pytest.raises(BannedError):
                await fetch_hours(client, 1)

    with Exchange(ROWS, clock=time.now_ms, weight_limits={Market.UM: 30}, patience=5) as exchange:
        statuses = [ask() for _ in range(40)]
        assert exchange.accounts[Market.UM].banned_until_ms > NOW_MS
        asyncio.run(main())
    assert statuses == [200] * 30 + [429] * 5 + [418] * 5


# --- Waiting and leaving -----------------------------------------------------------------------------------


def test_closing_ends_those_who_wait_for_the_next_minute() -> None:
    async def main() -> None:
        async with RestDataClient(base_url=exchange.url, weight_limits={"um": 3}, weight_share=1.0) as client:
            tasks = [asyncio.create_task(client.fetch(SERIES, DAY)) for _ in range(20)]
            await asyncio.to_thread(exchange.server.wait_for_requests, 1)
        outcomes = await asyncio.gather(*tasks, return_exceptions=True)
        assert [type(outcome) for outcome in outcomes] == [ClientClosedError] * 20

    with Exchange(ROWS) as exchange:
        asyncio.run(main())


def test_a_cancelled_waiter_leaves_the_others_in_order() -> None:
    time = VirtualTime(NOW_MS)
    is_awake = asyncio.Event()

    async def sleep(delay_s: float) -> None:
        await is_awake.wait()
        await time.sleep(delay_s)

    async def main() -> None:
        async with client_at(exchange, time, weight_limits={"um": 6}, weight_share=1.0, sleep=sleep) as client:
            await client.fetch(SERIES, DAY)
            tasks = [asyncio.create_task(client.fetch(SERIES, DAY)) for _ in range(4)]
            await asyncio.sleep(0)
            for task in tasks[:3]:
                task.cancel()
            is_awake.set()
            outcomes = await asyncio.gather(*tasks, return_exceptions=True)
            assert [type(outcome) for outcome in outcomes[:3]] == [asyncio.CancelledError] * 3
            assert not isinstance(outcomes[3], BaseException)

    with Exchange(ROWS, clock=time.now_ms, weight_limits={Market.UM: 6}) as exchange:
        asyncio.run(main())
        assert exchange.accounts[Market.UM].weights.total() == 12

"""Opening, using and closing many clients leaks no descriptor, on one event loop and on many."""

from __future__ import annotations

import asyncio

import ckvd
from ckvd.model.market import SeriesKey
from ckvd.model.timespan import Span
from support import leaks
from support.loopback.exchange import Exchange
from support.loopback.rows import make_rows
from support.models import MINUTE_MS
from support.release.closers import run

SERIES = SeriesKey.of("BTCUSDT", "1m")
MINUTE = Span(0, MINUTE_MS)


def test_a_thousand_clients_and_a_hundred_event_loops_take_no_descriptor_more() -> None:
    async def use_one() -> None:
        async with ckvd.RestDataClient(base_url=exchange.url) as client:
            assert (await client.fetch(SERIES, MINUTE)).span == MINUTE

    async def use_thousand() -> None:
        for _ in range(125):
            await asyncio.gather(*(use_one() for _ in range(8)))

    def count() -> int:
        exchange.server.wait_until_idle()
        return leaks.count_descriptors()

    with Exchange({SERIES: make_rows([0], MINUTE_MS)}) as exchange:
        run(use_one)
        before = count()
        run(use_thousand)
        assert count() == before
        for _ in range(100):
            asyncio.run(use_one())
        assert count() == before

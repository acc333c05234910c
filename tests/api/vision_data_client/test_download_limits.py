"""How many at a time, over how many connections."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from support.archives import make_archive, path_of
from support.loopback.reply import Gate, Reply

if TYPE_CHECKING:
    import ckvd
    from ckvd.acquisition.report import DownloadReport
    from support.download_site import DownloadSite

MONTHS = [f"2022-{month:02}" for month in range(1, 13)]


@pytest.mark.parametrize("concurrency", [1, 3])
def test_no_more_archives_are_on_the_line_than_allowed(site: DownloadSite, concurrency: int) -> None:
    """The first of them are held until all places are taken, so that no other could hide behind a quick one."""
    site.publish("BTCUSDT", "1d", *MONTHS)
    gate = Gate()
    for month in MONTHS[:concurrency]:
        path = path_of("BTCUSDT", "1d", month)
        site.mirror.script(path, Reply(200, make_archive(path), head_gate=gate))

    async def main(client: ckvd.VisionDataClient) -> DownloadReport:
        running = asyncio.create_task(client.download("BTCUSDT", "1d", start="2022-01-01", end="2023-01-01"))
        listing_count = 2
        await asyncio.to_thread(site.mirror.server.wait_for_requests, listing_count + concurrency)
        gate.open()
        return await running

    assert site.run(main, concurrency=concurrency).is_complete
    assert site.mirror.server.peak_concurrency == concurrency


def test_connections_are_used_again(site: DownloadSite) -> None:
    site.publish("BTCUSDT", "1d", *MONTHS)
    site.publish("ETHUSDT", "1d", *MONTHS)

    async def main(client: ckvd.VisionDataClient) -> None:
        for symbol in ("BTCUSDT", "ETHUSDT"):
            report = await client.download(symbol, "1d", start="2022-01-01", end="2023-01-01")
            assert report.is_complete

    site.run(main, concurrency=3)
    assert len(site.mirror.server.requests) == 2 * (2 + 12 + 12)
    assert site.mirror.server.connection_count <= 3


def test_many_series_share_the_places(site: DownloadSite) -> None:
    symbols = [f"COIN{number}" for number in range(10)]
    for symbol in symbols:
        site.publish(symbol, "1d", "2022-01", "2022-02")
    report = site.download(symbols, "1d", "2022-01-01", "2022-03-01", concurrency=2)
    assert len(report.stored) == 20
    assert site.mirror.server.peak_concurrency <= 2


def test_one_client_runs_several_downloads_at_once(site: DownloadSite) -> None:
    site.publish("BTCUSDT", "1d", *MONTHS)
    site.publish("ETHUSDT", "1d", *MONTHS)

    async def main(client: ckvd.VisionDataClient) -> list[DownloadReport]:
        return await asyncio.gather(
            *(
                client.download(symbol, "1d", start="2022-01-01", end="2023-01-01")
                for symbol in ("BTCUSDT", "ETHUSDT", "BTCUSDT")
            )
        )

    assert all(report.is_complete for report in site.run(main))
    assert len(site.read("BTCUSDT", "1d", "2022-01-01", "2023-01-01")) == 365
    assert site.leftovers == []

"""Downloads that end before their time: what was finished stays, nothing else does, and the next one goes on."""

from __future__ import annotations

import asyncio
import threading
from typing import TYPE_CHECKING, Any

import pytest

from ckvd.acquisition import ingest
from ckvd.errors import ClientClosedError
from support.archives import make_archive, path_of
from support.download_site import leftovers
from support.loopback.reply import Gate, Reply

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine
    from pathlib import Path

    import ckvd
    from ckvd.acquisition.report import DownloadReport, Progress
    from support.download_site import DownloadSite

MONTHS = [f"2022-{month:02}" for month in range(1, 7)]
FINISHED, HELD = MONTHS[:4], MONTHS[4:]


@pytest.fixture(params=["head", "body"])
def half_year(site: DownloadSite, request: pytest.FixtureRequest) -> DownloadSite:
    """Six months, of which the first requests for the last two are never answered to their end."""
    site.publish("BTCUSDT", "1d", *MONTHS)
    for month in HELD:
        path = path_of("BTCUSDT", "1d", month)
        in_head = Reply(200, make_archive(path), head_gate=Gate())
        in_body = Reply(200, make_archive(path), sent_nbytes=100, body_gate=Gate())
        site.mirror.script(path, in_head if request.param == "head" else in_body)
    return site


class Held:
    """A download that has finished four months and waits for two."""

    def __init__(self, site: DownloadSite, client: ckvd.VisionDataClient) -> None:
        self._site = site
        self._are_finished = asyncio.Event()
        self.task = asyncio.create_task(
            client.download("BTCUSDT", "1d", start="2022-01-01", end="2022-07-01", on_progress=self._watch)
        )

    def _watch(self, progress: Progress) -> None:
        if progress.archive_count == len(FINISHED):
            self._are_finished.set()

    async def wait(self) -> None:
        await self._are_finished.wait()
        listing_count = 2
        awaited = listing_count + 2 * len(FINISHED) + len(HELD)
        await asyncio.to_thread(self._site.mirror.server.wait_for_requests, awaited)


def assert_goes_on(site: DownloadSite) -> None:
    """Only what was finished is there, and the same download fetches the rest and nothing else."""
    assert site.covered("BTCUSDT", "1d") == ["2022-01-01..2022-05-01"]
    assert site.leftovers == []
    site.forget_requests()
    assert site.download("BTCUSDT", "1d", "2022-01-01", "2022-07-01").is_complete
    assert sorted(site.asked) == [f"BTCUSDT-1d-{month}.zip" for month in HELD]
    assert len(site.read("BTCUSDT", "1d", "2022-01-01", "2022-07-01")) == 181


def interrupt(site: DownloadSite, how: Callable[[Held, ckvd.VisionDataClient], Coroutine[Any, Any, None]]) -> None:
    async def main() -> None:
        async with site.client() as client:
            held = Held(site, client)
            await held.wait()
            async with asyncio.timeout(1):
                await how(held, client)
            assert site.leftovers == []
        assert asyncio.all_tasks() == {asyncio.current_task()}

    asyncio.run(main())


# --- Cancelled ---------------------------------------------------------------------------------------------


def test_a_cancelled_download_keeps_what_was_finished_and_goes_on_from_there(half_year: DownloadSite) -> None:
    async def cancel(held: Held, _client: ckvd.VisionDataClient) -> None:
        held.task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await held.task

    interrupt(half_year, cancel)
    assert_goes_on(half_year)


def test_a_download_that_takes_too_long_for_its_caller_goes_on_later(half_year: DownloadSite) -> None:
    async def run_out_of_time(held: Held, _client: ckvd.VisionDataClient) -> None:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0):
                await held.task

    interrupt(half_year, run_out_of_time)
    assert_goes_on(half_year)


def test_a_client_survives_the_cancellation_of_a_download(half_year: DownloadSite) -> None:
    async def cancel_and_go_on(held: Held, client: ckvd.VisionDataClient) -> None:
        held.task.cancel()
        await asyncio.wait((held.task,))
        report = await client.download("BTCUSDT", "1d", start="2022-01-01", end="2022-07-01")
        assert len(report.stored) == len(HELD)

    interrupt(half_year, cancel_and_go_on)


def test_whatever_a_download_is_at_when_it_is_cancelled_nothing_is_left(site: DownloadSite, tmp_path: Path) -> None:
    """Cancelled after any number of turns of the event loop, until it is finished before that."""
    site.publish("BTCUSDT", "1d", "2022-01", "2022-02")

    async def is_cancelled_after(turn_count: int) -> bool:
        cache = tmp_path / f"cache {turn_count}"
        async with site.client(cache=cache) as client:
            task = asyncio.create_task(client.download("BTCUSDT", "1d", start="2022-01-01", end="2022-03-01"))
            for _ in range(turn_count):
                await asyncio.sleep(0)
            task.cancel()
            await asyncio.wait((task,))
            assert list(cache.glob(".download-*")) == []
            return task.cancelled()

    async def main() -> None:
        turn_count = 0
        while await is_cancelled_after(turn_count):
            turn_count += 1 + turn_count // 12

    asyncio.run(main())
    for cache in tmp_path.glob("cache *"):
        assert leftovers(cache) == []


def test_an_archive_that_is_being_stored_when_the_download_is_cancelled_leaves_nothing_behind(
    site: DownloadSite, monkeypatch: pytest.MonkeyPatch
) -> None:
    site.publish("BTCUSDT", "1d", "2022-01")
    has_started, may_go_on = threading.Event(), threading.Event()
    ingest_archives = ingest.ingest_archives

    def ingest_slowly(*arguments: Any) -> Any:
        has_started.set()
        assert may_go_on.wait(10)
        return ingest_archives(*arguments)

    async def main(client: ckvd.VisionDataClient) -> None:
        task = asyncio.create_task(client.download("BTCUSDT", "1d", start="2022-01-01", end="2022-02-01"))
        await asyncio.to_thread(has_started.wait, 10)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        may_go_on.set()

    monkeypatch.setattr(ingest, "ingest_archives", ingest_slowly)
    site.run(main)
    assert site.leftovers == []
    assert site.download("BTCUSDT", "1d", "2022-01-01", "2022-02-01").is_complete


# --- Closed ------------------------------------------------------------------------------------------------


def test_closing_the_client_ends_its_downloads(half_year: DownloadSite) -> None:
    async def close(held: Held, client: ckvd.VisionDataClient) -> None:
        await client.aclose()
        with pytest.raises(ClientClosedError):
            await held.task

    interrupt(half_year, close)
    assert_goes_on(half_year)


def test_closing_the_client_ends_its_downloads_from_a_folder(site: DownloadSite) -> None:
    days = [f"2022-01-{day:02}" for day in range(1, 32)]
    site.publish("BTCUSDT", "1m", *days)

    async def main() -> None:
        closing: list[asyncio.Task[None]] = []

        def close(_: Progress) -> None:
            # The first progress tells how many archives there are, before any of them is looked at.
            if not closing:
                closing.append(asyncio.create_task(client.aclose()))

        client = site.client(base_url=site.root)
        with pytest.raises(ClientClosedError, match=r"the client (is|was) closed"):
            await client.download("BTCUSDT", "1m", start="2022-01-01", end="2022-02-01", on_progress=close)
        await closing[0]

    asyncio.run(main())
    assert site.leftovers == []
    assert site.download("BTCUSDT", "1m", "2022-01-01", "2022-02-01").is_complete


@pytest.mark.parametrize("has_mirror", [True, False])
def test_a_closed_client_asks_for_nothing(samples: DownloadSite, has_mirror: bool) -> None:
    async def main() -> DownloadReport:
        client = samples.client(base_url=samples.mirror.base_url if has_mirror else samples.root)
        await client.aclose()
        await client.aclose()
        return await client.download("BTCUSDT", "1h", start="2023-03-01", end="2023-04-01")

    with pytest.raises(ClientClosedError, match="closed"):
        asyncio.run(main())
    assert samples.mirror.server.requests == []
    assert not samples.cache.exists()

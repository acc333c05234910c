"""Leaving a client stops its work in threads: nothing waits for locks, and nothing is written afterwards."""

from __future__ import annotations

import asyncio
import itertools
import shutil
import signal
import time
from typing import TYPE_CHECKING

import pytest

import ckvd
from ckvd.acquisition.report import Outcome
from ckvd.cache import CacheFolder, fault_points, store
from ckvd.cache.locks import SeriesLock
from ckvd.errors import CacheBusyError, ClientClosedError
from ckvd.model.market import SeriesKey
from support.command import started
from support.download_site import DownloadSite, leftovers
from support.locked import held_elsewhere
from support.processes import run_script
from support.stopwatch import LOADED, Stopwatch

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from ckvd.cache.fault_points import Step

MONTHS = [f"2022-{month:02}" for month in range(1, 7)]
BTC = SeriesKey.of("BTCUSDT", "1d")
# On an idle machine. The lock is waited for thirty times as long.
LEAVING_S = 1.0


@pytest.fixture
def site(tmp_path: Path) -> Iterator[DownloadSite]:
    """Half a year of two symbols."""
    root = tmp_path / "mirror"
    root.mkdir()
    with DownloadSite(root, tmp_path / "cache") as site:
        for symbol in ("BTCUSDT", "ETHUSDT"):
            site.publish(symbol, "1d", *MONTHS)
        yield site


def lock_of(site: DownloadSite) -> Path:
    return CacheFolder(site.cache).lock_path(BTC)


def wait_for_the_lock(cache: Path) -> None:
    """Wait until a segment is written, which then waits for the lock to get its name."""
    deadline_s = time.monotonic() + 60
    while not list(cache.rglob("*.tmp")):
        assert time.monotonic() < deadline_s
        time.sleep(0.005)


def data_of(site: DownloadSite) -> ckvd.CryptoKlineVisionData:
    return ckvd.CryptoKlineVisionData(cache=site.cache, vision_url=site.root, use_rest=False)


# --- A lock that others hold -------------------------------------------------------------------------------


@pytest.mark.parametrize("way", ["cancel", "close", "timeout"])
def test_a_lock_that_is_held_elsewhere_is_not_waited_for_after_leaving(site: DownloadSite, way: str) -> None:
    async def main() -> None:
        async with data_of(site) as data:
            asked = asyncio.ensure_future(data.ensure("BTCUSDT", "1d", start="2022-01-01", end="2022-07-01"))
            await asyncio.to_thread(wait_for_the_lock, site.cache)
            leaving.__enter__()
            if way == "close":
                await data.aclose()
            elif way == "cancel":
                asked.cancel()
            else:
                with pytest.raises(TimeoutError):
                    async with asyncio.timeout(0.01):
                        await asked
        assert not list(site.cache.rglob("*.tmp"))
        (outcome,) = await asyncio.gather(asked, return_exceptions=True)
        assert type(outcome) is (ClientClosedError if way == "close" else asyncio.CancelledError)

    leaving = Stopwatch()
    with held_elsewhere(lock_of(site)):
        asyncio.run(main())
        leaving.__exit__(None, None, None)
    assert leaving.elapsed_s < LEAVING_S * LOADED
    assert leftovers(site.cache) == []
    assert site.covered("BTCUSDT", "1d") == []


def test_one_ctrl_c_ends_a_command_that_waits_for_a_lock(site: DownloadSite, tmp_path: Path) -> None:
    arguments = ["download", "BTCUSDT", "-i", "1d", "--start", "2022-01-01", "--end", "2022-07-01", "--no-rest"]
    places = ["--cache", str(site.cache), "--vision-url", str(site.root)]
    with held_elsewhere(lock_of(site)), started(*arguments, *places, home=tmp_path) as process:
        wait_for_the_lock(site.cache)
        process.send_signal(signal.SIGINT)
        with Stopwatch() as ending:
            _, err = process.communicate(timeout=60)
    assert (process.returncode, err.splitlines()[-1][:17]) == (130, "ckvd: interrupted")
    assert ending.wall_s < LEAVING_S * LOADED
    assert leftovers(site.cache) == []


def test_ctrl_c_ends_a_call_beside_a_running_loop(site: DownloadSite) -> None:
    """As in a notebook: the call runs in a thread of its own."""
    script = f"""
        import asyncio, os, signal, threading, time, warnings
        from pathlib import Path
        import ckvd
        from support.locked import held_elsewhere

        cache = Path({str(site.cache)!r})

        def interrupt():
            while not list(cache.rglob("*.tmp")):
                time.sleep(0.005)
            begin.append(time.monotonic())
            os.kill(os.getpid(), signal.SIGINT)

        async def main():
            threading.Thread(target=interrupt).start()
            try:
                ckvd.ensure("BTCUSDT", "1d", start="2022-01-01", end="2022-07-01", cache=cache,
                            vision_url={str(site.root)!r}, use_rest=False)
            except KeyboardInterrupt:
                print(time.monotonic() - begin[0], threading.active_count(), not list(cache.rglob("*.tmp")))

        begin = []
        warnings.simplefilter("ignore")  # the loop stays open, as in a notebook
        signal.signal(signal.SIGINT, signal.default_int_handler)
        with held_elsewhere(Path({str(lock_of(site))!r})):
            asyncio.new_event_loop().run_until_complete(main())  # unlike `asyncio.run`, it leaves SIGINT alone
    """
    took_s, thread_count, is_tidy = run_script(script).split()
    assert float(took_s) < LEAVING_S * LOADED
    assert int(thread_count) <= 2  # the interrupting thread may just end
    assert is_tidy == "True"


# --- After leaving -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("is_closed", [False, True], ids=["cancelled", "closed"])
def test_nothing_is_written_after_leaving_and_a_deleted_cache_stays_deleted(
    site: DownloadSite, is_closed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Left at each step that changes the disk, while the thread goes on from it."""

    async def main(number: int) -> int:
        loop, is_reached, has_left = asyncio.get_running_loop(), asyncio.Event(), False
        count = itertools.count()
        late: list[Step] = []

        def reach(step: Step) -> None:
            if next(count) == number:
                loop.call_soon_threadsafe(is_reached.set)
            if has_left:
                late.append(step)

        monkeypatch.setattr(fault_points, "reach", reach)
        data = data_of(site)
        asked = asyncio.ensure_future(
            data.ensure(["BTCUSDT", "ETHUSDT"], "1d", start="2022-01-01", end="2022-02-01")
        )
        await asyncio.wait((asked, asyncio.ensure_future(is_reached.wait())), return_when=asyncio.FIRST_COMPLETED)
        if not is_closed:
            asked.cancel()
            await asyncio.wait((asked,))
        await data.aclose()
        has_left = True
        shutil.rmtree(site.cache, ignore_errors=True)
        assert not site.cache.exists()
        await asyncio.gather(asked, return_exceptions=True)
        await loop.shutdown_default_executor()
        assert late == []
        return next(count)

    for number in itertools.count():
        step_count = asyncio.run(main(number))
        assert not site.cache.exists()
        if step_count <= number:
            break
    assert number > 10


# --- One busy series of several ----------------------------------------------------------------------------


def test_a_series_that_is_locked_elsewhere_fails_alone(site: DownloadSite, monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> ckvd.DownloadReport:
        async with data_of(site) as data:
            return await data.ensure(["BTCUSDT", "ETHUSDT"], "1d", start="2022-01-01", end="2022-07-01")

    patience_s = 0.2
    monkeypatch.setattr(store, "SeriesLock", lambda *of, timeout_s: SeriesLock(*of, timeout_s=patience_s))
    with held_elsewhere(lock_of(site)):
        report = asyncio.run(main())
    assert {archive.series.symbol for archive in report.stored} == {"ETHUSDT"}
    assert {archive.series.symbol for archive in report.failed} == {"BTCUSDT"}
    assert {type(archive.error) for archive in report.failed} == {CacheBusyError}
    assert all(archive.outcome is Outcome.FAILED for archive in report.failed)
    assert not report.is_complete
    assert [str(span) for span in report.missing[BTC]] == ["2022-01-01..2022-07-01"]
    assert site.covered("ETHUSDT", "1d") == ["2022-01-01..2022-07-01"]
    assert leftovers(site.cache) == []
    assert asyncio.run(main()).is_complete

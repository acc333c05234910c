"""What child processes decode and store is what this process stores itself, and they may be killed at any time."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest

import ckvd
from ckvd.acquisition import limits
from ckvd.acquisition.limits import IngestLimits
from ckvd.cache import CacheFolder
from ckvd.cache.leftovers import find_leftovers
from ckvd.errors import WorkerDiedError
from ckvd.maintenance.verification import is_clean, verify_cache
from ckvd.utils.config import INGEST_PROCESSES_MAX
from support.child_work import child_pids, is_alive
from support.download_site import leftovers
from support.places import IS_WHOLE
from support.processes import ENVIRONMENT

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from support.download_site import DownloadSite

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="needs /proc")

SYMBOLS = ["BTCUSDT", "ETHUSDT", "BNBUSDT"]
LABELS = ["2021-01", "2021-02", "2021-03"]
SPAN = ("2021-01-01", "2021-04-01")


@pytest.fixture
def quarter(site: DownloadSite, monkeypatch: pytest.MonkeyPatch) -> DownloadSite:
    """A mirror of which even few archives are worth processes."""
    monkeypatch.setattr(limits, "INGEST_PROCESSES_NBYTES_MIN", 0)
    site.publish(SYMBOLS[0], "1m", *LABELS)
    for symbol in SYMBOLS[1:]:
        site.publish(symbol, "15m", *LABELS)
    return site


def download(site: DownloadSite, cache: Path, workers: int) -> ckvd.DownloadReport:
    async def work(client: ckvd.VisionDataClient) -> ckvd.DownloadReport:
        first = await client.download(SYMBOLS[0], "1m", start=SPAN[0], end=SPAN[1])
        assert child_pids(os.getpid()) == []
        others = await client.download(SYMBOLS[1:], "15m", start=SPAN[0], end=SPAN[1])
        assert child_pids(os.getpid()) == []
        return ckvd.DownloadReport(
            {**first.spans, **others.spans},
            (*first.archives, *others.archives),
            {**first.missing, **others.missing},
            present_ms=first.present_ms,
        )

    return site.run(work, cache=cache, workers=workers)


def contents_of(root: Path) -> dict[str, Any]:
    """The cells and sources of each series."""
    found: dict[str, Any] = {}
    with ckvd.open_cache(root) as cache:
        for symbol, interval in zip(SYMBOLS, ("1m", "15m", "15m"), strict=True):
            klines = cache.read(symbol, interval, start=SPAN[0], end=SPAN[1], missing="ignore")
            found[symbol] = [getattr(klines, name).tobytes() for name in ("open_time", "open", "volume", "count")]
            found[symbol].append([(source.name, source.sha256, source.row_count) for source in klines.sources])
    return found


def test_child_processes_store_the_same_as_threads(quarter: DownloadSite, tmp_path: Path) -> None:
    alone = download(quarter, tmp_path / "alone", 1)
    together = download(quarter, tmp_path / "together", 2)
    assert alone.is_complete
    assert together.archives == alone.archives
    assert contents_of(tmp_path / "together") == contents_of(tmp_path / "alone")
    assert leftovers(tmp_path / "together") == []
    assert is_clean(list(verify_cache(CacheFolder(tmp_path / "together"))))


def test_an_archive_that_a_child_refuses_is_reported_as_by_a_thread(quarter: DownloadSite, tmp_path: Path) -> None:
    broken = next(quarter.root.rglob("ETHUSDT-15m-2021-02.zip"))
    broken.write_bytes(b"no zip")
    broken.with_name(broken.name + ".CHECKSUM").unlink()
    alone = download(quarter, tmp_path / "alone", 1)
    together = download(quarter, tmp_path / "together", 2)
    assert [str(report.error) for report in alone.failed] == [str(report.error) for report in together.failed]
    assert "no ZIP" in str(together.failed[0].error)


@contextlib.contextmanager
def killing(count: int, seed: int) -> Iterator[list[int]]:
    """In the block, kill children at random moments, until `count` are killed. Yields those."""
    killed: list[int] = []
    is_over = threading.Event()
    chance = random.Random(seed)

    def kill() -> None:
        while len(killed) < count and not is_over.wait(chance.random() * 0.05):
            for pid in child_pids(os.getpid()):
                # A child that starts is at other things than one that is a moment old.
                if not is_over.wait(chance.random() * 0.4):
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGKILL)
                        killed.append(pid)
                break

    thread = threading.Thread(target=kill)
    thread.start()
    try:
        yield killed
    finally:
        is_over.set()
        thread.join()


def test_children_killed_at_random_cost_nothing_that_the_next_download_does_not_bring(
    quarter: DownloadSite, tmp_path: Path
) -> None:
    download(quarter, tmp_path / "alone", 1)
    expected = contents_of(tmp_path / "alone")
    left, seed = 100 if IS_WHOLE else 10, 0
    while left > 0:
        cache, seed = tmp_path / f"cache {seed}", seed + 1
        with killing(left, seed) as killed:
            report = download(quarter, cache, 2)
        left -= max(1, len(killed))
        assert all(isinstance(archive.error, WorkerDiedError) for archive in report.failed)
        assert report.is_complete == (not report.failed)
        if report.failed:
            assert download(quarter, cache, 2).is_complete
        assert contents_of(cache) == expected
        assert leftovers(cache) == []
        assert find_leftovers(CacheFolder(cache)) == []
        assert is_clean(list(verify_cache(CacheFolder(cache))))
        shutil.rmtree(cache)


def test_a_download_that_is_cancelled_ends_its_children_and_leaves_nothing(
    quarter: DownloadSite, tmp_path: Path
) -> None:
    async def work(client: ckvd.VisionDataClient) -> None:
        task = asyncio.create_task(client.download(SYMBOLS[0], "1m", start=SPAN[0], end=SPAN[1]))
        while not child_pids(os.getpid()):
            await asyncio.sleep(0)
            assert not task.done()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert child_pids(os.getpid()) == []

    cache = tmp_path / "cancelled"
    quarter.run(work, cache=cache, workers=2)
    assert leftovers(cache) == []
    assert download(quarter, cache, 2).is_complete


# The command, for which even few archives are worth processes.
COMMAND = """
from ckvd.acquisition import limits
limits.INGEST_PROCESSES_NBYTES_MIN = 0
from ckvd.cli.main import run
run()
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_a_command_that_a_signal_ends_leaves_no_children(
    quarter: DownloadSite, tmp_path: Path, number: signal.Signals
) -> None:
    cache = tmp_path / "cache"
    arguments = ["download", SYMBOLS[0], "-i", "1m", "--start", SPAN[0], "--end", SPAN[1], "--no-rest"]
    with subprocess.Popen(
        [
            *(sys.executable, "-c", COMMAND, *arguments, "--cache", str(cache)),
            *("--vision-url", str(quarter.root), "--workers", "2"),
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=ENVIRONMENT,
    ) as command:
        pids: list[int] = []
        while not pids:
            assert command.poll() is None
            pids = child_pids(command.pid)
        command.send_signal(number)
        _, complaints = command.communicate(timeout=60)
    assert b"Traceback" not in complaints
    end_s = time.monotonic() + 20
    while any(map(is_alive, pids)):
        assert time.monotonic() < end_s
    if number != signal.SIGKILL:
        assert leftovers(cache) == []
    assert download(quarter, cache, 2).is_complete
    assert leftovers(cache) == []


def test_processes_are_for_several_archives_of_some_length() -> None:
    assert not IngestLimits(workers=1).are_worth_processes(100, 1 << 40)
    assert not IngestLimits(workers=4).are_worth_processes(1, 1 << 40)
    assert not IngestLimits(workers=4).are_worth_processes(100, 1 << 20)
    assert IngestLimits(workers=4).are_worth_processes(100, 1 << 30)
    assert IngestLimits(workers=1000).processes <= INGEST_PROCESSES_MAX
    with pytest.raises(ValueError, match="workers is 0"):
        IngestLimits(workers=0)

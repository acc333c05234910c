"""Disks that refuse: an error of the cache that says what to do, and nothing left behind."""

from __future__ import annotations

import errno
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from ckvd.errors import CacheError
from support.disks import files_no_longer_than
from support.download_site import leftovers
from support.places import SAMPLES
from support.processes import ENVIRONMENT, writing_nothing

if TYPE_CHECKING:
    from collections.abc import Iterator

    from support.download_site import DownloadSite

# An archive of 46 kB, and the segment of 84 kB that it becomes.
SPAN = ("BTCUSDT", "1h", "2023-03-01", "2023-04-01")


@pytest.mark.parametrize(
    ("nbytes", "refused"), [(10_000, ".part"), (60_000, ".ckvd")], ids=["the archive", "the segment"]
)
def test_a_full_disk_is_an_error_of_the_cache_and_leaves_nothing_behind(
    samples: DownloadSite, nbytes: int, refused: str
) -> None:
    with files_no_longer_than(nbytes), pytest.raises(CacheError, match=r"too large; .* a limit of") as caught:
        samples.download(*SPAN)
    assert caught.value.errno == errno.EFBIG
    assert caught.value.path.endswith(refused)
    assert caught.value.path.startswith(str(samples.cache))
    assert samples.leftovers == []
    assert samples.covered("BTCUSDT", "1h") == []
    assert len(samples.asked) == 1


def test_a_large_archive_is_refused_while_it_comes(samples: DownloadSite) -> None:
    with files_no_longer_than(10_000), pytest.raises(CacheError, match="too large"):
        samples.download("BNBBTC", "1s", "2023-01-01", "2023-01-02")
    assert samples.leftovers == []


def test_what_was_stored_before_the_disk_was_full_stays_and_the_download_goes_on(samples: DownloadSite) -> None:
    samples.download("BTCUSDT", "1mo", "2023-03-01", "2023-04-01")
    with files_no_longer_than(10_000), pytest.raises(CacheError):
        samples.download(*SPAN)
    assert len(samples.read("BTCUSDT", "1mo", "2023-03-01", "2023-04-01")) == 1
    assert samples.download(*SPAN).is_complete


def test_a_disk_that_has_no_room_for_packing_does_not_spoil_a_download(
    site: DownloadSite, caplog: pytest.LogCaptureFixture
) -> None:
    months = [f"2021-{month:02}" for month in range(1, 13)]
    site.publish("BTCUSDT", "1d", *months)
    with files_no_longer_than(8000):
        reports = [site.download("BTCUSDT", "1d", "2021-01", end) for end in (*months[1:], "2022-01")]
    assert all(report.is_complete for report in reports)
    assert sum(len(report.stored) for report in reports) == 12
    assert "everything is stored, but not packed" in caplog.text
    assert site.leftovers == []


def test_a_file_where_the_cache_should_be_is_named(samples: DownloadSite) -> None:
    samples.cache.write_text("not a folder", encoding="utf-8")
    with pytest.raises(CacheError, match="cache"):
        samples.download(*SPAN)
    assert samples.mirror.server.requests == []


READ_ONLY = """
import asyncio, os, sys
import ckvd

async def download(end):
    async with ckvd.VisionDataClient(sys.argv[1], cache=".") as client:
        report = await client.download("BTCUSDT", "1h", start="2024-12-01", end=end)
        print("complete:", report.is_complete)

asyncio.run(download("2025-01-01"))         # everything is imported now
os.chmod(".", 0o555)
if os.geteuid() == 0:
    os.seteuid(65534)                       # rights do not concern root
asyncio.run(download("2025-01-01"))
try:
    asyncio.run(download("2025-02-01"))
except ckvd.CacheError as error:
    print(error)
with ckvd.open_cache(".") as cache:
    print(len(cache.read("BTCUSDT", "1h", start="2024-12-01", end="2025-01-01")), "bars")
"""


@pytest.fixture
def public_folder() -> Iterator[Path]:
    """A folder that every user finds, which one below pytest's own is not."""
    with tempfile.TemporaryDirectory() as name:
        path = Path(name)
        path.chmod(0o755)
        yield path
        path.chmod(0o755)


def test_a_folder_without_the_right_to_write_is_an_error_and_can_be_read(public_folder: Path) -> None:
    finished = subprocess.run(
        [sys.executable, "-W", "error", "-c", READ_ONLY, str(SAMPLES)],
        cwd=public_folder,
        env=writing_nothing(ENVIRONMENT),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    first, again, refusal, bars = finished.stdout.splitlines()
    assert first == again == "complete: True"
    assert "Permission denied; its owner or its rights forbid it" in refusal
    assert bars == "744 bars"
    assert finished.stderr == ""
    assert leftovers(public_folder) == []

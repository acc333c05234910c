"""Mirrors that fail in every way: what is tried again, what is reported, and that nothing false is stored."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import socket
from typing import TYPE_CHECKING

import pytest

import ckvd
from ckvd.errors import (
    ArchiveError,
    ChecksumMismatchError,
    ChecksumMissingError,
    HttpStatusError,
    NetworkError,
    NetworkTimeoutError,
)
from ckvd.network.retry import RetryPolicy
from support.archives import checksum_path_of, make_archive, path_of, zip_text
from support.download_site import ATTEMPTS_MAX
from support.loopback.mirror import publish
from support.loopback.reply import Ending, Gate, Reply

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from ckvd.acquisition.report import ArchiveReport, DownloadReport
    from support.download_site import DownloadSite

DAYS = ckvd.SeriesKey.of("BTCUSDT", "1d")
FEBRUARY = path_of("BTCUSDT", "1d", "2023-02")
MARCH = path_of("BTCUSDT", "1d", "2023-03")
WRONG = hashlib.sha256(b"another version").hexdigest()


@pytest.fixture
def spring(site: DownloadSite) -> DownloadSite:
    """A mirror with three months, none of whose days."""
    site.publish("BTCUSDT", "1d", "2023-02", "2023-03", "2023-04")
    return site


def download(site: DownloadSite, **options: object) -> DownloadReport:
    report = site.download("BTCUSDT", "1d", "2023-02-01", "2023-05-01", **options)  # type: ignore[arg-type]
    assert site.leftovers == []
    return report


def of_march(report: DownloadReport) -> ArchiveReport:
    (found,) = (archive for archive in report.archives if str(archive.period) == "2023-03")
    return found


def assert_only_march_is_missing(site: DownloadSite, report: DownloadReport) -> None:
    assert site.covered("BTCUSDT", "1d") == ["2023-02-01..2023-03-01", "2023-04-01..2023-05-01"]
    assert [str(span) for span in report.missing[DAYS]] == ["2023-03-01..2023-04-01"]
    assert not report.is_complete


# --- What passes -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "fault",
    [
        Reply(500),
        Reply(503, b"<Error><Code>SlowDown</Code></Error>"),
        Reply(429),
        Reply(200, bytes(5000), sent_nbytes=2000),
        Reply(200, bytes(5000), sent_nbytes=2000, ending=Ending.RESET),
        Reply(200, bytes(5000), sent_nbytes=0, ending=Ending.RESET),
    ],
    ids=["500", "503", "429", "short body", "reset in mid-body", "reset after the head"],
)
@pytest.mark.parametrize("path", [MARCH, MARCH + ".CHECKSUM"], ids=["archive", "CHECKSUM"])
def test_a_fault_that_passes_is_not_noticed(spring: DownloadSite, fault: Reply, path: str) -> None:
    spring.mirror.script(path, fault, fault)
    report = download(spring)
    assert report.is_complete
    assert not report.errors
    assert spring.mirror.count(path) == 3
    assert of_march(report).attempt_count == (3 if path == MARCH else 1)
    assert len(spring.read("BTCUSDT", "1d", "2023-03-01", "2023-04-01")) == 31


def test_a_server_that_says_how_long_to_wait_is_obeyed(spring: DownloadSite) -> None:
    waits: list[float] = []

    async def note(delay_s: float) -> None:
        waits.append(delay_s)

    spring.mirror.script(MARCH, Reply(429, headers={"Retry-After": "7"}), Reply(503, headers={"Retry-After": "3"}))
    assert download(spring, sleep=note).is_complete
    assert waits == [7.0, 3.0]


def test_a_body_that_hangs_is_given_up_and_asked_for_again(spring: DownloadSite) -> None:
    content = make_archive(MARCH)
    spring.mirror.script(MARCH, Reply(200, content, sent_nbytes=100, body_gate=Gate()))
    assert download(spring, stall_timeout_s=0.2).is_complete
    assert spring.mirror.count(MARCH) == 2


def test_a_checksum_that_is_wrong_once_is_asked_for_again_with_its_archive(spring: DownloadSite) -> None:
    spring.mirror.script(MARCH + ".CHECKSUM", Reply(200, f"{WRONG}  BTCUSDT-1d-2023-03.zip".encode()))
    report = download(spring)
    assert report.is_complete
    assert spring.mirror.count(MARCH) == spring.mirror.count(MARCH + ".CHECKSUM") == 2
    assert of_march(report).attempt_count == 2


# --- What stays --------------------------------------------------------------------------------------------


def test_a_checksum_that_is_wrong_twice_keeps_its_archive_out_and_no_other(spring: DownloadSite) -> None:
    publish(spring.root, MARCH, make_archive(MARCH), digest=WRONG)
    report = download(spring)
    error = of_march(report).error
    assert isinstance(error, ChecksumMismatchError)
    assert (error.expected, error.found) == (WRONG, hashlib.sha256(make_archive(MARCH)).hexdigest())
    assert spring.mirror.count(MARCH) == 2
    assert_only_march_is_missing(spring, report)
    assert of_march(report).notes == (str(error),)


def test_the_days_stand_in_for_a_month_that_cannot_be_believed(spring: DownloadSite) -> None:
    publish(spring.root, MARCH, make_archive(MARCH), digest=WRONG)
    spring.publish("BTCUSDT", "1d", *(f"2023-03-{day:02}" for day in range(1, 32)))
    report = download(spring)
    assert report.is_complete
    assert [str(archive.period) for archive in report.failed] == ["2023-03"]
    assert len(report.stored) == 2 + 31


def damaged_archives() -> Iterator[tuple[str, bytes]]:
    whole = make_archive(MARCH)
    yield "no ZIP", b"<html>not today</html>"
    yield "cut off", whole[: len(whole) // 2]
    yield "a flipped byte", whole[:60] + bytes([whole[60] ^ 0xFF]) + whole[61:]
    yield "of another month", make_archive(FEBRUARY)
    yield "with text in it", zip_text("BTCUSDT-1d-2023-03.zip", ["1677628800000,1,2,3,four,5,6,7,8,9,10,0\n"])


@pytest.mark.parametrize("content", dict(damaged_archives()).values(), ids=dict(damaged_archives()).keys())
def test_a_right_checksum_does_not_make_a_damaged_archive_good(spring: DownloadSite, content: bytes) -> None:
    publish(spring.root, MARCH, content)
    spring.publish("BTCUSDT", "1d", "2023-03-07")
    report = download(spring)
    error = of_march(report).error
    assert isinstance(error, ArchiveError)
    assert "BTCUSDT-1d-2023-03.zip" in str(error)
    assert spring.mirror.count(MARCH) == 1
    assert [str(span) for span in report.missing[DAYS]] == ["2023-03-01..2023-03-07", "2023-03-08..2023-04-01"]


@pytest.mark.parametrize(
    ("fault", "error", "attempt_count"),
    [
        (Reply(500), HttpStatusError, ATTEMPTS_MAX),
        (Reply(200, bytes(5000), sent_nbytes=2000), NetworkError, ATTEMPTS_MAX),
        (Reply(200, bytes(5000), sent_nbytes=2000, body_gate=Gate()), NetworkTimeoutError, ATTEMPTS_MAX),
        (Reply(403, b"<Error><Code>AccessDenied</Code></Error>"), HttpStatusError, 1),
        (Reply(429, headers={"Retry-After": "86400"}), HttpStatusError, 1),
    ],
    ids=["500", "short body", "hang", "denied", "come back tomorrow"],
)
def test_a_month_that_could_not_be_had_is_reported_and_its_days_are_not_asked_for(
    spring: DownloadSite, fault: Reply, error: type[Exception], attempt_count: int
) -> None:
    spring.mirror.script(MARCH, *[fault] * 10)
    report = download(spring, stall_timeout_s=0.1)
    assert type(of_march(report).error) is error
    assert spring.asked.count("BTCUSDT-1d-2023-03.zip") == attempt_count
    assert len(spring.asked) == 2 + attempt_count
    assert_only_march_is_missing(spring, report)


def test_what_could_not_be_had_is_asked_for_the_next_time(spring: DownloadSite) -> None:
    spring.mirror.script(MARCH, *[Reply(500)] * ATTEMPTS_MAX)
    assert not download(spring).is_complete
    spring.forget_requests()
    assert download(spring).is_complete
    assert spring.asked == ["BTCUSDT-1d-2023-03.zip"]


def test_a_host_that_cannot_be_reached_is_reported_once_for_each_archive(tmp_path: Path) -> None:
    async def main(url: str) -> DownloadReport:
        retry = RetryPolicy(2, backoff_first_s=0)
        async with ckvd.VisionDataClient(url, cache=tmp_path, retry=retry) as client:
            return await client.download("BTCUSDT", "1d", start="2022-01-01", end="2023-01-01")

    with socket.socket() as bound:  # bound and not listening: refused, and nobody else gets the port
        bound.bind(("127.0.0.1", 0))
        report = asyncio.run(main(f"http://127.0.0.1:{bound.getsockname()[1]}"))
    assert len(report.failed) == len(report.archives) == 12
    assert all(isinstance(error, NetworkError) for error in report.errors)
    assert "127.0.0.1" in str(report.errors[0])
    assert not report.is_complete
    assert list(tmp_path.rglob("*.ckvd")) == []


# --- No CHECKSUM -------------------------------------------------------------------------------------------


def test_an_archive_without_a_checksum_is_taken_and_the_report_says_so(spring: DownloadSite) -> None:
    publish(spring.root, path_of("BTCUSDT", "1d", "2023-05"), make_archive(MARCH.replace("03", "05")), digest="")
    report = spring.download("BTCUSDT", "1d", "2023-04-01", "2023-06-01")
    april, may = report.archives
    assert april.notes == ()
    assert may.notes == ("no CHECKSUM is published, so its bytes are not confirmed",)
    (first, second) = spring.read("BTCUSDT", "1d", "2023-04-01", "2023-06-01").sources
    assert (first.is_checksum_published, second.is_checksum_published) == (True, False)


def test_an_archive_without_a_checksum_is_refused_where_one_is_required(spring: DownloadSite) -> None:
    (spring.root / checksum_path_of("BTCUSDT", "1d", "2023-03")).unlink()
    report = download(spring, is_checksum_required=True)
    assert isinstance(of_march(report).error, ChecksumMissingError)
    assert_only_march_is_missing(spring, report)


# --- What is said of it ------------------------------------------------------------------------------------


def test_a_mirror_without_a_listing_is_nothing_to_warn_of(
    spring: DownloadSite, caplog: pytest.LogCaptureFixture
) -> None:
    spring.mirror.script("/no-listing", Reply(200, b"<!DOCTYPE html><html>an index of files</html>"))
    report = spring.download("BTCUSDT", "1d", "2023-01-31", "2023-03-01", has_listing=False)
    assert len(report.stored) == 1
    assert spring.mirror.count("/no-listing") >= 1
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []

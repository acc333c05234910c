"""Progress adds up, and what it calls cannot break a download unnoticed."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from ckvd.acquisition.report import DownloadReport, Outcome, Progress
from support.archives import make_archive, path_of
from support.loopback.mirror import publish
from support.loopback.reply import Reply

if TYPE_CHECKING:
    from support.download_site import DownloadSite

MARCH = path_of("BTCUSDT", "1d", "2023-03")
WRONG = "0" * 64


def download(site: DownloadSite, start: str, end: str) -> tuple[list[Progress], DownloadReport]:
    seen: list[Progress] = []
    report = site.download("BTCUSDT", "1d", start, end, on_progress=seen.append)
    return seen, report


def assert_adds_up(seen: list[Progress], report: DownloadReport) -> None:
    counts = [progress.archive_count for progress in seen]
    totals = [progress.archive_total for progress in seen]
    assert counts == sorted(counts)
    assert totals == sorted(totals)
    assert all(progress.archive_count <= progress.archive_total for progress in seen)
    assert all(progress.nbytes >= 0 for progress in seen)
    finished = [progress.latest for progress in seen if progress.latest is not None]
    assert sorted(finished, key=lambda one: one.period) == list(report.archives)
    assert seen[-1].archive_count == seen[-1].archive_total == len(report.archives)


def test_bytes_and_archives_are_counted_to_the_end(site: DownloadSite) -> None:
    site.publish("BTCUSDT", "1d", "2023-01", "2023-02", "2023-03")
    seen, report = download(site, "2023-01-01", "2023-04-01")
    assert_adds_up(seen, report)
    assert (seen[0].archive_count, seen[0].archive_total, seen[0].nbytes) == (0, 3, 0)
    assert seen[-1].nbytes == sum(archive.nbytes for archive in report.archives)
    assert {progress.nbytes_total for progress in seen} == {None}
    nbytes = [progress.nbytes for progress in seen]
    assert nbytes == sorted(nbytes)


def test_a_listing_tells_how_many_bytes_are_to_come(site: DownloadSite) -> None:
    site.publish("BTCUSDT", "1d", *(f"2023-0{month}" for month in range(1, 7)))
    seen, report = download(site, "2023-01-01", "2023-07-01")
    assert_adds_up(seen, report)
    assert {progress.nbytes_total for progress in seen} == {seen[-1].nbytes}
    assert seen[-1].nbytes == sum(archive.nbytes for archive in report.archives)


def test_the_total_grows_when_days_stand_in_for_a_month(site: DownloadSite) -> None:
    site.publish("BTCUSDT", "1d", "2023-03-30", "2023-03-31")
    seen, report = download(site, "2023-03-30", "2023-04-01")
    assert_adds_up(seen, report)
    assert {progress.archive_total for progress in seen} == {1, 3}
    assert seen[-1].nbytes == sum(archive.nbytes for archive in report.stored)


def test_bytes_that_were_given_up_do_not_count(site: DownloadSite) -> None:
    site.publish("BTCUSDT", "1d", "2023-03", "2023-04")
    site.mirror.script(MARCH, Reply(200, make_archive(MARCH), sent_nbytes=500), Reply(500, bytes(300)))
    seen, report = download(site, "2023-03-01", "2023-05-01")
    assert report.is_complete
    assert_adds_up(seen, report)
    assert seen[-1].nbytes == sum(archive.nbytes for archive in report.archives)


def test_an_archive_that_is_refused_does_not_count(site: DownloadSite) -> None:
    site.publish("BTCUSDT", "1d", "2023-04")
    publish(site.root, MARCH, make_archive(MARCH), digest=WRONG)
    seen, report = download(site, "2023-03-01", "2023-05-01")
    assert_adds_up(seen, report)
    assert seen[-1].nbytes == sum(archive.nbytes for archive in report.stored) > 0


def test_absent_archives_are_dealt_with_too(site: DownloadSite) -> None:
    seen, report = download(site, "2023-03-31", "2023-04-01")
    assert_adds_up(seen, report)
    assert [one.outcome for one in report.archives] == [Outcome.ABSENT, Outcome.ABSENT]
    assert seen[-1].nbytes == 0


def test_what_is_there_makes_no_progress(site: DownloadSite) -> None:
    site.publish("BTCUSDT", "1d", "2023-03")
    download(site, "2023-03-01", "2023-04-01")
    assert download(site, "2023-03-01", "2023-04-01")[0] == []


def test_several_series_share_one_count(site: DownloadSite) -> None:
    site.publish("BTCUSDT", "1d", "2023-03")
    site.publish("ETHUSDT", "1d", "2023-03")
    seen: list[Progress] = []
    report = site.download(["BTCUSDT", "ETHUSDT"], "1d", "2023-03-01", "2023-04-01", on_progress=seen.append)
    assert seen[-1].archive_count == seen[-1].archive_total == 2
    assert seen[-1].nbytes == sum(archive.nbytes for archive in report.archives)


class NotTodayError(Exception):
    pass


@pytest.mark.parametrize("at", ["the start", "bytes", "the end of an archive"])
def test_what_a_callback_raises_ends_the_download_and_leaves_nothing(site: DownloadSite, at: str) -> None:
    site.publish("BTCUSDT", "1d", "2023-01", "2023-02", "2023-03")

    def raise_at(progress: Progress) -> None:
        moment = "the end of an archive" if progress.latest else "bytes" if progress.nbytes else "the start"
        if moment == at:
            raise NotTodayError

    with pytest.raises(NotTodayError):
        site.download("BTCUSDT", "1d", "2023-01-01", "2023-04-01", on_progress=raise_at)
    assert site.leftovers == []
    assert site.download("BTCUSDT", "1d", "2023-01-01", "2023-04-01").is_complete

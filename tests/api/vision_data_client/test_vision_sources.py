"""Where archives come from and under which names: mirrors, folders, listings, the environment."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

import ckvd
from ckvd.acquisition.report import DownloadReport, Outcome
from ckvd.errors import TimeError
from ckvd.model.timespan import parse_time
from support.archives import path_of
from support.loopback.reply import Reply
from support.places import SAMPLES

if TYPE_CHECKING:
    from pathlib import Path

    from support.download_site import DownloadSite


def outcomes(report: DownloadReport) -> dict[str, str]:
    return {str(archive.period): archive.outcome.value for archive in report.archives}


# --- Names -------------------------------------------------------------------------------------------------


def test_a_month_spelled_in_another_way_is_found(samples: DownloadSite) -> None:
    report = samples.download("ADABKRW", "1d", "2020-08-01", "2020-09-01")
    assert samples.asked == ["ADABKRW-1d-2020-08.zip", "ADABKRW-1d-2020-8.zip"]
    assert report.is_complete
    (stored,) = report.stored
    assert stored.source is not None
    assert stored.source.name.endswith("ADABKRW-1d-2020-8.zip")


def test_a_symbol_that_is_not_ascii_is_downloaded(samples: DownloadSite) -> None:
    report = samples.download("币安人生USDT", "5m", "2025-10-20", "2025-10-21")
    assert report.is_complete
    klines = samples.read("币安人生USDT", "5m", "2025-10-20", "2025-10-21")
    assert klines.open_time[0] == parse_time("2025-10-20T08:00")


# --- Where from, where to ----------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [str, type(SAMPLES)])
def test_a_folder_is_a_source_and_stays_as_it_is(kind: type, tmp_path: Path) -> None:
    before = sorted(path.stat().st_mtime_ns for path in SAMPLES.rglob("*"))

    async def main() -> DownloadReport:
        async with ckvd.VisionDataClient(kind(SAMPLES), cache=tmp_path) as client:
            return await client.download("ADABKRW", "1d", start="2020-08-01", end="2020-09-01")

    report = asyncio.run(main())
    assert [archive.outcome for archive in report.archives] == [Outcome.STORED]
    assert sorted(path.stat().st_mtime_ns for path in SAMPLES.rglob("*")) == before


def test_a_folder_that_is_no_mirror_is_an_error_and_no_absence(tmp_path: Path) -> None:
    async def main() -> DownloadReport:
        async with ckvd.VisionDataClient(tmp_path / "not-mounted", cache=tmp_path / "cache") as client:
            return await client.download("BTCUSDT", "1h", start="2023-03-01", end="2023-04-01")

    report = asyncio.run(main())
    assert outcomes(report) == {"2023-03": "failed"}
    assert "not-mounted: expected a mirror" in str(report.errors[0])


def test_the_environment_names_the_mirror_and_the_cache(
    samples: DownloadSite, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CKVD_VISION_URL", samples.mirror.base_url)
    monkeypatch.setenv("CKVD_VISION_LISTING_URL", samples.mirror.listing_url)
    monkeypatch.setenv("CKVD_CACHE_DIR", str(tmp_path / "elsewhere"))

    async def main() -> DownloadReport:
        async with ckvd.VisionDataClient() as client:
            return await client.download("ADABKRW", "1d", start="2020-08-01", end="2020-09-01")

    assert asyncio.run(main()).is_complete
    assert samples.listing_count == 1
    assert list((tmp_path / "elsewhere").rglob("*.ckvd"))
    with ckvd.open_cache() as cache:
        assert len(cache.read("ADABKRW", "1d", start="2020-08-01", end="2020-09-01")) > 0


def test_arguments_come_before_the_environment(
    samples: DownloadSite, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CKVD_VISION_URL", str(tmp_path / "nowhere"))
    monkeypatch.setenv("CKVD_CACHE_DIR", str(tmp_path / "elsewhere"))
    assert samples.download("BTCUSDT", "1h", "2023-03-01", "2023-04-01").is_complete
    assert samples.covered("BTCUSDT", "1h") == ["2023-03-01..2023-04-01"]
    assert not (tmp_path / "elsewhere").exists()


# --- Refusals ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (("BTC/USDT", "1h", "2023-03-01", "2023-04-01"), ckvd.IdentityError),
        (("BTCUSDT", "7m", "2023-03-01", "2023-04-01"), ckvd.IdentityError),
        (("BTCUSDT", "1h", "2023-04-01", "2023-03-01"), TimeError),
        (("BTCUSDT", "1h", "yesterday", "2023-03-01"), TimeError),
    ],
)
def test_what_makes_no_sense_is_refused_before_anything_is_asked(
    samples: DownloadSite, arguments: tuple[str, str, str, str], error: type[Exception]
) -> None:
    with pytest.raises(error):
        samples.download(*arguments)
    assert samples.mirror.server.requests == []
    assert not samples.cache.exists()


@pytest.mark.parametrize("concurrency", [0, -1])
def test_a_concurrency_that_would_never_fetch_is_refused(samples: DownloadSite, concurrency: int) -> None:
    with pytest.raises(ValueError, match="concurrency"):
        samples.client(concurrency=concurrency)


# --- Listings ----------------------------------------------------------------------------------------------


def publish_autumn(site: DownloadSite) -> None:
    """Half a year of days, of which three months have no month."""
    site.publish("BTCUSDT", "1d", "2022-09", "2022-11", "2022-12-30", "2022-12-31")


def test_a_listing_spares_requests_for_what_is_absent(site: DownloadSite) -> None:
    publish_autumn(site)
    report = site.download("BTCUSDT", "1d", "2022-07-01", "2023-01-01")
    assert sorted(site.asked) == sorted(
        f"BTCUSDT-1d-{label}.zip" for label in ("2022-09", "2022-11", "2022-12-30", "2022-12-31")
    )
    assert site.listing_count == 2
    assert set(outcomes(report).values()) == {"stored"}
    assert [str(span) for span in report.missing[ckvd.SeriesKey.of("BTCUSDT", "1d")]] == [
        "2022-07-01..2022-09-01",
        "2022-10-01..2022-11-01",
        "2022-12-01..2022-12-30",
    ]


def test_a_listing_gives_months_their_spelling(site: DownloadSite) -> None:
    site.publish("BTCUSDT", "1d", "2022-10", "2022-11", "2022-12")
    path = site.root / path_of("BTCUSDT", "1d", "2022-09")
    site.publish("BTCUSDT", "1d", "2022-09")
    path.rename(path.with_name("BTCUSDT-1d-2022-9.zip"))
    path.with_name(path.name + ".CHECKSUM").unlink()
    report = site.download("BTCUSDT", "1d", "2022-09-01", "2023-01-01")
    assert len(site.asked) == 4
    assert "BTCUSDT-1d-2022-9.zip" in site.asked
    assert len(report.stored) == 4


def test_few_archives_are_asked_for_without_a_listing(site: DownloadSite) -> None:
    site.publish("BTCUSDT", "1d", "2022-10", "2022-11", "2022-12")
    assert site.download("BTCUSDT", "1d", "2022-10-01", "2023-01-01").is_complete
    assert site.listing_count == 0


@pytest.mark.parametrize(
    "refusal",
    [Reply(404), Reply(403, b"<Error><Code>AccessDenied</Code></Error>"), Reply(500), Reply(200, b"<html>")],
    ids=["absent", "denied", "out of order", "something else"],
)
def test_many_archives_are_downloaded_without_a_listing_too(site: DownloadSite, refusal: Reply) -> None:
    publish_autumn(site)
    site.mirror.script("/no-listing", *[refusal] * 50)
    report = site.download("BTCUSDT", "1d", "2022-07-01", "2023-01-01", has_listing=False)
    assert len(report.stored) == 4
    assert not report.failed
    # Six months; the days of four of them; nothing twice.
    assert len(site.asked) == len(set(site.asked)) == 6 + 31 + 31 + 31 + 31

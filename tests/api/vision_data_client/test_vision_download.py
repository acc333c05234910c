"""What a download asks for, and what is in the cache afterwards."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

import ckvd
from ckvd.model.calendar import Cadence
from ckvd.model.market import HOUR_MS
from ckvd.model.timespan import Span, parse_time
from ckvd.vision.name import ArchiveName
from support.archives import columns_of, path_of, read_rows
from support.download_site import NOW_MS
from support.places import SAMPLES

if TYPE_CHECKING:
    from collections.abc import Callable

    from ckvd.acquisition.report import DownloadReport
    from support.download_site import DownloadSite

BTC_1M = ckvd.SeriesKey.of("BTCUSDT", "1m")


def outcomes(report: DownloadReport) -> dict[str, str]:
    return {str(archive.period): archive.outcome.value for archive in report.archives}


def clock_at(moment: str) -> Callable[[], int]:
    return lambda: parse_time(moment)


# --- All samples -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cadence", Cadence)
def test_every_cell_of_every_sample_equals_an_independent_reading(samples: DownloadSite, cadence: Cadence) -> None:
    paths = sorted(path.relative_to(SAMPLES).as_posix() for path in SAMPLES.rglob(f"{cadence}/*lines/**/*.zip"))
    names = [name for path in paths if (name := ArchiveName.of_path(path)) is not None]
    now_ms = NOW_MS

    async def download(client: ckvd.VisionDataClient) -> None:
        nonlocal now_ms
        for name in names:
            if cadence is Cadence.DAILY:
                now_ms = name.period.span.end_ms + 12 * HOUR_MS  # there is no month yet
            assert (await client.download_series([name.series], name.period.span)).is_complete

    samples.run(download, is_checksum_required=True, clock=lambda: now_ms)
    with ckvd.open_cache(samples.cache) as cache:
        for name in names:
            klines = cache.read_series(name.series, name.period.span)
            for column, cells in columns_of(read_rows(SAMPLES / name.path), klines.column_names).items():
                assert klines[column].tobytes() == np.array(cells, klines[column].dtype).tobytes(), name
    assert len(names) == len(paths) >= 10
    assert samples.leftovers == []


# --- Months and days ---------------------------------------------------------------------------------------


def test_a_closed_month_comes_as_one_archive(samples: DownloadSite) -> None:
    report = samples.download("BTCUSDT", "1h", "2023-03-01", "2023-04-01")
    assert samples.asked == ["BTCUSDT-1h-2023-03.zip"]
    assert samples.checksums_asked == ["BTCUSDT-1h-2023-03.zip.CHECKSUM"]
    assert samples.listing_count == 0
    assert report.is_complete
    assert not report.covered_before
    (stored,) = report.stored
    assert stored.nbytes == (SAMPLES / path_of("BTCUSDT", "1h", "2023-03")).stat().st_size
    assert stored.attempt_count == 1
    assert stored.source is not None
    assert (stored.source.row_count, stored.source.is_checksum_published) == (743, True)
    assert stored.notes == ()


def test_an_archive_is_stored_whole_even_if_a_moment_of_it_was_wanted(samples: DownloadSite) -> None:
    samples.download("BTCUSDT", "1h", "2023-03-31T22:00", "2023-03-31T23:00")
    assert len(samples.read("BTCUSDT", "1h", "2023-03-01", "2023-04-01")) == 743


def test_days_stand_in_for_a_month_that_is_absent(samples: DownloadSite) -> None:
    report = samples.download("BTCUSDT", "1m", "2023-03-23", "2023-03-26")
    assert samples.asked[0] == "BTCUSDT-1m-2023-03.zip"
    assert sorted(samples.asked[1:]) == [f"BTCUSDT-1m-2023-03-{day}.zip" for day in (23, 24, 25)]
    assert outcomes(report) == {
        "2023-03": "absent",
        "2023-03-23": "stored",
        "2023-03-24": "stored",
        "2023-03-25": "stored",
    }
    assert report.is_complete
    klines = samples.read("BTCUSDT", "1m", "2023-03-23", "2023-03-26")
    assert len(klines) == 3 * 1440 - 80
    assert [(gap.start_ms, gap.bar_count) for gap in klines.gaps] == [(parse_time("2023-03-24T12:40"), 80)]


def test_the_current_month_comes_as_days(samples: DownloadSite) -> None:
    report = samples.download("BTCUSDT", "1m", "2025-01-01", "2025-01-02", clock=clock_at("2025-01-20T10:00"))
    assert samples.asked == ["BTCUSDT-1m-2025-01-01.zip"]
    assert report.is_complete


@pytest.mark.parametrize(("hour", "asked"), [("07:59", []), ("08:00", ["BTCUSDT-1m-2025-01-01.zip"])])
def test_a_day_is_not_asked_for_before_it_can_be_published(
    samples: DownloadSite, hour: str, asked: list[str]
) -> None:
    report = samples.download("BTCUSDT", "1m", "2025-01-01", "2025-01-02", clock=clock_at(f"2025-01-02T{hour}"))
    assert samples.asked == asked
    assert report.is_complete == bool(asked)
    assert report.missing == {BTC_1M: () if asked else (Span.of("2025-01-01", "2025-01-02"),)}


def test_bars_that_are_not_closed_are_not_missing(samples: DownloadSite) -> None:
    report = samples.download("BTCUSDT", "1m", "2025-01-01", "2025-02-01", clock=clock_at("2025-01-02T09:00:30"))
    assert report.missing == {BTC_1M: (Span.of("2025-01-02", "2025-01-02T09:00"),)}


def test_an_interval_longer_than_a_day_is_asked_for_by_the_month_only(samples: DownloadSite) -> None:
    report = samples.download("BTCUSDT", "1mo", "2024-11-01", "2025-02-01")
    assert samples.asked[0] == "BTCUSDT-1mo-2024-11.zip"
    assert sorted(samples.asked) == [f"BTCUSDT-1mo-{month}.zip" for month in ("2024-11", "2024-12", "2025-01")]
    assert outcomes(report) == {"2024-11": "absent", "2024-12": "stored", "2025-01": "stored"}
    assert not report.failed


def test_what_nobody_has_is_absent_and_missing_and_no_failure(samples: DownloadSite) -> None:
    report = samples.download("NOSUCHUSDT", "1h", "2023-03-30", "2023-04-01")
    assert set(outcomes(report).values()) == {"absent"}
    assert not report.is_complete
    assert (report.failed, report.errors, report.stored) == ((), (), ())
    assert list(report.missing.values()) == [(Span.of("2023-03-30", "2023-04-01"),)]
    assert list(samples.cache.rglob("*.ckvd")) == []


# --- What is there -----------------------------------------------------------------------------------------


def test_what_is_there_is_not_asked_for_again(samples: DownloadSite) -> None:
    samples.download("BTCUSDT", "1m", "2023-03-23", "2023-03-26")
    samples.forget_requests()
    report = samples.download("BTCUSDT", "1m", "2023-03-23T11:00", "2023-03-25T07:00")
    assert samples.mirror.server.requests == []
    assert report.covered_before
    assert report.is_complete
    assert report.archives == ()


def test_days_complete_a_month_of_which_a_part_is_there(samples: DownloadSite) -> None:
    samples.download("BTCUSDT", "1m", "2023-03-24", "2023-03-25")
    samples.forget_requests()
    report = samples.download("BTCUSDT", "1m", "2023-03-23", "2023-03-26")
    assert sorted(samples.asked) == ["BTCUSDT-1m-2023-03-23.zip", "BTCUSDT-1m-2023-03-25.zip"]
    assert report.is_complete


def test_a_segment_that_was_truncated_is_fetched_again(samples: DownloadSite) -> None:
    samples.download("BTCUSDT", "1h", "2023-03-01", "2023-04-01")
    (segment,) = samples.cache.rglob("*.ckvd")
    with segment.open("r+b") as file:
        file.truncate(100)
    samples.forget_requests()
    report = samples.download("BTCUSDT", "1h", "2023-03-01", "2023-04-01")
    assert samples.asked == ["BTCUSDT-1h-2023-03.zip"]
    assert report.is_complete
    assert len(samples.read("BTCUSDT", "1h", "2023-03-01", "2023-04-01")) == 743


# --- Several series ----------------------------------------------------------------------------------------


def test_a_symbol_that_is_absent_does_not_keep_the_others_from_being_stored(samples: DownloadSite) -> None:
    symbols = ["BTCUSDT", "NOSUCHUSDT", "BTCUSDT"]
    report = samples.download(symbols, "1h", "2024-12-31", "2025-01-01")
    assert [series.symbol for series in report.series] == ["BTCUSDT", "NOSUCHUSDT"]
    assert [archive.series.symbol for archive in report.stored] == ["BTCUSDT"]
    assert {series.symbol: bool(spans) for series, spans in report.missing.items()} == {
        "BTCUSDT": False,
        "NOSUCHUSDT": True,
    }


def test_no_series_is_complete_at_once(samples: DownloadSite) -> None:
    assert samples.download([], "1h", "2023-03-01", "2023-04-01").covered_before
    assert samples.mirror.server.requests == []


@pytest.mark.parametrize(
    ("start", "end"),
    [("2025-01-02T10:00", "2025-01-02T11:00"), ("2100-01-01", "2100-01-02"), ("2023-03-01", "2023-03-01")],
    ids=["is open", "lies ahead", "is empty"],
)
def test_of_a_span_without_closed_bars_nothing_was_in_the_cache(
    samples: DownloadSite, start: str, end: str
) -> None:
    report = samples.download("BTCUSDT", "1h", start, end, clock=clock_at("2025-01-02T10:59"))
    assert (report.archives, report.is_closed, report.covered_before) == ((), False, False)
    assert samples.mirror.server.requests == []

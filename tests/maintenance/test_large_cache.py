"""A cache of 20,000 segments: listing reads little, reading one series does not notice, memory is flat."""

from __future__ import annotations

import resource
import sys
import zlib
from typing import TYPE_CHECKING, Self

import numpy as np
import pytest

from ckvd.acquisition.ingest import expected_of
from ckvd.cache import CacheFolder, KlineCache
from ckvd.cache.folder import SegmentName
from ckvd.cache.selection import SeriesFilter
from ckvd.decode.decode import decode_archive
from ckvd.maintenance import inventory
from ckvd.maintenance.inventory import list_series
from ckvd.maintenance.verification import verify_cache
from ckvd.model.market import DAY_MS, SeriesKey
from ckvd.model.table import KlineTable
from ckvd.model.timespan import Span
from ckvd.segment import SegmentStatement, SegmentWriter
from ckvd.segment.reader import read_segment_header
from ckvd.vision.name import ArchiveName
from support.places import SAMPLES

if TYPE_CHECKING:
    from pathlib import Path

SAMPLE = SAMPLES / "data/spot/daily/klines/BTCUSDT/1h/BTCUSDT-1h-2023-03-24.zip"
SERIES_COUNT = 2000
DAYS = 10


def real_day() -> KlineTable:
    """The 23 hours of a day with an outage."""
    name = ArchiveName.of_path("data/spot/daily/klines/BTCUSDT/1h/BTCUSDT-1h-2023-03-24.zip")
    assert name is not None
    return decode_archive(SAMPLE.read_bytes(), expected_of(name)).table


def fill(folder: CacheFolder, series: SeriesKey, day: KlineTable) -> None:
    path = folder.series_path(series)
    path.mkdir(parents=True)
    start_ms = int(day.open_time[0])
    for number in range(DAYS):
        shift_ms = number * DAY_MS
        span = Span(start_ms + shift_ms, start_ms + shift_ms + DAY_MS)
        times = {name: day.columns[name] + shift_ms for name in ("open_time", "close_time")}
        table = KlineTable(series, {**day.columns, **times}, day.decimals)
        name = SegmentName(span, number + 1)
        with SegmentWriter.of_table(
            path / name.file_name, SegmentStatement(series, span, number + 1), table
        ) as writer:
            writer.publish()


class Calls:
    """Counts the calls of functions in the body of a `with`: what it costs, whatever else the machine does.

    Attributes
    ----------
    count : int
        Functions of Python, and those of C that they call, system calls among them.
    """

    count = 0

    def __enter__(self) -> Self:
        sys.setprofile(self._note)
        return self

    def __exit__(self, *_error: object) -> None:
        sys.setprofile(None)

    def _note(self, _frame: object, event: str, _argument: object) -> None:
        self.count += event in {"call", "c_call"}


def copy_to(folder: CacheFolder, files: dict[str, bytes], first: SeriesKey, other: SeriesKey) -> None:
    """Make the same segments for another series, whose symbol is as long: much faster than writing them."""
    path = folder.series_path(other)
    path.mkdir(parents=True)
    for file_name, template in files.items():
        content = bytearray(template.replace(first.symbol.encode(), other.symbol.encode()))
        header_nbytes = int.from_bytes(content[16:20], "little")
        content[12:16] = zlib.crc32(content[16:header_nbytes]).to_bytes(4, "little")
        with open(f"{path}/{file_name}", "wb", buffering=0) as file:  # noqa: PTH123  (thousands of them)
            file.write(content)


def series_of(number: int) -> SeriesKey:
    return SeriesKey.of(f"C{number:04d}USDT", "1h")


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> CacheFolder:
    folder = CacheFolder(tmp_path_factory.mktemp("large") / "cache")
    fill(folder, series_of(0), real_day())
    files = {path.name: path.read_bytes() for path in folder.series_path(series_of(0)).iterdir()}
    for number in range(1, SERIES_COUNT):
        copy_to(folder, files, series_of(0), series_of(number))
    return folder


@pytest.mark.long
def test_listing_reads_each_header_once_and_of_short_segments_the_open_times(
    large: CacheFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[str] = []

    def read(path: str) -> object:
        opened.append(path)
        return read_segment_header(path)

    monkeypatch.setattr(inventory, "read_segment_header", read)
    monkeypatch.setattr(inventory, "SegmentReader", None)
    summaries = list(list_series(large))
    assert len(summaries) == SERIES_COUNT
    assert sum(summary.bar_count for summary in summaries) == SERIES_COUNT * DAYS * 23
    assert sum(summary.missing_bar_count for summary in summaries) == SERIES_COUNT * DAYS
    assert len(opened) == len(set(opened)) == SERIES_COUNT * DAYS


@pytest.mark.long
def test_listing_costs_little_more_than_reading_headers(large: CacheFolder) -> None:
    paths = [
        f"{large.series_path(series_of(number))}/{name.file_name}"
        for number in range(SERIES_COUNT)
        for name in large.segments(series_of(number))
    ]
    sample = paths[:: len(paths) // 500]
    with Calls() as reading:
        for path in sample:
            read_segment_header(path)
    with Calls() as listing:
        assert sum(1 for _ in list_series(large)) == SERIES_COUNT
    ratio = listing.count / len(paths) / (reading.count / len(sample))
    print(f"{listing.count} calls list {len(paths)} segments, {ratio:.2f} times those that read their headers")
    # Each of them lacks a bar, so that its open times are read too.
    assert ratio < 6


@pytest.mark.long
def test_reading_one_series_does_not_notice_the_others(large: CacheFolder, tmp_path: Path) -> None:
    small = CacheFolder(tmp_path / "small")
    series = series_of(777)
    fill(small, series, real_day())
    start_ms = int(real_day().open_time[0])
    span = Span(start_ms, start_ms + DAYS * DAY_MS)
    counts = []
    for folder in (small, large, small, large):  # the first readings make what is made once
        with Calls() as reading, KlineCache(folder.root) as cache:
            total = float(cache.read_series(series, span).close.sum())
        assert np.isfinite(total)
        counts.append(reading.count)
    print(f"one series: {counts[2]} calls alone, {counts[3]} among {SERIES_COUNT}")
    assert counts[3] <= 1.05 * counts[2]


@pytest.mark.long
def test_memory_of_verifying_does_not_grow_with_the_cache(large: CacheFolder) -> None:
    assert list(verify_cache(large, SeriesFilter(symbols=("C000*",)).choose(large))) != [None]
    before_kb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    findings = sum(1 for _ in verify_cache(large, SeriesFilter(symbols=("C00*",)).choose(large)))
    after_kb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(f"verifying ten times as many segments took {after_kb - before_kb} kB more; {findings} findings")
    assert after_kb - before_kb < 16_384

"""Every reader sees one state of a series, of its own segments, whatever others do meanwhile."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

import pytest

from ckvd.cache import CacheFolder, KlineCache, SeriesStore
from ckvd.cache.coverage import read_coverage, uncovered_spans
from ckvd.cache.folder import SegmentName
from ckvd.cache.packing import merge_segments, pack_series
from ckvd.cache.packing_plan import Merge, PackInput
from ckvd.cache.resolution import Winner
from ckvd.cache.rows import read_contents, stream_rows
from ckvd.errors import CacheBusyError, NotCachedError, SegmentCorruptError
from ckvd.maintenance.gap_report import report_gaps
from ckvd.maintenance.pruning import prune_span
from ckvd.model.market import DAY_MS, SeriesKey
from ckvd.model.provenance import Absence, Reason
from ckvd.model.timespan import Span
from support.after_listing import after_listing
from support.tables import folder_state, make_table, regular_table

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

BTC, ETH = SeriesKey.of("BTCUSDT", "1h"), SeriesKey.of("ETHUSDT", "1h")
DAYS = Span(0, 3 * DAY_MS)


def day(number: int, count: int = 1) -> Span:
    return Span(number * DAY_MS, (number + count) * DAY_MS)


def put(folder: CacheFolder, series: SeriesKey, span: Span) -> Path:
    return SeriesStore(folder, series).put(regular_table(series, span), span)


def count_by_reading(folder: CacheFolder) -> int:
    with KlineCache(folder.root) as cache:
        return len(cache.read_series(BTC, DAYS))


# How many bars of the three days each kind of reader finds.
READERS: dict[str, Callable[[CacheFolder], int]] = {
    "read": count_by_reading,
    "contents": lambda folder: read_contents(folder, BTC, DAYS).table.row_count,
    "rows": lambda folder: sum(map(len, stream_rows(folder, BTC, DAYS))),
    "gaps": lambda folder: 72 - sum(gap.bar_count for gap in report_gaps(folder, BTC, DAYS).gaps),
    "coverage": lambda folder: sum(part.span.length_ms for part in read_coverage(folder, BTC, DAYS)) // 3_600_000,
}


@pytest.fixture
def folder(tmp_path: Path) -> CacheFolder:
    return CacheFolder(tmp_path / "cache")


@pytest.mark.parametrize("reader", READERS)
def test_segments_that_are_packed_after_they_were_listed_are_looked_for_again(
    folder: CacheFolder, monkeypatch: pytest.MonkeyPatch, reader: str
) -> None:
    paths = [put(folder, BTC, day(number)) for number in range(3)]

    def pack(time: int) -> None:
        if time == 1:
            put(folder, BTC, DAYS)
            for path in paths:
                path.unlink()

    listed = after_listing(monkeypatch, pack)
    assert READERS[reader](folder) == 72
    assert listed == [3, 1]


@pytest.mark.parametrize("reader", READERS)
def test_a_reader_that_finds_them_replaced_each_time_gives_up(
    folder: CacheFolder, monkeypatch: pytest.MonkeyPatch, reader: str
) -> None:
    newest = [put(folder, BTC, DAYS)]

    def replace(_: int) -> None:
        before = newest.pop()
        newest.append(put(folder, BTC, DAYS))
        before.unlink()

    after_listing(monkeypatch, replace)
    with pytest.raises(CacheBusyError, match="were replaced 16 times while they were read; try again"):
        READERS[reader](folder)


def misplace(folder: CacheFolder) -> Path:
    """Put a whole segment of another series above one of BTC, under a name that it might have there."""
    put(folder, BTC, DAYS)
    foreign = put(folder, ETH, DAYS)
    path = folder.series_path(BTC) / SegmentName(DAYS, 3).file_name
    shutil.copy(foreign, path)
    return path


@pytest.mark.parametrize("reader", sorted(set(READERS) - {"coverage"}))
def test_a_segment_of_another_series_is_never_read(folder: CacheFolder, reader: str) -> None:
    path = misplace(folder)
    with pytest.raises(
        SegmentCorruptError, match=r"its header says spot/klines/ETHUSDT/1h .* renamed or swapped"
    ) as caught:
        READERS[reader](folder)
    assert caught.value.path == str(path)


def test_a_segment_of_another_series_covers_nothing(folder: CacheFolder) -> None:
    misplace(folder)
    assert uncovered_spans(folder, BTC, DAYS, DAYS.end_ms) == (DAYS,)


def test_a_segment_of_another_series_supersedes_nothing(folder: CacheFolder) -> None:
    misplace(folder)
    before = folder_state(folder.series_path(BTC))
    assert "renamed or swapped" in pack_series(folder, BTC).refusals[0]
    with pytest.raises(SegmentCorruptError, match="renamed or swapped"):
        prune_span(folder, BTC, day(0))
    assert folder_state(folder.series_path(BTC)) == before


def test_a_merge_whose_inputs_go_with_their_folder_is_dropped(
    folder: CacheFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = [SegmentName(day(number), number + 1) for number in range(2)]
    for name in names:
        put(folder, BTC, name.span)
    store = SeriesStore(folder, BTC)
    inputs = tuple(PackInput(Winner(name.span, name), 24, is_closed=True) for name in names)
    # The headers are read before a name is chosen for what will be written.
    after_listing(monkeypatch, lambda _: shutil.rmtree(folder.series_path(BTC), ignore_errors=True))
    assert merge_segments(store, Merge(inputs)) is None


@pytest.mark.parametrize("reader", ["read", "rows"])
def test_a_span_whose_bars_were_unavailable_is_missing_and_not_empty(folder: CacheFolder, reader: str) -> None:
    put(folder, BTC, DAYS)
    nothing = make_table(BTC, [])
    absence = Absence(day(1).start_ms, day(1).end_ms, Reason.NOT_FETCHED, recheck_ms=1)
    SeriesStore(folder, BTC).put(nothing, day(1), absences=[absence], recheck_ms=1)
    with pytest.raises(NotCachedError) as caught:
        READERS[reader](folder)
    assert caught.value.missing == (day(1),)

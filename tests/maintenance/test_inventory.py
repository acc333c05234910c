"""Summaries of series and segments agree with what is stored."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from ckvd.cache import CacheFolder, SeriesStore
from ckvd.cache.packing import pack_series
from ckvd.cache.selection import SeriesFilter
from ckvd.errors import CacheBusyError
from ckvd.maintenance.gap_report import report_gaps
from ckvd.maintenance.inventory import describe_segments, list_series, summarise_series, total, winning_sources
from ckvd.model.market import DAY_MS, Market, SeriesKey
from ckvd.model.provenance import Absence, Origin, Reason, Source, narrow
from ckvd.model.timespan import Span
from ckvd.utils.config import CACHE_READ_ATTEMPTS_MAX
from support.caches import day, download
from support.tables import make_table, regular_table

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from ckvd.cache.folder import SegmentName

HOURS = SeriesKey.of("BTCUSDT", "1h")


def source(span: Span) -> Source:
    return Source(Origin.VISION_DAILY, f'odd "origin":"rest" {span}', span.start_ms, span.end_ms)


@pytest.fixture
def folder(tmp_path: Path) -> CacheFolder:
    """Four days of hours: the third lacks six hours and the fourth is provisional; and a day of another series."""
    cache = CacheFolder(tmp_path / "cache")
    store = SeriesStore(cache, HOURS)
    store.put(regular_table(HOURS, day(0, 2)), day(0, 2), sources=[source(day(0)), source(day(1))])
    opens = regular_table(HOURS, day(2)).open_time
    halt = Absence(int(opens[6]), int(opens[12]), Reason.HALTED)
    store.put(make_table(HOURS, np.delete(opens, slice(6, 12))), day(2), absences=[halt])
    store.put(regular_table(HOURS, day(3)), day(3), is_provisional=True, recheck_ms=day(5).start_ms)
    other = SeriesKey.of("ETHUSDT", "1h", market="um")
    SeriesStore(cache, other).put(regular_table(other, day(9)), day(9))
    return cache


def test_series_are_summarised(folder: CacheFolder) -> None:
    (summary,) = list_series(folder, SeriesFilter(symbols=("btc*",)))
    assert summary.series == HOURS
    assert summary.coverage == (day(0, 4),)
    assert (summary.segment_count, summary.bar_count, summary.unreadable_count) == (3, 90, 0)
    assert summary.nbytes == sum(path.stat().st_size for path in folder.series_path(HOURS).glob("*.ckvd"))
    assert summary.origins == {Origin.VISION_DAILY: 2}
    assert summary.provisional == (day(3),)
    assert 0 < summary.oldest_file_ms <= summary.newest_file_ms
    assert len(list(list_series(folder))) == 2


def test_a_source_counts_once_and_where_its_segments_win(folder: CacheFolder) -> None:
    store = SeriesStore(folder, HOURS)
    both = Source(Origin.VISION_MONTHLY, "month", day(0).start_ms, day(2).end_ms)
    for span in (day(0, 3), day(1), day(2)):
        store.put(regular_table(HOURS, span), span, sources=narrow([both], span))
    store.put(regular_table(HOURS, day(2)), day(2), sources=[Source(Origin.REST, "new", *edges(day(2)))])
    (summary,) = list_series(folder, SeriesFilter(symbols=("btc*",)))
    assert summary.origins == {Origin.VISION_MONTHLY: 1, Origin.REST: 1}
    assert [found.name for found in winning_sources(describe_segments(folder, HOURS))] == ["month", "new"]
    store.put(regular_table(HOURS, day(0, 2)), day(0, 2), sources=[source(day(0))])
    (summary,) = list_series(folder, SeriesFilter(symbols=("btc*",)))
    assert summary.origins == {Origin.VISION_DAILY: 1, Origin.REST: 1}


def edges(span: Span) -> tuple[int, int]:
    return span.start_ms, span.end_ms


def pack_after_listing(monkeypatch: pytest.MonkeyPatch, folder: CacheFolder, times: int) -> None:
    """Put every segment into one right after the next listings, as another process may."""
    genuine = CacheFolder.segments
    left = [None] * times

    def list_and_pack(self: CacheFolder, series: SeriesKey) -> list[SegmentName]:
        found = genuine(self, series)
        if left:
            left.pop()
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(CacheFolder, "segments", genuine)
                replace_all(folder)
        return found

    monkeypatch.setattr(CacheFolder, "segments", list_and_pack)


def replace_all(folder: CacheFolder) -> None:
    SeriesStore(folder, HOURS).put(regular_table(HOURS, day(0, 4)), day(0, 4), sources=[source(day(0, 4))])
    SeriesStore(folder, HOURS).remove_superseded()


def test_segments_replaced_after_the_listing_are_not_unreadable(
    folder: CacheFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    pack_after_listing(monkeypatch, folder, 2)
    summary = summarise_series(folder, HOURS)
    assert (summary.bar_count, summary.segment_count, summary.unreadable_count) == (96, 1, 0)
    pack_after_listing(monkeypatch, folder, 2)
    (described,) = describe_segments(folder, HOURS)
    assert (described.trouble, described.held) == ("", (day(0, 4),))


@pytest.mark.parametrize("look", [summarise_series, describe_segments])
def test_a_series_that_is_replaced_each_time_is_busy(
    folder: CacheFolder, monkeypatch: pytest.MonkeyPatch, look: Callable[[CacheFolder, SeriesKey], object]
) -> None:
    pack_after_listing(monkeypatch, folder, CACHE_READ_ATTEMPTS_MAX)
    with pytest.raises(CacheBusyError, match="try again"):
        look(folder, HOURS)


def test_bars_are_counted_once(folder: CacheFolder) -> None:
    half = Span(day(0).start_ms + DAY_MS // 2, day(1).start_ms)
    SeriesStore(folder, HOURS).put(make_table(HOURS, []), half)
    (summary,) = list_series(folder, SeriesFilter(markets=(Market.SPOT,)))
    assert summary.bar_count == 78


def test_one_series_is_described_in_full(folder: CacheFolder) -> None:
    SeriesStore(folder, HOURS).put(regular_table(HOURS, day(0, 2)), day(0, 2))
    segments = describe_segments(folder, HOURS)
    assert [segment.held for segment in segments] == [(), (day(0, 2),), (day(2),), (day(3),)]
    assert segments[2].absences[0].reason is Reason.HALTED
    assert segments[3].is_provisional
    segments[0].to_json()


def test_a_segment_that_cannot_be_read_is_counted_and_described(folder: CacheFolder) -> None:
    next(folder.series_path(HOURS).glob("*r2.ckvd")).write_bytes(b"")
    (summary,) = list_series(folder, SeriesFilter(symbols=("BTC*",)))
    assert (summary.segment_count, summary.unreadable_count, summary.bar_count) == (3, 1, 72)
    assert "no segment" in describe_segments(folder, HOURS)[1].trouble


def test_totals_include_what_packing_would_merge(tmp_path: Path) -> None:
    folder = CacheFolder(tmp_path / "cache")
    store = SeriesStore(folder, HOURS)
    for number in range(20):
        store.put(regular_table(HOURS, day(number)), day(number))
    store.put(regular_table(HOURS, day(0)), day(0))
    totals = total(folder)
    (((market, interval), sums),) = totals.groups.items()
    assert (market, interval) == ("spot", "1h")
    assert sums[:3] == (1, 21, 480)
    assert totals.packable_segment_count == 20
    assert totals.packable_nbytes == 20 * totals.superseded_nbytes
    pack_series(folder, HOURS)
    assert total(folder).packable_nbytes == total(folder).superseded_nbytes == 0


def test_missing_bars_are_those_that_gaps_tell_of_whether_they_were_asked_for_or_not(folder: CacheFolder) -> None:
    store = SeriesStore(folder, HOURS)
    absence = Absence(*edges(day(6)), Reason.NOT_IN_ARCHIVE, day(9).start_ms)
    store.put(make_table(HOURS, []), day(6), absences=[absence], recheck_ms=day(9).start_ms)
    (summary,) = list_series(folder, SeriesFilter(symbols=("btc*",)))
    # Six hours of the third day, two days that were not asked for, and one that no source had.
    assert summary.missing_bar_count == 6 + 48 + 24
    assert len(summary.coverage) == 2
    told = report_gaps(folder, HOURS).bar_counts
    assert told == {Reason.HALTED: 6, Reason.NOT_FETCHED: 48, Reason.NOT_IN_ARCHIVE: 24}
    # A damaged segment has no bars that could be read.
    next(folder.series_path(HOURS).glob("*r1.ckvd")).write_bytes(b"")
    (summary,) = list_series(folder, SeriesFilter(symbols=("btc*",)))
    assert summary.missing_bar_count == 6 + 48 + 24 + 48


@pytest.mark.parametrize("interval", ["1m", "1h", "1d", "1w", "1mo"])
def test_two_bars_in_one_slot_do_not_hide_that_another_is_missing(tmp_path: Path, interval: str) -> None:
    series = SeriesKey.of("BTCUSDT", interval)
    folder = CacheFolder(tmp_path / "cache")
    span = Span.of("2023-01-01", "2024-01-01")
    opens = regular_table(series, span).open_time
    doubled = np.sort(np.append(np.delete(opens, [5, 6, 8]), opens[2] + 1))
    SeriesStore(folder, series).put(make_table(series, doubled), span)
    assert summarise_series(folder, series).missing_bar_count == 3
    assert sum(report_gaps(folder, series).bar_counts.values()) == 3


def test_the_outage_of_2023_is_missing_from_the_list(shared_data: Path, tmp_path: Path) -> None:
    minutes = SeriesKey.of("BTCUSDT", "1m")
    span = Span.of("2023-03-23", "2023-03-26")
    folder = download(tmp_path / "cache", minutes, span, shared_data / "vision")
    summary = summarise_series(folder, minutes)
    assert (len(summary.coverage), summary.bar_count, summary.missing_bar_count) == (1, 4240, 80)


@pytest.mark.long
@pytest.mark.parametrize("market", ["spot", "um", "cm"])
def test_the_list_counts_as_many_missing_bars_in_all_real_archives_as_the_gaps(
    shared_data: Path, tmp_path: Path, market: str
) -> None:
    root = shared_data / "vision"
    for path in sorted((root / "data").glob("spot/*/*/*/*" if market == "spot" else f"futures/{market}/*/*/*/*")):
        kind, symbol, interval = path.parts[-3:]
        series = SeriesKey.of(symbol, interval, market=market, kind=kind)
        folder = download(tmp_path / "cache", series, Span.of("2017-01-01", "2026-06-01"), root)
        summary = summarise_series(folder, series)
        assert summary.bar_count > 0
        assert summary.missing_bar_count == sum(report_gaps(folder, series).bar_counts.values()), series


@pytest.mark.parametrize("days", [(), (0, 3, 9), (0, 3, 6, 8, 11, 20)], ids=["unknown", "one phase", "two phases"])
def test_missing_bars_of_three_days_are_counted_on_the_grid_of_the_series(
    tmp_path: Path, days: tuple[int, ...]
) -> None:
    series = SeriesKey.of("BTCUSDT", "3d")
    folder = CacheFolder(tmp_path / "cache")
    opens = [day(number).start_ms for number in days]
    absences = [Absence(*edges(day(0, 4)), Reason.HALTED), Absence(*edges(day(4, 30)), Reason.AFTER_DELISTING)]
    SeriesStore(folder, series).put(make_table(series, opens), day(0, 34), absences=absences)
    SeriesStore(folder, series).put(make_table(series, []), day(40, 10), absences=absences[:1])
    summary = summarise_series(folder, series)
    assert summary.missing_bar_count == sum(report_gaps(folder, series).bar_counts.values()) > 0

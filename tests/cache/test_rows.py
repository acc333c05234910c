"""The rows of a span across segments, in chunks and in one table."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from ckvd.cache import CacheFolder, SeriesStore
from ckvd.cache.rows import chunks_of, column_of, count_rows, open_rows, read_contents, read_table
from ckvd.errors import NotCachedError, SegmentCorruptError
from ckvd.model.market import DAY_MS, SeriesKey
from ckvd.model.schema import COLUMN_DTYPES
from ckvd.model.table import CLOSE_TIME_US, OPEN_TIME_US, Decimals, fields_of
from ckvd.model.timespan import Span
from support.caches import flip
from support.tables import regular_table, same_bits

if TYPE_CHECKING:
    from pathlib import Path

SERIES = [SeriesKey.of("BTCUSDT", "1h"), SeriesKey.of("BTCUSD_PERP", "1h", market="cm")]
TWO_DAYS = Span(0, 2 * DAY_MS)


def day(number: int) -> Span:
    return Span(number * DAY_MS, (number + 1) * DAY_MS)


@pytest.fixture
def folder(tmp_path: Path) -> CacheFolder:
    return CacheFolder(tmp_path)


@pytest.mark.parametrize("series", SERIES, ids=str)
def test_a_table_has_the_fields_in_order_and_the_bars_of_all_segments(
    folder: CacheFolder, series: SeriesKey
) -> None:
    table = regular_table(series, TWO_DAYS)
    for number in range(2):
        SeriesStore(folder, series).put(table.rows(24 * number, 24 * number + 24), day(number))
    read = read_table(folder, series, TWO_DAYS)
    assert tuple(read.columns) == fields_of(series)
    assert all(same_bits(read.columns[name], column) for name, column in table.columns.items())
    part = read_table(folder, series, Span(3_600_000, DAY_MS + 3_600_000))
    assert part.open_time.tolist() == table.open_time[1:25].tolist()
    assert part.columns["close"].flags.owndata


def test_microseconds_of_one_segment_are_filled_in_for_the_other(folder: CacheFolder) -> None:
    series = SERIES[0]
    SeriesStore(folder, series).put(regular_table(series, day(0)), day(0))
    SeriesStore(folder, series).put(regular_table(series, day(1), **{CLOSE_TIME_US: 500}), day(1))
    read = read_table(folder, series, TWO_DAYS)
    assert tuple(read.columns) == (*fields_of(series), CLOSE_TIME_US)
    assert read.columns[CLOSE_TIME_US].dtype == COLUMN_DTYPES[CLOSE_TIME_US]
    assert read.columns[CLOSE_TIME_US].tolist() == [999] * 24 + [500] * 24
    (first, _) = open_rows(folder, series, TWO_DAYS)
    assert column_of(first, OPEN_TIME_US, series).tolist() == [0] * 24


def test_the_decimals_of_a_table_are_those_of_all_segments(folder: CacheFolder) -> None:
    series = SERIES[0]
    for number, decimals in enumerate(
        [{"open": Decimals(2, 4), "close": Decimals(1, 1)}, {"open": Decimals(3, 8)}]
    ):
        SeriesStore(folder, series).put(regular_table(series, day(number), decimals=decimals), day(number))
    assert read_table(folder, series, TWO_DAYS).decimals == {"open": Decimals(2, 8), "close": Decimals(1, 1)}


def test_a_span_that_is_not_covered_has_no_table_and_empty_contents(folder: CacheFolder) -> None:
    series = SERIES[0]
    with pytest.raises(NotCachedError):
        read_table(folder, series, TWO_DAYS)
    contents = read_contents(folder, series, TWO_DAYS)
    assert (contents.table.row_count, contents.covered) == (0, ())
    assert tuple(contents.table.columns) == fields_of(series)


def test_chunks_are_bounded_and_not_empty(folder: CacheFolder) -> None:
    series = SERIES[0]
    SeriesStore(folder, series).put(regular_table(series, day(0)), day(0))
    path = SeriesStore(folder, series).put(regular_table(series, Span(0, 0)), day(1))
    parts = open_rows(folder, series, TWO_DAYS)
    assert list(map(len, parts)) == [24, 0]
    assert list(map(len, chunks_of(parts, 10))) == [10, 10, 4]
    assert count_rows(path, TWO_DAYS) == 0


def test_contents_that_are_stored_again_hide_no_damage_to_the_original(folder: CacheFolder) -> None:
    """A copy gets a checksum of its own, by which the damage could never be found."""
    path = SeriesStore(folder, SERIES[0]).put(regular_table(SERIES[0], day(0)), day(0))
    flip(path)
    with pytest.raises(SegmentCorruptError, match="checksum"):
        read_contents(folder, SERIES[0], day(0))
    assert read_contents(folder, SERIES[0], day(0), verify="never").table.row_count == 24

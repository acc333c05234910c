"""Whether each bar of a series is there, by its open times alone, against a look at each point of the grid."""

from __future__ import annotations

import tempfile

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ckvd.cache import CacheFolder, SeriesStore
from ckvd.cache.coverage import has_every_bar
from ckvd.errors import SegmentCorruptError
from ckvd.model.market import Interval, SeriesKey
from ckvd.model.timespan import Span
from support.models import DAY_MS, HOUR_MS, bar_starts
from support.tables import make_table, regular_table

BTC = SeriesKey.of("BTCUSDT", "1h")


@given(st.data())
def test_every_bar_is_there_where_no_point_of_the_grid_lacks_one_and_no_bar_is_beside_it(
    data: st.DataObject,
) -> None:
    span = Span(0, 12 * HOUR_MS)
    covered: dict[int, bool] = {}  # by second: whether a segment covers it
    held: set[int] = set()
    with tempfile.TemporaryDirectory() as root:
        folder = CacheFolder.at(root)
        for _ in range(data.draw(st.integers(0, 3))):
            start, end = sorted(data.draw(st.lists(st.integers(0, 24), min_size=2, max_size=2, unique=True)))
            part = Span(start * HOUR_MS // 2, end * HOUR_MS // 2)
            opens = set(bar_starts(part, Interval.H1))
            opens -= data.draw(st.sets(st.sampled_from(range(0, span.end_ms, HOUR_MS)), max_size=1))
            opens |= data.draw(st.sets(st.sampled_from([part.start_ms + 1, part.end_ms - 1]), max_size=1))
            SeriesStore(folder, BTC).put(make_table(BTC, sorted(opens)), part)
            held = {moment for moment in held if moment not in part} | opens
            covered |= dict.fromkeys(range(part.start_ms, part.end_ms, 1000), True)
        asked = Span(*sorted(data.draw(st.integers(0, 24)) * HOUR_MS // 2 for _ in range(2)))
        expected = [point for point in bar_starts(asked, Interval.H1) if point in covered]
        assert has_every_bar(folder, BTC, asked) == (
            sorted(moment for moment in held if moment in asked) == expected
        )


@pytest.mark.parametrize("interval", ["3d", "1mo"])
def test_of_bars_whose_grid_is_not_even_it_is_not_said(
    interval: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    series = SeriesKey.of("BTCUSDT", interval)
    folder = CacheFolder(tmp_path_factory.mktemp("cache"))
    span = Span.of("2023-01-01", "2024-01-01")
    SeriesStore(folder, series).put(regular_table(series, span), span)
    assert not has_every_bar(folder, series, span)


def test_a_segment_that_cannot_be_read_is_an_error(tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = CacheFolder(tmp_path_factory.mktemp("cache"))
    day = Span(0, DAY_MS)
    path = SeriesStore(folder, BTC).put(regular_table(BTC, day), day)
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(SegmentCorruptError):
        has_every_bar(folder, BTC, day)

"""Reading a segment gives views of the map, and changes, copies and leaves nothing."""

from __future__ import annotations

import asyncio
import mmap
import sys
from itertools import accumulate
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ckvd.errors import CacheError, SegmentCorruptError, SegmentError
from ckvd.model.timespan import Span
from ckvd.segment import SegmentReader, read_segment_header
from ckvd.segment.layout import Encoding
from ckvd.segment.reader import read_last_row
from support import leaks
from support.models import DAY_MS, MINUTE_MS
from support.tables import (
    BTCUSDT_1M,
    folder_state,
    make_table,
    memory_owner,
    regular_table,
    same_bits,
    write_segment,
)

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

HOUR = Span(0, 60 * MINUTE_MS)
# On 3.13 a map keeps no duplicate of its file's descriptor.
DESCRIPTORS_OF_A_MAP = 0 if sys.version_info >= (3, 13) else 1


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """An hour of bars. All columns are stored, except the close times."""
    return write_segment(tmp_path / "hour.ckvd", regular_table(BTCUSDT_1M, HOUR), HOUR)


# --- Views -------------------------------------------------------------------------------------------------


def test_a_stored_column_is_a_view_of_the_map_and_two_of_them_share_its_memory(path: Path) -> None:
    with SegmentReader(path) as reader:
        for column in reader.header.columns:
            one, other = reader[column.name], reader[column.name]
            if column.encoding is not Encoding.STORED:
                continue
            assert np.shares_memory(one, other)
            assert isinstance(memory_owner(one), mmap.mmap)
            assert memory_owner(one) is memory_owner(other) is memory_owner(reader.open_time)


def test_a_range_of_rows_is_a_slice_and_shares_memory_with_the_whole(path: Path) -> None:
    with SegmentReader(path) as reader:
        part = reader.rows.rows(10, 20).rows(1, 3)
        closes = part.column("close", BTCUSDT_1M.interval)
        assert closes is not None
        assert len(part) == len(closes) == 2
        assert closes.tolist() == reader["close"][11:13].tolist()
        assert np.shares_memory(closes, reader["close"])


def test_every_column_is_read_only_however_it_is_kept(tmp_path: Path) -> None:
    table = regular_table(BTCUSDT_1M, HOUR, ignore=0.0)
    with SegmentReader(write_segment(tmp_path / "file", table)) as reader:
        assert {column.encoding for column in reader.header.columns} == set(Encoding)
        for name in table.columns:
            column = reader[name]
            assert not column.flags.writeable
            with pytest.raises(ValueError, match="read-only"):
                column[0] = 1
        with pytest.raises(ValueError, match="cannot set WRITEABLE"):
            reader["close"].flags.writeable = True


def test_a_constant_column_takes_the_memory_of_one_value(tmp_path: Path) -> None:
    table = regular_table(BTCUSDT_1M, Span(0, DAY_MS), ignore=-0.0)
    with SegmentReader(write_segment(tmp_path / "file", table)) as reader:
        column = reader["ignore"]
        assert column.strides == (0,)
        assert same_bits(column, table.columns["ignore"])


def test_long_columns_start_at_pages_and_short_ones_at_multiples_of_64(tmp_path: Path) -> None:
    day = write_segment(tmp_path / "day", regular_table(BTCUSDT_1M, Span(0, DAY_MS)))
    hour = write_segment(tmp_path / "hour", regular_table(BTCUSDT_1M, HOUR))
    for path, unit in ((day, 4096), (hour, 64)):
        with SegmentReader(path) as reader:
            stored = [column.name for column in reader.header.columns if column.encoding is Encoding.STORED]
            assert len(stored) == 11
            for name in stored:
                assert reader[name].ctypes.data % unit == 0
                assert reader[name].flags.c_contiguous
                assert reader[name].flags.aligned


def test_a_missing_column_is_a_key_error_of_the_reader_and_none_in_its_rows(path: Path) -> None:
    with SegmentReader(path) as reader:
        for name in ("base_volume", "close_time_us", "vwap"):
            with pytest.raises(KeyError, match=name):
                reader[name]
            assert reader.rows.column(name, BTCUSDT_1M.interval) is None
            assert reader.rows.stored(name) is None
            assert reader.rows.layout(name) is None


@st.composite
def uneven_times(draw: st.DrawFn) -> list[int]:
    """Ascending times with leaps, so that few are where even spacing would put them."""
    leaps = st.sampled_from([1, 1, 1, 5, 100])
    steps = [draw(leaps) for _ in range(draw(st.sampled_from([1, 3, 40])))]
    return list(accumulate(steps))[: draw(st.integers(0, 40))]


@given(uneven_times(), st.integers(1, 3), st.data())
def test_the_rows_between_two_moments_are_found_however_uneven_the_spacing(
    tmp_path_factory: pytest.TempPathFactory, opens: list[int], reach: int, data: st.DataObject
) -> None:
    path = tmp_path_factory.getbasetemp() / "uneven.ckvd"
    write_segment(path, make_table(BTCUSDT_1M, opens), Span(0, 100_000))
    near = st.sampled_from([0, *opens]).flatmap(lambda moment: st.integers(moment - 1, moment + 1))
    start, end = sorted((data.draw(near), data.draw(near)))
    first, stop = sorted((data.draw(st.integers(0, len(opens))), data.draw(st.integers(0, len(opens)))))
    with SegmentReader(path) as reader, pytest.MonkeyPatch.context() as patch:
        patch.setattr("ckvd.segment.reader._SEARCH_REACH_ROWS", reach)
        rows = reader.rows.rows(first, stop).between(start, end)
        found = reader.open_time[rows.start : rows.stop].tolist()
    assert found == [moment for moment in opens[first:stop] if start <= moment < end]


@pytest.mark.parametrize("opens", [[*range(20), 400], [0, *range(380, 400)], [0, *range(200, 220), 400]])
def test_the_first_row_after_a_moment_is_found_however_far_from_the_guess(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, opens: list[int]
) -> None:
    monkeypatch.setattr("ckvd.segment.reader._SEARCH_REACH_ROWS", 1)
    path = write_segment(tmp_path / "file", make_table(BTCUSDT_1M, opens), HOUR)
    with SegmentReader(path) as reader:
        for moment in range(402):
            assert reader.rows.between(moment, 1000).start == sum(open_ms < moment for open_ms in opens)


@given(uneven_times(), st.integers(0, 3), st.data())
def test_runs_of_evenly_spaced_rows_are_found_whichever_part_was_asked_for_before(
    tmp_path_factory: pytest.TempPathFactory, opens: list[int], runs_max: int, data: st.DataObject
) -> None:
    path = tmp_path_factory.getbasetemp() / "runs.ckvd"
    write_segment(path, make_table(BTCUSDT_1M, opens), Span(0, 100_000))
    row = st.integers(0, len(opens))
    with SegmentReader(path) as reader, pytest.MonkeyPatch.context() as patch:
        patch.setattr("ckvd.segment.reader._RUNS_MAX", 1 << 2 * runs_max)
        for _ in range(data.draw(st.integers(1, 5))):
            start, stop = sorted((data.draw(row), data.draw(row)))
            step_ms = data.draw(st.sampled_from([1, 5]))
            expected = [
                at - start for at in range(start, stop) if at == start or opens[at] - opens[at - 1] != step_ms
            ]
            found = reader.rows.rows(start, stop).even_runs(step_ms)
            assert found == tuple(expected) or (found is None and len(expected) > 1 << 2 * runs_max)


# --- Lifetime of a view ------------------------------------------------------------------------------------


def test_a_view_outlives_its_reader_and_the_removal_of_its_file(path: Path) -> None:
    with SegmentReader(path) as reader:
        column, rows = reader["close"], reader.rows
    expected = (400 + np.arange(60.0)).tolist()
    path.unlink()
    assert column.tolist() == expected
    part = rows.column("close", BTCUSDT_1M.interval)
    assert part is not None
    assert part.tolist() == expected


def test_a_view_keeps_its_content_after_the_file_was_replaced(path: Path) -> None:
    with SegmentReader(path) as reader:
        before = reader["close"]
        write_segment(path, regular_table(BTCUSDT_1M, HOUR, close=7.0), HOUR)
        assert reader["close"].tolist() == before.tolist()
    assert before.tolist() == (400 + np.arange(60.0)).tolist()
    with SegmentReader(path) as reader:
        assert reader["close"].tolist() == [7.0] * 60


def test_the_map_is_released_at_once_or_with_the_last_view(path: Path) -> None:
    descriptors, maps = leaks.count_descriptors(), leaks.count_maps()
    reader = SegmentReader(path)
    assert leaks.count_descriptors() == descriptors + DESCRIPTORS_OF_A_MAP
    assert leaks.count_maps() == maps + 1
    reader.close()
    assert (leaks.count_descriptors(), leaks.count_maps()) == (descriptors, maps)
    with SegmentReader(path) as reader:
        view = reader["close"][5:7]
    assert leaks.count_maps() == maps + 1
    del view
    assert (leaks.count_descriptors(), leaks.count_maps()) == (descriptors, maps)


def test_a_closed_reader_refuses_every_use_and_can_be_closed_again(path: Path) -> None:
    reader = SegmentReader(path)
    reader.close()
    reader.close()
    for use in (lambda: reader.rows, lambda: reader.open_time, lambda: reader["close"], reader.verify):
        with pytest.raises(ValueError, match=r"hour\.ckvd: the reader is closed"):
            use()
    assert reader.header.row_count == 60


def test_leaving_asynchronously_closes_as_well(path: Path) -> None:
    async def read() -> tuple[SegmentReader, list[float]]:
        async with SegmentReader(path) as reader:
            return reader, reader["close"][:2].tolist()

    maps = leaks.count_maps()
    reader, closes = asyncio.run(read())
    assert closes == [400, 401]
    assert leaks.count_maps() == maps
    with pytest.raises(ValueError, match="the reader is closed"):
        _ = reader.rows


def test_a_reader_that_nobody_closes_warns_and_releases_its_map(path: Path) -> None:
    descriptors, maps = leaks.count_descriptors(), leaks.count_maps()
    with pytest.warns(ResourceWarning, match=r"unclosed segment .*hour\.ckvd"):
        SegmentReader(path)  # freed at once, by its reference count
    assert (leaks.count_descriptors(), leaks.count_maps()) == (descriptors, maps)


def test_the_representation_tells_the_state(path: Path) -> None:
    reader = SegmentReader(path)
    assert repr(reader) == f"<SegmentReader {str(path)!r} 60 bars of {HOUR}>"
    reader.close()
    assert repr(reader) == f"<SegmentReader {str(path)!r} closed>"


# --- Files -------------------------------------------------------------------------------------------------


def test_reading_changes_no_file(path: Path) -> None:
    before = folder_state(path.parent)
    read_segment_header(path)
    with SegmentReader(path) as reader:
        reader.verify()
        assert sum(float(reader[column.name].sum()) for column in reader.header.columns)
        assert len(reader.rows.between(0, 10 * MINUTE_MS)) == 10
    assert folder_state(path.parent) == before


def test_a_header_read_alone_equals_that_of_the_reader(path: Path) -> None:
    descriptors, maps = leaks.count_descriptors(), leaks.count_maps()
    header = read_segment_header(path)
    assert (leaks.count_descriptors(), leaks.count_maps()) == (descriptors, maps)
    with SegmentReader(path) as reader:
        assert reader.header == header
    assert header.span == HOUR
    assert (header.first_open_ms, header.last_open_ms) == (0, 59 * MINUTE_MS)


@pytest.mark.parametrize("opens", [[0], [0, MINUTE_MS, 3 * MINUTE_MS], list(range(0, 1000 * MINUTE_MS, MINUTE_MS))])
def test_the_last_row_read_alone_is_that_of_the_reader(tmp_path: Path, opens: list[int]) -> None:
    """Stored columns, constant ones and regular close times."""
    path = write_segment(tmp_path / "file", make_table(BTCUSDT_1M, opens), Span(0, 1000 * MINUTE_MS))
    with SegmentReader(path) as reader:
        names = [column.name for column in reader.header.columns]
        header, cells = read_last_row(str(path), names)
        assert header == reader.header
        assert cells is not None
        assert {name: cell.tolist() for name, cell in cells.items()} == {
            name: reader[name][-1:].tolist() for name in names
        }
        assert {cell.dtype for cell in cells.values()} <= {np.dtype(kind) for kind in ("i8", "f8", "i2")}


def test_a_segment_without_rows_has_no_last_one(tmp_path: Path) -> None:
    path = write_segment(tmp_path / "file", make_table(BTCUSDT_1M, []), HOUR)
    header, cells = read_last_row(str(path), ["volume"])
    assert (header.row_count, cells) == (0, None)


def test_a_last_row_of_a_file_that_is_cut_off_or_lacks_a_column_is_refused(path: Path) -> None:
    with pytest.raises(SegmentCorruptError, match="it lacks the column base_volume"):
        read_last_row(str(path), ["base_volume"])
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(SegmentCorruptError):
        read_last_row(str(path), ["volume"])


def test_a_header_longer_than_one_page_is_read_whole(tmp_path: Path) -> None:
    path = write_segment(tmp_path / "long", make_table(BTCUSDT_1M, [0]), HOUR, writer="w" * 10_000)
    with SegmentReader(path) as reader:
        assert reader.header.header_nbytes > 10_000
        assert reader["close"].tolist() == [400]
        reader.verify()


def test_a_missing_file_is_file_not_found(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        SegmentReader(tmp_path / "missing.ckvd")
    with pytest.raises(FileNotFoundError):
        read_segment_header(tmp_path / "missing.ckvd")


@pytest.mark.parametrize("read", [SegmentReader, read_segment_header])
def test_a_file_that_cannot_be_read_is_an_error_of_the_cache(
    tmp_path: Path, read: Callable[[Path], object]
) -> None:
    path = tmp_path / ("x" * 300)  # no file system has such a name
    with pytest.raises(CacheError, match="cannot be read: ") as caught:
        read(path)
    assert caught.value.path == str(path)
    assert caught.value.errno


def test_any_damaged_byte_of_a_header_is_refused_when_the_file_is_opened_and_nothing_leaks(tmp_path: Path) -> None:
    whole = write_segment(tmp_path / "whole", make_table(BTCUSDT_1M, [0, MINUTE_MS])).read_bytes()
    path = tmp_path / "damaged.ckvd"
    descriptors, maps = leaks.count_descriptors(), leaks.count_maps()
    for offset in range(read_segment_header(tmp_path / "whole").header_nbytes):
        path.write_bytes(whole[:offset] + bytes([whole[offset] ^ 0x10]) + whole[offset + 1 :])
        with pytest.raises(SegmentError, match=r"damaged\.ckvd: "):
            SegmentReader(path)
    assert (leaks.count_descriptors(), leaks.count_maps()) == (descriptors, maps)


def test_a_file_cut_off_anywhere_or_extended_is_refused_before_it_is_mapped(tmp_path: Path) -> None:
    whole = write_segment(tmp_path / "whole", make_table(BTCUSDT_1M, [0, MINUTE_MS])).read_bytes()
    path = tmp_path / "cut.ckvd"
    for length in range(0, len(whole), 7):
        path.write_bytes(whole[:length])
        with pytest.raises(SegmentError):
            SegmentReader(path)
    path.write_bytes(whole + b"\0")
    with pytest.raises(SegmentCorruptError, match="too long"):
        SegmentReader(path)


def test_verifying_finds_any_damaged_byte_behind_the_header(tmp_path: Path) -> None:
    whole = write_segment(tmp_path / "whole", make_table(BTCUSDT_1M, [0, MINUTE_MS])).read_bytes()
    path = tmp_path / "damaged.ckvd"
    header_nbytes = read_segment_header(tmp_path / "whole").header_nbytes
    assert len(whole) > header_nbytes + 500
    for offset in range(header_nbytes, len(whole)):
        path.write_bytes(whole[:offset] + bytes([whole[offset] ^ 0x10]) + whole[offset + 1 :])
        with SegmentReader(path) as reader, pytest.raises(SegmentCorruptError) as caught:
            reader.verify()
        is_padding = "are not zero" in str(caught.value)
        assert is_padding or "its checksum is" in str(caught.value)
        assert not is_padding or whole[offset] == 0


@pytest.mark.parametrize("row_count", [0, 1, 600])
def test_verifying_accepts_what_was_written(tmp_path: Path, row_count: int) -> None:
    table = make_table(BTCUSDT_1M, np.arange(row_count) * MINUTE_MS)
    with SegmentReader(write_segment(tmp_path / "file", table, Span(0, DAY_MS))) as reader:
        reader.verify()
        assert len(reader.rows) == row_count

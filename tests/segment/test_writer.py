"""Writing segments: reading gives what was written, in one call or in several, whole or not at all."""

from __future__ import annotations

import shutil
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ckvd.model.market import Interval, SeriesKey
from ckvd.model.table import CLOSE_TIME_US, KlineTable
from ckvd.model.timespan import Span
from ckvd.segment import SegmentReader, SegmentStatement, SegmentWriter, read_segment_header
from ckvd.segment.atomic_file import AtomicFile
from ckvd.segment.layout import Encoding
from ckvd.segment.writer import plan_columns
from support.models import MINUTE_MS, ms
from support.strategies import FIRST_MS, LAST_MS, absences, segment_spans, series_keys, sources, spans, tables
from support.tables import BTCUSDT_1M, folder_state, make_table, regular_table, same_bits, write_segment

if TYPE_CHECKING:
    from pathlib import Path

    from ckvd.model.provenance import Absence, Source

HOUR = Span(0, 60 * MINUTE_MS)
STATEMENT = SegmentStatement(BTCUSDT_1M, HOUR, 1)
TINIEST, HUGEST = 5e-324, 1.7976931348623157e308


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One folder for all examples of a property."""
    return tmp_path_factory.mktemp("segments")


def assert_holds(path: Path, table: KlineTable) -> None:
    """Assert that a segment has the columns of a table, bit for bit, and nothing else."""
    with SegmentReader(path) as reader:
        reader.verify()
        assert [column.name for column in reader.header.columns] == list(table.columns)
        for name, column in table.columns.items():
            assert same_bits(reader[name], column)


# --- Round trip --------------------------------------------------------------------------------------------


@settings(max_examples=60)
@given(st.data(), series_keys())
def test_any_bars_are_read_as_they_were_written(folder: Path, data: st.DataObject, series: SeriesKey) -> None:
    span = data.draw(segment_spans(series.interval))
    table = data.draw(tables(series, span))
    path = write_segment(folder / "any.ckvd", table, span)
    assert_holds(path, table)
    header = read_segment_header(path)
    opens = table.open_time.tolist() or [0]
    assert (header.series, header.span, header.row_count) == (series, span, table.row_count)
    assert (header.first_open_ms, header.last_open_ms) == (opens[0], opens[-1])
    assert {column.name: column.decimals for column in header.columns} == {
        name: table.decimals.get(name) for name in table.columns
    }


@settings(max_examples=50)
@given(
    st.integers(1, 10**18),
    st.lists(sources(), max_size=2),
    st.lists(absences(spans(FIRST_MS, LAST_MS)), max_size=2),
    st.booleans(),
    st.integers(0, LAST_MS),
)
def test_all_facts_of_a_header_are_read_as_they_were_written(
    folder: Path,
    revision: int,
    written: list[Source],
    known: list[Absence],
    is_provisional: bool,
    recheck_ms: int,
) -> None:
    path = write_segment(
        folder / "statement.ckvd",
        make_table(BTCUSDT_1M, []),
        HOUR,
        revision,
        sources=written,
        absences=known,
        is_provisional=is_provisional,
        recheck_ms=recheck_ms,
    )
    header = read_segment_header(path)
    assert (header.revision, header.is_provisional, header.recheck_ms) == (revision, is_provisional, recheck_ms)
    assert list(header.sources) == written
    assert list(header.absences) == known


@pytest.mark.parametrize(
    ("name", "cells"),
    [
        ("close", [0.0, -0.0, TINIEST, -TINIEST]),
        ("volume", [HUGEST, -HUGEST, np.nextafter(1, 2), 0.1 + 0.2]),
        ("volume", [-0.0, 0.0, 0.0, -0.0]),
        ("count", [2**63 - 1, -(2**63), 0, 1]),
        ("close_time", [59_999, 59_999, 2**62, 0]),
        (CLOSE_TIME_US, [999, 0, 1, 998]),
    ],
)
def test_unusual_cells_keep_every_bit(tmp_path: Path, name: str, cells: list[float]) -> None:
    columns: dict[str, Any] = {name: cells}
    table = make_table(BTCUSDT_1M, np.arange(4) * MINUTE_MS, **columns)
    assert_holds(write_segment(tmp_path / "file", table, HOUR), table)


@pytest.mark.parametrize("cell", [0.0, -0.0, TINIEST, HUGEST])
def test_a_constant_column_is_not_stored_and_keeps_every_bit(tmp_path: Path, cell: float) -> None:
    table = regular_table(BTCUSDT_1M, HOUR, volume=cell)
    path = write_segment(tmp_path / "file", table, HOUR)
    assert_holds(path, table)
    column = read_segment_header(path).column("volume")
    assert column is not None
    assert (column.encoding, column.offset) == (Encoding.CONSTANT, 0)


def test_a_column_of_zeros_of_both_signs_is_not_constant(tmp_path: Path) -> None:
    table = regular_table(BTCUSDT_1M, HOUR, volume=[0.0, -0.0] * 30)
    column = read_segment_header(write_segment(tmp_path / "file", table, HOUR)).column("volume")
    assert column is not None
    assert column.encoding is Encoding.STORED


def test_close_times_are_stored_only_if_one_of_them_is_irregular(tmp_path: Path) -> None:
    regular = regular_table(BTCUSDT_1M, HOUR)
    closes = regular.columns["close_time"].copy()
    closes[7] -= 1
    for table, encoding in (
        (regular, Encoding.REGULAR),
        (regular_table(BTCUSDT_1M, HOUR, close_time=closes), Encoding.STORED),
    ):
        path = write_segment(tmp_path / "file", table, HOUR)
        assert_holds(path, table)
        column = read_segment_header(path).column("close_time")
        assert column is not None
        assert column.encoding is encoding


def test_a_regular_month_closes_at_its_own_end(tmp_path: Path) -> None:
    series = SeriesKey.of("BTCUSDT", "1mo")
    table = regular_table(series, Span(ms(2023, 12, 1), ms(2024, 5, 1)))
    with SegmentReader(write_segment(tmp_path / "file", table)) as reader:
        ends = [ms(2024, 1, 1), ms(2024, 2, 1), ms(2024, 3, 1), ms(2024, 4, 1), ms(2024, 5, 1)]
        assert reader["close_time"].tolist() == [end - 1 for end in ends]


def test_a_segment_without_bars_has_all_columns_and_its_span(tmp_path: Path) -> None:
    table = make_table(BTCUSDT_1M, [])
    path = write_segment(tmp_path / "file", table, HOUR)
    assert_holds(path, table)
    with SegmentReader(path) as reader:
        assert (len(reader.rows), reader.open_time.tolist()) == (0, [])
        assert len(reader.rows.between(0, HOUR.end_ms)) == 0
        assert reader.header.span == HOUR


def test_a_table_that_is_not_contiguous_is_written_correctly(tmp_path: Path) -> None:
    opens = np.arange(0, 120, dtype=np.int64) * MINUTE_MS
    table = make_table(BTCUSDT_1M, opens)
    every_second = KlineTable(
        BTCUSDT_1M, {name: column[::2] for name, column in table.columns.items()}, table.decimals
    )
    assert_holds(write_segment(tmp_path / "file", every_second, Span(0, 120 * MINUTE_MS)), every_second)


# --- Appending ---------------------------------------------------------------------------------------------


@settings(max_examples=50)
@given(st.data(), st.sampled_from([Interval.S1, Interval.M1, Interval.W1, Interval.MO1]))
def test_rows_appended_in_several_calls_make_the_same_file_as_in_one(
    folder: Path, data: st.DataObject, interval: Interval
) -> None:
    series = SeriesKey.of("BTCUSDT", interval)
    span = data.draw(segment_spans(interval))
    table = data.draw(tables(series, span))
    whole = write_segment(folder / "whole.ckvd", table, span).read_bytes()
    cuts = data.draw(st.lists(st.integers(0, table.row_count), max_size=4))
    path = folder / "several.ckvd"
    statement = SegmentStatement(series, span, 1)
    with SegmentWriter(path, statement, plan_columns(table), table.row_count) as writer:
        for start, stop in pairwise([0, *sorted(cuts), table.row_count]):
            writer.append(table.rows(start, stop).columns)
        writer.publish()
    assert path.read_bytes() == whole


def test_all_bytes_are_written_even_if_the_system_takes_only_a_few_at_a_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = regular_table(BTCUSDT_1M, HOUR)
    whole = write_segment(tmp_path / "whole", table, HOUR).read_bytes()
    write = AtomicFile.write

    def write_few(file: AtomicFile, content: memoryview) -> int:
        return write(file, content[:100])

    monkeypatch.setattr(AtomicFile, "write", write_few)
    assert write_segment(tmp_path / "few", table, HOUR).read_bytes() == whole


TABLE = make_table(BTCUSDT_1M, [0, MINUTE_MS, 2 * MINUTE_MS])


@pytest.mark.parametrize(
    ("open_times", "message"),
    [
        ([[0, 0, 1]], "must ascend strictly"),
        ([[1, 0, 2]], "must ascend strictly"),
        ([[0, 2, 1]], "must ascend strictly"),
        ([[0, 1], [1]], "must ascend strictly"),
        ([[5, 6], [4]], "must ascend strictly"),
        ([[-1, 0, 1]], "must lie in"),
        ([[0, 1, HOUR.end_ms]], "must lie in"),
        ([[0, 1, 2, 3]], "more rows than the 3 announced"),
        ([[0, 1], [2, 3]], "more rows than the 3 announced"),
    ],
)
def test_rows_out_of_order_out_of_the_span_or_too_many_are_refused(
    tmp_path: Path, open_times: list[list[int]], message: str
) -> None:
    with SegmentWriter(tmp_path / "file", STATEMENT, plan_columns(TABLE), 3) as writer:
        for opens in open_times[:-1]:
            writer.append(make_table(BTCUSDT_1M, opens).columns)
        with pytest.raises(ValueError, match=message):
            writer.append(make_table(BTCUSDT_1M, open_times[-1]).columns)
        with pytest.raises(ValueError, match="of 3 were appended"):
            writer.publish()
    assert list(tmp_path.iterdir()) == []


def test_a_segment_of_too_few_rows_is_not_published(tmp_path: Path) -> None:
    with SegmentWriter(tmp_path / "file", STATEMENT, plan_columns(TABLE), 3) as writer:
        with pytest.raises(ValueError, match="file: 0 rows of 3 were appended"):
            writer.publish()
        writer.append(TABLE.rows(0, 2).columns)
        with pytest.raises(ValueError, match="file: 2 rows of 3 were appended"):
            writer.publish()
        writer.append(TABLE.rows(2, 3).columns)
        writer.publish()
    assert_holds(tmp_path / "file", TABLE)


@pytest.mark.parametrize("count", [1, 2, 4, 40])
def test_a_column_that_is_not_as_long_as_the_open_times_is_refused(tmp_path: Path, count: int) -> None:
    columns = {**TABLE.columns, "close": np.arange(count, dtype=np.float64)}
    with SegmentWriter(tmp_path / "file", STATEMENT, plan_columns(TABLE), 3) as writer, pytest.raises(ValueError):
        writer.append(columns)


def test_a_missing_column_is_refused_and_the_rows_can_be_appended_again(tmp_path: Path) -> None:
    with SegmentWriter(tmp_path / "file", STATEMENT, plan_columns(TABLE), 3) as writer:
        with pytest.raises(KeyError):
            writer.append({"open_time": TABLE.open_time})
        writer.append(TABLE.columns)
        writer.publish()
    assert_holds(tmp_path / "file", TABLE)


# --- Publishing --------------------------------------------------------------------------------------------


def test_nothing_has_the_final_name_before_it_is_published(tmp_path: Path) -> None:
    path = tmp_path / "file.ckvd"
    with SegmentWriter.of_table(path, STATEMENT, TABLE) as writer:
        (temporary,) = tmp_path.iterdir()
        assert temporary.name.startswith(".file.ckvd.")
        assert temporary.name.endswith(".tmp")
        assert not path.exists()
        assert writer.publish() == path
        assert list(tmp_path.iterdir()) == [path]


def test_publishing_replaces_an_earlier_file_in_one_step(tmp_path: Path) -> None:
    path = write_segment(tmp_path / "file", TABLE, HOUR)
    before = path.read_bytes()
    newer = regular_table(BTCUSDT_1M, HOUR)
    with SegmentWriter.of_table(path, STATEMENT, newer) as writer:
        assert path.read_bytes() == before
        inode = path.stat().st_ino
        writer.publish()
        assert path.stat().st_ino != inode
    assert_holds(path, newer)
    assert list(tmp_path.iterdir()) == [path]


def test_the_same_rows_always_make_the_same_file(tmp_path: Path) -> None:
    one, other = (write_segment(tmp_path / name, TABLE, HOUR) for name in ("one", "other"))
    assert one.read_bytes() == other.read_bytes()


def test_a_copied_file_is_a_segment_too(tmp_path: Path) -> None:
    path = write_segment(tmp_path / "file", TABLE, HOUR)
    shutil.copy(path, tmp_path / "copy")
    assert_holds(tmp_path / "copy", TABLE)


def test_a_writer_that_published_is_closed(tmp_path: Path) -> None:
    writer = SegmentWriter.of_table(tmp_path / "file", STATEMENT, TABLE)
    writer.publish()
    before = folder_state(tmp_path)
    for use in (writer.publish, writer.flush, writer.rename, lambda: writer.append(TABLE.columns)):
        with pytest.raises(ValueError, match="file: the writer is closed"):
            use()
    writer.close()
    assert folder_state(tmp_path) == before


def test_a_segment_that_gets_another_revision_after_a_flush_has_it_in_its_header(tmp_path: Path) -> None:
    table = regular_table(BTCUSDT_1M, HOUR)
    with SegmentWriter.of_table(tmp_path / "one.ckvd", STATEMENT, table) as writer:
        writer.flush()
        writer.renumber(tmp_path / "two.ckvd", 2)
        assert read_segment_header(writer.publish()).revision == 2
    assert [path.name for path in tmp_path.iterdir()] == ["two.ckvd"]

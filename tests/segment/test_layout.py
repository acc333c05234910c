"""The segment format, byte by byte, and headers that decode to what was encoded."""

from __future__ import annotations

import struct
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ckvd.model.market import SeriesKey
from ckvd.model.provenance import MOMENT_MAX_MS, MOMENT_MIN_MS, Absence, Origin, Reason, Source
from ckvd.model.schema import COLUMN_DTYPES
from ckvd.model.table import Decimals
from ckvd.model.timespan import Span
from ckvd.segment import SegmentHeader, SegmentReader, SegmentStatement, SegmentWriter
from ckvd.segment.header import decode_header, encode_header, encode_metadata, read_header_nbytes
from ckvd.segment.layout import COLUMN_ENTRY_NBYTES, PREAMBLE_NBYTES, ColumnLayout, Encoding, place_columns
from support.models import DAY_MS, MINUTE_MS, ms
from support.strategies import FIRST_MS, LAST_MS, absences, series_keys, sources, spans
from support.tables import BTCUSDT_1M

if TYPE_CHECKING:
    from pathlib import Path

START_MS = 1_704_067_200_000  # 2024-01-01, 0x018C_C251_F400
F8, I8, I2 = np.dtype("<f8"), np.dtype("<i8"), np.dtype("<i2")

TINY_METADATA = (
    b'{"series":{"market":"spot","kind":"klines","symbol":"BTCUSDT","interval":"1m"},'
    b'"sources":[{"origin":"vision-daily","name":"d.zip","start_ms":1704067200000,"end_ms":1704067380000,'
    b'"sha256":"ab","row_count":2}],'
    b'"absences":[{"start_ms":1704067320000,"end_ms":1704067380000,"reason":"halted","recheck_ms":0}],'
    b'"writer":"ckvd"}'
)
TINY = b"".join(
    [
        # Preamble, 96 bytes.
        b"\x89CKVD\r\n\x1a",  # magic
        b"\x01\x00",  # version 1
        b"\x02\x01",  # byte order 0x0102
        b"\x4b\x26\x93\x29",  # CRC-32 of bytes 16 to 768
        b"\x00\x03\x00\x00",  # header_nbytes 768, a multiple of 64
        b"\x40\x01\x00\x00",  # metadata_nbytes 320
        b"\x05\x00",  # column_count 5
        b"\x01\x00",  # flags: provisional
        b"\x00\x00\x00\x00",  # reserved
        b"\x84\x03\x00\x00\x00\x00\x00\x00",  # file_nbytes 900
        b"\x02\x00\x00\x00\x00\x00\x00\x00",  # row_count 2
        b"\x00\xf4\x51\xc2\x8c\x01\x00\x00",  # span_start_ms 2024-01-01T00:00
        b"\x20\xb3\x54\xc2\x8c\x01\x00\x00",  # span_end_ms 2024-01-01T00:03
        b"\x00\xf4\x51\xc2\x8c\x01\x00\x00",  # first_open_ms 2024-01-01T00:00
        b"\x60\xde\x52\xc2\x8c\x01\x00\x00",  # last_open_ms 2024-01-01T00:01
        b"\x80\xe2\x88\xc2\x8c\x01\x00\x00",  # recheck_ms 2024-01-01T01:00
        b"\x07\x00\x00\x00\x00\x00\x00\x00",  # revision 7
        # Column table, 64 bytes for each column: name, dtype, encoding, decimals, reserved, CRC-32, reserved,
        # offset, constant.
        b"open_time".ljust(32, b"\0"),
        b"<i8\x00" + b"\x00" + b"\xff\xff" + b"\x00" + b"\xcc\x7b\x29\x12" + bytes(4),  # stored, no decimals
        b"\x00\x03\x00\x00\x00\x00\x00\x00" + bytes(8),  # at 768
        b"close".ljust(32, b"\0"),
        b"<f8\x00" + b"\x00" + b"\x02\x08" + b"\x00" + b"\xef\x4b\xc7\xe0" + bytes(4),  # stored, 2 to 8 decimals
        b"\x40\x03\x00\x00\x00\x00\x00\x00" + bytes(8),  # at 832
        b"volume".ljust(32, b"\0"),
        b"<f8\x00" + b"\x01" + b"\x08\x08" + b"\x00" + bytes(4) + bytes(4),  # constant, 8 decimals
        bytes(8) + b"\x00\x00\x00\x00\x00\x00\xf8\x3f",  # 1.5
        b"close_time".ljust(32, b"\0"),
        b"<i8\x00" + b"\x02" + b"\xff\xff" + b"\x00" + bytes(4) + bytes(4),  # regular
        bytes(8) + bytes(8),
        b"close_time_us".ljust(32, b"\0"),
        b"<i2\x00" + b"\x00" + b"\xff\xff" + b"\x00" + b"\x03\x8e\xeb\x27" + bytes(4),  # stored
        b"\x80\x03\x00\x00\x00\x00\x00\x00" + bytes(8),  # at 896
        # Metadata from 416 to 736, and zeros to the end of the header.
        TINY_METADATA,
        bytes(32),
        # Columns at multiples of 64, with zeros between.
        b"\x00\xf4\x51\xc2\x8c\x01\x00\x00" + b"\x60\xde\x52\xc2\x8c\x01\x00\x00",  # open_time
        bytes(48),
        b"\x00\x00\x00\x00\x00\x00\xf0\x3f" + b"\x00\x00\x00\x00\x00\x00\x00\x80",  # close: 1.0, -0.0
        bytes(48),
        b"\xe7\x03" + b"\x07\x00",  # close_time_us: 999, 7
    ]
)
NOTHING_METADATA = (
    b'{"series":{"market":"um","kind":"markPriceKlines","symbol":"BTCUSDT","interval":"1mo"},'
    b'"sources":[],"absences":[],"writer":"a test"}'
)
NOTHING = b"".join(
    [
        b"\x89CKVD\r\n\x1a",  # magic
        b"\x01\x00",  # version 1
        b"\x02\x01",  # byte order 0x0102
        b"\xd0\x32\x75\xbc",  # CRC-32 of bytes 16 to 256
        b"\x00\x01\x00\x00",  # header_nbytes 256
        b"\x84\x00\x00\x00",  # metadata_nbytes 132
        b"\x00\x00",  # column_count 0
        b"\x00\x00",  # flags: none
        b"\x00\x00\x00\x00",  # reserved
        b"\x00\x01\x00\x00\x00\x00\x00\x00",  # file_nbytes 256
        b"\x00\x00\x00\x00\x00\x00\x00\x00",  # row_count 0
        b"\x00\xf4\x51\xc2\x8c\x01\x00\x00",  # span_start_ms 2024-01-01
        b"\x00\x50\x78\xc7\x8c\x01\x00\x00",  # span_end_ms 2024-01-02
        b"\x00\x00\x00\x00\x00\x00\x00\x00",  # first_open_ms: no bar
        b"\x00\x00\x00\x00\x00\x00\x00\x00",  # last_open_ms: no bar
        b"\x00\x00\x00\x00\x00\x00\x00\x00",  # recheck_ms: never
        b"\x01\x00\x00\x00\x00\x00\x00\x00",  # revision 1
        NOTHING_METADATA,
        bytes(28),
    ]
)


def write_tiny(path: Path) -> Path:
    columns = (
        ColumnLayout("open_time", I8, Encoding.STORED),
        ColumnLayout("close", F8, Encoding.STORED, Decimals(2, 8)),
        ColumnLayout("volume", F8, Encoding.CONSTANT, Decimals(8, 8), constant=struct.pack("<d", 1.5)),
        ColumnLayout("close_time", I8, Encoding.REGULAR),
        ColumnLayout("close_time_us", I2, Encoding.STORED),
    )
    span = Span(START_MS, START_MS + 3 * MINUTE_MS)
    daily = Source(Origin.VISION_DAILY, "d.zip", span.start_ms, span.end_ms, sha256="ab", row_count=2)
    halted = Absence(START_MS + 2 * MINUTE_MS, span.end_ms, Reason.HALTED)
    statement = SegmentStatement(
        BTCUSDT_1M, span, 7, [daily], [halted], is_provisional=True, recheck_ms=ms(2024, 1, 1, 1)
    )
    with SegmentWriter(path, statement, columns, 2) as writer:
        writer.append(
            {
                "open_time": np.array([START_MS, START_MS + MINUTE_MS]),
                "close": np.array([1.0, -0.0]),
                "close_time_us": np.array([999, 7], np.int16),
            }
        )
        return writer.publish()


def test_a_tiny_segment_is_these_bytes(tmp_path: Path) -> None:
    assert write_tiny(tmp_path / "tiny.ckvd").read_bytes() == TINY


def test_these_bytes_are_a_tiny_segment(tmp_path: Path) -> None:
    path = tmp_path / "tiny.ckvd"
    path.write_bytes(TINY)
    with SegmentReader(path) as reader:
        reader.verify()
        assert reader.header.series == BTCUSDT_1M
        assert reader.header.revision == 7
        assert reader.header.is_provisional
        assert reader.header.recheck_ms == ms(2024, 1, 1, 1)
        assert [source.name for source in reader.header.sources] == ["d.zip"]
        assert [absence.reason for absence in reader.header.absences] == [Reason.HALTED]
        assert reader["open_time"].tolist() == [START_MS, START_MS + MINUTE_MS]
        assert np.array(reader["close"]).tobytes() == struct.pack("<2d", 1.0, -0.0)
        assert reader["volume"].tolist() == [1.5, 1.5]
        assert reader["close_time"].tolist() == [START_MS + MINUTE_MS - 1, START_MS + 2 * MINUTE_MS - 1]
        assert reader["close_time_us"].tolist() == [999, 7]


def test_a_segment_without_bars_is_these_bytes(tmp_path: Path) -> None:
    series = SeriesKey.of("BTCUSDT", "1mo", market="um", kind="markPriceKlines")
    statement = SegmentStatement(series, Span(START_MS, START_MS + DAY_MS), 1, writer="a test")
    with SegmentWriter(tmp_path / "nothing.ckvd", statement, (), 0) as writer:
        assert writer.publish().read_bytes() == NOTHING
    assert decode_header(NOTHING, "nothing", len(NOTHING)).span == statement.span


# --- Round trip --------------------------------------------------------------------------------------------

UINT64 = st.integers(0, 2**64 - 1)
MOMENTS = st.integers(MOMENT_MIN_MS, MOMENT_MAX_MS)


@st.composite
def column_layouts(draw: st.DrawFn) -> ColumnLayout:
    name = draw(st.sampled_from(sorted(COLUMN_DTYPES)))
    dtype = COLUMN_DTYPES[name]
    digits = sorted((draw(st.integers(0, 254)), draw(st.integers(0, 254))))
    decimals = draw(st.none() | st.just(Decimals(*digits)))
    encodings = [Encoding.STORED] if name == "open_time" else [Encoding.STORED, Encoding.CONSTANT]
    encoding = draw(st.sampled_from([*encodings, Encoding.REGULAR] if name == "close_time" else encodings))
    value = draw(st.binary(min_size=dtype.itemsize, max_size=dtype.itemsize))
    constant = value if encoding is Encoding.CONSTANT else b""
    crc32 = draw(st.integers(0, 2**32 - 1)) if encoding is Encoding.STORED else 0
    return ColumnLayout(name, dtype, encoding, decimals, crc32, constant=constant)


@st.composite
def headers(draw: st.DrawFn) -> SegmentHeader:
    metadata = encode_metadata(
        draw(series_keys()),
        draw(st.lists(sources(), max_size=2)),
        draw(st.lists(absences(spans(FIRST_MS, LAST_MS)), max_size=2)),
        draw(st.text(max_size=10)),
    )
    layouts = draw(st.lists(column_layouts(), max_size=5, unique_by=lambda column: column.name))
    has_opens = any(column.name == "open_time" for column in layouts)
    row_count = draw(st.integers(0, 2**40)) if has_opens else 0
    columns, header_nbytes, file_nbytes = place_columns(layouts, row_count, len(metadata))
    return SegmentHeader(
        span=draw(spans(MOMENT_MIN_MS, MOMENT_MAX_MS)),
        row_count=row_count,
        first_open_ms=draw(MOMENTS),
        last_open_ms=draw(MOMENTS),
        revision=draw(UINT64),
        columns=columns,
        header_nbytes=header_nbytes,
        file_nbytes=file_nbytes,
        is_provisional=draw(st.booleans()),
        recheck_ms=draw(MOMENTS),
        metadata=metadata,
    )


@given(headers())
def test_a_header_decodes_to_what_was_encoded(header: SegmentHeader) -> None:
    content = encode_header(header)
    assert len(content) == header.header_nbytes == read_header_nbytes(content, "file", header.file_nbytes)
    decoded = decode_header(content, "file", header.file_nbytes)
    # The file pads constants with zeros.
    padded = [replace(column, constant=column.constant.ljust(8, b"\0")) for column in header.columns]
    assert list(decoded.columns) == padded
    assert replace(decoded, columns=()) == replace(header, columns=())
    assert encode_header(decoded) == content
    for column in header.columns:
        found = decoded.column(column.name)
        assert found is not None
        if column.encoding is Encoding.CONSTANT:
            assert found.constant_value.tobytes() == column.constant


@given(
    series_keys(),
    st.lists(sources(), max_size=3),
    st.lists(absences(spans(FIRST_MS, LAST_MS)), max_size=3),
)
def test_series_sources_and_absences_are_read_as_they_were_written(
    series: SeriesKey, written: list[Source], known: list[Absence]
) -> None:
    metadata = encode_metadata(series, written, known, "ckvd")
    assert metadata == encode_metadata(series, written, known, "ckvd")
    header = SegmentHeader(Span(0, 0), 0, 0, 0, 0, (), 0, 0, False, 0, metadata)  # noqa: FBT003
    assert header.series == series
    assert list(header.sources) == written
    assert list(header.absences) == known


def test_fields_that_later_versions_add_to_a_source_are_kept_and_not_read() -> None:
    record = Source(Origin.REST, "/api/v3/klines?symbol=BTCUSDT", 0, 1).to_json()
    read = Source.of_json(record | {"colour": "blue"})
    assert replace(read, later="") == Source.of_json(record)
    assert read.to_json() == record | {"colour": "blue"}


# --- Where columns start -----------------------------------------------------------------------------------


@given(st.lists(column_layouts(), max_size=8), st.integers(0, 3000), st.integers(0, 5000))
def test_stored_columns_are_in_order_aligned_and_disjoint_and_end_the_file(
    columns: list[ColumnLayout], row_count: int, metadata_nbytes: int
) -> None:
    placed, header_nbytes, file_nbytes = place_columns(columns, row_count, metadata_nbytes)
    assert header_nbytes % 64 == 0
    assert 0 <= header_nbytes - (PREAMBLE_NBYTES + COLUMN_ENTRY_NBYTES * len(columns) + metadata_nbytes) < 64
    end = header_nbytes
    for column in placed:
        nbytes = row_count * column.dtype.itemsize if column.encoding is Encoding.STORED else 0
        if not nbytes:
            assert column.offset == 0
            continue
        unit = 4096 if nbytes >= 4096 else 64
        assert column.offset % unit == 0
        assert 0 <= column.offset - end < unit
        end = column.offset + nbytes
    assert end == file_nbytes


@pytest.mark.parametrize(("row_count", "offset"), [(511, 192), (512, 4096)])
def test_a_column_of_4096_bytes_or_more_starts_at_a_page(row_count: int, offset: int) -> None:
    (column,), header_nbytes, _ = place_columns([ColumnLayout("close", F8, Encoding.STORED)], row_count, 0)
    assert header_nbytes == 192
    assert column.offset == offset

"""A file that is no whole segment of this version is refused, with a message that says what it is."""

from __future__ import annotations

import contextlib
import struct
import zlib
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ckvd.bars.klines import Klines
from ckvd.errors import CkvdError, SegmentCorruptError, SegmentError, SegmentForeignError, SegmentVersionError
from ckvd.model.timespan import Span
from ckvd.segment.header import SegmentHeader, decode_header, encode_header, encode_metadata, read_header_nbytes
from ckvd.segment.layout import (
    CHECKED_FROM,
    COLUMN_ENTRY,
    COLUMN_ENTRY_NBYTES,
    MAGIC,
    PREAMBLE,
    PREAMBLE_NBYTES,
    ColumnLayout,
    Encoding,
    place_columns,
)
from ckvd.segment.reader import MappedRows
from ckvd.utils.config import SEGMENT_HEADER_NBYTES_MAX
from support.tables import BTCUSDT_1M

if TYPE_CHECKING:
    from collections.abc import Sequence

COLUMNS = (
    ColumnLayout("open_time", np.dtype("<i8"), Encoding.STORED, crc32=0x1234),
    ColumnLayout("close", np.dtype("<f8"), Encoding.CONSTANT, constant=struct.pack("<d", 1.5)),
)
ROW_COUNT = 3


def make_file(columns: Sequence[ColumnLayout] = COLUMNS) -> bytes:
    """A whole segment. The values in its columns do not matter to the header."""
    metadata = encode_metadata(BTCUSDT_1M, (), (), "ckvd")
    placed, header_nbytes, file_nbytes = place_columns(columns, ROW_COUNT, len(metadata))
    header = SegmentHeader(
        span=Span(0, 300_000),
        row_count=ROW_COUNT,
        first_open_ms=0,
        last_open_ms=240_000,
        revision=1,
        columns=placed,
        header_nbytes=header_nbytes,
        file_nbytes=file_nbytes,
        is_provisional=False,
        recheck_ms=0,
        metadata=metadata,
    )
    return encode_header(header).ljust(file_nbytes, b"\1")


FILE = make_file()
HEADER_NBYTES = read_header_nbytes(FILE, "file", len(FILE))


def open_file(content: bytes) -> SegmentHeader:
    """Do what a reader does with a file before it maps it."""
    header_nbytes = read_header_nbytes(content, "some/file.ckvd", len(content))
    return decode_header(content[:header_nbytes], "some/file.ckvd", len(content))


def patch(content: bytes, offset: int, new: bytes, *, checksum: bool = True) -> bytes:
    """Replace some bytes, and correct the checksum of the header, so that other checks must find the change."""
    patched = bytearray(content)
    patched[offset : offset + len(new)] = new
    if checksum:
        patched[CHECKED_FROM - 4 : CHECKED_FROM] = zlib.crc32(patched[CHECKED_FROM:HEADER_NBYTES]).to_bytes(
            4, "little"
        )
    return bytes(patched)


def field_offset(name: str, *, column: int | None = None) -> int:
    """The offset of a field in the preamble, or in the entry of a column."""
    table = PREAMBLE if column is None else COLUMN_ENTRY
    names = [field for field, _ in table]
    before = "<" + "".join(code for _, code in table[: names.index(name)])
    start = 0 if column is None else PREAMBLE_NBYTES + COLUMN_ENTRY_NBYTES * column
    return start + struct.calcsize(before)


def test_the_file_that_other_tests_damage_is_whole() -> None:
    assert open_file(FILE).row_count == ROW_COUNT


@pytest.mark.parametrize("bits", [0x01, 0x02, 0x10, 0x40, 0x80, 0xFF])
def test_any_damaged_byte_of_a_header_is_refused(bits: int) -> None:
    for offset in range(HEADER_NBYTES):
        damaged = patch(FILE, offset, bytes([FILE[offset] ^ bits]), checksum=False)
        with pytest.raises(SegmentError):
            open_file(damaged)


@given(st.data())
def test_any_damage_to_a_header_is_refused(data: st.DataObject) -> None:
    offset = data.draw(st.integers(0, HEADER_NBYTES - 1))
    new = data.draw(st.binary(min_size=1, max_size=HEADER_NBYTES - offset))
    if new != FILE[offset : offset + len(new)]:
        with pytest.raises(SegmentError):
            open_file(patch(FILE, offset, new, checksum=False))


def test_a_file_cut_off_anywhere_is_called_truncated() -> None:
    for length in range(1, len(FILE)):
        with pytest.raises(SegmentCorruptError, match=f"truncated: {length} bytes"):
            open_file(FILE[:length])


def test_an_empty_file_is_refused() -> None:
    with pytest.raises(SegmentError):
        open_file(b"")


@pytest.mark.parametrize("extra", [b"\0", b"\1", bytes(4096), FILE])
def test_a_file_with_bytes_behind_its_end_is_called_too_long(extra: bytes) -> None:
    with pytest.raises(SegmentCorruptError, match=f"too long: {len(FILE) + len(extra)} bytes"):
        open_file(FILE + extra)


@pytest.mark.parametrize(
    "content",
    [
        b"PK\x03\x04 a ZIP",
        b"open_time,open,high,low",
        b"\x89PNG\r\n\x1a\n",
        bytes(4096),
        b"x",
        b"\x89CKVD\n\x1a" + FILE[8:],  # a transfer as text changed the line end
        FILE[1:],
    ],
)
def test_a_foreign_file_is_called_no_segment(content: bytes) -> None:
    with pytest.raises(SegmentForeignError, match="no segment: it starts with "):
        open_file(content)


@pytest.mark.parametrize("version", [0, 2, 3, 65535])
def test_another_version_is_named_with_the_remedy(version: int) -> None:
    later = patch(FILE, field_offset("version"), struct.pack("<H", version))
    with pytest.raises(
        SegmentVersionError, match=rf"format version {version}, this reader knows version 1: upgrade"
    ):
        open_file(later)


def test_another_version_is_named_whatever_the_other_bytes_are() -> None:
    with pytest.raises(SegmentVersionError, match="format version 2"):
        open_file(MAGIC + b"\x02\x00\x02\x01" + bytes(range(256)))


def test_another_byte_order_is_named() -> None:
    with pytest.raises(SegmentVersionError, match="big-endian"):
        open_file(patch(FILE, field_offset("byte_order"), b"\x01\x02"))
    with pytest.raises(SegmentCorruptError, match="byte order mark is 0x0303"):
        open_file(patch(FILE, field_offset("byte_order"), b"\x03\x03"))


@pytest.mark.parametrize("header_nbytes", [0, 95, SEGMENT_HEADER_NBYTES_MAX + 1, 2**32 - 1])
def test_a_header_of_absurd_length_is_not_read(header_nbytes: int) -> None:
    with pytest.raises(SegmentCorruptError, match=f"its header claims {header_nbytes} bytes"):
        open_file(patch(FILE, field_offset("header_nbytes"), struct.pack("<I", header_nbytes)))


@pytest.mark.parametrize(
    ("name", "column", "new"),
    [
        ("metadata_nbytes", None, struct.pack("<I", HEADER_NBYTES)),
        ("column_count", None, struct.pack("<H", 3)),
        ("column_count", None, struct.pack("<H", 65535)),
        ("flags", None, b"\x02\x00"),
        ("reserved", None, b"\x01\x00\x00\x00"),
        ("span_end_ms", None, struct.pack("<q", -1)),
        ("file_nbytes", None, struct.pack("<Q", len(FILE) + 1)),
        ("file_nbytes", None, struct.pack("<Q", 2**64 - 1)),
        ("row_count", None, struct.pack("<Q", ROW_COUNT + 1)),
        ("row_count", None, struct.pack("<Q", 2**64 - 1)),
        ("name", 0, b"opentime\0"),
        ("name", 0, b"close".ljust(32, b"\0")),
        ("name", 1, b"\xff" * 32),
        ("dtype", 0, b"<f8"),
        ("dtype", 0, b">i8"),
        ("encoding", 0, b"\x03"),
        ("encoding", 1, bytes(12) + struct.pack("<Q", len(FILE))),
        ("offset", 0, struct.pack("<Q", len(FILE))),
        ("offset", 0, struct.pack("<Q", 2**64 - 8)),
    ],
)
def test_a_header_that_contradicts_itself_is_refused_even_with_the_right_checksum(
    name: str, column: int | None, new: bytes
) -> None:
    with pytest.raises(SegmentCorruptError):
        open_file(patch(FILE, field_offset(name, column=column), new))


def test_a_column_that_is_in_the_table_twice_is_refused() -> None:
    with pytest.raises(SegmentCorruptError):
        open_file(make_file((*COLUMNS, COLUMNS[1])))


@given(st.binary(max_size=400))
def test_random_bytes_are_refused(content: bytes) -> None:
    with pytest.raises(SegmentError):
        open_file(content)


@given(st.binary(max_size=400))
def test_random_bytes_behind_the_right_mark_are_refused(content: bytes) -> None:
    with pytest.raises(SegmentError):
        open_file(FILE[:CHECKED_FROM] + content)


@given(st.data())
def test_a_forged_header_is_accepted_or_refused_as_a_segment_and_nothing_else_is_raised(
    data: st.DataObject,
) -> None:
    offset = data.draw(st.integers(CHECKED_FROM, HEADER_NBYTES - 8))
    new = data.draw(
        st.binary(min_size=1, max_size=8) | st.sampled_from([b"\xff" * 8, bytes(8), b"\xff" * 7 + b"\x7f"])
    )
    with contextlib.suppress(SegmentError):
        header = open_file(patch(FILE, offset, new))
        assert len(header.columns) <= len(COLUMNS)


def test_an_error_names_the_file_and_is_both_a_value_error_and_an_error_of_ckvd() -> None:
    for content in (FILE[:-1], b"PK", patch(FILE, field_offset("version"), b"\x09")):
        with pytest.raises(SegmentError) as caught:
            open_file(content)
        assert caught.value.path == "some/file.ckvd"
        assert str(caught.value) == f"some/file.ckvd: {caught.value.reason}"
        assert isinstance(caught.value, ValueError)
        assert isinstance(caught.value, CkvdError)


@pytest.mark.parametrize(
    "metadata",
    [
        b"",
        b"{",
        b"[]",
        b"{}",
        b"\xff\xfe",
        b'{"series":[],"sources":[[1]],"absences":[[1]]}',
        b'{"series":{},"sources":[{"origin":"the moon"}],"absences":[{"reason":"no reason"}]}',
    ],
)
def test_metadata_that_cannot_be_read_are_a_damage_that_names_the_file(metadata: bytes) -> None:
    """The checksum is right: another program wrote them, or an error before they were written."""
    header = replace(open_file(FILE), metadata=metadata)
    damaged = open_file(encode_header(header).ljust(len(FILE), b"\1"))
    assert damaged.metadata == metadata
    for read in (lambda: damaged.series, lambda: damaged.sources, lambda: damaged.absences):
        with pytest.raises(SegmentCorruptError, match=r"some/file\.ckvd: its metadata cannot be read: ") as caught:
            read()
        assert caught.value.path == "some/file.ckvd"
    rows = MappedRows(damaged, np.frombuffer(FILE, np.uint8), 0, ROW_COUNT)
    klines = Klines(BTCUSDT_1M, damaged.span, [rows])
    assert klines.close.tolist() == [1.5] * ROW_COUNT
    for ask in (lambda: klines.sources, lambda: klines.absences, lambda: klines.gaps):
        with pytest.raises(SegmentCorruptError, match="its metadata cannot be read"):
            ask()

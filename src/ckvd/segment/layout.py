r"""The segment format, version 1, byte by byte.

A segment holds the bars of one series in one span of time, column by column. Rows of funding rates and metrics are
stored likewise: they are called bars here, and `open_time` is their time (see `ckvd.model.schema`). A segment is
written once and never changed. All numbers are little-endian. The file is a header, then columns::

    +----------+--------------+----------+---+----------+---+----------+---
    | preamble | column table | metadata | 0 | column 0 | 0 | column 1 | ...
    +----------+--------------+----------+---+----------+---+----------+---
    |<------------- header_nbytes ---------->|

**Preamble**, 96 bytes (`PREAMBLE`; the code is the table):

===== === ================ =================================================================================
start len field            meaning
===== === ================ =================================================================================
0     8   magic            89 43 4B 56 44 0D 0A 1A: `\x89CKVD\r\n\x1a`. A transfer as text damages it.
8     2   version          1. A reader refuses a version it does not know.
10    2   byte_order       0x0102. If it reads 0x0201, the file was written in the other byte order.
12    4   header_crc32     CRC-32 of bytes 16 to header_nbytes.
16    4   header_nbytes    Where the header ends, a multiple of 64.
20    4   metadata_nbytes  Length of the metadata.
24    2   column_count     Entries of the column table.
26    2   flags            Bit 0: provisional; to be replaced when an archive of the span appears.
28    4   reserved         0.
32    8   file_nbytes      Length of the whole file.
40    8   row_count        Bars.
48    8   span_start_ms    The segment covers open times from here ...
56    8   span_end_ms      ... to here, exclusive, even if there are no bars.
64    8   first_open_ms    Open time of the first bar; 0 without bars.
72    8   last_open_ms     Open time of the last bar; 0 without bars.
80    8   recheck_ms       From this time on, a source should be asked again for absent bars; 0 for never.
88    8   revision         Where two segments of a series overlap, the one with the higher revision wins.
===== === ================ =================================================================================

**Column table**, 64 bytes for each column (`COLUMN_ENTRY`), in the order of the fields of a row:

===== === ================ =================================================================================
start len field            meaning
===== === ================ =================================================================================
0     32  name             ASCII, padded with zeros.
32    4   dtype            numpy's code: `<f8`, `<i8`, `<i2`, padded with zeros.
36    1   encoding         0 stored, 1 constant, 2 regular (`Encoding`).
37    1   decimals_least   Fewest and most digits after the decimal point in the source; 255 if unknown
38    1   decimals_most    or meaningless.
39    1   reserved         0.
40    4   crc32            CRC-32 of the stored bytes; 0 if nothing is stored.
44    4   reserved         0.
48    8   offset           Where the stored bytes start in the file; 0 if nothing is stored.
56    8   constant         The single value of a constant column, padded with zeros.
===== === ================ =================================================================================

A *stored* column is `row_count` values of its dtype. A *constant* column has the same value, bit for bit, in every
row. A *regular* column follows from the open time: `close_time` is the last millisecond of the bar's interval, and
no other column is regular. The open times of bars are always stored. Times lie in the years 1 to 9999.

**Metadata**, UTF-8 JSON: an object with `series` (market, kind, symbol, interval; the last is null for events),
`sources` and `absences` (see `ckvd.model.provenance`), and `writer`, which names the program. What a later version
adds is kept when segments are packed. The rest of the header is zeros.

**Columns** of 4096 bytes or more start at multiples of 4096, so that no two of them share a page and each can be
advised and released alone. Shorter ones start at multiples of 64. Bytes between columns are zeros. The file ends
with the last column. Checksums are CRC-32 as in ZIP and zlib.

`ckvd.segment.header` turns headers into bytes and back.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, replace
from enum import IntEnum
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from ckvd.utils.config import SEGMENT_PAGE_NBYTES

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ckvd.model.table import Decimals

MAGIC: Final = b"\x89CKVD\r\n\x1a"
VERSION: Final = 1
BYTE_ORDER: Final = 0x0102
SWAPPED_BYTE_ORDER: Final = 0x0201
FLAG_PROVISIONAL: Final = 1
UNKNOWN_DECIMALS: Final = 255
_LINE_NBYTES: Final = 64

PREAMBLE: Final = (
    ("magic", "8s"),
    ("version", "H"),
    ("byte_order", "H"),
    ("header_crc32", "I"),
    ("header_nbytes", "I"),
    ("metadata_nbytes", "I"),
    ("column_count", "H"),
    ("flags", "H"),
    ("reserved", "I"),
    ("file_nbytes", "Q"),
    ("row_count", "Q"),
    ("span_start_ms", "q"),
    ("span_end_ms", "q"),
    ("first_open_ms", "q"),
    ("last_open_ms", "q"),
    ("recheck_ms", "q"),
    ("revision", "Q"),
)
COLUMN_ENTRY: Final = (
    ("name", "32s"),
    ("dtype", "4s"),
    ("encoding", "B"),
    ("decimals_least", "B"),
    ("decimals_most", "B"),
    ("reserved", "x"),
    ("crc32", "I"),
    ("reserved", "4x"),
    ("offset", "Q"),
    ("constant", "8s"),
)
PREAMBLE_STRUCT: Final = struct.Struct("<" + "".join(code for _, code in PREAMBLE))
COLUMN_STRUCT: Final = struct.Struct("<" + "".join(code for _, code in COLUMN_ENTRY))
PREAMBLE_NBYTES: Final = PREAMBLE_STRUCT.size
COLUMN_ENTRY_NBYTES: Final = COLUMN_STRUCT.size
# The checksum covers the header from here on. The fields before it are compared with their only valid values.
CHECKED_FROM: Final = 16


class Encoding(IntEnum):
    """How a segment keeps the values of a column."""

    STORED = 0
    CONSTANT = 1
    REGULAR = 2


@dataclass(frozen=True, slots=True)
class ColumnLayout:
    """One entry of the column table.

    Attributes
    ----------
    name : str
    dtype : numpy.dtype
        Little-endian.
    encoding : Encoding
    decimals : Decimals or None
        How the cells were written in the source.
    crc32 : int
        CRC-32 of the stored bytes.
    offset : int
        Where the stored bytes start in the file.
    constant : bytes
        The single value of a constant column; else empty or zeros.
    """

    name: str
    dtype: np.dtype[Any]
    encoding: Encoding
    decimals: Decimals | None = None
    crc32: int = 0
    offset: int = 0
    constant: bytes = b""

    @property
    def constant_value(self) -> np.generic:
        """The single value of a constant column, as a scalar of its dtype."""
        value: np.generic = np.frombuffer(self.constant, self.dtype, 1)[0]
        return value


def place_columns(
    columns: Sequence[ColumnLayout], row_count: int, metadata_nbytes: int
) -> tuple[tuple[ColumnLayout, ...], int, int]:
    """Decide where every stored column starts.

    Returns
    -------
    columns : tuple of ColumnLayout
        With their offsets.
    header_nbytes : int
    file_nbytes : int
    """
    header_nbytes = _round_up(PREAMBLE_NBYTES + COLUMN_ENTRY_NBYTES * len(columns) + metadata_nbytes, _LINE_NBYTES)
    end = header_nbytes
    placed = []
    for column in columns:
        nbytes = row_count * column.dtype.itemsize
        if column.encoding is not Encoding.STORED or not nbytes:
            placed.append(replace(column, offset=0))
            continue
        offset = _round_up(end, SEGMENT_PAGE_NBYTES if nbytes >= SEGMENT_PAGE_NBYTES else _LINE_NBYTES)
        placed.append(replace(column, offset=offset))
        end = offset + nbytes
    return tuple(placed), header_nbytes, end


def _round_up(nbytes: int, unit: int) -> int:
    return -(-nbytes // unit) * unit

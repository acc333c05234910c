"""The header of a segment: `SegmentHeader`, and encoding it to bytes and decoding it again. Pure.

`ckvd.segment.layout` describes the bytes. Decoding checks everything that can be checked without the columns.
"""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final, NoReturn, overload

from ckvd.errors import SegmentCorruptError, SegmentForeignError, SegmentVersionError, shown
from ckvd.model.market import EVENTS, SeriesKey
from ckvd.model.provenance import MOMENT_MAX_MS, MOMENT_MIN_MS, Absence, Source, later_text
from ckvd.model.schema import COLUMN_DTYPES
from ckvd.model.table import Decimals
from ckvd.model.timespan import Span
from ckvd.segment.layout import (
    BYTE_ORDER,
    CHECKED_FROM,
    COLUMN_ENTRY_NBYTES,
    COLUMN_STRUCT,
    FLAG_PROVISIONAL,
    MAGIC,
    PREAMBLE_NBYTES,
    PREAMBLE_STRUCT,
    SWAPPED_BYTE_ORDER,
    UNKNOWN_DECIMALS,
    VERSION,
    ColumnLayout,
    Encoding,
)
from ckvd.utils.config import SEGMENT_HEADER_NBYTES_MAX

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from collections.abc import Set as AbstractSet


class ColumnTable(Sequence[ColumnLayout]):
    """The column table of a decoded header. It has been checked; a `ColumnLayout` is made when it is asked for.

    A read touches two columns of twelve, and making all twelve would take longer than the rest of the read. A table
    equals any sequence of the same entries.
    """

    __slots__ = ("_entries", "_layouts")

    def __init__(self, entries: Mapping[str, tuple[Any, ...]]) -> None:
        self._entries = entries
        self._layouts: dict[str, ColumnLayout] = {}

    @property
    def names(self) -> AbstractSet[str]:
        """The names of the columns."""
        return self._entries.keys()

    def find(self, name: str) -> ColumnLayout | None:
        """The entry of a column, or None if there is no column of that name."""
        layout = self._layouts.get(name)
        if layout is None:
            entry = self._entries.get(name)
            if entry is None:
                return None
            layout = self._layouts[name] = _layout_of(name, entry)
        return layout

    def __len__(self) -> int:
        return len(self._entries)

    @overload
    def __getitem__(self, index: int) -> ColumnLayout: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[ColumnLayout, ...]: ...
    def __getitem__(self, index: int | slice) -> ColumnLayout | tuple[ColumnLayout, ...]:
        return tuple(_layout_of(name, entry) for name, entry in self._entries.items())[index]

    def __iter__(self) -> Iterator[ColumnLayout]:
        # The inherited method would index one entry after the other, and each index makes all of them.
        return iter(self[:])

    def __eq__(self, other: object) -> bool:
        return self[:] == tuple(other) if isinstance(other, Sequence) else NotImplemented

    def __hash__(self) -> int:
        return hash(self[:])

    def __repr__(self) -> str:
        return repr(self[:])


@dataclass(frozen=True, slots=True)
class SegmentHeader:
    """The header of a segment. `ckvd.segment.layout` explains the fields.

    Attributes
    ----------
    span : Span
        The open times that it covers, even if there are no bars.
    row_count : int
    first_open_ms, last_open_ms : int
        Open times of the first and last bar; 0 without bars.
    revision : int
        Where two segments overlap, the one with the higher revision wins.
    columns : sequence of ColumnLayout
    header_nbytes, file_nbytes : int
    is_provisional : bool
    recheck_ms : int
        When to ask a source again for absent bars; 0 for never.
    metadata : bytes
        JSON of the series, the sources and the absences. It is parsed when they are asked for, which raises
        `SegmentCorruptError` if it cannot be read.
    path : str
        The file, for messages; empty for a header that was not read from one.
    """

    span: Span
    row_count: int
    first_open_ms: int
    last_open_ms: int
    revision: int
    columns: Sequence[ColumnLayout]
    header_nbytes: int
    file_nbytes: int
    is_provisional: bool
    recheck_ms: int
    metadata: bytes = field(repr=False)
    path: str = field(default="", repr=False, compare=False)

    @property
    def series(self) -> SeriesKey:
        """The series of its bars."""
        with self._parsing():
            return _series_of(self.metadata)

    @property
    def series_text(self) -> str:
        """The series as it was written: an older version accepted names that `SeriesKey` refuses."""
        with self._parsing():
            record = _parse(self.metadata)["series"]
            parts = [record[part] for part in ("market", "kind", "symbol", "interval")]
            return "/".join(EVENTS if part is None else part for part in parts)

    @property
    def later(self) -> str:
        """What a later version said of the segment as a whole, as the text of a JSON object; mostly empty."""
        with self._parsing():
            record = _parse(self.metadata)
            return later_text({key: value for key, value in record.items() if key not in _METADATA_KEYS})

    def is_of(self, series: SeriesKey) -> bool:
        """Whether this is a segment of the series. Mostly it compares bytes only, and parses nothing."""
        return self.metadata.startswith(_series_json(series)) or self.series_text == str(series)

    def lacking(self, names: Sequence[str]) -> tuple[str, ...]:
        """Those of some columns that the segment does not have."""
        columns = self.columns
        known = columns.names if isinstance(columns, ColumnTable) else {column.name for column in columns}
        return tuple(name for name in names if name not in known)

    def column(self, name: str) -> ColumnLayout | None:
        """The layout of a column, or None if the segment has no such column."""
        columns = self.columns
        if isinstance(columns, ColumnTable):
            return columns.find(name)
        return next((column for column in columns if column.name == name), None)

    @property
    def sources(self) -> tuple[Source, ...]:
        """The sources that the bars came from."""
        with self._parsing():
            return tuple(map(Source.of_json, _list_in(self.metadata, "sources")))

    @property
    def absences(self) -> tuple[Absence, ...]:
        """The known reasons why bars are missing."""
        # Most segments have none, and parsing the metadata takes longer than reading the header.
        if _NO_ABSENCES in self.metadata:
            return ()
        with self._parsing():
            return tuple(map(Absence.of_json, _list_in(self.metadata, "absences")))

    @contextmanager
    def _parsing(self) -> Iterator[None]:
        """Say which segment it is whose metadata cannot be read, whatever is wrong with them."""
        try:
            yield
        except (ValueError, LookupError, TypeError, AttributeError, ArithmeticError, RecursionError) as error:
            raise SegmentCorruptError(
                self.path or f"segment of {self.span}, revision {self.revision}",
                f"its metadata cannot be read: {type(error).__name__}: {shown(error)}",
            ) from error


# How `encode_metadata` writes that there are none. No text in JSON has quotes like these.
_NO_ABSENCES: Final = b'],"absences":[],"writer":'
_METADATA_KEYS: Final = ("series", "sources", "absences", "writer")


def _refuse_constant(word: str) -> NoReturn:
    raise ValueError(f"{word} is no JSON")


_DECODER: Final = json.JSONDecoder(parse_constant=_refuse_constant)


def _parse(metadata: bytes) -> dict[str, Any]:
    record = _DECODER.decode(metadata.decode())
    if not isinstance(record, dict):
        raise TypeError(f"expected an object, found {type(record).__name__}")
    return record


def _list_in(metadata: bytes, key: str) -> list[Any]:
    records = _parse(metadata)[key]
    if not isinstance(records, list):
        raise TypeError(f"{key} are a list, found {type(records).__name__}")
    return records


# A backtest opens many segments of few series, and each column read asks for the series again.
@lru_cache(maxsize=1024)
def _series_of(metadata: bytes) -> SeriesKey:
    record = _parse(metadata)["series"]
    return SeriesKey.of(record["symbol"], record["interval"], market=record["market"], kind=record["kind"])


@lru_cache(maxsize=1024)
def _series_json(series: SeriesKey) -> bytes:
    """The beginning of the metadata that this module writes for a series."""
    return encode_metadata(series, (), (), "").partition(b',"sources"')[0]


def encode_metadata(
    series: SeriesKey, sources: Sequence[Source], absences: Sequence[Absence], writer: str, later: str = ""
) -> bytes:
    """Encode the metadata of a header as JSON. The same values always give the same bytes.

    `later` is what a later version said of the segment as a whole, see `SegmentHeader.later`.
    """
    record = {
        "series": {
            "market": series.market.value,
            "kind": series.kind.value,
            "symbol": series.symbol,
            "interval": None if series.interval is None else series.interval.value,
        },
        "sources": [source.to_json() for source in sources],
        "absences": [absence.to_json() for absence in absences],
        "writer": writer,
    }
    if later:
        record |= json.loads(later)
    return json.dumps(record, ensure_ascii=False, separators=(",", ":")).encode()


def encode_header(header: SegmentHeader) -> bytes:
    """Encode a header, with its checksum, to `header_nbytes` bytes."""
    table = b"".join(_encode_column(column) for column in header.columns)
    preamble = PREAMBLE_STRUCT.pack(
        MAGIC,
        VERSION,
        BYTE_ORDER,
        0,
        header.header_nbytes,
        len(header.metadata),
        len(header.columns),
        FLAG_PROVISIONAL if header.is_provisional else 0,
        0,
        header.file_nbytes,
        header.row_count,
        header.span.start_ms,
        header.span.end_ms,
        header.first_open_ms,
        header.last_open_ms,
        header.recheck_ms,
        header.revision,
    )
    content = bytearray((preamble + table + header.metadata).ljust(header.header_nbytes, b"\0"))
    checksum = zlib.crc32(memoryview(content)[CHECKED_FROM:])
    content[CHECKED_FROM - 4 : CHECKED_FROM] = checksum.to_bytes(4, "little")
    return bytes(content)


def _encode_column(column: ColumnLayout) -> bytes:
    decimals = column.decimals or Decimals(UNKNOWN_DECIMALS, UNKNOWN_DECIMALS)
    return COLUMN_STRUCT.pack(
        column.name.encode("ascii"),
        column.dtype.str.encode("ascii"),
        column.encoding,
        decimals.least,
        decimals.most,
        column.crc32,
        column.offset,
        column.constant,
    )


def read_header_nbytes(start: bytes, path: str, file_nbytes: int) -> int:
    """Check the beginning of a file and return the length of its header.

    Parameters
    ----------
    start : bytes
        At least the first `PREAMBLE_NBYTES` of the file, or all of a shorter file.
    path : str
        For messages.
    file_nbytes : int
        Length of the file.

    Raises
    ------
    SegmentForeignError
        The file is no segment.
    SegmentVersionError
        It is a segment of a later version or another byte order.
    SegmentCorruptError
        It is too short for its header, or the length of the header is absurd.
    """
    if not start.startswith(MAGIC):
        if start and MAGIC.startswith(start[: len(MAGIC)]):
            raise SegmentCorruptError(path, f"truncated: {file_nbytes} bytes are too few for a segment")
        raise SegmentForeignError(path, f"no segment: it starts with {start[:8]!r} instead of {MAGIC!r}")
    if len(start) < PREAMBLE_NBYTES:
        raise SegmentCorruptError(path, f"truncated: {file_nbytes} bytes, a header has at least {PREAMBLE_NBYTES}")
    version, byte_order, _, header_nbytes = struct.unpack_from("<HHII", start, len(MAGIC))
    if byte_order == SWAPPED_BYTE_ORDER:
        raise SegmentVersionError(path, "written in big-endian byte order; this reader knows little-endian only")
    if byte_order != BYTE_ORDER:
        raise SegmentCorruptError(path, f"its byte order mark is {byte_order:#06x}, expected {BYTE_ORDER:#06x}")
    if version != VERSION:
        raise SegmentVersionError(
            path, f"format version {version}, this reader knows version {VERSION}: upgrade ckvd, or fetch it again"
        )
    if not PREAMBLE_NBYTES <= header_nbytes <= SEGMENT_HEADER_NBYTES_MAX:
        raise SegmentCorruptError(path, f"its header claims {header_nbytes} bytes")
    if header_nbytes > file_nbytes:
        raise SegmentCorruptError(path, f"truncated: {file_nbytes} bytes, the header alone has {header_nbytes}")
    return int(header_nbytes)


def decode_header(content: bytes, path: str, file_nbytes: int) -> SegmentHeader:
    """Check a whole header and decode it.

    Parameters
    ----------
    content : bytes
        The first `read_header_nbytes` bytes of the file.
    path, file_nbytes
        See `read_header_nbytes`.

    Raises
    ------
    SegmentForeignError, SegmentVersionError
        See `read_header_nbytes`.
    SegmentCorruptError
        The checksum is wrong, the file does not have the declared length, or fields contradict each other.
    """
    (
        magic, version, byte_order, header_crc32, header_nbytes, metadata_nbytes, column_count, flags, reserved,
        declared_nbytes, row_count, start_ms, end_ms, first_open_ms, last_open_ms, recheck_ms, revision,
    ) = PREAMBLE_STRUCT.unpack_from(content.ljust(PREAMBLE_NBYTES))  # fmt: skip
    if magic != MAGIC or version != VERSION or byte_order != BYTE_ORDER or header_nbytes != len(content):
        read_header_nbytes(content, path, file_nbytes)
        raise SegmentCorruptError(path, f"truncated: its header ends after {len(content)} of {header_nbytes} bytes")
    found_crc32 = zlib.crc32(memoryview(content)[CHECKED_FROM:])
    if found_crc32 != header_crc32:
        raise SegmentCorruptError(
            path, f"damaged header: its checksum is {found_crc32:#010x}, expected {header_crc32:#010x}"
        )
    if declared_nbytes != file_nbytes:
        state = "truncated" if file_nbytes < declared_nbytes else "too long"
        raise SegmentCorruptError(path, f"{state}: {file_nbytes} bytes, its header says {declared_nbytes}")
    table_end = PREAMBLE_NBYTES + COLUMN_ENTRY_NBYTES * column_count
    if table_end + metadata_nbytes > header_nbytes or end_ms < start_ms or reserved or flags > FLAG_PROVISIONAL:
        raise SegmentCorruptError(path, "its header contradicts itself")
    for moment_ms in (start_ms, end_ms, first_open_ms, last_open_ms, recheck_ms):
        if not MOMENT_MIN_MS <= moment_ms <= MOMENT_MAX_MS:
            raise SegmentCorruptError(path, f"its header has the time {moment_ms} ms, which no date has")
    columns = _read_column_table(
        content[PREAMBLE_NBYTES:table_end], row_count, range(header_nbytes, file_nbytes + 1), path
    )
    return SegmentHeader(
        span=Span(start_ms, end_ms),
        row_count=row_count,
        first_open_ms=first_open_ms,
        last_open_ms=last_open_ms,
        revision=revision,
        columns=columns,
        header_nbytes=header_nbytes,
        file_nbytes=declared_nbytes,
        is_provisional=bool(flags & FLAG_PROVISIONAL),
        recheck_ms=recheck_ms,
        metadata=content[table_end : table_end + metadata_nbytes],
        path=path,
    )


# By encoded name: the name, the encoded dtype, and the size of one value in bytes.
_KNOWN_COLUMNS: Final = {
    name.encode("ascii").ljust(32, b"\0"): (name, dtype.str.encode("ascii").ljust(4, b"\0"), dtype.itemsize)
    for name, dtype in COLUMN_DTYPES.items()
}


def _read_column_table(table: bytes, row_count: int, room: range, path: str) -> ColumnTable:
    entries = {}
    for entry in COLUMN_STRUCT.iter_unpack(table):
        raw_name, raw_dtype, encoding, _, _, _, offset, _ = entry
        name, dtype, itemsize = _KNOWN_COLUMNS.get(raw_name, ("", b"", 0))
        if dtype != raw_dtype or encoding > Encoding.REGULAR:
            raise SegmentCorruptError(
                path, f"unknown column {raw_name!r}, dtype {raw_dtype!r}, encoding {encoding}"
            )
        if encoding == Encoding.STORED:
            if row_count and not room.start <= offset <= room.stop - 1 - row_count * itemsize:
                raise SegmentCorruptError(path, f"column {name} would start in the header or end beyond the file")
        elif (name == "open_time" and row_count) or (encoding == Encoding.REGULAR and name != "close_time"):
            raise SegmentCorruptError(path, f"column {name} cannot have encoding {encoding}")
        if name in entries:
            raise SegmentCorruptError(path, f"column {name} is in its table twice")
        entries[name] = entry
    if row_count and "open_time" not in entries:
        raise SegmentCorruptError(path, f"it has {row_count} bars without an open time")
    return ColumnTable(entries)


def _layout_of(name: str, entry: tuple[Any, ...]) -> ColumnLayout:
    _, _, encoding, least, most, crc32, offset, constant = entry
    return ColumnLayout(
        name=name,
        dtype=COLUMN_DTYPES[name],
        encoding=Encoding(encoding),
        decimals=None if most == UNKNOWN_DECIMALS else Decimals(least, most),
        crc32=crc32,
        offset=offset,
        constant=constant,
    )

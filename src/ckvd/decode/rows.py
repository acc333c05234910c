"""CSV bytes to arrays: twelve fields a row, three of them integers, nine of them decimal numbers.

`parse_line` is the reference parser: it reads one line with `int` and `float`, in a strict grammar, and says why it
refuses one. `RowParser` gives the same result faster: `ckvd.decode.block` reads thousands of rows at once, and the
reference parser reads the rows that are left.

A `RowParser` takes text as it comes, in pieces of any length, and parses it in blocks that stay in the processor's
cache. So a long text takes the memory of its columns and no more. Several texts can follow each other as if they
were one: numpy takes nearly as long for the rows of a day as for those of a month.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np
import numpy.typing as npt

from ckvd.concurrency.stopping import check_stop
from ckvd.decode.block import TEXT_MARGIN_NBYTES, read_block
from ckvd.decode.digits import bits_of_any
from ckvd.decode.workspace import Workspace
from ckvd.errors import ArchiveError
from ckvd.model.schema import FIELD_COUNT, FLOAT_FIELDS, INTEGER_FIELDS, QUOTE_FIELDS
from ckvd.model.table import Decimals
from ckvd.utils.config import ARCHIVE_LINE_NBYTES_MAX, TEXT_BLOCK_NBYTES

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ckvd.decode.block import Text
    from ckvd.model.table import Column, Times

_NEWLINE: Final = ord("\n")
_ONE: Final = np.array(1, dtype=np.uint64)
# A row has hardly fewer bytes, so texts have hardly more rows than by this.
_ROW_NBYTES_USUAL: Final = 100
_LINE_NBYTES_USUAL: Final = 400
_BLOCK_ROWS: Final = 8192
# A block costs some hundred numpy operations; fewer rows than this are faster one by one.
_BLOCK_ROWS_MIN: Final = 40
_INTEGER: Final = re.compile(rb"(-?)0*([0-9]{1,19})")
_DECIMAL: Final = re.compile(rb"-?[0-9]+(?:\.([0-9]+))?(?:[eE]([+-]?[0-9]{1,3}))?")
_INT64_MIN: Final = -(1 << 63)
_INT64_MAX: Final = (1 << 63) - 1
_TEXT_SHOWN: Final = 40
_HEADER_NBYTES_MAX: Final = 1000


@dataclass(frozen=True, slots=True, eq=False)
class RawRows:
    """Rows of numbers as they stand in a source, not checked in any other way.

    Attributes
    ----------
    cells : tuple of ndarray, each of shape (n,)
        The twelve fields, in order: int64 for `INTEGER_FIELDS`, float64 for `FLOAT_FIELDS`.
    decimals : tuple of Decimals
        For each of `FLOAT_FIELDS`, how its cells were written; 0 and 0 if there are no rows.
    has_header : bool
        Whether a header line came before the rows.
    """

    cells: tuple[Column, ...]
    decimals: tuple[Decimals, ...]
    has_header: bool

    @property
    def row_count(self) -> int:
        """The number of rows."""
        return len(self.cells[0])

    def line_of(self, row: int) -> int:
        """The line number of a row, counted from 1, the header included."""
        return row + 1 + self.has_header


# --- The reference parser ----------------------------------------------------------------------------------


def parse_line(line: bytes) -> tuple[list[int | float], list[Decimals | None]]:
    """Parse one row.

    Parameters
    ----------
    line : bytes
        Without its newline; a carriage return at its end is ignored.

    Returns
    -------
    list of int or float
        The twelve cells.
    list of Decimals or None
        How each was written; None for integers.

    Raises
    ------
    ValueError
        It is too long or does not have twelve fields, or a field is not a finite number, or not an integer where
        one is expected.
    """
    if len(line) > ARCHIVE_LINE_NBYTES_MAX:
        raise ValueError(
            f"expected a row, found a line of more than {ARCHIVE_LINE_NBYTES_MAX} bytes: {_shown(line)}"
        )
    texts = line.removesuffix(b"\r").split(b",")
    if len(texts) != FIELD_COUNT:
        raise ValueError(f"expected {FIELD_COUNT} fields, found {len(texts)}: {_shown(line)}")
    cells: list[int | float] = []
    decimals: list[Decimals | None] = []
    for field, text in enumerate(texts):
        try:
            cell, places = (parse_integer(text), None) if field in INTEGER_FIELDS else parse_decimal(text)
        except ValueError as error:
            raise ValueError(f"{QUOTE_FIELDS[field]}: {error}, found {_shown(text)}") from None
        cells.append(cell)
        decimals.append(None if places is None else Decimals(places, places))
    return cells, decimals


def parse_integer(text: bytes) -> int:
    """Parse an integer of 64 bits: decimal digits with an optional minus. Anything else is a ValueError."""
    match = _INTEGER.fullmatch(text)
    if match is None:
        raise ValueError("expected an integer")
    value = -int(match[2]) if match[1] else int(match[2])
    if not _INT64_MIN <= value <= _INT64_MAX:
        raise ValueError("expected an integer of 64 bits")
    return value


def parse_decimal(text: bytes) -> tuple[float, int]:
    """Parse a finite decimal number, and count the digits after its point when written without an exponent.

    Anything else is a ValueError.
    """
    match = _DECIMAL.fullmatch(text)
    if match is None:
        raise ValueError("expected a decimal number")
    value = float(text)
    if math.isinf(value):
        raise ValueError("expected a finite number")
    return value, max(0, len(match[1] or b"") - int(match[2] or 0))


def _shown(text: bytes) -> str:
    shown = repr(text[:_TEXT_SHOWN].decode("utf-8", "backslashreplace"))
    return shown if len(text) <= _TEXT_SHOWN else f"{shown}..."


# --- The fast parser ---------------------------------------------------------------------------------------


def parse_rows(csv: bytes | memoryview, label: str) -> RawRows:
    """Parse a CSV of klines.

    Parameters
    ----------
    csv : bytes or memoryview
        Rows of twelve fields, with or without a header line. The last newline may be missing or doubled.
    label : str
        What errors call the source.

    Returns
    -------
    RawRows
        What `parse_line` makes of each line: every float equals `float(text)` of its cell, bit for bit.

    Raises
    ------
    ArchiveError
        The header names the fields in another order, or `parse_line` refuses a line.
    """
    parser = RowParser(label, row_count=len(csv) // _ROW_NBYTES_USUAL)
    parser.feed(csv)
    parser.end_text()
    return parser.finish().whole


class ParsedTexts(NamedTuple):
    """The rows of all texts of a parser, and those of each, as views. Decimals are those of all texts together."""

    whole: RawRows
    each: Sequence[RawRows]


class RowParser:
    """Parses one text after another: `feed` with the pieces of a text, then `end_text`, and after all, `finish`.

    Any of these calls raises `ArchiveError` if the header names the fields in another order, or if `parse_line`
    refuses a line. If there are several texts, it does not tell which of them is refused: the caller finds out with
    a parser for each.

    Parameters
    ----------
    label : str
        What errors call the source.
    row_count : int
        How many rows are expected in all. If there are more, what was parsed is copied to a longer place.
    workspace : Workspace, optional
        That of the calling thread. Only one parser uses it at a time.

    Notes
    -----
    Text that is not parsed yet stands at the beginning of a block of fixed length. If the block is full, its rows
    are parsed, and what follows them moves to the beginning. The last line of a text that goes on stays: more of it
    may come, and at the end of a text a blank line is left out.
    """

    def __init__(self, label: str, *, row_count: int = 0, workspace: Workspace | None = None) -> None:
        workspace = workspace or Workspace()
        self._label = label
        self._parsing = workspace.parsing
        # A newline may be added behind the last byte.
        self._block = workspace.take(TEXT_BLOCK_NBYTES + 1 + TEXT_MARGIN_NBYTES)
        self._used = 0
        # One allocation for all columns: numpy asks for huge pages if it is large. Pages that no row needs are
        # never touched.
        self._columns = np.empty((FIELD_COUNT, row_count), dtype=np.int64)
        self._row_count = 0
        self._decimals: list[Decimals | None] = [None] * FIELD_COUNT
        # Where the present text continues in the block, and whether its header was looked for.
        self._start = 0
        self._is_header_due = True
        # Whether each text has a header. Where those that have ended do so: in the block, and in rows if parsed.
        self._headers = [False]
        self._ends: list[int] = []
        self._stops: list[int] = []

    def feed(self, piece: bytes | memoryview) -> None:
        """Take the next piece of the present text."""
        left = np.frombuffer(piece, np.uint8)
        while len(left):
            part = left[: TEXT_BLOCK_NBYTES - self._used]
            self._block[self._used : self._used + len(part)] = part
            self._used += len(part)
            left = left[len(part) :]
            if self._is_header_due and self._used - self._start >= _HEADER_NBYTES_MAX:
                self._take_out_header()
            if self._used == TEXT_BLOCK_NBYTES:
                self._parse_full()

    def end_text(self) -> None:
        """End the present text. What is fed next is another one."""
        if self._is_header_due:
            self._take_out_header()
        last = self._last_line()
        if bytes(self._block[last : self._used][:3]) in (b"\r", b"\n", b"\r\n"):
            self._used = last
        elif last < self._used and self._block[self._used - 1] != _NEWLINE:
            self._block[self._used] = _NEWLINE
            self._used += 1
        self._ends.append(self._used)
        if self._used > TEXT_BLOCK_NBYTES - _HEADER_NBYTES_MAX:
            self._parse(self._used)
        self._start = self._used
        self._headers.append(False)
        self._is_header_due = True

    def finish(self) -> ParsedTexts:
        """Parse what is left, and return the rows of all texts, as views of the same columns."""
        self._parse(self._used)
        columns = self._columns[:, : self._row_count]
        cells = tuple(
            column if field in INTEGER_FIELDS else column.view(np.float64) for field, column in enumerate(columns)
        )
        decimals = tuple(self._decimals[field] or Decimals(0, 0) for field in FLOAT_FIELDS)
        whole = RawRows(cells, decimals, self._headers[0])
        each = [
            RawRows(tuple(column[first:stop] for column in cells), decimals, has_header)
            for first, stop, has_header in zip((0, *self._stops), self._stops, self._headers, strict=False)
        ]
        return ParsedTexts(whole, each)

    def _take_out_header(self) -> None:
        self._is_header_due = False
        start, used = self._start, self._used
        nbytes = header_end(memoryview(self._block[start:used]), self._label)
        if nbytes:
            self._headers[-1] = True
            self._block[start : used - nbytes] = self._block[start + nbytes : used].copy()
            self._used -= nbytes

    def _last_line(self) -> int:
        """Where the last line of the present text begins, whole or not."""
        # Mostly it is short.
        for first in (max(self._start, self._used - _LINE_NBYTES_USUAL), self._start):
            found = bytes(self._block[first : max(first, self._used - 1)]).rfind(b"\n")
            if found >= 0:
                return first + found + 1
        return self._start

    def _parse_full(self) -> None:
        """Parse all lines of a full block but the last. If it is the only one, it is too long for a row."""
        last = self._last_line()
        if last == 0:
            self._parse_alone(0, TEXT_BLOCK_NBYTES, self._row_count)
        self._parse(last)

    def _parse(self, stop: int) -> None:
        """Parse the lines in the first bytes of the block, and move the rest to its beginning."""
        check_stop()
        with self._parsing:
            ends = _find_newlines(self._block[:stop])
            self._stops += (self._row_count + np.searchsorted(ends, self._ends)).tolist()
            self._ends = []
            self._require_room(len(ends))
            starts = np.empty_like(ends)
            starts[:1] = 0
            starts[1:] = ends[:-1] + 1
            for first in range(0, len(ends), _BLOCK_ROWS):
                self._parse_some(starts[first : first + _BLOCK_ROWS], ends[first : first + _BLOCK_ROWS])
        left = self._used - stop
        self._block[:left] = self._block[stop : self._used].copy()
        self._used = left
        self._start = 0

    def _require_room(self, row_count: int) -> None:
        needed = self._row_count + row_count
        if needed > self._columns.shape[1]:
            columns = np.empty((FIELD_COUNT, needed + needed // 2), dtype=np.int64)
            columns[:, : self._row_count] = self._columns[:, : self._row_count]
            self._columns = columns

    def _parse_some(self, starts: Times, ends: Times) -> None:
        row_count = self._row_count
        columns = self._columns[:, row_count : row_count + len(ends)]
        if len(ends) < _BLOCK_ROWS_MIN:
            unread: Sequence[int] = range(len(ends))
        else:
            found, places = read_block(self._block, starts, ends, columns)
            self._decimals = _merge(self._decimals, found)
            unread = places.tolist()
        for place in unread:
            self._parse_alone(int(starts[place]), int(ends[place]), row_count + place)
        self._row_count = row_count + len(ends)

    def _parse_alone(self, start: int, end: int, row: int) -> None:
        """Parse one line with the reference parser."""
        # Of a line that is too long for a row, no more is copied than shows that.
        line = bytes(self._block[start : min(end, start + ARCHIVE_LINE_NBYTES_MAX + 1)])
        try:
            values, found = parse_line(line)
        except ValueError as error:
            raise ArchiveError(self._label, str(error), row=row + 1 + self._headers[0]) from None
        self._decimals = _merge(self._decimals, found)
        for field, value in enumerate(values):
            cells = self._columns[field]
            (cells if field in INTEGER_FIELDS else cells.view(np.float64))[row] = value


def header_end(csv: bytes | memoryview, label: str) -> int:
    """Check the header, if there is one, and return where the rows begin.

    The first byte tells whether there is a header: rows do not begin with a letter.
    """
    if not bytes(csv[:1]).isalpha():
        return 0
    line, newline, _ = bytes(csv[:_HEADER_NBYTES_MAX]).partition(b"\n")
    names = line.decode("utf-8", "replace").strip().split(",")
    if len(names) != FIELD_COUNT or len(line) == _HEADER_NBYTES_MAX:
        raise ArchiveError(
            label, f"its header has {len(names)} fields, expected {FIELD_COUNT}: {_shown(line)}", row=1
        )
    for name, expected in zip(names, QUOTE_FIELDS, strict=True):
        # An unknown name may be a new one for the same field. A known name in another place means other columns.
        if name != expected and name in QUOTE_FIELDS:
            raise ArchiveError(label, f"its header has {name!r} where {expected!r} is expected", row=1)
    return len(line) + len(newline)


def _find_newlines(text: Text) -> Times:
    # Rounded up to whole words, for `_true_places`.
    is_newline = np.empty(len(text) + 7 & -8, dtype=np.bool_)
    np.equal(text, _NEWLINE, out=is_newline[: len(text)])
    is_newline[len(text) :] = False
    return _true_places(is_newline)


def _true_places(mask: npt.NDArray[np.bool_]) -> Times:
    """Find where a mask is true; fast if that is rare."""
    words = mask.view(np.uint64)
    marked = np.flatnonzero(words != 0)
    lowest = words[marked]
    # A word with a single byte of 1, minus 1, has all bits below that byte set, and no others.
    below = lowest - _ONE
    if bits_of_any(lowest & below):
        return np.flatnonzero(mask)  # some word has several
    places = marked << 3
    places += np.bitwise_count(below) >> 3
    return places


def _merge(known: Sequence[Decimals | None], found: Sequence[Decimals | None]) -> list[Decimals | None]:
    return [one | other if one and other else one or other for one, other in zip(known, found, strict=True)]

"""CSV bytes to arrays: twelve fields a row, three of them integers, nine of them decimal numbers.

`parse_line` is the reference parser: it reads one line with `int` and `float`, in a strict grammar, and says why it
refuses one. `parse_rows` gives the same result faster: `ckvd.decode.block` reads thousands of rows at once, and the
reference parser reads the rows that are left.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np
import numpy.typing as npt

from ckvd.concurrency.stopping import check_stop
from ckvd.decode.block import TEXT_MARGIN_NBYTES, read_block
from ckvd.decode.digits import bits_of_any
from ckvd.errors import ArchiveError
from ckvd.model.schema import FIELD_COUNT, FLOAT_FIELDS, INTEGER_FIELDS, QUOTE_FIELDS
from ckvd.model.table import Decimals
from ckvd.utils.config import ARCHIVE_LINE_NBYTES_MAX, PARSE_BLOCK_NBYTES

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ckvd.decode.block import Text
    from ckvd.model.table import Column, Times

_NEWLINE: Final = ord("\n")
_ONE: Final = np.array(1, dtype=np.uint64)
# The shortest row is twelve digits, eleven commas and a newline; most have six times as many bytes.
_ROW_NBYTES_MIN: Final = 24
_BLOCK_ROWS: Final = PARSE_BLOCK_NBYTES // 160
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


def parse_rows(csv: bytes | memoryview, label: str, *, ends: Times | None = None) -> RawRows:
    """Parse a CSV of klines.

    Parameters
    ----------
    csv : bytes or memoryview
        Rows of twelve fields, with or without a header line. The last newline may be missing or doubled.
    label : str
        What errors call the source.
    ends : ndarray of int64, shape (n,), optional
        The result of `find_line_ends`, if it is known already.

    Returns
    -------
    RawRows
        What `parse_line` makes of each line: every float equals `float(text)` of its cell, bit for bit.

    Raises
    ------
    ArchiveError
        The header names the fields in another order, or `parse_line` refuses a line.
    """
    begin = header_end(csv, label)
    has_header = begin > 0
    text = np.frombuffer(csv, np.uint8)
    ends = find_line_ends(csv, begin) if ends is None else ends
    starts = np.concatenate(([begin], ends + 1))[: len(ends)]
    # One allocation for all columns: numpy asks for huge pages if it is large.
    columns = np.empty((FIELD_COUNT, len(ends)), dtype=np.int64)
    cells = tuple(
        column if field in INTEGER_FIELDS else column.view(np.float64) for field, column in enumerate(columns)
    )
    decimals: list[Decimals | None] = [None] * FIELD_COUNT
    for first in range(0, len(ends), _BLOCK_ROWS):
        check_stop()
        rows = slice(first, first + _BLOCK_ROWS)
        found, unread = _parse_block(text, starts[rows], ends[rows], columns[:, rows])
        decimals = _merge(decimals, found)
        for row in unread.tolist():
            # Of a line that is too long for a row, no more is copied than shows that.
            end = min(ends[first + row], starts[first + row] + ARCHIVE_LINE_NBYTES_MAX + 1)
            line = bytes(csv[starts[first + row] : end])
            try:
                values, found = parse_line(line)
            except ValueError as error:
                raise ArchiveError(label, str(error), row=first + row + 1 + has_header) from None
            decimals = _merge(decimals, found)
            for column, value in zip(cells, values, strict=True):
                column[first + row] = value
    return RawRows(cells, tuple(decimals[field] or Decimals(0, 0) for field in FLOAT_FIELDS), has_header)


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


def find_line_ends(csv: bytes | memoryview, begin: int = 0) -> Times:
    """Find the newline of each row from `begin` on, or the end of the text if the last newline is missing.

    Returns
    -------
    ndarray of int64, shape (n,)
        Ascending. Of a text with more lines than it could have rows, only enough to include one that is no row.
    """
    text = np.frombuffer(csv, np.uint8)
    found = [np.empty(0, dtype=np.int64)]
    count = 0
    # Rounded up to whole words, for `_true_places`.
    is_newline = np.zeros(min(PARSE_BLOCK_NBYTES, len(text) + 7 & -8), dtype=np.bool_)
    for start in range(begin, len(text), PARSE_BLOCK_NBYTES):
        check_stop()
        chunk = text[start : start + PARSE_BLOCK_NBYTES]
        np.equal(chunk, _NEWLINE, out=is_newline[: len(chunk)])
        is_newline[len(chunk) :] = False
        found.append(_true_places(is_newline) + start)
        count += len(found[-1])
        if count > (start + len(chunk) - begin) // _ROW_NBYTES_MIN + 2:
            break  # too many lines for so few bytes: one will be refused, whatever follows
    ends = np.concatenate(found)
    if begin < len(text) and text[-1] != _NEWLINE:
        ends = np.append(ends, len(text))
    last_start = int(ends[-2]) + 1 if len(ends) > 1 else begin
    is_blank = len(ends) > 0 and bytes(text[last_start : ends[-1]][:2]) in (b"", b"\r")
    return ends[:-1] if is_blank else ends


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


def _parse_block(
    text: Text, starts: Times, ends: Times, columns: npt.NDArray[np.int64]
) -> tuple[list[Decimals | None], npt.NDArray[np.intp]]:
    """Call `read_block` with the margin that it needs. Of a short block, all rows are left unread."""
    if len(starts) < _BLOCK_ROWS_MIN:
        return [None] * FIELD_COUNT, np.arange(len(starts))
    begin, end = int(starts[0]), int(ends[-1])
    if len(text) < end + 1 + TEXT_MARGIN_NBYTES:
        margin = np.zeros(1 + TEXT_MARGIN_NBYTES, dtype=np.uint8)
        margin[0] = _NEWLINE
        text = np.concatenate((text[begin:end], margin))
        starts, ends = starts - begin, ends - begin
    return read_block(text, starts, ends, columns)


def _merge(known: Sequence[Decimals | None], found: Sequence[Decimals | None]) -> list[Decimals | None]:
    return [one | other if one and other else one or other for one, other in zip(known, found, strict=True)]

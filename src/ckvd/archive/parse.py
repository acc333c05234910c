"""CSV bytes to arrays: twelve fields a row, three of them integers, nine of them decimal numbers.

`parse_lines` is the definition: it reads one line after the other with `int` and `float`, in a strict grammar, and
says what it refuses. `parse_rows` gives the same answer faster: it hands blocks of whole lines to
`ckvd.archive.digits`, which reads thousands of rows at once, and gives to `parse_lines` whatever is unusual.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from ckvd.archive.digits import read_block
from ckvd.errors import ArchiveError
from ckvd.kline import FIELD_COUNT, FLOAT_FIELDS, INTEGER_FIELDS, Decimals
from ckvd.utils.config import PARSE_BLOCK_NBYTES

if TYPE_CHECKING:
    from ckvd.kline import Column

_NEWLINE: Final = b"\n"
_INTEGER: Final = re.compile(rb"(-?)0*([0-9]{1,19})")
_DECIMAL: Final = re.compile(rb"-?[0-9]+(?:\.([0-9]+))?(?:[eE]([+-]?[0-9]{1,3}))?")
_INT64_MIN: Final = -(1 << 63)
_INT64_MAX: Final = (1 << 63) - 1
_TEXT_SHOWN: Final = 40

# The first line of the archives that have a header. Coin-margined ones call base volumes quote volumes.
_FIELD_NAMES: Final = (
    "open_time", "open", "high", "low", "close", "volume", "close_time", "quote_volume", "count",
    "taker_buy_volume", "taker_buy_quote_volume", "ignore",
)  # fmt: skip


@dataclass(frozen=True, slots=True, eq=False)
class RawRows:
    """Rows as they stand in a source, before anything is checked but their grammar.

    Attributes
    ----------
    cells : tuple of ndarray, each of shape (n,)
        The twelve fields, in order: int64 for `INTEGER_FIELDS`, float64 for `FLOAT_FIELDS`.
    decimals : tuple of Decimals
        For each of `FLOAT_FIELDS`, how its cells were written; 0 and 0 where there are no rows.
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
        """The line that a row stands on, counted from 1 and including the header."""
        return row + 1 + self.has_header


def parse_rows(csv: bytes, archive: str) -> RawRows:
    """Parse a CSV of klines.

    Parameters
    ----------
    csv : bytes
        Rows of twelve fields, with or without a header line.
    archive : str
        What errors call it.

    Returns
    -------
    RawRows
        Every float equals `float(text)` of its cell, bit for bit.

    Raises
    ------
    ArchiveError
        A line has not twelve fields, or a field is no number, no integer where there should be one, or not finite.
    """
    position = _header_end(csv, archive)
    has_header = position > 0
    end = len(csv.rstrip(b"\r\n"))
    blocks: list[RawRows] = []
    row_count = 0
    while position < end:
        stop = _block_stop(csv, position, end)
        block = read_block(csv, position, stop)
        if block is None:
            rows = parse_lines(csv[position:stop], archive, first_line=row_count + 1 + has_header)
        else:
            rows = RawRows(*block, has_header=False)
        row_count += rows.row_count
        blocks.append(rows)
        position = stop
    return _join(blocks, has_header=has_header)


def _header_end(csv: bytes, archive: str) -> int:
    """Where the rows begin. Only the first byte tells whether there is a header: a row begins with a digit."""
    if not csv[:1].isalpha():
        return 0
    line, newline, _ = csv[:1000].partition(_NEWLINE)
    names = line.decode("utf-8", "replace").strip().split(",")
    if len(names) != FIELD_COUNT:
        reason = f"its header has {len(names)} fields, expected {FIELD_COUNT}: {line[:100]!r}"
        raise ArchiveError(archive, reason, row=1)
    for position, name in enumerate(names):
        if name in _FIELD_NAMES and name != _FIELD_NAMES[position]:
            reason = f"its header has {name!r} as field {position + 1}, expected {_FIELD_NAMES[position]!r}"
            raise ArchiveError(archive, reason, row=1)
    return len(line) + len(newline)


def _block_stop(csv: bytes, start: int, end: int) -> int:
    """The end of the last whole line of a block; of one line, however long, where none ends in the block."""
    if end - start <= PARSE_BLOCK_NBYTES:
        return len(csv) if csv.endswith(_NEWLINE) and end == len(csv) - 1 else end
    stop = csv.rfind(_NEWLINE, start, start + PARSE_BLOCK_NBYTES) + 1
    return stop or csv.find(_NEWLINE, start) + 1 or end


def _join(blocks: list[RawRows], *, has_header: bool) -> RawRows:
    if not blocks:
        dtypes = [np.int64 if field in INTEGER_FIELDS else np.float64 for field in range(FIELD_COUNT)]
        empty = tuple(np.empty(0, dtype=dtype) for dtype in dtypes)
        return RawRows(empty, (Decimals(0, 0),) * len(FLOAT_FIELDS), has_header)
    decimals = blocks[0].decimals
    for block in blocks[1:]:
        decimals = tuple(one | other for one, other in zip(decimals, block.decimals, strict=True))
    cells = tuple(np.concatenate([block.cells[field] for block in blocks]) for field in range(FIELD_COUNT))
    return RawRows(cells, decimals, has_header)


# --- The definition ----------------------------------------------------------------------------------------


def parse_lines(text: bytes, archive: str, *, first_line: int) -> RawRows:
    """Parse whole lines one by one.

    Parameters
    ----------
    text : bytes
        Lines that end with a newline, or a carriage return and a newline; the last one may end without.
    archive : str
        What errors call it.
    first_line : int
        The number of the first line.

    Raises
    ------
    ArchiveError
        See `parse_rows`.
    """
    lines = text.removesuffix(_NEWLINE).split(_NEWLINE)
    cells = tuple(
        np.empty(len(lines), dtype=np.int64 if field in INTEGER_FIELDS else np.float64)
        for field in range(FIELD_COUNT)
    )
    decimals: list[Decimals | None] = [None] * FIELD_COUNT
    for row, line in enumerate(lines):
        texts = line.removesuffix(b"\r").split(b",")
        if len(texts) != FIELD_COUNT:
            raise ArchiveError(
                archive, f"expected {FIELD_COUNT} fields, found {len(texts)}: {_shown(line)}", row=first_line + row
            )
        for field, cell in enumerate(texts):
            try:
                if field in INTEGER_FIELDS:
                    cells[field][row] = parse_integer(cell)
                else:
                    cells[field][row], digits = parse_decimal(cell)
                    found = Decimals(digits, digits)
                    known = decimals[field]
                    decimals[field] = found if known is None else known | found
            except ValueError as error:
                name = _FIELD_NAMES[field]
                reason = f"{name}: {error}, found {_shown(cell)}"
                raise ArchiveError(archive, reason, row=first_line + row) from None
    return RawRows(
        cells, tuple(known or Decimals(0, 0) for known in (decimals[f] for f in FLOAT_FIELDS)), has_header=False
    )


def parse_integer(text: bytes) -> int:
    """An integer of 64 bits, in decimal digits with an optional minus.

    Raises
    ------
    ValueError
        It is something else.
    """
    match = _INTEGER.fullmatch(text)
    if match is None:
        raise ValueError("expected an integer")
    value = int(match[2]) if not match[1] else -int(match[2])
    if not _INT64_MIN <= value <= _INT64_MAX:
        raise ValueError("expected an integer of 64 bits")
    return value


def parse_decimal(text: bytes) -> tuple[float, int]:
    """A finite decimal number, and how many digits stand behind its point once it is written without an exponent.

    Raises
    ------
    ValueError
        It is something else.
    """
    match = _DECIMAL.fullmatch(text)
    if match is None:
        raise ValueError("expected a decimal number")
    value = float(text)
    if value in (float("inf"), float("-inf")):
        raise ValueError("expected a finite number")
    return value, max(0, len(match[1] or b"") - int(match[2] or 0))


def _shown(text: bytes) -> str:
    shown = text[:_TEXT_SHOWN].decode("utf-8", "backslashreplace")
    return repr(shown) if len(text) <= _TEXT_SHOWN else f"{shown!r}..."

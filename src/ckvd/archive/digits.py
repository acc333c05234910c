"""Decimal digits eight at a time: thousands of rows of a CSV are read at once with the operations of numpy."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np
import numpy.typing as npt

from ckvd.kline import FIELD_COUNT, INTEGER_FIELDS, Decimals

if TYPE_CHECKING:
    from ckvd.kline import Column

Words = npt.NDArray[np.uint64]

_PAD: Final = 24
_COMMA, _POINT, _NEWLINE = b",.\n"
_MASKS: Final = np.array(
    [0] + [0x0F0F0F0F0F0F0F0F >> (8 * (8 - n)) << (8 * (8 - n)) for n in range(1, 9)], dtype=np.uint64
)
_EXACT_MAX: Final = 1 << 53


def read_block(  # noqa: C901, PLR0911  (one return for each way to be unusual)
    csv: bytes, start: int, stop: int
) -> tuple[tuple[Column, ...], tuple[Decimals, ...]] | None:
    """Read whole lines; None where they are unusual."""
    text = np.full(_PAD + stop - start, ord("0"), dtype=np.uint8)
    text[_PAD:] = np.frombuffer(csv, np.uint8, stop - start, start)
    if np.max(text) > 57 or text[-1] != _NEWLINE:
        return None
    marks = np.flatnonzero(text < 48)
    kinds = text[marks]
    row_count = int(np.count_nonzero(kinds == _NEWLINE))
    width, rest = divmod(len(marks), row_count)
    if rest:
        return None
    kinds = kinds.reshape(row_count, width)
    if not np.all(kinds == kinds[0]):
        return None
    columns = np.ascontiguousarray(marks.reshape(row_count, width).T)
    ends = np.flatnonzero(kinds[0] != _POINT)
    if len(ends) != FIELD_COUNT or np.any(kinds[0, ends[:-1]] != _COMMA) or kinds[0, -1] != _NEWLINE:
        return None
    words = np.ndarray((len(text) - 7,), np.uint64, text, strides=(1,))
    cells: list[Column] = []
    decimals: list[Decimals] = []
    begin = np.concatenate(([_PAD], columns[-1, :-1] + 1))
    previous = -1
    for field, mark in enumerate(ends.tolist()):
        end = columns[mark]
        points = mark - previous - 1
        previous = mark
        if field in INTEGER_FIELDS:
            if points:
                return None
            value = _integer(words, begin, end)
            if value is None:
                return None
            cells.append(value.view(np.int64))
        else:
            if points > 1:
                return None
            cell = _decimal(words, begin, end, columns[mark - 1] if points else None)
            if cell is None:
                return None
            cells.append(cell[0])
            decimals.append(Decimals(cell[1], cell[1]))
        begin = end + 1
    return tuple(cells), tuple(decimals)


def _integer(words: Words, begin: npt.NDArray[np.int64], end: npt.NDArray[np.int64]) -> Words | None:
    """The integers of 1 to 16 digits between two columns of positions."""
    nbytes = end - begin
    least, most = int(np.min(nbytes)), int(np.max(nbytes))
    if least < 1 or most > 16:
        return None
    low = _eight(words[end - 8] & _MASKS[np.minimum(nbytes, 8)])
    if most <= 8:
        return low
    high = _eight(words[end - 16] & _MASKS[np.maximum(nbytes - 8, 0)])
    return high * np.uint64(10**8) + low


def _decimal(
    words: Words, begin: npt.NDArray[np.int64], end: npt.NDArray[np.int64], point: npt.NDArray[np.int64] | None
) -> tuple[npt.NDArray[np.float64], int] | None:
    whole = _integer(words, begin, end if point is None else point)
    if whole is None:
        return None
    places = 0
    if point is not None:
        nbytes = end - point - 1
        places = int(nbytes[0])
        if not 1 <= places <= 8 or np.any(nbytes != places):
            return None
        if int(np.max(whole)) >= (1 << 63) // 10**places:
            return None
        whole = whole * np.uint64(10**places) + _eight(words[end - 8] & _MASKS[places])
    if int(np.max(whole)) >= _EXACT_MAX:
        return None
    return whole.view(np.int64) / 10.0**places, places


def _eight(digits: Words) -> Words:
    """The numbers that eight decimal digits make, the first one in the lowest byte."""
    pairs = (digits * np.uint64(2561) >> np.uint64(8)) & np.uint64(0x00FF00FF00FF00FF)
    fours = (pairs * np.uint64(6553601) >> np.uint64(16)) & np.uint64(0x0000FFFF0000FFFF)
    return fours * np.uint64(42949672960001) >> np.uint64(32)

"""Parsing a block of rows at once: each row has a cursor, and all cursors move from field to field together.

Numpy applies one operation to many values, so the rows of a block are parsed side by side. A *window* of text is
copied from each cursor, and fields are parsed out of it from left to right, eight characters at a time. While a
field has the same layout in all rows (times and prices mostly have), all cursors move by the same number. After a
field of varying width, each cursor moves by its own number, and new windows are copied.

The text is not trusted: every digit, point and separator is checked in every row. A row with anything else (a sign
before an integer, an exponent, too many digits, too few fields) is *left unread*, and the caller parses it with the
reference parser, `ckvd.decode.rows.parse_line`. In a row that is read, every cell equals `float(text)`: the digits
make an integer below 2**53, which is exactly a double; so is the power of ten that divides it; and one division
rounds once and correctly.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple, Self, TypeAlias

import numpy as np
import numpy.typing as npt

from ckvd.decode.digits import (
    BITS,
    DIGIT_BITS,
    DIGIT_VALUES,
    WORD_NBYTES,
    Mask,
    Words,
    bits_of_any,
    bits_of_each,
    count_digits,
    digits_after_point,
    largest,
    smallest,
    split_after_digits,
    split_alike,
    write_decimals,
    write_integers,
)
from ckvd.model.schema import FIELD_COUNT, INTEGER_FIELDS
from ckvd.model.table import Decimals, Times

if TYPE_CHECKING:
    from ckvd.decode.digits import Counts
    from ckvd.model.table import Column

Text: TypeAlias = npt.NDArray[np.uint8]

_COMMA, _MINUS, _POINT, _NEWLINE, _ZERO, _NINE = b",-.\n09"
# Fields that are read together if their layouts are alike: those of open, high, low and close mostly are.
_GROUPS: Final = (slice(0, 1), slice(1, 5), *(slice(field, field + 1) for field in range(5, FIELD_COUNT)))
# A field that is read with others has at most seven digits, a point, eight decimals and a separator.
_ALIKE_NBYTES_MAX: Final = 17
_WINDOW_NBYTES: Final = 48
# The first window holds the open time, the prices, and some of the volume.
_FIRST_WINDOW_NBYTES: Final = 112
# The cursor of a malformed row may move beyond it, in each field by a sign, 16 digits, a point, 8 decimals and a
# comma. A window is copied even then.
TEXT_MARGIN_NBYTES: Final = FIELD_COUNT * 27 + _FIRST_WINDOW_NBYTES
_LOW_BYTE: Final = np.array(0xFF, dtype=np.uint64)
# Masks that keep the first n characters of a word.
_FIRST_CHARACTERS: Final = np.array([(1 << 8 * count) - 1 for count in range(9)], dtype=np.uint64)


def read_block(
    text: Text, starts: Times, ends: Times, columns: npt.NDArray[np.int64]
) -> tuple[list[Decimals | None], npt.NDArray[np.intp]]:
    """Parse the rows of a block.

    Parameters
    ----------
    text : ndarray of uint8
        It continues for at least `TEXT_MARGIN_NBYTES` after the last row.
    starts, ends : ndarray of int64, shape (n,)
        Where each row begins, and where its newline is.
    columns : ndarray of int64, shape (12, n)
        The output: the twelve fields, decimal numbers as the bits of float64.

    Returns
    -------
    list of Decimals or None
        For each of the twelve fields, how its cells were written; None for integers, and if no row was read.
    ndarray of intp
        The rows that were left unread, ascending. Their cells are arbitrary.
    """
    rows = _Rows(text, starts)
    first, last = int(starts[0]), int(ends[-1])
    if largest(text[first:last], initial=0) > _NINE:
        too_high = np.flatnonzero(text[first:last] > _NINE) + first
        rows.unread[np.searchsorted(ends, too_high)] = True
    rows.ensure_windows(_FIRST_WINDOW_NBYTES)
    floats = columns.view(np.float64)
    decimals: list[Decimals | None] = []
    for group in _GROUPS:
        separator = _NEWLINE if group.stop == FIELD_COUNT else _COMMA
        if separator == _NEWLINE and rows.end_with_zero(ends):
            # The last field, `ignore`, has been a lone 0 for years.
            floats[group] = 0.0
            decimals.append(Decimals(0, 0))
            rows.skip(2)
            break
        if group.start in INTEGER_FIELDS:
            _read_integers(rows, separator, columns[group.start])
            decimals.append(None)
        elif group.stop - group.start > 1 and (alike := _read_alike(rows, separator, floats[group])):
            decimals += [alike] * (group.stop - group.start)
        else:
            decimals += [_read_decimals(rows, separator, out) for out in floats[group]]
    rows.unread |= rows.positions() != ends + 1
    unread = np.flatnonzero(rows.unread)
    return decimals if len(unread) < len(starts) else [None] * FIELD_COUNT, unread


class _Rows:
    """The cursors of a block and their windows.

    Attributes
    ----------
    unread : ndarray of bool, shape (n,)
        Rows that the caller has to parse.
    """

    def __init__(self, text: Text, starts: Times) -> None:
        self.unread = np.zeros(len(starts), dtype=np.bool_)
        self._text = text
        self._starts = starts.copy()
        self._windows = text  # a placeholder: the first windows are copied later
        self._nbytes = 0
        self._offset = 0

    def ensure_windows(self, nbytes: int) -> None:
        """Copy new windows, unless the present ones hold so many characters after each cursor."""
        if self._offset + nbytes > self._nbytes:
            self._starts += self._offset
            self._offset = 0
            self._nbytes = max(nbytes, _WINDOW_NBYTES)
            # Items of a void dtype are copied whole, at any alignment: one copy a row, however wide the window.
            shape = (len(self._text) - self._nbytes + 1,)
            self._windows = np.ndarray(shape, f"V{self._nbytes}", self._text, strides=(1,))[self._starts]

    def words(self, count: int, *, field_count: int = 1, pitch: int = 0) -> Words:
        """Copy the next words of text at each cursor.

        Parameters
        ----------
        count : int
            How many words a field.
        field_count, pitch : int
            How many fields, and how many characters from the beginning of one to that of the next.

        Returns
        -------
        ndarray of uint64, shape (count, field_count, n)
        """
        self.ensure_windows(pitch * (field_count - 1) + WORD_NBYTES * count)
        shape = (count, field_count, len(self._starts))
        strides = (WORD_NBYTES, pitch, self._nbytes)
        return np.ndarray(shape, np.uint64, self._windows, self._offset, strides).copy()

    def first_width(self) -> int:
        """The width of the next field in the first row; negative if it is wider than a window."""
        self.ensure_windows(_WINDOW_NBYTES)
        return bytes(self._windows[0].tobytes()).find(b",", self._offset) - self._offset

    def skip(self, count: int) -> None:
        """Move all cursors by the same number of characters."""
        self._offset += count

    def move(self, counts: Counts | Mask | int, more: int) -> None:
        """Move each cursor by its own number of characters, and all of them by `more`."""
        self._starts += counts
        self._starts += self._offset + more
        self._offset = self._nbytes = 0

    def positions(self) -> Times:
        """Where the cursors are."""
        return self._starts + self._offset

    def end_with_zero(self, ends: Times) -> bool:
        """Whether a single 0 is left of each row."""
        last = ends - 1
        return bool(np.all(self.positions() == last) and np.all(self._text[last] == _ZERO))

    def require_before(self, character: int) -> None:
        """Leave those rows unread that do not have this character before their cursor."""
        self.unread |= self._text[self.positions() - 1] != character


class _Overlay(NamedTuple):
    """The same stretch of text in many rows, laid on top of each other: which bits are set in each, and in any."""

    in_each: int
    in_any: int

    @classmethod
    def of(cls, words: Words) -> Self:
        """Lay the rows on top of each other. The words of a row follow each other along the first axis."""
        flat = words.reshape(len(words), -1)
        each: Words = bits_of_each(flat, axis=1)
        any_: Words = bits_of_any(flat, axis=1)
        return cls(int.from_bytes(each.tobytes(), "little"), int.from_bytes(any_.tobytes(), "little"))

    def count_digits(self, start: int) -> int:
        """Count the characters from `start` on that are digits in every row, up to the end of the stretch."""
        others = ~(self.in_each >> 8 * start) & DIGIT_BITS
        return ((others & -others).bit_length() - 1) // 8

    def has(self, character: int, place: int) -> bool:
        """Whether every row has this character at this place."""
        return self.in_each >> 8 * place & 0xFF == character == self.in_any >> 8 * place & 0xFF

    def count_used(self, start: int, count: int) -> int:
        """Of `count` digits from `start` on, count all up to the last one that is not 0 in every row."""
        values = self.in_any >> 8 * start & DIGIT_VALUES & ((1 << 8 * count) - 1)
        return (values.bit_length() + 7) // 8


class _Tail(NamedTuple):
    """What follows the digits before the point, if its layout is the same in all rows.

    Attributes
    ----------
    places : int
        Digits after the point, 0 to 8.
    used : int
        The same without the last ones that are 0 in every row.
    width : int
        Characters up to the separator, including the point.
    """

    places: int
    used: int
    width: int

    @classmethod
    def of(cls, words: Words, separator: int) -> Self | None:
        """Find the layout in two words of text; None if the rows differ in it, or if it is an unknown one."""
        overlay = _Overlay.of(words)
        places = overlay.count_digits(1) if overlay.has(_POINT, 0) else 0
        width = 1 + places if places else 0
        if places > WORD_NBYTES or not overlay.has(separator, width):
            return None
        return cls(places, overlay.count_used(1, places), width)


# --- Fields ------------------------------------------------------------------------------------------------


def _read_integers(rows: _Rows, separator: int, out: Column) -> None:
    words = rows.words(4)[:, 0]
    overlay = _Overlay.of(words[:3])
    count = overlay.count_digits(0)
    if not (0 < count <= 2 * WORD_NBYTES and overlay.has(separator, count)):
        counts, split = split_after_digits(words)
        write_integers(out, split[:-2])
        rows.unread |= (counts == 0) | (split[-2] & _LOW_BYTE != separator)
        rows.move(counts, 1)
        return
    if count <= WORD_NBYTES:
        digits = words[:1] << BITS[8 - count]
    else:
        digits = words[:2] << BITS[16 - count]
        digits[1] |= words[0] >> BITS[count - 8]
    write_integers(out, digits)
    rows.skip(count + 1)


def _read_alike(rows: _Rows, separator: int, out: Column) -> Decimals | None:
    """Read neighbouring decimal fields that all have the layout of the first field in the first row.

    `out` has shape (fields, n). If a layout differs, the result is None, and no cursor has moved.
    """
    pitch = rows.first_width() + 1
    if not 0 < pitch <= _ALIKE_NBYTES_MAX:
        return None
    words = rows.words(3, field_count=len(out), pitch=pitch)
    count = _Overlay.of(words[:1]).count_digits(0)
    tail = _write_alike(words, count, separator, out) if 0 < count < WORD_NBYTES else None
    if tail is None or count + tail.width + 1 != pitch:
        return None
    rows.skip(pitch * len(out))
    return Decimals(tail.places, tail.places)


def _write_alike(words: Words, count: int, separator: int, out: Column) -> _Tail | None:
    """Write decimals with `count` digits before the point, 1 to 7; None if the rest differs in layout."""
    split = split_alike(words, count)
    tail = _Tail.of(split[1:], separator)
    if tail is not None:
        fraction = digits_after_point(split[1], split[2], tail.used)
        write_decimals(out, split[:1], fraction, tail.used, count + tail.used)
    return tail


def _read_decimals(rows: _Rows, separator: int, out: Column) -> Decimals | None:
    """Read one decimal field, however it is written."""
    words = rows.words(4)[:, 0]
    overlay = _Overlay.of(words[:1])
    count = overlay.count_digits(0)
    if 0 < count < WORD_NBYTES and (overlay.has(_POINT, count) or overlay.has(separator, count)):
        tail = _write_alike(words[:3], count, separator, out)
        if tail is not None:
            rows.skip(count + tail.width + 1)
            return Decimals(tail.places, tail.places)
    counts, split = split_after_digits(words)
    minus: Mask | None = None
    if smallest(counts) == 0:
        minus = (counts == 0) & (split[-2] & _LOW_BYTE == _MINUS)
        rows.move(minus, 0)
        counts, split = split_after_digits(rows.words(4)[:, 0])
        rows.unread |= counts == 0
    tail = _Tail.of(split[-2:], separator)
    if tail is not None:
        fraction, used = digits_after_point(split[-2], split[-1], tail.used), tail.used
        decimals: Decimals | None = Decimals(tail.places, tail.places)
        rows.move(counts, tail.width + 1)
    else:
        has_point = split[-2] & _LOW_BYTE == _POINT
        fraction = digits_after_point(split[-2], split[-1], WORD_NBYTES)
        places = np.where(has_point, count_digits(fraction), np.uint8(0))
        fraction &= _FIRST_CHARACTERS.take(places)
        used = _Overlay.of(fraction[None]).count_used(0, WORD_NBYTES)
        rows.unread |= has_point & (places == 0)
        rows.move(counts + places + has_point, 1)
        rows.require_before(separator)
        read = places[~rows.unread]
        decimals = Decimals(int(np.min(read)), int(np.max(read))) if len(read) else None
    most = int(largest(counts)) + used
    if most > 16:  # the first digits do not fit into two words
        rows.unread |= counts > 16 - used
    rows.unread |= write_decimals(out, split[:-2], fraction, used, most)
    if minus is not None:
        np.negative(out, where=minus, out=out)
    return decimals

"""A block of rows, all read at the same time: one cursor a row, moved from field to field.

Numpy does one operation to many values, so the rows of a block are not read one after the other but side by side.
Every row has a cursor. A *window* of text is copied from each cursor, and fields are read out of it from left to
right, eight characters at a time. While a field is laid out alike in all rows (times and prices mostly are), the
cursors move by one number; after a field whose width differs, each moves by its own and takes a new window.

Nothing is assumed about the text: what is taken for a digit, a point or a separator is checked in every row. A row
with anything else (a sign before an integer, an exponent, too many digits, too few fields) is *left unread*, and
the caller reads it by the definition in `ckvd.decode.rows`. A row that is read has the value of `float(text)` in
every cell: its digits make an integer below 2**53, which is a double, and dividing that by a power of ten, which is
one as well, rounds once and correctly.
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
from ckvd.model.table import FIELD_COUNT, INTEGER_FIELDS, Decimals, Times

if TYPE_CHECKING:
    from ckvd.decode.digits import Counts
    from ckvd.model.table import Column

Text: TypeAlias = npt.NDArray[np.uint8]

_COMMA, _MINUS, _POINT, _NEWLINE, _ZERO, _NINE = b",-.\n09"
# Fields that are read together where they are alike: open, high, low and close mostly are.
_GROUPS: Final = (slice(0, 1), slice(1, 5), *(slice(field, field + 1) for field in range(5, FIELD_COUNT)))
# Up to seven digits, a point, eight decimals and a separator: what a field read with others may have.
_ALIKE_NBYTES_MAX: Final = 17
_WINDOW_NBYTES: Final = 48
# The first window holds open time and prices, and some of the volume.
_FIRST_WINDOW_NBYTES: Final = 112
# Cursors of rows that make no sense run on, by a sign, 16 digits, a point, 8 decimals and a comma a field, and have
# a window at the end.
TEXT_MARGIN_NBYTES: Final = FIELD_COUNT * 27 + _FIRST_WINDOW_NBYTES
_LOW_BYTE: Final = np.array(0xFF, dtype=np.uint64)
# Keeps the first n characters of a word.
_FIRST_CHARACTERS: Final = np.array([(1 << 8 * count) - 1 for count in range(9)], dtype=np.uint64)


def read_block(
    text: Text, starts: Times, ends: Times, columns: npt.NDArray[np.int64]
) -> tuple[list[Decimals | None], npt.NDArray[np.intp]]:
    """Read rows.

    Parameters
    ----------
    text : ndarray of uint8
        At least `TEXT_MARGIN_NBYTES` long after the last row.
    starts, ends : ndarray of int64, shape (n,)
        Where each row begins, and where its newline is.
    columns : ndarray of int64, shape (12, n)
        To be filled: the twelve fields, decimal numbers as the bits of float64.

    Returns
    -------
    list of Decimals or None
        For each of the twelve fields, how its cells were written; None for integers, and where no row was read.
    ndarray of intp
        The rows that were left unread, ascending. Their cells hold anything.
    """
    rows = _Rows(text, starts)
    first, last = int(starts[0]), int(ends[-1])
    if largest(text[first:last], initial=0) > _NINE:
        strange = np.flatnonzero(text[first:last] > _NINE) + first
        rows.unread[np.searchsorted(ends, strange)] = True
    rows.look(_FIRST_WINDOW_NBYTES)
    floats = columns.view(np.float64)
    decimals: list[Decimals | None] = []
    for group in _GROUPS:
        separator = _NEWLINE if group.stop == FIELD_COUNT else _COMMA
        if separator == _NEWLINE and rows.end_with_zero(ends):
            # The field to be ignored has been a lone 0 for years.
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
    """The cursors of a block, and the windows at them.

    Attributes
    ----------
    unread : ndarray of bool, shape (n,)
        Rows that were found to be unusual.
    """

    def __init__(self, text: Text, starts: Times) -> None:
        self.unread = np.zeros(len(starts), dtype=np.bool_)
        self._text = text
        self._starts = starts.copy()
        self._windows = text  # until there are some
        self._nbytes = 0
        self._offset = 0

    def look(self, nbytes: int) -> None:
        """Have windows that hold so many characters after each cursor."""
        if self._offset + nbytes > self._nbytes:
            self._starts += self._offset
            self._offset = 0
            self._nbytes = max(nbytes, _WINDOW_NBYTES)
            # Items without a type are copied whole, wherever they begin: one copy a row, however wide the window.
            shape = (len(self._text) - self._nbytes + 1,)
            self._windows = np.ndarray(shape, f"V{self._nbytes}", self._text, strides=(1,))[self._starts]

    def words(self, count: int, *, field_count: int = 1, pitch: int = 0) -> Words:
        """The next words of text at each cursor.

        Parameters
        ----------
        count : int
            How many words.
        field_count, pitch : int
            For so many fields, which begin so many characters after each other.

        Returns
        -------
        ndarray of uint64, shape (count, field_count, n)
        """
        self.look(pitch * (field_count - 1) + WORD_NBYTES * count)
        shape = (count, field_count, len(self._starts))
        strides = (WORD_NBYTES, pitch, self._nbytes)
        return np.ndarray(shape, np.uint64, self._windows, self._offset, strides).copy()

    def first_width(self) -> int:
        """How wide the next field of the first row is; below 0 if that is more than a window."""
        self.look(_WINDOW_NBYTES)
        return bytes(self._windows[0].tobytes()).find(b",", self._offset) - self._offset

    def skip(self, count: int) -> None:
        """Move all cursors by one number of characters."""
        self._offset += count

    def move(self, counts: Counts | Mask | int, more: int) -> None:
        """Move each cursor by its own number of characters, and all by some more."""
        self._starts += counts
        self._starts += self._offset + more
        self._offset = self._nbytes = 0

    def positions(self) -> Times:
        """Where the cursors are."""
        return self._starts + self._offset

    def end_with_zero(self, ends: Times) -> bool:
        """Whether in each row, nothing but a 0 is left."""
        last = ends - 1
        return bool(np.all(self.positions() == last) and np.all(self._text[last] == _ZERO))

    def require_before(self, character: int) -> None:
        """Leave rows unread whose cursor does not follow this character."""
        self.unread |= self._text[self.positions() - 1] != character


class _Shared(NamedTuple):
    """A stretch of text of many rows, laid over each other: bits set in each of them, and bits set in any."""

    in_each: int
    in_any: int

    @classmethod
    def of(cls, words: Words) -> Self:
        """Lay words over each other, which stand one after the other along the first axis."""
        flat = words.reshape(len(words), -1)
        each: Words = bits_of_each(flat, axis=1)
        some: Words = bits_of_any(flat, axis=1)
        return cls(int.from_bytes(each.tobytes(), "little"), int.from_bytes(some.tobytes(), "little"))

    def count_digits(self, start: int) -> int:
        """How many characters from `start` on are digits in each row. The end of the stretch ends them."""
        others = ~(self.in_each >> 8 * start) & DIGIT_BITS
        return ((others & -others).bit_length() - 1) // 8

    def has(self, character: int, place: int) -> bool:
        """Whether each row has this character at this place."""
        return self.in_each >> 8 * place & 0xFF == character == self.in_any >> 8 * place & 0xFF

    def count_used(self, start: int, count: int) -> int:
        """Of so many digits from `start` on, how many there are up to the last that is not 0 in every row."""
        values = self.in_any >> 8 * start & DIGIT_VALUES & ((1 << 8 * count) - 1)
        return (values.bit_length() + 7) // 8


class _Tail(NamedTuple):
    """What follows the digits before the point, where it is laid out alike in all rows.

    Attributes
    ----------
    places : int
        Digits after the point, 0 to 8.
    used : int
        How many of them are not 0 in every row.
    width : int
        Characters up to the separator, with the point.
    """

    places: int
    used: int
    width: int

    @classmethod
    def of(cls, words: Words, separator: int) -> Self | None:
        """Look at two words of text; None where it is not alike, or nothing that is known."""
        shared = _Shared.of(words)
        places = shared.count_digits(1) if shared.has(_POINT, 0) else 0
        width = 1 + places if places else 0
        if places > WORD_NBYTES or not shared.has(separator, width):
            return None
        return cls(places, shared.count_used(1, places), width)


# --- Fields ------------------------------------------------------------------------------------------------


def _read_integers(rows: _Rows, separator: int, out: Column) -> None:
    words = rows.words(4)[:, 0]
    shared = _Shared.of(words[:3])
    count = shared.count_digits(0)
    if not (0 < count <= 2 * WORD_NBYTES and shared.has(separator, count)):
        counts, pieces = split_after_digits(words)
        write_integers(out, pieces[:-2])
        rows.unread |= (counts == 0) | (pieces[-2] & _LOW_BYTE != separator)
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
    """Read decimal fields next to each other, all laid out as the first one in the first row; None if they are not.

    Parameters
    ----------
    rows : _Rows
    separator : int
        What follows each of them.
    out : ndarray of float64, shape (fields, n)
    """
    pitch = rows.first_width() + 1
    if not 0 < pitch <= _ALIKE_NBYTES_MAX:
        return None
    words = rows.words(3, field_count=len(out), pitch=pitch)
    count = _Shared.of(words[:1]).count_digits(0)
    if not 0 < count < WORD_NBYTES:
        return None
    pieces = split_alike(words, count)
    tail = _Tail.of(pieces[1:], separator)
    if tail is None or count + tail.width + 1 != pitch:
        return None
    write_decimals(
        out, pieces[:1], digits_after_point(pieces[1], pieces[2], tail.used), tail.used, count + tail.used
    )
    rows.skip(pitch * len(out))
    return Decimals(tail.places, tail.places)


def _read_decimals(rows: _Rows, separator: int, out: Column) -> Decimals | None:
    """Read one decimal field, however it is written."""
    words = rows.words(4)[:, 0]
    shared = _Shared.of(words[:1])
    count = shared.count_digits(0)
    if 0 < count < WORD_NBYTES and (shared.has(_POINT, count) or shared.has(separator, count)):
        pieces = split_alike(words[:3], count)
        tail = _Tail.of(pieces[1:], separator)
        if tail is not None:
            write_decimals(
                out, pieces[:1], digits_after_point(pieces[1], pieces[2], tail.used), tail.used, count + tail.used
            )
            rows.skip(count + tail.width + 1)
            return Decimals(tail.places, tail.places)
    counts, pieces = split_after_digits(words)
    minus: Mask | None = None
    if smallest(counts) == 0:
        minus = (counts == 0) & (pieces[-2] & _LOW_BYTE == _MINUS)
        rows.move(minus, 0)
        counts, pieces = split_after_digits(rows.words(4)[:, 0])
        rows.unread |= counts == 0
    tail = _Tail.of(pieces[-2:], separator)
    if tail is not None:
        fraction, used = digits_after_point(pieces[-2], pieces[-1], tail.used), tail.used
        decimals: Decimals | None = Decimals(tail.places, tail.places)
        rows.move(counts, tail.width + 1)
    else:
        has_point = pieces[-2] & _LOW_BYTE == _POINT
        fraction = digits_after_point(pieces[-2], pieces[-1], WORD_NBYTES)
        places = np.where(has_point, count_digits(fraction), np.uint8(0))
        fraction &= _FIRST_CHARACTERS.take(places)
        used = _Shared.of(fraction[None]).count_used(0, WORD_NBYTES)
        rows.unread |= has_point & (places == 0)
        rows.move(counts + places + has_point, 1)
        rows.require_before(separator)
        read = places[~rows.unread]
        decimals = Decimals(int(np.min(read)), int(np.max(read))) if len(read) else None
    most = int(largest(counts)) + used
    if most > 16:  # the first of them do not fit into two words
        rows.unread |= counts > 16 - used
    rows.unread |= write_decimals(out, pieces[:-2], fraction, used, most)
    if minus is not None:
        np.negative(out, where=minus, out=out)
    return decimals

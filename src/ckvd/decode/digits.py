"""Numbers from decimal digits, eight characters at a time: the same arithmetic on every word of an array.

A *word* is eight characters in a uint64, the first character in the lowest byte. A left shift therefore moves text
towards the end of the word, where the last digit of a number belongs. A shift by 64 bits or more gives zero: numpy
defines it so. A negative shift does too, because as an unsigned number it is huge.

Everything here works on arrays of words and knows nothing of rows. It needs the GIL only to start each operation.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, TypeAlias

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from collections.abc import Callable

    from ckvd.model.table import Column

Words: TypeAlias = npt.NDArray[np.uint64]
Mask: TypeAlias = npt.NDArray[np.bool_]
Counts: TypeAlias = npt.NDArray[np.uint8]

WORD_NBYTES: Final = 8
# Every integer up to here is exactly a double, so one division by an exact power of ten rounds correctly.
_EXACT_MAX: Final = 1 << 53
_POWERS_OF_TEN: Final = tuple(10.0**exponent for exponent in range(17))
# The number of bits in so many characters. Arrays without dimensions are the fastest operands for numpy.
BITS: Final = tuple(np.array(8 * count, dtype=np.uint64) for count in range(17))

# No character of a block is above '9'. Among those, exactly the digits have both of these bits set.
_DIGIT_BITS: Final = np.array(0x3030303030303030, dtype=np.uint64)
DIGIT_BITS: Final = int.from_bytes(b"0" * 4 * WORD_NBYTES)  # the same for four words
DIGIT_VALUES: Final = 0x0F0F0F0F0F0F0F0F
_DIGIT_VALUES: Final = np.array(DIGIT_VALUES, dtype=np.uint64)
_ONE: Final = np.array(1, dtype=np.uint64)
_E8: Final = 10**8

# Neighbouring lanes a and b become 10 a + b (bytes), 100 a + b (pairs) and 10 000 a + b (fours). A multiplication
# adds the lower lane, times its weight, to the higher one, and a shift moves the sum down. An overflow of a lane
# only reaches bits that the shift drops.
_JOIN_BYTES: Final = (np.array(10 << 8 | 1, dtype=np.uint16), np.array(8, dtype=np.uint16))
_JOIN_PAIRS: Final = (np.array(100 << 16 | 1, dtype=np.uint32), np.array(16, dtype=np.uint32))
_JOIN_FOURS: Final = np.array(10_000 << 32 | 1, dtype=np.uint64)

# The reductions below `np.max` and the like, without their overhead: a block makes dozens of such calls.
bits_of_each: Final[Callable[..., Any]] = np.bitwise_and.reduce
bits_of_any: Final[Callable[..., Any]] = np.bitwise_or.reduce
largest: Final[Callable[..., Any]] = np.maximum.reduce
smallest: Final[Callable[..., Any]] = np.minimum.reduce


def _values_of(words: Words) -> npt.NDArray[np.int32]:
    """Return the numbers that words of eight digits spell, as a view of `words`, which is overwritten.

    Zero bytes count as the digit 0.
    """
    np.bitwise_and(words, _DIGIT_VALUES, out=words)
    for lanes, (weights, width) in ((words.view(np.uint16), _JOIN_BYTES), (words.view(np.uint32), _JOIN_PAIRS)):
        np.multiply(lanes, weights, out=lanes)
        np.right_shift(lanes, width, out=lanes)
    np.multiply(words, _JOIN_FOURS, out=words)
    return words.view(np.int32)[..., 1::2]  # the higher half, in place of another shift


def count_digits(words: Words) -> Counts:
    """Count the digits that each word begins with: 0 to 8."""
    others = np.bitwise_and(words, _DIGIT_BITS)
    np.bitwise_xor(others, _DIGIT_BITS, out=others)
    # `others` has bits where a character is no digit. Subtracting 1 flips the lowest of them and all bits below it:
    # 8 n + 5 or 8 n + 6 bits after n digits, and all 64 bits if there are only digits.
    below = np.subtract(others, _ONE)
    np.bitwise_xor(below, others, out=below)
    counts = np.bitwise_count(below)
    return np.right_shift(counts, 3, out=counts)


# --- Splitting text where digits end, and writing the numbers ----------------------------------------------


def split_alike(words: Words, count: int) -> Words:
    """Split the text of all rows after the same number of characters.

    Parameters
    ----------
    words : ndarray of uint64, shape (3, ...)
    count : int
        1 to 7.

    Returns
    -------
    ndarray of uint64, shape (3, ...)
        The word that ends at the split, and the two words that begin there.
    """
    split: Words = words << BITS[8 - count]
    split[1:] |= words[:2] >> BITS[count]
    return split


def split_after_digits(words: Words) -> tuple[Counts, Words]:
    """Split the text of each row after the digits that it begins with.

    Parameters
    ----------
    words : ndarray of uint64, shape (4, n)

    Returns
    -------
    ndarray of uint8, shape (n,)
        How many digits there are, 0 to 16.
    ndarray of uint64, shape (3 or 4, n)
        One word that ends at the split (two if some row has more than eight digits), and the two words that begin
        there.
    """
    counts = count_digits(words[0])
    if largest(counts) == WORD_NBYTES:
        counts += count_digits(words[1]) * (counts == WORD_NBYTES)
    bits = counts.astype(np.uint64)
    bits <<= 3
    # Each result is made of two neighbouring words. Which two depends on where the row is split; the others are
    # shifted too far, to zero.
    if largest(counts) <= WORD_NBYTES:
        split: Words = words[:3] << BITS[8] - bits
        split[1:] |= words[:2] >> bits
    else:
        split = words << BITS[16] - bits
        split[1:] |= words[:3] << BITS[8] - bits
        split[1:] |= words[:3] >> bits - BITS[8]
        split[2:] |= words[:2] >> bits
    return counts, split


def digits_after_point(point: Words, beyond: Words, used: int) -> Words:
    """Return the characters after the point, at least `used` of them.

    Parameters
    ----------
    point, beyond : ndarray of uint64, shape (...)
        The word that begins with the point, and the word after it.
    used : int
        0 to 8.
    """
    fraction = point >> BITS[1]
    if used == WORD_NBYTES:
        fraction |= beyond << BITS[7]
    return fraction


def write_decimals(out: Column, whole: Words, fraction: Words, used: int, most: int) -> Mask | bool:
    """Write the numbers that digits before and after a point spell.

    Parameters
    ----------
    out : ndarray of float64, shape (...)
    whole : ndarray of uint64, shape (1 or 2, ...)
        The digits before the point, at the end of the words.
    fraction : ndarray of uint64, shape (...)
        The digits after the point, at the beginning of the word.
    used : int
        How many digits after the point count.
    most : int
        The largest number of digits before the point, plus `used`.

    Returns
    -------
    bool or ndarray of bool
        Whether a number has so many digits that it may be inexact.
    """
    digits = np.empty((1 if most <= WORD_NBYTES else 2, *fraction.shape), dtype=np.uint64)
    # Without the point: the digits before it move to the front, and those after it follow.
    np.right_shift(whole[-1], BITS[used], out=digits[-1])
    if used:
        digits[-1] |= fraction << BITS[8 - used]
    if len(digits) > 1:
        # The digits that moved out of the word at its front.
        np.left_shift(whole[-1], BITS[8 - used], out=digits[0])
        if len(whole) > 1:
            digits[0] |= whole[0] >> BITS[used]
    write_integers(out, digits)
    inexact: Mask | bool = out >= _EXACT_MAX if most > 15 else False  # 10**15 is less than 2**53
    if used:
        out /= _POWERS_OF_TEN[used]
    return inexact


def write_integers(out: Column, digits: Words) -> None:
    """Write the numbers that digits spell, at the end of one or two words each."""
    values = _values_of(digits)
    np.copyto(out, values[0])
    if len(values) > 1:
        out *= _E8
        out += values[1]

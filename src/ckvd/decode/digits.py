"""Decimal digits eight at a time: arithmetic on text that is the same for every machine word of a column.

A *word* is eight characters in an unsigned integer of 64 bits, the first character in the lowest byte. Shifting a
word to the left therefore moves its text towards the end of the word, where the last digit of a number belongs,
and shifting it by 64 bits or more leaves nothing of it: numpy defines that as zero. (So does an amount below zero,
which as an unsigned number is a huge one.)

Everything here works on arrays of words, knows nothing of rows, and holds the interpreter lock for no longer than
it takes to start each operation.
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
# Up to here every integer is a double, so that one division by an exact power of ten rounds correctly.
_EXACT_MAX: Final = 1 << 53
_POWERS_OF_TEN: Final = tuple(10.0**exponent for exponent in range(17))
# How many bits so many characters are. Operands without dimensions are the fastest that numpy takes.
BITS: Final = tuple(np.array(8 * count, dtype=np.uint64) for count in range(17))

# Of the characters that a block may hold (none is above '9'), exactly the digits have both of these bits.
_DIGIT_BITS: Final = np.array(0x3030303030303030, dtype=np.uint64)
DIGIT_BITS: Final = int.from_bytes(b"0" * 4 * WORD_NBYTES)  # the same for four words
DIGIT_VALUES: Final = 0x0F0F0F0F0F0F0F0F
_DIGIT_VALUES: Final = np.array(DIGIT_VALUES, dtype=np.uint64)
_ONE: Final = np.array(1, dtype=np.uint64)
_E8: Final = 10**8

# 10 a + b of neighbouring bytes, 100 a + b of neighbouring pairs, 10 000 a + b of neighbouring fours: a
# multiplication adds the lower lane, times its weight, to the higher one, and a shift brings that one down. What
# overflows a lane would only disturb bits that the shift drops.
_JOIN_BYTES: Final = (np.array(10 << 8 | 1, dtype=np.uint16), np.array(8, dtype=np.uint16))
_JOIN_PAIRS: Final = (np.array(100 << 16 | 1, dtype=np.uint32), np.array(16, dtype=np.uint32))
_JOIN_FOURS: Final = np.array(10_000 << 32 | 1, dtype=np.uint64)

# Reductions, called without the layers of `np.max` and its like: a block makes dozens of such calls.
bits_of_each: Final[Callable[..., Any]] = np.bitwise_and.reduce
bits_of_any: Final[Callable[..., Any]] = np.bitwise_or.reduce
largest: Final[Callable[..., Any]] = np.maximum.reduce
smallest: Final[Callable[..., Any]] = np.minimum.reduce


def _values_of(words: Words) -> npt.NDArray[np.int32]:
    """The numbers that words of eight digits spell.

    Parameters
    ----------
    words : ndarray of uint64, shape (..., n)
        Digits, or zero bytes in their place. It is overwritten.

    Returns
    -------
    ndarray of int32, shape (..., n)
        A view into `words`.
    """
    np.bitwise_and(words, _DIGIT_VALUES, out=words)
    for lanes, (weights, width) in ((words.view(np.uint16), _JOIN_BYTES), (words.view(np.uint32), _JOIN_PAIRS)):
        np.multiply(lanes, weights, out=lanes)
        np.right_shift(lanes, width, out=lanes)
    np.multiply(words, _JOIN_FOURS, out=words)
    return words.view(np.int32)[..., 1::2]  # the higher half, without shifting it down


def count_digits(words: Words) -> Counts:
    """How many of the characters of each word are digits before one is not: 0 to 8."""
    others = np.bitwise_and(words, _DIGIT_BITS)
    np.bitwise_xor(others, _DIGIT_BITS, out=others)
    # Of a word of non-digit bits, subtracting one flips the lowest and all below it: 8 n + 5 or 8 n + 6 bits after
    # n digits, or all 64 where there is nothing but digits.
    below = np.subtract(others, _ONE)
    np.bitwise_xor(below, others, out=below)
    counts = np.bitwise_count(below)
    return np.right_shift(counts, 3, out=counts)


# --- Where digits begin and end, and writing what they spell -----------------------------------------------


def split_alike(words: Words, count: int) -> Words:
    """Split text after its first 1 to 7 characters: the word that ends there, and the two that begin there.

    Parameters
    ----------
    words : ndarray of uint64, shape (3, ...)
    count : int

    Returns
    -------
    ndarray of uint64, shape (3, ...)
    """
    pieces: Words = words << BITS[8 - count]
    pieces[1:] |= words[:2] >> BITS[count]
    return pieces


def split_after_digits(words: Words) -> tuple[Counts, Words]:
    """Split the text of each row where its own leading digits end.

    Parameters
    ----------
    words : ndarray of uint64, shape (4, n)

    Returns
    -------
    ndarray of uint8, shape (n,)
        How many digits there are, 0 to 16.
    ndarray of uint64, shape (3 or 4, n)
        Words of text: one that ends with those digits (two where some row has more than eight digits), and the
        two that begin there.
    """
    counts = count_digits(words[0])
    if largest(counts) == WORD_NBYTES:
        counts += count_digits(words[1]) * (counts == WORD_NBYTES)
    bits = counts.astype(np.uint64)
    bits <<= 3
    # A piece of a row consists of parts of two words. Which ones depends on where the split is; those that do not
    # belong are shifted too far, and leave nothing.
    if largest(counts) <= WORD_NBYTES:
        pieces: Words = words[:3] << BITS[8] - bits
        pieces[1:] |= words[:2] >> bits
    else:
        pieces = words << BITS[16] - bits
        pieces[1:] |= words[:3] << BITS[8] - bits
        pieces[1:] |= words[:3] >> bits - BITS[8]
        pieces[2:] |= words[:2] >> bits
    return counts, pieces


def digits_after_point(point: Words, beyond: Words, used: int) -> Words:
    """The eight characters after the point, of which so many are used."""
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
        What stands before the point.
    fraction : ndarray of uint64, shape (...)
        What stands after it.
    used, most : int
        How many digits after the point are wanted, and how many digits there are in all at most.

    Returns
    -------
    bool or ndarray of bool
        Whether a number has so many digits that it may be inexact.
    """
    digits = np.empty((1 if most <= WORD_NBYTES else 2, *fraction.shape), dtype=np.uint64)
    # The digits before the point move to the left, and those after it follow them without the point.
    np.right_shift(whole[-1], BITS[used], out=digits[-1])
    if used:
        digits[-1] |= fraction << BITS[8 - used]
    if len(digits) > 1:
        # What left the word on the left.
        np.left_shift(whole[-1], BITS[8 - used], out=digits[0])
        if len(whole) > 1:
            digits[0] |= whole[0] >> BITS[used]
    write_integers(out, digits)
    inexact: Mask | bool = out >= _EXACT_MAX if most > 15 else False  # 10**15 is less than 2**53
    if used:
        out /= _POWERS_OF_TEN[used]
    return inexact


def write_integers(out: Column, digits: Words) -> None:
    """Write the numbers that one or two words of digits spell."""
    values = _values_of(digits)
    np.copyto(out, values[0])
    if len(values) > 1:
        out *= _E8
        out += values[1]

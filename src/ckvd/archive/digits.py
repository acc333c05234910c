"""Decimal digits eight at a time: the arithmetic on text that is the same for every machine word of a column.

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

Words: TypeAlias = npt.NDArray[np.uint64]
Counts: TypeAlias = npt.NDArray[np.uint8]

WORD_NBYTES: Final = 8
# Up to here every integer is a double, so that one division by an exact power of ten rounds correctly.
EXACT_MAX: Final = 1 << 53
POWERS_OF_TEN: Final = tuple(10.0**exponent for exponent in range(17))
# How many bits so many characters are. Operands without dimensions are the fastest that numpy takes.
BITS: Final = tuple(np.array(8 * count, dtype=np.uint64) for count in range(17))

# Of the characters that a block may hold (none is above '9'), exactly the digits have both of these bits.
_DIGIT_BITS: Final = np.array(0x3030303030303030, dtype=np.uint64)
DIGIT_BITS: Final = int.from_bytes(b"0" * 4 * WORD_NBYTES)  # the same for four words
DIGIT_VALUES: Final = 0x0F0F0F0F0F0F0F0F
_DIGIT_VALUES: Final = np.array(DIGIT_VALUES, dtype=np.uint64)
_ONE: Final = np.array(1, dtype=np.uint64)

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


def values_of(words: Words) -> npt.NDArray[np.int32]:
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

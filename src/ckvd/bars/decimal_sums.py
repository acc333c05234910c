"""Summing runs of rows, such as the minutes of each hour: `sum_runs`. Pure.

Sums are those of the published decimals. A price or volume is text with up to eight digits behind the point; adding
its binary approximations one after the other is wrong in the last digit half of the time. Three ways lead to the
sum of the decimals, or of the doubles where they are none, each tried where the one before does not reach:

1. A plain sum is rounded to whole 1e-8. While it is small, its errors are smaller than half of that, and what comes
   out is the decimal sum.
2. Where it is not, the cells are rounded to whole 1e-8 and added as integers, without an error.
3. Where what comes out does not agree with the plain sum, the cells are split into a coarse part that adds up
   exactly, and a rest that is too small to do harm.
"""

from __future__ import annotations

import math
from itertools import pairwise
from typing import TYPE_CHECKING, Final, TypeAlias, TypeVar, cast

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from ckvd.model.table import Column, Times

Floats: TypeAlias = npt.NDArray[np.float64]
Numbers = TypeVar("Numbers", np.float64, np.int64)

# Rows that are summed together: two megabytes, which stay in the processor's cache between two steps.
_BLOCK_ROWS: Final = 1 << 18
_DECIMAL_SCALE: Final = 10**8
# A double between 2**52 and 2**53 is a whole number, and its bits count up with it.
_WHOLE: Final = 2.0**52
_WHOLE_BITS: Final = int(np.float64(_WHOLE).view(np.int64))
_EXPONENT_MAX: Final = 1020
# How far a right sum may be from the plain one, as a share of it: more than adding 64 cells four at a time, or
# 2**18 in pairs of pairs, can be wrong by. What agrees by chance is off by that much twice at most.
_PLAIN_SUM_ERROR: Final = 32 * 2.0**-53
# `einsum` is up to twice as fast as `reduceat`, for many runs of one length; it does not add in pairs.
_EINSUM_ROWS_MAX: Final = 64
_EINSUM_RUNS_MIN: Final = 64


def sum_runs(column: Column, starts: Times, counts: Times) -> Column:
    """Sum runs of rows.

    Parameters
    ----------
    column : ndarray of int64 or float64, shape (n,)
    starts, counts : ndarrays of int64, shape (m,)
        Where each run starts and how many rows it has, at least one. A run starts where the one before ends, and
        the last ends with the column.

    Returns
    -------
    ndarray, shape (m,)
        Typed as the column. Sums of integers are exact. Of cells that are decimals of up to eight digits,
        not negative and below 2**25, it is the decimal sum, rounded to a double; of others the sum of the doubles,
        wrong by at most 64 * 2**-53 of the sum of their magnitudes, and mostly not at all.
    """
    if column.strides == (0,) and (column.dtype.kind == "i" or not column[0]):
        product: Column = column[starts] * counts
        return product
    if column.dtype.kind == "i":
        return _plain_sums(cast("Times", column), starts, counts)
    with np.errstate(over="ignore", invalid="ignore"):
        return _float_sums(cast("Floats", column), starts, counts)


def _plain_sums(values: npt.NDArray[Numbers], starts: Times, counts: Times) -> npt.NDArray[Numbers]:
    """Add the cells of each run, in any order; `_PLAIN_SUM_ERROR` is what that may be wrong by."""
    changes: list[int] = (np.flatnonzero(counts[1:] != counts[:-1]) + 1).tolist()
    if np.max(counts) > _EINSUM_ROWS_MAX or len(changes) > len(counts) // _EINSUM_RUNS_MIN:
        totals: npt.NDArray[Numbers] = np.add.reduceat(values, starts)
        return totals
    sums = np.empty(len(starts), values.dtype)
    for first, stop in pairwise((0, *changes, len(counts))):
        row, count = int(starts[first]), int(counts[first])
        rows = values[row : row + count * (stop - first)]
        np.einsum("ij->i", rows.reshape(-1, count), out=sums[first:stop])
    return sums


def _float_sums(values: Floats, starts: Times, counts: Times) -> Floats:
    plain = np.empty(len(starts))
    # Each cell is off its decimal by at most half a unit of its last bit, and so are each step of adding and the
    # scaling: all together by less than half of 1e-8, if the plain sum is no larger than this.
    small = _WHOLE / _DECIMAL_SCALE / (counts + 4)
    totals = np.zeros(len(starts), np.int64)
    ends = starts + counts
    # One buffer that stays in the processor's cache, instead of a fresh one for each block.
    buffer = np.empty(max(min(_BLOCK_ROWS, len(values)), int(np.max(counts))))
    first = 0
    while first < len(starts):
        row = int(starts[first])
        stop = max(first + 1, int(ends.searchsorted(row + _BLOCK_ROWS, side="right")))
        block, runs = values[row : ends[stop - 1]], (starts[first:stop] - row, counts[first:stop])
        plain[first:stop] = _plain_sums(block, *runs)
        if (np.abs(plain[first:stop]) > small[first:stop]).any():
            totals[first:stop] = _whole_sums(block, *runs, buffer[: len(block)])
        first = stop
    is_special = ~np.isfinite(plain)
    is_plain = (np.abs(plain) <= small) | is_special
    sums = np.where(is_plain, np.rint(plain * _DECIMAL_SCALE) / _DECIMAL_SCALE, _as_decimals(totals))
    is_right = (np.abs(sums - plain) <= _PLAIN_SUM_ERROR * np.abs(plain)) | is_special
    if not is_right.all():
        # Some cell was no decimal of eight digits, or too large a one.
        (wrong,) = np.nonzero(~is_right)
        rows, firsts = _rows_of_runs(starts[wrong], counts[wrong])
        sums[wrong] = _split_sums(values[rows], firsts, counts[wrong])
    return sums


def _whole_sums(values: Floats, starts: Times, counts: Times, buffer: Floats) -> Times:
    """Round decimals to whole 1e-8 and sum those exactly; wrong for anything else.

    A decimal below 2**25 is off by less than 0.2 of them as a double, and its multiple then by at most 0.25 more.
    """
    wholes = np.multiply(values, float(_DECIMAL_SCALE), out=buffer)
    # In this range a double holds whole numbers only, so that adding rounds to the number that was meant ...
    wholes += _WHOLE
    # ... and its bits, read as an integer, are that number and a constant. Integers add without an error.
    return _plain_sums(wholes.view(np.int64), starts, counts) - counts * _WHOLE_BITS


def _as_decimals(totals: Times) -> Floats:
    """Divide whole 1e-8 by 1e8, rounding once."""
    # One division does, while the number fits into a double; whole and rest do so but for rare ties.
    sums: Floats = totals / _DECIMAL_SCALE
    whole = np.rint(sums)
    rest = totals - whole.astype(np.int64) * _DECIMAL_SCALE
    return np.where(np.abs(totals) <= 2**53, sums, whole + rest / _DECIMAL_SCALE)


def _rows_of_runs(starts: Times, counts: Times) -> tuple[Times, Times]:
    """The rows of some runs, one after the other, and where each run starts among them."""
    ends = np.cumsum(counts)
    firsts = ends - counts
    return np.repeat(starts - firsts, counts) + np.arange(ends[-1]), firsts


def _split_sums(values: Floats, starts: Times, counts: Times) -> Floats:
    """Sum any doubles as if exactly, and round once.

    Each value is split without an error into a multiple of a power of two so large that the multiples of a run add
    up exactly in any order, and a rest so small that the errors of adding the rests do not show (Rump, Ogita and
    Oishi, Accurate floating-point summation, 2008). Values near the largest double leave no room for that.
    """
    highest = float(max(abs(np.max(values)), abs(np.min(values))))
    exponent = math.frexp(highest)[1] + math.frexp(int(np.max(counts)) + 2)[1]
    if exponent >= _EXPONENT_MAX:
        return _plain_sums(values, starts, counts)
    unit = math.ldexp(1.0, exponent)
    high = values + unit
    high -= unit
    sums = _plain_sums(high, starts, counts)
    sums += _plain_sums(values - high, starts, counts)
    return sums

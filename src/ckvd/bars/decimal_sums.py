"""Summing runs of consecutive rows, such as the minutes of each hour: `sum_runs`. Pure.

Sums are those of the published decimals. Prices and volumes are published with up to eight digits after the decimal
point. Adding them as doubles gives a wrong last digit half of the time. Three methods give the sum of the decimals,
or of the doubles if the cells are not such decimals. Each is used where the one before it fails:

1. The plain sum is rounded to a multiple of 1e-8. If the sum is small, its error is less than half of 1e-8, and the
   result is the decimal sum.
2. The cells are rounded to multiples of 1e-8 and added as integers, without an error.
3. If that differs from the plain sum, the cells are not such decimals. Each is split into a coarse part, which adds
   up exactly, and a remainder so small that its rounding errors do not matter.
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

# Rows that are summed together: two megabytes, which stay in the processor's cache from step to step.
_BLOCK_ROWS: Final = 1 << 18
_DECIMAL_SCALE: Final = 10**8
# Doubles between 2**52 and 2**53 are integers, and consecutive ones have consecutive bit patterns.
_WHOLE: Final = 2.0**52
_WHOLE_BITS: Final = int(np.float64(_WHOLE).view(np.int64))
_EXPONENT_MAX: Final = 1020
# The largest difference between a right sum and the plain sum, relative to the plain sum. It is more than the error
# of adding 64 cells four at a time, or 2**18 cells pairwise. A wrong sum that passes this test by chance is off by
# at most twice as much.
_PLAIN_SUM_ERROR: Final = 32 * 2.0**-53
# For many runs of one length, `einsum` is up to twice as fast as `reduceat`. It does not add pairwise.
_EINSUM_ROWS_MAX: Final = 64
_EINSUM_RUNS_MIN: Final = 64


def sum_runs(column: Column, starts: Times, counts: Times) -> Column:
    """Sum runs of rows.

    Parameters
    ----------
    column : ndarray of int64 or float64, shape (n,)
    starts, counts : ndarrays of int64, shape (m,)
        The first row of each run, and its number of rows, at least one. Each run starts where the run before it
        ends, and the last run ends with the column.

    Returns
    -------
    ndarray, shape (m,)
        With the dtype of the column. Sums of integers are exact. For cells that are decimals of up to eight digits
        after the point, not negative and below 2**25, it is the decimal sum, rounded to a double. For other cells
        it is the sum of the doubles, with an error of at most 64 * 2**-53 of the sum of their magnitudes, mostly
        none.
    """
    if column.strides == (0,) and (column.dtype.kind == "i" or not column[0]):
        product: Column = column[starts] * counts
        return product
    if column.dtype.kind == "i":
        return _plain_sums(cast("Times", column), starts, counts)
    with np.errstate(over="ignore", invalid="ignore"):
        return _float_sums(cast("Floats", column), starts, counts)


def _plain_sums(values: npt.NDArray[Numbers], starts: Times, counts: Times) -> npt.NDArray[Numbers]:
    """Add the cells of each run, in any order. `_PLAIN_SUM_ERROR` bounds the relative error."""
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
    # Each cell differs from its decimal by at most half a unit in the last place. Each addition and the scaling add
    # as much. The total error is less than half of 1e-8 if the plain sum is at most this.
    small = _WHOLE / _DECIMAL_SCALE / (counts + 4)
    totals = np.zeros(len(starts), np.int64)
    ends = starts + counts
    # One buffer for all blocks stays in the processor's cache.
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
        # These runs have cells with more than eight digits, or too large ones.
        (wrong,) = np.nonzero(~is_right)
        rows, firsts = _rows_of_runs(starts[wrong], counts[wrong])
        sums[wrong] = _split_sums(values[rows], firsts, counts[wrong])
    return sums


def _whole_sums(values: Floats, starts: Times, counts: Times, buffer: Floats) -> Times:
    """Round cells to multiples of 1e-8 and sum those exactly. Wrong if a cell has more digits, or is 2**25 or more.

    Below 2**25, the double nearest to a decimal differs from it by less than 0.2 * 1e-8. Scaling adds an error of
    at most 0.25 * 1e-8, so that the sum of both is rounded away.
    """
    wholes = np.multiply(values, float(_DECIMAL_SCALE), out=buffer)
    # In this range doubles are integers, so the addition rounds to the multiple of the decimal.
    wholes += _WHOLE
    # The bits, read as an integer, are that multiple plus a constant. Integers add without an error.
    return _plain_sums(wholes.view(np.int64), starts, counts) - counts * _WHOLE_BITS


def _as_decimals(totals: Times) -> Floats:
    """Divide multiples of 1e-8 by 1e8, rounding only once."""
    # One division rounds once if the number fits into a double. Otherwise the sum of whole part and rest is rounded
    # once, except for rare ties.
    sums: Floats = totals / _DECIMAL_SCALE
    whole = np.rint(sums)
    rest = totals - whole.astype(np.int64) * _DECIMAL_SCALE
    return np.where(np.abs(totals) <= 2**53, sums, whole + rest / _DECIMAL_SCALE)


def _rows_of_runs(starts: Times, counts: Times) -> tuple[Times, Times]:
    """The rows of some runs, one run after the other, and the first position of each run among them."""
    ends = np.cumsum(counts)
    firsts = ends - counts
    return np.repeat(starts - firsts, counts) + np.arange(ends[-1]), firsts


def _split_sums(values: Floats, starts: Times, counts: Times) -> Floats:
    """Sum any doubles almost exactly, and round once.

    Each value is split without an error into a multiple of a power of two and a remainder. The power is so large
    that the multiples of a run add up exactly in any order, and the remainders are so small that the errors of
    adding them do not matter (Rump, Ogita and Oishi, Accurate floating-point summation, 2008). Values near the
    largest double are added plainly, because the power of two would overflow.
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

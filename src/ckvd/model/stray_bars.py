"""Bars of another interval among those of a series: `interval_fault`, the one rule for archives and for REST. Pure.

Bars tell their interval twice: by their length, from open to close, and by their distance from each other. The real
archives that ckvd was tested with have 13 odd lengths in 1.4 million bars, none of them the length of another
interval, and one bar that opens too soon after the bar before. Neither measure needs to know where the grid of the
interval begins, so the phase of `3d` bars and bars off the grid after a halt do not matter.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from ckvd.model.grid import regular_close_times
from ckvd.model.market import DAY_MS, Interval

if TYPE_CHECKING:
    import numpy.typing as npt

    from ckvd.model.table import Times

# More bars than these with the length of another interval, in all or as a share, are no coincidence. A bar that a
# halt cuts short has that length, to the millisecond, by accident only.
_OTHER_LENGTHS_MAX: Final = 4
_OTHER_LENGTHS_SHARE_MAX: Final = 1 / 4
# After a halt, bars have been off their grid, and the last of them opened in the middle of the next regular bar.
_CROWDED_BARS_MAX: Final = 16
# Of two intervals that follow on each other, the shorter is at most three quarters of the longer (6h and 8h).
_CROWDED_SHARE: Final = 3 / 4
_SHORTEST_MONTH_MS: Final = 28 * DAY_MS


def interval_fault(opens_ms: Times, closes_ms: Times, interval: Interval) -> str | None:
    """Why bars are not of an interval; None if they are, apart from a few.

    Parameters
    ----------
    opens_ms, closes_ms : ndarray of int64, shape (n,)
        Milliseconds, strictly ascending by open time: of duplicates, one.
    interval : Interval
        Which bars they should be.

    Returns
    -------
    str or None
        What was expected and found, naming the interval that the bars look like.
    """
    like, count = _find_other_lengths(opens_ms, closes_ms, interval)
    if like is not None and (count > _OTHER_LENGTHS_MAX or count > _OTHER_LENGTHS_SHARE_MAX * len(opens_ms)):
        return f"expected {interval} bars, found {count} of {len(opens_ms)} bars that are as long as {like} bars"
    steps_ms = opens_ms[1:] - opens_ms[:-1]
    is_crowded = steps_ms <= int(_CROWDED_SHARE * (interval.fixed_ms or _SHORTEST_MONTH_MS))
    count = int(np.count_nonzero(is_crowded))
    if count <= _CROWDED_BARS_MAX:
        return None
    like = _interval_as_long_as(_most_frequent(steps_ms[is_crowded]))
    return (
        f"expected {interval} bars, found {count} of {len(opens_ms)} bars that open too soon after the bar before"
        + (f", as {like} bars do" if like is not None else "")
    )


def _find_other_lengths(opens_ms: Times, closes_ms: Times, interval: Interval) -> tuple[Interval | None, int]:
    """The other interval that most bars are as long as, and the number of bars as long as any other interval."""
    is_odd = ~_is_as_long_as(opens_ms, closes_ms, interval)
    if not is_odd.any():
        return None, 0
    opens_ms, closes_ms = opens_ms[is_odd], closes_ms[is_odd]
    others = (other for other in Interval if other is not interval)
    counts = {other: int(np.count_nonzero(_is_as_long_as(opens_ms, closes_ms, other))) for other in others}
    like = max(counts, key=lambda other: counts[other])
    return like if counts[like] else None, sum(counts.values())


def _is_as_long_as(opens_ms: Times, closes_ms: Times, interval: Interval) -> npt.NDArray[np.bool_]:
    is_so_long: npt.NDArray[np.bool_] = closes_ms == regular_close_times(opens_ms, interval)
    if interval.fixed_ms is None:
        # The last bar of any interval closes with the month.
        is_so_long &= closes_ms - opens_ms >= _SHORTEST_MONTH_MS - 1
    return is_so_long


def _most_frequent(values: Times) -> int:
    found, counts = np.unique(values, return_counts=True)
    return int(found[np.argmax(counts)])


def _interval_as_long_as(length_ms: int) -> Interval | None:
    return next((interval for interval in Interval if interval.fixed_ms == length_ms), None)

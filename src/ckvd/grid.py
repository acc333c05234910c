"""The bar grid: where regular bars of an interval open. Pure.

That is at multiples of the interval since the epoch, on Mondays for weeks, on the first of the month for months.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from ckvd.market import DAY_MS, Interval
from ckvd.period import month_start_ms, months_of, next_month_ms

if TYPE_CHECKING:
    import numpy.typing as npt

    from ckvd.timespan import Span

# 1970-01-01 was a Thursday; weekly bars open on Mondays.
_FIRST_MONDAY_MS: Final = 4 * DAY_MS


def grid_floor(moment_ms: int, interval: Interval) -> int:
    """The last grid point at or before a moment."""
    step_ms = interval.fixed_ms
    if step_ms is None:
        return month_start_ms(moment_ms)
    origin_ms = grid_origin_ms(interval)
    return (moment_ms - origin_ms) // step_ms * step_ms + origin_ms


def grid_next(open_ms: int, interval: Interval) -> int:
    """The grid point after the one at or before a moment: where the bar that holds the moment ends."""
    step_ms = interval.fixed_ms
    return next_month_ms(open_ms) if step_ms is None else grid_floor(open_ms, interval) + step_ms


def grid_ceil(moment_ms: int, interval: Interval) -> int:
    """The first grid point at or after a moment."""
    floor_ms = grid_floor(moment_ms, interval)
    return floor_ms if floor_ms == moment_ms else grid_next(floor_ms, interval)


def grid_origin_ms(interval: Interval) -> int:
    """A grid point that all others are a whole number of (fixed) intervals away from."""
    return _FIRST_MONDAY_MS if interval is Interval.W1 else 0


def grid_opens(span: Span, interval: Interval) -> npt.NDArray[np.int64]:
    """Every grid point in a span, as int64 milliseconds, ascending."""
    step_ms = interval.fixed_ms
    if step_ms is None:
        opens = [period.start_ms for period in months_of(span) if period.start_ms in span]
        return np.array(opens, dtype=np.int64)
    return np.arange(grid_ceil(span.start_ms, interval), span.end_ms, step_ms, dtype=np.int64)


def grid_count(span: Span, interval: Interval) -> int:
    """How many grid points a span holds."""
    step_ms = interval.fixed_ms
    if step_ms is None:
        return sum(period.start_ms in span for period in months_of(span))
    return max(0, -((grid_ceil(span.start_ms, interval) - span.end_ms) // step_ms))


def grid_index(moments_ms: npt.NDArray[np.int64], interval: Interval) -> npt.NDArray[np.int64]:
    """Number the cells of the grid: neighbouring cells differ by one. All moments of a cell have its number."""
    step_ms = interval.fixed_ms
    if step_ms is None:
        return moments_ms.astype("datetime64[ms]").astype("datetime64[M]").astype(np.int64)
    return (moments_ms - grid_origin_ms(interval)) // step_ms


def grid_point(index: int, interval: Interval) -> int:
    """Where a cell of the grid starts: the inverse of `grid_index`."""
    step_ms = interval.fixed_ms
    if step_ms is None:
        return int(np.datetime64(index, "M").astype("datetime64[ms]").astype(np.int64))
    return index * step_ms + grid_origin_ms(interval)


def grid_floors(opens_ms: npt.NDArray[np.int64], interval: Interval) -> npt.NDArray[np.int64]:
    """`grid_floor` of each of many moments."""
    step_ms = interval.fixed_ms
    if step_ms is None:
        months = opens_ms.astype("datetime64[ms]").astype("datetime64[M]")
        return months.astype("datetime64[ms]").astype(np.int64)
    origin_ms = grid_origin_ms(interval)
    return opens_ms - (opens_ms - origin_ms) % step_ms


def regular_close_times(opens_ms: npt.NDArray[np.int64], interval: Interval) -> npt.NDArray[np.int64]:
    """The last millisecond of each bar if it is regular: an interval after its open, less one."""
    step_ms = interval.fixed_ms
    if step_ms is not None:
        return opens_ms + (step_ms - 1)
    months = opens_ms.astype("datetime64[ms]").astype("datetime64[M]") + np.timedelta64(1, "M")
    return months.astype("datetime64[ms]").astype(np.int64) - 1

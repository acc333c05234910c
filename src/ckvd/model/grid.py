"""The grid of bars: `Grid`, where the bars of a series open, and which of them are closed. Pure.

Regular bars open at multiples of their interval since the epoch; bars of a week open on Mondays, bars of a month on
the first. Only bars of three days have no such rule: they open on the day of the listing and on every third day
after it, and the exchange has changed this phase of whole markets. So the grid of 3d bars is a series' own, and is
taken from its bars (`Grid.of_bars`). Where no bar tells the phase it is unknown, and never guessed.

Events, such as the settlements of funding rates, may happen at any millisecond. Their grid is that of milliseconds,
and none is expected at any of them: what is missing among events is not told by a grid.

All times are integer milliseconds since 1970-01-01 UTC.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from itertools import groupby, pairwise
from typing import TYPE_CHECKING, Final

import numpy as np

from ckvd.model.calendar import FIRST_MONDAY_MS, month_start_ms, months_of, next_month_ms
from ckvd.model.market import DAY_MS, MINUTE_MS, Interval
from ckvd.model.timespan import Span

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy.typing as npt

_THREE_DAYS_MS: Final = 3 * DAY_MS
# Settlements carry times up to some 30 ms after the hour, and appear at once. This is generous.
_EVENTS_PUBLISHED_WITHIN_MS: Final = 10 * MINUTE_MS


@dataclass(frozen=True, slots=True)
class Grid:
    """The open times of the bars of one interval: the points of the grid. Neighbouring points bound a slot.

    `Grid.of` gives that of an interval, `Grid.of_bars` that of a series. Methods that need the phase raise
    ValueError where it is unknown.

    Attributes
    ----------
    interval : Interval or None
        None for events.
    anchors_ms : tuple of int
        Points from which others are a whole number of intervals away: those before the second anchor from the
        first, then those before the third from the second, and so on. The slot before a later anchor may be short.
        Empty for months, which follow the calendar, and for 3d bars of an unknown phase.
    """

    interval: Interval | None
    anchors_ms: tuple[int, ...]

    @staticmethod
    @cache
    def of(interval: Interval | None) -> Grid:
        """The grid of an interval. Of 3d bars the phase is unknown: see `of_bars`."""
        if interval in (Interval.D3, Interval.MO1):
            return Grid(interval, ())
        return Grid(interval, (FIRST_MONDAY_MS if interval is Interval.W1 else 0,))

    @staticmethod
    def of_bars(interval: Interval | None, open_time: npt.NDArray[np.int64]) -> Grid:
        """The grid of a series, by its bars. Only of 3d bars it depends on them.

        A bar that does not open at midnight says nothing about the phase. A single bar out of phase between others
        is off the grid. Two or more, and the first or last bar by itself, are a change: the phase that holds before
        or after them may continue beyond the bars that are known.

        Parameters
        ----------
        interval : Interval or None
        open_time : ndarray of int64
            Milliseconds, ascending.
        """
        if interval is not Interval.D3:
            return Grid.of(interval)
        return Grid(interval, _anchors_of(open_time[open_time % DAY_MS == 0].tolist()))

    @property
    def step_ms(self) -> int | None:
        """The length of a slot; None for months. An event fills its millisecond."""
        return 1 if self.interval is None else self.interval.fixed_ms

    @property
    def is_of_events(self) -> bool:
        """Whether nothing is expected at the points."""
        return self.interval is None

    @property
    def is_known(self) -> bool:
        """Whether the phase is known. Only that of 3d bars may not be."""
        return bool(self.anchors_ms) or self.interval is not Interval.D3

    # --- One moment ---

    def floor(self, moment_ms: int) -> int:
        """The last point at or before a moment."""
        step_ms = self.step_ms
        if step_ms is None:
            return month_start_ms(moment_ms)
        anchor_ms = self._anchor_ms(moment_ms)
        return (moment_ms - anchor_ms) // step_ms * step_ms + anchor_ms

    def next(self, moment_ms: int) -> int:
        """The first point after a moment: the end of the slot that contains the moment."""
        step_ms = self.step_ms
        if step_ms is None:
            return next_month_ms(moment_ms)
        end_ms = self.floor(moment_ms) + step_ms
        return min([end_ms, *(anchor_ms for anchor_ms in self.anchors_ms[1:] if anchor_ms > moment_ms)])

    def ceil(self, moment_ms: int) -> int:
        """The first point at or after a moment."""
        floor_ms = self.floor(moment_ms)
        return floor_ms if floor_ms == moment_ms else self.next(moment_ms)

    def slot(self, open_ms: int) -> Span:
        """The slot that a bar fills. Where the phase is unknown, the three days from the midnight before it."""
        if not self.is_known:
            midnight_ms = open_ms // DAY_MS * DAY_MS
            return Span(midnight_ms, midnight_ms + _THREE_DAYS_MS)
        return Span(self.floor(open_ms), self.next(open_ms))

    def closed_end(self, now_ms: int) -> int:
        """A moment before which all bars open that are closed at `now_ms`, and no other bar.

        Of 3d bars it is the midnight after the open of the last closed bar. A bar of three days is closed when
        three days have passed, so that an unknown phase, or one that changes, lets no forming bar in and leaves no
        closed bar out. Events count as closed when the exchange has surely published them.
        """
        if self.interval is None:
            return (now_ms - _EVENTS_PUBLISHED_WITHIN_MS) // MINUTE_MS * MINUTE_MS
        if self.interval is not Interval.D3:
            return self.floor(now_ms)
        end_ms = (now_ms - _THREE_DAYS_MS) // DAY_MS * DAY_MS + DAY_MS
        return self.floor(end_ms - 1) + DAY_MS if self.is_known else end_ms

    def _anchor_ms(self, moment_ms: int) -> int:
        """The anchor that the points at and before a moment follow."""
        anchors_ms = self._known_anchors_ms()
        if len(anchors_ms) == 1:
            return anchors_ms[0]
        return max((one for one in anchors_ms if one <= moment_ms), default=anchors_ms[0])

    def _known_anchors_ms(self) -> tuple[int, ...]:
        if not self.anchors_ms:
            raise ValueError(f"the phase of {self.interval} bars is unknown: no bar tells it")
        return self.anchors_ms

    # --- A span ---

    def opens(self, span: Span) -> npt.NDArray[np.int64]:
        """Every point in a span at which a bar is expected.

        Returns
        -------
        ndarray of int64, shape (count(span),)
            Milliseconds, ascending.
        """
        if self.is_of_events:
            return np.empty(0, dtype=np.int64)
        step_ms = self.step_ms
        if step_ms is None:
            opens = [period.start_ms for period in months_of(span) if period.start_ms in span]
            return np.array(opens, dtype=np.int64)
        start_ms = self.ceil(span.start_ms)
        if len(self.anchors_ms) == 1:
            return np.arange(start_ms, span.end_ms, step_ms, dtype=np.int64)
        first = int(self.index(np.array([start_ms]))[0])
        return self.points(np.arange(first, first + self.count(span), dtype=np.int64))

    def count(self, span: Span) -> int:
        """The number of points in a span at which a bar is expected."""
        if self.is_of_events:
            return 0
        step_ms = self.step_ms
        if step_ms is None:
            return sum(period.start_ms in span for period in months_of(span))
        start_ms = self.ceil(span.start_ms)
        if len(self.anchors_ms) == 1:
            return max(0, -((start_ms - span.end_ms) // step_ms))
        bounds = self.index(np.array([start_ms, self.ceil(span.end_ms)]))
        return max(0, int(bounds[1] - bounds[0]))

    def count_min(self, span: Span) -> int:
        """The number of points in a span; where the phase is unknown, the least that any phase gives."""
        return self.count(span) if self.is_known else Grid.of(Interval.D1).count(span) // 3

    def count_max(self, span: Span) -> int:
        """The number of points in a span; where the phase is unknown, the most that any phase gives."""
        return self.count(span) if self.is_known else -(-Grid.of(Interval.D1).count(span) // 3)

    # --- Many moments ---

    def index(self, moments_ms: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """The number of the slot of each moment.

        Numbers of neighbouring slots differ by one. Months are counted from January 1970.
        """
        step_ms = self.step_ms
        if step_ms is None:
            return moments_ms.astype("datetime64[ms]").astype("datetime64[M]").astype(np.int64)
        anchors_ms = self._known_anchors_ms()
        if len(anchors_ms) == 1:
            return (moments_ms - anchors_ms[0]) // step_ms
        anchors, numbers = _phases_of(anchors_ms, step_ms)
        phase = anchors[1:].searchsorted(moments_ms, side="right")
        return numbers[phase] + (moments_ms - anchors[phase]) // step_ms

    def points(self, slots: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """The point at which each slot starts: the inverse of `index`."""
        step_ms = self.step_ms
        if step_ms is None:
            return slots.astype("datetime64[M]").astype("datetime64[ms]").astype(np.int64)
        anchors_ms = self._known_anchors_ms()
        if len(anchors_ms) == 1:
            return slots * step_ms + anchors_ms[0]
        anchors, numbers = _phases_of(anchors_ms, step_ms)
        phase = numbers[1:].searchsorted(slots, side="right")
        return anchors[phase] + (slots - numbers[phase]) * step_ms

    def floors(self, moments_ms: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """`floor` of each of many moments."""
        step_ms = self.step_ms
        if step_ms is None or len(self.anchors_ms) != 1:
            return self.points(self.index(moments_ms))
        return moments_ms - (moments_ms - self.anchors_ms[0]) % step_ms

    def has_points(self, moments_ms: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
        """Whether each of many moments is a point; where the phase is unknown, whether it may be one."""
        grid = self if self.is_known else Grid.of(Interval.D1)
        points: npt.NDArray[np.bool_] = moments_ms == grid.floors(moments_ms)
        return points


def _anchors_of(midnights_ms: Sequence[int]) -> tuple[int, ...]:
    """The anchors of 3d bars, by the open times of those that open at midnight."""
    runs = [list(run) for _, run in groupby(midnights_ms, key=lambda open_ms: open_ms % _THREE_DAYS_MS)]
    lasting = [run for place, run in enumerate(runs) if len(run) > 1 or place in (0, len(runs) - 1)]
    firsts_ms = [run[0] for run in lasting]
    # Of the first phase every bar is as good an anchor, so that equal grids are equal.
    first_ms = [moment_ms % _THREE_DAYS_MS for moment_ms in firsts_ms[:1]]
    changes_ms = [after for before, after in pairwise(firsts_ms) if (after - before) % _THREE_DAYS_MS]
    return (*first_ms, *changes_ms)


def _phases_of(anchors_ms: Sequence[int], step_ms: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """The anchors, and the number of the slot at each."""
    numbers = [0]
    for before, after in pairwise(anchors_ms):
        numbers.append(numbers[-1] - (before - after) // step_ms)
    return np.array(anchors_ms, np.int64), np.array(numbers, np.int64)


def regular_close_times(opens_ms: npt.NDArray[np.int64], interval: Interval) -> npt.NDArray[np.int64]:
    """The close time of regular bars: one millisecond less than an interval after their open times.

    A bar of a month closes with the last millisecond of its month.
    """
    step_ms = interval.fixed_ms
    if step_ms is not None:
        return opens_ms + (step_ms - 1)
    months = Grid.of(interval)
    return months.points(months.index(opens_ms) + 1) - 1


def closed_part(span: Span, grid: Grid, now_ms: int) -> Span:
    """The part of a span whose bars are closed. Later bars still change."""
    end_ms = max(span.start_ms, min(span.end_ms, grid.closed_end(now_ms)))
    return Span(span.start_ms, end_ms)

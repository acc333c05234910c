"""Finding missing bars, with the reason for each. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, TypeAlias

import numpy as np

from ckvd.model.grid import Grid
from ckvd.model.market import Interval
from ckvd.model.provenance import Gap, Reason

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from ckvd.model.provenance import Absence
    from ckvd.model.table import Times
    from ckvd.model.timespan import Span

# Neighbouring slots of the grid: the first, the one after the last, and why their bars are missing.
_Run: TypeAlias = "tuple[int, int, Reason]"
# Counting looks at each of so many bars; of more, at those around the gaps.
SCANNED_BARS_MAX: Final = 1 << 14


def find_gaps(
    open_time: Times,
    spans: Sequence[Span],
    grid: Grid,
    absences: Sequence[Absence] = (),
    *,
    unexplained: Reason = Reason.NOT_IN_ARCHIVE,
) -> tuple[Gap, ...]:
    """Find every missing bar in some spans, with its reason.

    A bar is missing where no bar opens in a slot of the grid. A bar that opens late fills its slot. Where the phase
    of 3d bars is unknown, only so many bars count as missing as every phase has.

    Parameters
    ----------
    open_time : ndarray of int64
        Milliseconds, ascending.
    spans : sequence of Span
        Where bars are expected. Disjoint and in order.
    grid : Grid
        That of the series.
    absences : sequence of Absence
        Known reasons for missing bars. Where two cover one bar, the later in the sequence wins.
    unexplained : Reason
        The reason for missing bars that no absence covers.

    Returns
    -------
    tuple of Gap
        In order. Neighbouring missing bars with the same reason are one gap. None of events.
    """
    if grid.is_of_events:
        return ()
    bar_slots = 1
    if not grid.is_known:
        # Counted in days. A bar fills the slot that begins on its day or on one of the two before. Three days in a
        # row of which no slot is filled lack a bar, whatever the phase.
        grid, bar_slots = Grid.of(Interval.D1), 3
    filled = grid.index(open_time)
    if bar_slots > 1:
        filled = np.unique(filled[:, np.newaxis] - np.arange(bar_slots))
    known = [(*_slots_of(absence.span, grid), absence.reason) for absence in absences]
    runs = [
        run
        for span in spans
        for first, stop in _missing_slots(filled, *_slots_of(span, grid))
        for run in _with_reasons(first, stop, known, unexplained)
        if run[1] - run[0] >= bar_slots
    ]
    bounds = np.array([(first, stop) for first, stop, _ in runs], dtype=np.int64)
    return tuple(
        Gap(start_ms, end_ms, (stop - first) // bar_slots, reason)
        for (start_ms, end_ms), (first, stop, reason) in zip(grid.points(bounds).tolist(), runs, strict=True)
    )


def count_filled(open_time: Times, span: Span, grid: Grid) -> int:
    """How many slots of the grid in a span have a bar: all but those that `find_gaps` finds, and faster.

    Of more than `SCANNED_BARS_MAX` bars, only those around gaps are looked at: a long stretch with as many bars as
    slots from its first bar to its last is taken as whole.

    Parameters
    ----------
    open_time : ndarray of int64
        Milliseconds, ascending, all in the span.
    span : Span
    grid : Grid
        That of the series. Its phase is known.
    """
    if not len(open_time) or grid.is_of_events:
        return 0
    # A bar that opens late may lie in the slot that begins before the span.
    is_outside = grid.floor(int(open_time[0])) < span.start_ms
    return _count_slots(open_time, grid) - is_outside


def _count_slots(open_time: Times, grid: Grid) -> int:
    """In how many slots bars open."""
    count = len(open_time)
    if count <= SCANNED_BARS_MAX:
        slots = grid.index(open_time)
        return 1 + int(np.count_nonzero(slots[1:] != slots[:-1]))
    first, last = grid.index(open_time[[0, -1]]).tolist()
    if last - first + 1 == count:
        return count
    middle = count // 2
    before, after = grid.index(open_time[middle - 1 : middle + 1]).tolist()
    both = _count_slots(open_time[:middle], grid) + _count_slots(open_time[middle:], grid)
    return both - int(before == after)


def _slots_of(span: Span, grid: Grid) -> tuple[int, int]:
    """The slots that start in a span: the first, and the one after the last."""
    bounds = np.array([grid.ceil(span.start_ms), grid.ceil(span.end_ms)], dtype=np.int64)
    first, stop = grid.index(bounds).tolist()
    return first, stop


def _missing_slots(slots: Times, first: int, stop: int) -> Iterator[tuple[int, int]]:
    """The runs of slots from `first` to before `stop` that are not among the ascending `slots`."""
    if first >= stop:
        return
    low, high = np.searchsorted(slots, (first, stop))
    present: Times = np.concatenate(([first - 1], slots[low:high], [stop]), dtype=np.int64)
    for position in np.flatnonzero(np.diff(present) > 1).tolist():
        yield int(present[position]) + 1, int(present[position + 1])


def _with_reasons(first: int, stop: int, known: Sequence[_Run], unexplained: Reason) -> list[_Run]:
    """Split a run of missing slots by reason. Of the known reasons for a slot, the last wins."""
    runs: list[_Run] = [(first, stop, unexplained)]
    for known_first, known_stop, reason in known:
        low, high = max(known_first, first), min(known_stop, stop)
        if low < high:
            runs = [*_outside(runs, low, high), (low, high, reason)]
    joined: list[_Run] = []
    for run in sorted(runs):
        if joined and joined[-1][2] is run[2]:
            joined[-1] = (joined[-1][0], *run[1:])
        else:
            joined.append(run)
    return joined


def _outside(runs: Sequence[_Run], first: int, stop: int) -> Iterator[_Run]:
    """The parts of some runs that lie before `first` or from `stop` on."""
    for run_first, run_stop, reason in runs:
        if run_first < first:
            yield run_first, min(run_stop, first), reason
        if run_stop > stop:
            yield max(run_first, stop), run_stop, reason

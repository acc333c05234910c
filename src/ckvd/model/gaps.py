"""Finding missing bars, with the reason for each. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

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
        In order. Neighbouring missing bars with the same reason are one gap.
    """
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

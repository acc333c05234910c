"""Finding the bars that are not there. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ckvd.model.calendar import grid_ceil, grid_index, grid_point
from ckvd.model.provenance import Absence, Gap, Reason

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from ckvd.model.market import Interval
    from ckvd.model.table import Times
    from ckvd.model.timespan import Span


def find_gaps(
    open_time: Times,
    spans: Sequence[Span],
    interval: Interval,
    absences: Sequence[Absence] = (),
    *,
    unexplained: Reason = Reason.NOT_IN_ARCHIVE,
) -> tuple[Gap, ...]:
    """Every bar of the grid in `spans` that is not there, with its reason.

    A bar of the grid is there when some bar opens in its cell: a bar that opens late fills its cell.

    Parameters
    ----------
    open_time : ndarray of int64
        Milliseconds, ascending.
    spans : sequence of Span
        Disjoint and in order: where bars are expected.
    interval : Interval
    absences : sequence of Absence
        What is known of missing bars. Where two speak of one bar the later in the sequence holds.
    unexplained : Reason
        The reason of a missing bar that no absence speaks of.

    Returns
    -------
    tuple of Gap
        In order. Neighbouring missing bars with one reason are one gap.
    """
    cells = grid_index(open_time, interval)
    gaps: list[Gap] = []
    for span in spans:
        first, stop = _cells_of(span, interval)
        for start, end in _missing_cells(cells, first, stop):
            gaps.extend(_with_reasons(start, end, interval, absences, unexplained))
    return tuple(gaps)


def _cells_of(span: Span, interval: Interval) -> tuple[int, int]:
    bounds = np.array([grid_ceil(span.start_ms, interval), grid_ceil(span.end_ms, interval)], dtype=np.int64)
    first, stop = grid_index(bounds, interval).tolist()
    return first, stop


def _missing_cells(cells: Times, first: int, stop: int) -> Iterator[tuple[int, int]]:
    """Runs of numbers from `first` to before `stop` that are not among the ascending `cells`."""
    if first >= stop:
        return
    low, high = np.searchsorted(cells, (first, stop))
    present: Times = np.concatenate(([first - 1], cells[low:high], [stop]), dtype=np.int64)
    for position in np.flatnonzero(np.diff(present) > 1).tolist():
        yield int(present[position]) + 1, int(present[position + 1])


def _with_reasons(
    start: int, end: int, interval: Interval, absences: Sequence[Absence], unexplained: Reason
) -> Iterator[Gap]:
    reasons: list[tuple[int, int, Reason]] = [(start, end, unexplained)]
    for absence in absences:
        first, stop = _cells_of(absence.span, interval)
        first, stop = max(first, start), min(stop, end)
        if first < stop:
            reasons = [*_outside(reasons, first, stop), (first, stop, absence.reason)]
    joined: list[tuple[int, int, Reason]] = []
    for first, stop, reason in sorted(reasons):
        if joined and joined[-1][2] is reason:
            joined[-1] = (joined[-1][0], stop, reason)
        else:
            joined.append((first, stop, reason))
    for first, stop, reason in joined:
        yield Gap(grid_point(first, interval), grid_point(stop, interval), stop - first, reason)


def _outside(runs: list[tuple[int, int, Reason]], first: int, stop: int) -> Iterator[tuple[int, int, Reason]]:
    for run_first, run_stop, reason in runs:
        if run_first < first:
            yield run_first, min(run_stop, first), reason
        if run_stop > stop:
            yield max(run_first, stop), run_stop, reason

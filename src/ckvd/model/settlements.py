"""When funding is settled: the hours between settlements, and which settlements are missing. Pure.

The exchange settles each contract every 8, 4 or 1 hours, and changes that at any time. At a change there may be a
single step of 2 or 3 hours. So a number of rows proves nothing: each step between two settlements is judged by the
hours that the rows beside it have.

The times carry some milliseconds of delay: 08:00:00.031 is the settlement of 08:00.
"""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Final

import numpy as np

from ckvd.model.market import HOUR_MS, MINUTE_MS
from ckvd.model.provenance import Gap, Reason
from ckvd.model.timespan import Span, difference, union

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import numpy.typing as npt

    from ckvd.model.provenance import Absence
    from ckvd.model.table import Times

# A later time is no delay of the hour before it: it is kept as it is.
DELAY_MAX_MS: Final = MINUTE_MS
# No contract was seen to be settled less often.
LONGEST_HOURS: Final = 8


def settled_times(time: Times) -> Times:
    """The times for which funding was settled: without the delay of up to a minute after, or before, a full hour.

    Parameters
    ----------
    time : ndarray of int64, shape (n,)
        Milliseconds, ascending, as published.

    Returns
    -------
    ndarray of int64, shape (n,)
    """
    hours = (time + HOUR_MS // 2) // HOUR_MS * HOUR_MS
    return np.where(np.abs(time - hours) < DELAY_MAX_MS, hours, time)


def steps_of(time: Times) -> Times:
    """The hours from each settlement to the next one, rounded; shape (n - 1,)."""
    return (np.diff(settled_times(time)) + HOUR_MS // 2) // HOUR_MS


def known_hours(time: Times, published: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """The interval of each settlement, in hours.

    Parameters
    ----------
    time : ndarray of int64, shape (n,)
        Milliseconds, ascending.
    published : ndarray of int64, shape (n,)
        As the source says; 0 where it does not.

    Returns
    -------
    ndarray of int64, shape (n,)
        Where the source is silent, the hours since the settlement before, or to the next one if there is none
        before; 0 where that is more than `LONGEST_HOURS`, because a settlement is missing there, or unknown.
    """
    steps = steps_of(time)
    if not len(time) or published.all():
        return published
    first = steps[:1] if len(steps) else np.zeros(1, np.int64)
    told = np.concatenate((first, steps))
    return np.where(published != 0, published, np.where(told <= LONGEST_HOURS, told, 0))


def find_missing_settlements(
    time: Times,
    published: npt.NDArray[np.int64],
    covered: Sequence[Span],
    absences: Sequence[Absence] = (),
    *,
    unexplained: Reason = Reason.NOT_IN_ARCHIVE,
) -> tuple[Gap, ...]:
    """Find where settlements are missing.

    A step between two settlements is whole if it is not longer than the interval of either of them. Where the
    source does not say the interval, the steps before and after tell it: a step is whole if it is not longer than
    one of these. No step of more than `LONGEST_HOURS` is whole.

    Parameters
    ----------
    time, published
        See `known_hours`.
    covered : sequence of Span
        Where all settlements should be known. Disjoint and in order. A step that leaves them is not judged.
    absences : sequence of Absence
        Known reasons for missing settlements.
    unexplained : Reason
        The reason where no absence covers the step.

    Returns
    -------
    tuple of Gap
        In order. Each starts when the first missing settlement was due, and ends with the settlement that follows,
        with the next reason, or with what is covered. Their count is of settlements, at the interval that was last
        seen.
    """
    settled = settled_times(time)
    gaps: list[Gap] = []
    for span in covered:
        start, stop = np.searchsorted(settled, (span.start_ms, span.end_ms)).tolist()
        if start == stop:
            gaps += _whole_spans(span, absences, unexplained)
            continue
        gaps += _at_ends(settled[start:stop], published[start:stop], span, absences, unexplained)
        gaps += _between(settled[start:stop], published[start:stop], absences, unexplained)
    return tuple(sorted(gaps, key=lambda gap: gap.start_ms))


def _between(
    settled: Times, published: npt.NDArray[np.int64], absences: Sequence[Absence], unexplained: Reason
) -> Iterator[Gap]:
    steps = steps_of(settled)
    if not len(steps):
        return
    beyond = np.array([LONGEST_HOURS], np.int64)
    before, after = np.concatenate((beyond, steps[:-1])), np.concatenate((steps[1:], beyond))
    told = np.maximum(published[:-1], published[1:])
    allowed = np.minimum(np.where(told > 0, told, np.maximum(before, after)), LONGEST_HOURS)
    for row in np.flatnonzero(steps > allowed).tolist():
        hours = int(min(published[row] or before[row], allowed[row]))
        step_ms = hours * HOUR_MS
        due = Span(int(settled[row]) + step_ms, int(settled[row + 1]))
        yield from _gaps(due, step_ms, absences, unexplained)


def _at_ends(
    settled: Times, published: npt.NDArray[np.int64], span: Span, absences: Sequence[Absence], unexplained: Reason
) -> Iterator[Gap]:
    """What is missing before the first settlement and after the last: only what the longest interval would have."""
    hours = known_hours(settled, published)
    longest_ms = LONGEST_HOURS * HOUR_MS
    first_ms, last_ms = int(settled[0]), int(settled[-1])
    if first_ms - span.start_ms >= longest_ms:
        step_ms = int(hours[0] or LONGEST_HOURS) * HOUR_MS
        before = Span(first_ms - (first_ms - span.start_ms) // step_ms * step_ms, first_ms)
        yield from _gaps(before, step_ms, absences, unexplained)
    if span.end_ms - last_ms > longest_ms:
        step_ms = int(hours[-1] or LONGEST_HOURS) * HOUR_MS
        after = Span(last_ms + step_ms, span.end_ms)
        yield from _gaps(after, step_ms, absences, unexplained)


def _whole_spans(span: Span, absences: Sequence[Absence], unexplained: Reason) -> Iterator[Gap]:
    """A span without settlements: each reason that is known for it. How many there should be, nobody knows.

    Parts without a known reason count where they are longer than the longest interval.
    """
    # Each month of what lies after an end has an absence of its own.
    for reason in dict.fromkeys(absence.reason for absence in absences):
        parts = (absence.span.intersection(span) for absence in absences if absence.reason is reason)
        yield from (Gap(part.start_ms, part.end_ms, 0, reason) for part in union(parts))
    for left in difference([span], [absence.span for absence in absences]):
        if left.length_ms > LONGEST_HOURS * HOUR_MS:
            yield Gap(left.start_ms, left.end_ms, 0, unexplained)


def _gaps(span: Span, step_ms: int, absences: Sequence[Absence], unexplained: Reason) -> Iterator[Gap]:
    """The settlements that were due from the start of a span on: a gap for each reason that is known of them."""
    due = np.arange(span.start_ms, span.end_ms, step_ms)
    told = np.full(len(due), -1)
    for place, absence in enumerate(absences):
        start, stop = np.searchsorted(due, (absence.start_ms, absence.end_ms))
        told[start:stop] = place
    reasons = [absences[place].reason if place >= 0 else unexplained for place in told.tolist()]
    start = 0
    for reason, same in itertools.groupby(reasons):
        stop = start + sum(1 for _ in same)
        end_ms = int(due[stop]) if stop < len(due) else span.end_ms
        yield Gap(int(due[start]), end_ms, stop - start, reason)
        start = stop

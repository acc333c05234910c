"""What an update has to ask for: `find_due` reads it from the headers of the segments, and `note_begun` notes it.

Of a series that the cache holds, these parts are due:

- its end: from the last moment that the cache covers to the last bar that is closed now;
- what the cache covers until its time to ask again has come: provisional bars, and bars that were unavailable;
- bars that only archives were asked for, where the REST interface may be asked now;
- what a segment covers whose header cannot be read.

What was never asked for is not due: a cache that holds two separate years keeps the time between them empty. Nor is
the end of a series that has ended, until a day has passed: most of what has ended does not begin again.

The pieces of a long end are stored in any order, and an update may be killed between two of them. What it leaves
must not look like time that was never asked for. So the end is noted as not fetched, and due, before it begins.
"""

from __future__ import annotations

import contextlib
import logging
from functools import partial
from typing import TYPE_CHECKING, Final

from ckvd.acquisition.planning import Wanted
from ckvd.cache.open_segments import look_again, read_named_header
from ckvd.cache.resolution import hull, is_unfounded, resolve
from ckvd.cache.rows import read_grid
from ckvd.cache.store import SeriesStore
from ckvd.concurrency.stopping import check_stop
from ckvd.errors import CacheBusyError, CkvdError, SegmentError
from ckvd.model.calendar import days_of
from ckvd.model.grid import Grid, closed_part
from ckvd.model.provenance import Absence, Reason, narrow
from ckvd.model.table import empty_table
from ckvd.model.timespan import Span, difference, union
from ckvd.utils.config import ENDED_LOOK_AGAIN_MS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from ckvd.cache.folder import CacheFolder
    from ckvd.cache.resolution import Winner
    from ckvd.model.market import SeriesKey
    from ckvd.segment.header import SegmentHeader

logger = logging.getLogger(__name__)

# What is said of the time after the last bar of a series that has ended. Of the last day it is not yet certain.
_ENDS: Final = (Reason.AFTER_DELISTING, Reason.AFTER_ARCHIVES, Reason.HALTED)
_OF_ARCHIVES_ALONE: Final = (
    *(Reason.NOT_IN_ARCHIVE, Reason.NO_ARCHIVE, Reason.NOT_PUBLISHED),
    *(Reason.BEFORE_ARCHIVES, Reason.AFTER_ARCHIVES),
)


def find_due(
    folder: CacheFolder,
    chosen: Iterable[SeriesKey],
    now_ms: int,
    *,
    use_rest: bool,
    refuse: Callable[[SeriesKey, CkvdError], None],
) -> list[Wanted]:
    """What is due of some series that the cache holds.

    Parameters
    ----------
    folder : CacheFolder
    chosen : iterable of SeriesKey
    now_ms : int
        The present.
    use_rest : bool
        Whether the REST interface may be asked.
    refuse : callable
        Called with a series whose folder cannot be read, and the error. The others are looked at all the same.

    Returns
    -------
    list of Wanted
        In the given order, without the series of which nothing is due.
    """
    found = []
    for series in chosen:
        check_stop()
        try:
            wanted = look_again(folder, series, partial(_find, folder, series, now_ms, use_rest=use_rest))
        except CkvdError as error:
            refuse(series, error)
            continue
        if wanted is not None:
            found.append(wanted)
    return found


def note_begun(folder: CacheFolder, wanted: Iterable[Wanted], now_ms: int) -> None:
    """Note the end of each series that will be stored in several pieces as not fetched, and due at once.

    A series that another process is changing at this moment is left as it is.

    Raises
    ------
    CacheError
        The cache folder cannot be written.
    """
    for one in wanted:
        check_stop()
        segments = folder.segments(one.series)
        held_end_ms = hull(segments).end_ms if segments else one.span.start_ms
        end = Span(min(held_end_ms, one.span.end_ms), one.span.end_ms)
        if len(list(days_of(end))) < 2:
            continue  # one piece, which is stored whole or not at all
        absence = Absence(end.start_ms, end.end_ms, Reason.NOT_FETCHED, now_ms)
        store = SeriesStore(folder, one.series, lock_timeout_s=0)
        with contextlib.suppress(CacheBusyError):
            store.put_in_place([], empty_table(one.series), end, absences=[absence], recheck_ms=now_ms)


def _find(folder: CacheFolder, series: SeriesKey, now_ms: int, *, use_rest: bool) -> Wanted | None:
    segments = folder.segments(series)
    if not segments:
        return None
    held = hull(segments)
    winners = resolve(held, segments)
    due: list[Span] = []
    last_open_ms: int | None = None
    at_the_end: list[Absence] = []
    for winner in winners:
        try:
            header = read_named_header(folder, series, winner.segment)
            absences = narrow(header.absences, winner.span)
        except SegmentError as error:
            logger.warning("%s; it will be fetched again", error)
            due.append(winner.span)
            continue
        due += _due_parts(header, absences, winner, now_ms, use_rest=use_rest)
        if header.row_count:
            last_open_ms, at_the_end = header.last_open_ms, []
        at_the_end += absences
    end = closed_part(Span(held.end_ms, max(held.end_ms, now_ms)), read_grid(folder, series), now_ms)
    if end and not (end.length_ms < ENDED_LOOK_AGAIN_MS and _has_ended(series, held, last_open_ms, at_the_end)):
        due.append(end)
    if not due:
        return None
    span = Span(min(part.start_ms for part in due), max(part.end_ms for part in due))
    covered = union(winner.span for winner in winners)
    return Wanted(series, span, difference([held.intersection(span)], covered))


def _has_ended(series: SeriesKey, held: Span, last_open_ms: int | None, absences: Iterable[Absence]) -> bool:
    """Whether no bar is to be expected at the end of a series, by the absences from its last bar on."""
    last_end_ms = held.start_ms if last_open_ms is None else Grid.of(series.interval).slot(last_open_ms).end_ms
    is_quiet = held.end_ms - last_end_ms >= ENDED_LOOK_AGAIN_MS
    return is_quiet and all(one.reason in _ENDS for one in absences if one.start_ms >= last_end_ms)


def _due_parts(
    header: SegmentHeader, absences: Iterable[Absence], winner: Winner, now_ms: int, *, use_rest: bool
) -> Iterator[Span]:
    """The parts of what a segment covers for which the time to ask again has come."""
    if 0 < header.recheck_ms <= now_ms or is_unfounded(header):
        yield winner.span
        return
    for absence in absences:
        is_due = 0 < absence.recheck_ms <= now_ms
        if is_due or (use_rest and absence.reason in _OF_ARCHIVES_ALONE):
            yield absence.span

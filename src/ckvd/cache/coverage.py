"""Coverage: which spans of a series the cache has, and when to fetch each again. Planning reads it."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Final

import numpy as np

from ckvd.cache.open_segments import look_again, read_named_header
from ckvd.cache.resolution import is_answered, is_unfounded, resolve
from ckvd.cache.rows import lacking_bars, read_grid
from ckvd.errors import SegmentError
from ckvd.model.grid import Grid, closed_part
from ckvd.model.provenance import Reason, narrow
from ckvd.model.timespan import difference, union
from ckvd.segment.reader import read_open_times

if TYPE_CHECKING:
    from ckvd.cache.folder import CacheFolder
    from ckvd.cache.resolution import Winner
    from ckvd.model.market import SeriesKey
    from ckvd.model.provenance import Absence
    from ckvd.model.timespan import Span

logger = logging.getLogger(__name__)

# A time to ask again that has passed whatever the present is.
_RECHECK_AT_ONCE_MS: Final = 1


@dataclass(frozen=True, slots=True)
class Covered:
    """A span that the cache covers: a coverage record.

    Attributes
    ----------
    span : Span
    recheck_ms : int
        From this time on the span counts as not covered, because something better may have appeared; 0 for never.
    is_answered : bool
        False where the cache only records that bars were unavailable. Until `recheck_ms` they are not asked for,
        and they are still missing.
    is_provisional : bool
        Whether an archive of the span replaces it.
    is_of_archives : bool
        True where only archives were asked, and none has bars before or after this: the REST interface may know
        more.
    """

    span: Span
    recheck_ms: int = 0
    is_answered: bool = True
    is_provisional: bool = False
    is_of_archives: bool = False

    def is_due(self, now_ms: int) -> bool:
        """Whether it is time to ask again."""
        return 0 < self.recheck_ms <= now_ms

    def is_kept(self, now_ms: int) -> bool:
        """Whether an archive that is fetched for another part of its period leaves the span as it is."""
        is_final = self.is_answered and not self.is_of_archives and not self.is_provisional
        return is_final and not self.is_due(now_ms)


def read_coverage(folder: CacheFolder, series: SeriesKey, span: Span) -> list[Covered]:
    """Read which parts of a span are covered, and when to ask for each again.

    Returns
    -------
    list of Covered
        Disjoint and in order. A segment whose header cannot be read covers nothing, so that it is fetched again.

    Raises
    ------
    CacheError
        The folder cannot be read, or its segments were replaced again and again.
    """
    return look_again(folder, series, partial(_read_coverage, folder, series, span))


def _read_coverage(folder: CacheFolder, series: SeriesKey, span: Span) -> list[Covered]:
    covered = []
    for winner in resolve(span, folder.segments(series)):
        try:
            covered.append(_read_covered(folder, series, winner))
        except SegmentError as error:
            logger.warning("%s; it will be fetched again", error)
    return covered


def _read_covered(folder: CacheFolder, series: SeriesKey, winner: Winner) -> Covered:
    header = read_named_header(folder, series, winner.segment)
    is_lacking = not is_answered(header) and lacking_bars(folder, series, [winner.span])
    is_unknown = not header.row_count and any(one.reason is Reason.UNKNOWN for one in header.absences)
    # What a later version means to be final may be no answer: this version looks for one that it knows.
    is_asked_at_once = is_unfounded(header) or (is_unknown and not header.recheck_ms)
    return Covered(
        winner.span,
        _RECHECK_AT_ONCE_MS if is_asked_at_once else header.recheck_ms,
        is_answered=not is_lacking,
        is_provisional=header.is_provisional,
        is_of_archives=not header.row_count and any(one.reason.is_of_archives for one in header.absences),
    )


def uncovered_spans(folder: CacheFolder, series: SeriesKey, span: Span, now_ms: int) -> tuple[Span, ...]:
    """Which parts of a span are missing in the cache. Bars that are not closed yet are left out."""
    answered = [covered.span for covered in read_coverage(folder, series, span) if covered.is_answered]
    return difference([closed_part(span, read_grid(folder, series), now_ms)], answered)


def has_every_bar(folder: CacheFolder, series: SeriesKey, span: Span) -> bool:
    """Whether each bar of the grid is there that opens in a span, where the cache covers it, and no other.

    It reads no more than the open times. Where the grid is known only from the bars, or has months, it is False.

    Raises
    ------
    SegmentError, CacheError
        See `read_named_header`.
    """
    grid = Grid.of(series.interval)
    if grid.is_of_events or not grid.is_known or grid.step_ms is None:
        return False
    return look_again(folder, series, partial(_has_every_bar, folder, series, span, grid))


def _has_every_bar(folder: CacheFolder, series: SeriesKey, span: Span, grid: Grid) -> bool:
    for winner in resolve(span, folder.segments(series)):
        header = read_named_header(folder, series, winner.segment)
        expected = grid.opens(winner.span)
        if header.row_count < len(expected):
            return False
        opens = read_open_times(f"{folder.series_text_path(series)}/{winner.segment.file_name}", header)
        start, stop = opens.searchsorted((winner.span.start_ms, winner.span.end_ms))
        if not np.array_equal(opens[start:stop], expected):
            return False
    return True


def unavailable_spans_of(folder: CacheFolder, series: SeriesKey, span: Span) -> tuple[Span, ...]:
    """Which parts of a span the cache only records as unavailable: they were asked for, and no source had them.

    Returns
    -------
    tuple of Span
        Disjoint and in order.

    Raises
    ------
    SegmentError
        A header cannot be read: what it covers is unknown.
    CacheError
        The folder cannot be read, or its segments were replaced again and again.
    """
    return look_again(folder, series, partial(_unavailable_spans_of, folder, series, span))


def _unavailable_spans_of(folder: CacheFolder, series: SeriesKey, span: Span) -> tuple[Span, ...]:
    winners = resolve(span, folder.segments(series))
    unanswered = (
        winner.span for winner in winners if not is_answered(read_named_header(folder, series, winner.segment))
    )
    return lacking_bars(folder, series, union(unanswered))


def unavailable_absences(folder: CacheFolder, series: SeriesKey, span: Span) -> tuple[Absence, ...]:
    """Why bars of a span are missing that were asked for and were unavailable.

    Returns
    -------
    tuple of Absence
        In order, within the span. None for spans that were never asked for.
    """
    return look_again(folder, series, partial(_read_unavailable, folder, series, span))


def _read_unavailable(folder: CacheFolder, series: SeriesKey, span: Span) -> tuple[Absence, ...]:
    found: list[Absence] = []
    for winner in resolve(span, folder.segments(series)):
        try:
            header = read_named_header(folder, series, winner.segment)
            if not is_answered(header):
                found += [one for one in narrow(header.absences, winner.span) if not one.reason.is_answer]
        except SegmentError:
            continue  # it covers nothing
    return tuple(found)

"""What a series' segments say they cover, and until when: what planning wants to know."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from ckvd.cache.resolution import resolve
from ckvd.cache.snapshot import look_again, read_named_header
from ckvd.errors import SegmentError
from ckvd.model.calendar import closed_part
from ckvd.model.timespan import difference

if TYPE_CHECKING:
    from ckvd.cache.folder import CacheFolder
    from ckvd.model.market import SeriesKey
    from ckvd.model.timespan import Span

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Covered:
    """A span that the cache speaks of.

    Attributes
    ----------
    span : Span
    recheck_ms : int
        From this time on it counts as not covered, because something better may have appeared; 0 for never.
    is_answered : bool
        False for the statement that nothing could be had until then: it is not asked for, and still missing.
    """

    span: Span
    recheck_ms: int = 0
    is_answered: bool = True

    def is_due(self, now_ms: int) -> bool:
        """Whether the time to ask again has come."""
        return 0 < self.recheck_ms <= now_ms


def read_coverage(folder: CacheFolder, series: SeriesKey, span: Span) -> list[Covered]:
    """Read which parts of a span are covered, and when each is to be asked for again.

    Returns
    -------
    list of Covered
        Disjoint and in order. A segment whose header cannot be read covers nothing, so that it is fetched again.
    """
    return look_again(folder, series, partial(_read_once, folder, series, span))


def _read_once(folder: CacheFolder, series: SeriesKey, span: Span) -> list[Covered]:
    covered = []
    for winner in resolve(span, folder.segments(series)):
        try:
            header = read_named_header(folder, series, winner.segment)
        except SegmentError as error:
            logger.warning("%s; it will be fetched again", error)
            continue
        is_answered = header.row_count > 0 or all(absence.reason.is_answer for absence in header.absences)
        covered.append(Covered(winner.span, header.recheck_ms, is_answered=is_answered))
    return covered


def uncovered_spans(folder: CacheFolder, series: SeriesKey, span: Span, now_ms: int) -> tuple[Span, ...]:
    """Which parts of a span the cache gives no answer to, bars that are not closed yet left out."""
    answered = [held.span for held in read_coverage(folder, series, span) if held.is_answered]
    return difference([closed_part(span, series.interval, now_ms)], answered)

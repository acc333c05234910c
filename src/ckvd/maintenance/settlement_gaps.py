"""Which settlements of funding rates are missing in a cache. No grid tells how many there should be.

Two settlements that lie in different segments tell each other's interval, so all segments of a span are looked at
together. A year has a thousand settlements or a few more: their times are copied.
"""

from __future__ import annotations

from contextlib import nullcontext, suppress
from typing import TYPE_CHECKING

import numpy as np

from ckvd.cache.open_segments import open_named
from ckvd.cache.rows import column_of
from ckvd.errors import SegmentError
from ckvd.model.provenance import Gap, Reason, narrow
from ckvd.model.settlements import find_missing_settlements
from ckvd.model.timespan import Span, difference, union

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ckvd.cache.folder import CacheFolder
    from ckvd.cache.resolution import Winner
    from ckvd.model.market import SeriesKey
    from ckvd.model.provenance import Absence
    from ckvd.model.table import Times


def find_settlement_gaps(
    folder: CacheFolder, series: SeriesKey, span: Span, winners: Sequence[Winner], *, is_strict: bool = True
) -> tuple[Gap, ...]:
    """Find the missing settlements of a series.

    Parameters
    ----------
    folder : CacheFolder
    series : SeriesKey
        Of funding rates.
    span : Span
    winners : sequence of Winner
        The segments that win in the span, in order.
    is_strict : bool
        Raise the error of a segment that is damaged. Otherwise it covers nothing.

    Returns
    -------
    tuple of Gap
        In order. Where nothing is covered, the count of a gap is 0: nobody knows how many settlements there are.

    Raises
    ------
    FileNotFoundError
        A segment is gone.
    SegmentError, CacheError
        A segment cannot be used.
    """
    times: list[Times] = []
    hours: list[Times] = []
    absences: list[Absence] = []
    covered: list[Span] = []
    contained = nullcontext() if is_strict else suppress(SegmentError)
    for winner in winners:
        with contained, open_named(folder, series, winner.segment) as reader:
            rows = reader.rows.between(winner.span.start_ms, winner.span.end_ms)
            # Copied, so that no view outlives the map.
            times.append(np.array(column_of(rows, "open_time", series)))
            hours.append(np.array(column_of(rows, "interval_hours", series)))
            absences += narrow(rows.absences, winner.span)
            covered.append(winner.span)
    nothing = np.empty(0, np.int64)
    found = find_missing_settlements(
        np.concatenate([nothing, *times]), np.concatenate([nothing, *hours]), union(covered), absences
    )
    unfetched = [Gap(part.start_ms, part.end_ms, 0, Reason.NOT_FETCHED) for part in difference([span], covered)]
    return tuple(sorted((*found, *unfetched), key=lambda gap: gap.start_ms))

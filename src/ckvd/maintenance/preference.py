"""Storing the bars of a source that somebody prefers, in place of cached bars that differ.

Only days that differ are stored anew, bar by bar: the preferred source first, then what the cache had, so that no
bar is lost where the preferred source is short. The source is stored as preferred (`Source.is_preferred`), and what
is preferred stays: downloads do not replace it, audits and healing only add to it, and packing copies it.
"""

from __future__ import annotations

from dataclasses import replace
from enum import StrEnum
from typing import TYPE_CHECKING

from ckvd.cache.resolution import resolve
from ckvd.cache.rows import read_contents
from ckvd.cache.selection import EVERYTHING
from ckvd.cache.store import SeriesStore
from ckvd.errors import CacheBusyError, CkvdError
from ckvd.maintenance.bar_difference import differing_rows
from ckvd.maintenance.comparison import (
    Against,
    Agreement,
    Comparison,
    at_held_times,
    compare_bars,
    each_compared,
    find_other_bars,
)
from ckvd.model.provenance import narrow
from ckvd.model.table import merge_tables, rows_within
from ckvd.model.timespan import union
from ckvd.utils.config import CACHE_READ_ATTEMPTS_MAX

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from ckvd.cache.folder import CacheFolder
    from ckvd.cache.selection import SeriesFilter
    from ckvd.maintenance.comparison import OtherBars
    from ckvd.model.market import SeriesKey
    from ckvd.model.timespan import Span
    from ckvd.rest.rest_data_client import RestDataClient
    from ckvd.vision.source import ArchiveSource


class Preferred(StrEnum):
    """A source that may be preferred."""

    DAYS = "days"  # daily archives
    REST = "rest"  # the REST interface

    @property
    def against(self) -> Against:
        """The comparison with it."""
        return Against(self.value)


async def prefer_source(
    folder: CacheFolder,
    preferred: Preferred,
    chosen: SeriesFilter = EVERYTHING,
    span: Span | None = None,
    *,
    archives: ArchiveSource | None = None,
    rest: RestDataClient | None = None,
    refuse: Callable[[CkvdError], None] | None = None,
) -> AsyncIterator[Comparison]:
    """Replace cached bars that differ from those of a preferred source.

    Parameters
    ----------
    folder : CacheFolder
    preferred : Preferred
    chosen : SeriesFilter
    span : Span, optional
        On whole seconds. Bars outside of it stay as they are.
    archives : ArchiveSource, optional
        Needed for `Preferred.DAYS`.
    rest : RestDataClient, optional
        Needed for `Preferred.REST`.
    refuse : callable, optional
        See `compare_cache`.

    Yields
    ------
    Comparison
        See `compare_cache`. Those that differed are stored when they are yielded.

    Raises
    ------
    CacheBusyError
        Others kept changing a series. Spans that were replaced before stay replaced.
    CacheError, SegmentError
        The cache cannot be read or written.
    ClientClosedError
        The source was closed.
    """
    others = find_other_bars(folder, preferred.against, chosen, span, archives=archives, rest=rest, refuse=refuse)
    async for one in each_compared(folder, others, _prefer, refuse):
        yield one


def _prefer(folder: CacheFolder, series: SeriesKey, other: OtherBars) -> Comparison:
    """Compare, and store the spans that differ."""
    comparison = compare_bars(folder, series, other)
    if comparison.agreement is not Agreement.DIFFERS:
        return comparison
    each = ((span, compare_bars(folder, series, replace(other, spans=(span,)))) for span in other.spans)
    for span in union(span for span, found in each if found.agreement is Agreement.DIFFERS):
        _store(folder, series, other, span)
    return replace(comparison, is_stored=True)


def _store(folder: CacheFolder, series: SeriesKey, other: OtherBars, span: Span) -> None:
    """Store the preferred bars of a span, and what the cache has besides."""
    for _ in range(CACHE_READ_ATTEMPTS_MAX):
        # Listed before it is read: a segment published in between counts as a change.
        segments = folder.segments(series)
        contents = read_contents(folder, series, span)
        if contents.covered != (span,):
            continue
        rows = at_held_times(rows_within(other.table, span), contents.table)
        if other.columns is not None:
            # Cells that are not compared, such as microseconds, stay where the others agree.
            rows = differing_rows(contents.table, rows, other.columns)
        merged = merge_tables(series, [rows, contents.table])
        sources = [replace(source, is_preferred=True) for source in narrow(other.sources, span)]
        if merged.kept_counts[1]:
            names = {source.name for source in sources}
            sources += [source for source in contents.sources if source.name not in names]
        stored = SeriesStore(folder, series).put_in_place(
            resolve(span, segments), merged.table, span, sources=sources, absences=contents.absences
        )
        if stored is not None:
            return
    reason = f"its segments were changed {CACHE_READ_ATTEMPTS_MAX} times while bars were replaced; try again"
    raise CacheBusyError(str(folder.series_path(series)), reason)

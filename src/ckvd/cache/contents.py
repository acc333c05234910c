"""What the cache says of a span, taken out of its segments: `Contents`.

It is what a new segment is made from when a part of an old one is amended: rows, and everything that is known
about where they came from and why others are not there.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from ckvd.cache.rows import open_winners, table_of
from ckvd.cache.snapshot import look_again
from ckvd.model.provenance import Absence, Source, narrow
from ckvd.model.timespan import Span, union

if TYPE_CHECKING:
    from ckvd.cache.folder import CacheFolder
    from ckvd.model.market import SeriesKey
    from ckvd.model.table import KlineTable
    from ckvd.segment.reader import MappedRows


@dataclass(frozen=True, slots=True, eq=False)
class Contents:
    """What the cache says of a span.

    Attributes
    ----------
    table : KlineTable
        The bars that open in it, copied out of their segments.
    covered : tuple of Span
        Which parts of it the cache speaks of.
    sources : tuple of Source
        Where the bars came from, each narrowed to the part that it speaks for.
    absences : tuple of Absence
        Why bars are not there, likewise.
    provisional : tuple of Span
        Which parts are to be replaced when an archive appears.
    """

    table: KlineTable
    covered: tuple[Span, ...]
    sources: tuple[Source, ...]
    absences: tuple[Absence, ...]
    provisional: tuple[Span, ...]


def read_contents(folder: CacheFolder, series: SeriesKey, span: Span) -> Contents:
    """Read what the cache says of a span.

    Raises
    ------
    SegmentError, CacheError
        A segment cannot be used.
    """
    return look_again(folder, series, partial(_read_once, folder, series, span))


def _read_once(folder: CacheFolder, series: SeriesKey, span: Span) -> Contents:
    parts: list[MappedRows] = []
    sources: list[Source] = []
    absences: list[Absence] = []
    covered: list[Span] = []
    provisional: list[Span] = []
    for winner, rows in open_winners(folder, series, span):
        parts.append(rows)
        sources += narrow(rows.sources, winner.span)
        absences += narrow(rows.absences, winner.span)
        covered.append(winner.span)
        if rows.header.is_provisional:
            provisional.append(winner.span)
    return Contents(table_of(parts, series), union(covered), tuple(sources), tuple(absences), union(provisional))

"""What the cache says of a span, taken out of its segments: `Contents`.

It is what a new segment is made from when a part of an old one is amended: rows, and everything that is known
about where they came from and why others are not there.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from ckvd.cache.resolution import resolve
from ckvd.cache.snapshot import look_again, open_named
from ckvd.model.provenance import Absence, Source, narrow
from ckvd.model.table import COLUMN_DTYPES, Decimals, KlineTable, merge_tables
from ckvd.model.timespan import Span, union

if TYPE_CHECKING:
    from ckvd.cache.folder import CacheFolder
    from ckvd.model.market import SeriesKey
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
    tables: list[KlineTable] = []
    sources: list[Source] = []
    absences: list[Absence] = []
    covered: list[Span] = []
    provisional: list[Span] = []
    for winner in resolve(span, folder.segments(series)):
        with open_named(folder, series, winner.segment) as reader:
            rows = reader.rows.between(winner.span.start_ms, winner.span.end_ms)
            tables.append(_table_of(rows, series))
            sources += narrow(reader.header.sources, winner.span)
            absences += narrow(reader.header.absences, winner.span)
            covered.append(winner.span)
            if reader.header.is_provisional:
                provisional.append(winner.span)
            del rows
    merged = merge_tables(series, tables)
    return Contents(merged.table, union(covered), tuple(sources), tuple(absences), union(provisional))


def _table_of(rows: MappedRows, series: SeriesKey) -> KlineTable:
    columns = {}
    decimals: dict[str, Decimals] = {}
    for name in COLUMN_DTYPES:
        column = rows.column(name, series.interval)
        layout = rows.layout(name)
        if column is None or layout is None:
            continue
        columns[name] = np.array(column)
        if layout.decimals is not None:
            decimals[name] = layout.decimals
    return KlineTable(series, columns, decimals)

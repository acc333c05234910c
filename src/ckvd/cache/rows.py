"""The rows of a span across segments: mapped, in chunks, or copied into one table.

All segments of a span are mapped before the first row is given, so that the rows are one state of the cache,
whatever is packed or pruned meanwhile. A map that nobody touches costs no memory.
"""

from __future__ import annotations

from functools import partial, reduce
from operator import or_
from typing import TYPE_CHECKING

import numpy as np

from ckvd.cache.resolution import resolve
from ckvd.cache.snapshot import look_again, open_named, unanswered_spans
from ckvd.errors import NotCachedError
from ckvd.model.table import REGULAR_US, KlineTable, empty_table, fields_of, regular_us
from ckvd.model.timespan import difference, union
from ckvd.segment.reader import SegmentReader
from ckvd.utils.config import MAINTENANCE_CHUNK_ROWS

if TYPE_CHECKING:
    import os
    from collections.abc import Iterable, Iterator, Sequence

    from ckvd.cache.folder import CacheFolder
    from ckvd.cache.resolution import Winner
    from ckvd.model.market import SeriesKey
    from ckvd.model.table import Column
    from ckvd.model.timespan import Span
    from ckvd.segment.reader import MappedRows


def open_rows(folder: CacheFolder, series: SeriesKey, span: Span) -> list[MappedRows]:
    """Map the segments that cover a span: the rows of each that open in it, in order.

    Returns
    -------
    list of MappedRows
        Some may be empty. Columns taken from them stay valid.

    Raises
    ------
    NotCachedError
        The cache does not cover the span, or a part of it was unavailable.
    CacheBusyError
        Its segments were replaced again and again while they were opened.
    SegmentError, CacheError
        A segment cannot be used.
    """
    return look_again(folder, series, partial(_open_once, folder, series, span))


def _open_once(folder: CacheFolder, series: SeriesKey, span: Span) -> list[MappedRows]:
    opened = open_winners(folder, series, span)
    winners, parts = [winner for winner, _ in opened], [rows for _, rows in opened]
    missing = difference([span], [winner.span for winner in winners])
    if missing := union([*missing, *unanswered_spans(winners, parts)]):
        raise NotCachedError(f"{series}: the cache {folder.root} does not cover {missing[0]} of {span}", missing)
    return parts


def open_winners(folder: CacheFolder, series: SeriesKey, span: Span) -> list[tuple[Winner, MappedRows]]:
    """Map each segment that wins in a span, in order. Errors: see `open_named`."""
    opened = []
    for winner in resolve(span, folder.segments(series)):
        with open_named(folder, series, winner.segment) as reader:
            opened.append((winner, reader.rows.between(winner.span.start_ms, winner.span.end_ms)))
    return opened


def stream_rows(
    folder: CacheFolder, series: SeriesKey, span: Span, *, chunk_rows: int = MAINTENANCE_CHUNK_ROWS
) -> Iterator[MappedRows]:
    """Give the rows that open in a span, in order, some at a time. Errors: see `open_rows`.

    Parameters
    ----------
    folder : CacheFolder
    series : SeriesKey
    span : Span
    chunk_rows : int
        At most so many at a time.

    Yields
    ------
    MappedRows
        Never empty. Columns taken from them stay valid.
    """
    parts = open_rows(folder, series, span)
    while parts:
        yield from chunks_of([parts.pop(0)], chunk_rows)


def chunks_of(parts: Iterable[MappedRows], chunk_rows: int = MAINTENANCE_CHUNK_ROWS) -> Iterator[MappedRows]:
    """The same rows, at most so many at a time, never none."""
    for part in parts:
        for start in range(0, len(part), chunk_rows):
            yield part.rows(start, min(start + chunk_rows, len(part)))


def column_of(rows: MappedRows, name: str, series: SeriesKey) -> Column:
    """A column of some rows. Microseconds that their segment leaves out are filled in: they are regular.

    Returns
    -------
    ndarray, shape (len(rows),)
        Read-only.
    """
    column = rows.column(name, series.interval)
    return regular_us(name, len(rows)) if column is None else column


def read_table(folder: CacheFolder, series: SeriesKey, span: Span) -> KlineTable:
    """Copy the rows that open in a span into a table. Errors: see `open_rows`."""
    return table_of(open_rows(folder, series, span), series)


def table_of(parts: Sequence[MappedRows], series: SeriesKey) -> KlineTable:
    """Copy rows that follow on each other into a table: microseconds only where a segment has them."""
    if not parts:
        return empty_table(series)
    irregular = [name for name in REGULAR_US if any(part.layout(name) is not None for part in parts)]
    names = (*fields_of(series), *irregular)
    layouts = {name: [layout for part in parts if (layout := part.layout(name)) is not None] for name in names}
    decimals = {
        name: [one.decimals for one in found if one.decimals is not None] for name, found in layouts.items()
    }
    return KlineTable(
        series,
        {name: np.concatenate([column_of(part, name, series) for part in parts]) for name in names},
        {name: reduce(or_, found) for name, found in decimals.items() if found},
    )


def count_rows(file: str | os.PathLike[str], span: Span) -> int:
    """How many bars of a segment open in a span. Errors: see `SegmentReader`."""
    with SegmentReader(file) as reader:
        return len(reader.rows.between(span.start_ms, span.end_ms))

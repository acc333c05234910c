"""Reading a series from its first bar to its last with flat memory: one segment open at a time, rows in chunks.

All segments of the span are opened before the first row is given, so that what is read is one state of the cache,
whatever is packed or pruned meanwhile; a map that nobody touches costs no memory.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from ckvd.cache.resolution import resolve
from ckvd.cache.snapshot import look_again, open_named, unanswered_spans
from ckvd.errors import NotCachedError
from ckvd.model.timespan import difference, union
from ckvd.utils.config import MAINTENANCE_CHUNK_ROWS

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from ckvd.cache.folder import CacheFolder
    from ckvd.model.market import SeriesKey
    from ckvd.model.timespan import Span
    from ckvd.segment.reader import MappedRows


def stream_rows(
    folder: CacheFolder, series: SeriesKey, span: Span, *, chunk_rows: int = MAINTENANCE_CHUNK_ROWS
) -> Iterator[MappedRows]:
    """Give the rows that open in a span, in order, some at a time.

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

    Raises
    ------
    NotCachedError
        The cache does not cover the span, or all it says of a part is that nothing could be had yet.
    CacheBusyError
        Its segments were replaced again and again while they were opened.
    SegmentError, CacheError
        A segment cannot be used.
    """
    parts = open_rows(folder, series, span)
    while parts:
        yield from chunks_of([parts.pop(0)], chunk_rows)


def chunks_of(parts: Sequence[MappedRows], chunk_rows: int = MAINTENANCE_CHUNK_ROWS) -> Iterator[MappedRows]:
    """The same rows, at most so many at a time, never none."""
    for part in parts:
        for start in range(0, len(part), chunk_rows):
            yield part.rows(start, min(start + chunk_rows, len(part)))


def open_rows(folder: CacheFolder, series: SeriesKey, span: Span) -> list[MappedRows]:
    """Map the segments that hold a span: the rows of each that open in it, in order. Errors: see `stream_rows`."""
    return look_again(folder, series, partial(_open_once, folder, series, span))


def _open_once(folder: CacheFolder, series: SeriesKey, span: Span) -> list[MappedRows]:
    winners = resolve(span, folder.segments(series))
    missing = difference([span], [winner.span for winner in winners])
    parts: list[MappedRows] = []
    for winner in winners:
        with open_named(folder, series, winner.segment) as reader:
            parts.append(reader.rows.between(winner.span.start_ms, winner.span.end_ms))
    if missing := union([*missing, *unanswered_spans(winners, parts)]):
        raise NotCachedError(f"{series}: the cache {folder.root} does not cover {missing[0]} of {span}", missing)
    return parts

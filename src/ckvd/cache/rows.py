"""The rows of a span across segments: mapped, in chunks, in one table, or with their provenance (`Contents`).

The grid of a series is here too (`read_grid`), because that of 3d bars is known only from all rows of the series.

All segments of a span are mapped before the first row is returned. So the rows are one state of the cache, whatever
is packed or pruned meanwhile. A map that nobody touches costs no memory.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial, reduce
from operator import or_
from typing import TYPE_CHECKING

import numpy as np

from ckvd.cache.open_segments import look_again, open_named
from ckvd.cache.resolution import hull, resolve, unavailable_spans
from ckvd.errors import NotCachedError, SegmentCorruptError, SegmentError
from ckvd.model.grid import Grid
from ckvd.model.market import Interval
from ckvd.model.provenance import Absence, Source, narrow
from ckvd.model.table import REGULAR_US, KlineTable, empty_table, fields_of, regular_us
from ckvd.model.timespan import Span, difference, union
from ckvd.segment.reader import SegmentReader
from ckvd.utils.config import MAINTENANCE_CHUNK_ROWS

if TYPE_CHECKING:
    import os
    from collections.abc import Iterable, Iterator, Sequence

    from ckvd.cache.folder import CacheFolder
    from ckvd.cache.resolution import Winner
    from ckvd.model.market import SeriesKey
    from ckvd.model.table import Column, Decimals, Times
    from ckvd.segment.checks import Verify
    from ckvd.segment.reader import MappedRows


def open_rows(folder: CacheFolder, series: SeriesKey, span: Span) -> list[MappedRows]:
    """Map the rows that open in a span, segment by segment, in order.

    Returns
    -------
    list of MappedRows
        One for each segment that wins in a part of the span; some may be empty. Columns taken from them stay valid.

    Raises
    ------
    NotCachedError
        The cache does not cover the span, or bars of a part of it were unavailable.
    CacheBusyError
        Segments were replaced again and again while they were opened.
    SegmentError, CacheError
        A segment cannot be used.
    """
    return look_again(folder, series, partial(_open_covering, folder, series, span))


def _open_covering(folder: CacheFolder, series: SeriesKey, span: Span) -> list[MappedRows]:
    opened = open_winners(folder, series, span)
    winners, parts = [winner for winner, _ in opened], [rows for _, rows in opened]
    missing = difference([span], [winner.span for winner in winners])
    unavailable = lacking_bars(folder, series, unavailable_spans(winners, parts))
    if missing := union([*missing, *unavailable]):
        raise NotCachedError(f"{series}: the cache {folder.root} does not cover {missing[0]} of {span}", missing)
    return parts


def open_winners(
    folder: CacheFolder, series: SeriesKey, span: Span, *, verify: Verify = "never"
) -> list[tuple[Winner, MappedRows]]:
    """Map each segment that wins in a span, in order. Errors: see `open_named`."""
    opened = []
    for winner in resolve(span, folder.segments(series)):
        with open_named(folder, series, winner.segment, verify=verify) as reader:
            opened.append((winner, reader.rows.between(winner.span.start_ms, winner.span.end_ms)))
    return opened


def stream_rows(folder: CacheFolder, series: SeriesKey, span: Span) -> Iterator[MappedRows]:
    """Map the rows that open in a span, and yield them in order, chunk by chunk. Errors: see `open_rows`.

    Yields
    ------
    MappedRows
        Never empty. Columns taken from them stay valid. No segment is kept open after its last chunk.
    """
    parts = open_rows(folder, series, span)
    while parts:
        yield from chunks_of([parts.pop(0)])


def chunks_of(parts: Iterable[MappedRows], chunk_rows: int = MAINTENANCE_CHUNK_ROWS) -> Iterator[MappedRows]:
    """Cut rows into chunks of at most so many. No chunk is empty."""
    for part in parts:
        for start in range(0, len(part), chunk_rows):
            yield part.rows(start, min(start + chunk_rows, len(part)))


def require_order(rows: MappedRows, span: Span) -> None:
    """Refuse rows from which no segment can be made.

    Raises
    ------
    SegmentCorruptError
        They do not open one after the other, or not in the span.
    """
    opens = rows.stored("open_time")
    if opens is None or not len(opens):
        return
    if int(opens[0]) not in span or int(opens[-1]) not in span or not (opens[1:] > opens[:-1]).all():
        raise SegmentCorruptError(rows.header.path, f"its bars do not open one after the other in {span}")


def column_of(rows: MappedRows, name: str, series: SeriesKey) -> Column:
    """A column of some rows, also where their segment leaves it out because its microseconds are regular.

    Returns
    -------
    ndarray, shape (len(rows),)
        Read-only. A stored column is a view; it keeps the segment's map alive.
    """
    column = rows.column(name, series.interval)
    return regular_us(name, len(rows)) if column is None else column


def read_table(folder: CacheFolder, series: SeriesKey, span: Span) -> KlineTable:
    """Copy the rows that open in a span into one table. Errors: see `open_rows`."""
    return table_of(open_rows(folder, series, span), series)


def table_of(parts: Sequence[MappedRows], series: SeriesKey) -> KlineTable:
    """Copy rows, which follow on each other, into one table. It has microseconds only where a segment has them."""
    if not parts:
        return empty_table(series)
    irregular = [name for name in REGULAR_US if any(part.layout(name) is not None for part in parts)]
    names = (*fields_of(series), *irregular)
    columns = {name: np.concatenate([column_of(part, name, series) for part in parts]) for name in names}
    decimals: dict[str, Decimals] = {}
    for name in names:
        layouts = (part.layout(name) for part in parts)
        known = [layout.decimals for layout in layouts if layout is not None and layout.decimals is not None]
        if known:
            decimals[name] = reduce(or_, known)
    return KlineTable(series, columns, decimals)


def count_rows(file: str | os.PathLike[str], span: Span) -> int:
    """How many bars of a segment open in a span. Errors: see `SegmentReader`."""
    with SegmentReader(file) as reader:
        return len(reader.rows.between(span.start_ms, span.end_ms))


def read_grid(
    folder: CacheFolder, series: SeriesKey, also: Times | None = None, *, verify: Verify = "never"
) -> Grid:
    """The grid of a series. Only of 3d bars something is read: the open times of all that the cache holds.

    Parameters
    ----------
    folder : CacheFolder
    series : SeriesKey
    also : ndarray of int64, optional
        The open times of bars of the series that are not in the cache yet.
    verify : {"never", "first"}
        See `three_day_opens`.

    Raises
    ------
    CacheBusyError, CacheError
        See `three_day_opens`.
    """
    if series.interval is not Interval.D3:
        return Grid.of(series.interval)
    opens = three_day_opens(folder, series, verify=verify)
    return Grid.of_bars(Interval.D3, opens if also is None else np.union1d(opens, also))


def three_day_opens(folder: CacheFolder, series: SeriesKey, *, verify: Verify = "never") -> Times:
    """The open times of all 3d bars of a symbol that the cache holds, whatever the interval of the series.

    Parameters
    ----------
    folder : CacheFolder
    series : SeriesKey
    verify : {"never", "first"}
        See `SegmentReader`. Open times that differ from their checksum are left out.

    Returns
    -------
    ndarray of int64
        Milliseconds, ascending. A segment that cannot be read is left out.

    Raises
    ------
    CacheBusyError
        Segments were replaced again and again while they were read.
    CacheError
        The folder cannot be read.
    """
    bars = replace(series, interval=Interval.D3)
    return look_again(folder, bars, partial(_three_day_opens, folder, bars, verify))


def _three_day_opens(folder: CacheFolder, series: SeriesKey, verify: Verify) -> Times:
    segments = folder.segments(series)
    opens = [np.empty(0, np.int64)]
    for winner in resolve(hull(segments), segments):
        with suppress(SegmentError), open_named(folder, series, winner.segment, verify=verify) as reader:
            rows = reader.rows.between(winner.span.start_ms, winner.span.end_ms)
            opens.append(column_of(rows, "open_time", series))
    return np.concatenate(opens)


def lacking_bars(
    folder: CacheFolder, series: SeriesKey, spans: Sequence[Span], *, verify: Verify = "never"
) -> tuple[Span, ...]:
    """The unavailable spans in which a bar may open. Errors: see `read_grid`.

    Some caches record the days within a 3d bar as unavailable, because they were written when 3d bars were thought
    to open on the same days for all symbols.
    """
    if not spans or series.interval is not Interval.D3:
        return tuple(spans)
    grid = read_grid(folder, series, verify=verify)
    return tuple(span for span in spans if grid.count_max(span))


@dataclass(frozen=True, slots=True, eq=False)
class Contents:
    """All that the cache has of a span. A new segment is made of it when a part of an old one is amended.

    Attributes
    ----------
    table : KlineTable
        The bars that open in the span, copied out of their segments.
    covered : tuple of Span
        Which parts of the span the cache covers.
    sources : tuple of Source
        Where the bars came from, each narrowed to the part in which its segment wins.
    absences : tuple of Absence
        Why bars are missing, narrowed likewise.
    provisional : tuple of Span
        Which parts will be replaced when their archive appears.
    """

    table: KlineTable
    covered: tuple[Span, ...]
    sources: tuple[Source, ...]
    absences: tuple[Absence, ...]
    provisional: tuple[Span, ...]


def read_contents(folder: CacheFolder, series: SeriesKey, span: Span, *, verify: Verify = "first") -> Contents:
    """Read all that the cache has of a span.

    Parameters
    ----------
    folder : CacheFolder
    series : SeriesKey
    span : Span
    verify : {"never", "first"}
        See `SegmentReader`. What is stored again gets a checksum of its own, which would hide damage to the
        original. So bytes are trusted only where nothing is stored.

    Raises
    ------
    CacheBusyError, SegmentError, CacheError
        See `open_rows`; also of bars that are not in order. A span that is not covered raises nothing.
    """
    return look_again(folder, series, partial(_read_contents, folder, series, span, verify))


def _read_contents(folder: CacheFolder, series: SeriesKey, span: Span, verify: Verify) -> Contents:
    parts: list[MappedRows] = []
    sources: list[Source] = []
    absences: list[Absence] = []
    covered: list[Span] = []
    provisional: list[Span] = []
    for winner, rows in open_winners(folder, series, span, verify=verify):
        require_order(rows, winner.span)
        parts.append(rows)
        sources += narrow(rows.sources, winner.span)
        absences += narrow(rows.absences, winner.span)
        covered.append(winner.span)
        if rows.header.is_provisional:
            provisional.append(winner.span)
    return Contents(table_of(parts, series), union(covered), tuple(sources), tuple(absences), union(provisional))

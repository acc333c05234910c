"""What a cache has: a summary of each series, one series in full, and totals.

A summary reads the headers of a series' segments, a few of its last bars, and open times where bars are missing, so
that thousands are listed quickly.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from ckvd.cache.open_segments import look_again
from ckvd.cache.packing import survey_packing
from ckvd.cache.resolution import hull, resolve, superseded
from ckvd.cache.rows import read_grid
from ckvd.cache.selection import EVERYTHING
from ckvd.cache.untraded_tail import untraded_tail_of
from ckvd.errors import CacheError, SegmentError, cannot, concerns_one_place, containing
from ckvd.maintenance.settlement_gaps import find_settlement_gaps
from ckvd.model.gaps import SCANNED_BARS_MAX, count_filled, find_gaps
from ckvd.model.provenance import Absence, Origin, Source
from ckvd.model.record import Record, as_json, fields_as_json
from ckvd.model.timespan import Span, union
from ckvd.segment.reader import SegmentReader, read_open_times, read_segment_header

if TYPE_CHECKING:
    from collections.abc import Callable, Container, Iterable, Iterator, Mapping

    from ckvd.cache.folder import CacheFolder, SegmentName
    from ckvd.cache.selection import SeriesFilter
    from ckvd.cache.untraded_tail import UntradedTail
    from ckvd.errors import CkvdError
    from ckvd.model.grid import Grid
    from ckvd.model.market import SeriesKey
    from ckvd.segment.header import SegmentHeader

# A source in the JSON of a header. Parsing the JSON would take longer than everything else.
_SOURCE: Final = re.compile(
    rb'"origin":"([^"]*)","name":"((?:[^"\\]|\\.)*)","start_ms":(-?\d{1,18}),"end_ms":(-?\d{1,18})'
)
_ORIGINS: Final = {origin.value.encode(): origin for origin in Origin}


@dataclass(frozen=True, slots=True)
class SeriesSummary(Record):
    """One series in brief.

    Attributes
    ----------
    series : SeriesKey
    coverage : tuple of Span
        What the cache covers, disjoint and in order.
    segment_count : int
    bar_count : int
        Bars that a read of the whole coverage returns.
    missing_bar_count : int
        Bars that the grid has from the first covered moment to the last and the cache has not, for whatever reason:
        `report_gaps` says which and why. Of events, the settlements that are missing where the cache covers them.
    nbytes : int
        Bytes of all segments on disk.
    origins : dict of Origin to int
        How many sources of each kind the bars came from. A source counts once, in however many segments it is.
    provisional : tuple of Span
        Spans that an archive will replace.
    oldest_file_ms, newest_file_ms : int
        When the first and last segment were written.
    unreadable_count : int
        Segments that cannot be read; `verify` says why.
    untraded_tail : UntradedTail or None
        The bars at its end in which nobody traded, if they last for a day or more.
    """

    series: SeriesKey
    coverage: tuple[Span, ...]
    segment_count: int
    bar_count: int
    missing_bar_count: int
    nbytes: int
    origins: dict[Origin, int]
    provisional: tuple[Span, ...]
    oldest_file_ms: int
    newest_file_ms: int
    unreadable_count: int
    untraded_tail: UntradedTail | None = None

    @property
    def span(self) -> Span:
        """From the first covered moment to the last."""
        return Span(self.coverage[0].start_ms, self.coverage[-1].end_ms) if self.coverage else Span(0, 0)

    def to_json(self) -> dict[str, Any]:
        """A JSON object: its fields, the series as its four parts."""
        document = fields_as_json(self)
        del document["series"]
        return fields_as_json(self.series) | document


@dataclass(frozen=True, slots=True)
class SegmentSummary(Record):
    """One segment of a series.

    Attributes
    ----------
    name : SegmentName
    held : tuple of Span
        The spans in which it wins; none where newer segments have replaced it.
    row_count, nbytes : int
    is_provisional : bool
    recheck_ms : int
        When to ask for a part of it again; 0 for never.
    sources : tuple of Source
    absences : tuple of Absence
    trouble : str
        Why it cannot be read; empty where it can.
    """

    name: SegmentName
    held: tuple[Span, ...]
    row_count: int = 0
    nbytes: int = 0
    is_provisional: bool = False
    recheck_ms: int = 0
    sources: tuple[Source, ...] = ()
    absences: tuple[Absence, ...] = ()
    trouble: str = ""

    def to_json(self) -> dict[str, Any]:
        """A JSON object: its fields, and for the name what it is made of."""
        document = fields_as_json(self)
        del document["name"]
        name = {"file_name": self.name.file_name, "revision": self.name.revision, "span": as_json(self.name.span)}
        return name | document


@dataclass(frozen=True, slots=True)
class CacheTotals(Record):
    """Sums over some series.

    Attributes
    ----------
    groups : dict of (str, str) to tuple of (int, int, int, int)
        By market and interval: series, segments, bars, bytes.
    oldest_file_ms, newest_file_ms : int
        When the first and last segment were written.
    packable_nbytes, packable_segment_count : int
        What packing would merge.
    superseded_nbytes : int
        Bytes of segments that win nowhere.
    """

    groups: dict[tuple[str, str], tuple[int, int, int, int]]
    oldest_file_ms: int
    newest_file_ms: int
    packable_nbytes: int
    packable_segment_count: int
    superseded_nbytes: int

    def to_json(self) -> dict[str, Any]:
        """A JSON object: its fields, each group as an object."""
        names = ("market", "interval", "series_count", "segment_count", "bar_count", "nbytes")
        groups = [dict(zip(names, (*group, *sums), strict=True)) for group, sums in self.groups.items()]
        return fields_as_json(self) | {"groups": groups}


def list_series(
    folder: CacheFolder, chosen: SeriesFilter = EVERYTHING, refuse: Callable[[CkvdError], None] | None = None
) -> Iterator[SeriesSummary]:
    """Summarise each series that has segments, in order.

    Parameters
    ----------
    folder : CacheFolder
    chosen : SeriesFilter
    refuse : callable, optional
        Called with the error of each series or folder that cannot be read; the others are summarised all the same.

    Raises
    ------
    CacheBusyError, CacheError
        See `summarise_series`; only if there is no `refuse`.
    """
    for series in chosen.choose(folder, refuse):
        summaries = []
        with containing(refuse):
            summaries.append(summarise_series(folder, series))
        yield from (summary for summary in summaries if summary.segment_count)


def summarise_series(folder: CacheFolder, series: SeriesKey) -> SeriesSummary:
    """Summarise one series.

    Raises
    ------
    CacheBusyError
        Its segments were replaced each time before they were read.
    CacheError
        A folder cannot be listed.
    """
    return look_again(folder, series, partial(_summarise_once, folder, series))


def _summarise_once(folder: CacheFolder, series: SeriesKey) -> SeriesSummary:
    segments = folder.segments(series)
    coverage = union(name.span for name in segments)
    winners = [winner for span in coverage for winner in resolve(span, segments)]
    place = folder.series_text_path(series)
    paths = {name: f"{place}/{name.file_name}" for name in segments}
    headers = _read_headers(paths, {winner.segment for winner in winners})
    provisional = []
    bar_count = 0
    grid = read_grid(folder, series)
    missing_count = sum(grid.count_min(Span(before.end_ms, after.start_ms)) for before, after in pairwise(coverage))
    sources: set[tuple[Origin, bytes]] = set()
    for winner in winners:
        header = headers[winner.segment]
        if header is None:
            missing_count += grid.count_min(winner.span)
            continue
        sources.update(_sources_within(header, winner.span))
        if header.is_provisional:
            provisional.append(winner.span)
        held_count, lacking_count = _count_bars(paths[winner.segment], header, winner.span, grid)
        bar_count += held_count
        missing_count += lacking_count
    if grid.is_of_events and any(headers.values()):
        gaps = find_settlement_gaps(folder, series, hull(segments), winners, is_strict=False)
        missing_count = sum(gap.bar_count for gap in gaps)
    statuses = folder.statuses(series, segments)
    written_ms = [status.st_mtime_ns // 1_000_000 for status in statuses]
    return SeriesSummary(
        series,
        coverage,
        len(headers),
        bar_count,
        missing_count,
        sum(status.st_size for status in statuses),
        {origin: count for origin in Origin if (count := sum(origin is found for found, _ in sources))},
        union(provisional),
        min(written_ms, default=0),
        max(written_ms, default=0),
        sum(header is None for header in headers.values()),
        untraded_tail_of(folder, series, [one for one in winners if _has_rows(headers[one.segment])]),
    )


def _count_bars(path: str, header: SegmentHeader, span: Span, grid: Grid) -> tuple[int, int]:
    """How many bars a segment has in a span, and how many it lacks there."""
    slot_count = grid.count_min(span)
    is_whole = span == header.span
    if is_whole and grid.is_of_events:
        return header.row_count, 0
    if is_whole and grid.is_known and header.row_count in (0, slot_count):
        return header.row_count, slot_count - header.row_count
    try:
        if is_whole and grid.is_known and header.row_count <= SCANNED_BARS_MAX:
            return header.row_count, slot_count - count_filled(read_open_times(path, header), span, grid)
        with SegmentReader(path) as reader:
            rows = reader.rows.between(span.start_ms, span.end_ms)
            stored = rows.stored("open_time")
            opens = np.empty(0, np.int64) if stored is None else stored
            if grid.is_known:
                return len(rows), slot_count - count_filled(opens, span, grid)
            return len(rows), sum(gap.bar_count for gap in find_gaps(opens, [span], grid, rows.absences))
    except FileNotFoundError:
        raise
    except SegmentError:
        return 0, slot_count
    except OSError as error:
        raise cannot("be read", path, error) from error


def _has_rows(header: SegmentHeader | None) -> bool:
    """Whether a segment has bars; also true of one that cannot be read, which may have some."""
    return header is None or header.row_count > 0


def _sources_within(header: SegmentHeader, span: Span) -> list[tuple[Origin, bytes]]:
    """The origins and names of the sources of a part of a segment."""
    is_whole = span == header.span
    return [
        (_ORIGINS.get(origin, Origin.UNKNOWN), name)
        for origin, name, start_ms, end_ms in _SOURCE.findall(header.metadata)
        if is_whole or (int(start_ms) < span.end_ms and int(end_ms) > span.start_ms)
    ]


def describe_segments(folder: CacheFolder, series: SeriesKey, *, is_strict: bool = False) -> list[SegmentSummary]:
    """Every segment of a series, in order of time and revision.

    Parameters
    ----------
    folder : CacheFolder
    series : SeriesKey
    is_strict : bool
        Raise the error of the system where it refuses to read a segment. Otherwise the segment has it as its
        trouble, as a damaged one has.

    Errors: see `summarise_series`.
    """
    return look_again(folder, series, partial(_describe_once, folder, series, is_strict))


def _describe_once(folder: CacheFolder, series: SeriesKey, is_strict: bool) -> list[SegmentSummary]:
    segments = sorted(folder.segments(series))
    held: dict[SegmentName, list[Span]] = {}
    for span in union(name.span for name in segments):
        for winner in resolve(span, segments):
            held.setdefault(winner.segment, []).append(winner.span)
    described = (_describe(folder, series, name, tuple(held.get(name, ())), is_strict) for name in segments)
    return [one for one in described if one is not None]


def _describe(
    folder: CacheFolder, series: SeriesKey, name: SegmentName, held: tuple[Span, ...], is_strict: bool
) -> SegmentSummary | None:
    """Describe a segment. If it is gone: None where it won nowhere, FileNotFoundError where it won."""
    try:
        header = read_segment_header(folder.series_path(series) / name.file_name)
        sources, absences = header.sources, header.absences
    except FileNotFoundError:
        if held:
            raise
        return None
    except (SegmentError, CacheError) as error:
        is_refused = is_strict and isinstance(error, CacheError)
        if is_refused or not concerns_one_place(error):
            raise
        return SegmentSummary(name, held, trouble=error.reason)
    return SegmentSummary(
        name,
        held,
        header.row_count,
        header.file_nbytes,
        header.is_provisional,
        header.recheck_ms,
        sources,
        absences,
    )


def winning_sources(segments: Iterable[SegmentSummary]) -> list[Source]:
    """The sources of the bars of some segments, where these win; each source once, in order."""
    sources: dict[tuple[str, str], Source] = {}
    for segment in segments:
        for source in segment.sources:
            if any(source.span.overlaps(part) for part in segment.held):
                sources.setdefault((source.name, source.sha256), source)
    return list(sources.values())


def total(
    folder: CacheFolder, chosen: SeriesFilter = EVERYTHING, refuse: Callable[[CkvdError], None] | None = None
) -> CacheTotals:
    """Sum up some series. `refuse` and errors: see `list_series`."""
    groups: dict[tuple[str, str], tuple[int, int, int, int]] = {}
    files_ms: list[int] = []
    packable_nbytes = packable_count = superseded_nbytes = 0
    for summary in list_series(folder, chosen, refuse):
        series = summary.series
        group = (series.market.value, series.folder_name)
        count, segment_count, bar_count, nbytes = groups.get(group, (0, 0, 0, 0))
        groups[group] = (
            count + 1,
            segment_count + summary.segment_count,
            bar_count + summary.bar_count,
            nbytes + summary.nbytes,
        )
        files_ms += [summary.oldest_file_ms, summary.newest_file_ms]
        survey = survey_packing(folder, series)
        dead_nbytes = folder.nbytes_of(series, superseded(folder.segments(series)))
        packable_nbytes += survey.removed_nbytes - dead_nbytes
        packable_count += sum(len(merge.inputs) for merge in survey.merges)
        superseded_nbytes += dead_nbytes
    return CacheTotals(
        groups,
        min(files_ms, default=0),
        max(files_ms, default=0),
        packable_nbytes,
        packable_count,
        superseded_nbytes,
    )


def _read_headers(
    paths: Mapping[SegmentName, str], winning: Container[SegmentName]
) -> dict[SegmentName, SegmentHeader | None]:
    """The headers of some segments; None for a segment that cannot be read.

    A segment that is gone is left out where it wins nowhere; where it wins, FileNotFoundError is raised.
    """
    headers: dict[SegmentName, SegmentHeader | None] = {}
    for name, path in paths.items():
        try:
            headers[name] = read_segment_header(path)
        except FileNotFoundError:
            if name in winning:
                raise
        except (SegmentError, CacheError) as error:
            if not concerns_one_place(error):
                raise
            headers[name] = None
    return headers

"""What a cache holds: a summary of each series, one series in full, and totals.

A summary reads the headers of a series' segments and nothing else, so that thousands are listed in a moment.
"""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from ckvd.cache.open_segments import look_again
from ckvd.cache.packing import survey_packing
from ckvd.cache.resolution import resolve, superseded
from ckvd.cache.rows import count_rows
from ckvd.errors import SegmentError, cannot
from ckvd.maintenance.bar_sources import sources_within
from ckvd.maintenance.selection import EVERYTHING
from ckvd.model.provenance import Absence, Origin, Source
from ckvd.model.timespan import Span, union
from ckvd.segment.reader import read_segment_header

if TYPE_CHECKING:
    from collections.abc import Container, Iterable, Iterator, Mapping

    from ckvd.cache.folder import CacheFolder, SegmentName
    from ckvd.maintenance.selection import SeriesFilter
    from ckvd.model.market import SeriesKey
    from ckvd.segment.header import SegmentHeader


@dataclass(frozen=True, slots=True)
class SeriesSummary:
    """A series in a line.

    Attributes
    ----------
    series : SeriesKey
    coverage : tuple of Span
        What the cache speaks of, disjoint and in order.
    segment_count : int
    bar_count : int
        Bars that a read of all the coverage would give.
    nbytes : int
        Of all segments on disk.
    origins : dict of Origin to int
        How many sources of each kind its bars came from; each counts once, however many segments it speaks in.
    provisional : tuple of Span
        What is to be replaced when an archive of it appears.
    oldest_file_ms, newest_file_ms : int
        When its first and last segment were written.
    unreadable_count : int
        Segments that cannot be read; `verify` says why.
    """

    series: SeriesKey
    coverage: tuple[Span, ...]
    segment_count: int
    bar_count: int
    nbytes: int
    origins: dict[Origin, int]
    provisional: tuple[Span, ...]
    oldest_file_ms: int
    newest_file_ms: int
    unreadable_count: int

    @property
    def span(self) -> Span:
        """From the first covered moment to the last."""
        return Span(self.coverage[0].start_ms, self.coverage[-1].end_ms) if self.coverage else Span(0, 0)

    def to_json(self) -> dict[str, Any]:
        """A JSON object; times in milliseconds."""
        return {
            "market": self.series.market.value,
            "kind": self.series.kind.value,
            "symbol": self.series.symbol,
            "interval": self.series.interval.value,
            "coverage": [[span.start_ms, span.end_ms] for span in self.coverage],
            "segment_count": self.segment_count,
            "bar_count": self.bar_count,
            "nbytes": self.nbytes,
            "origins": {origin.value: count for origin, count in self.origins.items()},
            "provisional": [[span.start_ms, span.end_ms] for span in self.provisional],
            "oldest_file_ms": self.oldest_file_ms,
            "newest_file_ms": self.newest_file_ms,
            "unreadable_count": self.unreadable_count,
        }


@dataclass(frozen=True, slots=True)
class SegmentSummary:
    """One segment of a series.

    Attributes
    ----------
    name : SegmentName
    held : tuple of Span
        What it speaks for; nothing, where newer segments have replaced it.
    row_count, nbytes : int
    is_provisional : bool
    recheck_ms : int
        When something in it is to be asked for again; 0 for never.
    sources : tuple of Source
    absences : tuple of Absence
    trouble : str
        Why it cannot be read, where it cannot.
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
        """A JSON object; times in milliseconds."""
        return {
            "file_name": self.name.file_name,
            "revision": self.name.revision,
            "span": [self.name.span.start_ms, self.name.span.end_ms],
            "held": [[span.start_ms, span.end_ms] for span in self.held],
            "row_count": self.row_count,
            "nbytes": self.nbytes,
            "is_provisional": self.is_provisional,
            "recheck_ms": self.recheck_ms,
            "sources": [source.to_json() for source in self.sources],
            "absences": [absence.to_json() for absence in self.absences],
            "trouble": self.trouble,
        }


@dataclass(frozen=True, slots=True)
class CacheTotals:
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
        Of segments that speak for nothing any more.
    """

    groups: dict[tuple[str, str], tuple[int, int, int, int]]
    oldest_file_ms: int
    newest_file_ms: int
    packable_nbytes: int
    packable_segment_count: int
    superseded_nbytes: int

    def to_json(self) -> dict[str, Any]:
        """A JSON object."""
        names = ("series_count", "segment_count", "bar_count", "nbytes")
        return {
            "groups": [
                {"market": market, "interval": interval, **dict(zip(names, sums, strict=True))}
                for (market, interval), sums in self.groups.items()
            ],
            "oldest_file_ms": self.oldest_file_ms,
            "newest_file_ms": self.newest_file_ms,
            "packable_nbytes": self.packable_nbytes,
            "packable_segment_count": self.packable_segment_count,
            "superseded_nbytes": self.superseded_nbytes,
        }


def list_series(folder: CacheFolder, chosen: SeriesFilter = EVERYTHING) -> Iterator[SeriesSummary]:
    """Summarise each series that has segments, in order. Errors: see `summarise_series`."""
    for series in chosen.choose(folder):
        summary = summarise_series(folder, series)
        if summary.segment_count:
            yield summary


def summarise_series(folder: CacheFolder, series: SeriesKey) -> SeriesSummary:
    """Summarise one series.

    Raises
    ------
    CacheBusyError
        Its segments were replaced again and again while they were looked at.
    CacheError
        A folder cannot be listed.
    """
    return look_again(folder, series, partial(_summarise_once, folder, series))


def _summarise_once(folder: CacheFolder, series: SeriesKey) -> SeriesSummary:
    segments = folder.segments(series)
    coverage = union(name.span for name in segments)
    winners = [winner for span in coverage for winner in resolve(span, segments)]
    place = str(folder.series_path(series))
    paths = {name: f"{place}/{name.file_name}" for name in segments}
    headers = _read_headers(paths, {winner.segment for winner in winners})
    provisional = []
    bar_count = 0
    sources: set[tuple[Origin, bytes]] = set()
    for winner in winners:
        header = headers[winner.segment]
        if header is None:
            continue
        sources.update(sources_within(header, winner.span))
        if header.is_provisional:
            provisional.append(winner.span)
        if winner.span == winner.segment.span or not header.row_count:
            bar_count += header.row_count
        else:
            with contextlib.suppress(SegmentError):
                bar_count += count_rows(paths[winner.segment], winner.span)
    nbytes, oldest_ms, newest_ms = _measure(paths.values())
    return SeriesSummary(
        series,
        coverage,
        len(headers),
        bar_count,
        nbytes,
        {origin: count for origin in Origin if (count := sum(origin is found for found, _ in sources))},
        union(provisional),
        oldest_ms,
        newest_ms,
        sum(header is None for header in headers.values()),
    )


def describe_segments(folder: CacheFolder, series: SeriesKey) -> list[SegmentSummary]:
    """Every segment of a series, in order of time and revision. Errors: see `summarise_series`."""
    return look_again(folder, series, partial(_describe_once, folder, series))


def _describe_once(folder: CacheFolder, series: SeriesKey) -> list[SegmentSummary]:
    segments = sorted(folder.segments(series))
    held: dict[SegmentName, list[Span]] = {}
    for span in union(name.span for name in segments):
        for winner in resolve(span, segments):
            held.setdefault(winner.segment, []).append(winner.span)
    described = (_describe(folder, series, name, tuple(held.get(name, ()))) for name in segments)
    return [one for one in described if one is not None]


def _describe(
    folder: CacheFolder, series: SeriesKey, name: SegmentName, held: tuple[Span, ...]
) -> SegmentSummary | None:
    """Describe a segment; None where it is gone and spoke for nothing, FileNotFoundError where it did."""
    try:
        header = read_segment_header(folder.series_path(series) / name.file_name)
        sources, absences = header.sources, header.absences
    except FileNotFoundError:
        if held:
            raise
        return None
    except SegmentError as error:
        return SegmentSummary(name, held, trouble=error.reason)
    except OSError as error:
        return SegmentSummary(name, held, trouble=str(error.strerror))
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


def total(folder: CacheFolder, chosen: SeriesFilter = EVERYTHING) -> CacheTotals:
    """Sum up some series. Errors: see `list_series`."""
    groups: dict[tuple[str, str], tuple[int, int, int, int]] = {}
    files_ms: list[int] = []
    packable_nbytes = packable_count = superseded_nbytes = 0
    for summary in list_series(folder, chosen):
        series = summary.series
        sums = groups.get((series.market.value, series.interval.value), (0, 0, 0, 0))
        added = (1, summary.segment_count, summary.bar_count, summary.nbytes)
        groups[series.market.value, series.interval.value] = (
            sums[0] + added[0], sums[1] + added[1], sums[2] + added[2], sums[3] + added[3],
        )  # fmt: skip
        files_ms += [summary.oldest_file_ms, summary.newest_file_ms]
        survey = survey_packing(folder, series)
        dead = superseded(folder.segments(series))
        dead_nbytes = _measure(f"{folder.series_path(series)}/{name.file_name}" for name in dead)[0]
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
    paths: Mapping[SegmentName, str], speaking: Container[SegmentName]
) -> dict[SegmentName, SegmentHeader | None]:
    """The headers of some segments, None where one cannot be read.

    Those that speak for nothing and went meanwhile are left out; for another, FileNotFoundError is raised.
    """
    headers: dict[SegmentName, SegmentHeader | None] = {}
    for name, path in paths.items():
        try:
            headers[name] = read_segment_header(path)
        except FileNotFoundError:
            if name in speaking:
                raise
        except SegmentError:
            headers[name] = None
        except OSError as error:
            raise cannot("be read", path, error) from error
    return headers


def _measure(paths: Iterable[str]) -> tuple[int, int, int]:
    """How many bytes some files have, and when the first and last were written."""
    nbytes = 0
    written_ms: list[int] = []
    for path in paths:
        with contextlib.suppress(FileNotFoundError):
            status = os.stat(path)  # noqa: PTH116  (tens of thousands of them; a Path takes twice the time)
            nbytes += status.st_size
            written_ms.append(status.st_mtime_ns // 1_000_000)
    return nbytes, min(written_ms, default=0), max(written_ms, default=0)

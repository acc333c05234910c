"""The archives that cached bars came from: where each still wins, and replacing its bars with a newer version."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import pairwise
from typing import TYPE_CHECKING, Final

from ckvd.cache.resolution import resolve
from ckvd.cache.rows import read_table
from ckvd.cache.store import SeriesStore
from ckvd.errors import CacheBusyError, NotCachedError
from ckvd.maintenance.bar_difference import BarDifference, compare_tables
from ckvd.maintenance.inventory import describe_segments
from ckvd.model.calendar import Cadence
from ckvd.model.provenance import Absence, Origin, Source, narrow, segment_recheck_ms
from ckvd.model.table import join_tables, merge_tables, rows_within
from ckvd.model.timespan import Span, difference, union
from ckvd.utils.config import CACHE_READ_ATTEMPTS_MAX

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ckvd.cache.folder import CacheFolder, SegmentName
    from ckvd.model.market import SeriesKey
    from ckvd.model.table import KlineTable

_CADENCES: Final = {Origin.VISION_MONTHLY: Cadence.MONTHLY, Origin.VISION_DAILY: Cadence.DAILY}


@dataclass(frozen=True, slots=True)
class CachedArchive:
    """An archive that cached bars came from.

    Attributes
    ----------
    name : str
        Its path.
    cadence : Cadence
    sources : tuple of Source
        The archive itself, once for each span in which a segment made of it wins, in order. They may be of several
        versions of the archive.
    others : tuple of Source
        Other sources of bars in the same spans.
    absences : tuple of Absence
        All absences of the series.
    segments : tuple of SegmentName
        The segments of the series when it was read.
    """

    name: str
    cadence: Cadence
    sources: tuple[Source, ...]
    others: tuple[Source, ...]
    absences: tuple[Absence, ...]
    segments: tuple[SegmentName, ...]

    @property
    def spans(self) -> tuple[Span, ...]:
        """The spans in which it wins, disjoint and in order."""
        return union(source.span for source in self.sources)

    def is_outranked(self, others: Sequence[Source], span: Span) -> bool:
        """Whether another source of a span goes before it: a preferred one, or a daily archive before a monthly."""
        if any(source.is_preferred for source in narrow(self.sources, span)):
            return False
        is_month = self.cadence is Cadence.MONTHLY
        return any(other.is_preferred or (is_month and other.origin is Origin.VISION_DAILY) for other in others)

    def as_of(self, found: Source, span: Span) -> list[Source]:
        """Another version of it, as the source of a span in which it is preferred in parts, or not at all."""
        preferred = union(source.span for source in narrow(self.sources, span) if source.is_preferred)
        parts = [(part, True) for part in preferred] + [(part, False) for part in difference([span], preferred)]
        return [
            replace(found, start_ms=part.start_ms, end_ms=part.end_ms, is_preferred=is_preferred)
            for part, is_preferred in sorted(parts)
        ]

    def outdated_spans(self, sha256: str) -> tuple[Span, ...]:
        """The spans in which other versions of it win than the one with a hash."""
        return union(source.span for source in self.sources if source.sha256 != sha256)


def list_cached_archives(folder: CacheFolder, series: SeriesKey) -> list[CachedArchive]:
    """List the archives that bars of a series came from and that still win somewhere, in order of time.

    Errors: see `summarise_series`.
    """
    described = describe_segments(folder, series, is_strict=True)
    by_name: dict[str, list[Source]] = {}
    absences: list[Absence] = []
    for segment in described:
        for span in segment.held:
            absences += narrow(segment.absences, span)
            for source in narrow(segment.sources, span):
                by_name.setdefault(source.name, []).append(source)
    names = tuple(segment.name for segment in described)
    archives = []
    for name, sources in by_name.items():
        cadence = _CADENCES.get(sources[0].origin)
        if cadence is not None:
            spans = union(source.span for source in sources)
            others = (source for other, found in by_name.items() if other != name for source in found)
            beside = tuple(source for source in others if any(source.span.overlaps(span) for span in spans))
            archives.append(CachedArchive(name, cadence, tuple(sources), beside, tuple(absences), names))
    return sorted(archives, key=lambda archive: (archive.spans, archive.name))


def compare_archive(folder: CacheFolder, archive: CachedArchive, found: Source, table: KlineTable) -> BarDifference:
    """The difference that `replace_archive` would make. Errors: see `open_rows`."""
    total = BarDifference()
    for span in archive.outdated_spans(found.sha256):
        before = read_table(folder, table.series, span)
        total += compare_tables(before, _corrected(archive, span, before, rows_within(table, span)))
    return total


def replace_archive(folder: CacheFolder, name: str, found: Source, table: KlineTable) -> BarDifference:
    """Replace the cached bars of other versions of an archive with those of a given version.

    Bars that other writers publish meanwhile are kept: the series is read again until no other write interferes.

    Parameters
    ----------
    folder : CacheFolder
    name : str
        The path of the archive.
    found : Source
        The given version.
    table : KlineTable
        Its bars.

    Returns
    -------
    BarDifference
        From the replaced bars to the new ones.

    Raises
    ------
    CacheBusyError
        Others kept changing the series. Spans that were replaced before stay replaced.
    SegmentError, CacheError
        A segment cannot be used, or the cache cannot be written.
    """
    total = BarDifference()
    for _ in range(CACHE_READ_ATTEMPTS_MAX):
        left = [
            (archive, span)
            for archive in list_cached_archives(folder, table.series)
            if archive.name == name
            for span in archive.outdated_spans(found.sha256)
        ]
        for archive, span in left:
            replaced = _replace_span(folder, archive, span, found, table)
            if replaced is None:
                break
            total += replaced
        else:
            return total
    reason = f"its segments were replaced {CACHE_READ_ATTEMPTS_MAX} times while they were corrected; try again"
    raise CacheBusyError(str(folder.series_path(table.series)), reason)


def _replace_span(
    folder: CacheFolder, archive: CachedArchive, span: Span, found: Source, table: KlineTable
) -> BarDifference | None:
    """Replace the bars of one span. None where other segments win there by now."""
    series = table.series
    try:
        before = read_table(folder, series, span)
    except NotCachedError:
        return None
    rows = _corrected(archive, span, before, rows_within(table, span))
    absences = narrow(archive.absences, span)
    published = SeriesStore(folder, series).put_in_place(
        resolve(span, archive.segments),
        rows,
        span,
        sources=[*archive.as_of(found, span), *narrow(archive.others, span)],
        absences=absences,
        recheck_ms=segment_recheck_ms(rows.row_count, absences),
    )
    return None if published is None else compare_tables(before, rows)


def _corrected(archive: CachedArchive, span: Span, before: KlineTable, rows: KlineTable) -> KlineTable:
    """The bars of a span when another version of an archive replaces the cached one.

    Parameters
    ----------
    archive : CachedArchive
    span : Span
    before : KlineTable
        The cached bars of the span.
    rows : KlineTable
        Those of the other version.

    Returns
    -------
    KlineTable
        The bars of the other version. Where other sources have a part in the cached bars, bars that it lacks stay,
        and where one of them goes before the archive, all cached bars do.
    """
    bounds = {bound for other in narrow(archive.others, span) for bound in (other.start_ms, other.end_ms)}
    tables = []
    for start_ms, end_ms in pairwise(sorted({span.start_ms, *bounds, span.end_ms})):
        part = Span(start_ms, end_ms)
        old, new = rows_within(before, part), rows_within(rows, part)
        others = narrow(archive.others, part)
        if archive.is_outranked(others, part):
            new = merge_tables(before.series, [old, new]).table
        elif others:
            new = merge_tables(before.series, [new, old]).table
        tables.append(new)
    return join_tables(tables)

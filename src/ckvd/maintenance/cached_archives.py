"""The archives that cached bars came from: where each still wins, and replacing its bars with a newer version."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from ckvd.cache.resolution import resolve
from ckvd.cache.rows import read_table
from ckvd.cache.store import SeriesStore
from ckvd.errors import CacheBusyError, NotCachedError
from ckvd.maintenance.bar_difference import BarDifference, compare_tables
from ckvd.maintenance.inventory import describe_segments
from ckvd.model.calendar import Cadence
from ckvd.model.provenance import Absence, Origin, Source, earliest_recheck_ms, narrow
from ckvd.model.table import merge_tables, rows_within
from ckvd.model.timespan import Span, union
from ckvd.utils.config import CACHE_READ_ATTEMPTS_MAX

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

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

    def outdated_spans(self, sha256: str) -> tuple[Span, ...]:
        """The spans in which other versions of it win than the one with a hash."""
        return union(source.span for source in self.sources if source.sha256 != sha256)


def list_cached_archives(folder: CacheFolder, series: SeriesKey) -> list[CachedArchive]:
    """List the archives that bars of a series came from and that still win somewhere, in order of time.

    Errors: see `summarise_series`.
    """
    described = describe_segments(folder, series)
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


def compare_spans(
    folder: CacheFolder, spans: Iterable[Span], table: KlineTable, others: Sequence[Source] = ()
) -> BarDifference:
    """Compare the cached bars of some spans with those of an archive. Errors: see `open_rows`.

    Parameters
    ----------
    folder : CacheFolder
    spans : iterable of Span
    table : KlineTable
        The bars of the archive.
    others : sequence of Source
        Other sources of the cached bars. Where there is one, bars that the archive lacks do not count.
    """
    difference = BarDifference()
    for span in spans:
        found = compare_tables(read_table(folder, table.series, span), rows_within(table, span))
        difference += found.without_removed() if narrow(others, span) else found
    return difference


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
    difference = BarDifference()
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
            difference += replaced
        else:
            return difference
    reason = f"its segments were replaced {CACHE_READ_ATTEMPTS_MAX} times while they were corrected; try again"
    raise CacheBusyError(str(folder.series_path(table.series)), reason)


def _replace_span(
    folder: CacheFolder, archive: CachedArchive, span: Span, found: Source, table: KlineTable
) -> BarDifference | None:
    """Replace the bars of one span. None where other segments win there by now."""
    series = table.series
    rows = rows_within(table, span)
    try:
        before = read_table(folder, series, span)
    except NotCachedError:
        return None
    difference = compare_tables(before, rows)
    others = narrow(archive.others, span)
    if others:
        # Bars that the archive lacks may have come from another source: they stay.
        difference = difference.without_removed()
        rows = merge_tables(series, [rows, before]).table
    absences = narrow(archive.absences, span)
    published = SeriesStore(folder, series).put_in_place(
        resolve(span, archive.segments),
        rows,
        span,
        sources=[*narrow([found], span), *others],
        absences=absences,
        recheck_ms=earliest_recheck_ms(absences),
    )
    return None if published is None else difference

"""The archives that bars of a series came from: what of each still speaks, and correcting it in the cache."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from ckvd.cache.resolution import resolve
from ckvd.cache.rows import read_table
from ckvd.cache.store import SeriesStore
from ckvd.errors import CacheBusyError, NotCachedError
from ckvd.maintenance.bar_difference import BarDifference, compare_tables, unite_tables
from ckvd.maintenance.inventory import describe_segments
from ckvd.model.calendar import Cadence
from ckvd.model.provenance import Absence, Origin, Source, earliest_recheck_ms, narrow
from ckvd.model.table import KlineTable, rows_within
from ckvd.model.timespan import Span, union
from ckvd.utils.config import CACHE_READ_ATTEMPTS_MAX

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ckvd.cache.folder import CacheFolder, SegmentName
    from ckvd.model.market import SeriesKey

CADENCES: Final = {Origin.VISION_MONTHLY: Cadence.MONTHLY, Origin.VISION_DAILY: Cadence.DAILY}


@dataclass(frozen=True, slots=True)
class HeldArchive:
    """An archive that bars of the cache came from.

    Attributes
    ----------
    name : str
        Its path.
    parts : tuple of Source
        Each part of it that speaks, in order. They may come from several versions of it.
    others : tuple of Source
        Other sources of bars in the same spans.
    absences : tuple of Absence
        Why bars are not there, of all the series.
    segments : tuple of SegmentName
        Those that the series had then.
    """

    name: str
    parts: tuple[Source, ...]
    others: tuple[Source, ...]
    absences: tuple[Absence, ...]
    segments: tuple[SegmentName, ...]

    @property
    def origin(self) -> Origin:
        """Whether it is a monthly or a daily one."""
        return self.parts[0].origin

    @property
    def spans(self) -> tuple[Span, ...]:
        """Where it speaks, disjoint and in order."""
        return union(part.span for part in self.parts)

    def spans_to_correct(self, sha256: str) -> tuple[Span, ...]:
        """Where another version of it speaks than the one with a hash."""
        return union(part.span for part in self.parts if part.sha256 != sha256)


def list_held_archives(folder: CacheFolder, series: SeriesKey) -> list[HeldArchive]:
    """Every archive that bars of a series came from and that still speaks, in order.

    Raises
    ------
    CacheError
        The folder cannot be listed, or its segments are replaced again and again.
    """
    described = describe_segments(folder, series)
    parts: dict[str, list[Source]] = {}
    absences: list[Absence] = []
    for segment in described:
        for span in segment.held:
            absences += narrow(segment.absences, span)
            for source in narrow(segment.sources, span):
                parts.setdefault(source.name, []).append(source)
    names = tuple(segment.name for segment in described)
    held = []
    for name, mine in parts.items():
        if mine[0].origin in CADENCES:
            spans = union(part.span for part in mine)
            beside = (part for other, found in parts.items() if other != name for part in found)
            others = tuple(part for part in beside if any(part.span.overlaps(span) for span in spans))
            held.append(HeldArchive(name, tuple(mine), others, tuple(absences), names))
    return sorted(held, key=lambda one: (one.spans, one.name))


def compare(folder: CacheFolder, held: HeldArchive, table: KlineTable) -> BarDifference:
    """Compare an archive with the bars of the spans in which it speaks.

    Raises
    ------
    SegmentError, CacheError
        A segment cannot be used.
    NotCachedError
        The cache does not speak of a span any more.
    """
    difference = BarDifference()
    for span in held.spans:
        found = compare_tables(read_table(folder, table.series, span), rows_within(table, span))
        difference += _without_removed(found) if narrow(held.others, span) else found
    return difference


def compare_spans(folder: CacheFolder, spans: Iterable[Span], table: KlineTable) -> BarDifference:
    """Compare an archive with the bars of some spans, wherever they came from. Errors: see `compare`."""
    difference = BarDifference()
    for span in spans:
        difference += compare_tables(read_table(folder, table.series, span), rows_within(table, span))
    return difference


def _without_removed(found: BarDifference) -> BarDifference:
    """What the archive lacks, another source may have brought."""
    return BarDifference(found.added, (), found.changed, found.added_count, 0, found.changed_count, found.columns)


def correct(folder: CacheFolder, held: HeldArchive, found: Source, table: KlineTable) -> BarDifference:
    """Put an archive as it is now in the place of what it was.

    What others publish meanwhile is kept: the cache is looked at anew until nothing came between.

    Parameters
    ----------
    folder : CacheFolder
    held : HeldArchive
    found : Source
        The archive as it is now.
    table : KlineTable
        Its bars.

    Returns
    -------
    BarDifference
        Between what was replaced and what is there now.

    Raises
    ------
    CacheBusyError
        Others kept changing the series. What was corrected before stays.
    SegmentError, CacheError
        A segment cannot be used, or the cache not be written.
    """
    difference = BarDifference()
    for _ in range(CACHE_READ_ATTEMPTS_MAX):
        left = [
            (now, span)
            for now in list_held_archives(folder, table.series)
            if now.name == held.name
            for span in now.spans_to_correct(found.sha256)
        ]
        for now, span in left:
            corrected = _correct_span(folder, now, span, found, table)
            if corrected is None:
                break
            difference += corrected
        else:
            return difference
    reason = f"its segments were replaced {CACHE_READ_ATTEMPTS_MAX} times while they were corrected; try again"
    raise CacheBusyError(str(folder.series_path(table.series)), reason)


def _correct_span(
    folder: CacheFolder, held: HeldArchive, span: Span, found: Source, table: KlineTable
) -> BarDifference | None:
    """Correct a span; None where the cache has changed since the archive was seen to speak in it."""
    series = table.series
    rows = rows_within(table, span)
    try:
        before = read_table(folder, series, span)
    except NotCachedError:
        return None
    difference = compare_tables(before, rows)
    others = narrow(held.others, span)
    if others:
        difference = _without_removed(difference)
        rows = KlineTable(series, unite_tables(series, before, rows), {**before.decimals, **rows.decimals})
    absences = narrow(held.absences, span)
    published = SeriesStore(folder, series).put_in_place(
        resolve(span, held.segments),
        rows,
        span,
        sources=[*narrow([found], span), *others],
        absences=absences,
        recheck_ms=earliest_recheck_ms(absences),
    )
    return None if published is None else difference

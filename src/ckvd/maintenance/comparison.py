"""Comparing cached bars with those of another source: daily archives, the REST interface, or shorter bars.

It changes nothing. A monthly archive may be complete, and confirmed by its CHECKSUM, and still have wrong cells.
Only another source shows that. Which of the two is right is for people to judge: `ckvd.maintenance.preference`
stores what they prefer.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Final

import numpy as np

from ckvd.acquisition.completion.scope import inner_seconds
from ckvd.acquisition.derive import finer_series
from ckvd.acquisition.ingest import fetch_table
from ckvd.cache.download_folder import download_folder
from ckvd.cache.kline_cache import KlineCache
from ckvd.cache.rows import read_contents
from ckvd.cache.selection import EVERYTHING
from ckvd.concurrency.work import in_thread, run_together
from ckvd.errors import FATAL_ERRORS, CkvdError, IdentityError, InvalidSymbolError, containing
from ckvd.maintenance.audit import list_by_path
from ckvd.maintenance.bar_difference import BarDifference, compare_tables, rows_where
from ckvd.maintenance.inventory import describe_segments
from ckvd.model.calendar import Cadence, days_of, months_of
from ckvd.model.market import DAY_MS, Kind
from ckvd.model.provenance import Origin, narrow
from ckvd.model.record import Record
from ckvd.model.schema import has_daily_archives, schema_of
from ckvd.model.settlements import settled_times
from ckvd.model.table import NOT_COMPARED, KlineTable, empty_table, fields_of, rows_within
from ckvd.model.timespan import Span, difference, union

if TYPE_CHECKING:
    from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterable, Mapping, Sequence
    from pathlib import Path

    from ckvd.acquisition.ingest import ReadArchive
    from ckvd.cache.folder import CacheFolder
    from ckvd.cache.selection import SeriesFilter
    from ckvd.model.market import SeriesKey
    from ckvd.model.provenance import Source
    from ckvd.rest.rest_data_client import RestDataClient
    from ckvd.vision.name import ArchiveName
    from ckvd.vision.source import ArchiveSource

# A sum of cells with more than eight digits after the point, or of very large ones, is off by at most this,
# relative to it: see `ckvd.bars.decimal_sums`.
_SUM_ROUNDING: Final = 2.0**-47
_PRICES: Final = ("open", "high", "low", "close")
# Shorter bars tell no exact time: a bar may have opened late.
_NOT_MADE: Final = frozenset({"open_time", "close_time", *NOT_COMPARED})


class Against(StrEnum):
    """What cached bars are compared with."""

    DAYS = "days"  # daily archives, where the bars came from other sources
    REST = "rest"  # the REST interface, where the bars came from archives
    FINER = "finer"  # shorter bars of the cache: an hour against its minutes; only of bars


class Agreement(StrEnum):
    """How cached bars compare with those of another source."""

    AGREES = "agrees"
    DIFFERS = "differs"  # bars have other cells, or the cache lacks bars
    ABSENT = "absent"  # there is nothing to compare with
    FAILED = "failed"  # the other source was not read


@dataclass(frozen=True, slots=True)
class Comparison(Record):
    """Cached bars of a span, compared with those of another source.

    Attributes
    ----------
    series : SeriesKey
    span : Span
        From the first moment that was compared to the last.
    against : Against
    other : str
        The other source: the path of an archive, `rest`, or the series of the shorter bars.
    agreement : Agreement
    cached_from : tuple of str
        The names of the sources of the cached bars.
    bar_count : int
        How many cached bars were compared.
    difference : BarDifference
        From the cached bars to those of the other source. Bars that the other source lacks are among it, and are no
        reason to differ.
    is_stored : bool
        Whether the bars of the other source were stored.
    message : str
        What was not compared, and why.
    """

    series: SeriesKey
    span: Span
    against: Against
    other: str
    agreement: Agreement
    cached_from: tuple[str, ...] = ()
    bar_count: int = 0
    difference: BarDifference = field(default_factory=BarDifference)
    is_stored: bool = False
    message: str = ""


def is_well(comparisons: Sequence[Comparison]) -> bool:
    """Whether something was compared, nothing failed, and what differed was stored."""
    return any(one.bar_count for one in comparisons) and all(
        one.is_stored or one.agreement in (Agreement.AGREES, Agreement.ABSENT) for one in comparisons
    )


@dataclass(frozen=True, slots=True, eq=False)
class OtherBars:
    """What another source has of a part of a series.

    Attributes
    ----------
    against : Against
    name : str
        See `Comparison.other`.
    spans : tuple of Span
        What is compared, disjoint and in order.
    table : KlineTable
        Its bars. Of shorter bars, those that they make: only `columns` of them, and by the grid.
    sources : tuple of Source
    columns : sequence of str or None
        The columns that are compared; None for all but those of `NOT_COMPARED`.
    """

    against: Against
    name: str
    spans: tuple[Span, ...]
    table: KlineTable
    sources: tuple[Source, ...] = ()
    columns: Sequence[str] | None = None

    @property
    def span(self) -> Span:
        """From the first moment that is compared to the last."""
        return Span(self.spans[0].start_ms, self.spans[-1].end_ms)

    @property
    def rounding(self) -> Mapping[str, float]:
        """How much cells may differ because they were computed."""
        if self.against is not Against.FINER:
            return {}
        return {name: _SUM_ROUNDING for name in self.columns or () if name not in _PRICES}


async def compare_cache(
    folder: CacheFolder,
    against: Against,
    chosen: SeriesFilter = EVERYTHING,
    span: Span | None = None,
    *,
    archives: ArchiveSource | None = None,
    rest: RestDataClient | None = None,
    refuse: Callable[[CkvdError], None] | None = None,
) -> AsyncIterator[Comparison]:
    """Compare cached bars with those of another source.

    Parameters
    ----------
    folder : CacheFolder
    against : Against
    chosen : SeriesFilter
    span : Span, optional
        On whole seconds. Bars outside of it are not compared.
    archives : ArchiveSource, optional
        Needed for `Against.DAYS`.
    rest : RestDataClient, optional
        Needed for `Against.REST`.
    refuse : callable, optional
        Called with the error of each series or folder that cannot be read; the others are compared all the same.

    Yields
    ------
    Comparison
        In order of series and time: one for each day, or for each month and other source. What cannot be compared
        has one as well.

    Raises
    ------
    CacheError, SegmentError
        The cache cannot be read, and there is no `refuse`.
    ClientClosedError
        The other source was closed.
    """
    others = find_other_bars(folder, against, chosen, span, archives=archives, rest=rest, refuse=refuse)
    async for one in each_compared(folder, others, compare_bars, refuse):
        yield one


async def each_compared(
    folder: CacheFolder,
    others: AsyncIterable[tuple[SeriesKey, OtherBars | Comparison]],
    work: Callable[[CacheFolder, SeriesKey, OtherBars], Comparison],
    refuse: Callable[[CkvdError], None] | None,
) -> AsyncIterator[Comparison]:
    """Do some work in a thread for each span of other bars, see `find_other_bars`. Errors: see `compare_cache`."""
    async for series, found in others:
        if isinstance(found, Comparison):
            yield found
            continue
        done = []
        with containing(refuse):
            done.append(await in_thread(work, folder, series, found))
        for one in done:
            yield one


def compare_bars(folder: CacheFolder, series: SeriesKey, other: OtherBars) -> Comparison:
    """Compare the cached bars of some spans with those of another source. Errors: see `open_rows`."""
    total, bar_count, names = BarDifference(), 0, dict[str, None]()
    for span in other.spans:
        contents = read_contents(folder, series, span, verify="never")
        held = contents.table
        if other.against is Against.FINER:
            held = _by_slot(held, other.table)
        for part in contents.covered:
            rows = at_held_times(rows_within(other.table, part), held)
            total += compare_tables(rows_within(held, part), rows, other.columns, rounding=other.rounding)
        bar_count += held.row_count
        names.update(dict.fromkeys(source.name for source in contents.sources))
    is_different = total.changed_count or total.added_count
    return Comparison(
        series,
        other.span,
        other.against,
        other.name,
        Agreement.DIFFERS if is_different else Agreement.AGREES,
        tuple(names),
        bar_count,
        total,
    )


def at_held_times(rows: KlineTable, held: KlineTable) -> KlineTable:
    """Rows of another source, with the times of the settlements that are held already. Bars stay as they are.

    Sources may tell the delay of one settlement differently, and the REST interface does not tell its interval.
    """
    if rows.series.kind is not Kind.FUNDING_RATE or not (rows.row_count and held.row_count):
        return rows
    settled, known = settled_times(rows.open_time), settled_times(held.open_time)
    place = np.searchsorted(known, settled)
    is_held = np.diff(settled, prepend=settled[:1] - 1) > 0
    is_held &= place < len(known)
    is_held[is_held] = known[place[is_held]] == settled[is_held]
    same = place[is_held]
    columns = {name: column.copy() for name, column in rows.columns.items()}
    columns["open_time"][is_held] = held.open_time[same]
    hours, held_hours = columns["interval_hours"], held.column("interval_hours")
    hours[is_held] = np.where(hours[is_held] == 0, held_hours[same], hours[is_held])
    return KlineTable(rows.series, columns, rows.decimals)


async def find_other_bars(
    folder: CacheFolder,
    against: Against,
    chosen: SeriesFilter = EVERYTHING,
    span: Span | None = None,
    *,
    archives: ArchiveSource | None = None,
    rest: RestDataClient | None = None,
    refuse: Callable[[CkvdError], None] | None = None,
) -> AsyncIterator[tuple[SeriesKey, OtherBars | Comparison]]:
    """Read what another source has of cached bars. Parameters and errors: see `compare_cache`.

    Yields
    ------
    SeriesKey, OtherBars or Comparison
        A series, with bars of the other source; or with a comparison that says why there are none.
    """
    if span is not None and (span.start_ms % 1000 or span.end_ms % 1000):
        raise ValueError(f"segments start and end on whole seconds, so cannot be cut at {span}")
    with download_folder(folder) as place:
        for series in chosen.choose(folder, refuse):
            spans: tuple[Span, ...] = ()
            with containing(refuse):
                spans = await in_thread(_spans_to_compare, folder, series, span, against)
            if not spans:
                continue
            if against is Against.FINER:
                found: AsyncIterator[OtherBars | Comparison] = _Finer(folder, series, spans).read()
            elif against is Against.DAYS:
                assert archives is not None, "daily archives have a source"
                found = _Days(archives, place, series, spans).read()
            else:
                assert rest is not None, "the REST interface has a client"
                found = _read_rest(rest, series, spans)
            async for one in found:
                yield series, one


def _spans_to_compare(
    folder: CacheFolder, series: SeriesKey, within: Span | None, against: Against
) -> tuple[Span, ...]:
    """Where cached bars came from other sources than those that they are to be compared with."""
    origin = {Against.DAYS: Origin.VISION_DAILY, Against.REST: Origin.REST}.get(against)
    spans: list[Span] = []
    for segment in describe_segments(folder, series, is_strict=True):
        # A segment of neither says only why there is nothing.
        for held in segment.held if segment.row_count or segment.sources else ():
            part = held if within is None else held.intersection(within)
            sources = narrow(segment.sources, part) if part else []
            same = [source.span for source in sources if source.origin is origin]
            others = [source.span for source in sources if source.origin is not origin]
            spans += difference([part], difference(same, others))
    return union(spans)


def _nothing(
    series: SeriesKey,
    spans: Sequence[Span],
    against: Against,
    message: str,
    *,
    other: str = "",
    agreement: Agreement = Agreement.ABSENT,
) -> Comparison:
    """The comparison of spans for which the other source has nothing to show."""
    return Comparison(series, Span(spans[0].start_ms, spans[-1].end_ms), against, other, agreement, message=message)


# --- Daily archives ----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Days:
    """Daily archives of a series."""

    archives: ArchiveSource
    place: Path
    series: SeriesKey
    spans: tuple[Span, ...]

    async def read(self) -> AsyncIterator[OtherBars | Comparison]:
        """Read the archive of each day that is listed, a month at a time."""
        series = self.series
        if not has_daily_archives(series):
            message = f"{series} has no daily archives"
            yield _nothing(series, self.spans, Against.DAYS, message)
            return
        listed = await list_by_path(self.archives, series, Cadence.DAILY)
        if isinstance(listed, str):
            yield _nothing(series, self.spans, Against.DAYS, listed, agreement=Agreement.FAILED)
            return
        names = {archive.name.period: archive.name for archive in listed.values()}
        unlisted: list[Span] = []
        for month in months_of(Span(self.spans[0].start_ms, self.spans[-1].end_ms)):
            parts = {day: _parts(self.spans, day.span) for day in days_of(month.span)}
            unlisted += [day.span for day, found in parts.items() if found and day not in names]
            wanted = [(names[day], found) for day, found in parts.items() if found and day in names]
            read = await run_together([self._fetch(name) for name, _ in wanted])
            for (name, found), archive in zip(wanted, read, strict=True):
                if isinstance(archive, str):
                    yield _nothing(
                        series, found, Against.DAYS, archive, other=name.path, agreement=Agreement.FAILED
                    )
                else:
                    yield OtherBars(Against.DAYS, name.path, found, archive.table, (archive.source,))
        if unlisted:
            days = "1 day has" if len(unlisted) == 1 else f"{len(unlisted)} days have"
            message = f"{days} no daily archive"
            yield _nothing(series, unlisted, Against.DAYS, message)

    async def _fetch(self, name: ArchiveName) -> ReadArchive | str:
        """Read one archive, or say why not: it does not keep the others from being compared."""
        try:
            return await fetch_table(self.archives, name, self.place) or "listed, and not there"
        except FATAL_ERRORS:
            raise
        except CkvdError as error:
            return str(error)


def _parts(spans: Iterable[Span], within: Span) -> tuple[Span, ...]:
    return tuple(span.intersection(within) for span in spans if span.overlaps(within))


# --- The REST interface ------------------------------------------------------------------------------------


async def _read_rest(
    rest: RestDataClient, series: SeriesKey, spans: Sequence[Span]
) -> AsyncIterator[OtherBars | Comparison]:
    """Ask the REST interface for each month of the spans. After a refusal it is not asked any more."""
    if not schema_of(series).has_rest:
        yield _nothing(series, spans, Against.REST, f"the REST interface has no history of {series.kind}")
        return
    # It answers in milliseconds. Of settlements it does not say the interval, and archives do not say the price.
    columns = [name for name in fields_of(series) if name not in NOT_COMPARED]
    columns = columns if series.kind.is_bars else ["rate"]
    for position, span in enumerate(spans):
        for month in months_of(span):
            asked = month.span.intersection(span)
            left = [Span(asked.start_ms, span.end_ms), *spans[position + 1 :]]
            try:
                answer = await rest.fetch(series, asked)
            except FATAL_ERRORS:
                raise
            except InvalidSymbolError as error:
                yield _nothing(series, left, Against.REST, str(error))
                return
            except CkvdError as error:
                yield _nothing(
                    series, left, Against.REST, str(error), other=Against.REST, agreement=Agreement.FAILED
                )
                return
            answered = inner_seconds(answer.span)
            # Day by day, so that a day that agrees is not stored with others that differ.
            days = (day.span for day in days_of(answered)) if has_daily_archives(series) else (answered,)
            parts = tuple(filter(None, (day.intersection(answered) for day in days)))
            if parts:
                yield OtherBars(Against.REST, Against.REST.value, parts, answer.table, answer.sources, columns)


# --- Shorter bars ------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Finer:
    """Shorter bars of the cache, as the longer bars that they make."""

    folder: CacheFolder
    series: SeriesKey
    spans: tuple[Span, ...]

    async def read(self) -> AsyncIterator[OtherBars | Comparison]:
        """Read the shortest bars that are complete, a month at a time."""
        if not self.series.kind.is_bars:
            message = f"{self.series.kind} are not made of shorter bars"
            yield _nothing(self.series, self.spans, Against.FINER, message)
            return
        held = set(self.folder.series())
        finer = [series for series in reversed(finer_series(self.series)) if series in held]
        left_count = 0
        for span in self.spans:
            for month in months_of(span):
                found, count = await in_thread(self._read_month, finer, month.span.intersection(span))
                left_count += count
                for other in found:
                    yield other
        if left_count:
            bars = "1 bar has" if left_count == 1 else f"{left_count} bars have"
            message = f"{bars} no complete run of shorter bars in the cache"
            yield _nothing(self.series, self.spans, Against.FINER, message)

    def _read_month(self, finer: Sequence[SeriesKey], span: Span) -> tuple[list[OtherBars], int]:
        """What shorter bars make of the bars of a span, and how many bars they do not make."""
        held = read_contents(self.folder, self.series, span, verify="never").table
        left_count = held.row_count
        found = []
        done = np.empty(0, np.int64)
        for series in finer:
            made = self._make_bars(series, span)
            made = rows_where(made, np.isin(made.open_time, done, invert=True))
            if made.row_count:
                found.append(OtherBars(Against.FINER, str(series), (span,), made, columns=self._columns))
                done = np.union1d(done, made.open_time)
                left_count -= _by_slot(held, made).row_count
        return found, left_count

    @property
    def _columns(self) -> Sequence[str]:
        """Prices, and sums where volumes mean something."""
        if self.series.kind is not Kind.KLINES:
            return _PRICES
        return [name for name in fields_of(self.series) if name not in _NOT_MADE]

    def _make_bars(self, finer: SeriesKey, span: Span) -> KlineTable:
        """The bars that open in a span and of which no shorter bar is missing."""
        # The last of them ends after the span, a month at most.
        whole = Span(span.start_ms, span.end_ms + 31 * DAY_MS)
        names = ("open_time", "close_time", *self._columns)
        try:
            with KlineCache(self.folder.root) as cache:
                bars = cache.read_series(finer, whole, missing="ignore").resample(self.series.bar_interval)
                table = KlineTable(self.series, {name: bars[name] for name in names}, {})
                return rows_within(rows_where(table, bars.complete), span)
        except IdentityError:
            return empty_table(self.series)  # nothing tells where such bars open


def _by_slot(table: KlineTable, made: KlineTable) -> KlineTable:
    """The bars that shorter bars make as well, with the open times of those. Of two in one slot there is none."""
    slot = np.searchsorted(made.open_time, table.open_time, side="right") - 1
    is_made = slot >= 0
    is_made[is_made] = table.open_time[is_made] <= made.column("close_time")[slot[is_made]]
    slots, counts = np.unique(slot[is_made], return_counts=True)
    is_made &= np.isin(slot, slots[counts == 1])
    found = rows_where(table, is_made)
    return KlineTable(table.series, {**found.columns, "open_time": made.open_time[slot[is_made]]}, {})

"""Which missing bars to look up in other sources, and why the rest is missing. Pure.

The bars of an archive are counted against the grid. A short day is looked up in its daily archive, if a monthly one
was short, or in the monthly one, if the daily one was, and then in the REST interface. What no source has becomes
an absence with a reason and a time to ask again, so that requests are not repeated for nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from ckvd.model.calendar import Cadence, Period, days_of, months_of, publication_ms
from ckvd.model.gaps import find_gaps
from ckvd.model.market import DAY_MS, HOUR_MS
from ckvd.model.provenance import Absence, Origin, Reason
from ckvd.model.settlements import find_missing_settlements
from ckvd.model.timespan import Span, difference, union

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    import numpy as np
    import numpy.typing as npt

    from ckvd.acquisition.completion.extent import ArchiveExtent
    from ckvd.model.grid import Grid
    from ckvd.model.market import Interval
    from ckvd.model.provenance import Source
    from ckvd.model.table import Times

_RECHECK_FIRST_MS: Final = 6 * HOUR_MS
# Archives were seen to be repaired within weeks; an older hole stays.
_HALT_SETTLED_AFTER_MS: Final = 90 * DAY_MS
# Bars between two gaps up to which one request for both is cheaper than two.
_JOINED_BARS_MAX: Final = 400
_LACKING_IN_ARCHIVES: Final = (Reason.NOT_IN_ARCHIVE, Reason.NO_ARCHIVE)


@dataclass(frozen=True, slots=True)
class Shortfall:
    """A short part of a series, to be looked up in other sources.

    Attributes
    ----------
    span : Span
        What is stored anew: the covered part of a day, or the gap itself where bars are longer than a day. Of
        events it is the covered part of a month.
    archives : tuple of Period
        The archives to look into first: the daily one, the monthly one, or both.
    """

    span: Span
    archives: tuple[Period, ...]


@dataclass(frozen=True, slots=True)
class Listing:
    """When a series began.

    Attributes
    ----------
    first_open_ms : int
        When its first bar opened.
    is_certain : bool
        Whether the exchange confirms it. If not, earlier bars may exist.
    """

    first_open_ms: int
    is_certain: bool


def find_shortfalls(
    open_time: Times,
    covered: Sequence[Span],
    grid: Grid,
    *,
    wanted: Span,
    sources: Sequence[Source],
    absences: Sequence[Absence],
    now_ms: int,
    use_rest: bool,
    refresh: bool = False,
    cadences: Sequence[Cadence] = tuple(Cadence),
    hours: npt.NDArray[np.int64] | None = None,
) -> tuple[Shortfall, ...]:
    """Find the missing bars or settlements that some source was not asked for.

    Parameters
    ----------
    open_time : ndarray of int64
        The bars that exist, ascending.
    covered : sequence of Span
        What archives and requests already covered, disjoint and in order. A shortfall lies in one of them: nothing
        is known of what is beyond, such as the rest of a day that is not over.
    grid : Grid
        That of the series.
    wanted : Span
        Where bars are wanted.
    sources, absences : sequence
        What is known of the span so far.
    now_ms : int
    use_rest : bool
        Whether the REST interface may be asked.
    refresh : bool
        Ask again now for all that was unavailable, and not only for what is due.
    cadences : sequence of Cadence
        Which archives the series has.
    hours : ndarray of int64, optional
        Of settlements, the hours that sources give for each: see `find_missing_settlements`.

    Returns
    -------
    tuple of Shortfall
        In order of time, disjoint.
    """
    months = [source.span for source in sources if source.origin is Origin.VISION_MONTHLY]
    days = [source.span for source in sources if source.origin is Origin.VISION_DAILY]

    def is_settled(absence: Absence) -> bool:
        if absence.reason is Reason.ARCHIVE_DAMAGED and not any(map(absence.span.overlaps, months)):
            return True  # it is asked for again together with the bars beside it
        is_due = 0 < absence.recheck_ms <= now_ms
        is_final = absence.reason.is_answer and not absence.reason.is_of_archives
        return not is_due and (is_final or not refresh)

    settled = [absence for absence in absences if is_settled(absence)]
    expected = [part.intersection(wanted) for part in covered]
    if not use_rest:
        # What is missing among bars of the REST interface has its reason, and archives tell nothing of it.
        expected = [part.intersection(read) for part in expected for read in union([*months, *days])]
    is_by_day = Cadence.DAILY in cadences
    if hours is None:
        gaps = find_gaps(open_time, expected, grid, settled, unexplained=Reason.NOT_FETCHED)
    else:
        gaps = find_missing_settlements(open_time, hours, expected, settled, unexplained=Reason.NOT_FETCHED)
    # The REST interface was not asked for what both archives lack if it was not allowed at that time.
    unasked = [
        gap
        for gap in gaps
        if gap.reason is Reason.NOT_FETCHED
        or (use_rest and (gap.reason in _LACKING_IN_ARCHIVES or gap.reason.is_of_archives))
    ]
    # By span, the gaps in it for which archives may be asked.
    found: dict[Span, list[Span]] = {}
    for gap in unasked:
        # The last bar of a gap may end after the covered part; it opens within.
        part = next(part for part in covered if gap.start_ms in part)
        for period in _stored_anew(gap.span, is_by_day=is_by_day, is_of_events=grid.is_of_events):
            if period.overlaps(part):
                span = period.intersection(part)
                unread = found.setdefault(span, [])
                if gap.reason is Reason.NOT_FETCHED:
                    unread.append(gap.span.intersection(span))
    return tuple(
        Shortfall(span, _archives_of(span, unread, months, days, now_ms) if unread and len(cadences) > 1 else ())
        for span, unread in found.items()
    )


def _stored_anew(gap: Span, *, is_by_day: bool, is_of_events: bool) -> list[Span]:
    """The spans that are stored anew to fill a gap."""
    if is_by_day:
        return [day.span for day in days_of(gap)]
    return [month.span for month in months_of(gap)] if is_of_events else [gap]


def _archives_of(
    span: Span, gaps: Sequence[Span], months: Sequence[Span], days: Sequence[Span], now_ms: int
) -> tuple[Period, ...]:
    """The archives that may have what is missing in a day. A series of one cadence has no other archive of it.

    The daily one if bars of the day came from a monthly one. The monthly one if bars came from the daily one, and
    it was not read where bars are missing.
    """
    ((day,), (month,)) = days_of(span), months_of(span)
    is_of_month = any(map(day.span.overlaps, months))
    is_of_day = any(map(day.span.overlaps, days))
    wanted = [(day, is_of_month), (month, is_of_day and bool(difference(gaps, months)))]
    return tuple(period for period, is_wanted in wanted if is_wanted and publication_ms(period) <= now_ms)


def join_requests(spans: Iterable[Span], interval: Interval | None) -> tuple[Span, ...]:
    """Join spans where asking for the bars between them costs less than another request.

    Of settlements there is at most one an hour.
    """
    step_ms = HOUR_MS if interval is None else interval.fixed_ms or 31 * DAY_MS
    reach_ms = _JOINED_BARS_MAX * step_ms
    joined: list[Span] = []
    for span in union(spans):
        if joined and span.start_ms - joined[-1].end_ms <= reach_ms:
            joined[-1] = Span(joined[-1].start_ms, span.end_ms)
        else:
            joined.append(span)
    return tuple(joined)


def recheck_ms(span: Span, now_ms: int) -> int:
    """When to ask again for bars that may still appear: the older they are, the later."""
    return now_ms + max(_RECHECK_FIRST_MS, (now_ms - span.end_ms) // 4)


def provisional_recheck_ms(span: Span, now_ms: int, cadences: Sequence[Cadence] = tuple(Cadence)) -> int:
    """When the archive of provisional bars may exist: at its publication, or later if that has passed.

    Parameters
    ----------
    span : Span
    now_ms : int
    cadences : sequence of Cadence
        Which archives the series has.
    """
    published_ms = _publication_ms(span, cadences)
    return published_ms if published_ms > now_ms else recheck_ms(span, now_ms)


def _publication_ms(span: Span, cadences: Sequence[Cadence]) -> int:
    """When the archive of the last day of a span is published; of its month where there are none of days."""
    last = Span(span.end_ms - 1, span.end_ms)
    (period,) = days_of(last) if Cadence.DAILY in cadences else months_of(last)
    return publication_ms(period)


def explain_without_rest(
    span: Span,
    now_ms: int,
    extent: ArchiveExtent | None = None,
    *,
    is_listing_read: bool = False,
    cadences: Sequence[Cadence] = tuple(Cadence),
) -> tuple[Absence, ...]:
    """Why bars are missing that no archive covers, where only archives may be asked, and all were asked for.

    Parameters
    ----------
    span : Span
    now_ms : int
    extent : ArchiveExtent or None
        Where archives begin and end; None where that is unknown.
    is_listing_read : bool
        Whether the archives were listed.
    cadences : sequence of Cadence
        Which archives the series has.
    """
    outside, between = _explain_by_extent([span], extent, now_ms)
    for part in between:
        reason = Reason.NOT_PUBLISHED if _publication_ms(part, cadences) > now_ms else Reason.NO_ARCHIVE
        later_ms = provisional_recheck_ms(part, now_ms, cadences)
        outside.append(Absence(part.start_ms, part.end_ms, reason, later_ms, is_listing_read))
    return tuple(sorted(outside, key=lambda absence: absence.start_ms))


def _explain_by_extent(
    spans: Sequence[Span], extent: ArchiveExtent | None, now_ms: int
) -> tuple[list[Absence], tuple[Span, ...]]:
    """The absences before the first archive and after the last one, and the spans that are left."""
    if extent is None:
        return [], tuple(spans)
    found = [
        Absence(part.start_ms, part.end_ms, reason, recheck_ms(part, now_ms), is_listing_read=True)
        for span in spans
        for reason, part in (
            (Reason.BEFORE_ARCHIVES, extent.before(span)),
            (Reason.AFTER_ARCHIVES, extent.after(span, now_ms)),
        )
        if part
    ]
    return found, difference(spans, [absence.span for absence in found])


def explain(
    missing: Iterable[Span],
    *,
    listing: Listing | None,
    ended_ms: int | None,
    damaged: Sequence[Span],
    now_ms: int,
    was_rest_asked: bool,
    is_not_trading: bool = False,
    extent: ArchiveExtent | None = None,
    is_listing_read: bool = False,
) -> tuple[Absence, ...]:
    """Why bars that no source has are missing.

    Parameters
    ----------
    missing : iterable of Span
        Where bars are missing.
    listing : Listing or None
        When the series began; None where that is unknown.
    ended_ms : int or None
        From here on the series has no bar; None where that is unknown.
    damaged : sequence of Span
        Spans of damaged archives.
    now_ms : int
    was_rest_asked : bool
        Whether the REST interface was among the sources.
    is_not_trading : bool
        Whether the exchange does not trade the contract, and no source has a bar of it.
    extent : ArchiveExtent or None
        Where archives begin and end, where only archives were asked; None where that is unknown.
    is_listing_read : bool
        Whether the archives were listed.

    Returns
    -------
    tuple of Absence
        In order of time. Within a damaged archive only the time before a listing in the same period counts as
        "before listing": an archive from before the listing means that there were bars.
    """
    spans = list(missing)
    known = difference(spans, _lost_with(damaged, listing))
    listed = known if listing is None else difference(known, [Span(0, listing.first_open_ms)])
    absences = [
        # The archive exists, and may be repaired at any time.
        Absence(span.start_ms, span.end_ms, Reason.ARCHIVE_DAMAGED, now_ms + _RECHECK_FIRST_MS)
        for span in difference(spans, known)
    ]
    for span in difference(known, listed):
        is_settled = listing is not None and listing.is_certain and not any(map(span.overlaps, damaged))
        later_ms = 0 if is_settled else recheck_ms(span, now_ms)
        absences.append(Absence(span.start_ms, span.end_ms, Reason.BEFORE_LISTING, later_ms))
    if is_not_trading:
        soon_ms = now_ms + _RECHECK_FIRST_MS
        absences += [Absence(span.start_ms, span.end_ms, Reason.NOT_TRADING, soon_ms) for span in listed]
    elif was_rest_asked:
        absences += [_explain_listed(span, listing, ended_ms, now_ms) for span in listed]
    else:
        outside, between = _explain_by_extent(listed, extent, now_ms)
        absences += outside
        for span in between:
            later_ms = recheck_ms(span, now_ms)
            absences.append(Absence(span.start_ms, span.end_ms, Reason.NOT_IN_ARCHIVE, later_ms, is_listing_read))
    return tuple(sorted(absences, key=lambda absence: absence.start_ms))


def _lost_with(damaged: Sequence[Span], listing: Listing | None) -> tuple[Span, ...]:
    """The spans where bars are missing because of damaged archives, as far as is known."""
    if listing is None or not listing.is_certain:
        return union(damaged)
    first_ms = listing.first_open_ms
    return difference(damaged, [Span(period.start_ms, first_ms) for period in damaged if first_ms in period])


def _explain_listed(span: Span, listing: Listing | None, ended_ms: int | None, now_ms: int) -> Absence:
    later_ms = recheck_ms(span, now_ms)
    if ended_ms is not None and span.start_ms >= ended_ms:
        return Absence(span.start_ms, span.end_ms, Reason.AFTER_DELISTING, later_ms)
    # An exchange that forgot the symbol does not confirm that it had no such bar.
    is_settled = (listing is None or listing.is_certain) and now_ms - span.end_ms > _HALT_SETTLED_AFTER_MS
    return Absence(span.start_ms, span.end_ms, Reason.HALTED, 0 if is_settled else later_ms)

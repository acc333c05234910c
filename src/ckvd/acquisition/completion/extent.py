"""From the first bar that archives have to the last: `ArchiveExtent`, which the listing of the source tells. Pure.

Before the first archive and after the last one no archive has bars, and no hole of archives lies there. A listing
says so only if it is whole; without one the extent is unknown.

An archive that is listed and not in the cache may have bars anywhere in its period. Of one that is in the cache the
bars are known. So the extent begins with the first bar of the first archive, or with its period where it is not in
the cache, and ends likewise.

The last archive is the end only when the next one would have been published. Publication stalls for days, and files
of months appear up to the 13th of the next month.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final, NamedTuple

from ckvd.model.calendar import Cadence, Period, publication_ms
from ckvd.model.market import DAY_MS
from ckvd.model.timespan import Span

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

# Daily files were seen to appear several days late, those of months within the first half of the next month.
_STALLS_MAX_MS: Final = {Cadence.DAILY: 7 * DAY_MS, Cadence.MONTHLY: 14 * DAY_MS}
# A month that is cut short looks like a series that ended. Archives were seen to be repaired within weeks.
_REPAIRED_WITHIN_MS: Final = 90 * DAY_MS


class HeldPart(NamedTuple):
    """What the cache has of a period.

    Attributes
    ----------
    opens_ms : tuple of int
        The open times of its first bar and its last; empty without a bar.
    uncovered : tuple of Span
        The parts of the period that no segment covers. In order.
    """

    opens_ms: tuple[int, ...]
    uncovered: tuple[Span, ...]


@dataclass(frozen=True, slots=True)
class ArchiveExtent:
    """Where a series has bars in archives, from the first to the last.

    Attributes
    ----------
    begin_ms : int
        No archive has a bar that opens earlier. On a whole second.
    end_ms : int
        No archive has a bar that opens at or after this. On a whole second.
    settled_ms : int or None
        From this time on the end is one: an archive of later bars would have been published. None where the source
        has stopped publishing such archives, although the series goes on.
    """

    begin_ms: int
    end_ms: int
    settled_ms: int | None

    def before(self, span: Span) -> Span:
        """The part of a span before the first archived bar."""
        return span.intersection(Span(0, self.begin_ms))

    def after(self, span: Span, now_ms: int) -> Span:
        """The part of a span after the last archived bar; empty while a later archive may still be published."""
        if self.settled_ms is None or now_ms < self.settled_ms:
            return Span(span.end_ms, span.end_ms)
        return span.intersection(Span(self.end_ms, max(self.end_ms, span.end_ms)))

    def without_end(self) -> ArchiveExtent:
        """The extent where the source has stopped publishing archives of a series that goes on."""
        return replace(self, settled_ms=None)


def extent_of(listed: Iterable[Period], held_part: Callable[[Span], HeldPart]) -> ArchiveExtent | None:
    """The extent of the archives of a series; None where there are none.

    Parameters
    ----------
    listed : iterable of Period
        All archives of the series, in any order.
    held_part : callable
        What the cache has of a span.
    """
    periods = sorted(listed)
    months = [period for period in periods if period.cadence is Cadence.MONTHLY]
    days = [period for period in periods if period.cadence is Cadence.DAILY]
    of_cadences = [found for found in (months, days) if found]
    if not of_cadences:
        return None
    firsts = [found[0].span for found in of_cadences]
    lasts = [found[-1].span for found in of_cadences]
    end_ms = max(_end_ms(span, held_part(span)) for span in lasts)
    return ArchiveExtent(
        begin_ms=min(_begin_ms(span, held_part(span)) for span in firsts),
        end_ms=end_ms,
        settled_ms=_settled_ms(months, days, end_ms),
    )


def _begin_ms(span: Span, held: HeldPart) -> int:
    """The earliest moment at which an archive of a period may have a bar."""
    opens_ms = [open_ms // 1000 * 1000 for open_ms in held.opens_ms[:1]]
    return min([*opens_ms, *(part.start_ms for part in held.uncovered[:1])], default=span.start_ms)


def _end_ms(span: Span, held: HeldPart) -> int:
    """The moment from which on an archive of a period has no bar."""
    opens_ms = [open_ms // 1000 * 1000 + 1000 for open_ms in held.opens_ms[-1:]]
    return max([*opens_ms, *(part.end_ms for part in held.uncovered[-1:])], default=span.end_ms)


def _settled_ms(months: list[Period], days: list[Period], end_ms: int) -> int:
    """When an archive that follows the last one would have been published.

    Days follow on days. A source that has no day of its last month is one of months only: then a month that ends
    early may be cut short, and is believed when it would have been repaired.
    """
    if days and (not months or days[-1].start_ms >= months[-1].start_ms):
        return _due_ms(days[-1])
    month = months[-1]
    is_short = end_ms < month.span.end_ms
    return max(_due_ms(month), month.span.end_ms + _REPAIRED_WITHIN_MS if is_short else 0)


def _due_ms(last: Period) -> int:
    """When the archive after the last one is published at the latest."""
    following = Period(last.span.end_ms, last.cadence)
    return publication_ms(following) + _STALLS_MAX_MS[last.cadence]

"""What all steps of a completion share: `Scope`, what to complete with which sources, and `Completed`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ckvd.cache.store import SeriesStore
from ckvd.model.calendar import months_of
from ckvd.model.grid import closed_part
from ckvd.model.impossible_bars import impossible_bars
from ckvd.model.market import DAY_MS
from ckvd.model.timespan import Span

if TYPE_CHECKING:
    from ckvd.cache.folder import CacheFolder
    from ckvd.model.grid import Grid
    from ckvd.model.market import SeriesKey
    from ckvd.model.table import KlineTable
    from ckvd.rest.rest_data_client import RestDataClient


@dataclass(frozen=True, slots=True)
class Scope:
    """One series in one span, and what may be used to complete it.

    Attributes
    ----------
    series : SeriesKey
    span : Span
        What is wanted, in whole seconds, without bars that are not closed.
    folder : CacheFolder
    rest : RestDataClient or None
        None where the REST interface may not be asked.
    now_ms : int
        The present.
    damaged : tuple of Span
        Spans of archives that this download found damaged.
    refresh : bool
        Ask again now for all that was unavailable, and not only for what is due.
    """

    series: SeriesKey
    span: Span
    folder: CacheFolder
    rest: RestDataClient | None
    now_ms: int
    damaged: tuple[Span, ...] = ()
    refresh: bool = False

    @property
    def store(self) -> SeriesStore:
        """Where bars are stored."""
        return SeriesStore(self.folder, self.series)


@dataclass(frozen=True, slots=True)
class Completed:
    """The outcome of one span.

    Attributes
    ----------
    span : Span
        What was to be stored; empty where there was nothing to store.
    is_stored : bool
        False where another writer changed the span meanwhile: it is to be looked at again.
    rest_bar_count : int
        Bars that the REST interface added.
    conflict_open_times : tuple of int
        Open times at which sources disagree, in milliseconds.
    impossible_open_times : tuple of int
        Open times of bars of the REST interface that no market can make, in milliseconds.
    """

    span: Span
    is_stored: bool
    rest_bar_count: int = 0
    conflict_open_times: tuple[int, ...] = ()
    impossible_open_times: tuple[int, ...] = ()


def impossible_times(table: KlineTable) -> tuple[int, ...]:
    """The open times of bars that no market can make."""
    return tuple(table.open_time[impossible_bars(table.column, table.series)].tolist())


def to_complete(span: Span, grid: Grid, now_ms: int) -> Span:
    """What to complete where a span is wanted: its whole seconds, without bars that are not closed.

    Of events it is whole months, as their archives are. Those of a few minutes alone say nothing: whether one is
    missing is told by those before and after.
    """
    if grid.is_of_events:
        span = whole_months(span)
    return closed_part(outer_seconds(span), grid, now_ms)


def whole_months(span: Span) -> Span:
    """The months that share a moment with a span; an empty span stays as it is."""
    months = list(months_of(span))
    return Span(months[0].span.start_ms, months[-1].span.end_ms) if months else span


def whole_days(span: Span) -> Span:
    """The days that share a moment with a span."""
    return Span(span.start_ms // DAY_MS * DAY_MS, -(-span.end_ms // DAY_MS) * DAY_MS)


def outer_seconds(span: Span) -> Span:
    """The whole seconds that share a moment with a span."""
    return Span(span.start_ms // 1000 * 1000, -(-span.end_ms // 1000) * 1000)


def inner_seconds(span: Span) -> Span:
    """The whole seconds of a span: what a segment can cover."""
    start_ms = -(-span.start_ms // 1000) * 1000
    return Span(start_ms, max(start_ms, span.end_ms // 1000 * 1000))

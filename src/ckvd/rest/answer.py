"""`RestAnswer`: the closed bars of a span, or the settlements of funding, from its pages. Pure.

Rows pass the same checks as those of archives, so that the bars of both sources are alike.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ckvd.decode.decode import Expected, decode_records, decode_rows
from ckvd.decode.records import RecordRows
from ckvd.decode.rows import RawRows
from ckvd.errors import ArchiveError, RestAnswerError
from ckvd.model.grid import Grid
from ckvd.model.provenance import Origin, Source
from ckvd.model.timespan import Span
from ckvd.rest.rows import join_rows, read_rows
from ckvd.rest.settlements import join_settlements
from ckvd.utils.config import REPORT_EXAMPLES_MAX

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ckvd.decode.decode import DecodedRows
    from ckvd.model.market import Interval, SeriesKey
    from ckvd.model.table import KlineTable, Times


@dataclass(frozen=True, slots=True, eq=False)
class Page:
    """One page.

    Attributes
    ----------
    span : Span
        The span that it covers: that of its request, without the parts left to other pages.
    rows : RawRows or RecordRows
        Of bars, or of settlements.
    url : str
    name : str
        The path and query of the request.
    date_ms : int or None
        When the exchange made it, by its own clock.
    request_count : int
        Requests that it took.
    """

    span: Span
    rows: RawRows | RecordRows
    url: str
    name: str
    date_ms: int | None
    request_count: int


@dataclass(frozen=True, slots=True, eq=False)
class RestAnswer:
    """The closed bars that the exchange has of a span, or the settlements that it has published for certain.

    Attributes
    ----------
    span : Span
        The span that the answer covers: the requested one, up to the first bar that may not have closed when the
        exchange answered. In this span the exchange has the bars of the table and no others. After it, nothing is
        known.
    table : KlineTable
        The closed bars that open in the span, each once, ascending.
    sources : tuple of Source
        One for each page, in order of time.
    request_count : int
        Requests that were sent, including repeated ones.
    """

    span: Span
    table: KlineTable
    sources: tuple[Source, ...]
    request_count: int


def assemble(series: SeriesKey, wanted: Span, pages: Sequence[Page], now_ms: int) -> RestAnswer:
    """Join the pages of a span.

    Parameters
    ----------
    series : SeriesKey
    wanted : Span
        The span that all pages together were asked for.
    pages : sequence of Page
        Their spans do not overlap.
    now_ms : int
        The present by this machine's clock, before the first request. A bar counts as closed only if it was closed
        by this clock and by the exchange's, so that neither clock, if it is ahead, lets a forming bar in.

    Raises
    ------
    RestAnswerError
        A time is invalid.
    """
    ordered = sorted(pages, key=lambda page: page.span)
    seen_ms = min([now_ms, *(page.date_ms for page in ordered if page.date_ms is not None)])
    try:
        decoded = _decode(series, wanted, ordered)
    except ArchiveError as error:
        url, row = _place_of(error.row or 1, ordered)
        raise RestAnswerError(url, error.reason, row=row) from None
    table = decoded.table
    closed_ms = Grid.of(series.interval).closed_end(seen_ms)
    if series.interval is None:
        count = int(np.searchsorted(table.open_time, closed_ms))
    else:
        count = closed_count(table.open_time, table.columns["close_time"], series.interval, seen_ms)
    end_ms = min(wanted.end_ms, closed_ms, *table.open_time[count : count + 1].tolist())
    span = Span(wanted.start_ms, max(wanted.start_ms, end_ms))
    return RestAnswer(
        span,
        table.rows(0, count),
        tuple(_source_of(page, span, decoded.impossible_open_times) for page in ordered),
        sum(page.request_count for page in ordered),
    )


def _decode(series: SeriesKey, wanted: Span, pages: Sequence[Page]) -> DecodedRows:
    """Decode the rows of all pages, which are in order."""
    expected = Expected(series, wanted, str(series), is_strict=True)
    rows = [page.rows for page in pages]
    if not series.kind.is_bars:
        return decode_records(join_settlements([one for one in rows if isinstance(one, RecordRows)]), expected)
    raw = [one for one in rows if isinstance(one, RawRows)]
    return decode_rows(join_rows(raw) if raw else read_rows(b"[]", ""), expected)


def closed_count(open_ms: Times, close_ms: Times, interval: Interval, now_ms: int) -> int:
    """The number of bars before the first that is not closed at a time.

    A bar is closed when its own close time has passed and its slot of the grid is over. Both matter: where trading
    was halted, the exchange has ended bars early.

    Parameters
    ----------
    open_ms, close_ms : ndarray of int64, shape (n,)
        Ascending by open time.
    interval : Interval
    now_ms : int
    """
    is_open = (close_ms >= now_ms) | (open_ms >= Grid.of(interval).closed_end(now_ms))
    return int(np.argmax(is_open)) if np.any(is_open) else len(open_ms)


def _place_of(row: int, pages: Sequence[Page]) -> tuple[str, int]:
    """The URL of the page that holds a row of all pages together, and the row's number in it, counted from 1."""
    for page in pages:
        if row <= page.rows.row_count:
            break
        row -= page.rows.row_count
    return page.url, row


def _source_of(page: Page, span: Span, impossible_open_times: Times) -> Source:
    used = page.span.intersection(span)
    first, stop = np.searchsorted(impossible_open_times, (used.start_ms, used.end_ms)).tolist()
    return Source(
        Origin.REST,
        page.name,
        used.start_ms,
        used.end_ms,
        row_count=page.rows.row_count,
        impossible_count=stop - first,
        impossible_open_times=tuple(impossible_open_times[first : min(stop, first + REPORT_EXAMPLES_MAX)].tolist()),
    )

"""`RestAnswer`: the pages of a span, put together. Pure.

Imports the checks that rows of archives go through, so that rows of both sources are one kind.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ckvd.decode.decode import Expected, decode_rows
from ckvd.errors import ArchiveError, RestAnswerError
from ckvd.model.calendar import grid_floor
from ckvd.model.provenance import Origin, Source
from ckvd.model.timespan import Span
from ckvd.rest.pages import closed_count
from ckvd.rest.rows import join_rows, read_rows

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ckvd.decode.rows import RawRows
    from ckvd.model.market import SeriesKey
    from ckvd.model.table import KlineTable


@dataclass(frozen=True, slots=True, eq=False)
class Page:
    """One page.

    Attributes
    ----------
    span : Span
        What it speaks of: what was asked for, but what is left of that to other pages.
    rows : RawRows
    url : str
    name : str
        The path and query of the request.
    date_ms : int or None
        When the exchange made it, by its own clock.
    request_count : int
        Requests that it took.
    """

    span: Span
    rows: RawRows
    url: str
    name: str
    date_ms: int | None
    request_count: int


@dataclass(frozen=True, slots=True, eq=False)
class RestAnswer:
    """What the exchange has of a span.

    Attributes
    ----------
    span : Span
        What the answer speaks of: the span that was asked for, as far as its bars were closed when the exchange
        answered. Where the table has no bar in it, the exchange has none. Of what lies after it nothing is known.
    table : KlineTable
        The closed bars that open in the span, each once, ascending.
    sources : tuple of Source
        One for each page, in order of time.
    request_count : int
        Requests that were sent, repeated ones included.
    """

    span: Span
    table: KlineTable
    sources: tuple[Source, ...]
    request_count: int


def assemble(series: SeriesKey, wanted: Span, pages: Sequence[Page], now_ms: int) -> RestAnswer:
    """Put pages together.

    Parameters
    ----------
    series : SeriesKey
    wanted : Span
        What the pages were asked for, all together.
    pages : sequence of Page
        Their spans have nothing in common.
    now_ms : int
        The present by this machine's clock, before the first page was asked for. A bar counts as closed when it
        was by this clock and by the exchange's: whichever is behind keeps a bar from being taken that still forms.

    Raises
    ------
    RestAnswerError
        A close time makes no sense.
    """
    ordered = sorted(pages, key=lambda page: page.span)
    seen_ms = min([now_ms, *(page.date_ms for page in ordered if page.date_ms is not None)])
    rows = join_rows([page.rows for page in ordered]) if ordered else read_rows(b"[]", "")
    try:
        decoded = decode_rows(rows, Expected(series, wanted, str(series)))
    except ArchiveError as error:
        raise RestAnswerError(ordered[0].url, error.reason, row=error.row) from None
    table = decoded.table
    count = closed_count(table.open_time, table.columns["close_time"], series.interval, seen_ms)
    end_ms = min(wanted.end_ms, grid_floor(seen_ms, series.interval), *table.open_time[count : count + 1].tolist())
    span = Span(wanted.start_ms, max(wanted.start_ms, end_ms))
    return RestAnswer(
        span,
        table.rows(0, count),
        tuple(_source_of(page, span) for page in ordered),
        sum(page.request_count for page in ordered),
    )


def _source_of(page: Page, span: Span) -> Source:
    used = page.span.intersection(span)
    return Source(Origin.REST, page.name, used.start_ms, used.end_ms, row_count=page.rows.row_count)

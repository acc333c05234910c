"""Going through a series block by block, with memory that does not grow: the order of it, and giving back.

Which segment speaks for what, and opening it, are passed in as functions.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from ckvd.bars.klines import Klines
from ckvd.errors import CacheBusyError
from ckvd.model.timespan import Span
from ckvd.utils.config import CACHE_READ_ATTEMPTS_MAX

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from ckvd.cache.resolution import Winner
    from ckvd.model.market import SeriesKey
    from ckvd.segment.reader import MappedRows

# Bars in a block: half a megabyte a column.
SCAN_ROWS: Final = 1 << 16


def scan_winners(
    series: SeriesKey,
    winners: Sequence[Winner],
    row_count: int,
    find: Callable[[Span], Sequence[Winner]],
    open_rows: Callable[[SeriesKey, Winner], MappedRows],
) -> Iterator[Klines]:
    """Go through the bars of segments.

    Parameters
    ----------
    series : SeriesKey
    winners : sequence of Winner
        What speaks for the span, in order.
    row_count : int
        Bars in a block at most.
    find : callable
        Finds again what speaks for a span.
    open_rows : callable
        The rows that a segment wins with; FileNotFoundError where its segment has gone.
    """
    waiting = list(reversed(winners))
    attempt_count = 0
    while waiting:
        winner = waiting.pop()
        try:
            rows = open_rows(series, winner)
        except FileNotFoundError:
            # Packed or pruned since it was listed. What stands in for it, from here on, is there already.
            attempt_count += 1
            if attempt_count == CACHE_READ_ATTEMPTS_MAX:
                raise CacheBusyError(
                    str(series), f"its segments were replaced {attempt_count} times while they were read; try again"
                ) from None
            waiting = list(reversed(find(Span(winner.span.start_ms, winners[-1].span.end_ms))))
            continue
        attempt_count = 0
        yield from _blocks(series, winner.span, rows, row_count)


def _blocks(series: SeriesKey, span: Span, rows: MappedRows, row_count: int) -> Iterator[Klines]:
    """Cut rows into blocks whose spans are the span without a gap."""
    open_time = rows.stored("open_time")
    if open_time is None:
        return
    start_ms = span.start_ms
    for start in range(0, len(rows), row_count):
        stop = min(start + row_count, len(rows))
        end_ms = span.end_ms if stop == len(rows) else int(open_time[stop])
        block = rows.rows(start, stop)
        yield Klines(series, Span(start_ms, end_ms), [block])
        block.give_back()
        start_ms = end_ms

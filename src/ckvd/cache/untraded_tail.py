"""The bars at the end of a series in which nobody traded: `UntradedTail`.

The exchange goes on making flat bars without a volume for months or years after a contract was settled. They are
data as published, and are kept; who backtests on them trades with nobody. The tail is found from the end of the
series, block by block: a series that trades costs one small read, and no column is read whole for nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np

from ckvd.cache.open_segments import look_again, open_named, read_named_last_row
from ckvd.cache.resolution import hull, resolve
from ckvd.cache.rows import column_of
from ckvd.concurrency.stopping import check_stop
from ckvd.errors import CacheError, SegmentError
from ckvd.model.life import LastTrade
from ckvd.model.market import Kind, SeriesKey
from ckvd.model.record import Record
from ckvd.model.table import traded_bars
from ckvd.model.timespan import Span, format_time
from ckvd.utils.config import MAINTENANCE_CHUNK_ROWS, UNTRADED_TAIL_MIN_MS

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ckvd.cache.folder import CacheFolder
    from ckvd.cache.resolution import Winner
    from ckvd.model.life import Life
    from ckvd.segment.reader import MappedRows

# A page of volumes, and then eight times as many each time.
_FIRST_ROWS: Final = 512
_GROWTH: Final = 8


@dataclass(frozen=True, slots=True)
class UntradedTail(Record):
    """The last bars of a series, if none of them traded and they last for a day or more.

    Attributes
    ----------
    start_ms : int
        When the first of them opens.
    end_ms : int
        The end of the last bar of the series.
    bar_count : int
    last_traded_ms : int or None
        When the last bar that traded opens; None if the cache has no such bar.
    """

    start_ms: int
    end_ms: int
    bar_count: int
    last_traded_ms: int | None

    @property
    def span(self) -> Span:
        """From the open of the first of the bars to the end of the last."""
        return Span(self.start_ms, self.end_ms)

    def __str__(self) -> str:
        bars = "1 bar" if self.bar_count == 1 else f"{self.bar_count:,} bars"
        last = (
            "none before that traded"
            if self.last_traded_ms is None
            else f"the last bar that traded opens at {format_time(self.last_traded_ms)}"
        )
        return f"{self.span} {bars} without a trade at the end, as published; {last}"


def find_untraded_tail(folder: CacheFolder, series: SeriesKey) -> UntradedTail | None:
    """Find the bars at the end of a series that did not trade.

    Returns
    -------
    UntradedTail or None
        None if the last bar traded, or a bar less than a day before the end; also for kinds without trades, and
        where the segment that tells cannot be read.

    Raises
    ------
    CacheBusyError
        Its segments were replaced each time before they were read.
    CacheError
        The folder cannot be read.
    """
    return look_again(folder, series, partial(_find, folder, series))


def find_untraded_tails(folder: CacheFolder, spans: Mapping[SeriesKey, Span]) -> dict[SeriesKey, UntradedTail]:
    """The tails of some series, where they overlap the span of each. Errors: see `find_untraded_tail`."""
    tails = {}
    for series, span in spans.items():
        check_stop()
        tail = find_untraded_tail(folder, series)
        if tail is not None and tail.span.overlaps(span):
            tails[series] = tail
    return tails


def _find(folder: CacheFolder, series: SeriesKey) -> UntradedTail | None:
    segments = folder.segments(series)
    return untraded_tail_of(folder, series, resolve(hull(segments), segments))


def untraded_tail_of(folder: CacheFolder, series: SeriesKey, winners: Sequence[Winner]) -> UntradedTail | None:
    """`find_untraded_tail`, by the segments that win in the whole series.

    Raises FileNotFoundError where one of them is gone.
    """
    if series.kind is not Kind.KLINES:
        return None
    end = _end_of(folder, series, winners)
    is_long = end.bar_count > 0 and end.end_ms - end.start_ms >= UNTRADED_TAIL_MIN_MS
    return UntradedTail(end.start_ms, end.end_ms, end.bar_count, end.last_traded_ms) if is_long else None


def last_trade_of(folder: CacheFolder, life: Life) -> LastTrade | None:
    """Find the last bar of a life that traded, by the shortest interval of which the cache has such a bar.

    Returns
    -------
    LastTrade or None
        None if the cache has no bar that traded.

    Raises
    ------
    CacheBusyError, CacheError
        See `find_untraded_tail`.
    """
    for interval in folder.intervals(life.market, life.symbol):
        series = SeriesKey(life.market, Kind.KLINES, life.symbol, interval)
        segments = folder.segments(series)
        span = life.bars_span(interval, hull(segments)) if segments else None
        trade = look_again(folder, series, partial(_last_trade_of, folder, series, span)) if span else None
        if trade is not None:
            return trade
    return None


def _last_trade_of(folder: CacheFolder, series: SeriesKey, span: Span) -> LastTrade | None:
    end = _end_of(folder, series, resolve(span, folder.segments(series)))
    if end.last_traded_ms is None:
        return None
    is_followed = end.bar_count > 0 and end.end_ms - end.start_ms >= UNTRADED_TAIL_MIN_MS
    return LastTrade(end.last_traded_ms, end.start_ms if end.bar_count else end.end_ms, is_followed)


def _end_of(folder: CacheFolder, series: SeriesKey, winners: Sequence[Winner]) -> UntradedTail:
    """The bars at the end that did not trade, however few, back to the last one that did."""
    start_ms = end_ms = bar_count = 0
    last_traded_ms: int | None = None
    for winner in reversed(winners):
        try:
            end = _read_traded_end(folder, series, winner)
            if end is None:
                with open_named(folder, series, winner.segment) as reader:
                    # No view of the segment outlives this call, so that its map is closed at once.
                    end = _read_end(reader.rows.between(winner.span.start_ms, winner.span.end_ms), series)
        except (CacheError, SegmentError):
            break  # verification tells why it cannot be read
        if end is None:
            continue
        end_ms = end_ms or end.end_ms
        bar_count += end.untraded_count
        start_ms = start_ms if end.untraded_ms is None else end.untraded_ms
        last_traded_ms = end.traded_ms
        if last_traded_ms is not None:
            break
    return UntradedTail(start_ms, end_ms, bar_count, last_traded_ms)


class _End(NamedTuple):
    """The end of some rows: where they end, how many bars did not trade, and when these and the last other open."""

    end_ms: int
    untraded_count: int
    untraded_ms: int | None
    traded_ms: int | None


def _read_traded_end(folder: CacheFolder, series: SeriesKey, winner: Winner) -> _End | None:
    """The end of a segment whose last bar traded, as mostly; None where all of its rows have to be looked at."""
    if winner.span.end_ms != winner.segment.span.end_ms:
        return None
    last = read_named_last_row(folder, series, winner.segment, ("volume", "count", "close_time"))
    if last is None or not traded_bars(last["volume"], last["count"])[0]:
        return None
    open_ms = int(last["open_time"][0])
    return _End(int(last["close_time"][0]) + 1, 0, None, open_ms) if open_ms in winner.span else None


def _read_end(rows: MappedRows, series: SeriesKey) -> _End | None:
    """The end of some rows; None if there are none."""
    count = len(rows)
    if not count:
        return None
    stop = _find_traded_stop(rows, series)
    opens = column_of(rows, "open_time", series)
    last_close_ms = int(column_of(rows.rows(count - 1, count), "close_time", series)[0])
    return _End(
        last_close_ms + 1,
        count - stop,
        int(opens[stop]) if stop < count else None,
        int(opens[stop - 1]) if stop else None,
    )


def _find_traded_stop(rows: MappedRows, series: SeriesKey) -> int:
    """The row after the last one that traded; 0 if none did. Blocks are read from the end on."""
    stop, block_rows = len(rows), _FIRST_ROWS
    while stop:
        start = max(stop - block_rows, 0)
        block = rows.rows(start, stop)
        volume, count = (column_of(block, name, series) for name in ("volume", "count"))
        traded = np.flatnonzero(traded_bars(volume, count))
        if len(traded):
            return start + int(traded[-1]) + 1
        stop, block_rows = start, min(block_rows * _GROWTH, MAINTENANCE_CHUNK_ROWS)
    return 0

"""`KlineCache`: reading bars across the segments of a series. Synchronous, offline, without locks."""

from __future__ import annotations

from functools import lru_cache, partial
from typing import TYPE_CHECKING, Final, Literal

from ckvd.bars.klines import Klines
from ckvd.cache.folder import CacheFolder
from ckvd.cache.open_segments import OpenSegments
from ckvd.cache.resolution import Winner, resolve
from ckvd.cache.scan import SCAN_ROWS, scan_winners
from ckvd.cache.snapshot import look_again, unanswered_spans
from ckvd.errors import IdentityError, NotCachedError
from ckvd.lifecycle import AsyncBlock, SyncBlock
from ckvd.model.market import SeriesKey
from ckvd.model.timespan import Span, difference, union

if TYPE_CHECKING:
    import os
    from collections.abc import Iterable, Iterator, Sequence

    from ckvd.bars.panel import Panel
    from ckvd.lifecycle import Resource
    from ckvd.model.timespan import TimeLike
    from ckvd.segment.reader import MappedRows


class KlineCache(SyncBlock, AsyncBlock):
    """A folder of segments, for reading.

    A context manager of both kinds. Reading takes no lock and changes no file. What was read stays valid after the
    cache is closed. One cache may be used by several threads.

    Parameters
    ----------
    root : path-like, optional
        The folder (`~` is understood). The default is the environment's `CKVD_CACHE_DIR`, else the user's cache
        folder of the platform. A folder that does not exist is an empty cache.
    """

    def __init__(self, root: str | os.PathLike[str] | None = None) -> None:
        self.folder = CacheFolder.at(root)
        self._open_segments: OpenSegments | None = OpenSegments(self.folder)

    def read(
        self,
        symbol: str,
        interval: str,
        *,
        start: TimeLike,
        end: TimeLike,
        market: str = "spot",
        kind: str = "klines",
        missing: Literal["raise", "ignore"] = "raise",
    ) -> Klines:
        """Read the bars that open in a span.

        Parameters
        ----------
        symbol, interval, market, kind : str
            The series, see `SeriesKey.of`.
        start, end : str, int, datetime or numpy.datetime64
            The span; `start` is included, `end` is not. See `parse_time`.
        missing : {"raise", "ignore"}
            What to do where the cache does not cover the span: raise, or return what is there.

        Returns
        -------
        Klines
            In order of open time, each bar once.

        Raises
        ------
        NotCachedError
            The cache does not cover the whole span; `missing` of the error says which parts.
        IdentityError, TimeError
            The series or the span make no sense.
        SegmentError, CacheError
            A segment cannot be used, or the folder cannot be read.
        ValueError
            `missing` is neither of the two.
        """
        series = series_of(symbol, interval, market, kind)
        return self.read_series(series, span_of(start, end), missing=missing)

    def scan(
        self,
        symbol: str,
        interval: str,
        *,
        start: TimeLike,
        end: TimeLike,
        market: str = "spot",
        kind: str = "klines",
        rows: int = SCAN_ROWS,
        missing: Literal["raise", "ignore"] = "raise",
    ) -> Iterator[Klines]:
        """Read the bars that open in a span, block by block, in memory that does not grow with the span.

        Parameters
        ----------
        symbol, interval, start, end, market, kind, missing
            As for `read`. What the cache does not cover is looked for when this is called.
        rows : int
            Bars in a block at most.

        Yields
        ------
        Klines
            In order of open time, none of them empty. Each lies in one segment, so that its columns are views.
            They stay valid, but their memory is given back when the next block is asked for: using them later
            means reading them again.

            A segment's part of the span without a bar yields nothing, nor does what the cache does not cover, so
            that spans of blocks need not touch, and `missing` of each is empty. `read` of the same span tells of
            both: `missing` and `gaps` of what it returns load no column but the open times.

        Raises
        ------
        NotCachedError, IdentityError, TimeError, SegmentError, CacheError
            See `read`.
        ValueError
            `rows` is not positive, or `missing` is neither of the two.
        """
        if rows < 1:
            raise ValueError(f"a block holds at least one bar, not {rows}")
        series, span = series_of(symbol, interval, market, kind), span_of(start, end)
        winners, _ = self._winners(series, missing, span)

        def find_again(rest: Span) -> list[Winner]:
            return self._winners(series, missing, rest)[0]

        def open_rows(series: SeriesKey, winner: Winner) -> MappedRows:
            opened = self._open_rows(series, winner)
            if missing == "raise" and (unanswered := unanswered_spans([winner], [opened])):
                raise self._not_cached(series, span, unanswered)
            return opened

        return scan_winners(series, winners, rows, find_again, open_rows)

    def panel(
        self,
        symbols: str | Iterable[str],
        interval: str,
        start: TimeLike,
        end: TimeLike,
        columns: str | Iterable[str] = ("close",),
        *,
        market: str = "spot",
        kind: str = "klines",
        missing: Literal["raise", "ignore"] = "raise",
    ) -> Panel:
        """Read columns of many symbols onto one grid.

        Parameters
        ----------
        symbols : str or iterable of str
            One, or several. Their order is kept, and one given twice has two columns in every array.
        interval, start, end, market, kind, missing
            As for `read`.
        columns : str or iterable of str
            One, or several: any but `open_time`, which is the grid.

        Returns
        -------
        Panel
            Arrays of shape (open times, symbols), NaN where there is no bar.

        Raises
        ------
        ColumnError
            There is no such column.
        NotCachedError, IdentityError, TimeError, SegmentError, CacheError
            See `read`.
        """
        from ckvd.bars.panel import build_panel  # noqa: PLC0415  (only for those who use it)

        names = (symbols,) if isinstance(symbols, str) else symbols
        series = [series_of(symbol, interval, market, kind) for symbol in names]
        if not series:
            raise IdentityError("a panel is made of at least one symbol, none was given")
        span = span_of(start, end)
        return build_panel(series, span, columns, partial(self.read_series, span=span, missing=missing))

    def read_series(
        self, series: SeriesKey, span: Span, *, missing: Literal["raise", "ignore"] = "raise"
    ) -> Klines:
        """`read`, by key and span."""
        if self._open_segments is None:
            raise ValueError(f"the cache {self.folder.root} is closed")
        return look_again(self.folder, series, partial(self._read, series, span, missing))

    def _read(self, series: SeriesKey, span: Span, missing: Literal["raise", "ignore"]) -> Klines:
        winners, unheld = self._winners(series, missing, span)
        blocks = [self._open_rows(series, winner) for winner in winners]
        if missing == "raise" and (unanswered := unanswered_spans(winners, blocks)):
            raise self._not_cached(series, span, unanswered)
        return Klines(series, span, blocks, unheld, held=[winner.span for winner in winners])

    def _winners(
        self, series: SeriesKey, missing: Literal["raise", "ignore"], span: Span
    ) -> tuple[list[Winner], tuple[Span, ...]]:
        if missing not in ("raise", "ignore"):
            raise ValueError(f'missing is "raise" or "ignore", not {missing!r}')
        winners = resolve(span, self.folder.segments(series))
        unheld = _unheld(span, winners)
        if unheld and missing == "raise":
            raise self._not_cached(series, span, unheld)
        return winners, unheld

    def _open_rows(self, series: SeriesKey, winner: Winner) -> MappedRows:
        open_segments = self._open_segments  # another thread may close the cache meanwhile
        if open_segments is None:
            raise ValueError(f"the cache {self.folder.root} is closed")
        rows = open_segments.rows(series, winner.segment)
        span = winner.span
        return rows if span == winner.segment.span else rows.between(span.start_ms, span.end_ms)

    def _not_cached(self, series: SeriesKey, span: Span, unheld: Sequence[Span]) -> NotCachedError:
        shown = ", ".join(map(str, unheld[:5])) + (f" and {len(unheld) - 5} more" if len(unheld) > 5 else "")
        return NotCachedError(
            f"{series}: the cache {self.folder.root} does not cover {shown} of {span}; fetch it (ckvd download), "
            'or pass missing="ignore" to read what is there',
            unheld,
        )

    def series(self) -> Iterator[SeriesKey]:
        """Every series that the cache has a folder for, in order."""
        return self.folder.series()

    def coverage(self, series: SeriesKey) -> tuple[Span, ...]:
        """Which spans of a series the cache speaks of, disjoint and in order."""
        return union(segment.span for segment in self.folder.segments(series))

    def close(self) -> None:
        """Release every segment that no array uses. Closing twice is quiet."""
        open_segments, self._open_segments = self._open_segments, None
        if open_segments is not None:
            open_segments.close()

    @property
    def _resources(self) -> tuple[Resource, ...]:
        return (("_open_segments", "open segments", False),)

    def __repr__(self) -> str:
        state = "closed" if self._open_segments is None else "open"
        return f"<KlineCache {str(self.folder.root)!r} {state}>"


# A backtest asks for the same few series and dates again and again, and validating text takes as long as the
# system calls of a read.
_validated_series: Final = lru_cache(maxsize=4096)(SeriesKey.of)
_parsed_span: Final = lru_cache(maxsize=4096)(Span.of)


def series_of(symbol: str, interval: str, market: str, kind: str) -> SeriesKey:
    """`SeriesKey.of`, remembered."""
    try:
        return _validated_series(symbol, interval, market=market, kind=kind)
    except TypeError:  # not hashable, so no text: this says what is wrong with it
        return SeriesKey.of(symbol, interval, market=market, kind=kind)


def span_of(start: TimeLike, end: TimeLike) -> Span:
    """`Span.of`, remembered for text that means the same whenever it is read."""
    is_text = isinstance(start, str) and isinstance(end, str)
    return _parsed_span(start, end) if is_text and "now" not in (start, end) else Span.of(start, end)


def _unheld(span: Span, winners: Sequence[Winner]) -> tuple[Span, ...]:
    """The parts of a span that nothing speaks for. Holdings are disjoint and lie in it."""
    if sum(winner.span.length_ms for winner in winners) == span.length_ms:
        return ()
    return difference([span], [winner.span for winner in winners])


def open_cache(root: str | os.PathLike[str] | None = None) -> KlineCache:
    """Open a cache folder for reading: `with open_cache("~/klines") as cache: cache.read(...)`.

    Parameters
    ----------
    root : path-like, optional
        See `KlineCache`.
    """
    return KlineCache(root)

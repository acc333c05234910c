"""`KlineCache`: reading bars across the segments of a series. Synchronous, offline, without locks.

A read opens every segment that wins in its span, and gives one state of the cache. A scan opens one segment at a
time, and gives its memory back before the next block.
"""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache, partial
from importlib import import_module
from typing import TYPE_CHECKING, Any, Final, Literal, cast

from ckvd.bars.klines import Klines
from ckvd.cache.folder import CacheFolder
from ckvd.cache.known_listings import KnownListings
from ckvd.cache.open_segments import OpenSegments, look_again, replaced_too_often
from ckvd.cache.resolution import hull, is_answered, resolve, unavailable_spans
from ckvd.errors import IdentityError, NotCachedError
from ckvd.lifecycle import AsyncBlock, SyncBlock
from ckvd.model.grid import Grid
from ckvd.model.life import Life
from ckvd.model.market import Kind, Market, SeriesKey
from ckvd.model.timespan import Span, difference, is_relative, now_ms, parse_time, union
from ckvd.segment.checks import require_verify
from ckvd.utils.async_cleanup import direct_file_cleanup
from ckvd.utils.config import CACHE_READ_ATTEMPTS_MAX

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Iterable, Iterator, Sequence

    import numpy.typing as npt

    from ckvd.bars.funding import Funding
    from ckvd.bars.metrics import Metrics
    from ckvd.bars.panel import Panel, PanelArrays
    from ckvd.bars.series_rows import SeriesRows
    from ckvd.cache.folder import Listing
    from ckvd.cache.resolution import Winner
    from ckvd.lifecycle import Resource
    from ckvd.model.life import LastTrade
    from ckvd.model.table import Times
    from ckvd.model.timespan import TimeLike
    from ckvd.model.universe import Universe
    from ckvd.segment.checks import Verify
    from ckvd.segment.reader import MappedRows


# Bars in a block of a scan: half a megabyte a column.
_SCAN_ROWS: Final = 1 << 16


class KlineCache(SyncBlock, AsyncBlock):
    """A folder of segments, for reading.

    A context manager, synchronous and asynchronous. Reading takes no lock and changes no file. What was read stays
    valid after the cache is closed. Several threads may use one cache.

    Parameters
    ----------
    root : path-like, optional
        The folder (`~` is expanded). The default is the environment's `CKVD_CACHE_DIR`, else the user's cache
        folder of the platform. A folder that does not exist is an empty cache.
    verify : {"never", "first"}
        Whether bars are compared with the checksums of their segments; see `open_cache`.

    Raises
    ------
    ValueError
        `verify` is neither of the two.
    """

    def __init__(self, root: str | os.PathLike[str] | None = None, *, verify: Verify = "never") -> None:
        require_verify(verify)
        self.folder = CacheFolder.at(root)
        self._verify: Verify = verify
        self._listings = KnownListings(self.folder)
        self._open_segments: OpenSegments | None = OpenSegments(self.folder, verify=verify)

    def read(
        self,
        symbol: str,
        interval: str,
        *,
        start: TimeLike | None = None,
        end: TimeLike | None = None,
        market: str = "spot",
        kind: str = "klines",
        missing: Literal["raise", "ignore"] = "raise",
        life: Life | str | None = None,
    ) -> Klines:
        """Read the bars that open in a span.

        Parameters
        ----------
        symbol, interval, market, kind : str
            The series, see `SeriesKey.of`.
        start, end : str, int, datetime or numpy.datetime64, optional
            The span; `start` is included, `end` is not. See `parse_time`. By default from the first bar that the
            cache holds, and to the last one: see `held`.
        missing : {"raise", "ignore"}
            What to do where the cache does not cover the span: raise, or return the bars that are there.
        life : Life or str, optional
            Read only the bars of one life of the symbol: the span is cut to it. Text is a key, such as
            `BNXUSDT@2022-04-01`, and is looked up in the newest snapshot of the universe.

        Returns
        -------
        Klines
            In order of open time, each bar once. `klines.is_across_lives` tells whether they are those of more
            than one contract or coin.

        Raises
        ------
        NotCachedError
            The cache does not cover the whole span; `missing` of the error says which parts. Or a bound is left
            out, and the cache has no bar of the series.
        IdentityError, TimeError
            The series or the span is invalid.
        SegmentError, CacheError
            A segment cannot be used, or the folder cannot be read.
        NoSnapshotError, UnknownLifeError, SnapshotError
            `life` is text, and the cache has no snapshot, or no such life in it, or the snapshot is damaged.
        ValueError
            `missing` is neither of the two.
        """
        series = _cached_series(symbol, interval, market, kind)
        span = self.span_between(series, start, end, missing=missing)
        if life is not None:
            series, span = self._of_life(series, span, life)
        return self.read_series(series, span, missing=missing)

    def _of_life(self, series: SeriesKey, span: Span, life: Life | str) -> tuple[SeriesKey, Span]:
        """The series of a life, and the part of a span in which its bars open."""
        chosen: Life = _universe().life_named(self.folder, series.market, life) if isinstance(life, str) else life
        if chosen.market is not series.market or series.symbol not in (chosen.symbol, chosen.ticker):
            raise IdentityError(f"{series} has no life {chosen}: it is one of {chosen.market}/{chosen.symbol}")
        return replace(series, symbol=chosen.symbol), chosen.bars_span(series.bar_interval, span)

    def universe(
        self,
        market: str,
        *,
        on: TimeLike | None = None,
        start: TimeLike | None = None,
        end: TimeLike | None = None,
        as_of: TimeLike | None = None,
        quote: str | Iterable[str] | None = None,
        base: str | Iterable[str] | None = None,
        contract: str | Iterable[str] | None = None,
        names: str | Iterable[str] | None = None,
        leveraged: Literal["include", "exclude", "only"] = "include",
        listed_days_min: int | None = None,
    ) -> Universe:
        """Who was listed when: the lives of a market, by the newest snapshot in the cache.

        `ckvd universe refresh` makes a snapshot. One that is made today answers for the past too.

        Parameters
        ----------
        market : {"spot", "um", "cm"}
        as_of : time, optional
            Take the newest snapshot that was made at or before this time: what was known then.
        on, start, end, quote, base, contract, names, leveraged, listed_days_min
            Which lives to choose: see `Universe.filter`.

        Returns
        -------
        Universe
            A sequence of `Life`, which `panel` takes too.

        Raises
        ------
        NoSnapshotError
            The cache has no snapshot of that market, or none of that time.
        SnapshotError, CacheError
            The snapshot is damaged, or cannot be read.
        IdentityError, TimeError, ValueError
            See `Universe.filter`.
        """
        chosen: Universe = _universe().choose(
            self.folder,
            market,
            as_of=as_of,
            on=on,
            start=start,
            end=end,
            quote=quote,
            base=base,
            contract=contract,
            names=names,
            leveraged=leveraged,
            listed_days_min=listed_days_min,
        )
        return chosen

    def scan(
        self,
        symbol: str,
        interval: str,
        *,
        start: TimeLike | None = None,
        end: TimeLike | None = None,
        market: str = "spot",
        kind: str = "klines",
        rows: int = _SCAN_ROWS,
        missing: Literal["raise", "ignore"] = "raise",
    ) -> Iterator[Klines]:
        """Read the bars that open in a span, block by block, in memory that does not grow with the span.

        Parameters
        ----------
        symbol, interval, start, end, market, kind, missing
            As for `read`. Missing spans raise when this is called, not at the first block.
        rows : int
            At most so many bars in a block.

        Yields
        ------
        Klines
            In order of open time, none of them empty. Each lies in one segment, so that its columns are views.
            They stay valid, but their memory is given back when the next block is asked for: using them later
            reads the file again.

            A segment without a bar in the span yields no block, and neither does a span that the cache does not
            cover. So the spans of blocks need not be adjacent, and `missing` of each is empty. `missing` and
            `gaps` of `read` tell what is not there; they load no column but the open times.

        Raises
        ------
        NotCachedError, IdentityError, TimeError, SegmentError, CacheError
            See `read`.
        ValueError
            `rows` is not positive, or `missing` is neither of the two.
        """
        if rows < 1:
            raise ValueError(f"a block holds at least one bar, not {rows}")
        series = _cached_series(symbol, interval, market, kind)
        require_bars(series)
        span = self.span_between(series, start, end, missing=missing)
        blocks = self.scan_rows(series, span, rows=rows, missing=missing)
        return cast("Iterator[Klines]", blocks)

    def scan_rows(
        self,
        series: SeriesKey,
        span: Span,
        *,
        rows: int = _SCAN_ROWS,
        missing: Literal["raise", "ignore"] = "raise",
    ) -> Iterator[SeriesRows]:
        """`scan`, by key and span, of a series of any kind."""
        winners, _ = self._winners(series, missing, span)
        return self._scan(series, span, winners, rows, missing)

    def _scan(
        self,
        series: SeriesKey,
        span: Span,
        winners: Sequence[Winner],
        block_rows: int,
        missing: Literal["raise", "ignore"],
    ) -> Iterator[SeriesRows]:
        waiting = list(reversed(winners))
        attempt_count = 0
        while waiting:
            winner = waiting.pop()
            try:
                rows = self._open_rows(series, winner)
            except FileNotFoundError:
                # Packed or pruned since it was listed. From here on, its replacement is there already.
                attempt_count += 1
                if attempt_count == CACHE_READ_ATTEMPTS_MAX:
                    raise replaced_too_often(self.folder, series) from None
                rest = Span(winner.span.start_ms, winners[-1].span.end_ms)
                waiting = list(reversed(self._winners(series, missing, rest)[0]))
                continue
            attempt_count = 0
            if missing == "raise" and (unavailable := self._unavailable(series, [winner], [rows])):
                raise self._not_cached(series, span, unavailable)
            three_day_opens = partial(_three_day_opens, self.folder, series, self._verify)
            yield from _blocks(series, winner.span, rows, block_rows, three_day_opens)

    def panel(
        self,
        symbols: str | Iterable[str] | Iterable[Life],
        interval: str,
        start: TimeLike | None = None,
        end: TimeLike | None = None,
        columns: str | Iterable[str] = ("close",),
        *,
        market: str | None = None,
        kind: str = "klines",
        missing: Literal["raise", "ignore"] | None = None,
        traded: bool = False,
        dtype: npt.DTypeLike | None = None,
        out: PanelArrays | None = None,
    ) -> Panel:
        """Read columns of many symbols, or of the lives of a universe, onto one grid.

        Parameters
        ----------
        symbols : str, iterable of str, or iterable of Life
            One or several. Their order is kept; a symbol given twice has two columns in every array. Each life has
            a column of its own, which is NaN outside of it: two lives of one ticker are two columns.
        interval, kind
            As for `read`.
        start, end : str, int, datetime or numpy.datetime64, optional
            As for `read`. By default from the first bar of any of the symbols, and to the last one. A symbol of
            which the cache has fewer bars lacks nothing before its first bar then, or after its last one.
        market : str, optional
            As for `read`. Of lives it is theirs.
        missing : {"raise", "ignore"}, optional
            As for `read`. The default is "ignore" for lives, and "raise" for symbols. `Panel.reasons` tells of each
            missing cell whether the symbol was not listed, halted or not downloaded.
        columns : str or iterable of str
            One or several: any but `open_time`, which is the grid.
        traded : bool
            Leave out bars that did not trade: their cells are NaN and their mask is False. The exchange goes on
            making flat bars of a contract after its settlement: see `Klines.traded`.
        dtype : dtype, optional
            `np.float32` for half of the memory; by default float64, or the type of `out`.
        out : ndarray, or mapping of str to ndarray, optional
            Arrays of shape (open times, symbols) to write the columns to, in place of new ones: a backtest that
            goes on window by window uses the same memory again. One array is that of the only column. The panel's
            columns are views of them. If an error is raised, what they hold is undefined.

        Returns
        -------
        Panel
            Arrays of shape (open times, symbols), NaN where there is no bar. The 3d bars of different symbols open
            on different days: see `Panel` for how to read them.

        Raises
        ------
        ColumnError
            The series have no such column, or with `traded` no trades.
        PanelArrayError
            `dtype` is neither float64 nor float32, or float32 for close times, or `out` does not fit the panel.
        NotCachedError, IdentityError, TimeError, SegmentError, CacheError
            See `read`.
        """
        from ckvd.bars.panel import build_panel  # noqa: PLC0415  (only for those who use it)

        names = (symbols,) if isinstance(symbols, str) else tuple(symbols)
        lives = [one for one in names if isinstance(one, Life)]
        if not names:
            raise IdentityError("a panel is made of at least one symbol or life, none was given")
        if lives and (len(lives) < len(names) or {market or life.market for life in lives} != {lives[0].market}):
            raise IdentityError("a panel is made of symbols, or of lives of one market and no other")
        series = [
            _cached_series(one.symbol, interval, one.market, kind)
            if isinstance(one, Life)
            else _cached_series(cast("str", one), interval, market or Market.SPOT, kind)
            for one in names
        ]
        chosen = ("ignore" if lives else "raise") if missing is None else missing

        def read(key: SeriesKey, part: Span) -> Klines:
            return self.read_series(key, part, missing=chosen)

        if start is not None and end is not None:
            span = _cached_span(start, end)
            return build_panel(series, span, columns, read, traded=traded, lives=lives, dtype=dtype, out=out)
        held = {key: self._held_part(key, start, end, chosen) for key in series}
        bars = [part for part in held.values() if part] or list(held.values())
        span = Span(min(part.start_ms for part in bars), max(part.end_ms for part in bars))

        def read_held(key: SeriesKey, part: Span) -> Klines:
            return read(key, part.intersection(held[key]))

        return build_panel(series, span, columns, read_held, traded=traded, lives=lives, dtype=dtype, out=out)

    def span_between(
        self,
        series: SeriesKey,
        start: TimeLike | None,
        end: TimeLike | None,
        *,
        missing: Literal["raise", "ignore"] = "raise",
    ) -> Span:
        """The span between two bounds; one that is left out is where the cache begins or ends."""
        if start is not None and end is not None:
            return _cached_span(start, end)
        return self._held_part(series, start, end, missing)

    def _held_part(
        self,
        series: SeriesKey,
        start: TimeLike | None,
        end: TimeLike | None,
        missing: Literal["raise", "ignore"],
    ) -> Span:
        held = self.held(series)
        if not held and missing == "raise":
            noun = "bar" if series.kind.is_bars else "row"
            raise NotCachedError(
                f"{series}: the cache {self.folder.root} has no {noun} of it; fetch it (ckvd download), or pass "
                'missing="ignore" to read what is there',
                (),
            )
        present_ms = now_ms()
        start_ms = held.start_ms if start is None else parse_time(start, present_ms=present_ms)
        end_ms = held.end_ms if end is None else parse_time(end, present_ms=present_ms)
        if start is None or end is None:  # a bound beyond all bars leaves nothing between
            start_ms, end_ms = (start_ms, max(start_ms, end_ms)) if end is None else (min(start_ms, end_ms), end_ms)
        return Span(start_ms, end_ms)

    def read_series(
        self, series: SeriesKey, span: Span, *, missing: Literal["raise", "ignore"] = "raise"
    ) -> Klines:
        """`read`, by key and span."""
        require_bars(series)
        return cast("Klines", self.read_rows(series, span, missing=missing))

    def read_rows(
        self, series: SeriesKey, span: Span, *, missing: Literal["raise", "ignore"] = "raise"
    ) -> SeriesRows:
        """`read`, by key and span, of a series of any kind: `Klines`, `Funding` or `Metrics`."""
        self._require_open()
        return look_again(self.folder, series, partial(self._read, series, span, missing))

    def funding(
        self,
        symbol: str,
        *,
        start: TimeLike | None = None,
        end: TimeLike | None = None,
        market: str = "um",
        missing: Literal["raise", "ignore"] = "raise",
    ) -> Funding:
        """Read the funding rates that were settled in a span.

        Parameters
        ----------
        symbol, market : str
            A perpetual of `um` or `cm`.
        start, end, missing
            As for `read`. A bound that is left out is where the cache begins or ends to know whether rates were
            settled, and not the time of a rate: see `held`.

        Returns
        -------
        Funding
            In order of time.

        Raises
        ------
        NotCachedError, IdentityError, TimeError, SegmentError, CacheError
            See `read`.
        """
        series = SeriesKey.of(symbol, market=market, kind=Kind.FUNDING_RATE)
        span = self.span_between(series, start, end, missing=missing)
        return cast("Funding", self.read_rows(series, span, missing=missing))

    def metrics(
        self,
        symbol: str,
        *,
        start: TimeLike | None = None,
        end: TimeLike | None = None,
        market: str = "um",
        missing: Literal["raise", "ignore"] = "raise",
    ) -> Metrics:
        """Read open interest and the ratios of a span, a row for every five minutes.

        Parameters
        ----------
        symbol, market : str
            A contract of `um` or `cm`.
        start, end, missing
            As for `read`. The span is that of the five minutes which the rows describe.

        Returns
        -------
        Metrics
            In order of time. `known_time` says from when on each row could be known.

        Raises
        ------
        NotCachedError, IdentityError, TimeError, SegmentError, CacheError
            See `read`.
        """
        series = SeriesKey.of(symbol, market=market, kind=Kind.METRICS)
        span = self.span_between(series, start, end, missing=missing)
        return cast("Metrics", self.read_rows(series, span, missing=missing))

    def _read(self, series: SeriesKey, span: Span, missing: Literal["raise", "ignore"]) -> SeriesRows:
        winners, uncovered = self._winners(series, missing, span)
        blocks = [self._open_rows(series, winner) for winner in winners]
        if missing == "raise" and (unavailable := self._unavailable(series, winners, blocks)):
            raise self._not_cached(series, span, unavailable)
        held = [winner.span for winner in winners]
        if not series.kind.is_bars:
            return _rows_class(series)(series, span, blocks, uncovered, held=held)
        three_day_opens = partial(_three_day_opens, self.folder, series, self._verify)
        lives = partial(_lives, self.folder, series, span)
        return Klines(series, span, blocks, uncovered, held=held, three_day_opens=three_day_opens, lives=lives)

    def _unavailable(
        self, series: SeriesKey, winners: Sequence[Winner], parts: Sequence[MappedRows]
    ) -> tuple[Span, ...]:
        """Where the cache only records that bars were unavailable."""
        spans = unavailable_spans(winners, parts)
        if not spans:
            return ()
        from ckvd.cache.rows import lacking_bars  # noqa: PLC0415  (mostly there are none)

        return lacking_bars(self.folder, series, spans, verify=self._verify)

    def _winners(
        self, series: SeriesKey, missing: Literal["raise", "ignore"], span: Span
    ) -> tuple[list[Winner], tuple[Span, ...]]:
        if missing not in ("raise", "ignore"):
            raise ValueError(f'missing is "raise" or "ignore", not {missing!r}')
        listing = self._listed(series)
        resolved = listing.resolved
        if resolved is None or resolved[0] != span:
            winners = resolve(span, listing)
            # One tuple, so that another thread has this one or the one before.
            listing.resolved = resolved = span, winners, _uncovered(span, winners)
        _, winners, uncovered = resolved
        if uncovered and missing == "raise":
            raise self._not_cached(series, span, uncovered)
        return winners, uncovered

    def _listed(self, series: SeriesKey) -> Listing:
        """The segments that a series has now. Those that are open are still what has their names."""
        open_segments = self._require_open()
        listing = self._listings.segments(series)
        open_segments.confirm(series, listing)
        return listing

    def _open_rows(self, series: SeriesKey, winner: Winner) -> MappedRows:
        rows = self._require_open().rows(series, winner.segment)
        span = winner.span
        return rows if span == winner.segment.span else rows.between(span.start_ms, span.end_ms)

    def _require_open(self) -> OpenSegments:
        open_segments = self._open_segments  # another thread may close the cache meanwhile
        if open_segments is None:
            raise ValueError(f"the cache {self.folder.root} is closed")
        return open_segments

    def _not_cached(self, series: SeriesKey, span: Span, uncovered: Sequence[Span]) -> NotCachedError:
        shown = ", ".join(map(str, uncovered[:5])) + (
            f" and {len(uncovered) - 5} more" if len(uncovered) > 5 else ""
        )
        return NotCachedError(
            f"{series}: the cache {self.folder.root} does not cover {shown} of {span}; fetch it (ckvd download), "
            'or pass missing="ignore" to read what is there',
            uncovered,
        )

    def last_trade(self, life: Life) -> LastTrade | None:
        """The last bar of a life that traded, by the shortest interval that the cache holds; None if there is none.

        `Universe.last_traded` asks this for all of its lives.

        Raises
        ------
        CacheError
            The folder cannot be read.
        """
        from ckvd.cache.untraded_tail import last_trade_of  # noqa: PLC0415  (only for those who use it)

        return last_trade_of(self.folder, life)

    def series(self) -> Iterator[SeriesKey]:
        """Every series that has a folder in the cache, in order."""
        return self.folder.series()

    def held(self, series: SeriesKey) -> Span:
        """From the open of the first bar that the cache has of a series to the end of the last one.

        It is empty where there is no bar. In between, bars may be missing. Of funding rates, which have no length,
        it is from the first moment for which the cache knows whether a rate was settled to the last one.

        Raises
        ------
        SegmentError, CacheError
            See `read`.
        """
        self._require_open()
        return look_again(self.folder, series, partial(self._held, series))

    def _held(self, series: SeriesKey) -> Span:
        listing = self._listed(series)
        winners = resolve(hull(listing), listing)
        first = self._edge_ms(series, winners, 0)
        last = self._edge_ms(series, reversed(winners), -1)
        if first is None or last is None:
            return Span(0, 0)
        if series.interval is None:
            answered = [one.span for one in winners if is_answered(self._open_rows(series, one).header)]
            return Span(answered[0].start_ms, answered[-1].end_ms)
        return Span(first, Grid.of(series.interval).slot(last).end_ms)

    def _edge_ms(self, series: SeriesKey, winners: Iterable[Winner], row: int) -> int | None:
        """The open time of a row, the first or the last, of the first segments that have one."""
        for winner in winners:
            rows = self._open_rows(series, winner)
            open_time = rows.stored("open_time")
            if open_time is not None and len(open_time):
                return int(open_time[row])
        return None

    def coverage(self, series: SeriesKey) -> tuple[Span, ...]:
        """Which spans of a series the cache covers, disjoint and in order."""
        return union(segment.span for segment in self.folder.segments(series))

    def close(self) -> None:
        """Release every segment that no array uses. Closing twice does nothing."""
        direct_file_cleanup(self, "_open_segments")

    @property
    def _resources(self) -> tuple[Resource, ...]:
        return (("_open_segments", "open segments", False),)

    def __repr__(self) -> str:
        state = "closed" if self._open_segments is None else "open"
        return f"<KlineCache {str(self.folder.root)!r} {state}>"


# A backtest asks for the same few series and dates again and again. Validating their text takes as long as the
# system calls of a read.
_validated_series: Final = lru_cache(maxsize=4096)(SeriesKey.of)
_parsed_span: Final = lru_cache(maxsize=4096)(Span.of)


def _cached_series(symbol: str, interval: str, market: str, kind: str) -> SeriesKey:
    """`SeriesKey.of`, from a cache."""
    try:
        return _validated_series(symbol, interval, market=market, kind=kind)
    except TypeError:  # not hashable, so no text: `of` says what is wrong with it
        return SeriesKey.of(symbol, interval, market=market, kind=kind)


def _cached_span(start: TimeLike, end: TimeLike) -> Span:
    """`Span.of`, from a cache for text that always means the same moments."""
    if isinstance(start, str) and isinstance(end, str) and not (is_relative(start) or is_relative(end)):
        return _parsed_span(start, end)
    return Span.of(start, end)


def _blocks(
    series: SeriesKey, span: Span, rows: MappedRows, block_rows: int, three_day_opens: Callable[[], Times]
) -> Iterator[SeriesRows]:
    """Cut rows into blocks. Their spans follow on each other and fill the span."""
    open_time = rows.stored("open_time")
    if open_time is None:
        return
    start_ms = span.start_ms
    for start in range(0, len(rows), block_rows):
        stop = min(start + block_rows, len(rows))
        end_ms = span.end_ms if stop == len(rows) else int(open_time[stop])
        block = rows.rows(start, stop)
        part = Span(start_ms, end_ms)
        if series.kind.is_bars:
            yield Klines(series, part, [block], three_day_opens=three_day_opens)
        else:
            yield _rows_class(series)(series, part, [block])
        block.give_back()
        start_ms = end_ms


def require_bars(series: SeriesKey) -> None:
    """Raise IdentityError where a series has no bars, and name what reads it."""
    if not series.kind.is_bars:
        method = "funding" if series.kind is Kind.FUNDING_RATE else "metrics"
        raise IdentityError(f"{series} has no bars: read it with cache.{method}({series.symbol!r}, ...)")


def _rows_class(series: SeriesKey) -> type[SeriesRows]:
    """The class of the rows of a kind that has no bars."""
    if series.kind is Kind.FUNDING_RATE:
        from ckvd.bars.funding import Funding  # noqa: PLC0415  (only for those who use it)

        return Funding
    from ckvd.bars.metrics import Metrics  # noqa: PLC0415

    return Metrics


def _three_day_opens(folder: CacheFolder, series: SeriesKey, verify: Verify) -> Times:
    """See `ckvd.cache.rows.three_day_opens`. It needs no open cache: what was read may ask later."""
    from ckvd.cache.rows import three_day_opens  # noqa: PLC0415  (only for those who use it)

    return three_day_opens(folder, series, verify=verify)


def _universe() -> Any:
    """The room of the universe, which stands above this one: a door for convenience."""
    return import_module("ckvd.universe.choice")


def _lives(folder: CacheFolder, series: SeriesKey, span: Span) -> tuple[Life, ...]:
    """The lives of a series in a span. What was read may ask later."""
    lives: tuple[Life, ...] = _universe().lives_of_series(folder, series, span)
    return lives


def _uncovered(span: Span, winners: Sequence[Winner]) -> tuple[Span, ...]:
    """The parts of a span in which no segment wins."""
    # Winners are disjoint and lie in the span: adding up their lengths is faster than subtracting them.
    if sum(winner.span.length_ms for winner in winners) == span.length_ms:
        return ()
    return difference([span], [winner.span for winner in winners])


def open_cache(root: str | os.PathLike[str] | None = None, *, verify: Verify = "never") -> KlineCache:
    """Open a cache folder for reading: `with open_cache("~/klines") as cache: cache.read(...)`.

    Parameters
    ----------
    root : path-like, optional
        See `KlineCache`.
    verify : {"never", "first"}
        With "first", a column of a segment is compared with its checksum when it is first used in the process, by
        whichever cache, and again if its file has changed since. A byte that differs raises SegmentCorruptError,
        which names the file and the column, in place of any bar of it. Columns that are not used are not checked.

        For a segment of 20 MB in the system's memory this takes one or two milliseconds (15 GB/s; 2 GB/s without
        isal), else as long as the disk needs. The process has the whole column of the segment in memory then, also
        for a few bars of it; `scan` gives it back with the next block. Later uses cost nothing. What the disk
        changes after that is found by `ckvd cache verify`.

    Raises
    ------
    ValueError
        `verify` is neither of the two.
    """
    return KlineCache(root, verify=verify)

"""`Klines`: the bars that a backtest reads, as numpy columns, with their flags, gaps and sources."""

from __future__ import annotations

from functools import cached_property, partial
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from ckvd.bars.columns import BarColumns, require_trades
from ckvd.bars.series_rows import SeriesRows
from ckvd.model.gaps import find_gaps
from ckvd.model.grid import Grid
from ckvd.model.impossible_bars import impossible_bars
from ckvd.model.market import Interval, Kind
from ckvd.model.provenance import Gap, Reason
from ckvd.model.table import BarFlag, bar_flags, traded_bars
from ckvd.model.timespan import Span, difference

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from ckvd.bars.resample import ResampledKlines
    from ckvd.bars.series_rows import RowBlock
    from ckvd.model.life import Life
    from ckvd.model.market import SeriesKey
    from ckvd.model.table import Times


class Klines(SeriesRows, BarColumns):
    """The bars of one series in one span of time.

    Columns are attributes (`klines.close`) and items (`klines["close"]`): read-only numpy arrays of shape
    `(len(klines),)`. Times are `int64` milliseconds, `count` is `int64`, all other columns are `float64`. Iteration
    yields the names of the columns, `in` tests for a name, and `dict(klines)` has all columns by name. `len` is the
    number of bars.

    If all bars lie in one segment, a column is a view of its memory map and costs nothing. Otherwise it is
    concatenated when it is first used. Views stay valid after the cache is closed, whatever happens to its files:
    the map is closed with the last array and the last `Klines` that use it.

    Attributes
    ----------
    series : SeriesKey
    span : Span
        The span that was asked for. Every bar opens in it.
    missing : tuple of Span
        The parts of the span that the cache does not cover.
    """

    def __init__(
        self,
        series: SeriesKey,
        span: Span,
        blocks: Sequence[RowBlock],
        missing: Sequence[Span] = (),
        *,
        held: Sequence[Span] | None = None,
        three_day_opens: Callable[[], Times] | None = None,
        lives: Callable[[], tuple[Life, ...]] | None = None,
    ) -> None:
        super().__init__(series, span, blocks, missing, held=held)
        # Reads the open times of all 3d bars of the symbol that the cache holds.
        self._three_day_opens = three_day_opens
        # Reads the lives of the symbol within the span from the newest snapshot of the universe.
        self._find_lives = lives

    @property
    def open_time_us(self) -> npt.NDArray[np.int16]:
        """The microseconds of each open time within its millisecond. It is no column of tables."""
        return self["open_time_us"]

    @property
    def close_time_us(self) -> npt.NDArray[np.int16]:
        """The microseconds of each close time within its millisecond. It is no column of tables."""
        return self["close_time_us"]

    # --- Grid, flags and gaps ---

    @property
    def grid(self) -> Grid:
        """Where the bars of the series open. For 3d it is taken from all bars that the cache holds."""
        interval = self.series.interval
        return self.three_day_grid if interval is Interval.D3 else Grid.of(interval)

    @cached_property
    def three_day_grid(self) -> Grid:
        """The grid of the 3d bars of the symbol, of an unknown phase where the cache holds none.

        The cache is looked into when this is first used. Segments of 3d bars that cannot be read are left out.
        """
        opens = [] if self._three_day_opens is None else [self._three_day_opens()]
        if self.series.interval is Interval.D3:
            opens.append(self.open_time)
        return Grid.of_bars(Interval.D3, np.unique(np.concatenate([np.empty(0, np.int64), *opens])))

    @cached_property
    def flags(self) -> npt.NDArray[np.uint8]:
        """The sum of the `BarFlag` of each bar; 0 for a usual bar."""
        volume = self.volume if self.series.kind is Kind.KLINES else None
        flags = bar_flags(self.open_time, self.close_time, volume, self.grid)
        start = 0
        # Block by block: to gather the other columns for this would keep all of them in memory.
        for block in self._blocks:
            is_impossible = impossible_bars(partial(self._column_of, block), self.series)
            flags[start : start + len(block)] |= is_impossible * np.uint8(BarFlag.IMPOSSIBLE)
            start += len(block)
        return flags

    @cached_property
    def traded(self) -> npt.NDArray[np.bool_]:
        """Whether each bar traded, read-only: False where it has neither a volume nor trades.

        The exchange goes on making flat bars of a contract for years after its settlement, and makes such bars
        where nobody trades for a while.

        Raises
        ------
        ColumnError
            The bars are not klines. Prices of other kinds are sampled, not traded.
        """
        require_trades(self.series)
        traded = traded_bars(self.volume, self.count)
        traded.flags.writeable = False
        return traded

    @property
    def flag_counts(self) -> dict[BarFlag, int]:
        """The number of bars with each flag, without flags that no bar has."""
        counts = {flag: int(np.count_nonzero(self.flags & flag)) for flag in BarFlag}
        return {flag: count for flag, count in counts.items() if count}

    @cached_property
    def gaps(self) -> tuple[Gap, ...]:
        """The missing bars of the grid, with reasons, in order."""
        grid = self.grid
        covered = difference([self.span], self.missing)
        found = find_gaps(self.open_time, covered, grid, self.absences)
        unfetched = find_gaps(self.open_time, self.missing, grid, unexplained=Reason.NOT_FETCHED)
        return tuple(sorted((*found, *unfetched), key=lambda gap: gap.start_ms))

    @cached_property
    def lives(self) -> tuple[Life, ...]:
        """The lives of the symbol within the span, in order, by the newest snapshot of the universe in the cache.

        The snapshot is read when this is first used. Without one (`ckvd universe refresh`) there are none.
        """
        return () if self._find_lives is None else self._find_lives()

    @property
    def is_across_lives(self) -> bool:
        """Whether the bars are those of more than one life of the symbol: of different contracts or coins.

        `read(..., life=...)` reads one of them.
        """
        return len(self.lives) > 1

    # --- Everything else ---

    def resample(self, interval: str, *, like: Klines | ResampledKlines | None = None) -> ResampledKlines:
        """Make longer bars: see `ckvd.bars.resample.resample`.

        Bars of three days, or of a multiple, lie on the grid of the 3d bars of the symbol that the cache holds, or
        on that of `like`.
        """
        from ckvd.bars.resample import resample  # noqa: PLC0415  (loaded on first use)

        return resample(self, interval, like=like)

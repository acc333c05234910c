"""`Klines`: the bars that a backtest reads, as numpy columns, with their flags, gaps and sources."""

from __future__ import annotations

from functools import cached_property, partial
from typing import TYPE_CHECKING, Protocol

import numpy as np
import numpy.typing as npt

from ckvd.bars.columns import BarColumns, require_trades
from ckvd.errors import ColumnError
from ckvd.model.gaps import find_gaps
from ckvd.model.grid import Grid
from ckvd.model.impossible_bars import impossible_bars
from ckvd.model.market import Interval, Kind
from ckvd.model.provenance import Gap, Reason, narrow
from ckvd.model.table import COLUMN_DTYPES, REGULAR_US, BarFlag, bar_flags, fields_of, regular_us, traded_bars
from ckvd.model.timespan import Span, difference

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from ckvd.bars.resample import ResampledKlines
    from ckvd.model.life import Life
    from ckvd.model.market import SeriesKey
    from ckvd.model.provenance import Absence, Source
    from ckvd.model.table import Column, Times


class RowBlock(Protocol):
    """Consecutive rows of one segment or table."""

    def __len__(self) -> int: ...

    def column(self, name: str, interval: Interval) -> Column | None:
        """A column of shape (len(self),), or None if the block leaves it out."""
        ...

    @property
    def sources(self) -> Sequence[Source]:
        """Where the rows come from."""
        ...

    @property
    def absences(self) -> Sequence[Absence]:
        """Why rows are missing."""
        ...


class Klines(BarColumns):
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
        self.series = series
        self.span = span
        self.missing = tuple(missing)
        self._blocks = tuple(blocks)
        # The span that each block covers. The sources and absences of a block count within it only.
        self._block_spans = [span] * len(self._blocks) if held is None else held
        # Reads the open times of all 3d bars of the symbol that the cache holds.
        self._three_day_opens = three_day_opens
        # Reads the lives of the symbol within the span from the newest snapshot of the universe.
        self._find_lives = lives
        self._length = sum(map(len, self._blocks))
        self._columns: dict[str, Column] = {}

    def __len__(self) -> int:
        return self._length

    @property
    def column_names(self) -> tuple[str, ...]:
        """The names of the columns, in the order of the fields in archives."""
        return fields_of(self.series)

    def __getitem__(self, name: str) -> Column:
        """A column by name.

        Raises
        ------
        ColumnError
            The series has no such column.
        """
        column = self._columns.get(name)
        if column is None:
            column = self._columns[name] = self._concatenate(name)
        return column

    def _concatenate(self, name: str) -> Column:
        """A column of all blocks: the array of the block, if only one has rows."""
        if name not in self.column_names and name not in REGULAR_US:
            known = ", ".join(self.column_names)
            raise ColumnError(f"{self.series} has no column {name!r}: expected one of {known}")
        columns = [self._column_of(block, name) for block in self._blocks if len(block)]
        if len(columns) == 1:
            return columns[0]
        column = np.concatenate(columns) if columns else np.empty(0, COLUMN_DTYPES[name])
        column.flags.writeable = False
        return column

    def _column_of(self, block: RowBlock, name: str) -> Column:
        column = block.column(name, self.series.interval)
        return regular_us(name, len(block)) if column is None else column

    @property
    def open_time_us(self) -> npt.NDArray[np.int16]:
        """The microseconds of each open time within its millisecond. It is no column of tables."""
        return self["open_time_us"]

    @property
    def close_time_us(self) -> npt.NDArray[np.int16]:
        """The microseconds of each close time within its millisecond. It is no column of tables."""
        return self["close_time_us"]

    # --- Grid, flags, gaps and sources ---

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

    @property
    def blocks(self) -> tuple[RowBlock, ...]:
        """The blocks that the bars lie in, in order: one for each segment, some of them without bars."""
        return self._blocks

    @property
    def is_view(self) -> bool:
        """Whether all bars lie in one block, so that columns are views and use no memory."""
        return sum(len(block) > 0 for block in self._blocks) <= 1

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
    def absences(self) -> tuple[Absence, ...]:
        """The known reasons for missing bars, in order. `gaps` uses them."""
        blocks = zip(self._blocks, self._block_spans, strict=True)
        return tuple(absence for block, span in blocks for absence in narrow(block.absences, span))

    @cached_property
    def sources(self) -> tuple[Source, ...]:
        """The archives and requests that the bars come from, each cut to the span of its block, in order."""
        blocks = zip(self._blocks, self._block_spans, strict=True)
        return tuple(dict.fromkeys(source for block, span in blocks for source in narrow(block.sources, span)))

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

    def __eq__(self, other: object) -> bool:
        """Whether both have the same bars of the same series, bit for bit, whatever their coverage and sources."""
        if not isinstance(other, Klines):
            return NotImplemented
        return self.series == other.series and all(
            self[name].tobytes() == other[name].tobytes() for name in (*self.column_names, *REGULAR_US)
        )

    __hash__ = None  # type: ignore[assignment]  # has mutable caches, and compares by content

    def __repr__(self) -> str:
        kind = "view" if self.is_view else "gathered"
        missing = f", {len(self.missing)} spans missing" if self.missing else ""
        return f"<Klines {self.series} {self.span}: {len(self)} bars, {kind}{missing}>"

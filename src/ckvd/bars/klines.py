"""`Klines`: what a backtest reads, a struct of numpy arrays with all that is known about them."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Protocol, cast

import numpy as np
import numpy.typing as npt

from ckvd.bars.columns import BarColumns
from ckvd.errors import ColumnError
from ckvd.model.gaps import find_gaps
from ckvd.model.market import Kind
from ckvd.model.provenance import Gap, Reason, narrow
from ckvd.model.table import COLUMN_DTYPES, REGULAR_US, BarFlag, bar_flags, fields_of, regular_us
from ckvd.model.timespan import Span, difference

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ckvd.bars.resample import ResampledKlines
    from ckvd.model.market import Interval, SeriesKey
    from ckvd.model.provenance import Absence, Source
    from ckvd.model.table import Column, Times


class RowBlock(Protocol):
    """Consecutive rows that lie together, such as a range of a mapped segment."""

    def __len__(self) -> int: ...

    def column(self, name: str, interval: Interval) -> Column | None:
        """A column of shape (len(self),), or None where there is none of that name."""
        ...

    @property
    def sources(self) -> Sequence[Source]:
        """Where the rows came from."""
        ...

    @property
    def absences(self) -> Sequence[Absence]:
        """Why rows are not there."""
        ...


class Klines(BarColumns):
    """The bars of one series in one span of time.

    Columns are attributes (`klines.close`) and items (`klines["close"]`): numpy arrays of shape `(len(klines),)`,
    read-only. Times are `int64` milliseconds, `count` is `int64`, everything else is `float64`. Iteration goes over
    the names of the columns, `in` asks for one, and `dict(klines)` is all columns by name; `len` counts the bars.

    Where all bars lie in one segment a column is a view of its memory map and costs nothing; otherwise it is
    gathered into an array when it is first used. Views stay valid after the cache is closed, and whatever happens
    to its files: the map is released with the last array and the last `Klines` that use it.

    Attributes
    ----------
    series : SeriesKey
    span : Span
        What was asked for. Every bar opens in it.
    missing : tuple of Span
        What of it the cache does not cover.
    """

    def __init__(
        self,
        series: SeriesKey,
        span: Span,
        blocks: Sequence[RowBlock],
        missing: Sequence[Span] = (),
        *,
        held: Sequence[Span] | None = None,
    ) -> None:
        self.series = series
        self.span = span
        self.missing = tuple(missing)
        self._blocks = tuple(blocks)
        # What each block speaks for. Beyond that, what it says of sources and absences does not count.
        self._held = [span] * len(self._blocks) if held is None else held
        self._length = sum(map(len, self._blocks))
        self._columns: dict[str, Column] = {}

    def __len__(self) -> int:
        return self._length

    @property
    def column_names(self) -> tuple[str, ...]:
        """The names of the columns, in the order of the fields of a row."""
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
            column = self._columns[name] = self._column(name)
        return column

    def _column(self, name: str) -> Column:
        if name not in self.column_names and name not in REGULAR_US:
            known = ", ".join(self.column_names)
            raise ColumnError(f"{self.series} has no column {name!r}: expected one of {known}")
        parts = [self._part(block, name) for block in self._blocks if len(block)]
        if len(parts) == 1:
            return parts[0]
        column = np.concatenate(parts) if parts else np.empty(0, COLUMN_DTYPES[name])
        column.flags.writeable = False
        return column

    def _part(self, block: RowBlock, name: str) -> Column:
        part = block.column(name, self.series.interval)
        if part is None:
            # Only the microseconds are left out of a segment, where all of them are regular.
            part = regular_us(name, len(block))
        return part

    # --- The columns, by name ---

    @property
    def open_time(self) -> Times:
        """When each bar opens, int64 milliseconds, strictly ascending."""
        return cast("Times", self["open_time"])

    @property
    def open(self) -> npt.NDArray[np.float64]:
        """First price of each bar."""
        return self["open"]

    @property
    def high(self) -> npt.NDArray[np.float64]:
        """Highest price of each bar."""
        return self["high"]

    @property
    def low(self) -> npt.NDArray[np.float64]:
        """Lowest price of each bar."""
        return self["low"]

    @property
    def close(self) -> npt.NDArray[np.float64]:
        """Last price of each bar."""
        return self["close"]

    @property
    def volume(self) -> npt.NDArray[np.float64]:
        """Traded amount: base asset, or contracts for coin-margined futures."""
        return self["volume"]

    @property
    def close_time(self) -> Times:
        """The last millisecond of each bar, int64, as published."""
        return cast("Times", self["close_time"])

    @property
    def count(self) -> Times:
        """Number of trades; number of samples for mark price, index price and premium index."""
        return cast("Times", self["count"])

    # --- What is known about them ---

    @property
    def blocks(self) -> tuple[RowBlock, ...]:
        """The bars as they lie, in order: the segments' parts of the span, some of them without bars."""
        return self._blocks

    @property
    def is_view(self) -> bool:
        """Whether all bars lie in one block, so that columns are views and cost no memory."""
        return sum(len(block) > 0 for block in self._blocks) <= 1

    @cached_property
    def flags(self) -> npt.NDArray[np.uint8]:
        """What is unusual about each bar, a sum of `BarFlag`; 0 for a usual one."""
        has_volume = self.series.kind is Kind.KLINES
        volume = self.volume if has_volume else None
        return bar_flags(self.open_time, self.close_time, volume, self.series.interval)

    @property
    def flag_counts(self) -> dict[BarFlag, int]:
        """How many bars have each flag; flags that none has are left out."""
        counts = {flag: int(np.count_nonzero(self.flags & flag)) for flag in BarFlag}
        return {flag: count for flag, count in counts.items() if count}

    @cached_property
    def gaps(self) -> tuple[Gap, ...]:
        """Every bar of the grid that is not there, with its reason, in order."""
        interval = self.series.interval
        covered = difference([self.span], self.missing)
        found = find_gaps(self.open_time, covered, interval, self.absences)
        unfetched = find_gaps(self.open_time, self.missing, interval, unexplained=Reason.NOT_FETCHED)
        return tuple(sorted((*found, *unfetched), key=lambda gap: gap.start_ms))

    @cached_property
    def absences(self) -> tuple[Absence, ...]:
        """What is known of bars that are not there, in order; `gaps` applies it."""
        spoken = zip(self._blocks, self._held, strict=True)
        return tuple(absence for block, span in spoken for absence in narrow(block.absences, span))

    @cached_property
    def sources(self) -> tuple[Source, ...]:
        """The archives and requests that the bars came from, each cut to the part that it speaks for, in order."""
        spoken = zip(self._blocks, self._held, strict=True)
        return tuple(dict.fromkeys(source for block, span in spoken for source in narrow(block.sources, span)))

    # --- What is made of them ---

    def resample(self, interval: str) -> ResampledKlines:
        """Make longer bars: see `ckvd.bars.resample.resample`."""
        from ckvd.bars.resample import resample  # noqa: PLC0415  (only for those who use it)

        return resample(self, interval)

    def __eq__(self, other: object) -> bool:
        """Whether both have the same bars of the same series, bit for bit. Coverage and sources do not count."""
        if not isinstance(other, Klines):
            return NotImplemented
        return self.series == other.series and all(
            self[name].tobytes() == other[name].tobytes() for name in (*self.column_names, *REGULAR_US)
        )

    __hash__ = None  # type: ignore[assignment]  # mutable caches inside, and compared by content

    def __repr__(self) -> str:
        kind = "view" if self.is_view else "gathered"
        missing = f", {len(self.missing)} spans missing" if self.missing else ""
        return f"<Klines {self.series} {self.span}: {len(self)} bars, {kind}{missing}>"

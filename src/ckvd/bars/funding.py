"""`Funding`: the rates that perpetual contracts settled, and what positions pay by them, bar by bar."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, cast

import numpy as np
import numpy.typing as npt

from ckvd.bars.klines import Klines
from ckvd.bars.series_rows import SeriesRows
from ckvd.errors import ColumnError, NotCachedError
from ckvd.model.grid import regular_close_times
from ckvd.model.market import Market
from ckvd.model.provenance import Gap, Reason
from ckvd.model.settlements import find_missing_settlements, known_hours, settled_times
from ckvd.model.timespan import Span, difference, format_time

if TYPE_CHECKING:
    from ckvd.bars.resample import ResampledKlines
    from ckvd.model.table import Column, Times


class Funding(SeriesRows):
    """The funding rates of one contract in one span of time.

    Columns are attributes (`funding.rate`) and items (`funding["rate"]`): read-only arrays of shape
    `(len(funding),)`. See `SeriesRows` for views, and for `series`, `span`, `missing`, `sources` and `absences`.
    """

    @property
    def column_names(self) -> tuple[str, ...]:
        """`time`, `interval_hours`, `rate` and `mark_price`."""
        return ("time", *super().column_names[1:])

    def __getitem__(self, name: str) -> Column:
        """A column by name. Raises ColumnError if there is none."""
        if name == "interval_hours":
            return self.interval_hours
        if name == "open_time":
            raise ColumnError(f"{self.series} has no column 'open_time': its times are 'time'")
        return super().__getitem__("open_time" if name == "time" else name)

    @property
    def open_time(self) -> Times:
        """See `time`."""
        return self.time

    @property
    def time(self) -> Times:
        """When each rate was settled, int64 milliseconds, ascending, as published: up to some 30 ms late."""
        return cast("Times", super().__getitem__("open_time"))

    @cached_property
    def settled_time(self) -> Times:
        """The hour for which each rate was settled, int64 milliseconds, read-only: `time` without the delay."""
        settled = settled_times(self.time)
        settled.flags.writeable = False
        return settled

    @property
    def rate(self) -> npt.NDArray[np.float64]:
        """What a position of one pays, as a share of its value. If it is positive, long positions pay."""
        return super().__getitem__("rate")

    @cached_property
    def interval_hours(self) -> npt.NDArray[np.int64]:
        """The hours from one settlement to the next when this one was made, int64, read-only.

        As published by the archive. The REST interface does not say them: there they are told by the settlement
        before, and 0 where that is missing. See `ckvd.model.settlements`.
        """
        hours = known_hours(self.time, super().__getitem__("interval_hours"))
        hours.flags.writeable = False
        return hours

    @property
    def mark_price(self) -> npt.NDArray[np.float64]:
        """The mark price at the settlement; NaN where it is unknown. Archives do not have it."""
        return super().__getitem__("mark_price")

    @cached_property
    def gaps(self) -> tuple[Gap, ...]:
        """The missing settlements, with reasons, in order: see `find_missing_settlements`."""
        covered = difference([self.span], self.missing)
        published = super().__getitem__("interval_hours")
        found = find_missing_settlements(self.time, published, covered, self.absences)
        unfetched = [Gap(span.start_ms, span.end_ms, 0, Reason.NOT_FETCHED) for span in self.missing]
        return tuple(sorted((*found, *unfetched), key=lambda gap: gap.start_ms))

    def on(self, klines: Klines | ResampledKlines) -> npt.NDArray[np.float64]:
        """The rates that were settled within each bar.

        A rate belongs to the bar that is open when it is settled, after the delay is taken off: that of
        08:00:00.031 belongs to the bar that opens at 08:00. If no bar is open then, it belongs to the next bar. So
        none is counted before it was settled, and none is lost between bars. Rates before the first bar and after
        the end of the last are left out.

        Parameters
        ----------
        klines : Klines or ResampledKlines
            Bars of any contract and length.

        Returns
        -------
        ndarray of float64, shape (len(klines),)
            The sum of the rates in each bar; 0 where none was settled.

        Raises
        ------
        NotCachedError
            The funding does not cover the bars: read it from the open of the first to the end of the last. Weeks
            and other long bars may end after the span for which they were read, and resampled ones begin before it.
        """
        rows, bars = self._rows_in(klines)
        return np.bincount(bars, self.rate[rows], len(klines)).astype(np.float64, copy=False)

    def pay(
        self,
        positions: npt.ArrayLike,
        klines: Klines | ResampledKlines,
        *,
        contract_size: float | None = None,
    ) -> npt.NDArray[np.float64]:
        """What positions received by funding in each bar; negative where they paid.

        A position of `q` receives `-q * mark price * rate` (USD-M, in quote asset), or, of `q` contracts,
        `-q * contract size / mark price * rate` (COIN-M, in base asset). Where the mark price is unknown, the open
        of the bar in which the rate is counted takes its place: it is known then.
        Source: https://www.binance.com/en/support/faq/360033525031

        Parameters
        ----------
        positions : array_like of float, shape (len(klines),)
            What is held when each bar opens: negative if short.
        klines : Klines or ResampledKlines
            Bars of the contract.
        contract_size : float, optional
            The value of a contract in quote asset. COIN-M needs it: 100 for BTCUSD, 10 for others.

        Returns
        -------
        ndarray of float64, shape (len(klines),)

        Raises
        ------
        NotCachedError
            See `on`.
        ValueError
            There are not as many positions as bars, or the contract size is missing, superfluous or not positive.
        """
        held = np.asarray(positions, np.float64)
        if held.shape != (len(klines),):
            raise ValueError(f"expected a position for each of {len(klines)} bars, found shape {held.shape}")
        is_coin = self.series.market is Market.CM
        if is_coin is (contract_size is None):
            needed = "needs the contract_size" if is_coin else "has no contract_size"
            raise ValueError(f"market {self.series.market} {needed}: only COIN-M contracts have one")
        if contract_size is not None and not 0 < contract_size < np.inf:
            raise ValueError(f"the value of a contract is a positive number, not {contract_size!r}")
        rows, bars = self._rows_in(klines)
        marks = self.mark_price[rows]
        prices = np.where(np.isnan(marks), klines.open[bars], marks)
        values = held[bars] * (contract_size / prices if contract_size is not None else prices)
        return np.bincount(bars, -values * self.rate[rows], len(klines)).astype(np.float64, copy=False)

    def _rows_in(self, klines: Klines | ResampledKlines) -> tuple[Times, Times]:
        """The rates that belong to bars, and the bar of each."""
        if not len(klines):
            return np.empty(0, np.int64), np.empty(0, np.int64)
        opens, end_ms = klines.open_time, _end_ms(klines)
        needed = [Span(int(opens[0]), end_ms)]
        if lacking := difference(needed, difference([self.span], self.missing)):
            raise NotCachedError(
                f"{self.series}: the bars reach over {needed[0]}, and the funding does not cover {lacking[0]}: "
                f"read it from {format_time(needed[0].start_ms)} to {format_time(end_ms)}",
                lacking,
            )
        settled = self.settled_time
        rows = np.flatnonzero((settled >= opens[0]) & (settled < end_ms))
        bars = opens.searchsorted(settled[rows], side="right") - 1
        is_after = settled[rows] >= _ends(klines)[bars]
        # The end of the last bar ends the span, so that there is a next bar.
        return rows, bars + is_after


def _ends(klines: Klines | ResampledKlines) -> Times:
    """The end of each bar, exclusive: that of its interval, or earlier where the next bar opens before."""
    opens = klines.open_time
    if isinstance(klines, Klines):
        ends = regular_close_times(opens, klines.series.bar_interval) + 1
    else:
        ends = klines.close_time + 1
    ends[:-1] = np.minimum(ends[:-1], opens[1:])
    return ends


def _end_ms(klines: Klines | ResampledKlines) -> int:
    return int(_ends(klines)[-1])

"""`Metrics`: open interest and the ratios of a contract, a row for every five minutes."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, cast

from ckvd.bars.series_rows import SeriesRows
from ckvd.model.gaps import find_gaps
from ckvd.model.grid import Grid
from ckvd.model.market import METRICS_STEP_MS
from ckvd.model.provenance import Reason
from ckvd.model.timespan import difference

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from ckvd.model.provenance import Gap
    from ckvd.model.table import Column, Times


def known_times(open_time: Times) -> Times:
    """From when on the rows that describe the five minutes from `open_time` on could be known, milliseconds."""
    return open_time + METRICS_STEP_MS


class Metrics(SeriesRows):
    """Open interest and ratios of one contract in one span of time.

    Columns are attributes (`metrics.open_interest`) and items (`metrics["open_interest"]`): read-only arrays of
    shape `(len(metrics),)`, float64 unless said otherwise. Blank cells of archives are NaN. See `SeriesRows` for
    views, and for `series`, `span`, `missing`, `sources` and `absences`.

    A row describes the five minutes from `open_time` on, and could be known from `known_time` on, when they were
    over. The labels of the archives (`create_time`) mean the beginning of these minutes in some files, and the end
    in others: use `known_time` to join rows to bars, never `create_time`. It stands in tables too.
    """

    @property
    def column_names(self) -> tuple[str, ...]:
        """`open_time`, `known_time` and the fields of the archives."""
        first, *fields = super().column_names
        return (first, "known_time", *fields)

    def __getitem__(self, name: str) -> Column:
        """A column by name. Raises ColumnError if there is none."""
        return self.known_time if name == "known_time" else super().__getitem__(name)

    @property
    def create_time(self) -> Times:
        """The label of each row as published, int64 milliseconds. What it means differs: see the class."""
        return cast("Times", self["create_time"])

    @cached_property
    def known_time(self) -> Times:
        """From when on each row could be known, int64 milliseconds, read-only: five minutes after `open_time`."""
        known = known_times(self.open_time)
        known.flags.writeable = False
        return known

    @property
    def open_interest(self) -> npt.NDArray[np.float64]:
        """Open positions: in base asset, or contracts for coin-margined futures."""
        return self["open_interest"]

    @property
    def open_interest_value(self) -> npt.NDArray[np.float64]:
        """Their value: in quote asset, or base asset for coin-margined futures."""
        return self["open_interest_value"]

    @property
    def count_toptrader_long_short_ratio(self) -> npt.NDArray[np.float64]:
        """Accounts of top traders that are long, to those that are short."""
        return self["count_toptrader_long_short_ratio"]

    @property
    def sum_toptrader_long_short_ratio(self) -> npt.NDArray[np.float64]:
        """Positions of top traders that are long, to those that are short."""
        return self["sum_toptrader_long_short_ratio"]

    @property
    def count_long_short_ratio(self) -> npt.NDArray[np.float64]:
        """Accounts that are long, to those that are short."""
        return self["count_long_short_ratio"]

    @property
    def sum_taker_long_short_vol_ratio(self) -> npt.NDArray[np.float64]:
        """The volume in which takers bought, to that in which they sold, in the five minutes."""
        return self["sum_taker_long_short_vol_ratio"]

    @cached_property
    def gaps(self) -> tuple[Gap, ...]:
        """The missing rows, with reasons, in order."""
        grid = Grid.of(self.series.interval)
        covered = difference([self.span], self.missing)
        found = find_gaps(self.open_time, covered, grid, self.absences)
        unfetched = find_gaps(self.open_time, self.missing, grid, unexplained=Reason.NOT_FETCHED)
        return tuple(sorted((*found, *unfetched), key=lambda gap: gap.start_ms))

"""`SeriesRows`: the rows of one series in one span, gathered from the segments that hold them.

`Klines`, `Funding` and `Metrics` are rows of a series, and add what their kind means.
"""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Protocol, cast

import numpy as np

from ckvd.bars.columns import TableColumns
from ckvd.errors import ColumnError
from ckvd.model.provenance import narrow
from ckvd.model.schema import COLUMN_DTYPES
from ckvd.model.table import REGULAR_US, fields_of, regular_us

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ckvd.model.market import Interval, SeriesKey
    from ckvd.model.provenance import Absence, Source
    from ckvd.model.table import Column, Times
    from ckvd.model.timespan import Span


class RowBlock(Protocol):
    """Consecutive rows of one segment or table."""

    def __len__(self) -> int: ...

    def column(self, name: str, interval: Interval | None) -> Column | None:
        """A column of shape (len(self),), or None if the block leaves it out."""
        ...

    def even_runs(self, step_ms: int) -> Sequence[int] | None:
        """The rows at which runs begin: each row of a run opens `step_ms` after the one before. None if many."""
        ...

    @property
    def sources(self) -> Sequence[Source]:
        """Where the rows come from."""
        ...

    @property
    def absences(self) -> Sequence[Absence]:
        """Why rows are missing."""
        ...


class SeriesRows(TableColumns):
    """The rows of one series in one span of time.

    If all rows lie in one segment, a column is a view of its memory map and costs nothing. Otherwise it is
    concatenated when it is first used. Views stay valid after the cache is closed, whatever happens to its files:
    the map is closed with the last array and the last rows that use it.

    Attributes
    ----------
    series : SeriesKey
    span : Span
        The span that was asked for. The time of every row lies in it.
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
    ) -> None:
        self.series = series
        self.span = span
        self.missing = tuple(missing)
        self._blocks = tuple(blocks)
        # The span that each block covers. The sources and absences of a block count within it only.
        self._block_spans = [span] * len(self._blocks) if held is None else held
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
        if name not in fields_of(self.series) and not (name in REGULAR_US and self.series.kind.is_bars):
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
    def open_time(self) -> Times:
        """The time of each row, int64 milliseconds, strictly ascending."""
        return cast("Times", self["open_time"])

    @property
    def blocks(self) -> tuple[RowBlock, ...]:
        """The blocks that the rows lie in, in order: one for each segment, some of them without rows."""
        return self._blocks

    @property
    def is_view(self) -> bool:
        """Whether all rows lie in one block, so that columns are views and use no memory."""
        return sum(len(block) > 0 for block in self._blocks) <= 1

    @cached_property
    def absences(self) -> tuple[Absence, ...]:
        """The known reasons for missing rows, in order."""
        blocks = zip(self._blocks, self._block_spans, strict=True)
        return tuple(absence for block, span in blocks for absence in narrow(block.absences, span))

    @cached_property
    def sources(self) -> tuple[Source, ...]:
        """The archives and requests that the rows come from, each cut to the span of its block, in order."""
        blocks = zip(self._blocks, self._block_spans, strict=True)
        return tuple(dict.fromkeys(source for block, span in blocks for source in narrow(block.sources, span)))

    def __eq__(self, other: object) -> bool:
        """Whether both have the same rows of the same series, bit for bit, whatever their coverage and sources."""
        if not isinstance(other, SeriesRows):
            return NotImplemented
        names = fields_of(self.series)
        us = REGULAR_US if self.series.kind.is_bars else ()
        return self.series == other.series and all(
            SeriesRows.__getitem__(self, name).tobytes() == SeriesRows.__getitem__(other, name).tobytes()
            for name in (*names, *us)
        )

    __hash__ = None  # type: ignore[assignment]  # has mutable caches, and compares by content

    def __repr__(self) -> str:
        kind = "view" if self.is_view else "gathered"
        missing = f", {len(self.missing)} spans missing" if self.missing else ""
        noun = "bars" if self.series.kind.is_bars else "rows"
        return f"<{type(self).__name__} {self.series} {self.span}: {len(self)} {noun}, {kind}{missing}>"

"""A block of rows that is not a segment."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ckvd.model.market import Interval
    from ckvd.model.provenance import Absence, Source
    from ckvd.model.table import Column, KlineTable


@dataclass(frozen=True)
class Block:
    """The rows of a table, as a block of `Klines`."""

    table: KlineTable
    sources: Sequence[Source] = ()
    absences: Sequence[Absence] = ()

    def __len__(self) -> int:
        return self.table.row_count

    def column(self, name: str, interval: Interval | None) -> Column | None:
        return self.table.columns.get(name)

    def even_runs(self, step_ms: int) -> Sequence[int] | None:
        opens = self.table.open_time.tolist()
        return [row for row, open_ms in enumerate(opens) if not row or open_ms - opens[row - 1] != step_ms]

"""Tables and segments made by hand, and comparisons of bits and folders."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from ckvd.model.grid import regular_close_times
from ckvd.model.market import SeriesKey
from ckvd.model.schema import COLUMN_DTYPES
from ckvd.model.table import KlineTable, fields_of
from ckvd.model.timespan import Span
from ckvd.segment import SegmentStatement, SegmentWriter
from support.models import grid_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    import numpy.typing as npt

    from ckvd.model.table import Column, Decimals

BTCUSDT_1M = SeriesKey.of("BTCUSDT", "1m")
# In the order of the twelve fields: the high is the highest, the low the lowest, and takers bought a part.
_HUNDREDS = (10, 1, 6, 0.5, 4, 5, 12, 7, 8, 2, 3, 11)


def make_table(
    series: SeriesKey,
    open_times: Sequence[int] | npt.NDArray[np.int64],
    *,
    decimals: Mapping[str, Decimals] | None = None,
    **columns: Any,
) -> KlineTable:
    """Bars that open at given times and close regularly. Other cells count up, each column from its own hundred, so
    that a market could have made the bars.

    A column given by name holds what is given instead, a scalar in every row. Columns that are not among the twelve
    fields (`close_time_us`) are added.
    """
    opens = np.array(open_times, np.int64)
    made: dict[str, Column] = {
        name: int(100 * hundred) + np.arange(len(opens), dtype=COLUMN_DTYPES[name])
        for hundred, name in zip(_HUNDREDS, fields_of(series), strict=True)
    }
    made["open_time"] = opens
    made["close_time"] = regular_close_times(opens, series.bar_interval)
    for name, values in columns.items():
        made[name] = np.broadcast_to(np.asarray(values, COLUMN_DTYPES[name]), opens.shape).copy()
    return KlineTable(series, made, decimals or {})


def regular_table(series: SeriesKey, span: Span, **columns: Any) -> KlineTable:
    """A bar on every point of the grid in a span."""
    return make_table(series, grid_of(series.bar_interval).opens(span), **columns)


def write_segment(
    path: Path, table: KlineTable, span: Span | None = None, revision: int = 1, **statement: Any
) -> Path:
    """Publish a table as a segment. By default, it covers the time from its first bar to the end of its last."""
    if span is None:
        span = Span(int(table.open_time[0]), int(table.columns["close_time"][-1]) + 1)
    with SegmentWriter.of_table(path, SegmentStatement(table.series, span, revision, **statement), table) as writer:
        return writer.publish()


def same_bits(one: Column, other: Column) -> bool:
    """Whether two columns are equal in type and in every bit: -0.0 is not 0.0."""
    return one.dtype == other.dtype and one.shape == other.shape and one.tobytes() == other.tobytes()


def memory_owner(column: Column) -> object:
    """The object that owns the memory of an array, below all views: the memory map, for an array of a segment."""
    owner: object = column
    while isinstance(owner, (np.ndarray, memoryview)):
        base = owner.base if isinstance(owner, np.ndarray) else owner.obj
        if base is None:
            break
        owner = base
    return owner


def folder_state(folder: Path) -> dict[str, tuple[bytes, int]]:
    """The bytes and the modification time of each file in a folder and below."""
    return {
        str(path.relative_to(folder)): (path.read_bytes(), path.stat().st_mtime_ns)
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }

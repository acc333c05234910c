"""ZIP bytes to columns: raw rows get names, times in milliseconds, a check against the expected span, and order.

Two kinds of rows are dropped and counted: exact duplicates, and the earlier of two different rows with the same
open time. `decode_rows` takes rows of any source.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np
import numpy.typing as npt

from ckvd.decode.rows import RawRows, parse_rows
from ckvd.decode.unzip import unzip_csv
from ckvd.decode.workspace import Workspace
from ckvd.errors import ArchiveError
from ckvd.model.market import DAY_MS
from ckvd.model.table import (
    CLOSE_TIME_US,
    FLOAT_FIELDS,
    OPEN_TIME_US,
    REGULAR_CLOSE_US,
    REGULAR_OPEN_US,
    KlineTable,
    fields_of,
)
from ckvd.model.timespan import Span, format_time
from ckvd.utils.config import (
    ARCHIVE_CSV_NBYTES_MAX,
    ARCHIVE_LINE_NBYTES_MAX,
    ARCHIVE_ROW_NBYTES_MAX,
    ARCHIVE_ROWS_FACTOR_MAX,
)

if TYPE_CHECKING:
    from ckvd.model.market import SeriesKey
    from ckvd.model.table import Column, Times

# Larger times are microseconds, smaller ones milliseconds: in milliseconds this is the year 5138, in microseconds
# 1973-03-03.
_MICROSECONDS_MIN: Final = 10**14
_OPEN_TIME, _CLOSE_TIME = 0, 6
# A bar may close at an odd time, but not outside the years that ckvd accepts.
_PLAUSIBLE: Final = Span.of("1970-01-01", "2200-01-01")
_MONTH_MS_MIN: Final = 28 * DAY_MS


@dataclass(frozen=True, slots=True)
class Expected:
    """What the rows of a source should be.

    Attributes
    ----------
    series : SeriesKey
        Whose bars they are; it names the columns.
    span : Span
        Where every open time must lie.
    label : str
        What errors call the source.
    """

    series: SeriesKey
    span: Span
    label: str

    @property
    def csv_nbytes_max(self) -> int:
        """The largest CSV that the source may be: generous for the bars of its span, and no bomb."""
        bar_ms = self.series.interval.fixed_ms or _MONTH_MS_MIN
        row_count_max = ARCHIVE_ROWS_FACTOR_MAX * (self.span.length_ms // bar_ms + 2)
        return min(ARCHIVE_CSV_NBYTES_MAX, ARCHIVE_ROW_NBYTES_MAX * row_count_max + ARCHIVE_LINE_NBYTES_MAX)


@dataclass(frozen=True, slots=True, eq=False)
class DecodedRows:
    """The bars of a source, and what was found in it.

    Attributes
    ----------
    table : KlineTable
        The bars, strictly ascending by open time.
    row_count : int
        Rows in the source, including duplicates, without the header line.
    duplicate_row_count : int
        Rows that equal another one in every cell; the table has one of each.
    conflict_open_times : ndarray of int64
        The open times, in milliseconds, ascending, of rows that differ; the table has the last row of each.
    unordered_row_count : int
        Rows after a row with a later open time.
    has_header : bool
    time_unit : str
        `ms`, `us`, or `mixed`.
    """

    table: KlineTable
    row_count: int
    duplicate_row_count: int
    conflict_open_times: Times
    unordered_row_count: int
    has_header: bool
    time_unit: str


def decode_archive(
    content: bytes | memoryview, expected: Expected, workspace: Workspace | None = None
) -> DecodedRows:
    """Decode a zipped CSV.

    Parameters
    ----------
    content : bytes or memoryview
        The whole ZIP.
    expected : Expected
    workspace : Workspace, optional
        That of the calling thread, which is cleared first.

    Raises
    ------
    ArchiveError
        The ZIP is damaged or unusual, a row is malformed, or a time lies outside the expected span.
    """
    workspace = workspace or Workspace()
    workspace.clear()
    csv = inflate_expected(content, expected, workspace)
    with workspace.parsing:
        rows = parse_rows(csv, expected.label)
    return decode_rows(rows, expected)


def inflate_expected(content: bytes | memoryview, expected: Expected, workspace: Workspace) -> memoryview:
    """Inflate the CSV of an archive: `unzip_csv`, bounded by what such an archive may hold."""
    nbytes_max = expected.csv_nbytes_max
    return unzip_csv(content, expected.series, expected.label, nbytes_max=nbytes_max, workspace=workspace)


def decode_rows(rows: RawRows, expected: Expected) -> DecodedRows:
    """Turn raw rows into a table.

    Parameters
    ----------
    rows : RawRows
    expected : Expected

    Raises
    ------
    ArchiveError
        An open time lies outside the expected span, or a close time outside the years 1970 to 2200.
    """
    open_time, open_us, open_unit = _to_ms(rows.cells[_OPEN_TIME], REGULAR_OPEN_US)
    close_time, close_us, close_unit = _to_ms(rows.cells[_CLOSE_TIME], REGULAR_CLOSE_US)
    _check_times(rows, open_time, _OPEN_TIME, expected.span, expected.label)
    _check_times(rows, close_time, _CLOSE_TIME, _PLAUSIBLE, expected.label)
    names = fields_of(expected.series)
    columns = dict(zip(names, rows.cells, strict=True))
    columns |= {names[_OPEN_TIME]: open_time, names[_CLOSE_TIME]: close_time}
    columns |= {OPEN_TIME_US: open_us} if open_us is not None else {}
    columns |= {CLOSE_TIME_US: close_us} if close_us is not None else {}
    order = _order(columns, open_time)
    if order.kept is not None:
        columns = {column: cells[order.kept] for column, cells in columns.items()}
    decimals = {names[field]: found for field, found in zip(FLOAT_FIELDS, rows.decimals, strict=True)}
    return DecodedRows(
        table=KlineTable(expected.series, columns, decimals),
        row_count=rows.row_count,
        duplicate_row_count=order.duplicate_row_count,
        conflict_open_times=order.conflict_open_times,
        unordered_row_count=order.unordered_row_count,
        has_header=rows.has_header,
        time_unit=open_unit if open_unit == close_unit else "mixed",
    )


def _to_ms(moments: Times, regular_us: int) -> tuple[Times, npt.NDArray[np.int16] | None, str]:
    """Convert times to milliseconds, rounded down. Return them, the microseconds within each, and the cells' unit.

    A cell in milliseconds has `regular_us` microseconds. None stands for microseconds that all are `regular_us`.
    """
    is_us = moments >= _MICROSECONDS_MIN
    if not np.any(is_us):
        return moments, None, "ms"
    moments_ms = moments // 1000
    within_us = (moments - moments_ms * 1000).astype(np.int16)
    unit = "us"
    if not np.all(is_us):
        unit, moments_ms = "mixed", np.where(is_us, moments_ms, moments)
        within_us[~is_us] = regular_us
    return moments_ms, None if np.all(within_us == regular_us) else within_us, unit


def _check_times(rows: RawRows, moments_ms: Times, field: int, span: Span, label: str) -> None:
    outside = (moments_ms < span.start_ms) | (moments_ms >= span.end_ms)
    if np.any(outside):
        row = int(np.argmax(outside))
        found, what = int(rows.cells[field][row]), "open_time" if field == _OPEN_TIME else "close_time"
        moment_ms = int(moments_ms[row])
        shown = f" ({format_time(moment_ms)})" if moment_ms in _PLAUSIBLE else ""
        raise ArchiveError(
            label,
            f"{what} lies outside {span}: expected a time within, found {found}{shown}",
            row=rows.line_of(row),
        )


@dataclass(frozen=True, slots=True, eq=False)
class _Order:
    """Which rows to keep, in which order; `kept` is None if all rows stay as they are."""

    kept: npt.NDArray[np.intp] | None
    duplicate_row_count: int
    conflict_open_times: Times
    unordered_row_count: int


def _order(columns: dict[str, Column], open_time: Times) -> _Order:
    if np.all(open_time[1:] > open_time[:-1]):
        return _Order(None, 0, np.empty(0, dtype=np.int64), 0)
    unordered = int(np.count_nonzero(open_time < np.maximum.accumulate(open_time)))
    order = np.argsort(open_time, kind="stable")
    ascending = open_time[order]
    is_last = np.append(ascending[1:] != ascending[:-1], True)
    stops = np.flatnonzero(is_last) + 1
    starts = np.concatenate(([0], stops[:-1]))
    duplicates, conflicts = 0, []
    for start, stop in zip(starts.tolist(), stops.tolist(), strict=True):
        if stop - start > 1:
            # Rows are compared as bytes: 0.0 and -0.0 are equal numbers, but different cells.
            distinct = {b"".join(cells[row].tobytes() for cells in columns.values()) for row in order[start:stop]}
            duplicates += stop - start - len(distinct)
            if len(distinct) > 1:
                conflicts.append(int(ascending[start]))
    return _Order(order[stops - 1], duplicates, np.array(conflicts, dtype=np.int64), unordered)

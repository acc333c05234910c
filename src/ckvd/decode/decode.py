"""ZIP bytes to columns: raw rows get names, times in milliseconds, a check against the expected span, and order.

Three kinds of rows are dropped and counted: exact duplicates, the earlier of two different rows with the same open
time, and rows that open outside of the period of their archive, which belong to another one. `decode_rows` takes
rows of any source.

The line between a row of another period and a damaged row is the time itself. A time in the years 2010 to 2200 is
one at which a bar may open: the row is whole, and is no bar of this archive, so that leaving it out loses nothing.
Any other number (seconds, nanoseconds, a flipped digit) is no time of a bar: nobody can tell which bar the row
was, and the archive is refused, as for any cell that cannot be read. Where most rows are of another period, the
archive is another one under this name, and is refused too.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np
import numpy.typing as npt

from ckvd.decode.records import read_records
from ckvd.decode.rows import RowParser
from ckvd.decode.unzip import find_csv
from ckvd.errors import ArchiveError
from ckvd.model.grid import Grid
from ckvd.model.impossible_bars import impossible_bars
from ckvd.model.market import DAY_MS, HOUR_MS
from ckvd.model.provenance import Labels
from ckvd.model.schema import FLOAT_FIELDS
from ckvd.model.stray_bars import interval_fault
from ckvd.model.table import CLOSE_TIME_US, OPEN_TIME_US, REGULAR_CLOSE_US, REGULAR_OPEN_US, KlineTable, fields_of
from ckvd.model.timespan import Span, format_time
from ckvd.utils.config import (
    ARCHIVE_CSV_NBYTES_MAX,
    ARCHIVE_LINE_NBYTES_MAX,
    ARCHIVE_ROW_NBYTES_MAX,
    ARCHIVE_ROWS_FACTOR_MAX,
)

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import BinaryIO

    from ckvd.decode.records import RecordRows
    from ckvd.decode.rows import ParsedTexts, RawRows
    from ckvd.decode.unzip import ZippedCsv
    from ckvd.decode.workspace import Workspace
    from ckvd.model.market import SeriesKey
    from ckvd.model.table import Column, Times

# Larger times are microseconds, smaller ones milliseconds: in milliseconds this is the year 5138, in microseconds
# 1973-03-03.
_MICROSECONDS_MIN: Final = 10**14
_OPEN_TIME, _CLOSE_TIME = 0, 6
# The shortest row is twelve digits, eleven commas and a newline; most have six times as many bytes.
_ROW_NBYTES_MIN: Final = 24
# Rows converted at a time: what is made of them stays in the processor's cache.
_CHUNK_ROWS: Final = 1 << 16
# A bar may close at an odd time, but not outside the years that ckvd accepts.
_PLAUSIBLE: Final = Span.of("1970-01-01", "2200-01-01")
# Where a bar of another archive may open. No market of the exchange is older. Seconds that are read as milliseconds
# lie in January 1970, nanoseconds that are read as microseconds in the year 50,000 or so.
_TRADING: Final = Span.of("2010-01-01", "2200-01-01")
_MONTH_MS_MIN: Final = 28 * DAY_MS


@dataclass(frozen=True, slots=True)
class Expected:
    """What the rows of a source should be.

    Attributes
    ----------
    series : SeriesKey
        Whose bars they are; it names the columns.
    span : Span
        Where every open time should lie.
    label : str
        What errors call the source.
    is_strict : bool
        Refuse rows that open elsewhere, instead of leaving them out.
    """

    series: SeriesKey
    span: Span
    label: str
    is_strict: bool = False

    @property
    def csv_nbytes_max(self) -> int:
        """The largest CSV that the source may be: generous for the bars of its span, and no bomb."""
        interval = self.series.interval
        # The exchange settles at most once an hour.
        bar_ms = HOUR_MS if interval is None else interval.fixed_ms or _MONTH_MS_MIN
        row_count_max = ARCHIVE_ROWS_FACTOR_MAX * (self.span.length_ms // bar_ms + 2)
        return min(ARCHIVE_CSV_NBYTES_MAX, ARCHIVE_ROW_NBYTES_MAX * row_count_max + ARCHIVE_LINE_NBYTES_MAX)

    @property
    def usual_row_count(self) -> int:
        """The number of bars that there is room for on the grid. A source may have more rows than that."""
        return Grid.of(self.series.bar_interval).count_max(self.span)


@dataclass(frozen=True, slots=True, eq=False)
class DecodedRows:
    """The bars of a source, and what was found in it.

    Attributes
    ----------
    table : KlineTable
        The bars, strictly ascending by open time.
    row_count : int
        Rows in the source, including all that were dropped, without the header line.
    duplicate_row_count : int
        Rows that equal another one in every cell; the table has one of each.
    conflict_open_times : ndarray of int64
        The open times, in milliseconds, ascending, of rows that differ; the table has the last row of each.
    unordered_row_count : int
        Rows after a row with a later open time.
    outside_open_times : ndarray of int64
        The open times, in milliseconds, in the order of the source, of rows outside of the expected span; the table
        has none of them, and the other counts leave them out.
    impossible_open_times : ndarray of int64
        The open times, in milliseconds, ascending, of bars that no market can make: see
        `ckvd.model.impossible_bars`. The table has them.
    has_header : bool
    time_unit : str
        `ms`, `us`, or `mixed`.
    labels : Labels
        Of metrics, what the times in the source mean.
    """

    table: KlineTable
    row_count: int
    duplicate_row_count: int
    conflict_open_times: Times
    unordered_row_count: int
    outside_open_times: Times
    impossible_open_times: Times
    has_header: bool
    time_unit: str
    labels: Labels = Labels.NONE


def decode_archive(
    content: bytes | BinaryIO, expected: Expected, workspace: Workspace | None = None
) -> DecodedRows:
    """Decode a zipped CSV.

    Parameters
    ----------
    content : bytes or binary file
        The whole ZIP.
    expected : Expected
    workspace : Workspace, optional
        That of the calling thread.

    Raises
    ------
    ArchiveError
        The ZIP is damaged or unusual, a row is malformed, or `decode_rows` refuses the rows.
    """
    if expected.series.kind.is_bars:
        return decode_rows(parse_archives([content], [expected], workspace).whole, expected)
    csv = _csv_of(content, expected).read()
    return decode_records(read_records(csv, expected.series, expected.span, expected.label), expected)


def parse_archives(
    contents: Sequence[bytes | BinaryIO], expected: Sequence[Expected], workspace: Workspace | None = None
) -> ParsedTexts:
    """Inflate and parse the bars of several archives, block by block, one archive after the other.

    Parameters
    ----------
    contents : sequence of bytes or binary file
        The whole ZIPs.
    expected : sequence of Expected
        What the rows of each should be.
    workspace : Workspace, optional
        That of the calling thread.

    Returns
    -------
    ParsedTexts
        The rows of the archives.

    Raises
    ------
    ArchiveError
        A ZIP is damaged or unusual, or a row is malformed. Of several archives, it may name another one.
    """
    texts = [_csv_of(content, one) for content, one in zip(contents, expected, strict=True)]
    row_count = sum(
        min(one.usual_row_count, text.nbytes // _ROW_NBYTES_MIN + 1)
        for text, one in zip(texts, expected, strict=True)
    )
    parser = RowParser(expected[0].label, row_count=row_count, workspace=workspace)
    for text in texts:
        _parse_text(parser, text)
    return parser.finish()


def _parse_text(parser: RowParser, text: ZippedCsv) -> None:
    refusal: ArchiveError | None = None
    for piece in text.pieces():
        if refusal is None:
            try:
                parser.feed(piece)
            except ArchiveError as error:
                # Is it the ZIP that is damaged? That is known at its end, and says more than a row does.
                refusal = error
    if refusal is not None:
        raise refusal
    parser.end_text()


def _csv_of(content: bytes | BinaryIO, expected: Expected) -> ZippedCsv:
    """Find the CSV of an archive: `find_csv`, bounded by what such an archive may hold."""
    return find_csv(content, expected.series, expected.label, nbytes_max=expected.csv_nbytes_max)


def decode_rows(rows: RawRows, expected: Expected, *, are_possible: bool = False) -> DecodedRows:
    """Turn raw rows into a table.

    Parameters
    ----------
    rows : RawRows
    expected : Expected
    are_possible : bool
        Whether it is known that none of the bars is impossible.

    Raises
    ------
    ArchiveError
        A time is no time of a bar, most rows open outside the expected span (any row, if it is strict), or the
        bars are of another interval than the series.
    """
    open_time, open_us, open_unit = _to_ms(rows.cells[_OPEN_TIME], REGULAR_OPEN_US)
    close_time, close_us, close_unit = _to_ms(rows.cells[_CLOSE_TIME], REGULAR_CLOSE_US)
    is_outside = _outside(open_time, expected.span)
    has_outside = bool(is_outside.any())
    if has_outside:
        is_refused = is_outside if expected.is_strict else is_outside & _outside(open_time, _TRADING)
        if np.any(is_refused):
            raise _time_error(rows, int(np.argmax(is_refused)), _OPEN_TIME, expected.span, expected.label)
    is_refused = _outside(close_time, _PLAUSIBLE)
    if np.any(is_refused):
        raise _time_error(rows, int(np.argmax(is_refused)), _CLOSE_TIME, _PLAUSIBLE, expected.label)
    names = fields_of(expected.series)
    cells = dict(zip(names, rows.cells, strict=True))
    cells |= {names[_OPEN_TIME]: open_time, names[_CLOSE_TIME]: close_time}
    cells |= {OPEN_TIME_US: open_us} if open_us is not None else {}
    cells |= {CLOSE_TIME_US: close_us} if close_us is not None else {}
    columns, outside, order = _arrange(cells, is_outside if has_outside else None, expected)
    opens = columns[names[_OPEN_TIME]]
    fault = interval_fault(opens, columns[names[_CLOSE_TIME]], expected.series.bar_interval)
    if fault is not None:
        raise ArchiveError(expected.label, fault)
    decimals = {names[field]: found for field, found in zip(FLOAT_FIELDS, rows.decimals, strict=True)}
    return DecodedRows(
        table=KlineTable(expected.series, columns, decimals),
        row_count=rows.row_count,
        duplicate_row_count=order.duplicate_row_count,
        conflict_open_times=order.conflict_open_times,
        unordered_row_count=order.unordered_row_count,
        outside_open_times=outside,
        impossible_open_times=(
            opens[:0] if are_possible else opens[impossible_bars(columns.__getitem__, expected.series)]
        ),
        has_header=rows.has_header,
        time_unit=open_unit if open_unit == close_unit else "mixed",
    )


def decode_records(rows: RecordRows, expected: Expected) -> DecodedRows:
    """Turn the rows of an archive of funding rates or metrics into a table.

    Raises
    ------
    ArchiveError
        A time is no time of a row, or most rows are of another period.
    """
    open_time = rows.columns["open_time"]
    is_outside = _outside(open_time, expected.span)
    is_refused = _outside(open_time, _TRADING)
    if is_refused.any():
        row = int(np.argmax(is_refused))
        reason = f"expected a time within {expected.span}, found {open_time[row]}"
        raise ArchiveError(expected.label, reason, row=row + 1 + rows.has_header)
    columns, outside, order = _arrange(rows.columns, is_outside if is_outside.any() else None, expected)
    return DecodedRows(
        table=KlineTable(expected.series, columns, rows.decimals),
        row_count=len(open_time),
        duplicate_row_count=order.duplicate_row_count,
        conflict_open_times=order.conflict_open_times,
        unordered_row_count=order.unordered_row_count,
        outside_open_times=outside,
        impossible_open_times=open_time[:0],
        has_header=rows.has_header,
        time_unit="ms",
        labels=rows.labels,
    )


def _arrange(
    columns: Mapping[str, Column], is_outside: npt.NDArray[np.bool_] | None, expected: Expected
) -> tuple[Mapping[str, Column], Times, _Order]:
    """Leave out the rows of other periods and all but one of each time. Return their times and what was found."""
    open_time = columns["open_time"]
    outside = open_time[:0]
    if is_outside is not None:
        outside = open_time[is_outside]
        _require_most_within(outside, len(open_time), expected)
        columns = {column: cells[~is_outside] for column, cells in columns.items()}
    order = _order(columns, columns["open_time"])
    if order.kept is not None:
        columns = {column: cells[order.kept] for column, cells in columns.items()}
    return columns, outside, order


def are_all_possible(rows: RawRows, series: SeriesKey) -> bool:
    """Whether no row is an impossible bar of a series."""
    columns = dict(zip(fields_of(series), rows.cells, strict=True))
    columns["open_time"], _, _ = _to_ms(rows.cells[_OPEN_TIME], REGULAR_OPEN_US)
    columns["close_time"], _, _ = _to_ms(rows.cells[_CLOSE_TIME], REGULAR_CLOSE_US)
    return not impossible_bars(columns.__getitem__, series).any()


def _to_ms(moments: Times, regular_us: int) -> tuple[Times, npt.NDArray[np.int16] | None, str]:
    """Convert times to milliseconds, rounded down. Return them, the microseconds within each, and the cells' unit.

    A cell in milliseconds has `regular_us` microseconds. None stands for microseconds that all are `regular_us`.
    """
    is_us = moments >= _MICROSECONDS_MIN
    if not np.any(is_us):
        return moments, None, "ms"
    moments_ms, within_us = np.empty_like(moments), np.empty(len(moments), np.int16)
    for start in range(0, len(moments), _CHUNK_ROWS):
        rows = slice(start, start + _CHUNK_ROWS)
        np.floor_divide(moments[rows], 1000, out=moments_ms[rows])
        within_us[rows] = moments[rows] - moments_ms[rows] * 1000
    unit = "us"
    if not np.all(is_us):
        unit = "mixed"
        np.copyto(moments_ms, moments, where=~is_us)
        within_us[~is_us] = regular_us
    return moments_ms, None if np.all(within_us == regular_us) else within_us, unit


def _outside(moments_ms: Times, span: Span) -> npt.NDArray[np.bool_]:
    outside: npt.NDArray[np.bool_] = (moments_ms < span.start_ms) | (moments_ms >= span.end_ms)
    return outside


def _time_error(rows: RawRows, row: int, field: int, span: Span, label: str) -> ArchiveError:
    what = "open_time" if field == _OPEN_TIME else "close_time"
    found = int(rows.cells[field][row])
    moment_ms = found // 1000 if found >= _MICROSECONDS_MIN else found
    shown = f" ({format_time(moment_ms)})" if moment_ms in _PLAUSIBLE else ""
    reason = f"{what} lies outside {span}: expected a time within, found {found}{shown}"
    return ArchiveError(label, reason, row=rows.line_of(row))


def _require_most_within(outside: Times, row_count: int, expected: Expected) -> None:
    if 2 * len(outside) > row_count:
        first, last = format_time(min(outside.tolist())), format_time(max(outside.tolist()))
        raise ArchiveError(
            expected.label,
            f"expected bars that open in {expected.span}, found {len(outside)} of {row_count} that open outside, "
            f"from {first} to {last}: these are the bars of another archive under this name",
        )


@dataclass(frozen=True, slots=True, eq=False)
class _Order:
    """Which rows to keep, in which order; `kept` is None if all rows stay as they are."""

    kept: npt.NDArray[np.intp] | None
    duplicate_row_count: int
    conflict_open_times: Times
    unordered_row_count: int


def _order(columns: Mapping[str, Column], open_time: Times) -> _Order:
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

"""CSV bytes to columns for the kinds that are no bars: funding rates and metrics. Pure.

Their archives are small (a month of settlements, a day of five minutes), so each line is read by itself, in the
strict grammar of `ckvd.decode.rows`.

The time of a row of metrics is a label, and its meaning has changed without notice: the five minutes before it (a
day is labelled 00:05 to 00:00 of the next day), or those after it (00:00 to 23:55). Taken as it stands, one of the
two tells five minutes of the future. A file shows which of them it has: only labels of an end reach the midnight
after the day, and only labels of a start the midnight before it. A file that shows neither, or both, is read as
labels of a start: its rows count as known at the later of the two times, so that none is known too early.
"""

from __future__ import annotations

import datetime as dt
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, TypeAlias, TypeVar

import numpy as np

from ckvd.decode.rows import parse_decimal, parse_integer
from ckvd.errors import ArchiveError, shown
from ckvd.model.market import METRICS_STEP_MS, Kind
from ckvd.model.provenance import Labels
from ckvd.model.schema import COLUMN_DTYPES, schema_of
from ckvd.model.table import Decimals
from ckvd.utils.config import ARCHIVE_LINE_NBYTES_MAX

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from ckvd.model.market import SeriesKey
    from ckvd.model.table import Column
    from ckvd.model.timespan import Span

_T = TypeVar("_T")

_EPOCH: Final = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
_MILLISECOND: Final = dt.timedelta(milliseconds=1)
_TIME_TEXT: Final = re.compile(rb"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d")
# A blank cell is two quotation marks, or nothing.
_BLANK: Final = (b"", b'""')
# The exchange settles every 1, 2, 4 or 8 hours.
_HOURS_MAX: Final = 24
_SHOWN: Final = 40


@dataclass(frozen=True, slots=True, eq=False)
class RecordRows:
    """The rows of an archive as they stand in it, not in order and not compared with its period.

    Attributes
    ----------
    columns : mapping of str to ndarray, each of shape (n,)
        Those of the schema of the series, in order.
    decimals : mapping of str to Decimals
        How the cells of float columns were written.
    has_header : bool
    labels : Labels
        What the times of metrics mean.
    """

    columns: Mapping[str, Column]
    decimals: Mapping[str, Decimals]
    has_header: bool
    labels: Labels = Labels.NONE

    @property
    def row_count(self) -> int:
        """The number of rows."""
        return len(self.columns["open_time"])


def read_records(csv: bytes | memoryview, series: SeriesKey, span: Span, label: str) -> RecordRows:
    """Read the CSV of an archive of funding rates or metrics.

    Parameters
    ----------
    csv : bytes or memoryview
        With or without a header line.
    series : SeriesKey
    span : Span
        The period of the archive.
    label : str
        What errors call the source.

    Raises
    ------
    ArchiveError
        The header names other columns, or a line is malformed or of another symbol.
    """
    lines = bytes(csv).split(b"\n")
    while lines and lines[-1].strip() == b"":
        lines.pop()
    has_header = bool(lines) and lines[0][:1].isalpha()
    if has_header:
        _check_header(lines[0], series, label)
    read_line = _read_settlement if series.kind is Kind.FUNDING_RATE else _read_metrics
    rows = [
        _read_row(line, number, read_line, series, label)
        for number, line in enumerate(lines[has_header:], start=1 + has_header)
    ]
    names = schema_of(series).columns
    if series.kind is not Kind.METRICS:
        return _rows_of(names, rows, has_header=has_header)
    labels = labels_of([cells[0] for cells, _ in rows], span)
    earlier_ms = METRICS_STEP_MS if labels is Labels.END else 0
    rows = [([cells[0] - earlier_ms, *cells], [None, *places]) for cells, places in rows]
    return _rows_of(names, rows, has_header=has_header, labels=labels)


def labels_of(times_ms: Sequence[float], span: Span) -> Labels:
    """What the labels of a file of metrics mean.

    Parameters
    ----------
    times_ms : sequence of int
        The labels, in any order.
    span : Span
        The day of the file.
    """
    is_of_ends, is_of_starts = span.end_ms in times_ms, span.start_ms in times_ms
    if is_of_ends is is_of_starts:
        return Labels.UNCLEAR
    return Labels.END if is_of_ends else Labels.START


# The cells of a row, and how each was written; None for what is no decimal number.
_Row: TypeAlias = "tuple[list[float], list[int | None]]"


def _rows_of(
    names: Sequence[str], rows: Sequence[_Row], *, has_header: bool, labels: Labels = Labels.NONE
) -> RecordRows:
    cells = [column for column, _ in rows]
    columns = {
        name: np.array([row[place] for row in cells] if cells else [], COLUMN_DTYPES[name])
        for place, name in enumerate(names)
    }
    decimals = {}
    for place, name in enumerate(names):
        written = [found for _, places in rows if (found := places[place]) is not None]
        if written:
            decimals[name] = Decimals(min(written), max(written))
    return RecordRows(columns, decimals, has_header, labels)


def _check_header(line: bytes, series: SeriesKey, label: str) -> None:
    expected = ",".join(schema_of(series).header)
    if (found := line.decode("utf-8", "replace").strip()) != expected:
        raise ArchiveError(label, f"its header is {shown(found)!r}, expected {expected!r}", row=1)


def _read_row(
    line: bytes, number: int, read_line: Callable[[Sequence[bytes], SeriesKey], _Row], series: SeriesKey, label: str
) -> _Row:
    try:
        return read_line(_fields_in(line, len(schema_of(series).header)), series)
    except ValueError as error:
        raise ArchiveError(label, str(error), row=number) from None


def _fields_in(line: bytes, count: int) -> Sequence[bytes]:
    if len(line) > ARCHIVE_LINE_NBYTES_MAX:
        raise ValueError(f"expected a row, found a line of more than {ARCHIVE_LINE_NBYTES_MAX} bytes")
    texts = line.removesuffix(b"\r").split(b",")
    if len(texts) != count:
        raise ValueError(f"expected {count} fields, found {len(texts)}: {shown(line, _SHOWN)!r}")
    return texts


def _read_settlement(texts: Sequence[bytes], _series: SeriesKey) -> _Row:
    """Read the time in milliseconds, the hours of the interval, and the rate. There is no mark price."""
    time, hours, rate = texts
    time_ms = _named("calc_time", parse_integer, time)
    interval_hours = _named("funding_interval_hours", parse_integer, hours)
    if not 0 < interval_hours <= _HOURS_MAX:
        raise ValueError(f"funding_interval_hours: expected 1 to {_HOURS_MAX}, found {shown(hours, _SHOWN)!r}")
    value, places = _named("last_funding_rate", parse_decimal, rate)
    return [time_ms, interval_hours, value, np.nan], [None, None, places, None]


def _read_metrics(texts: Sequence[bytes], series: SeriesKey) -> _Row:
    """Read the label in milliseconds, and the six numbers, each of which may be blank."""
    time, symbol, *numbers = texts
    if symbol.decode("utf-8", "replace") != series.symbol:
        raise ValueError(f"symbol: expected {series.symbol!r}, found {shown(symbol, _SHOWN)!r}")
    cells: list[float] = [_named("create_time", _parse_time_text, time)]
    places: list[int | None] = [None]
    for name, text in zip(schema_of(series).header[2:], numbers, strict=True):
        value, written = (np.nan, None) if text in _BLANK else _named(name, parse_decimal, text)
        cells.append(value)
        places.append(written)
    return cells, places


def _parse_time_text(text: bytes) -> int:
    if _TIME_TEXT.fullmatch(text) is None:
        raise ValueError("expected a time such as 2024-01-31 00:05:00")
    moment = dt.datetime.fromisoformat(text.decode()).replace(tzinfo=dt.UTC)
    return (moment - _EPOCH) // _MILLISECOND


def _named(name: str, parse: Callable[[bytes], _T], text: bytes) -> _T:
    try:
        return parse(text)
    except ValueError as error:
        raise ValueError(f"{name}: {error}, found {shown(text, _SHOWN)!r}") from None

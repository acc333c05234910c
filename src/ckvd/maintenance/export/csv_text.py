"""Bars as the CSV of archives: the same fields, units of time, digits and line ends.

A cell is written with as many digits as its column had in the archive. While doubles are closer to each other than
one unit of the last digit, rounding restores every digit. Beyond that (from 2^26 on, for eight digits) the shortest
text that means the double is padded with zeros. Where several texts with as many digits mean the same double, as
always above 2^53 units of the last digit, the original text cannot be recovered: such cells are counted.
"""

from __future__ import annotations

import math
from decimal import Decimal
from typing import IO, TYPE_CHECKING, Final, TypeAlias

import numpy as np

from ckvd.cache.rows import column_of
from ckvd.model.market import Market
from ckvd.model.provenance import Origin
from ckvd.model.schema import FLOAT_FIELDS, QUOTE_FIELDS
from ckvd.model.table import CLOSE_TIME_US, OPEN_TIME_US, Decimals, fields_of
from ckvd.model.timespan import parse_time

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    import numpy.typing as npt

    from ckvd.model.market import SeriesKey
    from ckvd.model.provenance import Source
    from ckvd.model.table import Column, Times
    from ckvd.segment.reader import MappedRows

_CellFormat: TypeAlias = "str | Callable[[float], str]"

# Spot archives are in microseconds from this moment on.
_MICROSECONDS_FROM_MS: Final = parse_time("2025-01-01")
_TIMES: Final = {0: OPEN_TIME_US, 6: CLOSE_TIME_US}
# The header line is the same in every market: coin-margined archives call base volumes quote volumes.
_HEADER: Final = (",".join(QUOTE_FIELDS) + "\n").encode("ascii")


def write_csv(file: IO[bytes], chunks: Iterable[MappedRows], series: SeriesKey, *, has_header: bool) -> int:
    """Write rows, and return how many cells may have other digits than their source: see the module."""
    if has_header:
        file.write(_HEADER)
    inexact_count = 0
    for rows in chunks:
        columns = [column_of(rows, name, series) for name in fields_of(series)]
        formats: list[_CellFormat] = ["%d"] * len(columns)
        for field in FLOAT_FIELDS:
            layout = rows.layout(fields_of(series)[field])
            decimals = None if layout is None else layout.decimals
            formats[field] = cell_format(decimals, series.market, float(np.max(np.abs(columns[field]))))
            inexact_count += 0 if decimals is None else count_ambiguous(columns[field], decimals.most)
        is_us = in_microseconds(columns[0], rows.sources, series)
        for field, microseconds in _TIMES.items():
            times_us = columns[field] * 1000 + column_of(rows, microseconds, series)
            columns[field] = np.where(is_us, times_us, columns[field])
        file.write(format_rows(columns, formats))
        del rows, columns
    return inexact_count


def format_rows(columns: Sequence[Column], formats: Sequence[_CellFormat]) -> bytes:
    """Format rows as text.

    Parameters
    ----------
    columns : sequence of ndarray, each of shape (n,)
    formats : sequence of str or callable
        For each column, a printf format, or a function that makes the text of a cell.
    """
    cells: list[list[object]] = []
    line = []
    for column, how in zip(columns, formats, strict=True):
        values = column.tolist()
        cells.append(values if isinstance(how, str) else [how(value) for value in values])
        line.append(how if isinstance(how, str) else "%s")
    template = ",".join(line) + "\n"
    return "".join([template % row for row in zip(*cells, strict=True)]).encode("ascii")


def cell_format(decimals: Decimals | None, market: Market, largest: float = 0.0) -> _CellFormat:
    """The format that the cells of a column had in the archive.

    Parameters
    ----------
    decimals : Decimals or None
        None where the digits are unknown: the shortest text is used.
    market : Market
    largest : float
        The largest absolute value of the column.

    Notes
    -----
    Where the number of digits varies, spot archives write zeros short and other values in full. Archives of futures
    write whole numbers without a fraction and other values in full. (Since 2025 they write zeros short only, so the
    digits of other whole numbers may differ.) Where the least number of digits is not 0, they omit trailing zeros.
    """
    if decimals is None:
        return "%r"
    least, most = decimals.least, decimals.most
    if least == most and largest < rounding_max(most):
        return f"%.{most}f"
    if least == most or market is Market.SPOT:
        return lambda value: _full(value, most) if value else f"{value:.{least}f}"
    if least == 0:
        return lambda value: f"{value:.0f}" if value.is_integer() else _full(value, most)
    return lambda value: _trim(_full(value, most), most - least)


def rounding_max(digits: int) -> float:
    """The power of two up to which doubles are at least as dense as decimals with so many digits."""
    return 2.0 ** (math.floor(52 - digits * math.log2(10)) + 1)


def count_ambiguous(values: npt.NDArray[np.float64], digits: int) -> int:
    """Count the values that several decimals with so many digits after the point are rounded to."""
    large = np.abs(values[np.abs(values) >= rounding_max(digits)])
    unit = 10.0**digits
    with np.errstate(over="ignore"):  # what is not finite then equals nothing
        nearest = np.rint(large * unit)
    return int(np.count_nonzero(((nearest - 1) / unit == large) | ((nearest + 1) / unit == large)))


def _full(value: float, digits: int) -> str:
    if abs(value) < rounding_max(digits):
        return f"{value:.{digits}f}"
    whole, _, fraction = f"{Decimal(repr(value)):f}".partition(".")
    return f"{whole}.{fraction[:digits]:0<{digits}}" if digits else whole


def _trim(text: str, count_max: int) -> str:
    kept = text.rstrip("0")
    kept += "0" * (len(text) - count_max - len(kept))
    return kept.removesuffix(".")


def in_microseconds(opens: Times, sources: Sequence[Source], series: SeriesKey) -> npt.NDArray[np.bool_]:
    """For each bar, whether its archive has times in microseconds. Others follow their market and year."""
    is_spot = series.market is Market.SPOT
    is_us = (opens >= _MICROSECONDS_FROM_MS) & is_spot
    for source in sources:
        if source.origin is not Origin.REST and source.time_unit in ("ms", "us"):
            is_us[(opens >= source.start_ms) & (opens < source.end_ms)] = source.time_unit == "us"
    return is_us

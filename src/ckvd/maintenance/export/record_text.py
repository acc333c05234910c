"""Funding rates and metrics as the CSV of their archives: the same header, order of fields, times and blank cells.

Cells have the digits of the archive, as far as a double tells them: see `ckvd.maintenance.export.csv_text`.

Archives do not have the mark price of a settlement. Where one is known, it is a fourth column. A cell of a
settlement that is unknown is empty: the mark price, and the interval of one that is from the REST interface.

The `create_time` of metrics is the label as published, which means the end of the five minutes in some archives and
the beginning in others. The other formats of export have the columns `open_time`, always the beginning, and
`known_time`, always the end.
"""

from __future__ import annotations

from typing import IO, TYPE_CHECKING, Final

import numpy as np

from ckvd.cache.rows import chunks_of, column_of
from ckvd.maintenance.export.csv_text import cell_format, count_ambiguous
from ckvd.model.market import Kind
from ckvd.model.schema import COLUMN_DTYPES, FUNDING, METRICS

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from ckvd.model.market import SeriesKey
    from ckvd.model.table import Column, Decimals
    from ckvd.segment.reader import MappedRows

# As published: a blank cell of metrics is two quotation marks.
_BLANK_METRIC: Final = '""'
_FLOAT: Final = np.dtype("<f8")


def write_records(file: IO[bytes], blocks: Sequence[MappedRows], series: SeriesKey) -> int:
    """Write rows with a header line. Return how many cells may have other digits than their source.

    Parameters
    ----------
    file : binary file
    blocks : sequence of MappedRows
        In order.
    series : SeriesKey
        Of funding rates or metrics.
    """
    header, names = _header_and_columns(blocks, series)
    file.write((",".join(header) + "\n").encode("ascii"))
    inexact_count = 0
    for rows in chunks_of(blocks):
        texts = []
        for name in names:
            column = column_of(rows, name, series)
            layout = rows.layout(name)
            decimals = None if layout is None else layout.decimals
            texts.append(_texts(name, column, series, decimals))
            if COLUMN_DTYPES[name] == _FLOAT and decimals is not None:
                inexact_count += count_ambiguous(column, decimals.most)
            del column
        if series.kind is Kind.METRICS:
            texts.insert(1, [series.symbol] * len(rows))
        lines = [",".join(cells) + "\n" for cells in zip(*texts, strict=True)]
        file.write("".join(lines).encode())
        del rows
    return inexact_count


def _header_and_columns(blocks: Sequence[MappedRows], series: SeriesKey) -> tuple[Sequence[str], Sequence[str]]:
    """The names of the header line, and the columns that are written; the symbol is none of these."""
    if series.kind is Kind.METRICS:
        return METRICS.header, METRICS.columns[1:]
    is_price_known = any(not np.isnan(column_of(rows, "mark_price", series)).all() for rows in blocks)
    count = len(FUNDING.columns) - (not is_price_known)
    return (*FUNDING.header, "mark_price")[:count], FUNDING.columns[:count]


def _texts(name: str, column: Column, series: SeriesKey, decimals: Decimals | None) -> list[str]:
    """The cells of a column as text."""
    if name == "create_time":
        moments = column.astype("datetime64[ms]").astype("datetime64[s]")
        return [text.replace("T", " ") for text in np.datetime_as_string(moments).tolist()]
    if name == "interval_hours":
        return [str(hours) if hours else "" for hours in column.tolist()]
    if COLUMN_DTYPES[name] != _FLOAT:
        return [str(value) for value in column.tolist()]
    known = np.abs(column[np.isfinite(column)])
    how = cell_format(decimals, series.market, float(known.max(initial=0.0)))
    write: Callable[[float], str] = how.__mod__ if isinstance(how, str) else how
    blank = _BLANK_METRIC if series.kind is Kind.METRICS else ""
    # A NaN is the only value that does not equal itself.
    return [write(value) if value == value else blank for value in column.tolist()]  # noqa: PLR0124

"""From the body of a response to settlements of funding: JSON objects, exactly as they were written. Pure.

Each object has a symbol, a time, a rate and a mark price. Of old settlements the mark price is empty, which is NaN
here. The hours between settlements are not said: they are 0 here, and `ckvd.model.settlements` tells them.

Newer answers have a `rateType`, and only `Regular` is known. Another word is refused. Nobody can tell what such a
rate was paid on, or whether it comes beside the regular one, and a wrong rate would be summed in silence. The
archive of the month does not depend on this.
"""

from __future__ import annotations

from functools import reduce
from operator import or_
from typing import TYPE_CHECKING, Final, TypeVar

import numpy as np

from ckvd.decode.records import RecordRows
from ckvd.decode.rows import parse_decimal, parse_integer
from ckvd.errors import RestAnswerError, shown
from ckvd.model.schema import COLUMN_DTYPES, FUNDING
from ckvd.model.table import Decimals
from ckvd.rest.rows import parse_array

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from ckvd.model.market import SeriesKey

_T = TypeVar("_T")

_SHOWN: Final = 80
_REGULAR: Final = "Regular"
_HOURS_UNKNOWN: Final = 0


def read_settlements(body: bytes, series: SeriesKey, url: str) -> RecordRows:
    """Read the settlements of a response.

    Parameters
    ----------
    body : bytes
        JSON: an array of objects.
    series : SeriesKey
        Whose settlements they should be.
    url : str
        The name of the response in errors.

    Raises
    ------
    RestAnswerError
        The body is something else, or a settlement is of another symbol or type; the error names the row.
    """
    times: list[int] = []
    cells: dict[str, list[float]] = {"rate": [], "mark_price": []}
    decimals: dict[str, Decimals] = {}
    for number, found in enumerate(parse_array(body, url), start=1):
        try:
            time_ms, *written = _read_settlement(found, series)
        except ValueError as error:
            raise RestAnswerError(url, str(error), row=number) from None
        times.append(time_ms)
        for name, (value, places) in zip(cells, written, strict=True):
            cells[name].append(value)
            if places is not None:
                decimals[name] = decimals.get(name, Decimals(places, places)) | Decimals(places, places)
    hours = [_HOURS_UNKNOWN] * len(times)
    filled = {"open_time": times, "interval_hours": hours, **cells}
    columns = {name: np.array(filled[name], COLUMN_DTYPES[name]) for name in FUNDING.columns}
    return RecordRows(columns, decimals, has_header=False)


def join_settlements(pages: Sequence[RecordRows]) -> RecordRows:
    """Join the settlements of pages, in order."""
    columns = {
        name: np.concatenate([np.empty(0, COLUMN_DTYPES[name]), *(page.columns[name] for page in pages)])
        for name in FUNDING.columns
    }
    names = dict.fromkeys(name for page in pages for name in page.decimals)
    decimals = {
        name: reduce(or_, (page.decimals[name] for page in pages if name in page.decimals)) for name in names
    }
    return RecordRows(columns, decimals, has_header=False)


# A number, and its digits after the point; None for one that is not known.
_Cell = tuple[float, "int | None"]


def _read_settlement(found: object, series: SeriesKey) -> tuple[int, _Cell, _Cell]:
    if not isinstance(found, dict):
        raise ValueError(f"expected an object, found {_shown(found)}")  # noqa: TRY004 - its caller names the row
    if (symbol := found.get("symbol")) != series.symbol:
        raise ValueError(f"symbol: expected {series.symbol!r}, found {_shown(symbol)}")
    if (rate_type := found.get("rateType", _REGULAR)) != _REGULAR:
        raise ValueError(
            f"rateType: expected {_REGULAR!r}, found {_shown(rate_type)}: this version does not know what such a "
            "rate means; update ckvd, or wait for the archive of the month"
        )
    time_ms = _parsed("fundingTime", parse_integer, found, allow_text=False)
    rate = _parsed("fundingRate", parse_decimal, found)
    if found.get("markPrice", "") == "":
        return time_ms, rate, (np.nan, None)
    return time_ms, rate, _parsed("markPrice", parse_decimal, found)


def _parsed(name: str, parse: Callable[[bytes], _T], found: Mapping[str, object], *, allow_text: bool = True) -> _T:
    cell = found.get(name)
    is_fitting = type(cell) is int or (allow_text and isinstance(cell, str))  # isinstance would let a bool pass
    try:
        # JSON may hold a lone surrogate, which has no UTF-8. Escaped, it is refused like any other letter.
        return parse(str(cell).encode(errors="backslashreplace") if is_fitting else b"")
    except ValueError as error:
        raise ValueError(f"{name}: {error}, found {_shown(cell)}") from None


def _shown(value: object) -> str:
    return shown(repr(value), _SHOWN)

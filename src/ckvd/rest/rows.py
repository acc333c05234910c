"""From the body of a response to raw rows: JSON arrays of the twelve fields, exactly as they were written. Pure.

Rows are written as lines of a CSV and parsed as those of an archive, so that one grammar reads both and every float
equals `float(text)`. What JSON adds, types and nesting, is checked here.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Final, NoReturn

import numpy as np

from ckvd.decode.rows import RawRows, parse_rows
from ckvd.errors import ArchiveError, RestAnswerError, shown
from ckvd.model.schema import FIELD_COUNT, INTEGER_FIELDS

if TYPE_CHECKING:
    from collections.abc import Sequence

_SHOWN: Final = 80
_SEPARATORS: Final = (",", "\n", "\r")
_USUAL_TYPES: Final = [int if field in INTEGER_FIELDS else str for field in range(FIELD_COUNT)]


def read_rows(body: bytes, url: str) -> RawRows:
    """Read the rows of a response.

    Parameters
    ----------
    body : bytes
        JSON: an array of arrays, with integers for times and counts, and all other numbers as text or bare.
    url : str
        The name of the response in errors.

    Raises
    ------
    RestAnswerError
        The body is something else; the error names the row.
    """
    lines = [_line(row, number, url) for number, row in enumerate(parse_array(body, url), start=1)]
    try:
        # JSON may hold a lone surrogate, which has no UTF-8. Escaped, it is refused like any other letter.
        return parse_rows("".join(lines).encode(errors="backslashreplace"), url)
    except ArchiveError as error:
        raise RestAnswerError(url, error.reason, row=error.row) from None


def parse_array(body: bytes, url: str) -> list[object]:
    """Parse a body as an array of rows; RestAnswerError if it is something else."""
    try:
        # A bare number keeps its text. A float would not tell how it was written.
        answer = json.loads(body, parse_float=str, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise RestAnswerError(url, f"expected JSON, found {_shown(body)} ({shown(error)})") from None
    if not isinstance(answer, list):
        raise RestAnswerError(url, f"expected an array of rows, found {_shown(body)}")
    return answer


def join_rows(pages: Sequence[RawRows]) -> RawRows:
    """Join the rows of at least one page, in order."""
    filled = [page for page in pages if page.row_count] or pages[:1]
    decimals = filled[0].decimals
    for page in filled[1:]:
        decimals = tuple(one | other for one, other in zip(decimals, page.decimals, strict=True))
    cells = tuple(np.concatenate([page.cells[field] for page in filled]) for field in range(FIELD_COUNT))
    return RawRows(cells, decimals, has_header=False)


def _line(row: object, number: int, url: str) -> str:
    """Write a row as a line of a CSV. No cell contains a separator, so that no field moves."""
    if not isinstance(row, list) or len(row) != FIELD_COUNT:
        raise RestAnswerError(url, f"expected an array of {FIELD_COUNT} fields, found {_shown(row)}", row=number)
    line = ",".join(map(str, row)) + "\n"
    is_usual = list(map(type, row)) == _USUAL_TYPES and line.count(",") == FIELD_COUNT - 1
    if not is_usual or line.count("\n") > 1 or "\r" in line:
        _check_cells(row, number, url)
    return line


def _check_cells(row: list[object], number: int, url: str) -> None:
    for field, cell in enumerate(row):
        is_number = type(cell) is int  # isinstance would let a bool pass
        is_text = isinstance(cell, str) and not any(separator in cell for separator in _SEPARATORS)
        if not is_number and (field in INTEGER_FIELDS or not is_text):
            kind = "an integer" if field in INTEGER_FIELDS else "a decimal number"
            raise RestAnswerError(url, f"field {field + 1}: expected {kind}, found {_shown(cell)}", row=number)


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no number")


def _shown(value: object) -> str:
    return shown(value if isinstance(value, bytes) else repr(value), _SHOWN)

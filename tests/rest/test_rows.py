"""Invalid rows are refused, and the error names the row."""

from __future__ import annotations

import json
from typing import Any

import pytest

from ckvd.errors import RestAnswerError
from ckvd.rest.rows import read_rows
from support.loopback.rows import make_rows, to_json
from support.models import MINUTE_MS, ms

GOOD: list[Any] = json.loads(to_json(make_rows([ms(2024, 5, 1)], MINUTE_MS)))[0]


def changed(field: int, cell: object) -> list[Any]:
    return [cell if position == field else value for position, value in enumerate(GOOD)]


@pytest.mark.parametrize(
    "row",
    [
        GOOD[:11],
        [*GOOD, "0"],
        {"0": GOOD},
        None,
        "row",
        changed(0, str(GOOD[0])),
        changed(0, float(GOOD[0])),
        changed(0, bool(1)),
        changed(0, None),
        changed(6, "1714521659999"),
        changed(8, 1.5),
        changed(0, 10**30),
        changed(1, None),
        changed(1, bool(1)),
        changed(1, ["1"]),
        changed(1, ""),
        changed(1, " 1.5"),
        changed(1, "1.5 "),
        changed(1, "1_0"),
        changed(1, "0x10"),
        changed(1, "nan"),
        changed(1, "Infinity"),
        changed(1, "1e999"),
        changed(1, "1,5"),
        changed(11, "0\n"),
        changed(11, "0\r"),
        changed(1, "٣"),
        changed(1, "\ud800"),
    ],
    ids=repr,
)
def test_a_row_of_another_form_is_refused_by_its_number(row: object) -> None:
    body = json.dumps([GOOD, row]).encode()
    with pytest.raises(RestAnswerError, match="row 2: ") as caught:
        read_rows(body, "http://host/path")
    assert caught.value.row == 2
    assert isinstance(caught.value, ValueError)


@pytest.mark.parametrize("cell", [bool(1), "1714521600000", None, 1.5])
def test_a_first_row_without_a_time_is_no_header(cell: object) -> None:
    with pytest.raises(RestAnswerError, match="row 1: field 1: expected an integer"):
        read_rows(json.dumps([changed(0, cell)]).encode(), "http://host/path")

"""Rows as the exchange answers with them: twelve fields as text, times in milliseconds."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, TypeAlias

from support.archives import read_rows

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

Row: TypeAlias = tuple[str, ...]

_TIMES = (0, 6)
_INTEGERS = (0, 6, 8)


def open_ms_of(row: Row) -> int:
    return int(row[0])


def to_json(rows: Iterable[Row]) -> bytes:
    """Rows as the exchange writes them: times and counts bare, everything else in quotes."""
    table: list[list[Any]] = [
        [int(cell) if position in _INTEGERS else cell for position, cell in enumerate(row)] for row in rows
    ]
    return json.dumps(table, separators=(",", ":")).encode()


def settlements_json(symbol: str, rows: Iterable[Row]) -> bytes:
    """Settlements of funding as the exchange writes them; a row has the time, the rate and the mark price."""
    answer = [
        {"symbol": symbol, "fundingTime": int(time), "fundingRate": rate, "markPrice": mark}
        for time, rate, mark in rows
    ]
    return json.dumps(answer, separators=(",", ":")).encode()


def of_json(body: bytes) -> list[Row]:
    """The inverse of `to_json`."""
    return [tuple(str(cell) for cell in row) for row in json.loads(body)]


def rows_of_archive(path: Path) -> list[Row]:
    """The rows of an archive of Binance Vision."""
    return [
        tuple(cell[:-3] if position in _TIMES and len(cell) == 16 else cell for position, cell in enumerate(row))
        for row in read_rows(path).values()
    ]


def rows_of_folder(folder: Path, pattern: str = "*.zip") -> list[Row]:
    """The rows of all archives of a folder, ascending; where several have a bar, as the last of them has it."""
    found = {open_ms_of(row): row for path in sorted(folder.glob(pattern)) for row in rows_of_archive(path)}
    return [found[open_ms] for open_ms in sorted(found)]


def make_row(open_ms: int, close_ms: int) -> Row:
    """A bar at an open time, with values of its own."""
    seed = open_ms // 1000
    price, volume = f"{100 + seed % 977}.{seed % 89:02d}", f"{1 + seed % 7919}.{seed % 7:03d}"
    cells = [open_ms, price, price, price, price, volume, close_ms, volume, seed % 1009, volume, volume, 0]
    return tuple(str(cell) for cell in cells)


def make_rows(opens_ms: Iterable[int], interval_ms: int) -> list[Row]:
    """Bars of one length."""
    return [make_row(open_ms, open_ms + interval_ms - 1) for open_ms in opens_ms]

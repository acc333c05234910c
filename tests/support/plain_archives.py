"""An independent reading of archives, with `zipfile`, `csv` and `float`: what the cache is compared with."""

from __future__ import annotations

import csv
import io
import zipfile
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

# Row of text cells by open time in milliseconds, in the order of open times.
Rows = dict[int, list[str]]


def read_rows(path: Path) -> Rows:
    """All bars of an archive; of rows with one open time the last one, as is documented."""
    with zipfile.ZipFile(path) as archive:
        (member,) = archive.namelist()
        text = archive.read(member).decode("ascii")
    rows: Rows = {}
    for row in csv.reader(io.StringIO(text)):
        if row[0] != "open_time":
            rows[to_ms(row[0])] = row
    return dict(sorted(rows.items()))


def to_ms(text: str) -> int:
    """A time of either unit, in milliseconds."""
    moment = int(text)
    return moment // 1000 if moment >= 10**14 else moment


def columns_of(rows: Rows, names: tuple[str, ...]) -> dict[str, list[float] | list[int]]:
    """The cells of rows as numbers, column by column."""
    cells = list(zip(*rows.values(), strict=True)) or [()] * len(names)
    columns: dict[str, list[float] | list[int]] = {}
    for name, texts in zip(names, cells, strict=True):
        if name.endswith("_time"):
            columns[name] = [to_ms(text) for text in texts]
        elif name == "count":
            columns[name] = [int(text) for text in texts]
        else:
            columns[name] = [float(text) for text in texts]
    return columns

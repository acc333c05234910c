"""Archives: their paths in a mirror, new ones made by hand, and an independent reading of them."""

from __future__ import annotations

import csv
import io
import zipfile
from typing import TYPE_CHECKING

from ckvd.model.calendar import Period
from ckvd.model.market import SeriesKey
from ckvd.vision.name import ArchiveName
from support.models import grid_of

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path


def path_of(symbol: str, interval: str, label: str, *, market: str = "spot", kind: str = "klines") -> str:
    """The path of an archive below the root of a mirror, by the label of its month or day."""
    return ArchiveName(SeriesKey.of(symbol, interval, market=market, kind=kind), Period.of_label(label)).path


def checksum_path_of(*series: str, **names: str) -> str:
    """The path of the CHECKSUM file of an archive."""
    return path_of(*series, **names) + ".CHECKSUM"


def make_archive(path: str) -> bytes:
    """An archive as published, with a bar on every point of its grid."""
    name = ArchiveName.of_path(path)
    assert name is not None
    interval = name.series.bar_interval
    grid = grid_of(interval)
    rows = (
        f"{open_ms},10.00,12.50,9.75,11.00,{row}.5,{grid.next(open_ms) - 1},{row}.25,{row},0.5,0.25,0\n"
        for row, open_ms in enumerate(grid.opens(name.period.span).tolist())
    )
    return zip_text(name.file_name, rows)


def zip_text(file_name: str, rows: Iterable[str]) -> bytes:
    """A ZIP with one CSV in it."""
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as zipped:
        member = zipfile.ZipInfo(file_name.replace(".zip", ".csv"))
        zipped.writestr(member, "".join(rows), zipfile.ZIP_DEFLATED)
    return content.getvalue()


# --- Reading with `zipfile`, `csv` and `float` ---------------------------------------------------------------

# Row of text cells by open time in milliseconds, in the order of open times.
Rows = dict[int, list[str]]


def read_rows(path: Path) -> Rows:
    """All bars of an archive. Of rows with one open time, the last counts, as documented."""
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

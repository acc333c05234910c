"""Archives: where they lie in a mirror, how many are there to find, and new ones made by hand."""

from __future__ import annotations

import io
import zipfile
from typing import TYPE_CHECKING

from ckvd.model.calendar import Period, grid_next, grid_opens
from ckvd.model.market import SeriesKey
from ckvd.vision.name import ArchiveName

if TYPE_CHECKING:
    from collections.abc import Iterable


def path_of(symbol: str, interval: str, label: str, *, market: str = "spot", kind: str = "klines") -> str:
    """The path of an archive below the root of a mirror, by the label of its month or day."""
    return ArchiveName(SeriesKey.of(symbol, interval, market=market, kind=kind), Period.of_label(label)).path


def checksum_path_of(*series: str, **names: str) -> str:
    """The path of the CHECKSUM beside it."""
    return path_of(*series, **names) + ".CHECKSUM"


def make_archive(path: str) -> bytes:
    """An archive as published, with a bar on every point of its grid."""
    name = ArchiveName.of_path(path)
    assert name is not None
    interval = name.series.interval
    rows = (
        f"{open_ms},10.00,12.50,9.75,11.00,{row}.5,{grid_next(open_ms, interval) - 1},{row}.25,{row},0.5,0.25,0\n"
        for row, open_ms in enumerate(grid_opens(name.period.span, interval).tolist())
    )
    return zip_text(name.file_name, rows)


def zip_text(file_name: str, rows: Iterable[str]) -> bytes:
    """A ZIP with one CSV in it."""
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as zipped:
        member = zipfile.ZipInfo(file_name.replace(".zip", ".csv"))
        zipped.writestr(member, "".join(rows), zipfile.ZIP_DEFLATED)
    return content.getvalue()

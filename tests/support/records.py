"""Archives of funding rates and metrics made by hand, in a folder that is a mirror, and an independent reading."""

from __future__ import annotations

import csv
import datetime as dt
import hashlib
import io
import math
import re
from typing import TYPE_CHECKING, Final

from ckvd.model.calendar import Period
from ckvd.model.market import SeriesKey
from ckvd.vision.name import ArchiveName
from support.archives import zip_text
from support.places import SHARED_DATA

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

FUNDING: Final = SeriesKey.of("BTCUSDT", market="um", kind="fundingRate")
METRICS: Final = SeriesKey.of("BTCUSDT", market="um", kind="metrics")
BARS: Final = SeriesKey.of("BTCUSDT", "5m", market="um")
HOUR: Final = 3_600_000
FIVE: Final = 300_000
FUNDING_HEADER: Final = "calc_time,funding_interval_hours,last_funding_rate\n"
METRICS_HEADER: Final = (
    "create_time,symbol,sum_open_interest,sum_open_interest_value,count_toptrader_long_short_ratio,"
    "sum_toptrader_long_short_ratio,count_long_short_ratio,sum_taker_long_short_vol_ratio\n"
)


def publish(mirror: Path, series: SeriesKey, label: str, lines: Iterable[str]) -> Path:
    """Write the archive of a month or day, with its CHECKSUM, as the publisher does."""
    name = ArchiveName(series, Period.of_label(label))
    path = mirror / name.path
    path.parent.mkdir(parents=True, exist_ok=True)
    content = zip_text(name.file_name, lines)
    path.write_bytes(content)
    path.with_name(f"{path.name}.CHECKSUM").write_text(f"{hashlib.sha256(content).hexdigest()}  {path.name}")
    return path


def start_of(label: str) -> int:
    """The first millisecond of a month or day."""
    return Period.of_label(label).span.start_ms


def end_of(label: str) -> int:
    """The first millisecond after a month or day."""
    return Period.of_label(label).span.end_ms


# --- Funding rates -----------------------------------------------------------------------------------------


def settlements(label: str, hours: int = 8) -> list[str]:
    """The rows of a month with a settlement every few hours, each with another rate, up to 17 ms late."""
    times = range(start_of(label), end_of(label), hours * HOUR)
    return [f"{time + 7 * row % 18},{hours},{(row % 7 - 2) / 1e4:.8f}\n" for row, time in enumerate(times)]


# --- Metrics -----------------------------------------------------------------------------------------------


def cells_of(number: int) -> str:
    """The six cells of the five minutes with a number from the epoch on: each row says which they are."""
    return f'{1000 + number}.2500000000000000,{number * 7}.5,2.05{number:06d},"",1.87546479,{ratio_of(number)}'


def ratio_of(number: int) -> str:
    """The taker ratio of the five minutes with a number, counted from the epoch."""
    return f"{math.exp(math.sin(number * 12.9898) * 0.5):.8f}"


def five_minutes(
    label: str, labels: str = "start", *, symbol: str = "BTCUSDT", without: Sequence[int] = ()
) -> list[str]:
    """The rows of a day: each describes five minutes of it, and is labelled by their start or end."""
    rows = []
    for start in range(start_of(label), end_of(label), FIVE):
        number = start // FIVE
        if number - start_of(label) // FIVE in without:
            continue
        rows.append(f"{text_of(start + FIVE * (labels == 'end'))},{symbol},{cells_of(number)}\n")
    return rows


def text_of(time_ms: int) -> str:
    """A time as metrics have it."""
    return dt.datetime.fromtimestamp(time_ms / 1000, dt.UTC).strftime("%Y-%m-%d %H:%M:%S")


def ms_of(text: str) -> int:
    """The inverse of `text_of`."""
    return int(dt.datetime.strptime(text + "+0000", "%Y-%m-%d %H:%M:%S%z").timestamp() * 1000)


def bars(label: str) -> list[str]:
    """The klines of a month or day in five minutes, with the taker volumes that the metrics tell."""
    rows = []
    for start in range(start_of(label), end_of(label), FIVE):
        number = start // FIVE
        # A percent beside the published ratio, as real ones.
        ratio = float(ratio_of(number)) * (1 + 0.01 * math.cos(number))
        bought = 10 * ratio / (1 + ratio)
        rows.append(f"{start},10,12.5,9.75,11,10.00000000,{start + FIVE - 1},110.25,4,{bought:.8f},0.25,0\n")
    return rows


# --- Reading with `csv` and `float` ------------------------------------------------------------------------


def read_text(text: str) -> list[list[str]]:
    """The cells of a CSV, without the header line."""
    return [row for row in csv.reader(io.StringIO(text)) if row and not row[0][0].isalpha()]


def number(text: str) -> float:
    """A cell; NaN if it is blank."""
    return float(text) if text else math.nan


def real_rows(kind: str) -> dict[tuple[SeriesKey, str], str]:
    """The real rows beside the repository: their text, by series and month or day."""
    found: dict[tuple[SeriesKey, str], str] = {}
    place: tuple[SeriesKey, str] | None = None
    folder = SHARED_DATA / kind.removesuffix("Rate")
    for line in (folder / "rows.csv").read_text(encoding="utf-8").splitlines(keepends=True):
        if name := re.match(rf"# (um|cm) (\w+)-{kind}-([\d-]+)\.zip", line):
            place = SeriesKey.of(name[2], market=name[1], kind=kind), name[3]
        elif place and line[0].isdigit():
            found[place] = found.get(place, "") + line
    return found

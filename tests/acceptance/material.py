"""The real data as series of archives, read with the standard library, `csv` and `float` alone.

Everything under `vision/` is an archive as published. Rows that came in another shape (recorded answers, tables of
other programs, single rows) become the text of archives: a month of them is what the publisher would serve. What a
shape lacks is filled with zeros. Nothing here uses ckvd, so that no fault of it can be on both sides.
"""

from __future__ import annotations

import csv
import gzip
import hashlib
import io
import json
import lzma
import re
import zipfile
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from pathlib import Path  # noqa: TC003  (named in an alias)
from typing import Any, TypeAlias

import pytest

Row: TypeAlias = list[str]

FIELDS = ("open_time", "open", "high", "low", "close", "volume", "close_time", "quote_volume", "count",
          "taker_buy_volume", "taker_buy_quote_volume", "ignore")  # fmt: skip
INTEGERS = (0, 6, 8)
UNIT_MS = {"s": 1000, "m": 60_000, "h": 3_600_000, "d": 86_400_000, "w": 7 * 86_400_000}
_FOLDERS = {"spot": "spot", "um": "futures/um", "cm": "futures/cm"}
_ARCHIVE = re.compile(
    r"data/(spot|futures/um|futures/cm)/(?:daily|monthly)/(\w+)/([^/]+)/(\w+)/[^/]*?(\d{4}-\d{2}(?:-\d{2})?)\.zip"
)


@dataclass(slots=True)
class Material:
    """One series, and the CSV of each of its archives by the label of its month or day.

    Attributes
    ----------
    market, kind, symbol, interval : str
    texts : dict of str to callable
        Each returns the text of an archive.
    paths : dict of str to Path
        The ZIPs of archives as published.
    is_published : bool
        Whether the text is that of archives, digit for digit.
    """

    market: str
    kind: str
    symbol: str
    interval: str
    texts: dict[str, Callable[[], str]] = field(default_factory=dict)
    paths: dict[str, Path] = field(default_factory=dict)
    is_published: bool = False

    def __str__(self) -> str:
        return f"{self.market}/{self.kind}/{self.symbol}/{self.interval}"

    def path_of(self, label: str) -> str:
        """The path of an archive below the root of a mirror."""
        cadence = "daily" if label.count("-") == 2 else "monthly"
        series = f"{self.kind}/{self.symbol}/{self.interval}/{self.symbol}-{self.interval}-{label}.zip"
        return f"data/{_FOLDERS[self.market]}/{cadence}/{series}"


# --- Reading and writing archives --------------------------------------------------------------------------


def read_zip(path: Path) -> str:
    with zipfile.ZipFile(path) as archive:
        (member,) = archive.namelist()
        return archive.read(member).decode("ascii")


def write_zip(root: Path, path: str, text: str) -> None:
    """Put an archive and its CHECKSUM into a mirror."""
    target = root / path
    target.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(target.name.replace(".zip", ".csv"), text)
    digest = hashlib.sha256(target.read_bytes()).hexdigest()
    target.with_name(target.name + ".CHECKSUM").write_text(f"{digest}  {target.name}\n")


def rows_of(text: str) -> dict[int, Row]:
    """The rows of an archive by their open time in milliseconds, ascending. Of equal open times the last counts."""
    rows = {to_ms(row[0]): row for row in csv.reader(io.StringIO(text)) if row[0] != FIELDS[0]}
    return dict(sorted(rows.items()))


def to_ms(text: str) -> int:
    moment = int(text)
    return moment // 1000 if moment >= 10**14 else moment


def us_of(text: str, regular: int) -> int:
    """The microseconds within the millisecond; those of a regular bar where the time has none."""
    moment = int(text)
    return moment % 1000 if moment >= 10**14 else regular


def span_of(label: str) -> tuple[int, int]:
    """The first millisecond of a month or day, and the one after its last."""
    numbers = [int(part) for part in label.split("-")]
    start = datetime(numbers[0], numbers[1], numbers[2] if len(numbers) == 3 else 1, tzinfo=UTC)
    if len(numbers) == 3:
        return ms_of(start), ms_of(start) + UNIT_MS["d"]
    return ms_of(start), ms_of(datetime(numbers[0] + numbers[1] // 12, numbers[1] % 12 + 1, 1, tzinfo=UTC))


def ms_of(moment: datetime) -> int:
    return round(moment.timestamp() * 1000)


def slot_of(open_ms: int, interval: str) -> int:
    """Which bar of the grid a moment lies in. Not for 3d, whose grid is that of the series."""
    if interval == "1mo":
        moment = datetime.fromtimestamp(open_ms / 1000, UTC)
        return moment.year * 12 + moment.month
    # 1970-01-05 was a Monday.
    origin_ms = 4 * UNIT_MS["d"] if interval == "1w" else 0
    return (open_ms - origin_ms) // length_ms(interval)


def length_ms(interval: str) -> int:
    return int(interval[:-1]) * UNIT_MS[interval[-1]]


def close_of(open_ms: int, interval: str) -> int:
    if interval != "1mo":
        return open_ms + length_ms(interval) - 1
    return span_of(datetime.fromtimestamp(open_ms / 1000, UTC).strftime("%Y-%m"))[1] - 1


# --- Where the data come from ------------------------------------------------------------------------------

Load: TypeAlias = Callable[[], list[Material]]


def catalogue(data: Path) -> dict[str, Load]:
    """Everything there is, by a name for a test, without reading more than the names of files."""
    found: dict[str, Load] = {}
    for sources in (vision, single_rows, long_intervals, delisted, golden, panel):
        found |= sources(data)
    return found


def vision(data: Path) -> dict[str, Load]:
    """The archives as published."""
    root = data / "vision"
    series: dict[str, Material] = {}
    for path in sorted(root.rglob("*.zip")):
        match = _ARCHIVE.fullmatch(path.relative_to(root).as_posix())
        assert match is not None, path
        folder, kind, symbol, interval, label = match.groups()
        market = next(name for name, value in _FOLDERS.items() if value == folder)
        key = (market, kind, symbol, interval)
        one = series.setdefault(f"vision {' '.join(key)}", Material(*key, is_published=True))
        one.texts[label] = partial(read_zip, path)
        one.paths[label] = path
    return {name: partial(list, [one]) for name, one in series.items()}


def single_rows(data: Path) -> dict[str, Load]:
    """Single genuine rows, as archives of their months and days."""
    # The label is empty where each row has a day of its own.
    known = {
        "cm_BTCUSD_PERP-1m-2020-09_first_nohdr.csv": ("cm klines BTCUSD_PERP 1m", "2020-09"),
        "cm_BTCUSD_PERP-1m_samples_hdr.csv": ("cm klines BTCUSD_PERP 1m", ""),
        "spot_BTCUSDT-1d-2024-12_first_last_ms.csv": ("spot klines BTCUSDT 1d", "2024-12"),
        "spot_BTCUSDT-1d-2025-01_first_last_us.csv": ("spot klines BTCUSDT 1d", "2025-01"),
        "spot_BTCUSDT-1m-2017-08_last5_ignore_nonzero.csv": ("spot klines BTCUSDT 1m", "2017-08"),
        "spot_BTCUSDT-1m_2025-01-01_first_us.csv": ("spot klines BTCUSDT 1m", "2025-01-01"),
        "um_BTCUSDT-1d-2020-01_first2_nohdr.csv": ("um klines BTCUSDT 1d", "2020-01"),
        "um_premiumIndexKlines_BTCUSDT-1d-2026-08_hdr.csv": ("um premiumIndexKlines BTCUSDT 1d", "2026-08"),
    }
    assert known.keys() == {path.name for path in (data / "rows").glob("*.csv")}, "one is not read"

    def load(name: str, series: str, label: str) -> list[Material]:
        market, kind, symbol, interval = series.split()
        one = Material(market, kind, symbol, interval, is_published=True)
        text = (data / "rows" / name).read_text()
        if label:
            one.texts[label] = partial(str, text)
            return [one]
        header, *lines = text.splitlines()
        for line in lines:
            day = datetime.fromtimestamp(to_ms(line.split(",")[0]) / 1000, UTC).strftime("%Y-%m-%d")
            one.texts[day] = partial(str, f"{header}\n{line}\n")
        return [one]

    return {f"rows {name}": partial(load, name, *series_and_label) for name, series_and_label in known.items()}


def long_intervals(data: Path) -> dict[str, Load]:
    """Answers of the REST interface, and two tables of USD-M."""
    folder = data / "long_intervals"

    def load(place: Path, interval: str) -> list[Material]:
        paths = sorted(place.glob("*.json"))
        rows = [[str(cell) for cell in row] for path in paths for row in json.loads(path.read_bytes())]
        return [by_month(Material("spot", "klines", place.parent.name, interval), rows)]

    def load_days() -> list[Material]:
        with (folder / "um/BTCUSDT_1d_MuTheBug.csv").open() as file:
            rows = [bar_of(row, "1d") for row in csv.DictReader(file)]
        return [by_month(Material("um", "klines", "BTCUSDT", "1d"), rows)]

    def load_three_days() -> list[Material]:
        parquet = pytest.importorskip("pyarrow.parquet")
        table = parquet.read_table(folder / "um/BTCUSDT_3d.parquet").to_pydict()
        opens = [ms_of(moment.replace(tzinfo=UTC)) for moment in table.pop("openTime")]
        rows = [[str(cell) for cell in row] for row in zip(opens, *table.values(), strict=True)]
        return [by_month(Material("um", "klines", "BTCUSDT", "3d"), rows)]

    found: dict[str, Load] = {}
    for place in sorted(folder.glob("spot/*/*")):
        interval = "1mo" if place.name == "1M" else place.name
        found[f"long spot {place.parent.name} {interval}"] = partial(load, place, interval)
    return found | {"long um BTCUSDT 1d": load_days, "long um BTCUSDT 3d": load_three_days}


def delisted(data: Path) -> dict[str, Load]:
    def load(path: Path) -> list[Material]:
        symbol, _, interval = path.name.split(".")[0].rpartition("_")
        text = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
        bars = [bar_of(row, interval) for row in csv.DictReader(io.StringIO(text.decode()))]
        market = "um" if "_" in symbol else "spot"
        return [by_month(Material(market, "klines", symbol.replace("_", ""), interval), bars)]

    return {f"delisted {path.name}": partial(load, path) for path in sorted((data / "delisted").glob("*.csv*"))}


def golden(data: Path) -> dict[str, Load]:
    """The files of another program: doubles, without the other fields."""

    def load(path: Path) -> list[Material]:
        feather = pytest.importorskip("pyarrow.feather")
        interval = path.stem.split("-")[1].replace("1Mo", "1mo")
        market = "um" if "USDT_USDT" in path.stem else "spot"
        kind = "markPriceKlines" if path.stem.endswith("mark") else "klines"
        table = feather.read_table(path).to_pylist()
        rows = [bar_of({**row, "timestamp": ms_of(row["date"])}, interval) for row in table]
        return [by_month(Material(market, kind, "BTCUSDT", interval), rows)]

    paths = [path for path in sorted((data / "golden").glob("*.feather")) if "funding_rate" not in path.stem]
    return {f"golden {path.stem}": partial(load, path) for path in paths}


def panel(data: Path) -> dict[str, Load]:
    """Ten days of hours of many symbols."""

    def load(path: Path) -> list[Material]:
        bars: dict[str, list[Row]] = defaultdict(list)
        for row in csv.DictReader(io.StringIO(lzma.decompress(path.read_bytes()).decode())):
            bars[row["ticker"]].append(bar_of(row, "1h"))
        return [by_month(Material("spot", "klines", symbol, "1h"), rows) for symbol, rows in bars.items()]

    return {f"panel {path.name}": partial(load, path) for path in (data / "panel").glob("*.csv.xz")}


def bar_of(row: dict[str, Any], interval: str) -> Row:
    """A row of a table without the fields after the volume. What is unknown is zero, or one trade."""
    open_ms = int(row.get("timestamp") or ms_of(datetime.fromisoformat(row["date"]).replace(tzinfo=UTC)))
    cells = [str(row[name]) for name in ("open", "high", "low", "close", "volume")]
    count = "1" if float(cells[4]) else "0"
    return [str(open_ms), *cells, str(close_of(open_ms, interval)), "0", count, "0", "0", "0"]


def by_month(one: Material, rows: Iterable[Row]) -> Material:
    """Sort rows into the archives of their months. Where two rows have one open time, the later one counts."""
    months: dict[str, dict[int, Row]] = defaultdict(dict)
    for row in rows:
        months[datetime.fromtimestamp(int(row[0]) / 1000, UTC).strftime("%Y-%m")][int(row[0])] = row
    for label, found in sorted(months.items()):
        text = "".join(",".join(found[open_ms]) + "\n" for open_ms in sorted(found))
        one.texts[label] = partial(str, text)
    return one

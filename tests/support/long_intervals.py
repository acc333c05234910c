"""The real bars of three days and of one day: rows of the REST interface, and the archives made of them."""

from __future__ import annotations

import csv
import importlib
from typing import TYPE_CHECKING

import numpy as np
import pytest

from ckvd.model.calendar import months_of
from ckvd.model.market import SeriesKey
from ckvd.model.timespan import Span
from support.loopback.rows import of_json, open_ms_of

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from support.loopback.rows import Row
    from support.venue import Venue

SPOT_SYMBOLS = ("BTCUSDT", "SOLUSDT", "XRPUSDT", "DOTUSDT", "AVAXUSDT")
FUTURES = SeriesKey.of("BTCUSDT", "3d", market="um")
FUTURES_DAYS = SeriesKey.of("BTCUSDT", "1d", market="um")


def rows_of_spot(shared_data: Path, symbol: str, interval: str) -> list[Row]:
    """The closed bars of a symbol of the spot market to 2026-04, ascending."""
    folder = shared_data / "long_intervals" / "spot" / symbol / interval
    return [row for path in sorted(folder.glob("*.json")) for row in of_json(path.read_bytes())]


def rows_of_futures(shared_data: Path) -> list[Row]:
    """The 3d bars of BTCUSDT of the USD-margined futures, 2021-01-02 to 2026-08-15; the last one still formed."""
    try:
        parquet = importlib.import_module("pyarrow.parquet")
    except ImportError:
        pytest.skip("pyarrow is not installed")
    table = parquet.read_table(shared_data / "long_intervals" / "um" / "BTCUSDT_3d.parquet")
    opens = np.array(table["openTime"]).astype("datetime64[ms]").astype(np.int64).tolist()
    columns = [opens, *(table[name].to_pylist() for name in table.column_names[1:])]
    return [tuple(map(str, row)) for row in zip(*columns, strict=True)]


def days_of_futures(shared_data: Path) -> list[Row]:
    """The days of the same contract. The source has prices and volumes only; every other cell is zero."""
    with (shared_data / "long_intervals" / "um" / "BTCUSDT_1d_MuTheBug.csv").open(encoding="utf-8") as file:
        return [
            (
                *(day[name] for name in ("timestamp", "open", "high", "low", "close", "volume")),
                str(int(day["timestamp"]) + 86_399_999),
                *"00000",
            )
            for day in csv.DictReader(file)
        ]


def publish_months(venue: Venue, series: SeriesKey, rows: Sequence[Row]) -> None:
    """Put the rows on the mirror, each in the archive of the month in which it opens."""
    for month in months_of(Span(open_ms_of(rows[0]), open_ms_of(rows[-1]) + 1)):
        within = [row for row in rows if open_ms_of(row) in month.span]
        if within:
            venue.publish(series, month.label, within)


def closed_before(rows: Sequence[Row], now_ms: int) -> list[Row]:
    """The rows of bars that are closed at a time."""
    return [row for row in rows if int(row[6]) < now_ms]

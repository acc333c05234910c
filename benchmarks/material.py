"""The data of the benchmarks: invented bars, as a table, as a cache, and as archives."""

from __future__ import annotations

import hashlib
import io
import zipfile
from typing import TYPE_CHECKING

import numpy as np

from ckvd.cache import CacheFolder, SeriesStore
from ckvd.model.calendar import Cadence, days_of, months_of
from ckvd.model.grid import Grid
from ckvd.model.market import SeriesKey
from ckvd.model.table import KlineTable
from ckvd.model.timespan import Span

if TYPE_CHECKING:
    from pathlib import Path

    from ckvd.model.table import Column

SYMBOL = "BTCUSDT"


def make_table(series: SeriesKey, span: Span, *, seed: int = 0) -> KlineTable:
    """Bars without gaps. As for BTCUSDT, prices are a random walk in hundredths, and volumes have five decimals."""
    rng = np.random.default_rng(seed)
    opens = Grid.of(series.interval).opens(span)
    count = len(opens)
    close = np.round(20_000 + np.cumsum(rng.normal(0, 1, count)), 2)
    first = np.concatenate((close[:1], close[:-1]))
    volume = np.round(rng.lognormal(2, 1.5, count), 5)
    taker = np.round(volume * rng.random(count), 5)
    length_ms = series.bar_interval.fixed_ms
    assert length_ms is not None
    columns: dict[str, Column] = {
        "open_time": opens,
        "open": first,
        "high": np.round(np.maximum(first, close) + rng.random(count) * 5, 2),
        "low": np.round(np.minimum(first, close) - rng.random(count) * 5, 2),
        "close": close,
        "volume": volume,
        "close_time": opens + length_ms - 1,
        "quote_volume": np.round(volume * close, 7),
        "count": rng.integers(1, 5000, count),
        "taker_buy_volume": taker,
        "taker_buy_quote_volume": np.round(taker * close, 7),
        "ignore": np.zeros(count),
    }
    return KlineTable(series, columns, {})


def store(root: Path, table: KlineTable, span: Span) -> Path:
    """Store a table as one segment, like a packed one."""
    return SeriesStore(CacheFolder(root), table.series).put(table, span)


def write_archives(mirror: Path, table: KlineTable, span: Span, cadence: Cadence) -> list[Path]:
    """Write ZIPs with their CHECKSUM files, with the paths and the compression of the publisher."""
    series = table.series
    folder = mirror / "data" / "spot" / cadence / series.kind / series.symbol / series.bar_interval
    folder.mkdir(parents=True)
    paths = []
    for period in months_of(span) if cadence is Cadence.MONTHLY else days_of(span):
        start, stop = table.open_time.searchsorted([period.span.start_ms, period.span.end_ms])
        stem = f"{series.symbol}-{series.interval}-{period.label}"
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr(f"{stem}.csv", csv_of(table.rows(int(start), int(stop))))
        path = folder / f"{stem}.zip"
        path.write_bytes(buffer.getvalue())
        digest = hashlib.sha256(buffer.getvalue()).hexdigest()
        path.with_name(f"{path.name}.CHECKSUM").write_text(f"{digest}  {path.name}")
        paths.append(path)
    return paths


def csv_of(table: KlineTable) -> str:
    """The rows as in spot archives, with eight decimals for prices and volumes."""
    columns = [
        column.tolist() if column.dtype.kind == "i" else [f"{cell:.8f}" for cell in column.tolist()]
        for name, column in table.columns.items()
        if name != "ignore"
    ]
    return "".join(f"{','.join(map(str, row))},0\n" for row in zip(*columns, strict=True))


def minutes(year_count: int, *, day_count: int = 0) -> tuple[SeriesKey, Span]:
    """The series of minutes, and a span of whole years, or of some days, that ends with 2023."""
    series = SeriesKey.of(SYMBOL, "1m")
    end = Span.of("2024-01-01", "2024-01-01").start_ms
    if day_count:
        return series, Span(end - day_count * 86_400_000, end)
    return series, Span.of(f"{2024 - year_count}-01-01", "2024-01-01")

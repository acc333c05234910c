"""Caches for the tests of maintenance: filling, damaging, repairing and exporting them."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from ckvd.api.vision_data_client import VisionDataClient
from ckvd.cache import CacheFolder
from ckvd.maintenance.export import ExportFormat, export_series
from ckvd.maintenance.repair import RepairReport, repair
from ckvd.maintenance.verification import verify_cache
from ckvd.model.market import DAY_MS, Interval, Kind, Market, SeriesKey
from ckvd.model.timespan import Span
from ckvd.vision.folder_source import FolderArchiveSource
from support.places import SAMPLES
from support.tables import BTCUSDT_1M

if TYPE_CHECKING:
    from pathlib import Path

START = Span.of("2023-01-30", "2023-01-31").start_ms


def day(number: int, count: int = 1) -> Span:
    """Some days, counted from one before the end of a month."""
    return Span(START + number * DAY_MS, START + (number + count) * DAY_MS)


def download(root: Path, series: SeriesKey, span: Span, mirror: Path = SAMPLES) -> CacheFolder:
    """Fill a cache from a mirror."""

    async def work() -> None:
        async with VisionDataClient(mirror, cache=root) as vision:
            await vision.download_series([series], span)

    asyncio.run(work())
    return CacheFolder(root)


def older_key(symbol: str, interval: str, *, market: str, kind: str) -> SeriesKey:
    """A key with a symbol that an older version accepted and that is refused now. It writes as that version did."""
    key = object.__new__(SeriesKey)
    for name, value in {
        "market": Market(market),
        "kind": Kind(kind),
        "symbol": symbol,
        "interval": Interval(interval),
    }.items():
        object.__setattr__(key, name, value)
    return key


def segment_paths(folder: CacheFolder) -> list[Path]:
    return sorted(folder.root.glob("*/*/*/*/*.ckvd"))


def flip(path: Path, position: int = -1, bit: int = 0) -> None:
    """Change a bit of a file in place: FAT by FUSE refuses to shorten one to write it anew."""
    content = bytearray(path.read_bytes())
    content[position] ^= 1 << bit
    with path.open("r+b") as file:
        file.write(content)


def mend(folder: CacheFolder, mirror: Path | None = None) -> RepairReport:
    """Repair a cache, without a source or from a mirror."""
    source = None if mirror is None else FolderArchiveSource(mirror)
    return asyncio.run(repair(folder, list(verify_cache(folder)), source))


def export_one(folder: CacheFolder, target: Path, file_format: ExportFormat) -> Path:
    """Export the two days of minutes that the tests of export begin with into one file."""
    (exported,) = export_series(folder, BTCUSDT_1M, target, file_format=file_format)
    assert exported.path.name == f"BTCUSDT-1m-2024-12-31-2025-01-02.{file_format}"
    return exported.path

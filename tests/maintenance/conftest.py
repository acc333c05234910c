"""Caches that several tests of maintenance begin with."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from ckvd.api.vision_data_client import VisionDataClient
from ckvd.cache import CacheFolder
from ckvd.model.market import SeriesKey
from ckvd.model.timespan import Span
from support.places import SAMPLES

if TYPE_CHECKING:
    from pathlib import Path


def download(root: Path, series: SeriesKey, span: Span) -> CacheFolder:
    """A cache filled from the sample mirror."""

    async def work() -> None:
        async with VisionDataClient(SAMPLES, cache=root) as vision:
            await vision.download_series([series], span)

    asyncio.run(work())
    return CacheFolder(root)


@pytest.fixture
def two_months(tmp_path: Path) -> CacheFolder:
    """December 2024 and January 2025 in hours, each month a segment."""
    return download(
        tmp_path / "cache", SeriesKey.of("BTCUSDT", "1h", market="um"), Span.of("2024-12-01", "2025-02-01")
    )


@pytest.fixture
def two_days(tmp_path: Path) -> CacheFolder:
    """The last day of 2024 and the first of 2025 in minutes: the unit of time changes between them."""
    return download(tmp_path / "cache", SeriesKey.of("BTCUSDT", "1m"), Span.of("2024-12-31", "2025-01-02"))

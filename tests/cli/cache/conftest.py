"""A cache for the verbs of `ckvd cache` to work on."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from ckvd.api.vision_data_client import VisionDataClient
from ckvd.cache import CacheFolder
from cli.cache.run import HOURS, MARCH
from support.places import SAMPLES

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def folder(tmp_path: Path) -> CacheFolder:
    cache = CacheFolder(tmp_path / "cache")

    async def download() -> None:
        async with VisionDataClient(SAMPLES, cache=cache.root) as vision:
            await vision.download_series([HOURS], MARCH)
            await vision.download("BNBBTC", "1s", start="2023-01-01", end="2023-01-02")

    asyncio.run(download())
    return cache

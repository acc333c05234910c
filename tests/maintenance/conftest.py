"""A cache that several tests of maintenance begin with."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from ckvd.model.market import SeriesKey
from ckvd.model.timespan import Span
from support.caches import download

if TYPE_CHECKING:
    from pathlib import Path

    from ckvd.cache import CacheFolder


@pytest.fixture
def folder(tmp_path: Path) -> CacheFolder:
    """December 2024 and January 2025 in hours, each month a segment."""
    series, december = SeriesKey.of("BTCUSDT", "1h", market="um"), Span.of("2024-12-01", "2025-01-01")
    download(tmp_path / "cache", series, december)
    return download(tmp_path / "cache", series, Span.of("2024-12-01", "2025-02-01"))

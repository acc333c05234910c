"""A cache to export from."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from ckvd.model.timespan import Span
from support.caches import download
from support.tables import BTCUSDT_1M

if TYPE_CHECKING:
    from pathlib import Path

    from ckvd.cache import CacheFolder


@pytest.fixture
def folder(tmp_path: Path) -> CacheFolder:
    """The last day of 2024 and the first of 2025 in minutes: the unit of time changes between them."""
    return download(tmp_path / "cache", BTCUSDT_1M, Span.of("2024-12-31", "2025-01-02"))

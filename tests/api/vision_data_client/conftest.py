"""Sites to download from."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from support.download_site import DownloadSite
from support.places import SAMPLES

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def samples(tmp_path: Path) -> Iterator[DownloadSite]:
    """The sample mirror of `data/`."""
    with DownloadSite(SAMPLES, tmp_path / "cache") as site:
        yield site


@pytest.fixture
def site(tmp_path: Path) -> Iterator[DownloadSite]:
    """A mirror that is empty until something is published."""
    root = tmp_path / "mirror"
    (root / "data").mkdir(parents=True)
    with DownloadSite(root, tmp_path / "cache") as empty:
        yield empty

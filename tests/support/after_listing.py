"""Changes a cache between the moments in which a reader lists its segments and opens them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ckvd.cache import CacheFolder

if TYPE_CHECKING:
    from collections.abc import Callable

    import pytest

    from ckvd.cache.folder import SegmentName
    from ckvd.model.market import SeriesKey


def after_listing(monkeypatch: pytest.MonkeyPatch, action: Callable[[int], None]) -> list[int]:
    """Act after each listing of segments, before one is opened. Returns a list of the lengths of the listings."""
    listed: list[int] = []
    list_segments = CacheFolder.segments

    def segments(folder: CacheFolder, series: SeriesKey) -> list[SegmentName]:
        found = list_segments(folder, series)
        listed.append(len(found))
        monkeypatch.setattr(CacheFolder, "segments", list_segments)
        action(len(listed))
        monkeypatch.setattr(CacheFolder, "segments", segments)
        return found

    monkeypatch.setattr(CacheFolder, "segments", segments)
    return listed

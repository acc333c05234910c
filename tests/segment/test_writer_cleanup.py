"""How a `SegmentWriter` is left, by the shared tests of `support.release.files`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from ckvd.model.timespan import Span
from ckvd.segment import SegmentStatement, SegmentWriter
from ckvd.segment.writer import plan_columns
from support.models import MINUTE_MS
from support.release.files import Holder, Leaving
from support.tables import BTCUSDT_1M, regular_table

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

HOUR = Span(0, 60 * MINUTE_MS)


@pytest.fixture
def holder(tmp_path: Path) -> Iterator[Holder]:
    """A writer that is left before it publishes. Afterwards its folder is empty."""
    table = regular_table(BTCUSDT_1M, HOUR)

    def make() -> SegmentWriter:
        statement = SegmentStatement(BTCUSDT_1M, HOUR, 1)
        return SegmentWriter(tmp_path / "hour.ckvd", statement, plan_columns(table), table.row_count)

    yield Holder(make, lambda writer: writer.append(table.columns), "_file")
    assert list(tmp_path.iterdir()) == []


class TestLeavingAWriter(Leaving):
    unclosed_words = "unclosed writer of "

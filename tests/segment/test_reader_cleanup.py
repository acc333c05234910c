"""How a `SegmentReader` is left, by the shared tests of `support.release.files`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from ckvd.model.timespan import Span
from ckvd.segment import SegmentReader
from support.models import MINUTE_MS
from support.release import files
from support.release.closers import TASK_FACTORIES, run
from support.release.files import Holder, Leaving
from support.tables import BTCUSDT_1M, regular_table, write_segment

if TYPE_CHECKING:
    from pathlib import Path

HOUR = Span(0, 60 * MINUTE_MS)


@pytest.fixture
def holder(tmp_path: Path) -> Holder:
    path = write_segment(tmp_path / "hour.ckvd", regular_table(BTCUSDT_1M, HOUR), HOUR)
    return Holder(lambda: SegmentReader(path), lambda reader: reader["close"].sum(), "_map")


class TestLeavingAReader(Leaving):
    unclosed_words = "unclosed segment "


@pytest.mark.parametrize("is_eager", TASK_FACTORIES)
def test_a_living_view_delays_only_the_unmapping(holder: Holder, is_eager: bool) -> None:
    async def main() -> None:
        before = files.held()
        async with holder.make() as reader:
            view = reader["close"]
        assert reader._map is None
        assert view.sum() == sum(range(400, 460))
        assert files.held()[1] == before[1] + 1
        del view
        assert files.held() == before

    run(main, is_eager=is_eager)

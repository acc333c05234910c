"""Leaving `SegmentWriter`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

import file_cleanup
from ckvd.segment import SegmentStatement, SegmentWriter
from ckvd.segment.writer import plan_columns
from ckvd.timespan import Span
from closers import TASK_FACTORIES
from file_cleanup import Holder
from models import MINUTE_MS
from tables import BTCUSDT_1M, regular_table

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

HOUR = Span(0, 60 * MINUTE_MS)


@pytest.fixture
def holder(tmp_path: Path) -> Iterator[Holder]:
    """A writer that is left before it has published: in the end its folder is empty."""
    table = regular_table(BTCUSDT_1M, HOUR)

    def make() -> SegmentWriter:
        statement = SegmentStatement(BTCUSDT_1M, HOUR, 1)
        return SegmentWriter(tmp_path / "hour.ckvd", statement, plan_columns(table), table.row_count)

    yield Holder(make, lambda writer: writer.append(table.columns), "_file")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("is_eager", TASK_FACTORIES)
def test_it_leaves_unused_and_after_use(holder: Holder, is_eager: bool) -> None:
    file_cleanup.leaves_unused_and_after_use(holder, is_eager=is_eager)


def test_it_leaves_many_times_in_a_row(holder: Holder) -> None:
    file_cleanup.leaves_many_times_in_a_row(holder, 300)


def test_it_leaves_twice_at_once_and_without_entering(holder: Holder) -> None:
    file_cleanup.leaves_twice_at_once_and_without_entering(holder)


def test_it_leaves_on_another_loop(holder: Holder) -> None:
    file_cleanup.leaves_on_another_loop(holder)


def test_it_raises_the_error_of_the_body_when_closing_fails_too(
    holder: Holder, caplog: pytest.LogCaptureFixture
) -> None:
    file_cleanup.raises_the_error_of_the_body_when_closing_fails_too(holder, caplog)


def test_it_lets_cancellations_and_timeouts_through(holder: Holder) -> None:
    file_cleanup.lets_cancellations_and_timeouts_through(holder)


def test_it_warns_once_and_lets_go_when_nobody_closes_it(holder: Holder) -> None:
    file_cleanup.warns_once_and_lets_go_when_nobody_closes_it(holder, "unclosed writer of ")

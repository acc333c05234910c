"""The synchronous door: what it is told goes to the same place as what the asynchronous one is told."""

from __future__ import annotations

import asyncio
import threading
from typing import TYPE_CHECKING

import pytest

import ckvd
from support.venue import HOURS, Venue, hours

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from ckvd.acquisition.report import Progress

START, END = "2024-02-01", "2024-03-01"


@pytest.fixture
def venue(tmp_path: Path) -> Iterator[Venue]:
    """A month of hours in an archive, and nothing of days."""
    with Venue(tmp_path, "2024-03-20T10:30") as venue:
        venue.publish(HOURS, "2024-02", hours(START, END))
        yield venue


def test_bars_are_made_of_shorter_ones_where_that_is_asked_for(venue: Venue) -> None:
    options = venue.options(use_rest=False)
    hourly = ckvd.get_klines("BTCUSDT", "1h", start=START, end=END, **options)
    asked = venue.request_count
    days = ckvd.get_klines("BTCUSDT", "1d", derive=True, start=START, end=END, **options)
    assert venue.request_count == asked
    assert isinstance(days, ckvd.ResampledKlines)
    assert days.close.tolist() == hourly.close[23::24].tolist()


@pytest.mark.parametrize("door", [ckvd.get_klines, ckvd.ensure])
def test_progress_is_told(venue: Venue, door: Callable[..., object]) -> None:
    seen: list[Progress] = []
    door("BTCUSDT", "1h", on_progress=seen.append, start=START, end=END, **venue.options(use_rest=False))
    assert seen[-1].archive_count == seen[-1].archive_total == 1
    assert seen[-1].nbytes > 0


def test_in_a_notebook_progress_is_told_by_another_thread(venue: Venue) -> None:
    tellers: set[threading.Thread] = set()

    async def in_a_notebook() -> ckvd.DownloadReport:
        return ckvd.ensure(
            "BTCUSDT",
            "1h",
            on_progress=lambda _: tellers.add(threading.current_thread()),
            start=START,
            end=END,
            **venue.options(use_rest=False),
        )

    assert asyncio.run(in_a_notebook()).is_complete
    assert len(tellers) == 1
    assert threading.current_thread() not in tellers


@pytest.mark.parametrize("door", [ckvd.get_klines, ckvd.ensure])
def test_what_could_not_be_had_is_asked_for_again_where_that_is_wished(
    venue: Venue, tmp_path: Path, door: Callable[..., object]
) -> None:
    (tmp_path / "empty" / "data").mkdir(parents=True)
    options = venue.options(use_rest=False)
    # Where the cache has something of the series, it also keeps that a month was unavailable.
    venue.publish(HOURS, "2024-01", hours("2024-01-01", START))
    assert ckvd.ensure("BTCUSDT", "1h", start="2024-01-01", end=START, **options).is_complete
    assert not ckvd.ensure(
        "BTCUSDT", "1h", start=START, end=END, **(options | {"vision_url": tmp_path / "empty"})
    ).is_complete
    assert not ckvd.ensure("BTCUSDT", "1h", start=START, end=END, **options).is_complete
    door("BTCUSDT", "1h", refresh=True, start=START, end=END, **options)
    assert ckvd.ensure("BTCUSDT", "1h", start=START, end=END, **options).is_complete

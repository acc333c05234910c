"""The backlog never holds more than its room, admits in order, and never stands still."""

from __future__ import annotations

import asyncio

from hypothesis import given
from hypothesis import strategies as st

from ckvd.acquisition.backlog import Backlog, estimated_nbytes
from ckvd.model.calendar import Period
from ckvd.model.market import SeriesKey
from ckvd.vision.name import ArchiveName

NAMES = [
    ArchiveName(SeriesKey.of("BTCUSDT", interval), Period.of_label(label))
    for interval, label in (("1d", "2023-01"), ("1h", "2023-01"), ("1m", "2023-01-02"), ("1m", "2023-01"))
]
ROOMS = st.sampled_from([1, *(count * estimated_nbytes(NAMES[1]) for count in (1, 3, 1000))])


def test_an_archive_is_estimated_by_the_bars_of_its_period() -> None:
    assert [estimated_nbytes(name) // 60 for name in NAMES] == [32, 745, 1441, 44_641]
    events = ArchiveName(SeriesKey.of("BTCUSDT", market="um", kind="fundingRate"), Period.of_label("2023-01"))
    assert estimated_nbytes(events) > 0


async def pass_through(
    names: list[ArchiveName], cancelled: set[int], archive_count: int, nbytes: int
) -> tuple[list[int], int]:
    """Let all pass, one turn of the loop each, cancelling some. Return who entered, and the most within."""
    backlog = Backlog(archive_count, nbytes)
    entered: list[int] = []
    within: set[int] = set()
    most = 0

    async def visit(place: int) -> None:
        nonlocal most
        async with backlog.place_for(names[place]):
            entered.append(place)
            within.add(place)
            most = max(most, len(within))
            assert len(within) <= archive_count
            assert len(within) == 1 or sum(estimated_nbytes(names[one]) for one in within) <= nbytes
            try:
                await asyncio.sleep(0)
            finally:
                within.discard(place)

    tasks = [asyncio.create_task(visit(place)) for place in range(len(names))]
    await asyncio.sleep(0)
    for place in cancelled:
        tasks[place].cancel()
    await asyncio.wait_for(asyncio.gather(*tasks, return_exceptions=True), timeout=20)
    for task in tasks:
        assert task.cancelled() or task.exception() is None
    return entered, most


@given(st.data(), st.lists(st.sampled_from(NAMES), min_size=1, max_size=20), st.integers(1, 6), ROOMS)
def test_all_are_admitted_in_order_within_the_room_whoever_leaves(
    data: st.DataObject, names: list[ArchiveName], archive_count: int, nbytes: int
) -> None:
    cancelled = data.draw(st.sets(st.integers(0, len(names) - 1)))
    entered, _ = asyncio.run(pass_through(names, cancelled, archive_count, nbytes))
    assert entered == sorted(entered)
    assert {*range(len(names))} - set(entered) <= cancelled


def test_what_has_room_is_admitted_at_the_same_time() -> None:
    _, most = asyncio.run(pass_through([NAMES[0]] * 5, set(), 3, 1 << 20))
    assert most == 3

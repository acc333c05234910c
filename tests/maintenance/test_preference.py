"""What is preferred replaces what differs, loses no bar, and stays, whatever is done to the cache afterwards."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import numpy as np
import pytest

from ckvd.acquisition.completion.shortfalls import recheck_ms
from ckvd.cache import SeriesStore, fault_points
from ckvd.cache.fault_points import Step
from ckvd.cache.packing import pack_series
from ckvd.cache.rows import read_contents, read_table
from ckvd.cache.selection import EVERYTHING
from ckvd.errors import CacheBusyError
from ckvd.maintenance.audit import audit_cache
from ckvd.maintenance.comparison import Agreement, Comparison, compare_cache, is_well
from ckvd.maintenance.data_lock import Verdict, check_lock, lock_data
from ckvd.maintenance.preference import Preferred, prefer_source
from ckvd.maintenance.pruning import prune_span
from ckvd.maintenance.verification import verify_cache
from ckvd.model.provenance import Absence, Origin, Reason, Source
from ckvd.model.table import KlineTable
from ckvd.model.timespan import Span, parse_time
from ckvd.vision.folder_source import FolderArchiveSource
from support.loopback.reply import Reply
from support.tables import make_table
from support.venue import HOURS, Venue, assert_equal, ensure, fetch, rows_between
from support.wrong_month import WrongMonth, falsify

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

PREFERRED = pytest.mark.parametrize("preferred", Preferred)
WRONG_DAYS = Span.of("2023-01-10", "2023-01-13")


@pytest.fixture
def wrong(tmp_path: Path) -> Iterator[WrongMonth]:
    with Venue(tmp_path, "2023-06-20T10:30") as venue:
        yield WrongMonth(venue)


def prefer(wrong: WrongMonth, preferred: Preferred, span: Span | None = None) -> list[Comparison]:
    async def run() -> list[Comparison]:
        async with wrong.venue.rest_client() as rest:
            archives = FolderArchiveSource(wrong.venue.root)
            found = prefer_source(wrong.folder, preferred, EVERYTHING, span, archives=archives, rest=rest)
            return [one async for one in found]

    return asyncio.run(run())


def compare(wrong: WrongMonth, preferred: Preferred) -> list[Comparison]:
    async def run() -> list[Comparison]:
        async with wrong.venue.rest_client() as rest:
            archives = FolderArchiveSource(wrong.venue.root)
            found = compare_cache(wrong.folder, preferred.against, archives=archives, rest=rest)
            return [one async for one in found]

    return asyncio.run(run())


def audit(wrong: WrongMonth) -> None:
    async def run() -> None:
        archives = FolderArchiveSource(wrong.venue.root)
        async for _ in audit_cache(wrong.folder, archives, is_thorough=True, fix=True):
            pass

    asyncio.run(run())


def assert_right(wrong: WrongMonth) -> None:
    assert_equal(fetch(wrong.venue, "2023-01-01", "2023-02-01", offline=True), wrong.rows)


@PREFERRED
def test_what_differs_is_replaced_and_nothing_else(wrong: WrongMonth, preferred: Preferred) -> None:
    locked = list(lock_data(wrong.folder))
    before = wrong.folder.segments(HOURS)
    found = prefer(wrong, preferred)
    assert is_well(found)
    assert sum(one.difference.changed_count for one in found if one.is_stored) == len(wrong.wrong)
    assert_right(wrong)
    new = set(wrong.folder.segments(HOURS)) - set(before)
    assert sum(name.span.length_ms for name in new) == WRONG_DAYS.length_ms
    assert list(verify_cache(wrong.folder)) == []
    (check,) = check_lock(wrong.folder, locked)
    assert check.verdict is Verdict.DIFFERENT
    assert prefer(wrong, preferred) == compare(wrong, preferred)
    assert {one.agreement for one in compare(wrong, preferred)} == {Agreement.AGREES}


@PREFERRED
def test_the_sources_show_what_is_preferred(wrong: WrongMonth, preferred: Preferred) -> None:
    prefer(wrong, preferred)
    klines = fetch(wrong.venue, "2023-01-01", "2023-02-01", offline=True)
    origins = {source.origin for source in klines.sources if source.is_preferred}
    assert origins == {Origin.VISION_DAILY if preferred is Preferred.DAYS else Origin.REST}
    months = [source.span for source in klines.sources if source.origin is Origin.VISION_MONTHLY]
    # A day is all of its archive's. The REST interface was used for what differs in it.
    assert any(map(WRONG_DAYS.overlaps, months)) == (preferred is Preferred.REST)


@PREFERRED
def test_only_the_span_is_replaced(wrong: WrongMonth, preferred: Preferred) -> None:
    span = Span.of("2023-01-11T03:00", "2023-01-11T05:00")
    prefer(wrong, preferred, span)
    expected = [row if int(row[0]) in span else bad for row, bad in zip(wrong.rows, wrong.falsified, strict=True)]
    assert_equal(fetch(wrong.venue, "2023-01-01", "2023-02-01", offline=True), expected)


@PREFERRED
def test_nothing_undoes_it(wrong: WrongMonth, preferred: Preferred) -> None:
    prefer(wrong, preferred)
    for use_rest in (False, True):
        ensure(wrong.venue, ["BTCUSDT"], "2023-01-01", "2023-02-01", use_rest=use_rest)
    fetch(wrong.venue, "2023-01-01", "2023-02-01")
    assert_right(wrong)
    pack_series(wrong.folder, HOURS, is_thorough=True)
    assert len(wrong.folder.segments(HOURS)) == 1
    assert_right(wrong)
    # The month is published again, with the same wrong bars and some others.
    first = wrong.rows[0]
    corrected = [(*first[:5], "88888.5", *first[6:]), *wrong.falsified[1:]]
    wrong.venue.publish(HOURS, "2023-01", corrected)
    audit(wrong)
    assert_equal(fetch(wrong.venue, "2023-01-01", "2023-02-01", offline=True), [corrected[0], *wrong.rows[1:]])
    # A part of the month is fetched again beside it.
    prune_span(wrong.folder, HOURS, Span.of("2023-01-01", "2023-01-09T11:00"))
    wrong.venue.unpublish(HOURS, "2023-01-04")
    fetch(wrong.venue, "2023-01-01", "2023-02-01", use_rest=False)
    assert_equal(fetch(wrong.venue, "2023-01-01", "2023-02-01", offline=True), [corrected[0], *wrong.rows[1:]])
    assert list(verify_cache(wrong.folder)) == []


def test_healing_only_adds_to_what_is_preferred(wrong: WrongMonth) -> None:
    """A hole in a day of the preferred REST interface, of which the daily archive has other bars."""
    day = Span.of("2023-01-11", "2023-01-12")
    hole = rows_between(wrong.rows, "2023-01-11T20:00", "2023-01-11T22:00")
    table = read_table(wrong.folder, HOURS, day)
    month = Source(Origin.VISION_MONTHLY, "month", day.start_ms, day.end_ms)
    SeriesStore(wrong.folder, HOURS).put(table.rows(0, 20), day, sources=[month])
    wrong.publish_day("2023-01-11", [*map(falsify, wrong.day("2023-01-11")[:20]), *hole])
    wrong.venue.exchange.publish(HOURS, [])
    prefer(wrong, Preferred.REST, Span.of("2023-01-11", "2023-01-11T20:00"))
    klines = fetch(wrong.venue, "2023-01-11", "2023-01-12", use_rest=False)
    assert_equal(klines, rows_between(wrong.rows, "2023-01-11", "2023-01-11T22:00"))


def test_a_day_that_is_shorter_than_the_month_loses_no_bar(wrong: WrongMonth) -> None:
    rows = wrong.day("2023-01-11")
    wrong.publish_day("2023-01-11", rows[:20])
    found = prefer(wrong, Preferred.DAYS)
    (short,) = [one for one in found if one.difference.removed_count]
    assert (short.is_stored, short.difference.removed_count) == (True, 4)
    expected = [falsify(row) if row in rows[20:] else row for row in wrong.rows]
    assert_equal(fetch(wrong.venue, "2023-01-01", "2023-02-01", offline=True), expected)
    # What the day lacks is still the month's, and may be preferred of the REST interface.
    contents = read_contents(wrong.folder, HOURS, Span.of("2023-01-11", "2023-01-12"))
    assert [source.origin for source in contents.sources] == [Origin.VISION_DAILY, Origin.VISION_MONTHLY]
    assert is_well(compare(wrong, Preferred.DAYS))
    prefer(wrong, Preferred.REST)
    assert_right(wrong)


def test_days_that_are_missing_or_damaged_stay_as_they_are(wrong: WrongMonth) -> None:
    wrong.venue.unpublish(HOURS, "2023-01-10")
    wrong.publish_day("2023-01-11", digest="0" * 64)
    found = prefer(wrong, Preferred.DAYS)
    assert not is_well(found)
    assert [one.span for one in found if one.is_stored] == [Span.of("2023-01-12", "2023-01-13")]
    kept = Span.of("2023-01-10", "2023-01-12")
    expected = [bad if int(bad[0]) in kept else row for row, bad in zip(wrong.rows, wrong.falsified, strict=True)]
    assert_equal(fetch(wrong.venue, "2023-01-01", "2023-02-01", offline=True), expected)


def test_a_region_that_is_refused_changes_nothing(wrong: WrongMonth) -> None:
    wrong.venue.exchange.script(Reply(451, b"{}"))
    before = wrong.folder.segments(HOURS)
    (one,) = prefer(wrong, Preferred.REST)
    assert (one.agreement, one.is_stored) == (Agreement.FAILED, False)
    assert wrong.folder.segments(HOURS) == before


def test_cells_that_are_not_compared_stay_where_the_rest_interface_agrees(wrong: WrongMonth) -> None:
    day = Span.of("2023-01-11", "2023-01-12")
    table = read_table(wrong.folder, HOURS, day)
    us = np.full(table.row_count, 7, np.int16)
    high = np.array([float(row[2]) for row in wrong.day("2023-01-11")])
    high[3] = 1.0
    volume = np.array([float(row[5]) for row in wrong.day("2023-01-11")])
    month = Source(Origin.VISION_MONTHLY, "month", day.start_ms, day.end_ms)
    odd = KlineTable(HOURS, {**table.columns, "close_time_us": us, "high": high, "volume": volume}, {})
    SeriesStore(wrong.folder, HOURS).put(odd, day, sources=[month])
    prefer(wrong, Preferred.REST, day)
    stored = read_table(wrong.folder, HOURS, day)
    assert stored.columns["high"][3] == float(wrong.day("2023-01-11")[3][2])
    assert stored.columns["close_time_us"].tolist() == [7, 7, 7, 999, *[7] * 20]


def test_what_is_known_of_missing_bars_is_kept(wrong: WrongMonth) -> None:
    day = Span.of("2023-01-11", "2023-01-12")
    month = Source(Origin.VISION_MONTHLY, "month", day.start_ms, day.end_ms)
    hole = Absence(day.start_ms, day.end_ms, Reason.HALTED, recheck_ms(day, parse_time("2023-06-20")))
    opens = [int(row[0]) for row in wrong.day("2023-01-11")]
    del opens[5]
    SeriesStore(wrong.folder, HOURS).put(make_table(HOURS, opens), day, sources=[month], absences=[hole])
    rows = wrong.day("2023-01-11")
    wrong.publish_day("2023-01-11", [*rows[:5], *rows[6:]])
    prefer(wrong, Preferred.DAYS, day)
    klines = fetch(wrong.venue, "2023-01-11", "2023-01-12", offline=True)
    assert [(gap.start_ms, gap.reason) for gap in klines.gaps] == [(int(rows[5][0]), Reason.HALTED)]


# --- Other writers -----------------------------------------------------------------------------------------


def test_bars_that_others_store_meanwhile_are_not_lost(wrong: WrongMonth, monkeypatch: pytest.MonkeyPatch) -> None:
    day = Span.of("2023-01-11", "2023-01-12")
    table = read_table(wrong.folder, HOURS, day)
    month = Source(Origin.VISION_MONTHLY, "month", day.start_ms, day.end_ms)
    store = SeriesStore(wrong.folder, HOURS)
    store.put(table.rows(0, 20), day, sources=[month])
    wrong.publish_day("2023-01-11", wrong.day("2023-01-11")[:20])
    reached: list[Step] = []

    def store_once(step: Step) -> None:
        if step is Step.ROWS_WRITTEN:
            reached.append(step)
            if len(reached) == 1:
                store.put(table, day, sources=[month])

    monkeypatch.setattr(fault_points, "reach", store_once)
    prefer(wrong, Preferred.DAYS, day)
    assert len(reached) == 3
    rows = wrong.day("2023-01-11")
    expected = [*rows[:20], *map(falsify, rows[20:])]
    assert_equal(fetch(wrong.venue, "2023-01-11", "2023-01-12", offline=True), expected)


def test_a_series_that_others_keep_changing_is_busy(wrong: WrongMonth, monkeypatch: pytest.MonkeyPatch) -> None:
    day = Span.of("2023-01-11", "2023-01-12")
    table = read_table(wrong.folder, HOURS, day)
    busy: list[None] = []

    def store_each_time(step: Step) -> None:
        if step is Step.ROWS_WRITTEN and not busy:
            busy.append(None)
            SeriesStore(wrong.folder, HOURS).put(table, day)
            busy.pop()

    monkeypatch.setattr(fault_points, "reach", store_each_time)
    with pytest.raises(CacheBusyError, match="try again"):
        prefer(wrong, Preferred.DAYS, day)

"""What others publish while a series is completed stays."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

import ckvd
from ckvd.cache.folder import CacheFolder
from ckvd.cache.packing import pack_series
from ckvd.cache.store import SeriesStore
from ckvd.errors import CacheBusyError
from ckvd.model.provenance import Absence, Origin, Reason
from ckvd.model.table import empty_table
from ckvd.model.timespan import Span, parse_time
from ckvd.utils.config import COMPLETION_ATTEMPTS_MAX
from support.loopback.rows import open_ms_of
from support.tables import regular_table
from support.venue import HOURS, Venue, assert_equal, ensure, fetch, hours, rows_between

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from support.loopback.exchange import Step
    from support.loopback.reply import Reply


@pytest.fixture
def venue(tmp_path: Path) -> Iterator[Venue]:
    with Venue(tmp_path, "2024-03-20T10:30") as venue:
        yield venue


def store_of(venue: Venue) -> SeriesStore:
    return SeriesStore(CacheFolder.at(venue.cache_path), HOURS)


def after(change: Callable[[], object]) -> Step:
    """A genuine answer of the exchange, before which something happens."""

    def answer(genuine: Reply) -> Reply:
        change()
        return genuine

    return answer


def test_an_archive_that_was_stored_meanwhile_is_kept(venue: Venue) -> None:
    rows = hours("2024-03-18", "2024-03-20T11:00")
    venue.exchange.publish(HOURS, [(*row[:5], "777.5", *row[6:]) for row in rows])

    def publish() -> None:
        venue.publish(HOURS, "2024-03-19", rows_between(rows, "2024-03-19", "2024-03-20"))
        ckvd.ensure("BTCUSDT", "1h", start="2024-03-19", end="2024-03-20", **venue.options(use_rest=False))

    venue.exchange.script(after(publish))
    klines = fetch(venue, "2024-03-18", "2024-03-20")
    assert klines.volume[:24].tolist() == [777.5] * 24
    assert_equal(fetch(venue, "2024-03-19", "2024-03-20"), rows_between(rows, "2024-03-19", "2024-03-20"))
    assert {source.origin for source in fetch(venue, "2024-03-19", "2024-03-20").sources} == {Origin.VISION_DAILY}


def test_bars_that_were_stored_meanwhile_are_not_stated_to_be_absent(venue: Venue) -> None:
    rows = hours("2024-03-19", "2024-03-20")
    venue.exchange.publish(HOURS, hours("2024-03-20", "2024-03-20T10:00"))

    def publish() -> None:
        venue.publish(HOURS, "2024-03-19", rows)
        ckvd.ensure("BTCUSDT", "1h", start="2024-03-19", end="2024-03-20", **venue.options(use_rest=False))

    venue.exchange.script(after(publish))
    assert_equal(fetch(venue, "2024-03-19", "2024-03-20"), rows)


@pytest.mark.parametrize("is_packed", [False, True])
def test_a_day_that_was_corrected_or_packed_meanwhile_is_healed_as_it_is_now(venue: Venue, is_packed: bool) -> None:
    rows = hours("2023-01-01", "2024-01-01")
    lost_ms = parse_time("2023-06-10T05:00")
    for month in range(1, 13):
        start, end = f"2023-{month:02d}", "2024-01" if month == 12 else f"2023-{month + 1:02d}"
        venue.publish(HOURS, start, [row for row in rows_between(rows, start, end) if open_ms_of(row) != lost_ms])
    venue.exchange.publish(HOURS, rows)
    store = store_of(venue)

    def change() -> None:
        if is_packed:
            pack_series(store.folder, HOURS)
        else:
            corrected = Span.of("2023-06-10T10:00", "2023-06-10T12:00")
            store.put(regular_table(HOURS, corrected, volume=777.5), corrected)

    venue.exchange.script(after(change))
    klines = fetch(venue, "2023-01-01", "2024-01-01")
    assert klines.open_time.tolist() == [open_ms_of(row) for row in rows]
    assert np.count_nonzero(klines.volume == 777.5) == (0 if is_packed else 2)


def test_who_is_disturbed_again_and_again_gives_up_and_says_so(venue: Venue) -> None:
    venue.exchange.publish(HOURS, hours("2024-03-19", "2024-03-20T11:00"))
    span = Span.of("2024-03-19", "2024-03-20")

    def disturb() -> None:
        absence = Absence(span.start_ms, span.end_ms, Reason.NOT_PUBLISHED, venue.time.now_ms() + 1)
        store_of(venue).put(empty_table(HOURS), span, absences=[absence], recheck_ms=absence.recheck_ms)

    venue.exchange.script(*[after(disturb)] * 100)
    report = ensure(venue, ["BTCUSDT"], "2024-03-19", "2024-03-20")
    assert [type(error) for error in report.errors] == [CacheBusyError]
    assert report.missing[HOURS] == (span,)
    # Once to learn of the listing, and then for the bars.
    assert venue.exchange.request_count == 1 + COMPLETION_ATTEMPTS_MAX

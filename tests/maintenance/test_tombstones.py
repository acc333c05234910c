"""Where a file was set aside older segments never win, however a repair ends, and the span is asked for."""

from __future__ import annotations

import asyncio
import signal
from typing import TYPE_CHECKING

import pytest

from ckvd.cache import CacheFolder, KlineCache, SeriesStore
from ckvd.cache.coverage import uncovered_spans
from ckvd.cache.folder import SegmentName
from ckvd.cache.packing import pack_series
from ckvd.errors import NotCachedError
from ckvd.maintenance.quarantine import list_quarantine, quarantine_file, restore
from ckvd.maintenance.repair import repair
from ckvd.maintenance.tombstones import spans_to_hide
from ckvd.maintenance.verification import verify_cache
from ckvd.model.market import DAY_MS, SeriesKey
from ckvd.model.timespan import Span, now_ms
from support.caches import download, flip, mend
from support.places import SAMPLES
from support.processes import at_step, die, run_in_child, steps_of, telling, void
from support.tables import regular_table

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

HOURS = SeriesKey.of("BTCUSDT", "1h", market="um")
START = Span.of("2024-12-01", "2024-12-02").start_ms
DECEMBER = Span.of("2024-12-01", "2025-01-01")
OLD, NEW = 1.0, 2.0


def day(number: int, count: int = 1) -> Span:
    return Span(START + number * DAY_MS, START + (number + count) * DAY_MS)


def put(folder: CacheFolder, span: Span, close: float) -> Path:
    columns = dict.fromkeys(("open", "high", "low", "close", "volume", "quote_volume"), close)
    table = regular_table(HOURS, span, taker_buy_volume=0.0, taker_buy_quote_volume=0.0, **columns)
    return SeriesStore(folder, HOURS).put(table, span)


def closes(folder: CacheFolder, span: Span) -> set[float]:
    with KlineCache(folder.root) as cache:
        return set(cache.read_series(HOURS, span).close.tolist())


def asked_for(folder: CacheFolder) -> tuple[Span, ...]:
    return uncovered_spans(folder, HOURS, DECEMBER, now_ms())


@pytest.fixture
def folder(tmp_path: Path) -> CacheFolder:
    """A month, of which a day was replaced by a newer segment; that is damaged."""
    cache = CacheFolder(tmp_path / "cache")
    put(cache, DECEMBER, OLD)
    flip(put(cache, day(1), NEW))
    return cache


def test_without_a_source_older_bars_are_hidden_and_the_span_is_asked_for(folder: CacheFolder) -> None:
    report = mend(folder)
    assert report.unrepaired == {HOURS: (day(1),)}
    with pytest.raises(NotCachedError) as caught:
        closes(folder, DECEMBER)
    assert caught.value.missing == (day(1),)
    assert closes(folder, day(0)) == closes(folder, day(2)) == {OLD}
    assert asked_for(folder) == (day(1),)
    assert list(verify_cache(folder)) == []


def test_spans_that_a_source_lacks_are_still_asked_for(folder: CacheFolder, tmp_path: Path) -> None:
    (tmp_path / "empty" / "data").mkdir(parents=True)
    assert mend(folder, tmp_path / "empty").unrepaired == {HOURS: (day(1),)}
    assert asked_for(folder) == (day(1),)


def test_a_download_fetches_what_a_repair_without_a_source_left(tmp_path: Path) -> None:
    folder = CacheFolder(tmp_path / "cache")
    put(folder, DECEMBER, OLD)
    flip(put(folder, DECEMBER, NEW))
    mend(folder)
    download(folder.root, HOURS, DECEMBER)
    assert asked_for(folder) == ()
    assert not {OLD, NEW} & closes(folder, DECEMBER)


def test_a_fetched_segment_wins_over_the_tombstone(tmp_path: Path) -> None:
    folder = CacheFolder(tmp_path / "cache")
    put(folder, DECEMBER, OLD)
    flip(put(folder, DECEMBER, NEW))
    assert mend(folder, SAMPLES).is_complete
    assert not {OLD, NEW} & closes(folder, DECEMBER)
    pack_series(folder, HOURS)
    assert len(folder.segments(HOURS)) == 1


def test_a_kill_at_any_step_leaves_the_damage_or_a_span_that_is_asked_for(tmp_path: Path) -> None:
    def damaged(root: Path) -> CacheFolder:
        cache = CacheFolder(root)
        put(cache, DECEMBER, OLD)
        flip(put(cache, day(1), NEW))
        return cache

    whole = damaged(tmp_path / "whole")
    steps = steps_of(lambda: void(mend(whole)))
    assert len(steps) > 3
    for number in telling(steps):
        cache = damaged(tmp_path / str(number))

        def work(_: Callable[[str], None], number: int = number, cache: CacheFolder = cache) -> None:
            at_step(number, die)
            mend(cache)

        assert run_in_child(work).status == -signal.SIGKILL
        is_damage_left = any(finding.path.name.endswith("-r2.ckvd") for finding in verify_cache(cache))
        assert is_damage_left or asked_for(cache) == (day(1),), steps[number]
        if asked_for(cache):
            with pytest.raises(NotCachedError):
                closes(cache, day(1))
        mend(cache)
        assert asked_for(cache) == (day(1),), steps[number]


def test_there_is_no_tombstone_where_nothing_older_would_win(tmp_path: Path) -> None:
    folder = CacheFolder(tmp_path / "cache")
    flip(put(folder, day(1), NEW))
    assert mend(folder).unrepaired == {HOURS: (day(1),)}
    assert folder.segments(HOURS) == []


def test_segments_that_get_their_names_back_win_over_older_ones(tmp_path: Path) -> None:
    folder = CacheFolder(tmp_path / "cache")
    put(folder, DECEMBER, OLD)
    one, other = put(folder, day(1), NEW), put(folder, day(2), 3.0)
    one.rename(tmp_path / "x")
    other.rename(one)
    (tmp_path / "x").rename(other)
    before = folder.segments(HOURS)
    report = mend(folder)
    assert sorted(report.renamed) == [one, other]
    assert report.is_complete
    assert closes(folder, day(1)) == {NEW}
    assert closes(folder, day(2)) == {3.0}
    assert sorted(folder.segments(HOURS)) == sorted(before)


def test_an_older_segment_with_the_name_of_a_newer_one_does_not_win_in_its_place(tmp_path: Path) -> None:
    folder = CacheFolder(tmp_path / "cache")
    one, other = put(folder, day(1), OLD), put(folder, day(1), NEW)
    one.replace(other)
    report = mend(folder)
    assert report.renamed == (one,)
    assert report.unrepaired == {HOURS: (day(1),)}
    with pytest.raises(NotCachedError):
        closes(folder, day(1))


def test_a_restored_segment_wins_again_where_nothing_newer_was_lost(tmp_path: Path) -> None:
    folder = CacheFolder(tmp_path / "cache")
    put(folder, DECEMBER, OLD)
    one = put(folder, day(1, 3), NEW)
    other = put(folder, day(2), 3.0)
    for path in (other, one):
        assert quarantine_file(folder, HOURS, path.name, "a test") is not None
    assert asked_for(folder) == (day(1, 3),)
    aside = {found.file_name: found for found in list_quarantine(folder)}
    restore(folder, aside[one.name])
    assert asked_for(folder) == (day(2),)
    assert closes(folder, day(1)) == closes(folder, day(3)) == {NEW}
    restore(folder, aside[other.name])
    assert closes(folder, day(2)) == {3.0}
    assert len(folder.segments(HOURS)) == 3


def test_only_spans_that_older_segments_would_win_are_hidden() -> None:
    name = SegmentName(day(2, 4), 5)
    under, above, beside = SegmentName(day(0, 3), 2), SegmentName(day(4), 7), SegmentName(day(6), 1)
    assert spans_to_hide(name, [name, above, beside]) == ()
    assert spans_to_hide(name, [name, under, above, beside]) == (day(2, 2),)
    assert spans_to_hide(name, [name], [SegmentName(day(0, 9), 6)]) == ()
    assert spans_to_hide(name, [name], [SegmentName(day(0, 9), 3)]) == (day(2, 4),)
    month = SegmentName(day(0, 9), 1)
    assert spans_to_hide(name, [name, month], [SegmentName(day(3), 6)]) == (day(2), day(3), day(4, 2))


def test_a_file_that_another_repair_put_right_is_left_alone(tmp_path: Path) -> None:
    folder = CacheFolder(tmp_path / "cache")
    one, other = put(folder, day(0), OLD), put(folder, day(1), NEW)
    good = one.read_bytes()
    other.write_bytes(good)
    one.write_bytes(b"rubbish" * 100)
    findings = list(verify_cache(folder))
    assert mend(folder).renamed == (one,)
    late = asyncio.run(repair(folder, findings))
    assert (late.quarantined, late.unrepaired) == ((), {})
    assert one.read_bytes() == good
    assert [aside.file_name for aside in list_quarantine(folder)] == [one.name]


def test_a_misnamed_segment_with_odd_bars_gets_its_name_back(tmp_path: Path) -> None:
    folder = CacheFolder(tmp_path / "cache")
    table = regular_table(HOURS, day(0), high=1e9, low=0.0, volume=1e9, taker_buy_volume=0.0, quote_volume=1e9)
    table.columns["taker_buy_quote_volume"][:] = 0.0
    table.columns["close_time"][3] -= 7
    path = SeriesStore(folder, HOURS).put(table, day(0))
    path.rename(path.with_name(SegmentName(day(1), 1).file_name))
    assert mend(folder).renamed == (path,)
    assert list_quarantine(folder) == []

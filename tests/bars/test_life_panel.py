"""Panels of lives: one column each, nothing outside of a life, and a reason for each missing cell."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ckvd.bars.panel import CellReason
from ckvd.cache import CacheFolder, KlineCache, SeriesStore, open_cache
from ckvd.errors import IdentityError, NoSnapshotError, NotCachedError, UnknownLifeError
from ckvd.model.market import DAY_MS, HOUR_MS, Interval, Market, SeriesKey
from ckvd.model.provenance import Absence, Reason
from ckvd.model.timespan import Span, parse_time
from ckvd.universe.snapshot import Snapshot, write_snapshot
from support.tables import make_table, regular_table
from support.universes import life

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from ckvd.model.life import Life

START = parse_time("2024-01-01")
WHOLE = Span(START, START + 4 * DAY_MS)
DATES = ("2024-01-01", "2024-01-05")


def hours(symbol: str) -> SeriesKey:
    return SeriesKey.of(symbol, "1h", market="um")


@pytest.fixture
def folder(tmp_path: Path) -> CacheFolder:
    return CacheFolder(tmp_path)


@pytest.fixture
def cache(folder: CacheFolder) -> Iterator[KlineCache]:
    with open_cache(folder.root) as cache:
        yield cache


OLD = life("AUSDT", "2023-06-01", "2024-01-02T04:00Z")
NEW = life("AUSDT", "2024-01-03T14:45Z", previous_end_ms=OLD.end_ms)


def hold(folder: CacheFolder, symbol: str = "AUSDT", span: Span = WHOLE) -> None:
    """A cache that has a bar at every hour, flat ones between two lives too."""
    SeriesStore(folder, hours(symbol)).put(regular_table(hours(symbol), span), span)


def test_each_life_of_a_ticker_has_a_column_and_no_bar_is_in_both(folder: CacheFolder, cache: KlineCache) -> None:
    hold(folder)
    panel = cache.panel([OLD, NEW], "1h", *DATES, ("open", "close"))
    assert (panel.symbols, panel.labels) == (("AUSDT", "AUSDT"), ("AUSDT@2023-06-01", "AUSDT@2024-01-03"))
    assert panel.lives == (OLD, NEW)
    opens = panel.open_time
    first = parse_time("2024-01-03T14:00Z")  # the hour in which it began
    assert np.array_equal(panel.mask[:, 0], opens < parse_time("2024-01-02T04:00Z"))
    assert np.array_equal(panel.mask[:, 1], opens >= first)
    assert np.array_equal(np.isnan(panel.close), ~panel.mask)
    assert np.array_equal(panel.reasons, np.where(panel.mask, CellReason.PRESENT, CellReason.NOT_LISTED))
    assert not panel.reasons.flags.writeable


def test_the_reason_of_a_missing_cell_tells_not_listed_halted_and_not_downloaded(
    folder: CacheFolder, cache: KlineCache
) -> None:
    series = hours("BUSDT")
    covered = Span(START, START + 3 * DAY_MS)
    opens = [open_ms for open_ms in range(START, covered.end_ms, HOUR_MS) if open_ms != START + 30 * HOUR_MS]
    damaged = Span(START + 40 * HOUR_MS, START + 42 * HOUR_MS)
    opens = [open_ms for open_ms in opens if open_ms not in damaged]
    absences = (Absence(damaged.start_ms, damaged.end_ms, Reason.ARCHIVE_DAMAGED),)
    SeriesStore(folder, series).put(make_table(series, opens), covered, absences=absences)
    one = life("BUSDT", "2024-01-01T05:00Z", "2024-01-04T12:00Z")
    panel = cache.panel([one], "1h", *DATES)
    expected = np.full(96, CellReason.PRESENT)
    expected[:5] = CellReason.NOT_LISTED
    expected[30] = CellReason.HALTED
    expected[40:42] = CellReason.NOT_DOWNLOADED
    expected[72:84] = CellReason.NOT_DOWNLOADED
    expected[84:] = CellReason.NOT_LISTED
    assert panel.reasons[:, 0].tolist() == expected.tolist()
    with pytest.raises(NotCachedError):
        cache.panel([one], "1h", *DATES, missing="raise")


def test_a_panel_of_symbols_has_reasons_too(folder: CacheFolder, cache: KlineCache) -> None:
    hold(folder, span=Span(START, START + DAY_MS))
    panel = cache.panel(["AUSDT", "NONEUSDT"], "1h", *DATES, market="um", missing="ignore")
    assert (panel.labels, panel.lives) == (("AUSDT", "NONEUSDT"), ())
    assert panel.reasons[:, 0].tolist() == [0] * 24 + [CellReason.NOT_DOWNLOADED] * 72
    assert set(panel.reasons[:, 1].tolist()) == {CellReason.NOT_DOWNLOADED}


def test_what_the_cache_has_recorded_of_a_listing_counts(folder: CacheFolder, cache: KlineCache) -> None:
    series = hours("CUSDT")
    before = Span(START, START + DAY_MS)
    opens = range(before.end_ms, WHOLE.end_ms, HOUR_MS)
    table = make_table(series, list(opens))
    SeriesStore(folder, series).put(
        table, WHOLE, absences=(Absence(before.start_ms, before.end_ms, Reason.BEFORE_LISTING),)
    )
    panel = cache.panel(["CUSDT"], "1h", *DATES, market="um")
    assert panel.reasons[:, 0].tolist() == [CellReason.NOT_LISTED] * 24 + [CellReason.PRESENT] * 72


def test_bars_that_did_not_trade_are_halts(folder: CacheFolder, cache: KlineCache) -> None:
    table = regular_table(hours("AUSDT"), WHOLE)
    table.columns["volume"][10:20] = 0
    table.columns["count"][10:20] = 0
    SeriesStore(folder, table.series).put(table, WHOLE)
    panel = cache.panel([life("AUSDT", "2023-01-01")], "1h", *DATES, traded=True)
    assert panel.reasons[:, 0].tolist() == [0] * 10 + [CellReason.HALTED] * 10 + [0] * 76


def test_open_times_of_other_symbols_are_no_missing_three_day_bars(folder: CacheFolder, cache: KlineCache) -> None:
    span = Span(START, START + 12 * DAY_MS)
    for symbol, shift in (("AUSDT", 0), ("BUSDT", 1)):
        series = SeriesKey.of(symbol, "3d", market="um")
        opens = [START + (shift + 3 * number) * DAY_MS for number in range(4 - shift)]
        SeriesStore(folder, series).put(make_table(series, opens), span)
    lives = [life("AUSDT", "2020-01-01"), life("BUSDT", "2020-01-01")]
    panel = cache.panel(lives, "3d", span.start_ms, span.end_ms)
    assert (panel.reasons[~panel.mask] == CellReason.OFF_GRID).sum() >= 6
    assert CellReason.NOT_DOWNLOADED not in panel.reasons


@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    bounds=st.lists(
        st.integers(-24, 24 * 6).map(lambda hour: START + hour * HOUR_MS), min_size=1, max_size=5, unique=True
    ),
    interval=st.sampled_from([Interval.H1, Interval.H4, Interval.D1]),
)
def test_cells_are_those_of_reading_each_life_alone(
    tmp_path_factory: pytest.TempPathFactory, bounds: list[int], interval: Interval
) -> None:
    folder = CacheFolder(tmp_path_factory.mktemp("lives"))
    series = SeriesKey.of("AUSDT", interval, market="um")
    SeriesStore(folder, series).put(regular_table(series, WHOLE), WHOLE)
    lives: list[Life] = []
    ordered = sorted(bounds)
    for first_ms, end_ms in zip(ordered[::2], [*ordered[1::2], None], strict=False):
        previous = lives[-1].end_ms if lives else None
        one = life("AUSDT", "2020-01-01", previous_end_ms=previous)
        lives.append(replace(one, first_ms=first_ms, end_ms=end_ms))
    with open_cache(folder.root) as cache:
        panel = cache.panel(lives, interval, *DATES)
        for column, one in enumerate(lives):
            alone = cache.read("AUSDT", interval, start=DATES[0], end=DATES[1], market="um", life=one)
            mask = np.isin(panel.open_time, alone.open_time)
            assert np.array_equal(panel.mask[:, column], mask)
            assert panel.close[mask, column].tolist() == alone.close.tolist()
            for open_ms, is_there in zip(panel.open_time.tolist(), mask.tolist(), strict=True):
                bar_end = open_ms + (interval.fixed_ms or 0)
                lived = bar_end > one.first_ms and (one.end_ms is None or open_ms < one.end_ms)
                is_own = lived and open_ms >= (one.previous_end_ms or 0)
                assert is_there == is_own
    assert (panel.mask.sum(axis=1) <= 1).all()


# --- Reading -----------------------------------------------------------------------------------------------


def snapshot(folder: CacheFolder) -> None:
    other = life("BUSDT", "2023-01-01")
    write_snapshot(folder, Snapshot(Market.UM, parse_time("2024-06-01"), (OLD, NEW, other)))


def test_a_read_across_two_lives_says_so_and_the_snapshot_is_looked_into_only_when_asked(
    folder: CacheFolder, cache: KlineCache
) -> None:
    hold(folder)
    klines = cache.read("AUSDT", "1h", start=DATES[0], end=DATES[1], market="um")
    assert cache.read("AUSDT", "1h", start=DATES[0], end=DATES[1], market="um").lives == ()
    snapshot(folder)
    assert klines.lives == (OLD, NEW)
    assert klines.is_across_lives
    before = cache.read("AUSDT", "1h", start="2024-01-01", end="2024-01-02", market="um")
    assert (before.lives, before.is_across_lives) == ((OLD,), False)


def test_one_life_is_picked_by_key_or_as_it_is_and_cuts_the_span(folder: CacheFolder, cache: KlineCache) -> None:
    hold(folder, span=Span(START, START + 2 * DAY_MS))
    where = {"start": DATES[0], "end": DATES[1], "market": "um"}
    with pytest.raises(NoSnapshotError, match="ckvd universe refresh --market um"):
        cache.read("AUSDT", "1h", **where, life="AUSDT@2023-06-01")  # type: ignore[arg-type]
    snapshot(folder)
    old = cache.read("AUSDT", "1h", **where, life="AUSDT@2023-06-01")  # type: ignore[arg-type]
    assert (len(old), old.span.end_ms) == (28, OLD.end_ms)
    assert old == cache.read("AUSDT", "1h", **where, life=OLD)  # type: ignore[arg-type]
    with pytest.raises(UnknownLifeError, match="AUSDT names 2 lives"):
        cache.read("AUSDT", "1h", **where, life="AUSDT")  # type: ignore[arg-type]
    with pytest.raises(IdentityError, match="has no life um/BUSDT"):
        cache.read("AUSDT", "1h", **where, life="BUSDT")  # type: ignore[arg-type]
    with pytest.raises(IdentityError, match="has no life um/AUSDT"):
        cache.read("AUSDT", "1h", start=DATES[0], end=DATES[1], life=OLD)


def test_archives_that_moved_are_read_under_the_name_that_they_have(folder: CacheFolder, cache: KlineCache) -> None:
    hold(folder, "AUSDTSETTLED")
    moved = life("AUSDT", "2023-01-01", "2024-01-02", symbol="AUSDTSETTLED")
    klines = cache.read("AUSDT", "1h", start=DATES[0], end=DATES[1], market="um", life=moved)
    assert (klines.series.symbol, len(klines)) == ("AUSDTSETTLED", 24)
    panel = cache.panel([moved], "1h", *DATES)
    assert (panel.symbols, panel.labels, int(panel.mask.sum())) == (("AUSDTSETTLED",), ("AUSDT",), 24)


def test_lives_of_two_markets_or_beside_symbols_make_no_panel(cache: KlineCache) -> None:
    spot = life("AUSDT", "2020-01-01", market=Market.SPOT)
    for mixed in ([OLD, spot], [OLD, "BUSDT"]):
        with pytest.raises(IdentityError, match="of symbols, or of lives of one market"):
            cache.panel(mixed, "1h", *DATES)  # type: ignore[arg-type]
    with pytest.raises(IdentityError, match="of symbols, or of lives of one market"):
        cache.panel([OLD], "1h", *DATES, market="spot")
    with pytest.raises(IdentityError, match="at least one symbol or life"):
        cache.panel([], "1h", *DATES)


def test_the_last_trade_is_found_by_the_shortest_interval_that_is_held(
    folder: CacheFolder, cache: KlineCache
) -> None:
    assert cache.last_trade(OLD) is None
    table = regular_table(hours("AUSDT"), WHOLE)
    table.columns["volume"][20:], table.columns["count"][20:] = 0, 0
    SeriesStore(folder, table.series).put(table, WHOLE)
    whole = life("AUSDT", "2023-06-01")
    trade = cache.last_trade(whole)
    assert trade is not None
    assert (trade.open_ms, trade.end_ms, trade.is_followed) == (START + 19 * HOUR_MS, START + 20 * HOUR_MS, True)
    trade = cache.last_trade(OLD)  # eight hours follow within the life
    assert trade is not None
    assert (trade.open_ms, trade.is_followed) == (START + 19 * HOUR_MS, False)

"""Folders that an older version filled under a second name of a series go home, and no bar is lost."""

from __future__ import annotations

import asyncio
import json
import shutil
import signal
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ckvd.cache import CacheFolder, KlineCache, SeriesStore
from ckvd.cache.coverage import read_coverage
from ckvd.errors import CacheError, IdentityError, SegmentCorruptError
from ckvd.maintenance.data_lock import Verdict, check_lock, format_lock, lock_data, parse_lock
from ckvd.maintenance.misfiled import find_misfiled, move_home
from ckvd.maintenance.quarantine import list_quarantine, quarantine_file, restore
from ckvd.maintenance.repair import RepairReport, find_lost, plan_repair, repair
from ckvd.maintenance.verification import Severity, Trouble, is_clean, verify_cache
from ckvd.model.market import HOUR_MS, SeriesKey
from ckvd.model.provenance import Absence, Origin, Reason, Source
from ckvd.model.timespan import Span
from cli.cache.run import run, run_any, run_json
from support.caches import day, flip, older_key
from support.power import moves_to_quarantine, recorded, unsettled
from support.processes import at_step, die, run_in_child, steps_of, telling
from support.tables import make_table, regular_table

if TYPE_CHECKING:
    from pathlib import Path

PAIR = SeriesKey.of("BTCUSD", "1h", market="cm", kind="indexPriceKlines")
CONTRACT = older_key("BTCUSD_PERP", "1h", market="cm", kind="indexPriceKlines")
AT_MS = day(100).start_ms
ALL = Span(0, day(200).end_ms)
GOOD: dict[str, Any] = {"high": 1e9, "low": 0.0, "volume": 1e9, "taker_buy_volume": 0.0, "quote_volume": 1e9}
GOOD |= {"close": 1.0, "taker_buy_quote_volume": 0.0}


def from_rest(span: Span) -> Source:
    return Source(Origin.REST, "/dapi/v1/indexPriceKlines?pair=BTCUSD", span.start_ms, span.end_ms)


def put(folder: CacheFolder, series: SeriesKey, span: Span, mark: float) -> None:
    """Store bars whose open tells where they are from."""
    SeriesStore(folder, series).put(regular_table(series, span, open=mark, **GOOD), span, sources=[from_rest(span)])


def bars_of(folder: CacheFolder, series: SeriesKey) -> dict[int, float]:
    with KlineCache(folder.root) as cache:
        klines = cache.read_series(series, ALL, missing="ignore")
        return dict(zip(klines.open_time.tolist(), klines.open.tolist(), strict=True))


def mend(folder: CacheFolder) -> RepairReport:
    return asyncio.run(repair(folder, list(verify_cache(folder)), at_ms=AT_MS))


@pytest.fixture
def folder(tmp_path: Path) -> CacheFolder:
    """Three days under the contract, as an older version filed them. The pair has none of them."""
    cache = CacheFolder(tmp_path / "cache")
    for number in range(3):
        put(cache, CONTRACT, day(number), float(number))
    return cache


def test_verification_names_the_folder_and_the_series_that_it_belongs_to(folder: CacheFolder) -> None:
    (finding,) = verify_cache(folder)
    assert (finding.severity, finding.trouble) == (Severity.WARNING, Trouble.MISFILED)
    assert (finding.path, finding.series, finding.span) == (folder.series_path(CONTRACT), PAIR, day(0, 3))
    (step,) = plan_repair(folder, [finding])
    assert step.nbytes == folder.nbytes_of(CONTRACT, folder.segments(CONTRACT))


def test_repair_moves_the_bars_to_the_pair_and_keeps_the_files(folder: CacheFolder) -> None:
    expected = bars_of(folder, CONTRACT)
    assert len(expected) == 72
    report = mend(folder)
    assert report.is_complete
    (moved,) = report.moved
    assert (moved.bar_count, len(moved.set_aside)) == (72, 3)
    assert bars_of(folder, PAIR) == expected
    assert not folder.series_path(CONTRACT).parent.exists()
    assert is_clean(list(verify_cache(folder)))
    assert find_misfiled(folder) == []
    assert find_lost(folder) == []
    with KlineCache(folder.root) as cache:
        klines = cache.read_series(PAIR, day(0, 3))
        assert {source.name for source in klines.sources} == {from_rest(day(0)).name}
    # They are asked for again under the right name.
    assert all(held.is_due(AT_MS) and held.is_answered for held in read_coverage(folder, PAIR, day(0, 3)))
    assert report.to_json()["moved"][0]["bar_count"] == 72


def test_bars_of_the_pair_stay_and_only_what_it_lacks_is_added(folder: CacheFolder) -> None:
    hours = regular_table(PAIR, day(1), open=50.0)
    halt = Absence(int(hours.open_time[3]), int(hours.open_time[5]), Reason.HALTED)
    SeriesStore(folder, PAIR).put(
        make_table(PAIR, np.delete(hours.open_time, [3, 4]), open=50.0, **GOOD), day(1), absences=[halt]
    )
    unavailable = Absence(day(2).start_ms, day(2).end_ms, Reason.NOT_IN_ARCHIVE, AT_MS)
    SeriesStore(folder, PAIR).put(make_table(PAIR, []), day(2), absences=[unavailable], recheck_ms=AT_MS)
    expected = bars_of(folder, CONTRACT) | bars_of(folder, PAIR)
    (moved,) = mend(folder).moved
    assert moved.bar_count == 24 + 2 + 24
    found = bars_of(folder, PAIR)
    assert found == expected
    assert list(found.values()) == [0.0] * 24 + [50.0] * 3 + [1.0] * 2 + [50.0] * 19 + [2.0] * 24


@settings(max_examples=15, deadline=None)
@given(
    st.lists(
        st.tuples(st.booleans(), st.integers(0, 60), st.integers(1, 40), st.booleans()), min_size=1, max_size=6
    )
)
def test_no_bar_is_lost_and_none_of_the_pair_is_changed(
    tmp_path_factory: pytest.TempPathFactory, pieces: list[tuple[bool, int, int, bool]]
) -> None:
    folder = CacheFolder(tmp_path_factory.mktemp("cache"))
    for number, (is_misfiled, start, length, is_thin) in enumerate(pieces):
        series = CONTRACT if is_misfiled else PAIR
        first_ms = day(0).start_ms + start * HOUR_MS
        span = Span(first_ms, first_ms + length * HOUR_MS)
        opens = regular_table(series, span).open_time
        table = make_table(series, opens[:: 3 if is_thin else 1], open=float(number), **GOOD)
        SeriesStore(folder, series).put(table, span, sources=[from_rest(span)])
    expected = bars_of(folder, CONTRACT) | bars_of(folder, PAIR)
    assert mend(folder).is_complete
    assert bars_of(folder, PAIR) == expected
    assert is_clean(list(verify_cache(folder)))
    assert find_lost(folder) == []


def test_a_folder_that_says_only_that_nothing_was_there_is_removed(tmp_path: Path) -> None:
    folder = CacheFolder(tmp_path / "cache")
    absence = Absence(day(0).start_ms, day(0).end_ms, Reason.NOT_IN_ARCHIVE, AT_MS)
    wide = older_key("\uff22\uff34\uff23USDT", "1h", market="um", kind="klines")
    for series in (CONTRACT, wide):
        SeriesStore(folder, series).put(make_table(series, []), day(0), absences=[absence], recheck_ms=AT_MS)
    assert [one.series.symbol for one in find_misfiled(folder)] == ["BTCUSDT", "BTCUSD"]
    report = mend(folder)
    assert report.is_complete
    assert [(moved.bar_count, moved.set_aside) for moved in report.moved] == [(0, ()), (0, ())]
    assert sorted(path.name for path in folder.root.iterdir()) == [".locks"]


def test_a_damaged_segment_keeps_its_folder_as_it_is(folder: CacheFolder) -> None:
    flip(folder.series_path(CONTRACT) / folder.segments(CONTRACT)[1].file_name)
    before = sorted(path.name for path in folder.series_path(CONTRACT).iterdir())
    (misfiled,) = find_misfiled(folder)
    with pytest.raises(SegmentCorruptError, match="checksum"):
        move_home(folder, misfiled, at_ms=AT_MS)
    report = mend(folder)
    assert not report.is_complete
    assert "checksum" in report.failures[0]
    assert sorted(path.name for path in folder.series_path(CONTRACT).iterdir()) == before
    assert list_quarantine(folder) == []


def test_a_process_that_dies_at_any_step_loses_no_bar_and_the_next_repair_ends_the_move(tmp_path: Path) -> None:
    folder = CacheFolder(tmp_path / "base")
    for number in (0, 1, 1):
        put(folder, CONTRACT, day(number), float(number))
    put(folder, PAIR, day(1, 2), 9.0)
    expected = bars_of(folder, CONTRACT) | bars_of(folder, PAIR)
    shutil.copytree(folder.root, tmp_path / "whole")
    steps = steps_of(lambda: void(mend(CacheFolder(tmp_path / "whole"))))
    assert len(steps) > 10
    for number in telling(steps):
        copy = CacheFolder(tmp_path / f"at {number}")
        shutil.copytree(folder.root, copy.root)

        def work(_: object, number: int = number, copy: CacheFolder = copy) -> None:
            at_step(number, die)
            mend(copy)

        assert run_in_child(work).status == -signal.SIGKILL
        assert mend(copy).is_complete
        assert bars_of(copy, PAIR) == expected, steps[number]
        assert find_misfiled(copy) == []


def void(_: object) -> None:
    """Return nothing."""


def test_a_file_that_was_moved_home_is_not_restored_over_the_series(folder: CacheFolder) -> None:
    mend(folder)
    before = bars_of(folder, PAIR)
    for aside in list_quarantine(folder):
        with pytest.raises(
            CacheError, match=r"cannot be restored: it was filed as cm/indexPriceKlines/BTCUSD_PERP"
        ):
            restore(folder, aside)
    assert bars_of(folder, PAIR) == before


def test_what_cannot_be_restored_does_not_keep_other_files_from_being_restored(folder: CacheFolder) -> None:
    mend(folder)
    other = SeriesKey.of("ETHUSDT", "1h")
    put(folder, other, day(0), 1.0)
    quarantine_file(folder, other, folder.segments(other)[0].file_name, "test")
    restored = run_any(folder, "quarantine", "--restore", "all", "--yes")
    assert restored.stdout.endswith("1 file restored\n")
    assert restored.stderr.count("cannot be restored: it was filed as") == 3
    assert len(bars_of(folder, other)) == 24


def test_a_file_that_an_older_version_set_aside_is_listed_for_the_pair(folder: CacheFolder) -> None:
    place = folder.root / ".quarantine" / str(CONTRACT)
    place.mkdir(parents=True)
    source = folder.series_path(CONTRACT) / folder.segments(CONTRACT)[0].file_name
    source.rename(place / source.name)
    reason = {"file_name": source.name, "reason": "damaged", "since_ms": 0}
    (place / f"{source.name}.json").write_text(json.dumps(reason), encoding="utf-8")
    (aside,) = list_quarantine(folder)
    assert aside.series == PAIR
    mend(folder)
    (lost,) = find_lost(folder)
    assert (lost.series, lost.span) == (PAIR, aside_span(aside.file_name))


def aside_span(file_name: str) -> Span:
    start, end, _ = file_name.split("-")
    return Span.of(start, end)


def test_a_file_copied_into_the_folder_of_the_pair_is_refused_by_what_its_header_says(folder: CacheFolder) -> None:
    path = folder.make_series_path(PAIR)
    for name in folder.segments(CONTRACT):
        shutil.copy(folder.series_path(CONTRACT) / name.file_name, path / name.file_name)
    with (
        KlineCache(folder.root) as cache,
        pytest.raises(SegmentCorruptError, match=r"its header says cm/indexPriceKlines/BTCUSD_PERP/1h"),
    ):
        cache.read_series(PAIR, day(0))


def test_a_lock_that_names_the_contract_is_checked_against_the_pair(folder: CacheFolder) -> None:
    put(folder, PAIR, day(0), 0.0)
    text = format_lock(lock_data(folder)).replace(str(PAIR), str(CONTRACT))
    assert str(CONTRACT) in text
    assert [check.verdict for check in check_lock(folder, parse_lock(text))] == [Verdict.SAME]


def test_no_verb_fails_over_a_misfiled_folder_and_repair_puts_it_right(folder: CacheFolder, tmp_path: Path) -> None:
    put(folder, SeriesKey.of("BTCUSDT", "1h"), day(0), 1.0)
    for words in (
        ("list",),
        ("stats",),
        ("gaps", "--no-calendar"),
        ("pack",),
        ("prune", "--before", "2023-01-01"),
        ("quarantine",),
        ("export", "--to", str(tmp_path / "out")),
        ("lock", str(tmp_path / "bars.lock")),
        ("check-lock", str(tmp_path / "bars.lock")),
    ):
        assert "BTCUSD_PERP" not in run(folder, *words)
    said = run(folder, "verify", status=1)
    assert f"warning: {folder.series_path(CONTRACT)}: misfiled: its bars are those of {PAIR}" in said
    assert "0 errors, 1 warning" in said
    assert (
        "use the symbol 'BTCUSD'"
        in run_any(folder, "info", "BTCUSD_PERP", "-m", "cm", "-k", "indexPriceKlines", "-i", "1h", status=2).stderr
    )
    # Chosen series alone are repaired.
    assert "misfiled" not in run(folder, "verify", "BTCUSDT")
    assert "would move the bars of" in run(folder, "repair", status=1)
    said = run(folder, "repair", "--no-fetch", "--yes")
    assert f"moved 72 bars from {folder.series_path(CONTRACT)} to {PAIR}, set aside 3 files" in said
    run(folder, "verify")
    (listed,) = run_json(folder, "list", "BTCUSD")
    assert listed["bar_count"] == 72
    assert len(run_json(folder, "quarantine")) == 3


def test_a_panel_by_contract_is_refused_with_the_name_of_the_pair(folder: CacheFolder) -> None:
    mend(folder)
    with KlineCache(folder.root) as cache:
        span = ("2023-01-30", "2023-01-31")
        with pytest.raises(IdentityError, match="use the symbol 'BTCUSD'"):
            cache.panel(["BTCUSD_PERP"], "1h", *span, market="cm", kind="indexPriceKlines")
        panel = cache.panel(["BTCUSD"], "1h", *span, market="cm", kind="indexPriceKlines")
        assert panel["close"].shape == (24, 1)


def test_bars_are_durable_in_their_series_before_their_files_are_set_aside(folder: CacheFolder) -> None:
    with recorded(folder.root.parent) as operations:
        mend(folder)
    moves = moves_to_quarantine(operations)
    assert moves
    assert [unsettled(operations[:number]) for number in moves] == [set()] * len(moves)

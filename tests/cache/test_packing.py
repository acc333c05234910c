"""Which segments are merged, and that merging loses nothing."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ckvd.cache import CacheFolder, KlineCache, SeriesStore, fault_points
from ckvd.cache.fault_points import Step
from ckvd.cache.folder import SegmentName
from ckvd.cache.packing import pack_series, survey_packing
from ckvd.cache.packing_plan import PackInput, join_provenance, plan_packing
from ckvd.cache.resolution import Winner
from ckvd.model.calendar import days_of
from ckvd.model.market import DAY_MS, SeriesKey
from ckvd.model.provenance import Absence, Origin, Reason, Source
from ckvd.model.table import CLOSE_TIME_US
from ckvd.model.timespan import Span
from ckvd.segment.reader import read_segment_header
from ckvd.utils.config import PACK_GROWTH_MIN
from support.tables import BTCUSDT_1M, regular_table

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

BTCUSDT_1H = SeriesKey.of("BTCUSDT", "1h")
START = Span.of("2023-01-01", "2023-01-02").start_ms


def day(number: int, count: int = 1) -> Span:
    return Span(START + number * DAY_MS, START + (number + count) * DAY_MS)


def inputs_of(row_counts: Sequence[int]) -> list[PackInput]:
    return [
        PackInput(Winner(day(number), SegmentName(day(number), number + 1)), rows, is_closed=True)
        for number, rows in enumerate(row_counts)
    ]


def source(span: Span, name: str = "a.zip") -> Source:
    return Source(Origin.VISION_DAILY, name, span.start_ms, span.end_ms, sha256="0" * 64)


@pytest.fixture
def folder(tmp_path: Path) -> CacheFolder:
    return CacheFolder(tmp_path / "cache")


# --- Planning ---


def test_years_of_single_months_become_one_segment() -> None:
    assert [len(merge.inputs) for merge in plan_packing(inputs_of([44_640] * 60))] == [60]


def test_a_day_after_five_years_is_left_alone() -> None:
    assert plan_packing(inputs_of([2_600_000, 1440])) == ()
    assert plan_packing(inputs_of([2_600_000, *[1440] * (PACK_GROWTH_MIN - 1)])) == ()


def test_what_was_just_stored_is_merged_whatever_it_grows_and_with_nothing_older() -> None:
    year = inputs_of([1_000_000, *[100_000] * 4, 3_000])
    fresh = [replace(item, is_fresh=number > 0) for number, item in enumerate(year)]
    assert plan_packing(year) == ()
    assert [len(merge.inputs) for merge in plan_packing(fresh)] == [5]
    # Also where an older one lies between.
    fresh[3] = year[3]
    assert [len(merge.inputs) for merge in plan_packing(fresh)] == [2, 2]


def test_days_after_five_years_are_merged_among_themselves() -> None:
    (merge,) = plan_packing(inputs_of([2_600_000, *[1440] * PACK_GROWTH_MIN]))
    assert merge.row_count == PACK_GROWTH_MIN * 1440


def test_no_segment_grows_beyond_the_bound() -> None:
    merges = plan_packing(inputs_of([44_640] * 150))
    assert [merge.row_count <= 3_000_000 for merge in merges] == [True] * len(merges)
    assert sum(len(merge.inputs) for merge in merges) == 150


def test_nothing_is_merged_across_a_gap_or_an_open_segment() -> None:
    days = inputs_of([1440] * 40)
    still_open = PackInput(days[20].winner, 1440, is_closed=False)
    merges = plan_packing([*days[:20], still_open, *days[21:]])
    assert [merge.span for merge in merges] == [day(0, 20), day(21, 19)]
    merges = plan_packing([*days[:20], *days[21:]])
    assert [merge.span for merge in merges] == [day(0, 20), day(21, 19)]


def test_thorough_merging_merges_whatever_fits() -> None:
    (merge,) = plan_packing(inputs_of([2_600_000, 1440]), is_thorough=True)
    assert merge.row_count == 2_601_440


@given(
    st.lists(st.sampled_from([0, 1, 24, 1440, 44_640, 500_000, 2_999_999, 4_000_000]), max_size=60), st.booleans()
)
def test_merges_are_disjoint_bounded_and_final(row_counts: list[int], is_thorough: bool) -> None:
    inputs = inputs_of(row_counts)
    merges = plan_packing(inputs, is_thorough=is_thorough)
    merged = [item for merge in merges for item in merge.inputs]
    assert len(set(merged)) == len(merged)
    assert all(len(merge.inputs) > 1 and merge.row_count <= 3_000_000 for merge in merges)
    left = [item for item in inputs if item not in merged]
    left += [PackInput(Winner(m.span, SegmentName(m.span, 99)), m.row_count, is_closed=True) for m in merges]
    left.sort(key=lambda item: item.span)
    if is_thorough:
        again = plan_packing(left, is_thorough=True)
        assert sum(len(merge.inputs) for merge in again) <= len(left)


@pytest.mark.parametrize("rows", [1, 24, 1440])
def test_years_of_single_days_copy_each_bar_about_three_times(rows: int) -> None:
    inputs: list[PackInput] = []
    copied = most = 0
    for number in range(2000):
        inputs.append(PackInput(Winner(day(number), SegmentName(day(number), number)), rows, is_closed=True))
        for merge in plan_packing(inputs):
            copied += merge.row_count
            first = inputs.index(merge.inputs[0])
            merged = PackInput(Winner(merge.span, SegmentName(merge.span, number)), merge.row_count, is_closed=True)
            inputs[first : first + len(merge.inputs)] = [merged]
        most = max(most, len(inputs))
    assert copied <= 3 * 2000 * rows
    assert most <= 36


def test_a_source_that_was_cut_at_a_seam_is_made_whole() -> None:
    whole = source(day(0, 3))
    parts = [source(day(0)), source(day(1)), source(day(2))]
    assert join_provenance([[part] for part in parts]) == (whole,)
    other = source(day(1), "b.zip")
    assert join_provenance([[parts[0]], [other], [parts[2]]]) == (parts[0], other, parts[2])


# --- Merging ---


def put_days(folder: CacheFolder, series: SeriesKey, count: int) -> None:
    for period in days_of(day(0, count)):
        table = regular_table(series, period.span, open=float(period.start_ms))
        SeriesStore(folder, series).put(table, period.span, sources=[source(period.span, period.label)])


def test_packing_changes_no_bar_and_keeps_all_provenance(folder: CacheFolder) -> None:
    put_days(folder, BTCUSDT_1H, 30)
    halt = Absence(day(30).start_ms, day(30).end_ms, Reason.HALTED)
    empty = regular_table(BTCUSDT_1H, Span(0, 0))
    SeriesStore(folder, BTCUSDT_1H).put(empty, day(30), absences=[halt])
    with KlineCache(folder.root) as cache:
        before = cache.read_series(BTCUSDT_1H, day(0, 31))
        survey = survey_packing(folder, BTCUSDT_1H)
        report = pack_series(folder, BTCUSDT_1H)
        after = cache.read_series(BTCUSDT_1H, day(0, 31))
        assert len(folder.segments(BTCUSDT_1H)) == 1
        assert after.is_view
        assert after == before
        assert after.sources == before.sources
        assert after.gaps == before.gaps
    assert survey.merges == report.merges
    assert survey.removed == report.removed
    assert survey.removed_nbytes == report.removed_nbytes > 0
    assert not report.refusals
    assert pack_series(folder, BTCUSDT_1H).merges == ()


def test_only_the_winning_parts_are_copied(folder: CacheFolder) -> None:
    put_days(folder, BTCUSDT_1H, 30)
    newer = regular_table(BTCUSDT_1H, day(10, 2), open=7.0)
    SeriesStore(folder, BTCUSDT_1H).put(newer, day(10, 2), sources=[source(day(10, 2), "newer")])
    half = Span(day(20).start_ms, day(20).start_ms + DAY_MS // 2)
    SeriesStore(folder, BTCUSDT_1H).put(regular_table(BTCUSDT_1H, half, open=8.0), half)
    with KlineCache(folder.root) as cache:
        before = cache.read_series(BTCUSDT_1H, day(0, 30))
        report = pack_series(folder, BTCUSDT_1H)
        after = cache.read_series(BTCUSDT_1H, day(0, 30))
        assert after == before
        names = [source.name for source in after.sources]
    assert len(report.packed) == 1
    assert len(report.merges[0].inputs) == 30
    assert names.count("newer") == 1
    assert "2023-01-11" not in names
    assert "2023-01-21" in names


def test_a_column_that_only_some_segments_have_is_kept(folder: CacheFolder) -> None:
    store = SeriesStore(folder, BTCUSDT_1H)
    for number in range(12):
        odd = {CLOSE_TIME_US: 500} if number == 3 else {}
        store.put(regular_table(BTCUSDT_1H, day(number), ignore=0.0, **odd), day(number))
    late = regular_table(BTCUSDT_1H, day(12), ignore=0.0)
    late.columns["close_time"][3] -= 5
    store.put(late, day(12))
    with KlineCache(folder.root) as cache:
        before = cache.read_series(BTCUSDT_1H, day(0, 13))
        expected = before[CLOSE_TIME_US].copy()
        pack_series(folder, BTCUSDT_1H)
        after = cache.read_series(BTCUSDT_1H, day(0, 13))
        assert after == before
        assert np.array_equal(after[CLOSE_TIME_US], expected)
    (name,) = folder.segments(BTCUSDT_1H)
    header = read_segment_header(folder.series_path(BTCUSDT_1H) / name.file_name)
    encodings = {column.name: column.encoding.name for column in header.columns}
    assert encodings["ignore"] == "CONSTANT"
    assert encodings["close_time"] == encodings[CLOSE_TIME_US] == "STORED"


def test_a_segment_that_is_provisional_or_will_be_fetched_again_is_not_packed(folder: CacheFolder) -> None:
    put_days(folder, BTCUSDT_1H, 14)
    store = SeriesStore(folder, BTCUSDT_1H)
    store.put(regular_table(BTCUSDT_1H, day(14)), day(14), is_provisional=True, recheck_ms=day(16).start_ms)
    store.put(regular_table(BTCUSDT_1H, day(15)), day(15), recheck_ms=day(99).start_ms)
    (merge,) = pack_series(folder, BTCUSDT_1H).merges
    assert merge.span == day(0, 14)
    assert len(folder.segments(BTCUSDT_1H)) == 3


def test_a_view_stays_valid_through_packing(folder: CacheFolder) -> None:
    put_days(folder, BTCUSDT_1M, 14)
    with KlineCache(folder.root) as cache:
        view = cache.read_series(BTCUSDT_1M, day(3)).open
    pack_series(folder, BTCUSDT_1M)
    assert (view == float(day(3).start_ms)).all()


def test_a_damaged_segment_is_not_packed_and_the_one_below_is_kept(folder: CacheFolder) -> None:
    put_days(folder, BTCUSDT_1H, 14)
    victim = folder.series_path(BTCUSDT_1H) / SegmentName(day(5), 6).file_name
    content = bytearray(victim.read_bytes())
    content[-1] ^= 1
    victim.write_bytes(content)
    report = pack_series(folder, BTCUSDT_1H)
    assert not report.packed
    assert victim.name in report.refusals[0]
    assert len(folder.segments(BTCUSDT_1H)) == 14
    # The damaged segment supersedes an intact one, which is kept.
    above = folder.series_path(BTCUSDT_1H) / SegmentName(day(5), 99).file_name
    victim.rename(above)
    SeriesStore(folder, BTCUSDT_1H).put(regular_table(BTCUSDT_1H, day(7)), day(7))
    pack_series(folder, BTCUSDT_1H)
    assert above.exists()


def test_a_merge_is_dropped_when_its_span_changes_meanwhile(
    folder: CacheFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_days(folder, BTCUSDT_1H, 14)
    table = regular_table(BTCUSDT_1H, day(2), open=5.0)

    def change(step: Step) -> None:
        if step is Step.ROWS_WRITTEN:
            monkeypatch.undo()
            SeriesStore(folder, BTCUSDT_1H).put(table, day(2))

    monkeypatch.setattr(fault_points, "reach", change)
    report = pack_series(folder, BTCUSDT_1H)
    assert not report.packed
    assert "changed while it was packed" in report.refusals[0]
    with KlineCache(folder.root) as cache:
        assert (cache.read_series(BTCUSDT_1H, day(2)).open == 5.0).all()


@settings(max_examples=20, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 20), st.integers(1, 6)), min_size=1, max_size=25))
def test_packing_any_pile_of_segments_changes_nothing(
    tmp_path_factory: pytest.TempPathFactory, puts: list[tuple[int, int]]
) -> None:
    folder = CacheFolder(tmp_path_factory.mktemp("pile"))
    for mark, (first, count) in enumerate(puts):
        span = day(first, count)
        SeriesStore(folder, BTCUSDT_1H).put(regular_table(BTCUSDT_1H, span, open=float(mark)), span)
    with KlineCache(folder.root) as cache:
        before = cache.read_series(BTCUSDT_1H, day(0, 30), missing="ignore")
        pack_series(folder, BTCUSDT_1H, is_thorough=True)
        after = cache.read_series(BTCUSDT_1H, day(0, 30), missing="ignore")
        assert after == before
        assert after.missing == before.missing

"""Adding segments to a series: each is new, and changes none that was there."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ckvd.cache import CacheFolder, KlineCache, SeriesStore, fault_points
from ckvd.cache.fault_points import Step
from ckvd.cache.folder import LOCKS_FOLDER, SegmentName
from ckvd.cache.resolution import resolve
from ckvd.errors import CacheError
from ckvd.model.market import SeriesKey
from ckvd.model.provenance import Absence, Origin, Reason, Source
from ckvd.model.timespan import Span
from ckvd.segment import SegmentReader, read_segment_header
from support.models import DAY_MS, MINUTE_MS
from support.strategies import segment_spans, series_keys, tables
from support.tables import BTCUSDT_1M, folder_state, make_table, regular_table, same_bits

if TYPE_CHECKING:
    from pathlib import Path

HOUR = Span(0, 60 * MINUTE_MS)
TABLE = regular_table(BTCUSDT_1M, HOUR)


@pytest.fixture
def store(tmp_path: Path) -> SeriesStore:
    return SeriesStore(CacheFolder(tmp_path), BTCUSDT_1M)


def series_state(store: SeriesStore) -> dict[str, tuple[bytes, int]]:
    return folder_state(store.folder.series_path(store.series))


@settings(max_examples=40)
@given(st.data(), series_keys())
def test_any_bars_of_any_series_are_kept_in_the_folder_of_the_series(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject, series: SeriesKey
) -> None:
    folder = CacheFolder(tmp_path_factory.getbasetemp() / "any")
    span = data.draw(segment_spans(series.interval))
    table = data.draw(tables(series, span))
    path = SeriesStore(folder, series).put(table, span)
    assert path.parent == folder.series_path(series)
    with SegmentReader(path) as reader:
        reader.verify()
        assert SegmentName(reader.header.span, reader.header.revision).file_name == path.name
        assert (reader.header.span, reader.header.series) == (span, series)
        assert all(same_bits(reader[name], column) for name, column in table.columns.items())
    path.unlink()


def test_the_provenance_of_the_rows_is_kept(store: SeriesStore) -> None:
    archive = Source(Origin.VISION_DAILY, "d.zip", 0, DAY_MS, sha256="ab" * 32)
    halted = Absence(60 * MINUTE_MS, 61 * MINUTE_MS, Reason.HALTED)
    path = store.put(
        TABLE, Span(0, DAY_MS), sources=[archive], absences=[halted], is_provisional=True, recheck_ms=5 * DAY_MS
    )
    header = read_segment_header(path)
    assert (header.sources, header.absences) == ((archive,), (halted,))
    assert (header.is_provisional, header.recheck_ms) == (True, 5 * DAY_MS)


def test_each_segment_has_a_higher_revision_and_leaves_the_others_as_they_are(store: SeriesStore) -> None:
    revisions, before = [], series_state(store)
    for span in (HOUR, Span(0, DAY_MS), HOUR, Span(DAY_MS, 2 * DAY_MS)):
        path = store.put(TABLE if span.start_ms == 0 else make_table(BTCUSDT_1M, []), span)
        revisions.append(read_segment_header(path).revision)
        after = series_state(store)
        assert before.items() <= after.items()
        assert len(after) == len(before) + 1
        before = after
    assert revisions == sorted(set(revisions))
    assert len(store.folder.segments(BTCUSDT_1M)) == 4


def test_rows_replace_what_they_were_made_of_and_nothing_else(store: SeriesStore) -> None:
    store.put(TABLE, HOUR)
    winners = resolve(HOUR, store.folder.segments(BTCUSDT_1M))
    elsewhere = store.put(make_table(BTCUSDT_1M, []), Span(HOUR.end_ms, 2 * HOUR.end_ms))
    first = store.put_in_place(winners, TABLE, HOUR)
    assert first is not None
    before = series_state(store)
    assert set(before) >= {elsewhere.name, first.name}
    assert store.put_in_place(winners, TABLE, HOUR) is None
    assert series_state(store) == before
    winners = resolve(HOUR, store.folder.segments(BTCUSDT_1M))
    assert store.put_in_place(winners, TABLE, HOUR) is not None


def test_nothing_but_the_segment_is_left_in_the_folder(store: SeriesStore) -> None:
    path = store.put(TABLE, HOUR)
    assert list(series_state(store)) == [path.name]


@pytest.mark.parametrize(
    ("span", "message"),
    [
        (Span(0, 0), "is empty"),
        (Span(1, 60 * MINUTE_MS), "whole seconds"),
        (Span(0, 60 * MINUTE_MS + 500), "whole seconds"),
        (Span(0, 59 * MINUTE_MS), "open times must lie in"),
        (Span(MINUTE_MS, 60 * MINUTE_MS), "open times must lie in"),
    ],
)
def test_a_span_that_is_empty_uneven_or_too_short_is_refused_and_nothing_is_left(
    store: SeriesStore, span: Span, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        store.put(TABLE, span)
    assert series_state(store) == {}
    assert store.folder.segments(BTCUSDT_1M) == []


@pytest.mark.parametrize("made_count", range(1, 5))
def test_folders_that_are_pruned_away_while_they_are_made_are_made_again(
    store: SeriesStore, monkeypatch: pytest.MonkeyPatch, made_count: int
) -> None:
    path = store.folder.series_path(BTCUSDT_1M)
    made = [*reversed(path.parents[:3]), path][:made_count]
    steps: list[Step] = []

    def prune(step: Step) -> None:
        steps.append(step)
        if steps == [Step.FOLDER_MADE] * made_count:
            for folder in reversed(made):
                folder.rmdir()

    store.folder.make_path(store.folder.root / LOCKS_FOLDER)
    monkeypatch.setattr(fault_points, "reach", prune)
    put = store.put(TABLE, HOUR)
    assert list(series_state(store)) == [put.name]
    assert steps.count(Step.FOLDER_MADE) == made_count + 4


def test_a_folder_that_is_pruned_away_each_time_is_an_error_of_the_cache(
    store: SeriesStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = store.folder.series_path(BTCUSDT_1M)

    def prune(_: Step) -> None:
        if path.parent.exists():
            path.parent.rmdir()

    monkeypatch.setattr(fault_points, "reach", prune)
    with pytest.raises(CacheError, match="1m: cannot be made: No such file or directory"):
        store.put(TABLE, HOUR)


@pytest.mark.parametrize("below", ["", "spot", "spot/klines/BTCUSDT", "spot/klines/BTCUSDT/1m"])
def test_a_cache_that_cannot_be_written_is_an_error_of_the_cache(tmp_path: Path, below: str) -> None:
    blocked = tmp_path / "cache" / below
    blocked.parent.mkdir(parents=True, exist_ok=True)
    blocked.write_text("a regular file")
    with pytest.raises(CacheError) as caught:
        SeriesStore(CacheFolder(tmp_path / "cache"), BTCUSDT_1M).put(TABLE, HOUR)
    assert caught.value.path.startswith(str(tmp_path / "cache"))
    assert list(folder_state(tmp_path)) == [str(blocked.relative_to(tmp_path))]


def test_series_in_one_folder_do_not_touch_each_other(store: SeriesStore) -> None:
    store.put(TABLE, HOUR)
    before = series_state(store)
    for symbol, interval in (("ETHUSDT", "1m"), ("BTCUSDT", "1mo"), ("BTCUSDT", "1h")):
        other = SeriesKey.of(symbol, interval)
        SeriesStore(store.folder, other).put(make_table(other, [0]), Span(0, DAY_MS))
    assert series_state(store) == before
    assert len(list(store.folder.series())) == 4


def test_the_last_of_two_writers_of_one_span_wins_whoever_took_a_revision_first(
    store: SeriesStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    def be_faster(step: Step) -> None:
        if step is Step.SEGMENT_FLUSHED:
            monkeypatch.setattr(fault_points, "reach", fault_points.go_on)
            faster.append(store.put(regular_table(BTCUSDT_1M, HOUR, open=1.0), HOUR))

    faster: list[Path] = []
    monkeypatch.setattr(fault_points, "reach", be_faster)
    put = store.put(regular_table(BTCUSDT_1M, HOUR, open=2.0), HOUR)
    assert read_segment_header(faster[0]).revision < read_segment_header(put).revision
    with KlineCache(store.folder.root) as cache:
        assert set(cache.read_series(BTCUSDT_1M, HOUR).open) == {2.0}

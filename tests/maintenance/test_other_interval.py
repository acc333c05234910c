"""Bars of another interval, which earlier versions stored, are found and replaced; the rest is kept."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from ckvd.cache import CacheFolder, SeriesStore, open_cache
from ckvd.cache.coverage import read_coverage
from ckvd.cache.packing import pack_series
from ckvd.maintenance.quarantine import list_quarantine
from ckvd.maintenance.repair import find_lost, plan_repair
from ckvd.maintenance.verification import Finding, Severity, Trouble, is_clean, verify_cache
from ckvd.model.calendar import Period
from ckvd.model.grid import Grid
from ckvd.model.market import HOUR_MS, Interval, SeriesKey
from ckvd.model.provenance import Absence, Origin, Reason, Source
from ckvd.model.table import KlineTable, empty_table, join_tables
from ckvd.model.timespan import Span
from ckvd.vision.name import ArchiveName
from support.caches import mend, segment_paths
from support.loopback.mirror import publish
from support.loopback.rows import make_rows
from support.power import moves_to_quarantine, recorded, unsettled
from support.tables import make_table, regular_table
from support.venue import zip_of

if TYPE_CHECKING:
    from pathlib import Path

HOURS = SeriesKey.of("BTCUSDT", "1h")
MONTHS = ("2023-01", "2023-02", "2023-03")


def month(label: str) -> Span:
    return Period.of_label(label).span


def source_of(label: str) -> Source:
    name = ArchiveName(HOURS, Period.of_label(label))
    span = name.period.span
    return Source(Origin.VISION_MONTHLY, name.path, span.start_ms, span.end_ms, sha256="0" * 64)


def halves(span: Span) -> KlineTable:
    """Half hours where hours belong, as an archive with the wrong bars brought them."""
    opens = Grid.of(Interval.M30).opens(span)
    return make_table(HOURS, opens, close_time=opens + HOUR_MS // 2 - 1)


def months(wrong: str, labels: tuple[str, ...] = MONTHS) -> list[KlineTable]:
    return [halves(month(label)) if label == wrong else regular_table(HOURS, month(label)) for label in labels]


@pytest.fixture
def folder(tmp_path: Path) -> CacheFolder:
    """Three months in one segment, the second of them in half hours."""
    cache = CacheFolder(tmp_path / "cache")
    span = Span(month(MONTHS[0]).start_ms, month(MONTHS[-1]).end_ms)
    SeriesStore(cache, HOURS).put(join_tables(months("2023-02")), span, sources=[*map(source_of, MONTHS)])
    return cache


@pytest.fixture
def mirror(tmp_path: Path) -> Path:
    """A mirror that has the second month only, and right."""
    root = tmp_path / "vision"
    name = ArchiveName(HOURS, Period.of_label("2023-02"))
    rows = make_rows(range(name.period.span.start_ms, name.period.span.end_ms, HOUR_MS), HOUR_MS)
    publish(root, name.path, zip_of(rows, name.file_name))
    return root


def look(folder: CacheFolder) -> list[Finding]:
    return list(verify_cache(folder))


def closes(folder: CacheFolder, label: str) -> list[float]:
    with open_cache(folder.root) as cache:
        found: list[float] = cache.read_series(HOURS, month(label)).close.tolist()
        return found


def test_the_archive_that_brought_them_is_named(folder: CacheFolder) -> None:
    (finding,) = [one for one in look(folder) if one.severity is Severity.ERROR]
    assert finding.trouble is Trouble.OTHER_INTERVAL
    assert finding.message == (
        f"{source_of('2023-02').name}: expected 1h bars, found 1344 of 1344 bars that are as long as 30m bars"
    )
    assert finding.bar_count == 1344
    assert is_clean(list(verify_cache(folder, is_quick=True)))


def test_only_what_is_wrong_is_fetched_again_and_the_rest_is_kept(folder: CacheFolder, mirror: Path) -> None:
    before = {label: closes(folder, label) for label in ("2023-01", "2023-03")}
    original = segment_paths(folder)[0].read_bytes()
    (step,) = plan_repair(folder, look(folder))
    assert step.lost == (month("2023-02"),)
    report = mend(folder, mirror)
    assert report.is_complete
    assert [source.name for source in report.fetched] == [source_of("2023-02").name]
    assert {label: closes(folder, label) for label in before} == before
    assert len(closes(folder, "2023-02")) == 28 * 24
    assert look(folder) == []
    (aside,) = list_quarantine(folder)
    assert aside.path.read_bytes() == original
    with open_cache(folder.root) as cache:
        klines = cache.read_series(HOURS, Span(month("2023-01").start_ms, month("2023-03").end_ms))
        assert [source.name for source in klines.sources] == [source_of(label).name for label in MONTHS]
        assert klines.gaps == ()


def test_without_a_source_the_wrong_bars_are_lost_and_the_others_are_not(folder: CacheFolder, mirror: Path) -> None:
    before = {label: closes(folder, label) for label in ("2023-01", "2023-03")}
    report = mend(folder)
    assert report.unrepaired == {HOURS: (month("2023-02"),)}
    assert {label: closes(folder, label) for label in before} == before
    assert [finding.span for finding in find_lost(folder)] == [month("2023-02")]
    later = mend(folder, mirror)  # as `ckvd cache repair` does: with what is still lost
    assert later.is_complete


def test_an_archive_that_is_still_wrong_is_not_stored_again(folder: CacheFolder, tmp_path: Path) -> None:
    name = ArchiveName(HOURS, Period.of_label("2023-02"))
    span = name.period.span
    rows = make_rows(range(span.start_ms, span.end_ms, HOUR_MS // 2), HOUR_MS // 2)
    publish(tmp_path / "vision", name.path, zip_of(rows, name.file_name))
    report = mend(folder, tmp_path / "vision")
    assert report.unrepaired == {HOURS: (span,)}
    assert any("as long as 30m bars" in failure for failure in report.failures)
    assert len(closes(folder, "2023-01")) == 31 * 24


def test_older_bars_below_the_wrong_ones_do_not_win(folder: CacheFolder) -> None:
    cache = CacheFolder(folder.root.with_name("other"))
    store = SeriesStore(cache, HOURS)
    store.put(regular_table(HOURS, month("2023-02"), open=7.0), month("2023-02"))
    store.put(halves(month("2023-02")), month("2023-02"), sources=[source_of("2023-02")])
    assert mend(cache).unrepaired == {HOURS: (month("2023-02"),)}


def test_parts_keep_their_absences_and_the_time_to_ask_again(tmp_path: Path) -> None:
    cache = CacheFolder(tmp_path / "cache")
    january, february, march = map(month, MONTHS)
    gone = Absence(march.start_ms, march.end_ms, Reason.HALTED, 9_000_000_000_000)
    table = join_tables([regular_table(HOURS, january), halves(february), empty_table(HOURS)])
    SeriesStore(cache, HOURS).put(
        table, Span(january.start_ms, march.end_ms), sources=[*map(source_of, MONTHS[:2])], absences=[gone]
    )
    mend(cache)
    with open_cache(cache.root) as opened:
        klines = opened.read_series(HOURS, march)
        assert klines.absences == (gone,)
        assert len(klines) == 0


def test_parts_with_bars_are_not_due_with_the_absences_beside_them(folder: CacheFolder) -> None:
    """Otherwise their archives would be fetched again and stored over what was healed since."""
    january, _, march = map(month, MONTHS)
    hole = Absence(january.start_ms, january.start_ms + HOUR_MS, Reason.NOT_IN_ARCHIVE, january.end_ms)
    table = join_tables(months("2023-02"))
    SeriesStore(folder, HOURS).put(
        table.rows(1, table.row_count),
        Span(january.start_ms, march.end_ms),
        sources=[*map(source_of, MONTHS)],
        absences=[hole],
    )
    mend(folder)
    for held in (january, march):
        assert {covered.recheck_ms for covered in read_coverage(folder, HOURS, held)} == {0}
    with open_cache(folder.root) as opened:
        assert opened.read_series(HOURS, january).absences == (hole,)


def test_bars_of_a_segment_without_sources_are_checked_too(tmp_path: Path) -> None:
    cache = CacheFolder(tmp_path / "cache")
    SeriesStore(cache, HOURS).put(halves(month("2023-02")), month("2023-02"))
    assert [finding.trouble for finding in look(cache)][:1] == [Trouble.OTHER_INTERVAL]


def test_packed_archives_with_a_halt_each_are_in_order(tmp_path: Path) -> None:
    """Each archive may have a few odd bars: many archives in one segment have many."""
    cache = CacheFolder(tmp_path / "cache")
    store = SeriesStore(cache, HOURS)
    for day in range(1, 29):
        period = Period.of_label(f"2023-02-{day:02}")
        table = regular_table(HOURS, period.span)
        table.columns["close_time"][3] -= HOUR_MS // 2
        span = period.span
        source = Source(Origin.VISION_DAILY, f"{period}.zip", span.start_ms, span.end_ms)
        store.put(table, span, sources=[source])
    pack_series(cache, HOURS)
    assert len(segment_paths(cache)) < 28
    assert {finding.trouble for finding in look(cache)} == {Trouble.OFF_GRID}


def test_the_rest_of_a_segment_is_durable_before_it_is_set_aside(folder: CacheFolder) -> None:
    with recorded(folder.root.parent) as operations:
        mend(folder)
    moves = moves_to_quarantine(operations)
    assert moves
    assert [unsettled(operations[:number]) for number in moves] == [set()] * len(moves)

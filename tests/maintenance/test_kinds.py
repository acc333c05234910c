"""Funding rates and metrics are kept as bars are: checked, repaired, compared, packed, pruned and pinned."""

from __future__ import annotations

import asyncio
import json
import shutil
from typing import TYPE_CHECKING

import numpy as np
import pytest

from ckvd.api.vision_data_client import VisionDataClient
from ckvd.cache import CacheFolder, KlineCache, SeriesStore
from ckvd.cache.packing import pack_series
from ckvd.cache.selection import SeriesFilter
from ckvd.errors import ColumnError
from ckvd.maintenance.audit import Change, audit_cache
from ckvd.maintenance.comparison import Against, Agreement, OtherBars, compare_bars
from ckvd.maintenance.data_lock import Verdict, check_lock, format_lock, lock_data, parse_lock
from ckvd.maintenance.gap_report import fill_by_month, report_gaps
from ckvd.maintenance.inventory import summarise_series
from ckvd.maintenance.misfiled import find_misfiled
from ckvd.maintenance.phantoms import is_phantom, remove_phantom
from ckvd.maintenance.pruning import prune_span
from ckvd.maintenance.quarantine import list_quarantine, restore
from ckvd.maintenance.verification import Finding, Severity, Trouble, verify_cache, verify_series
from ckvd.model.calendar import months_of
from ckvd.model.provenance import Absence, Origin, Reason, Source
from ckvd.model.table import KlineTable, empty_table, fields_of
from ckvd.model.timespan import Span
from ckvd.vision.folder_source import FolderArchiveSource
from support.caches import flip, mend, segment_paths
from support.records import (
    BARS,
    FIVE,
    FUNDING,
    FUNDING_HEADER,
    HOUR,
    METRICS,
    METRICS_HEADER,
    bars,
    five_minutes,
    publish,
    settlements,
    start_of,
)

if TYPE_CHECKING:
    from pathlib import Path

    from ckvd.maintenance.audit import ArchiveAudit
    from ckvd.model.market import SeriesKey
    from ckvd.model.table import Column

QUARTER = Span.of("2024-01-01", "2024-04-01")
DAYS = Span.of("2024-03-01", "2024-03-06")
KINDS = pytest.mark.parametrize("series", [FUNDING, METRICS], ids=lambda series: series.kind.value)


def make_mirror(mirror: Path) -> None:
    """Funding and metrics of both labellings, unordered and with rows twice in part, and klines."""
    for label in ("2024-01", "2024-02"):
        publish(mirror, FUNDING, label, [FUNDING_HEADER, *settlements(label)])
    march = settlements("2024-03")
    publish(mirror, FUNDING, "2024-03", [FUNDING_HEADER, *march[50:], *march[:55]])
    for label, labels in (("01", "end"), ("02", "end"), ("03", "start"), ("04", "start")):
        rows = five_minutes(f"2024-03-{label}", labels)
        publish(mirror, METRICS, f"2024-03-{label}", [METRICS_HEADER, *rows[200:], *rows[:210]])
    publish(mirror, BARS, "2024-03", bars("2024-03"))


def fill(root: Path, mirror: Path) -> CacheFolder:
    async def work() -> None:
        async with VisionDataClient(mirror, cache=root) as vision:
            # Month by month, so that each is a segment.
            for month in months_of(QUARTER):
                await vision.download_series([FUNDING], month.span)
            await vision.download_series([METRICS], Span(DAYS.start_ms, DAYS.end_ms - 24 * HOUR))
            await vision.download_series([BARS], Span.of("2024-03-01", "2024-04-01"))

    asyncio.run(work())
    return CacheFolder(root)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("kinds")
    make_mirror(place / "mirror")
    fill(place / "cache", place / "mirror")
    return place


@pytest.fixture
def mirror(made: Path, tmp_path: Path) -> Path:
    return shutil.copytree(made / "mirror", tmp_path / "mirror")


@pytest.fixture
def folder(made: Path, tmp_path: Path) -> CacheFolder:
    return CacheFolder(shutil.copytree(made / "cache", tmp_path / "cache"))


def cells(folder: CacheFolder, series: SeriesKey, span: Span = QUARTER) -> dict[str, bytes]:
    """Every bit of every cell."""
    with KlineCache(folder.root) as cache:
        found = cache.read_rows(series, span, missing="ignore")
        names = ("time" if name == "open_time" and series is FUNDING else name for name in fields_of(series))
        return {name: found[name].tobytes() for name in names}


def findings_of(folder: CacheFolder) -> list[Finding]:
    return list(verify_cache(folder))


def locked(folder: CacheFolder) -> str:
    return format_lock(lock_data(folder))


def put(folder: CacheFolder, table: KlineTable, span: Span) -> None:
    source = Source(Origin.VISION_DAILY, "made", span.start_ms, span.end_ms)
    SeriesStore(folder, table.series).put(table, span, sources=[source])


def changed(folder: CacheFolder, series: SeriesKey, span: Span, **columns: dict[int, float]) -> None:
    """Store the rows of a span again, with other cells in some places."""
    with KlineCache(folder.root) as cache:
        found = cache.read_rows(series, span)
    copies: dict[str, Column] = {
        name: np.array(found["time" if name == "open_time" and series is FUNDING else name])
        for name in fields_of(series)
    }
    for name, cells in columns.items():
        for place, value in cells.items():
            copies[name][place] = value
    put(folder, KlineTable(series, copies, {}), span)


# --- Keeping -----------------------------------------------------------------------------------------------


def test_a_cache_of_all_kinds_is_in_order(folder: CacheFolder) -> None:
    assert findings_of(folder) == []
    assert find_misfiled(folder) == []
    assert [summarise_series(folder, series).bar_count for series in (FUNDING, METRICS)] == [93 + 87 + 93, 4 * 288]


@KINDS
def test_packing_keeps_every_bit_and_the_content_hash(folder: CacheFolder, series: SeriesKey) -> None:
    before, lock = cells(folder, series), locked(folder)
    changed(folder, series, Span.of("2024-03-02", "2024-03-03"))  # a segment of its own
    assert len(folder.segments(series)) > 1
    report = pack_series(folder, series, is_thorough=True)
    assert (len(report.packed), report.refusals) == (1, ())
    assert cells(folder, series) == before
    assert locked(folder) == lock
    assert findings_of(folder) == []


def test_a_lock_pins_all_kinds_and_finds_one_cell_that_differs(folder: CacheFolder) -> None:
    lines = parse_lock(locked(folder))
    assert {line.series for line in lines} == {FUNDING, METRICS, BARS}
    assert {check.verdict for check in check_lock(folder, lines)} == {Verdict.SAME}
    changed(folder, FUNDING, Span.of("2024-02-01", "2024-02-02"), rate={1: 0.5})
    changed(folder, METRICS, Span.of("2024-03-02", "2024-03-03"), count_long_short_ratio={7: np.nan})
    different = [check.expected.series for check in check_lock(folder, lines) if check.verdict is Verdict.DIFFERENT]
    assert sorted(different) == sorted([FUNDING, METRICS])


@KINDS
def test_pruning_a_span_keeps_the_rest_bit_for_bit(folder: CacheFolder, series: SeriesKey) -> None:
    pruned = Span.of("2024-03-02T06:00", "2024-03-03T12:00")
    before = [cells(folder, series, part) for part in (Span(0, pruned.start_ms), Span(pruned.end_ms, DAYS.end_ms))]
    prune_span(folder, series, pruned)
    after = [cells(folder, series, part) for part in (Span(0, pruned.start_ms), Span(pruned.end_ms, DAYS.end_ms))]
    assert after == before
    assert not any(cells(folder, series, pruned).values())


@KINDS
def test_a_damaged_segment_is_found_and_its_archives_are_fetched_again(
    folder: CacheFolder, mirror: Path, series: SeriesKey
) -> None:
    before = cells(folder, series)
    path = folder.segment_path(series, folder.segments(series)[0])
    flip(path)
    assert [(found.trouble, found.path) for found in findings_of(folder)] == [(Trouble.DAMAGED, path)]
    report = mend(folder, mirror)
    assert (report.unrepaired, report.failures) == ({}, ())
    assert [aside.series for aside in list_quarantine(folder)] == [series]
    assert cells(folder, series) == before
    assert findings_of(folder) == []


@KINDS
def test_a_segment_in_quarantine_can_be_restored(folder: CacheFolder, series: SeriesKey) -> None:
    path = folder.segment_path(series, folder.segments(series)[0])
    content = path.read_bytes()
    flip(path)
    report = mend(folder)
    assert list(report.unrepaired) == [series]
    (aside,) = list_quarantine(folder)
    assert (aside.series, aside.path.parent.name) == (series, series.folder_name)
    restore(folder, aside)
    assert path.stat().st_size == len(content)
    assert list_quarantine(folder) == []


def test_a_corrected_archive_is_found_with_its_cells_and_stored(folder: CacheFolder, mirror: Path) -> None:
    rows = five_minutes("2024-03-02", "end")
    known = rows[10].replace('""', "3.25")
    publish(mirror, METRICS, "2024-03-02", [METRICS_HEADER, *rows[:10], known, *rows[11:]])
    rates = settlements("2024-02")
    publish(mirror, FUNDING, "2024-02", [FUNDING_HEADER, *rates[:-1], rates[-1].replace(",8,", ",4,")])

    async def audit(*, fix: bool = False) -> list[ArchiveAudit]:
        source = FolderArchiveSource(mirror)
        return [one async for one in audit_cache(folder, source, is_thorough=True, fix=fix) if one.difference]

    found = asyncio.run(audit())
    assert [(one.archive.rpartition("/")[2], one.change) for one in found] == [
        ("BTCUSDT-fundingRate-2024-02.zip", Change.CHANGED),
        ("BTCUSDT-metrics-2024-03-02.zip", Change.CHANGED),
    ]
    assert [[(cell.column, cell.after) for cell in one.difference.cells] for one in found] == [
        [("interval_hours", 4)],
        [("sum_toptrader_long_short_ratio", 3.25)],
    ]
    # A blank cell is null in JSON.
    document = json.loads(json.dumps([one.to_json() for one in found], allow_nan=False))
    assert [cell["before"] for one in document for cell in one["difference"]["cells"]] == [8, None]
    asyncio.run(audit(fix=True))
    assert asyncio.run(audit()) == []
    with KlineCache(folder.root) as cache:
        metrics = cache.metrics("BTCUSDT", start="2024-03-02", end="2024-03-03")
        assert np.flatnonzero(~np.isnan(metrics.sum_toptrader_long_short_ratio)).tolist() == [10]
        assert cache.funding("BTCUSDT", start="2024-02-01", end="2024-03-01").interval_hours[-1] == 4


def test_a_series_of_events_of_which_no_source_had_anything_is_a_phantom(tmp_path: Path) -> None:
    folder = CacheFolder(tmp_path)
    absence = Absence(QUARTER.start_ms, QUARTER.end_ms, Reason.NO_ARCHIVE, 1)
    SeriesStore(folder, FUNDING).put(empty_table(FUNDING), QUARTER, absences=[absence])
    assert [found.trouble for found in findings_of(folder)] == [Trouble.PHANTOM]
    assert is_phantom(folder, FUNDING)
    assert remove_phantom(folder, FUNDING)
    assert segment_paths(folder) == []


def test_an_interval_chooses_no_events(folder: CacheFolder) -> None:
    chosen = SeriesFilter(intervals=(BARS.bar_interval,)).choose(folder)
    assert chosen == [BARS, METRICS]
    assert SeriesFilter.of(FUNDING).choose(folder) == [FUNDING]


# --- Comparing with the REST interface ---------------------------------------------------------------------


def rest_rows(times: list[int], rates: list[float]) -> KlineTable:
    """Settlements as the REST interface has them: with prices, without intervals."""
    columns = {
        "open_time": np.array(times, np.int64),
        "interval_hours": np.zeros(len(times), np.int64),
        "rate": np.array(rates),
        "mark_price": np.full(len(times), 42_000.5),
    }
    return KlineTable(FUNDING, columns, {})


def test_settlements_are_compared_whatever_delay_a_source_tells(folder: CacheFolder) -> None:
    span = Span.of("2024-02-01", "2024-03-01")
    with KlineCache(folder.root) as cache:
        held = cache.funding("BTCUSDT", start=span.start_ms, end=span.end_ms)
    times, rates = (held.settled_time + 3).tolist(), held.rate.tolist()

    def compare(times: list[int], rates: list[float]) -> tuple[Agreement, tuple[int, int, int]]:
        other = OtherBars(Against.REST, "rest", (span,), rest_rows(times, rates), columns=["rate"])
        found = compare_bars(folder, FUNDING, other)
        total = found.difference
        return found.agreement, (total.changed_count, total.added_count, total.removed_count)

    assert compare(times, rates) == (Agreement.AGREES, (0, 0, 0))
    assert compare(times, [*rates[:-1], 0.5]) == (Agreement.DIFFERS, (1, 0, 0))
    assert compare(times[1:], rates[1:]) == (Agreement.AGREES, (0, 0, 1))
    assert compare(sorted([*times, times[4] + HOUR]), [*rates[:5], 0.25, *rates[5:]]) == (
        Agreement.DIFFERS,
        (0, 1, 0),
    )


# --- Gaps --------------------------------------------------------------------------------------------------


def test_missing_settlements_are_one_gap_across_segments(tmp_path: Path) -> None:
    mirror = tmp_path / "mirror"
    january, february = settlements("2024-01"), settlements("2024-02")
    publish(mirror, FUNDING, "2024-01", [FUNDING_HEADER, *january[:-1]])
    publish(mirror, FUNDING, "2024-02", [FUNDING_HEADER, *february[2:40], *february[41:]])
    publish(mirror, FUNDING, "2024-03", [FUNDING_HEADER, *settlements("2024-03")])
    folder = fill(tmp_path / "cache", mirror)
    assert len(folder.segments(FUNDING)) == 3
    gaps = [
        (Span.of("2024-01-31T16:00", "2024-02-01T16:00"), 3, Reason.NOT_IN_ARCHIVE),
        (Span.of("2024-02-14T08:00", "2024-02-14T16:00"), 1, Reason.NOT_IN_ARCHIVE),
    ]
    report = report_gaps(folder, FUNDING)
    assert [(gap.span, gap.bar_count, gap.reason) for gap in report.gaps] == gaps
    summary = summarise_series(folder, FUNDING)
    assert (summary.bar_count, summary.missing_bar_count) == (93 + 87 + 93 - 4, 4)
    # How full a month is, in hours.
    assert [(fill.expected_count, fill.expected_count - fill.bar_count) for fill in fill_by_month(report)] == [
        (31 * 24, 8),
        (29 * 24, 24),
        (31 * 24, 0),
    ]
    pack_series(folder, FUNDING, is_thorough=True)
    assert report_gaps(folder, FUNDING).gaps == report.gaps
    # What was not fetched is a gap of an unknown number.
    prune_span(folder, FUNDING, Span.of("2024-02-10", "2024-02-20"))
    assert [(gap.span, gap.bar_count, gap.reason) for gap in report_gaps(folder, FUNDING).gaps] == [
        gaps[0],
        (Span.of("2024-02-10", "2024-02-20"), 0, Reason.NOT_FETCHED),
    ]
    assert summarise_series(folder, FUNDING).missing_bar_count == 3


def test_a_summary_leaves_out_settlements_that_cannot_be_read(folder: CacheFolder) -> None:
    path = folder.segment_path(FUNDING, sorted(folder.segments(FUNDING))[1])
    path.write_bytes(b"no segment")
    summary = summarise_series(folder, FUNDING)
    assert (summary.bar_count, summary.missing_bar_count, summary.unreadable_count) == (93 + 93, 0, 1)


# --- What verification finds in rows -----------------------------------------------------------------------


def test_rows_that_no_archive_has_are_found(folder: CacheFolder) -> None:
    day = Span.of("2024-03-02", "2024-03-03")
    changed(folder, METRICS, day, create_time={3: start_of("2024-03-02") + 5 * FIVE}, open_interest={4: np.inf})
    changed(folder, FUNDING, day, rate={0: -np.inf}, open_time={1: start_of("2024-03-02") + 8 * HOUR + 120_000})
    found = [(one.series, one.severity, one.trouble, one.bar_count) for one in findings_of(folder)]
    assert found == [
        (FUNDING, Severity.WARNING, Trouble.IMPOSSIBLE_BARS, 1),
        (FUNDING, Severity.NOTE, Trouble.OFF_GRID, 1),
        (METRICS, Severity.WARNING, Trouble.IMPOSSIBLE_BARS, 1),
        (METRICS, Severity.WARNING, Trouble.OTHER_MINUTES, 1),
    ]


def test_days_whose_labels_were_misread_are_named(folder: CacheFolder) -> None:
    # One day as if its labels were ends, and two as if they were starts: each the other way round.
    with KlineCache(folder.root) as cache:
        day = cache.metrics("BTCUSDT", start="2024-03-03", end="2024-03-04")
        two = cache.metrics("BTCUSDT", start="2024-03-01", end="2024-03-03")
    for rows, shift in ((day, -FIVE), (two, FIVE)):
        table = KlineTable(METRICS, {name: np.array(rows[name]) for name in fields_of(METRICS)}, {})
        table.columns["open_time"][:] += shift
        inside = (table.open_time >= rows.span.start_ms) & (table.open_time < rows.span.end_ms)
        put(
            folder,
            KlineTable(METRICS, {name: cells[inside] for name, cells in table.columns.items()}, {}),
            rows.span,
        )
    places = [one for one in verify_series(folder, METRICS) if one.path == folder.series_path(METRICS)]
    assert [(one.severity, one.trouble, str(one.span)) for one in places] == [
        (Severity.WARNING, Trouble.OTHER_MINUTES, "2024-03-03..2024-03-04"),
        (Severity.NOTE, Trouble.OTHER_MINUTES, "2024-03-01..2024-03-03"),
    ]
    assert "known five minutes too early; trust none of them: 2024-03-03..2024-03-04" in places[0].message
    assert "2 days describe the minutes before their own" in places[1].message
    # Nothing is said where there are no klines, or at a quick look.
    assert not [one for one in verify_series(folder, METRICS, is_quick=True) if one.path.is_dir()]
    prune_span(folder, BARS)
    assert not [one for one in verify_series(folder, METRICS) if one.path.is_dir()]


def test_a_file_that_does_not_show_its_labels_is_known_late_and_never_early(tmp_path: Path) -> None:
    mirror = tmp_path / "mirror"
    publish(mirror, METRICS, "2024-03-01", [METRICS_HEADER, *five_minutes("2024-03-01", "end", without=[287])])
    publish(mirror, METRICS, "2024-03-02", [METRICS_HEADER, *five_minutes("2024-03-02", "start", without=[0])])
    publish(mirror, BARS, "2024-03", bars("2024-03"))
    folder = fill(tmp_path / "cache", mirror)
    found = findings_of(folder)
    assert [(one.severity, one.trouble, str(one.span)) for one in found] == [
        (Severity.NOTE, Trouble.OTHER_MINUTES, "2024-03-01..2024-03-02")
    ]
    with KlineCache(folder.root) as cache:
        metrics = cache.metrics("BTCUSDT", start="2024-03-01", end="2024-03-03")
        described = (metrics.open_interest - 1000.25).astype(np.int64) * FIVE
        assert (metrics.known_time >= described + FIVE).all()
        assert [source.labels for source in metrics.sources] == ["unclear", "unclear"]


def test_tables_of_metrics_say_when_each_row_could_be_known(folder: CacheFolder) -> None:
    with KlineCache(folder.root) as cache:
        metrics = cache.metrics("BTCUSDT", start="2024-03-01", end="2024-03-05")
        assert metrics.column_names[:3] == ("open_time", "known_time", "create_time")
        assert (metrics["known_time"] == metrics.open_time + FIVE).all()
        assert metrics.as_dict()["known_time"] is metrics.known_time
        assert (metrics.to_pandas()["known_time"] - metrics.to_pandas().index == np.timedelta64(FIVE, "ms")).all()
        with pytest.raises(ColumnError, match="no column 'close'"):
            _ = metrics["close"]

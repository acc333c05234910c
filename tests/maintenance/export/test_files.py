"""Each file has the bars of its span, whole and in order, and none is replaced unasked."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

import pytest

from ckvd.cache import CacheFolder, SeriesStore
from ckvd.errors import CacheError, ExportError, NotCachedError
from ckvd.maintenance.export import ExportCut, ExportFormat, export_series
from ckvd.maintenance.pruning import prune_span
from ckvd.model.calendar import days_of
from ckvd.model.provenance import Absence, Reason
from ckvd.model.timespan import Span
from ckvd.segment.atomic_file import atomic_write
from support.caches import export_one
from support.tables import BTCUSDT_1M, make_table, regular_table

if TYPE_CHECKING:
    from pathlib import Path

DAY = Span.of("2024-01-01", "2024-01-02")
DAYS = [period.span for period in days_of(Span.of("2024-01-10", "2024-01-13"))]


def test_an_existing_file_is_not_overwritten_by_default(folder: CacheFolder, tmp_path: Path) -> None:
    path = export_one(folder, tmp_path, ExportFormat.CSV)
    with pytest.raises(ExportError, match="is there already"):
        export_one(folder, tmp_path, ExportFormat.CSV)
    (exported,) = export_series(folder, BTCUSDT_1M, tmp_path, is_overwriting=True)
    assert exported.path == path


def test_a_span_that_is_not_cached_is_refused(folder: CacheFolder, tmp_path: Path) -> None:
    with pytest.raises(NotCachedError):
        list(export_series(folder, BTCUSDT_1M, tmp_path, span=Span.of("2024-12-30", "2025-01-01")))


def test_a_folder_that_cannot_be_written_is_named(folder: CacheFolder, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(CacheError, match="a file stands where a folder should be"):
        export_one(folder, tmp_path / "file", ExportFormat.CSV)


def test_months_go_into_files_of_their_own(folder: CacheFolder, tmp_path: Path) -> None:
    exported = list(export_series(folder, BTCUSDT_1M, tmp_path, cut=ExportCut.MONTH))
    assert [file.path.name for file in exported] == ["BTCUSDT-1m-2024-12.csv", "BTCUSDT-1m-2025-01.csv"]
    assert [len(io.BytesIO(file.path.read_bytes()).readlines()) for file in exported] == [1440, 1440]


def test_a_gathered_table_is_exported_in_order(tmp_path: Path) -> None:
    folder = CacheFolder(tmp_path / "cache")
    middle = Span.of("2024-01-01T06:00Z", "2024-01-01T12:00Z")
    SeriesStore(folder, BTCUSDT_1M).put(regular_table(BTCUSDT_1M, DAY, open=1.0), DAY)
    SeriesStore(folder, BTCUSDT_1M).put(regular_table(BTCUSDT_1M, middle, open=2.0), middle)
    (exported,) = export_series(folder, BTCUSDT_1M, tmp_path / "out")
    opens = [line.split(",")[1] for line in exported.path.read_text().splitlines()]
    assert opens == ["1.0"] * 360 + ["2.0"] * 360 + ["1.0"] * 720


def opens_of(path: Path) -> list[int]:
    return [int(line.split(",")[0]) for line in path.read_text().splitlines()]


@pytest.fixture
def holed(tmp_path: Path) -> CacheFolder:
    """Three days, of which no source had the second."""
    folder = CacheFolder(tmp_path / "holed")
    for span in DAYS[::2]:
        SeriesStore(folder, BTCUSDT_1M).put(regular_table(BTCUSDT_1M, span), span)
    absence = Absence(DAYS[1].start_ms, DAYS[1].end_ms, Reason.NOT_IN_ARCHIVE, DAYS[1].end_ms)
    empty = make_table(BTCUSDT_1M, [])
    SeriesStore(folder, BTCUSDT_1M).put(empty, DAYS[1], absences=[absence], recheck_ms=DAYS[1].end_ms)
    return folder


def test_what_no_source_had_does_not_keep_the_rest_from_being_exported(holed: CacheFolder, tmp_path: Path) -> None:
    files = list(export_series(holed, BTCUSDT_1M, tmp_path / "out"))
    assert [(file.span, file.bar_count) for file in files] == [(DAYS[0], 1440), (DAYS[2], 1440)]
    whole = Span(DAYS[0].start_ms, DAYS[2].end_ms)
    files = list(export_series(holed, BTCUSDT_1M, tmp_path / "chosen", span=whole, missing="ignore"))
    assert [file.span for file in files] == [DAYS[0], DAYS[2]]
    with pytest.raises(NotCachedError) as caught:
        list(export_series(holed, BTCUSDT_1M, tmp_path / "all", span=whole, cut=ExportCut.DAY))
    assert caught.value.missing == (DAYS[1],)
    assert not (tmp_path / "all").exists()
    with pytest.raises(ValueError, match='missing is "raise" or "ignore"'):
        list(export_series(holed, BTCUSDT_1M, tmp_path / "all", missing="no"))  # type: ignore[arg-type]


def test_an_export_removes_what_killed_ones_left_and_nothing_else(holed: CacheFolder, tmp_path: Path) -> None:
    place = tmp_path / "out" / str(BTCUSDT_1M)
    place.mkdir(parents=True)
    left = [".BTCUSDT-1m-2024.csv.1-aaaaaaaa.tmp", ".BTCUSDT-1m-2023-01.parquet.12-0123abcd.tmp"]
    kept = [
        ".BTCUSDT-1m-2024.txt.1-aaaaaaaa.tmp",
        ".report.csv.1-aaaaaaaa.tmp",
        ".BTCUSDT-1m-2024.csv.tmp",
        "a.tmp",
    ]
    for name in (*left, *kept):
        (place / name).write_bytes(b"x")
    with atomic_write(place / "BTCUSDT-1m-2022.csv"):  # another export, at work
        (at_work,) = {path.name for path in place.iterdir()} - {*left, *kept}
        (file, *_) = export_series(holed, BTCUSDT_1M, tmp_path / "out", cut=ExportCut.MONTH)
        assert {path.name for path in place.iterdir()} == {*kept, at_work, file.path.name}


@pytest.mark.parametrize("is_overwriting", [False, True])
@pytest.mark.parametrize("is_pruned", [False, True])
def test_a_month_with_a_hole_is_one_file_with_all_its_bars(
    holed: CacheFolder, tmp_path: Path, *, is_overwriting: bool, is_pruned: bool
) -> None:
    if is_pruned:
        prune_span(holed, BTCUSDT_1M, DAYS[1])
    for cut, count in ((ExportCut.MONTH, 1), (ExportCut.DAY, 2)):
        files = list(export_series(holed, BTCUSDT_1M, tmp_path / cut, cut=cut, is_overwriting=is_overwriting))
        assert len({file.path for file in files}) == len(files) == count
        opens = [moment for file in files for moment in opens_of(file.path)]
        assert opens == [moment for span in DAYS[::2] for moment in regular_table(BTCUSDT_1M, span).open_time]
        assert sum(file.bar_count for file in files) == 2880

"""Each file has the bars of its span, whole and in order, and none is replaced unasked."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

import pytest

from ckvd.cache import CacheFolder, SeriesStore
from ckvd.errors import CacheError, ExportError, NotCachedError
from ckvd.maintenance.export import ExportCut, ExportFormat, export_series
from ckvd.model.timespan import Span
from support.caches import export_one
from support.tables import BTCUSDT_1M, regular_table

if TYPE_CHECKING:
    from pathlib import Path

DAY = Span.of("2024-01-01", "2024-01-02")


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

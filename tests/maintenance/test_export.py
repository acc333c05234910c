"""What is exported is what was published, byte for byte where the format allows it."""

from __future__ import annotations

import asyncio
import io
import os
import sys
import zipfile
from typing import TYPE_CHECKING

import numpy as np
import pytest

from ckvd.acquisition.ingest import expected_of
from ckvd.api.vision_data_client import VisionDataClient
from ckvd.cache import CacheFolder, KlineCache, SeriesStore
from ckvd.decode.decode import Expected, decode_archive, decode_rows
from ckvd.decode.rows import parse_rows
from ckvd.errors import CacheError, ExportError, NotCachedError
from ckvd.maintenance.export import ExportCut, ExportFormat, export_series
from ckvd.maintenance.export.csv_text import cell_format, format_rows, in_microseconds
from ckvd.model.market import Market, SeriesKey
from ckvd.model.provenance import Origin, Source
from ckvd.model.table import Decimals
from ckvd.model.timespan import Span
from ckvd.vision.name import ArchiveName
from support.places import SAMPLES
from support.tables import BTCUSDT_1M, regular_table

if TYPE_CHECKING:
    from pathlib import Path

DAY = Span.of("2024-01-01", "2024-01-02")
EXACT_MAX = 2**53


def csv_of(path: Path) -> bytes:
    with zipfile.ZipFile(path) as archive:
        (member,) = archive.namelist()
        return archive.read(member)


def store_archive(folder: CacheFolder, root: Path, path: Path) -> ArchiveName:
    name = ArchiveName.of_path(str(path.relative_to(root)))
    assert name is not None
    decoded = decode_archive(path.read_bytes(), expected_of(name))
    source = Source(
        Origin.VISION_DAILY,
        name.path,
        name.period.span.start_ms,
        name.period.span.end_ms,
        has_header=decoded.has_header,
        time_unit=decoded.time_unit,
    )
    SeriesStore(folder, name.series).put(decoded.table, name.period.span, sources=[source])
    return name


def differing_cells(one: bytes, other: bytes) -> list[tuple[bytes, bytes]]:
    pairs = zip(one.replace(b"\n", b",").split(b","), other.replace(b"\n", b",").split(b","), strict=True)
    return [(before, after) for before, after in pairs if before != after]


@pytest.mark.long
def test_every_genuine_spot_day_comes_out_as_it_went_in(
    shared_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Thousands of files that nobody needs after a power cut.
    monkeypatch.setattr(os, "fsync", lambda _: None)
    root = shared_data / "vision"
    folder = CacheFolder(tmp_path / "cache")
    inexact_count = byte_count = 0
    for path in sorted(root.glob("data/spot/daily/klines/*/*/*.zip")):
        name = store_archive(folder, root, path)
        (exported,) = export_series(folder, name.series, tmp_path / "out", cut=ExportCut.DAY, span=name.period.span)
        assert exported.path.name == path.with_suffix(".csv").name
        expected, found = csv_of(path), exported.path.read_bytes()
        exported.path.unlink()
        byte_count += len(expected)
        if expected != found:
            cells = differing_cells(expected, found)
            assert all(float(before) == float(after) for before, after in cells), path.name
            assert all(round(float(before) * 10**8) > EXACT_MAX for before, _ in cells), path.name
            assert len(cells) <= exported.inexact_cell_count
        inexact_count += exported.inexact_cell_count
    assert byte_count > 0
    print(f"{byte_count} bytes compared, {inexact_count} cells beyond 2^53")


@pytest.mark.parametrize(
    "path",
    sorted([*SAMPLES.glob("data/spot/daily/*/*/*/*.zip"), *SAMPLES.glob("data/futures/*/daily/*/*/*/*.zip")]),
    ids=lambda path: path.stem,
)
def test_the_samples_come_out_as_they_went_in(path: Path, tmp_path: Path) -> None:
    folder = CacheFolder(tmp_path / "cache")
    name = store_archive(folder, SAMPLES, path)
    (exported,) = export_series(folder, name.series, tmp_path / "out", span=name.period.span)
    assert exported.path.read_bytes() == csv_of(path)
    assert exported.inexact_cell_count == 0


def test_cells_beyond_a_double_are_counted_and_nearest(tmp_path: Path) -> None:
    folder = CacheFolder(tmp_path / "cache")
    line = b"1704067200000,1.5,1.5,1.5,1.5,60000000.12345678,1704067259999,9007199254.74099371,3,0.0,0.0,0\n"
    rows = parse_rows(line, "x")
    SeriesStore(folder, BTCUSDT_1M).put(decode_rows(rows, Expected(BTCUSDT_1M, DAY, "x")).table, DAY)
    (exported,) = export_series(folder, BTCUSDT_1M, tmp_path / "out")
    cells = exported.path.read_bytes().split(b",")
    assert exported.inexact_cell_count == 1
    assert cells[5] == b"60000000.12345678"
    assert float(cells[7]) == float(b"9007199254.74099371")


@pytest.mark.parametrize(
    ("decimals", "market", "value", "text"),
    [
        (Decimals(8, 8), Market.SPOT, 1.5, "1.50000000"),
        (Decimals(0, 8), Market.SPOT, 0.0, "0"),
        (Decimals(0, 8), Market.SPOT, 7887.635, "7887.63500000"),
        (Decimals(0, 4), Market.UM, 100.0, "100"),
        (Decimals(1, 4), Market.UM, 100.0, "100.0"),
        (Decimals(1, 4), Market.CM, 0.25, "0.25"),
        (Decimals(0, 0), Market.SPOT, 0.0, "0"),
        (None, Market.UM, 0.1, "0.1"),
    ],
)
def test_digits_are_those_of_the_source(decimals: Decimals | None, market: Market, value: float, text: str) -> None:
    assert format_rows([np.array([value])], [cell_format(decimals, market)]) == f"{text}\n".encode()


def test_times_have_the_unit_of_their_source_or_of_their_year() -> None:
    opens = np.array([Span.of("2024-12-31", "2025-01-01").start_ms, Span.of("2025-01-01", "2025-01-02").start_ms])
    assert in_microseconds(opens, (), BTCUSDT_1M).tolist() == [False, True]
    assert in_microseconds(opens, (), SeriesKey.of("BTCUSDT", "1m", market="um")).tolist() == [False, False]
    late = Source(Origin.VISION_DAILY, "x", int(opens[1]), int(opens[1]) + 1, time_unit="ms")
    assert in_microseconds(opens, [late], BTCUSDT_1M).tolist() == [False, False]


@pytest.fixture
def folder(tmp_path: Path) -> CacheFolder:
    cache = CacheFolder(tmp_path / "cache")

    async def download() -> None:
        async with VisionDataClient(SAMPLES, cache=cache.root) as vision:
            await vision.download("BTCUSDT", "1m", start="2024-12-31", end="2025-01-02")

    asyncio.run(download())
    return cache


def export_one(folder: CacheFolder, target: Path, file_format: ExportFormat) -> Path:
    (exported,) = export_series(folder, BTCUSDT_1M, target, file_format=file_format)
    assert exported.path.name == f"BTCUSDT-1m-2024-12-31-2025-01-02.{file_format}"
    return exported.path


@pytest.mark.parametrize("file_format", [ExportFormat.ARROW, ExportFormat.PARQUET])
def test_arrow_files_hold_every_cell(folder: CacheFolder, tmp_path: Path, file_format: ExportFormat) -> None:
    pytest.importorskip("pyarrow")
    import pyarrow as pa  # noqa: PLC0415  (an extra)
    import pyarrow.parquet as pq  # noqa: PLC0415

    path = export_one(folder, tmp_path / "out", file_format)
    table = pq.read_table(path) if file_format is ExportFormat.PARQUET else pa.ipc.open_file(path).read_all()
    assert table.schema.metadata[b"ckvd.series"] == b"spot/klines/BTCUSDT/1m"
    assert str(table.schema.field("open_time").type) == "timestamp[ms, tz=UTC]"
    with KlineCache(folder.root) as cache:
        klines = cache.read_series(BTCUSDT_1M, Span.of("2024-12-31", "2025-01-02"))
        for name, column in klines.as_dict().items():
            written = table.column(name).cast(
                pa.int64() if name.endswith("_time") else table.schema.field(name).type
            )
            assert written.to_numpy().tobytes() == column.tobytes()


def test_npz_holds_every_cell_and_is_the_same_each_time(folder: CacheFolder, tmp_path: Path) -> None:
    path = export_one(folder, tmp_path / "out", ExportFormat.NPZ)
    again = export_one(folder, tmp_path / "again", ExportFormat.NPZ)
    assert path.read_bytes() == again.read_bytes()
    with KlineCache(folder.root) as cache, np.load(path) as arrays:
        klines = cache.read_series(BTCUSDT_1M, Span.of("2024-12-31", "2025-01-02"))
        for name, column in klines.as_dict().items():
            assert arrays[name].dtype == column.dtype
            assert arrays[name].tobytes() == column.tobytes()


def test_without_pyarrow_the_remedy_is_named(
    folder: CacheFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(ExportError, match=r"ckvd\[arrow\]"):
        export_one(folder, tmp_path / "out", ExportFormat.PARQUET)
    assert list((tmp_path / "out").rglob("*.*")) == []


def test_what_is_there_is_not_overwritten_unasked(folder: CacheFolder, tmp_path: Path) -> None:
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

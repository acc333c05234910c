"""The CSV that is exported is what was published, byte for byte."""

from __future__ import annotations

import os
import zipfile
from typing import TYPE_CHECKING

import numpy as np
import pytest

from ckvd.acquisition.ingest import expected_of
from ckvd.cache import CacheFolder, SeriesStore
from ckvd.decode.decode import Expected, decode_archive, decode_rows
from ckvd.decode.rows import parse_rows
from ckvd.maintenance.export import ExportCut, export_series
from ckvd.maintenance.export.csv_text import cell_format, format_rows, in_microseconds
from ckvd.model.market import Market, SeriesKey
from ckvd.model.provenance import Origin, Source
from ckvd.model.table import Decimals
from ckvd.model.timespan import Span
from ckvd.vision.name import ArchiveName
from support.places import SAMPLES, sample_of
from support.tables import BTCUSDT_1M

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
    for path in sample_of(sorted(root.glob("data/spot/daily/klines/*/*/*.zip"))):
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
        (Decimals(0, 4), Market.UM, 0.0, "0"),
        (Decimals(0, 3), Market.UM, 3.82, "3.820"),
        (Decimals(0, 8), Market.CM, 33475.747, "33475.74700000"),
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

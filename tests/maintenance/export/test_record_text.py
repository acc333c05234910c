"""Exported funding rates and metrics read as their archives do, and read again they are the same cells."""

from __future__ import annotations

import io
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ckvd.acquisition.ingest import expected_of
from ckvd.cache import CacheFolder, KlineCache, SeriesStore
from ckvd.decode.decode import decode_archive
from ckvd.maintenance.export import ExportCut, ExportFormat, export_series
from ckvd.model.calendar import Period
from ckvd.model.provenance import Origin, Source
from ckvd.model.schema import COLUMN_DTYPES
from ckvd.model.schema import FUNDING as FUNDING_SCHEMA
from ckvd.model.schema import METRICS as METRICS_SCHEMA
from ckvd.model.table import KlineTable, fields_of
from ckvd.model.timespan import Span
from ckvd.vision.name import ArchiveName
from support.places import SHARED_DATA
from support.records import (
    FIVE,
    FUNDING,
    FUNDING_HEADER,
    HOUR,
    METRICS,
    METRICS_HEADER,
    five_minutes,
    ms_of,
    number,
    publish,
    read_text,
    real_rows,
    settlements,
    start_of,
)
from support.tables import same_bits

if TYPE_CHECKING:
    from ckvd.model.market import SeriesKey
    from ckvd.model.table import Column

KINDS = pytest.mark.parametrize("series", [FUNDING, METRICS], ids=lambda series: series.kind.value)


def store_archive(root: Path, series: SeriesKey, label: str, lines: list[str]) -> CacheFolder:
    """Publish an archive, and store what it holds."""
    name = ArchiveName(series, Period.of_label(label))
    path = publish(root / "mirror", series, label, lines)
    decoded = decode_archive(path.read_bytes(), expected_of(name))
    span = name.period.span
    source = Source(Origin.VISION_DAILY, name.path, span.start_ms, span.end_ms)
    folder = CacheFolder(root / "cache")
    SeriesStore(folder, series).put(decoded.table, span, sources=[source])
    return folder


def store_columns(root: Path, series: SeriesKey, span: Span, columns: dict[str, Column]) -> CacheFolder:
    source = Source(Origin.REST, "made", span.start_ms, span.end_ms)
    folder = CacheFolder(root / "cache")
    SeriesStore(folder, series).put(KlineTable(series, columns, {}), span, sources=[source])
    return folder


def export_text(folder: CacheFolder, series: SeriesKey, cut: ExportCut = ExportCut.WHOLE) -> str:
    (file,) = export_series(folder, series, folder.root.parent / "out", cut=cut)
    return file.path.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("series", "label", "lines"),
    [
        (FUNDING, "2024-02", [FUNDING_HEADER, *settlements("2024-02")]),
        (METRICS, "2024-03-01", [METRICS_HEADER, *five_minutes("2024-03-01", "end")]),
        (METRICS, "2024-03-02", [METRICS_HEADER, *five_minutes("2024-03-02", "start")]),
    ],
    ids=["funding", "ends", "starts"],
)
def test_an_exported_archive_is_the_published_one_byte_for_byte(
    tmp_path: Path, series: SeriesKey, label: str, lines: list[str]
) -> None:
    cut = ExportCut.MONTH if series is FUNDING else ExportCut.DAY
    folder = store_archive(tmp_path, series, label, [lines[0], *lines[60:], *lines[1:60]])
    assert export_text(folder, series, cut) == "".join(lines)
    path = tmp_path / "out" / str(series) / f"BTCUSDT-{series.kind}-{label}.csv"
    assert path.parent.name == series.folder_name
    assert path.exists()


@pytest.mark.skipif(not SHARED_DATA.exists(), reason="the real data do not lie beside the repository")
@pytest.mark.parametrize("kind", ["fundingRate", "metrics"])
def test_real_rows_are_exported_as_published(tmp_path: Path, kind: str) -> None:
    for place, ((series, label), text) in enumerate(real_rows(kind).items()):
        header = FUNDING_HEADER if kind == "fundingRate" else METRICS_HEADER
        folder = store_archive(tmp_path / str(place), series, label, [header, text])
        assert export_text(folder, series) == header + text, (series, label)


def test_a_mark_price_is_a_further_column_where_one_is_known(tmp_path: Path) -> None:
    start = start_of("2024-02")
    span = Span(start, start + 24 * HOUR)
    columns = {
        "open_time": np.array([start + 3, start + 8 * HOUR, start + 16 * HOUR]),
        "interval_hours": np.array([8, 0, 8]),
        "rate": np.array([0.0001, -0.00025, 0.0]),
        "mark_price": np.array([np.nan, 42_313.9, np.nan]),
    }
    text = export_text(store_columns(tmp_path, FUNDING, span, columns), FUNDING)
    assert text.splitlines() == [
        "calc_time,funding_interval_hours,last_funding_rate,mark_price",
        f"{start + 3},8,0.0001,",
        f"{start + 8 * HOUR},,-0.00025,42313.9",
        f"{start + 16 * HOUR},8,0.0,",
    ]


numbers = st.one_of(st.just(float("nan")), st.just(-0.0), st.floats(allow_nan=False, allow_infinity=False))


@KINDS
@settings(max_examples=25)
@given(data=st.data())
def test_exported_cells_read_again_are_the_same(series: SeriesKey, data: st.DataObject) -> None:
    count = data.draw(st.integers(1, 6))
    start = start_of("2024-03-01")
    opens = start + np.arange(count) * (FIVE if series is METRICS else HOUR)
    columns: dict[str, Column] = {"open_time": opens}
    for name in fields_of(series)[1:]:
        if name == "create_time":
            columns[name] = opens + FIVE * data.draw(st.integers(0, 1))
        elif name == "interval_hours":
            columns[name] = np.array(data.draw(st.lists(st.integers(0, 8), min_size=count, max_size=count)))
        else:
            columns[name] = np.array(data.draw(st.lists(numbers, min_size=count, max_size=count)))
    with tempfile.TemporaryDirectory() as place:
        folder = store_columns(Path(place), series, Span(start, start + 24 * HOUR), columns)
        rows = read_text(export_text(folder, series))
    if series is METRICS:
        names = METRICS_SCHEMA.columns[1:]
        assert {row.pop(1) for row in rows} == {"BTCUSDT"}
        found = [[ms_of(row[0]), *map(number, row[1:])] for row in rows]
    else:
        names = FUNDING_SCHEMA.columns[: len(rows[0])]
        found = [[int(row[0]), int(row[1] or 0), *map(number, row[2:])] for row in rows]
        assert ("mark_price" in names) == (not np.isnan(columns["mark_price"]).all())
    for name, cells in zip(names, zip(*found, strict=True), strict=True):
        expected = columns[name].astype(COLUMN_DTYPES[name])
        is_blank = np.isnan(expected)
        read = np.array(cells, COLUMN_DTYPES[name])
        assert np.isnan(read).tolist() == is_blank.tolist()
        assert same_bits(read[~is_blank], expected[~is_blank]), name


@KINDS
@pytest.mark.parametrize("file_format", [ExportFormat.NPZ, ExportFormat.PARQUET, ExportFormat.ARROW])
def test_files_of_columns_have_every_bit(tmp_path: Path, series: SeriesKey, file_format: ExportFormat) -> None:
    header, lines, label = (
        (FUNDING_HEADER, settlements("2024-02"), "2024-02")
        if series is FUNDING
        else (METRICS_HEADER, five_minutes("2024-03-01", "end"), "2024-03-01")
    )
    folder = store_archive(tmp_path, series, label, [header, *lines])
    (file,) = export_series(folder, series, tmp_path / "out", file_format=file_format)
    with KlineCache(folder.root) as cache:
        held = cache.read_rows(series, Period.of_label(label).span)
    if file_format is ExportFormat.NPZ:
        with np.load(file.path) as loaded:
            found = {name: loaded[name] for name in loaded.files}
    else:
        pa = pytest.importorskip("pyarrow")
        content = io.BytesIO(file.path.read_bytes())
        if file_format is ExportFormat.PARQUET:
            table = pytest.importorskip("pyarrow.parquet").read_table(content)
        else:
            table = pa.ipc.open_file(content).read_all()
        found = {name: table.column(name).to_numpy() for name in table.column_names}
    assert tuple(found) == (fields_of(series) if series is FUNDING else held.column_names)
    for name, cells in found.items():
        column = held["time" if name == "open_time" and series is FUNDING else name]
        assert cells.astype(column.dtype).tobytes() == column.tobytes(), name

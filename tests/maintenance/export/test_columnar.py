"""Files of columns have every cell."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import numpy as np
import pytest

from ckvd.cache import CacheFolder, KlineCache
from ckvd.errors import ExportError
from ckvd.maintenance.export import ExportFormat
from ckvd.model.timespan import Span
from support.caches import export_one
from support.tables import BTCUSDT_1M

if TYPE_CHECKING:
    from pathlib import Path


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

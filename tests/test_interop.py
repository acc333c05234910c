"""Bars handed to pandas, polars and Arrow: the same cells, and the same memory where that is promised."""

from __future__ import annotations

import contextlib
import importlib
import sys
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from ckvd.cache import CacheFolder, SeriesStore, open_cache
from ckvd.errors import ExportError
from ckvd.timespan import Span
from models import HOUR_MS
from tables import BTCUSDT_1M, regular_table

if TYPE_CHECKING:
    from pathlib import Path

    from ckvd.klines import Klines

with contextlib.suppress(ImportError):
    # polars opens descriptors of its own when it is first used, and keeps them.
    importlib.import_module("polars").DataFrame({"a": [1]}).lazy().collect()

SPAN = Span(0, 24 * HOUR_MS)
METHODS = {"to_arrow": "pyarrow", "to_pandas": "pandas", "to_polars": "polars"}
TIMES = ("open_time", "close_time")


@pytest.fixture
def klines(tmp_path: Path) -> Klines:
    """A day of bars, read from one segment; `ignore` is the same in all of them."""
    SeriesStore(CacheFolder(tmp_path), BTCUSDT_1M).put(regular_table(BTCUSDT_1M, SPAN, ignore=0.0), SPAN)
    with open_cache(tmp_path) as cache:
        return cache.read("BTCUSDT", "1m", start=SPAN.start_ms, end=SPAN.end_ms)


def made(klines: Klines, method: str) -> dict[str, Any]:
    """The columns of what a method makes, as numpy arrays."""
    pytest.importorskip(METHODS[method])
    table = getattr(klines, method)()
    if method == "to_pandas":
        return {"open_time": table.index.to_numpy()} | {name: table[name].to_numpy() for name in table.columns}
    names = table.column_names if method == "to_arrow" else table.columns
    return {name: table[name].to_numpy() for name in names}


@pytest.mark.parametrize("method", METHODS)
def test_every_cell_and_every_name_arrives_in_order(klines: Klines, method: str) -> None:
    columns = made(klines, method)
    assert tuple(columns) == klines.column_names
    for name, column in columns.items():
        if name in TIMES:
            moments = [moment.timestamp() * 1000 if hasattr(moment, "timestamp") else None for moment in column[:3]]
            expected = klines[name][:3].tolist()
            assert moments == expected or column.astype("datetime64[ms]").astype(np.int64)[:3].tolist() == expected
        else:
            assert column.dtype == klines[name].dtype
            assert column.tobytes() == klines[name].tobytes()


@pytest.mark.parametrize("method", METHODS)
def test_stored_columns_are_not_copied(klines: Klines, method: str) -> None:
    if method == "to_polars":
        pytest.importorskip("pyarrow")
    columns = made(klines, method)
    for name in ("open", "close", "volume", "count"):
        assert np.shares_memory(columns[name], klines[name]), name


def test_times_are_in_utc(klines: Klines) -> None:
    pandas = pytest.importorskip("pandas")
    frame = klines.to_pandas()
    assert frame.index.name == "open_time"
    assert frame.index[1] == pandas.Timestamp("1970-01-01T00:01Z")
    assert str(frame["close_time"].dtype) == "datetime64[ms, UTC]"


@pytest.mark.parametrize(("method", "package"), METHODS.items())
def test_a_package_that_is_not_installed_is_named_with_its_remedy(
    klines: Klines, monkeypatch: pytest.MonkeyPatch, method: str, package: str
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ExportError, match=f"^{method} needs {package}, which is not installed: pip install "):
        getattr(klines, method)()


def test_polars_does_without_pyarrow(klines: Klines, monkeypatch: pytest.MonkeyPatch) -> None:
    polars = pytest.importorskip("polars")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    frame = klines.to_polars()
    assert frame["close"].to_list() == klines.close.tolist()
    assert frame.schema["open_time"] == polars.Datetime("ms", "UTC")

"""Columns by name, and tables of columns for pandas, polars and Arrow."""

from __future__ import annotations

import contextlib
import importlib
import sys
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from ckvd.cache import CacheFolder, SeriesStore, open_cache
from ckvd.errors import ColumnError, ExportError
from ckvd.model.market import SeriesKey
from ckvd.model.timespan import Span
from support.models import HOUR_MS
from support.tables import BTCUSDT_1M, make_table, regular_table

if TYPE_CHECKING:
    from pathlib import Path

    from ckvd.bars.columns import BarColumns, NamedColumns
    from ckvd.bars.klines import Klines
    from ckvd.bars.panel import Panel

with contextlib.suppress(ImportError):
    # polars opens file descriptors when it is first used, and keeps them.
    importlib.import_module("polars").DataFrame({"a": [1]}).lazy().collect()

START = "1970-01-01"
SPAN = Span(0, 4 * HOUR_MS)
ROW_COUNTS = {"klines": 240, "resampled": 4, "panel": 240}
DAY = Span(0, 24 * HOUR_MS)
METHODS = {"to_arrow": "pyarrow", "to_pandas": "pandas", "to_polars": "polars"}
TIMES = ("open_time", "close_time")


# --- By name -----------------------------------------------------------------------------------------------


@pytest.fixture(params=ROW_COUNTS)
def named(request: pytest.FixtureRequest, tmp_path: Path) -> NamedColumns:
    SeriesStore(CacheFolder(tmp_path), BTCUSDT_1M).put(regular_table(BTCUSDT_1M, SPAN), SPAN)
    with open_cache(tmp_path) as cache:
        if request.param == "panel":
            return cache.panel("BTCUSDT", "1m", START, "1970-01-01T04:00", ("close", "volume"))
        klines = cache.read("BTCUSDT", "1m", start=START, end="1970-01-01T04:00")
    return klines.resample("1h") if request.param == "resampled" else klines


def test_iteration_yields_the_names_of_the_columns_and_in_tests_for_a_name(named: NamedColumns) -> None:
    assert tuple(named) == named.keys() == named.column_names
    assert [*named][-1] in named
    assert "close" in named
    assert "Close" not in named
    assert 0 not in named


def test_a_dict_of_them_has_all_columns_by_name(named: NamedColumns) -> None:
    columns = dict(named)
    assert tuple(columns) == named.column_names
    assert all(columns[name] is named[name] for name in columns)
    assert {**named}.keys() == columns.keys()


def test_their_length_is_that_of_every_column(named: NamedColumns, request: pytest.FixtureRequest) -> None:
    (expected,) = (count for name, count in ROW_COUNTS.items() if name in request.node.name)
    assert {len(column) for column in dict(named).values()} == {len(named)} == {expected}


def test_numpy_treats_them_as_one_object_and_not_as_a_sequence_of_names(named: NamedColumns) -> None:
    assert np.asarray(named).shape == ()
    assert np.asarray(named).item() is named
    several = np.array([named, named], object)
    assert several.shape == (2,)
    assert several[1] is named
    assert not (np.arange(3) == named).any()
    with pytest.raises((TypeError, ValueError)):
        np.asarray(named, np.float64)


def test_pandas_treats_them_as_a_cell_and_not_as_a_column_of_names(named: NamedColumns) -> None:
    pandas = pytest.importorskip("pandas")
    assert pandas.Series([named, named])[1] is named
    assert pandas.Series({"here": named})["here"] is named
    with pytest.raises((TypeError, ValueError)):
        pandas.DataFrame(named)


def test_polars_does_not_make_a_frame_of_the_names(named: NamedColumns) -> None:
    polars = pytest.importorskip("polars")
    with pytest.raises(TypeError):
        polars.DataFrame(named)


# --- Tables ------------------------------------------------------------------------------------------------


@pytest.fixture
def klines(tmp_path: Path) -> Klines:
    """A day of bars, read from one segment; `ignore` is the same in all of them."""
    SeriesStore(CacheFolder(tmp_path), BTCUSDT_1M).put(regular_table(BTCUSDT_1M, DAY, ignore=0.0), DAY)
    with open_cache(tmp_path) as cache:
        return cache.read("BTCUSDT", "1m", start=START, end="1970-01-02")


@pytest.fixture(params=["as they are", "resampled"])
def bars(request: pytest.FixtureRequest, klines: Klines) -> BarColumns:
    return klines.resample("5m") if request.param == "resampled" else klines


@pytest.fixture
def panel(tmp_path: Path) -> Panel:
    """Three hours of two symbols; ETHUSDT lacks the first hour and the last."""
    span = Span(0, 3 * HOUR_MS)
    for symbol, opens in (("BTCUSDT", [0, HOUR_MS, 2 * HOUR_MS]), ("ETHUSDT", [HOUR_MS])):
        table = make_table(SeriesKey.of(symbol, "1h"), opens)
        SeriesStore(CacheFolder(tmp_path), table.series).put(table, span)
    with open_cache(tmp_path) as cache:
        return cache.panel(["ETHUSDT", "BTCUSDT"], "1h", START, "1970-01-01T03:00", ("close", "volume"))


def made(bars: BarColumns, method: str) -> dict[str, Any]:
    """The columns of the table that a method makes, as numpy arrays."""
    pytest.importorskip(METHODS[method])
    table = getattr(bars, method)()
    if method == "to_pandas":
        return {"open_time": table.index.to_numpy()} | {name: table[name].to_numpy() for name in table.columns}
    names = table.column_names if method == "to_arrow" else table.columns
    return {name: table[name].to_numpy() for name in names}


@pytest.mark.parametrize("method", METHODS)
def test_every_cell_and_every_name_arrives_in_order(bars: BarColumns, method: str) -> None:
    columns = made(bars, method)
    assert tuple(columns) == bars.column_names
    for name, column in columns.items():
        if name in TIMES:
            moments = [moment.timestamp() * 1000 if hasattr(moment, "timestamp") else None for moment in column[:3]]
            expected = bars[name][:3].tolist()
            assert moments == expected or column.astype("datetime64[ms]").astype(np.int64)[:3].tolist() == expected
        else:
            assert column.dtype == bars[name].dtype
            assert column.tobytes() == bars[name].tobytes()


@pytest.mark.parametrize("method", METHODS)
def test_stored_columns_are_not_copied(bars: BarColumns, method: str) -> None:
    if method == "to_polars":
        pytest.importorskip("pyarrow")
    columns = made(bars, method)
    for name in ("open", "close", "volume", "count"):
        assert np.shares_memory(columns[name], bars[name]), name


def test_times_are_in_utc(klines: Klines) -> None:
    pandas = pytest.importorskip("pandas")
    frame = klines.to_pandas()
    assert frame.index.name == "open_time"
    assert frame.index[1] == pandas.Timestamp("1970-01-01T00:01Z")
    assert str(frame["close_time"].dtype) == "datetime64[ms, UTC]"


@pytest.mark.parametrize(("method", "package"), METHODS.items())
def test_the_error_names_a_package_that_is_not_installed_and_how_to_install_it(
    bars: BarColumns, monkeypatch: pytest.MonkeyPatch, method: str, package: str
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ExportError, match=f"^{method} needs {package}, which is not installed: pip install "):
        getattr(bars, method)()


def test_polars_works_without_pyarrow(klines: Klines, monkeypatch: pytest.MonkeyPatch) -> None:
    polars = pytest.importorskip("polars")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    frame = klines.to_polars()
    assert frame["close"].to_list() == klines.close.tolist()
    assert frame.schema["open_time"] == polars.Datetime("ms", "UTC")


# --- Writing to a frame ------------------------------------------------------------------------------------


def test_a_copy_of_a_frame_can_be_written_to_and_the_bars_stay_as_they_are(bars: BarColumns) -> None:
    pytest.importorskip("pandas")
    close = bars["close"].tolist()
    frame = bars.to_pandas().copy()
    frame.loc[frame.index[0], "close"] = -1.0
    frame.iloc[1:3, frame.columns.get_loc("close")] = -2.0
    frame["close"] *= 2
    assert frame["close"].tolist() == [-2.0, -4.0, -4.0, *(2 * cell for cell in close[3:])]
    assert bars["close"].tolist() == close


def test_a_frame_takes_new_columns_and_writing_to_its_cells_never_reaches_the_bars(bars: BarColumns) -> None:
    pytest.importorskip("pandas")
    close = bars["close"].tolist()
    frame = bars.to_pandas()
    frame["twice"] = 2 * frame["close"]
    frame["open"] = frame["open"] + 1
    assert frame["twice"].tolist() == [2 * cell for cell in close]
    with contextlib.suppress(ValueError):
        frame.loc[frame.index[0], "close"] = -1.0
    assert bars["close"].tolist() == close


# --- A panel -----------------------------------------------------------------------------------------------


def test_a_column_of_a_panel_is_a_frame_with_a_column_for_each_symbol(panel: Panel) -> None:
    pandas = pytest.importorskip("pandas")
    frame = panel.to_pandas("volume")
    assert frame.shape == panel.volume.shape == (3, 2)
    assert tuple(frame.columns) == panel.symbols == ("ETHUSDT", "BTCUSDT")
    assert frame.index.name == "open_time"
    assert frame.index.tolist() == [pandas.Timestamp(hour * HOUR_MS, unit="ms", tz="UTC") for hour in range(3)]
    assert frame.to_numpy().tobytes() == panel.volume.tobytes()
    assert frame.isna().to_numpy().tolist() == [[True, False], [False, False], [True, False]]
    assert np.shares_memory(frame.to_numpy(), panel.volume)


def test_a_column_that_the_panel_was_made_without_is_refused(panel: Panel) -> None:
    with pytest.raises(ColumnError, match="no column 'open': it was made of close, volume"):
        panel.to_pandas("open")


def test_a_copy_of_the_frame_of_a_panel_can_be_written_to(panel: Panel) -> None:
    pytest.importorskip("pandas")
    frame = panel.to_pandas("close").copy()
    frame.loc[frame.index[0], "ETHUSDT"] = -1.0
    frame[frame > 0] = 0.0
    assert frame["ETHUSDT"].tolist()[:2] == [-1.0, 0.0]
    assert np.isnan(panel.close[0, 0])


def test_the_error_of_a_panel_without_pandas_names_it(panel: Panel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(ExportError, match="to_pandas needs pandas, which is not installed"):
        panel.to_pandas("close")

"""Columns that are found by name: a dict to those who ask for names, one object to numpy and pandas."""

from __future__ import annotations

import contextlib
import importlib
from typing import TYPE_CHECKING

import numpy as np
import pytest

from ckvd.cache import CacheFolder, SeriesStore, open_cache
from ckvd.model.timespan import Span
from support.models import HOUR_MS
from support.tables import BTCUSDT_1M, regular_table

if TYPE_CHECKING:
    from pathlib import Path

    from ckvd.bars.columns import NamedColumns

with contextlib.suppress(ImportError):
    # polars opens descriptors of its own when it is first used, and keeps them.
    importlib.import_module("polars").DataFrame({"a": [1]}).lazy().collect()

SPAN = Span(0, 4 * HOUR_MS)
ROW_COUNTS = {"klines": 240, "resampled": 4, "panel": 240}


@pytest.fixture(params=ROW_COUNTS)
def bars(request: pytest.FixtureRequest, tmp_path: Path) -> NamedColumns:
    SeriesStore(CacheFolder(tmp_path), BTCUSDT_1M).put(regular_table(BTCUSDT_1M, SPAN), SPAN)
    with open_cache(tmp_path) as cache:
        if request.param == "panel":
            return cache.panel("BTCUSDT", "1m", SPAN.start_ms, SPAN.end_ms, ("close", "volume"))
        klines = cache.read("BTCUSDT", "1m", start=SPAN.start_ms, end=SPAN.end_ms)
    return klines.resample("1h") if request.param == "resampled" else klines


def test_iteration_goes_over_the_names_of_the_columns_and_in_asks_for_one(bars: NamedColumns) -> None:
    assert tuple(bars) == bars.keys() == bars.column_names
    assert [*bars][-1] in bars
    assert "close" in bars
    assert "Close" not in bars
    assert 0 not in bars


def test_a_dict_of_it_is_all_columns_by_name(bars: NamedColumns) -> None:
    columns = dict(bars)
    assert tuple(columns) == bars.column_names
    assert all(columns[name] is bars[name] for name in columns)
    assert {**bars}.keys() == columns.keys()


def test_its_length_is_that_of_every_column(bars: NamedColumns, request: pytest.FixtureRequest) -> None:
    (expected,) = (count for name, count in ROW_COUNTS.items() if name in request.node.name)
    assert {len(column) for column in dict(bars).values()} == {len(bars)} == {expected}


def test_to_numpy_it_is_one_object_and_no_sequence_of_names(bars: NamedColumns) -> None:
    assert np.asarray(bars).shape == ()
    assert np.asarray(bars).item() is bars
    several = np.array([bars, bars], object)
    assert several.shape == (2,)
    assert several[1] is bars
    assert not (np.arange(3) == bars).any()
    with pytest.raises((TypeError, ValueError)):
        np.asarray(bars, np.float64)


def test_to_pandas_it_is_a_cell_and_no_column_of_names(bars: NamedColumns) -> None:
    pandas = pytest.importorskip("pandas")
    assert pandas.Series([bars, bars])[1] is bars
    assert pandas.Series({"here": bars})["here"] is bars
    with pytest.raises((TypeError, ValueError)):
        pandas.DataFrame(bars)


def test_to_polars_it_is_no_frame_of_names(bars: NamedColumns) -> None:
    polars = pytest.importorskip("polars")
    with pytest.raises(TypeError):
        polars.DataFrame(bars)

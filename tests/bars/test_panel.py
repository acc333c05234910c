"""Panels, compared with dicts of bars."""

from __future__ import annotations

import copy
import math
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, assert_type

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ckvd.bars import panel as panel_module
from ckvd.cache import CacheFolder, SeriesStore, open_cache
from ckvd.errors import ColumnError, IdentityError, NotCachedError, PanelArrayError
from ckvd.model.grid import Grid
from ckvd.model.market import Interval, SeriesKey
from ckvd.model.timespan import Span
from support.models import DAY_MS, HOUR_MS, MINUTE_MS, bar_end, bar_starts
from support.strategies import moments, open_times
from support.tables import make_table, regular_table

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ckvd.bars.panel import Panel
    from ckvd.model.table import KlineTable

DAY = Span(0, DAY_MS)
DATES = ("1970-01-01", "1970-01-02")


def put(root: Path, table: KlineTable, span: Span) -> None:
    SeriesStore(CacheFolder(root), table.series).put(table, span)


def at(moment_ms: int) -> np.datetime64:
    return np.datetime64(moment_ms, "ms")


def hours(symbol: str, opens: Sequence[int] | None = None) -> KlineTable:
    series = SeriesKey.of(symbol, "1h")
    return regular_table(series, DAY) if opens is None else make_table(series, opens)


@pytest.fixture(params=[0, 1 << 60], ids=["in threads", "in one thread"])
def cells_min(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """The number of cells for each symbol from which on threads are used."""
    monkeypatch.setattr(panel_module, "PANEL_THREAD_CELLS_MIN", request.param)


@pytest.mark.usefixtures("cells_min")
@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data(), st.sampled_from([Interval.M1, Interval.H1, Interval.D3, Interval.W1, Interval.MO1]))
def test_every_cell_is_that_of_a_dict_of_the_bars(data: st.DataObject, interval: Interval) -> None:
    start_ms = end_ms = data.draw(moments()) // 1000 * 1000
    for _ in range(data.draw(st.integers(1, 12))):
        end_ms = bar_end(end_ms, interval)
    span = Span(start_ms, end_ms)
    cut_ms = data.draw(st.integers(start_ms // 1000, end_ms // 1000)) * 1000
    bars: list[dict[int, tuple[float, float]]] = []
    with tempfile.TemporaryDirectory() as folder:
        symbols = ["AUSDT", "BUSDT", "CUSDT"]
        for symbol in symbols:
            opens = data.draw(open_times(span, interval))
            if interval is Interval.D3:
                shift_ms = data.draw(st.integers(0, 2)) * DAY_MS
                opens = [open_ms + shift_ms for open_ms in opens if open_ms + shift_ms in span]
            table = make_table(SeriesKey.of(symbol, interval), opens)
            cells = zip(table.columns["close"].tolist(), table.columns["count"].tolist(), strict=True)
            bars.append(dict(zip(opens, cells, strict=True)))
            split = int(table.open_time.searchsorted(cut_ms))
            for part, rows in (
                (Span(start_ms, cut_ms), table.rows(0, split)),
                (Span(cut_ms, end_ms), table.rows(split, len(opens))),
            ):
                if part:
                    put(Path(folder), rows, part)
        with open_cache(folder) as cache:
            panel = cache.panel(symbols, interval, at(start_ms), at(end_ms), ("close", "count"))
    grids = [points_of(sorted(of_symbol), span, interval) for of_symbol in bars]
    rows_ms = sorted({point for points in grids for point in points})
    assert panel.open_time.tolist() == rows_ms
    for column, (of_symbol, points) in enumerate(zip(bars, grids, strict=True)):
        on_grid = {open_ms: cells for open_ms, cells in of_symbol.items() if open_ms in points}
        assert panel.off_grid_counts[column] == len(of_symbol) - len(on_grid)
        for row, open_ms in enumerate(rows_ms):
            assert panel.mask[row, column] == (open_ms in on_grid)
            close, count = on_grid.get(open_ms, (math.nan, math.nan))
            assert np.array_equal(panel.close[row, column], close, equal_nan=True)
            assert np.array_equal(panel["count"][row, column], count, equal_nan=True)


def points_of(opens: Sequence[int], span: Span, interval: Interval) -> list[int]:
    """The points of a symbol's grid in a span."""
    if interval is not Interval.D3:
        return bar_starts(span, interval)
    grid = Grid.of_bars(interval, np.array(opens, np.int64))
    return grid.opens(span).tolist() if grid.is_known else []


@pytest.mark.usefixtures("cells_min")
def test_an_uncached_symbol_is_an_error_or_a_column_of_nan(tmp_path: Path) -> None:
    put(tmp_path, hours("AUSDT"), DAY)
    with open_cache(tmp_path) as cache:
        with pytest.raises(NotCachedError, match="BUSDT"):
            cache.panel(["AUSDT", "BUSDT"], "1h", *DATES)
        panel = cache.panel(["AUSDT", "BUSDT"], "1h", *DATES, missing="ignore")
    assert panel.mask.sum(axis=0).tolist() == [24, 0]
    assert np.isnan(panel.close[:, 1]).all()


def test_a_masked_array_takes_the_inverted_mask(tmp_path: Path) -> None:
    put(tmp_path, hours("AUSDT"), DAY)
    put(tmp_path, hours("BUSDT", [0, 5 * HOUR_MS]), DAY)
    with open_cache(tmp_path) as cache:
        panel = cache.panel(["AUSDT", "BUSDT"], "1h", *DATES)
    masked = np.ma.array(panel.close, mask=~panel.mask)
    assert masked.count(axis=0).tolist() == panel.mask.sum(axis=0).tolist() == [24, 2]
    assert masked[:, 1].compressed().tolist() == [400.0, 401.0]
    assert masked.mean(axis=0).tolist() == np.nanmean(panel.close, axis=0).tolist()


def test_a_panel_is_independent_of_its_cache_and_read_only(tmp_path: Path) -> None:
    put(tmp_path, hours("AUSDT", [HOUR_MS, 2 * HOUR_MS + 1]), DAY)
    with open_cache(tmp_path) as cache:
        panel = cache.panel("AUSDT", "1h", "1970-01-01", "1970-01-01T04:00", ["open", "volume"])
    assert panel.open.flags.owndata
    assert panel.open[:, 0].flags.c_contiguous
    assert repr(panel) == "<Panel 1h 1970-01-01..1970-01-01T04:00Z: 4 open times x 1 symbols, open, volume>"
    assert panel.symbols == ("AUSDT",)
    assert panel.off_grid_counts.tolist() == [1]
    for array in (panel.open_time, panel.open, panel.volume, panel.mask, panel.off_grid_counts):
        assert not array.flags.writeable
    with pytest.raises(ColumnError, match="no column 'close': it was made of open, volume"):
        panel["close"]
    with pytest.raises(AttributeError, match="no attribute 'close': the panel has no column 'close'"):
        _ = panel.close
    with pytest.raises(AttributeError, match="object has no attribute 'clsoe'"):
        _ = panel.clsoe  # type: ignore[attr-defined]
    assert {"open", "volume", "mask"} <= set(dir(panel))
    assert {"close", "count", "base_volume"}.isdisjoint(dir(panel))
    assert not hasattr(panel, "close")
    assert_type(panel.open, npt.NDArray[np.float64])
    assert copy.copy(panel).open is panel.open


def test_a_span_without_a_point_of_the_grid_gives_no_rows(tmp_path: Path) -> None:
    put(tmp_path, hours("AUSDT", [MINUTE_MS]), DAY)
    with open_cache(tmp_path) as cache:
        panel = cache.panel(["AUSDT"], "1h", "1970-01-01T00:00:00.001", "1970-01-01T00:59:59.999")
    assert panel.close.shape == (0, 1)
    assert panel.off_grid_counts.tolist() == [1]


@pytest.mark.parametrize("column", ["open_time", "base_volume", "Close"])
def test_an_unknown_column_is_refused_before_anything_is_read(tmp_path: Path, column: str) -> None:
    with open_cache(tmp_path) as cache, pytest.raises(ColumnError, match="for a panel: expected one of open, high"):
        cache.panel(["AUSDT"], "1h", *DATES, [column])


def test_one_column_may_be_given_as_text(tmp_path: Path) -> None:
    put(tmp_path, hours("AUSDT"), DAY)
    with open_cache(tmp_path) as cache:
        one = cache.panel("AUSDT", "1h", *DATES, "volume")
        with pytest.raises(ColumnError, match="no column 'Close' for a panel"):
            cache.panel("AUSDT", "1h", *DATES, "Close")
    assert one.column_names == ("volume",)
    assert one.volume.shape == (24, 1)


def test_columns_may_come_from_an_iterator(tmp_path: Path) -> None:
    for symbol in ("AUSDT", "BUSDT"):
        put(tmp_path, hours(symbol), DAY)
    with open_cache(tmp_path) as cache:
        panel = cache.panel(["AUSDT", "BUSDT"], "1h", *DATES, iter(["close", "count"]))
    assert panel.column_names == ("close", "count")


def test_symbols_keep_their_order_and_a_symbol_given_twice_has_two_columns(tmp_path: Path) -> None:
    put(tmp_path, hours("AUSDT"), DAY)
    put(tmp_path, hours("BUSDT", [0]), DAY)
    with open_cache(tmp_path) as cache:
        panel = cache.panel(["BUSDT", "AUSDT", "BUSDT"], "1h", *DATES)
    assert panel.symbols == ("BUSDT", "AUSDT", "BUSDT")
    assert panel.mask.sum(axis=0).tolist() == [1, 24, 1]
    assert panel.close[0].tolist() == [400.0, 400.0, 400.0]


def test_no_symbols_are_refused(tmp_path: Path) -> None:
    with open_cache(tmp_path) as cache, pytest.raises(IdentityError, match="at least one symbol"):
        cache.panel([], "1h", *DATES)


# --- Bars that traded --------------------------------------------------------------------------------------


@pytest.mark.usefixtures("cells_min")
def test_bars_that_did_not_trade_are_left_out_if_only_traded_ones_are_wanted(tmp_path: Path) -> None:
    quiet = hours("AUSDT", [0, HOUR_MS, 2 * HOUR_MS + 1, 3 * HOUR_MS, 4 * HOUR_MS])
    quiet.columns["volume"][:] = [1, 0, 0, 0, 0]
    quiet.columns["count"][:] = [1, 0, 0, 3, 0]
    put(tmp_path, quiet, DAY)
    put(tmp_path, hours("BUSDT"), DAY)
    with open_cache(tmp_path) as cache:
        panel = cache.panel(["AUSDT", "BUSDT"], "1h", *DATES, ["close", "volume"], traded=True)
        every = cache.panel(["AUSDT", "BUSDT"], "1h", *DATES, ["close", "volume"])
        klines = cache.read("AUSDT", "1h", start=DATES[0], end=DATES[1])
    assert np.flatnonzero(panel.mask[:, 0]).tolist() == [0, 3]
    assert np.flatnonzero(every.mask[:, 0]).tolist() == [0, 1, 3, 4]
    assert panel.mask[:, 1].all()
    assert panel.off_grid_counts.tolist() == every.off_grid_counts.tolist() == [1, 0]
    for name in ("close", "volume"):
        assert np.array_equal(panel[name], np.where(panel.mask, every[name], np.nan), equal_nan=True)
    assert klines.traded.tolist() == [True, False, False, True, False]


@pytest.mark.usefixtures("cells_min")
def test_a_full_grid_of_bars_that_did_not_trade_is_empty(tmp_path: Path) -> None:
    table = hours("AUSDT")
    table.columns["volume"][:] = table.columns["count"][:] = 0
    put(tmp_path, table, DAY)
    with open_cache(tmp_path) as cache:
        panel = cache.panel("AUSDT", "1h", *DATES, traded=True)
    assert not panel.mask.any()
    assert np.isnan(panel.close).all()


def test_prices_that_are_sampled_cannot_be_asked_for_trades(tmp_path: Path) -> None:
    series = SeriesKey.of("BTCUSDT", "1h", market="um", kind="markPriceKlines")
    put(tmp_path, regular_table(series, DAY), DAY)
    with open_cache(tmp_path) as cache, pytest.raises(ColumnError, match="has no trades"):
        cache.panel("BTCUSDT", "1h", *DATES, market="um", kind="markPriceKlines", traded=True)


# --- Arrays and types of the caller ------------------------------------------------------------------------


@pytest.fixture
def three(tmp_path: Path) -> Path:
    """A whole symbol, one in two segments with holes and bars off the grid, and one with every other hour."""
    put(tmp_path, hours("AUSDT"), DAY)
    ragged = hours("BUSDT", [HOUR_MS, 2 * HOUR_MS, 3 * HOUR_MS + 1, 5 * HOUR_MS, 13 * HOUR_MS, 14 * HOUR_MS])
    put(tmp_path, ragged.rows(0, 4), Span(0, DAY_MS // 2))
    put(tmp_path, ragged.rows(4, 6), Span(DAY_MS // 2, DAY_MS))
    put(tmp_path, hours("CUSDT", range(0, DAY_MS, 2 * HOUR_MS)), DAY)
    return tmp_path


SYMBOLS = ["AUSDT", "BUSDT", "CUSDT"]


def assert_same_panel(found: Panel, expected: Panel, dtype: npt.DTypeLike = np.float64) -> None:
    assert found.column_names == expected.column_names
    for name in expected:
        assert found[name].dtype == dtype
        assert np.array_equal(found[name], expected[name].astype(dtype), equal_nan=True)
    for name in ("mask", "reasons", "off_grid_counts", "open_time"):
        assert np.array_equal(getattr(found, name), getattr(expected, name))


@pytest.mark.usefixtures("cells_min")
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("traded", [False, True])
def test_what_is_written_to_the_callers_arrays_is_the_same_panel(
    three: Path, dtype: type[np.floating], order: Literal["C", "F"], traded: bool
) -> None:
    names = ("close", "count")
    with open_cache(three) as cache:
        expected = cache.panel(SYMBOLS, "1h", *DATES, names, traded=traded)
        # Full of what was there before: each cell is written.
        out = {name: np.full((24, 3), 7.5, dtype, order=order) for name in names}
        for _ in range(2):
            panel = cache.panel(SYMBOLS, "1h", *DATES, names, traded=traded, out=out)
            assert_same_panel(panel, expected, dtype)
        for name in names:
            assert np.shares_memory(panel[name], out[name])
            assert not panel[name].flags.writeable
            assert out[name].flags.writeable
        assert_same_panel(cache.panel(SYMBOLS, "1h", *DATES, names, traded=traded, dtype=dtype), expected, dtype)


def test_one_array_is_that_of_the_only_column_and_may_be_a_part_of_another(three: Path) -> None:
    whole = np.full((24, 3, 2), -1.0)
    with open_cache(three) as cache:
        expected = cache.panel(SYMBOLS, "1h", *DATES, ("close", "open"))
        cache.panel(SYMBOLS, "1h", *DATES, "close", out=whole[:, :, 0])
        assert np.array_equal(whole[:, :, 0], expected.close, equal_nan=True)
        assert (whole[:, :, 1] == -1).all()
        out = {"close": whole[:, :, 0], "open": whole[:, :, 1]}
        cache.panel(SYMBOLS, "1h", *DATES, ("close", "open"), out=out)
    assert np.array_equal(whole[:, :, 1], expected.open, equal_nan=True)


GOOD = np.zeros((24, 3))


@pytest.mark.parametrize(
    ("columns", "options", "message"),
    [
        ("close", {"out": np.zeros((3, 24))}, r"out for close has the shape \(3, 24\): expected \(24, 3\)"),
        ("close", {"out": np.zeros((24, 3), np.int64)}, "is of type int64: expected float64 or float32"),
        ("close", {"out": np.zeros((24, 3), ">f8")}, "is of type >f8: expected float64 or float32"),
        ("close", {"out": GOOD, "dtype": np.float32}, "is of type float64: expected float32"),
        ("close", {"out": np.broadcast_to(0.0, (24, 3))}, "is read-only: pass an array that may be written"),
        ("close", {"out": {"close": [1.0]}}, "no array for close, but one list"),
        ("close", {"out": {"open": GOOD}}, "out has arrays for open: expected close"),
        ("close", {"out": {}}, "out has arrays for nothing: expected close"),
        (("open", "close"), {"out": GOOD}, "one array, for the columns open, close: pass a mapping"),
        (("open", "close"), {"out": {"open": GOOD, "close": GOOD}}, "the same memory for open and close"),
        (("open", "close"), {"out": {"open": GOOD, "close": GOOD[::-1]}}, "the same memory for open and close"),
        ("close", {"dtype": np.int64}, "no cells of type int64: expected float64 or float32"),
        ("close", {"dtype": "number"}, "'number' is no type of cells"),
        ("close_time", {"dtype": np.float32}, "close_time has more digits than float32"),
    ],
)
def test_an_array_or_type_that_does_not_fit_is_refused_before_anything_is_written(
    three: Path, columns: str | tuple[str, ...], options: dict[str, Any], message: str
) -> None:
    with open_cache(three) as cache, pytest.raises(PanelArrayError, match=message):
        cache.panel(SYMBOLS, "1h", *DATES, columns, **options)
    assert not GOOD.any()


def test_a_segment_with_more_runs_than_are_kept_is_placed_all_the_same(tmp_path: Path) -> None:
    """Every other minute of a day: as many runs as bars."""
    series = SeriesKey.of("AUSDT", "1m")
    opens = range(0, DAY_MS, 2 * MINUTE_MS)
    put(tmp_path, make_table(series, opens), DAY)
    with open_cache(tmp_path) as cache:
        panels = [cache.panel("AUSDT", "1m", *DATES) for _ in range(2)]
        closes = cache.read("AUSDT", "1m", start=DATES[0], end=DATES[1]).close
    for panel in panels:
        assert np.flatnonzero(panel.mask[:, 0]).tolist() == list(range(0, 1440, 2))
        assert np.array_equal(panel.close[::2, 0], closes)
        assert np.isnan(panel.close[1::2]).all()

"""Bars that no market can make: `impossible_bars`, and the rules that they break. Pure.

Such bars are as the source published them, and are kept. None of the 1.47 million real bars that ckvd was tested
with breaks a rule.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from ckvd.model.market import Kind
from ckvd.model.table import fields_of

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import numpy.typing as npt

    from ckvd.model.market import SeriesKey
    from ckvd.model.table import Column

# Rows compared at a time: their columns stay in the processor's cache from rule to rule.
_CHUNK_ROWS: Final = 1 << 14


def impossible_bars(column: Callable[[str], Column], series: SeriesKey) -> npt.NDArray[np.bool_]:
    """Which bars break a rule.

    Parameters
    ----------
    column : callable
        Returns a column of the bars by name, of shape (n,).
    series : SeriesKey

    Returns
    -------
    ndarray of bool, shape (n,)
        Where any rule of `broken_rules` is broken. This is faster: it leaves out what follows from the rest. Rows
        of kinds without bars break none.
    """
    if not series.kind.is_bars:
        return np.zeros(len(column("open_time")), np.bool_)
    cells = [column(name) for name in fields_of(series)[:-1]]
    row_count = len(cells[0])
    broken = np.empty(row_count, np.bool_)
    for start in range(0, row_count, _CHUNK_ROWS):
        rows = slice(start, start + _CHUNK_ROWS)
        broken[rows] = _impossible([column[rows] for column in cells], series.kind)
    return broken


def _impossible(cells: Sequence[Column], kind: Kind) -> npt.NDArray[np.bool_]:
    opens, first, high, low, last, volume, closes, value, count, taker_volume, taker_value = cells
    # The low is then also the lowest of the prices, and not above the high.
    broken: npt.NDArray[np.bool_] = low > first
    broken |= low > last
    broken |= high < first
    broken |= high < last
    broken |= closes < opens
    if kind is not Kind.PREMIUM_INDEX:
        broken |= low <= 0
    if kind is Kind.KLINES:
        broken |= taker_volume > volume
        broken |= taker_value > value
        broken |= taker_volume < 0
        broken |= taker_value < 0
        broken |= count < 0
        is_empty = volume == 0
        if is_empty.any():
            broken |= is_empty & (count > 0)
    return broken


def broken_rules(column: Callable[[str], Column], series: SeriesKey) -> dict[str, npt.NDArray[np.bool_]]:
    """For each rule, which bars break it. A bar may break several.

    The rules for volumes and trades are for klines: the volumes of other kinds mean nothing. Premium index prices
    may be zero or negative. `quote_volume` may be zero beside a volume: both are rounded.

    Parameters
    ----------
    column : callable
        Returns a column of the bars by name, of shape (n,).
    series : SeriesKey

    Returns
    -------
    dict of str to ndarray of bool, shape (n,)
        By the name of the rule, in words.
    """
    cells = [column(name) for name in fields_of(series)[:-1]]
    opens, first, high, low, last, volume, closes, value, count, taker_volume, taker_value = cells
    broken = {
        "a high that is not the highest": (high < first) | (high < last) | (high < low),
        "a low that is not the lowest": (low > first) | (low > last),
        "closes before it opens": closes < opens,
    }
    if series.kind is not Kind.PREMIUM_INDEX:
        broken["a price of zero or below"] = (first <= 0) | (high <= 0) | (low <= 0) | (last <= 0)
    if series.kind is Kind.KLINES:
        broken |= {
            "takers bought more than was traded": (taker_volume > volume) | (taker_value > value),
            "a negative volume or count": (
                (volume < 0) | (value < 0) | (count < 0) | (taker_volume < 0) | (taker_value < 0)
            ),
            "trades without a volume": (volume == 0) & (count > 0),
        }
    return broken

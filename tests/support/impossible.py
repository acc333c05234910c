"""What no market can make: the rules of impossible bars, one after the other, for a single bar."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ckvd.model.market import Kind
from ckvd.model.table import fields_of

if TYPE_CHECKING:
    from ckvd.model.table import KlineTable


def is_impossible(table: KlineTable, row: int) -> bool:
    opens, first, high, low, last, volume, closes, value, count, taker_volume, taker_value, _ = (
        table.columns[name].tolist()[row] for name in fields_of(table.series)
    )
    prices = [first, high, low, last]
    if high != max(prices) or low != min(prices) or closes < opens:
        return True
    if table.series.kind is not Kind.PREMIUM_INDEX and low <= 0:
        return True
    if table.series.kind is not Kind.KLINES:
        return False
    amounts = [volume, value, count, taker_volume, taker_value]
    is_too_much = taker_volume > volume or taker_value > value
    return min(amounts) < 0 or is_too_much or bool(count and not volume)

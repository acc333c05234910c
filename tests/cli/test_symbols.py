"""Symbols from a file, and the series that they mean."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ckvd.cli.symbols import parse_symbols, read_symbols, resolve_series
from ckvd.errors import CacheError, IdentityError
from ckvd.model.market import Interval, Kind, Market, SeriesKey

if TYPE_CHECKING:
    from pathlib import Path

SYMBOLS = st.text("ABC0_", min_size=1, max_size=6)
BETWEEN = st.sampled_from([" ", ",", ", ", "\n", "\r\n", "\n\n", "\t", " # said\n", "\n# X, Y\n", ",\n"])


@given(st.lists(st.tuples(SYMBOLS, BETWEEN), min_size=1))
def test_every_symbol_is_found_once_and_in_order_whatever_stands_between(words: list[tuple[str, str]]) -> None:
    text = "".join(symbol + between for symbol, between in words)
    expected: list[str] = []
    for symbol, _ in words:
        if symbol not in expected:
            expected.append(symbol)
    assert parse_symbols(text.encode(), "file") == expected


def test_a_byte_order_mark_and_names_that_are_not_ascii_are_read() -> None:
    content = "\N{BYTE ORDER MARK}BTCUSDT\n币安人生USDT # new\n".encode()
    assert parse_symbols(content, "file") == ["BTCUSDT", "币安人生USDT"]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"BTCUSDT\n\nETH/USDT\n", "pairs.txt, line 3: symbol 'ETH/USDT' cannot name a folder"),
        (b"BTCUSDT\nethusdt # lower\n", "pairs.txt, line 2: symbol 'ethusdt' has lower-case letters"),
        (b"BTCUSDT\n\xff\xfe\n", "pairs.txt, line 2: it is no UTF-8 text"),
        (b"# nothing\n\n", "pairs.txt: it names no symbol; expected one a line"),
        (b"", "pairs.txt: it names no symbol"),
    ],
)
def test_what_is_wrong_is_said_with_file_and_line(content: bytes, said: str) -> None:
    with pytest.raises(IdentityError) as caught:
        parse_symbols(content, "pairs.txt")
    assert said in str(caught.value)


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(CacheError, match=r"pairs\.txt: cannot be read: No such file"):
        read_symbols(tmp_path / "pairs.txt")


def test_each_symbol_at_each_interval_is_a_series_once() -> None:
    series = resolve_series(
        ["BTCUSDT", "ETHUSDT", "BTCUSDT"], [Interval.M1, Interval.H1], market=Market.UM, kind=Kind.KLINES
    )
    assert series == [
        SeriesKey.of(symbol, interval, market="um")
        for symbol in ("BTCUSDT", "ETHUSDT")
        for interval in ("1m", "1h")
    ]

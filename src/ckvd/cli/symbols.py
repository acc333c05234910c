"""Which series a command is about: symbols from its arguments and from a file, and `resolve_series`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final

from ckvd.errors import IdentityError, cannot
from ckvd.model.market import require_symbol, series_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ckvd.model.market import Interval, Kind, Market, SeriesKey

STANDARD_INPUT: Final = Path("-")


def resolve_series(
    symbols: Sequence[str], intervals: Sequence[Interval], *, market: Market, kind: Kind
) -> list[SeriesKey]:
    """The series that symbols and intervals mean: each symbol at each interval, each series once. Pure.

    Funding rates and metrics need no interval.

    Raises
    ------
    IdentityError
        A symbol is none, or the market has no such bars.
    """
    return series_of(symbols, intervals or None, market=market, kind=kind)


def read_symbols(path: Path) -> list[str]:
    """Read the symbols of a file, or of standard input for `-`. Errors: see `parse_symbols`.

    Raises
    ------
    CacheError
        The file cannot be read.
    """
    try:
        content = sys.stdin.buffer.read() if path == STANDARD_INPUT else path.read_bytes()
    except OSError as error:
        raise cannot("be read", path, error) from error
    return parse_symbols(content, "standard input" if path == STANDARD_INPUT else str(path))


def parse_symbols(content: bytes, name: str) -> list[str]:
    """The symbols in the text of a file, in order, each once. Pure.

    Blanks, commas and line ends stand between them, and `#` begins a comment.

    Parameters
    ----------
    content : bytes
        UTF-8.
    name : str
        Of the file, for messages.

    Raises
    ------
    IdentityError
        A word is no symbol, the file is no text, or it names no symbol. The message gives the file and the line.
    """
    found: dict[str, None] = {}
    for number, line in enumerate(content.splitlines(), start=1):
        try:
            words = line.decode("utf-8-sig" if number == 1 else "utf-8").partition("#")[0].replace(",", " ").split()
            for word in words:
                require_symbol(word)
        except UnicodeDecodeError as error:
            raise IdentityError(f"{name}, line {number}: it is no UTF-8 text: {error.reason}") from error
        except IdentityError as error:
            raise IdentityError(f"{name}, line {number}: {error}") from error
        found |= dict.fromkeys(words)
    if not found:
        raise IdentityError(f"{name}: it names no symbol; expected one a line, such as BTCUSDT")
    return list(found)

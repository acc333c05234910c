"""Which series a command is about: symbols from its arguments, a file or the universe, and `resolve_series`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final

from ckvd.cache.kline_cache import KlineCache
from ckvd.errors import IdentityError, cannot
from ckvd.model.market import Kind, pair_of, require_symbol, series_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ckvd.cache.folder import CacheFolder
    from ckvd.model.market import Interval, Market, SeriesKey
    from ckvd.model.timespan import Span

STANDARD_INPUT: Final = Path("-")
_PATTERN_MARKS: Final = frozenset("*?[")


def resolve_series(
    symbols: Sequence[str], intervals: Sequence[Interval], *, market: Market, kind: Kind
) -> list[SeriesKey]:
    """The series of some symbols: each symbol at each interval, each series once. Pure.

    Funding rates and metrics need no interval.

    Raises
    ------
    IdentityError
        A symbol is none, or the market has no such bars.
    """
    # Index prices are those of a pair.
    names = map(pair_of, symbols) if kind is Kind.INDEX_PRICE else symbols
    return series_of(names, intervals or None, market=market, kind=kind)


def choose_symbols(
    folder: CacheFolder, named: Sequence[str], span: Span, *, market: Market, quote: Sequence[str]
) -> list[str]:
    """The symbols that names and patterns mean, with the help of the universe.

    A pattern means the symbols that were listed at any time in the span, by the newest snapshot in the cache. With
    a quote, every name is a pattern, and without names all symbols are meant.

    Raises
    ------
    NoSnapshotError
        The cache has no snapshot of the market. The error says how to make one.
    IdentityError
        A pattern means no symbol.
    SnapshotError, CacheError
        The snapshot is damaged or cannot be read.
    """
    if not quote and not any(map(_is_pattern, named)):
        return list(named)
    with KlineCache(folder.root) as cache:
        listed = cache.universe(market, start=span.start_ms, end=span.end_ms, quote=quote or None)
    chosen: list[str] = []
    for name in named or ["*"]:
        if not quote and not _is_pattern(name):
            chosen.append(name)
            continue
        found = listed.filter(names=name.upper()).symbols
        if not found:
            of_quote = f" of quote {', '.join(quote)}" if quote else ""
            raise IdentityError(
                f"{name!r} means no symbol of {market}{of_quote} that was listed in {span}, by the snapshot "
                f"{listed.snapshot}; make a new one with ckvd universe refresh --market {market}"
            )
        chosen += found
    return list(dict.fromkeys(chosen))


def _is_pattern(name: str) -> bool:
    return not _PATTERN_MARKS.isdisjoint(name)


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

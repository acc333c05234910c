"""New listings of a market that a cache follows: `find_new_listings`. Pure.

A cache follows a market in the ways in which it holds symbols of it: at some kinds and intervals, of some quotes
and contract types. A new listing is a life that began since the cache began to follow, that is alike, and that the
cache does not hold.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ckvd.model.market import Kind, SeriesKey, pair_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from ckvd.model.life import Life


def find_new_listings(
    held: Iterable[SeriesKey], lives: Sequence[Life], *, since_ms: int, until_ms: int
) -> list[tuple[SeriesKey, Life]]:
    """Find the series that a cache should have beside those that it has.

    Parameters
    ----------
    held : iterable of SeriesKey
        What the cache holds of one market.
    lives : sequence of Life
        Those of that market, by the newest snapshot.
    since_ms : int
        When the cache began to follow the market. Older lives are not new, held or not.
    until_ms : int
        The present: a life that is announced for later has no bars.

    Returns
    -------
    list of (SeriesKey, Life)
        In order of the lives. Not what nobody trades any more.
    """
    known = set(held)
    symbols = {key.symbol for key in known}
    alike = {(life.quote, life.contract) for life in lives if life.symbol in symbols}
    ways = sorted({(key.kind, key.interval or "") for key in known})
    found = []
    for life in lives:
        is_new = since_ms <= life.first_ms < until_ms and (life.end_ms is None or life.end_ms > until_ms)
        if not is_new or (life.quote, life.contract) not in alike:
            continue
        for kind, interval in ways:
            symbol = pair_of(life.symbol) if kind is Kind.INDEX_PRICE else life.symbol
            series = SeriesKey.of(symbol, interval or None, market=life.market, kind=kind)
            if series not in known:
                known.add(series)
                found.append((series, life))
    return found

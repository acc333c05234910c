"""Choosing lives from the snapshots in a cache. `KlineCache` opens this module by name."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ckvd.model.life import Life, lives_within
from ckvd.model.market import Market, SeriesKey, parse_market
from ckvd.model.timespan import TimeLike, parse_time
from ckvd.model.universe import Universe
from ckvd.universe.snapshot import find_snapshot, newest_snapshot

if TYPE_CHECKING:
    from ckvd.cache.folder import CacheFolder
    from ckvd.model.timespan import Span


def choose(folder: CacheFolder, market: str, *, as_of: TimeLike | None = None, **filters: Any) -> Universe:
    """Choose lives from the newest snapshot of a cache: see `KlineCache.universe`."""
    chosen = parse_market(market)
    snapshot = find_snapshot(folder, chosen, None if as_of is None else parse_time(as_of))
    return Universe(chosen, snapshot.lives, snapshot.made_ms, snapshot.name).filter(**filters)


def lives_of_series(folder: CacheFolder, series: SeriesKey, span: Span) -> tuple[Life, ...]:
    """The lives whose bars a series has in a span, by the newest snapshot; none if there is no snapshot."""
    snapshot = newest_snapshot(folder, series.market)
    return () if snapshot is None else lives_within(snapshot.lives, series.symbol, span)


def life_named(folder: CacheFolder, market: Market, name: str) -> Life:
    """The life with a name, by the newest snapshot: see `Universe.__getitem__`."""
    snapshot = find_snapshot(folder, market)
    return Universe(market, snapshot.lives, snapshot.made_ms)[name]

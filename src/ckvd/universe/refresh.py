"""Making a snapshot: the archives are listed, the exchange is asked for its symbols, and the lives are stored.

The exchange may be unavailable: it refuses regions, and whoever works offline. Then the snapshot is made from the
listing and the earlier snapshot, and says so. An answer that is malformed is an error.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from ckvd.concurrency.work import in_thread, run_together
from ckvd.errors import NetworkError, RestAnswerError
from ckvd.universe.assembly import assemble
from ckvd.universe.exchange_info import parse_exchange_info
from ckvd.universe.listing import list_market
from ckvd.universe.snapshot import Snapshot, newest_snapshot, write_snapshot

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Sequence

    from ckvd.cache.folder import CacheFolder
    from ckvd.model.market import Market
    from ckvd.rest.rest_data_client import RestDataClient
    from ckvd.universe.exchange_info import ExchangeInfo
    from ckvd.universe.listing import ListedSymbol
    from ckvd.vision.source import ArchiveSource

logger = logging.getLogger(__name__)

_NOT_ASKED = "it was not asked"
_SHOWN_MAX = 10


async def refresh(
    folder: CacheFolder,
    market: Market,
    source: ArchiveSource,
    rest: RestDataClient | None,
    made_ms: int,
    *,
    on_symbol: Callable[[int, int], None] | None = None,
) -> Snapshot:
    """Make a snapshot of a market from all sources, and store it.

    Parameters
    ----------
    folder : CacheFolder
    market : Market
    source : ArchiveSource
        Its archives are listed.
    rest : RestDataClient or None
        Asked for the exchange's symbols, if there is one.
    made_ms : int
        The present, milliseconds.
    on_symbol : callable, optional
        See `list_market`.

    Raises
    ------
    NetworkError, ArchiveError
        The source of archives has no listing, or it is unavailable or invalid.
    RestAnswerError
        The exchange's list is malformed.
    SnapshotError, CacheError
        The earlier snapshot is damaged, or the cache cannot be used. Nothing was stored.
    ClientClosedError
    """
    earlier = await in_thread(newest_snapshot, folder, market)
    coroutines: list[Coroutine[Any, Any, Any]] = [
        list_market(source, market, on_symbol=on_symbol),
        _ask(rest, market),
    ]
    listing, (info, unavailable) = await run_together(coroutines)
    snapshot = make_snapshot(market, listing, info, earlier, made_ms, source=repr(source), unavailable=unavailable)
    await in_thread(write_snapshot, folder, snapshot)
    return snapshot


def make_snapshot(
    market: Market,
    listing: list[ListedSymbol],
    info: ExchangeInfo | None,
    earlier: Snapshot | None,
    made_ms: int,
    *,
    source: str = "",
    unavailable: str = _NOT_ASKED,
) -> Snapshot:
    """Make a snapshot of what the sources gave. Pure."""
    made_ms = made_ms // 1000 * 1000
    lives = assemble(market, listing, info, () if earlier is None else earlier.lives, made_ms)
    notes = []
    if info is not None:
        known = {life.ticker for life in lives}
        announced = [symbol for symbol in info.contracts if symbol not in known]
        notes += _note("without a life: announced only, or interrupted and without an archive", announced)
        notes += _note("with a name that no series can have", info.ignored)
    return Snapshot(
        market,
        made_ms,
        lives,
        listing=source,
        exchange_info="" if info is None else info.where,
        unavailable=unavailable if info is None else "",
        notes=tuple(notes),
    )


def _note(what: str, symbols: Sequence[str]) -> list[str]:
    if not symbols:
        return []
    more = ", ..." if len(symbols) > _SHOWN_MAX else ""
    return [f"symbols of the exchange {what} ({len(symbols)}): {', '.join(symbols[:_SHOWN_MAX])}{more}"]


async def _ask(rest: RestDataClient | None, market: Market) -> tuple[ExchangeInfo | None, str]:
    """The exchange's symbols, or why they are unavailable."""
    if rest is None:
        return None, _NOT_ASKED
    try:
        answer = await rest.exchange_info(market)
    except RestAnswerError:
        raise
    except NetworkError as error:
        logger.info("the universe of %s is made from archives alone: %s", market, error)
        return None, str(error)
    return await in_thread(parse_exchange_info, answer.body, answer.url, market), ""

"""The verbs of `ckvd universe`: `refresh`, `list` and `diff`."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, Final

import click

from ckvd.cache.folder import UNIVERSE_SUFFIX
from ckvd.cache.kline_cache import KlineCache
from ckvd.cli.cache.verb import Bounds, Result
from ckvd.cli.printing import complain, count, print_table, progress_bar, say
from ckvd.cli.stop_signals import stop_signals
from ckvd.errors import shown
from ckvd.model.life import EndReason, Life
from ckvd.model.timespan import format_time, parse_time
from ckvd.universe.difference import UniverseDifference, compare_snapshots
from ckvd.universe.snapshot import Snapshot, find_snapshot, read_snapshot

if TYPE_CHECKING:
    from ckvd.cache.folder import CacheFolder
    from ckvd.model.market import ContractType, Market
    from ckvd.model.universe import Leveraged, Universe

_CHANGES_SHOWN: Final = ("status", "listed_ms", "delivery_ms", "first_ms", "end_ms", "end_reason", "symbol")

# --- refresh -----------------------------------------------------------------------------------------------


def refresh(
    *, market: Market, vision_url: str | None, rest_url: str | None, no_rest: bool, folder: CacheFolder
) -> Result:
    """`ckvd universe refresh`."""
    options = {"cache": folder.root, "vision_url": vision_url, "rest_url": rest_url, "use_rest": not no_rest}
    snapshot = stop_signals.run(_refresh(market, options))
    ended = sum(life.end_reason is not EndReason.ALIVE for life in snapshot.lives)
    document = {
        "market": market,
        "made_ms": snapshot.made_ms,
        "snapshot": snapshot.name,
        "life_count": len(snapshot.lives),
        "alive_count": len(snapshot.lives) - ended,
        "listing": snapshot.listing,
        "exchange_info": snapshot.exchange_info,
        "unavailable": snapshot.unavailable,
        "notes": snapshot.notes,
    }
    return Result(document, partial(_show_refreshed, snapshot))


async def _refresh(market: Market, options: dict[str, Any]) -> Snapshot:
    # Loads HTTP, which --help and the other verbs do not need.
    from ckvd.api.crypto_kline_vision_data import CryptoKlineVisionData  # noqa: PLC0415

    with progress_bar("listing archives", 1) as update:

        def show(done_count: int, total: int) -> None:
            update(description=f"{done_count} of {total} symbols", completed=done_count, total=total)

        async with CryptoKlineVisionData(**options) as data:
            return await data.refresh_universe(market, on_symbol=show)


def _show_refreshed(snapshot: Snapshot) -> None:
    alive_count = sum(life.end_reason is EndReason.ALIVE for life in snapshot.lives)
    lives = "1 life" if len(snapshot.lives) == 1 else f"{len(snapshot.lives):,} lives"
    source = "archives and exchangeInfo" if snapshot.exchange_info else "archives alone"
    say(f"{snapshot.market}: {lives}, {alive_count:,} alive, from {source}: snapshot {snapshot.name}")
    if snapshot.unavailable:
        complain(f"no exchangeInfo: {shown(snapshot.unavailable)}; ends are upper bounds where no date is known")
    for note in snapshot.notes:
        complain(shown(note))


# --- list --------------------------------------------------------------------------------------------------


def list_command(
    *,
    names: tuple[str, ...],
    market: Market,
    on: str | None,
    bounds: Bounds,
    as_of: str | None,
    quote: tuple[str, ...],
    base: tuple[str, ...],
    contract: tuple[ContractType, ...],
    leveraged: Leveraged,
    listed_days_min: int | None,
    folder: CacheFolder,
) -> Result:
    """`ckvd universe list`."""
    if on is not None and (bounds.start is not None or bounds.end is not None):
        raise click.UsageError("choose --on a day, or --start and --end")
    with KlineCache(folder.root) as cache:
        lives = cache.universe(
            market,
            on=on,
            start=bounds.start,
            end=bounds.end,
            as_of=as_of,
            quote=quote or None,
            base=base or None,
            contract=contract or None,
            names=names or None,
            leveraged=leveraged,
            listed_days_min=listed_days_min,
        )
    return Result(lives, partial(_show_lives, lives))


def _show_lives(lives: Universe) -> None:
    names = ("key", "symbol", "contract", "first", "end", "why", "end from", "status")
    print_table(names, [_row(key, life) for key, life in zip(lives.keys, lives, strict=True)])


def _row(key: str, life: Life) -> tuple[object, ...]:
    why = f"{life.end_reason} to {life.renamed_to}" if life.renamed_to else str(life.end_reason)
    source = "-" if life.end_source is None else str(life.end_source)
    return (
        key,
        life.symbol,
        str(life.contract),
        format_time(life.first_ms),
        _end(life),
        why,
        source,
        life.status or "-",
    )


def _end(life: Life) -> str:
    if life.end_ms is None:
        return "-"
    return f"<={format_time(life.end_ms)}" if life.end_is_bound else format_time(life.end_ms)


# --- diff --------------------------------------------------------------------------------------------------


def diff(*, before: str, after: str, market: Market, folder: CacheFolder) -> Result:
    """`ckvd universe diff`."""
    one, other = (_snapshot(folder, market, name) for name in (before, after))
    found = compare_snapshots(one, other)
    return Result(found, partial(_show_difference, found))


def _snapshot(folder: CacheFolder, market: Market, name: str) -> Snapshot:
    if name.endswith(UNIVERSE_SUFFIX):
        return read_snapshot(folder, market, name)
    return find_snapshot(folder, market, parse_time(name))


def _show_difference(found: UniverseDifference) -> None:
    rows: list[tuple[object, ...]] = []
    for word, lives in (("new", found.new), ("again", found.again), ("gone", found.gone), ("ended", found.ended)):
        rows += [(word, life.dated_key, _end(life), "") for life in lives]
    for change in found.changed:
        changed = [name for name in change.changed if name in _CHANGES_SHOWN]
        cells = [f"{name} {_text(change.before, name)} -> {_text(change.after, name)}" for name in changed]
        if cells:
            rows.append(("changed", change.after.dated_key, _end(change.after), "; ".join(cells)))
    print_table(("what", "life", "end", "change"), rows)
    say(f"from {format_time(found.before_ms)} to {format_time(found.after_ms)}: {count(len(rows), 'difference')}")


def _text(life: Life, name: str) -> str:
    value = getattr(life, name)
    if value is None or value == "":
        return "-"
    return format_time(value) if name.endswith("_ms") else shown(value)

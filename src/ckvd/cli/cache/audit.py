"""`ckvd cache audit`: compare with the source."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Annotated

import typer

from ckvd.cache.folder import CacheFolder
from ckvd.cli.cache.choosing import (
    IntervalsOption,
    JsonOption,
    KindsOption,
    MarketsOption,
    SymbolsArgument,
    YesOption,
    choose,
    filter_of,
)
from ckvd.cli.cache.printing import count, print_json, say
from ckvd.cli.exit_status import EXIT_INCOMPLETE
from ckvd.cli.options import CacheOption, VisionUrlOption, exit_status_of_errors
from ckvd.cli.terminal import complain, err
from ckvd.maintenance.audit import ArchiveAudit, Change, audit_cache, audit_days
from ckvd.maintenance.selection import SeriesFilter
from ckvd.model.timespan import format_time

_EXAMPLES_MAX = 20


def audit(
    symbols: SymbolsArgument = None,
    market: MarketsOption = None,
    kind: KindsOption = None,
    interval: IntervalsOption = None,
    thorough: Annotated[
        bool, typer.Option("--thorough", help="Fetch every archive, also where the listing shows no change.")
    ] = False,
    days: Annotated[
        bool, typer.Option("--days", help="Compare monthly archives with the daily ones instead.")
    ] = False,
    vision_url: VisionUrlOption = None,
    yes: YesOption = False,
    cache: CacheOption = None,
    json: JsonOption = False,
) -> None:
    """Find archives that changed since they were fetched, and which bars; with --yes, store them as they are now.

    Status 1: something changed and was not stored, disagrees, or could not be looked up.
    """
    with exit_status_of_errors():
        chosen = filter_of(symbols, market, kind, interval)
        choose(CacheFolder.at(cache), chosen)
        found = asyncio.run(_audit(chosen, cache, vision_url, thorough=thorough, days=days, fix=yes))
        if json:
            print_json([one.to_json() for one in found])
        else:
            for one in found:
                _print(one)
            numbers = {change: sum(one.change is change for one in found) for change in Change}
            say(", ".join(f"{number} {change}" for change, number in numbers.items() if number) or "no archives")
        if any(one.change is not Change.UNCHANGED and not one.is_stored for one in found):
            raise typer.Exit(EXIT_INCOMPLETE)


async def _audit(
    chosen: SeriesFilter, cache: Path | None, vision_url: str | None, *, thorough: bool, days: bool, fix: bool
) -> list[ArchiveAudit]:
    from ckvd.api.vision_data_client import VisionDataClient  # noqa: PLC0415  (loads HTTP; --help does not need it)

    async with VisionDataClient(vision_url, cache=cache) as vision:
        if days:
            audits = audit_days(vision.folder, vision.archives, chosen)
        else:
            audits = audit_cache(vision.folder, vision.archives, chosen, is_thorough=thorough, fix=fix)
        found = []
        async for one in audits:
            found.append(one)
            if err.is_terminal:
                err.print(f"{count(len(found), 'archive')} {one.series}", end="\r", markup=False)
        return found


def _print(one: ArchiveAudit) -> None:
    if one.change is Change.UNCHANGED:
        return
    if one.change in (Change.FAILED, Change.GONE):
        complain(f"{one.archive or one.series}: {one.change}: {one.message}")
        return
    difference = one.difference
    stored = ", stored" if one.is_stored else ""
    say(
        f"{one.archive}: {one.change}{stored}: {difference.changed_count} bars differ, "
        f"{difference.added_count} added, {difference.removed_count} removed"
        + (f" ({one.message})" if one.message else "")
    )
    for what, opens in (
        ("differs", difference.changed),
        ("added", difference.added),
        ("removed", difference.removed),
    ):
        for open_ms in opens[:_EXAMPLES_MAX]:
            say(f"  {format_time(open_ms)} {what}")
        if len(opens) > _EXAMPLES_MAX:
            say(f"  and more that {what}: see --json")

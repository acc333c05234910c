"""`ckvd cache quarantine`: what was set aside, and putting it back."""

from __future__ import annotations

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
    filter_of,
)
from ckvd.cli.cache.printing import count, print_json, print_table, say
from ckvd.cli.exit_status import EXIT_INCOMPLETE
from ckvd.cli.options import CacheOption, exit_status_of_errors
from ckvd.cli.terminal import complain, format_nbytes
from ckvd.maintenance.quarantine import Quarantined, list_quarantine, restore
from ckvd.model.timespan import format_time


def quarantine(
    symbols: SymbolsArgument = None,
    market: MarketsOption = None,
    kind: KindsOption = None,
    interval: IntervalsOption = None,
    restored: Annotated[
        str | None,
        typer.Option("--restore", help="Put the file of this name back, or `all`.", show_default=False),
    ] = None,
    yes: YesOption = False,
    cache: CacheOption = None,
    json: JsonOption = False,
) -> None:
    """Show files that were set aside, with the reason, and restore them.

    `ckvd cache prune --quarantine` deletes them for good.
    """
    with exit_status_of_errors():
        folder = CacheFolder.at(cache)
        chosen = filter_of(symbols, market, kind, interval)
        found = [aside for aside in list_quarantine(folder) if aside.series in chosen]
        if restored is not None:
            found = [aside for aside in found if restored in ("all", aside.file_name, aside.path.name)]
            if not found:
                complain(f"no file {restored!r} is in quarantine")
                raise typer.Exit(EXIT_INCOMPLETE)
            if yes:
                found = [_restored(folder, aside) for aside in found]
        if json:
            print_json([_json(aside) for aside in found])
            return
        print_table(("series", "file", "size", "since", "reason"), [_row(aside) for aside in found])
        if restored is not None:
            say(f"{count(len(found), 'file')} " + ("restored" if yes else "would be restored; add --yes to do it"))


def _restored(folder: CacheFolder, aside: Quarantined) -> Quarantined:
    restore(folder, aside)
    return aside


def _row(aside: Quarantined) -> tuple[object, ...]:
    since = format_time(aside.since_ms - aside.since_ms % 1000)
    return str(aside.series), aside.path.name, format_nbytes(aside.nbytes), since, aside.reason


def _json(aside: Quarantined) -> dict[str, object]:
    return {
        "series": str(aside.series),
        "path": str(aside.path),
        "file_name": aside.file_name,
        "reason": aside.reason,
        "since_ms": aside.since_ms,
        "nbytes": aside.nbytes,
    }

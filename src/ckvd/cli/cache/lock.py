"""`ckvd cache lock`: pin a data set."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ckvd.cache.folder import CacheFolder
from ckvd.cli.cache.choosing import (
    IntervalsOption,
    JsonOption,
    KindsOption,
    MarketsOption,
    OptionalEndOption,
    OptionalStartOption,
    SymbolsArgument,
    filter_of,
    span_of,
)
from ckvd.cli.cache.printing import count, print_json, say
from ckvd.cli.options import EXIT_INCOMPLETE, CacheOption, exit_status_of_errors
from ckvd.cli.terminal import complain, err
from ckvd.errors import cannot
from ckvd.maintenance.data_lock import format_lock, lock_data


def lock(
    file: Annotated[Path, typer.Argument(help="The file to write; - for standard output.", allow_dash=True)],
    symbols: SymbolsArgument = None,
    market: MarketsOption = None,
    kind: KindsOption = None,
    interval: IntervalsOption = None,
    start: OptionalStartOption = None,
    end: OptionalEndOption = None,
    cache: CacheOption = None,
    json: JsonOption = False,
) -> None:
    """Write the content hash of every series and span to a small text file. It does not depend on segments."""
    with exit_status_of_errors():
        folder = CacheFolder.at(cache)
        chosen = filter_of(symbols, market, kind, interval)
        hashes = list(
            lock_data(
                folder,
                chosen,
                span_of(start, end),
                on_series=lambda series: err.print(f"hashing {series}", end="\r") if err.is_terminal else None,
            )
        )
        if not hashes:
            complain(f"nothing of that is in the cache {folder.root}")
            raise typer.Exit(EXIT_INCOMPLETE)
        text = format_lock(hashes)
        if str(file) == "-":
            typer.echo(text, nl=False)
            return
        try:
            file.write_text(text, encoding="utf-8")
        except OSError as error:
            raise cannot("be written", file, error) from error
        if json:
            print_json(
                {"path": str(file), "span_count": len(hashes), "bar_count": sum(h.bar_count for h in hashes)}
            )
        else:
            say(f"{file}: {count(len(hashes), 'span')}, {count(sum(h.bar_count for h in hashes), 'bar')}")

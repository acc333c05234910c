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
    nothing_in,
    span_of,
)
from ckvd.cli.cache.printing import count, print_json, say
from ckvd.cli.exit_status import EXIT_USAGE
from ckvd.cli.options import CacheOption, exit_status_of_errors
from ckvd.cli.terminal import complain, err
from ckvd.errors import ExportError, cannot
from ckvd.maintenance.data_lock import ContentHash, format_lock, lock_data
from ckvd.maintenance.selection import SeriesFilter


def lock(
    file: Annotated[Path, typer.Argument(help="The file to write; - for standard output.", allow_dash=True)],
    symbols: SymbolsArgument = None,
    market: MarketsOption = None,
    kind: KindsOption = None,
    interval: IntervalsOption = None,
    start: OptionalStartOption = None,
    end: OptionalEndOption = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the file if it is there.")] = False,
    cache: CacheOption = None,
    json: JsonOption = False,
) -> None:
    """Write the content hash of every series and span to a small text file. It does not depend on segments."""
    with exit_status_of_errors():
        folder = CacheFolder.at(cache)
        _refuse_a_symbol(file, folder)
        if not overwrite and str(file) != "-" and file.exists():
            raise _is_there(file)
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
            raise nothing_in(folder)
        text = format_lock(hashes)
        if str(file) == "-":
            if json:
                print_json([_hash_json(one) for one in hashes])
            else:
                typer.echo(text, nl=False)
            return
        _write(file, text, is_overwriting=overwrite)
        if json:
            print_json(
                {"path": str(file), "span_count": len(hashes), "bar_count": sum(h.bar_count for h in hashes)}
            )
        else:
            say(f"{file}: {count(len(hashes), 'span')}, {count(sum(h.bar_count for h in hashes), 'bar')}")


def _refuse_a_symbol(file: Path, folder: CacheFolder) -> None:
    """Whoever leaves the file out would pin everything, in a file that is called like a symbol."""
    if SeriesFilter(symbols=(str(file),)).choose(folder):
        complain(f"{file} is a symbol of the cache {folder.root}: name the file first, such as {file}.lock")
        raise typer.Exit(EXIT_USAGE)


def _hash_json(one: ContentHash) -> dict[str, object]:
    return {
        "series": str(one.series),
        "span": [one.span.start_ms, one.span.end_ms],
        "bar_count": one.bar_count,
        "sha256": one.sha256,
    }


def _write(file: Path, text: str, *, is_overwriting: bool) -> None:
    try:
        with file.open("w" if is_overwriting else "x", encoding="utf-8") as stream:
            stream.write(text)
    except FileExistsError:
        raise _is_there(file) from None
    except OSError as error:
        raise cannot("be written", file, error) from error


def _is_there(file: Path) -> ExportError:
    return ExportError(f"{file} is there already: choose another name, or add --overwrite")

"""`ckvd cache export`: bars into files of other formats."""

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
    choose,
    filter_of,
    nothing_in,
    span_of,
)
from ckvd.cli.cache.printing import count, print_json, say, track
from ckvd.cli.options import CacheOption, exit_status_of_errors
from ckvd.cli.terminal import format_nbytes
from ckvd.maintenance.export import ExportCut, ExportedFile, ExportFormat, export_series
from ckvd.model.market import SeriesKey
from ckvd.model.timespan import Span, union


def export(
    target: Annotated[Path, typer.Option("--to", "-o", help="The folder to write to.", file_okay=False)],
    symbols: SymbolsArgument = None,
    market: MarketsOption = None,
    kind: KindsOption = None,
    interval: IntervalsOption = None,
    file_format: Annotated[
        ExportFormat, typer.Option("--format", "-f", help="CSV as in archives, Arrow IPC, Parquet, or numpy's npz.")
    ] = ExportFormat.CSV,
    cut: Annotated[ExportCut, typer.Option("--cut", help="How much goes into one file.")] = ExportCut.WHOLE,
    start: OptionalStartOption = None,
    end: OptionalEndOption = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace files that are there.")] = False,
    cache: CacheOption = None,
    json: JsonOption = False,
) -> None:
    """Write bars as CSV, Arrow IPC, Parquet or npz. Status 1: nothing to export, or not all of it could be.

    The cache has to cover a span of which both ends are given; else what it covers is exported.
    """
    with exit_status_of_errors():
        folder = CacheFolder.at(cache)
        wanted = span_of(start, end)
        has_open_end = start is None or end is None
        chosen = choose(folder, filter_of(symbols, market, kind, interval))
        files: list[ExportedFile] = []
        for series in track(chosen, "exporting"):
            spans = _covered(folder, series, wanted) if has_open_end else (wanted,)
            for span in spans:
                files += export_series(
                    folder, series, target, file_format=file_format, cut=cut, span=span, is_overwriting=overwrite
                )
        if not files:
            raise nothing_in(folder)
        if json:
            print_json([file.to_json() for file in files])
        else:
            _print(files)


def _covered(folder: CacheFolder, series: SeriesKey, wanted: Span | None) -> tuple[Span, ...]:
    """What the cache covers of a span with an open end: nobody knows where a series starts and ends but it."""
    covered = union(name.span for name in folder.segments(series))
    return (
        covered if wanted is None else tuple(part.intersection(wanted) for part in covered if part.overlaps(wanted))
    )


def _print(files: list[ExportedFile]) -> None:
    for file in files:
        say(f"{file.path}: {count(file.bar_count, 'bar')}, {format_nbytes(file.nbytes)}")
    inexact = sum(file.inexact_cell_count for file in files)
    if inexact:
        say(f"{count(inexact, 'cell')} with more digits than a double holds: the digits may not be the archive's")

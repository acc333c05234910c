"""The verbs that take data out of a cache: `export`, and `lock` and `check-lock`, which pin it."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from ckvd.cache.folder import CacheFolder
from ckvd.cli import EXIT_USAGE
from ckvd.cli.cache.verb import Bounds, Result, Selection, verb
from ckvd.cli.options import exit_with
from ckvd.cli.printing import count, format_nbytes, progress_bar, say, track
from ckvd.errors import ExportError, cannot
from ckvd.maintenance.data_lock import (
    LockCheck,
    Verdict,
    check_lock,
    format_lock,
    lock_data,
    parse_lock,
    write_lock,
)
from ckvd.maintenance.export import ExportCut, ExportedFile, ExportFormat, export_series
from ckvd.maintenance.selection import SeriesFilter
from ckvd.model.market import SeriesKey
from ckvd.model.timespan import Span, union

# --- export ------------------------------------------------------------------------------------------------


@verb
def export(
    *,
    target: Annotated[Path, typer.Option("--to", "-o", help="The folder to write to.", file_okay=False)],
    selection: Selection,
    file_format: Annotated[
        ExportFormat, typer.Option("--format", "-f", help="CSV as in archives, Arrow IPC, Parquet, or numpy's npz.")
    ] = ExportFormat.CSV,
    cut: Annotated[ExportCut, typer.Option("--cut", help="How much goes into one file.")] = ExportCut.WHOLE,
    bounds: Bounds,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace files that are there.")] = False,
) -> Result:
    """Write bars as CSV, Arrow IPC, Parquet or npz. Status 1: nothing to export, or not all of it could be.

    The cache has to cover a span of which both ends are given; else what it covers is exported.
    """
    wanted = bounds.span
    has_open_end = bounds.start is None or bounds.end is None
    files: list[ExportedFile] = []
    for series in track(selection.series(), "exporting"):
        spans = _covered(selection.folder, series, wanted) if has_open_end else (wanted,)
        for span in spans:
            files += export_series(
                selection.folder,
                series,
                target,
                file_format=file_format,
                cut=cut,
                span=span,
                is_overwriting=overwrite,
            )
    if not files:
        raise selection.nothing()
    return Result(files, partial(_show_files, files))


def _covered(folder: CacheFolder, series: SeriesKey, wanted: Span | None) -> tuple[Span, ...]:
    """What the cache covers of a span of which one bound or both were not given."""
    covered = union(name.span for name in folder.segments(series))
    return (
        covered if wanted is None else tuple(part.intersection(wanted) for part in covered if part.overlaps(wanted))
    )


def _show_files(files: list[ExportedFile]) -> None:
    for file in files:
        say(f"{file.path}: {count(file.bar_count, 'bar')}, {format_nbytes(file.nbytes)}")
    inexact = sum(file.inexact_cell_count for file in files)
    if inexact:
        say(f"{count(inexact, 'cell')} with more digits than a double holds: the digits may not be the archive's")


# --- lock --------------------------------------------------------------------------------------------------


@verb
def lock(
    *,
    file: Annotated[Path, typer.Argument(help="The file to write; - for standard output.", allow_dash=True)],
    selection: Selection,
    bounds: Bounds,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the file if it is there.")] = False,
) -> Result:
    """Write the content hash of every series and span to a small text file. It does not depend on segments."""
    is_printed = str(file) == "-"
    _refuse_a_symbol(file, selection.folder)
    is_replacing = overwrite or is_printed
    _refuse_to_replace(file, is_replacing=is_replacing)
    with progress_bar("hashing") as update:
        hashes = list(
            lock_data(
                selection.folder,
                selection.filter,
                bounds.span,
                on_series=lambda series: update(description=f"hashing {series}"),
            )
        )
    if not hashes:
        raise selection.nothing()
    text = format_lock(hashes)
    if is_printed:
        return Result(hashes, partial(say, text.removesuffix("\n")))
    _refuse_to_replace(file, is_replacing=is_replacing)  # it may be there by now
    write_lock(file, text)
    bar_count = sum(one.bar_count for one in hashes)
    line = f"{file}: {count(len(hashes), 'span')}, {count(bar_count, 'bar')}"
    return Result({"path": file, "span_count": len(hashes), "bar_count": bar_count}, partial(say, line))


def _refuse_a_symbol(file: Path, folder: CacheFolder) -> None:
    """Refuse a file named like a symbol: the file was forgotten, and the lock would pin all symbols."""
    if SeriesFilter(symbols=(str(file),)).choose(folder):
        message = f"{file} is a symbol of the cache {folder.root}: name the file first, such as {file}.lock"
        raise exit_with(EXIT_USAGE, message)


def _refuse_to_replace(file: Path, *, is_replacing: bool) -> None:
    if file.exists() and not is_replacing:
        raise ExportError(f"{file} is there already: choose another name, or add --overwrite")


# --- check-lock --------------------------------------------------------------------------------------------


@verb
def check_lock_command(
    *,
    file: Annotated[Path, typer.Argument(help="What ckvd cache lock wrote.", dir_okay=False)],
    folder: CacheFolder,
) -> Result:
    """Say whether the cache has the same bars as a lock, bit for bit. Status 1: it does not."""
    try:
        text = file.read_text(encoding="utf-8")
    except OSError as error:
        raise cannot("be read", file, error) from error
    lines = parse_lock(text, str(file))
    checks = [check for line in track(lines, "hashing") for check in check_lock(folder, [line])]
    return Result(checks, partial(_show_checks, checks), all(check.verdict is Verdict.SAME for check in checks))


def _show_checks(checks: list[LockCheck]) -> None:
    for check in checks:
        line = f"{check.verdict}: {check.expected.series} {check.expected.span}"
        if check.found is not None and check.verdict is Verdict.DIFFERENT:
            line += f": {check.found.bar_count:,} bars, expected {check.expected.bar_count:,}"
        say(line + (f": {check.message}" if check.message else ""))

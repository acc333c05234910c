"""The verbs that take data out of a cache: `export`, and `lock` and `check-lock`, which pin it."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from itertools import groupby
from pathlib import Path

from ckvd.cache.coverage import unavailable_spans_of
from ckvd.cache.folder import CacheFolder, is_there
from ckvd.cache.selection import SeriesFilter
from ckvd.cli import EXIT_USAGE
from ckvd.cli.cache.verb import Bounds, Result, Selection
from ckvd.cli.options import exit_with
from ckvd.cli.printing import complain, count, count_rows, format_nbytes, progress_bar, say, track
from ckvd.errors import DataLockError, ExportError, cannot, containing
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
from ckvd.model.market import SeriesKey
from ckvd.model.timespan import Span, difference, union

# --- export ------------------------------------------------------------------------------------------------


def export(
    *, target: Path, selection: Selection, file_format: str, cut: str, bounds: Bounds, overwrite: bool
) -> Result:
    """`ckvd cache export`."""
    export = _Export(
        selection.folder,
        target,
        ExportFormat(file_format),
        ExportCut(cut),
        wanted=bounds.span,
        is_bounded=bounds.start is not None and bounds.end is not None,
        is_overwriting=overwrite,
    )
    for series in track(selection.series(), "exporting"):
        with containing(lambda error: export.refused.append(str(error))):
            export.add(series)
    if not (export.files or export.unavailable or export.refused):
        raise selection.nothing()
    is_whole = bool(export.files) and not export.refused and not (export.is_bounded and export.unavailable)
    export.tell_what_is_left_out()
    return Result(export.files, partial(_show_files, export.files), is_whole)


@dataclass(slots=True)
class _Export:
    """One export: where it goes, and what was written and what was not.

    Attributes
    ----------
    wanted : Span or None
        What was asked for; None for all.
    is_bounded : bool
        Whether both ends were given, so that the cache has to cover all between them.
    files : list of ExportedFile
    unavailable : dict of SeriesKey to tuple of Span
        What no source had.
    refused : list of str
        Why series were left out.
    """

    folder: CacheFolder
    target: Path
    file_format: ExportFormat
    cut: ExportCut
    wanted: Span | None
    is_bounded: bool
    is_overwriting: bool
    files: list[ExportedFile] = field(default_factory=list)
    unavailable: dict[SeriesKey, tuple[Span, ...]] = field(default_factory=dict)
    refused: list[str] = field(default_factory=list)

    def add(self, series: SeriesKey) -> None:
        """Export one series."""
        wanted = self.wanted
        covered = union(name.span for name in self.folder.segments(series))
        if self.is_bounded and wanted is not None and (lacking := difference([wanted], covered)):
            spans = ", ".join(map(str, lacking))
            self.refused.append(f"{series}: the cache does not cover {spans} of {wanted}; fetch it (ckvd download)")
            return
        for part in covered if wanted is None else [part.intersection(wanted) for part in covered]:
            if part and (found := unavailable_spans_of(self.folder, series, part)):
                self.unavailable[series] = (*self.unavailable.get(series, ()), *found)
        exported = export_series(
            self.folder,
            series,
            self.target,
            file_format=self.file_format,
            cut=self.cut,
            span=wanted,
            missing="ignore",
            is_overwriting=self.is_overwriting,
        )
        for file in exported:
            self.files.append(file)

    def tell_what_is_left_out(self) -> None:
        """Name on standard error what was not written, also beside JSON."""
        for reason in self.refused:
            complain(reason)
        for series, spans in self.unavailable.items():
            for span in spans:
                complain(f"{series}: {span} was unavailable when it was asked for, and is not exported")


def _show_files(files: list[ExportedFile]) -> None:
    for file in files:
        say(f"{file.path}: {count_rows(file.bar_count, file.series.kind)}, {format_nbytes(file.nbytes)}")
    inexact = sum(file.inexact_cell_count for file in files)
    if inexact:
        say(f"{count(inexact, 'cell')} with more digits than a double holds: the digits may not be the archive's")


# --- lock --------------------------------------------------------------------------------------------------


def lock(*, file: Path, selection: Selection, bounds: Bounds, overwrite: bool) -> Result:
    """`ckvd cache lock`."""
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
    unavailable = {
        series: [one.span for one in found if one.is_unavailable]
        for series, found in groupby(hashes, key=lambda one: one.series)
    }
    unavailable = {series: spans for series, spans in unavailable.items() if spans}
    if is_printed:
        return Result(hashes, partial(_show_lock, text.removesuffix("\n"), unavailable))
    _refuse_to_replace(file, is_replacing=is_replacing)  # it may be there by now
    write_lock(file, text)
    bar_count = sum(one.bar_count for one in hashes)
    span_count = len(hashes) - sum(map(len, unavailable.values()))
    line = f"{file}: {count(span_count, 'span')}, {count(bar_count, 'bar')}"
    document = {"path": file, "span_count": span_count, "bar_count": bar_count, "unavailable": unavailable}
    return Result(document, partial(_show_lock, line, unavailable))


def _show_lock(text: str, unavailable: dict[SeriesKey, list[Span]]) -> None:
    say(text)
    for series, spans in unavailable.items():
        for span in spans:
            complain(f"{series}: {span} was unavailable when it was asked for, and the lock says so")


def _refuse_a_symbol(file: Path, folder: CacheFolder) -> None:
    """Refuse a file named like a symbol: the file was forgotten, and the lock would pin all symbols."""
    if SeriesFilter(symbols=(str(file),)).choose(folder, lambda _: None):
        message = f"{file} is a symbol of the cache {folder.root}: name the file first, such as {file}.lock"
        raise exit_with(EXIT_USAGE, message)


def _refuse_to_replace(file: Path, *, is_replacing: bool) -> None:
    if not is_replacing and is_there(file):
        raise ExportError(f"{file} is there already: choose another name, or add --overwrite")


# --- check-lock --------------------------------------------------------------------------------------------


def check_lock_command(*, file: Path, folder: CacheFolder) -> Result:
    """`ckvd cache check-lock`."""
    try:
        text = file.read_text(encoding="utf-8")
    except OSError as error:
        raise cannot("be read", file, error) from error
    except UnicodeDecodeError as error:
        raise DataLockError(f"{file} is no text in UTF-8: expected a file that ckvd cache lock wrote") from error
    lines = parse_lock(text, str(file))
    checks = [check for line in track(lines, "hashing") for check in check_lock(folder, [line])]
    return Result(checks, partial(_show_checks, checks), all(check.verdict is Verdict.SAME for check in checks))


def _show_checks(checks: list[LockCheck]) -> None:
    for check in checks:
        line = f"{check.verdict}: {check.expected.series} {check.expected.span}"
        if check.found is not None and check.verdict is Verdict.DIFFERENT:
            line += f": {check.found.bar_count:,} bars, expected {check.expected.bar_count:,}"
        say(line + (f": {check.message}" if check.message else ""))

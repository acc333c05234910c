"""What the verbs that fetch share: the client and its options, progress, complaints, and the exit status."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from ckvd.acquisition.report import CompletionReport, DownloadPlan, DownloadReport, Progress
from ckvd.cache.folder import CacheFolder
from ckvd.cli import EXIT_INCOMPLETE
from ckvd.cli.printing import (
    complain,
    count,
    format_nbytes,
    is_progress_shown,
    print_json,
    progress_bar,
    say,
    say_on_stderr,
)
from ckvd.cli.stop_signals import stop_signals
from ckvd.model.market import MINUTE_MS
from ckvd.model.timespan import format_time

if TYPE_CHECKING:
    from ckvd.api.crypto_kline_vision_data import CryptoKlineVisionData

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Fetching:
    """Where to fetch from and into, and how much to say meanwhile.

    Attributes
    ----------
    options : dict
        The parameters of `CryptoKlineVisionData`.
    quiet : bool
        Say only what failed or is missing.
    verbose : bool
        Say a line for each archive.
    json : bool
        Print one JSON document in place of the summary and the complaints.
    """

    options: dict[str, Any]
    quiet: bool = False
    verbose: bool = False
    json: bool = False

    @classmethod
    def of(
        cls,
        *,
        cache: Path | None,
        vision_url: str | None,
        rest_url: str | None,
        no_rest: bool,
        jobs: int,
        workers: int | None,
        require_checksum: bool,
        quiet: bool,
        verbose: bool,
        json: bool,
        offline: bool = False,
    ) -> Fetching:
        """By the options of the command line."""
        options = {
            "cache": cache,
            "vision_url": vision_url,
            "rest_url": rest_url,
            "use_rest": not no_rest,
            "offline": offline,
            "concurrency": jobs,
            "workers": workers,
            "is_checksum_required": require_checksum,
        }
        return cls(options, quiet, verbose, json)

    @property
    def root(self) -> Path:
        """The folder of the cache."""
        return CacheFolder.at(self.options["cache"]).root

    def run(self, call: Callable[[CryptoKlineVisionData, Callable[[Progress], None]], Awaitable[_T]]) -> _T:
        """Call a client with a callable that shows progress, and close it. Signals end it in order."""
        with self._show_progress() as on_progress:
            return stop_signals.run(_run(self.options, call, on_progress))

    @contextlib.contextmanager
    def _show_progress(self) -> Iterator[Callable[[Progress], None]]:
        """Show progress until the block ends: a bar on a terminal, and lines where they are asked for."""
        if self.verbose or self.quiet or not is_progress_shown():
            yield _print_archive if self.verbose else lambda _: None
            return
        began_s = time.monotonic()
        with progress_bar("planning", is_timed=True) as update:

            def show(progress: Progress) -> None:
                update(
                    description=describe_progress(progress, time.monotonic() - began_s),
                    completed=progress.archive_count + progress.completed_count,
                    total=progress.archive_total + progress.completed_total,
                )

            yield show

    def say(self, line: str) -> None:
        """Say a line of the summary, unless there is none."""
        if not (self.quiet or self.json):
            say(line)

    def print_document(self, document: dict[str, Any]) -> None:
        """With --json, print a document that names the cache."""
        if self.json:
            print_json({"cache": str(self.root), **document})

    def print_plan(self, plan: DownloadPlan) -> None:
        """Say what would be fetched."""
        self.print_document(plan.to_json())
        if not self.json:
            _complain_of_refused(plan)
        if plan.is_empty:
            everything = "has everything" if not plan.refused else "has everything of the others"
            self.say(f"nothing would be fetched: {self.root} {everything}")
            return
        size = "" if plan.nbytes is None else f" ({format_nbytes(plan.nbytes)})"
        for series, periods in plan.archives.items():
            self.say(f"{series}: {count(len(periods), 'archive')}, {periods[0]} to {periods[-1]}")
        for series, spans in plan.beyond_archives.items():
            self.say(f"{series}: no archive of {', '.join(map(str, spans))}")
        self.say(
            f"{count(plan.archive_count, 'archive')}{size} of {len(plan.archives):,} series would be fetched "
            f"into {self.root}"
        )

    def tell(self, report: DownloadReport) -> None:
        """Print a report as JSON, or say what failed and is missing."""
        self.print_document(report.to_json())
        if not self.json:
            _complain_of(report)
        if not (self.json or self.quiet):
            _say_what_ended(report)

    def end(self, report: DownloadReport, *, is_well: bool = True) -> None:
        """End with the status of a report, and of what went before."""
        if not (is_well and report.is_complete and report.is_closed):
            raise click.exceptions.Exit(EXIT_INCOMPLETE)


async def _run(
    options: dict[str, Any],
    call: Callable[[CryptoKlineVisionData, Callable[[Progress], None]], Awaitable[_T]],
    on_progress: Callable[[Progress], None],
) -> _T:
    # Loads HTTP, which --help and the other verbs do not need.
    from ckvd.api.crypto_kline_vision_data import CryptoKlineVisionData  # noqa: PLC0415

    async with CryptoKlineVisionData(**options) as data:
        return await call(data, on_progress)


# --- Progress ----------------------------------------------------------------------------------------------


def describe_progress(progress: Progress, elapsed_s: float) -> str:
    """What a progress bar says before the bar."""
    name = "" if progress.series is None else f"{progress.series.symbol} {progress.series.archive_label}, "
    if progress.completed_count:
        return f"{name}{progress.completed_count:,} of {progress.completed_total:,} series completed"
    rate = f", {format_nbytes(int(progress.nbytes / elapsed_s))}/s" if elapsed_s > 0 else ""
    return (
        f"{name}{progress.archive_count:,} of {progress.archive_total:,} archives, "
        f"{format_nbytes(progress.nbytes)}{rate}"
    )


def _print_archive(progress: Progress) -> None:
    latest = progress.latest
    if latest is not None:
        done = f"{progress.archive_count}/{progress.archive_total}"
        say_on_stderr(f"{done} {latest.series} {latest.period} {latest.outcome}")


# --- Complaints --------------------------------------------------------------------------------------------


def _complain_of(report: DownloadReport) -> None:
    for archive in report.archives:
        for note in archive.notes:
            complain(note if archive.error is not None else f"{archive.series} {archive.period}: {note}")
    for completion in report.completions:
        _complain_of_completion(completion)
    _complain_of_refused(report)
    for series, spans in report.missing.items():
        for span in spans:
            why = report.why(series, span)
            complain(f"{series}: {span} is not in the cache" + (f": {why}" if why else ""))


def _complain_of_refused(found: DownloadPlan | DownloadReport) -> None:
    for series, error in found.refused.items():
        complain(f"{series}: {error}")
    for market, error in found.unlisted.items():
        complain(f"{market}: new listings are unknown: {error}")


def _complain_of_completion(completion: CompletionReport) -> None:
    for error in completion.errors:
        complain(f"{completion.series}: {error}")
    if completion.conflict_open_times:
        number = len(completion.conflict_open_times)
        complain(f"{completion.series}: sources disagree on {number} bars; the daily archive's were kept")
    if completion.impossible_open_times:
        number = len(completion.impossible_open_times)
        complain(f"{completion.series}: no market can make {number} bars of the REST interface; kept as published")


def _say_what_ended(report: DownloadReport) -> None:
    """Name the spans before the first archive and after the last one. Nothing is missing there."""
    for completion in report.completions:
        for absence in completion.beyond_archives:
            again = format_time(absence.recheck_ms // MINUTE_MS * MINUTE_MS)
            complain(f"{completion.series}: {absence.span} lies {absence.reason}; asked for again from {again}")


def describe_fetched(report: DownloadReport) -> str:
    """What was stored, as words: `3 archives stored (1.2 MB), 0 failed, 24 bars from the REST interface`."""
    nbytes = sum(archive.nbytes for archive in report.stored)
    rest_bar_count = sum(completion.rest_bar_count for completion in report.completions)
    parts = [f"{len(report.stored)} archives stored ({format_nbytes(nbytes)})", f"{len(report.failed)} failed"]
    if rest_bar_count:
        parts.append(f"{rest_bar_count} bars from the REST interface")
    if report.outside_row_count:
        parts.append(f"{report.outside_row_count} rows of other periods left out")
    if report.impossible_count:
        parts.append(f"{report.impossible_count} impossible bars")
    return ", ".join(parts)

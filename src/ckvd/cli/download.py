"""`ckvd download`: bring klines into the cache, and show progress."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click

from ckvd.acquisition.report import CompletionReport, DownloadReport, Progress
from ckvd.cli import EXIT_INCOMPLETE
from ckvd.cli.printing import complain, format_nbytes, is_progress_shown, progress_bar, say, say_on_stderr
from ckvd.cli.stop_signals import stop_signals
from ckvd.model.market import MINUTE_MS, Interval, Kind, Market, SeriesKey
from ckvd.model.timespan import Span, format_time


def download(
    *,
    symbols: tuple[str, ...],
    interval: Interval | None,
    start: str,
    end: str,
    market: Market,
    kind: Kind,
    cache: Path | None,
    vision_url: str | None,
    rest_url: str | None,
    no_rest: bool,
    offline: bool,
    jobs: int,
    require_checksum: bool,
    refresh: bool,
) -> None:
    """`ckvd download`."""
    series = [SeriesKey.of(symbol, interval, market=market, kind=kind) for symbol in dict.fromkeys(symbols)]
    options = {
        "cache": cache,
        "vision_url": vision_url,
        "rest_url": rest_url,
        "use_rest": not no_rest,
        "offline": offline,
        "concurrency": jobs,
        "is_checksum_required": require_checksum,
    }
    with _show_progress() as on_progress:
        report = stop_signals.run(_download(series, Span.of(start, end), options, refresh, on_progress))
    _print_report(report)
    is_known = any(spans and series not in report.not_found for series, spans in report.missing.items())
    if is_known and not (report.archives or refresh):
        complain("unavailable before, and asked for again when its time has come; --refresh asks at once")
    if not (report.is_complete and report.is_closed):
        raise click.exceptions.Exit(EXIT_INCOMPLETE)


async def _download(
    series: list[SeriesKey],
    span: Span,
    options: dict[str, Any],
    refresh: bool,
    on_progress: Callable[[Progress], None],
) -> DownloadReport:
    # Loads HTTP, which --help and the other verbs do not need.
    from ckvd.api.crypto_kline_vision_data import CryptoKlineVisionData  # noqa: PLC0415

    async with CryptoKlineVisionData(**options) as data:
        return await data.ensure_series(series, span, refresh=refresh, on_progress=on_progress)


@contextlib.contextmanager
def _show_progress() -> Iterator[Callable[[Progress], None]]:
    """Show progress until the block ends: a bar on a terminal, else a line for each archive."""
    with progress_bar("downloading", is_in_bytes=True) as update:

        def show(progress: Progress) -> None:
            update(
                description=f"{progress.archive_count} of {progress.archive_total} archives",
                completed=progress.nbytes,
                total=progress.nbytes_total,
            )

        yield show if is_progress_shown() else _print_progress


def _print_progress(progress: Progress) -> None:
    latest = progress.latest
    if latest is not None:
        count = f"{progress.archive_count}/{progress.archive_total}"
        say_on_stderr(f"{count} {latest.series} {latest.period} {latest.outcome}")


def _print_report(report: DownloadReport) -> None:
    for archive in report.archives:
        for note in archive.notes:
            complain(note if archive.error is not None else f"{archive.series} {archive.period}: {note}")
    for completion in report.completions:
        _print_completion(completion)
    for series, spans in report.missing.items():
        for span in spans:
            why = report.why(series, span)
            complain(f"{series}: {span} is not in the cache" + (f": {why}" if why else ""))
    for series, tail in report.untraded_tails.items():
        say(f"{series}: {tail}")
    _print_totals(report)


def _print_completion(completion: CompletionReport) -> None:
    for error in completion.errors:
        complain(f"{completion.series}: {error}")
    if completion.conflict_open_times:
        count = len(completion.conflict_open_times)
        complain(f"{completion.series}: sources disagree on {count} bars; the daily archive's were kept")
    if completion.impossible_open_times:
        count = len(completion.impossible_open_times)
        complain(f"{completion.series}: no market can make {count} bars of the REST interface; kept as published")
    for absence in completion.beyond_archives:
        again = format_time(absence.recheck_ms // MINUTE_MS * MINUTE_MS)
        complain(f"{completion.series}: {absence.span} lies {absence.reason}; asked for again from {again}")


def _print_totals(report: DownloadReport) -> None:
    if report.covered_before:
        say("everything was in the cache already")
        return
    if not report.is_closed:
        complain(f"no bar of {report.span} is closed yet" if report.span else f"{report.span} is empty")
        return
    nbytes = sum(archive.nbytes for archive in report.stored)
    rest_bar_count = sum(completion.rest_bar_count for completion in report.completions)
    parts = [f"{len(report.stored)} archives stored ({format_nbytes(nbytes)})", f"{len(report.failed)} failed"]
    if rest_bar_count:
        parts.append(f"{rest_bar_count} bars from the REST interface")
    if report.outside_row_count:
        parts.append(f"{report.outside_row_count} rows of other periods left out")
    if report.impossible_count:
        parts.append(f"{report.impossible_count} impossible bars")
    say(", ".join(parts))

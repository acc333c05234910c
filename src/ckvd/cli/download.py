"""`ckvd download`: bring klines into the cache."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from ckvd.cli.options import (
    EXIT_INCOMPLETE,
    CacheOption,
    EndOption,
    IntervalOption,
    KindOption,
    MarketOption,
    StartOption,
    exit_status_of_errors,
)
from ckvd.cli.progress import show_progress
from ckvd.cli.terminal import complain, format_nbytes, out
from ckvd.market import Kind, Market
from ckvd.report import DownloadReport, Progress
from ckvd.utils.config import DOWNLOAD_CONCURRENCY


def download(
    symbols: Annotated[list[str], typer.Argument(help="Symbols, such as BTCUSDT ETHUSDT.", show_default=False)],
    interval: IntervalOption,
    start: StartOption,
    end: EndOption,
    market: MarketOption = Market.SPOT,
    kind: KindOption = Kind.KLINES,
    cache: CacheOption = None,
    vision_url: Annotated[
        str | None,
        typer.Option(
            "--vision-url",
            help="A mirror of Binance Vision: address or folder [default: $CKVD_VISION_URL, else Binance Vision].",
            show_default=False,
        ),
    ] = None,
    jobs: Annotated[
        int, typer.Option("--jobs", "-j", min=1, max=64, help="Archives fetched at a time.")
    ] = DOWNLOAD_CONCURRENCY,
    require_checksum: Annotated[
        bool, typer.Option("--require-checksum", help="Refuse archives without a CHECKSUM file.")
    ] = False,
) -> None:
    """Download klines into the cache; what is there already is not fetched again."""
    with exit_status_of_errors():
        with show_progress() as on_progress:
            report = asyncio.run(
                _download(
                    symbols,
                    (interval, start, end, market, kind),
                    cache,
                    vision_url,
                    jobs,
                    is_checksum_required=require_checksum,
                    on_progress=on_progress,
                )
            )
        _print_report(report)
        if not report.is_complete:
            raise typer.Exit(EXIT_INCOMPLETE)


async def _download(
    symbols: list[str],
    wanted: tuple[str, str, str, str, str],
    cache: Path | None,
    vision_url: str | None,
    jobs: int,
    *,
    is_checksum_required: bool,
    on_progress: Callable[[Progress], None],
) -> DownloadReport:
    from ckvd.vision_data_client import VisionDataClient  # noqa: PLC0415  (loads HTTP; --help does not need it)

    interval, start, end, market, kind = wanted
    async with VisionDataClient(
        vision_url, cache=cache, concurrency=jobs, is_checksum_required=is_checksum_required
    ) as vision:
        return await vision.download(
            symbols, interval, start=start, end=end, market=market, kind=kind, on_progress=on_progress
        )


def _print_report(report: DownloadReport) -> None:
    for archive in report.archives:
        for note in archive.notes:
            complain(note if archive.error is not None else f"{archive.series} {archive.period}: {note}")
    for series, spans in report.missing.items():
        for span in spans:
            complain(f"{series}: no archive for {span}")
    nbytes = sum(archive.nbytes for archive in report.stored)
    if report.covered_before:
        out.print("everything was in the cache already")
    else:
        out.print(f"{len(report.stored)} archives stored ({format_nbytes(nbytes)}), {len(report.failed)} failed")

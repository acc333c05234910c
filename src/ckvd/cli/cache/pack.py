"""`ckvd cache pack`: merge small segments into large ones."""

from __future__ import annotations

from typing import Annotated

import typer

from ckvd.cache.folder import CacheFolder
from ckvd.cache.packing import PackReport, pack_series, survey_packing
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
from ckvd.cli.cache.printing import count, print_json, say, track
from ckvd.cli.exit_status import EXIT_INCOMPLETE
from ckvd.cli.options import CacheOption, exit_status_of_errors
from ckvd.cli.terminal import complain, format_nbytes


def pack(
    symbols: SymbolsArgument = None,
    market: MarketsOption = None,
    kind: KindsOption = None,
    interval: IntervalsOption = None,
    thorough: Annotated[
        bool, typer.Option("--thorough", help="Merge whatever fits, also where much is copied for little.")
    ] = False,
    yes: YesOption = False,
    cache: CacheOption = None,
    json: JsonOption = False,
) -> None:
    """Merge closed history into large segments, and remove what newer segments have replaced.

    Every download does it as well. Status 1: something could not be packed.
    """
    with exit_status_of_errors():
        folder = CacheFolder.at(cache)
        series = choose(folder, filter_of(symbols, market, kind, interval))
        work = pack_series if yes else survey_packing
        reports = [work(folder, key, is_thorough=thorough) for key in track(series, "packing")]
        if json:
            print_json([_json(report) for report in reports if report.merges or report.removed or report.refusals])
        else:
            _print(reports, is_done=yes)
        if any(report.refusals for report in reports):
            raise typer.Exit(EXIT_INCOMPLETE)


def _print(reports: list[PackReport], *, is_done: bool) -> None:
    for report in reports:
        for merge in report.merges:
            pieces = count(len(merge.inputs), "segment")
            say(f"{report.series}: {pieces} of {merge.row_count:,} bars in {merge.span}")
        for refusal in report.refusals:
            complain(refusal)
    removed = sum(len(report.removed) for report in reports)
    nbytes = format_nbytes(sum(report.removed_nbytes for report in reports))
    if is_done:
        made = sum(len(report.packed) for report in reports)
        say(f"{count(made, 'segment')} made, {count(removed, 'file')} of {nbytes} removed")
    else:
        would = f"would merge or remove {count(removed, 'file')} of {nbytes}"
        say(would + ("; add --yes to do it" if removed else ""))


def _json(report: PackReport) -> dict[str, object]:
    return {
        "series": str(report.series),
        "merges": [
            {
                "span": [merge.span.start_ms, merge.span.end_ms],
                "segment_count": len(merge.inputs),
                "bar_count": merge.row_count,
            }
            for merge in report.merges
        ],
        "packed": [name.file_name for name in report.packed],
        "removed": [name.file_name for name in report.removed],
        "removed_nbytes": report.removed_nbytes,
        "refusals": list(report.refusals),
    }

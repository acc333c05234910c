"""`ckvd cache repair`: set right what `verify` finds."""

from __future__ import annotations

import asyncio
from pathlib import Path
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
from ckvd.cli.cache.printing import count, print_json, say
from ckvd.cli.cache.verify import find
from ckvd.cli.exit_status import EXIT_INCOMPLETE
from ckvd.cli.options import CacheOption, VisionUrlOption, exit_status_of_errors
from ckvd.cli.terminal import complain, format_nbytes
from ckvd.maintenance.repair import RepairReport, RepairStep, find_lost, plan_repair, repair
from ckvd.maintenance.selection import SeriesFilter
from ckvd.maintenance.verification import Finding, Trouble

_WAYS_OUT = (
    "try again, or ckvd download; ckvd cache quarantine --restore puts the file back as it is, "
    "ckvd cache prune --quarantine gives it up"
)


def repair_command(
    symbols: SymbolsArgument = None,
    market: MarketsOption = None,
    kind: KindsOption = None,
    interval: IntervalsOption = None,
    fetch: Annotated[bool, typer.Option("--fetch/--no-fetch", help="Fetch again what was lost.")] = True,
    vision_url: VisionUrlOption = None,
    yes: YesOption = False,
    cache: CacheOption = None,
    json: JsonOption = False,
) -> None:
    """Set aside what cannot be believed and fetch it again. Status 1: something is left to do.

    Nothing is deleted: `ckvd cache quarantine` shows what was set aside, and restores it.
    """
    with exit_status_of_errors():
        folder = CacheFolder.at(cache)
        findings = _find(folder, filter_of(symbols, market, kind, interval))
        steps = plan_repair(folder, findings)
        if not yes:
            _print_plan(steps, is_json=json)
            raise typer.Exit(EXIT_INCOMPLETE if steps else 0)
        report = asyncio.run(_repair(folder, findings, cache, vision_url, fetch=fetch))
        _print_report(report, is_json=json)
        if not report.is_complete or any(finding.trouble is Trouble.UNREADABLE for finding in findings):
            raise typer.Exit(EXIT_INCOMPLETE)


def _find(folder: CacheFolder, chosen: SeriesFilter) -> list[Finding]:
    """What is wrong now, and what is still lost of what was set aside before."""
    # A series of which all that was left is in quarantine may have no folder to verify.
    is_there = bool(chosen.choose(folder)) or not find_lost(folder, chosen)
    findings = find(folder, chosen) if is_there else []
    return findings + find_lost(folder, chosen, findings)


async def _repair(
    folder: CacheFolder, findings: list[Finding], cache: Path | None, vision_url: str | None, *, fetch: bool
) -> RepairReport:
    if not fetch:
        return await repair(folder, findings)
    from ckvd.api.vision_data_client import VisionDataClient  # noqa: PLC0415  (loads HTTP; --help does not need it)

    async with VisionDataClient(vision_url, cache=cache) as vision:
        return await repair(folder, findings, vision.archives)


def _print_plan(steps: tuple[RepairStep, ...], *, is_json: bool) -> None:
    if is_json:
        print_json([_step_json(step) for step in steps])
        return
    for step in steps:
        lost = ", ".join(map(str, step.lost)) or "nothing: other segments cover it"
        if step.finding.trouble is Trouble.LOST:
            say(f"would fetch {lost}, which was lost with {step.finding.path} ({step.finding.message})")
        else:
            say(f"would set aside {step.finding.path} ({step.finding.trouble}) and fetch {lost}")
    nbytes = sum(step.nbytes for step in steps)
    say(f"{count(len(steps), 'file')}, {format_nbytes(nbytes)}" + ("; add --yes to do it" if steps else ""))


def _print_report(report: RepairReport, *, is_json: bool) -> None:
    if is_json:
        print_json(_report_json(report))
        return
    for aside in report.quarantined:
        say(f"set aside {aside.series} {aside.file_name}: {aside.reason}")
    for path in report.renamed:
        say(f"named {path} as its header says")
    for leftover in report.leftovers:
        say(f"removed the leftover {leftover.path}")
    for failure in report.failures:
        complain(failure)
    for fetched in report.refetched:
        for source in fetched.stored:
            say(f"fetched {source.name}")
        for failure in fetched.failures:
            complain(failure)
    for series, spans in report.unrepaired.items():
        for span in spans:
            complain(f"{series}: {span} is lost; {_WAYS_OUT}")


def _report_json(report: RepairReport) -> dict[str, object]:
    return {
        "quarantined": [str(aside.path) for aside in report.quarantined],
        "renamed": [str(path) for path in report.renamed],
        "fetched": [source.name for fetched in report.refetched for source in fetched.stored],
        "failures": [*report.failures, *(why for fetched in report.refetched for why in fetched.failures)],
        "leftovers": [str(leftover.path) for leftover in report.leftovers],
        "unrepaired": {
            str(series): [[span.start_ms, span.end_ms] for span in spans]
            for series, spans in report.unrepaired.items()
        },
    }


def _step_json(step: RepairStep) -> dict[str, object]:
    return {
        **step.finding.to_json(),
        "lost": [[span.start_ms, span.end_ms] for span in step.lost],
        "nbytes": step.nbytes,
    }

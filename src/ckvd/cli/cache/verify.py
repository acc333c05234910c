"""`ckvd cache verify`: find what is wrong."""

from __future__ import annotations

from typing import Annotated

import typer

from ckvd.cache.folder import CacheFolder
from ckvd.cli.cache.choosing import (
    IntervalsOption,
    JsonOption,
    KindsOption,
    MarketsOption,
    SymbolsArgument,
    choose,
    filter_of,
)
from ckvd.cli.cache.printing import count, print_json, say, track
from ckvd.cli.exit_status import EXIT_INCOMPLETE
from ckvd.cli.options import CacheOption, exit_status_of_errors
from ckvd.maintenance.selection import SeriesFilter
from ckvd.maintenance.verification import Finding, Severity, is_clean, verify_cache


def verify(
    symbols: SymbolsArgument = None,
    market: MarketsOption = None,
    kind: KindsOption = None,
    interval: IntervalsOption = None,
    quick: Annotated[bool, typer.Option("--quick", help="Look at names and headers only.")] = False,
    cache: CacheOption = None,
    json: JsonOption = False,
) -> None:
    """Check every checksum, header, order, grid and invariant. Status 1: there are errors or warnings."""
    with exit_status_of_errors():
        folder = CacheFolder.at(cache)
        findings = find(folder, filter_of(symbols, market, kind, interval), is_quick=quick)
        if json:
            print_json([finding.to_json() for finding in findings])
        else:
            print_findings(findings)
        if not is_clean(findings):
            raise typer.Exit(EXIT_INCOMPLETE)


def find(folder: CacheFolder, chosen: SeriesFilter, *, is_quick: bool = False) -> list[Finding]:
    """What is wrong with a cache, with a progress bar."""
    return list(verify_cache(folder, track(choose(folder, chosen), "verifying"), is_quick=is_quick))


def print_findings(findings: list[Finding]) -> None:
    """Print findings, the worst first, and how many there are."""
    for severity in Severity:
        for finding in findings:
            if finding.severity is severity:
                say(f"{severity}: {finding.path}: {finding.trouble}: {finding.message}")
    numbers = {severity: sum(finding.severity is severity for finding in findings) for severity in Severity}
    say(", ".join(count(number, severity.value) for severity, number in numbers.items()))

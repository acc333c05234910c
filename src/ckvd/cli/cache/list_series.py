"""`ckvd cache list`: the series of a cache."""

from __future__ import annotations

from ckvd.cache.folder import CacheFolder
from ckvd.cli.cache.choosing import (
    IntervalsOption,
    JsonOption,
    KindsOption,
    MarketsOption,
    SymbolsArgument,
    expect_some,
    filter_of,
)
from ckvd.cli.cache.printing import print_json, print_table
from ckvd.cli.options import CacheOption, exit_status_of_errors
from ckvd.cli.terminal import format_nbytes
from ckvd.maintenance.inventory import SeriesSummary, list_series

_NAMES = ("series", "span", "holes", "bars", "segments", "size", "sources", "provisional")


def list_command(
    symbols: SymbolsArgument = None,
    market: MarketsOption = None,
    kind: KindsOption = None,
    interval: IntervalsOption = None,
    cache: CacheOption = None,
    json: JsonOption = False,
) -> None:
    """List series with span, bars, coverage, size and sources."""
    with exit_status_of_errors():
        folder = CacheFolder.at(cache)
        chosen = filter_of(symbols, market, kind, interval)
        summaries = expect_some(list(list_series(folder, chosen)), folder, chosen)
        if json:
            print_json([summary.to_json() for summary in summaries])
            return
        print_table(_NAMES, [_row(summary) for summary in summaries])


def _row(summary: SeriesSummary) -> tuple[object, ...]:
    sources = ", ".join(f"{number} {origin}" for origin, number in summary.origins.items()) or "-"
    return (
        str(summary.series),
        str(summary.span),
        len(summary.coverage) - 1,
        summary.bar_count,
        summary.segment_count,
        format_nbytes(summary.nbytes),
        sources,
        ", ".join(map(str, summary.provisional)) or "-",
    )

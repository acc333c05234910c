"""`ckvd cache stats`: totals."""

from __future__ import annotations

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
from ckvd.cli.cache.printing import count, print_json, print_table, say
from ckvd.cli.options import CacheOption, exit_status_of_errors
from ckvd.cli.terminal import format_nbytes
from ckvd.maintenance.inventory import total
from ckvd.model.timespan import format_time


def stats(
    symbols: SymbolsArgument = None,
    market: MarketsOption = None,
    kind: KindsOption = None,
    interval: IntervalsOption = None,
    cache: CacheOption = None,
    json: JsonOption = False,
) -> None:
    """Show totals by market and interval, the age of the files, and what packing would merge."""
    with exit_status_of_errors():
        folder = CacheFolder.at(cache)
        chosen = filter_of(symbols, market, kind, interval)
        choose(folder, chosen)
        totals = total(folder, chosen)
        if json:
            print_json(totals.to_json())
            return
        print_table(
            ("market", "interval", "series", "segments", "bars", "size"),
            [(*group, *sums[:3], format_nbytes(sums[3])) for group, sums in sorted(totals.groups.items())],
        )
        if totals.groups:
            oldest, newest = (format_time(ms - ms % 1000) for ms in (totals.oldest_file_ms, totals.newest_file_ms))
            say(f"written from {oldest} to {newest}")
        merged = count(totals.packable_segment_count, "segment")
        say(f"packing would merge {merged} of {format_nbytes(totals.packable_nbytes)}")
        say(f"packing would remove {format_nbytes(totals.superseded_nbytes)} that newer segments have replaced")

"""`ckvd cache info`: one series in full."""

from __future__ import annotations

from typing import Annotated

import typer

from ckvd.cache.folder import CacheFolder
from ckvd.cli.cache.choosing import JsonOption
from ckvd.cli.cache.printing import print_json, print_table, say
from ckvd.cli.exit_status import EXIT_INCOMPLETE
from ckvd.cli.options import CacheOption, IntervalOption, KindOption, MarketOption, exit_status_of_errors
from ckvd.cli.terminal import complain, format_nbytes
from ckvd.maintenance.inventory import SegmentSummary, describe_segments, summarise_series, winning_sources
from ckvd.maintenance.verification import verify_series
from ckvd.model.market import Kind, Market, SeriesKey
from ckvd.model.provenance import narrow
from ckvd.model.timespan import format_time


def info(
    symbol: Annotated[str, typer.Argument(help="A symbol, such as BTCUSDT.", show_default=False)],
    interval: IntervalOption,
    market: MarketOption = Market.SPOT,
    kind: KindOption = Kind.KLINES,
    cache: CacheOption = None,
    json: JsonOption = False,
) -> None:
    """Show one series in full: its segments, where its bars came from, and what its headers say of their state."""
    with exit_status_of_errors():
        folder = CacheFolder.at(cache)
        series = SeriesKey.of(symbol.upper(), interval, market=market, kind=kind)
        summary = summarise_series(folder, series)
        if not summary.segment_count:
            complain(f"{series} is not in the cache {folder.root}")
            raise typer.Exit(EXIT_INCOMPLETE)
        segments = describe_segments(folder, series)
        findings = list(verify_series(folder, series, is_quick=True))
        if json:
            print_json(
                {
                    **summary.to_json(),
                    "segments": [segment.to_json() for segment in segments],
                    "findings": [finding.to_json() for finding in findings],
                }
            )
            return
        say(f"{series}: {summary.bar_count:,} bars, {format_nbytes(summary.nbytes)}")
        for span in summary.coverage:
            say(f"covers {span}")
        print_table(("segment", "speaks for", "bars", "size", "state"), [_row(segment) for segment in segments])
        for source in winning_sources(segments):
            confirmed = "confirmed" if source.is_checksum_published else "not confirmed"
            say(f"source {source.name} {source.row_count} rows {source.sha256[:16] or '-'} {confirmed}")
        for segment in segments:
            _print_absences(segment)
        for finding in findings:
            say(f"{finding.severity}: {finding.path.name}: {finding.message}")


def _row(segment: SegmentSummary) -> tuple[object, ...]:
    state = segment.trouble or ("provisional" if segment.is_provisional else "closed")
    if segment.recheck_ms:
        state += f", ask again {format_time(segment.recheck_ms)}"
    held = ", ".join(map(str, segment.held)) or "nothing"
    return segment.name.file_name, held, segment.row_count, format_nbytes(segment.nbytes), state


def _print_absences(segment: SegmentSummary) -> None:
    for absence in (absence for part in segment.held for absence in narrow(segment.absences, part)):
        again = f", ask again {format_time(absence.recheck_ms)}" if absence.recheck_ms else ""
        say(f"absent {absence.span} {absence.reason}{again}")

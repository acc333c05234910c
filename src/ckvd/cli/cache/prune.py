"""`ckvd cache prune`: make room."""

from __future__ import annotations

from typing import Annotated

import typer

from ckvd.cache.folder import CacheFolder
from ckvd.cli.cache.choosing import (
    IntervalsOption,
    JsonOption,
    KindsOption,
    MarketsOption,
    OptionalEndOption,
    OptionalStartOption,
    SymbolsArgument,
    YesOption,
    filter_of,
    parse_nbytes,
    span_of,
)
from ckvd.cli.cache.printing import count, format_span, print_json, say, track
from ckvd.cli.exit_status import EXIT_USAGE
from ckvd.cli.options import CacheOption, exit_status_of_errors
from ckvd.cli.terminal import complain, format_nbytes
from ckvd.maintenance.leftovers import Leftover, find_leftovers, remove_leftovers
from ckvd.maintenance.pruning import ALL_TIME, Pruning, carry_out, plan_pruning, plan_pruning_to_size, prune_span
from ckvd.maintenance.quarantine import Quarantined, discard, list_quarantine
from ckvd.maintenance.selection import EVERYTHING, SeriesFilter
from ckvd.timespan import Span, parse_time


def prune(
    symbols: SymbolsArgument = None,
    market: MarketsOption = None,
    kind: KindsOption = None,
    interval: IntervalsOption = None,
    start: OptionalStartOption = None,
    end: OptionalEndOption = None,
    before: Annotated[
        str | None, typer.Option("--before", help="Remove bars that open before this moment.", show_default=False)
    ] = None,
    max_size: Annotated[
        str | None,
        typer.Option(
            "--max-size", help="Remove what was not read for longest, until this much is left.", show_default=False
        ),
    ] = None,
    leftovers: Annotated[bool, typer.Option("--leftovers", help="Remove what dead processes left behind.")] = False,
    quarantine: Annotated[bool, typer.Option("--quarantine", help="Delete files that were set aside.")] = False,
    yes: YesOption = False,
    cache: CacheOption = None,
    json: JsonOption = False,
) -> None:
    """Remove series, spans, old bars, what was not read for longest, leftovers or files in quarantine.

    Say what to remove: by symbol, market, kind or interval, by --start and --end or --before, by --max-size, or
    with --leftovers and --quarantine.
    """
    with exit_status_of_errors():
        folder = CacheFolder.at(cache)
        chosen = filter_of(symbols, market, kind, interval)
        span = Span(0, parse_time(before)) if before is not None else span_of(start, end)
        has_choice = chosen != EVERYTHING or span is not None
        if not (has_choice or max_size or leftovers or quarantine):
            complain("say what to remove: series, a span, --before, --max-size, --leftovers or --quarantine")
            raise typer.Exit(EXIT_USAGE)
        if (before is not None and (start or end)) or (max_size and span is not None):
            complain("choose one of --start/--end, --before and --max-size")
            raise typer.Exit(EXIT_USAGE)
        prunings: list[Pruning] = []
        if max_size is not None:
            prunings = plan_pruning_to_size(folder, parse_nbytes(max_size), chosen)
        elif has_choice and (span is not None or not (leftovers or quarantine)):
            prunings = _plan(folder, chosen, span)
        found = find_leftovers(folder) if leftovers else []
        aside = [one for one in list_quarantine(folder) if one.series in chosen] if quarantine else []
        if yes:
            prunings = [
                carry_out(folder, pruning)
                if max_size is not None
                else prune_span(folder, pruning.series, pruning.span)
                for pruning in track(prunings, "pruning")
            ]
            found = remove_leftovers(folder) if leftovers else []
            for one in aside:
                discard(one)
        if json:
            print_json(_json(prunings, found, aside, is_done=yes))
        else:
            _print(prunings, found, aside, is_done=yes)


def _plan(folder: CacheFolder, chosen: SeriesFilter, span: Span | None) -> list[Pruning]:
    try:
        return plan_pruning(folder, chosen, ALL_TIME if span is None else span)
    except ValueError as error:
        complain(str(error))
        raise typer.Exit(EXIT_USAGE) from None


def _print(prunings: list[Pruning], found: list[Leftover], aside: list[Quarantined], *, is_done: bool) -> None:
    verb = "removed" if is_done else "would remove"
    for pruning in prunings:
        files = count(len(pruning.segments), "file")
        span = "all" if pruning.span == ALL_TIME else format_span(pruning.span) if pruning.span else "replaced"
        rest = f", {count(len(pruning.kept), 'part')} written anew" if pruning.kept else ""
        say(
            f"{verb} {pruning.series} {span}: {count(pruning.bar_count, 'bar')}, {files} of "
            f"{format_nbytes(pruning.nbytes)}{rest}"
        )
    for leftover in found:
        say(f"{verb} the leftover {leftover.path} ({format_nbytes(leftover.nbytes)})")
    for one in aside:
        say(f"{verb} {one.path} ({format_nbytes(one.nbytes)}) for good")
    file_count = sum(len(pruning.segments) for pruning in prunings) + len(found) + len(aside)
    nbytes = sum(one.nbytes for group in (prunings, found, aside) for one in group)
    hint = "" if is_done or not file_count else "; add --yes to do it"
    say(f"{verb} {count(file_count, 'file')} of {format_nbytes(nbytes)}{hint}")


def _json(
    prunings: list[Pruning], found: list[Leftover], aside: list[Quarantined], *, is_done: bool
) -> dict[str, object]:
    return {
        "is_done": is_done,
        "prunings": [
            {
                "series": str(pruning.series),
                "span": None if pruning.span == ALL_TIME else [pruning.span.start_ms, pruning.span.end_ms],
                "segments": [name.file_name for name in pruning.segments],
                "kept": [[holding.span.start_ms, holding.span.end_ms] for holding in pruning.kept],
                "bar_count": pruning.bar_count,
                "nbytes": pruning.nbytes,
            }
            for pruning in prunings
        ],
        "leftovers": [{"path": str(leftover.path), "nbytes": leftover.nbytes} for leftover in found],
        "quarantine": [{"path": str(one.path), "nbytes": one.nbytes} for one in aside],
    }

"""`ckvd cache prune`: make room."""

from __future__ import annotations

from dataclasses import dataclass, replace
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
from ckvd.cli.cache.printing import count, print_json, say, track
from ckvd.cli.exit_status import EXIT_USAGE
from ckvd.cli.options import CacheOption, exit_status_of_errors
from ckvd.cli.terminal import complain, format_nbytes
from ckvd.maintenance.leftovers import Leftover, find_leftovers, remove_leftovers
from ckvd.maintenance.pruning import ALL_TIME, Pruning, carry_out, plan_pruning, plan_pruning_to_size, prune_span
from ckvd.maintenance.quarantine import Quarantined, discard, list_quarantine
from ckvd.maintenance.selection import EVERYTHING, SeriesFilter
from ckvd.model.timespan import Span, parse_time


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
        span = _span_of(start, end, before, max_size)
        has_choice = chosen != EVERYTHING or span is not None
        if not (has_choice or max_size or leftovers or quarantine):
            complain("say what to remove: series, a span, --before, --max-size, --leftovers or --quarantine")
            raise typer.Exit(EXIT_USAGE)
        prunings: list[Pruning] = []
        if max_size is not None:
            prunings = plan_pruning_to_size(folder, parse_nbytes(max_size), chosen)
        elif has_choice and (span is not None or not (leftovers or quarantine)):
            prunings = _plan(folder, chosen, span)
        found = find_leftovers(folder) if leftovers else []
        aside = [one for one in list_quarantine(folder) if one.series in chosen] if quarantine else []
        removal = _Removal(prunings, found, aside)
        if yes:
            removal = _remove(folder, removal, is_to_size=max_size is not None)
        if json:
            print_json(_json(removal, is_done=yes))
        else:
            _print(removal, is_done=yes)


@dataclass(frozen=True, slots=True)
class _Removal:
    """What goes: bars, what dead processes left behind, and files that were set aside."""

    prunings: list[Pruning]
    leftovers: list[Leftover]
    quarantined: list[Quarantined]

    @property
    def file_count(self) -> int:
        segment_count = sum(len(pruning.segments) for pruning in self.prunings)
        return segment_count + len(self.leftovers) + len(self.quarantined)

    @property
    def nbytes(self) -> int:
        return sum(one.nbytes for group in (self.prunings, self.leftovers, self.quarantined) for one in group)


def _span_of(start: str | None, end: str | None, before: str | None, max_size: str | None) -> Span | None:
    """The span that is to go, where the options name one and do not contradict each other."""
    span = Span(0, parse_time(before)) if before is not None else span_of(start, end)
    if (before is not None and (start or end)) or (max_size and span is not None):
        complain("choose one of --start/--end, --before and --max-size")
        raise typer.Exit(EXIT_USAGE)
    return span


def _plan(folder: CacheFolder, chosen: SeriesFilter, span: Span | None) -> list[Pruning]:
    try:
        return plan_pruning(folder, chosen, ALL_TIME if span is None else span)
    except ValueError as error:
        complain(str(error))
        raise typer.Exit(EXIT_USAGE) from None


def _remove(folder: CacheFolder, removal: _Removal, *, is_to_size: bool) -> _Removal:
    """Remove all of it, and tell what went: others may have written more, or removed some, since it was planned."""
    prunings = [
        carry_out(folder, pruning) if is_to_size else prune_span(folder, pruning.series, pruning.span)
        for pruning in track(removal.prunings, "pruning")
    ]
    found = remove_leftovers(folder) if removal.leftovers else []
    for one in removal.quarantined:
        discard(one)
    return replace(removal, prunings=prunings, leftovers=found)


def _print(removal: _Removal, *, is_done: bool) -> None:
    verb = "removed" if is_done else "would remove"
    for pruning in removal.prunings:
        _print_pruning(pruning, verb)
    for leftover in removal.leftovers:
        say(f"{verb} the leftover {leftover.path} ({format_nbytes(leftover.nbytes)})")
    for one in removal.quarantined:
        say(f"{verb} {one.path} ({format_nbytes(one.nbytes)}) for good")
    hint = "" if is_done or not removal.file_count else "; add --yes to do it"
    say(f"{verb} {count(removal.file_count, 'file')} of {format_nbytes(removal.nbytes)}{hint}")


def _print_pruning(pruning: Pruning, verb: str) -> None:
    files = f"{count(len(pruning.segments), 'file')} of {format_nbytes(pruning.nbytes)}"
    span = "all" if pruning.span == ALL_TIME else pruning.span or "replaced"
    rest = f", {count(len(pruning.kept), 'part')} written anew" if pruning.kept else ""
    say(f"{verb} {pruning.series} {span}: {count(pruning.bar_count, 'bar')}, {files}{rest}")


def _json(removal: _Removal, *, is_done: bool) -> dict[str, object]:
    return {
        "is_done": is_done,
        "prunings": [
            {
                "series": str(pruning.series),
                "span": None if pruning.span == ALL_TIME else [pruning.span.start_ms, pruning.span.end_ms],
                "segments": [name.file_name for name in pruning.segments],
                "kept": [[winner.span.start_ms, winner.span.end_ms] for winner in pruning.kept],
                "bar_count": pruning.bar_count,
                "nbytes": pruning.nbytes,
            }
            for pruning in removal.prunings
        ],
        "leftovers": [{"path": str(leftover.path), "nbytes": leftover.nbytes} for leftover in removal.leftovers],
        "quarantine": [{"path": str(one.path), "nbytes": one.nbytes} for one in removal.quarantined],
    }

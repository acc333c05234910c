"""The verbs that save space: `pack` and `prune`."""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Final

from ckvd.cache.leftovers import Leftover, find_leftovers, remove_leftovers
from ckvd.cache.packing import PackReport, pack_series, survey_packing
from ckvd.cache.selection import EVERYTHING, SeriesFilter
from ckvd.cli import EXIT_USAGE
from ckvd.cli.cache.verb import Bounds, Result, Selection
from ckvd.cli.options import exit_with
from ckvd.cli.printing import attributes_of, complain, count, count_rows, format_nbytes, propose, say, track
from ckvd.errors import CacheError
from ckvd.maintenance.pruning import ALL_TIME, Pruning, carry_out, plan_pruning, plan_pruning_to_size, prune_span
from ckvd.maintenance.quarantine import Quarantined, discard, list_quarantine
from ckvd.maintenance.refusals import Refusals
from ckvd.model.market import SeriesKey
from ckvd.model.timespan import Span, parse_time

if TYPE_CHECKING:
    from ckvd.cache.folder import CacheFolder

_UNITS: Final = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12}


# --- pack --------------------------------------------------------------------------------------------------


def pack(*, selection: Selection, thorough: bool, yes: bool) -> Result:
    """`ckvd cache pack`."""
    chosen = track(selection.series(), "packing")
    reports = [_pack(selection.folder, key, is_thorough=thorough, is_done=yes) for key in chosen]
    changes = [report for report in reports if report.merges or report.removed or report.refusals]
    is_well = not any(report.refusals for report in reports)
    document = [_pack_document(report) for report in changes]
    return Result(document, partial(_show_packing, changes, is_done=yes), is_well)


def _pack(folder: CacheFolder, series: SeriesKey, *, is_thorough: bool, is_done: bool) -> PackReport:
    """Pack one series, or plan it. One that is locked, or that the disk refuses, does not keep the others."""
    work = pack_series if is_done else survey_packing
    try:
        return work(folder, series, is_thorough=is_thorough)
    except CacheError as error:
        return PackReport(series, refusals=(f"{series}: {error}",))


def _show_packing(reports: list[PackReport], *, is_done: bool) -> None:
    for report in reports:
        for merge in report.merges:
            segments = count(len(merge.inputs), "segment")
            rows = count_rows(merge.row_count, report.series.kind)
            say(f"{report.series}: {segments} of {rows} in {merge.span}")
        for refusal in report.refusals:
            complain(refusal)
    removed = sum(len(report.removed) for report in reports)
    nbytes = format_nbytes(sum(report.removed_nbytes for report in reports))
    if is_done:
        made = sum(len(report.packed) for report in reports)
        say(f"{count(made, 'segment')} made, {count(removed, 'file')} of {nbytes} removed")
    else:
        propose(f"would merge or remove {count(removed, 'file')} of {nbytes}", is_work_left=bool(removed))


def _pack_document(report: PackReport) -> dict[str, object]:
    return {
        "series": report.series,
        "merges": [
            {"span": merge.span, "segment_count": len(merge.inputs), "bar_count": merge.row_count}
            for merge in report.merges
        ],
        "packed": [name.file_name for name in report.packed],
        "removed": [name.file_name for name in report.removed],
        **attributes_of(report, "removed_nbytes", "refusals"),
    }


# --- prune -------------------------------------------------------------------------------------------------


def prune(
    *,
    selection: Selection,
    bounds: Bounds,
    before: str | None,
    max_size: str | None,
    leftovers: bool,
    quarantine: bool,
    yes: bool,
) -> Result:
    """`ckvd cache prune`."""
    folder = selection.folder
    span = _span_to_prune(bounds, before, max_size)
    has_choice = selection.filter != EVERYTHING or span is not None
    if not (has_choice or max_size or leftovers or quarantine):
        raise exit_with(
            EXIT_USAGE, "say what to remove: series, a span, --before, --max-size, --leftovers or --quarantine"
        )
    prunings: list[Pruning] = []
    refused = Refusals()
    if max_size is not None:
        prunings = plan_pruning_to_size(folder, _parse_nbytes(max_size), selection.filter, selection.refuse)
    elif has_choice and (span is not None or not (leftovers or quarantine)):
        prunings = _plan(selection, span, refused)
    found = find_leftovers(folder) if leftovers else []
    aside = [one for one in list_quarantine(folder) if one.series in selection.filter] if quarantine else []
    removal = _Removal(prunings, found, aside)
    if yes:
        removal = _remove(folder, removal, refused, is_to_size=max_size is not None)
    # Each part of a series whose lock file cannot be written has the same reason.
    removal = replace(removal, refusals=list(dict.fromkeys(refused.reasons)))
    for refusal in removal.refusals:
        complain(refusal)
    show = partial(_show_removal, removal, is_done=yes)
    return Result(_removal_document(removal, is_done=yes), show, not removal.refusals)


@dataclass(frozen=True, slots=True)
class _Removal:
    """What pruning removes: bars, leftovers of dead processes, and files in quarantine; and what it could not."""

    prunings: list[Pruning]
    leftovers: list[Leftover]
    quarantined: list[Quarantined]
    refusals: list[str] = field(default_factory=list)

    @property
    def file_count(self) -> int:
        segment_count = sum(len(pruning.segments) for pruning in self.prunings)
        return segment_count + len(self.leftovers) + len(self.quarantined)

    @property
    def nbytes(self) -> int:
        return sum(one.nbytes for group in (self.prunings, self.leftovers, self.quarantined) for one in group)


def _span_to_prune(bounds: Bounds, before: str | None, max_size: str | None) -> Span | None:
    """The span to remove, None where the options name none. They may not contradict each other."""
    span = Span(0, parse_time(before)) if before is not None else bounds.span
    if (before is not None and (bounds.start or bounds.end)) or (max_size and span is not None):
        raise exit_with(EXIT_USAGE, "choose one of --start/--end, --before and --max-size")
    return span


def _parse_nbytes(text: str) -> int:
    """A number of bytes such as `500MB` or `1.5 GB`, in powers of a thousand."""
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([kmgt]?)b?\s*", text, re.IGNORECASE)
    if match is None:
        raise exit_with(EXIT_USAGE, f"{text!r} is no size: expected a number with B, kB, MB, GB or TB")
    return int(float(match[1]) * _UNITS[match[2].lower()])


def _plan(selection: Selection, span: Span | None, refused: Refusals) -> list[Pruning]:
    """Plan series by series: one that cannot be read does not keep the others."""
    if span is not None and (span.start_ms % 1000 or span.end_ms % 1000):
        raise exit_with(EXIT_USAGE, f"segments start and end on whole seconds, so cannot be cut at {span}")
    prunings: list[Pruning] = []
    for series in selection.filter.choose(selection.folder, selection.refuse):
        with refused.noting(series):
            prunings += plan_pruning(selection.folder, SeriesFilter.of(series), ALL_TIME if span is None else span)
    return prunings


def _remove(folder: CacheFolder, removal: _Removal, refused: Refusals, *, is_to_size: bool) -> _Removal:
    """Remove it, and return what was removed: other processes may have written or removed some since the plan."""
    found: list[Leftover] = []
    discarded: list[Quarantined] = []
    prunings: dict[int, Pruning] = {}
    with refused.noting():
        found = remove_leftovers(folder) if removal.leftovers else []
    for one in removal.quarantined:
        with refused.noting():
            discard(one)
            discarded.append(one)
    # Copies need room, which the others may make.
    order = sorted(range(len(removal.prunings)), key=lambda place: bool(removal.prunings[place].kept))
    for place in track(order, "pruning"):
        pruning = removal.prunings[place]
        if refused.is_busy(pruning.series):
            continue  # it is waited for once
        with refused.noting(pruning.series):
            prunings[place] = (
                carry_out(folder, pruning) if is_to_size else prune_span(folder, pruning.series, pruning.span)
            )
    return _Removal([prunings[place] for place in sorted(prunings)], found, discarded)


def _show_removal(removal: _Removal, *, is_done: bool) -> None:
    did = "removed" if is_done else "would remove"
    for pruning in removal.prunings:
        _show_pruning(pruning, did)
    for leftover in removal.leftovers:
        say(f"{did} the leftover {leftover.path} ({format_nbytes(leftover.nbytes)})")
    for one in removal.quarantined:
        say(f"{did} {one.path} ({format_nbytes(one.nbytes)}) for good")
    total = f"{did} {count(removal.file_count, 'file')} of {format_nbytes(removal.nbytes)}"
    propose(total, is_work_left=not is_done and removal.file_count > 0)


def _show_pruning(pruning: Pruning, did: str) -> None:
    files = f"{count(len(pruning.segments), 'file')} of {format_nbytes(pruning.nbytes)}"
    span = "all" if pruning.span == ALL_TIME else pruning.span or "replaced"
    rest = f", {count(len(pruning.kept), 'part')} written anew" if pruning.kept else ""
    say(f"{did} {pruning.series} {span}: {count_rows(pruning.bar_count, pruning.series.kind)}, {files}{rest}")


def _removal_document(removal: _Removal, *, is_done: bool) -> dict[str, object]:
    return {
        "is_done": is_done,
        "prunings": [
            {
                "series": pruning.series,
                "span": None if pruning.span == ALL_TIME else pruning.span,
                "segments": [name.file_name for name in pruning.segments],
                "kept": [winner.span for winner in pruning.kept],
                **attributes_of(pruning, "bar_count", "nbytes"),
            }
            for pruning in removal.prunings
        ],
        "leftovers": removal.leftovers,
        "quarantine": [attributes_of(one, "path", "nbytes") for one in removal.quarantined],
        "refusals": removal.refusals,
    }

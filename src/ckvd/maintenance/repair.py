"""Setting right what verification found.

A file that cannot be believed is set aside, never deleted, and nothing older speaks in its place. One that merely
bears the name of another gets its own back. What the cache does not have any more after that is fetched again,
where a source is given.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

from ckvd.cache.coverage import uncovered_spans
from ckvd.cache.folder import SegmentName, parse_segment_name
from ckvd.cache.locks import SeriesLock
from ckvd.cache.resolution import resolve
from ckvd.errors import CacheError, SegmentError
from ckvd.maintenance.leftovers import Leftover, remove_leftovers
from ckvd.maintenance.quarantine import Quarantined, quarantine_file, restore
from ckvd.maintenance.refetch import Refetched, refetch
from ckvd.maintenance.tombstones import withdraw_tombstones
from ckvd.maintenance.verification import REPAIRABLE, Finding, Severity, Trouble, verify_segment
from ckvd.model.timespan import Span, now_ms, union
from ckvd.segment.reader import read_segment_header

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    from ckvd.cache.folder import CacheFolder
    from ckvd.model.market import SeriesKey
    from ckvd.vision.source import ArchiveSource


@dataclass(frozen=True, slots=True)
class RepairStep:
    """One file that is to be set aside.

    Attributes
    ----------
    finding : Finding
    series : SeriesKey
    lost : tuple of Span
        What it speaks for, and nothing else can be trusted to.
    nbytes : int
    """

    finding: Finding
    series: SeriesKey
    lost: tuple[Span, ...]
    nbytes: int


@dataclass(frozen=True, slots=True)
class RepairReport:
    """What a repair did.

    Attributes
    ----------
    steps : tuple of RepairStep
        What was to be done.
    quarantined : tuple of Quarantined
        Files that were set aside; `restore` puts them back.
    renamed : tuple of Path
        Files that got their own names back.
    refetched : tuple of Refetched
    leftovers : tuple of Leftover
        What was removed of what dead processes had left.
    unrepaired : dict of SeriesKey to tuple of Span
        What the cache has lost, because no source was given or it did not have it.
    """

    steps: tuple[RepairStep, ...]
    quarantined: tuple[Quarantined, ...]
    renamed: tuple[Path, ...]
    refetched: tuple[Refetched, ...]
    leftovers: tuple[Leftover, ...]
    unrepaired: dict[SeriesKey, tuple[Span, ...]]

    @property
    def is_complete(self) -> bool:
        """Whether the cache has again all that it had."""
        return not self.unrepaired


def plan_repair(folder: CacheFolder, findings: Iterable[Finding]) -> tuple[RepairStep, ...]:
    """Decide which files to set aside, and find out what the cache loses with them. It changes nothing."""
    steps = {}
    for finding in findings:
        series = finding.series
        name = parse_segment_name(finding.path.name)
        if finding.trouble not in REPAIRABLE or series is None or name is None or finding.path in steps:
            continue
        held = resolve(name.span, folder.segments(series))
        lost = tuple(winner.span for winner in held if winner.segment == name)
        try:
            nbytes = finding.path.stat().st_size
        except OSError:
            nbytes = 0
        steps[finding.path] = RepairStep(finding, series, lost, nbytes)
    return tuple(steps.values())


async def repair(
    folder: CacheFolder,
    findings: Sequence[Finding],
    source: ArchiveSource | None = None,
    *,
    at_ms: int | None = None,
) -> RepairReport:
    """Repair what can be repaired.

    Parameters
    ----------
    folder : CacheFolder
    findings : sequence of Finding
        From `verify_cache`.
    source : ArchiveSource, optional
        Where to fetch again what was lost. Without one it is reported, and `ckvd download` fetches it.
    at_ms : int, optional
        The present.

    Raises
    ------
    CacheError
        A file cannot be moved, or the cache not be written. What was done before stays done.
    """
    present_ms = now_ms() if at_ms is None else at_ms
    steps = plan_repair(folder, findings)
    quarantined = _set_aside(folder, steps, present_ms)
    renamed, aside = _rename_swapped(folder, quarantined)
    lost = _find_lost(folder, steps, present_ms)
    refetched = []
    if source is not None:
        for series, spans in lost.items():
            refetched.append(await refetch(source, folder, series, spans, now_ms=present_ms))
        lost = {result.series: result.unfetched for result in refetched}
    leftovers: tuple[Leftover, ...] = ()
    if any(finding.trouble is Trouble.LEFTOVER for finding in findings):
        leftovers = tuple(remove_leftovers(folder, at_ms=present_ms))
    return RepairReport(
        steps,
        tuple(aside),
        tuple(renamed),
        tuple(refetched),
        leftovers,
        {series: spans for series, spans in lost.items() if spans},
    )


def _set_aside(
    folder: CacheFolder, steps: Sequence[RepairStep], present_ms: int
) -> list[tuple[RepairStep, Quarantined]]:
    """Set aside what still cannot be believed: another repair may have been at it since it was looked at."""
    returning: dict[SeriesKey, list[SegmentName]] = {}
    for step in steps:
        if step.finding.trouble is Trouble.SWAPPED and (home := _home_of(step.finding.path)) is not None:
            returning.setdefault(home[0], []).append(home[1])
    quarantined = []
    for step in steps:
        moved = quarantine_file(
            folder,
            step.series,
            step.finding.path.name,
            f"{step.finding.trouble}: {step.finding.message}",
            condition=partial(_is_still_wrong, step),
            returning=returning.get(step.series, ()),
            at_ms=present_ms,
        )
        if moved is not None:
            quarantined.append((step, moved))
    return quarantined


def _is_still_wrong(step: RepairStep) -> bool:
    name = parse_segment_name(step.finding.path.name)
    assert name is not None, "only segments are planned for"
    return any(found.trouble in REPAIRABLE for found in verify_segment(step.finding.path, step.series, name))


def _rename_swapped(
    folder: CacheFolder, quarantined: Sequence[tuple[RepairStep, Quarantined]]
) -> tuple[list[Path], list[Quarantined]]:
    """Give whole segments that bore other names their own, where nothing is in the way."""
    renamed: list[Path] = []
    aside: list[Quarantined] = []
    for step, moved in quarantined:
        if step.finding.trouble is Trouble.SWAPPED and (home := _home_of(moved.path)) is not None:
            series, name = home
            try:
                renamed.append(restore(folder, replace(moved, series=series, tombstones=()), name.file_name))
            except CacheError:
                pass  # the name is taken: what it says is in the cache already
            else:
                continue
        aside.append(moved)
    if renamed:
        _withdraw_tombstones(folder, [moved for _, moved in quarantined])
    return renamed, aside


def _withdraw_tombstones(folder: CacheFolder, quarantined: Iterable[Quarantined]) -> None:
    """Let the segments that have their names back speak again, where nothing newer was lost."""
    for moved in quarantined:
        name = parse_segment_name(moved.file_name)
        if name is not None and moved.tombstones:
            with SeriesLock(folder, moved.series):
                withdraw_tombstones(folder, moved.series, name, moved.tombstones)


def _home_of(path: Path) -> tuple[SeriesKey, SegmentName] | None:
    """Where a segment under another name belongs by its header; None where it is damaged as well."""
    try:
        header = read_segment_header(path)
        series, name = header.series, SegmentName(header.span, header.revision)
        findings = verify_segment(path, series, name)
    except (OSError, SegmentError, ValueError, KeyError):
        return None
    return None if any(finding.severity is Severity.ERROR for finding in findings) else (series, name)


def _find_lost(
    folder: CacheFolder, steps: Iterable[RepairStep], present_ms: int
) -> dict[SeriesKey, tuple[Span, ...]]:
    """What the files to set aside spoke for, and the cache has no answer to now."""
    spans: dict[SeriesKey, tuple[Span, ...]] = {}
    for step in steps:
        spans[step.series] = union([*spans.get(step.series, ()), *step.lost])
    lost = {
        series: tuple(part for span in spoken for part in uncovered_spans(folder, series, span, present_ms))
        for series, spoken in spans.items()
    }
    return {series: parts for series, parts in lost.items() if parts}

"""The verbs that check and repair a cache: `verify`, `repair`, `quarantine` and `audit`."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from ckvd.cache.folder import CacheFolder
from ckvd.cli import EXIT_INCOMPLETE, EXIT_USAGE
from ckvd.cli.cache.compare import Addresses, compare, prefer_bars, show_difference, vision_client
from ckvd.cli.cache.verb import Bounds, Result, Selection
from ckvd.cli.options import exit_with
from ckvd.cli.printing import (
    attributes_of,
    complain,
    count,
    format_nbytes,
    print_table,
    progress_bar,
    propose,
    say,
    track,
)
from ckvd.cli.stop_signals import stop_signals
from ckvd.errors import CacheBusyError, CacheError, CkvdError
from ckvd.maintenance.audit import ArchiveAudit, Change, audit_cache
from ckvd.maintenance.comparison import Against
from ckvd.maintenance.preference import Preferred
from ckvd.maintenance.quarantine import Quarantined, list_quarantine, restore
from ckvd.maintenance.repair import RepairReport, RepairStep, find_lost, plan_repair, repair
from ckvd.maintenance.verification import Finding, Severity, Trouble, changed_since, is_clean, verify_cache
from ckvd.model.timespan import format_time, now_ms, parse_time

if TYPE_CHECKING:
    from ckvd.model.market import SeriesKey
    from ckvd.model.timespan import Span

_WAYS_OUT = (
    "ckvd cache quarantine --restore puts back what was set aside, damaged as it is; "
    "ckvd cache prune --quarantine gives up what is lost with it"
)


# --- verify ------------------------------------------------------------------------------------------------


def verify(*, selection: Selection, quick: bool, since: str | None) -> Result:
    """`ckvd cache verify`."""
    if since is None:
        findings = _find(selection, is_quick=quick)
        return Result(findings, partial(_show_findings, findings), is_clean(findings))
    began_ms = now_ms()
    since_ms = parse_time(since)
    if since_ms > max(began_ms, now_ms()):
        raise exit_with(EXIT_USAGE, f"--since {since} lies in the future: nothing would be looked at")
    counts = _Counts.of(selection, since_ms)
    findings = _find(selection, is_quick=quick, since_ms=since_ms)
    document = {
        "began": format_time(began_ms),
        "segment_count": counts.segments - counts.left_out,
        "left_out_count": counts.left_out,
        "findings": findings,
    }
    return Result(document, partial(_show_since, findings, counts, since_ms, began_ms), is_clean(findings))


@dataclass(frozen=True, slots=True)
class _Counts:
    """How many segments there are, and how many of them were not changed since a moment."""

    segments: int
    left_out: int

    @classmethod
    def of(cls, selection: Selection, since_ms: int) -> _Counts:
        folder, chosen = selection.folder, selection.series()
        everything = [len(folder.segments(series)) for series in chosen]
        changed = [len(changed_since(folder, series, since_ms)) for series in chosen]
        return cls(sum(everything), max(sum(everything) - sum(changed), 0))


def _show_since(findings: list[Finding], counts: _Counts, since_ms: int, began_ms: int) -> None:
    """Print findings, how much was left out, and where the next run may begin."""
    _show_findings(findings)
    looked_at = count(counts.segments - counts.left_out, "segment")
    say(f"{looked_at} looked at, {counts.left_out} left out, which did not change since {format_time(since_ms)}")
    say(f"next time: --since {format_time(began_ms)}")


def _find(selection: Selection, *, is_quick: bool = False, since_ms: int | None = None) -> list[Finding]:
    """Verify a cache and show progress."""
    unlisted: list[CkvdError] = []  # they are findings themselves
    chosen = selection.filter.choose(selection.folder, unlisted.append)
    series = chosen if unlisted else selection.expect_some(chosen)
    findings = verify_cache(selection.folder, track(series, "verifying"), is_quick=is_quick, since_ms=since_ms)
    # What is wrong with the whole cache is of no series.
    return [one for one in findings if one.series is None or one.series in selection.filter]


def _show_findings(findings: list[Finding]) -> None:
    """Print findings, the worst first, and how many there are."""
    for severity in Severity:
        for finding in findings:
            if finding.severity is severity:
                say(f"{severity}: {finding.path}: {finding.trouble}: {finding.message}")
    numbers = {severity: sum(finding.severity is severity for finding in findings) for severity in Severity}
    say(", ".join(count(number, severity.value) for severity, number in numbers.items()))


# --- repair ------------------------------------------------------------------------------------------------


def repair_command(
    *,
    selection: Selection,
    bounds: Bounds,
    fetch: bool,
    prefer: str | None,
    vision_url: str | None,
    rest_url: str | None,
    yes: bool,
) -> Result:
    """`ckvd cache repair`."""
    if prefer is not None:
        addresses = Addresses(vision_url, rest_url)
        return prefer_bars(selection, Preferred(prefer), bounds.span, addresses, is_done=yes)
    if bounds.span is not None:
        raise exit_with(EXIT_USAGE, "--start and --end say which bars to replace, with --prefer")
    findings = _find_what_to_repair(selection)
    # What the system refuses to read is nothing to repair here, and not in order.
    unreadable = [finding for finding in findings if finding.trouble is Trouble.UNREADABLE]
    selection.refusals.extend(f"{finding.path}: {finding.message}" for finding in unreadable)
    steps = plan_repair(selection.folder, findings)
    if not yes:
        return Result(steps, partial(_show_plan, steps), not steps)
    report = stop_signals.run(_repair(selection.folder, findings, vision_url, fetch=fetch))
    return Result(report, partial(_show_report, report), report.is_complete)


def _find_what_to_repair(selection: Selection) -> list[Finding]:
    """Find what is wrong now, and which spans are still lost since an earlier repair."""
    folder, chosen = selection.folder, selection.filter
    # If all segments of a series are in quarantine, it may have no folder to verify.
    is_there = bool(chosen.choose(folder, lambda _: None)) or not find_lost(folder, chosen)
    findings = _find(selection) if is_there else []
    return findings + find_lost(folder, chosen, findings)


async def _repair(
    folder: CacheFolder, findings: list[Finding], vision_url: str | None, *, fetch: bool
) -> RepairReport:
    if not fetch:
        return await repair(folder, findings)
    async with vision_client(vision_url, folder) as vision:
        return await repair(folder, findings, vision.archives)


def _show_plan(steps: tuple[RepairStep, ...]) -> None:
    for step in steps:
        nothing = "nothing" if step.finding.span is None else "nothing: other segments cover it"
        lost = ", ".join(map(str, step.lost)) or nothing
        if step.finding.trouble is Trouble.LOST:
            say(f"would fetch {lost}, which was lost with {step.finding.path} ({step.finding.message})")
        elif step.finding.trouble is Trouble.MISFILED:
            say(f"would move the bars of {step.finding.path} to {step.series}, and set its files aside")
        elif step.finding.trouble is Trouble.PHANTOM:
            say(f"would remove {step.series}, of which no source had anything")
        else:
            say(f"would set aside {step.finding.path} ({step.finding.trouble}) and fetch {lost}")
    nbytes = sum(step.nbytes for step in steps)
    propose(f"{count(len(steps), 'file')}, {format_nbytes(nbytes)}", is_work_left=bool(steps))


def _show_report(report: RepairReport) -> None:
    for aside in report.quarantined:
        say(f"set aside {aside.series} {aside.file_name}: {aside.reason}")
    for path in report.renamed:
        say(f"named {path} as its header says")
    _show_cleared(report)
    for leftover in report.leftovers:
        say(f"removed the leftover {leftover.path}")
    for source in report.fetched:
        say(f"fetched {source.name}")
    for failure in report.failures:
        complain(failure)
    for series, spans in report.unrepaired.items():
        for span in spans:
            complain(f"{series}: {span} is lost; try again, or ckvd download")
    if report.unrepaired:
        complain(_WAYS_OUT)


def _show_cleared(report: RepairReport) -> None:
    for moved in report.moved:
        bars = count(moved.bar_count, "bar")
        files = count(len(moved.set_aside), "file")
        say(f"moved {bars} from {moved.misfiled.path} to {moved.misfiled.series}, set aside {files}")
    for series in report.phantoms:
        say(f"removed {series}, of which no source had anything")


# --- quarantine --------------------------------------------------------------------------------------------


def quarantine(*, selection: Selection, restored: str | None, yes: bool) -> Result:
    """`ckvd cache quarantine`."""
    found = [aside for aside in list_quarantine(selection.folder) if aside.series in selection.filter]
    if restored is not None:
        found = [aside for aside in found if restored in ("all", aside.file_name, aside.path.name)]
        if not found:
            raise exit_with(EXIT_INCOMPLETE, f"no file {restored!r} is in quarantine")
    restored_count, refusals = _restore(selection.folder, found if restored is not None and yes else [])
    for refusal in refusals:
        complain(refusal)
    names = ("series", "path", "file_name", "reason", "since_ms", "nbytes")
    document = [attributes_of(aside, *names) for aside in found]
    show = partial(
        _show_quarantine, found, is_restoring=restored is not None, is_done=yes, restored_count=restored_count
    )
    return Result(document, show, not refusals)


def _restore(folder: CacheFolder, found: list[Quarantined]) -> tuple[int, list[str]]:
    """Put files back. Return how many, and why others were not: one of them does not keep the rest.

    A series that is locked is waited for once.
    """
    restored_count, refusals = 0, []
    busy: dict[SeriesKey, str] = {}
    for aside in found:
        try:
            if aside.series not in busy:
                restore(folder, aside)
                restored_count += 1
        except CacheBusyError as error:
            busy[aside.series] = str(error)
        except CacheError as error:
            refusals.append(str(error))
    return restored_count, [*busy.values(), *refusals]


def _show_quarantine(found: list[Quarantined], *, is_restoring: bool, is_done: bool, restored_count: int) -> None:
    print_table(("series", "file", "size", "since", "reason"), [_quarantine_row(aside) for aside in found])
    if is_restoring and is_done:
        say(f"{count(restored_count, 'file')} restored")
    elif is_restoring:
        propose(f"{count(len(found), 'file')} would be restored", is_work_left=True)


def _quarantine_row(aside: Quarantined) -> tuple[object, ...]:
    since = format_time(aside.since_ms - aside.since_ms % 1000)
    return str(aside.series), aside.path.name, format_nbytes(aside.nbytes), since, aside.reason


# --- audit -------------------------------------------------------------------------------------------------


def audit(
    *,
    selection: Selection,
    bounds: Bounds,
    thorough: bool,
    against: str | None,
    vision_url: str | None,
    rest_url: str | None,
    yes: bool,
) -> Result:
    """`ckvd cache audit`."""
    selection.series()
    if against is not None:
        if yes or thorough:
            raise exit_with(EXIT_USAGE, "--against only compares: ckvd cache repair --prefer replaces what differs")
        return compare(selection, Against(against), bounds.span, Addresses(vision_url, rest_url))
    found = stop_signals.run(_audit(selection, vision_url, bounds.span, thorough=thorough, fix=yes))
    is_well = all(one.change is Change.UNCHANGED or one.is_stored for one in found)
    return Result(found, partial(_show_audits, found), is_well)


async def _audit(
    selection: Selection, vision_url: str | None, span: Span | None, *, thorough: bool, fix: bool
) -> list[ArchiveAudit]:
    folder = selection.folder
    async with vision_client(vision_url, folder) as vision:
        audits = audit_cache(
            folder,
            vision.archives,
            selection.filter,
            span=span,
            is_thorough=thorough,
            fix=fix,
            refuse=selection.refuse,
        )
        found = []
        with progress_bar("auditing") as update:
            async for one in audits:
                found.append(one)
                update(description=f"{count(len(found), 'archive')} {one.series}")
        return found


def _show_audits(found: list[ArchiveAudit]) -> None:
    for one in found:
        _show_audit(one)
    numbers = {change: sum(one.change is change for one in found) for change in Change}
    say(", ".join(f"{number} {change}" for change, number in numbers.items() if number) or "no archives")


def _show_audit(one: ArchiveAudit) -> None:
    if one.change is Change.UNCHANGED:
        return
    if one.change in (Change.FAILED, Change.GONE):
        complain(f"{one.archive or one.series}: {one.change}: {one.message}")
        return
    difference = one.difference
    stored = ", stored" if one.is_stored else ""
    say(
        f"{one.archive}: {one.change}{stored}: {difference.changed_count} bars differ, "
        f"{difference.added_count} added, {difference.removed_count} removed"
        + (f" ({one.message})" if one.message else "")
    )
    show_difference(difference, added="added", removed="removed")

"""Repair: setting damaged files aside, and fetching again what was lost.

A damaged file is never deleted, and older bars do not win in its place. A segment with the name of another one gets
its own name back. Spans that the cache has lost are fetched again from a source.

A span stays lost while a file in quarantine covers it and the cache does not. `find_lost` sees that from the files
alone, so it does not matter how an earlier repair ended: without a source, on a full disk, or killed.
"""

from __future__ import annotations

import contextlib
import logging
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from ckvd.acquisition.backlog import Backlog
from ckvd.acquisition.ingest import GroupCommit
from ckvd.acquisition.limits import IngestLimits
from ckvd.acquisition.planning import plan
from ckvd.cache.coverage import Covered, uncovered_spans
from ckvd.cache.download_folder import download_folder
from ckvd.cache.folder import SegmentName, is_there, parse_segment_name
from ckvd.cache.leftovers import Leftover, remove_leftovers
from ckvd.cache.resolution import Winner, resolve
from ckvd.cache.rows import read_contents
from ckvd.cache.selection import EVERYTHING
from ckvd.cache.store import SeriesStore
from ckvd.concurrency.work import run_together
from ckvd.errors import (
    FATAL_ERRORS,
    CacheError,
    CkvdError,
    NetworkError,
    SegmentError,
    concerns_one_place,
)
from ckvd.maintenance.misfiled import Moved, find_misfiled, move_home
from ckvd.maintenance.phantoms import remove_phantom
from ckvd.maintenance.quarantine import (
    Quarantined,
    list_quarantine,
    quarantine_file,
    restore,
    set_aside_lock_file,
    settle,
)
from ckvd.maintenance.refusals import Refusals
from ckvd.maintenance.verification import (
    REPAIRABLE,
    Finding,
    Severity,
    Trouble,
    find_other_intervals,
    verify_segment,
)
from ckvd.model.calendar import months_of
from ckvd.model.provenance import segment_recheck_ms
from ckvd.model.record import Record, as_json
from ckvd.model.timespan import Span, difference, now_ms, union
from ckvd.segment.reader import SegmentReader, read_segment_header
from ckvd.vision.name import ArchiveName
from ckvd.vision.source import AbsentArchive

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from pathlib import Path

    from ckvd.cache.folder import CacheFolder
    from ckvd.cache.selection import SeriesFilter
    from ckvd.model.calendar import Period
    from ckvd.model.market import SeriesKey
    from ckvd.model.provenance import Source
    from ckvd.vision.source import ArchiveSource


logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class RepairStep(Record):
    """One file to set aside, one span to fetch again whose file was set aside earlier, or one folder to clear.

    Attributes
    ----------
    finding : Finding
    series : SeriesKey
    lost : tuple of Span
        The spans in which the file wins; or the span that was lost earlier; none for a folder.
    nbytes : int
        Of the file, or of the segments in the folder.
    """

    finding: Finding
    series: SeriesKey
    lost: tuple[Span, ...]
    nbytes: int

    def to_json(self) -> dict[str, Any]:
        """A JSON object: the finding, the lost spans, and the size of the file."""
        return {**self.finding.to_json(), "lost": as_json(self.lost), "nbytes": self.nbytes}


@dataclass(frozen=True, slots=True)
class RepairReport(Record):
    """What a repair did.

    Attributes
    ----------
    quarantined : tuple of Quarantined
        Files that were set aside; `restore` puts them back.
    renamed : tuple of Path
        Files that got their own names back.
    refetched : tuple of Refetched
    leftovers : tuple of Leftover
        Leftovers of dead processes that were removed.
    unrepaired : dict of SeriesKey to tuple of Span
        What is still lost: no source was given, it lacks the archive, or the disk refused the bars.
    refusals : tuple of str
        Why files were not set aside or renamed, and folders not cleared.
    moved : tuple of Moved
        Misfiled series whose bars were moved home.
    phantoms : tuple of SeriesKey
        Series that were removed, because no source had any of them.
    """

    quarantined: tuple[Quarantined, ...]
    renamed: tuple[Path, ...]
    refetched: tuple[Refetched, ...]
    leftovers: tuple[Leftover, ...]
    unrepaired: dict[SeriesKey, tuple[Span, ...]]
    refusals: tuple[str, ...] = ()
    moved: tuple[Moved, ...] = ()
    phantoms: tuple[SeriesKey, ...] = ()

    @property
    def is_complete(self) -> bool:
        """Whether nothing is left to do."""
        return not self.unrepaired and not self.refusals

    @property
    def fetched(self) -> tuple[Source, ...]:
        """Archives that were fetched and are stored now."""
        return tuple(source for one in self.refetched for source in one.stored)

    @property
    def failures(self) -> tuple[str, ...]:
        """Why files were not set aside or renamed, and archives not fetched, not valid or not stored."""
        return (*self.refusals, *(failure for one in self.refetched for failure in one.failures))

    def to_json(self) -> dict[str, Any]:
        """A JSON object: files by their paths, archives by their names."""
        return {
            "quarantined": as_json([aside.path for aside in self.quarantined]),
            "renamed": as_json(self.renamed),
            "fetched": [source.name for source in self.fetched],
            "failures": list(self.failures),
            "leftovers": as_json([leftover.path for leftover in self.leftovers]),
            "unrepaired": as_json(self.unrepaired),
            "moved": [
                {
                    "path": as_json(one.misfiled.path),
                    "series": as_json(one.misfiled.series),
                    "bar_count": one.bar_count,
                    "set_aside": as_json([aside.path for aside in one.set_aside]),
                }
                for one in self.moved
            ],
            "phantoms": as_json(self.phantoms),
        }


@dataclass(frozen=True, slots=True)
class Refetched:
    """The outcome of fetching the lost spans of one series again.

    Attributes
    ----------
    series : SeriesKey
    stored : tuple of Source
        Archives that were fetched and are stored now.
    failures : tuple of str
        Why archives were not fetched, not valid or not stored.
    unfetched : tuple of Span
        What is still lost.
    """

    series: SeriesKey
    stored: tuple[Source, ...]
    failures: tuple[str, ...]
    unfetched: tuple[Span, ...]


_CLEARED: Final = (Trouble.MISFILED, Trouble.PHANTOM)


# --- What is to be done ------------------------------------------------------------------------------------


def plan_repair(folder: CacheFolder, findings: Iterable[Finding]) -> tuple[RepairStep, ...]:
    """Plan the repair of findings from `verify_cache` and `find_lost`. It changes nothing.

    Raises
    ------
    CacheError
        A folder, or a segment with bars of another interval, cannot be read.
    """
    steps: dict[tuple[Path, Span | None], RepairStep] = {}
    for finding in findings:
        series, span, place = finding.series, finding.span, (finding.path, finding.span)
        if series is None or place in steps:
            continue
        if span is None:
            if finding.trouble not in REPAIRABLE:
                continue
            lost: tuple[Span, ...] = ()  # a file that wins nowhere
        elif finding.trouble is Trouble.LOST:
            lost = (span,)
        elif finding.trouble in REPAIRABLE and (name := parse_segment_name(finding.path.name)) is not None:
            winners = resolve(name.span, folder.segments(series))
            lost = tuple(winner.span for winner in winners if winner.segment == name)
            if finding.trouble is Trouble.OTHER_INTERVAL:
                # The rest of the segment is stored again before it is set aside.
                wrong = _spans_of_other_intervals(finding.path, series) or lost
                lost = tuple(part for span in lost for part in map(span.intersection, wrong) if part)
        elif finding.trouble in _CLEARED:
            lost = ()
        else:
            continue
        steps[place] = RepairStep(finding, series, lost, _nbytes_of(finding))
    return tuple(steps.values())


def _nbytes_of(finding: Finding) -> int:
    """The size of a file, or of the segments in a folder; 0 where that is gone or the system does not say."""
    try:
        files = finding.path.glob("*.ckvd") if finding.trouble in _CLEARED else [finding.path]
        return sum(file.lstat().st_size for file in files)
    except FileNotFoundError:
        return 0
    except OSError as error:
        logger.warning("%s: its size is not known: %s", finding.path, error.strerror)
        return 0


def _spans_of_other_intervals(path: Path, series: SeriesKey) -> tuple[Span, ...]:
    """Where a segment has bars of another interval; nowhere if it is damaged or gone by now.

    Raises CacheError if it cannot be read: all of it would be set aside.
    """
    try:
        with SegmentReader(path) as reader:
            return find_other_intervals(reader.rows, series)
    except (FileNotFoundError, SegmentError):
        return ()


def find_lost(
    folder: CacheFolder,
    chosen: SeriesFilter = EVERYTHING,
    findings: Iterable[Finding] = (),
    *,
    at_ms: int | None = None,
) -> list[Finding]:
    """Find the spans that files in quarantine cover and the cache does not.

    Parameters
    ----------
    folder : CacheFolder
    chosen : SeriesFilter
    findings : iterable of Finding
        From `verify_cache`. The spans that their repair covers are left out.
    at_ms : int, optional
        The present: bars that are not closed yet are not lost.

    Returns
    -------
    list of Finding
        One for each span, with the file in quarantine as its path; each span once.

    Raises
    ------
    CacheError
        A folder cannot be read.
    """
    present_ms = now_ms() if at_ms is None else at_ms
    known: dict[SeriesKey, list[Span]] = {}
    for step in plan_repair(folder, findings):
        known.setdefault(step.series, []).extend(step.lost)
    lost = []
    for aside in list_quarantine(folder):
        name = parse_segment_name(aside.file_name)
        if name is None or aside.series not in chosen:
            continue
        spans = known.setdefault(aside.series, [])
        for span in _uncovered(folder, aside.series, difference([name.span], spans), present_ms):
            spans.append(span)
            lost.append(Finding(Severity.ERROR, Trouble.LOST, aside.path, aside.reason, aside.series, span))
    return lost


def _uncovered(folder: CacheFolder, series: SeriesKey, spans: Iterable[Span], present_ms: int) -> tuple[Span, ...]:
    wanted = tuple(spans)
    try:
        return tuple(part for span in wanted for part in uncovered_spans(folder, series, span, present_ms))
    except CacheError as error:
        if not concerns_one_place(error):
            raise
        return wanted  # nobody can tell that the cache covers them


# --- Doing it ----------------------------------------------------------------------------------------------


async def repair(
    folder: CacheFolder,
    findings: Sequence[Finding],
    source: ArchiveSource | None = None,
    *,
    at_ms: int | None = None,
) -> RepairReport:
    """Repair what can be repaired. The report has what the disk refused, and what is still lost.

    Parameters
    ----------
    folder : CacheFolder
    findings : sequence of Finding
        From `verify_cache` and `find_lost`.
    source : ArchiveSource, optional
        Where to fetch again what was lost. Without one it is only reported.
    at_ms : int, optional
        The present.

    Raises
    ------
    CacheError
        A folder cannot be read.
    ClientClosedError
        The source was closed.
    """
    present_ms = now_ms() if at_ms is None else at_ms
    steps = plan_repair(folder, findings)
    refused = Refusals()
    quarantined = list(_set_aside(folder, steps, present_ms, refused))
    renamed = list(_rename_swapped(folder, _swapped(folder, steps, quarantined), refused))
    refusals = refused.reasons
    moved, phantoms, kept = _clear_folders(folder, steps, present_ms)
    refusals += kept
    lost = _lost_now(folder, steps, quarantined, present_ms)
    refetched = []
    if source is not None:
        for series, spans in lost.items():
            refetched.append(await _Refetching(source, folder, series, spans, present_ms).run())
        lost = {result.series: result.unfetched for result in refetched}
    leftovers: tuple[Leftover, ...] = ()
    if any(finding.trouble is Trouble.LEFTOVER for finding in findings):
        with refused.noting():
            leftovers = tuple(remove_leftovers(folder, at_ms=present_ms))
    return RepairReport(
        tuple(moved for _, moved in quarantined if is_there(moved.path)),
        tuple(renamed),
        tuple(refetched),
        leftovers,
        {series: spans for series, spans in lost.items() if spans},
        tuple(refusals),
        moved,
        phantoms,
    )


def _clear_folders(
    folder: CacheFolder, steps: Iterable[RepairStep], present_ms: int
) -> tuple[tuple[Moved, ...], tuple[SeriesKey, ...], list[str]]:
    """Move misfiled series home and remove phantoms; also why some were not."""
    moved: list[Moved] = []
    phantoms: list[SeriesKey] = []
    refusals: list[str] = []
    misfiled = {step.finding.path for step in steps if step.finding.trouble is Trouble.MISFILED}
    for one in find_misfiled(folder, lambda _: None) if misfiled else ():
        if one.path in misfiled:
            try:
                moved.append(move_home(folder, one, at_ms=present_ms))
            except (SegmentError, CacheError) as error:
                refusals.append(str(error))
    for series in (step.series for step in steps if step.finding.trouble is Trouble.PHANTOM):
        try:
            if remove_phantom(folder, series):
                phantoms.append(series)
        except CacheError as error:
            refusals.append(str(error))
    return tuple(moved), tuple(phantoms), refusals


def _set_aside(
    folder: CacheFolder, steps: Sequence[RepairStep], present_ms: int, refused: Refusals
) -> Iterator[tuple[RepairStep, Quarantined]]:
    """Set aside the files that are still wrong: another process may have repaired them meanwhile.

    A file that cannot be set aside does not keep the others.
    """
    returning: dict[SeriesKey, list[SegmentName]] = {}
    wrong = [step for step in steps if step.finding.trouble in REPAIRABLE]
    for step in wrong:
        if step.finding.trouble is Trouble.SWAPPED:
            # One that cannot be read now is not set aside below, and what is wrong is said there.
            with contextlib.suppress(CacheError):
                if (home := _home_of(step.finding.path)) is not None:
                    returning.setdefault(home[0], []).append(home[1])
    # Without its lock file nothing of a series can be changed.
    for step in sorted(wrong, key=lambda step: step.finding.trouble is not Trouble.LOCK_FILE):
        if refused.is_busy(step.series):
            continue
        moved = None
        with refused.noting(step.series):
            moved = _set_one_aside(folder, step, returning.get(step.series, ()), present_ms)
        if moved is not None:
            yield step, moved


def _set_one_aside(
    folder: CacheFolder, step: RepairStep, returning: Sequence[SegmentName], present_ms: int
) -> Quarantined | None:
    reason = f"{step.finding.trouble}: {step.finding.message}"
    if step.finding.trouble is Trouble.LOCK_FILE:
        return set_aside_lock_file(folder, step.series, reason)
    if step.finding.trouble is Trouble.OTHER_INTERVAL:
        _keep_the_rest(folder, step)
    return quarantine_file(
        folder,
        step.series,
        step.finding.path.name,
        reason,
        condition=partial(_is_still_wrong, step),
        returning=returning,
        at_ms=present_ms,
    )


def _keep_the_rest(folder: CacheFolder, step: RepairStep) -> None:
    """Store the bars of a segment again, month by month, except those of another interval, where it wins.

    The source may not have its other archives any more. A span that another writer changed meanwhile is left to
    that writer.
    """
    name = parse_segment_name(step.finding.path.name)
    assert name is not None, "only files with the name of a segment are planned for"
    try:
        recheck_ms = read_segment_header(step.finding.path).recheck_ms
    except (FileNotFoundError, SegmentError):
        return  # packed, repaired or damaged meanwhile: it is looked at again before it is set aside
    segments = folder.segments(step.series)
    held = [winner.span for winner in resolve(name.span, segments) if winner.segment == name]
    store = SeriesStore(folder, step.series)
    for span in difference(held, step.lost):
        for month in months_of(span):
            part = span.intersection(month.span)
            contents = read_contents(folder, step.series, part)
            due_ms = segment_recheck_ms(contents.table.row_count, contents.absences)
            store.put_in_place(
                [Winner(part, name)],
                contents.table,
                part,
                sources=contents.sources,
                absences=contents.absences,
                is_provisional=bool(contents.provisional),
                recheck_ms=recheck_ms if contents.provisional else due_ms,
                is_durable=False,
            )
    store.flush()


def _is_still_wrong(step: RepairStep) -> bool:
    if step.finding.trouble is Trouble.REVISION:
        return True
    name = parse_segment_name(step.finding.path.name)
    assert name is not None, "only files with the name of a segment are planned for"
    findings = verify_segment(step.finding.path, step.series, name)
    _require_readable(findings)
    return any(found.trouble in REPAIRABLE for found in findings)


def _require_readable(findings: Iterable[Finding]) -> None:
    """Raise an error if the system refused to read a segment: what is in it is not known."""
    for finding in findings:
        if finding.trouble is Trouble.UNREADABLE:
            raise CacheError(str(finding.path), finding.message)


def _swapped(
    folder: CacheFolder, steps: Iterable[RepairStep], quarantined: Iterable[tuple[RepairStep, Quarantined]]
) -> list[Quarantined]:
    """The files that were set aside for having other names: now, or by a repair that did not come to its end."""
    found = {moved.path: moved for step, moved in quarantined if step.finding.trouble is Trouble.SWAPPED}
    if any(step.finding.trouble is Trouble.LOST for step in steps):
        earlier = (aside for aside in list_quarantine(folder) if aside.reason.startswith(f"{Trouble.SWAPPED}:"))
        found = {aside.path: aside for aside in earlier} | found
    return list(found.values())


def _rename_swapped(folder: CacheFolder, swapped: Sequence[Quarantined], refused: Refusals) -> Iterator[Path]:
    """Give intact segments with other names their own name back, where no file has it."""
    homes: list[tuple[Quarantined, Path]] = []
    for moved in swapped:
        renamed = None
        with refused.noting(moved.series):
            home = _home_of(moved.path)
            if home is None and is_there(moved.path):
                continue
            place = moved.path if home is None else folder.segment_path(*home)
            homes.append((moved, place))
            # Where the name is taken, the bars are in the cache already.
            if home is not None and not is_there(place):
                renamed = restore(folder, replace(moved, series=home[0], file_name=""), home[1].file_name)
        if renamed is not None:
            yield renamed
    for moved, place in homes:
        with refused.noting(moved.series):
            settle(folder, moved, place)


def _home_of(path: Path) -> tuple[SeriesKey, SegmentName] | None:
    """The series and name in the header of a misnamed segment; None if it is damaged as well, or gone.

    Raises CacheError if it cannot be read.
    """
    try:
        header = read_segment_header(path)
        series, name = header.series, SegmentName(header.span, header.revision)
        findings = verify_segment(path, series, name)
    except (FileNotFoundError, SegmentError, ValueError, KeyError):
        return None
    _require_readable(findings)
    return None if any(finding.severity is Severity.ERROR for finding in findings) else (series, name)


def _lost_now(
    folder: CacheFolder,
    steps: Iterable[RepairStep],
    quarantined: Iterable[tuple[RepairStep, Quarantined]],
    present_ms: int,
) -> dict[SeriesKey, tuple[Span, ...]]:
    """The spans of files that are gone or set aside, where the cache does not cover them now."""
    spans: dict[SeriesKey, list[Span]] = {}
    for step in steps:
        if step.finding.trouble is Trouble.LOST or not is_there(step.finding.path):
            spans.setdefault(step.series, []).extend(step.lost)
    for step, _ in quarantined:
        if step.finding.span is not None:
            # Not just where it won: a tombstone of a repair that was killed may win in its place.
            spans.setdefault(step.series, []).append(step.finding.span)
    lost = {series: _uncovered(folder, series, union(found), present_ms) for series, found in spans.items()}
    return {series: found for series, found in lost.items() if found}


class _Refetching:
    """Fetching the lost spans of one series again. It is run once.

    Archives are chosen as for a download, with two exceptions: spans that the cache still has are not replaced, not
    even where that is due, and older segments that cover a lost span do not count.
    """

    def __init__(
        self, source: ArchiveSource, folder: CacheFolder, series: SeriesKey, lost: Sequence[Span], present_ms: int
    ) -> None:
        limits = IngestLimits()
        self._source = source
        self._folder = folder
        self._series = series
        self._lost = lost
        self._present_ms = present_ms
        # What is not planned for: the rest of the cache, and archives that could not be reached.
        self._excluded = list(difference((name.span for name in folder.segments(series)), lost))
        self._backlog = Backlog(limits.backlog_archives, limits.backlog_nbytes)
        self._commit = GroupCommit(folder, limits, lambda held: held.is_answered)
        self._outcomes: dict[Period, Source | str | None] = {}

    async def run(self) -> Refetched:
        """Fetch and store archives until nothing is lost or no other archive can help."""
        failures = []
        try:
            with download_folder(self._folder) as place:
                while periods := self._next_archives():
                    await run_together([self._fetch_one(period, place) for period in periods])
            await self._commit.flush(self._series)
        except CacheError as error:
            failures.append(str(error))
        outcomes = [outcome for _, outcome in sorted(self._outcomes.items())]
        return Refetched(
            self._series,
            tuple(outcome for outcome in outcomes if outcome is not None and not isinstance(outcome, str)),
            (*(outcome for outcome in outcomes if isinstance(outcome, str)), *failures),
            _uncovered(self._folder, self._series, self._lost, self._present_ms),
        )

    def _next_archives(self) -> list[Period]:
        stored = [period.span for period, outcome in self._outcomes.items() if not isinstance(outcome, str | None)]
        covered = [Covered(span) for span in self._excluded]
        plans = (
            plan(self._series, span, covered, now_ms=self._present_ms, unavailable=self._outcomes)
            for span in difference(self._lost, stored)
        )
        return list(dict.fromkeys(period for one in plans for period in one))

    async def _fetch_one(self, period: Period, place: Path) -> None:
        outcome: Source | str | None = None
        try:
            name = ArchiveName(self._series, period)
            async with self._backlog.place_for(name):
                fetched = await self._source.fetch(name, place)
                if not isinstance(fetched, AbsentArchive):
                    outcome = await self._commit.ingest(fetched)
        except FATAL_ERRORS:
            raise
        except CkvdError as error:
            outcome = str(error)
            if isinstance(error, NetworkError):
                # The month may exist, and its days cannot be reached either.
                self._excluded.append(period.span)
        self._outcomes[period] = outcome

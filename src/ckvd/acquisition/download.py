"""One download of archives into the cache: plan, fetch, store, learn, and plan again until nothing is left.

All series are planned before anything is fetched, so that the progress knows how much there is. Then a bounded
number of them is under way (`limits`): each plans anew, fetches and stores its archives, and learns which of them
the source lacks. Archives are stored in worker threads (`ingest`). An archive that was stored stays, whatever
happens to the others or to the download.

The names of the stored segments become durable together, when all archives of a series are stored. A power cut
before that may cost those that this download stored: the next one fetches them again. What the cache had before is
still there.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Final

from ckvd.acquisition.backlog import Backlog, estimated_nbytes
from ckvd.acquisition.ingest import GroupCommit
from ckvd.acquisition.planning import plan
from ckvd.acquisition.report import (
    ArchiveReport,
    DownloadPlan,
    DownloadReport,
    Outcome,
    Progress,
)
from ckvd.cache.coverage import Covered, read_coverage, uncovered_spans
from ckvd.cache.download_folder import download_folder
from ckvd.cache.leftovers import remove_leftovers
from ckvd.cache.packing import pack_series
from ckvd.cache.rows import read_grid
from ckvd.concurrency.processes import ChildProcesses, can_start
from ckvd.concurrency.stopping import check_stop
from ckvd.concurrency.work import in_thread, run_bounded
from ckvd.errors import FATAL_ERRORS, CacheBusyError, CacheError, CkvdError, NetworkError, WorkerDiedError
from ckvd.lifecycle import AsyncBlock
from ckvd.model.calendar import Cadence, Period
from ckvd.model.grid import closed_part
from ckvd.model.schema import cadences_of
from ckvd.model.timespan import difference, union
from ckvd.utils.config import LISTING_WORTH_ARCHIVES_MIN
from ckvd.vision.name import ArchiveName
from ckvd.vision.source import AbsentArchive

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterable, Sequence
    from pathlib import Path

    from ckvd.acquisition.limits import IngestLimits
    from ckvd.acquisition.planning import Wanted
    from ckvd.cache.folder import CacheFolder
    from ckvd.lifecycle import Resource
    from ckvd.model.market import SeriesKey
    from ckvd.model.timespan import Span
    from ckvd.vision.source import ArchiveSource, ListedArchive

logger = logging.getLogger(__name__)

# Series that a thread plans, or looks through, at a time: a hop to a thread takes as long as planning one.
SERIES_TOGETHER: Final = 64


class Download:
    """One download. It is run once.

    Parameters
    ----------
    source : ArchiveSource
    folder : CacheFolder
    limits : IngestLimits
    now_ms : int
        The present.
    refresh : bool
        Ask again now for what was unavailable, and not only when its time has come.
    on_progress : callable, optional
    """

    def __init__(
        self,
        source: ArchiveSource,
        folder: CacheFolder,
        *,
        limits: IngestLimits,
        now_ms: int,
        refresh: bool = False,
        on_progress: Callable[[Progress], None] | None = None,
    ) -> None:
        self._source = source
        self._folder = folder
        self._limits = limits
        self._now_ms = now_ms
        self._refresh = refresh
        self._backlog = Backlog(limits.backlog_archives, limits.backlog_nbytes)
        self._is_kept = partial(Covered.is_kept, now_ms=now_ms)
        self._commit = GroupCommit(folder, limits, self._is_kept)
        self._tally = _Tally(on_progress)

    async def run(self, wanted: Sequence[Wanted]) -> DownloadReport:
        """Fetch what the cache lacks of what is wanted.

        Parameters
        ----------
        wanted : sequence of Wanted
            No series twice.

        Raises
        ------
        CacheError
            The cache folder cannot be written. A series that is locked elsewhere fails alone.
        ClientClosedError
            The client was closed during the download.
        """
        await in_thread(_clear, self._folder, [one.series for one in wanted])
        jobs = await self._plan_all(wanted, listing_worth=LISTING_WORTH_ARCHIVES_MIN)
        archives = await self._fetch_all(jobs)
        missing = await in_thread(find_missing, self._folder, wanted, self._now_ms)
        return DownloadReport({one.series: one.span for one in wanted}, archives, missing, present_ms=self._now_ms)

    async def survey(self, wanted: Sequence[Wanted]) -> DownloadPlan:
        """Plan what `run` would fetch, and change nothing. Every series with something to fetch is listed."""
        jobs = await self._plan_all(wanted, listing_worth=1)
        return DownloadPlan(
            {one.series: one.span for one in wanted},
            {job.wanted.series: job.periods for job in jobs if job.periods},
            _sum_known(job.nbytes for job in jobs),
            await in_thread(self._beyond_archives, wanted, jobs),
        )

    # --- Planning ------------------------------------------------------------------------------------------

    async def _plan_all(self, wanted: Sequence[Wanted], *, listing_worth: int) -> list[_Job]:
        """The series of which something is to be fetched, with their first plans."""
        jobs: list[_Job] = []
        for first in range(0, len(wanted), SERIES_TOGETHER):
            part = [_Job(one) for one in wanted[first : first + SERIES_TOGETHER]]
            await in_thread(self._plan_each, part)
            jobs += [job for job in part if job.periods]
        worth = [job for job in jobs if len(job.periods) >= listing_worth]
        await run_bounded(self._plan_by_listing, worth, count=self._limits.listings)
        return jobs

    def _plan_each(self, jobs: Sequence[_Job]) -> None:
        for job in jobs:
            check_stop()
            job.periods = self._plan(job)

    def _plan(self, job: _Job) -> tuple[Period, ...]:
        series, span = job.wanted.series, job.wanted.span
        covered = read_coverage(self._folder, series, span)
        if self._refresh:
            covered = [held for held in covered if held.is_answered and not held.is_of_archives]
        covered += [Covered(part) for part in (*job.wanted.left_out, *job.published.given_up)]
        return plan(series, span, covered, now_ms=self._now_ms, unavailable=job.published)

    async def _plan_by_listing(self, job: _Job) -> None:
        """Ask which archives exist, and plan with them. Without a listing every archive is asked for by itself."""
        series, published = job.wanted.series, job.published
        nbytes: dict[Period, int] = {}
        for cadence in cadences_of(series):
            try:
                listed = await self._source.list_archives(series, cadence)
            except FATAL_ERRORS:
                raise
            except CkvdError:
                continue
            published.note_listing(cadence, listed)
            nbytes |= {archive.name.period: archive.nbytes for archive in listed}
        published.is_listed = True
        job.periods = await in_thread(self._plan, job)
        job.nbytes = _sum_known(nbytes.get(period) for period in job.periods)

    def _beyond_archives(self, wanted: Sequence[Wanted], jobs: Sequence[_Job]) -> dict[SeriesKey, tuple[Span, ...]]:
        """What no archive has of what the cache lacks."""
        planned = {job.wanted.series: [period.span for period in job.periods] for job in jobs}
        beyond: dict[SeriesKey, tuple[Span, ...]] = {}
        for one in wanted:
            check_stop()
            covered = read_coverage(self._folder, one.series, one.span)
            held = [part.span for part in covered if not part.is_due(self._now_ms)]
            closed = closed_part(one.span, read_grid(self._folder, one.series), self._now_ms)
            left = difference([closed], [*held, *one.left_out, *planned.get(one.series, ())])
            if left:
                beyond[one.series] = left
        return beyond

    # --- Fetching ------------------------------------------------------------------------------------------

    async def _fetch_all(self, jobs: Sequence[_Job]) -> tuple[ArchiveReport, ...]:
        if not jobs:
            return ()
        self._tally.expect(jobs)
        at_a_time = self._limits.archives_of_each(min(len(jobs), self._limits.series))
        async with self._processes_for(jobs):
            with download_folder(self._folder) as place:
                fetch = partial(self._fetch_series, place=place, at_a_time=at_a_time)
                reports = await run_bounded(fetch, jobs, count=self._limits.series)
        archives = [report for found in reports for report in found]
        return tuple(sorted(archives, key=lambda report: (report.series, report.period)))

    @contextlib.asynccontextmanager
    async def _processes_for(self, jobs: Sequence[_Job]) -> AsyncIterator[None]:
        """In the block, archives are stored by child processes, if those planned are worth it."""
        archive_count = sum(len(job.periods) for job in jobs)
        if not (can_start() and self._limits.are_worth_processes(archive_count, sum(map(_nbytes_of, jobs)))):
            yield
            return
        processes = ChildProcesses()
        self._commit = GroupCommit(self._folder, self._limits, self._is_kept, processes)
        try:
            async with _Closing(processes):
                yield
        finally:
            if processes.lost_count:
                # Also if the client is closed: what a child left is not to stay until the next download.
                await asyncio.to_thread(_clear, self._folder, [job.wanted.series for job in jobs])

    async def _fetch_series(self, job: _Job, *, place: Path, at_a_time: int) -> list[ArchiveReport]:
        """Fetch and store the archives of one series, and plan again until nothing is left."""
        series, published = job.wanted.series, job.published
        reports: list[ArchiveReport] = []
        # Since all series were planned, another process may have stored some.
        expected_count = len(job.periods)
        while True:
            await in_thread(self._plan_each, [job])
            if len(job.periods) >= LISTING_WORTH_ARCHIVES_MIN and not published.is_listed:
                await self._plan_by_listing(job)
            self._tally.correct(len(job.periods) - expected_count)
            if not job.periods:
                break
            names = [published.name_of(series, period) for period in job.periods]
            finished = await run_bounded(partial(self._fetch_one, place=place), names, count=at_a_time)
            published.learn(finished)
            reports += finished
            expected_count = 0
        if any(report.outcome is Outcome.STORED for report in reports):
            await self._commit.flush(series)
        return reports

    async def _fetch_one(self, name: ArchiveName, *, place: Path) -> ArchiveReport:
        try:
            report = await self._fetch_and_ingest(name, place)
        except CacheBusyError as error:
            report = ArchiveReport(name.series, name.period, Outcome.FAILED, error=error)
        except FATAL_ERRORS:
            raise
        except CkvdError as error:
            report = ArchiveReport(name.series, name.period, Outcome.FAILED, error=error)
        self._tally.finish(report)
        return report

    async def _fetch_and_ingest(self, name: ArchiveName, place: Path) -> ArchiveReport:
        # Taken before the transfer: what is fetched and not stored yet lies on the disk.
        async with self._backlog.place_for(name):
            self._commit.require_free(name.series)
            on_bytes = partial(self._tally.count_bytes, name.series)
            fetched = await self._source.fetch(name, place, on_bytes=on_bytes)
            if isinstance(fetched, AbsentArchive):
                return ArchiveReport(name.series, name.period, Outcome.ABSENT)
            source = await self._commit.ingest(fetched)
        return ArchiveReport(
            name.series, name.period, Outcome.STORED, fetched.nbytes, fetched.attempt_count, source=source
        )


class _Closing(AsyncBlock):
    """Closes child processes at the end of a block."""

    _processes: ChildProcesses | None = None

    def __init__(self, processes: ChildProcesses) -> None:
        self._processes = processes

    @property
    def _resources(self) -> tuple[Resource, ...]:
        return (("_processes", "child processes", False),)


def _nbytes_of(job: _Job) -> int:
    """About how long the planned archives of a series are together."""
    if job.nbytes is not None:
        return job.nbytes
    return sum(estimated_nbytes(ArchiveName(job.wanted.series, period)) for period in job.periods)


def _clear(folder: CacheFolder, series: Sequence[SeriesKey]) -> None:
    """Remove what killed downloads left. What cannot be removed keeps none from being stored."""
    try:
        for leftover in remove_leftovers(folder, series):
            logger.info("removed %s, which a process that was killed left behind", leftover.path)
    except CacheError as error:
        logger.warning("leftovers stay where they are: %s", error)


def find_missing(folder: CacheFolder, wanted: Sequence[Wanted], now_ms: int) -> dict[SeriesKey, tuple[Span, ...]]:
    """What the cache does not cover of what is wanted, without bars that are not closed."""
    missing = {}
    for one in wanted:
        check_stop()
        missing[one.series] = difference(uncovered_spans(folder, one.series, one.span, now_ms), one.left_out)
    return missing


async def pack_stored(folder: CacheFolder, report: DownloadReport, limits: IngestLimits) -> None:
    """Pack the series that a download added to.

    A series that another process is changing, or that the disk has no room for, stays as it is: its
    bars are stored.
    """
    stored: dict[SeriesKey, list[Span]] = {}
    for archive in report.stored:
        stored.setdefault(archive.series, []).append(archive.period.span)

    async def pack(series: SeriesKey) -> None:
        try:
            await in_thread(pack_series, folder, series, fresh=union(stored.get(series, ())))
        except CacheBusyError as error:
            logger.info("%s; a later download will pack it", error)
        except CacheError as error:
            logger.warning("everything is stored, but not packed: %s", error)

    changed = set(stored)
    changed |= {completion.series for completion in report.completions if completion.has_changed}
    await run_bounded(pack, sorted(changed), count=limits.threads)


class _Published:
    """What is known of the archives of a series at a source. The planner asks it which are unavailable.

    There may be thousands of series with thousands of archives each, so a listing is kept as the spans of archives
    without a hole between.
    """

    def __init__(self) -> None:
        self.is_listed = False
        self._listed: dict[Cadence, tuple[Span, ...]] = {}
        self._odd_names: dict[Period, ArchiveName] = {}
        # Not there, not valid, or stored by this download: whatever the cache keeps beside it, once is enough.
        self._unavailable: set[Period] = set()
        self.given_up: list[Span] = []

    def __contains__(self, period: object) -> bool:
        if not isinstance(period, Period) or period in self._unavailable:
            return True
        listed = self._listed.get(period.cadence)
        return listed is not None and not any(span.covers(period.span) for span in listed)

    def note_listing(self, cadence: Cadence, archives: Sequence[ListedArchive]) -> None:
        """Note which archives of a cadence exist."""
        self._listed[cadence] = union(archive.name.period.span for archive in archives)
        names = (archive.name for archive in archives)
        self._odd_names |= {name.period: name for name in names if name != ArchiveName(name.series, name.period)}

    def learn(self, reports: Sequence[ArchiveReport]) -> None:
        """Note the archives that were asked for: days replace a month that is absent or damaged.

        An archive that could not be reached may exist, and its days could not be reached either: its span is left
        for the next download. So is one that could not be stored, because the series is locked elsewhere or because
        processes died of it.
        """
        for report in reports:
            if isinstance(report.error, NetworkError | CacheBusyError | WorkerDiedError):
                self.given_up.append(report.period.span)
            else:
                self._unavailable.add(report.period)

    def name_of(self, series: SeriesKey, period: Period) -> ArchiveName:
        """The name as listed, which may have another spelling."""
        return self._odd_names.get(period) or ArchiveName(series, period)


@dataclass(slots=True)
class _Job:
    """One series of a download.

    Attributes
    ----------
    wanted : Wanted
    published : _Published
    periods : tuple of Period
        The archives that it needs, by the last plan.
    nbytes : int or None
        Their length in all; None unless all of them are listed.
    """

    wanted: Wanted
    published: _Published = field(default_factory=_Published)
    periods: tuple[Period, ...] = ()
    nbytes: int | None = None


def _sum_known(sizes: Iterable[int | None]) -> int | None:
    """The sum of sizes; None unless all are known."""
    total = 0
    for nbytes in sizes:
        if nbytes is None:
            return None
        total += nbytes
    return total


class _Tally:
    """Counts for the progress. The totals are known before the first archive is fetched, and never shrink."""

    def __init__(self, on_progress: Callable[[Progress], None] | None) -> None:
        self._on_progress = on_progress
        self._archive_count = 0
        self._archive_total = 0
        self._nbytes = 0
        self._nbytes_total: int | None = 0

    def expect(self, jobs: Sequence[_Job]) -> None:
        """Set the totals, by the plans of all series."""
        self._archive_total = sum(len(job.periods) for job in jobs)
        self._nbytes_total = _sum_known(job.nbytes for job in jobs)
        self._tell()

    def correct(self, archive_count: int) -> None:
        """A series needs more archives than were expected, or fewer: those count as finished."""
        if archive_count > 0:
            self._archive_total += archive_count
        elif archive_count < 0:
            self._archive_count -= archive_count
        else:
            return
        self._tell()

    def count_bytes(self, series: SeriesKey, nbytes: int) -> None:
        self._nbytes += nbytes
        if self._nbytes_total is not None:
            self._nbytes_total = max(self._nbytes_total, self._nbytes)  # those of archives that were not expected
        self._tell(series)

    def finish(self, report: ArchiveReport) -> None:
        self._archive_count += 1
        self._tell(report.series, report)

    def _tell(self, series: SeriesKey | None = None, latest: ArchiveReport | None = None) -> None:
        if self._on_progress is not None:
            self._on_progress(
                Progress(
                    self._archive_count,
                    self._archive_total,
                    self._nbytes,
                    self._nbytes_total,
                    latest,
                    series=series,
                )
            )

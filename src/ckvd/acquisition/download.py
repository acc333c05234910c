"""One download of archives into the cache: plan, fetch, store, learn, and plan again until nothing is left.

`limits` bounds what is under way, and archives are stored in worker threads (`ingest`). An archive that was stored
stays, whatever happens to the others or to the download.

The names of the stored segments become durable together, when all archives of a series are stored. A power cut
before that may cost those that this download stored: the next one fetches them again. What the cache had before is
still there.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

from ckvd.acquisition.ingest import GroupCommit
from ckvd.acquisition.planning import plan
from ckvd.acquisition.report import ArchiveReport, DownloadReport, Outcome, Progress
from ckvd.cache.coverage import Covered, read_coverage, uncovered_spans
from ckvd.cache.download_folder import download_folder
from ckvd.cache.leftovers import remove_leftovers
from ckvd.cache.packing import pack_series
from ckvd.concurrency.work import in_thread, run_together
from ckvd.errors import FATAL_ERRORS, CacheBusyError, CacheError, CkvdError, NetworkError
from ckvd.model.calendar import Cadence, Period
from ckvd.model.schema import cadences_of
from ckvd.utils.config import LISTING_WORTH_ARCHIVES_MIN
from ckvd.vision.name import ArchiveName
from ckvd.vision.source import AbsentArchive

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from ckvd.acquisition.limits import IngestLimits
    from ckvd.cache.folder import CacheFolder
    from ckvd.model.market import SeriesKey
    from ckvd.model.timespan import Span
    from ckvd.vision.source import ArchiveSource, ListedArchive

logger = logging.getLogger(__name__)


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
        self._now_ms = now_ms
        self._refresh = refresh
        self._backlog = {cadence: asyncio.Semaphore(count) for cadence, count in limits.backlog.items()}
        self._commit = GroupCommit(folder, limits, lambda held: held.is_kept(now_ms))
        self._tally = _Tally(on_progress)

    async def run(self, series: Sequence[SeriesKey], span: Span) -> DownloadReport:
        """Fetch what the cache lacks of a span, for each series.

        Raises
        ------
        CacheError
            The cache folder cannot be written. A series that is locked elsewhere fails alone.
        ClientClosedError
            The client was closed during the download.
        """
        await in_thread(_clear, self._folder, series)
        reports = await run_together([self._download_series(key, span) for key in series])
        archives = [report for found in reports for report in found]
        return DownloadReport(
            tuple(series),
            span,
            tuple(sorted(archives, key=lambda report: (report.series, report.period))),
            {key: uncovered_spans(self._folder, key, span, self._now_ms) for key in series},
            present_ms=self._now_ms,
        )

    async def _download_series(self, series: SeriesKey, span: Span) -> list[ArchiveReport]:
        published = _Published()
        reports: list[ArchiveReport] = []
        while True:
            covered = await in_thread(read_coverage, self._folder, series, span)
            if self._refresh:
                covered = [held for held in covered if held.is_answered and not held.is_of_archives]
            covered += [Covered(failed) for failed in published.given_up]
            periods = plan(series, span, covered, now_ms=self._now_ms, unavailable=published)
            if not periods:
                if any(report.outcome is Outcome.STORED for report in reports):
                    await self._commit.flush(series)
                return reports
            if len(periods) >= LISTING_WORTH_ARCHIVES_MIN and not published.is_listed:
                await self._list(series, published)
                continue
            finished = await self._fetch_all(series, periods, published)
            published.learn(finished)
            reports += finished

    async def _list(self, series: SeriesKey, published: _Published) -> None:
        """Ask which archives exist. Without a listing every archive is asked for by itself."""
        published.is_listed = True
        for cadence in cadences_of(series):
            try:
                listed = await self._source.list_archives(series, cadence)
            except FATAL_ERRORS:
                raise
            except CkvdError:
                continue
            published.listed[cadence] = {archive.name.period: archive for archive in listed}

    async def _fetch_all(
        self, series: SeriesKey, periods: Sequence[Period], published: _Published
    ) -> list[ArchiveReport]:
        self._tally.expect(len(periods), published.nbytes_of(periods))
        with download_folder(self._folder) as place:
            return await run_together(
                [self._fetch_one(published.name_of(series, period), place) for period in periods]
            )

    async def _fetch_one(self, name: ArchiveName, place: Path) -> ArchiveReport:
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
        async with self._backlog[name.period.cadence]:
            self._commit.require_free(name.series)
            fetched = await self._source.fetch(name, place, on_bytes=self._tally.count_bytes)
            if isinstance(fetched, AbsentArchive):
                return ArchiveReport(name.series, name.period, Outcome.ABSENT)
            source = await self._commit.ingest(fetched)
        return ArchiveReport(
            name.series, name.period, Outcome.STORED, fetched.nbytes, fetched.attempt_count, source=source
        )


def _clear(folder: CacheFolder, series: Sequence[SeriesKey]) -> None:
    """Remove what killed downloads left. What cannot be removed keeps none from being stored."""
    try:
        for leftover in remove_leftovers(folder, series):
            logger.info("removed %s, which a process that was killed left behind", leftover.path)
    except CacheError as error:
        logger.warning("leftovers stay where they are: %s", error)


async def pack_stored(folder: CacheFolder, report: DownloadReport, limits: IngestLimits) -> None:
    """Pack the series that a download added to.

    A series that another process is changing, or that the disk has no room for, stays as it is: its
    bars are stored.
    """
    workers = asyncio.Semaphore(limits.threads)

    async def pack(series: SeriesKey) -> None:
        async with workers:
            try:
                await in_thread(pack_series, folder, series)
            except CacheBusyError as error:
                logger.info("%s; a later download will pack it", error)
            except CacheError as error:
                logger.warning("everything is stored, but not packed: %s", error)

    changed = {archive.series for archive in report.stored}
    changed |= {completion.series for completion in report.completions if completion.has_changed}
    await run_together([pack(series) for series in sorted(changed)])


class _Published:
    """What is known of the archives of a source. The planner asks it which are unavailable."""

    def __init__(self) -> None:
        self.is_listed = False
        self.listed: dict[Cadence, dict[Period, ListedArchive]] = {}
        # Not there, not valid, or stored by this download: whatever the cache keeps beside it, once is enough.
        self.unavailable: set[Period] = set()
        self.given_up: list[Span] = []

    def __contains__(self, period: object) -> bool:
        if not isinstance(period, Period) or period in self.unavailable:
            return True
        listed = self.listed.get(period.cadence)
        return listed is not None and period not in listed

    def learn(self, reports: Sequence[ArchiveReport]) -> None:
        """Note the archives that were asked for: days replace a month that is absent or damaged.

        An archive that could not be reached may exist, and its days could not be reached either: its span is left
        for the next download. So is one that could not be stored, because the series is locked elsewhere.
        """
        for report in reports:
            if isinstance(report.error, NetworkError | CacheBusyError):
                self.given_up.append(report.period.span)
            else:
                self.unavailable.add(report.period)

    def name_of(self, series: SeriesKey, period: Period) -> ArchiveName:
        """The name as listed, which may have another spelling."""
        archive = self.listed.get(period.cadence, {}).get(period)
        return ArchiveName(series, period) if archive is None else archive.name

    def nbytes_of(self, periods: Sequence[Period]) -> int | None:
        """The length of some archives in all; None unless all of them are listed."""
        listed = [self.listed.get(period.cadence, {}).get(period) for period in periods]
        sizes = [archive.nbytes for archive in listed if archive is not None]
        return sum(sizes) if len(sizes) == len(periods) else None


class _Tally:
    """Counts for the progress."""

    def __init__(self, on_progress: Callable[[Progress], None] | None) -> None:
        self._on_progress = on_progress
        self._archive_count = 0
        self._archive_total = 0
        self._nbytes = 0
        self._nbytes_total: int | None = 0

    def expect(self, archive_count: int, nbytes: int | None) -> None:
        self._archive_total += archive_count
        known = self._nbytes_total
        self._nbytes_total = None if nbytes is None or known is None else known + nbytes
        self._tell()

    def count_bytes(self, nbytes: int) -> None:
        self._nbytes += nbytes
        self._tell()

    def finish(self, report: ArchiveReport) -> None:
        self._archive_count += 1
        self._tell(report)

    def _tell(self, latest: ArchiveReport | None = None) -> None:
        if self._on_progress is not None:
            self._on_progress(
                Progress(self._archive_count, self._archive_total, self._nbytes, self._nbytes_total, latest)
            )

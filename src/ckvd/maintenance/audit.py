"""The audit: comparing a cache with its source, which corrects archives in place, mostly unannounced.

The listing of the source shows which archives may have changed since they were fetched: by ETag, or else by time of
modification. Those are fetched again. If their bytes differ, they are compared with the cache bar by bar.
"""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING

from ckvd.acquisition.ingest import fetch_table
from ckvd.cache.download_folder import download_folder
from ckvd.cache.selection import EVERYTHING
from ckvd.concurrency.work import in_thread
from ckvd.errors import FATAL_ERRORS, CacheBusyError, CkvdError, ClientClosedError, containing
from ckvd.maintenance.bar_difference import BarDifference
from ckvd.maintenance.cached_archives import compare_archive, list_cached_archives, replace_archive
from ckvd.model.record import Record
from ckvd.network.response import parse_http_date

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

    from ckvd.cache.folder import CacheFolder
    from ckvd.cache.selection import SeriesFilter
    from ckvd.maintenance.cached_archives import CachedArchive
    from ckvd.model.calendar import Cadence
    from ckvd.model.market import SeriesKey
    from ckvd.model.provenance import Source
    from ckvd.model.table import KlineTable
    from ckvd.model.timespan import Span
    from ckvd.vision.name import ArchiveName
    from ckvd.vision.source import ArchiveSource, ListedArchive


class Change(StrEnum):
    """How an archive of the cache compares with its source."""

    UNCHANGED = "unchanged"
    CHANGED = "changed"
    GONE = "gone"  # the source does not have it any more
    FAILED = "failed"  # it was not listed, not fetched or not valid


@dataclass(frozen=True, slots=True)
class ArchiveAudit(Record):
    """One archive that cached bars came from, compared with its source.

    Attributes
    ----------
    series : SeriesKey
    archive : str
        Its path.
    change : Change
    difference : BarDifference
        From the bars of the cache to those of the present archive.
    is_stored : bool
        Whether the bars of the present archive were stored.
    message : str
        Why the archive was suspected, or why it failed.
    """

    series: SeriesKey
    archive: str
    change: Change
    difference: BarDifference = field(default_factory=BarDifference)
    is_stored: bool = False
    message: str = ""


async def audit_cache(
    folder: CacheFolder,
    source: ArchiveSource,
    chosen: SeriesFilter = EVERYTHING,
    *,
    span: Span | None = None,
    is_thorough: bool = False,
    fix: bool = False,
    refuse: Callable[[CkvdError], None] | None = None,
) -> AsyncIterator[ArchiveAudit]:
    """Compare the archives that cached bars came from with those that the source has now.

    Parameters
    ----------
    folder : CacheFolder
    source : ArchiveSource
    chosen : SeriesFilter
    span : Span, optional
        Leave out archives without a bar in it. The others are looked up whole.
    is_thorough : bool
        Fetch every archive, also where the listing shows no change.
    fix : bool
        Store archives that changed, for the spans in which their older versions win. Bars that the archive lacks
        and another source has are kept. So are all bars of a day where a daily archive or a preferred source goes
        before a monthly archive.
    refuse : callable, optional
        Called with the error of each series or folder that cannot be read; the others are compared all the same.

    Yields
    ------
    ArchiveAudit
        In order of series and time.

    Raises
    ------
    CacheError
        The cache cannot be read or written.
    ClientClosedError
        The source was closed.
    """
    with download_folder(folder) as place:
        audit = _Audit(folder, source, place)
        for series in chosen.choose(folder, refuse):
            listings: dict[Cadence, dict[str, ListedArchive] | str] = {}
            archives: list[CachedArchive] = []
            with containing(refuse):
                archives = await in_thread(list_cached_archives, folder, series)
            for archive in archives:
                if span is not None and not any(map(span.overlaps, archive.spans)):
                    continue
                if archive.cadence not in listings:
                    listings[archive.cadence] = await list_by_path(source, series, archive.cadence)
                listed = listings[archive.cadence]
                yield await audit.look_up(series, archive, listed, is_thorough=is_thorough, fix=fix)


async def list_by_path(
    source: ArchiveSource, series: SeriesKey, cadence: Cadence
) -> dict[str, ListedArchive] | str:
    """The archives that a source lists, by their paths; or why they cannot be listed."""
    try:
        listed = await source.list_archives(series, cadence)
    except ClientClosedError:
        raise
    except CkvdError as error:
        return str(error)
    return {archive.name.path: archive for archive in listed}


@dataclass(frozen=True, slots=True)
class _Audit:
    """The cache and the source that an audit compares."""

    folder: CacheFolder
    source: ArchiveSource
    place: Path

    async def look_up(
        self,
        series: SeriesKey,
        cached: CachedArchive,
        listed: dict[str, ListedArchive] | str,
        *,
        is_thorough: bool,
        fix: bool,
    ) -> ArchiveAudit:
        """Compare one archive with its line in the listing, and fetch it if that is not enough."""
        path = cached.name
        if isinstance(listed, str):
            return ArchiveAudit(series, path, Change.FAILED, message=listed)
        if path not in listed:
            return ArchiveAudit(series, path, Change.GONE, message="the source does not list it any more")
        suspicion = next(filter(None, (suspect(known, listed[path]) for known in cached.sources)), "")
        if not suspicion and not is_thorough:
            return ArchiveAudit(series, path, Change.UNCHANGED)

        def compare(found: Source, table: KlineTable) -> ArchiveAudit:
            if not cached.outdated_spans(found.sha256):
                return ArchiveAudit(series, path, Change.UNCHANGED, message="fetched: its bytes are the same")
            if fix:
                difference = replace_archive(self.folder, path, found, table)
            else:
                difference = compare_archive(self.folder, cached, found, table)
            return ArchiveAudit(series, path, Change.CHANGED, difference, fix, suspicion or "its bytes are others")

        return await self._fetch_and(compare, listed[path].name)

    async def _fetch_and(
        self, compare: Callable[[Source, KlineTable], ArchiveAudit], name: ArchiveName
    ) -> ArchiveAudit:
        """Fetch an archive and compare its bars in a thread. An archive that fails does not end the audit."""
        try:
            fetched = await fetch_table(self.source, name, self.place)
            if fetched is None:
                return ArchiveAudit(name.series, name.path, Change.GONE, message="listed, and not there")
            return await in_thread(compare, fetched.source, fetched.table)
        except CacheBusyError as error:  # Others hold the lock of this series, and other series can succeed.
            return ArchiveAudit(name.series, name.path, Change.FAILED, message=str(error))
        except FATAL_ERRORS:
            raise
        except CkvdError as error:
            return ArchiveAudit(name.series, name.path, Change.FAILED, message=str(error))


def suspect(known: Source, listed: ListedArchive) -> str:
    """Why an archive may have changed since it was fetched; empty where the listing shows that it has not."""
    if known.etag and listed.etag:
        one, other = (tag.removeprefix("W/").strip('"') for tag in (known.etag, listed.etag))
        return "" if one == other else f"its ETag was {one} and is {other}"
    if known.last_modified and listed.last_modified:
        before, now = _moment(known.last_modified), _moment(listed.last_modified)
        if before is not None and now is not None:
            change = f"it was last modified {before:%Y-%m-%d %H:%M:%S}, now {now:%Y-%m-%d %H:%M:%S}"
            return "" if before == now else change
    return "the listing does not tell"


def _moment(text: str) -> dt.datetime | None:
    """Parse the time of a header (RFC 9110) or of a listing (ISO 8601), to the second."""
    try:
        moment = dt.datetime.fromisoformat(text)
        return moment.replace(microsecond=0, tzinfo=moment.tzinfo or dt.UTC).astimezone(dt.UTC)
    except (ValueError, OverflowError):
        return parse_http_date(text)

"""Comparing a cache with its source: archives are corrected in place, mostly unannounced.

The listing of the source tells which archives may have changed since they were fetched (ETag, else LastModified);
those are fetched again and, if their bytes are others, compared with the cache bar by bar.
"""

from __future__ import annotations

import asyncio
import datetime as dt
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from ckvd.cache.download_folder import download_folder
from ckvd.errors import CacheError, CkvdError, ClientClosedError
from ckvd.maintenance.bar_difference import BarDifference
from ckvd.maintenance.held_archives import (
    CADENCES,
    HeldArchive,
    compare,
    compare_spans,
    correct,
    list_held_archives,
)
from ckvd.maintenance.refetch import fetch_table
from ckvd.maintenance.selection import EVERYTHING
from ckvd.model.calendar import Cadence
from ckvd.model.provenance import Origin, Source
from ckvd.network.response import parse_http_date

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence
    from pathlib import Path

    from ckvd.cache.folder import CacheFolder
    from ckvd.maintenance.selection import SeriesFilter
    from ckvd.model.market import SeriesKey
    from ckvd.model.timespan import Span
    from ckvd.vision.name import ArchiveName
    from ckvd.vision.source import ArchiveSource, ListedArchive


class Change(StrEnum):
    """How an archive of the cache compares with its source."""

    UNCHANGED = "unchanged"
    CHANGED = "changed"
    GONE = "gone"  # the source does not have it any more
    DISAGREES = "disagrees"  # a daily archive says other things than the monthly one
    FAILED = "failed"  # it could not be looked up, fetched or believed


@dataclass(frozen=True, slots=True)
class ArchiveAudit:
    """One archive that bars of the cache came from, compared with its source.

    Attributes
    ----------
    series : SeriesKey
    archive : str
        Its path.
    change : Change
    difference : BarDifference
        From the bars of the cache to those of the archive as it is now.
    is_stored : bool
        Whether the archive as it is now was put into the cache.
    message : str
        How it was noticed, or why it failed.
    """

    series: SeriesKey
    archive: str
    change: Change
    difference: BarDifference = field(default_factory=BarDifference)
    is_stored: bool = False
    message: str = ""

    def to_json(self) -> dict[str, Any]:
        """A JSON object."""
        return {
            "series": str(self.series),
            "archive": self.archive,
            "change": self.change.value,
            "difference": self.difference.to_json(),
            "is_stored": self.is_stored,
            "message": self.message,
        }


async def audit_cache(
    folder: CacheFolder,
    source: ArchiveSource,
    chosen: SeriesFilter = EVERYTHING,
    *,
    is_thorough: bool = False,
    fix: bool = False,
) -> AsyncIterator[ArchiveAudit]:
    """Compare the archives that a cache was filled from with what the source has now.

    Parameters
    ----------
    folder : CacheFolder
    source : ArchiveSource
    chosen : SeriesFilter
    is_thorough : bool
        Fetch every archive, also where the listing says that it is the same.
    fix : bool
        Put archives that changed into the cache, for the spans that they speak for then. Bars that another source
        brought, and that the archive lacks, are kept.

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
        audit = _Audit(folder, source, place, is_thorough=is_thorough, fix=fix)
        for series in chosen.choose(folder):
            held = await asyncio.to_thread(list_held_archives, folder, series)
            listings: dict[Cadence, dict[str, ListedArchive] | str] = {}
            for archive in held:
                cadence = CADENCES[archive.origin]
                if cadence not in listings:
                    listings[cadence] = await _list(source, series, cadence)
                yield await audit.look_up(series, archive, listings[cadence])


async def audit_days(
    folder: CacheFolder, source: ArchiveSource, chosen: SeriesFilter = EVERYTHING
) -> AsyncIterator[ArchiveAudit]:
    """Compare the bars that came from monthly archives with the daily archives of the same days.

    Every daily archive that is listed is fetched. What disagrees is told, and not changed: which of them is right
    is for somebody to judge.

    Yields
    ------
    ArchiveAudit
        One for each day. Errors: see `audit_cache`.
    """
    with download_folder(folder) as place:
        for series in chosen.choose(folder):
            months = [
                archive
                for archive in await asyncio.to_thread(list_held_archives, folder, series)
                if archive.origin is Origin.VISION_MONTHLY
            ]
            if not months or not series.interval.has_daily_archives:
                continue
            listed = await _list(source, series, Cadence.DAILY)
            if isinstance(listed, str):
                yield ArchiveAudit(series, "", Change.FAILED, message=listed)
                continue
            for day in listed.values():
                spans = [span.intersection(day.name.period.span) for month in months for span in month.spans]
                if any(spans):
                    yield await _compare_day(folder, source, day.name, [span for span in spans if span], place)


async def _compare_day(
    folder: CacheFolder, source: ArchiveSource, name: ArchiveName, spans: Sequence[Span], place: Path
) -> ArchiveAudit:
    series = name.series
    try:
        fetched = await fetch_table(source, name, place)
        if fetched is None:
            return ArchiveAudit(series, name.path, Change.GONE, message="listed, and not there")
        difference = await asyncio.to_thread(compare_spans, folder, spans, fetched[1])
    except (CacheError, ClientClosedError):
        raise
    except CkvdError as error:
        return ArchiveAudit(series, name.path, Change.FAILED, message=str(error))
    return ArchiveAudit(series, name.path, Change.DISAGREES if difference else Change.UNCHANGED, difference)


async def _list(source: ArchiveSource, series: SeriesKey, cadence: Cadence) -> dict[str, ListedArchive] | str:
    try:
        listed = await source.list_archives(series, cadence)
    except ClientClosedError:
        raise
    except CkvdError as error:
        return str(error)
    return {archive.name.path: archive for archive in listed}


@dataclass(frozen=True, slots=True)
class _Audit:
    """What all archives of one audit have in common."""

    folder: CacheFolder
    source: ArchiveSource
    place: Path
    is_thorough: bool
    fix: bool

    async def look_up(
        self, series: SeriesKey, held: HeldArchive, listed: dict[str, ListedArchive] | str
    ) -> ArchiveAudit:
        """Compare one archive with its line in the listing, and fetch it if that is not enough."""
        path = held.name
        if isinstance(listed, str):
            return ArchiveAudit(series, path, Change.FAILED, message=listed)
        if path not in listed:
            return ArchiveAudit(series, path, Change.GONE, message="the source does not list it any more")
        suspicion = next(filter(None, (suspect(part, listed[path]) for part in held.parts)), "")
        if not suspicion and not self.is_thorough:
            return ArchiveAudit(series, path, Change.UNCHANGED)
        try:
            return await self._compare(series, held, listed[path].name, suspicion or "its bytes are others")
        except (CacheError, ClientClosedError):
            raise
        except CkvdError as error:
            return ArchiveAudit(series, path, Change.FAILED, message=str(error))

    async def _compare(
        self, series: SeriesKey, held: HeldArchive, name: ArchiveName, suspicion: str
    ) -> ArchiveAudit:
        path = held.name
        fetched = await fetch_table(self.source, name, self.place)
        if fetched is None:
            return ArchiveAudit(series, path, Change.GONE, message="listed, and not there")
        found, table = fetched
        if not held.spans_to_correct(found.sha256):
            return ArchiveAudit(series, path, Change.UNCHANGED, message="fetched: its bytes are the same")
        if self.fix:
            difference = await asyncio.to_thread(correct, self.folder, held, found, table)
        else:
            difference = await asyncio.to_thread(compare, self.folder, held, table)
        return ArchiveAudit(series, path, Change.CHANGED, difference, self.fix, suspicion)


def suspect(known: Source, listed: ListedArchive) -> str:
    """Why an archive may have changed since it was fetched; empty where the listing says that it has not."""
    if known.etag and listed.etag:
        one, other = (tag.removeprefix("W/").strip('"') for tag in (known.etag, listed.etag))
        return "" if one == other else f"its ETag was {one} and is {other}"
    if known.last_modified and listed.last_modified:
        before, now = _moment(known.last_modified), _moment(listed.last_modified)
        if before is not None and now is not None:
            return (
                ""
                if before == now
                else f"it was last modified {before:%Y-%m-%d %H:%M:%S}, now {now:%Y-%m-%d %H:%M:%S}"
            )
    return "the listing does not tell"


def _moment(text: str) -> dt.datetime | None:
    """A time of a header (RFC 9110) or a listing (ISO 8601), to the second."""
    try:
        moment = dt.datetime.fromisoformat(text)
        return moment.replace(microsecond=0, tzinfo=moment.tzinfo or dt.UTC).astimezone(dt.UTC)
    except (ValueError, OverflowError):
        return parse_http_date(text)

"""Ingesting archives in groups: `GroupCommit` takes along what waits, so that a flush to disk serves many.

Whoever comes while all workers are busy waits; the next worker that is free takes as many of one series as may go
together. Where the network is slower than the disk every archive is stored at once by itself; where it is faster,
groups grow.
"""

from __future__ import annotations

import asyncio
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ckvd.acquisition.ingest import ingest_archives
from ckvd.errors import ArchiveError, CkvdError
from ckvd.period import month_start_ms
from ckvd.utils.config import INGEST_GROUP_ARCHIVES_MAX, INGEST_GROUP_NBYTES_MAX

if TYPE_CHECKING:
    from ckvd.archive.source import FetchedArchive
    from ckvd.cache.folder import CacheFolder
    from ckvd.market import SeriesKey
    from ckvd.provenance import Source


@dataclass(eq=False, slots=True)
class _Ticket:
    """An archive that waits, and the promise of what becomes of it."""

    fetched: FetchedArchive
    result: asyncio.Future[Source | ArchiveError]


class GroupCommit:
    """Ingests archives into a cache, as many at a time as there are processors.

    Parameters
    ----------
    folder : CacheFolder
    """

    def __init__(self, folder: CacheFolder) -> None:
        self._folder = folder
        self._workers = asyncio.Semaphore(os.cpu_count() or 1)
        self._waiting: list[_Ticket] = []

    async def ingest(self, fetched: FetchedArchive) -> Source:
        """Ingest an archive, alone or with others. Its file is removed afterwards if it is temporary.

        Raises
        ------
        ArchiveError
            It cannot be believed.
        CacheError
            It cannot be stored.
        """
        ticket = _Ticket(fetched, asyncio.get_running_loop().create_future())
        self._waiting.append(ticket)
        try:
            async with self._workers:
                if ticket in self._waiting:
                    await self._commit(self._take_along(ticket))
            outcome = await ticket.result
        finally:
            if ticket in self._waiting:
                self._waiting.remove(ticket)
            ticket.result.cancel()
        if isinstance(outcome, ArchiveError):
            raise outcome
        return outcome

    def _take_along(self, ticket: _Ticket) -> list[_Ticket]:
        """Take a ticket and others of its series and month, in order of time, as many as may go together.

        Segments are no longer than a month, so that packing finds pieces of like size.
        """
        place = _place_of(ticket)
        same = [other for other in self._waiting if _place_of(other) == place and other is not ticket]
        group, nbytes = [ticket], ticket.fetched.nbytes
        for other in sorted(same, key=lambda other: other.fetched.name.period):
            nbytes += other.fetched.nbytes
            if len(group) >= INGEST_GROUP_ARCHIVES_MAX or nbytes > INGEST_GROUP_NBYTES_MAX:
                break
            group.append(other)
        taken = set(map(id, group))
        self._waiting = [other for other in self._waiting if id(other) not in taken]
        return group

    async def _commit(self, group: list[_Ticket]) -> None:
        try:
            outcomes = await asyncio.to_thread(
                _ingest_and_remove, [ticket.fetched for ticket in group], self._folder
            )
        except CkvdError as error:
            for ticket in group:
                if not ticket.result.done():
                    ticket.result.set_exception(error)
                    ticket.result.exception()  # whoever was cancelled meanwhile will not ask
            return
        except BaseException:
            for ticket in group:
                ticket.result.cancel()
            raise
        for ticket, outcome in zip(group, outcomes, strict=True):
            if not ticket.result.done():
                ticket.result.set_result(outcome)


def _place_of(ticket: _Ticket) -> tuple[SeriesKey, int]:
    name = ticket.fetched.name
    return name.series, month_start_ms(name.period.start_ms)


def _ingest_and_remove(archives: list[FetchedArchive], folder: CacheFolder) -> list[Source | ArchiveError]:
    try:
        return ingest_archives(archives, folder)
    finally:
        for fetched in archives:
            if fetched.is_temporary:
                fetched.path.unlink(missing_ok=True)

"""Ingesting archives in groups: `GroupCommit` takes along what waits, so that a flush to disk serves many.

Where the network is slower than the disk every archive is stored at once by itself; where it is faster, groups
grow.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from ckvd.acquisition.ingest import ingest_archives
from ckvd.concurrency import Batching
from ckvd.decode.workspace import Workspace
from ckvd.model.calendar import month_start_ms
from ckvd.utils.config import INGEST_GROUP_ARCHIVES_MAX, INGEST_GROUP_NBYTES_MAX

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ckvd.cache.folder import CacheFolder
    from ckvd.errors import ArchiveError
    from ckvd.model.market import SeriesKey
    from ckvd.model.provenance import Source
    from ckvd.vision.source import FetchedArchive


class GroupCommit:
    """Ingests archives into a cache, as many groups at a time as there are processors.

    Parameters
    ----------
    folder : CacheFolder
    """

    def __init__(self, folder: CacheFolder) -> None:
        self._folder = folder
        self._batching: Batching[FetchedArchive, Source] = Batching(self._ingest_and_remove, choose_group)
        self._parsing = threading.Lock()
        self._workspaces: list[Workspace] = []

    async def ingest(self, fetched: FetchedArchive) -> Source:
        """Ingest an archive, alone or with others. Its file is removed afterwards if it is temporary.

        Raises
        ------
        ArchiveError
            It cannot be believed.
        CacheError
            It cannot be stored.
        """
        return await self._batching.do(fetched)

    def _ingest_and_remove(self, archives: list[FetchedArchive]) -> list[Source | ArchiveError]:
        workspace = self._workspaces.pop() if self._workspaces else Workspace(self._parsing)
        try:
            return ingest_archives(archives, self._folder, workspace)
        finally:
            self._workspaces.append(workspace)
            for fetched in archives:
                if fetched.is_temporary:
                    fetched.path.unlink(missing_ok=True)


def choose_group(waiting: Sequence[FetchedArchive]) -> list[int]:
    """The places of the first of some archives and others of its series and month, as many as may go together.

    Segments are no longer than a month, so that packing finds pieces of like size.
    """
    place_of_first = _series_and_month(waiting[0])
    same = [
        place for place, fetched in enumerate(waiting) if place and _series_and_month(fetched) == place_of_first
    ]
    group, nbytes = [0], waiting[0].nbytes
    for place in sorted(same, key=lambda place: waiting[place].name.period):
        nbytes += waiting[place].nbytes
        if len(group) >= INGEST_GROUP_ARCHIVES_MAX or nbytes > INGEST_GROUP_NBYTES_MAX:
            break
        group.append(place)
    return group


def _series_and_month(fetched: FetchedArchive) -> tuple[SeriesKey, int]:
    return fetched.name.series, month_start_ms(fetched.name.period.start_ms)

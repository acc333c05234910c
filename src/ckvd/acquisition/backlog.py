"""`Backlog`: a bound on archives that are being fetched, or are fetched and not stored yet.

They lie on the disk, so their number and their bytes are bounded. An archive is admitted before it is fetched, when
its size is not known: `estimated_nbytes` tells it from the bars that its period has room for.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from typing import TYPE_CHECKING

from ckvd.model.grid import Grid
from ckvd.utils.config import ARCHIVE_BAR_NBYTES

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from ckvd.vision.name import ArchiveName


def estimated_nbytes(name: ArchiveName) -> int:
    """About how long an archive is: the bars of its period, at the length that a zipped bar mostly has."""
    return ARCHIVE_BAR_NBYTES * (1 + Grid.of(name.series.interval).count_max(name.period.span))


class Backlog:
    """Admits archives in the order in which they come, as long as there is room. An empty backlog admits any.

    Parameters
    ----------
    archive_count : int
        At most so many, at least one.
    nbytes : int
        At most so many estimated bytes in all, unless there is only one.
    """

    def __init__(self, archive_count: int, nbytes: int) -> None:
        self._archives_left = archive_count
        self._nbytes_left = nbytes
        self._nbytes_max = nbytes
        self._waiting: deque[tuple[asyncio.Future[None], int]] = deque()

    @contextlib.asynccontextmanager
    async def place_for(self, name: ArchiveName) -> AsyncIterator[None]:
        """Hold a place for an archive during the block; wait for it first."""
        nbytes = min(estimated_nbytes(name), self._nbytes_max)
        await self._enter(nbytes)
        try:
            yield
        finally:
            self._leave(nbytes)

    async def _enter(self, nbytes: int) -> None:
        if not self._waiting and self._has_room(nbytes):
            self._take(nbytes)
            return
        admitted = asyncio.get_running_loop().create_future()
        entry = (admitted, nbytes)
        self._waiting.append(entry)
        try:
            await admitted
        except asyncio.CancelledError:
            if not admitted.cancelled():
                self._leave(nbytes)  # it was admitted at the same time
            elif entry in self._waiting:
                self._waiting.remove(entry)
                self._admit()
            raise

    def _has_room(self, nbytes: int) -> bool:
        return self._archives_left > 0 and nbytes <= self._nbytes_left

    def _take(self, nbytes: int) -> None:
        self._archives_left -= 1
        self._nbytes_left -= nbytes

    def _leave(self, nbytes: int) -> None:
        self._archives_left += 1
        self._nbytes_left += nbytes
        self._admit()

    def _admit(self) -> None:
        """Admit those who wait, the first first, as long as there is room."""
        while self._waiting and self._has_room(self._waiting[0][1]):
            admitted, nbytes = self._waiting.popleft()
            if not admitted.cancelled():
                self._take(nbytes)
                admitted.set_result(None)

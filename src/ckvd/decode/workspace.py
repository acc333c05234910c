"""What a thread decodes with, from archive to archive: `Workspace`.

Memory that is new costs a fault each 4 KiB, a tenth of the time of an ingest, so the text of one archive takes the
place of the one before. And threads that parse at the same time hinder each other: numpy gives the interpreter lock
back for each of many short operations, and waits for it again. Taking turns, one parses while another inflates or
writes, which takes no interpreter.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from contextlib import AbstractContextManager


class Workspace:
    """Memory for texts, and a turn at parsing. It belongs to one thread at a time.

    Parameters
    ----------
    parsing : context manager, optional
        Entered while parsing. Workspaces that are used at the same time share one lock.
    """

    def __init__(self, parsing: AbstractContextManager[object] | None = None) -> None:
        self.parsing = parsing or threading.Lock()
        self._memory = np.empty(0, np.uint8)
        self._used = 0

    def take(self, nbytes: int) -> memoryview:
        """Memory to be written to, of any content, which follows on what was taken before.

        Returns
        -------
        memoryview of uint8, shape (nbytes,)
            It is overwritten after the next `clear`.
        """
        start, self._used = self._used, self._used + nbytes
        if len(self._memory) < self._used:
            # What was taken stays where it is for those who have it, and is copied.
            memory = np.empty(max(self._used, 2 * start), np.uint8)
            memory[:start] = self._memory[:start]
            self._memory = memory
        return self.taken[start:]

    @property
    def taken(self) -> memoryview:
        """All that was taken since the last `clear`, of shape (n,)."""
        return memoryview(self._memory)[: self._used]

    def clear(self) -> None:
        """Have nothing taken. The memory stays."""
        self._used = 0

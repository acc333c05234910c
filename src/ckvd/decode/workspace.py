"""`Workspace`: the memory that a thread decodes into, text after text, and the lock that it parses under.

Fresh memory costs a page fault for each 4 KiB, a tenth of the time of an ingest, so each text overwrites the one
before. Threads that parse at the same time slow each other down: numpy releases the GIL for each of many short
operations, and waits for it again. With a shared lock, one thread parses while others inflate or write, which they
do without the GIL.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from contextlib import AbstractContextManager


class Workspace:
    """Reusable memory for texts, and a lock for parsing. Only one thread at a time may use it.

    Parameters
    ----------
    parsing : context manager, optional
        Entered while parsing. Workspaces that are used at the same time should share one lock.
    """

    def __init__(self, parsing: AbstractContextManager[object] | None = None) -> None:
        self.parsing = parsing or threading.Lock()
        self._memory = np.empty(0, np.uint8)
        self._used = 0

    def take(self, nbytes: int) -> memoryview:
        """Take the next bytes of the memory. Their content is arbitrary.

        Returns
        -------
        memoryview of uint8, shape (nbytes,)
            Writable. What is written there stays until memory is taken after the next `clear`.
        """
        start, self._used = self._used, self._used + nbytes
        if len(self._memory) < self._used:
            # Views of the old memory stay valid; the new memory begins with a copy of it.
            memory = np.empty(max(self._used, 2 * start), np.uint8)
            memory[:start] = self._memory[:start]
            self._memory = memory
        return self.taken[start:]

    @property
    def taken(self) -> memoryview:
        """Everything that was taken since the last `clear`, shape (n,)."""
        return memoryview(self._memory)[: self._used]

    def clear(self) -> None:
        """Start over at the beginning of the memory, which is kept."""
        self._used = 0

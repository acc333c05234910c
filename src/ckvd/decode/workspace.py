"""`Workspace`: the memory that a thread parses text in, block after block, and the lock that it parses under.

Fresh memory costs a page fault for each 4 KiB, a tenth of the time of an ingest, so each block overwrites the one
before. Threads that parse at the same time slow each other down: numpy releases the GIL for each of many short
operations, and waits for it again. With a shared lock, one thread parses while others inflate or write, which they
do without the GIL.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Final

import numpy as np

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    import numpy.typing as npt

# More than parsing a block takes for any of its arrays.
_KEPT_NBYTES: Final = 8 << 20


class Workspace:
    """Reusable memory for a block of text, and a lock for parsing. Only one thread at a time may use it.

    Parameters
    ----------
    parsing : context manager, optional
        Entered while parsing. Workspaces that are used at the same time should share one lock.
    """

    def __init__(self, parsing: AbstractContextManager[object] | None = None) -> None:
        self.parsing = parsing or threading.Lock()
        self._memory = np.empty(0, np.uint8)
        # glibc returns memory to the system where more of it is free than twice the longest array that was freed
        # so far. After this one, which nothing touches, it keeps the memory of a block for the next block.
        np.empty(_KEPT_NBYTES, np.uint8)

    def take(self, nbytes: int) -> npt.NDArray[np.uint8]:
        """Take the memory. Its content is arbitrary, and the next one who takes it overwrites it.

        Returns
        -------
        ndarray of uint8, shape (nbytes,)
        """
        if len(self._memory) < nbytes:
            self._memory = np.empty(nbytes, np.uint8)
        return self._memory[:nbytes]

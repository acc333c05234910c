"""Checking the stored bytes of columns against their checksums: at once, or when a column is first used.

`ColumnChecks` remembers which columns of a file were found intact, so that each is checked once in a process.
Readers of one file share it: `checks_of`. A file that was changed just now is not shared, because its times cannot
tell it from itself after another change.
"""

from __future__ import annotations

import time
from functools import lru_cache
from typing import TYPE_CHECKING, Final, Literal, TypeAlias, get_args

from ckvd.errors import SegmentCorruptError
from ckvd.utils.config import CHECKED_SEGMENTS_MAX, FILE_TIME_STEP_S

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from ckvd.segment.layout import ColumnLayout

Verify: TypeAlias = Literal["never", "first"]
"""When a read checks a column: never, or when the column of a segment is first used in the process."""


_WORDS: Final = get_args(Verify)


def require_verify(verify: str) -> None:
    """Refuse any other word. Raises ValueError."""
    if verify not in _WORDS:
        expected = " or ".join(f'"{word}"' for word in _WORDS)
        raise ValueError(f"verify is {expected}, not {verify!r}")


_REMEDY: Final = "ckvd cache repair sets the file aside and fetches its bars again"


def check_column(path: str, column: ColumnLayout, stored: npt.NDArray[np.uint8], remedy: str = "") -> None:
    """Compare the stored bytes of a column with its checksum. Raises SegmentCorruptError."""
    from ckvd.platforms.inflate import crc32  # noqa: PLC0415  (reading alone should not load isal)

    found = crc32(stored)
    if found != column.crc32:
        reason = f"column {column.name}: its checksum is {found:#010x}, expected {column.crc32:#010x}"
        raise SegmentCorruptError(path, f"{reason}; {remedy}" if remedy else reason)


class ColumnChecks:
    """Which columns of a file were found intact.

    There is no lock, which a forked child might inherit locked: threads that use a column for the first time at the
    same moment may each check it.
    """

    __slots__ = ("_intact",)

    def __init__(self) -> None:
        self._intact: set[tuple[str, int]] = set()

    def require(self, path: str, column: ColumnLayout, stored: npt.NDArray[np.uint8]) -> None:
        """Check a column, unless it was found intact before.

        Raises
        ------
        SegmentCorruptError
            A byte differs from what was written. It is raised again the next time.
        """
        key = (column.name, column.crc32)
        if key not in self._intact:
            check_column(path, column, stored, _REMEDY)
            self._intact.add(key)


def checks_of(version: tuple[int, ...], changed_ns: int, opened_ns: int) -> ColumnChecks:
    """The checks of a file, which its other readers share.

    Parameters
    ----------
    version : tuple of int
        What tells the file from every other one, and from itself after a change.
    changed_ns : int
        When its status last changed, by the file system.
    opened_ns : int
        The present, taken before the file was opened.
    """
    # A change within the same step of the file system's clock would leave the time of change as it is.
    is_settled = opened_ns - changed_ns > FILE_TIME_STEP_S * 1e9
    return _shared(version) if is_settled else ColumnChecks()


def now_ns() -> int:
    """The present, by the clock that file systems use."""
    return time.time_ns()


@lru_cache(maxsize=CHECKED_SEGMENTS_MAX)
def _shared(_version: tuple[int, ...]) -> ColumnChecks:
    return ColumnChecks()


forget: Final = _shared.cache_clear
"""Forget what was found intact."""

"""`KnownListings`: a folder whose status says that no name in it has changed is not listed again.

The status of a folder has a time of change, which nobody can set, and which every name that is made, replaced or
removed sets to the present. What must not happen is a change that leaves it as it is:

- A change in the same step of the file system's clock. A listing is kept only if the folder had been left alone for
  `FILE_TIME_STEP_S` when the look at it began. Every change from then on has a later time.
- A clock that is set back might bring an earlier time again. Where the clock has moved against the one that only
  counts, nothing of before is kept.
- Another folder in its place has another inode or device, or a later time: one that takes the inode of a folder
  that was deleted was made after that.
- A disk that tells of changes late, as those on a network do: their folders are listed each time. So are those of
  which the system does not say what they are on.

A file that is written over in place changes no name. `OpenSegments` looks at the files for that. Nothing is kept
beyond the process, so no crash leaves a listing that was never true.
"""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING, Final, NamedTuple

from ckvd.platforms.operating_system import has_prompt_folders
from ckvd.segment.checks import now_ns
from ckvd.utils.config import CACHE_DEVICE_TRUST_S, CACHE_KNOWN_NAMES_MAX, FILE_TIME_STEP_S

if TYPE_CHECKING:
    from ckvd.cache.folder import CacheFolder, Listing
    from ckvd.model.market import SeriesKey

_STEP_NS: Final = int(FILE_TIME_STEP_S * 1e9)


class _Known(NamedTuple):
    """A listing, the status of its folder from before it was made, and how far the clocks were apart then."""

    listing: Listing
    version: tuple[int, int, int]
    offset_ns: int


def is_settled(changed_ns: int, looked_ns: int) -> bool:
    """Whether each change of a folder from now on gives it another time of change.

    Parameters
    ----------
    changed_ns : int
        When it was last changed, by the file system.
    looked_ns : int
        The present, taken before that was asked for.
    """
    return looked_ns - changed_ns > _STEP_NS


class KnownListings:
    """The listings of series, each made again only when its folder has changed. Thread-safe, without a lock.

    Parameters
    ----------
    folder : CacheFolder
    """

    def __init__(self, folder: CacheFolder) -> None:
        self._folder = folder
        self._known: dict[SeriesKey, _Known] = {}
        self._name_count = 0
        # By device: whether its folders tell of changes at once, and when that was found.
        self._is_prompt: dict[int, tuple[bool, float]] = {}

    def segments(self, series: SeriesKey) -> Listing:
        """The segments that a series has now, in no order: the same object as before if they are the same.

        Nobody may change it. Errors: see `CacheFolder.segments`.
        """
        known = self._known.get(series)
        if known is None:
            return self._list(series, self._folder.series_text_path(series))
        path = known.listing.path
        is_same = _version_of(path) == known.version and abs(_clock_offset_ns() - known.offset_ns) < _STEP_NS
        # Only now, so that a cache that is opened for a single read does not ask.
        return known.listing if is_same and self._is_told_at_once(known.version[1]) else self._list(series, path)

    def _list(self, series: SeriesKey, path: str) -> Listing:
        looked_ns, offset_ns = now_ns(), _clock_offset_ns()
        version = _version_of(path)
        listing = self._folder.segments(series)
        if version is not None and is_settled(version[2], looked_ns):
            self._keep(series, _Known(listing, version, offset_ns))
        else:
            self._forget(series)
        return listing

    def _keep(self, series: SeriesKey, known: _Known) -> None:
        self._forget(series)
        self._name_count += len(known.listing.inodes)
        if self._name_count > CACHE_KNOWN_NAMES_MAX:
            # Two threads at once may count wrongly by one listing, which does not matter.
            self._known.clear()
            self._name_count = len(known.listing.inodes)
        self._known[series] = known

    def _forget(self, series: SeriesKey) -> None:
        known = self._known.pop(series, None)
        if known is not None:
            self._name_count -= len(known.listing.inodes)

    def _is_told_at_once(self, device: int) -> bool:
        now_s = time.monotonic()
        is_prompt, found_s = self._is_prompt.get(device, (False, float("-inf")))
        if now_s - found_s >= CACHE_DEVICE_TRUST_S:
            is_prompt = has_prompt_folders(device)
            self._is_prompt[device] = is_prompt, now_s
        return is_prompt


def _version_of(path: str) -> tuple[int, int, int] | None:
    """What tells a folder from every other one, and from itself after a change; None if that cannot be told."""
    try:
        status = os.stat(path)  # noqa: PTH116  (a Path takes twice the time)
    except (OSError, ValueError):
        return None  # the listing says why
    return status.st_ino, status.st_dev, status.st_ctime_ns


def _clock_offset_ns() -> int:
    """How far the clock that can be set is ahead of the one that only counts."""
    return time.time_ns() - time.monotonic_ns()

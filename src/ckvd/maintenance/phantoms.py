"""Phantom series: series of which no source had anything, such as that of a mistyped symbol.

An older version of ckvd stored that bars were not in an archive also where there was nothing else of the series.
A series with a bar is no phantom, and neither is one with an answer (that it was listed later, say), with a damaged
archive, or with a file in quarantine that left its span to be fetched again.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ckvd.cache.fault_points import Step
from ckvd.cache.folder import remove_empty_folders
from ckvd.cache.open_segments import read_named_header
from ckvd.cache.store import SeriesStore
from ckvd.errors import SegmentError
from ckvd.model.provenance import says_nothing

if TYPE_CHECKING:
    from ckvd.cache.folder import CacheFolder, SegmentName
    from ckvd.model.market import SeriesKey
    from ckvd.segment.header import SegmentHeader


def is_phantom(folder: CacheFolder, series: SeriesKey) -> bool:
    """Whether all that the cache has of a series is that no source had any of it.

    Raises
    ------
    CacheError
        The folder or a file cannot be read.
    """
    return bool(_segments_of_phantom(folder, series))


def _segments_of_phantom(folder: CacheFolder, series: SeriesKey) -> list[SegmentName]:
    """The segments of a phantom; none if the series is no phantom."""
    names = folder.segments(series)
    try:
        is_empty = all(_knows_nothing(read_named_header(folder, series, name)) for name in names)
    except (OSError, SegmentError):
        return []  # just replaced, damaged, or not to be read: who knows what is in it
    return names if is_empty else []


def _knows_nothing(header: SegmentHeader) -> bool:
    return not header.row_count and says_nothing(header.absences)


def remove_phantom(folder: CacheFolder, series: SeriesKey) -> bool:
    """Remove a phantom with its folders. Its lock file stays, so that no revision is taken twice.

    Returns
    -------
    bool
        False where the series is no phantom any more.

    Raises
    ------
    CacheBusyError, CacheError
        The series is locked, or a file cannot be removed.
    """
    store = SeriesStore(folder, series)
    with store.lock():
        names = _segments_of_phantom(folder, series)
        if not names:
            return False
        store.remove(sorted(names, key=lambda name: name.revision), Step.PRUNED)
        remove_empty_folders(folder.series_path(series))
    return True

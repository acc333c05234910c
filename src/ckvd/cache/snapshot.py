"""One state of a series, while others may be changing it: `look_again`, `open_named` and what these found.

A segment is listed by its name and opened a moment later. Meanwhile it may have been packed or pruned: then what
stands in for it is there already, and whoever looks again finds it. And it may never have been the segment of that
name: then nothing that it says counts.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, TypeVar

from ckvd.errors import CacheBusyError, SegmentCorruptError
from ckvd.model.timespan import union
from ckvd.segment.reader import SegmentReader, read_segment_header
from ckvd.utils.config import CACHE_READ_ATTEMPTS_MAX

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from ckvd.cache.folder import CacheFolder, SegmentName
    from ckvd.cache.resolution import Winner
    from ckvd.model.market import SeriesKey
    from ckvd.model.timespan import Span
    from ckvd.segment.header import SegmentHeader
    from ckvd.segment.reader import MappedRows

Found = TypeVar("Found")


def look_again(folder: CacheFolder, series: SeriesKey, look: Callable[[], Found]) -> Found:
    """Look at the segments of a series until none of them goes meanwhile.

    Parameters
    ----------
    folder : CacheFolder
    series : SeriesKey
    look : callable
        Lists the segments and opens those that matter; raises FileNotFoundError where one has gone since.

    Raises
    ------
    CacheBusyError
        They were replaced each time.
    """
    for _ in range(CACHE_READ_ATTEMPTS_MAX):
        try:
            return look()
        except FileNotFoundError:
            continue
    raise CacheBusyError(
        str(folder.series_path(series)),
        f"its segments were replaced {CACHE_READ_ATTEMPTS_MAX} times while they were read; try again",
    )


def open_named(folder: CacheFolder, series: SeriesKey, name: SegmentName) -> SegmentReader:
    """Open the segment of a name.

    Raises
    ------
    FileNotFoundError
        It is not there any more.
    SegmentCorruptError
        It is damaged, or its header is that of another segment.
    SegmentError, CacheError
        It cannot be used: see `SegmentReader`.
    """
    reader = SegmentReader(_path_of(folder, series, name))
    try:
        _require_name(reader.header, reader.path, series, name)
    except BaseException:
        reader.close()
        raise
    return reader


def read_named_header(folder: CacheFolder, series: SeriesKey, name: SegmentName) -> SegmentHeader:
    """Read the header of the segment of a name, without mapping the file. Errors: see `open_named`."""
    path = _path_of(folder, series, name)
    header = read_segment_header(path)
    _require_name(header, path, series, name)
    return header


def unanswered_spans(winners: Sequence[Winner], blocks: Sequence[MappedRows]) -> tuple[Span, ...]:
    """Where all that is said is that nothing could be had yet."""
    return union(
        winner.span
        for winner, rows in zip(winners, blocks, strict=True)
        if not rows.header.row_count and not all(absence.reason.is_answer for absence in rows.absences)
    )


def _require_name(header: SegmentHeader, path: str, series: SeriesKey, name: SegmentName) -> None:
    if header.span != name.span or header.revision != name.revision or not header.is_of(series):
        raise SegmentCorruptError(
            path,
            f"its header says {header.series} {header.span}, revision {header.revision}: "
            "the file was renamed or swapped",
        )


def _path_of(folder: CacheFolder, series: SeriesKey, name: SegmentName) -> str:
    # The text of a series is where it lies under the root; a string is joined faster than a Path.
    return f"{folder.root}/{series}/{_file_name(name)}"


@lru_cache(maxsize=1 << 14)
def _file_name(name: SegmentName) -> str:
    return name.file_name

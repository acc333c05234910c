"""From fetched archives to segments in the cache: decode, state where it came from, publish. Synchronous.

Ingesting archives in groups: `GroupCommit` takes along what waits, so that a flush to disk serves many.

Where the network is slower than the disk every archive is stored at once by itself; where it is faster, groups
grow.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from ckvd.cache.store import SeriesStore
from ckvd.concurrency import Batching
from ckvd.decode.batch import decode_archives
from ckvd.decode.decode import Expected
from ckvd.decode.workspace import Workspace
from ckvd.errors import ArchiveError
from ckvd.model.calendar import Cadence, month_start_ms
from ckvd.model.provenance import Origin, Source
from ckvd.model.table import join_tables
from ckvd.model.timespan import Span
from ckvd.utils.config import INGEST_GROUP_ARCHIVES_MAX, INGEST_GROUP_NBYTES_MAX, REPORT_EXAMPLES_MAX
from ckvd.vision.source import read_pieces

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from ckvd.cache.folder import CacheFolder
    from ckvd.decode.decode import DecodedRows
    from ckvd.model.market import SeriesKey
    from ckvd.vision.name import ArchiveName
    from ckvd.vision.source import FetchedArchive


_ORIGINS: Final = {Cadence.MONTHLY: Origin.VISION_MONTHLY, Cadence.DAILY: Origin.VISION_DAILY}


@dataclass(frozen=True, slots=True, eq=False)
class _Arrival:
    """An archive that was decoded, and its place among those that arrived with it."""

    position: int
    span: Span
    decoded: DecodedRows
    source: Source


def ingest_archives(
    archives: Sequence[FetchedArchive], folder: CacheFolder, workspace: Workspace | None = None
) -> list[Source | ArchiveError]:
    """Decode fetched archives of one series and publish them; those that follow on each other become one segment.

    What is published together costs one flush to disk: many days cost little more than one month.

    Parameters
    ----------
    archives : sequence of FetchedArchive
        Of one series. Their files are read, not removed.
    folder : CacheFolder
        The cache.
    workspace : Workspace, optional
        Of the calling thread, for use with the next archives again.

    Returns
    -------
    list of Source or ArchiveError
        For each archive, what it was and what was unusual about it, or why it cannot be believed. What was not
        refused is durable when this returns.

    Raises
    ------
    CacheError
        A segment cannot be written.
    """
    results: dict[int, Source | ArchiveError] = {}
    arrivals: list[_Arrival] = []
    for position, (fetched, decoded) in enumerate(zip(archives, _decode(archives, workspace), strict=True)):
        if isinstance(decoded, ArchiveError):
            results[position] = decoded
            continue
        source = source_of(fetched, decoded)
        arrivals.append(_Arrival(position, fetched.name.period.span, decoded, source))
    for run in _runs(arrivals):
        table = join_tables([arrival.decoded.table for arrival in run])
        span = Span(run[0].span.start_ms, run[-1].span.end_ms)
        SeriesStore(folder, table.series).put(table, span, sources=[arrival.source for arrival in run])
        results.update((arrival.position, arrival.source) for arrival in run)
    return [results[position] for position in range(len(archives))]


def _decode(archives: Sequence[FetchedArchive], workspace: Workspace | None) -> list[DecodedRows | ArchiveError]:
    contents = [_read(fetched) for fetched in archives]
    read = [position for position, content in enumerate(contents) if isinstance(content, bytes)]
    decoded = decode_archives(
        [content for content in contents if isinstance(content, bytes)],
        [expected_of(archives[position].name) for position in read],
        workspace,
    )
    found = dict(zip(read, decoded, strict=True))
    return [
        content if isinstance(content, ArchiveError) else found[position]
        for position, content in enumerate(contents)
    ]


def _read(fetched: FetchedArchive) -> bytes | ArchiveError:
    try:
        return b"".join(read_pieces(fetched.path, fetched.nbytes + 1))
    except OSError as error:
        # A file of a mirror in a folder may go while it is in use.
        return ArchiveError(str(fetched.path), f"cannot be read: {error.strerror}")


def _runs(arrivals: Sequence[_Arrival]) -> Iterator[list[_Arrival]]:
    """Archives whose spans follow on each other without a hole or an overlap."""
    run: list[_Arrival] = []
    for arrival in sorted(arrivals, key=lambda arrival: arrival.span):
        if run and run[-1].span.end_ms != arrival.span.start_ms:
            yield run
            run = []
        run.append(arrival)
    if run:
        yield run


def expected_of(name: ArchiveName) -> Expected:
    """What an archive of a name should hold."""
    return Expected(name.series, name.period.span, name.file_name)


def source_of(fetched: FetchedArchive, decoded: DecodedRows) -> Source:
    """What is worth knowing later about an archive that was decoded."""
    span = fetched.name.period.span
    conflicts = decoded.conflict_open_times
    return Source(
        origin=_ORIGINS[fetched.name.period.cadence],
        name=fetched.name.path,
        start_ms=span.start_ms,
        end_ms=span.end_ms,
        sha256=fetched.sha256,
        is_checksum_published=fetched.is_checksum_published,
        etag=fetched.etag,
        last_modified=fetched.last_modified,
        row_count=decoded.row_count,
        duplicate_row_count=decoded.duplicate_row_count,
        conflict_count=len(conflicts),
        conflict_open_times=tuple(conflicts[:REPORT_EXAMPLES_MAX].tolist()),
        unordered_row_count=decoded.unordered_row_count,
        has_header=decoded.has_header,
        time_unit=decoded.time_unit,
    )


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

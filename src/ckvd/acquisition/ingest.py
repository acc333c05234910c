"""From fetched archives to bars, and to segments in the cache.

`read_archives` is the one reader of fetched archives: whoever wants their bars goes through it, to store them
(`GroupCommit`), or to compare and merge them (`fetch_table`). An archive that vanished, cannot be read or is
invalid is an `ArchiveError` of that archive alone.
"""

from __future__ import annotations

import contextlib
import threading
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Final, NamedTuple

from ckvd.cache.coverage import read_coverage
from ckvd.cache.resolution import resolve
from ckvd.cache.store import SeriesStore
from ckvd.concurrency.stopping import check_stop
from ckvd.concurrency.work import Batching, in_thread
from ckvd.decode.batch import decode_archives
from ckvd.decode.decode import Expected
from ckvd.decode.workspace import Workspace
from ckvd.errors import ArchiveError, CacheBusyError
from ckvd.model.calendar import Cadence
from ckvd.model.provenance import Origin, Source, narrow
from ckvd.model.table import KlineTable, join_tables, rows_within
from ckvd.model.timespan import Span, difference
from ckvd.utils.config import CACHE_READ_ATTEMPTS_MAX, INGEST_GROUP_NBYTES_MAX, REPORT_EXAMPLES_MAX
from ckvd.vision.source import AbsentArchive

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path
    from typing import BinaryIO

    from ckvd.acquisition.limits import IngestLimits
    from ckvd.cache.coverage import Covered
    from ckvd.cache.folder import CacheFolder
    from ckvd.concurrency.processes import ChildProcesses
    from ckvd.decode.decode import DecodedRows
    from ckvd.model.market import SeriesKey
    from ckvd.vision.name import ArchiveName
    from ckvd.vision.source import ArchiveSource, FetchedArchive

_ORIGINS: Final = {Cadence.MONTHLY: Origin.VISION_MONTHLY, Cadence.DAILY: Origin.VISION_DAILY}


# --- Reading -----------------------------------------------------------------------------------------------


class ReadArchive(NamedTuple):
    """The bars of an archive, and where they came from."""

    source: Source
    table: KlineTable


def read_archives(
    archives: Sequence[FetchedArchive], workspace: Workspace | None = None
) -> list[ReadArchive | ArchiveError]:
    """Read and decode fetched archives, and remove their files where they are temporary.

    Parameters
    ----------
    archives : sequence of FetchedArchive
    workspace : Workspace, optional
        Of the calling thread, for use with the next archives again.

    Returns
    -------
    list of ReadArchive or ArchiveError
        For each archive its bars, or why it cannot be used.
    """
    with contextlib.ExitStack() as files:
        contents = [_read_or_open(fetched, files) for fetched in archives]
        readable = [
            (fetched, content)
            for fetched, content in zip(archives, contents, strict=True)
            if not isinstance(content, ArchiveError)
        ]
        expected = [expected_of(fetched.name) for fetched, _ in readable]
        decoded = iter(decode_archives([content for _, content in readable], expected, workspace))
    outcomes = [content if isinstance(content, ArchiveError) else next(decoded) for content in contents]
    return [
        outcome if isinstance(outcome, ArchiveError) else ReadArchive(_source_of(fetched, outcome), outcome.table)
        for fetched, outcome in zip(archives, outcomes, strict=True)
    ]


def _read_or_open(fetched: FetchedArchive, files: contextlib.ExitStack) -> bytes | BinaryIO | ArchiveError:
    """Read an archive, or open it if it is long, and remove its name where it is temporary."""
    check_stop()
    try:
        is_long = fetched.nbytes > INGEST_GROUP_NBYTES_MAX
        return files.enter_context(fetched.open()) if is_long else fetched.read_bytes()
    except ArchiveError as error:
        return error
    finally:
        _remove(fetched)


def _remove(fetched: FetchedArchive) -> None:
    """Remove the file of an archive where it is temporary."""
    if fetched.is_temporary:
        # Its folder is removed with all that is in it when the download ends.
        with contextlib.suppress(OSError):
            fetched.path.unlink()


def expected_of(name: ArchiveName) -> Expected:
    """What an archive of a name should hold."""
    return Expected(name.series, name.period.span, name.file_name)


def _source_of(fetched: FetchedArchive, decoded: DecodedRows) -> Source:
    """Where the bars of an archive came from, and what was unusual about it."""
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
        outside_row_count=len(decoded.outside_open_times),
        outside_open_times=tuple(decoded.outside_open_times[:REPORT_EXAMPLES_MAX].tolist()),
        impossible_count=len(decoded.impossible_open_times),
        impossible_open_times=tuple(decoded.impossible_open_times[:REPORT_EXAMPLES_MAX].tolist()),
        has_header=decoded.has_header,
        time_unit=decoded.time_unit,
        labels=decoded.labels.value,
    )


async def fetch_table(source: ArchiveSource, name: ArchiveName, place: Path) -> ReadArchive | None:
    """Fetch one archive and read it; None where the source has no such archive.

    Parameters
    ----------
    source : ArchiveSource
    name : ArchiveName
    place : Path
        A folder for the archive until it is read.

    Raises
    ------
    ArchiveError
        It cannot be read or is invalid.
    NetworkError, CacheError, ClientClosedError
        See `ArchiveSource.fetch`.
    """
    fetched = await source.fetch(name, place)
    if isinstance(fetched, AbsentArchive):
        return None
    (read,) = await in_thread(read_archives, [fetched])
    if isinstance(read, ArchiveError):
        raise read
    return read


# --- Storing -----------------------------------------------------------------------------------------------


def keep_nothing(_: Covered) -> bool:
    """Let archives replace all that the cache has of their periods."""
    return False


def ingest_archives(
    archives: Sequence[FetchedArchive],
    folder: CacheFolder,
    workspace: Workspace | None = None,
    is_kept: Callable[[Covered], bool] = keep_nothing,
) -> list[Source | ArchiveError]:
    """Read fetched archives of one series and store them; those that follow on each other become one segment.

    What is stored together costs one flush to disk: many days cost little more than one month. The caller makes the
    names of the segments durable (`SeriesStore.flush`). Where the cache has something to keep, the archive is
    stored around it.

    Parameters
    ----------
    archives : sequence of FetchedArchive
        Of one series.
    folder : CacheFolder
    workspace : Workspace, optional
        See `read_archives`.
    is_kept : callable
        Whether the cache keeps what it has of a span.

    Returns
    -------
    list of Source or ArchiveError
        For each archive where its bars came from, or why it cannot be used.

    Raises
    ------
    CacheBusyError
        Others changed the periods of the archives again and again.
    CacheError
        A segment cannot be written.
    """
    read = read_archives(archives, workspace)
    good = [archive for archive in read if isinstance(archive, ReadArchive)]
    for neighbours in _neighbours(good):
        table = join_tables([archive.table for archive in neighbours])
        sources = [archive.source for archive in neighbours]
        span = Span(sources[0].start_ms, sources[-1].end_ms)
        _put_around(SeriesStore(folder, table.series), table, span, sources, is_kept)
    return [one if isinstance(one, ArchiveError) else one.source for one in read]


def _put_around(
    store: SeriesStore,
    table: KlineTable,
    span: Span,
    sources: Sequence[Source],
    is_kept: Callable[[Covered], bool],
) -> None:
    """Store bars in the parts of a span where the cache has nothing to keep, as it is when they are published."""
    left: tuple[Span, ...] = (span,)
    for _ in range(CACHE_READ_ATTEMPTS_MAX):
        # Listed before the coverage is read: a segment published in between counts as a change.
        segments = store.folder.segments(store.series)
        held = (read_coverage(store.folder, store.series, part) for part in left)
        parts = difference(left, [one.span for covered in held for one in covered if is_kept(one)])
        left = tuple(
            part
            for part in parts
            if store.put_in_place(
                resolve(part, segments),
                rows_within(table, part),
                part,
                sources=narrow(sources, part),
                is_durable=False,
            )
            is None
        )
        if not left:
            return
    reason = f"its segments were changed {CACHE_READ_ATTEMPTS_MAX} times while bars were stored; try again"
    raise CacheBusyError(str(store.folder.series_path(store.series)), reason)


def _neighbours(archives: Sequence[ReadArchive]) -> Iterator[list[ReadArchive]]:
    """Archives whose spans follow on each other without a hole or an overlap."""
    group: list[ReadArchive] = []
    for archive in sorted(archives, key=lambda archive: archive.source.span):
        if group and group[-1].source.end_ms != archive.source.start_ms:
            yield group
            group = []
        group.append(archive)
    if group:
        yield group


class GroupCommit:
    """Stores archives in a cache, several together where several wait, in threads or in child processes.

    Where the network is slower than the disk every archive is stored at once by itself. Where it is faster, groups
    grow.

    Parameters
    ----------
    folder : CacheFolder
    limits : IngestLimits
    is_kept : callable
        See `ingest_archives`. For processes it has to be one that can be pickled.
    processes : ChildProcesses, optional
        Where to decode and store.
    """

    def __init__(
        self,
        folder: CacheFolder,
        limits: IngestLimits,
        is_kept: Callable[[Covered], bool] = keep_nothing,
        processes: ChildProcesses | None = None,
    ) -> None:
        self._processes = processes
        self._folder = folder
        self._is_kept = is_kept
        self._batching: Batching[FetchedArchive, Source] = Batching(
            self._ingest, partial(choose_group, limits=limits), limits.processes if processes else None
        )
        self._parsing = threading.Lock()
        self._workspaces: list[Workspace] = []
        self._busy: dict[SeriesKey, CacheBusyError] = {}

    def require_free(self, series: SeriesKey) -> None:
        """Raise the error of a series that was locked elsewhere until the timeout. It is not waited for again.

        Raises
        ------
        CacheBusyError
        """
        if (busy := self._busy.get(series)) is not None:
            raise CacheBusyError(busy.path, busy.reason)

    async def ingest(self, fetched: FetchedArchive) -> Source:
        """Store an archive, alone or with others. `flush` then makes it durable.

        Raises
        ------
        ArchiveError
            It cannot be read or is invalid.
        CacheBusyError
            Others hold the lock of its series.
        CacheError
            It cannot be stored.
        """
        return await self._batching.do(fetched)

    async def flush(self, series: SeriesKey) -> None:
        """Make durable what was stored of a series. Raises CacheError if its folder cannot be flushed."""
        await in_thread(SeriesStore(self._folder, series).flush)

    def _ingest(self, archives: list[FetchedArchive]) -> list[Source | ArchiveError]:
        series = archives[0].name.series
        self.require_free(series)
        try:
            if self._processes is not None:
                return self._ingest_elsewhere(archives, self._processes)
            return self._ingest_here(archives)
        except CacheBusyError as error:
            self._busy[series] = error
            raise

    def _ingest_here(self, archives: Sequence[FetchedArchive]) -> list[Source | ArchiveError]:
        workspace = self._workspaces.pop() if self._workspaces else Workspace(self._parsing)
        try:
            return ingest_archives(archives, self._folder, workspace, self._is_kept)
        finally:
            self._workspaces.append(workspace)

    def _ingest_elsewhere(
        self, archives: Sequence[FetchedArchive], processes: ChildProcesses
    ) -> list[Source | ArchiveError]:
        name = archives[0].name.path
        if len(archives) > 1:
            name += f" and {len(archives) - 1} more"
        # If the process dies, the archives are needed once more: they are removed here, and at last.
        lasting = [replace(archive, is_temporary=False) for archive in archives]
        try:
            return processes.call(name, ingest_archives, lasting, self._folder, is_kept=self._is_kept)
        finally:
            for archive in archives:
                _remove(archive)


def choose_group(waiting: Sequence[FetchedArchive], limits: IngestLimits) -> list[int]:
    """The places of the first waiting archive and of others of its series, as many as go together."""
    series = waiting[0].name.series
    same = [place for place, fetched in enumerate(waiting) if place and fetched.name.series == series]
    group, nbytes = [0], waiting[0].nbytes
    for place in sorted(same, key=lambda place: waiting[place].name.period):
        nbytes += waiting[place].nbytes
        if len(group) >= limits.group_archives or nbytes > limits.group_nbytes:
            break
        group.append(place)
    return group

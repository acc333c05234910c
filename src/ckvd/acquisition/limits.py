"""How much of an ingest may be under way at a time: `IngestLimits`, which holds all limits.

Of a download of many series, only some are under way at a time (`series`), and of each only some archives
(`archives_of_each`). So a download of thousands of series has no more tasks than one of a few. An archive passes
five limits on its way from the source to the cache, and holds each until it has passed:

1. **backlog**: an archive counts from before it is fetched until it is stored. When storing falls behind, fetching
   waits here, so that the download folder never holds more than the backlog, in archives and in bytes
   (`acquisition.backlog`). It has room for many small archives, which are stored together.
2. **transfers**: archives being fetched. A source over HTTP counts an archive until its CHECKSUM was compared, so
   that connections finish archives before they begin others. A source in a folder fetches nothing; its files are
   verified in threads.
3. **connections**: requests on the line. Two for each transfer, because an archive and the CHECKSUM of another one
   may be on the line together; with fewer, transfers would wait for each other.
4. **threads**: groups of archives being decoded and stored, one for each processor. Parsing takes turns
   (`decode.workspace`): numpy releases the GIL too briefly for two parsers to help each other, but one thread
   parses while another inflates or writes.
5. **group**: archives of one series that a thread decodes and stores together: they are parsed as one text, and
   those that follow on each other become one segment, with one flush to disk.

So the memory of an ingest is bounded by threads: each holds the ZIPs of one group, a block of their text (1 MiB)
and their columns, which are 96 bytes a bar. An archive longer than the group's bytes is a group of its own, and is
read from its file as it is parsed: a month of 1s has 2.7 million bars, in 257 MB. The disk is bounded by the
backlog. Packing after a download uses the same number of threads, when the others have ended.

Where the planned archives are worth it, a thread hands its group to a child process and waits: children do not
share the GIL. There are as many as processors, or as `workers` says, and each takes some 50 MB beside the columns
of one group. With one worker, all is done in threads of this process.
"""

from __future__ import annotations

import os
from dataclasses import dataclass

from ckvd.utils.config import (
    DOWNLOAD_CONCURRENCY,
    INGEST_BACKLOG_ARCHIVES_MAX,
    INGEST_BACKLOG_NBYTES_MAX,
    INGEST_GROUP_ARCHIVES_MAX,
    INGEST_GROUP_NBYTES_MAX,
    INGEST_PROCESSES_MAX,
    INGEST_PROCESSES_NBYTES_MIN,
)


@dataclass(frozen=True, slots=True)
class IngestLimits:
    """How much may be under way at a time.

    Attributes
    ----------
    transfers : int
        Archives being fetched, at least one.
    group_archives, group_nbytes : int
        What a thread stores together: at most so many archives, of so many zipped bytes in all.
    workers : int, optional
        Processes that decode and store; by default as many as there are processors. 1 stands for threads of this
        process.
    """

    transfers: int = DOWNLOAD_CONCURRENCY
    group_archives: int = INGEST_GROUP_ARCHIVES_MAX
    group_nbytes: int = INGEST_GROUP_NBYTES_MAX
    workers: int | None = None

    def __post_init__(self) -> None:
        if self.workers is not None and self.workers < 1:
            raise ValueError(f"workers is {self.workers}: expected at least 1, which is this process alone")
        if self.transfers < 1:
            raise ValueError(f"concurrency is {self.transfers}: expected at least 1, or nothing is ever fetched")

    @property
    def connections(self) -> int:
        """Requests on the line."""
        return 2 * self.transfers

    @property
    def backlog_archives(self) -> int:
        """Archives that are being fetched, or are fetched and not stored yet."""
        return self.transfers + INGEST_BACKLOG_ARCHIVES_MAX

    @property
    def backlog_nbytes(self) -> int:
        """Their bytes, by estimate."""
        return INGEST_BACKLOG_NBYTES_MAX

    @property
    def listings(self) -> int:
        """Series whose archives are being listed."""
        return self.connections

    @property
    def series(self) -> int:
        """Series whose archives are being fetched, or that are being completed: some store while others fetch."""
        return 2 * self.transfers

    def archives_of_each(self, series_count: int) -> int:
        """Archives of one series that wait or are under way, of so many series.

        All of the backlog may be of one series. Of several, each has enough for days to be stored together.
        """
        return max(self.group_archives, self.backlog_archives // max(1, series_count))

    @property
    def threads(self) -> int:
        """Groups being decoded and stored, and series being packed."""
        return os.cpu_count() or 1

    @property
    def processes(self) -> int:
        """Child processes that decode and store archives, if these are worth it; 1 for none.

        A thread waits for each, and asyncio has four more threads than processors: some are for the rest.
        """
        processors = os.cpu_count() or 1
        return min(self.workers or processors, processors + 2, INGEST_PROCESSES_MAX)

    def are_worth_processes(self, archive_count: int, nbytes: int) -> bool:
        """Whether so many archives, of so many bytes in all, are decoded faster by child processes."""
        return self.processes > 1 < archive_count and nbytes >= INGEST_PROCESSES_NBYTES_MIN

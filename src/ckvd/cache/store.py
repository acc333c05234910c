"""Changing the segments of a series: `SeriesStore` publishes new ones and removes superseded ones.

The folder is a valid cache at each moment: a segment appears whole, under a name that was never used before, and is
removed only when others win in all of its span. Rows are written and flushed without a lock. The series is locked
only while a revision is taken, and while the file gets its name.

A power cut leaves a valid cache as well, because disks are told in which order:

1. A file is flushed before it gets its name. So a name always stands for a whole segment.
2. The folder is flushed before a segment is removed that others replace. So their names are durable by then.
3. The folder is flushed after a batch: what `put` returns is durable, and so is what was removed.

Each file is flushed once, and the folder once for all names of a batch, as long as its caller has no more to store
(`is_durable=False`, then `flush`). Until then, a power cut may take the new names back, and nothing else.
"""

from __future__ import annotations

import errno as errno_codes
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from ckvd.cache import fault_points
from ckvd.cache.fault_points import Step
from ckvd.cache.folder import SegmentName, is_there
from ckvd.cache.locks import SeriesLock
from ckvd.cache.open_segments import open_named
from ckvd.cache.resolution import resolve, superseded
from ckvd.concurrency.stopping import check_stop
from ckvd.errors import CacheError, SegmentForeignError, cannot
from ckvd.regular_file import irregular_kind
from ckvd.segment.atomic_file import flush_folder
from ckvd.segment.writer import SegmentStatement, SegmentWriter
from ckvd.utils.config import FOLDER_ATTEMPTS_MAX, SERIES_LOCK_TIMEOUT_S

if TYPE_CHECKING:
    from collections.abc import Callable, Container, Iterable, Sequence
    from pathlib import Path

    from ckvd.cache.folder import CacheFolder
    from ckvd.cache.resolution import Winner
    from ckvd.model.market import SeriesKey
    from ckvd.model.provenance import Absence, Source
    from ckvd.model.table import KlineTable
    from ckvd.model.timespan import Span


@dataclass(frozen=True, slots=True)
class SeriesStore:
    """The writing side of one series: publishes and removes its segments.

    Any number of stores, threads and processes may change one series at the same time.

    Attributes
    ----------
    folder : CacheFolder
    series : SeriesKey
    lock_timeout_s : float
        How long to wait for another writer of the series.
    """

    folder: CacheFolder
    series: SeriesKey
    lock_timeout_s: float = SERIES_LOCK_TIMEOUT_S

    def put(
        self,
        table: KlineTable,
        span: Span,
        *,
        sources: Sequence[Source] = (),
        absences: Sequence[Absence] = (),
        is_provisional: bool = False,
        recheck_ms: int = 0,
    ) -> Path:
        """Publish rows as a new segment. It wins in all of its span.

        Parameters
        ----------
        table : KlineTable
            Of this series. Every bar opens in the span; there may be none.
        span : Span
            On whole seconds, not empty. The segment covers all of it, gaps included.
        sources, absences, is_provisional, recheck_ms
            See `SegmentStatement`.

        Returns
        -------
        Path
            The segment, durable when this returns.

        Raises
        ------
        CacheBusyError
            Another writer of the series held its lock until the timeout.
        CacheError
            The folder cannot be made or written.
        ValueError
            The span is empty or not on whole seconds, or a bar opens outside it.
        """
        statement = SegmentStatement(
            self.series, span, 0, sources, absences, is_provisional=is_provisional, recheck_ms=recheck_ms
        )
        path = self._put(table, statement, lambda _: True)
        assert path is not None, "there was no condition"
        return path

    def put_in_place(
        self,
        winners: Sequence[Winner],
        table: KlineTable,
        span: Span,
        *,
        sources: Sequence[Source] = (),
        absences: Sequence[Absence] = (),
        is_provisional: bool = False,
        recheck_ms: int = 0,
        is_durable: bool = True,
    ) -> Path | None:
        """`put`, unless others changed the span since the rows were made from it: compare and swap.

        Parameters
        ----------
        winners : sequence of Winner
            What `resolve` gave for the span when its contents were read.
        table, span, sources, absences, is_provisional, recheck_ms
            As for `put`.
        is_durable : bool
            False if more follows, and the caller ends it with `flush`.

        Returns
        -------
        Path or None
            None if other segments win in the span by now: read it again.
        """
        statement = SegmentStatement(
            self.series, span, 0, sources, absences, is_provisional=is_provisional, recheck_ms=recheck_ms
        )
        return self._put(
            table, statement, lambda segments: resolve(span, segments) == list(winners), is_durable=is_durable
        )

    def _put(
        self,
        table: KlineTable,
        statement: SegmentStatement,
        condition: Callable[[list[SegmentName]], bool],
        *,
        is_durable: bool = True,
    ) -> Path | None:
        if not statement.span:
            raise ValueError(f"{self.series}: the span {statement.span} of a segment is empty")
        name = self.likely_name(statement.span)
        with self._write(name, replace(statement, revision=name.revision), table) as writer:
            fault_points.reach(Step.ROWS_WRITTEN)
            name = self.take_revision(writer, name)
            published = self.publish(writer, name, condition=condition, is_durable=is_durable)
            return None if published is None else writer.path

    def _write(self, name: SegmentName, statement: SegmentStatement, table: KlineTable) -> SegmentWriter:
        for attempts_left in range(FOLDER_ATTEMPTS_MAX - 1, -1, -1):
            self.folder.make_series_path(self.series)
            try:
                return SegmentWriter.of_table(self.folder.segment_path(self.series, name), statement, table)
            except CacheError as error:
                # Pruning removes a folder that it emptied, under a lock that is not held here.
                if error.errno != errno_codes.ENOENT or not attempts_left:
                    raise
        raise AssertionError

    def likely_name(self, span: Span) -> SegmentName:
        """The name that the next segment will get, unless another writer is faster."""
        revisions = [name.revision for name in self.folder.segments(self.series)]
        return SegmentName(span, 1 + max(revisions, default=0))

    def take_revision(self, writer: SegmentWriter, name: SegmentName) -> SegmentName:
        """Give a written segment a revision that no other writer gets.

        The revision is in the header. It is taken before the file is flushed, so that one flush is enough.

        Parameters
        ----------
        writer : SegmentWriter
            All rows are appended, and nothing is flushed.
        name : SegmentName
            The name that the writer was made with, from `likely_name`.

        Returns
        -------
        SegmentName
            The name for `publish`.

        Raises
        ------
        CacheBusyError, CacheError
            See `put`.
        """
        with self.lock() as lock:
            taken = SegmentName(name.span, lock.take_revision(self.folder.segments(self.series)))
        if taken != name:
            writer.renumber(self.folder.segment_path(self.series, taken), taken.revision)
        fault_points.reach(Step.REVISION_TAKEN)
        return taken

    def publish(
        self,
        writer: SegmentWriter,
        name: SegmentName,
        *,
        condition: Callable[[list[SegmentName]], bool],
        is_durable: bool = True,
    ) -> SegmentName | None:
        """Give a written segment its final name.

        Parameters
        ----------
        writer : SegmentWriter
            All rows are appended.
        name : SegmentName
            From `take_revision`. If another writer of its span was faster, the segment gets a higher revision.
        condition : callable
            Called with the segments of the series, while it is locked: whether to publish.
        is_durable : bool
            False if the caller calls `flush` or `remove_superseded` afterwards.

        Returns
        -------
        SegmentName or None
            The segment; None if the condition was false.

        Raises
        ------
        CacheBusyError, CacheError
            See `put`. Nothing was published.
        """
        writer.flush()
        fault_points.reach(Step.SEGMENT_FLUSHED)
        with self.lock() as lock:
            check_stop()
            segments = self.folder.segments(self.series)
            if not condition(segments):
                return None
            if any(other.revision >= name.revision and other.span.overlaps(name.span) for other in segments):
                name = SegmentName(name.span, lock.take_revision(segments))
                writer.renumber(self.folder.segment_path(self.series, name), name.revision)
                writer.flush()
            if is_there(writer.path):
                raise CacheError(str(writer.path), "is there already, and a segment is never overwritten")
            writer.rename()
            fault_points.reach(Step.SEGMENT_NAMED)
            if is_durable:
                self.flush()
        fault_points.reach(Step.SEGMENT_PUBLISHED)
        return name

    def remove_superseded(self, verified: Container[SegmentName] = ()) -> tuple[SegmentName, ...]:
        """Remove segments that win nowhere, because newer ones win in all of their span.

        The newer ones are verified before anything is removed, so that nothing is lost below a damaged one.

        Parameters
        ----------
        verified : container of SegmentName
            Segments that the caller has just verified.

        Returns
        -------
        tuple of SegmentName
            What was removed. Arrays that view these segments stay valid.

        Raises
        ------
        CacheBusyError, CacheError
            The series is locked, or a file cannot be removed.
        SegmentError
            A newer segment is damaged, or of another series; nothing was removed.
        """
        if not superseded(self.folder.segments(self.series)):
            return ()
        with self.lock():
            found = superseded(self.folder.segments(self.series))
            if not found:
                return ()
            self.flush()
            for newer in sorted({winner for winners in found.values() for winner in winners}):
                if newer not in verified:
                    with open_named(self.folder, self.series, newer) as reader:
                        reader.verify()
            self.remove(found, Step.SUPERSEDED_REMOVED)
        return tuple(found)

    def remove(self, names: Iterable[SegmentName], step: Step) -> None:
        """Remove segments, durably. The caller holds the lock. Errors: see `remove_superseded`.

        If others replace them, the caller calls `flush` before.
        """
        for name in names:
            check_stop()
            path = self.folder.segment_path(self.series, name)
            try:
                path.unlink(missing_ok=True)
            except OSError as error:
                if kind := irregular_kind(path):
                    reason = f"no segment: it is {kind}, which is not removed; ckvd cache repair sets it aside"
                    raise SegmentForeignError(str(path), reason) from error
                raise cannot("be removed", path, error) from error
            fault_points.reach(step)
        self.flush()

    def flush(self) -> None:
        """Make durable which segments the series has now, whoever published or removed some.

        Raises
        ------
        CacheError
            The folder cannot be flushed.
        """
        path = self.folder.series_path(self.series)
        try:
            flush_folder(path)
        except FileNotFoundError:
            return  # pruning has removed it with all segments
        except OSError as error:
            raise cannot("be flushed", path, error) from error

    def lock(self) -> SeriesLock:
        """The lock of the series, to be held while its segments are changed."""
        return SeriesLock(self.folder, self.series, timeout_s=self.lock_timeout_s)

"""Packing (compaction): merging closed history of a series into large segments, as `ckvd.cache.packing_plan` plans.

A merge copies the rows of mapped segments chunk by chunk, so that memory stays flat. Each segment is verified
before it is copied, and the result is compared with its inputs, bit for bit, before it gets its name. From then on
it wins in their span, and they are removed. If the series changed meanwhile, the merge is dropped.
"""

from __future__ import annotations

import errno as errno_codes
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from ckvd.cache import fault_points
from ckvd.cache.fault_points import Step
from ckvd.cache.open_segments import open_named, read_named_header
from ckvd.cache.packing_plan import Merge, PackInput, join_later, join_provenance, merge_columns, plan_packing
from ckvd.cache.resolution import hull, is_answered, resolve, superseded
from ckvd.cache.rows import chunks_of, column_of, count_rows, require_order
from ckvd.cache.store import SeriesStore
from ckvd.errors import CacheError, SegmentCorruptError, SegmentError
from ckvd.model.provenance import narrow
from ckvd.model.table import bits_of
from ckvd.segment.layout import Encoding
from ckvd.segment.reader import SegmentReader
from ckvd.segment.writer import SegmentStatement, SegmentWriter

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from ckvd.cache.folder import CacheFolder, SegmentName
    from ckvd.model.market import SeriesKey
    from ckvd.model.table import Column
    from ckvd.model.timespan import Span
    from ckvd.segment.layout import ColumnLayout
    from ckvd.segment.reader import MappedRows


_FULL: Final = (errno_codes.ENOSPC, errno_codes.EDQUOT)


@dataclass(frozen=True, slots=True)
class PackReport:
    """What packing a series did, or would do.

    Attributes
    ----------
    series : SeriesKey
    merges : tuple of Merge
        The plan.
    packed : tuple of SegmentName
        Segments that were made.
    removed : tuple of SegmentName
        Superseded segments that were removed; in a survey, those that would be.
    removed_nbytes : int
        Their size.
    refusals : tuple of str
        What was not packed, and why: damaged segments, mostly.
    """

    series: SeriesKey
    merges: tuple[Merge, ...] = ()
    packed: tuple[SegmentName, ...] = ()
    removed: tuple[SegmentName, ...] = ()
    removed_nbytes: int = 0
    refusals: tuple[str, ...] = ()


def survey_packing(folder: CacheFolder, series: SeriesKey, *, is_thorough: bool = False) -> PackReport:
    """Plan packing, and change nothing. Errors: see `pack_series`."""
    segments = folder.segments(series)
    merges = plan_packing(_read_inputs(folder, series, segments), is_thorough=is_thorough)
    # Merges supersede the segments that win nowhere outside of them. These would be removed as well.
    outside = {
        winner.segment
        for winner in resolve(hull(segments), segments)
        if not any(merge.span.covers(winner.span) for merge in merges)
    }
    replaced = {item.winner.segment for merge in merges for item in merge.inputs} - outside
    removed = tuple(sorted({*superseded(segments), *replaced}))
    return PackReport(series, merges, removed=removed, removed_nbytes=folder.nbytes_of(series, removed))


def pack_series(
    folder: CacheFolder, series: SeriesKey, *, is_thorough: bool = False, fresh: Sequence[Span] = ()
) -> PackReport:
    """Merge segments as planned, and remove those that are superseded.

    This is safe at any time: readers and writers need not stop. Arrays that view a removed segment stay valid.

    Parameters
    ----------
    folder : CacheFolder
    series : SeriesKey
    is_thorough : bool
        See `plan_packing`.
    fresh : sequence of Span
        What was just stored: segments that lie within are fresh, see `PackInput`. Disjoint and in order.

    Returns
    -------
    PackReport
        A damaged segment is among its refusals. The others are packed all the same.

    Raises
    ------
    CacheBusyError
        Another writer held the lock of the series until the timeout.
    CacheError
        The folder cannot be read or written. What was published before stays. If the disk is full, superseded
        segments are removed all the same.
    """
    store = SeriesStore(folder, series)
    refusals: list[str] = []
    packed: list[SegmentName] = []
    inputs = _read_inputs(folder, series, folder.segments(series), fresh)
    merges = plan_packing(inputs, is_thorough=is_thorough)
    for merge in merges:
        try:
            made = merge_segments(store, merge)
        except FileNotFoundError:
            made = None
        except SegmentError as error:
            refusals.append(f"{error}; it is kept as it is (see ckvd cache verify)")
            continue
        except CacheError as error:
            if error.errno not in _FULL:
                raise
            # Removing what is superseded needs no room, and makes some for the next time.
            store.remove_superseded(packed)
            raise
        if made is None:
            refusals.append(f"{series}: {merge.span} changed while it was packed; the next time will do")
        else:
            packed.append(made)
    removed: tuple[SegmentName, ...] = ()
    removed_nbytes = 0
    try:
        # This makes the names of the merges durable first: each of them supersedes its inputs. Whoever else removed
        # these has done the same.
        before = {name: folder.nbytes_of(series, [name]) for name in superseded(folder.segments(series))}
        removed = store.remove_superseded(packed)
        removed_nbytes = sum(before.get(name, 0) for name in removed)
    except (SegmentError, FileNotFoundError) as error:
        refusals.append(f"{error}; what it replaces is kept")
    return PackReport(series, merges, tuple(packed), removed, removed_nbytes, tuple(refusals))


def _read_inputs(
    folder: CacheFolder, series: SeriesKey, segments: Sequence[SegmentName], fresh: Sequence[Span] = ()
) -> list[PackInput]:
    inputs = []
    for winner in resolve(hull(segments), segments):
        try:
            header = read_named_header(folder, series, winner.segment)
            row_count = header.row_count
            if row_count and winner.span != winner.segment.span:
                row_count = count_rows(folder.segment_path(series, winner.segment), winner.span)
            is_closed = not header.is_provisional and not header.recheck_ms and is_answered(header)
        except (FileNotFoundError, SegmentError):
            # Gone, or damaged: either way there is nothing to pack.
            inputs.append(PackInput(winner, 0, is_closed=False))
        else:
            is_fresh = any(span.covers(winner.span) for span in fresh)
            inputs.append(PackInput(winner, row_count, is_closed, is_fresh))
    return inputs


def merge_segments(store: SeriesStore, merge: Merge) -> SegmentName | None:
    """Make one segment of the inputs of a merge, and publish it. `SeriesStore.flush` then makes its name durable.

    Parameters
    ----------
    store : SeriesStore
    merge : Merge
        A single input is allowed: that cuts it out of its segment.

    Returns
    -------
    SegmentName or None
        None if others win in the span by now, or the folder of the series is gone.

    Raises
    ------
    FileNotFoundError
        A segment is gone.
    SegmentError
        A segment is damaged; nothing was published.
    CacheBusyError, CacheError
        See `pack_series`.
    """
    headers = [read_named_header(store.folder, store.series, item.winner.segment) for item in merge.inputs]
    known = [(header, item.span) for header, item in zip(headers, merge.inputs, strict=True)]
    name = store.likely_name(merge.span)
    rechecks = [header.recheck_ms for header in headers if header.recheck_ms]
    statement = SegmentStatement(
        store.series,
        merge.span,
        name.revision,
        join_provenance([narrow(header.sources, span) for header, span in known]),
        join_provenance([narrow(header.absences, span) for header, span in known]),
        later=join_later([header.later for header in headers]),
        is_provisional=any(header.is_provisional for header in headers),
        recheck_ms=min(rechecks, default=0),
    )
    columns = merge_columns([header for header in headers if header.row_count] or headers[:1])
    try:
        path = store.folder.segment_path(store.series, name)
        writer = SegmentWriter(path, statement, columns, merge.row_count)
    except CacheError as error:
        if error.errno == errno_codes.ENOENT:
            return None
        raise
    with writer:
        for item in merge.inputs:
            with open_named(store.folder, store.series, item.winner.segment) as reader:
                # The copy gets a checksum of its own, which would hide damage to the original.
                reader.verify()
                rows = reader.rows.between(item.span.start_ms, item.span.end_ms)
                require_order(rows, item.span)
                for chunk in chunks_of([rows]):
                    writer.append(_stored_columns(chunk, columns, store.series))
                    del chunk
                del rows
        fault_points.reach(Step.ROWS_WRITTEN)
        name = store.take_revision(writer, name)
        writer.flush()
        _compare(writer.temporary_path, store, merge)
        winners = [item.winner for item in merge.inputs]
        return store.publish(
            writer, name, condition=lambda found: resolve(merge.span, found) == winners, is_durable=False
        )


def _stored_columns(rows: MappedRows, columns: Sequence[ColumnLayout], series: SeriesKey) -> dict[str, Column]:
    return {
        column.name: column_of(rows, column.name, series)
        for column in columns
        if column.encoding is Encoding.STORED
    }


def _compare(made: Path, store: SeriesStore, merge: Merge) -> None:
    """Refuse a segment as corrupt unless each of its cells equals that of the inputs it was made from."""
    with SegmentReader(made) as packed:
        packed.verify()
        names = [column.name for column in packed.header.columns]
        start = 0
        for item in merge.inputs:
            with open_named(store.folder, store.series, item.winner.segment) as reader:
                for chunk in chunks_of([reader.rows.between(item.span.start_ms, item.span.end_ms)]):
                    copy = packed.rows.rows(start, start + len(chunk))
                    for name in names:
                        was, now = (bits_of(column_of(rows, name, store.series)) for rows in (chunk, copy))
                        if not np.array_equal(was, now):
                            raise SegmentCorruptError(str(made), f"column {name} was not written as it was read")
                    start += len(chunk)
                    del chunk, copy, was, now
        if start != packed.header.row_count:
            raise SegmentCorruptError(str(made), f"{packed.header.row_count} rows were written, expected {start}")

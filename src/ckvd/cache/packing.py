"""Packing a series: merging closed history into large segments, as `ckvd.cache.packing_plan` decides.

A merge copies the rows of mapped segments, piece by piece and chunk by chunk, so that memory stays flat. A piece
is checked before it is copied, and the result is compared with the pieces, bit for bit, before it gets its name;
from then on it speaks for their span, and they are removed. If the series changed meanwhile, the merge is dropped.
"""

from __future__ import annotations

import errno as errno_codes
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ckvd.cache import fault_points
from ckvd.cache.fault_points import Step
from ckvd.cache.packing_plan import Merge, Piece, join_records, merge_columns, plan_packing
from ckvd.cache.resolution import hull, resolve, superseded
from ckvd.cache.rows import chunks_of, column_of, count_rows
from ckvd.cache.snapshot import open_named, read_named_header
from ckvd.cache.store import SeriesStore
from ckvd.errors import CacheError, SegmentCorruptError, SegmentError
from ckvd.model.provenance import narrow
from ckvd.model.table import bits_of
from ckvd.segment.layout import Encoding
from ckvd.segment.reader import SegmentReader
from ckvd.segment.writer import SegmentStatement, SegmentWriter

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from ckvd.cache.folder import CacheFolder, SegmentName
    from ckvd.model.market import SeriesKey
    from ckvd.model.table import Column
    from ckvd.segment.header import SegmentHeader
    from ckvd.segment.layout import ColumnLayout
    from ckvd.segment.reader import MappedRows


@dataclass(frozen=True, slots=True)
class PackedSegment:
    """A segment that packing made.

    Attributes
    ----------
    name : SegmentName
    input_count : int
        From how many pieces.
    row_count, nbytes : int
    """

    name: SegmentName
    input_count: int
    row_count: int
    nbytes: int


@dataclass(frozen=True, slots=True)
class PackReport:
    """What packing a series did, or would do.

    Attributes
    ----------
    series : SeriesKey
    merges : tuple of Merge
        What was decided.
    packed : tuple of PackedSegment
        What was made of it.
    removed : tuple of SegmentName
        Segments that spoke for nothing any more, and are gone; or would be, where nothing was done.
    removed_nbytes : int
        How long they were.
    refusals : tuple of str
        What could not be packed, and why: damaged segments, mostly.
    """

    series: SeriesKey
    merges: tuple[Merge, ...] = ()
    packed: tuple[PackedSegment, ...] = ()
    removed: tuple[SegmentName, ...] = ()
    removed_nbytes: int = 0
    refusals: tuple[str, ...] = ()


def survey_packing(folder: CacheFolder, series: SeriesKey, *, is_thorough: bool = False) -> PackReport:
    """Decide what packing would do, and do nothing.

    Raises
    ------
    CacheError
        The folder cannot be read.
    """
    segments = folder.segments(series)
    merges = plan_packing(_read_pieces(folder, series, segments), is_thorough=is_thorough)
    # What merges would leave behind is removed as well: segments that speak for nothing outside of one merge.
    outside = {
        winner.segment
        for winner in resolve(hull(segments), segments)
        if not any(merge.span.covers(winner.span) for merge in merges)
    }
    replaced = {piece.winner.segment for merge in merges for piece in merge.pieces} - outside
    removed = tuple(sorted({*superseded(segments), *replaced}))
    return PackReport(series, merges, removed=removed, removed_nbytes=folder.nbytes_of(series, removed))


def pack_series(
    folder: CacheFolder,
    series: SeriesKey,
    *,
    is_thorough: bool = False,
    on_rows: Callable[[int], None] | None = None,
) -> PackReport:
    """Merge what should be merged, and remove segments that speak for nothing any more.

    Safe at any time: readers and writers go on meanwhile. Arrays that view a removed segment stay valid.

    Parameters
    ----------
    folder : CacheFolder
    series : SeriesKey
    is_thorough : bool
        See `plan_packing`.
    on_rows : callable, optional
        Called with the number of rows that each step copied.

    Returns
    -------
    PackReport
        Damaged segments are among its refusals, and did not keep others from being packed.

    Raises
    ------
    CacheBusyError
        Another writer held the lock of the series all the time.
    CacheError
        The folder cannot be read or written. What was published before stays.
    """
    store = SeriesStore(folder, series)
    refusals: list[str] = []
    packed: list[PackedSegment] = []
    merges = plan_packing(_read_pieces(folder, series, folder.segments(series)), is_thorough=is_thorough)
    for merge in merges:
        try:
            made = merge_pieces(store, merge, on_rows or ignore_rows)
        except FileNotFoundError:
            refusals.append(f"{series}: {merge.span} changed while it was packed; the next time will do")
        except SegmentError as error:
            refusals.append(f"{error}; it is kept as it is (see ckvd cache verify)")
        else:
            if made is None:
                refusals.append(f"{series}: {merge.span} changed while it was packed; the next time will do")
            else:
                packed.append(made)
    removed: tuple[SegmentName, ...] = ()
    removed_nbytes = 0
    try:
        before = {name: folder.nbytes_of(series, [name]) for name in superseded(folder.segments(series))}
        removed = store.remove_superseded({made.name for made in packed})
        removed_nbytes = sum(before.get(name, 0) for name in removed)
    except (SegmentError, FileNotFoundError) as error:
        refusals.append(f"{error}; what it replaces is kept")
    return PackReport(series, merges, tuple(packed), removed, removed_nbytes, tuple(refusals))


def ignore_rows(_: int) -> None:
    """Take no notice of progress."""


# --- What there is -----------------------------------------------------------------------------------------


def _read_pieces(folder: CacheFolder, series: SeriesKey, segments: Sequence[SegmentName]) -> list[Piece]:
    path = folder.series_path(series)
    pieces = []
    for winner in resolve(hull(segments), segments):
        try:
            header = read_named_header(folder, series, winner.segment)
            row_count = header.row_count
            if row_count and winner.span != winner.segment.span:
                row_count = count_rows(path / winner.segment.file_name, winner.span)
        except (FileNotFoundError, SegmentError):
            # It went, or is damaged: either way nothing to pack.
            pieces.append(Piece(winner, 0, is_closed=False))
        else:
            pieces.append(Piece(winner, row_count, _is_closed(header)))
    return pieces


def _is_closed(header: SegmentHeader) -> bool:
    """Whether nothing in it will be asked for again, so that it may stand in one segment with years of others."""
    if header.is_provisional or header.recheck_ms:
        return False
    return header.row_count > 0 or all(absence.reason.is_answer for absence in header.absences)


# --- One merge ---------------------------------------------------------------------------------------------


def merge_pieces(store: SeriesStore, merge: Merge, on_rows: Callable[[int], None]) -> PackedSegment | None:
    """Make one segment of pieces.

    Parameters
    ----------
    store : SeriesStore
    merge : Merge
        Even of a single piece: that cuts it out of its segment.
    on_rows : callable
        Called with the number of rows that each step copied.

    Returns
    -------
    PackedSegment or None
        None where the pieces did not hold any more when it was ready, or went with their folder.

    Raises
    ------
    FileNotFoundError
        A segment went meanwhile.
    SegmentError
        A segment is damaged; nothing was made of it.
    CacheBusyError, CacheError
        The series is locked, or the disk refused.
    """
    headers = [read_named_header(store.folder, store.series, piece.winner.segment) for piece in merge.pieces]
    name = store.likely_name(merge.span)
    rechecks = [header.recheck_ms for header in headers if header.recheck_ms]
    statement = SegmentStatement(
        store.series,
        merge.span,
        name.revision,
        join_records([narrow(h.sources, p.span) for h, p in zip(headers, merge.pieces, strict=True)]),
        join_records([narrow(h.absences, p.span) for h, p in zip(headers, merge.pieces, strict=True)]),
        is_provisional=any(header.is_provisional for header in headers),
        recheck_ms=min(rechecks, default=0),
    )
    columns = merge_columns([header for header in headers if header.row_count] or headers[:1])
    try:
        path = store.folder.series_path(store.series) / name.file_name
        writer = SegmentWriter(path, statement, columns, merge.row_count)
    except CacheError as error:
        if error.errno == errno_codes.ENOENT:
            return None
        raise
    with writer:
        for piece in merge.pieces:
            with open_named(store.folder, store.series, piece.winner.segment) as reader:
                # A checksum that the copy gets would hide what was damaged before.
                reader.verify()
                for chunk in chunks_of([reader.rows.between(piece.span.start_ms, piece.span.end_ms)]):
                    writer.append(_stored_columns(chunk, columns, store.series))
                    on_rows(len(chunk))
                    del chunk
        fault_points.reach(Step.ROWS_WRITTEN)
        writer.flush()
        _compare(writer.temporary_path, store, merge)
        held = [piece.winner for piece in merge.pieces]
        published = store.publish(writer, name, condition=lambda found: resolve(merge.span, found) == held)
        if published is None:
            return None
    return PackedSegment(
        published, len(merge.pieces), merge.row_count, store.folder.nbytes_of(store.series, [published])
    )


def _stored_columns(rows: MappedRows, columns: Sequence[ColumnLayout], series: SeriesKey) -> dict[str, Column]:
    return {
        column.name: column_of(rows, column.name, series)
        for column in columns
        if column.encoding is Encoding.STORED
    }


def _compare(made: Path, store: SeriesStore, merge: Merge) -> None:
    """Compare a segment that was written with the pieces it was made from, every cell of every column.

    Raises
    ------
    SegmentCorruptError
        What is there is not what was written.
    """
    with SegmentReader(made) as packed:
        packed.verify()
        names = [column.name for column in packed.header.columns]
        start = 0
        for piece in merge.pieces:
            with open_named(store.folder, store.series, piece.winner.segment) as reader:
                for chunk in chunks_of([reader.rows.between(piece.span.start_ms, piece.span.end_ms)]):
                    copy = packed.rows.rows(start, start + len(chunk))
                    for name in names:
                        was, now = (bits_of(column_of(rows, name, store.series)) for rows in (chunk, copy))
                        if not np.array_equal(was, now):
                            raise SegmentCorruptError(str(made), f"column {name} was not written as it was read")
                    start += len(chunk)
                    del chunk, copy, was, now
        if start != packed.header.row_count:
            raise SegmentCorruptError(str(made), f"{packed.header.row_count} rows were written, expected {start}")

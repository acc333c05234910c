"""Deciding which segments to merge into larger ones. Pure.

Closed history is merged so that years of a series are one view, while the newest part stays small. What lies side
by side is merged when the result is `PACK_GROWTH_MIN` times as long as its longest piece, and holds at most
`PACK_ROWS_MAX` rows. The segment of a bar thus grows at least that much each time the bar is copied: years that are
fetched at once are copied once, and bars that come day by day about three times in all. Appending a day to five
years never touches the five years. The last merge, to more than half of the maximum, may grow less: none follows.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import pairwise
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from ckvd.model.provenance import Absence, Source
from ckvd.model.table import COLUMN_DTYPES, REGULAR_US
from ckvd.model.timespan import Span
from ckvd.segment.layout import ColumnLayout, Encoding
from ckvd.utils.config import PACK_GROWTH_MIN, PACK_LAST_GROWTH_MIN, PACK_ROWS_MAX, PACK_SEGMENT_COST_ROWS

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from ckvd.cache.resolution import Winner
    from ckvd.segment.header import SegmentHeader

_Record = TypeVar("_Record", Source, Absence)


@dataclass(frozen=True, slots=True)
class Piece:
    """What a segment speaks for, as far as packing is concerned.

    Attributes
    ----------
    winner : Winner
    row_count : int
        Bars that open in the span of the winner.
    is_closed : bool
        Whether nothing in it will ever be asked for again.
    """

    winner: Winner
    row_count: int
    is_closed: bool

    @property
    def span(self) -> Span:
        """What it speaks for."""
        return self.winner.span


@dataclass(frozen=True, slots=True)
class Merge:
    """Pieces that become one segment.

    Attributes
    ----------
    pieces : tuple of Piece
        Two or more, in order, each beginning where the one before ends.
    """

    pieces: tuple[Piece, ...]

    @property
    def span(self) -> Span:
        """What the new segment will speak of."""
        return Span(self.pieces[0].span.start_ms, self.pieces[-1].span.end_ms)

    @property
    def row_count(self) -> int:
        """How many bars it will hold."""
        return sum(piece.row_count for piece in self.pieces)


def plan_packing(
    pieces: Sequence[Piece],
    *,
    is_thorough: bool = False,
    rows_max: int = PACK_ROWS_MAX,
    growth_min: int = PACK_GROWTH_MIN,
    last_growth_min: int = PACK_LAST_GROWTH_MIN,
) -> tuple[Merge, ...]:
    """Decide which pieces to merge.

    Parameters
    ----------
    pieces : sequence of Piece
        All that a series' segments speak for: disjoint, in order.
    is_thorough : bool
        Merge whatever fits, also where much is copied for little.
    rows_max : int
        The longest segment to make.
    growth_min, last_growth_min : int
        How many times as long as its longest piece a merge must be; the second where it reaches half of
        `rows_max`.

    Returns
    -------
    tuple of Merge
        Disjoint, in order. Once they are done, there is nothing left to decide.
    """
    merges: list[Merge] = []
    for run in _runs(pieces):
        start = 0
        while start < len(run):
            count = _worthwhile_count(
                run[start:], rows_max, 1 if is_thorough else growth_min, 1 if is_thorough else last_growth_min
            )
            if count > 1:
                merges.append(Merge(tuple(run[start : start + count])))
            start += count
    return tuple(merges)


def _worthwhile_count(run: Sequence[Piece], rows_max: int, growth_min: int, last_growth_min: int) -> int:
    """How many pieces from the first on are best merged; 1 where none should be."""
    rows = size = longest = 0
    count = 1
    for position, piece in enumerate(run):
        rows += piece.row_count
        if rows > rows_max:
            break
        size += piece.row_count + PACK_SEGMENT_COST_ROWS
        longest = max(longest, piece.row_count + PACK_SEGMENT_COST_ROWS)
        growth = last_growth_min if 2 * rows >= rows_max else growth_min
        if size >= growth * longest:
            count = position + 1
    return count


def _runs(pieces: Sequence[Piece]) -> Iterator[list[Piece]]:
    """Closed pieces that touch each other."""
    run: list[Piece] = []
    for piece in pieces:
        if run and (not piece.is_closed or piece.span.start_ms != run[-1].span.end_ms):
            yield run
            run = []
        if piece.is_closed:
            run.append(piece)
    if run:
        yield run
    assert all(one.span.end_ms <= other.span.start_ms for one, other in pairwise(pieces))


# --- What a merged segment says ----------------------------------------------------------------------------


def merge_columns(headers: Sequence[SegmentHeader]) -> tuple[ColumnLayout, ...]:
    """Decide how each column is kept that rows of several segments share.

    A column is constant or regular where it is so, and the same, in all of them; what some leave out because it is
    regular is written down when others have it.
    """
    tables = [{column.name: column for column in header.columns} for header in headers]
    names = dict.fromkeys(name for table in tables for name in table)
    return tuple(_merge_column(name, [table.get(name) for table in tables]) for name in names)


def _merge_column(name: str, layouts: Sequence[ColumnLayout | None]) -> ColumnLayout:
    dtype = COLUMN_DTYPES[name]
    decimals = None
    for layout in layouts:
        if layout is not None and layout.decimals is not None:
            decimals = layout.decimals if decimals is None else decimals | layout.decimals
    if all(layout is not None and layout.encoding is Encoding.REGULAR for layout in layouts):
        return ColumnLayout(name, dtype, Encoding.REGULAR, decimals)
    constants = {_constant_of(name, layout) for layout in layouts}
    if len(constants) == 1 and (constant := constants.pop()) is not None:
        return ColumnLayout(name, dtype, Encoding.CONSTANT, decimals, constant=constant)
    return ColumnLayout(name, dtype, Encoding.STORED, decimals)


def _constant_of(name: str, layout: ColumnLayout | None) -> bytes | None:
    dtype = COLUMN_DTYPES[name]
    if layout is None:
        return np.array(REGULAR_US[name], dtype).tobytes()
    return layout.constant[: dtype.itemsize] if layout.encoding is Encoding.CONSTANT else None


def join_records(lists: Sequence[Sequence[_Record]]) -> tuple[_Record, ...]:
    """Sources or absences of neighbouring pieces as one list: a record that was cut at a seam is whole again."""
    joined: list[_Record] = []
    for records in lists:
        for record in records:
            before = joined[-1] if joined else None
            if before is not None and before.end_ms == record.start_ms:
                whole = replace(record, start_ms=before.start_ms)
                if replace(before, end_ms=record.end_ms) == whole:
                    joined[-1] = whole
                    continue
            joined.append(record)
    return tuple(joined)

"""The plan of packing: which segments to merge into larger ones, and what the merged segments contain. Pure.

Closed history is merged, so that years of a series are one view, while the newest part stays small. Neighbours are
merged when the result is `PACK_GROWTH_MIN` times as long as the longest of them, and has at most `PACK_ROWS_MAX`
rows. So the segment of a bar grows at least that much each time the bar is copied: years that are fetched at once
are copied once, and bars that come day by day about three times in all. Appending a day to five years never copies
the five years. The last merge, to more than half of the maximum, may grow less, because none follows. Neighbours
that one download has stored are merged whatever they grow: they are copied for the first time.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import TYPE_CHECKING, TypeVar

from ckvd.model.provenance import Absence, Source, later_text
from ckvd.model.schema import COLUMN_DTYPES
from ckvd.model.table import regular_us
from ckvd.model.timespan import Span
from ckvd.segment.layout import ColumnLayout, Encoding
from ckvd.utils.config import PACK_GROWTH_MIN, PACK_LAST_GROWTH_MIN, PACK_ROWS_MAX, PACK_SEGMENT_COST_ROWS

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from ckvd.cache.resolution import Winner
    from ckvd.segment.header import SegmentHeader

_Provenance = TypeVar("_Provenance", Source, Absence)


@dataclass(frozen=True, slots=True)
class PackInput:
    """The part of a segment that wins: packing may merge it with its neighbours.

    Attributes
    ----------
    winner : Winner
    row_count : int
        Bars that open in the span of the winner.
    is_closed : bool
        Whether nothing in it will be fetched again, so that it may go into one segment with years of others.
    is_fresh : bool
        Whether it was just stored, and never copied.
    """

    winner: Winner
    row_count: int
    is_closed: bool
    is_fresh: bool = False

    @property
    def span(self) -> Span:
        """Where the segment wins."""
        return self.winner.span


@dataclass(frozen=True, slots=True)
class Merge:
    """Inputs that become one segment.

    Attributes
    ----------
    inputs : tuple of PackInput
        In order, each beginning where the one before ends.
    """

    inputs: tuple[PackInput, ...]

    @property
    def span(self) -> Span:
        """What the new segment will cover."""
        return Span(self.inputs[0].span.start_ms, self.inputs[-1].span.end_ms)

    @property
    def row_count(self) -> int:
        """How many bars it will have."""
        return sum(item.row_count for item in self.inputs)


def plan_packing(inputs: Sequence[PackInput], *, is_thorough: bool = False) -> tuple[Merge, ...]:
    """Decide which inputs to merge.

    Parameters
    ----------
    inputs : sequence of PackInput
        All of a series: disjoint, in order.
    is_thorough : bool
        Merge whatever fits in `PACK_ROWS_MAX`, also where much is copied for little.

    Returns
    -------
    tuple of Merge
        Of two or more inputs each. Disjoint, in order. Once they are done, planning again finds nothing.
    """
    merges: list[Merge] = []
    for run in _runs(inputs):
        start = 0
        while start < len(run):
            count = _worthwhile_count(run[start:], is_thorough=is_thorough)
            if count > 1:
                merges.append(Merge(tuple(run[start : start + count])))
            start += count
    return tuple(merges)


def _worthwhile_count(run: Sequence[PackInput], *, is_thorough: bool) -> int:
    """How many inputs to merge, from the first on; 1 for none."""
    growth_min, last_growth_min = (1, 1) if is_thorough else (PACK_GROWTH_MIN, PACK_LAST_GROWTH_MIN)
    rows = size = longest = 0
    count = 1
    are_fresh = True
    for position, item in enumerate(run):
        rows += item.row_count
        if rows > PACK_ROWS_MAX:
            break
        size += item.row_count + PACK_SEGMENT_COST_ROWS
        longest = max(longest, item.row_count + PACK_SEGMENT_COST_ROWS)
        are_fresh &= item.is_fresh
        growth = 1 if are_fresh else last_growth_min if 2 * rows >= PACK_ROWS_MAX else growth_min
        if size >= growth * longest:
            count = position + 1
    return count


def _runs(inputs: Sequence[PackInput]) -> Iterator[list[PackInput]]:
    """Closed inputs that follow on each other without a gap."""
    run: list[PackInput] = []
    for item in inputs:
        if run and (not item.is_closed or item.span.start_ms != run[-1].span.end_ms):
            yield run
            run = []
        if item.is_closed:
            run.append(item)
    if run:
        yield run
    assert all(one.span.end_ms <= other.span.start_ms for one, other in pairwise(inputs))


# --- The contents of a merged segment ----------------------------------------------------------------------


def merge_columns(headers: Sequence[SegmentHeader]) -> tuple[ColumnLayout, ...]:
    """Decide the encoding of each column of a segment that is merged from several.

    A column is constant or regular if it is so, with the same value, in all of them. Microseconds that some leave
    out, because they are regular, are stored if others have them.
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
        return regular_us(name, 1).tobytes()
    return layout.constant[: dtype.itemsize] if layout.encoding is Encoding.CONSTANT else None


def join_later(texts: Sequence[str]) -> str:
    """What later versions said of all inputs alike (`SegmentHeader.later`). What some say may not hold for all."""
    first, *others = (json.loads(text) if text else {} for text in texts)
    return later_text(
        {key: value for key, value in first.items() if all(other.get(key) == value for other in others)}
    )


def join_provenance(lists: Sequence[Sequence[_Provenance]]) -> tuple[_Provenance, ...]:
    """Sources or absences of neighbouring inputs as one list. One that was cut at a seam is made whole."""
    joined: list[_Provenance] = []
    for found in lists:
        for one in found:
            before = joined[-1] if joined else None
            if before is not None and before.end_ms == one.start_ms:
                whole = replace(one, start_ms=before.start_ms)
                if replace(before, end_ms=one.end_ms) == whole:
                    joined[-1] = whole
                    continue
            joined.append(one)
    return tuple(joined)

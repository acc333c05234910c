"""Decoding many small archives at the cost of a large one.

Numpy takes nearly as long for the bars of a day as for those of a month. So the texts of several archives are
parsed as one text, and the rows are divided among the archives again. Each archive gets the result, or the error,
that `decode_archive` gives for it: if the one text is refused, every archive is decoded by itself.
"""

from __future__ import annotations

import itertools
import operator
from typing import TYPE_CHECKING

import numpy as np

from ckvd.decode.decode import (
    DecodedRows,
    Expected,
    are_all_possible,
    decode_archive,
    decode_rows,
    inflate_expected,
)
from ckvd.decode.rows import RawRows, find_line_ends, header_end, parse_rows
from ckvd.decode.workspace import Workspace
from ckvd.errors import ArchiveError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence


def decode_archives(
    contents: Sequence[bytes], expected: Sequence[Expected], workspace: Workspace | None = None
) -> list[DecodedRows | ArchiveError]:
    """Decode several archives as one text.

    Parameters
    ----------
    contents : sequence of bytes
        The whole ZIPs.
    expected : sequence of Expected
        What the rows of each should be.
    workspace : Workspace, optional
        That of the calling thread, which is cleared first.

    Returns
    -------
    list of DecodedRows or ArchiveError
        What `decode_archive` returns or raises for each, except that `Decimals` are those of all of them together.
    """
    workspace = workspace or Workspace()
    if len(contents) > 1 and all(one.series.kind.is_bars for one in expected):
        try:
            return list(_decode_as_one(contents, expected, workspace))
        except ArchiveError:
            pass  # decoded one by one, to find the one to blame
    return [_decode_alone(content, one, workspace) for content, one in zip(contents, expected, strict=True)]


def _decode_alone(content: bytes, expected: Expected, workspace: Workspace) -> DecodedRows | ArchiveError:
    try:
        return decode_archive(content, expected, workspace)
    except ArchiveError as error:
        return error


def _decode_as_one(
    contents: Sequence[bytes], expected: Sequence[Expected], workspace: Workspace
) -> Iterator[DecodedRows]:
    workspace.clear()
    texts = [inflate_expected(content, one, workspace) for content, one in zip(contents, expected, strict=True)]
    begins = [header_end(text, one.label) for text, one in zip(texts, expected, strict=True)]
    bodies = [_body(text, begin) for text, begin in zip(texts, begins, strict=True)]
    stops = list(itertools.accumulate(map(len, bodies)))
    # The texts follow each other in the workspace. Mostly they need no change, and are parsed there without a copy.
    is_whole = all(map(operator.is_, bodies, texts)) and stops[-1] == len(workspace.taken)
    whole = workspace.taken if is_whole else b"".join(bodies)
    with workspace.parsing:
        ends = find_line_ends(whole)
        rows = parse_rows(whole, expected[0].label, ends=ends)
    series = expected[0].series
    # Asked once for all, because a day has hardly more rows than the question has steps.
    are_possible = all(one.series == series for one in expected) and are_all_possible(rows, series)
    first = 0
    for one, begin, last in zip(expected, begins, np.searchsorted(ends, stops).tolist(), strict=True):
        cells = tuple(cells[first:last] for cells in rows.cells)
        first = last
        yield decode_rows(RawRows(cells, rows.decimals, has_header=begin > 0), one, are_possible=are_possible)


def _body(text: memoryview, begin: int) -> bytes | memoryview:
    """The rows of a text, each with a newline at its end; the text itself if it is just that."""
    if begin == 0 and bytes(text[-1:]) == b"\n":
        return text
    body = bytes(text[begin:])
    return body if not body or body.endswith(b"\n") else body + b"\n"

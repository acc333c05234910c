"""Decoding many small archives at the cost of a large one.

Numpy takes as long for the rows of a day as for those of a month, nearly. So the texts of several archives are read
as one text, and its rows given back to the archives that they came from. What each archive then is, and what it is
refused for, is what `decode_archive` says of it: where the one text cannot be read, each is read by itself.
"""

from __future__ import annotations

import itertools
import operator
from typing import TYPE_CHECKING

import numpy as np

from ckvd.decode.decode import DecodedArchive, Expected, decode_archive, decode_rows
from ckvd.decode.rows import RawRows, find_line_ends, header_end, parse_rows
from ckvd.decode.unzip import unzip_csv
from ckvd.decode.workspace import Workspace
from ckvd.errors import ArchiveError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence


def decode_archives(
    contents: Sequence[bytes], expected: Sequence[Expected], workspace: Workspace | None = None
) -> list[DecodedArchive | ArchiveError]:
    """Decode archives together.

    Parameters
    ----------
    contents : sequence of bytes
        The whole ZIPs.
    expected : sequence of Expected
        What each should be.
    workspace : Workspace, optional
        Of the calling thread, for use with the next archives again.

    Returns
    -------
    list of DecodedArchive or ArchiveError
        For each what `decode_archive` gives or raises, but that `Decimals` are those of all of them together.
    """
    workspace = workspace or Workspace()
    if len(contents) > 1:
        try:
            return list(_decode_as_one(contents, expected, workspace))
        except ArchiveError:
            pass  # each by itself, to find the one to blame
    return [_decode_alone(content, one, workspace) for content, one in zip(contents, expected, strict=True)]


def _decode_alone(content: bytes, expected: Expected, workspace: Workspace) -> DecodedArchive | ArchiveError:
    try:
        return decode_archive(content, expected, workspace)
    except ArchiveError as error:
        return error


def _decode_as_one(
    contents: Sequence[bytes], expected: Sequence[Expected], workspace: Workspace
) -> Iterator[DecodedArchive]:
    workspace.clear()
    texts = [
        unzip_csv(content, one.series, one.label, workspace)
        for content, one in zip(contents, expected, strict=True)
    ]
    begins = [header_end(text, one.label) for text, one in zip(texts, expected, strict=True)]
    bodies = [_body(text, begin) for text, begin in zip(texts, begins, strict=True)]
    stops = list(itertools.accumulate(map(len, bodies)))
    # The texts stand in the workspace one after the other, mostly just as they are needed.
    is_whole = all(map(operator.is_, bodies, texts)) and stops[-1] == len(workspace.taken)
    whole = workspace.taken if is_whole else b"".join(bodies)
    with workspace.parsing:
        ends = find_line_ends(whole)
        rows = parse_rows(whole, expected[0].label, ends=ends)
    first = 0
    for one, begin, last in zip(expected, begins, np.searchsorted(ends, stops).tolist(), strict=True):
        cells = tuple(cells[first:last] for cells in rows.cells)
        first = last
        part = RawRows(cells, rows.decimals, has_header=begin > 0)
        yield decode_rows(part, one)


def _body(text: memoryview, begin: int) -> bytes | memoryview:
    """The rows of a text from where they begin, each with a newline at its end."""
    if begin == 0 and bytes(text[-1:]) == b"\n":
        return text
    body = bytes(text[begin:])
    return body if not body or body.endswith(b"\n") else body + b"\n"

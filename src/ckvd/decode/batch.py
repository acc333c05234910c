"""Decoding many small archives at the cost of a large one.

Numpy takes nearly as long for the bars of a day as for those of a month. So the texts of several archives are
parsed as one text, and the rows are divided among the archives again. Each archive gets the result, or the error,
that `decode_archive` gives for it: if the one text is refused, every archive is decoded by itself.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ckvd.decode.decode import DecodedRows, Expected, are_all_possible, decode_archive, decode_rows, parse_archives
from ckvd.decode.workspace import Workspace
from ckvd.errors import ArchiveError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import BinaryIO


def decode_archives(
    contents: Sequence[bytes | BinaryIO], expected: Sequence[Expected], workspace: Workspace | None = None
) -> list[DecodedRows | ArchiveError]:
    """Decode several archives as one text.

    Parameters
    ----------
    contents : sequence of bytes or binary file
        The whole ZIPs.
    expected : sequence of Expected
        What the rows of each should be.
    workspace : Workspace, optional
        That of the calling thread.

    Returns
    -------
    list of DecodedRows or ArchiveError
        What `decode_archive` returns or raises for each, except that `Decimals` are those of all of them together.
    """
    workspace = workspace or Workspace()
    if len(contents) > 1 and all(one.series.kind.is_bars for one in expected):
        try:
            return [*_decode_as_one(contents, expected, workspace)]
        except ArchiveError:
            pass  # decoded one by one, to find the one to blame
    return [_decode_alone(content, one, workspace) for content, one in zip(contents, expected, strict=True)]


def _decode_alone(
    content: bytes | BinaryIO, expected: Expected, workspace: Workspace
) -> DecodedRows | ArchiveError:
    try:
        return decode_archive(content, expected, workspace)
    except ArchiveError as error:
        return error


def _decode_as_one(
    contents: Sequence[bytes | BinaryIO], expected: Sequence[Expected], workspace: Workspace
) -> list[DecodedRows]:
    parsed = parse_archives(contents, expected, workspace)
    series = expected[0].series
    # Asked once for all, because a day has hardly more rows than the question has steps.
    are_possible = all(one.series == series for one in expected) and are_all_possible(parsed.whole, series)
    return [
        decode_rows(rows, one, are_possible=are_possible) for rows, one in zip(parsed.each, expected, strict=True)
    ]

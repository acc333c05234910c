"""Decoding many small archives at the cost of a large one.

Numpy takes as long for the rows of a day as for those of a month, nearly. So the texts of several archives are read
as one text, and its rows given back to the archives that they came from. What each archive then is, and what it is
refused for, is what `decode_archive` says of it: where the one text cannot be read, each is read by itself.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ckvd.archive.decode import DecodedArchive, decode_archive, decode_rows
from ckvd.archive.parse import RawRows, header_end, parse_rows
from ckvd.archive.unzip import unzip_csv
from ckvd.errors import ArchiveError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from ckvd.archive.name import ArchiveName


def decode_archives(contents: Sequence[bytes], names: Sequence[ArchiveName]) -> list[DecodedArchive | ArchiveError]:
    """Decode archives together.

    Parameters
    ----------
    contents : sequence of bytes
        The whole ZIPs.
    names : sequence of ArchiveName
        What each should be.

    Returns
    -------
    list of DecodedArchive or ArchiveError
        For each what `decode_archive` gives or raises, but that `Decimals` are those of all of them together.
    """
    if len(contents) > 1:
        try:
            return list(_decode_as_one(contents, names))
        except ArchiveError:
            pass  # each by itself, to find the one to blame
    return [_decode_alone(content, name) for content, name in zip(contents, names, strict=True)]


def _decode_alone(content: bytes, name: ArchiveName) -> DecodedArchive | ArchiveError:
    try:
        return decode_archive(content, name)
    except ArchiveError as error:
        return error


def _decode_as_one(contents: Sequence[bytes], names: Sequence[ArchiveName]) -> Iterator[DecodedArchive]:
    texts = [unzip_csv(content, name) for content, name in zip(contents, names, strict=True)]
    bodies = [_body(text, name) for text, name in zip(texts, names, strict=True)]
    counts = [body.count(b"\n") for body in bodies]
    rows = parse_rows(b"".join(bodies), names[0].file_name)
    if rows.row_count != sum(counts):
        raise ArchiveError(names[0].file_name, "lines and rows of several archives differ in number")
    start = 0
    for name, text, body, count in zip(names, texts, bodies, counts, strict=True):
        part = RawRows(
            tuple(cells[start : start + count] for cells in rows.cells), rows.decimals, not text.startswith(body)
        )
        start += count
        yield decode_rows(part, name.series, name.period.span, name.file_name)


def _body(text: bytes, name: ArchiveName) -> bytes:
    """The rows of a text without its header, each with a newline at its end."""
    text = text[header_end(text, name.file_name) :]
    return text if not text or text.endswith(b"\n") else text + b"\n"

"""Listings of a bucket, as S3 writes them (ListObjects, version 1), and the archives they name.

A page is XML in the namespace `http://s3.amazonaws.com/doc/2006-03-01/` and holds at most 1,000 entries; the marker
of the next page is its `NextMarker`, else its last key or prefix. Keys may be percent-encoded. Pure.

Source: https://docs.aws.amazon.com/AmazonS3/latest/API/API_ListObjects.html
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import unquote
from xml.etree import ElementTree as ET

from ckvd.errors import ArchiveError
from ckvd.vision.name import ArchiveName
from ckvd.vision.source import ListedArchive

if TYPE_CHECKING:
    from collections.abc import Iterable


@dataclass(frozen=True, slots=True)
class ListedFile:
    """One file of a listing.

    Attributes
    ----------
    key : str
        Its path under the root of the mirror, not percent-encoded.
    nbytes : int
    etag, last_modified : str
        As listed; empty if the listing gives none.
    """

    key: str
    nbytes: int
    etag: str
    last_modified: str


@dataclass(frozen=True, slots=True)
class ListingPage:
    """One page of a listing.

    Attributes
    ----------
    files : tuple of ListedFile
    next_marker : str or None
        The marker of the next page, not percent-encoded; None on the last page.
    """

    files: tuple[ListedFile, ...]
    next_marker: str | None


def parse_listing(content: bytes, where: str) -> ListingPage:
    """Read a page of a listing.

    Parameters
    ----------
    content : bytes
        The XML.
    where : str
        Where it came from, for the error.

    Raises
    ------
    ArchiveError
        The content is no page of a listing.
    """
    root = _parse_xml(content, where)
    name = root.tag.rpartition("}")[2]
    if name != "ListBucketResult":
        raise ArchiveError(where, f"expected a listing (ListBucketResult), found {name} {_text(root, 'Code')}")
    is_encoded = _text(root, "EncodingType") == "url"

    def decode(key: str) -> str:
        return unquote(key) if is_encoded else key

    files = tuple(
        ListedFile(
            decode(_text(entry, "Key")),
            _count(_text(entry, "Size"), where),
            _text(entry, "ETag"),
            _text(entry, "LastModified"),
        )
        for entry in root.iterfind("{*}Contents")
    )
    if _text(root, "IsTruncated").lower() != "true":
        return ListingPage(files, None)
    prefixes = [decode(_text(entry, "Prefix")) for entry in root.iterfind("{*}CommonPrefixes")]
    # S3 orders keys by their UTF-8 bytes, which is the order of their code points.
    last = max([file.key for file in files] + prefixes, default="")
    marker = decode(_text(root, "NextMarker")) or last
    if not marker:
        raise ArchiveError(where, "its listing is cut off and does not say where it goes on")
    return ListingPage(files, marker)


def listed_archives(files: Iterable[ListedFile]) -> list[ListedArchive]:
    """Find the archives among files.

    Parameters
    ----------
    files : iterable of ListedFile
        In any order, from any number of folders. Files that are not archives are ignored.

    Returns
    -------
    list of ListedArchive
        In the order of series and period. If a period is listed in several spellings, the usual one is first.
    """
    archives = {
        name: ListedArchive(name, file.nbytes, file.etag, file.last_modified)
        for file in files
        if (name := ArchiveName.of_path(file.key)) is not None
    }
    return sorted(archives.values(), key=_place)


def _place(archive: ListedArchive) -> tuple[object, ...]:
    name = archive.name
    is_unusual = name.path != ArchiveName(name.series, name.period).path
    return name.series, name.period, is_unusual, name.path


# --- XML ---------------------------------------------------------------------------------------------------


class _NoDoctype(ET.TreeBuilder):
    """Build a tree, but refuse a document type: without one there are no entities to expand."""

    def doctype(self, name: str, _public: str | None, _system: str | None) -> None:
        raise ET.ParseError(f"it declares a document type {name!r}")


def _parse_xml(content: bytes, where: str) -> ET.Element:
    parser = ET.XMLParser(target=_NoDoctype())  # noqa: S314 - without a document type there is nothing to attack
    try:
        parser.feed(content)
        root: ET.Element = parser.close()
    except (ET.ParseError, LookupError, ValueError) as error:  # the last two for an encoding that it declares
        raise ArchiveError(where, f"expected a listing in XML, found {content[:100]!r}: {error}") from None
    return root


def _text(element: ET.Element, name: str) -> str:
    """The text of its first child of a name, in any namespace; empty if there is none."""
    return element.findtext(f"{{*}}{name}", "")


def _count(text: str, where: str) -> int:
    if not (text.isascii() and text.isdecimal() and len(text) < 20):
        raise ArchiveError(where, f"expected a size in bytes, found {text[:50]!r}")
    return int(text)

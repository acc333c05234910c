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

from ckvd.errors import ArchiveError, IdentityError, shown
from ckvd.model.market import Interval, SeriesKey
from ckvd.utils.config import HEADER_LENGTH_MAX, LISTING_ELEMENTS_MAX
from ckvd.vision.name import ArchiveName
from ckvd.vision.source import ListedArchive

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ckvd.model.market import Kind, Market


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
    folders : tuple of str
        The folders below the requested one, as paths under the root that end with a slash.
    """

    files: tuple[ListedFile, ...]
    next_marker: str | None
    folders: tuple[str, ...] = ()


def parse_listing(content: bytes, where: str, prefix: str = "") -> ListingPage:
    """Read a page of a listing.

    Parameters
    ----------
    content : bytes
        The XML.
    where : str
        Where it came from, for the error.
    prefix : str
        What all keys must begin with. A server that ignores the prefix of a request lists other series.

    Raises
    ------
    ArchiveError
        The content is no page of a listing, or not of the requested one.
    """
    root = _parse_xml(content, where)
    name = root.tag.rpartition("}")[2]
    if name != "ListBucketResult":
        raise ArchiveError(
            where, f"expected a listing (ListBucketResult), found {shown(name)} {shown(_text(root, 'Code'))}"
        )
    is_encoded = _text(root, "EncodingType") == "url"

    def decode(key: str) -> str:
        return unquote(key) if is_encoded else key

    files = tuple(
        ListedFile(
            decode(_text(entry, "Key")),
            _count(_text(entry, "Size"), where),
            shown(_text(entry, "ETag"), HEADER_LENGTH_MAX),
            shown(_text(entry, "LastModified"), HEADER_LENGTH_MAX),
        )
        for entry in root.iterfind("{*}Contents")
    )
    prefixes = [decode(_text(entry, "Prefix")) for entry in root.iterfind("{*}CommonPrefixes")]
    keys = [file.key for file in files] + prefixes
    is_cut = _text(root, "IsTruncated").lower() == "true"
    # S3 orders keys by their UTF-8 bytes, which is the order of their code points.
    marker = (decode(_text(root, "NextMarker")) or max(keys, default="")) if is_cut else None
    if marker == "":
        raise ArchiveError(where, "its listing is cut off and does not say where it goes on")
    strange = next((key for key in [*keys, marker or prefix] if not key.startswith(prefix)), None)
    if strange is not None:
        raise ArchiveError(where, f"expected a listing of {prefix}, found {shown(strange)!r} in it")
    return ListingPage(files, marker, tuple(prefixes))


def listed_symbols(folders: Iterable[str], market: Market, kind: Kind) -> list[str]:
    """The symbols among folders of a listing, in order, each once.

    A folder without a name (`BTCUSDT//` was seen) is no symbol, and neither is one that no series can have.
    """
    symbols = {folder.rstrip("/").rpartition("/")[2] for folder in folders if not folder.endswith("//")}
    return sorted(symbol for symbol in symbols if is_symbol(symbol, market, kind))


def is_symbol(name: str, market: Market, kind: Kind) -> bool:
    """Whether a series may have this name as its symbol."""
    try:
        SeriesKey(market, kind, name, Interval.D1)
    except IdentityError:
        return False
    return True


def listed_intervals(folders: Iterable[str]) -> list[Interval]:
    """The intervals among the folders of a symbol, from the shortest to the longest."""
    names = {folder.rstrip("/").rpartition("/")[2] for folder in folders}
    return [interval for interval in Interval if interval in names]


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


class _BoundedTree(ET.TreeBuilder):
    """Build a tree of a bounded size, which takes some thirty times the memory of its text.

    A document type is refused: without one there are no entities to expand.
    """

    def __init__(self) -> None:
        super().__init__()
        self._count = 0

    def start(self, tag: str, attrs: dict[str, str]) -> ET.Element:
        self._count += 1
        if self._count > LISTING_ELEMENTS_MAX:
            raise ET.ParseError(f"it has more than {LISTING_ELEMENTS_MAX} elements, expected 1,000 keys")
        return super().start(tag, attrs)

    def doctype(self, name: str, _public: str | None, _system: str | None) -> None:
        raise ET.ParseError(f"it declares a document type {shown(name)!r}")


def _parse_xml(content: bytes, where: str) -> ET.Element:
    parser = ET.XMLParser(target=_BoundedTree())  # noqa: S314 - without a document type there is nothing to attack
    try:
        parser.feed(content)
        root: ET.Element = parser.close()
    except (ET.ParseError, LookupError, ValueError) as error:  # the last two for an encoding that it declares
        raise ArchiveError(
            where, f"expected a listing in XML, found {shown(content, 100)!r}: {shown(error)}"
        ) from None
    return root


def _text(element: ET.Element, name: str) -> str:
    """The text of its first child of a name, in any namespace; empty if there is none."""
    return element.findtext(f"{{*}}{name}", "")


def _count(text: str, where: str) -> int:
    if not (text.isascii() and text.isdecimal() and len(text) < 20):
        raise ArchiveError(where, f"expected a size in bytes, found {shown(text, 50)!r}")
    return int(text)

"""ZIP bytes to CSV bytes: the one member of an archive, inflated, checked against everything its directory says.

The directory is read by `zipfile`, the member is inflated by `ckvd.inflate`. An archive is untrusted input:
whatever its bytes are, the answer is the whole member or an `ArchiveError`, and no more memory is taken than the
directory declares, nor than its compressed bytes could need.
"""

from __future__ import annotations

import contextlib
import io
import re
import struct
import zipfile
from typing import TYPE_CHECKING, Any, Final

from ckvd.decode.workspace import Workspace
from ckvd.errors import ArchiveError, IdentityError
from ckvd.inflate import INFLATE_ERRORS, RAW_DEFLATE, crc32, inflating
from ckvd.model.market import SeriesKey
from ckvd.utils.config import ARCHIVE_CSV_NBYTES_MAX

if TYPE_CHECKING:
    from collections.abc import Iterator


# Deflate needs at least two bits for a run of at most 258 bytes.
_RATIO_MAX: Final = 1032
# Pieces large enough that a call does not show, and small enough for the second-level cache.
_PACKED_PIECE_NBYTES: Final = 256 << 10
_PIECE_NBYTES: Final = 1 << 20
# zipfile trusts many of the numbers in a directory. Beside BadZipFile, damaged ones surface as these.
_DIRECTORY_ERRORS: Final = (
    zipfile.BadZipFile, ArithmeticError, EOFError, LookupError, OSError, RuntimeError, ValueError, struct.error,
)  # fmt: skip
_LOCAL_HEADER: Final = struct.Struct("<4s22xHH")  # signature, and at its end the lengths of name and extra field
_ENCRYPTED: Final = 0x1 | 0x40 | 0x2000  # flag bits: encrypted, strongly, and with a masked directory
_MEMBER_NAME: Final = re.compile(r"(?:.*/)?(?P<symbol>[^/]+)-(?P<interval>[^-/]+)-\d{4}-\d{1,2}(?:-\d{1,2})?\.csv")


def unzip_csv(
    content: bytes | memoryview, series: SeriesKey, label: str, workspace: Workspace | None = None
) -> memoryview:
    """Inflate the one member of an archive.

    Parameters
    ----------
    content : bytes or memoryview
        The whole ZIP.
    series : SeriesKey
        Whose bars it should hold.
    label : str
        What errors call it.
    workspace : Workspace, optional
        Whose memory to inflate it into.

    Returns
    -------
    memoryview
        The CSV: as long as the directory declares, and with the CRC that it declares. It stays as it is until
        the workspace is cleared.

    Raises
    ------
    ArchiveError
        It is not a ZIP or is truncated; it has no or several members; the member is encrypted, compressed in an
        unknown way, larger than `ARCHIVE_CSV_NBYTES_MAX`, longer or shorter than declared, damaged, or named as
        one of another series.
    """
    member = _only_member(content, label)
    _check_member(member, series, label)
    csv = _packed_bytes(content, member, label)
    if member.compress_type == zipfile.ZIP_DEFLATED:
        csv = _inflate(csv, (workspace or Workspace()).take(member.file_size), label)
    if len(csv) != member.file_size:
        raise ArchiveError(label, f"its CSV has {len(csv)} bytes, its directory declares {member.file_size}")
    if (found := crc32(csv)) != member.CRC:
        raise ArchiveError(label, f"its CSV has CRC {found:08x}, its directory declares {member.CRC:08x}")
    return csv


def _only_member(content: bytes | memoryview, label: str) -> zipfile.ZipInfo:
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            members = archive.infolist()
    except _DIRECTORY_ERRORS as error:
        raise ArchiveError(label, f"it is no ZIP, or a damaged or truncated one ({error})") from error
    if len(members) != 1:
        raise ArchiveError(label, f"it has {len(members)} members, expected one CSV")
    return members[0]


def _check_member(member: zipfile.ZipInfo, series: SeriesKey, label: str) -> None:
    if member.flag_bits & _ENCRYPTED:
        raise ArchiveError(label, f"its member {member.filename!r} is encrypted")
    if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        reason = f"its member is compressed with method {member.compress_type}, expected 8 (deflate)"
        raise ArchiveError(label, reason)
    if member.file_size > ARCHIVE_CSV_NBYTES_MAX:
        raise ArchiveError(
            label, f"its CSV is declared with {member.file_size} bytes, at most {ARCHIVE_CSV_NBYTES_MAX} are read"
        )
    if member.compress_type == zipfile.ZIP_DEFLATED and member.file_size > _RATIO_MAX * member.compress_size:
        raise ArchiveError(
            label,
            f"its {member.compress_size} bytes cannot hold the {member.file_size} bytes of CSV declared",
        )
    named = list(_series_named(member.filename, series))
    if named and series not in named:
        raise ArchiveError(label, f"its member {member.filename!r} belongs to series {named[0]}")


def _series_named(file_name: str, series: SeriesKey) -> Iterator[SeriesKey]:
    """The series that a member name may mean, read as it is and as UTF-8 that was taken for code page 437."""
    spellings = [file_name]
    with contextlib.suppress(UnicodeError):  # where it was no such mistake
        spellings.append(file_name.encode("cp437").decode("utf-8"))
    for spelling in spellings:
        if match := _MEMBER_NAME.fullmatch(spelling):
            try:
                yield SeriesKey.of(match["symbol"], match["interval"], market=series.market, kind=series.kind)
            except IdentityError:  # a name of another form, which says nothing
                continue


def _packed_bytes(content: bytes | memoryview, member: zipfile.ZipInfo, label: str) -> memoryview:
    """The compressed bytes of a member: the directory says where its local header is, which says where it ends."""
    view = memoryview(content)
    try:
        signature, name_nbytes, extra_nbytes = _LOCAL_HEADER.unpack_from(view, member.header_offset)
    except struct.error as error:
        raise ArchiveError(label, "its directory points outside the file") from error
    start = member.header_offset + _LOCAL_HEADER.size + name_nbytes + extra_nbytes
    packed = view[start : start + member.compress_size]
    if member.header_offset < 0 or signature != b"PK\x03\x04" or len(packed) != member.compress_size:
        raise ArchiveError(label, "its directory points to no member, or to a truncated one")
    return packed


def _inflate(packed: memoryview, memory: memoryview, label: str) -> memoryview:
    """Inflate into memory of the declared length, and at most one byte more: then the stream is longer."""
    stream = inflating(RAW_DEFLATE)
    nbytes = 0
    try:
        for piece in _pieces(stream, packed, len(memory) + 1):
            if nbytes + len(piece) > len(memory):
                reason = f"its CSV is longer than the {len(memory)} bytes that its directory declares"
                raise ArchiveError(label, reason)
            memory[nbytes : nbytes + len(piece)] = piece
            nbytes += len(piece)
    except INFLATE_ERRORS as error:
        raise ArchiveError(label, f"its compressed bytes are damaged ({error})") from error
    if not stream.eof:
        raise ArchiveError(label, f"its compressed bytes stop after {nbytes} of {len(memory)} bytes of CSV")
    if stream.unused_data:
        raise ArchiveError(label, f"{len(stream.unused_data)} bytes of garbage follow its compressed bytes")
    return memory[:nbytes]


def _pieces(stream: Any, packed: memoryview, nbytes_max: int) -> Iterator[bytes]:
    """The inflated bytes, at most so many; what follows the end of the stream is its unused data."""
    for first in range(0, len(packed), _PACKED_PIECE_NBYTES):
        if stream.eof:
            stream.decompress(packed[first:])
            return
        left: bytes | memoryview = packed[first : first + _PACKED_PIECE_NBYTES]
        while nbytes_max:
            piece_nbytes_max = min(nbytes_max, _PIECE_NBYTES)
            piece: bytes = stream.decompress(left, piece_nbytes_max)
            yield piece
            nbytes_max -= len(piece)
            left = stream.unconsumed_tail
            # After a full piece there may be more, also where everything was taken in.
            if len(piece) < piece_nbytes_max:
                break

"""ZIP bytes to CSV bytes: the one member of an archive, inflated and checked against everything its directory says.

The directory is read by `zipfile`; the member is inflated by isal where it is installed and by `zlib` elsewhere,
both of which release the interpreter lock. An archive is untrusted input: whatever its bytes are, the answer is the
whole member or an `ArchiveError`, and no more memory is taken than the directory declares.
"""

from __future__ import annotations

import contextlib
import io
import re
import struct
import zipfile
import zlib
from typing import TYPE_CHECKING, Any, Final

from ckvd.errors import ArchiveError, IdentityError
from ckvd.market import SeriesKey
from ckvd.utils.config import ARCHIVE_CSV_NBYTES_MAX

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ckvd.archive.name import ArchiveName

inflater: Any
try:
    from isal import isal_zlib as inflater
except ImportError:  # no wheel for this platform
    inflater = zlib

_RAW_DEFLATE: Final = -15  # wbits of a stream without zlib's header and trailer, as ZIP members are
_INFLATE_ERRORS: Final = (zlib.error, inflater.error)
# zipfile trusts many of the numbers in a directory. Beside BadZipFile, damaged ones surface as these.
_DIRECTORY_ERRORS: Final = (
    zipfile.BadZipFile, ArithmeticError, EOFError, LookupError, OSError, RuntimeError, ValueError, struct.error,
)  # fmt: skip
_LOCAL_HEADER: Final = struct.Struct("<4s22xHH")  # signature, and at its end the lengths of name and extra field
_ENCRYPTED: Final = 0x1 | 0x40 | 0x2000  # flag bits: encrypted, strongly, and with a masked directory
_MEMBER_NAME: Final = re.compile(r"(?:.*/)?(?P<symbol>[^/]+)-(?P<interval>[^-/]+)-\d{4}-\d{1,2}(?:-\d{1,2})?\.csv")


def unzip_csv(content: bytes | memoryview, name: ArchiveName) -> bytes:
    """Inflate the one member of an archive.

    Parameters
    ----------
    content : bytes or memoryview
        The whole ZIP.
    name : ArchiveName
        Which archive it should be.

    Returns
    -------
    bytes
        The CSV: as long as the directory declares, and with the CRC that it declares.

    Raises
    ------
    ArchiveError
        It is not a ZIP or is truncated; it has no or several members; the member is encrypted, compressed in an
        unknown way, larger than `ARCHIVE_CSV_NBYTES_MAX`, longer or shorter than declared, damaged, or named as
        one of another series.
    """
    label = name.file_name
    member = _only_member(content, label)
    _check_member(member, name)
    packed = _packed_bytes(content, member, label)
    csv = (
        _inflate(packed, member.file_size, label) if member.compress_type == zipfile.ZIP_DEFLATED else bytes(packed)
    )
    if len(csv) != member.file_size:
        raise ArchiveError(label, f"its CSV has {len(csv)} bytes, its directory declares {member.file_size}")
    if inflater.crc32(csv) != member.CRC:
        raise ArchiveError(
            label, f"its CSV has CRC {inflater.crc32(csv):08x}, its directory declares {member.CRC:08x}"
        )
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


def _check_member(member: zipfile.ZipInfo, name: ArchiveName) -> None:
    label = name.file_name
    if member.flag_bits & _ENCRYPTED:
        raise ArchiveError(label, f"its member {member.filename!r} is encrypted")
    if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        reason = f"its member is compressed with method {member.compress_type}, expected 8 (deflate)"
        raise ArchiveError(label, reason)
    if member.file_size > ARCHIVE_CSV_NBYTES_MAX:
        raise ArchiveError(
            label, f"its CSV is declared with {member.file_size} bytes, at most {ARCHIVE_CSV_NBYTES_MAX} are read"
        )
    named = list(_series_named(member.filename, name.series))
    if named and name.series not in named:
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


def _inflate(packed: memoryview, nbytes: int, label: str) -> bytes:
    """Inflate at most one byte more than declared: enough to know that the stream is longer."""
    stream = inflater.decompressobj(_RAW_DEFLATE)
    try:
        csv: bytes = stream.decompress(packed, nbytes + 1)
    except _INFLATE_ERRORS as error:
        raise ArchiveError(label, f"its compressed bytes are damaged ({error})") from error
    if len(csv) > nbytes:
        raise ArchiveError(label, f"its CSV is longer than the {nbytes} bytes that its directory declares")
    if not stream.eof:
        raise ArchiveError(label, f"its compressed bytes stop after {len(csv)} of {nbytes} bytes of CSV")
    if stream.unused_data:
        raise ArchiveError(label, f"{len(stream.unused_data)} bytes of garbage follow its compressed bytes")
    return csv

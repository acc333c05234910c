"""ZIP bytes to CSV bytes: inflates the one member of a ZIP and checks it against everything the directory declares.

`zipfile` reads the directory, `ckvd.platforms.inflate` inflates the member. A ZIP is untrusted input: whatever its
bytes are, the result is the whole member or an `ArchiveError`. No more memory is taken than the caller allows, than
the directory declares, or than the compressed bytes can inflate to.
"""

from __future__ import annotations

import contextlib
import io
import re
import struct
import zipfile
from typing import TYPE_CHECKING, Any, Final

from ckvd.concurrency.stopping import check_stop
from ckvd.decode.workspace import Workspace
from ckvd.errors import ArchiveError, IdentityError
from ckvd.model.market import SeriesKey
from ckvd.platforms.inflate import INFLATE_ERRORS, RAW_DEFLATE, crc32, inflating

if TYPE_CHECKING:
    from collections.abc import Iterator


# The most bytes that a byte of deflate can inflate to: a match takes at least two bits and gives at most 258 bytes.
_RATIO_MAX: Final = 1032
# The input and output of one inflate call: large enough to hide its cost, small enough for the level-2 cache.
_INPUT_CHUNK_NBYTES: Final = 256 << 10
_OUTPUT_CHUNK_NBYTES: Final = 1 << 20
# zipfile trusts many of the numbers in a directory. If they are damaged, it raises these besides BadZipFile.
_DIRECTORY_ERRORS: Final = (
    zipfile.BadZipFile, ArithmeticError, EOFError, LookupError, OSError, RuntimeError, ValueError, struct.error,
)  # fmt: skip
# The directory of one member, with the longest name, extra field and comment that a ZIP can have.
_DIRECTORY_NBYTES_MAX: Final = 46 + 3 * 0xFFFF
_LOCAL_HEADER: Final = struct.Struct("<4s22xHH")  # signature, and at its end the lengths of name and extra field
_ENCRYPTED: Final = 0x1 | 0x40 | 0x2000  # flag bits: encrypted, strongly, and with a masked directory
_MEMBER_NAME: Final = re.compile(r"(?:.*/)?(?P<symbol>[^/]+)-(?P<label>[^-/]+)-\d{4}-\d{1,2}(?:-\d{1,2})?\.csv")


def unzip_csv(
    content: bytes | memoryview,
    series: SeriesKey,
    label: str,
    *,
    nbytes_max: int,
    workspace: Workspace | None = None,
) -> memoryview:
    """Inflate the one member of a ZIP.

    Parameters
    ----------
    content : bytes or memoryview
        The whole ZIP.
    series : SeriesKey
        Whose bars it should hold.
    label : str
        What errors call it.
    nbytes_max : int
        The largest CSV that is inflated.
    workspace : Workspace, optional
        Its memory takes the CSV.

    Returns
    -------
    memoryview
        The CSV, of the length and CRC that the directory declares. It is valid until the workspace is cleared.

    Raises
    ------
    ArchiveError
        It is not a ZIP or is truncated; it has no or several members; the member is encrypted, compressed in an
        unknown way, larger than `nbytes_max`, longer or shorter than declared, damaged, or named like one of
        another series.
    """
    member = _only_member(content, label)
    _check_member(member, series, label, nbytes_max)
    csv = _packed_bytes(content, member, label)
    if member.compress_type == zipfile.ZIP_DEFLATED:
        csv = _inflate(csv, (workspace or Workspace()).take(member.file_size), label)
    if len(csv) != member.file_size:
        raise ArchiveError(label, f"its CSV has {len(csv)} bytes, its directory declares {member.file_size}")
    if (found := crc32(csv)) != member.CRC:
        raise ArchiveError(label, f"its CSV has CRC {found:08x}, its directory declares {member.CRC:08x}")
    return csv


class _Directory(io.BytesIO):
    """A ZIP of which `zipfile` reads the directory. It cannot read one that is too long for one member."""

    def read(self, nbytes: int | None = -1, /) -> bytes:
        bound = _DIRECTORY_NBYTES_MAX + 1
        found = super().read(bound if nbytes is None or nbytes < 0 else min(nbytes, bound))
        if len(found) > _DIRECTORY_NBYTES_MAX:
            raise zipfile.BadZipFile(f"its directory has more than {_DIRECTORY_NBYTES_MAX} bytes, for one member")
        return found


def _only_member(content: bytes | memoryview, label: str) -> zipfile.ZipInfo:
    try:
        with zipfile.ZipFile(_Directory(content)) as archive:
            members = archive.infolist()
    except _DIRECTORY_ERRORS as error:
        raise ArchiveError(label, f"it is no ZIP, or a damaged or truncated one ({error})") from error
    if len(members) != 1:
        raise ArchiveError(label, f"it has {len(members)} members, expected one CSV")
    return members[0]


def _check_member(member: zipfile.ZipInfo, series: SeriesKey, label: str, nbytes_max: int) -> None:
    if member.flag_bits & _ENCRYPTED:
        raise ArchiveError(label, f"its member {member.filename!r} is encrypted")
    if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        reason = f"its member is compressed with method {member.compress_type}, expected 8 (deflate)"
        raise ArchiveError(label, reason)
    if member.file_size > nbytes_max:
        reason = f"its CSV is declared with {member.file_size} bytes, its period has room for {nbytes_max}"
        raise ArchiveError(label, reason)
    if member.compress_type == zipfile.ZIP_DEFLATED and member.file_size > _RATIO_MAX * member.compress_size:
        raise ArchiveError(
            label,
            f"its {member.compress_size} bytes cannot hold the {member.file_size} bytes of CSV declared",
        )
    named = list(_series_named(member.filename, series))
    if named and series not in named:
        raise ArchiveError(label, f"its member {member.filename!r} belongs to series {named[0]}")


def _series_named(file_name: str, series: SeriesKey) -> Iterator[SeriesKey]:
    """The series that a member name may mean: as it is, or as UTF-8 that zipfile took for code page 437."""
    spellings = [file_name]
    with contextlib.suppress(UnicodeError):  # it was not mistaken
        spellings.append(file_name.encode("cp437").decode("utf-8"))
    for spelling in spellings:
        if match := _MEMBER_NAME.fullmatch(spelling):
            try:
                is_own = match["label"] == series.archive_label
                interval = series.interval if is_own else match["label"]
                yield SeriesKey.of(match["symbol"], interval, market=series.market, kind=series.kind)
            except IdentityError:  # not the name of a series
                continue


def _packed_bytes(content: bytes | memoryview, member: zipfile.ZipInfo, label: str) -> memoryview:
    """The compressed bytes of a member. They follow its local header, which the directory points to."""
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
    """Inflate into memory of the declared length. One byte more is inflated, to notice a longer stream."""
    stream = inflating(RAW_DEFLATE)
    nbytes = 0
    try:
        for chunk in _inflated_chunks(stream, packed, len(memory) + 1):
            if nbytes + len(chunk) > len(memory):
                reason = f"its CSV is longer than the {len(memory)} bytes that its directory declares"
                raise ArchiveError(label, reason)
            memory[nbytes : nbytes + len(chunk)] = chunk
            nbytes += len(chunk)
    except INFLATE_ERRORS as error:
        raise ArchiveError(label, f"its compressed bytes are damaged ({error})") from error
    if not stream.eof:
        raise ArchiveError(label, f"its compressed bytes stop after {nbytes} of {len(memory)} bytes of CSV")
    if stream.unused_data:
        raise ArchiveError(label, f"{len(stream.unused_data)} bytes of garbage follow its compressed bytes")
    return memory[:nbytes]


def _inflated_chunks(stream: Any, packed: memoryview, nbytes_max: int) -> Iterator[bytes]:
    """Inflate at most so many bytes. Bytes behind the end of the stream become its `unused_data`.

    The last byte is inflated by itself. If the stream has ended before it, it is garbage. isal before 1.9 takes one
    byte of garbage for a part of the stream where it comes with the bytes before.
    """
    last = max(0, len(packed) - 1)
    for first in (*range(0, last, _INPUT_CHUNK_NBYTES), last):
        check_stop()
        if stream.eof:
            stream.decompress(packed[first:])
            return
        left: bytes | memoryview = packed[first : min(first + _INPUT_CHUNK_NBYTES, last) if first < last else None]
        while nbytes_max:
            chunk_nbytes_max = min(nbytes_max, _OUTPUT_CHUNK_NBYTES)
            chunk: bytes = stream.decompress(left, chunk_nbytes_max)
            yield chunk
            nbytes_max -= len(chunk)
            left = stream.unconsumed_tail
            # After a full chunk the stream may have more to give, even without more input.
            if len(chunk) < chunk_nbytes_max:
                break

"""ZIP bytes to CSV bytes: inflates the one member of a ZIP and checks it against everything the directory declares.

`zipfile` reads the directory, `ckvd.platforms.inflate` inflates the member. A ZIP is untrusted input: whatever its
bytes are, the result is the whole member or an `ArchiveError`. The member comes in pieces (`ZippedCsv.pieces`), so
that a long one is never in memory as a whole: whoever uses pieces before the last one keeps nothing of them if the
end turns out bad. No more comes than the caller allows and the directory declares.
"""

from __future__ import annotations

import contextlib
import io
import re
import struct
import zipfile
from dataclasses import dataclass
from typing import TYPE_CHECKING, BinaryIO, Final, cast

from ckvd.concurrency.stopping import check_stop
from ckvd.errors import ArchiveError, IdentityError
from ckvd.model.market import SeriesKey
from ckvd.platforms.inflate import INFLATE_ERRORS, RAW_DEFLATE, crc32, inflating

if TYPE_CHECKING:
    from collections.abc import Iterator


# The most bytes that a byte of deflate can inflate to: a match takes at least two bits and gives at most 258 bytes.
_RATIO_MAX: Final = 1032
# The input and output of one inflate call: large enough to hide its cost, small enough for the level-2 cache.
_INPUT_CHUNK_NBYTES: Final = 128 << 10
_OUTPUT_CHUNK_NBYTES: Final = 256 << 10
# zipfile trusts many of the numbers in a directory. If they are damaged, it raises these besides BadZipFile.
_DIRECTORY_ERRORS: Final = (
    zipfile.BadZipFile, ArithmeticError, EOFError, LookupError, OSError, RuntimeError, ValueError, struct.error,
)  # fmt: skip
# The directory of one member, with the longest name, extra field and comment that a ZIP can have.
_DIRECTORY_NBYTES_MAX: Final = 46 + 3 * 0xFFFF
_LOCAL_HEADER: Final = struct.Struct("<4s22xHH")  # signature, and at its end the lengths of name and extra field
_ENCRYPTED: Final = 0x1 | 0x40 | 0x2000  # flag bits: encrypted, strongly, and with a masked directory
_MEMBER_NAME: Final = re.compile(r"(?:.*/)?(?P<symbol>[^/]+)-(?P<label>[^-/]+)-\d{4}-\d{1,2}(?:-\d{1,2})?\.csv")


def find_csv(
    content: bytes | memoryview | BinaryIO, series: SeriesKey, label: str, *, nbytes_max: int
) -> ZippedCsv:
    """Find the one member of a ZIP, and check what the directory says of it.

    Parameters
    ----------
    content : bytes, memoryview or binary file
        The whole ZIP. A file has to be open until the last piece was read.
    series : SeriesKey
        Whose bars it should hold.
    label : str
        What errors call it.
    nbytes_max : int
        The largest CSV that is inflated.

    Raises
    ------
    ArchiveError
        It is not a ZIP or is truncated; it has no or several members; the member is encrypted, compressed in an
        unknown way, larger than `nbytes_max`, or named like one of another series.
    """
    file = io.BytesIO(content) if isinstance(content, bytes | memoryview) else content
    member = _only_member(file, label)
    _check_member(member, series, label, nbytes_max)
    return ZippedCsv(file, _start_of(file, member, label), member, label)


@dataclass(frozen=True, slots=True, eq=False)
class ZippedCsv:
    """The one member of a ZIP.

    Attributes
    ----------
    file : binary file
        The ZIP.
    start : int
        Where the compressed bytes begin in it.
    member : zipfile.ZipInfo
        What the directory declares.
    label : str
        What errors call it.
    """

    file: BinaryIO
    start: int
    member: zipfile.ZipInfo
    label: str

    @property
    def nbytes(self) -> int:
        """The length of the CSV, as the directory declares it. It may have another one."""
        return self.member.file_size

    def pieces(self) -> Iterator[bytes]:
        """The CSV in pieces of at most 256 KiB, never more than declared.

        Raises
        ------
        ArchiveError
            After any of the pieces: the compressed bytes are damaged, or the CSV is longer than the directory
            declares. After the last one: it is shorter, has another CRC, or garbage follows. Until the iterator has
            ended, nothing is known to be right.
        """
        is_deflated = self.member.compress_type == zipfile.ZIP_DEFLATED
        nbytes = crc = 0
        for piece in self._inflated() if is_deflated else self._packed():
            nbytes += len(piece)
            crc = crc32(piece, crc)
            yield piece
        if nbytes != self.nbytes:
            raise ArchiveError(self.label, f"its CSV has {nbytes} bytes, its directory declares {self.nbytes}")
        if crc != self.member.CRC:
            raise ArchiveError(
                self.label, f"its CSV has CRC {crc:08x}, its directory declares {self.member.CRC:08x}"
            )

    def read(self) -> bytes:
        """The whole CSV. Errors: see `pieces`."""
        return b"".join(self.pieces())

    def _inflated(self) -> Iterator[bytes]:
        """Inflate what is declared. One byte more is inflated, to notice a longer stream."""
        stream = inflating(RAW_DEFLATE)
        nbytes = garbage_nbytes = 0
        try:
            for packed in self._packed():
                if stream.eof:
                    garbage_nbytes += len(packed)
                    continue
                left: bytes = packed
                is_full = True
                # After a full chunk the stream may have more to give, even without more input.
                while is_full:
                    chunk_nbytes_max = min(self.nbytes + 1 - nbytes, _OUTPUT_CHUNK_NBYTES)
                    chunk: bytes = stream.decompress(left, chunk_nbytes_max)
                    nbytes += len(chunk)
                    if nbytes > self.nbytes:
                        reason = f"its CSV is longer than the {self.nbytes} bytes that its directory declares"
                        raise ArchiveError(self.label, reason)
                    if chunk:
                        yield chunk
                    left = stream.unconsumed_tail
                    is_full = len(chunk) == chunk_nbytes_max
        except INFLATE_ERRORS as error:
            raise ArchiveError(self.label, f"its compressed bytes are damaged ({error})") from error
        if not stream.eof:
            reason = f"its compressed bytes stop after {nbytes} of {self.nbytes} bytes of CSV"
            raise ArchiveError(self.label, reason)
        if garbage_nbytes := garbage_nbytes + len(stream.unused_data):
            raise ArchiveError(self.label, f"{garbage_nbytes} bytes of garbage follow its compressed bytes")

    def _packed(self) -> Iterator[bytes]:
        """The compressed bytes in pieces.

        The last byte comes by itself. If the stream has ended before it, it is garbage. isal before 1.9 takes one
        byte of garbage for a part of the stream where it comes with the bytes before.
        """
        self.file.seek(self.start)
        left = self.member.compress_size
        while left:
            check_stop()
            packed = self.file.read(min(_INPUT_CHUNK_NBYTES, left - 1) or 1)
            if not packed:
                return  # the file was cut off meanwhile: too little was inflated
            left -= len(packed)
            yield packed


class _Directory:
    """A ZIP of which `zipfile` reads the directory. It cannot read one that is too long for one member."""

    def __init__(self, file: BinaryIO) -> None:
        self.seek = file.seek
        self.tell = file.tell
        self._file = file

    def read(self, nbytes: int = -1) -> bytes:
        bound = _DIRECTORY_NBYTES_MAX + 1
        found = self._file.read(bound if nbytes < 0 else min(nbytes, bound))
        if len(found) > _DIRECTORY_NBYTES_MAX:
            raise zipfile.BadZipFile(f"its directory has more than {_DIRECTORY_NBYTES_MAX} bytes, for one member")
        return found


def _only_member(file: BinaryIO, label: str) -> zipfile.ZipInfo:
    try:
        with zipfile.ZipFile(cast("BinaryIO", _Directory(file))) as archive:
            members = archive.infolist()
    except ArchiveError:
        raise  # the file cannot be read
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


def _start_of(file: BinaryIO, member: zipfile.ZipInfo, label: str) -> int:
    """Where the compressed bytes of a member are. They follow its local header, which the directory points to."""
    nbytes = file.seek(0, io.SEEK_END)
    if not -nbytes <= member.header_offset <= nbytes - _LOCAL_HEADER.size:
        raise ArchiveError(label, "its directory points outside the file")
    file.seek(max(0, member.header_offset))
    header = file.read(_LOCAL_HEADER.size).ljust(_LOCAL_HEADER.size)
    signature, name_nbytes, extra_nbytes = _LOCAL_HEADER.unpack(header)
    start: int = member.header_offset + _LOCAL_HEADER.size + name_nbytes + extra_nbytes
    if member.header_offset < 0 or signature != b"PK\x03\x04" or start + member.compress_size > nbytes:
        raise ArchiveError(label, "its directory points to no member, or to a truncated one")
    if member.compress_type == zipfile.ZIP_STORED and member.compress_size != member.file_size:
        reason = f"its CSV has {member.compress_size} bytes, its directory declares {member.file_size}"
        raise ArchiveError(label, reason)
    return start

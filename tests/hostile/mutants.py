"""Making mutants of bytes from fixed seeds: flipped, cut, doubled, overwritten; and checksums made right again."""

from __future__ import annotations

import random
import struct
import zlib
from typing import TYPE_CHECKING, Final

from ckvd.segment.layout import (
    CHECKED_FROM,
    COLUMN_ENTRY_NBYTES,
    PREAMBLE,
    PREAMBLE_NBYTES,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

_CODES: Final = dict(PREAMBLE)
_OFFSETS: Final = {
    name: struct.calcsize("<" + "".join(code for _, code in PREAMBLE[:position]))
    for position, (name, _) in enumerate(PREAMBLE)
}


def field(content: bytes, name: str) -> int:
    """A number in the header of a segment."""
    (value,) = struct.unpack_from("<" + _CODES[name], content, _OFFSETS[name])
    return int(value)


def with_checksum(content: bytes, header_nbytes: int | None = None) -> bytes:
    """A segment with the right checksum of its header, which has the length that it says or another one."""
    header_nbytes = header_nbytes or field(content, "header_nbytes")
    crc32 = zlib.crc32(content[CHECKED_FROM:header_nbytes])
    return content[: CHECKED_FROM - 4] + struct.pack("<I", crc32) + content[CHECKED_FROM:]


def with_metadata(content: bytes, metadata: bytes) -> bytes:
    """A segment with other metadata. Its columns move, so that there is room, and its checksum is right."""
    old_nbytes, column_count = field(content, "header_nbytes"), field(content, "column_count")
    start = PREAMBLE_NBYTES + COLUMN_ENTRY_NBYTES * column_count
    # In steps of a page, so that columns stay where they may start.
    more_nbytes = max(0, -(-(start + len(metadata) - old_nbytes) // 4096)) * 4096
    header = bytearray(content[:start] + metadata.ljust(old_nbytes + more_nbytes - start, b"\0"))
    patched = {
        "header_nbytes": old_nbytes + more_nbytes,
        "metadata_nbytes": len(metadata),
        "file_nbytes": len(content) + more_nbytes,
    }
    for name, value in patched.items():
        struct.pack_into("<" + _CODES[name], header, _OFFSETS[name], value)
    for entry in range(PREAMBLE_NBYTES, start, COLUMN_ENTRY_NBYTES):
        (offset,) = struct.unpack_from("<Q", header, entry + 48)
        struct.pack_into("<Q", header, entry + 48, offset + more_nbytes if offset else 0)
    return with_checksum(bytes(header) + content[old_nbytes:])


def mutants(content: bytes, seed: int, count: int) -> Iterator[bytes]:
    """Bytes that differ from the given ones in one to three places."""
    source = random.Random(seed)
    for _ in range(count):
        mutant = content
        while mutant == content:
            for _ in range(source.choice((1, 1, 1, 2, 3))):
                mutant = _mutate(mutant, source)
        yield mutant


def _mutate(content: bytes, source: random.Random) -> bytes:
    if not content:
        return b"\0"
    start = source.randrange(len(content))
    stop = min(len(content), start + source.choice((1, 1, 2, 4, 8, 64)))
    piece = content[start:stop]
    match source.randrange(7):
        case 0:
            flipped = piece[0] ^ (1 << source.randrange(8))
            return content[:start] + bytes([flipped]) + content[start + 1 :]
        case 1:
            return content[:start] + source.randbytes(len(piece)) + content[stop:]
        case 2:
            return content[:start]
        case 3:
            return content[:start] + content[stop:]
        case 4:
            return content[:stop] + piece * source.choice((1, 2, 30)) + content[stop:]
        case 5:
            extreme = source.choice((b"\0", b"\xff", b"9", b"-", b'"', b"[", b"\r\n", b"\x7f"))
            return content[:start] + (extreme * len(piece))[: len(piece)] + content[stop:]
        case _:
            return content + source.randbytes(source.choice((1, 8, 64)))

"""A ZIP gives its one member, whole. Anything else is refused, and nothing crashes."""

from __future__ import annotations

import contextlib
import io
import random
import runpy
import struct
import sys
import tracemalloc
import zipfile
import zlib
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ckvd.decode import unzip
from ckvd.decode.unzip import find_csv
from ckvd.errors import ArchiveError
from ckvd.model.calendar import Period
from ckvd.model.market import SeriesKey
from ckvd.platforms import inflate
from ckvd.vision.name import ArchiveName

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

NAME = ArchiveName(SeriesKey.of("BTCUSDT", "1m"), Period.of_label("2023-01-01"))
MEMBER = "BTCUSDT-1m-2023-01-01.csv"
CSV = b"1672531200000,1.5,2.5,0.5,1.0,3,1672531259999,4,5,6,7,0\n" * 20
# Longer than one chunk, compressed and not: the first part can hardly be compressed.
LONG = random.Random(1).randbytes(400_000).hex().encode() + bytes(3_000_000)
# Offsets of fields in the local and the central header, from their signatures on.
LOCAL, CENTRAL = b"PK\x03\x04", b"PK\x01\x02"
CENTRAL_FLAGS, CENTRAL_METHOD, CENTRAL_CRC, CENTRAL_PACKED, CENTRAL_SIZE, CENTRAL_OFFSET = 8, 10, 16, 20, 24, 42


def make_zip(*members: str, csv: bytes = CSV, method: int = zipfile.ZIP_DEFLATED) -> bytes:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", method) as archive:
        for member in members or (MEMBER,):
            archive.writestr(member, csv)
    return content.getvalue()


def patched(content: bytes, place: int, form: str, value: int) -> bytes:
    """The same ZIP with another value in its directory."""
    changed = bytearray(content)
    struct.pack_into(form, changed, content.index(CENTRAL) + place, value)
    return bytes(changed)


def damaged(content: bytes) -> bytes:
    """The same ZIP with nonsense in its compressed bytes."""
    return content[:100] + b"\xff" * 16 + content[116:]


@contextlib.contextmanager
def at_most_two_megabytes() -> Iterator[None]:
    """Assert that the block never takes more memory."""
    tracemalloc.start()
    try:
        yield
        peak_nbytes = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak_nbytes < 2_000_000


def unzipped(content: bytes | memoryview, name: ArchiveName = NAME, *, nbytes_max: int = 1 << 30) -> bytes:
    return find_csv(content, name.series, name.file_name, nbytes_max=nbytes_max).read()


def refusal(content: bytes, name: ArchiveName = NAME) -> str:
    with pytest.raises(ArchiveError) as caught:
        unzipped(content, name)
    assert caught.value.archive == name.file_name
    assert caught.value.row is None
    return caught.value.reason


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
@pytest.mark.parametrize("csv", [b"", b"\n", CSV, CSV * 1000, LONG])
def test_the_member_comes_out_as_it_went_in(csv: bytes, method: int) -> None:
    content = make_zip(csv=csv, method=method)
    assert unzipped(content) == csv
    assert unzipped(memoryview(content)) == csv


def test_zlib_serves_if_isal_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "isal", None)
    without_isal = runpy.run_path(inflate.__file__)
    assert without_isal["crc32"] is zlib.crc32
    for name in ("INFLATE_ERRORS", "inflating", "crc32"):
        monkeypatch.setattr(unzip, name, without_isal[name])
    assert unzipped(make_zip(csv=LONG)) == LONG
    assert "stop after" in refusal(patched(make_zip(), CENTRAL_PACKED, "<I", 20))
    assert "damaged" in refusal(damaged(make_zip(csv=LONG)))


def test_a_zip_behind_other_bytes_is_found() -> None:
    assert unzipped(b"<html>" + make_zip()) == CSV


@pytest.mark.parametrize(
    "content", [b"", b"PK", b"<html>404</html>", make_zip()[:-30], make_zip()[30:], bytes(1000)]
)
def test_bytes_that_are_no_zip_are_refused(content: bytes) -> None:
    assert "no ZIP" in refusal(content) or "truncated" in refusal(content)


@pytest.mark.parametrize("members", [(MEMBER, "README.txt"), (MEMBER, "folder/"), ("a.csv", "b.csv", "c.csv")])
def test_several_members_are_refused(members: tuple[str, ...]) -> None:
    assert refusal(make_zip(*members)) == f"it has {len(members)} members, expected one CSV"


def test_no_member_is_refused() -> None:
    content = io.BytesIO()
    zipfile.ZipFile(content, "w").close()
    assert refusal(content.getvalue()) == "it has 0 members, expected one CSV"


@pytest.mark.parametrize("flag", [0x1, 0x40])
def test_an_encrypted_member_is_refused(flag: int) -> None:
    assert "encrypted" in refusal(patched(make_zip(), CENTRAL_FLAGS, "<H", flag))


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_another_compression_is_refused(method: int) -> None:
    assert f"method {method}" in refusal(make_zip(method=method))
    assert "method 99" in refusal(patched(make_zip(), CENTRAL_METHOD, "<H", 99))


def test_a_member_larger_than_declared_is_refused() -> None:
    assert "longer than the 100 bytes" in refusal(patched(make_zip(), CENTRAL_SIZE, "<I", 100))
    stored = make_zip(method=zipfile.ZIP_STORED)
    assert f"has {len(CSV)} bytes" in refusal(patched(stored, CENTRAL_SIZE, "<I", 100))


def test_a_member_shorter_than_declared_is_refused() -> None:
    reason = refusal(patched(make_zip(), CENTRAL_SIZE, "<I", len(CSV) + 1))
    assert reason == f"its CSV has {len(CSV)} bytes, its directory declares {len(CSV) + 1}"


def test_a_member_beyond_the_bound_is_not_inflated() -> None:
    assert unzipped(make_zip(), nbytes_max=len(CSV)) == CSV
    with pytest.raises(ArchiveError, match=f"its period has room for {len(CSV) - 1}$"):
        unzipped(make_zip(), nbytes_max=len(CSV) - 1)


def test_a_directory_too_long_for_one_member_is_not_read() -> None:
    bomb = make_zip(*(f"{number}.csv" for number in range(20_000)), csv=b"")
    with at_most_two_megabytes():
        assert "directory has more than" in refusal(bomb)


def test_no_more_is_inflated_than_declared() -> None:
    bomb = patched(make_zip(csv=bytes(50_000_000)), CENTRAL_SIZE, "<I", 1000)
    with at_most_two_megabytes():
        assert "longer than the 1000 bytes" in refusal(bomb)


def test_a_wrong_crc_is_refused() -> None:
    reason = refusal(patched(make_zip(), CENTRAL_CRC, "<I", 0x1234ABCD))
    assert reason == f"its CSV has CRC {zlib.crc32(CSV):08x}, its directory declares 1234abcd"


def test_a_changed_cell_is_refused() -> None:
    content = bytearray(make_zip(method=zipfile.ZIP_STORED))
    content[content.index(b"1.5")] = ord("2")
    assert "CRC" in refusal(bytes(content))


def test_a_stream_that_breaks_off_is_refused() -> None:
    content = patched(make_zip(), CENTRAL_PACKED, "<I", 30)
    assert "stop after" in refusal(content)


def followed_by(garbage: bytes, content: bytes) -> bytes:
    """The same ZIP with garbage behind its stream, which the directory counts as part of the stream."""
    at = content.index(CENTRAL)
    packed_nbytes = struct.unpack_from("<I", content, at + CENTRAL_PACKED)[0]
    padded = bytearray(content[:at] + garbage + content[at:])
    struct.pack_into("<I", padded, at + len(garbage) + CENTRAL_PACKED, packed_nbytes + len(garbage))
    # The directory has moved.
    struct.pack_into("<I", padded, padded.rindex(b"PK\x05\x06") + 16, at + len(garbage))
    return bytes(padded)


def test_garbage_behind_the_stream_is_refused() -> None:
    assert refusal(followed_by(b"xxxx", make_zip())) == "4 bytes of garbage follow its compressed bytes"


@pytest.mark.parametrize("csv", [b"", CSV, CSV * 1000, LONG])
def test_one_byte_of_garbage_is_found_whatever_the_library(csv: bytes) -> None:
    assert refusal(followed_by(b"x", make_zip(csv=csv))) == "1 bytes of garbage follow its compressed bytes"


@pytest.mark.parametrize("nbytes", [1, 300_000, 600_000])
def test_garbage_of_any_length_behind_the_stream_is_found(nbytes: int) -> None:
    content = followed_by(bytes(nbytes), make_zip(csv=LONG))
    assert refusal(content) == f"{nbytes} bytes of garbage follow its compressed bytes"


def test_a_size_that_deflate_cannot_reach_is_refused_before_memory_is_taken() -> None:
    content = patched(make_zip(), CENTRAL_SIZE, "<I", 1_000_000_000)
    with at_most_two_megabytes():
        assert "cannot hold the 1000000000 bytes of CSV declared" in refusal(content)


def test_the_best_compression_of_deflate_is_accepted() -> None:
    csv = bytes(20_000_000)
    assert unzipped(make_zip(csv=csv)) == csv


@pytest.mark.parametrize("offset", [1, 100_000, 0xFFFFFFF0])
def test_a_directory_that_points_nowhere_is_refused(offset: int) -> None:
    assert "directory points" in refusal(patched(make_zip(), CENTRAL_OFFSET, "<I", offset))


@pytest.mark.parametrize(
    "member", ["ETHUSDT-1m-2023-01-01.csv", "BTCUSDT-1h-2023-01-01.csv", "x/ETHUSDT-1m-2023-01.csv"]
)
def test_a_member_of_another_series_is_refused(member: str) -> None:
    assert f"{member!r} belongs to series" in refusal(make_zip(member))


@pytest.mark.parametrize(
    "member", ["data.csv", "BTCUSDT-1m-2023-1-1.csv", "folder/" + MEMBER, "btcusdt-1m-2023-01.csv"]
)
def test_a_member_whose_name_is_of_no_other_series_is_accepted(member: str) -> None:
    assert unzipped(make_zip(member)) == CSV


def test_names_that_are_not_ascii_are_understood_in_both_encodings() -> None:
    name = ArchiveName(SeriesKey.of("币安人生USDT", "1m"), Period.of_label("2026-01"))
    marked = make_zip("币安人生USDT-1m-2026-01.csv")
    # The same name in UTF-8, without the flag that says so: zipfile takes it for code page 437.
    unmarked = bytearray(marked)
    for header, place in ((LOCAL, 6), (CENTRAL, CENTRAL_FLAGS)):
        struct.pack_into("<H", unmarked, marked.index(header) + place, 0)
    assert zipfile.ZipFile(io.BytesIO(unmarked)).namelist() != zipfile.ZipFile(io.BytesIO(marked)).namelist()
    assert unzipped(marked, name) == unzipped(bytes(unmarked), name) == CSV
    for content in (marked, bytes(unmarked)):
        assert "belongs to series spot/klines/币安人生USDT/1m" in refusal(content, NAME)


@st.composite
def damaged_zips(draw: st.DrawFn) -> bytes:
    content = bytearray(make_zip(method=draw(st.sampled_from([zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED]))))
    for _ in range(draw(st.integers(1, 4))):
        start = draw(st.integers(0, len(content)))
        stop = draw(st.integers(start, min(start + 4, len(content))))
        content[start:stop] = draw(st.binary(max_size=4) | st.sampled_from([bytes(4), b"\xff" * 4]))
    return bytes(content[: draw(st.just(len(content)) | st.integers(0, len(content)))])


@given(damaged_zips() | st.binary(max_size=200))
def test_damaged_bytes_give_the_csv_or_a_refusal(content: bytes) -> None:
    with contextlib.suppress(ArchiveError):
        assert unzipped(content) == CSV


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_a_zip_in_a_file_is_read_piece_by_piece(tmp_path: Path, method: int) -> None:
    path = tmp_path / "a.zip"
    path.write_bytes(make_zip(csv=LONG * 10, method=method))
    with path.open("rb", buffering=0) as file, at_most_two_megabytes():
        found = find_csv(file, NAME.series, NAME.file_name, nbytes_max=1 << 30)
        assert found.nbytes == len(LONG) * 10
        assert sum(len(piece) for piece in found.pieces()) == found.nbytes


def test_what_is_wrong_at_the_end_is_found_after_the_last_piece() -> None:
    content = patched(make_zip(csv=LONG), CENTRAL_CRC, "<I", 0x1234ABCD)
    pieces = find_csv(content, NAME.series, NAME.file_name, nbytes_max=1 << 30).pieces()
    assert sum(len(next(pieces)) for _ in range(2)) > 0
    with pytest.raises(ArchiveError, match="its directory declares 1234abcd"):
        list(pieces)


def test_a_file_cut_off_while_it_is_read_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.zip"
    path.write_bytes(make_zip(csv=LONG))
    with path.open("r+b", buffering=0) as file:
        pieces = find_csv(file, NAME.series, NAME.file_name, nbytes_max=1 << 30).pieces()
        next(pieces)
        file.truncate(150_000)
        with pytest.raises(ArchiveError, match="its compressed bytes stop after"):
            list(pieces)

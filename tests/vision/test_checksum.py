"""Which forms of a CHECKSUM file are read, and which are refused."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ckvd.errors import ArchiveError
from ckvd.vision.checksum import parse_checksum

if TYPE_CHECKING:
    from pathlib import Path

NAME = "BTCUSDT-1m-2023-03-24.zip"
DIGEST = "0123456789abcdef" * 4


@pytest.mark.parametrize(
    "content",
    [
        f"{DIGEST}  {NAME}",
        f"{DIGEST}  {NAME}\n",
        f"{DIGEST}  {NAME}\r\n",
        f"{DIGEST} *{NAME}\n",
        f"{DIGEST}\t{NAME}",
        f"\n{DIGEST}  {NAME}\n\n",
        f"{DIGEST}  {NAME}  ",
        f"{DIGEST}  some/folder/{NAME}",
        f"{DIGEST.upper()}  {NAME}",
        DIGEST,
        f"{DIGEST}\n",
    ],
)
def test_the_digest_is_read_in_lower_case_whatever_stands_around_it(content: str) -> None:
    assert parse_checksum(content.encode(), NAME) == DIGEST


def test_a_name_that_is_not_ascii_is_compared_as_utf_8() -> None:
    name = "币安人生USDT-1m-2026-01.zip"
    assert parse_checksum(f"{DIGEST}  {name}".encode(), name) == DIGEST


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\n",
        NAME.encode(),
        DIGEST[:-1].encode(),
        f"{DIGEST}0".encode(),
        f"{DIGEST[:-1]}g  {NAME}".encode(),
        f"{DIGEST}{NAME}".encode(),
        f"{DIGEST}  {NAME}\n{DIGEST}  {NAME}\n".encode(),
        b"<html><body>404</body></html>",
        b"\xff" * 64,
        b"\xef\xbb\xbf" + DIGEST.encode(),
    ],
)
def test_what_is_not_one_digest_and_one_name_is_refused_and_shown(content: bytes) -> None:
    with pytest.raises(ArchiveError, match="its CHECKSUM is not 64 hexadecimal digits and a name") as caught:
        parse_checksum(content, NAME)
    assert caught.value.archive == NAME
    assert repr(content[:100]) in str(caught.value)


def test_a_page_instead_of_a_checksum_is_shown_in_part_only() -> None:
    with pytest.raises(ArchiveError) as caught:
        parse_checksum(b"<p>" * 1_000_000, NAME)
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize(
    "named", ["BTCUSDT-1m-2023-03-25.zip", "ETHUSDT-1m-2023-03-24.zip", "x" + NAME, b"\xff.zip"]
)
def test_the_digest_of_another_archive_is_refused_by_its_name(named: str | bytes) -> None:
    raw = named.encode() if isinstance(named, str) else named
    with pytest.raises(ArchiveError, match="its CHECKSUM is that of ") as caught:
        parse_checksum(f"{DIGEST}  ".encode() + raw, NAME)
    assert raw.decode("utf-8", "replace") in str(caught.value)


@settings(deadline=None)
@given(
    st.text("0123456789abcdefABCDEF", min_size=63, max_size=65),
    st.text(" \t\r\n*/", max_size=4),
    st.sampled_from([b"", NAME.encode(), b"x"]) | st.binary(max_size=20),
)
def test_any_file_is_refused_or_starts_with_the_digest_that_is_read(digits: str, between: str, rest: bytes) -> None:
    content = f"{digits}{between}".encode() + rest
    try:
        digest = parse_checksum(content, NAME)
    except ArchiveError:
        return
    assert len(digest) == 64
    assert content.lower().startswith(digest.encode())


def test_the_checksums_of_the_real_data_are_those_of_their_archives(shared_data: Path) -> None:
    checksums = sorted((shared_data / "vision").rglob("BTCUSDT-1h-20*.zip.CHECKSUM"))
    assert checksums
    for path in checksums:
        archive = path.with_suffix("")
        assert parse_checksum(path.read_bytes(), archive.name) == hashlib.sha256(archive.read_bytes()).hexdigest()

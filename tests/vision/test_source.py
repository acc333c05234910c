"""Reading the bytes of an archive that a source has fetched."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from ckvd.errors import ArchiveError
from ckvd.model.calendar import Period
from ckvd.model.market import SeriesKey
from ckvd.vision.name import ArchiveName
from ckvd.vision.source import FetchedArchive

if TYPE_CHECKING:
    from pathlib import Path

NAME = ArchiveName(SeriesKey.of("BTCUSDT", "1m"), Period.of_label("2024-01"))
BYTES = bytes(range(256)) * 500


def fetched(path: Path) -> FetchedArchive:
    return FetchedArchive(
        NAME,
        path,
        is_temporary=False,
        nbytes=len(BYTES),
        sha256="0" * 64,
        is_checksum_published=True,
        etag="",
        last_modified="",
        attempt_count=1,
    )


@pytest.mark.parametrize("content", [BYTES, BYTES[:-1], BYTES * 3, b""], ids=["whole", "short", "grown", "empty"])
def test_all_bytes_of_the_file_are_read_whatever_its_length_is_now(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "x.zip"
    path.write_bytes(content)
    assert fetched(path).read_bytes() == content


def test_a_file_that_has_vanished_is_an_archive_error(tmp_path: Path) -> None:
    with pytest.raises(ArchiveError, match="cannot be read: No such file") as caught:
        fetched(tmp_path / "gone.zip").read_bytes()
    assert caught.value.archive == str(tmp_path / "gone.zip")
    assert isinstance(caught.value.__cause__, FileNotFoundError)


def test_a_file_that_is_a_folder_by_now_is_an_archive_error(tmp_path: Path) -> None:
    with pytest.raises(ArchiveError, match="cannot be read: "):
        fetched(tmp_path).read_bytes()

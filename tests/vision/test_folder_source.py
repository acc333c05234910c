from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from ckvd.errors import (
    ArchiveError,
    ChecksumMismatchError,
    ChecksumMissingError,
    ClientClosedError,
    NetworkError,
)
from ckvd.model.calendar import Cadence, Period
from ckvd.model.market import Interval, Kind, Market, SeriesKey
from ckvd.vision import folder_source
from ckvd.vision.folder_source import FolderArchiveSource
from ckvd.vision.name import ArchiveName
from ckvd.vision.source import AbsentArchive, FetchedArchive, read_chunks
from support.loopback.mirror import publish

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

BTC = SeriesKey.of("BTCUSDT", "1m")
NAME = ArchiveName(BTC, Period.of_label("2024-01"))
BYTES = bytes(range(256)) * 500


def fetch(root: Path, name: ArchiveName = NAME, *, seen: list[int] | None = None, **options: Any) -> Any:
    source = FolderArchiveSource(root, **options)
    return asyncio.run(source.fetch(name, root, on_bytes=None if seen is None else seen.append))


def test_an_archive_is_verified_where_it_lies_and_stays_there(tmp_path: Path) -> None:
    sha256 = publish(tmp_path, NAME.path, BYTES)
    os.utime(tmp_path / NAME.path, (0, 86_400))
    seen: list[int] = []
    assert fetch(tmp_path, seen=seen) == FetchedArchive(
        NAME,
        tmp_path / NAME.path,
        is_temporary=False,
        nbytes=len(BYTES),
        sha256=sha256,
        is_checksum_published=True,
        etag="",
        last_modified="Fri, 02 Jan 1970 00:00:00 GMT",
        attempt_count=1,
    )
    assert seen == [len(BYTES)]
    assert (tmp_path / NAME.path).read_bytes() == BYTES


def test_a_missing_archive_is_absent(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    for label in ("2024-01", "2024-01-31"):
        name = ArchiveName(BTC, Period.of_label(label))
        assert fetch(tmp_path, name) == AbsentArchive(name, str(tmp_path / name.path))


def test_a_folder_that_is_no_mirror_has_no_absent_archives(tmp_path: Path) -> None:
    for root in (tmp_path, tmp_path / "not mounted"):
        with pytest.raises(NetworkError, match="found no folder 'data' in it"):
            fetch(root)
        with pytest.raises(NetworkError, match="found no folder 'data' in it"):
            asyncio.run(FolderArchiveSource(root).list_archives(BTC, Cadence.DAILY))


def test_a_wrong_checksum_is_an_error(tmp_path: Path) -> None:
    publish(tmp_path, NAME.path, BYTES, digest="0" * 64)
    with pytest.raises(ChecksumMismatchError, match="copy both files anew") as caught:
        fetch(tmp_path)
    assert caught.value.found == hashlib.sha256(BYTES).hexdigest()


def test_a_checksum_that_cannot_be_read_is_an_error(tmp_path: Path) -> None:
    publish(tmp_path, NAME.path, BYTES, digest="nonsense")
    with pytest.raises(ArchiveError, match="its CHECKSUM"):
        fetch(tmp_path)


def test_a_missing_checksum_is_noted_or_refused(tmp_path: Path) -> None:
    publish(tmp_path, NAME.path, BYTES, digest="")
    assert not fetch(tmp_path).is_checksum_published
    with pytest.raises(ChecksumMissingError, match="one is required"):
        fetch(tmp_path, is_checksum_required=True)


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may read everything")
def test_a_file_that_may_not_be_read_is_an_error(tmp_path: Path) -> None:
    publish(tmp_path, NAME.path, BYTES)
    (tmp_path / NAME.path).chmod(0)
    with pytest.raises(NetworkError, match="cannot read it"):
        fetch(tmp_path)


def test_a_folder_that_cannot_be_listed_is_an_error(tmp_path: Path) -> None:
    folder = (tmp_path / NAME.path).parent
    folder.parent.mkdir(parents=True)
    folder.write_bytes(b"a file where the folder of the series should be")
    with pytest.raises(NetworkError, match="cannot read it: Not a directory"):
        fetch(tmp_path)


def test_an_odd_spelling_of_a_month_is_found(tmp_path: Path) -> None:
    odd = NAME.path.replace("2024-01", "2020-8")
    publish(tmp_path, odd, BYTES)
    fetched = fetch(tmp_path, ArchiveName(BTC, Period.of_label("2020-08")))
    assert isinstance(fetched, FetchedArchive)
    assert (fetched.name.path, fetched.path, fetched.is_checksum_published) == (odd, tmp_path / odd, True)
    assert isinstance(fetch(tmp_path, ArchiveName(BTC, Period.of_label("2020-09"))), AbsentArchive)


def test_a_series_is_listed_by_cadence_in_order(tmp_path: Path) -> None:
    series = SeriesKey.of("币安人生USDT", "1h", market="um")
    names = [ArchiveName(series, Period.of_label(label)) for label in ("2025-10", "2025-11", "2025-12-01")]
    for name in reversed(names):
        publish(tmp_path, name.path, BYTES, digest="" if name is names[1] else None)
    (tmp_path / names[0].path).with_name("notes.txt").write_bytes(b"")
    (tmp_path / names[0].path).with_name("folder.zip").mkdir()
    source = FolderArchiveSource(tmp_path)
    listed = asyncio.run(source.list_archives(series, Cadence.MONTHLY))
    assert [(one.name, one.nbytes) for one in listed] == [(names[0], len(BYTES)), (names[1], len(BYTES))]
    assert [one.name for one in asyncio.run(source.list_archives(series, Cadence.DAILY))] == names[2:]
    assert asyncio.run(source.list_archives(BTC, Cadence.DAILY)) == []
    from_ms = names[1].period.start_ms
    later = asyncio.run(source.list_archives(series, Cadence.MONTHLY, from_ms=from_ms))
    assert [one.name for one in later] == names[1:2]


def test_symbols_and_intervals_are_those_of_the_folders_and_of_links_to_folders(tmp_path: Path) -> None:
    source = FolderArchiveSource(tmp_path)
    with pytest.raises(NetworkError, match="found no folder 'data'"):
        asyncio.run(source.list_symbols(Market.UM, Kind.KLINES, Cadence.DAILY))
    place = tmp_path / "data" / "futures" / "um" / "daily" / "klines"
    for folder in ("币安人生USDT/1d", "BTCUSDT/1d", "BTCUSDT/4h", "BTCUSDT/7h", "lower/1d"):
        (place / folder).mkdir(parents=True)
    (place / "ETHUSDT").symlink_to(place / "BTCUSDT")
    (place / "FILEUSDT").write_bytes(b"")
    symbols = asyncio.run(source.list_symbols(Market.UM, Kind.KLINES, Cadence.DAILY))
    assert symbols == ["BTCUSDT", "ETHUSDT", "币安人生USDT"]
    for symbol in ("BTCUSDT", "ETHUSDT"):
        intervals = asyncio.run(source.list_intervals(Market.UM, Kind.KLINES, symbol, Cadence.DAILY))
        assert intervals == [Interval.H4, Interval.D1]
    assert asyncio.run(source.list_symbols(Market.CM, Kind.KLINES, Cadence.DAILY)) == []


def test_a_file_that_vanishes_while_its_folder_is_listed_hides_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So does a temporary file of rsync: it is renamed after its name was read, and before its length is."""
    publish(tmp_path, NAME.path, BYTES)
    temporary = (tmp_path / NAME.path).with_name(".BTCUSDT-1m-2024-02.zip.Ab12Cd")
    temporary.write_bytes(b"")
    scandir = os.scandir

    @contextlib.contextmanager
    def scan(folder: Path) -> Iterator[list[os.DirEntry[str]]]:
        with scandir(folder) as entries:
            found = list(entries)
        temporary.unlink()
        yield found

    monkeypatch.setattr(os, "scandir", scan)
    listed = asyncio.run(FolderArchiveSource(tmp_path).list_archives(BTC, Cadence.MONTHLY))
    assert [one.name for one in listed] == [NAME]


def test_the_event_loop_is_free_while_a_file_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Reading goes on only when the event loop itself has said so."""
    sha256 = publish(tmp_path, NAME.path, BYTES)
    is_released = threading.Event()

    def read_when_released(path: Path, nbytes: int) -> Iterator[bytes]:
        assert is_released.wait(30)
        yield from read_chunks(path, nbytes)

    monkeypatch.setattr(folder_source, "read_chunks", read_when_released)

    async def main() -> FetchedArchive | AbsentArchive:
        task = asyncio.create_task(FolderArchiveSource(tmp_path).fetch(NAME, tmp_path))
        for _ in range(10):
            await asyncio.sleep(0)
        assert not task.done()
        is_released.set()
        return await task

    fetched = asyncio.run(main())
    assert isinstance(fetched, FetchedArchive)
    assert fetched.sha256 == sha256


def special_files(path: Path) -> dict[str, Callable[[], object]]:
    return {
        "a named pipe": lambda: os.mkfifo(path),
        "a folder": path.mkdir,
        "a symbolic link that leads to no file": lambda: path.symlink_to(path.with_name("nowhere")),
        "a device": lambda: path.symlink_to("/dev/zero"),
    }


@pytest.mark.parametrize("kind", special_files(Path()))
@pytest.mark.parametrize("suffix", ["", ".CHECKSUM"])
def test_what_is_no_file_is_listed_refused_by_name_and_never_waited_for(
    tmp_path: Path, kind: str, suffix: str
) -> None:
    publish(tmp_path, NAME.path, BYTES)
    path = tmp_path / (NAME.path + suffix)
    path.unlink()
    special_files(path)[kind]()
    source = FolderArchiveSource(tmp_path)
    assert [one.name for one in asyncio.run(source.list_archives(BTC, Cadence.MONTHLY))] == [NAME]
    with pytest.raises(NetworkError, match=f"{path}: cannot read it: it is {kind}"):
        asyncio.run(source.fetch(NAME, tmp_path))


def test_an_archive_may_be_a_link_to_a_file(tmp_path: Path) -> None:
    sha256 = publish(tmp_path, NAME.path, BYTES)
    path = tmp_path / NAME.path
    path.symlink_to(path.rename(tmp_path / "elsewhere"))
    fetched = asyncio.run(FolderArchiveSource(tmp_path).fetch(NAME, tmp_path))
    assert isinstance(fetched, FetchedArchive)
    assert (fetched.sha256, fetched.read_bytes()) == (sha256, BYTES)


def test_real_archives_agree_with_their_checksums(shared_data: Path) -> None:
    series = SeriesKey.of("BTCUSDT", "1h")
    source = FolderArchiveSource(shared_data / "vision")

    async def main() -> list[Any]:
        listed = await source.list_archives(series, Cadence.MONTHLY)
        return [await source.fetch(archive.name, shared_data) for archive in listed]

    fetched = asyncio.run(main())
    assert [one.name.period.label for one in fetched[:2]] == ["2017-08", "2017-09"]
    assert all(one.is_checksum_published for one in fetched)


def test_closing_ends_what_is_under_way_and_all_that_is_asked_for_later(tmp_path: Path) -> None:
    async def main() -> None:
        source = FolderArchiveSource(tmp_path)
        answers = [source.fetch(NAME, tmp_path), source.list_archives(BTC, Cadence.MONTHLY)]
        under_way = [asyncio.create_task(answer) for answer in answers]
        await asyncio.sleep(0)
        assert repr(source) == f"<FolderArchiveSource: {tmp_path}>"
        source.close()
        source.close()
        assert source.is_closed
        assert repr(source) == "<FolderArchiveSource: closed>"
        for answer in (*under_way, source.fetch(NAME, tmp_path), source.list_archives(BTC, Cadence.MONTHLY)):
            with pytest.raises(ClientClosedError, match="the client is closed: "):
                await answer

    publish(tmp_path, NAME.path, BYTES)
    asyncio.run(main())

from __future__ import annotations

import asyncio
import hashlib
from dataclasses import replace
from itertools import count
from typing import TYPE_CHECKING, Any

import pytest

from ckvd.errors import (
    ArchiveError,
    ChecksumMismatchError,
    ChecksumMissingError,
    HttpStatusError,
    NetworkError,
)
from ckvd.model.calendar import Cadence, Period
from ckvd.model.market import Interval, Kind, Market, SeriesKey
from ckvd.network.retry import RetryPolicy
from ckvd.network.transport import Transport
from ckvd.vision.http_source import HttpArchiveSource
from ckvd.vision.name import ArchiveName, archive_folder
from ckvd.vision.source import AbsentArchive, ArchiveSource, FetchedArchive
from support.loopback.mirror import LISTING_PATH, Mirror, publish
from support.loopback.reply import Reply

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

BTC = SeriesKey.of("BTCUSDT", "1m")
CHINESE = SeriesKey.of("币安人生USDT", "1h")
BYTES = bytes(range(256)) * 500
WRONG = hashlib.sha256(b"another version").hexdigest()


def month(series: SeriesKey, label: str) -> ArchiveName:
    return ArchiveName(series, Period.of_label(label))


NAME = month(BTC, "2024-01")


class Site:
    """A mirror, a source of it, and a folder to fetch into."""

    def __init__(self, tmp_path: Path, **mirror_options: Any) -> None:
        self.root = tmp_path / "mirror"
        self.folder = tmp_path / "fetched"
        (self.root / "data").mkdir(parents=True)
        self.folder.mkdir()
        self.mirror = Mirror(self.root, **mirror_options)
        self.seen: list[int] = []

    def run(
        self, main: Callable[[HttpArchiveSource], Awaitable[Any]], *, has_listing: bool = True, **options: Any
    ) -> Any:
        async def opened() -> Any:
            async with Transport(retry=RetryPolicy(attempts_max=3, backoff_first_s=0)) as transport:
                listing_url = self.mirror.listing_url if has_listing else None
                return await main(HttpArchiveSource(self.mirror.base_url, listing_url, transport, **options))

        with self.mirror:
            return asyncio.run(opened())

    def fetch(self, name: ArchiveName = NAME, **options: Any) -> Any:
        return self.run(lambda source: source.fetch(name, self.folder, on_bytes=self.seen.append), **options)

    @property
    def fetched_files(self) -> list[bytes]:
        return [file.read_bytes() for file in self.folder.iterdir()]

    @property
    def listing_count(self) -> int:
        return self.mirror.count(LISTING_PATH)


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path)


def test_it_is_a_source_of_archives(site: Site) -> None:
    async def main(source: ArchiveSource) -> str:
        return repr(source)

    assert site.run(main) == f"<HttpArchiveSource: {site.mirror.base_url}>"


def test_an_archive_that_agrees_with_its_checksum_is_fetched(site: Site) -> None:
    sha256 = publish(site.root, NAME.path, BYTES)
    fetched = site.fetch()
    assert isinstance(fetched, FetchedArchive)
    assert (fetched.name, fetched.nbytes, fetched.sha256) == (NAME, len(BYTES), sha256)
    assert fetched.is_checksum_published
    assert fetched.is_temporary
    assert fetched.attempt_count == 1
    assert fetched.etag == f'"{hashlib.md5(BYTES, usedforsecurity=False).hexdigest()}"'
    assert fetched.last_modified.endswith("GMT")
    assert fetched.path.parent == site.folder
    assert site.fetched_files == [BYTES]
    assert sum(site.seen) == len(BYTES)


@pytest.mark.parametrize(
    "series",
    [CHINESE, SeriesKey.of("ICPUSDT_SETTLED", "1m", market="um"), SeriesKey.of("BTCUSD", "1d", market="cm")],
)
def test_any_symbol_finds_its_way_into_an_address_and_back(site: Site, series: SeriesKey) -> None:
    name = month(series, "2025-10")
    publish(site.root, name.path, BYTES)
    assert site.fetch(name).nbytes == len(BYTES)
    assert all(request.target.isascii() for request in site.mirror.server.requests)


# --- Absence -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("has_listing", [True, False])
def test_a_missing_archive_is_absent_and_nothing_is_left(site: Site, has_listing: bool) -> None:
    absent = site.fetch(has_listing=has_listing)
    assert absent == AbsentArchive(NAME, f"{site.mirror.base_url}/{NAME.path}")
    assert site.fetched_files == []
    assert site.mirror.count(NAME.path) == 1
    assert sum(site.seen) == 0


@pytest.mark.parametrize(
    ("reply", "is_absence"),
    [
        (Reply(404, b"<html>not here</html>"), True),
        (Reply(410), True),
        (Reply(403, b"<Error><Code>NoSuchKey</Code></Error>"), True),
        (Reply(403, b"<Error><Code>AccessDenied</Code></Error>"), False),
        (Reply(403, b"<html>blocked in your country</html>"), False),
        (Reply(404, b"<Error><Code>NoSuchBucket</Code></Error>"), False),
        (Reply(401), False),
        (Reply(204), False),
        (Reply(451), False),
    ],
    ids=lambda value: f"{value.status} {value.body.decode()[:40]}" if isinstance(value, Reply) else None,
)
def test_only_what_says_that_there_is_no_file_is_an_absence(site: Site, reply: Reply, is_absence: bool) -> None:
    publish(site.root, NAME.path, BYTES)
    site.mirror.script(NAME.path, reply)
    if is_absence:
        assert isinstance(site.fetch(has_listing=False), AbsentArchive)
    else:
        with pytest.raises(HttpStatusError, match=f"the server answered {reply.status}") as caught:
            site.fetch(has_listing=False)
        assert caught.value.status == reply.status
    assert site.fetched_files == []


# --- CHECKSUM ----------------------------------------------------------------------------------------------


def test_a_checksum_that_stays_wrong_is_an_error_after_a_second_download(site: Site) -> None:
    publish(site.root, NAME.path, BYTES, digest=WRONG)
    with pytest.raises(ChecksumMismatchError, match="downloaded twice") as caught:
        site.fetch()
    assert (caught.value.archive, caught.value.expected) == (NAME.path, WRONG)
    assert caught.value.found == hashlib.sha256(BYTES).hexdigest()
    assert (site.mirror.count(NAME.path), site.mirror.count(NAME.checksum_path)) == (2, 2)
    assert site.fetched_files == []
    assert sum(site.seen) == 0


@pytest.mark.parametrize("stale", ["archive", "checksum"])
def test_a_stale_copy_of_either_is_downloaded_again_past_the_caches(site: Site, stale: str) -> None:
    publish(site.root, NAME.path, BYTES)
    if stale == "archive":
        site.mirror.script(NAME.path, Reply(200, b"the bytes before the correction"))
    else:
        site.mirror.script(NAME.checksum_path, Reply(200, WRONG.encode()))
    fetched = site.fetch()
    assert fetched.attempt_count == 2
    assert site.fetched_files == [BYTES]
    assert sum(site.seen) == len(BYTES)
    caching = [request.headers.get("cache-control") for request in site.mirror.server.requests]
    assert caching == [None, None, "no-cache", "no-cache"]


@pytest.mark.parametrize("content", [b"", b"<html>busy</html>", b"0123", WRONG.encode() + b"  OTHER.zip"])
def test_a_checksum_that_cannot_be_read_is_asked_for_once_more_and_then_an_error(
    site: Site, content: bytes
) -> None:
    publish(site.root, NAME.path, BYTES)
    site.mirror.script(NAME.checksum_path, Reply(200, content), Reply(200, content))
    with pytest.raises(ArchiveError, match="its CHECKSUM"):
        site.fetch()
    assert site.mirror.count(NAME.checksum_path) == 2
    assert site.fetched_files == []


def test_a_missing_checksum_is_noted(site: Site) -> None:
    publish(site.root, NAME.path, BYTES, digest="")
    fetched = site.fetch()
    assert not fetched.is_checksum_published
    assert fetched.sha256 == hashlib.sha256(BYTES).hexdigest()


def test_a_missing_checksum_is_refused_where_one_is_required(site: Site) -> None:
    publish(site.root, NAME.path, BYTES, digest="")
    with pytest.raises(ChecksumMissingError, match="one is required"):
        site.fetch(is_checksum_required=True)
    assert sum(site.seen) == 0
    assert site.mirror.count(NAME.path) == 1
    assert site.fetched_files == []


def test_an_unavailable_checksum_is_not_a_missing_one(site: Site) -> None:
    publish(site.root, NAME.path, BYTES)
    site.mirror.script(NAME.checksum_path, *[Reply(503)] * 3)
    with pytest.raises(HttpStatusError):
        site.fetch()
    assert sum(site.seen) == 0
    assert site.fetched_files == []


def test_attempts_are_counted_over_both_downloads(site: Site) -> None:
    publish(site.root, NAME.path, BYTES)
    short = lambda genuine: replace(genuine, sent_nbytes=100)
    site.mirror.script(NAME.path, Reply(500), short, Reply(200, b"stale"), short)
    assert site.fetch().attempt_count == 5
    assert sum(site.seen) == len(BYTES)


# --- Listing -----------------------------------------------------------------------------------------------


def publish_months(site: Site, series: SeriesKey, labels: list[str]) -> list[ArchiveName]:
    names = [month(series, label) for label in labels]
    for name in names:
        publish(site.root, name.path, BYTES)
    return names


@pytest.mark.parametrize("page_size", [1, 2, 3, 1000])
@pytest.mark.parametrize("is_next_marker_given", [True, False])
@pytest.mark.parametrize("is_key_encoded", [True, False])
def test_a_listing_is_the_same_in_pages_of_any_size(
    tmp_path: Path, page_size: int, is_next_marker_given: bool, is_key_encoded: bool
) -> None:
    site = Site(
        tmp_path, page_size=page_size, is_next_marker_given=is_next_marker_given, is_key_encoded=is_key_encoded
    )
    names = publish_months(site, CHINESE, ["2025-10", "2025-11", "2025-12", "2026-01"])
    publish_months(site, SeriesKey.of("币安人生USDT", "1m"), ["2025-10"])
    (site.root / names[0].path).with_name("notes.txt").write_bytes(b"")
    listed = site.run(lambda source: source.list_archives(CHINESE, Cadence.MONTHLY))
    assert [archive.name for archive in listed] == names
    assert all(archive.nbytes == len(BYTES) for archive in listed)


@pytest.mark.parametrize("page_size", [1, 3, 1000])
@pytest.mark.parametrize("is_next_marker_given", [True, False])
def test_symbols_and_intervals_are_those_of_the_folders(
    tmp_path: Path, page_size: int, is_next_marker_given: bool
) -> None:
    site = Site(tmp_path, page_size=page_size, is_next_marker_given=is_next_marker_given)
    for symbol, interval in (
        ("币安人生USDT", "1d"),
        ("BTCUSDT", "4h"),
        ("BTCUSDT", "1d"),
        ("AERGOUSDTSETTLED", "1d"),
    ):
        publish_months(site, SeriesKey.of(symbol, interval, market="um"), ["2025-10"])
    for name in ("lower/1d", "BTCUSDT/7h", "BTCUSDT/1d/deeper"):
        publish(site.root, f"data/futures/um/monthly/klines/{name}/x.zip", b"")
    symbols = site.run(lambda source: source.list_symbols(Market.UM, Kind.KLINES, Cadence.MONTHLY))
    assert symbols == ["AERGOUSDTSETTLED", "BTCUSDT", "币安人生USDT"]
    assert site.run(lambda source: source.list_symbols(Market.UM, Kind.KLINES, Cadence.DAILY)) == []
    intervals = site.run(lambda source: source.list_intervals(Market.UM, Kind.KLINES, "BTCUSDT", Cadence.MONTHLY))
    assert intervals == [Interval.H4, Interval.D1]


@pytest.mark.parametrize("page_size", [1, 3, 1000])
def test_archives_are_listed_from_a_time_on_and_the_first_on_a_short_page(tmp_path: Path, page_size: int) -> None:
    site = Site(tmp_path, page_size=page_size)
    names = [ArchiveName(BTC, Period.of_label(f"2024-01-{day:02}")) for day in range(28, 32)]
    names += [ArchiveName(BTC, Period.of_label(f"2024-02-{day:02}")) for day in (1, 2)]
    for name in names:
        publish(site.root, name.path, BYTES)
    from_ms = Period.of_label("2024-02").start_ms
    later = site.run(lambda source: source.list_archives(BTC, Cadence.DAILY, from_ms=from_ms))
    assert [one.name for one in later] == names[4:]
    (request, *_) = site.mirror.server.requests
    assert request.query["marker"] == names[3].checksum_path
    first = site.run(lambda source: source.list_archives(BTC, Cadence.DAILY, is_first_enough=True))
    assert first[0].name == names[0]
    assert len(first) <= 2
    assert site.mirror.server.requests[-1].query["max-keys"] == "4"


def test_an_odd_spelling_of_a_month_is_found_by_one_listing_a_series(site: Site) -> None:
    publish_months(site, BTC, ["2020-07", "2020-12"])
    odd = NAME.path.replace("2024-01", "2020-8")
    publish(site.root, odd, b"odd")

    async def main(source: HttpArchiveSource) -> list[Any]:
        labels = ["2020-07", "2020-08", "2020-09", "2020-10", "2020-12"]
        return await asyncio.gather(*(source.fetch(month(BTC, label), site.folder) for label in labels))

    fetched = site.run(main)
    assert [type(one) for one in fetched] == [
        FetchedArchive, FetchedArchive, AbsentArchive, AbsentArchive, FetchedArchive,
    ]  # fmt: skip
    assert (fetched[1].name.path, fetched[1].name.period.label) == (odd, "2020-08")
    assert fetched[1].path.read_bytes() == b"odd"
    assert site.listing_count == 1


def test_a_missing_day_asks_for_no_listing(site: Site) -> None:
    assert isinstance(site.fetch(month(BTC, "2024-01-31")), AbsentArchive)
    assert site.listing_count == 0


@pytest.mark.parametrize(
    "reply", [Reply(404), Reply(200, b"<html>welcome</html>"), Reply(200, b"nothing")], ids=["404", "html", "text"]
)
def test_a_listing_that_does_not_work_is_asked_once_and_absence_stands(site: Site, reply: Reply) -> None:
    site.mirror.script(LISTING_PATH, reply)

    async def main(source: HttpArchiveSource) -> list[Any]:
        return [await source.fetch(month(series, "2020-08"), site.folder) for series in (BTC, BTC, CHINESE)]

    assert [type(one) for one in site.run(main)] == [AbsentArchive] * 3
    assert site.listing_count == 1


def test_listing_itself_fails_aloud(site: Site) -> None:
    list_months = lambda source: source.list_archives(BTC, Cadence.MONTHLY)
    with pytest.raises(NetworkError, match="no listing"):
        site.run(list_months, has_listing=False)
    site.mirror.script(LISTING_PATH, Reply(403, b"<Error><Code>AccessDenied</Code></Error>"))
    with pytest.raises(HttpStatusError, match="AccessDenied"):
        site.run(list_months)


def test_a_listing_that_goes_round_in_circles_ends_in_an_error(site: Site) -> None:
    page = (
        b"<ListBucketResult><IsTruncated>true</IsTruncated>"
        b"<Contents><Key>data/spot/monthly/klines/BTCUSDT/1m/a</Key><Size>1</Size></Contents></ListBucketResult>"
    )
    site.mirror.script(LISTING_PATH, *[Reply(200, page)] * 5)
    with pytest.raises(ArchiveError, match="does not come to an end"):
        site.run(lambda source: source.list_archives(BTC, Cadence.MONTHLY))
    assert site.listing_count == 2


def endless(keys_on_a_page: int) -> Callable[[Reply], Reply]:
    """A listing whose markers grow for ever."""
    pages = count()

    def reply(_: Reply) -> Reply:
        begin = f"{archive_folder(BTC, Cadence.MONTHLY)}{next(pages):09d}"
        keys = "".join(
            f"<Contents><Key>{begin}-{n:04d}</Key><Size>1</Size></Contents>" for n in range(keys_on_a_page)
        )
        return Reply(200, f"<ListBucketResult><IsTruncated>true</IsTruncated>{keys}</ListBucketResult>".encode())

    return reply


@pytest.mark.parametrize(("keys_on_a_page", "request_count"), [(1, 256), (1000, 33)])
def test_a_listing_that_grows_for_ever_ends_in_an_error(
    site: Site, keys_on_a_page: int, request_count: int
) -> None:
    reply = endless(keys_on_a_page)
    site.mirror.script(LISTING_PATH, *[reply] * 300)
    with pytest.raises(
        ArchiveError, match=r"does not come to an end: expected at most 32768 files on 256 pages"
    ) as caught:
        site.run(lambda source: source.list_archives(BTC, Cadence.MONTHLY))
    assert site.listing_count == request_count
    assert site.mirror.listing_url in str(caught.value)


@pytest.mark.parametrize(
    "page",
    [
        "<Contents><Key>data/spot/monthly/klines/ETHUSDT/1m/ETHUSDT-1m-2024-01.zip</Key><Size>1</Size></Contents>",
        "<CommonPrefixes><Prefix>data/</Prefix></CommonPrefixes>",
        "<IsTruncated>true</IsTruncated><NextMarker>data/spot/monthly/klines/BTCUSDT/3m/</NextMarker>",
    ],
    ids=["key", "prefix", "marker"],
)
def test_a_listing_of_other_files_than_those_requested_is_refused(site: Site, page: str) -> None:
    site.mirror.script(LISTING_PATH, Reply(200, f"<ListBucketResult>{page}</ListBucketResult>".encode()))
    with pytest.raises(
        ArchiveError, match="expected a listing of data/spot/monthly/klines/BTCUSDT/1m/, found 'data/"
    ):
        site.run(lambda source: source.list_archives(BTC, Cadence.MONTHLY))
    assert site.listing_count == 1


def test_a_page_of_a_listing_longer_than_any_is_refused(site: Site) -> None:
    site.mirror.script(LISTING_PATH, Reply(200, b"<ListBucketResult>" + b" " * (4 << 20)))
    with pytest.raises(NetworkError, match="longer than 4194304 bytes"):
        site.run(lambda source: source.list_archives(BTC, Cadence.MONTHLY))


def test_a_listing_that_honours_no_prefix_does_not_stop_a_fetch(site: Site) -> None:
    publish(site.root, NAME.path, BYTES)
    other = "<ListBucketResult><Contents><Key>data/x</Key><Size>1</Size></Contents></ListBucketResult>"
    site.mirror.script(LISTING_PATH, Reply(200, other.encode()))

    async def main(source: HttpArchiveSource) -> list[Any]:
        return [await source.fetch(name, site.folder) for name in (month(BTC, "2020-08"), NAME)]

    assert [type(one) for one in site.run(main)] == [AbsentArchive, FetchedArchive]


def test_what_is_kept_of_headers_is_short_and_on_one_line(site: Site) -> None:
    publish(site.root, NAME.path, BYTES)
    strange = {"ETag": '"\x1b[31m' + "x" * 5000, "Last-Modified": "\x07" * 5000}
    site.mirror.script(NAME.path, lambda genuine: replace(genuine, headers=strange))
    fetched = site.fetch()
    for text in (fetched.etag, fetched.last_modified):
        assert text.isprintable()
        assert 0 < len(text) < 300

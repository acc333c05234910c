"""`HttpArchiveSource`: archives from the publisher, or a mirror of it behind HTTP.

An archive is verified by the SHA-256 in its CHECKSUM file. It is absent only if the server says that there is no
such file; every other refusal is an error.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
import secrets
from typing import TYPE_CHECKING, Final

from ckvd.errors import (
    ArchiveError,
    ChecksumMismatchError,
    ChecksumMissingError,
    HttpStatusError,
    NetworkError,
    shown,
)
from ckvd.model.calendar import Cadence, period_of
from ckvd.network.response import Response
from ckvd.utils.config import (
    CHECKSUM_NBYTES_MAX,
    DOWNLOAD_CONCURRENCY,
    HEADER_LENGTH_MAX,
    LISTING_FILES_MAX,
    LISTING_PAGES_MAX,
)
from ckvd.vision.checksum import parse_checksum
from ckvd.vision.listing import listed_archives, listed_intervals, listed_symbols, parse_listing
from ckvd.vision.name import ArchiveName, archive_folder, symbols_folder, url_of
from ckvd.vision.source import AbsentArchive, FetchedArchive

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable
    from pathlib import Path

    from ckvd.model.calendar import Period
    from ckvd.model.market import Interval, Kind, Market, SeriesKey
    from ckvd.network.response import DownloadedFile
    from ckvd.network.transport import Transport
    from ckvd.vision.listing import ListedFile, ListingPage
    from ckvd.vision.source import ListedArchive

logger = logging.getLogger(__name__)

_S3_CODE: Final = re.compile(rb"<Code>\s*(\w{1,64})\s*</Code>")
# A cache on the way may serve the old version of an archive with the CHECKSUM of the new one.
_PAST_CACHES: Final = {"Cache-Control": "no-cache"}
# Entries to ask for where the first archive is enough: it, its CHECKSUM, and room for strangers.
_FIRST_ENTRIES: Final = 4


class HttpArchiveSource:
    """The publisher's site or a mirror of it: an `ArchiveSource`.

    Parameters
    ----------
    base_url : str
        The address of the folder that contains `data/`.
    listing_url : str or None
        The address of the bucket for listings; None if there are none.
    transport : Transport
        Not closed here.
    concurrency : int
        Archives fetched at a time, each until it is compared with its CHECKSUM.
    is_checksum_required : bool
        Whether to refuse an archive without a CHECKSUM file.
    """

    def __init__(
        self,
        base_url: str,
        listing_url: str | None,
        transport: Transport,
        *,
        concurrency: int = DOWNLOAD_CONCURRENCY,
        is_checksum_required: bool = False,
    ) -> None:
        self._base_url = base_url
        self._listing_url = listing_url
        self._transport = transport
        self._fetching = asyncio.Semaphore(concurrency)
        self._is_checksum_required = is_checksum_required
        self._is_listing_working = listing_url is not None
        self._months: dict[SeriesKey, dict[Period, ArchiveName]] = {}
        self._listing_locks: dict[SeriesKey, asyncio.Lock] = {}

    def __repr__(self) -> str:
        return f"<HttpArchiveSource: {self._base_url}>"

    # --- Fetching ------------------------------------------------------------------------------------------

    async def fetch(
        self, name: ArchiveName, folder: Path, *, on_bytes: Callable[[int], None] | None = None
    ) -> FetchedArchive | AbsentArchive:
        """Download and verify one archive: see `ArchiveSource.fetch`. After an error, no file is left.

        If an archive does not match its CHECKSUM, both are downloaded once more.
        """
        async with self._fetching:
            fetched = await self._fetch_spelled(name, folder, on_bytes)
            if isinstance(fetched, AbsentArchive) and (listed := await self._other_spelling(name)) is not None:
                return await self._fetch_spelled(listed, folder, on_bytes)
            return fetched

    async def _fetch_spelled(
        self, name: ArchiveName, folder: Path, on_bytes: Callable[[int], None] | None
    ) -> FetchedArchive | AbsentArchive:
        path = folder / f"archive-{secrets.token_hex(8)}.zip.part"
        try:
            return await self._fetch_verified(name, path, on_bytes)
        except BaseException:
            with contextlib.suppress(OSError):  # else the error of the download would be lost
                path.unlink()
            raise

    async def _fetch_verified(
        self, name: ArchiveName, path: Path, on_bytes: Callable[[int], None] | None
    ) -> FetchedArchive | AbsentArchive:
        """Download until archive and CHECKSUM match, at most twice."""
        attempt_count = 0
        headers: dict[str, str] = {}
        while True:
            file = await self._transport.download(
                url_of(self._base_url, name.path), path, on_bytes=on_bytes, headers=headers
            )
            if isinstance(file, Response):
                if _is_absence(file):
                    return AbsentArchive(name, file.url)
                raise _refusal(file)
            attempt_count += file.attempt_count
            try:
                is_published = await self._compare(name, file, headers)
            except (ArchiveError, NetworkError) as error:
                if on_bytes is not None:
                    on_bytes(-file.nbytes)
                if headers or isinstance(error, (ChecksumMissingError, NetworkError)):
                    raise
                logger.info("%s; downloading both again", error)
                headers = _PAST_CACHES
                continue
            return _fetched(name, file, is_published=is_published, attempt_count=attempt_count)

    async def _compare(self, name: ArchiveName, file: DownloadedFile, headers: dict[str, str]) -> bool:
        """Compare an archive with its CHECKSUM. Return whether there is a CHECKSUM."""
        response = await self._transport.get(
            url_of(self._base_url, name.checksum_path), headers=headers, nbytes_max=CHECKSUM_NBYTES_MAX
        )
        if response.status == 200:
            expected = parse_checksum(response.body, name.file_name)
            if file.sha256 != expected:
                raise ChecksumMismatchError(
                    name.path,
                    expected=expected,
                    found=file.sha256,
                    remedy="both were downloaded twice, and nothing was kept; the publisher may be replacing it: "
                    "try again later",
                )
        elif not _is_absence(response):
            raise _refusal(response)
        elif self._is_checksum_required:
            raise ChecksumMissingError(name.path, f"it has no CHECKSUM at {response.url}, and one is required")
        return response.status == 200

    # --- Listing -------------------------------------------------------------------------------------------

    async def list_archives(
        self, series: SeriesKey, cadence: Cadence, *, from_ms: int = 0, is_first_enough: bool = False
    ) -> list[ListedArchive]:
        """See `ArchiveSource.list_archives`."""
        prefix = archive_folder(series, cadence)
        # Keys are in the order of their periods, and the CHECKSUM of an archive comes after it.
        marker = ArchiveName(series, period_of(from_ms - 1, cadence)).checksum_path if from_ms else ""
        files: list[ListedFile] = []
        entry_count = _FIRST_ENTRIES if is_first_enough else None
        async with contextlib.aclosing(self._pages(prefix, marker, entry_count=entry_count)) as pages:
            async for page in pages:
                files += page.files
                if is_first_enough and (found := listed_archives(files)):
                    return found
        return [one for one in listed_archives(files) if one.name.period.start_ms >= from_ms]

    async def list_symbols(self, market: Market, kind: Kind, cadence: Cadence) -> list[str]:
        """See `ArchiveSource.list_symbols`."""
        pages = self._pages(symbols_folder(market, kind, cadence))
        return listed_symbols([folder async for page in pages for folder in page.folders], market, kind)

    async def list_intervals(self, market: Market, kind: Kind, symbol: str, cadence: Cadence) -> list[Interval]:
        """See `ArchiveSource.list_intervals`."""
        pages = self._pages(f"{symbols_folder(market, kind, cadence)}{symbol}/")
        return listed_intervals([folder async for page in pages for folder in page.folders])

    async def _pages(
        self, prefix: str, marker: str = "", *, entry_count: int | None = None
    ) -> AsyncGenerator[ListingPage, None]:
        """The pages of a listing, from a marker on. It ends: pages and entries are bounded."""
        if self._listing_url is None:
            raise NetworkError(self._base_url, "this mirror has no listing")
        query: dict[str, str | int] = {"delimiter": "/", "prefix": prefix}
        query |= {"marker": marker} if marker else {}
        # A server that does not know it sends a page of the usual length.
        query |= {"max-keys": entry_count} if entry_count else {}
        found_count = 0
        for _ in range(LISTING_PAGES_MAX):
            response = await self._transport.get(self._listing_url, query)
            if response.status != 200:
                raise _refusal(response)
            page = parse_listing(response.body, response.url, prefix)
            found_count += len(page.files) + len(page.folders)
            yield page
            if page.next_marker is None:
                return
            if page.next_marker <= marker or found_count > LISTING_FILES_MAX:
                break
            query["marker"] = marker = page.next_marker
        raise ArchiveError(
            self._listing_url,
            f"its listing of {prefix} does not come to an end: expected at most {LISTING_FILES_MAX} files on "
            f"{LISTING_PAGES_MAX} pages, found {found_count} and more after {shown(marker)!r}",
        )

    async def _other_spelling(self, name: ArchiveName) -> ArchiveName | None:
        """The name under which a month is listed, if it differs from this name.

        The listing is fetched once per series, and not at all after it failed once. Without it the month is absent
        under its usual name.
        """
        if name.period.cadence is not Cadence.MONTHLY:
            return None
        async with self._listing_locks.setdefault(name.series, asyncio.Lock()):
            if name.series not in self._months and self._is_listing_working:
                self._months[name.series] = await self._list_months(name.series)
        listed = self._months.get(name.series, {}).get(name.period)
        return listed if listed is not None and listed.path != name.path else None

    async def _list_months(self, series: SeriesKey) -> dict[Period, ArchiveName]:
        try:
            archives = await self.list_archives(series, Cadence.MONTHLY)
        except (NetworkError, ArchiveError) as error:
            self._is_listing_working = False
            logger.info("archives are looked for under their usual names only: %s", error)
            return {}
        # The last spelling of a month wins. The first is the usual one, under which there was no archive.
        return {archive.name.period: archive.name for archive in archives}


def _fetched(name: ArchiveName, file: DownloadedFile, *, is_published: bool, attempt_count: int) -> FetchedArchive:
    return FetchedArchive(
        name,
        file.path,
        is_temporary=True,
        nbytes=file.nbytes,
        sha256=file.sha256,
        is_checksum_published=is_published,
        etag=shown(file.headers.get("etag", ""), HEADER_LENGTH_MAX),
        last_modified=shown(file.headers.get("last-modified", ""), HEADER_LENGTH_MAX),
        attempt_count=attempt_count,
    )


# --- Refusals ----------------------------------------------------------------------------------------------


def _is_absence(response: Response) -> bool:
    """Whether a response says that there is no such file.

    S3 answers 403 AccessDenied for a missing key in a bucket that may not be listed, but also for every key that
    may not be read. The two look alike, so 403 is no absence.
    """
    code = _s3_code(response)
    return code == "NoSuchKey" or (response.status in (404, 410) and code != "NoSuchBucket")


def _refusal(response: Response) -> HttpStatusError:
    code = _s3_code(response)
    reason = f"the server answered {response.status}{' ' if code else ''}{code}"
    if code == "AccessDenied":
        reason += ", which may also mean that there is no such file"
    return HttpStatusError(response.url, reason, status=response.status)


def _s3_code(response: Response) -> str:
    match = _S3_CODE.search(response.body)
    return match[1].decode("ascii", "replace") if match else ""

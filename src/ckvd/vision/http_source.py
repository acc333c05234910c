"""`HttpArchiveSource`: archives from the publisher, or a mirror of it behind HTTP.

An archive is believed when its bytes hash to what its CHECKSUM file says. Absence is believed when the server says
that there is no such file; every other refusal is an error.
"""

from __future__ import annotations

import asyncio
import logging
import re
import secrets
from typing import TYPE_CHECKING, Final

from ckvd.errors import ArchiveError, ChecksumMismatchError, ChecksumMissingError, HttpStatusError, NetworkError
from ckvd.model.calendar import Cadence
from ckvd.network.response import Response
from ckvd.utils.config import DOWNLOAD_CONCURRENCY
from ckvd.vision.checksum import parse_checksum
from ckvd.vision.listing import listed_archives, parse_listing
from ckvd.vision.name import archive_folder, url_of
from ckvd.vision.source import AbsentArchive, FetchedArchive

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from ckvd.model.calendar import Period
    from ckvd.model.market import SeriesKey
    from ckvd.network.response import DownloadedFile
    from ckvd.network.transport import Transport
    from ckvd.vision.listing import ListedFile
    from ckvd.vision.name import ArchiveName
    from ckvd.vision.source import ListedArchive

logger = logging.getLogger(__name__)

_CHECKSUM_NBYTES_MAX: Final = 4096
_LISTING_PAGES_MAX: Final = 10_000
_S3_CODE: Final = re.compile(rb"<Code>\s*(\w+)\s*</Code>")
# Caches between here and the publisher may hold an archive and the CHECKSUM of its correction.
_PAST_CACHES: Final = {"Cache-Control": "no-cache"}


class HttpArchiveSource:
    """The publisher's site or a mirror of it: an `ArchiveSource`.

    Parameters
    ----------
    base_url : str
        The address of the folder that holds `data/`.
    listing_url : str or None
        The address of the bucket for listings; None where there are none.
    transport : Transport
        It stays the caller's.
    concurrency : int
        Archives fetched at a time: those after them begin when the CHECKSUMs of these were compared.
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
        """DownloadedFile one archive and compare it with its CHECKSUM; both once more if they do not agree.

        Raises
        ------
        ChecksumMismatchError, ChecksumMissingError, ArchiveError
            The bytes cannot be believed. No file is left.
        NetworkError
            It could not be had.
        CacheError
            It cannot be written.
        ClientClosedError
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
            fetched = await self._fetch_verified(name, path, on_bytes)
        except BaseException:
            path.unlink(missing_ok=True)
            raise
        return fetched

    async def _fetch_verified(
        self, name: ArchiveName, path: Path, on_bytes: Callable[[int], None] | None
    ) -> FetchedArchive | AbsentArchive:
        """DownloadedFile until archive and CHECKSUM agree, at most twice."""
        attempt_count = 0
        headers: dict[str, str] = {}
        while True:
            download = await self._transport.download(
                url_of(self._base_url, name.path), path, on_bytes=on_bytes, headers=headers
            )
            if isinstance(download, Response):
                return _absent(name, download)
            attempt_count += download.attempt_count
            try:
                is_published = await self._compare(name, download, headers)
            except ChecksumMissingError:
                raise
            except ArchiveError as error:
                if on_bytes is not None:
                    on_bytes(-download.nbytes)
                if headers:
                    raise
                logger.info("%s; downloading both again", error)
                headers = _PAST_CACHES
                continue
            return _fetched(name, download, is_published=is_published, attempt_count=attempt_count)

    async def _compare(self, name: ArchiveName, download: DownloadedFile, headers: dict[str, str]) -> bool:
        """Compare an archive with its CHECKSUM; return whether there is one."""
        answer = await self._transport.get(
            url_of(self._base_url, name.checksum_path), headers=headers, nbytes_max=_CHECKSUM_NBYTES_MAX
        )
        if answer.status == 200:
            expected = parse_checksum(answer.body, name.file_name)
            if download.sha256 != expected:
                raise ChecksumMismatchError(
                    name.path,
                    expected=expected,
                    found=download.sha256,
                    remedy="both were downloaded twice, and nothing was kept; the publisher may be replacing it: "
                    "try again later",
                )
        elif not _is_absence(answer):
            raise _refusal(answer)
        elif self._is_checksum_required:
            raise ChecksumMissingError(name.path, f"it has no CHECKSUM at {answer.url}, and one is required")
        return answer.status == 200

    # --- Listing -------------------------------------------------------------------------------------------

    async def list_archives(self, series: SeriesKey, cadence: Cadence) -> list[ListedArchive]:
        """All archives of a series, in the order of their periods.

        Raises
        ------
        NetworkError
            There is no listing, or it cannot be had.
        ArchiveError
            It cannot be understood.
        """
        if self._listing_url is None:
            raise NetworkError(self._base_url, "this mirror has no listing")
        files: list[ListedFile] = []
        query = {"delimiter": "/", "prefix": archive_folder(series, cadence)}
        for _ in range(_LISTING_PAGES_MAX):
            answer = await self._transport.get(self._listing_url, query)
            if answer.status != 200:
                raise _refusal(answer)
            page = parse_listing(answer.body, answer.url)
            files += page.files
            if page.next_marker is None:
                return listed_archives(files)
            if page.next_marker <= query.get("marker", ""):
                break
            query["marker"] = page.next_marker
        raise ArchiveError(self._listing_url, f"its listing of {query['prefix']} does not come to an end")

    async def _other_spelling(self, name: ArchiveName) -> ArchiveName | None:
        """The name under which a month is listed, if it is not the one asked for.

        The listing is asked for once per series, and no more after it failed once: it is a second opinion, and
        without it the first one stands.
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
        # The usual spelling of a month comes first, and is the one that was asked for in vain.
        return {archive.name.period: archive.name for archive in archives}


def _fetched(
    name: ArchiveName, download: DownloadedFile, *, is_published: bool, attempt_count: int
) -> FetchedArchive:
    return FetchedArchive(
        name,
        download.path,
        is_temporary=True,
        nbytes=download.nbytes,
        sha256=download.sha256,
        is_checksum_published=is_published,
        etag=download.headers.get("etag", ""),
        last_modified=download.headers.get("last-modified", ""),
        attempt_count=attempt_count,
    )


# --- Refusals ----------------------------------------------------------------------------------------------


def _absent(name: ArchiveName, answer: Response) -> AbsentArchive:
    if not _is_absence(answer):
        raise _refusal(answer)
    return AbsentArchive(name, answer.url)


def _is_absence(answer: Response) -> bool:
    """Whether an answer says that there is no such file.

    S3 answers 403 AccessDenied for a missing key too, where the bucket may not be listed; but also for every key
    where nothing may be read. Nobody can tell these apart, so that is no absence.
    """
    code = _s3_code(answer)
    return code == "NoSuchKey" or (answer.status in (404, 410) and code != "NoSuchBucket")


def _refusal(answer: Response) -> HttpStatusError:
    code = _s3_code(answer)
    reason = f"the server answered {answer.status}{' ' if code else ''}{code}"
    if code == "AccessDenied":
        reason += ", which may also mean that there is no such file"
    return HttpStatusError(answer.url, reason, status=answer.status)


def _s3_code(answer: Response) -> str:
    match = _S3_CODE.search(answer.body)
    return match[1].decode("ascii", "replace") if match else ""

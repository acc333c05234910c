"""`VisionDataClient`: archives of Binance Vision into the cache.

It owns the source of archives. `ckvd.acquisition.download` runs one download.
"""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from ckvd.acquisition.download import Download, pack_stored
from ckvd.acquisition.limits import IngestLimits
from ckvd.acquisition.planning import Wanted
from ckvd.cache.folder import CacheFolder
from ckvd.cache.untraded_tail import find_untraded_tails
from ckvd.concurrency.work import Workers, in_thread
from ckvd.errors import AddressError, ClientClosedError
from ckvd.lifecycle import ConnectionHolder, Resource
from ckvd.model.market import SeriesKey, series_of
from ckvd.model.timespan import Span, now_ms
from ckvd.network.transport import Transport
from ckvd.utils.config import DOWNLOAD_CONCURRENCY, VISION_LISTING_URL, VISION_URL
from ckvd.vision.folder_source import FolderArchiveSource
from ckvd.vision.http_source import HttpArchiveSource

if TYPE_CHECKING:
    import contextlib
    from collections.abc import Callable, Sequence

    from curl_cffi import AsyncSession
    from curl_cffi import Response as CurlResponse

    from ckvd.acquisition.report import DownloadPlan, DownloadReport, Progress
    from ckvd.model.timespan import TimeLike
    from ckvd.vision.source import ArchiveSource

_URL_SCHEMES: Final = ("http://", "https://")


class VisionDataClient(ConnectionHolder):
    """Download kline archives into a cache.

    An asynchronous context manager. Use one client for many downloads: it keeps connections.

    Parameters
    ----------
    base_url : str or path-like, optional
        The root of a mirror, above `data/`: an http(s) address, or a folder. The default is the environment's
        `CKVD_VISION_URL`, else Binance Vision.
    cache : path-like, optional
        The cache folder, see `KlineCache`.
    listing_url : str, optional
        Where the mirror serves S3 listings. The default is the environment's `CKVD_VISION_LISTING_URL`, else the
        publisher's bucket for the publisher's mirror, else `base_url` itself.
    client : curl_cffi.AsyncSession, optional
        A session to use. It is never closed here.
    concurrency : int
        Archives fetched at a time, at least one: see `ckvd.acquisition.limits`.
    workers : int, optional
        Processes that decode and store archives, where these are worth it: by default one for each processor. With
        1, no process is started: threads of this one decode and store. A process takes some 50 MB, and 96 bytes for
        each bar of the archives at hand.
    is_checksum_required : bool
        Refuse archives without a CHECKSUM file. By default they are stored, and the report says so.
    clock : callable
        The present in milliseconds.
    transport_options
        Passed on to `Transport`: timeouts and the retry policy.

    Raises
    ------
    AddressError
        The mirror's address has another scheme.
    """

    _workers: Workers | None = None
    _source: ArchiveSource | None = None
    _transport: Transport | None = None

    def __init__(
        self,
        base_url: str | os.PathLike[str] | None = None,
        *,
        cache: str | os.PathLike[str] | None = None,
        listing_url: str | None = None,
        client: AsyncSession[CurlResponse] | None = None,
        concurrency: int = DOWNLOAD_CONCURRENCY,
        workers: int | None = None,
        is_checksum_required: bool = False,
        clock: Callable[[], int] = now_ms,
        **transport_options: Any,
    ) -> None:
        self.folder = CacheFolder.at(cache)
        self._clock = clock
        self.limits = IngestLimits(concurrency, workers=workers)
        self._workers = Workers()
        self._client = client
        self._client_is_external = client is not None
        location = os.fspath(base_url if base_url is not None else os.environ.get("CKVD_VISION_URL") or VISION_URL)
        if location.startswith(_URL_SCHEMES):
            connections = self.limits.connections
            self._transport = Transport(client, concurrency=connections, **transport_options).part()
            self._source = HttpArchiveSource(
                location,
                _listing_url(location, listing_url),
                self._transport,
                concurrency=self.limits.transfers,
                is_checksum_required=is_checksum_required,
            )
        elif "://" in location:
            raise AddressError(f"{location!r} is no mirror: expected an address with http or https, or a folder")
        else:
            root = Path(location).expanduser()
            self._source = FolderArchiveSource(root, is_checksum_required=is_checksum_required)

    @property
    def archives(self) -> ArchiveSource:
        """Where the archives come from.

        Raises
        ------
        ClientClosedError
        """
        if self._source is None:
            raise ClientClosedError("the Vision client is closed")
        return self._source

    async def download(
        self,
        symbols: str | Sequence[str],
        interval: str | Sequence[str] | None = None,
        *,
        start: TimeLike,
        end: TimeLike,
        market: str = "spot",
        kind: str = "klines",
        on_progress: Callable[[Progress], None] | None = None,
    ) -> DownloadReport:
        """Fetch every archive of a span that the cache lacks.

        Closed months come as monthly archives, or as daily ones where there is no monthly one. An archive is stored
        whole, also where it reaches beyond the span. The archives of a series become durable when all of them are
        stored: a power cut before that may cost them, and the next download fetches them again.

        Parameters
        ----------
        symbols, interval : str or sequence of str
            Each symbol at each interval. Funding rates have none, and that of metrics may be left out.
        market, kind : str
            See `SeriesKey.of`.
        start, end : str, int, datetime or numpy.datetime64
            The span; `start` is included, `end` is not.
        on_progress : callable, optional
            Called in the event loop whenever bytes arrive or an archive is finished.

        Returns
        -------
        DownloadReport
            It lists absent and failed archives too: they do not keep the others from being stored.

        Raises
        ------
        IdentityError, TimeError
            The series or the span is invalid.
        CacheError
            The cache folder cannot be written. What was stored before stays.
        ClientClosedError
            The client is or was closed.
        """
        series = series_of(symbols, interval, market=market, kind=kind)
        span = Span.of(start, end, present_ms=self._clock())
        return await self.download_series(series, span, on_progress=on_progress)

    async def download_series(
        self, series: Sequence[SeriesKey], span: Span, *, on_progress: Callable[[Progress], None] | None = None
    ) -> DownloadReport:
        """`download`, by keys and span."""
        with self._employed():
            report = await self.fetch_archives(series, span, on_progress=on_progress)
            await pack_stored(self.folder, report, self.limits)
            tails = await in_thread(find_untraded_tails, self.folder, report.spans)
            return replace(report, untraded_tails=tails)

    async def fetch_archives(
        self,
        series: Sequence[SeriesKey],
        span: Span,
        *,
        refresh: bool = False,
        on_progress: Callable[[Progress], None] | None = None,
    ) -> DownloadReport:
        """`download_series` without packing, and without a look at the end of the series.

        Every archive stays in the segment that it was stored in.
        With `refresh`, what was unavailable is asked for again now.
        """
        wanted = [Wanted(key, span) for key in dict.fromkeys(series)]
        return await self.fetch(wanted, refresh=refresh, on_progress=on_progress)

    async def fetch(
        self,
        wanted: Sequence[Wanted],
        *,
        refresh: bool = False,
        on_progress: Callable[[Progress], None] | None = None,
    ) -> DownloadReport:
        """`fetch_archives`, with a span for each series."""
        with self._employed():
            return await self._download(refresh=refresh, on_progress=on_progress).run(wanted)

    async def survey(self, wanted: Sequence[Wanted], *, refresh: bool = False) -> DownloadPlan:
        """Say what `fetch` would fetch. Archives are listed, none is fetched, and nothing is written."""
        with self._employed():
            return await self._download(refresh=refresh).survey(wanted)

    def _download(self, *, refresh: bool, on_progress: Callable[[Progress], None] | None = None) -> Download:
        return Download(
            self.archives,
            self.folder,
            limits=self.limits,
            now_ms=self._clock(),
            refresh=refresh,
            on_progress=on_progress,
        )

    def _employed(self) -> contextlib.AbstractContextManager[None]:
        """In the block, work in threads is stopped when this client is closed."""
        if self._workers is None:
            raise ClientClosedError("the Vision client is closed")
        return self._workers.employed()

    @property
    def is_connected(self) -> bool:
        """Whether it holds connections of its own."""
        return self._transport is not None and self._transport.is_connected

    def release(self) -> None:
        """See `ConnectionHolder.release`."""
        if self._workers is not None:
            self._workers.stop()
        transport, source, self._transport, self._source = self._transport, self._source, None, None
        if transport is not None:
            transport.release()
        if isinstance(source, FolderArchiveSource):
            source.close()

    @property
    def _resources(self) -> tuple[Resource, ...]:
        return (
            ("_workers", "work in threads", False),
            ("_source", "archive source", False),
            ("_transport", "HTTP transport", False),
            ("_client", "HTTP client", self._client_is_external),
        )

    def __repr__(self) -> str:
        return f"<VisionDataClient {self._source or 'closed'} into {str(self.folder.root)!r}>"


def _listing_url(base_url: str, listing_url: str | None) -> str:
    chosen = listing_url or os.environ.get("CKVD_VISION_LISTING_URL")
    return chosen or (VISION_LISTING_URL if base_url.rstrip("/") == VISION_URL else base_url)

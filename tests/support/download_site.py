"""`DownloadSite`: a mirror on loopback, an empty cache, and the real client between them."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Self, TypeVar

import ckvd
from ckvd.model.timespan import parse_time
from ckvd.network.retry import RetryPolicy
from support.archives import make_archive, path_of
from support.loopback.mirror import LISTING_PATH, Mirror, publish

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path
    from types import TracebackType

    from ckvd.acquisition.report import DownloadReport, Progress

_T = TypeVar("_T")

# Every archive of the samples is published by then.
NOW_MS = parse_time("2025-11-20T12:00")
ATTEMPTS_MAX = 3


class DownloadSite:
    """A folder served as a mirror, and an empty cache. A context manager: the mirror is served inside.

    Parameters
    ----------
    root : Path
        The folder that holds `data/`.
    cache : Path
        The folder of the cache.
    mirror_options
        Passed on to `Mirror`.
    """

    def __init__(self, root: Path, cache: Path, **mirror_options: Any) -> None:
        self.root = root
        self.cache = cache
        self.mirror = Mirror(root, **mirror_options)

    def __enter__(self) -> Self:
        self.mirror.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.mirror.__exit__(kind, error, traceback)

    def client(self, *, has_listing: bool = True, **options: Any) -> ckvd.VisionDataClient:
        """A client that does not wait between attempts. Its clock stands still."""
        defaults: dict[str, Any] = {
            "base_url": self.mirror.base_url,
            "cache": self.cache,
            "listing_url": self.mirror.listing_url if has_listing else self.mirror.base_url + "/no-listing",
            "clock": lambda: NOW_MS,
            "retry": RetryPolicy(ATTEMPTS_MAX, backoff_first_s=0),
        }
        return ckvd.VisionDataClient(**(defaults | options))

    def run(self, use: Callable[[ckvd.VisionDataClient], Awaitable[_T]], **options: Any) -> _T:
        """Run a coroutine that uses a client."""

        async def main() -> _T:
            async with self.client(**options) as client:
                return await use(client)

        return asyncio.run(main())

    def download(
        self,
        symbols: str | list[str],
        interval: str,
        start: str,
        end: str,
        *,
        market: str = "spot",
        kind: str = "klines",
        on_progress: Callable[[Progress], None] | None = None,
        **options: Any,
    ) -> DownloadReport:
        """One download by a client of its own."""
        return self.run(
            lambda client: client.download(
                symbols, interval, start=start, end=end, market=market, kind=kind, on_progress=on_progress
            ),
            **options,
        )

    def publish(self, symbol: str, interval: str, *labels: str) -> None:
        """Put archives made by hand into the mirror."""
        for label in labels:
            path = path_of(symbol, interval, label)
            publish(self.root, path, make_archive(path))

    # --- What was asked ------------------------------------------------------------------------------------

    def forget_requests(self) -> None:
        self.mirror.server.requests.clear()

    @property
    def asked(self) -> list[str]:
        """The file names of the requested archives, in order, with repetitions."""
        return [name for name in self._file_names if name.endswith(".zip")]

    @property
    def checksums_asked(self) -> list[str]:
        """The same for CHECKSUM files."""
        return [name for name in self._file_names if name.endswith(".CHECKSUM")]

    @property
    def listing_count(self) -> int:
        """The number of requested pages of listings."""
        return self.mirror.count(LISTING_PATH)

    @property
    def _file_names(self) -> list[str]:
        return [request.path.rpartition("/")[2] for request in self.mirror.server.requests]

    # --- What is there now ---------------------------------------------------------------------------------

    def read(self, symbol: str, interval: str, start: str, end: str, **names: Any) -> ckvd.Klines:
        with ckvd.open_cache(self.cache) as cache:
            return cache.read(symbol, interval, start=start, end=end, **names)

    def covered(self, symbol: str, interval: str) -> list[str]:
        """The spans of a series that the cache covers."""
        with ckvd.open_cache(self.cache) as cache:
            return [str(span) for span in cache.coverage(ckvd.SeriesKey.of(symbol, interval))]

    @property
    def leftovers(self) -> list[str]:
        return leftovers(self.cache)


def leftovers(cache: Path) -> list[str]:
    """What a download keeps in a cache folder while it runs. Nothing of it may be left afterwards."""
    return sorted(
        path.relative_to(cache).as_posix()
        for path in cache.rglob("*")
        if path.name.startswith(".download-") or path.suffix in (".part", ".tmp")
    )

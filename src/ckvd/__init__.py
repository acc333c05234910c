"""A memory-mapped local cache of Binance klines: verified archives in, zero-copy numpy arrays out.

Reading needs nothing but numpy::

    with ckvd.open_cache("~/klines") as cache:
        klines = cache.read("BTCUSDT", "1m", start="2023-01-01", end="2024-01-01", market="spot")

Fetching, resampling and panels are loaded when they are first used, so that a backtest that only reads never loads
HTTP.

The rooms of the package stand on eight floors, and each imports from lower floors only:

====  ==================================================================================================
8     `__main__`
7     this module (public names), `cli`
6     `api` (fetching), `maintenance` (keeping a cache true)
5     `acquisition` (from what a user wants to segments in the cache)
4     `cache` (a folder of segments), `rest` (the REST interface), `vision` (where archives come from)
3     `bars` (what a backtest holds), `decode` (text to columns), `segment` (files), `network` (HTTP)
2     `model` (what things are), `lifecycle`, `concurrency`
1     `errors`, `inflate`, `version`, `utils`
====  ==================================================================================================

Glossary
--------
absence
    A span without bars, with the reason, and when to ask again.
coverage
    The spans that the segments of a series answer for, as bars or as absences.
data lock
    A file that pins a data set by the content hash of each span: another machine can check that it has the same
    bars.
gap
    Missing bars of the grid, one after the other, for one reason.
grid
    Where the bars of a series open: the points of the calendar, or of 3d bars the days that the series itself has.
healing
    Filling the holes of an archive from a daily archive and the REST interface, bar by bar.
packing
    Compaction: merging closed history into large segments, so that years of a series are one view.
provisional
    Of the REST interface, and to be replaced when the archive of the span appears.
quarantine
    The folder for files that cannot be believed. They are kept, with the reason, and can be restored.
resolution
    Finding the segment that wins at each moment of a span: the one with the highest revision that covers it.
revision
    The number of a segment within its series. A higher one wins, and none is taken twice.
segment
    An immutable file of the bars of one series in one span, with checksums, sources and absences.
series
    Market, kind, symbol and interval.
span
    A half-open stretch of time: the start is included, the end is not.
tombstone
    An empty segment that hides older ones below a segment in quarantine.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ckvd.bars.klines import Klines
from ckvd.cache import KlineCache, open_cache
from ckvd.errors import (
    ArchiveError,
    CacheBusyError,
    CacheError,
    CkvdError,
    ClientClosedError,
    ColumnError,
    ExportError,
    IdentityError,
    NetworkError,
    NotCachedError,
    NotFetchedError,
    SegmentCorruptError,
    SegmentError,
    TimeError,
)
from ckvd.model.market import Interval, Kind, Market, SeriesKey
from ckvd.model.provenance import Gap, Reason, Source
from ckvd.model.table import BarFlag
from ckvd.model.timespan import Span
from ckvd.segment import SegmentReader, SegmentWriter
from ckvd.version import __version__ as __version__

if TYPE_CHECKING:
    from ckvd.acquisition.report import DownloadReport
    from ckvd.api.crypto_kline_vision_data import CryptoKlineVisionData
    from ckvd.api.synchronous import ensure, get_klines
    from ckvd.api.vision_data_client import VisionDataClient
    from ckvd.bars.panel import Panel
    from ckvd.bars.resample import ResampledKlines
    from ckvd.rest.rest_data_client import RestDataClient

_LAZY = {
    "CryptoKlineVisionData": "ckvd.api.crypto_kline_vision_data",
    "DownloadReport": "ckvd.acquisition.report",
    "Panel": "ckvd.bars.panel",
    "ResampledKlines": "ckvd.bars.resample",
    "RestDataClient": "ckvd.rest.rest_data_client",
    "VisionDataClient": "ckvd.api.vision_data_client",
    "ensure": "ckvd.api.synchronous",
    "get_klines": "ckvd.api.synchronous",
}

__all__ = [
    "ArchiveError",
    "BarFlag",
    "CacheBusyError",
    "CacheError",
    "CkvdError",
    "ClientClosedError",
    "ColumnError",
    "CryptoKlineVisionData",
    "DownloadReport",
    "ExportError",
    "Gap",
    "IdentityError",
    "Interval",
    "Kind",
    "KlineCache",
    "Klines",
    "Market",
    "NetworkError",
    "NotCachedError",
    "NotFetchedError",
    "Panel",
    "Reason",
    "ResampledKlines",
    "RestDataClient",
    "SegmentCorruptError",
    "SegmentError",
    "SegmentReader",
    "SegmentWriter",
    "SeriesKey",
    "Source",
    "Span",
    "TimeError",
    "VisionDataClient",
    "ensure",
    "get_klines",
    "open_cache",
]


def __getattr__(name: str) -> Any:
    module = _LAZY.get(name)
    if module is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module  # noqa: PLC0415  (only for what is not loaded yet)

    value = globals()[name] = getattr(import_module(module), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_LAZY})

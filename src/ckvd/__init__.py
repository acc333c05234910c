"""A memory-mapped local cache of Binance klines: verified archives in, zero-copy numpy arrays out.

Reading needs nothing but numpy::

    with ckvd.open_cache("~/klines") as cache:
        klines = cache.read("BTCUSDT", "1m", start="2023-01-01", end="2024-01-01", market="spot")

What fetches, resamples or makes panels is loaded when it is first used, so that a backtest that only reads stays
free of HTTP.
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

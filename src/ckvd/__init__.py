"""A memory-mapped local cache of Binance klines: verified archives in, zero-copy numpy arrays out.

Reading needs nothing but numpy::

    with ckvd.open_cache("~/klines") as cache:
        klines = cache.read("BTCUSDT", "1m", start="2023-01-01", end="2024-01-01", market="spot")

Importing it loads nothing: each name loads its module when it is first used. So a backtest that only reads never
loads HTTP, and the command handles Ctrl-C before numpy is loaded.

The rooms of the package stand on eight floors, and each imports from lower floors only:

====  ==================================================================================================
8     `__main__`
7     this module (public names), `cli`
6     `api` (fetching), `maintenance` (keeping a cache true)
5     `acquisition` (from what a user wants to segments in the cache), `universe` (who was listed when)
4     `cache` (a folder of segments), `rest` (the REST interface), `vision` (where archives come from)
3     `bars` (what a backtest holds), `decode` (text to columns), `segment` (files), `network` (HTTP)
2     `model` (what things are), `lifecycle`, `concurrency`, `regular_file`
1     `errors`, `platforms` (what differs between them), `version`, `utils`
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
life
    One incarnation of a symbol, from its listing to its end. A ticker may live twice.
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
snapshot
    The lives of a market as they were known at one time, in an immutable file.
span
    A half-open stretch of time: the start is included, the end is not.
tombstone
    An empty segment that hides older ones below a segment in quarantine.
universe
    Lives of a market, chosen by date and by what they are.
"""

# Nothing is loaded when this module runs, not even `annotations`: here Ctrl-C still has Python's traceback. `os` is
# there already. Type checkers take the name as true.
TYPE_CHECKING = False

import os  # noqa: E402
import sys  # noqa: E402

if TYPE_CHECKING:
    from ckvd.acquisition.report import DownloadPlan, DownloadReport
    from ckvd.api.crypto_kline_vision_data import CryptoKlineVisionData
    from ckvd.api.synchronous import ensure, get_funding, get_klines, get_metrics, update
    from ckvd.api.vision_data_client import VisionDataClient
    from ckvd.bars.funding import Funding
    from ckvd.bars.klines import Klines
    from ckvd.bars.metrics import Metrics
    from ckvd.bars.panel import CellReason, Panel
    from ckvd.bars.resample import ResampledKlines
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
        NoSnapshotError,
        NotCachedError,
        NotFetchedError,
        SegmentCorruptError,
        SegmentError,
        SnapshotError,
        TimeError,
        UnknownLifeError,
        WorkerDiedError,
    )
    from ckvd.model.life import Life
    from ckvd.model.market import Interval, Kind, Market, SeriesKey
    from ckvd.model.provenance import Gap, Reason, Source
    from ckvd.model.table import BarFlag
    from ckvd.model.timespan import Span
    from ckvd.model.universe import Universe
    from ckvd.rest.rest_data_client import RestDataClient
    from ckvd.segment import SegmentReader, SegmentWriter
    from ckvd.version import __version__ as __version__

# Where each public name lives.
_NAMES_BY_MODULE = {
    "ckvd.acquisition.report": ("DownloadPlan", "DownloadReport"),
    "ckvd.api.crypto_kline_vision_data": ("CryptoKlineVisionData",),
    "ckvd.api.synchronous": ("ensure", "get_funding", "get_klines", "get_metrics", "update"),
    "ckvd.api.vision_data_client": ("VisionDataClient",),
    "ckvd.bars.funding": ("Funding",),
    "ckvd.bars.klines": ("Klines",),
    "ckvd.bars.metrics": ("Metrics",),
    "ckvd.bars.panel": ("CellReason", "Panel"),
    "ckvd.bars.resample": ("ResampledKlines",),
    "ckvd.cache": ("KlineCache", "open_cache"),
    "ckvd.errors": (
        "ArchiveError",
        "CacheBusyError",
        "CacheError",
        "CkvdError",
        "ClientClosedError",
        "ColumnError",
        "ExportError",
        "IdentityError",
        "NetworkError",
        "NoSnapshotError",
        "NotCachedError",
        "NotFetchedError",
        "SegmentCorruptError",
        "SegmentError",
        "SnapshotError",
        "TimeError",
        "UnknownLifeError",
        "WorkerDiedError",
    ),
    "ckvd.model.life": ("Life",),
    "ckvd.model.market": ("Interval", "Kind", "Market", "SeriesKey"),
    "ckvd.model.provenance": ("Gap", "Reason", "Source"),
    "ckvd.model.table": ("BarFlag",),
    "ckvd.model.timespan": ("Span",),
    "ckvd.model.universe": ("Universe",),
    "ckvd.rest.rest_data_client": ("RestDataClient",),
    "ckvd.segment": ("SegmentReader", "SegmentWriter"),
    "ckvd.version": ("__version__",),
}
_MODULES = {name: module for module, names in _NAMES_BY_MODULE.items() for name in names}

# What lies in the folder of the package.
_ROOMS = frozenset(
    (
        *("acquisition", "api", "bars", "cache", "cli", "concurrency", "decode", "maintenance", "model", "network"),
        *("platforms", "rest", "segment", "universe", "utils", "vision"),
    )
)
_FILES = frozenset(("__init__", "__main__", "errors", "lifecycle", "regular_file", "version"))


__all__ = [
    "ArchiveError",
    "BarFlag",
    "CacheBusyError",
    "CacheError",
    "CellReason",
    "CkvdError",
    "ClientClosedError",
    "ColumnError",
    "CryptoKlineVisionData",
    "DownloadPlan",
    "DownloadReport",
    "ExportError",
    "Funding",
    "Gap",
    "IdentityError",
    "Interval",
    "Kind",
    "KlineCache",
    "Klines",
    "Life",
    "Market",
    "Metrics",
    "NetworkError",
    "NoSnapshotError",
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
    "SnapshotError",
    "Source",
    "Span",
    "TimeError",
    "Universe",
    "UnknownLifeError",
    "VisionDataClient",
    "WorkerDiedError",
    "ensure",
    "get_funding",
    "get_klines",
    "get_metrics",
    "open_cache",
    "update",
]


if not TYPE_CHECKING:  # For a type checker, a name that is not there is an error.

    def __getattr__(name: str) -> "object":
        from importlib import import_module  # noqa: PLC0415  (only for what is not loaded yet)

        if name in _ROOMS or name in _FILES:  # as in `except ckvd.errors.ArchiveError`
            return import_module(f"{__name__}.{name}")
        module = _MODULES.get(name)
        if module is None:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        value = globals()[name] = getattr(import_module(module), name)
        return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_MODULES, *_ROOMS, *_FILES})


def _refuse_foreign_modules(folder: str) -> None:
    """Refuse to work in a folder that holds modules of another package: which of two files is there is chance."""
    with os.scandir(folder) as entries:
        found = {entry.name.removesuffix(".py") for entry in entries if _is_module(entry)}
    if foreign := sorted(found - _ROOMS - _FILES):
        from ckvd.errors import ForeignModulesError  # noqa: PLC0415

        raise ForeignModulesError(folder, foreign)


def _is_module(entry: "os.DirEntry[str]") -> bool:
    return entry.name.endswith(".py") or ("." not in entry.name and entry.name != "__pycache__" and entry.is_dir())


if sys.platform == "win32":
    from ckvd.errors import PlatformError

    raise PlatformError
_refuse_foreign_modules(os.path.dirname(__file__))  # noqa: PTH120 - pathlib takes longer to load than all of this

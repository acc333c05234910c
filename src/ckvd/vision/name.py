"""The identity of an archive, and its path under the root of a mirror. Pure.

A path of bars is `data/{spot | futures/um | futures/cm}/{monthly | daily}/{kind}/{SYMBOL}/{interval}/{NAME}.zip`.
All kinds of bars of one contract share the file name and differ in the folder only. Funding rates and metrics have
no folder of an interval, and their kind stands in the file name where bars have the interval.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final
from urllib.parse import quote, unquote

from ckvd.model.calendar import Cadence, Period
from ckvd.model.market import Kind, Market, SeriesKey

_MARKET_FOLDERS: Final = {Market.SPOT: "spot", Market.UM: "futures/um", Market.CM: "futures/cm"}
_MARKETS: Final = {folder: market for market, folder in _MARKET_FOLDERS.items()}
_PATH: Final = re.compile(
    r"data/(?P<market>spot|futures/um|futures/cm)/(?P<cadence>monthly|daily)/(?P<kind>[^/]+)"
    r"/(?P<symbol>[^/]+)/(?:(?P<interval>[^/]+)/)?(?P=symbol)-(?P<label>[^-/]+)-(?P<period>[-0-9]+)\.zip"
)


@dataclass(frozen=True, slots=True, order=True)
class ArchiveName:
    """One archive of Binance Vision.

    Attributes
    ----------
    series : SeriesKey
    period : Period
        The month or day of its bars.
    path : str
        Its path under the root of a mirror, not percent-encoded. Made from the other two, unless a listing spells
        it differently (`2020-8` for `2020-08`).
    """

    series: SeriesKey
    period: Period
    path: str = ""

    def __post_init__(self) -> None:
        if not self.path:
            folder = archive_folder(self.series, self.period.cadence)
            stem = f"{self.series.symbol}-{self.series.archive_label}-{self.period.label}"
            object.__setattr__(self, "path", f"{folder}{stem}.zip")

    @classmethod
    def of_path(cls, path: str) -> ArchiveName | None:
        """Read a path under the root of a mirror, percent-encoded or not.

        Returns
        -------
        ArchiveName or None
            None if the path is not that of an archive that ckvd reads (a CHECKSUM, trades, an unknown kind).
        """
        path = unquote(path)
        match = _PATH.fullmatch(path)
        if match is None:
            return None
        try:
            kind = Kind(match["kind"])
            series = SeriesKey.of(match["symbol"], match["interval"], market=_MARKETS[match["market"]], kind=kind)
            period = Period.of_label(match["period"])
        except ValueError:  # an invalid kind, series or period
            return None
        is_in_place = unquote(archive_folder(series, period.cadence)) == path[: path.rindex("/") + 1]
        return cls(series, period, path) if is_in_place and series.archive_label == match["label"] else None

    @property
    def file_name(self) -> str:
        """The last part of the path, `BTCUSDT-1m-2024-01.zip`."""
        return self.path.rpartition("/")[2]

    @property
    def checksum_path(self) -> str:
        """The path of its CHECKSUM file."""
        return self.path + ".CHECKSUM"

    def __str__(self) -> str:
        return self.path


def archive_folder(series: SeriesKey, cadence: Cadence) -> str:
    """The folder of the archives of a series, under the root of a mirror, with a slash at the end."""
    market = _MARKET_FOLDERS[series.market]
    folder = f"data/{market}/{cadence}/{series.kind}/{series.symbol}/"
    return f"{folder}{series.interval}/" if series.kind.is_bars else folder


def symbols_folder(market: Market, kind: Kind, cadence: Cadence) -> str:
    """The folder of the symbols of a market, under the root of a mirror, with a slash at the end."""
    return f"data/{_MARKET_FOLDERS[market]}/{cadence}/{kind}/"


def url_of(base_url: str, path: str) -> str:
    """The address of a path under the root of a mirror, percent-encoded."""
    return f"{base_url.rstrip('/')}/{quote(path)}"

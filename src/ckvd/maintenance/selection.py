"""Choosing series of a cache: `SeriesFilter`."""

from __future__ import annotations

from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from ckvd.cache.folder import CacheFolder
    from ckvd.errors import CkvdError
    from ckvd.model.market import Interval, Kind, Market, SeriesKey


@dataclass(frozen=True, slots=True)
class SeriesFilter:
    """Which series to work on: those that match every field. An empty field matches all.

    Attributes
    ----------
    markets : tuple of Market
    kinds : tuple of Kind
    symbols : tuple of str
        Patterns: `*` matches any text, `?` one character, and `[AB]` one of these.
    intervals : tuple of Interval
    """

    markets: tuple[Market, ...] = ()
    kinds: tuple[Kind, ...] = ()
    symbols: tuple[str, ...] = ()
    intervals: tuple[Interval, ...] = ()

    @classmethod
    def of(cls, series: SeriesKey) -> SeriesFilter:
        """The filter that only one series matches."""
        return cls(
            (series.market,), (series.kind,), (series.symbol,), (series.interval,) if series.interval else ()
        )

    def __contains__(self, series: SeriesKey) -> bool:
        return (
            (not self.markets or series.market in self.markets)
            and (not self.kinds or series.kind in self.kinds)
            and (not self.intervals or series.interval in self.intervals)
            and (not self.symbols or any(fnmatchcase(series.symbol, symbol.upper()) for symbol in self.symbols))
        )

    def choose(self, folder: CacheFolder, refuse: Callable[[CkvdError], None] | None = None) -> list[SeriesKey]:
        """The series of a cache that match, in order. `refuse` and errors: see `CacheFolder.series`."""
        return [series for series in folder.series(refuse) if series in self]


EVERYTHING = SeriesFilter()

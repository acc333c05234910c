"""Choosing series of a cache: `SeriesFilter`."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, TypeAlias

from ckvd.model.market import Interval, Kind, Market, parse_interval, parse_kind, parse_market

if TYPE_CHECKING:
    from collections.abc import Callable

    from ckvd.cache.folder import CacheFolder
    from ckvd.errors import CkvdError
    from ckvd.model.market import SeriesKey

# None for all, a text for one, or several.
Choice: TypeAlias = str | Iterable[str] | None


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

    @classmethod
    def parse(
        cls, *, symbols: Choice = None, markets: Choice = None, kinds: Choice = None, intervals: Choice = None
    ) -> SeriesFilter:
        """The filter of some text: each field a text, several, or None for all.

        Raises
        ------
        IdentityError
            A market, kind or interval is unknown.
        """
        return cls(
            tuple(map(parse_market, _several(markets))),
            tuple(map(parse_kind, _several(kinds))),
            _several(symbols),
            tuple(map(parse_interval, _several(intervals))),
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


def _several(choice: Choice) -> tuple[str, ...]:
    return () if choice is None else (choice,) if isinstance(choice, str) else tuple(choice)


EVERYTHING = SeriesFilter()

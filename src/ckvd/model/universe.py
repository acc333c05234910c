"""`Universe`: lives that were chosen by date and by what they are, and the keys that name them. Pure.

A backtest chooses by the dates of lives in the newest snapshot, so that a first snapshot made today answers for
2023. `as_of` takes an older snapshot: what was known then.
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from functools import cached_property
from typing import TYPE_CHECKING, Any, Final, Literal, Protocol, TypeAlias, overload

from ckvd.errors import IdentityError, UnknownLifeError
from ckvd.model.life import EndSource, LastTrade, Life, keys_of
from ckvd.model.market import DAY_MS, ContractType, Market
from ckvd.model.record import Record, as_json
from ckvd.model.timespan import Span, TimeLike, format_time, parse_time

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping


Leveraged: TypeAlias = Literal["include", "exclude", "only"]
OneOrMore: TypeAlias = "str | Iterable[str] | None"

_NEAR_NAMES: Final = 3
_LATEST_MS: Final = 1 << 62


class TradeReader(Protocol):
    """What tells when a life traded last. An open `KlineCache` is one."""

    def last_trade(self, life: Life) -> LastTrade | None:
        """The last bar of a life that traded, or None if there is no such bar."""
        ...


@dataclass(frozen=True)
class Universe(Record):
    """Lives of one market, like a sequence, in order of ticker and time. It is immutable.

    `lives[3]` is a life and `lives[1:3]` a choice of two. `lives["BTCUSDT"]` is the life of a ticker, or of an
    archive name, and `lives["BNXUSDT@2022-04-01"]` that of a ticker that began on a day. `in` takes all of these.

    Attributes
    ----------
    market : Market
    lives : tuple of Life
    made_ms : int
        When the snapshot was made that they are from, milliseconds.
    snapshot : str
        The name of its file.
    """

    market: Market
    lives: tuple[Life, ...]
    made_ms: int
    snapshot: str = ""

    @cached_property
    def keys(self) -> tuple[str, ...]:
        """The key of each life: its ticker where that is unique here, else `TICKER@YYYY-MM-DD`, its first day."""
        return keys_of(self.lives)

    @cached_property
    def _found(self) -> Mapping[str, tuple[Life, ...]]:
        """The lives by all names that they have."""
        found: dict[str, tuple[Life, ...]] = {}
        for life in self.lives:
            for name in {life.ticker, life.symbol, life.dated_key}:
                found[name] = (*found.get(name, ()), life)
        return found

    @property
    def symbols(self) -> tuple[str, ...]:
        """The archive names of all lives, each once, in order."""
        return tuple(dict.fromkeys(life.symbol for life in self.lives))

    def __len__(self) -> int:
        return len(self.lives)

    def __iter__(self) -> Iterator[Life]:
        return iter(self.lives)

    def __contains__(self, life: object) -> bool:
        return life in self._found if isinstance(life, str) else life in self.lives

    @overload
    def __getitem__(self, key: int | str) -> Life: ...

    @overload
    def __getitem__(self, key: slice) -> Universe: ...

    def __getitem__(self, key: int | str | slice) -> Life | Universe:
        """A life by position or name, or a choice by a slice.

        Raises
        ------
        UnknownLifeError
            No life here has that name, or more than one has. The error names those that do, or near ones.
        """
        if isinstance(key, slice):
            return replace(self, lives=self.lives[key])
        if isinstance(key, int):
            return self.lives[key]
        found = self._found.get(key, ())
        if len(found) == 1:
            return found[0]
        if found:
            names = ", ".join(life.dated_key for life in found)
            raise UnknownLifeError(
                f"{key} names {len(found)} lives of {self.market}: choose one of {names}",
                tuple(life.dated_key for life in found),
            )
        near = tuple(difflib.get_close_matches(str(key), [*self.keys, *self._found], n=_NEAR_NAMES))
        near = tuple(dict.fromkeys(near))
        meant = f"; did you mean {', '.join(near)}?" if near else ""
        raise UnknownLifeError(f"no life of {self.market} that was chosen is {key!r}{meant}", near)

    def filter(
        self,
        *,
        on: TimeLike | None = None,
        start: TimeLike | None = None,
        end: TimeLike | None = None,
        quote: OneOrMore = None,
        base: OneOrMore = None,
        contract: OneOrMore = None,
        names: OneOrMore = None,
        leveraged: Leveraged = "include",
        listed_days_min: int | None = None,
    ) -> Universe:
        """Choose some of these lives.

        Parameters
        ----------
        on : time, optional
            Alive on that day, or, if it is no midnight, at that moment. See `parse_time`.
        start, end : time, optional
            Alive at any time from `start` to before `end`; one of them may be left out.
        quote, base : str or iterable of str, optional
            `base` is as the exchange writes it, or without its multiplier: `1000PEPE` or `PEPE`.
        contract : str or iterable of str, optional
            Of `ContractType`: `spot`, `perpetual`, `tradfi perpetual`, `quarterly`.
        names : str or iterable of str, optional
            Patterns of tickers, symbols or keys: `BTC*`.
        leveraged : {"include", "exclude", "only"}
            Leveraged tokens of spot, such as BTCUPUSDT.
        listed_days_min : int, optional
            Lived for so many days by then: before `on`, before `end`, or before the snapshot was made; in a span
            and after an end, the days of the life.

        Returns
        -------
        Universe

        Raises
        ------
        TimeError
            A time is invalid, or the end is before the start.
        IdentityError
            There is no such contract type.
        ValueError
            Both a day and a span are given, or `leveraged` is none of the three.
        """
        span = _span_of(on, start, end)
        if leveraged not in ("include", "exclude", "only"):
            raise ValueError(f'leveraged is "include", "exclude" or "only", not {leveraged!r}')
        by_ms = self.made_ms
        if span is not None:
            by_ms = span.start_ms if on is not None else min(span.end_ms, max(self.made_ms, span.start_ms))
        quotes, bases, patterns = _set_of(quote), _set_of(base), _set_of(names)
        kinds = None if contract is None else {_contract_type(one) for one in _set_of(contract) or ()}
        chosen = [
            life
            for life in self.lives
            if (span is None or life.overlaps(span))
            and (quotes is None or life.quote in quotes)
            and (bases is None or life.base in bases or life.coin in bases)
            and (kinds is None or life.contract in kinds)
            and (leveraged == "include" or life.is_leveraged == (leveraged == "only"))
            and (listed_days_min is None or _days(life, by_ms) >= listed_days_min)
        ]
        if patterns is not None:
            keys = keys_of(chosen)
            named = zip(chosen, keys, strict=True)
            chosen = [
                life for life, key in named if _is_named(patterns, (key, life.ticker, life.symbol, life.dated_key))
            ]
        return replace(self, lives=tuple(chosen))

    def last_traded(self, cache: TradeReader) -> Universe:
        """The same lives, with what the bars of a cache tell of their ends.

        `last_traded_ms` of each life is when the last bar that traded opens, by the shortest interval that the
        cache holds of it; None where it holds none. Where bars without a trade follow it for a day or more, and the
        end of the life was an upper bound, the end becomes that of the bar.
        """
        return replace(self, lives=tuple(_with_trade(life, cache.last_trade(life)) for life in self.lives))

    def to_json(self) -> dict[str, Any]:
        """A JSON object: market, snapshot, and the lives with their keys."""
        keyed = zip(self.keys, self.lives, strict=True)
        return {
            "market": self.market.value,
            "made_ms": self.made_ms,
            "snapshot": self.snapshot,
            "lives": [{"key": key, **as_json(life)} for key, life in keyed],
        }

    def __repr__(self) -> str:
        return f"<Universe of {self.market}: {len(self)} lives, as known at {format_time(self.made_ms)}>"


def _span_of(on: TimeLike | None, start: TimeLike | None, end: TimeLike | None) -> Span | None:
    if on is not None:
        if start is not None or end is not None:
            raise ValueError("choose lives on a day (on) or in a span (start, end), not by both")
        moment_ms = parse_time(on)
        return Span(moment_ms, moment_ms + (1 if moment_ms % DAY_MS else DAY_MS))
    if start is None and end is None:
        return None
    return Span(0 if start is None else parse_time(start), _LATEST_MS if end is None else parse_time(end))


def _set_of(given: OneOrMore) -> frozenset[str] | None:
    return None if given is None else frozenset((given,) if isinstance(given, str) else given)


def _contract_type(word: str) -> ContractType:
    try:
        return ContractType(word)
    except ValueError:
        known = ", ".join(ContractType)
        raise IdentityError(f"unknown contract type {word!r}: expected one of {known}") from None


def _days(life: Life, by_ms: int) -> int:
    end_ms = by_ms if life.end_ms is None else min(by_ms, life.end_ms)
    return (end_ms - life.first_ms) // DAY_MS


def _is_named(patterns: Iterable[str], names: Iterable[str]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns for name in names)


def _with_trade(life: Life, trade: LastTrade | None) -> Life:
    if trade is None:
        return life
    if trade.is_followed and (life.end_ms is None or life.end_is_bound):
        return replace(life, last_traded_ms=trade.open_ms, end_ms=trade.end_ms, end_source=EndSource.LAST_TRADED)
    return replace(life, last_traded_ms=trade.open_ms)

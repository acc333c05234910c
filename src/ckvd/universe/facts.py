"""What the publisher announced about lives, where neither listings nor `exchangeInfo` tell it any more. A table.

A life is here only if its dates were announced, or seen in bars. Where only a day was announced, an end is the end
of that day. Whoever adds one names the source.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from ckvd.model.life import EndReason
from ckvd.model.market import DAY_MS, Market
from ckvd.model.timespan import parse_time


@dataclass(frozen=True, slots=True)
class KnownLife:
    """A life of a ticker that is known.

    Attributes
    ----------
    market : Market
    ticker : str
    first_ms : int
        Milliseconds. Archives may begin before it.
    end_ms : int or None
        None if it did not end, or its end is found elsewhere.
    end_reason : EndReason
    """

    market: Market
    ticker: str
    first_ms: int
    end_ms: int | None = None
    end_reason: EndReason = EndReason.ALIVE


def _known(
    market: Market, ticker: str, first: str, end: str | None = None, reason: EndReason = EndReason.DELISTED
) -> KnownLife:
    if end is None:
        return KnownLife(market, ticker, parse_time(first))
    return KnownLife(market, ticker, parse_time(first), parse_time(end), reason)


KNOWN_LIVES: Final = (
    # Announced by the exchange: the old contract was delisted on 2023-02-11 at 04:00 UTC, one of the same name
    # listed on 2023-02-22 at 14:45 UTC, and delisted on 2025-03-17. The listing of the archives begins on
    # 2022-04-01. `exchangeInfo` of 2025-10-17 has it as PENDING_TRADING, with a listing date of 2025-03-21.
    _known(Market.UM, "BNXUSDT", "2022-04-01", "2023-02-11T04:00Z", EndReason.SETTLED),
    _known(Market.UM, "BNXUSDT", "2023-02-22T14:45Z", "2025-03-18"),
    # Announced by the exchange: delisted on 2022-06-10, listed again on 2022-09-27. The listing of the archives
    # begins on 2021-05-11, and the old contract has a folder ICPUSDT_SETTLED.
    _known(Market.UM, "ICPUSDT", "2021-05-11", "2022-06-11", EndReason.SETTLED),
    _known(Market.UM, "ICPUSDT", "2022-09-27"),
    # The coin became LUNC, and another coin is LUNA since the new chain of 2022-05-28. In the bars of an hour, the
    # last of the old one opens on 2022-05-13 at 00:00, the first of the new one, at a price of 1.0, on 2022-05-31
    # at 06:00. The listing of the archives begins on 2020-08-21.
    _known(Market.SPOT, "LUNAUSDT", "2020-08-21", "2022-05-13T01:00Z", EndReason.RENAMED),
    _known(Market.SPOT, "LUNAUSDT", "2022-05-31T06:00Z"),
)

# Coins that the exchange renamed, by its announcements, and the first archive of the new name in spot. A new name
# is a new life, and is never spliced. Pairs that ended long before, such as those with BUSD, had other reasons.
RENAMED_COINS: Final = {
    "TOMO": ("VIC", parse_time("2023-11-24")),
    "RNDR": ("RENDER", parse_time("2024-07-26")),
    "MATIC": ("POL", parse_time("2024-09-13")),
}
_RENAMING_MS: Final = 30 * DAY_MS
# The old LUNA goes on as LUNC, whose archives of spot begin on 2022-09-09.
_RENAMED_LUNA: Final = (Market.SPOT, "LUNAUSDT", parse_time("2022-05-28"), "LUNCUSDT")


def known_lives(market: Market, ticker: str) -> tuple[KnownLife, ...]:
    """The known lives of a ticker, in order."""
    return tuple(life for life in KNOWN_LIVES if (life.market, life.ticker) == (market, ticker))


def successor_of(market: Market, ticker: str, base: str, quote: str, end_ms: int) -> str:
    """The ticker under which the coin of a life was listed after its end; empty if it was not renamed."""
    if (market, ticker) == _RENAMED_LUNA[:2] and end_ms < _RENAMED_LUNA[2]:
        return _RENAMED_LUNA[3]
    name, renamed_ms = RENAMED_COINS.get(base, ("", 0))
    return f"{name}{quote}" if name and end_ms >= renamed_ms - _RENAMING_MS else ""

"""Choosing lives by date and by what they are, and the keys that name them, against an independent model."""

from __future__ import annotations

from fnmatch import fnmatchcase
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import ckvd
from ckvd.errors import IdentityError, TimeError, UnknownLifeError
from ckvd.model.life import EndSource, LastTrade, Life, keys_of
from ckvd.model.market import DAY_MS, ContractType, Interval, Market
from ckvd.model.timespan import Span, parse_time
from ckvd.model.universe import Universe
from support.universes import life

MADE_MS = parse_time("2026-01-01")
BNX = (
    life("BNXUSDT", "2022-04-01", "2023-02-11T04:00Z"),
    life("BNXUSDT", "2023-02-22T14:45Z", "2025-03-18", previous_end_ms=parse_time("2023-02-11T04:00Z")),
)
BTC = life("BTCUSDT", "2019-12-31")


def universe(*lives: Life) -> Universe:
    return Universe(Market.UM, tuple(sorted(lives)), MADE_MS)


# --- Against a model ---------------------------------------------------------------------------------------

HOURS = st.integers(0, 60 * 24).map(lambda hour: parse_time("2025-12-01") + hour * 3_600_000)


@st.composite
def chains(draw: st.DrawFn) -> list[Life]:
    """Lives of some tickers, those of one after the other."""
    lives = []
    for ticker in draw(
        st.lists(st.sampled_from(["AUSDT", "ABUSDT", "1000CUSDT", "DUPBTC"]), max_size=4, unique=True)
    ):
        bounds = sorted(draw(st.lists(HOURS, max_size=6, unique=True)))
        for first_ms, end_ms in zip(bounds[::2], [*bounds[1::2], None], strict=False):
            quote = ticker[-3:] if ticker.endswith("BTC") else "USDT"
            lives.append(
                life(
                    ticker,
                    "2020-01-01",
                    quote=quote,
                    base=ticker.removesuffix(quote),
                    multiplier=1000 if ticker.startswith("1000") else 1,
                    is_leveraged=ticker.startswith("DUP"),
                    contract=draw(st.sampled_from([ContractType.PERPETUAL, ContractType.QUARTERLY])),
                )
            )
            object.__setattr__(lives[-1], "first_ms", first_ms)
            object.__setattr__(lives[-1], "end_ms", end_ms)
    return sorted(lives)


def is_alive(one: Life, moments: range) -> bool:
    return any(one.first_ms <= moment and (one.end_ms is None or moment < one.end_ms) for moment in moments)


@given(chains(), st.data())
def test_lives_are_chosen_by_date_as_looking_at_every_hour_chooses_them(
    lives: list[Life], data: st.DataObject
) -> None:
    whole = universe(*lives)
    at_ms = data.draw(HOURS)
    hour = 3_600_000
    day = range(at_ms, at_ms + (1 if at_ms % DAY_MS else DAY_MS), hour)
    assert list(whole.filter(on=at_ms)) == [one for one in lives if is_alive(one, day)]
    end_ms = data.draw(HOURS.filter(lambda end_ms: end_ms >= at_ms))
    span = range(at_ms, end_ms, hour)
    assert list(whole.filter(start=at_ms, end=end_ms)) == [one for one in lives if is_alive(one, span)]
    ever = range(at_ms, parse_time("2026-03-01"), hour)
    assert list(whole.filter(start=at_ms)) == [one for one in lives if is_alive(one, ever)]
    before = range(parse_time("2025-12-01"), end_ms, hour)
    assert list(whole.filter(end=end_ms)) == [one for one in lives if is_alive(one, before)]


@given(
    chains(),
    st.sampled_from([None, "USDT", ["USDT", "BTC"], []]),
    st.sampled_from([None, "C", "1000C", ["A", "AB"]]),
    st.sampled_from([None, "perpetual", ["perpetual", "quarterly"]]),
    st.sampled_from([None, "A*", ["*BTC", "ABUSDT"]]),
    st.sampled_from(["include", "exclude", "only"]),
)
def test_lives_are_chosen_by_what_they_are(
    lives: list[Life], quote: Any, base: Any, contract: Any, names: Any, leveraged: Any
) -> None:
    def of(given: Any) -> list[str]:
        return [given] if isinstance(given, str) else given

    chosen = universe(*lives).filter(quote=quote, base=base, contract=contract, names=names, leveraged=leveraged)
    assert list(chosen) == [
        one
        for one in lives
        if (quote is None or one.quote in of(quote))
        and (base is None or {one.base, one.base.removeprefix("1000")} & set(of(base)))
        and (contract is None or one.contract in of(contract))
        and (names is None or any(fnmatchcase(one.ticker, pattern) for pattern in of(names)))
        and (leveraged == "include" or one.is_leveraged is (leveraged == "only"))
    ]


@given(chains())
def test_keys_are_unique_and_name_their_life_and_are_tickers_where_that_is_enough(lives: list[Life]) -> None:
    whole = universe(*lives)
    days = {(one.ticker, one.first_ms // DAY_MS) for one in lives}
    if len(days) < len(lives):
        return  # lives of one ticker begin on different days
    assert len(set(whole.keys)) == len(lives)
    tickers = [one.ticker for one in lives]
    for key, one in zip(whole.keys, whole, strict=True):
        assert whole[key] is one
        assert whole[one.dated_key] is one
        assert key in whole
        assert one in whole
        assert (key == one.ticker) == (tickers.count(one.ticker) == 1)


# --- Single properties -------------------------------------------------------------------------------------


def test_it_is_a_sequence_of_lives() -> None:
    lives = universe(BTC, *BNX)
    assert (len(lives), list(lives), lives[2], lives[-1]) == (3, [*BNX, BTC], BTC, BTC)
    assert lives[:2].lives == BNX
    assert lives[:2].keys == ("BNXUSDT@2022-04-01", "BNXUSDT@2023-02-22")
    assert lives.symbols == ("BNXUSDT", "BTCUSDT")
    assert lives == universe(BTC, *BNX)
    assert repr(lives) == "<Universe of um: 3 lives, as known at 2026-01-01>"
    with pytest.raises(IndexError):
        lives[3]
    with pytest.raises(AttributeError):
        lives.lives = ()  # type: ignore[misc]


def test_a_name_of_two_lives_is_refused_and_names_them() -> None:
    lives = universe(BTC, *BNX)
    with pytest.raises(UnknownLifeError, match="BNXUSDT names 2 lives of um: choose one of BNXUSDT@2022-04-01, "):
        lives["BNXUSDT"]
    on = lives.filter(on="2023-03-01")
    assert on["BNXUSDT"] is BNX[1]
    assert on.keys == ("BNXUSDT", "BTCUSDT")


def test_an_unknown_name_is_refused_with_near_ones() -> None:
    with pytest.raises(UnknownLifeError, match="is 'BTCUSTD'; did you mean BTCUSDT") as caught:
        universe(BTC)["BTCUSTD"]
    assert caught.value.names[0] == "BTCUSDT"
    assert isinstance(caught.value, (LookupError, ckvd.CkvdError))
    assert "BTCUSTD" not in universe(BTC)


def test_a_life_is_found_by_the_name_of_its_archives_too() -> None:
    moved = life("AIAUSDT", "2025-09-18", "2026-01-20", symbol="AIAUSDTSETTLED")
    assert universe(moved)["AIAUSDTSETTLED"] is moved
    assert universe(moved).symbols == ("AIAUSDTSETTLED",)


def test_between_two_lives_a_ticker_is_in_no_choice() -> None:
    assert "BNXUSDT" not in universe(BTC, *BNX).filter(on="2023-02-15")
    assert "BNXUSDT" in universe(BTC, *BNX).filter(on="2023-02-11")
    assert "BNXUSDT" not in universe(BTC, *BNX).filter(on="2023-02-11T04:00Z")


@pytest.mark.parametrize(
    ("days", "when", "is_chosen"),
    [
        (10, {"on": "2020-01-10"}, True),
        (11, {"on": "2020-01-10"}, False),
        (10, {"start": "2020-01-01", "end": "2020-01-10"}, True),
        (11, {"start": "2020-01-01", "end": "2020-01-10"}, False),
        (2193, {}, True),
        (2194, {}, False),
        (2193, {"start": "2020-01-01"}, True),
    ],
)
def test_days_listed_are_counted_to_the_day_that_was_asked_for(days: int, when: Any, is_chosen: bool) -> None:
    assert (BTC in universe(BTC).filter(listed_days_min=days, **when)) is is_chosen


def test_days_listed_end_with_the_life() -> None:
    short = life("AUSDT", "2020-01-01", "2020-01-05")
    assert len(universe(short).filter(listed_days_min=4)) == 1
    assert len(universe(short).filter(listed_days_min=5)) == 0


@pytest.mark.parametrize(
    ("given", "error", "reason"),
    [
        ({"on": "2023-01-01", "end": "2024-01-01"}, ValueError, "not by both"),
        ({"start": "2023-01-01", "end": "2022-01-01"}, TimeError, "ends before it starts"),
        ({"contract": "future"}, IdentityError, "unknown contract type 'future': expected one of spot, "),
        ({"leveraged": "no"}, ValueError, "leveraged is"),
        ({"on": "lately"}, TimeError, "is no time"),
    ],
)
def test_what_cannot_be_meant_is_refused(given: Any, error: type[Exception], reason: str) -> None:
    with pytest.raises(error, match=reason):
        universe(BTC).filter(**given)


# --- Bars of a life ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("interval", "opens", "is_its"),
    [
        (Interval.H1, "2023-02-22T14:00Z", True),
        (Interval.H1, "2023-02-22T13:00Z", False),
        (Interval.D1, "2023-02-22", True),
        (Interval.D1, "2023-02-21", False),
        (Interval.W1, "2023-02-20", True),
        (Interval.MO1, "2023-02-01", False),  # the life before was alive when it opened
        (Interval.M1, "2023-02-22T14:45Z", True),
        (Interval.M1, "2023-02-22T14:44Z", False),
        (Interval.D1, "2025-03-17", True),
        (Interval.D1, "2025-03-18", False),
    ],
)
def test_the_bar_in_which_a_life_began_is_its_own(interval: Interval, opens: str, is_its: bool) -> None:
    span = Span.of("2020-01-01", "2026-01-01")
    assert (parse_time(opens) in BNX[1].bars_span(interval, span)) is is_its


@pytest.mark.parametrize("first", ["2023-05-01", "2023-05-31T12:00Z", "2023-03-01", "2023-03-02"])
def test_a_life_begins_with_the_month_in_which_it_was_listed_and_no_month_before(first: str) -> None:
    bars = life("AUSDT", first).bars_span(Interval.MO1, Span.of("2020-01-01", "2026-01-01"))
    assert bars.start_ms == parse_time(first[:7])


@given(chains(), st.sampled_from(Interval), HOURS, HOURS)
def test_bars_of_a_life_lie_in_the_span_and_those_of_two_lives_never_meet(
    lives: list[Life], interval: Interval, one_ms: int, other_ms: int
) -> None:
    span = Span(min(one_ms, other_ms), max(one_ms, other_ms))
    end_ms: dict[str, int | None] = {}
    covered: dict[str, int] = {}
    for one in lives:
        if one.ticker in end_ms:
            object.__setattr__(one, "previous_end_ms", end_ms[one.ticker])
        bars = one.bars_span(interval, span)
        assert span.covers(bars)
        if bars:
            assert bars.start_ms >= covered.get(one.ticker, 0)
            covered[one.ticker] = bars.end_ms
        end_ms[one.ticker] = one.end_ms


class Trades:
    """What a cache tells of the last trade of each life."""

    def __init__(self, trade: LastTrade | None) -> None:
        self._trade = trade

    def last_trade(self, _life: Life) -> LastTrade | None:
        return self._trade


def test_a_last_trade_replaces_an_end_that_is_a_bound_and_no_other() -> None:
    bound = life("AUSDT", "2020-01-01", "2026-01-01", end_source=EndSource.LAST_ARCHIVE)
    exact = life("BUSDT", "2020-01-01", "2024-06-11T09:00Z", end_source=EndSource.DELIVERY_DATE)
    opens_ms = parse_time("2024-06-11T08:00Z")
    trade = LastTrade(opens_ms, opens_ms + 3_600_000, is_followed=True)
    one, other = universe(bound, exact).last_traded(Trades(trade))
    assert (one.last_traded_ms, one.end_ms, one.end_source) == (opens_ms, trade.end_ms, EndSource.LAST_TRADED)
    assert (other.last_traded_ms, other.end_ms, other.end_source) == (opens_ms, exact.end_ms, exact.end_source)
    (held,) = universe(bound).last_traded(Trades(LastTrade(opens_ms, trade.end_ms, is_followed=False)))
    assert (held.last_traded_ms, held.end_ms) == (opens_ms, bound.end_ms)
    assert universe(bound).last_traded(Trades(None)) == universe(bound)


def test_keys_of_nothing_are_none() -> None:
    assert keys_of(()) == ()
    assert universe().keys == ()

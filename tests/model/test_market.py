"""Which symbols and other parts a series accepts, and which it refuses."""

from __future__ import annotations

import csv
import unicodedata
from itertools import combinations
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ckvd.errors import CkvdError, IdentityError
from ckvd.model.market import Interval, Kind, Market, SeriesKey, pair_of, parse_interval
from support.models import DAY_MS, HOUR_MS, LENGTHS, MILLISECOND
from support.strategies import BAR_KINDS, SYMBOLS, intervals_of, series_keys

if TYPE_CHECKING:
    from pathlib import Path

FUTURES = ("um", "cm")


@pytest.mark.parametrize("symbol", [*SYMBOLS, "X", "A" * 64, "BTC-USDT", "A.B", "ÅUSDT"])
def test_a_symbol_that_the_exchange_may_write_is_accepted_as_it_is(symbol: str) -> None:
    assert SeriesKey.of(symbol, "1m").symbol == symbol


@pytest.mark.parametrize("separator", ["/", "\\", ":", "\0"])
@pytest.mark.parametrize("symbol", ["{}", "{}BTC", "BTC{}", "BTC{}USDT"])
def test_a_symbol_with_a_path_separator_is_refused(symbol: str, separator: str) -> None:
    with pytest.raises(IdentityError, match="cannot name a folder"):
        SeriesKey.of(symbol.format(separator), "1m")


@pytest.mark.parametrize("symbol", [".", "..", "...", "BTC..USDT", "..BTC", "BTC..", ".BTC", "BTC.", "-BTC"])
def test_a_symbol_that_would_leave_its_folder_or_be_hidden_is_refused(symbol: str) -> None:
    with pytest.raises(IdentityError, match="leading, trailing or double dot, or a leading dash"):
        SeriesKey.of(symbol, "1m")


@pytest.mark.parametrize("symbol", ["CON", "AUX", "NUL", "PRN", "COM1", "LPT9", "NUL.A", "con", "COM²"])
def test_a_symbol_that_some_disks_keep_for_a_device_is_refused(symbol: str) -> None:
    with pytest.raises(IdentityError, match="cannot name a folder on every disk"):
        SeriesKey.of(symbol, "1m")


@pytest.mark.parametrize("symbol", ["CONUSDT", "AUXBTC", "COM10", "A.CON"])
def test_a_symbol_that_only_begins_like_a_device_is_accepted(symbol: str) -> None:
    assert SeriesKey.of(symbol, "1m").symbol == symbol


@given(st.characters(categories=["C", "Z", "P", "S"], exclude_characters="_-."), st.integers(0, 3))
def test_a_symbol_with_a_control_character_space_or_punctuation_is_refused_and_the_character_shown(
    character: str, position: int
) -> None:
    with pytest.raises(IdentityError) as caught:
        SeriesKey.of("ABC"[:position] + character + "ABC"[position:], "1m")
    assert repr(character) in str(caught.value)


@pytest.mark.parametrize("length", [0, 65, 300, 1_000_000])
def test_a_symbol_of_absurd_length_is_refused_in_a_short_message(length: int) -> None:
    with pytest.raises(IdentityError, match=rf"has {length} characters: expected 1 to 64") as caught:
        SeriesKey.of("A" * length, "1m")
    assert len(str(caught.value)) < 200


@pytest.mark.parametrize("symbol", ["btcusdt", "BTCusdt", "BTCUSDt", "ßUSDT"])
def test_a_symbol_with_lower_case_letters_is_refused_and_the_upper_case_one_proposed(symbol: str) -> None:
    with pytest.raises(IdentityError, match=f"did you mean '{symbol.upper()}'"):
        SeriesKey.of(symbol, "1m")


def test_a_symbol_is_accepted_in_unicode_normal_form_c_only() -> None:
    composed, decomposed = "ガUSDT", unicodedata.normalize("NFD", "ガUSDT")
    assert composed != decomposed
    assert SeriesKey.of(composed, "1m").symbol == composed
    with pytest.raises(IdentityError):
        SeriesKey.of(decomposed, "1m")
    with pytest.raises(IdentityError, match="normal form C"):
        # Letters only; normalisation replaces the first.
        SeriesKey.of("\N{KELVIN SIGN}USDT", "1m")


@pytest.mark.parametrize("symbol", [None, 5, b"BTCUSDT", ["BTCUSDT"]])
def test_a_symbol_that_is_no_text_is_refused_by_its_type(symbol: object) -> None:
    with pytest.raises(IdentityError, match=f"a symbol is text, found {type(symbol).__name__}"):
        SeriesKey.of(symbol, "1m")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("part", "value"),
    [
        ("market", "futures"),
        ("market", "SPOT"),
        ("market", ""),
        ("kind", "trades"),
        ("kind", "Klines"),
        ("interval", "2m"),
        ("interval", "1M "),
        ("interval", "1H"),
        ("interval", "60"),
        ("interval", ""),
    ],
)
def test_an_unknown_part_is_refused_and_the_known_ones_are_listed(part: str, value: str) -> None:
    parts = {"interval": "1m", "market": "um", "kind": "klines"} | {part: value}
    with pytest.raises(IdentityError, match=f"unknown {part} {value!r}: expected one of ") as caught:
        SeriesKey.of("BTCUSDT", **parts)
    known = {"market": Market, "kind": Kind, "interval": Interval}[part]
    assert str(caught.value).endswith(", ".join(choice.value for choice in known))


@pytest.mark.parametrize("market", FUTURES)
@pytest.mark.parametrize("kind", BAR_KINDS)
def test_bars_of_a_second_are_refused_on_futures(market: str, kind: str) -> None:
    with pytest.raises(IdentityError, match=f"1s bars exist for spot only, not for market {market}"):
        SeriesKey.of("BTCUSDT", "1s", market=market, kind=kind)


def test_bars_of_a_second_are_accepted_on_spot() -> None:
    assert SeriesKey.of("BTCUSDT", "1s").interval is Interval.S1


@pytest.mark.parametrize("kind", [kind for kind in Kind if kind is not Kind.KLINES])
def test_index_and_premium_kinds_are_refused_on_spot_and_accepted_on_futures(kind: Kind) -> None:
    interval = intervals_of(Market.UM, kind)[0]
    with pytest.raises(IdentityError, match=f"{kind} exist for futures only"):
        SeriesKey.of("BTCUSDT", interval, kind=kind)
    for market in FUTURES:
        assert SeriesKey.of("BTCUSDT", interval, market=market, kind=kind).kind is kind


def test_funding_rates_have_no_interval_and_all_other_kinds_have_one() -> None:
    events = SeriesKey.of("BTCUSDT", market="um", kind="fundingRate")
    assert (events.interval, events.folder_name, str(events)) == (None, "events", "um/fundingRate/BTCUSDT/events")
    with pytest.raises(IdentityError, match="fundingRate are events and have no interval: leave 1h out"):
        SeriesKey.of("BTCUSDT", "1h", market="um", kind="fundingRate")
    with pytest.raises(IdentityError, match="klines need an interval, such as 1h"):
        SeriesKey.of("BTCUSDT")
    with pytest.raises(IdentityError, match="are events and have no interval: ask for a kind of bars"):
        _ = events.bar_interval


def test_metrics_have_five_minutes_whether_they_are_named_or_not() -> None:
    named = SeriesKey.of("BTCUSDT", "5m", market="um", kind="metrics")
    assert SeriesKey.of("BTCUSDT", market="um", kind="metrics") == named
    with pytest.raises(IdentityError, match="metrics are published every 5m only, not 1h: leave it out"):
        SeriesKey.of("BTCUSDT", "1h", market="um", kind="metrics")


@pytest.mark.parametrize(
    ("market", "contract", "pair"),
    [
        ("cm", "BTCUSD_PERP", "BTCUSD"),
        ("cm", "BTCUSD_200925", "BTCUSD"),
        ("um", "BTCUSDT_260626", "BTCUSDT"),
        ("um", "BTCUSDT_PERP", "BTCUSDT"),
    ],
)
def test_index_prices_are_those_of_the_pair_and_a_contract_is_refused_with_its_name(
    market: str, contract: str, pair: str
) -> None:
    with pytest.raises(IdentityError, match=f"{contract!r} is a contract, .*: use the symbol {pair!r}"):
        SeriesKey.of(contract, "1h", market=market, kind="indexPriceKlines")
    index = SeriesKey.of(pair, "1h", market=market, kind="indexPriceKlines")
    assert SeriesKey.of_older(contract, "1h", market=market, kind="indexPriceKlines") == index
    for kind in (Kind.KLINES, Kind.MARK_PRICE, Kind.PREMIUM_INDEX):
        mark = SeriesKey.of(contract, "1h", market=market, kind=kind)
        assert mark == SeriesKey.of_older(contract, "1h", market=market, kind=kind)
        assert mark.symbol == contract


@pytest.mark.parametrize(
    "symbol", ["ICPUSDT_SETTLED", "CTKUSDTSETTLED", "BTC_PERPUSDT", "BTCUSDT_2606", "X_PERPETUAL"]
)
def test_a_pair_that_only_looks_like_a_contract_has_index_prices(symbol: str) -> None:
    assert pair_of(symbol) == symbol
    assert SeriesKey.of(symbol, "1h", market="um", kind="indexPriceKlines").symbol == symbol


@pytest.mark.parametrize(
    ("written", "usual"),
    [("\uff22\uff34\uff23USDT", "BTCUSDT"), ("BTCUSDT_\uff12\uff16", "BTCUSDT_26"), ("BTC\u00b2USDT", "BTC2USDT")],
)
def test_a_symbol_with_full_width_letters_is_refused_and_the_usual_ones_are_proposed(
    written: str, usual: str
) -> None:
    with pytest.raises(IdentityError, match=f"special width or form: did you mean {usual!r}"):
        SeriesKey.of(written, "1m", market="um")
    assert SeriesKey.of_older(written, "1m", market="um", kind="klines").symbol == usual


def test_an_identity_error_is_a_value_error_and_a_ckvd_error() -> None:
    assert issubclass(IdentityError, ValueError)
    assert issubclass(IdentityError, CkvdError)


def test_a_minute_and_a_month_differ_in_both_spellings_of_the_month() -> None:
    assert parse_interval("1m") is Interval.M1
    assert parse_interval("1mo") is Interval.MO1
    assert parse_interval("1M") is Interval.MO1
    assert SeriesKey.of("BTCUSDT", "1M") == SeriesKey.of("BTCUSDT", "1mo") != SeriesKey.of("BTCUSDT", "1m")


@pytest.mark.parametrize("interval", Interval)
def test_an_interval_is_found_by_its_archive_name_and_by_its_rest_name(interval: Interval) -> None:
    assert parse_interval(interval.value) is interval
    assert parse_interval(interval.rest_name) is interval
    assert interval.rest_name == ("1M" if interval is Interval.MO1 else interval.value)


def test_the_folder_names_of_intervals_markets_and_kinds_differ_without_regard_to_case() -> None:
    for names in (Interval, Market, Kind):
        for one, other in combinations(names, 2):
            assert one.value.casefold() != other.value.casefold()


def test_an_interval_is_as_long_as_its_name_says() -> None:
    for interval in Interval:
        if interval is Interval.MO1:
            assert interval.fixed_ms is None
        else:
            assert interval.fixed_ms == LENGTHS[interval] // MILLISECOND
    assert (Interval.H12.fixed_ms, Interval.W1.fixed_ms) == (12 * HOUR_MS, 7 * DAY_MS)


def test_only_intervals_that_fit_into_a_day_have_daily_archives() -> None:
    without = {interval for interval in Interval if not interval.has_daily_archives}
    assert without == {Interval.D3, Interval.W1, Interval.MO1}


def test_every_symbol_and_interval_of_the_real_listings_is_accepted(shared_data: Path) -> None:
    listings = sorted((shared_data / "listings").glob("*.csv"))
    assert listings
    for path in listings:
        with path.open(encoding="utf-8", newline="") as file:
            for row in csv.DictReader(file):
                for interval in row["available_intervals"].split(","):
                    SeriesKey.of(row["symbol"], interval, market=row["market"])


@given(series_keys())
def test_a_series_is_equal_to_the_one_its_text_names(series: SeriesKey) -> None:
    market, kind, symbol, name = str(series).split("/")
    again = SeriesKey.of_folder(symbol, name, market=market, kind=kind)
    assert again == series
    assert hash(again) == hash(series)


@given(series_keys(), series_keys())
def test_series_differ_where_a_part_differs(one: SeriesKey, other: SeriesKey) -> None:
    assert (one == other) == (str(one) == str(other))


def test_what_stands_in_place_of_an_interval_is_to_be_left_out() -> None:
    with pytest.raises(IdentityError, match=r"'events' is no interval, .* leave it out"):
        SeriesKey.of("BTCUSDT", "events", market="um", kind="fundingRate")

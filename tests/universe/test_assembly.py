"""Lives that are put together from listings, the exchange's list, an earlier snapshot and known facts."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from hypothesis import given, settings
from hypothesis import strategies as st

from ckvd.model.life import EndReason, EndSource, FirstSource, Life
from ckvd.model.market import DAY_MS, Market
from ckvd.model.timespan import format_time, parse_time
from ckvd.universe.assembly import assemble
from ckvd.universe.listing import ListedSymbol
from support.universes import entry, info_of, listed

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ckvd.universe.exchange_info import ExchangeInfo

NOW = "2026-01-01"
LAST = "2025-12-31"
BTC = listed("BTCUSDT", "2019-12-31", LAST)


def lives(
    *archives: ListedSymbol,
    info: ExchangeInfo | None = None,
    earlier: Iterable[Life] = (),
    market: Market = Market.UM,
    now: str = NOW,
) -> list[Life]:
    """The lives, without that of BTCUSDT, whose archives are the newest."""
    found = assemble(market, [BTC, *archives], info, earlier, parse_time(now))
    return [life for life in found if life.ticker != "BTCUSDT"]


def dates(found: Iterable[Life]) -> list[tuple[str, str]]:
    return [(format_time(one.first_ms), "" if one.end_ms is None else format_time(one.end_ms)) for one in found]


def info(*entries: dict[str, Any]) -> ExchangeInfo:
    return info_of(entry("BTCUSDT", "2019-09-25T08:00"), *entries)


def test_a_life_begins_with_its_first_archive_and_with_the_listing_date_in_that_day() -> None:
    found = lives(
        listed("AUSDT", "2024-03-01", LAST),
        listed("BUSDT", "2024-03-01", LAST),
        listed("CUSDT", "2024-03-01", LAST),
        info=info(
            entry("AUSDT", "2024-03-01T14:30Z"),
            entry("BUSDT", "2019-09-25T08:00Z"),  # a placeholder
            entry("CUSDT", "2025-05-05T08:00Z"),  # a change that is no listing, as of XMRUSDT
            entry("DUSDT", "2026-01-01T08:00Z"),
        ),
    )
    assert dates(found) == [
        ("2024-03-01T14:30Z", ""),
        ("2024-03-01", ""),
        ("2024-03-01", ""),
        ("2026-01-01T08:00Z", ""),
    ]
    assert [one.first_source for one in found] == [
        FirstSource.LISTING_DATE,
        FirstSource.FIRST_ARCHIVE,
        FirstSource.FIRST_ARCHIVE,
        FirstSource.LISTING_DATE,
    ]
    assert {one.end_reason for one in found} == {EndReason.ALIVE}


def test_files_are_not_life() -> None:
    (found,) = lives(
        listed("WAVESUSDT", "2020-08-12", LAST),
        info=info(
            entry("WAVESUSDT", "2019-09-25", deliveryDate=parse_time("2024-06-11T09:00Z"), status="SETTLING")
        ),
    )
    assert dates([found]) == [("2020-08-12", "2024-06-11T09:00Z")]
    assert (found.end_reason, found.end_source) == (EndReason.DELISTED, EndSource.DELIVERY_DATE)
    assert not found.end_is_bound


def test_a_symbol_that_the_exchange_does_not_list_ended_with_its_last_archive_at_the_latest() -> None:
    gone, still = lives(
        listed("AUSDT", "2021-01-01", "2022-02-02"), listed("BUSDT", "2021-01-01", LAST), info=info()
    )
    assert dates([gone, still]) == [("2021-01-01", "2022-02-02"), ("2021-01-01", LAST)]
    assert all(
        (one.end_reason, one.end_source) == (EndReason.DELISTED, EndSource.LAST_ARCHIVE) for one in (gone, still)
    )
    assert gone.end_is_bound


def test_without_the_exchange_archives_that_go_on_tell_no_end() -> None:
    gone, still = lives(listed("AUSDT", "2021-01-01", "2022-02-02"), listed("BUSDT", "2021-01-01", LAST))
    assert dates([gone, still]) == [("2021-01-01", "2022-02-02"), ("2021-01-01", "")]
    assert (still.end_reason, still.end_source) == (EndReason.UNKNOWN, None)


def test_a_quarterly_ends_with_its_delivery_though_it_stays_listed_and_by_its_name_if_it_does_not() -> None:
    delivered, planned, gone = lives(
        listed("BTCUSDT_250926", "2025-03-28", LAST),
        listed("BTCUSDT_210326", "2020-10-01", "2021-03-27"),
        info=info(
            entry(
                "BTCUSDT_250926",
                "2025-03-21",
                contractType="CURRENT_QUARTER DELIVERING",
                status="DELIVERING",
                deliveryDate=parse_time("2025-09-26T08:00Z"),
            ),
            entry("BTCUSDT_260327", "2025-09-22", contractType="", deliveryDate=parse_time("2026-03-27T08:00Z")),
        ),
    )[1:] + lives(listed("BTCUSDT_210326", "2020-10-01", "2021-03-27"), info=info())
    assert [one.ticker for one in (delivered, planned, gone)] == [
        "BTCUSDT_250926",
        "BTCUSDT_260327",
        "BTCUSDT_210326",
    ]
    assert dates([delivered, planned, gone]) == [
        ("2025-03-28", "2025-09-26T08:00Z"),
        ("2025-09-22", "2026-03-27T08:00Z"),
        ("2020-10-01", "2021-03-26T08:00Z"),
    ]
    reasons = [one.end_reason for one in (delivered, planned, gone)]
    assert reasons == [EndReason.DELIVERED, EndReason.ALIVE, EndReason.DELIVERED]
    assert {one.contract.value for one in (delivered, planned, gone)} == {"quarterly"}


def test_a_contract_that_is_only_announced_is_no_life() -> None:
    assert lives(info=info(entry("AUSDT", "2026-02-01", status="PENDING_TRADING"))) == []
    spot = {"symbol": "AUSDT", "status": "BREAK", "baseAsset": "A", "quoteAsset": "USDT"}
    assert lives(info=info_of(spot, market=Market.SPOT), market=Market.SPOT) == []


def test_spot_in_a_break_has_ended_if_its_archives_did() -> None:
    spot = [
        {"symbol": symbol, "status": "BREAK", "baseAsset": symbol[:1], "quoteAsset": "USDT"}
        for symbol in ("AUSDT", "BUSDT")
    ]
    ended, interrupted = lives(
        listed("AUSDT", "2021-01-01", "2023-01-01"),
        listed("BUSDT", "2021-01-01", LAST),
        info=info_of(*spot, market=Market.SPOT),
        market=Market.SPOT,
    )
    assert dates([ended, interrupted]) == [("2021-01-01", "2023-01-01"), ("2021-01-01", "")]


def test_a_listing_date_that_changed_between_two_snapshots_is_another_life() -> None:
    before = lives(info=info(entry("AIAUSDT", "2025-09-18T08:30Z")), now="2025-10-17")
    one, other = lives(info=info(entry("AIAUSDT", "2026-01-20T10:00Z")), earlier=before, now="2026-03-31")
    assert dates([one, other]) == [("2025-09-18T08:30Z", "2026-01-20T10:00Z"), ("2026-01-20T10:00Z", "")]
    assert (one.end_source, one.end_is_bound) == (EndSource.NEXT_LISTING, True)
    assert other.previous_end_ms == one.end_ms
    again = lives(info=info(entry("AIAUSDT", "2026-01-20T10:00Z")), earlier=[one, other], now="2026-04-30")
    assert again == [one, other]


def test_archives_that_moved_to_a_settled_name_are_those_of_the_life_that_it_was() -> None:
    before = lives(info=info(entry("AIAUSDT", "2025-09-18T08:30Z")), now="2025-10-17")
    one, other = lives(
        listed("AIAUSDT", "2026-01-20", "2026-03-30"),
        listed("AIAUSDTSETTLED", "2025-09-18", "2026-03-30"),
        info=info(entry("AIAUSDT", "2026-01-20T10:00Z")),
        earlier=before,
        now="2026-03-31",
    )
    assert [(life.ticker, life.symbol) for life in (one, other)] == [
        ("AIAUSDT", "AIAUSDTSETTLED"),
        ("AIAUSDT", "AIAUSDT"),
    ]
    assert dates([one, other]) == [("2025-09-18T08:30Z", "2026-01-20T10:00Z"), ("2026-01-20T10:00Z", "")]
    assert (one.end_reason, other.previous_end_ms) == (EndReason.SETTLED, None)


def test_flat_bars_under_a_settled_name_end_the_life_before_and_are_none_themselves() -> None:
    one, other = lives(
        listed("SLPUSDT", "2023-10-31", LAST),
        listed("SLPUSDTSETTLED", "2025-07-10", LAST),
        info=info(entry("SLPUSDT", "2025-07-23T11:00Z")),
    )
    assert dates([one, other]) == [("2023-10-31", "2025-07-10"), ("2025-07-23T11:00Z", "")]
    assert (one.end_reason, one.end_source) == (EndReason.SETTLED, EndSource.SETTLED_ARCHIVE)
    assert {life.symbol for life in (one, other)} == {"SLPUSDT"}


def test_a_ticker_that_was_settled_twice_has_three_lives_and_a_gap_tells_where_one_begins() -> None:
    found = lives(
        listed("AERGOUSDT", "2021-01-01", LAST, ("2022-06-01", "2022-09-01"), ("2023-06-01", "2023-08-01")),
        listed("AERGOUSDTSETTLEDSETTLED", "2022-05-20", LAST),
        listed("AERGOUSDTSETTLED", "2023-05-20", LAST),
    )
    assert dates(found)[:2] == [("2021-01-01", "2022-05-20"), ("2022-09-01", "2023-05-20")]
    assert [one.first_source for one in found[1:]] == [FirstSource.GAP, FirstSource.GAP]
    assert found[2].first_ms == parse_time("2023-08-01")


def test_known_facts_tell_two_lives_and_a_contract_that_waits_is_no_third() -> None:
    one, other = lives(
        listed("BNXUSDT", "2022-04-01", LAST),
        listed("BNXUSDTSETTLED", "2023-02-22", LAST),
        info=info(entry("BNXUSDT", "2025-03-21T13:29Z", status="PENDING_TRADING")),
    )
    assert dates([one, other]) == [("2022-04-01", "2023-02-11T04:00Z"), ("2023-02-22T14:45Z", "2025-03-18")]
    assert {life.end_source for life in (one, other)} == {EndSource.FACT}
    third = lives(
        listed("BNXUSDT", "2022-04-01", LAST),
        info=info(entry("BNXUSDT", "2025-12-20T10:00Z")),
        earlier=[one, other],
    )
    assert dates(third) == dates([one, other])
    older = [one, replace(other, listed_ms=parse_time("2023-02-22T14:45Z"))]
    third = lives(
        listed("BNXUSDT", "2022-04-01", LAST), info=info(entry("BNXUSDT", "2025-12-20T10:00Z")), earlier=older
    )
    assert dates(third)[2:] == [("2025-12-20T10:00Z", "")]


def test_the_old_luna_is_another_coin_and_went_on_under_another_name() -> None:
    one, other = lives(listed("LUNAUSDT", "2020-08-21", LAST), market=Market.SPOT)
    assert dates([one, other]) == [("2020-08-21", "2022-05-13T01:00Z"), ("2022-05-31T06:00Z", "")]
    assert (one.end_reason, one.renamed_to, other.renamed_to) == (EndReason.RENAMED, "LUNCUSDT", "")


def test_a_renamed_coin_names_the_life_that_followed_and_pairs_that_ended_long_before_do_not() -> None:
    renamed, before = lives(
        listed("MATICUSDT", "2019-04-26", "2024-09-11"),
        listed("MATICBUSD", "2020-11-06", "2023-07-01"),
        market=Market.SPOT,
        info=info_of({"symbol": "BTCUSDT", "status": "TRADING"}, market=Market.SPOT),
    )[::-1]
    assert (renamed.ticker, renamed.end_reason, renamed.renamed_to) == ("MATICUSDT", EndReason.RENAMED, "POLUSDT")
    assert (before.end_reason, before.renamed_to) == (EndReason.DELISTED, "")


def test_a_life_is_kept_when_no_source_has_it_any_more() -> None:
    before = lives(
        listed("AUSDT", "2021-01-01", LAST),
        info=info(entry("AUSDT", "2021-01-01", deliveryDate=parse_time("2025-06-01T09:00Z"), status="SETTLING")),
    )
    assert dates(lives(info=info(), earlier=before, now="2027-01-01")) == [("2021-01-01", "2025-06-01T09:00Z")]
    assert dates(lives(earlier=before, now="2027-01-01")) == [("2021-01-01", "2025-06-01T09:00Z")]


def test_archives_that_went_on_after_a_pause_move_the_bound_of_an_end() -> None:
    """USDCUSDT of USD-M had no archives from 2022-10 to 2023-02."""
    paused = assemble(
        Market.UM,
        [listed("BTCUSDT", "2019-12-31", "2023-01-01"), listed("USDCUSDT", "2021-01-01", "2022-10-01")],
        None,
        (),
        parse_time("2023-01-01"),
    )
    assert dates(paused)[1] == ("2021-01-01", "2022-10-01")
    (found,) = lives(listed("USDCUSDT", "2021-01-01", LAST, ("2022-10-01", "2023-02-01")), earlier=paused)
    assert dates([found]) == [("2021-01-01", "")]


DAYS = st.integers(0, 2000).map(lambda number: parse_time("2020-01-01") + number * DAY_MS)


@st.composite
def evidence(draw: st.DrawFn) -> tuple[list[ListedSymbol], ExchangeInfo | None]:
    archives: list[ListedSymbol] = []
    entries: list[dict[str, Any]] = []
    for ticker in draw(st.sets(st.sampled_from(["AUSDT", "BNXUSDT", "ICPUSDT", "CUSDT_260327"]))):
        for suffix in draw(st.sets(st.sampled_from(["", "SETTLED", "SETTLEDSETTLED"]))):
            first_ms, last_ms = sorted(draw(st.tuples(DAYS, DAYS)))
            archives.append(ListedSymbol(ticker + suffix, first_ms, last_ms + DAY_MS))
        if draw(st.booleans()):
            delivery = draw(st.none() | DAYS)
            status = draw(st.sampled_from(["TRADING", "PENDING_TRADING", "SETTLING"]))
            entries.append(entry(ticker, status=status, deliveryDate=delivery, onboardDate=draw(st.none() | DAYS)))
    has_info: bool = draw(st.booleans())
    return archives, info_of(*entries) if entries and has_info else None


@settings(max_examples=50)
@given(st.lists(evidence(), min_size=1, max_size=4))
def test_lives_of_a_ticker_never_overlap_and_none_is_ever_lost(
    refreshes: list[tuple[list[ListedSymbol], ExchangeInfo | None]],
) -> None:
    earlier: tuple[Life, ...] = ()
    now_ms = parse_time("2026-01-01")
    for archives, info in refreshes:
        found = assemble(Market.UM, archives, info, earlier, now_ms)
        for one, other in pairwise(found):
            assert one.end_ms is None or one.first_ms < one.end_ms
            if one.ticker == other.ticker:
                assert one.end_ms is not None
                assert one.end_ms <= other.first_ms
        assert {life.ticker for life in earlier} <= {life.ticker for life in found}
        counts = [sum(life.ticker == name for life in found) for name in {life.ticker for life in earlier}]
        before = [sum(life.ticker == name for life in earlier) for name in {life.ticker for life in earlier}]
        assert all(count >= known for count, known in zip(counts, before, strict=True))
        earlier, now_ms = found, now_ms + 30 * DAY_MS

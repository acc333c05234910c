"""Funding and metrics through the door that fetches: archives, the open month by REST, and what is missing."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import pytest

import ckvd
from ckvd.errors import IdentityError, NotCachedError
from ckvd.model.calendar import Period
from ckvd.model.market import HOUR_MS, Market, SeriesKey
from ckvd.model.provenance import Origin, Reason
from ckvd.model.settlements import settled_times
from ckvd.model.timespan import Span, parse_time
from support.settlements import archived, recorded, settlements
from support.venue import Venue, ensure_series, rows_between

if TYPE_CHECKING:
    from pathlib import Path

    from support.loopback.rows import Row

BTC: Final = SeriesKey.of("BTCUSDT", market="um", kind="fundingRate")
ROWS: Final = settlements("2024-01-05", "2024-05-01")


def get(venue: Venue, start: str, end: str = "now", series: SeriesKey = BTC, **changes: Any) -> ckvd.Funding:
    missing = changes.pop("missing", "raise")
    return ckvd.get_funding(
        series.symbol, start=start, end=end, market=series.market, missing=missing, **venue.options(**changes)
    )


def publish_month(venue: Venue, month: str, rows: list[Row], hours: int = 8, series: SeriesKey = BTC) -> None:
    period = Period.of_label(month).span
    within = [row for row in rows if int(row[0]) in period]
    venue.publish(series, month, archived(within, hours))


def assert_rows(funding: ckvd.Funding, rows: list[Row]) -> None:
    """Those of the REST interface, cell by cell."""
    assert funding.time.tolist() == [int(time) for time, _, _ in rows]
    assert funding.rate.tolist() == [float(rate) for _, rate, _ in rows]
    marks = np.array([float(mark or "nan") for _, _, mark in rows])
    assert funding.mark_price.tobytes() == marks.tobytes()


def asked_by_rest(venue: Venue) -> list[tuple[str, str]]:
    """The spans that the REST interface was asked for, and forget them."""
    queries = [request.query for request in venue.exchange.server.requests]
    venue.exchange.server.requests.clear()
    return [
        (str(Span(int(query["startTime"]), int(query["endTime"]) + 1)).split("..")[0], query["limit"])
        for query in queries
        if "endTime" in query
    ]


# --- A life ------------------------------------------------------------------------------------------------


def test_months_come_from_archives_the_open_one_by_rest_until_its_archive_appears(tmp_path: Path) -> None:
    with Venue(tmp_path, "2024-03-10T12:00") as venue:
        venue.exchange.publish(BTC, ROWS)
        publish_month(venue, "2024-01", ROWS)
        publish_month(venue, "2024-02", ROWS)
        first = get(venue, "2023-12-20")
        march = rows_between(ROWS, "2024-03-01", "2024-03-10T11:50")
        assert len(first) == len(rows_between(ROWS, "2024-01-01", "2024-03-10T11:50"))
        assert asked_by_rest(venue) == [("2024-03-01", "1000")]
        assert [source.origin for source in first.sources] == [Origin.VISION_MONTHLY] * 2 + [Origin.REST]
        assert [gap.reason for gap in first.gaps] == [Reason.BEFORE_LISTING]
        assert_rows(get(venue, "2024-03-01", offline=True, end="2024-03-10T11:50"), march)

        # An hour later only the rest is asked for, and the month is still one segment.
        venue.time.advance_to(parse_time("2024-03-10T16:30"))
        assert len(get(venue, "2024-03-01")) == len(march) + 1
        assert asked_by_rest(venue) == [("2024-03-10T11:50Z", "1000")]
        assert_rows(get(venue, "2024-03-01"), rows_between(ROWS, "2024-03-01", "2024-03-10T16:20"))
        folder = ckvd.KlineCache(venue.cache_path).folder
        assert [
            one.span.end_ms for one in folder.segments(BTC) if one.span.start_ms == parse_time("2024-03-01")
        ] == [parse_time("2024-03-10T16:20")]
        venue.mirror.server.requests.clear()

        # Until an archive of the month may have appeared, nothing is asked for again.
        venue.time.advance_to(parse_time("2024-03-31T23:00"))
        get(venue, "2024-03-01")
        asked_by_rest(venue)
        get(venue, "2024-03-01", end="2024-03-31T22:00")
        assert not asked_by_rest(venue)
        assert not any("2024-03" in request.path for request in venue.mirror.server.requests)

        # It appears, and replaces what the REST interface had.
        venue.time.advance_to(parse_time("2024-04-05T12:00"))
        publish_month(venue, "2024-03", ROWS)
        last = get(venue, "2024-03-01", end="2024-04-01")
        march = rows_between(ROWS, "2024-03-01", "2024-04-01")
        assert last.time.tolist() == [int(row[0]) for row in archived(march)]
        assert last.rate.tolist() == [float(row[1]) for row in march]
        assert set(last.interval_hours.tolist()) == {8}
        assert np.isnan(last.mark_price).all()
        assert [source.origin for source in last.sources] == [Origin.VISION_MONTHLY]
        assert not last.gaps
        assert not asked_by_rest(venue)


def test_an_update_every_few_minutes_takes_one_request_and_finds_nothing_missing(tmp_path: Path) -> None:
    with Venue(tmp_path, "2024-03-10T07:00") as venue:
        venue.exchange.publish(BTC, ROWS)
        get(venue, "2024-03-01")
        for minutes in range(10, 190, 20):
            venue.time.advance_to(parse_time("2024-03-10T07:00") + 60_000 * minutes)
            count = venue.exchange.request_count
            funding = get(venue, "2024-03-01")
            assert venue.exchange.request_count == count + 1
            assert funding.gaps == ()
            assert funding.absences == ()
        assert_rows(funding, rows_between(ROWS, "2024-03-01", "2024-03-10T09:40"))


def test_what_no_archive_has_comes_by_rest_in_both_markets(tmp_path: Path) -> None:
    coin = SeriesKey.of("BTCUSD_PERP", market="cm", kind="fundingRate")
    with Venue(tmp_path, "2024-04-20T12:00") as venue:
        for series in (BTC, coin):
            venue.exchange.publish(series, ROWS)
            funding = get(venue, "2024-01-05", "2024-04-20", series)
            assert_rows(funding, rows_between(ROWS, "2024-01-05", "2024-04-20"))
            assert funding.gaps == ()


def test_archives_alone_leave_the_open_month_for_later(tmp_path: Path) -> None:
    with Venue(tmp_path, "2024-03-10T12:00") as venue:
        venue.exchange.publish(BTC, ROWS)
        publish_month(venue, "2024-02", ROWS)
        assert len(get(venue, "2024-02-01", "2024-03-01", use_rest=False)) == 87
        with pytest.raises(NotCachedError, match="not yet published"):
            get(venue, "2024-02-01", "2024-03-05", use_rest=False)
        assert venue.exchange.request_count == 0
        assert len(get(venue, "2024-02-01", "2024-03-05", missing="ignore", offline=True)) == 87
        assert len(get(venue, "2024-02-01", "2024-03-05")) == 87 + 12


def test_an_unknown_symbol_is_not_found(tmp_path: Path) -> None:
    with Venue(tmp_path, "2024-03-10T12:00") as venue:
        report = ensure_series(venue, BTC, "2024-02-01", "2024-03-01")
        assert "no such symbol" in str(report.completions[0].errors[0])
        assert not (venue.cache_path / "um").exists()


def test_a_delivery_contract_has_no_funding(tmp_path: Path) -> None:
    series = SeriesKey.of("BTCUSD_240628", market="cm", kind="fundingRate")
    with Venue(tmp_path, "2024-03-10T12:00") as venue:
        venue.exchange.publish(series, [])
        funding = get(venue, "2024-03-01", series=series)
        assert len(funding) == 0
        assert [gap.reason for gap in funding.gaps] == [Reason.BEFORE_LISTING]


def test_a_contract_that_was_delisted_keeps_its_archives(tmp_path: Path) -> None:
    with Venue(tmp_path, "2024-04-20T12:00") as venue:
        rows = rows_between(ROWS, "2024-01-01", "2024-02-10")
        venue.exchange.publish(BTC, rows)
        venue.exchange.suspend(Market.UM, "BTCUSDT")
        publish_month(venue, "2024-01", rows)
        publish_month(venue, "2024-02", rows)
        funding = get(venue, "2024-01-05", "2024-04-01")
        assert len(funding) == len(rows)
        assert [(gap.reason, Span(gap.start_ms, gap.end_ms)) for gap in funding.gaps] == [
            (Reason.AFTER_DELISTING, Span.of("2024-02-10", "2024-04-01"))
        ]


# --- What archives lack ------------------------------------------------------------------------------------


@pytest.mark.parametrize("hours", [1, 4, 8])
def test_settlements_that_an_archive_lacks_come_by_rest(tmp_path: Path, hours: int) -> None:
    rows = settlements("2024-01-01", "2024-03-10", hours)
    lost = set(rows_between(rows, "2024-01-10T16:00", "2024-01-11T16:00"))
    lost |= set(rows_between(rows, "2024-01-31T08:00", "2024-02-01T08:00"))
    with Venue(tmp_path, "2024-03-10T12:00") as venue:
        venue.exchange.publish(BTC, rows)
        for month in ("2024-01", "2024-02"):
            publish_month(venue, month, [row for row in rows if row not in lost], hours)
        funding = get(venue, "2024-01-01", "2024-03-01")
        expected = rows_between(rows, "2024-01-01", "2024-03-01")
        assert funding.gaps == ()
        assert funding.rate.tolist() == [float(row[1]) for row in expected]
        assert set(funding.interval_hours.tolist()) == {hours}
        # Settlements that both have are those of the archive.
        own = [row if row in lost else archived([row])[0] for row in expected]
        assert funding.time.tolist() == [int(row[0]) for row in own]
        assert np.isnan(funding.mark_price).tolist() == [row not in lost for row in expected]
        assert {source.origin for source in funding.sources} == {Origin.VISION_MONTHLY, Origin.REST}
        asked_by_rest(venue)
        get(venue, "2024-01-01", "2024-03-01")
        assert not asked_by_rest(venue)


@pytest.mark.parametrize("hours", [1, 8])
def test_settlements_that_no_source_has_are_halted_and_not_asked_for_again(tmp_path: Path, hours: int) -> None:
    rows = settlements("2024-01-01", "2024-03-10", hours)
    # The hours after the outage come in one source, the others in none.
    lost = set(rows_between(rows, "2024-01-10", "2024-01-12")) | set(
        rows_between(rows, "2024-01-31T12:00", "2024-02-02")
    )
    told = set(rows_between(rows, "2024-01-11T16:00", "2024-01-12"))
    with Venue(tmp_path, "2024-03-10T12:00") as venue:
        venue.exchange.publish(BTC, [row for row in rows if row not in lost or row in told])
        for month in ("2024-01", "2024-02"):
            publish_month(venue, month, [row for row in rows if row not in lost], hours)
        for _ in range(2):
            funding = get(venue, "2024-01-01", "2024-03-01")
            assert [(gap.reason, gap.start_ms, gap.end_ms) for gap in funding.gaps] == [
                (Reason.HALTED, parse_time("2024-01-10"), parse_time("2024-01-11T16:00")),
                (
                    Reason.HALTED,
                    parse_time("2024-01-31T16:00" if hours == 8 else "2024-01-31T12:00"),
                    parse_time("2024-02-02"),
                ),
            ]
            assert len(funding) == len(
                [row for row in rows_between(rows, "2024-01-01", "2024-03-01") if row not in lost - told]
            )
            asked = asked_by_rest(venue)
        assert not asked


def test_a_damaged_month_comes_by_rest_until_it_is_repaired(tmp_path: Path) -> None:
    with Venue(tmp_path, "2024-03-10T12:00") as venue:
        venue.exchange.publish(BTC, ROWS)
        rows = rows_between(ROWS, "2024-02-01", "2024-03-01")
        venue.publish(BTC, "2024-02", archived(rows), digest="0" * 64)
        assert_rows(get(venue, "2024-02-01", "2024-03-01"), rows)
        venue.publish(BTC, "2024-02", archived(rows))
        venue.time.advance_to(parse_time("2024-06-10"))
        funding = get(venue, "2024-02-01", "2024-03-01")
        assert {source.origin for source in funding.sources} == {Origin.VISION_MONTHLY}


# --- Real settlements --------------------------------------------------------------------------------------


def test_recorded_settlements_come_back_cell_by_cell_without_gaps(tmp_path: Path, shared_data: Path) -> None:
    paths = sorted((shared_data / "funding" / "rest").glob("*.csv"))
    rows = {SeriesKey.of(path.stem, market="um", kind="fundingRate"): recorded(path) for path in paths}
    assert len(rows) == 45
    last_ms = max(int(one[-1][0]) for one in rows.values())

    async def fetch(venue: Venue) -> list[ckvd.Funding]:
        async with venue.data() as data:
            return [
                await data.get_funding(series.symbol, start=int(one[0][0]) // 1000 * 1000, end=int(one[-1][0]) + 1)
                for series, one in rows.items()
            ]

    with Venue(tmp_path, "2026-01-01") as venue:
        venue.time.advance_to(last_ms + HOUR_MS)
        for series, one in rows.items():
            venue.exchange.publish(series, one)
        found = asyncio.run(fetch(venue))
    for funding, own in zip(found, rows.values(), strict=True):
        assert_rows(funding, own)
        assert funding.gaps == ()
        assert len(np.unique(settled_times(funding.time))) == len(own)
    hours = {funding.series.symbol: list(dict.fromkeys(funding.interval_hours.tolist())) for funding in found}
    assert hours["TLMUSDT"][0] == hours["ICXUSDT"][0] == 8
    assert {1, 4} <= set(hours["TLMUSDT"]) & set(hours["ICXUSDT"])


# --- Metrics -----------------------------------------------------------------------------------------------


def metrics_of(day: str) -> list[Row]:
    from_ms = parse_time(day)
    return [
        (
            str(np.datetime64(from_ms // 1000 + row * 300, "s")).replace("T", " "),
            "BTCUSDT",
            *(f"{row + cell}.5" for cell in range(6)),
        )
        for row in range(288)
    ]


def test_metrics_come_from_archives_alone(tmp_path: Path) -> None:
    series = SeriesKey.of("BTCUSDT", market="um", kind="metrics")
    with Venue(tmp_path, "2024-03-10T12:00") as venue:
        for day in ("2024-03-07", "2024-03-08", "2024-03-09"):
            venue.publish(series, day, metrics_of(day))
        metrics = ckvd.get_metrics("BTCUSDT", start="2024-03-07", end="2024-03-10", **venue.options())
        assert metrics["open_interest"].tolist() == [row + 0.5 for row in range(288)] * 3
        with pytest.raises(NotCachedError, match="not yet published"):
            ckvd.get_metrics("BTCUSDT", start="2024-03-07", **venue.options())
        again = ckvd.get_metrics("BTCUSDT", start="2024-03-07", missing="ignore", **venue.options())
        assert again == metrics
        assert ckvd.ensure(
            "BTCUSDT", start="2024-03-07", end="2024-03-10", market="um", kind="metrics", **venue.options()
        ).is_complete
        assert venue.exchange.request_count == 0


def test_klines_are_not_read_from_a_kind_without_bars(tmp_path: Path) -> None:
    with Venue(tmp_path, "2024-03-10T12:00") as venue:
        with pytest.raises(IdentityError, match=r"cache\.metrics"):
            ckvd.get_klines("BTCUSDT", "5m", start="2024-03-07", market="um", kind="metrics", **venue.options())
        with pytest.raises(IdentityError, match="need an interval"):
            ckvd.ensure("BTCUSDT", start="2024-03-07", **venue.options())
        assert venue.request_count == 0

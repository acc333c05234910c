"""Recorded responses, and real archives served as the exchange would, against `json`, `csv` and `float`."""

from __future__ import annotations

import asyncio
import json
from typing import Any
from urllib.parse import parse_qs

import pytest

from ckvd.errors import (
    BannedError,
    ExchangeError,
    InvalidSymbolError,
    RateLimitError,
    RegionRefusedError,
    RestAnswerError,
)
from ckvd.model.grid import Grid
from ckvd.model.market import SeriesKey
from ckvd.model.table import BarFlag, bar_flags, fields_of
from ckvd.model.timespan import Span
from ckvd.network.retry import RetryPolicy
from ckvd.rest.rest_data_client import RestAnswer, RestDataClient
from ckvd.rest.rows import read_rows
from support.archives import columns_of
from support.loopback.exchange import Exchange
from support.loopback.reply import Reply
from support.loopback.rows import of_json, open_ms_of, rows_of_folder
from support.models import MINUTE_MS, ms
from support.places import SHARED_DATA

FOLDER = SHARED_DATA
RECORDED: list[dict[str, Any]] = []
ERRORS: list[dict[str, Any]] = []
if FOLDER.is_dir():
    RECORDED = json.loads((FOLDER / "rest" / "INDEX.json").read_bytes())
    ERRORS = json.loads((FOLDER / "rest" / "errors.json").read_bytes())

pytestmark = pytest.mark.skipif(not FOLDER.is_dir(), reason="real data not present: ../shared/data")

MARKETS = {"api": "spot", "fapi": "um", "dapi": "cm"}


def recorded(entry: dict[str, Any]) -> bytes:
    return FOLDER.joinpath("rest", str(entry["file"])).read_bytes()


def series_of(entry: dict[str, Any]) -> SeriesKey:
    query = {name: values[0] for name, values in parse_qs(entry["query"]).items()}
    _, root, _, kind = entry["path"].split("/")
    symbol = query.get("symbol") or query["pair"]
    return SeriesKey.of(symbol, query["interval"], market=MARKETS[root], kind=kind)


def fetch(exchange: Exchange, series: SeriesKey, span: Span) -> RestAnswer:
    async def main() -> RestAnswer:
        retry = RetryPolicy(attempts_max=1)
        async with RestDataClient(base_url=exchange.url, retry=retry) as client:
            return await client.fetch(series, span)

    return asyncio.run(main())


def assert_equals_a_plain_reading(answer: RestAnswer, series: SeriesKey, rows: list[tuple[str, ...]]) -> None:
    expected = columns_of({open_ms_of(row): list(row) for row in rows}, fields_of(series))
    found = {name: column.tolist() for name, column in answer.table.columns.items()}
    assert found == expected


@pytest.mark.parametrize("entry", [entry for entry in RECORDED if "rows" in entry], ids=lambda entry: entry["file"])
def test_a_recorded_answer_reads_as_it_was_written(entry: dict[str, Any]) -> None:
    body = recorded(entry)
    rows = read_rows(body, entry["file"])
    assert rows.row_count == entry["rows"]
    assert (rows.cells[0][0], rows.cells[0][-1]) == (entry["first"], entry["last"])
    for field, cells in enumerate(rows.cells):
        texts = [row[field] for row in of_json(body)]
        assert cells.tolist() == [int(text) if field in (0, 6, 8) else float(text) for text in texts]


@pytest.mark.parametrize(
    "entry",
    [entry for entry in RECORDED if "rows" in entry and "continuous" not in entry["path"]],
    ids=lambda entry: entry["file"],
)
def test_a_recorded_answer_passes_through_the_client(entry: dict[str, Any]) -> None:
    series, body = series_of(entry), recorded(entry)
    # The span is that of the rows, because the recorded query does not always match them.
    span = Span(entry["first"], entry["last"] + 1)
    with Exchange({series: of_json(body)}) as exchange:
        answer = fetch(exchange, series, span)
    assert_equals_a_plain_reading(answer, series, of_json(body))


@pytest.mark.parametrize("number", [0, 1])
def test_a_query_in_seconds_and_its_recorded_answer_do_not_pass(number: int) -> None:
    """The recorded rows are not in the span of the query."""
    entry = next(entry for entry in RECORDED if entry["file"] == f"fapi_v1_klines__LTCUSDT__5m__0{number}.json")
    query = {name: values[0] for name, values in parse_qs(entry["query"]).items()}
    with Exchange({}) as exchange:
        exchange.script(Reply(200, recorded(entry)))
        with pytest.raises(RestAnswerError):
            fetch(exchange, series_of(entry), Span(int(query["startTime"]), int(query["endTime"]) + 1))


def test_the_recorded_refusal_of_more_than_200_days_is_an_exchange_error() -> None:
    (entry,) = (entry for entry in RECORDED if "error" in entry)
    with Exchange({}) as exchange:
        exchange.script(Reply(400, recorded(entry)))
        with pytest.raises(ExchangeError) as caught:
            fetch(exchange, series_of(entry), Span(ms(2020, 1, 1), ms(2020, 2, 1)))
    assert caught.value.code == entry["error"]["code"] == -4088
    assert caught.value.message == entry["error"]["msg"]


@pytest.mark.parametrize("entry", ERRORS, ids=lambda entry: f"{entry['status']} {str(entry['body'])[:60]}")
def test_errors_as_users_reported_them_become_their_types(entry: dict[str, Any]) -> None:
    types = {403: RegionRefusedError, 418: BannedError, 429: RateLimitError}
    body, status = entry["body"], entry["status"] or 400
    is_json = isinstance(body, dict)
    with Exchange({}) as exchange:
        exchange.script(Reply(status, json.dumps(body).encode() if is_json else body.encode()))
        with pytest.raises(ExchangeError) as caught:
            fetch(exchange, SeriesKey.of("BTCUSDT", "1m"), Span(ms(2024, 1, 1), ms(2024, 1, 2)))
    error = caught.value
    is_symbol = is_json and body["code"] == -1121
    assert type(error) is (InvalidSymbolError if is_symbol else types.get(status, ExchangeError))
    if is_json:
        assert (error.code, error.message) == (body["code"], body["msg"])
    if isinstance(error, BannedError):
        # These bans are long over. The shortest ban is assumed only if the message gives no end.
        assert str(error.until_ms) in body["msg"]


# --- Real archives -----------------------------------------------------------------------------------------


def test_the_outage_of_2023_03_24_is_a_hole_of_80_minutes() -> None:
    series = SeriesKey.of("BTCUSDT", "1m")
    rows = rows_of_folder(FOLDER / "vision/data/spot/daily/klines/BTCUSDT/1m", "*-2023-03-2[345].zip")
    span = Span(ms(2023, 3, 23), ms(2023, 3, 26))
    with Exchange({series: rows}) as exchange:
        answer = fetch(exchange, series, span)
    assert_equals_a_plain_reading(answer, series, rows)
    missing = sorted(set(Grid.of(series.interval).opens(span).tolist()) - set(answer.table.open_time.tolist()))
    assert missing == list(range(ms(2023, 3, 24, 12, 40), ms(2023, 3, 24, 14), MINUTE_MS))


def test_the_late_hours_of_2018_02_come_as_they_are() -> None:
    series = SeriesKey.of("BTCUSDT", "1h")
    rows = rows_of_folder(FOLDER / "vision/data/spot/monthly/klines/BTCUSDT/1h", "*-2018-0[123].zip")
    with Exchange({series: rows}) as exchange:
        answer = fetch(exchange, series, Span(ms(2018, 1, 1), ms(2018, 4, 1)))
    assert_equals_a_plain_reading(answer, series, rows)
    columns = answer.table.columns
    flags = bar_flags(columns["open_time"], columns["close_time"], columns["volume"], Grid.of(series.interval))
    assert sum(bool(flag & BarFlag.OFF_GRID) for flag in flags) == 43


def test_coin_margined_hours_keep_contracts_and_base_volume() -> None:
    series = SeriesKey.of("BTCUSD_PERP", "1h", market="cm")
    rows = rows_of_folder(FOLDER / "vision/data/futures/cm/daily/klines/BTCUSD_PERP/1h")
    with Exchange({series: rows}) as exchange:
        answer = fetch(exchange, series, Span(ms(2023, 1, 1), ms(2025, 1, 1)))
    assert_equals_a_plain_reading(answer, series, rows)
    assert "base_volume" in answer.table.columns

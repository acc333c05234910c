"""The verbs of `ckvd universe`: what they print, their JSON documents and their statuses."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from ckvd.cache import CacheFolder
from ckvd.model.life import EndReason, EndSource
from ckvd.model.market import Market, SeriesKey
from ckvd.model.timespan import parse_time
from ckvd.universe.snapshot import Snapshot, write_snapshot
from support import command
from support.universes import entry, info_body, life, publish_archives
from support.venue import Venue

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

OLD = life("BNXUSDT", "2022-04-01", "2023-02-11T04:00Z", end_reason=EndReason.SETTLED, end_source=EndSource.FACT)
NEW = life("BNXUSDT", "2023-02-22T14:45Z", "2025-03-18", end_source=EndSource.LAST_ARCHIVE)
BTC = life("BTCUSDT", "2019-12-31", status="TRADING", end_reason=EndReason.ALIVE)
LIT = life("LITUSDT", "2021-02-18", status="PENDING_TRADING", end_reason=EndReason.ALIVE)
SETTLED = life("LITUSDT", "2021-02-18", "2025-12-23T14:00Z", status="SETTLING", end_reason=EndReason.DELISTED,
               end_source=EndSource.DELIVERY_DATE, delivery_ms=parse_time("2025-12-23T14:00Z"))  # fmt: skip


@pytest.fixture
def folder(tmp_path: Path) -> CacheFolder:
    folder = CacheFolder(tmp_path / "cache")
    write_snapshot(folder, Snapshot(Market.UM, parse_time("2025-10-17"), (OLD, NEW, BTC, LIT)))
    write_snapshot(folder, Snapshot(Market.UM, parse_time("2026-03-31"), (OLD, NEW, BTC, SETTLED)))
    return folder


def run(folder: CacheFolder, *words: str, status: int = 0) -> str:
    finished = command.run_here("universe", *words, "--cache", folder.root)
    assert finished.status == status, finished
    return finished.out if status == 0 else finished.err


def run_json(folder: CacheFolder, *words: str) -> Any:
    return json.loads(run(folder, *words, "--json"))


def test_a_list_is_a_table_of_lives_with_their_keys_and_bounds(folder: CacheFolder) -> None:
    lines = [line.split("\t") for line in run(folder, "list", "--market", "um").splitlines()]
    assert lines[0] == ["key", "symbol", "contract", "first", "end", "why", "end from", "status"]
    assert [line[0] for line in lines[1:]] == ["BNXUSDT@2022-04-01", "BNXUSDT@2023-02-22", "BTCUSDT", "LITUSDT"]
    assert lines[1][3:7] == ["2022-04-01", "2023-02-11T04:00Z", "settled", "known fact"]
    assert lines[2][4] == "<=2025-03-18"
    assert lines[3][4:] == ["-", "alive", "-", "TRADING"]


@pytest.mark.parametrize(
    ("words", "keys"),
    [
        (["--on", "2023-02-15", "--quote", "USDT"], ["BTCUSDT", "LITUSDT"]),
        (["--on", "2023-03-01"], ["BNXUSDT", "BTCUSDT", "LITUSDT"]),
        (["--start", "2023-02-01", "--end", "2023-03-01", "BNX*"], ["BNXUSDT@2022-04-01", "BNXUSDT@2023-02-22"]),
        (["--on", "2026-01-01"], ["BTCUSDT"]),
        (["--on", "2026-01-01", "--as-of", "2025-11-01"], ["BTCUSDT", "LITUSDT"]),
        (["--on", "2022-04-10", "--listed-days-min", "30"], ["BTCUSDT", "LITUSDT"]),
        (["--base", "BTC", "--base", "LIT", "--contract", "perpetual"], ["BTCUSDT", "LITUSDT"]),
        (["--leveraged", "only"], []),
    ],
)
def test_options_choose_lives(folder: CacheFolder, words: list[str], keys: list[str]) -> None:
    document = run_json(folder, "list", "-m", "um", *words)
    assert [one["key"] for one in document["lives"]] == keys


def test_the_json_document_of_a_list_has_every_fact_of_a_life(folder: CacheFolder) -> None:
    document = run_json(folder, "list", "-m", "um", "--on", "2022-06-01", "BNXUSDT")
    assert list(document) == ["market", "made_ms", "snapshot", "lives"]
    (found,) = document["lives"]
    assert found == {
        "key": "BNXUSDT",
        "market": "um",
        "ticker": "BNXUSDT",
        "first_ms": OLD.first_ms,
        "symbol": "BNXUSDT",
        "base": "BNX",
        "quote": "USDT",
        "contract": "perpetual",
        "multiplier": 1,
        "is_leveraged": False,
        "first_source": "first archive",
        "end_ms": OLD.end_ms,
        "end_reason": "settled",
        "end_source": "known fact",
        "listed_ms": None,
        "delivery_ms": None,
        "status": "",
        "renamed_to": "",
        "contract_size": None,
        "permissions": [],
        "first_archive_ms": None,
        "last_archive_ms": None,
        "previous_end_ms": None,
        "last_traded_ms": None,
        "end_is_bound": False,
    }


def test_a_difference_names_what_changed_between_two_dates_or_snapshots(folder: CacheFolder) -> None:
    text = run(folder, "diff", "2025-11-01", "2026-03-31", "--market", "um")
    assert "ended\tLITUSDT@2021-02-18\t2025-12-23T14:00Z" in text
    assert "status PENDING_TRADING -> SETTLING" in text
    assert text.endswith("from 2025-10-17 to 2026-03-31: 2 differences\n")
    document = run_json(folder, "diff", "2025-11-01", "2026-03-31", "--market", "um")
    assert list(document) == ["before_ms", "after_ms", "new", "again", "gone", "ended", "changed"]
    assert [one["ticker"] for one in document["ended"]] == ["LITUSDT"]
    assert document["changed"][0]["before"]["status"] == "PENDING_TRADING"
    names = sorted(path.name for path in (folder.root / ".universe" / "um").iterdir())
    assert run_json(folder, "diff", *names, "--market", "um") == document
    assert run_json(folder, "diff", names[0], names[0], "--market", "um")["changed"] == []


@pytest.mark.parametrize(
    ("words", "status", "reason"),
    [
        (["list", "--market", "cm"], 1, "make one: ckvd universe refresh --market cm"),
        (["list", "-m", "um", "--as-of", "2020-01-01"], 1, "the oldest was made at 2025-10-17"),
        (["diff", "2020-01-01", "2026-01-01", "-m", "um"], 1, "made at or before 2020-01-01"),
        (["diff", "x.universe", "2026-01-01", "-m", "um"], 1, "there is no such snapshot"),
        (["diff", "lately", "2026-01-01", "-m", "um"], 2, "is no time"),
        (["list", "-m", "um", "--on", "2023-01-01", "--end", "2024-01-01"], 2, "choose --on a day"),
        (["list", "-m", "um", "--contract", "future"], 2, "is not one of"),
    ],
)
def test_what_cannot_be_answered_says_why(folder: CacheFolder, words: list[str], status: int, reason: str) -> None:
    assert reason in run(folder, *words, status=status)


def test_a_damaged_snapshot_is_named_with_what_to_do(folder: CacheFolder) -> None:
    path = max((folder.root / ".universe" / "um").iterdir())
    path.write_bytes(path.read_bytes()[:-1])
    err = run(folder, "list", "-m", "um", status=1)
    assert str(path) in err
    assert "ckvd universe refresh" in err


@pytest.fixture
def venue(tmp_path: Path) -> Iterator[Venue]:
    with Venue(tmp_path, "2024-03-20T10:30") as venue:
        series = SeriesKey.of("BTCUSDT", "1d", market="um")
        publish_archives(venue.root, series, "2024-02-20", "2024-03-19", daily_from="2024-03-01")
        yield venue


def test_a_refresh_stores_a_snapshot_and_says_what_it_is_made_of(
    venue: Venue, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CKVD_VISION_LISTING_URL", venue.mirror.listing_url)
    venue.exchange.publish_info(
        Market.UM,
        info_body(entry("BTCUSDT", "2024-02-20"), entry("NEWUSDT", "2030-01-01", status="PENDING_TRADING")),
    )
    where = ("--vision-url", venue.mirror.base_url, "--rest-url", venue.exchange.url, "--cache", venue.cache_path)
    finished = command.run_here("universe", "refresh", "--market", "um", *where)
    assert (finished.status, finished.out.partition(": snapshot ")[0]) == (
        0,
        "um: 1 life, 1 alive, from archives and exchangeInfo",
    )
    assert "symbols of the exchange without a life" in finished.err
    assert finished.err.endswith("(1): NEWUSDT\n")
    finished = command.run_here("universe", "refresh", "--market", "um", *where, "--no-rest", "--json")
    document = json.loads(finished.out)
    assert list(document) == [
        *("market", "made_ms", "snapshot", "life_count", "alive_count"),
        *("listing", "exchange_info", "unavailable", "notes"),
    ]
    assert (document["life_count"], document["unavailable"]) == (1, "it was not asked")
    listed = command.run_here("universe", "list", "--market", "um", "--cache", venue.cache_path)
    assert listed.out.splitlines()[1].startswith("BTCUSDT\tBTCUSDT\tperpetual\t2024-02-20\t-\t")


def test_a_refresh_without_archives_of_that_market_is_an_empty_snapshot_and_without_a_mirror_an_error(
    tmp_path: Path,
) -> None:
    missing = command.run_here(
        "universe", "refresh", "-m", "um", "--no-rest", "--vision-url", tmp_path / "none", "--cache", tmp_path / "c"
    )
    assert (missing.status, missing.out) == (1, "")
    assert "found no folder 'data'" in missing.err

"""`ckvd download` of many series in one call, what it would fetch, and `ckvd update`."""

from __future__ import annotations

import io
import json
import sys
from typing import TYPE_CHECKING, Any

import pytest

from ckvd.cache import CacheFolder
from support import command
from support.download_site import DownloadSite
from support.tables import folder_state

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from support.command import Finished

MONTHS = [f"2022-{month:02}" for month in range(1, 7)]
HALF_YEAR = ("--start", "2022-01-01", "--end", "2022-07-01")


@pytest.fixture
def site(tmp_path: Path) -> Iterator[DownloadSite]:
    """Three symbols at two intervals."""
    with DownloadSite(tmp_path / "mirror", tmp_path / "klines") as site:
        for symbol in ("BTCUSDT", "ETHUSDT", "SOLUSDT"):
            for interval in ("1d", "12h"):
                site.publish(symbol, interval, *MONTHS)
        yield site


def run(site: DownloadSite, verb: str, *arguments: str) -> Finished:
    more = ("--cache", str(site.cache), "--vision-url", site.mirror.base_url, "--no-rest")
    return command.run_here(verb, *arguments, *more)


def use_listing(site: DownloadSite, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CKVD_VISION_LISTING_URL", site.mirror.listing_url)


def test_a_file_of_symbols_at_several_intervals_is_one_download(site: DownloadSite, tmp_path: Path) -> None:
    pairs = tmp_path / "pairs.txt"
    pairs.write_text("# majors\nBTCUSDT, ETHUSDT\n\nSOLUSDT\n", encoding="utf-8")
    finished = run(site, "download", "--symbols-file", str(pairs), "-i", "1d", "-i", "12h", *HALF_YEAR)
    assert (finished.status, finished.err) == (0, "")
    assert finished.out.startswith("36 archives stored (")
    assert finished.out.endswith(f"0 failed, in {site.cache}\n")
    assert len(list(CacheFolder(site.cache).series())) == 6


def test_symbols_come_from_standard_input(site: DownloadSite, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"BTCUSDT\nETHUSDT\n")))
    finished = run(site, "download", "SOLUSDT", "-f", "-", "-i", "1d", *HALF_YEAR, "--quiet")
    assert (finished.status, finished.out, finished.err) == (0, "", "")
    assert len(list(CacheFolder(site.cache).series())) == 3


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("-i", "1d", *HALF_YEAR), "name symbols, such as BTCUSDT"),
        (("BTCUSDT", "-i", "1d"), "say where to begin: --start TIME, such as 2024-01-31 or 30d, or --days 30"),
        (("BTCUSDT", "-i", "1d", "--start", "30d", "--days", "30"), "give one of them"),
        (("BTCUSDT", *HALF_YEAR), "klines need an interval"),
        (("-f", "none.txt", "-i", "1d", *HALF_YEAR), "none.txt: cannot be read: No such file"),
    ],
)
def test_what_is_left_out_is_said(site: DownloadSite, arguments: tuple[str, ...], said: str) -> None:
    finished = run(site, "download", *arguments)
    assert finished.status in (1, 2)
    assert said in finished.err
    assert not site.mirror.server.requests


def test_days_are_counted_back_from_now(site: DownloadSite) -> None:
    finished = run(site, "download", "BTCUSDT", "-i", "1d", "--days", "30", "--offline", "--json")
    document = json.loads(finished.out)
    (series,) = document["series"]
    start_ms, end_ms = series["span"]
    assert end_ms - start_ms == 30 * 86_400_000
    assert document["cache"] == str(site.cache)
    assert finished.status == 1


@pytest.mark.parametrize("has_listing", [True, False])
def test_a_dry_run_writes_nothing_and_counts_what_a_download_then_fetches(
    site: DownloadSite, monkeypatch: pytest.MonkeyPatch, has_listing: bool
) -> None:
    if has_listing:
        use_listing(site, monkeypatch)
    assert run(site, "download", "BTCUSDT", "-i", "1d", "--start", "2022-01-01", "--end", "2022-02-01").status == 0
    before = folder_state(site.cache)
    words = ("download", "BTCUSDT", "ETHUSDT", "-i", "1d", *HALF_YEAR)
    shown = run(site, *words, "--dry-run")
    plan = json.loads(run(site, *words, "--dry-run", "--json").out)
    assert folder_state(site.cache) == before
    assert sorted(path.name for path in site.cache.iterdir()) == [".locks", "spot"]
    assert shown.status == 0
    lines = shown.out.splitlines()
    assert lines[0] == "spot/klines/BTCUSDT/1d: 5 archives, 2022-02 to 2022-06"
    assert lines[-1].startswith("11 archives")
    assert lines[-1].endswith(f"of 2 series would be fetched into {site.cache}")
    fetched = json.loads(run(site, *words, "--json").out)
    assert fetched["is_complete"]
    assert plan["archives"] == {
        name: [one["period"] for one in fetched["archives"] if one["series"] == name] for name in plan["archives"]
    }
    assert plan["nbytes"] == (fetched["stored"]["nbytes"] if has_listing else None)
    assert run(site, *words, "--dry-run").out == f"nothing would be fetched: {site.cache} has everything\n"


def test_a_dry_run_names_what_no_archive_has(site: DownloadSite, monkeypatch: pytest.MonkeyPatch) -> None:
    use_listing(site, monkeypatch)
    words = ("download", "BTCUSDT", "-i", "1d", "--start", "2022-05-01", "--end", "2022-08-01", "--dry-run")
    assert "spot/klines/BTCUSDT/1d: no archive of 2022-07-01..2022-08-01" in run(site, *words).out
    assert not site.cache.exists()


def test_a_report_is_one_json_document(site: DownloadSite) -> None:
    finished = run(site, "download", "BTCUSDT", "NOSUCHUSDT", "-i", "1d", *HALF_YEAR, "--json")
    document: dict[str, Any] = json.loads(finished.out)
    assert (finished.status, finished.err) == (1, "")
    assert (document["is_complete"], document["failed_count"]) == (False, 0)
    assert document["stored"]["archive_count"] == 6
    bitcoin, unknown = document["series"]
    assert (bitcoin["series"], bitcoin["is_found"], bitcoin["missing"]) == ("spot/klines/BTCUSDT/1d", True, [])
    assert unknown["is_found"] is False
    assert "are symbol, market and interval right?" in unknown["missing"][0]["why"]
    assert {one["outcome"] for one in document["archives"]} >= {"stored"}


# --- Update ------------------------------------------------------------------------------------------------


def test_an_update_says_one_line_for_each_market(site: DownloadSite, monkeypatch: pytest.MonkeyPatch) -> None:
    use_listing(site, monkeypatch)
    first = ("--start", "2022-01-01", "--end", "2022-04-01")
    assert run(site, "download", "BTCUSDT", "ETHUSDT", "-i", "1d", *first).status == 0
    would = run(site, "update", "--dry-run")
    assert would.out.splitlines()[-1].startswith("6 archives (")
    finished = run(site, "update", "BTC*")
    assert finished.status == 0
    (line,) = finished.out.splitlines()
    assert line.startswith("spot: 1 series updated, 0 were current; 3 archives stored (")
    assert line.endswith(f"0 failed, in {site.cache}")
    assert run(site, "update", "ETHUSDT", "-q").out == ""
    site.forget_requests()
    again = run(site, "update", "--verbose")
    assert (again.status, again.err) == (0, "")
    assert (
        again.out == f"spot: 0 series updated, 2 were current; 0 archives stored (0 B), 0 failed, in {site.cache}\n"
    )
    assert site.mirror.server.requests == []
    document = json.loads(run(site, "update", "--json").out)
    assert (document["series"], document["is_complete"], len(document["current"])) == ([], True, 2)


def test_a_dry_run_of_an_update_names_the_folder_that_it_cannot_read(site: DownloadSite) -> None:
    assert run(site, "download", "BTCUSDT", "ETHUSDT", "-i", "1d", *HALF_YEAR).status == 0
    path = site.cache / "spot/klines/ETHUSDT/1d"
    path.rename(path.with_name("aside"))
    path.symlink_to("nowhere")
    for words in (("update", "--dry-run"), ("update", "--dry-run", "-q"), ("update", "--dry-run", "--json")):
        finished = run(site, *words)
        assert finished.status == 1
        assert "spot/klines/ETHUSDT/1d" in (finished.out if "--json" in words else finished.err)
        assert "has everything\n" not in finished.out


def test_a_cache_without_such_series_is_an_error(site: DownloadSite) -> None:
    finished = run(site, "update", "BTC*")
    assert (finished.status, finished.err) == (1, f"ckvd: nothing of that is in the cache {site.cache}\n")

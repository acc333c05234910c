"""Every verb works on funding rates and metrics, and says rows where there are no bars."""

from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING, Any

import pytest

from support import command
from support.records import (
    BARS,
    FUNDING,
    FUNDING_HEADER,
    METRICS,
    METRICS_HEADER,
    bars,
    five_minutes,
    publish,
    settlements,
)

if TYPE_CHECKING:
    from pathlib import Path

    from support.command import Finished

UM = ("-m", "um")
RATES = (*UM, "-k", "fundingRate")
RATIOS = (*UM, "-k", "metrics")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A mirror, and a cache that was downloaded from it, with a hole in both kinds."""
    place = tmp_path_factory.mktemp("kinds")
    mirror = place / "mirror"
    march = settlements("2024-03")
    publish(mirror, FUNDING, "2024-02", [FUNDING_HEADER, *settlements("2024-02")])
    publish(mirror, FUNDING, "2024-03", [FUNDING_HEADER, *march[:20], *march[23:]])
    publish(mirror, METRICS, "2024-03-01", [METRICS_HEADER, *five_minutes("2024-03-01", "end")])
    publish(mirror, METRICS, "2024-03-02", [METRICS_HEADER, *five_minutes("2024-03-02", "start", without=[7])])
    publish(mirror, BARS, "2024-03", bars("2024-03"))
    for words in (
        # Month by month, so that each is a segment.
        (*RATES, "--start", "2024-02-01", "--end", "2024-03-01"),
        (*RATES, "--start", "2024-03-01", "--end", "2024-04-01"),
        (*RATIOS, "--start", "2024-03-01", "--end", "2024-03-03"),
        (*UM, "-i", "5m", "--start", "2024-03-01", "--end", "2024-03-03"),
    ):
        finished = run(place, "download", "BTCUSDT", *words, "--vision-url", str(mirror), "--no-rest")
        assert finished.status == 0, finished.err
    return place


def run(place: Path, *words: str) -> Finished:
    return command.run_here(*words, "--cache", place / "cache")


def text(place: Path, *words: str, status: int = 0) -> str:
    finished = run(place, *words)
    assert finished.status == status, finished.err
    return finished.out


def refuse_constant(word: str) -> None:
    raise AssertionError(f"{word} is no JSON")


def document(place: Path, *words: str, status: int = 0) -> Any:
    return json.loads(text(place, *words, "--json", status=status), parse_constant=refuse_constant)


def test_settlements_are_shown_with_their_gaps_and_sources(place: Path) -> None:
    finished = run(place, "show", "BTCUSDT", *RATES, "--start", "2024-02-01", "--end", "2024-04-02", "-n", "2")
    lines = finished.out.splitlines()
    assert lines[:4] == [
        "time\tinterval_hours\trate\tmark_price",
        "2024-02-01\t8\t-0.0002\tnan",
        "...",
        "2024-03-31T16:00:00.014Z\t8\t-0.0001\tnan",
    ]
    assert lines[4].startswith("177 rows of um/fundingRate/BTCUSDT/events in 2024-02-01..2024-04-02, gathered")
    assert "gap 2024-03-07T16:00Z..2024-03-08T16:00Z 3 rows not in archive" in lines
    assert "gap 2024-04-01..2024-04-02 not fetched" in lines
    assert sum(line.startswith("source data/futures/um/monthly/fundingRate/BTCUSDT/") for line in lines) == 2
    assert finished.status == 1
    assert "2024-04-01..2024-04-02 is not in the cache" in finished.err


def test_metrics_are_shown_with_when_they_could_be_known_and_what_labels_mean(place: Path) -> None:
    out = text(place, "show", "BTCUSDT", *RATIOS, "--start", "2024-03-01", "--end", "2024-03-03", "-n", "2")
    lines = [line.split("\t") for line in out.splitlines()]
    assert lines[0][:4] == ["open_time", "known_time", "create_time", "open_interest"]
    assert lines[1][:3] == ["2024-03-01", "2024-03-01T00:05Z", "2024-03-01T00:05Z"]
    assert lines[3][:3] == ["2024-03-02T23:55Z", "2024-03-03", "2024-03-02T23:55Z"]
    assert lines[1][6] == "nan"
    assert "gap 2024-03-02T00:35Z..2024-03-02T00:40Z 1 row not in archive" in out
    labels = [line.rpartition(" ")[2] for line in out.splitlines() if line.startswith("source")]
    assert labels == ["end", "start"]


@pytest.mark.parametrize("verb", [("show", "--end", "2024-03-02"), ("download", "--end", "2024-03-02"), ("info",)])
def test_an_interval_is_for_bars_only(place: Path, verb: tuple[str, ...]) -> None:
    words = ("cache", "info") if verb == ("info",) else (*verb, "--start", "2024-03-01")
    refused = run(place, *words, "BTCUSDT", *RATES, "-i", "1h")
    assert (refused.status, "fundingRate are events and have no interval: leave 1h out" in refused.err) == (2, True)
    refused = run(place, *words, "BTCUSDT", *RATIOS, "-i", "1h")
    assert (refused.status, "metrics are published every 5m only" in refused.err) == (2, True)
    refused = run(place, *words, "BTCUSDT", *UM)
    assert (refused.status, "klines need an interval, such as 1h" in refused.err) == (2, True)


def test_looking_counts_rows_and_names_what_is_missing(place: Path) -> None:
    table = [line.split("\t") for line in text(place, "cache", "list").splitlines()]
    assert {row[0]: row[2:6] for row in table[1:]} == {
        "um/klines/BTCUSDT/5m": ["0", "8928", "0", "1"],
        "um/fundingRate/BTCUSDT/events": ["0", "177", "3", "2"],
        "um/metrics/BTCUSDT/5m": ["0", "575", "1", table[3][5]],
    }
    assert "um/fundingRate/BTCUSDT/events: 177 rows" in text(place, "cache", "info", "BTCUSDT", *RATES)
    assert "labels start" in text(place, "cache", "info", "BTCUSDT", *RATIOS)
    assert "um\tevents\t1\t2\t177" in text(place, "cache", "stats")
    gaps = text(place, "cache", "gaps", "-k", "fundingRate", "-k", "metrics")
    assert "um/fundingRate/BTCUSDT/events 2024-02-01..2024-04-01: 3 not in archive" in gaps
    assert "  2024-03-07T16:00Z..2024-03-08T16:00Z 3 rows not in archive" in gaps
    assert "  2024  #9" in gaps
    late = text(place, "cache", "gaps", *RATES, "--end", "2024-04-02", status=1)
    assert "events 2024-02-01..2024-04-02: 3 not in archive, not fetched" in late
    assert "  2024-04-01..2024-04-02 not fetched" in late
    assert text(place, "cache", "list", "-i", "5m").count("um/") == 2


def test_checking_finds_nothing_wrong(place: Path) -> None:
    assert text(place, "cache", "verify") == "0 errors, 0 warnings, 0 notes\n"
    mirror = str(place / "mirror")
    assert "unchanged" in text(place, "cache", "audit", "--thorough", "--vision-url", mirror)
    for against, why in (
        ("finer", "metrics are not made of shorter bars"),
        ("rest", "the REST interface has no history of metrics"),
    ):
        assert why in text(place, "cache", "audit", "--against", against, *RATIOS, status=1)
    absent = text(place, "cache", "audit", "--against", "days", *RATES, "--vision-url", mirror, status=1)
    assert "has no daily archives" in absent


def test_a_data_set_of_all_kinds_is_pinned_packed_and_exported(place: Path, tmp_path: Path) -> None:
    place = shutil.copytree(place, tmp_path / "copy")
    lock = str(tmp_path / "data.lock")
    text(place, "cache", "lock", lock)
    assert " um/fundingRate/BTCUSDT/events\n" in (tmp_path / "data.lock").read_text()
    assert "2 segments of 177 rows" in text(place, "cache", "pack", *RATES, "--thorough", "--yes")
    assert "177 rows" in text(place, "cache", "export", "--to", str(tmp_path / "out"), *RATES)
    assert (tmp_path / "out/um/fundingRate/BTCUSDT/events/BTCUSDT-fundingRate-2024-02-01-2024-04-01.csv").exists()
    text(place, "cache", "export", "--to", str(tmp_path / "out"), *RATIOS, "--cut", "day")
    assert (tmp_path / "out/um/metrics/BTCUSDT/5m/BTCUSDT-metrics-2024-03-02.csv").exists()
    assert {line.split(":")[0] for line in text(place, "cache", "check-lock", lock).splitlines()} == {"same"}
    assert "would remove um/fundingRate/BTCUSDT/events 1970-01-01..2024-02-02: 3 rows" in text(
        place, "cache", "prune", *RATES, "--end", "2024-02-02"
    )


@pytest.mark.parametrize(
    "words",
    [
        ("list",),
        ("info", "BTCUSDT", *RATES),
        ("info", "BTCUSDT", *RATIOS),
        ("stats",),
        ("gaps",),
        ("verify",),
        ("pack",),
        ("quarantine",),
        ("prune", *RATES),
        ("lock", "-"),
    ],
    ids=" ".join,
)
def test_documents_are_json(place: Path, words: tuple[str, ...]) -> None:
    assert document(place, "cache", *words) is not None

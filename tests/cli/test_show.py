"""`ckvd show`: bars and what is known of them, from the cache alone."""

from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING

import pytest

from ckvd.model.market import SeriesKey
from ckvd.model.table import fields_of
from support import command
from support.archives import read_rows
from support.places import SAMPLES

if TYPE_CHECKING:
    from pathlib import Path

    from support.command import Finished

OUTAGE = ("BTCUSDT", "-i", "1m", "--start", "2023-03-24", "--end", "2023-03-25")


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home with a cache of three days, one month and one of coin-margined bars."""
    home = tmp_path_factory.mktemp("home")
    for words in (
        "BTCUSDT -i 1m --start 2023-03-23 --end 2023-03-26",
        "BTCUSDT -i 1h --start 2025-01-01 --end 2025-02-01",
        "BTCUSD_PERP -i 1h --market cm --start 2024-01-01 --end 2024-01-04",
    ):
        options = ("--cache", home / "klines", "--vision-url", SAMPLES, "--no-rest")
        finished = command.run_here("download", *words.split(), *options)
        assert finished.status == 0, finished.err
    return home


def show(home: Path, *arguments: str) -> Finished:
    return command.run_here("show", *arguments, "--cache", home / "klines")


def table_of(finished: Finished) -> list[list[str]]:
    return [line.split("\t") for line in finished.out.splitlines() if "\t" in line]


def test_a_day_with_an_outage_is_shown_with_its_gap_flags_and_source(home: Path) -> None:
    finished = command.run("show", *OUTAGE, "--cache", "klines", home=home)
    assert (finished.status, finished.err) == (0, "")
    lines = finished.out.splitlines()
    assert "1360 bars of spot/klines/BTCUSDT/1m in 2023-03-24..2023-03-25, a view of one segment" in lines
    assert any(line.startswith("gap 2023-03-24T12:40Z..2023-03-24T14:00Z 80 bars") for line in lines)
    assert "flag zero_volume: 72 bars" in lines
    assert "flag odd_close: 1 bars" in lines
    (source,) = (line for line in lines if line.startswith("source "))
    assert "BTCUSDT-1m-2023-03-24.zip 1360 rows" in source
    assert source.endswith("confirmed by CHECKSUM")


def test_the_first_and_last_bars_are_shown_cell_by_cell(home: Path) -> None:
    header, *shown = table_of(show(home, *OUTAGE, "--rows", "4"))
    assert header == [*(name for name in fields_of(SeriesKey.of("BTCUSDT", "1m")) if name != "ignore"), "flags"]
    rows = list(read_rows(SAMPLES / "data/spot/daily/klines/BTCUSDT/1m/BTCUSDT-1m-2023-03-24.zip").values())
    for cells, row in zip(shown, [*rows[:2], *rows[-2:]], strict=True):
        assert [float(cell) for cell in cells[1:6]] == [float(cell) for cell in row[1:6]]
        assert cells[8] == row[8]
    assert [cells[0] for cells in shown] == [
        "2023-03-24",
        "2023-03-24T00:01Z",
        "2023-03-24T23:58Z",
        "2023-03-24T23:59Z",
    ]


@pytest.mark.parametrize(("rows", "shown"), [("0", 24), ("2", 2), ("5", 5), ("24", 24), ("1000", 24)])
def test_as_many_bars_are_shown_as_were_asked_for(home: Path, rows: str, shown: int) -> None:
    day = ("BTCUSDT", "-i", "1h", "--start", "2025-01-02", "--end", "2025-01-03")
    finished = show(home, *day, "--rows", rows)
    assert len(table_of(finished)) == 1 + shown
    assert finished.out.splitlines().count("...") == (shown < 24)


def test_coin_margined_bars_have_their_own_columns(home: Path) -> None:
    finished = show(home, "BTCUSD_PERP", "-i", "1h", "-m", "cm", "--start", "2024-01-01", "--end", "2024-01-04")
    assert finished.status == 0
    assert "base_volume" in table_of(finished)[0]
    assert "quote_volume" not in table_of(finished)[0]


def test_what_is_missing_is_named_with_the_remedy(home: Path) -> None:
    finished = show(home, "BTCUSDT", "-i", "1m", "--start", "2023-03-25", "--end", "2023-03-27")
    assert finished.status == 1
    assert "1440 bars of spot/klines/BTCUSDT/1m" in finished.out
    (line,) = finished.err.splitlines()
    assert line.startswith("ckvd: spot/klines/BTCUSDT/1m: 2023-03-26..2023-03-27 is not in the cache")
    assert line.endswith("fetch it with ckvd download")


def test_a_cache_that_is_not_there_is_empty_and_stays_so(home: Path) -> None:
    finished = command.run_here("show", *OUTAGE, "--cache", home / "nowhere")
    assert finished.status == 1
    assert "0 bars of spot/klines/BTCUSDT/1m in 2023-03-24..2023-03-25" in finished.out.splitlines()
    assert "is not in the cache" in finished.err
    assert not (home / "nowhere").exists()


def test_a_damaged_segment_is_named(home: Path) -> None:
    cache = home / "damaged"
    subprocess.run(["cp", "-r", home / "klines", cache], check=True)
    (segment,) = cache.glob("spot/klines/BTCUSDT/1h/*.ckvd")
    segment.write_bytes(segment.read_bytes()[:1000])
    month = ("BTCUSDT", "-i", "1h", "--start", "2025-01-01", "--end", "2025-02-01")
    finished = command.run("show", *month, "-c", "damaged", home=home)
    assert finished.status == 1
    assert segment.name in finished.err
    assert "Traceback" not in finished.err


def test_a_pipe_closed_early_is_not_an_error(home: Path) -> None:
    arguments = ("show", *OUTAGE, "--rows", "0", "--cache", "klines")
    with command.started(*arguments, home=home) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.readline().startswith("open_time\t")
        process.stdout.close()
        assert process.stderr.read() == ""
        assert process.wait(command.TIMEOUT_S) == 1

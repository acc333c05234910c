"""`ckvd cache export`, `lock` and `check-lock`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from ckvd.cache import CacheFolder, SeriesStore
from ckvd.maintenance.data_lock import format_lock
from ckvd.model.calendar import days_of
from ckvd.model.market import SeriesKey
from ckvd.model.provenance import Absence, Reason
from ckvd.model.timespan import Span
from cli.cache.run import DAY, HOURS, MARCH, run, run_any, run_json
from support import command
from support.archives import path_of, zip_text
from support.loopback.mirror import publish
from support.tables import make_table, regular_table

ETHUSDT = SeriesKey.of("ETHUSDT", "1h")

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ckvd.maintenance.data_lock import ContentHash


def test_export_writes_files(folder: CacheFolder, tmp_path: Path) -> None:
    out = tmp_path / "out"
    (file,) = run_json(folder, "export", "BTCUSDT", "--to", str(out))
    assert Path(file["path"]).read_bytes().count(b"\n") == 743
    run(folder, "export", "BTCUSDT", "--to", str(out), status=1)
    run(folder, "export", "BTCUSDT", "--to", str(out), "--overwrite", "--format", "npz")
    run(folder, "export", "ETHUSDT", "--to", str(out), status=1)


@pytest.mark.parametrize(
    ("span", "exported"),
    [
        (("--start", "2023-03-30"), [("2023-03-30", "2023-04-01")]),
        (("--start", "2023-02-01"), [("2023-03-01", "2023-03-11"), ("2023-03-21", "2023-04-01")]),
        (("--end", "2023-03-02"), [("2023-03-01", "2023-03-02")]),
        (("--end", "2023-03-22"), [("2023-03-01", "2023-03-11"), ("2023-03-21", "2023-03-22")]),
        (("--start", "2023-03-01", "--end", "2023-03-02"), [("2023-03-01", "2023-03-02")]),
        (("--start", "2023-04-01"), None),
        (("--end", "2023-03-01"), None),
        (("--start", "2023-02-01", "--end", "2023-03-02"), None),
    ],
)
def test_export_takes_an_open_end_as_that_of_the_series(
    folder: CacheFolder, tmp_path: Path, span: tuple[str, ...], exported: list[tuple[str, str]] | None
) -> None:
    run(folder, "prune", "BTCUSDT", "--start", "2023-03-11", "--end", "2023-03-21", "--yes")
    words = ("export", "BTCUSDT", "--to", str(tmp_path / "out"), *span)
    if exported is None:
        run(folder, *words, status=1)
        assert not (tmp_path / "out").exists()
    else:
        files = run_json(folder, *words)
        spans = [Span.of(start, end) for start, end in exported]
        assert [file["span"] for file in files] == [[part.start_ms, part.end_ms] for part in spans]


def test_a_lock_tells_whether_bars_are_the_same(folder: CacheFolder, tmp_path: Path) -> None:
    lock = tmp_path / "data.lock"
    assert "2 spans, 87,143 bars" in run(folder, "lock", str(lock))
    assert run(folder, "lock", "-") == lock.read_text()
    shown = [f"{one['sha256']} {one['bar_count']}" for one in run_json(folder, "lock", "-")]
    assert shown == [" ".join(line.split()[:2]) for line in lock.read_text().splitlines()[1:]]
    assert run(folder, "check-lock", str(lock)).count("same:") == 2
    run(folder, "prune", "BNBBTC", "--yes")
    assert [line["verdict"] for line in run_json(folder, "check-lock", str(lock), status=1)] == ["missing", "same"]
    run(folder, "lock", str(lock), "NONE", status=1)
    run(folder, "check-lock", str(tmp_path / "none"), status=1)


def test_a_lock_replaces_a_file_only_with_overwrite(folder: CacheFolder, tmp_path: Path) -> None:
    strategy = tmp_path / "strategy.py"
    strategy.write_text("print('years of work')\n", encoding="utf-8")
    result = run_any(folder, "lock", str(strategy))
    assert (result.exit_code, result.stdout) == (1, "")
    assert f"{strategy} is there already" in result.stderr
    assert strategy.read_text(encoding="utf-8") == "print('years of work')\n"
    run(folder, "lock", str(strategy), "--overwrite")
    assert strategy.read_text(encoding="utf-8") == run(folder, "lock", "-")


@pytest.mark.parametrize("symbol", ["BTCUSDT", "btcusdt", "BTC*"])
def test_a_lock_is_not_called_like_a_symbol_of_the_cache(
    folder: CacheFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, symbol: str
) -> None:
    monkeypatch.chdir(tmp_path)
    assert "name the file first" in run_any(folder, "lock", symbol, status=2).stderr
    assert [path.name for path in tmp_path.iterdir()] == ["cache"]
    run(folder, "lock", "NONE.lock", symbol)


def test_export_tells_of_cells_that_a_double_does_not_hold(tmp_path: Path) -> None:
    folder = CacheFolder(tmp_path / "cache")
    line = "1677628800000,1.5,1.5,1.5,1.5,60000000.12345678,1677632399999,9007199254.74099371,3,0.0,0.0,0\n"
    path = path_of("BTCUSDT", "1h", "2023-03-01")
    publish(tmp_path / "mirror", path, zip_text(Path(path).name, [line]))
    words = ["download", "BTCUSDT", "-i", "1h", "--start", "2023-03-01", "--end", "2023-03-02", "--no-rest"]
    options = ("--vision-url", tmp_path / "mirror", "--cache", folder.root)
    assert command.run_here(*words, *options).status == 0
    shown = run(folder, "export", "--to", str(tmp_path / "out")).splitlines()
    assert shown[0].startswith(f"{tmp_path / 'out' / str(HOURS)}")
    assert ": 1 bar, " in shown[0]
    assert shown[1].startswith("1 cell with more digits than a double holds")


def test_a_lock_says_which_bars_differ(folder: CacheFolder, tmp_path: Path) -> None:
    lock = tmp_path / "data.lock"
    run(folder, "lock", str(lock), "BTCUSDT")
    SeriesStore(folder, HOURS).put(regular_table(HOURS, DAY), DAY)
    shown = run(folder, "check-lock", str(lock), status=1)
    assert shown.startswith(f"different: {HOURS} {MARCH}: 743 bars, expected 743")


def test_a_lock_whose_folder_is_missing_is_an_error(folder: CacheFolder, tmp_path: Path) -> None:
    lock = tmp_path / "none" / "data.lock"
    for options in ((), ("--overwrite",)):
        assert f"{lock}: cannot be written: " in run_any(folder, "lock", str(lock), *options).stderr
    assert f"{lock}: cannot be read: " in run_any(folder, "check-lock", str(lock)).stderr


def test_a_file_that_came_meanwhile_is_not_replaced_by_a_lock(
    folder: CacheFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lock = tmp_path / "data.lock"

    def format_after_another(hashes: Iterable[ContentHash]) -> str:
        lock.write_text("of somebody else", encoding="utf-8")
        return format_lock(hashes)

    monkeypatch.setattr("ckvd.cli.cache.data.format_lock", format_after_another)
    assert f"{lock} is there already" in run_any(folder, "lock", str(lock)).stderr
    assert lock.read_text(encoding="utf-8") == "of somebody else"


@pytest.fixture
def holed(folder: CacheFolder) -> CacheFolder:
    """The cache, and a series of which no source had the second of three days."""
    days = [period.span for period in days_of(Span.of("2023-03-01", "2023-03-04"))]
    for span in days[::2]:
        SeriesStore(folder, ETHUSDT).put(regular_table(ETHUSDT, span), span)
    absence = Absence(days[1].start_ms, days[1].end_ms, Reason.NOT_IN_ARCHIVE, MARCH.end_ms)
    SeriesStore(folder, ETHUSDT).put(make_table(ETHUSDT, []), days[1], absences=[absence], recheck_ms=MARCH.end_ms)
    return folder


UNAVAILABLE = f"ckvd: {ETHUSDT}: 2023-03-02..2023-03-03 was unavailable when it was asked for"


def test_a_span_that_no_source_had_is_named_and_the_rest_is_locked(holed: CacheFolder, tmp_path: Path) -> None:
    lock = tmp_path / "data.lock"
    locked = run_any(holed, "lock", str(lock), status=0)
    assert "4 spans, 87,191 bars" in locked.stdout
    assert locked.stderr == f"{UNAVAILABLE}, and the lock says so\n"
    printed = run_any(holed, "lock", "-", status=0)
    assert (printed.stdout, printed.stderr) == (lock.read_text(encoding="utf-8"), locked.stderr)
    assert run(holed, "check-lock", str(lock)).count("same:") == 5
    document = run_json(holed, "lock", str(lock), "--overwrite")
    span = Span.of("2023-03-02", "2023-03-03")
    assert document["unavailable"] == {str(ETHUSDT): [[span.start_ms, span.end_ms]]}
    assert (document["span_count"], document["bar_count"]) == (4, 87_191)
    # Where the bars are there by now, the check says which.
    SeriesStore(holed, ETHUSDT).put(regular_table(ETHUSDT, span), span)
    said = run(holed, "check-lock", str(lock), status=1).splitlines()
    assert sum(line.startswith("same:") for line in said) == 4
    assert (
        f"different: {ETHUSDT} {span}: 24 bars, expected 0: unavailable by the lock, and the cache has {span}"
        in said
    )


def test_a_span_that_no_source_had_is_named_and_the_rest_is_exported(holed: CacheFolder, tmp_path: Path) -> None:
    exported = run_any(holed, "export", "--to", str(tmp_path / "all"), status=0)
    assert exported.stderr == f"{UNAVAILABLE}, and is not exported\n"
    files = run_json(holed, "export", "ETHUSDT", "--to", str(tmp_path / "one"))
    assert [file["bar_count"] for file in files] == [24, 24]
    # Both ends are given, and not all between them could be exported.
    bounds = ("--start", "2023-03-01", "--end", "2023-03-03")
    exported = run_any(holed, "export", "*USDT", "--to", str(tmp_path / "both"), *bounds, status=1)
    assert exported.stdout.count(": 24 bars") == exported.stdout.count(": 48 bars") == 1
    assert exported.stderr.startswith(UNAVAILABLE)
    nothing = run_any(
        holed, "export", "ETHUSDT", "--to", str(tmp_path / "no"), "--start", "2023-03-02", "--end", "2023-03-03"
    )
    assert nothing.stderr.startswith(UNAVAILABLE)
    assert not (tmp_path / "no").exists()


def test_a_series_that_does_not_cover_the_span_does_not_keep_the_others_from_being_exported(
    holed: CacheFolder, tmp_path: Path
) -> None:
    bounds = ("--start", "2023-03-03", "--end", "2023-03-06")
    exported = run_any(holed, "export", "*USDT", "--to", str(tmp_path / "out"), *bounds, status=1)
    assert exported.stdout.count(": 72 bars") == 1
    assert (
        f"{ETHUSDT}: the cache does not cover 2023-03-04..2023-03-06 of 2023-03-03..2023-03-06" in exported.stderr
    )
    assert [path.name for path in (tmp_path / "out/spot/klines").iterdir()] == ["BTCUSDT"]

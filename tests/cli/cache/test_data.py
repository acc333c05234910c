"""`ckvd cache export`, `lock` and `check-lock`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from ckvd.model.timespan import Span
from cli.cache.run import run, run_any, run_json

if TYPE_CHECKING:
    from ckvd.cache import CacheFolder


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


def test_a_lock_replaces_a_file_only_where_it_is_told_to(folder: CacheFolder, tmp_path: Path) -> None:
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

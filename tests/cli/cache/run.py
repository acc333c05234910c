"""Running the verbs of `ckvd cache` in this process."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from click.testing import CliRunner, Result

from ckvd.cli.app import app
from ckvd.model.market import SeriesKey
from ckvd.model.timespan import Span

if TYPE_CHECKING:
    from pathlib import Path

    from ckvd.cache import CacheFolder

HOURS = SeriesKey.of("BTCUSDT", "1h")
DAY = Span.of("2023-03-01", "2023-03-02")
MARCH = Span.of("2023-03-01", "2023-04-01")


def run_any(folder: CacheFolder, *words: str, status: int = 1) -> Result:
    result = CliRunner().invoke(app, ["cache", *words, "--cache", str(folder.root)])
    assert result.exit_code == status, result.output
    return result


def run(folder: CacheFolder, *words: str, status: int = 0) -> str:
    return run_any(folder, *words, status=status).stdout


def run_json(folder: CacheFolder, *words: str, status: int = 0) -> Any:
    return json.loads(run(folder, *words, "--json", status=status))


def damage(folder: CacheFolder) -> Path:
    path = next(folder.series_path(HOURS).glob("*.ckvd"))
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    return path

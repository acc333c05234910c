"""What all verbs of `ckvd cache` share: help, the choice of series, and the exit status."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from click.testing import CliRunner

from ckvd.cache import CacheFolder, SeriesStore
from ckvd.cli.app import app
from ckvd.cli.cache.app import cache
from ckvd.model.market import SeriesKey
from ckvd.model.timespan import Span
from cli.cache.run import DAY, run, run_any, run_json
from support.places import SAMPLES
from support.tables import regular_table

if TYPE_CHECKING:
    from pathlib import Path

VERBS = list(cache.commands)


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_help_json_and_filters(verb: str) -> None:
    result = CliRunner().invoke(app, ["cache", verb, "--help"])
    assert result.exit_code == 0
    assert "--json" in result.stdout
    assert "--cache" in result.stdout
    filters = [option in result.stdout for option in ("--market", "--kind", "--interval", "* and ?")]
    assert all(filters) == (verb not in ("info", "check-lock"))


WORDS_OF_CHECKS = {
    "list": (),
    "stats": (),
    "gaps": (),
    "verify": (),
    "repair": (),
    "audit": ("--vision-url", str(SAMPLES)),
    "pack": (),
    "export": ("--to", "exported"),
    "lock": ("bars.lock",),
}


@pytest.mark.parametrize("verb", WORDS_OF_CHECKS)
def test_a_filter_that_matches_nothing_is_an_error(
    folder: CacheFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, verb: str
) -> None:
    monkeypatch.chdir(tmp_path)
    nowhere = CacheFolder(tmp_path / "nowhere")
    words = (verb, *WORDS_OF_CHECKS[verb])
    for place, filters in ((folder, ("NOPE",)), (folder, ("-m", "um")), (nowhere, ()), (nowhere, ("--json",))):
        result = run_any(place, *words, *filters)
        assert (result.stdout, result.stderr) == ("", f"ckvd: nothing of that is in the cache {place.root}\n")
    assert [path.name for path in tmp_path.iterdir()] == ["cache"]


def test_a_cache_that_is_there_may_be_empty(tmp_path: Path) -> None:
    empty = CacheFolder(tmp_path)
    assert run_json(empty, "list") == []
    assert run(empty, "verify").startswith("0 errors, 0 warnings")
    assert "nothing of that" in run_any(empty, "verify", "BTCUSDT").stderr


def test_a_month_may_be_named_as_the_exchange_does(tmp_path: Path) -> None:
    folder = CacheFolder(tmp_path / "cache")
    year = Span.of("2023-01-01", "2024-01-01")
    for interval in ("1mo", "1m"):
        series = SeriesKey.of("BTCUSDT", interval)
        SeriesStore(folder, series).put(regular_table(series, year if interval == "1mo" else DAY), year)
    for name in ("1mo", "1M"):
        assert [one["interval"] for one in run_json(folder, "list", "-i", name)] == ["1mo"]
        assert run_json(folder, "info", "BTCUSDT", "-i", name)["interval"] == "1mo"
    assert len(run_json(folder, "list", "-i", "1M", "-i", "1m")) == 2
    assert "unknown interval '7m': expected one of 1s, 1m" in run_any(folder, "list", "-i", "7m", status=2).stderr

"""Options that several verbs share."""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING

import click
import pytest

from ckvd.cli.options import exit_status_of_errors
from support.command import run_here

if TYPE_CHECKING:
    from pathlib import Path

SERIES = ("BTCUSDT", "--interval", "1h")
CACHE = ("--cache", "{folder}/klines")
VERBS_WITH_TIMES = {
    "download": ("download", *SERIES, "--offline", *CACHE, "--start"),
    "download to": ("download", *SERIES, "--offline", *CACHE, "--start", "2023-01-01", "--end"),
    "show": ("show", *SERIES, *CACHE, "--end", "now", "--start"),
    "prune": ("cache", "prune", "BTCUSDT", *CACHE, "--start"),
    "prune before": ("cache", "prune", "BTCUSDT", *CACHE, "--before"),
    "gaps": ("cache", "gaps", "BTCUSDT", *CACHE, "--start"),
    "export": ("cache", "export", "BTCUSDT", "--to", "{folder}/out", *CACHE, "--end"),
    "lock": ("cache", "lock", "{folder}/klines.lock", *CACHE, "--start"),
}


@pytest.mark.parametrize("words", VERBS_WITH_TIMES.values(), ids=VERBS_WITH_TIMES)
@pytest.mark.parametrize(
    ("text", "meaning"),
    [
        ("1672531200", "these look like seconds, of 2023-01-01"),
        ("1672531200000", "these look like milliseconds, of 2023-01-01"),
        ("1672531200000000", "these look like microseconds, of 2023-01-01"),
    ],
)
def test_digits_for_a_time_are_a_usage_error_that_says_which_time_was_meant(
    tmp_path: Path, words: tuple[str, ...], text: str, meaning: str
) -> None:
    finished = run_here(*(word.format(folder=tmp_path) for word in words), text)
    assert finished.status == 2
    assert f"{text!r} is no time: expected an ISO date or time" in finished.err
    assert meaning in finished.err
    assert list(tmp_path.iterdir()) == []


def test_an_error_of_the_system_that_nothing_translated_is_a_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(click.exceptions.Exit) as end, exit_status_of_errors():
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), "/a/file")
    assert end.value.exit_code == 1
    assert capsys.readouterr().err.startswith("ckvd: /a/file: cannot be used: Permission denied; ")


def test_an_error_of_a_stream_is_left_to_the_entry_point() -> None:
    with pytest.raises(OSError, match="No space left"), exit_status_of_errors():
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

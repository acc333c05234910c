"""`ckvd` itself: help, version, and what is wrong usage."""

from __future__ import annotations

import contextlib
import errno
import importlib
import io
import os
import sys
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

import click
import pytest

import ckvd
from ckvd.cli import main
from support import command
from support.command import Finished
from support.places import REPOSITORY

if TYPE_CHECKING:
    from collections.abc import Sequence

DECLARED = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))
PROJECT, BUILD = DECLARED["project"], DECLARED["tool"]["hatch"]
VERBS = ("download", "show")
SPAN = ("--start", "2023-03-24", "--end", "2023-03-25")


def test_the_version_is_that_of_the_project(tmp_path: Path) -> None:
    finished = command.run("--version", home=tmp_path)
    assert (finished.status, finished.out, finished.err) == (0, f"ckvd {ckvd.__version__}\n", "")
    assert PROJECT["dynamic"] == ["version"]
    source = REPOSITORY / BUILD["version"]["path"]
    assert f'__version__ = "{ckvd.__version__}"' in source.read_text(encoding="utf-8")


def test_the_entry_point_is_there() -> None:
    module, _, function = PROJECT["scripts"]["ckvd"].partition(":")
    assert callable(getattr(importlib.import_module(module), function))


def test_the_help_names_every_verb_and_the_exit_status(tmp_path: Path) -> None:
    finished = command.run("--help", home=tmp_path)
    assert (finished.status, finished.err) == (0, "")
    assert all(f"\n  {verb} " in finished.out for verb in VERBS)
    assert "0 what was asked for is in the cache, 1 something failed" in finished.out.replace("\n  ", " ")


@pytest.mark.parametrize(
    ("verb", "options"),
    [
        (
            "download",
            "--interval --start --end --market --kind --cache --vision-url --rest-url --no-rest --offline --jobs",
        ),
        ("show", "--interval --start --end --market --kind --cache --rows"),
    ],
)
def test_the_help_of_a_verb_explains_its_options(verb: str, options: str) -> None:
    finished = command.run_here(verb, "--help")
    assert (finished.status, finished.err) == (0, "")
    assert [option for option in options.split() if option not in finished.out] == []


def test_no_verb_at_all_shows_the_help(tmp_path: Path) -> None:
    finished = command.run(home=tmp_path)
    assert finished.status in (0, 2)  # as click likes it
    assert "Usage:" in finished.out + finished.err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("dowload",), "dowload"),
        (("show", "--colour"), "--colour"),
        (("show", "BTCUSDT", *SPAN), "klines need an interval"),
        (("show", "-i", "1h", *SPAN), "symbol"),
        (("show", "BTCUSDT", "-i", "7m", *SPAN), "7m"),
        (("show", "BTCUSDT", "-i", "1h", "-m", "margin", *SPAN), "margin"),
        (("show", "BTCUSDT", "-i", "1h", "-k", "trades", *SPAN), "trades"),
        (("show", "../etc", "-i", "1h", *SPAN), "cannot name a folder"),
        (("show", "btcusdt", "-i", "1h", *SPAN), "did you mean 'BTCUSDT'?"),
        (("show", "BTCUSDT", "-i", "1s", "-m", "um", *SPAN), "1s bars exist for spot only"),
        (("show", "BTCUSDT", "-i", "1h", "--start", "lately", "--end", "now"), "'lately' is no time"),
        (("show", "BTCUSDT", "-i", "1h", "--start", "2023-03-25", "--end", "2023-03-24"), "ends before it starts"),
        (("download", "BTCUSDT", "-i", "1h", "--start", "1677628800"), "'1677628800' is no time"),
        (("download", "BTCUSDT", "-i", "1h", "--jobs", "0", *SPAN), "--jobs"),
        (("download", "BTCUSDT", "x/y", "-i", "1h", *SPAN), "'x/y' cannot name a folder"),
    ],
)
def test_wrong_usage_is_explained_with_status_2(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], said: str
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CKVD_CACHE_DIR", "klines")
    finished = command.run_here(*arguments)
    assert (finished.status, finished.out) == (2, "")
    assert said.lower() in finished.err.lower()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "said"),
    [(("dowload",), "dowload"), (("show", "../etc", "-i", "1h", *SPAN), "cannot name a folder")],
    ids=["found by click", "found by ckvd"],
)
def test_a_process_that_was_used_wrongly_ends_with_status_2(
    tmp_path: Path, arguments: tuple[str, ...], said: str
) -> None:
    finished = command.run(*arguments, home=tmp_path)
    assert (finished.status, finished.out) == (2, "")
    assert said.lower() in finished.err.lower()
    assert "Traceback" not in finished.err


# --- Completion --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("ckvd c", ["cache"]),
        ("ckvd cache ver", ["verify"]),
        ("ckvd download --ma", ["--market"]),
        ("ckvd download --market u", ["um"]),
        ("ckvd show -i 15", ["15m"]),
    ],
)
def test_a_shell_gets_completions(tmp_path: Path, words: str, expected: list[str]) -> None:
    number = str(len(words.split()) - 1)
    finished = command.run(home=tmp_path, _CKVD_COMPLETE="bash_complete", COMP_WORDS=words, COMP_CWORD=number)
    assert (finished.status, finished.err) == (0, "")
    assert [line.partition(",")[2] for line in finished.out.splitlines()] == expected


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_command_prints_what_a_shell_needs_for_completions(tmp_path: Path, shell: str) -> None:
    finished = command.run(home=tmp_path, _CKVD_COMPLETE=f"{shell}_source")
    assert (finished.status, finished.err) == (0, "")
    assert f"_CKVD_COMPLETE={shell}_complete" in finished.out


# --- How it ends where somebody or something ends it -------------------------------------------------------


def run_main(*words: str) -> Finished:
    """Run the entry point in this process, with its own handling of signals and of full disks."""
    out, err = io.StringIO(), io.StringIO()
    return Finished(run_main_into(out, err, *words), out.getvalue(), err.getvalue())


def run_main_into(out: TextIO, err: TextIO, *words: str) -> int:
    with (
        pytest.MonkeyPatch.context() as patch,
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
        command.interruptible(),
    ):
        patch.setattr(sys, "argv", ["ckvd", *words])
        with pytest.raises(SystemExit) as end:
            main.run()
    return int(end.value.code or 0)


@pytest.mark.parametrize(("words", "status"), [(("--version",), 0), (("dowload",), 2)])
def test_any_other_status_passes_unchanged(words: tuple[str, ...], status: int) -> None:
    finished = run_main(*words)
    assert finished.status == status


def failing_with(error: OSError) -> click.Command:
    @click.command
    def app() -> None:
        raise error

    return app


@pytest.mark.parametrize(
    "error",
    [OSError(errno.ENOSPC, "No space left on device", "a file"), OSError(errno.EBADF, "Bad file descriptor")],
    ids=["of a file", "of another kind"],
)
def test_an_error_that_is_not_of_full_output_is_not_hidden(monkeypatch: pytest.MonkeyPatch, error: OSError) -> None:
    monkeypatch.setattr(sys, "argv", ["ckvd"])
    monkeypatch.setattr("ckvd.cli.app.app", failing_with(error))
    with pytest.raises(OSError, match=error.strerror) as raised:
        main.run()
    assert raised.value is error


FULL_DEVICE = Path("/dev/full")


@pytest.mark.skipif(not FULL_DEVICE.exists(), reason="this system has no device that is always full")
@pytest.mark.parametrize(
    "words",
    [
        ("--help",),
        ("cache", "verify", "--cache", "."),
        ("show", "BTCUSDT", "-i", "1h", *SPAN, "--cache", "."),
        ("cache", "list", "--cache", ".", "--json"),
    ],
)
def test_output_to_a_full_device_ends_with_one_line_and_status_1(tmp_path: Path, words: Sequence[str]) -> None:
    with (
        FULL_DEVICE.open("w", encoding="utf-8") as full,
        command.started(*words, home=tmp_path, stdout=full) as process,
    ):
        assert process.stderr is not None
        (line,) = process.stderr.read().splitlines()
        assert process.wait(command.TIMEOUT_S) == 1
    assert line.startswith("ckvd: standard output: cannot be written: No space left on device")


@pytest.mark.skipif(not FULL_DEVICE.exists(), reason="this system has no device that is always full")
def test_a_command_that_cannot_even_complain_ends_with_status_1(tmp_path: Path) -> None:
    with (
        FULL_DEVICE.open("w", encoding="utf-8") as full,
        command.started("cache", "list", "--cache", "no", home=tmp_path, stdout=full, stderr=full) as process,
    ):
        assert process.wait(command.TIMEOUT_S) == 1


@pytest.mark.skipif(not FULL_DEVICE.exists(), reason="this system has no device that is always full")
@pytest.mark.parametrize("is_complaint_lost", [False, True])
def test_output_that_a_full_disk_refused_is_discarded(is_complaint_lost: bool) -> None:
    """Python writes it again when the stream is closed: that would raise here."""
    with (
        FULL_DEVICE.open("w", encoding="utf-8") as out,
        FULL_DEVICE.open("w", encoding="utf-8", buffering=1) as full,  # by lines, as Python's own
    ):
        err = full if is_complaint_lost else io.StringIO()
        assert run_main_into(out, err, "--version") == 1
    if isinstance(err, io.StringIO):
        assert err.getvalue().startswith("ckvd: standard output: cannot be written: No space left on device")


@pytest.mark.parametrize("closed", ["stdout", "stderr"])
def test_a_closed_pipe_is_not_an_error(tmp_path: Path, closed: str) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    try:
        words = ("show", "BTCUSDT", "-i", "1h", *SPAN, "--cache", "none")
        with command.started(*words, home=tmp_path, **{closed: writer}) as process:
            other = process.stderr if closed == "stdout" else process.stdout
            assert other is not None
            said = other.read()
            assert process.wait(command.TIMEOUT_S) == 1
    finally:
        os.close(writer)
    assert "Traceback" not in said
    assert ("0 bars of spot/klines/BTCUSDT/1h" in said) == (closed == "stderr")

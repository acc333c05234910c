"""Ctrl-C, SIGTERM and SIGHUP end every command in order, in bounded time, with one line, whenever they come."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
import tomllib
from typing import TYPE_CHECKING

import pytest

import ckvd
from ckvd.cli.stop_signals import STOP_SIGNALS
from support import command
from support.kills import run_from_its_start, sample
from support.places import REPOSITORY, SAMPLES

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

KEPT = "what was finished is in the cache, and the same command goes on from there\n"
INTERRUPTED = f"ckvd: interrupted: {KEPT}"
TERMINATED = f"ckvd: ended by SIGTERM: {KEPT}"

# --- While modules are imported ----------------------------------------------------------------------------

ENTRY = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["project"]["scripts"]["ckvd"]
# What pip makes of the entry point.
SCRIPT = f"""
import re
import sys
from {ENTRY.partition(":")[0]} import {ENTRY.partition(":")[2]}
sys.exit({ENTRY.partition(":")[2]}())
"""
WAYS = {"module": ["-m", "ckvd"], "script": ["-c", SCRIPT]}
SPAN = ("--start", "2023-03-24", "--end", "2023-03-25")
DOWNLOAD = ("download", "BTCUSDT", "-i", "1h", *SPAN, "--no-rest", "--vision-url", str(SAMPLES))


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(
    ("words", "number"), [(("--version",), signal.SIGINT), (DOWNLOAD, signal.SIGTERM)], ids=["short", "download"]
)
def test_a_signal_at_any_import_ends_with_one_line(
    tmp_path: Path, way: str, words: Sequence[str], number: signal.Signals
) -> None:
    """From the first import that ckvd does, through those of numpy and of HTTP, to the end of the interpreter."""
    argv = [sys.executable, "-W", "error", *WAYS[way], *words]
    cache = ["--cache", "klines"] if words is DOWNLOAD else []
    whole = run_from_its_start([*argv, *cache], tmp_path, signal.SIGINT, -1)
    assert (whole.status, whole.event_count > 100) == (0, True), whole.err
    # SIGTERM before it is handled ends the process silently: Python leaves it to the system.
    first = 0 if number is signal.SIGINT else 100
    chosen = sample(f"{way}{number}", whole.event_count, 3, whole_count=200)
    for event in {first, *(max(first, one) for one in chosen)}:
        shutil.rmtree(tmp_path / "klines", ignore_errors=True)
        ended = run_from_its_start([*argv, *cache], tmp_path, number, event)
        assert (ended.status, "Traceback" in ended.err) == (128 + number, False), (event, ended)
        (*_, line) = ended.err.splitlines(keepends=True)
        said = (INTERRUPTED, "ckvd: interrupted\n") if number is signal.SIGINT else (TERMINATED,)
        assert line in said, (event, ended)
        assert not [path for path in tmp_path.rglob("*") if path.name.startswith(".download-")]


# --- During a verb -----------------------------------------------------------------------------------------

# Runs the command with another verb in place of all of them.
WITH_ANOTHER_VERB = """
import gc, os, signal, sys, time
import click
import ckvd.cli.app
from ckvd.__main__ import run
from ckvd.cli import stop_signals

{verb}

ckvd.cli.app.app = click.Command("ckvd", callback=verb)
run()
"""


def start(verb: str, home: Path) -> subprocess.Popen[str]:
    with command.interruptible():
        return subprocess.Popen(
            [sys.executable, "-W", "error", "-c", WITH_ANOTHER_VERB.format(verb=verb)],
            env=command.environment(home),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )


def end_of(verb: str, home: Path) -> tuple[int, str]:
    with start(verb, home) as process:
        _, err = process.communicate(timeout=command.TIMEOUT_S)
        return process.returncode, err


@pytest.mark.parametrize("number", ["SIGINT", "SIGTERM", "SIGHUP"])
def test_a_verb_is_left_through_its_finally(tmp_path: Path, number: str) -> None:
    verb = f"""
def verb():
    try:
        os.kill(os.getpid(), signal.{number})
    finally:
        sys.stderr.write("left\\n")
"""
    said = "interrupted" if number == "SIGINT" else f"ended by {number}"
    assert end_of(verb, tmp_path) == (128 + getattr(signal, number), f"left\nckvd: {said}: {KEPT}")


def test_a_signal_that_python_loses_in_a_finalizer_is_raised_again(tmp_path: Path) -> None:
    verb = """
class Lost:
    def __del__(self):
        os.kill(os.getpid(), signal.SIGTERM)

def verb():
    Lost()
    while True:
        time.sleep(0.001)
"""
    assert end_of(verb, tmp_path) == (143, TERMINATED)


def test_work_that_does_not_stop_is_left_after_a_while(tmp_path: Path) -> None:
    verb = """
import threading
stop_signals.WAY_OUT_S = 0.2

def verb():
    threading.Thread(target=threading.Event().wait).start()  # what Python waits for at its end
    os.kill(os.getpid(), signal.SIGTERM)
"""
    status, err = end_of(verb, tmp_path)
    assert status == 143
    assert err.endswith("ckvd: ended by SIGTERM: ended after 0.2 s in which the work did not stop\n")


def test_a_second_signal_ends_at_once_what_does_not_stop(tmp_path: Path) -> None:
    verb = """
def verb():
    try:
        print("at work", flush=True)
        time.sleep(60)
    finally:
        stop_signals.SAME_SIGNAL_S = 0.0  # a moment later
        print("on the way out", flush=True)
        while True:
            time.sleep(0.001)
"""
    with start(verb, tmp_path) as process:
        assert process.stdout is not None
        for line in ("at work\n", "on the way out\n"):
            assert process.stdout.readline() == line
            process.send_signal(signal.SIGTERM)
        _, err = process.communicate(timeout=command.TIMEOUT_S)
    assert (process.returncode, err) == (
        143,
        "ckvd: ended by SIGTERM twice: ended at once; the next command cleans up\n",
    )


def test_an_ending_that_is_lost_altogether_still_has_the_status_of_the_signal(tmp_path: Path) -> None:
    verb = """
def verb():
    try:
        os.kill(os.getpid(), signal.SIGTERM)
    except BaseException:
        raise SystemExit(0)
"""
    assert end_of(verb, tmp_path) == (143, TERMINATED)


def test_a_program_that_uses_the_library_keeps_its_own_handlers(tmp_path: Path) -> None:
    def mine(_number: int, _frame: object) -> None:
        raise AssertionError("nobody sends a signal")

    def look(_progress: object = None) -> None:
        seen.append([signal.getsignal(number) for number in STOP_SIGNALS])

    seen: list[list[object]] = []
    with command.interruptible():
        for number in STOP_SIGNALS:
            signal.signal(number, mine)
        ckvd.get_klines(
            "BTCUSDT",
            "1h",
            start="2023-03-01",
            end="2023-04-01",
            vision_url=SAMPLES,
            cache=tmp_path,
            use_rest=False,
            on_progress=look,
        )
        look()
    assert len(seen) > 1
    assert all(handlers == [mine] * len(STOP_SIGNALS) for handlers in seen)

"""The demo runs where only the checkout is, and shows what the samples are there to show."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from support import command
from support.places import REPOSITORY

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of what the demo needs: it keeps its cache beside it."""
    root = tmp_path_factory.mktemp("checkout")
    shutil.copytree(REPOSITORY / "data" / "vision", root / "data" / "vision")
    shutil.copy(REPOSITORY / "data" / "demo.py", root / "data")
    return root


def run_demo(checkout: Path) -> list[str]:
    finished = subprocess.run(
        [sys.executable, "-W", "error", "data/demo.py"],
        cwd=checkout,
        env=command.environment(checkout),
        capture_output=True,
        text=True,
        encoding="utf-8",
        timeout=command.TIMEOUT_S,
        check=False,
    )
    assert (finished.returncode, finished.stderr) == (0, "")
    return finished.stdout.splitlines()


def test_the_demo_downloads_reads_and_lists_its_segments(checkout: Path) -> None:
    shown = run_demo(checkout)
    assert re.fullmatch(r"serving data/vision at http://127\.0\.0\.1:\d+", shown[0])
    assert "spot BTCUSDT 1m: 3 archives stored" in shown
    assert any("4240 bars" in line for line in shown)
    assert "gap: 2023-03-24T12:40Z..2023-03-24T14:00Z 80 bars not in archive" in shown
    assert "flag ZERO_VOLUME: 72 bars" in shown
    segments = [line.split()[0] for line in shown if line.startswith("  ")]
    assert segments
    assert all((checkout / segment).is_file() for segment in segments)
    assert {path.relative_to(checkout).as_posix() for path in checkout.rglob("*.ckvd")} == set(segments)


def test_the_demo_can_be_run_again(checkout: Path) -> None:
    run_demo(checkout)
    shown = run_demo(checkout)
    assert sum(line.endswith("in the cache already") for line in shown) == 3

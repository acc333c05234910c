"""Every command and example of the README runs, and says what the README says."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tomllib
import venv
from typing import TYPE_CHECKING

import pytest

from support.places import REPOSITORY

if TYPE_CHECKING:
    from pathlib import Path

PROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["project"]
# Where a shell is, and no ckvd.
PATH = "/usr/bin:/bin"
README = (REPOSITORY / "README.md").read_text(encoding="utf-8")


def blocks() -> list[tuple[str, str]]:
    """The language and the text of every block, in the order in which they are printed."""
    return re.findall(r"^```(\w+)\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)


def make_place(folder: Path) -> Path:
    """A folder with the sample mirror where the README expects it, and what `make` installs."""
    (folder / "data").mkdir()
    shutil.copytree(REPOSITORY / "data" / "vision", folder / "data" / "vision")
    install(folder / ".venv")
    return folder


def install(environment: Path) -> None:
    """Make an environment with the command in it, as pip does, but without asking a package index."""
    venv.create(environment, symlinks=True)
    module, _, function = PROJECT["scripts"]["ckvd"].partition(":")
    python = environment / "bin" / "python"
    script = environment / "bin" / "ckvd"
    script.write_text(f"#!{python}\nfrom {module} import {function}\n{function}()\n", encoding="utf-8")
    script.chmod(0o755)


def run(place: Path, *command: str) -> str:
    environment = {
        "PATH": PATH,
        "PYTHONPATH": os.pathsep.join([str(REPOSITORY / "src"), *map(sysconfig.get_path, ("purelib", "platlib"))]),
        "PYTHONWARNINGS": "error",
        "CKVD_CACHE_DIR": str(place.with_name("users-klines")),
        # The examples may not leave the machine: where they would ask Binance, they find the samples and nobody.
        "CKVD_VISION_URL": str(place / "data" / "vision"),
        "CKVD_REST_URL": "http://127.0.0.1:9",
    }
    finished = subprocess.run(
        command, cwd=place, env=environment, capture_output=True, text=True, timeout=120, check=False
    )
    assert finished.returncode == 0, finished.stderr
    return finished.stdout


@pytest.fixture(scope="module")
def walk(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    """A folder in which every block of the README ran, from top to bottom, and what each of them printed."""
    assert shutil.which("ckvd", path=PATH) is None
    assert "VENV ?= .venv\n" in (REPOSITORY / "Makefile").read_text(encoding="utf-8")
    place = make_place(tmp_path_factory.mktemp("readme"))
    start, printed = "", []
    for language, block in blocks():
        if language == "python":
            printed.append(run(place, sys.executable, "-c", block))
            continue
        assert language == "bash"
        # What `make` does is here already, or is another test's. A shell begins with what was said so far of it.
        lines = [line for line in block.splitlines() if not line.startswith("make ")]
        printed.append(run(place, "sh", "-e", "-c", "\n".join([start, *lines])))
        start = "\n".join([start, *(line for line in lines if line.startswith(". "))])
    return place, printed


def printed_by(walk: tuple[Path, list[str]], words: str) -> str:
    """What the one block with some words printed."""
    (printed,) = (text for (_, block), text in zip(blocks(), walk[1], strict=True) if words in block)
    return printed


def test_whoever_follows_the_readme_from_top_to_bottom_has_the_command_and_sees_bars(
    walk: tuple[Path, list[str]],
) -> None:
    assert [language for language, _ in blocks()] == [
        "python",
        "bash",
        "bash",
        "python",
        "python",
        "python",
        "bash",
        "python",
        "bash",
    ]
    said = printed_by(walk, "ckvd show")
    assert said.startswith("3 archives stored")
    assert "1360 bars of spot/klines/BTCUSDT/1m" in said


def test_every_example_of_the_readme_prints_something(walk: tuple[Path, list[str]]) -> None:
    for (language, block), printed in zip(blocks(), walk[1], strict=True):
        assert printed.strip() or (language == "bash" and "make demo" in block), block


def test_positions_pay_what_was_settled_and_metrics_count_from_when_they_were_known(
    walk: tuple[Path, list[str]],
) -> None:
    settlements, received, known, panel = printed_by(walk, "funding.on").splitlines()
    assert settlements.startswith("129 settlements, every {8, 4} hours; ")
    assert received.endswith(" USDT for half a coin, held all the time")
    assert known.endswith(" was known at 1735689900000")  # 2025-01-01T00:05Z
    assert panel == "('BTCUSDT',) (744, 1)"


def test_the_cache_that_the_readme_made_is_locked_and_checked_whole(walk: tuple[Path, list[str]]) -> None:
    place, _ = walk
    said = printed_by(walk, "ckvd cache lock")
    same = [line for line in said.splitlines() if line.startswith("same: ")]
    # Minutes of the command, and hours of the application, which begin before the first archive of BTCUSDT.
    spot = [f"spot/klines/{name}" for name in ("BTCUSDT/1h", "BTCUSDT/1m", "ETHUSDT/1h")]
    futures = [f"um/{name}" for name in ("klines/BTCUSDT/1h", "fundingRate/BTCUSDT/events", "metrics/BTCUSDT/5m")]
    assert [line.split()[1] for line in same] == [*spot, *futures]
    assert "unavailable" not in (place / "bars.lock").read_text(encoding="utf-8")
    (missing,) = re.findall(r"^spot/klines/BTCUSDT/1m\t[^\t]*\t0\t4240\t(\d+)\t", said, re.MULTILINE)
    assert missing == "80"


def test_what_the_commands_of_the_readme_leave_is_not_added_to_the_repository(walk: tuple[Path, list[str]]) -> None:
    place, _ = walk
    ignored = (REPOSITORY / ".gitignore").read_text(encoding="utf-8").splitlines()
    left = {path.name for path in place.iterdir()} - {"data", ".venv"}
    assert left == {"demo-klines", "exported", "bars.lock"}
    assert {f"/{name}" + "/" * (place / name).is_dir() for name in left} <= set(ignored)


def test_every_target_that_the_readme_names_is_in_the_makefile() -> None:
    targets = set(re.findall(r"(?:^|`)make (\w+)", README, re.MULTILINE))
    makefile = (REPOSITORY / "Makefile").read_text(encoding="utf-8")
    assert {"demo", "test", "lint", "bench"} <= targets
    for target in targets:
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target


def test_every_setting_that_the_readme_names_is_read_by_the_code() -> None:
    code = "".join(path.read_text(encoding="utf-8") for path in (REPOSITORY / "src").rglob("*.py"))
    for name in set(re.findall(r"CKVD_[A-Z_]+[A-Z]", README)):
        assert name in code or name.rpartition("_")[0] in code, name

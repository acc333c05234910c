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


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the sample mirror where the README expects it, and what `make` installs."""
    folder = tmp_path_factory.mktemp("readme")
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
def printed(place: Path) -> str:
    """What the commands of the README print, one after the other in one shell."""
    assert shutil.which("ckvd", path=PATH) is None
    lines = [line for block in blocks("bash") for line in block.splitlines()]
    assert lines[0].startswith("make ")
    assert "VENV ?= .venv\n" in (REPOSITORY / "Makefile").read_text(encoding="utf-8")
    # What these do is here already, or is another test's.
    script = "\n".join(line for line in lines if not line.startswith("make "))
    return run(place, "sh", "-e", "-c", script)


def test_whoever_follows_the_readme_has_the_command_and_sees_bars(printed: str) -> None:
    assert printed.startswith("3 archives stored")
    assert "1360 bars of spot/klines/BTCUSDT/1m" in printed
    assert printed.count("same: ") == 1


@pytest.mark.usefixtures("printed")
def test_what_the_commands_of_the_readme_leave_is_not_added_to_the_repository(place: Path) -> None:
    ignored = (REPOSITORY / ".gitignore").read_text(encoding="utf-8").splitlines()
    left = {path.name for path in place.iterdir()} - {"data", ".venv"}
    assert left == {"demo-klines", "exported", "bars.lock"}
    assert {f"/{name}" + "/" * (place / name).is_dir() for name in left} <= set(ignored)


@pytest.mark.usefixtures("printed")
def test_the_examples_of_the_readme_work(place: Path) -> None:
    examples = blocks("python")
    assert len(examples) >= 3
    for example in examples:
        assert run(place, sys.executable, "-c", example).strip()


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

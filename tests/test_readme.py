"""Every command and example of the README runs, and says what the README says."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the sample mirror where the README expects it, and nothing else."""
    folder = tmp_path_factory.mktemp("readme")
    (folder / "data").mkdir()
    shutil.copytree(ROOT / "data" / "vision", folder / "data" / "vision")
    return folder


def run(place: Path, *command: str) -> str:
    environment = {
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT / "src"),
        "CKVD_CACHE_DIR": str(place / "klines"),
        # The examples may not leave the machine: where they would ask Binance, they find the samples and nobody.
        "CKVD_VISION_URL": str(place / "data" / "vision"),
        "CKVD_REST_URL": "http://127.0.0.1:9",
    }
    finished = subprocess.run(
        command, cwd=place, env=environment, capture_output=True, text=True, timeout=120, check=False
    )
    assert finished.returncode == 0, finished.stderr
    return finished.stdout


def test_the_commands_of_the_readme_work_and_print_bars(place: Path) -> None:
    printed = []
    for block in blocks("bash"):
        for line in block.splitlines():
            name, *arguments = line.split()
            assert name == "ckvd"
            printed.append(run(place, sys.executable, "-W", "error", "-m", "ckvd", *arguments))
    assert "3 archives stored" in printed[0]
    assert "1360 bars of spot/klines/BTCUSDT/1m" in printed[1]


def test_the_examples_of_the_readme_work(place: Path) -> None:
    examples = blocks("python")
    assert len(examples) >= 3
    for example in examples:
        assert run(place, sys.executable, "-W", "error", "-c", example).strip()


def test_every_target_that_the_readme_names_is_in_the_makefile() -> None:
    targets = set(re.findall(r"(?:^|`)make (\w+)", README, re.MULTILINE))
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    assert {"demo", "test", "lint", "bench"} <= targets
    for target in targets:
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target


def test_every_setting_that_the_readme_names_is_read_by_the_code() -> None:
    code = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "src").rglob("*.py"))
    for name in set(re.findall(r"CKVD_[A-Z_]+[A-Z]", README)):
        assert name in code or name.rpartition("_")[0] in code, name

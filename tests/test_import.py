"""What importing costs, and that what is imported is what the project says it needs."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from textwrap import dedent
from typing import TYPE_CHECKING

import pytest

import ckvd
from support import command
from support.places import REPOSITORY
from support.processes import writing_nothing

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

SOURCES = REPOSITORY / "src" / "ckvd"
PROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["project"]
COMMAND_LINE = {"click", "tqdm", "platformdirs"}
# What is slow to load, and nothing that only reads has a use for.
SLOW = {"curl_cffi", "isal", "zipfile", "http", "email", "xml", "multiprocessing", "unittest", "pandas", "logging"}
NETWORK = {"asyncio", "socket", "ssl"}


def names_of(requirements: list[str]) -> set[str]:
    return {re.split(r"[^\w-]", requirement)[0].replace("-", "_") for requirement in requirements}


# What users install for themselves; without it the rest works.
EXTRAS = names_of(PROJECT["optional-dependencies"]["arrow"]) | {"pandas", "polars"}


def modules_after(statement: str, tmp_path: Path) -> set[str]:
    """What a fresh interpreter has loaded after a statement, numpy's own needs left out."""
    script = f"import numpy, sys; before = set(sys.modules); {statement}; print(*(set(sys.modules) - before))"
    finished = subprocess.run(
        [sys.executable, "-W", "error", "-c", script],
        env=writing_nothing(command.environment(tmp_path)),
        capture_output=True,
        text=True,
        timeout=command.TIMEOUT_S,
        check=False,
    )
    assert finished.returncode == 0, finished.stderr
    return set(finished.stdout.split())


def packages_of(modules: set[str]) -> set[str]:
    return {module.partition(".")[0] for module in modules}


# --- What is loaded ----------------------------------------------------------------------------------------


def test_importing_alone_loads_not_even_numpy(tmp_path: Path) -> None:
    script = "import sys, ckvd; print(*sys.modules)"
    finished = subprocess.run(
        [sys.executable, "-c", script],
        env=writing_nothing(command.environment(tmp_path)),
        capture_output=True,
        text=True,
        timeout=command.TIMEOUT_S,
        check=True,
    )
    loaded = finished.stdout.split()
    assert {module for module in loaded if module.startswith("ckvd.")} == set()
    assert "numpy" not in loaded


def test_importing_loads_neither_http_nor_the_command_line_nor_what_decodes(tmp_path: Path) -> None:
    loaded = modules_after("import ckvd; ckvd.open_cache", tmp_path)
    assert packages_of(loaded) & (COMMAND_LINE | SLOW | NETWORK) == set()
    rooms = {module.split(".")[1] for module in loaded if module.startswith("ckvd.")}
    assert rooms & {"archive", "cli", "network", "rest", "vision_data_client", "download"} == set()
    assert rooms & {"acquisition", "panel", "resample"} == set()


def test_on_windows_it_says_in_one_sentence_what_to_use(tmp_path: Path) -> None:
    script = """
        import sys
        sys.platform = "win32"
        try:
            import ckvd
        except ImportError as error:
            print(type(error).__module__, type(error).__name__, error.name)
            print(error)
        print(*(name for name in sys.modules if name.startswith("ckvd")), "numpy" in sys.modules)
    """
    finished = subprocess.run(
        [sys.executable, "-W", "error", "-c", dedent(script)],
        env=writing_nothing(command.environment(tmp_path)),
        capture_output=True,
        text=True,
        timeout=command.TIMEOUT_S,
        check=True,
    )
    kind, sentence, loaded = finished.stdout.splitlines()
    assert kind == "ckvd.errors PlatformError ckvd"
    assert re.fullmatch(r"ckvd .* does not run on Windows itself: .* WSL, .*", sentence)
    assert loaded == "ckvd.errors False"


def test_the_command_handles_signals_before_anything_else_is_loaded(tmp_path: Path) -> None:
    assert {module for module in modules_after("import ckvd", tmp_path) if module != "ckvd"} == set()
    loaded = modules_after("import ckvd.cli.main", tmp_path)
    assert {module for module in loaded if module.startswith("ckvd")} == {
        "ckvd",
        "ckvd.cli",
        "ckvd.cli.main",
        "ckvd.cli.stop_signals",
    }


def test_reading_a_cache_loads_nothing_of_these_either(tmp_path: Path) -> None:
    reading = "ckvd.open_cache('none').read('BTCUSDT', '1m', start='2023-01', end='2024-01', missing='ignore')"
    loaded = modules_after(f"import ckvd; {reading}", tmp_path)
    assert packages_of(loaded) & (COMMAND_LINE | SLOW | NETWORK) == set()


@pytest.mark.parametrize("verb", ["main", "show"])
def test_the_command_line_loads_http_only_when_it_downloads(verb: str, tmp_path: Path) -> None:
    assert "curl_cffi" not in packages_of(modules_after(f"import ckvd.cli.{verb}", tmp_path))


def test_everything_that_is_promised_is_there() -> None:
    assert [name for name in ckvd.__all__ if not hasattr(ckvd, name)] == []
    assert set(ckvd.__all__) <= set(dir(ckvd))
    assert ckvd.__all__ == sorted(ckvd.__all__)


@pytest.mark.parametrize(
    "name",
    ["CacheBusyError", "ColumnError", "DownloadReport", "ExportError", "Panel", "ResampledKlines", "TimeError"],
)
def test_what_public_calls_raise_and_return_can_be_named(name: str) -> None:
    assert name in ckvd.__all__
    assert getattr(ckvd, name).__name__ == name


def test_what_is_not_there_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="module 'ckvd' has no attribute 'read_all'"):
        ckvd.read_all  # type: ignore[attr-defined]  # noqa: B018


def test_the_package_says_that_it_is_typed() -> None:
    assert (SOURCES / "py.typed").is_file()


# --- What is declared --------------------------------------------------------------------------------------


def imported(path: Path) -> Iterator[str]:
    """The packages that a module imports, wherever it does; for types alone does not count."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for_types = {
        id(node)
        for branch in ast.walk(tree)
        if isinstance(branch, ast.If) and isinstance(branch.test, ast.Name) and branch.test.id == "TYPE_CHECKING"
        for node in ast.walk(branch)
    }
    for node in ast.walk(tree):
        if id(node) in for_types:
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module.partition(".")[0]


def test_the_dependencies_are_what_is_imported() -> None:
    found = {name for path in SOURCES.rglob("*.py") for name in imported(path)}
    third = found - set(sys.stdlib_module_names) - {"ckvd"}
    needed = names_of(PROJECT["dependencies"])
    assert needed <= third
    assert third - needed <= EXTRAS


def test_only_the_network_knows_curl_cffi() -> None:
    users = {path.relative_to(SOURCES).parts[0] for path in SOURCES.rglob("*.py") if "curl_cffi" in imported(path)}
    assert users == {"network"}


def test_only_the_command_line_knows_how_to_print() -> None:
    for package in ("click", "tqdm"):
        users = {path.relative_to(SOURCES).parts[0] for path in SOURCES.rglob("*.py") if package in imported(path)}
        assert users == {"cli"}


def test_the_tests_need_what_is_declared_for_them() -> None:
    tests = REPOSITORY / "tests"
    own = {path.stem for path in tests.rglob("*.py")} | {path.name for path in tests.iterdir() if path.is_dir()}
    found = {name for path in tests.rglob("*.py") for name in imported(path)}
    needed = names_of([*PROJECT["dependencies"], *PROJECT["optional-dependencies"]["test"]])
    assert found - set(sys.stdlib_module_names) - own - {"ckvd"} - needed <= EXTRAS

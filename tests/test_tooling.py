"""What contributors work with: the helpers of the tests have maps, and the commands do what they say."""

from __future__ import annotations

import ast
import re
from typing import TYPE_CHECKING

import pytest

from support.places import REPOSITORY, TESTS

if TYPE_CHECKING:
    from pathlib import Path

MAKEFILE = (REPOSITORY / "Makefile").read_text(encoding="utf-8")
HELPERS = TESTS / "support"
PACKAGES = sorted(path.parent for path in HELPERS.rglob("__init__.py"))


def recipe_of(target: str) -> str:
    found = re.search(rf"^{target}:.*\n((?:\t.*\n)+)", MAKEFILE, re.MULTILINE)
    assert found, target
    return found[1]


@pytest.mark.parametrize("folder", PACKAGES, ids=lambda folder: folder.name)
def test_the_map_of_the_helpers_names_all_of_them_and_no_others(folder: Path) -> None:
    docstring = ast.get_docstring(ast.parse((folder / "__init__.py").read_text(encoding="utf-8"))) or ""
    named = re.findall(r"^- `(\w+)`: \w", docstring, re.MULTILINE)
    modules = {path.stem for path in folder.glob("*.py")} | {
        path.name for path in PACKAGES if path.parent == folder
    }
    assert sorted(named) == sorted(modules - {"__init__"})


def test_every_test_of_the_quick_ones_is_there() -> None:
    lines = (TESTS / "quick.txt").read_text(encoding="utf-8").splitlines()
    for line in lines:
        path, _, name = line.partition("::")
        assert (REPOSITORY / path).exists(), line
        assert not name or f"def {name}(" in (REPOSITORY / path).read_text(encoding="utf-8"), line
    assert lines == sorted(set(lines))
    assert "@tests/quick.txt" in recipe_of("quick")


def test_every_target_is_explained_at_the_top_of_the_makefile() -> None:
    explained = re.findall(r"^# make (\w+)  +\w", MAKEFILE, re.MULTILINE)
    phony = re.search(r"^\.PHONY: (.*)$", MAKEFILE, re.MULTILINE)
    assert phony
    assert set(explained) == set(phony[1].split()) - {"clean"}


def test_a_commit_is_checked_with_the_tools_of_the_lint_target() -> None:
    hooks = (REPOSITORY / ".pre-commit-config.yaml").read_text(encoding="utf-8")
    checks = re.findall(r"-m (ruff check|ruff format|\w+)", recipe_of("lint"))
    assert len(checks) >= 3
    for check in checks:
        assert f".venv/bin/python -m {check}" in hooks, check


def test_types_are_checked_for_both_platforms() -> None:
    assert set(re.findall(r"-m mypy --platform (\w+)", recipe_of("lint"))) == {"linux", "darwin"}


def test_the_workflow_runs_all_tests_on_each_python_that_is_promised() -> None:
    workflow = (REPOSITORY / ".github" / "workflows" / "tests.yml").read_text(encoding="utf-8")
    promised = re.findall(r"Python :: (3\.\d+)", (REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))
    assert re.findall(r'"(3\.\d+)"', workflow) == promised
    assert re.search(r"^ +- run: make test ", workflow, re.MULTILINE)

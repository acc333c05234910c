"""What CONTRIBUTING says is true: the walk of an archive's bytes, the commands, and the files that it names."""

from __future__ import annotations

import ast
import re
import sys
import threading
from typing import TYPE_CHECKING, Any

import pytest

import ckvd
from support.places import REPOSITORY, SOURCES
from support.venue import HOURS, Venue, hours

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path
    from types import FrameType

TEXT = (REPOSITORY / ".github" / "CONTRIBUTING.md").read_text(encoding="utf-8")
STOPS = re.findall(r"^\d+\. `([\w/]+\.py)`, `([\w.]+)`:", TEXT, re.MULTILINE)


class Trail:
    """Which functions of the package were called, in the order of their first calls, in all threads."""

    def __init__(self) -> None:
        self.calls: dict[tuple[str, str], None] = {}

    def note(self, frame: FrameType, event: str, _argument: Any) -> None:
        file = frame.f_code.co_filename
        if event == "call" and file.startswith(str(SOURCES)):
            name = file.removeprefix(f"{SOURCES}/ckvd/"), frame.f_code.co_qualname
            self.calls.setdefault(name)


@pytest.fixture
def trail() -> Iterator[Trail]:
    """Follow this thread and those that it starts. What followed before (coverage) goes on afterwards."""
    followed = sys.getprofile()
    trail = Trail()
    threading.setprofile(trail.note)
    sys.setprofile(trail.note)
    yield trail
    sys.setprofile(followed)
    threading.setprofile(None)


def test_the_walk_has_fifteen_stops_at_most() -> None:
    assert 10 <= len(STOPS) <= 15


def test_the_bytes_of_an_archive_walk_as_it_says(tmp_path: Path, trail: Trail) -> None:
    with Venue(tmp_path, "2024-03-20T10:30") as venue:
        rows = hours("2024-02-01", "2024-03-01")
        venue.publish(HOURS, "2024-02", rows)
        options = venue.options(use_rest=False)
        klines = ckvd.get_klines("BTCUSDT", "1h", start="2024-02-01", end="2024-03-01", **options)
        assert klines.close[-1] == float(rows[-1][4])
    walked = [stop for stop in trail.calls if stop in STOPS]
    assert walked == STOPS


def test_every_file_and_step_that_it_names_is_there() -> None:
    for path in re.findall(r"`((?:src|tests|benchmarks)/[\w/.]*)`", TEXT):
        assert (REPOSITORY / path).exists(), path
    for path, name in STOPS:
        parts = name.split(".")
        scope: ast.AST = ast.parse((SOURCES / "ckvd" / path).read_text(encoding="utf-8"))
        for part in parts:
            defined = {node.name: node for node in ast.iter_child_nodes(scope)
                       if isinstance(node, (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef))}  # fmt: skip
            assert part in defined, f"{path}: {name}"
            scope = defined[part]


def test_every_command_of_make_that_it_names_is_there() -> None:
    makefile = (REPOSITORY / "Makefile").read_text(encoding="utf-8")
    named = set(re.findall(r"`make (\w+)`", TEXT))
    assert {"quick", "test", "lint"} <= named
    assert not [target for target in named if not re.search(rf"^{target}:", makefile, re.MULTILINE)]

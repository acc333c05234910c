"""The rooms of the package stand on floors, and import from lower floors only.

A room is a folder or a file directly under `ckvd`. Annotations and imports within functions count.
"""

from __future__ import annotations

import ast
from collections import defaultdict
from typing import TYPE_CHECKING

import pytest

from support.places import SOURCES

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

PACKAGE = SOURCES / "ckvd"
FLOORS = [
    {"errors", "platforms", "utils", "version"},
    {"concurrency", "lifecycle", "model", "regular_file"},
    {"bars", "decode", "network", "segment"},
    {"cache", "rest", "vision"},
    {"acquisition", "universe"},
    {"api", "maintenance"},
    {"__init__", "cli"},
    {"__main__"},
]
FLOOR_OF = {room: floor for floor, rooms in enumerate(FLOORS, start=1) for room in rooms}
# Methods that open a higher room as a convenience, by module and the module that they load by name.
DOORS = {("ckvd.cache.kline_cache", "ckvd.universe.choice")}
PUBLIC = "ckvd"  # its `_LAZY` loads by name what a program that only reads does not need


def module_of(path: Path) -> str:
    parts = path.relative_to(SOURCES).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_of(path): path for path in sorted(PACKAGE.rglob("*.py"))}


def room_of(module: str) -> str:
    return module.split(".")[1] if "." in module else "__init__"


def imports(module: str) -> Iterator[tuple[str, int]]:
    """The modules of the package that a module imports, and on which line."""
    for node in ast.walk(ast.parse(MODULES[module].read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{module}, line {node.lineno}: imports are absolute"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        for name in names:
            found = name if name in MODULES else name.rpartition(".")[0]
            if found in MODULES and found != module:
                yield found, node.lineno


def loads_by_name(module: str) -> Iterator[str]:
    """The modules of the package that a module names in a string: those that it can load without an import."""
    for node in ast.walk(ast.parse(MODULES[module].read_text(encoding="utf-8"))):
        if isinstance(node, ast.Constant) and node.value in MODULES and node.value != PUBLIC:
            yield node.value


def test_every_room_has_a_floor_and_there_are_eight_at_most() -> None:
    assert {room_of(module) for module in MODULES} == set(FLOOR_OF)
    assert len(FLOORS) <= 8


def test_few_files_lie_beside_the_rooms() -> None:
    assert len([path for path in PACKAGE.glob("*.py") if path.name != "__init__.py"]) <= 6


@pytest.mark.parametrize("room", sorted(FLOOR_OF))
def test_a_room_imports_from_lower_floors_only(room: str) -> None:
    upwards = [
        f"{MODULES[module].relative_to(SOURCES)}:{line} (floor {FLOOR_OF[room]}) imports {other} "
        f"(floor {FLOOR_OF[room_of(other)]})"
        for module in MODULES
        if room_of(module) == room
        for other, line in imports(module)
        if room_of(other) != room and FLOOR_OF[room_of(other)] >= FLOOR_OF[room]
    ]
    assert not upwards, "\n".join(upwards)


def test_no_modules_import_each_other_in_a_circle() -> None:
    below = {module: {other for other, _ in imports(module)} for module in MODULES}
    # A package imports its modules, and they name it for its map: only real modules can close a circle.
    left = dict(below)
    while free := [module for module in left if not left[module] & set(left)]:
        for module in free:
            del left[module]
    assert not left, f"circles among {sorted(left)}"


def test_higher_rooms_are_loaded_by_name_only_through_known_doors() -> None:
    opened = {
        (module, other)
        for module in MODULES
        for other in loads_by_name(module)
        if module != PUBLIC
        and FLOOR_OF[room_of(other)] >= FLOOR_OF[room_of(module)]
        and room_of(other) != room_of(module)
    }
    assert opened == DOORS


def test_each_room_has_a_map_that_names_all_of_its_modules_and_no_others() -> None:
    wrong = defaultdict(list)
    for folder in sorted({path.parent for path in MODULES.values()} - {PACKAGE, PACKAGE / "utils"}):
        docstring = ast.get_docstring(ast.parse((folder / "__init__.py").read_text(encoding="utf-8"))) or ""
        named = [line[3:].partition("`")[0] for line in docstring.splitlines() if line.startswith("- `")]
        own = {path.stem for path in folder.glob("*.py")} | {
            path.name for path in folder.iterdir() if (path / "__init__.py").is_file()
        }
        for name in sorted(set(named) ^ (own - {"__init__"})):
            wrong[str(folder.relative_to(SOURCES))].append(name)
    assert not wrong, f"the maps and the modules differ: {dict(wrong)}"

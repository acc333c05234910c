"""The script makes the mirror that is committed, sees what differs, and repairs it."""

from __future__ import annotations

import hashlib
import importlib.util
import shutil
import sys
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from support.places import DATA

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

MIRROR = DATA / "vision"


@pytest.fixture(scope="module")
def make_samples() -> Iterator[Any]:
    """The script as a module, whose samples are made once."""
    spec = importlib.util.spec_from_file_location("make_samples", DATA / "make_samples.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["make_samples"] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    everything = list(module.samples())
    module.samples = lambda: everything  # type: ignore[attr-defined]
    yield module
    del sys.modules["make_samples"]


@pytest.fixture
def small(make_samples: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of three archives, which are all that the script then makes."""
    few = [sample for sample in make_samples.coin_margined() if "PERP" in sample.path]
    monkeypatch.setattr(make_samples, "samples", lambda: few)
    monkeypatch.setattr(make_samples, "MIRROR", tmp_path)
    for sample in few:
        target = tmp_path / sample.path
        target.parent.mkdir(parents=True, exist_ok=True)
        for suffix in ("", ".CHECKSUM"):
            shutil.copyfile(f"{MIRROR / sample.path}{suffix}", f"{target}{suffix}")
    return tmp_path


def files(root: Path) -> dict[str, bytes]:
    """What lies under a folder: the members of archives, and no CHECKSUM, which depend on the compression."""
    found = {path.relative_to(root).as_posix(): b"" for path in root.rglob("*") if path.is_file()}
    for name in found:
        if name.endswith(".zip"):
            with zipfile.ZipFile(root / name) as zipped:
                found[name] = zipped.read(zipped.namelist()[0])
    return found


@pytest.mark.long
def test_regenerating_gives_the_committed_content(make_samples: Any) -> None:
    assert [difference for difference, _ in make_samples.differences(MIRROR)] == []


@pytest.mark.long
def test_a_mirror_made_from_nothing_has_the_committed_content(make_samples: Any, tmp_path: Path) -> None:
    for _, remedy in make_samples.differences(tmp_path):
        remedy()
    assert list(make_samples.differences(tmp_path)) == []
    assert files(tmp_path) == files(MIRROR)


def change_a_row(path: Path) -> None:
    with zipfile.ZipFile(path) as zipped:
        (member,) = zipped.infolist()
        lines = zipped.read(member).replace(b",42", b",43", 1)
    with zipfile.ZipFile(path, "w") as zipped:
        zipped.writestr(member, lines)
    sign(path)


def add_a_member(path: Path) -> None:
    with zipfile.ZipFile(path, "a") as zipped:
        zipped.writestr("more.csv", "")
    sign(path)


def cut_the_end(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-10])
    sign(path)


def flip_a_bit(path: Path) -> None:
    octets = bytearray(path.read_bytes())
    octets[200] ^= 1
    path.write_bytes(octets)


def sign(path: Path) -> None:
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    path.with_name(f"{path.name}.CHECKSUM").write_text(f"{digest}  {path.name}", "utf-8")


DAMAGES: dict[str, Callable[[Path], object]] = {
    "there is no ": Path.unlink,
    "CHECKSUM: expected": flip_a_bit,
    "cannot be read": cut_the_end,
    "line 2: expected": change_a_row,
    "expected one member": add_a_member,
    "not one of the samples": lambda path: path.with_name("stray").touch(),
}


@pytest.mark.parametrize(("message", "damage"), DAMAGES.items(), ids=DAMAGES)
def test_the_check_names_a_difference_and_a_run_repairs_it(
    message: str,
    damage: Callable[[Path], object],
    small: Path,
    make_samples: Any,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def run(*arguments: str) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["make_samples.py", *arguments])
        return make_samples.main(), capsys.readouterr().out

    assert run("--check") == (0, "")
    damage(next(small.rglob("*-01.zip")))
    status, output = run("--check")
    assert status == 1
    assert message in output
    assert run()[0] == 0
    assert run("--check") == (0, "")


def test_an_archive_that_another_zlib_compressed_is_left_alone(small: Path, make_samples: Any) -> None:
    path = next(small.rglob("*.zip"))
    with zipfile.ZipFile(path) as zipped:
        (member,) = zipped.infolist()
        lines = zipped.read(member)
    with zipfile.ZipFile(path, "w") as zipped:
        zipped.writestr(member, lines, compresslevel=1)
    sign(path)
    assert list(make_samples.differences(small)) == []


@pytest.mark.parametrize(
    ("value", "unit", "shown", "zeros_lost", "expected"),
    [
        (123, 2, 8, False, "1.23000000"),
        (5, 8, 8, False, "0.00000005"),
        (-39_615, 8, 8, False, "-0.00039615"),
        (0, 0, 0, False, "0"),
        (7, 0, 0, True, "7"),
        (120, 1, 1, True, "12.0"),
        (61_188_890_560, 8, 8, True, "611.8889056"),
    ],
)
def test_decimals_are_exact_text(
    value: int, unit: int, shown: int, zeros_lost: bool, expected: str, make_samples: Any
) -> None:
    assert make_samples.decimal(value, unit, shown, zeros_lost=zeros_lost) == expected

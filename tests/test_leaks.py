"""The leak check itself: it sees each kind of leak, names it, and accuses nobody else."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys

import pytest

from support.places import TESTS

LEAKY = """
import asyncio, gc, mmap, os, socket, threading
import pytest

kept = []
release = threading.Event()

class Broken:
    def __del__(self):
        raise ValueError("in a finalizer")

class Node:
    pass

async def never_awaited():
    pass

def test_leaks_a_descriptor(tmp_path):
    (tmp_path / "leaked.txt").touch()
    kept.append(os.open(tmp_path / "leaked.txt", os.O_RDONLY))

def test_leaks_a_socket():
    kept.append(socket.socket())

def test_leaks_a_map(tmp_path):
    path = tmp_path / "leaked.map"
    path.write_bytes(bytes(4096))
    with path.open("rb") as file:
        view = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
    os.close(max(int(name) for name in os.listdir("/proc/self/fd") if "leaked.map" in target(name)))
    kept.append(view)

def target(name):
    try:
        return os.readlink(f"/proc/self/fd/{name}")
    except OSError:
        return ""

def test_leaks_a_thread():
    threading.Thread(target=release.wait, name="leaked thread", daemon=True).start()

def test_leaks_a_task():
    loop = asyncio.new_event_loop()
    kept.append((loop, loop.create_task(asyncio.sleep(3600), name="leaked task")))
    loop.run_until_complete(asyncio.sleep(0))

def test_leaks_an_exception():
    async def main():
        asyncio.get_running_loop().create_future().set_exception(ValueError("never retrieved"))
    asyncio.run(main())

def test_leaks_a_coroutine():
    never_awaited()

def test_leaks_an_open_file(tmp_path):
    (tmp_path / "unclosed.txt").open("w")

def test_leaks_from_a_finalizer_in_a_cycle():
    broken = Broken()
    broken.me = broken

def test_leaks_from_a_cycle_that_has_survived_collections():
    broken = Broken()
    broken.me = broken
    gc.collect()
    gc.collect()

def test_leaks_a_file_in_a_cycle(tmp_path):
    node = Node()
    node.me = node
    node.file = (tmp_path / "unclosed.txt").open("w")

def test_clean_with_a_cycle_a_thread_and_a_loop(tmp_path):
    node = Node()
    node.me = node
    path = tmp_path / "clean.map"
    path.write_bytes(bytes(4096))
    with path.open("rb") as file:
        node.view = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
    thread = threading.Timer(0.01, lambda: None)
    thread.start()
    asyncio.run(asyncio.sleep(0))

def test_clean_with_a_lazy_import():
    import sqlite3, ssl
    ssl.create_default_context()
    sqlite3.connect(":memory:").close()

@pytest.fixture
def view(tmp_path):
    path = tmp_path / "fixture.map"
    path.write_bytes(bytes(4096))
    with path.open("rb") as file:
        return memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))

def test_clean_with_a_view_from_a_fixture(view):
    assert view[0] == 0

def test_fails_by_itself_alone():
    file = socket.socket()
    raise ZeroDivisionError
"""

SHARING = """
import pytest

class Broken:
    def __del__(self):
        raise ValueError("of a shared fixture")

@pytest.fixture(scope="module")
def shared():
    broken = Broken()
    broken.me = broken
    return broken

def test_first(shared):
    pass

def test_last(shared):
    pass
"""

LEAKS = {
    "a_descriptor": r"descriptor \d+: .*leaked\.txt",
    "a_socket": r"descriptor \d+: socket:",
    "a_map": r"memory map of .*leaked\.map: 1 more",
    "a_thread": r"thread <Thread\(leaked thread, started daemon",
    "a_task": r"task <Task pending name='leaked task'",
    "an_exception": r"asyncio logged: Future exception was never retrieved",
    "a_coroutine": r"unraisable: .*coroutine 'never_awaited' was never awaited",
    "an_open_file": r"unraisable: .*ResourceWarning: unclosed file .*unclosed\.txt",
    "from_a_finalizer_in_a_cycle": r"unraisable: .*Broken.*ValueError: in a finalizer",
    "from_a_cycle_that_has_survived_collections": r"unraisable: .*Broken.*ValueError: in a finalizer",
    "a_file_in_a_cycle": r"unraisable: .*ResourceWarning: unclosed file .*unclosed\.txt",
}


@pytest.fixture(scope="module")
def verdicts(tmp_path_factory: pytest.TempPathFactory) -> str:
    """What pytest prints about a file of leaky tests."""
    folder = tmp_path_factory.mktemp("leaky")
    shutil.copy(TESTS / "conftest.py", folder)
    (folder / "test_leaky.py").write_text(LEAKY)
    (folder / "test_sharing.py").write_text(SHARING)
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-rA",
        "-W",
        "error",
        "-p",
        "no:cacheprovider",
        "-p",
        "no:hypothesispytest",
        "-p",
        "no:asyncio",
    ]
    result = subprocess.run(
        [*command, "--rootdir", str(folder), "--basetemp", str(tmp_path_factory.mktemp("run")), str(folder)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(TESTS), "PYTEST_ADDOPTS": "", "COLUMNS": "200"},
    )
    assert result.returncode == 1, result.stdout + result.stderr
    return result.stdout


@pytest.mark.parametrize("kind", LEAKS)
def test_each_kind_of_leak_is_an_error_that_names_what_leaked(verdicts: str, kind: str) -> None:
    section = re.search(rf"ERROR at teardown of test_leaks_{kind} _+\n.*?(?:\n_{{5}}|\Z)", verdicts, re.DOTALL)
    assert section
    assert re.search(LEAKS[kind], section[0]), verdicts


def test_a_cycle_that_a_shared_fixture_leaves_is_an_error_at_the_end_of_its_module(verdicts: str) -> None:
    section = re.search(r"ERROR at teardown of test_last _+\n.*?(?:\n_{5}|\Z)", verdicts, re.DOTALL)
    assert section
    assert "ValueError: of a shared fixture" in section[0]
    assert "ERROR at teardown of test_first" not in verdicts


def test_leaving_nothing_behind_is_no_error(verdicts: str) -> None:
    assert re.findall(r"^ERROR .*::test_clean", verdicts, re.MULTILINE) == []
    assert len(re.findall(r"^PASSED .*::test_clean", verdicts, re.MULTILINE)) == 3


def test_a_failed_test_is_not_accused_of_leaking_as_well(verdicts: str) -> None:
    assert re.findall(r"^FAILED .*::test_fails_by_itself_alone", verdicts, re.MULTILINE)
    assert not re.findall(r"^ERROR .*::test_fails_by_itself_alone", verdicts, re.MULTILINE)

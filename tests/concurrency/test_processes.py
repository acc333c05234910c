"""Child processes call functions, end with whoever started them, and are replaced if they die."""

from __future__ import annotations

import operator
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from typing import TYPE_CHECKING

import pytest

from ckvd.concurrency.processes import ChildProcesses
from ckvd.concurrency.stopping import stopped_by
from ckvd.errors import ArchiveError, ClientClosedError, WorkerDiedError
from support import child_work
from support.processes import ENVIRONMENT

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

# Linux lists the children of a process.
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="needs /proc")


@pytest.fixture
def processes() -> Iterator[ChildProcesses]:
    processes = ChildProcesses()
    yield processes
    pids = processes.pids
    processes.close()
    assert not any(map(child_work.is_alive, pids))
    assert processes.pids == ()


def wait_until(condition: Callable[[], bool], timeout_s: float = 20) -> None:
    end_s = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < end_s, "waited in vain"
        threading.Event().wait(0.005)


def test_a_child_calls_functions_one_after_the_other(processes: ChildProcesses) -> None:
    assert processes.call("sum", operator.add, 2, 3) == 5
    assert processes.call("long", operator.mul, b"x", 10_000_000) == b"x" * 10_000_000
    first = processes.call("id", os.getpid)
    assert first == processes.call("id", os.getpid)
    assert processes.pids == (first,)
    assert first != os.getpid()


def test_an_error_comes_back_with_its_attributes(processes: ChildProcesses) -> None:
    with pytest.raises(ArchiveError, match=r"^a\.zip, line 7: for a test$") as caught:
        processes.call("refusal", child_work.refuse, "a.zip")
    assert (caught.value.archive, caught.value.row, caught.value.reason) == ("a.zip", 7, "for a test")
    assert processes.call("sum", operator.add, 2, 3) == 5


def test_what_a_child_prints_or_reads_does_not_disturb_its_calls(
    processes: ChildProcesses, capfd: pytest.CaptureFixture[str]
) -> None:
    assert processes.call("talk", child_work.talk) == ("", "said")
    assert processes.call("sum", operator.add, 2, 3) == 5
    assert capfd.readouterr() == ("", "a word\n")


def test_a_child_that_dies_is_replaced(
    processes: ChildProcesses, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert processes.call("x.zip", child_work.die_unless, str(tmp_path / "marker")) == "alive"
    assert processes.lost_count == 1
    assert "x.zip was killed by SIGKILL; it is tried once more" in caplog.text


def test_work_of_which_two_children_die_is_an_error_that_names_it(processes: ChildProcesses) -> None:
    with pytest.raises(WorkerDiedError, match=r"^x\.zip: the process that stores it was killed by SIGKILL, twice"):
        processes.call("x.zip", child_work.die)
    assert processes.lost_count == 2
    assert processes.call("sum", operator.add, 2, 3) == 5


def test_a_child_that_died_while_it_was_idle_is_replaced(processes: ChildProcesses) -> None:
    pid = processes.call("id", os.getpid)
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: not child_work.is_alive(pid))
    assert processes.call("sum", operator.add, 2, 3) == 5


def test_that_no_child_can_be_started_is_an_error_that_says_so(
    processes: ChildProcesses, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(sys, "executable", str(tmp_path / "no python"))
    with pytest.raises(
        WorkerDiedError, match=r"^x\.zip: the process that stores it cannot be started \(No such file"
    ):
        processes.call("x.zip", os.getpid)


@pytest.mark.parametrize("work", [child_work.work_until_stopped, child_work.wait_for_ever])
def test_work_that_is_stopped_ends_its_child(
    processes: ChildProcesses, tmp_path: Path, work: Callable[[str], None]
) -> None:
    marker = tmp_path / "marker"

    def check() -> None:
        if marker.exists():
            raise ClientClosedError("for a test")

    with stopped_by(check), pytest.raises(ClientClosedError, match="for a test"):
        processes.call("x.zip", work, str(marker))
    assert processes.pids == ()
    assert child_work.child_pids(os.getpid()) == []
    assert marker.exists() == (work is child_work.wait_for_ever)


def test_closing_ends_children_at_work(tmp_path: Path) -> None:
    processes = ChildProcesses()
    errors: list[BaseException] = []

    def call() -> None:
        try:
            processes.call("x.zip", child_work.wait_for_ever, str(tmp_path / "marker"))
        except ClientClosedError as error:
            errors.append(error)

    thread = threading.Thread(target=call)
    thread.start()
    wait_until((tmp_path / "marker").exists)
    processes.close()
    thread.join(20)
    assert [type(error) for error in errors] == [ClientClosedError]
    assert child_work.child_pids(os.getpid()) == []
    with pytest.raises(ClientClosedError):
        processes.call("sum", operator.add, 2, 3)


PARENT = """
    import os, sys, threading
    from ckvd.concurrency.processes import ChildProcesses
    from support import child_work

    # No `if __name__ == "__main__"`: a child does not run this again.
    processes = ChildProcesses()
    pid = processes.call("id", os.getpid)
    if sys.argv[1] == "busy":
        call = processes.call
        threading.Thread(target=call, args=("x", child_work.work_until_stopped, sys.argv[2])).start()
        while not os.path.exists(sys.argv[2]):
            pass
    print(pid, flush=True)
    sys.stdin.read()
    os._exit(0)
"""


@pytest.mark.parametrize("state", ["idle", "busy"])
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, None])
def test_children_end_when_their_parent_dies_in_whatever_way(
    tmp_path: Path, state: str, number: signal.Signals | None
) -> None:
    marker = tmp_path / "marker"
    with subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(PARENT), state, str(marker)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=ENVIRONMENT,
    ) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        assert child_work.is_alive(pid)
        assert os.getpgid(pid) != os.getpgid(parent.pid)
        if number is not None:
            parent.send_signal(number)
    wait_until(lambda: not child_work.is_alive(pid))
    assert not marker.exists()

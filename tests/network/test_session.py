"""Parts of curl_cffi that closing a session needs, and closing one whose event loop does not run any more."""

from __future__ import annotations

import asyncio
import re
import threading
import tomllib
from importlib.metadata import version
from typing import Any

import pytest
from curl_cffi import AsyncSession

from ckvd.errors import CkvdError, DependencyError
from ckvd.network import session
from ckvd.network.transport import Transport
from support import leaks
from support.loopback.reply import Gate, Reply
from support.loopback.server import LoopbackServer
from support.places import REPOSITORY
from support.processes import run_script
from support.release.closers import run

SILENT = Reply(200, bytes(1000), head_gate=Gate())


# --- Parts of curl_cffi and asyncio ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("owner", "name"),
    [part[:2] for part in session.INNER_PARTS],
    ids=lambda value: value if isinstance(value, str) else value.__name__,
)
def test_the_installed_versions_have_every_part_that_closing_needs(owner: type, name: str) -> None:
    assert hasattr(owner, name), f"curl_cffi {version('curl_cffi')} has no {owner.__name__}.{name}"


def test_no_other_private_name_of_other_packages_is_used() -> None:
    listed = {name for _, name, _ in session.INNER_PARTS if name.startswith("_")}
    for path in (REPOSITORY / "src" / "ckvd" / "network").glob("*.py"):
        text = path.read_text(encoding="utf-8")
        used = set(re.findall(r"(?<!\bself)(?<!\bcls)\.(_[a-z]\w+)", text))
        assert used <= listed, path.name
        assert not used or path.name == "session.py"


def test_the_versions_that_were_tested_are_those_that_may_be_installed() -> None:
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert f"curl_cffi{session.TESTED_VERSIONS}" in project["dependencies"]


def test_the_first_request_says_what_the_installed_curl_cffi_lacks(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        async with Transport() as transport:
            await transport.get("http://127.0.0.1/")

    monkeypatch.delattr(AsyncSession, "acurl")
    with pytest.raises(DependencyError) as caught:
        run(main)
    error = caught.value
    assert isinstance(error, CkvdError)
    assert isinstance(error, ImportError)
    assert (error.name, error.version, error.missing) == (
        "curl_cffi",
        version("curl_cffi"),
        ("AsyncSession.acurl",),
    )
    assert str(error) == (
        f"curl_cffi {version('curl_cffi')} is installed, and lacks AsyncSession.acurl; "
        "ckvd was tested with curl_cffi>=0.16,<0.18: install one of these versions"
    )


def test_a_session_of_the_caller_needs_none_of_these_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        async with AsyncSession[Any]() as external, Transport(external) as transport:
            assert (await transport.get(server.url)).status == 200

    monkeypatch.setattr(session, "INNER_PARTS", ((AsyncSession, "no_such_part", ""),))
    with LoopbackServer(lambda _: Reply(200)) as server:
        run(main)


# --- Releasing ---------------------------------------------------------------------------------------------


def test_an_unused_session_is_released_without_a_loop() -> None:
    session.release_session(session.open_session(1))


def test_a_session_whose_loop_runs_in_another_thread_is_closed_in_that_thread() -> None:
    closers: list[int] = []
    opened: list[session.OwnSession] = []
    is_used, is_closed = threading.Event(), threading.Event()

    class Recording(session.OwnSession):
        async def close(self) -> None:
            closers.append(threading.get_ident())
            await super().close()
            is_closed.set()

    async def main() -> None:
        opened.append(Recording())
        await opened[0].request("GET", server.url)
        is_used.set()
        await asyncio.to_thread(is_closed.wait, 10)

    with LoopbackServer(lambda _: Reply(200)) as server:
        thread = threading.Thread(target=run, args=(main,))
        thread.start()
        assert is_used.wait(10)
        session.release_session(opened.pop())
        thread.join(10)
        assert not thread.is_alive()
        assert closers == [thread.ident]
        server.wait_until_idle()


def test_a_session_released_under_requests_ends_them_when_its_loop_goes_on() -> None:
    async def warm_up() -> None:
        async with session.open_session(1) as opened:
            await opened.request("GET", f"{server.url}/answered")

    async def begin() -> tuple[session.OwnSession, list[asyncio.Task[Any]]]:
        opened = session.open_session(3)
        requests: list[asyncio.Task[Any]] = [
            asyncio.create_task(opened.request("GET", server.url)) for _ in range(3)
        ]
        await asyncio.to_thread(server.wait_for_requests, 4)
        return opened, requests

    with LoopbackServer(lambda request: Reply(200) if request.path == "/answered" else SILENT) as server:
        run(warm_up)
        server.wait_until_idle()
        with asyncio.Runner() as runner:
            runner.run(asyncio.to_thread(int))
            before = leaks.count_descriptors()
            opened, requests = runner.run(begin())
            assert leaks.count_descriptors() > before
            session.release_session(opened)
            server.wait_until_idle()
            assert leaks.count_descriptors() == before
            runner.run(asyncio.wait(requests, timeout=5))
            assert all(request.done() for request in requests)


def test_a_session_released_under_requests_after_its_loop_was_closed_keeps_no_connection() -> None:
    """In its own process, because asyncio logs that the requests were destroyed while they were pending."""
    script = """
        import asyncio, os
        from ckvd.network.session import open_session, release_session
        from support import leaks
        from support.loopback.reply import Gate, Reply
        from support.loopback.server import LoopbackServer

        async def begin():
            session = open_session(3)
            requests = [asyncio.ensure_future(session.request("GET", server.url)) for _ in range(3)]
            await asyncio.to_thread(server.wait_for_requests, 3)
            return session, requests

        os.dup2(1, 2)
        with LoopbackServer(lambda _: Reply(200, head_gate=Gate())) as server:
            loop = asyncio.new_event_loop()
            session, requests = loop.run_until_complete(begin())
            loop.run_until_complete(loop.shutdown_default_executor())
            loop.close()
            before = leaks.count_descriptors()
            release_session(session)
            server.wait_until_idle()
            print(before - leaks.count_descriptors() >= 3, flush=True)
    """
    assert "True" in run_script(script).splitlines()

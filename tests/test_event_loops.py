"""Clients, caches and readers work on uvloop, with eager tasks, under anyio, trio and pytest-asyncio.

Whole uses run in processes of their own, in the development mode of Python and with warnings as errors. A way whose
library is not installed is skipped.
"""

from __future__ import annotations

import asyncio
import importlib.util
import subprocess
import sys
import textwrap
from typing import TYPE_CHECKING, Any

import pytest

from ckvd.model.market import SeriesKey
from ckvd.model.timespan import Span
from ckvd.rest.rest_data_client import RestDataClient
from support.loopback.exchange import Exchange
from support.loopback.rows import make_rows
from support.loopback.server import LoopbackServer
from support.models import MINUTE_MS, ms
from support.places import SAMPLES
from support.processes import ENVIRONMENT
from support.release import clients, closers, unanswered, unclosed
from support.release.clients import FAILING, Subject

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from support.release.closers import Closer

SERIES = SeriesKey.of("BTCUSDT", "1m")
SPAN = Span(ms(2024, 5, 1), ms(2024, 5, 1, 1))


def needs(*modules: str) -> pytest.MarkDecorator:
    missing = [name for name in modules if importlib.util.find_spec(name) is None]
    return pytest.mark.skipif(bool(missing), reason=f"not installed: {', '.join(missing)}")


# --- Whole uses --------------------------------------------------------------------------------------------

# What a user does: fetch, read, scan, and be cut short while a server is silent. Nothing of asyncio is named.
USES = """
    import logging, pathlib, sys
    import ckvd
    from support import leaks
    from support.loopback.exchange import Exchange
    from support.loopback.rows import make_rows
    from support.loopback.server import LoopbackServer
    from support.models import MINUTE_MS, ms
    from support.release.unanswered import SILENCES

    logging.getLogger("asyncio").setLevel(logging.ERROR)  # On a loaded machine, every step is slow.
    folder, mirror = sys.argv[1:3]
    SERIES = ckvd.SeriesKey.of("BTCUSDT", "1m")
    SPAN = ckvd.Span(ms(2024, 5, 1), ms(2024, 5, 1, 1))

    async def fetch_and_read():
        options = dict(start="2023-03-23", end="2023-03-25")
        async with ckvd.CryptoKlineVisionData(cache=folder, vision_url=mirror, use_rest=False) as data:
            klines = await data.get_klines("BTCUSDT", "1m", missing="ignore", **options)
            assert len(klines) > 2000
        assert (await read()) == len(klines)

    async def read():
        async with ckvd.open_cache(folder) as cache:
            klines = cache.read("BTCUSDT", "1m", start="2023-03-23", end="2023-03-25", missing="ignore")
            blocks = cache.scan("BTCUSDT", "1m", start="2023-03-23", end="2023-03-25", missing="ignore", rows=500)
            assert sum(map(len, blocks)) == len(klines)
        (path, *_) = pathlib.Path(folder).rglob("*.ckvd")
        async with ckvd.SegmentReader(path) as reader:
            kept = reader["close"][:10]
        assert kept.sum() > 0
        return len(klines)

    async def ask():
        rows = make_rows(range(SPAN.start_ms, SPAN.end_ms, MINUTE_MS), MINUTE_MS)
        with Exchange({SERIES: rows}) as exchange:
            async with ckvd.RestDataClient(base_url=exchange.server.url) as client:
                assert len((await client.fetch(SERIES, SPAN)).table.open_time) == 60

    async def be_cut_short(within):
        for silence in SILENCES.values():
            with LoopbackServer(lambda _: silence) as server:
                async with ckvd.RestDataClient(base_url=server.url) as client:
                    try:
                        await within(0.2, client.fetch(SERIES, SPAN))
                    except TimeoutError:
                        continue
            raise AssertionError("it was answered")

    def check(run):
        with leaks.watch() as watch:
            run()
        assert not watch.findings, watch.findings
        print("fine")
"""

ASYNCIO = """
    import asyncio

    async def main():
        await fetch_and_read()
        await ask()
        await be_cut_short(lambda time_s, coroutine: asyncio.wait_for(coroutine, time_s))
"""

ANYIO = """
    import anyio

    async def within(time_s, coroutine):
        with anyio.fail_after(time_s):
            await coroutine

    async def main():
        await fetch_and_read()
        await ask()
        await be_cut_short(within)
        async with anyio.create_task_group() as group:
            group.start_soon(be_cut_short, within)
            group.start_soon(read)
"""

WAYS = {
    "asyncio": (ASYNCIO, "check(lambda: asyncio.run(main()))", ()),
    "eager tasks": (
        ASYNCIO,
        """
        def eagerly():
            with asyncio.Runner() as runner:
                runner.get_loop().set_task_factory(asyncio.eager_task_factory)
                runner.run(main())

        check(eagerly)
        """,
        (),
    ),
    "uvloop": (
        ASYNCIO,
        "import uvloop; uvloop.run(asyncio.sleep(0)); check(lambda: uvloop.run(main()))",
        ("uvloop",),
    ),
    "anyio": (ANYIO, "check(lambda: anyio.run(main))", ("anyio",)),
    "anyio on uvloop": (
        ANYIO,
        """
        on_uvloop = {"use_uvloop": True}
        anyio.run(anyio.sleep, 0, backend_options=on_uvloop)
        check(lambda: anyio.run(main, backend_options=on_uvloop))
        """,
        ("anyio", "uvloop"),
    ),
    "in a thread": (
        ASYNCIO,
        """
        import threading

        thread = threading.Thread(target=lambda: check(lambda: asyncio.run(main())))
        thread.start()
        thread.join()
        """,
        (),
    ),
    "trio, after asyncio": (
        ASYNCIO,
        """
        import trio

        async def leave_unused():
            async with ckvd.RestDataClient(), ckvd.CryptoKlineVisionData(cache=folder, vision_url=mirror):
                pass

        asyncio.run(fetch_and_read())
        trio.run(trio.sleep, 0)
        check(lambda: trio.run(read))
        check(lambda: trio.run(leave_unused))
        """,
        ("trio",),
    ),
}


def run_in_development_mode(folder: Path, *arguments: str) -> str:
    """Run Python with its checks on and warnings as errors; it must succeed and complain of nothing."""
    result = subprocess.run(
        [sys.executable, "-X", "dev", "-W", "error", *arguments],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        env=ENVIRONMENT,
    )
    assert (result.returncode, result.stderr) == (0, ""), result.stdout + result.stderr
    return result.stdout


@pytest.mark.parametrize("way", [pytest.param(way, marks=needs(*modules)) for way, (_, _, modules) in WAYS.items()])
def test_all_that_is_used_works_in_development_mode(way: str, tmp_path: Path) -> None:
    if way == "eager tasks" and sys.version_info < (3, 12):
        pytest.skip("eager tasks came with Python 3.12")
    main, run, _ = WAYS[way]
    script = "\n".join(map(textwrap.dedent, (USES, main, run)))
    assert set(run_in_development_mode(tmp_path, "-c", script, str(tmp_path), str(SAMPLES)).split()) == {"fine"}


TESTS_OF_A_USER = """
    import sys

    import pytest
    import pytest_asyncio

    import ckvd
    from support.loopback.exchange import Exchange
    from support.loopback.rows import make_rows
    from support.models import MINUTE_MS, ms

    SERIES = ckvd.SeriesKey.of("BTCUSDT", "1m")
    SPAN = ckvd.Span(ms(2024, 5, 1), ms(2024, 5, 1, 1))

    @pytest.fixture
    def exchange():
        rows = make_rows(range(SPAN.start_ms, SPAN.end_ms, MINUTE_MS), MINUTE_MS)
        with Exchange({SERIES: rows}) as exchange:
            yield exchange

    @pytest_asyncio.fixture
    async def client(exchange):
        async with ckvd.RestDataClient(base_url=exchange.server.url) as client:
            yield client

    @pytest_asyncio.fixture(scope="module", loop_scope="module")
    async def cache(tmp_path_factory):
        async with ckvd.open_cache(tmp_path_factory.mktemp("cache")) as cache:
            yield cache

    @pytest.mark.asyncio
    async def test_a_client_of_a_fixture(client):
        assert (await client.fetch(SERIES, SPAN)).span == SPAN

    @pytest.mark.asyncio
    async def test_another_client_in_another_loop(client):
        assert (await client.fetch(SERIES, SPAN)).span == SPAN

    @pytest.mark.asyncio(loop_scope="module")
    async def test_a_cache_of_a_module(cache):
        assert list(cache.series()) == []

    @pytest.mark.asyncio
    async def test_a_client_that_is_left_in_a_test(exchange):
        async with ckvd.RestDataClient(base_url=exchange.server.url) as client:
            await client.fetch(SERIES, SPAN)
"""


@needs("pytest_asyncio")
def test_clients_and_caches_can_be_fixtures_of_pytest_asyncio(tmp_path: Path) -> None:
    (tmp_path / "test_of_a_user.py").write_text(textwrap.dedent(TESTS_OF_A_USER), encoding="utf-8")
    (tmp_path / "pytest.ini").write_text(
        "[pytest]\nasyncio_default_fixture_loop_scope = function\nfilterwarnings =\n    error\n", encoding="utf-8"
    )
    plain = ("-p", "no:cacheprovider", "-p", "no:xdist", "--basetemp", str(tmp_path / "run"))
    printed = run_in_development_mode(tmp_path, "-m", "pytest", "-q", *plain)
    assert "4 passed" in printed


# --- Leaving on uvloop -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def uvloop() -> Any:
    uvloop = pytest.importorskip("uvloop", reason="not installed: uvloop")
    # What it makes once in a process is no leak.
    uvloop.run(asyncio.to_thread(int))
    return uvloop


@pytest.fixture
def on_uvloop(uvloop: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run the shared tests of release on event loops of uvloop."""
    monkeypatch.setattr(closers, "new_event_loop", uvloop.new_event_loop)


def subject_of(server: LoopbackServer) -> Subject:
    return Subject(
        "RestDataClient",
        server,
        lambda **options: RestDataClient(base_url=server.url, **options),
        lambda client: client.fetch(SERIES, SPAN),
        ("_transport", "_hosts", "_client"),
    )


@pytest.fixture
def subject(on_uvloop: None) -> Iterator[Subject]:
    rows = make_rows(range(SPAN.start_ms, SPAN.end_ms, MINUTE_MS), MINUTE_MS)
    with Exchange({SERIES: rows}) as exchange:
        yield subject_of(exchange.server)


LEAVING: list[Callable[[Subject], None]] = [
    clients.leaves_unused,
    clients.leaves_after_fetching,
    clients.leaves_twice_at_once_and_without_entering,
    clients.leaves_on_another_loop,
    clients.leaves_a_session_of_the_caller_open,
    clients.raises_the_error_of_the_body_when_closing_fails_too,
    clients.is_cancelled_while_leaving_and_says_so,
    clients.lets_a_timeout_while_leaving_be_a_timeout,
    unclosed.with_a_session_of_the_caller,
    *unclosed.SITUATIONS,
]


@pytest.mark.parametrize("leave", LEAVING, ids=lambda leave: leave.__name__)
def test_a_client_is_left_on_uvloop_as_on_asyncio(subject: Subject, leave: Callable[[Subject], None]) -> None:
    leave(subject)


@pytest.mark.parametrize("kind", FAILING, ids=lambda kind: kind.__name__)
def test_a_client_leaves_quietly_on_uvloop_when_closing_fails(
    subject: Subject, kind: type[Closer], caplog: pytest.LogCaptureFixture
) -> None:
    clients.leaves_quietly_when_closing_fails(subject, kind, caplog)


LEFT_WAITING: list[Callable[..., None]] = [
    unanswered.ends_those_who_wait_for_an_answer,
    unanswered.ends_five_who_wait_for_one_connection,
    unanswered.is_stopped_by_a_failing_sibling,
    unanswered.lets_a_timeout_be_a_timeout,
]


@pytest.mark.parametrize("leave", LEFT_WAITING, ids=lambda leave: leave.__name__)
@pytest.mark.parametrize("silence", unanswered.SILENCES)
def test_a_client_is_left_on_uvloop_while_callers_wait(
    on_uvloop: None, leave: Callable[..., Any], silence: str
) -> None:
    with LoopbackServer(lambda _: unanswered.SILENCES[silence]) as server:
        leave(subject_of(server))

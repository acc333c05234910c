"""Leaving `CryptoKlineVisionData`, which holds a client of each kind."""

from __future__ import annotations

import asyncio
import gc
import threading
import warnings
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

import ckvd
from ckvd.model.calendar import Period
from ckvd.model.market import HOUR_MS, SeriesKey
from ckvd.model.timespan import Span
from ckvd.network import session
from ckvd.network.session import OwnSession
from ckvd.utils.config import HTTP_CLIENT_CLEANUP_TIMEOUT
from ckvd.vision.name import ArchiveName
from support.loopback.exchange import Exchange
from support.loopback.mirror import Mirror
from support.loopback.reply import Gate
from support.loopback.rows import make_rows
from support.loopback.server import LoopbackServer, Reply, Request
from support.models import ms
from support.places import SAMPLES
from support.release import clients, unanswered, unclosed
from support.release.clients import FAILING, Subject
from support.release.closers import TASK_FACTORIES
from support.venue import HOURS, Venue, assert_equal, fetch, hours, rows_between

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from support.release.closers import Closer

SERIES = SeriesKey.of("BTCUSDT", "1h")
NOW_MS = ms(2025, 2, 4)
# The last hours of a month that has an archive, and the first of a day that has none.
START, END = "2025-01-31T20:00", "2025-02-01T02:00"


# Makes a client of a server at `url` with a cache in `folder`, and asks it.
CODE = (
    "ckvd.CryptoKlineVisionData(cache=folder, vision_url=url, rest_url=url)",
    'client.get_klines("BTCUSDT", "1h", start="2024-12-01", end="2025-01-01")',
)


def subject_of(server: LoopbackServer, folder: Path) -> Subject:
    """A client with a new cache each time, so that there is something to fetch."""
    caches = (folder / str(number) for number in range(1000))

    def make(**options: Any) -> ckvd.CryptoKlineVisionData:
        return ckvd.CryptoKlineVisionData(
            cache=next(caches),
            vision_url=server.url,
            listing_url=f"{server.url}/bucket",
            rest_url=server.url,
            clock=lambda: NOW_MS,
            **options,
        )

    return Subject(
        "CryptoKlineVisionData",
        server,
        make,
        lambda client: client.get_klines("BTCUSDT", "1h", start=START, end=END),
        ("_rest", "_vision"),
    )


@pytest.fixture
def subject(tmp_path: Path) -> Iterator[Subject]:
    mirror = Mirror(SAMPLES)
    hours = make_rows(range(ms(2025, 2, 1), NOW_MS, HOUR_MS), HOUR_MS)
    exchange = Exchange({SERIES: hours}, clock=lambda: NOW_MS)

    def answer(request: Request) -> Reply:
        return (exchange if request.path.startswith("/api/") else mirror)._reply(request)

    with LoopbackServer(answer) as server:
        yield subject_of(server, tmp_path)


@pytest.fixture(params=unanswered.SILENCES, ids=list(unanswered.SILENCES))
def silent(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Subject]:
    with LoopbackServer(lambda _: unanswered.SILENCES[request.param]) as server:
        yield subject_of(server, tmp_path)


@pytest.mark.parametrize("is_eager", TASK_FACTORIES)
def test_it_leaves_unused_and_after_fetching(subject: Subject, is_eager: bool) -> None:
    clients.leaves_unused(subject, is_eager=is_eager)
    clients.leaves_after_fetching(subject, is_eager=is_eager)
    assert {request.path.startswith("/api/") for request in subject.server.requests} == {True, False}


def test_it_leaves_many_times_in_a_row(subject: Subject) -> None:
    clients.leaves_many_times_in_a_row(subject, 10)


def test_it_leaves_twice_at_once_and_without_entering(subject: Subject) -> None:
    clients.leaves_twice_at_once_and_without_entering(subject)


def test_it_leaves_on_another_loop(subject: Subject) -> None:
    clients.leaves_on_another_loop(subject)


def test_it_leaves_clients_of_the_caller_open(subject: Subject, tmp_path: Path) -> None:
    url = subject.server.url

    async def main() -> None:
        vision = ckvd.VisionDataClient(url, cache=tmp_path / "0", listing_url=f"{url}/bucket", clock=lambda: NOW_MS)
        rest = ckvd.RestDataClient(base_url=url, clock=lambda: NOW_MS)
        async with vision, rest:
            async with subject.make(vision_client=vision, rest_client=rest) as client:
                assert len(await client.get_klines("BTCUSDT", "1h", start=START, end=END)) == 6
            clients.assert_released(subject, client)
            assert vision.is_connected
            assert rest.is_connected
            assert await rest.first_open_ms(SERIES) == ms(2025, 2, 1)

    asyncio.run(main())


@pytest.mark.parametrize("external", ["vision_client", "rest_client", "both"])
def test_it_leaves_clients_of_the_caller_open_when_nobody_closes_it(
    subject: Subject, tmp_path: Path, external: str
) -> None:
    """Its own client is released, with a warning; one of the caller is not, and causes none."""
    url, series = subject.server.url, [SERIES]

    async def main() -> None:
        vision = ckvd.VisionDataClient(url, cache=tmp_path / "0", listing_url=f"{url}/bucket", clock=lambda: NOW_MS)
        rest = ckvd.RestDataClient(base_url=url, clock=lambda: NOW_MS)
        clients_of_the_caller = {"vision_client": vision, "rest_client": rest}
        chosen = {name: client for name, client in clients_of_the_caller.items() if external in (name, "both")}
        async with vision, rest:
            client = subject.make(**chosen)
            await client.get_klines("BTCUSDT", "1h", start=START, end=END)
            client.me = client
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                del client
                gc.collect()
            assert [warning.category for warning in caught] == [ResourceWarning] * (external != "both")
            client = subject.make(**chosen)
            client.release()
            # Still usable, both of them.
            assert (await vision.download_series(series, Span.of(START, END))).is_complete
            assert await rest.first_open_ms(SERIES) == ms(2025, 2, 1)

    gc.collect()
    asyncio.run(main())


def test_a_session_may_take_its_time_in_a_client_inside_another(
    subject: Subject, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Three quarters of what an HTTP client may take, which is more than other resources may."""
    closed: list[OwnSession] = []

    class SlowSession(OwnSession):
        async def close(self) -> None:
            await asyncio.sleep(0.75 * HTTP_CLIENT_CLEANUP_TIMEOUT)
            await super().close()
            closed.append(self)

    monkeypatch.setattr(session, "open_session", lambda connections_max: SlowSession(max_clients=connections_max))

    async def main() -> None:
        async with subject.make() as client:
            await subject.fetch(client)
        assert len(closed) == 2

    asyncio.run(main())
    assert not caplog.records


def test_closing_while_archives_come_states_nothing_of_what_was_not_asked(tmp_path: Path) -> None:
    start, end = "2024-03-19", "2024-03-20T10:00"
    arrived, gate = threading.Event(), Gate()

    def hold(genuine: Reply) -> Reply:
        arrived.set()
        return replace(genuine, head_gate=gate)

    async def main(venue: Venue) -> None:
        options = venue.options()
        vision_options = {name: options[name] for name in ("cache", "listing_url", "clock")}
        async with ckvd.VisionDataClient(venue.mirror.base_url, **vision_options) as vision:
            client = venue.data(vision_client=vision)
            asking = asyncio.create_task(client.get_klines("BTCUSDT", "1h", start=start, end=end))
            assert await asyncio.to_thread(arrived.wait, 10)
            await client.aclose()
            gate.open()
            with pytest.raises(ckvd.ClientClosedError):
                await asking

    with Venue(tmp_path, "2024-03-20T10:30") as venue:
        rows = hours(start, end)
        venue.exchange.publish(HOURS, rows)
        venue.publish(HOURS, "2024-03-19", rows_between(rows, "2024-03-19", "2024-03-20"))
        venue.mirror.script(ArchiveName(HOURS, Period.of_label("2024-03-19")).path, hold)
        asyncio.run(main(venue))
        with ckvd.open_cache(venue.cache_path) as cache:
            assert cache.coverage(HOURS) == ()  # nothing is stored after closing, by a client of the caller either
        assert_equal(fetch(venue, start, end), rows)


@pytest.mark.parametrize("kind", FAILING, ids=lambda kind: kind.__name__)
def test_it_leaves_quietly_when_closing_fails(
    subject: Subject, kind: type[Closer], caplog: pytest.LogCaptureFixture
) -> None:
    clients.leaves_quietly_when_closing_fails(subject, kind, caplog)


def test_it_raises_the_error_of_the_body_when_closing_fails_too(subject: Subject) -> None:
    clients.raises_the_error_of_the_body_when_closing_fails_too(subject)


def test_it_is_cancelled_while_leaving_and_says_so(subject: Subject) -> None:
    clients.is_cancelled_while_leaving_and_says_so(subject)


def test_it_lets_a_timeout_while_leaving_be_a_timeout(subject: Subject) -> None:
    clients.lets_a_timeout_while_leaving_be_a_timeout(subject)


def test_it_interrupts_when_it_is_interrupted_while_leaving(subject: Subject) -> None:
    clients.interrupts_when_it_is_interrupted_while_leaving(subject, *CODE)


def test_it_leaves_soon_while_callers_wait() -> None:
    unanswered.leaves_soon_while_callers_wait(*CODE)


def test_it_ends_those_who_wait_for_an_answer(silent: Subject) -> None:
    unanswered.ends_those_who_wait_for_an_answer(silent)


def test_it_ends_more_callers_than_the_line_has_places(silent: Subject) -> None:
    unanswered.ends_those_who_wait_for_an_answer(silent, 40)


def test_it_is_stopped_by_a_failing_sibling(silent: Subject) -> None:
    unanswered.is_stopped_by_a_failing_sibling(silent)


def test_it_lets_a_timeout_be_a_timeout(silent: Subject) -> None:
    unanswered.lets_a_timeout_be_a_timeout(silent)


@pytest.mark.parametrize("situation", unclosed.SITUATIONS, ids=lambda situation: situation.__name__)
def test_it_warns_once_and_lets_go_when_nobody_closes_it(
    subject: Subject, situation: Callable[[Subject], None]
) -> None:
    situation(subject)

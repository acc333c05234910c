"""Leaving `VisionDataClient`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from ckvd.api.vision_data_client import VisionDataClient
from ckvd.model.market import SeriesKey
from ckvd.model.timespan import Span
from support.loopback.mirror import Mirror
from support.loopback.server import LoopbackServer
from support.models import ms
from support.places import REPOSITORY
from support.release import clients, unanswered, unclosed
from support.release.clients import FAILING, Subject
from support.release.closers import TASK_FACTORIES

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from support.release.closers import Closer

SERIES = SeriesKey.of("BTCUSDT", "1h")
SPAN = Span(ms(2024, 12, 1), ms(2025, 1, 1))


# Makes a client of a server at `url` with a cache in `folder`, and asks it.
CODE = (
    "ckvd.VisionDataClient(url, cache=folder)",
    'client.download("BTCUSDT", "1h", start="2024-12-01", end="2025-01-01")',
)


def subject_of(server: LoopbackServer, folder: Path) -> Subject:
    """A client with a new cache each time, so that there is something to fetch."""
    caches = (folder / str(number) for number in range(1000))

    def make(**options: Any) -> VisionDataClient:
        return VisionDataClient(server.url, listing_url=f"{server.url}/bucket", cache=next(caches), **options)

    return Subject(
        "VisionDataClient",
        server,
        make,
        lambda client: client.download_series([SERIES], SPAN),
        ("_transport", "_source", "_client"),
    )


@pytest.fixture
def subject(tmp_path: Path) -> Iterator[Subject]:
    with Mirror(REPOSITORY / "data" / "vision") as mirror:
        yield subject_of(mirror.server, tmp_path)


@pytest.fixture(params=unanswered.SILENCES, ids=list(unanswered.SILENCES))
def silent(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Subject]:
    with LoopbackServer(lambda _: unanswered.SILENCES[request.param]) as server:
        yield subject_of(server, tmp_path)


@pytest.mark.parametrize("is_eager", TASK_FACTORIES)
def test_it_leaves_unused_and_after_fetching(subject: Subject, is_eager: bool) -> None:
    clients.leaves_unused(subject, is_eager=is_eager)
    clients.leaves_after_fetching(subject, is_eager=is_eager)


def test_it_leaves_many_times_in_a_row(subject: Subject) -> None:
    clients.leaves_many_times_in_a_row(subject, 15)


def test_it_leaves_twice_at_once_and_without_entering(subject: Subject) -> None:
    clients.leaves_twice_at_once_and_without_entering(subject)


def test_it_leaves_on_another_loop(subject: Subject) -> None:
    clients.leaves_on_another_loop(subject)


def test_it_leaves_a_session_of_the_caller_open(subject: Subject) -> None:
    clients.leaves_a_session_of_the_caller_open(subject)


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


def test_it_ends_five_who_wait_for_one_connection_of_a_session_of_the_caller(silent: Subject) -> None:
    unanswered.ends_five_who_wait_for_one_connection(silent)


def test_it_is_stopped_by_a_failing_sibling(silent: Subject) -> None:
    unanswered.is_stopped_by_a_failing_sibling(silent)


def test_it_lets_a_timeout_be_a_timeout(silent: Subject) -> None:
    unanswered.lets_a_timeout_be_a_timeout(silent)


def test_it_leaves_a_session_of_the_caller_open_when_nobody_closes_it(subject: Subject) -> None:
    unclosed.with_a_session_of_the_caller(subject)


@pytest.mark.parametrize("situation", unclosed.SITUATIONS, ids=lambda situation: situation.__name__)
def test_it_warns_once_and_lets_go_when_nobody_closes_it(
    subject: Subject, situation: Callable[[Subject], None]
) -> None:
    situation(subject)

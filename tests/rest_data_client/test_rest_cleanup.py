"""Leaving `RestDataClient`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from ckvd.model.market import SeriesKey
from ckvd.model.timespan import Span
from ckvd.rest.rest_data_client import RestDataClient
from support.loopback.exchange import Exchange
from support.loopback.rows import make_rows
from support.loopback.server import LoopbackServer
from support.models import MINUTE_MS, ms
from support.release import clients, unanswered, unclosed
from support.release.clients import FAILING, Subject
from support.release.closers import TASK_FACTORIES

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from support.release.closers import Closer

SERIES = SeriesKey.of("BTCUSDT", "1m")
SPAN = Span(ms(2024, 5, 1), ms(2024, 5, 1, 1))


# Makes a client of a server at `url` with a cache in `folder`, and asks it.
CODE = (
    "ckvd.RestDataClient(base_url=url)",
    'client.fetch(ckvd.SeriesKey.of("BTCUSDT", "1m"), ckvd.Span(0, 60_000_000))',
)


def subject_of(server: LoopbackServer) -> Subject:
    def make(**options: Any) -> RestDataClient:
        return RestDataClient(base_url=server.url, **options)

    return Subject(
        "RestDataClient",
        server,
        make,
        lambda client: client.fetch(SERIES, SPAN),
        ("_transport", "_hosts", "_client"),
    )


@pytest.fixture
def subject() -> Iterator[Subject]:
    rows = make_rows(range(SPAN.start_ms, SPAN.end_ms, MINUTE_MS), MINUTE_MS)
    with Exchange({SERIES: rows}) as exchange:
        yield subject_of(exchange.server)


@pytest.fixture(params=unanswered.SILENCES, ids=list(unanswered.SILENCES))
def silent(request: pytest.FixtureRequest) -> Iterator[Subject]:
    with LoopbackServer(lambda _: unanswered.SILENCES[request.param]) as server:
        yield subject_of(server)


@pytest.mark.parametrize("is_eager", TASK_FACTORIES)
def test_it_leaves_unused_and_after_fetching(subject: Subject, is_eager: bool) -> None:
    clients.leaves_unused(subject, is_eager=is_eager)
    clients.leaves_after_fetching(subject, is_eager=is_eager)


def test_it_leaves_many_times_in_a_row(subject: Subject) -> None:
    clients.leaves_many_times_in_a_row(subject, 50)


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


def test_it_ends_those_who_wait_for_a_response(silent: Subject) -> None:
    unanswered.ends_those_who_wait_for_an_answer(silent)


def test_it_ends_more_callers_than_there_are_slots(silent: Subject) -> None:
    unanswered.ends_those_who_wait_for_an_answer(silent, 40)


def test_it_ends_five_who_wait_for_one_connection(silent: Subject) -> None:
    unanswered.ends_five_who_wait_for_one_connection(silent, concurrency=1)


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

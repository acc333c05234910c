"""Which segment speaks for each moment, against a dict of minutes."""

from __future__ import annotations

from itertools import groupby, pairwise, permutations
from typing import TYPE_CHECKING

from hypothesis import example, given
from hypothesis import strategies as st

from ckvd.cache.folder import SegmentName
from ckvd.cache.resolution import Winner, resolve, superseded
from ckvd.model.timespan import Span
from support.models import MINUTE_MS, moments_of
from support.strategies import spans

if TYPE_CHECKING:
    from random import Random

LENGTH = 40
minute_spans = spans(0, LENGTH * MINUTE_MS, MINUTE_MS)


@st.composite
def piles(draw: st.DrawFn) -> list[SegmentName]:
    """Segments as writers make them: each with a revision of its own."""
    some = draw(st.lists(minute_spans.filter(bool), max_size=8))
    revisions = draw(st.permutations(range(1, len(some) + 1)))
    return [SegmentName(span, revision) for span, revision in zip(some, revisions, strict=True)]


def minutes_of(span: Span) -> list[int]:
    return sorted(moments_of([span], MINUTE_MS))


def owners(pile: list[SegmentName]) -> dict[int, SegmentName]:
    """Who speaks for each minute: later revisions take what earlier ones had."""
    found: dict[int, SegmentName] = {}
    for segment in sorted(pile, key=lambda segment: segment.revision):
        found |= dict.fromkeys(minutes_of(segment.span), segment)
    return found


def span(start: int, end: int) -> Span:
    return Span(start * MINUTE_MS, end * MINUTE_MS)


@given(minute_spans, piles())
@example(span(0, 40), [SegmentName(span(0, 10), 2), SegmentName(span(0, 10), 1)])
def test_each_minute_belongs_to_the_segment_with_the_highest_revision(
    wanted: Span, pile: list[SegmentName]
) -> None:
    expected = owners(pile)
    found = {minute: winner.segment for winner in resolve(wanted, pile) for minute in minutes_of(winner.span)}
    assert found == {minute: expected[minute] for minute in minutes_of(wanted) if minute in expected}


@given(minute_spans, piles())
def test_winners_are_disjoint_in_order_not_empty_and_as_long_as_can_be(
    wanted: Span, pile: list[SegmentName]
) -> None:
    winners = resolve(wanted, pile)
    assert all(winner.span and wanted.covers(winner.span) for winner in winners)
    assert all(winner.segment.span.covers(winner.span) for winner in winners)
    for one, other in pairwise(winners):
        assert one.span.end_ms <= other.span.start_ms
        assert one.segment != other.segment or one.span.end_ms < other.span.start_ms


@given(minute_spans, piles(), st.randoms(use_true_random=False))
def test_the_order_of_a_listing_does_not_matter(wanted: Span, pile: list[SegmentName], rng: Random) -> None:
    shuffled = list(pile)
    rng.shuffle(shuffled)
    assert resolve(wanted, shuffled) == resolve(wanted, pile)


def test_segments_of_one_revision_give_one_answer_in_any_order() -> None:
    pile = [SegmentName(span(0, 10), 1), SegmentName(span(5, 15), 1), SegmentName(span(5, 12), 1)]
    answers = [resolve(span(0, 20), order) for order in permutations(pile)]
    assert all(answer == answers[0] for answer in answers)


@given(spans(0, LENGTH * MINUTE_MS), piles())
def test_a_span_that_starts_or_ends_within_a_minute_is_cut_there(wanted: Span, pile: list[SegmentName]) -> None:
    whole = resolve(span(0, LENGTH), pile)
    cut = [Winner(winner.span.intersection(wanted), winner.segment) for winner in whole]
    assert resolve(wanted, pile) == [winner for winner in cut if winner.span]


def test_a_day_within_a_month_takes_its_own_and_leaves_the_rest() -> None:
    month, day = SegmentName(span(0, 30), 1), SegmentName(span(10, 11), 2)
    assert resolve(span(0, 30), [day, month]) == [
        Winner(span(0, 10), month),
        Winner(span(10, 11), day),
        Winner(span(11, 30), month),
    ]


def test_a_month_that_came_later_takes_the_days_within() -> None:
    month, day = SegmentName(span(0, 30), 2), SegmentName(span(10, 11), 1)
    assert resolve(span(0, 30), [day, month]) == [Winner(span(0, 30), month)]


def test_nothing_speaks_for_an_empty_span_and_none_of_no_segments() -> None:
    segment = SegmentName(span(0, 30), 1)
    assert resolve(span(5, 5), [segment]) == []
    assert resolve(span(0, 30), []) == []
    assert resolve(span(30, 31), [segment]) == []


@given(piles())
def test_a_segment_is_superseded_where_it_owns_no_minute(pile: list[SegmentName]) -> None:
    owner_of = owners(pile)
    expected = {}
    for segment in pile:
        in_its_place = [owner_of[minute] for minute in minutes_of(segment.span)]
        if segment not in in_its_place:
            expected[segment] = tuple(dict.fromkeys(owner for owner, _ in groupby(in_its_place)))
    assert superseded(pile) == expected


@given(minute_spans, piles())
def test_what_is_superseded_can_go_and_nothing_changes(wanted: Span, pile: list[SegmentName]) -> None:
    left = [segment for segment in pile if segment not in superseded(pile)]
    assert resolve(wanted, left) == resolve(wanted, pile)
    assert superseded(left) == {}

"""Which segment wins at each moment, against a dict of minutes."""

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


def winner_of_minute(pile: list[SegmentName]) -> dict[int, SegmentName]:
    """The segment that wins in each minute: a later revision replaces an earlier one."""
    found: dict[int, SegmentName] = {}
    for segment in sorted(pile, key=lambda segment: segment.revision):
        found |= dict.fromkeys(minutes_of(segment.span), segment)
    return found


def span(start: int, end: int) -> Span:
    return Span(start * MINUTE_MS, end * MINUTE_MS)


@given(minute_spans, piles())
@example(span(0, 40), [SegmentName(span(0, 10), 2), SegmentName(span(0, 10), 1)])
def test_in_each_minute_the_segment_with_the_highest_revision_wins(wanted: Span, pile: list[SegmentName]) -> None:
    expected = winner_of_minute(pile)
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


def test_segments_of_one_revision_resolve_the_same_in_any_order() -> None:
    pile = [SegmentName(span(0, 10), 1), SegmentName(span(5, 15), 1), SegmentName(span(5, 12), 1)]
    results = [resolve(span(0, 20), order) for order in permutations(pile)]
    assert all(result == results[0] for result in results)


@given(spans(0, LENGTH * MINUTE_MS), piles())
def test_a_span_that_starts_or_ends_within_a_minute_is_cut_there(wanted: Span, pile: list[SegmentName]) -> None:
    whole = resolve(span(0, LENGTH), pile)
    cut = [Winner(winner.span.intersection(wanted), winner.segment) for winner in whole]
    assert resolve(wanted, pile) == [winner for winner in cut if winner.span]


def test_a_later_day_within_a_month_wins_its_day_and_no_more() -> None:
    month, day = SegmentName(span(0, 30), 1), SegmentName(span(10, 11), 2)
    assert resolve(span(0, 30), [day, month]) == [
        Winner(span(0, 10), month),
        Winner(span(10, 11), day),
        Winner(span(11, 30), month),
    ]


def test_a_later_month_wins_over_the_days_within() -> None:
    month, day = SegmentName(span(0, 30), 2), SegmentName(span(10, 11), 1)
    assert resolve(span(0, 30), [day, month]) == [Winner(span(0, 30), month)]


def test_nothing_wins_in_an_empty_span_or_without_segments() -> None:
    segment = SegmentName(span(0, 30), 1)
    assert resolve(span(5, 5), [segment]) == []
    assert resolve(span(0, 30), []) == []
    assert resolve(span(30, 31), [segment]) == []


@given(piles())
def test_a_segment_that_wins_no_minute_is_superseded(pile: list[SegmentName]) -> None:
    winning = winner_of_minute(pile)
    expected = {}
    for segment in pile:
        instead = [winning[minute] for minute in minutes_of(segment.span)]
        if segment not in instead:
            expected[segment] = tuple(dict.fromkeys(segment for segment, _ in groupby(instead)))
    assert superseded(pile) == expected


@given(minute_spans, piles())
def test_removing_superseded_segments_changes_nothing(wanted: Span, pile: list[SegmentName]) -> None:
    left = [segment for segment in pile if segment not in superseded(pile)]
    assert resolve(wanted, left) == resolve(wanted, pile)
    assert superseded(left) == {}

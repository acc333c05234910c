"""Where archives begin and end: never inside what an archive may have."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from ckvd.acquisition.completion.extent import HeldPart, extent_of
from ckvd.acquisition.completion.shortfalls import explain_without_rest
from ckvd.model.calendar import Period
from ckvd.model.market import DAY_MS, HOUR_MS
from ckvd.model.provenance import Reason
from ckvd.model.timespan import Span, difference, parse_time

EPOCH = parse_time("2023-01-01")


def nothing_held(span: Span) -> HeldPart:
    return HeldPart((), (span,))


def periods(*labels: str) -> list[Period]:
    return [Period.of_label(label) for label in labels]


def test_without_an_archive_there_is_no_extent() -> None:
    assert extent_of([], nothing_held) is None


def test_archives_that_are_not_in_the_cache_may_have_bars_in_all_of_their_period() -> None:
    extent = extent_of(periods("2023-03", "2023-05", "2023-04-02", "2023-06-03"), nothing_held)
    assert extent is not None
    assert (extent.begin_ms, extent.end_ms) == (parse_time("2023-03-01"), parse_time("2023-06-04"))


def test_a_month_in_the_cache_begins_and_ends_with_its_bars() -> None:
    first_ms, last_ms = parse_time("2023-03-10T08:00") + 789, parse_time("2023-03-20T04:00")
    extent = extent_of(periods("2023-03"), lambda _: HeldPart((first_ms, last_ms), ()))
    assert extent is not None
    assert (extent.begin_ms, extent.end_ms) == (parse_time("2023-03-10T08:00"), last_ms + 1000)


def test_a_part_of_it_that_was_pruned_may_have_had_bars() -> None:
    bars = (parse_time("2023-03-10"), parse_time("2023-03-20"))
    pruned = (Span.of("2023-03-02", "2023-03-10"), Span.of("2023-03-25", "2023-03-27"))
    extent = extent_of(periods("2023-03"), lambda _: HeldPart(bars, pruned))
    assert extent is not None
    assert (extent.begin_ms, extent.end_ms) == (parse_time("2023-03-02"), parse_time("2023-03-27"))


def test_a_month_whose_bars_are_unavailable_may_have_them_anywhere() -> None:
    extent = extent_of(periods("2023-03"), lambda _: HeldPart((), ()))
    assert extent is not None
    assert (extent.begin_ms, extent.end_ms) == (parse_time("2023-03-01"), parse_time("2023-04-01"))


def test_the_end_is_one_only_when_the_next_archive_would_be_there() -> None:
    days = extent_of(periods("2023-03", "2023-04-10"), nothing_held)
    months = extent_of(periods("2023-03", "2023-02-10"), nothing_held)
    assert days is not None
    assert months is not None
    assert days.settled_ms == parse_time("2023-04-12T08:00") + 7 * DAY_MS
    # The month of April is published from Monday, 1 May on.
    assert months.settled_ms == parse_time("2023-05-01") + 14 * DAY_MS
    span = Span.of("2023-05-01", "2023-06-01")
    assert not days.after(span, days.settled_ms - 1)
    assert days.after(span, days.settled_ms) == span


labels = st.one_of(
    st.integers(1, 12).map(lambda month: f"2023-{month:02d}"),
    st.tuples(st.integers(1, 12), st.integers(1, 28)).map(lambda date: f"2023-{date[0]:02d}-{date[1]:02d}"),
)
hours = st.integers(-1000, 10_000).map(lambda hour: EPOCH + hour * HOUR_MS)
spans = st.tuples(hours, hours).map(lambda pair: Span(min(pair), max(pair) + HOUR_MS))


@given(st.sets(labels, min_size=1), st.sets(hours, max_size=20), st.lists(spans, max_size=3), spans, hours)
def test_no_bar_and_nothing_that_is_unknown_lies_outside(
    listed: set[str], bars: set[int], uncovered: list[Span], asked: Span, now_ms: int
) -> None:
    """Against a slow model: what archives may have, moment by moment."""
    archives = periods(*listed)

    def held_part(span: Span) -> HeldPart:
        inside = sorted(bar for bar in bars if bar in span)
        parts = sorted(part.intersection(span) for part in uncovered if part.overlaps(span))
        # What is not covered has no bar.
        inside = [bar for bar in inside if not any(bar in part for part in parts)]
        return HeldPart(tuple(inside[:1] + inside[-1:]), tuple(parts))

    extent = extent_of(archives, held_part)
    assert extent is not None
    absences = explain_without_rest(asked, now_ms, extent, is_listing_read=True)
    assert difference([asked], [absence.span for absence in absences]) == ()
    assert all(one.span.end_ms <= two.span.start_ms for one, two in pairwise(absences))
    for absence in absences:
        assert absence.recheck_ms > now_ms
        if absence.reason.is_answer:
            of_archives = [archive.span for archive in archives if archive.span.overlaps(absence.span)]
            for span in of_archives:
                held = held_part(span)
                assert not any(bar in absence.span for bar in held.opens_ms)
                assert not any(part.overlaps(absence.span) for part in held.uncovered)
        elif absence.reason is Reason.NOT_IN_ARCHIVE:
            is_before = absence.span.end_ms <= extent.begin_ms
            assert not is_before

"""Parsing and formatting times, and spans compared with sets of moments."""

from __future__ import annotations

import datetime as dt
import re
from decimal import Decimal

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from ckvd.errors import CkvdError, TimeError
from ckvd.model.timespan import Span, TimeLike, difference, format_time, is_relative, now_ms, parse_time, union
from support.models import DAY_MS, moments_of, ms, runs_of, utc
from support.strategies import moments, spans

NOON = ms(2024, 2, 29, 12)
CET = dt.timezone(dt.timedelta(hours=1))

# --- Times -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "value",
    [
        "2024-02-29T12:00Z",
        "2024-02-29T12:00:00.000Z",
        "2024-02-29T12:00:00+00:00",
        "2024-02-29T13:00+01:00",
        "2024-02-29 12:00",
        "20240229T120000Z",
        dt.datetime(2024, 2, 29, 12, tzinfo=dt.UTC),
        dt.datetime(2024, 2, 29, 13, tzinfo=CET),
        dt.datetime(2024, 2, 29, 12),  # noqa: DTZ001  (naive on purpose)
        np.datetime64("2024-02-29T12", "h"),
        np.datetime64("2024-02-29T12:00:00.000000000", "ns"),
        1_709_208_000_000,
        np.int64(1_709_208_000_000),
        np.uint64(1_709_208_000_000),
        1_709_208_000_000.0,
        np.float64(1_709_208_000_000),
    ],
)
def test_a_moment_is_parsed_in_every_form(value: TimeLike) -> None:
    assert parse_time(value) == NOON
    assert type(parse_time(value)) is int


@pytest.mark.parametrize(
    "value",
    ["2024-02-01", "2024-02", dt.date(2024, 2, 1), np.datetime64("2024-02-01"), np.datetime64("2024-02", "M")],
)
def test_a_date_and_a_month_mean_their_first_moment_in_utc(value: TimeLike) -> None:
    assert parse_time(value) == ms(2024, 2, 1)


@given(st.datetimes(dt.datetime(1970, 1, 1), dt.datetime(2199, 12, 31)))  # noqa: DTZ001  (naive on purpose)
def test_a_naive_time_means_utc_as_datetime_and_as_text(naive: dt.datetime) -> None:
    naive = naive.replace(microsecond=naive.microsecond // 1000 * 1000)
    expected = ms(*naive.timetuple()[:6]) + naive.microsecond // 1000
    assert parse_time(naive) == parse_time(naive.replace(tzinfo=dt.UTC)) == expected
    assert parse_time(naive.isoformat()) == expected


@given(moments(), st.integers(-14 * 60, 14 * 60))
def test_an_offset_from_utc_is_respected(moment_ms: int, minutes: int) -> None:
    local = utc(moment_ms).astimezone(dt.timezone(dt.timedelta(minutes=minutes)))
    assert parse_time(local) == parse_time(local.isoformat()) == moment_ms


def test_now_is_the_present() -> None:
    before = now_ms()
    assert before - 1000 < parse_time("now") <= now_ms()
    assert abs(before - dt.datetime.now(dt.UTC).timestamp() * 1000) < 10_000


@given(moments(), st.integers(0, 9_999_999), st.sampled_from("hdw"))
@example(ms(2024, 2, 29, 12), 30, "d")
@example(ms(1970, 1, 1), 0, "h")
@example(ms(1970, 1, 1), 1, "h")
def test_a_number_with_a_unit_is_so_long_before_the_present(present_ms: int, number: int, unit: str) -> None:
    names = {"h": "hours", "d": "days", "w": "weeks"}
    try:
        expected = utc(present_ms) - dt.timedelta(**{names[unit]: number})
    except OverflowError:
        expected = utc(0) - dt.timedelta(1)
    if expected < utc(0):
        with pytest.raises(TimeError, match="lies outside the years 1970 to 2200"):
            parse_time(f"{number}{unit}", present_ms=present_ms)
    else:
        found = utc(parse_time(f"{number}{unit}", present_ms=present_ms))
        assert found == expected.replace(microsecond=0)


@given(moments())
def test_today_and_yesterday_begin_at_midnight_in_utc(present_ms: int) -> None:
    today = utc(present_ms).replace(hour=0, minute=0, second=0, microsecond=0)
    assert utc(parse_time("now", present_ms=present_ms)) == utc(present_ms).replace(microsecond=0)
    assert utc(parse_time("today", present_ms=present_ms)) == today
    if present_ms >= DAY_MS:
        assert utc(parse_time("yesterday", present_ms=present_ms)) == today - dt.timedelta(days=1)


def test_a_time_before_now_follows_the_clock() -> None:
    before = now_ms()
    assert before - DAY_MS - 1000 < parse_time("1d") <= now_ms() - DAY_MS
    span = Span.of("1d", "now")
    assert span.length_ms == DAY_MS
    assert before - 1000 < span.end_ms <= now_ms()
    # Segments can be cut there.
    assert span.start_ms % 1000 == 0


@given(moments())
def test_only_text_that_is_relative_to_the_present_depends_on_it(moment_ms: int) -> None:
    text = format_time(moment_ms)
    assert not is_relative(text)
    assert parse_time(text, present_ms=0) == moment_ms
    for relative in ("now", "today", "yesterday", "12h", "30d", "2w"):
        assert is_relative(relative)


FINER = [
    "2024-01-01T00:00:00.0001Z",
    "2024-01-01T00:00:00.000001",
    dt.datetime(2024, 1, 1, 0, 0, 0, 1, tzinfo=dt.UTC),
    np.datetime64("2024-01-01T00:00:00.000001", "us"),
    np.datetime64("2024-01-01T00:00:00.000000001", "ns"),
]


@pytest.mark.parametrize("value", FINER)
def test_a_time_finer_than_a_millisecond_is_refused_and_not_rounded(value: TimeLike) -> None:
    with pytest.raises(TimeError, match="finer than a millisecond"):
        parse_time(value)


@pytest.mark.parametrize("value", ["2024-01-01T00:00:00.0000001", "2024-01-01T00:00:00.001000000001Z"])
def test_a_text_finer_than_a_microsecond_is_refused_and_not_rounded(value: str) -> None:
    with pytest.raises(TimeError):
        parse_time(value)


@pytest.mark.parametrize(
    "value",
    [
        "",
        "tomorrow",
        "YESTERDAY",
        "NOW",
        "30D",
        "-1d",
        "+1d",
        "1.5d",
        "d",
        "1 d",
        "30d ago",
        "1m",
        "1y",
        "1M",
        "1mo",
        "99999999h",
        "\N{FULLWIDTH DIGIT TWO}d",
        "1d12h",
        " 2024-01-01",
        "2024-13",
        "2024-02-30",
        "2024-1-1",
        "24-01-01",
        "2024-01-01T25:00",
        "2024-02-29T12:00+99:00",
        "1709208000000",
        "\N{FULLWIDTH DIGIT TWO}024-02",
    ],
)
def test_text_that_is_no_time_is_refused_with_an_example(value: str) -> None:
    with pytest.raises(TimeError, match="is no time: expected an ISO date or time such as 2024-01-31"):
        parse_time(value)


@pytest.mark.parametrize(
    "value",
    [
        None,
        True,
        False,
        np.True_,
        float("nan"),
        float("inf"),
        float("-inf"),
        np.float64("nan"),
        np.float32(1_709_208_000_000),
        Decimal(1_709_208_000_000),
        dt.time(12),
        np.timedelta64(1_709_208_000_000, "ms"),
        np.datetime64("NaT", "ms"),
        b"now",
        [1_709_208_000_000],
        1j,
    ],
)
def test_other_types_are_refused(value: object) -> None:
    with pytest.raises(TimeError, match="is no time"):
        parse_time(value)  # type: ignore[arg-type]


def test_times_of_pandas_are_parsed_and_nat_is_refused() -> None:
    pandas = pytest.importorskip("pandas")
    assert parse_time(pandas.Timestamp("2024-02-29T21:00", tz="Asia/Tokyo")) == NOON
    with pytest.raises(TimeError, match="NaT is no time: expected an ISO date"):
        parse_time(pandas.NaT)
    with pytest.raises(TimeError, match="finer than a millisecond"):
        parse_time(pandas.Timestamp(NOON * 1_000_000 + 1))


@pytest.mark.parametrize(
    "value",
    [
        -1,
        -1.0,
        -(10**12),
        -(10**30),
        ms(2200, 1, 1) + 1,
        float(ms(2200, 1, 1) + 1),
        10**13,
        10**30,
        "1969-12-31",
        dt.date(1, 1, 1),
        dt.date.max,
        dt.datetime(1, 1, 1, tzinfo=dt.UTC),
        dt.datetime(9999, 12, 31, 23, 59, 59, tzinfo=CET),
        np.datetime64("1969-12-31"),
        np.datetime64("2300-01-01"),
    ],
)
def test_a_time_outside_the_years_is_refused_as_a_wrong_unit(value: TimeLike) -> None:
    with pytest.raises(TimeError, match="outside the years 1970 to 2200: integers are milliseconds"):
        parse_time(value)


SECONDS = [
    1,
    1_709_208_000,
    10**11 - 1,
    1_709_208_000.0,
    1_709_208_000.25,
    0.5,
    np.int32(1_709_208_000),
    np.int64(1_709_208_000),
    np.float64(1_709_208_000.25),
    dt.datetime(2024, 2, 29, 12, tzinfo=dt.UTC).timestamp(),
]


@pytest.mark.parametrize("value", SECONDS)
def test_a_number_below_ten_to_the_eleventh_is_refused_as_seconds(value: TimeLike) -> None:
    with pytest.raises(TimeError, match=r"these look like seconds; .* multiply by 1000") as caught:
        parse_time(value)
    assert "\n" not in str(caught.value)
    with pytest.raises(TimeError, match="these look like seconds"):
        Span.of("2024-01-01", value)
    with pytest.raises(TimeError, match="these look like seconds"):
        Span.of(value, "2024-01-01")


@given(st.integers(1, 10**11 - 1))
def test_no_number_of_seconds_is_taken_for_a_time(seconds: int) -> None:
    for value in (seconds, np.int64(seconds), float(seconds), np.float64(seconds)):
        with pytest.raises(TimeError, match="these look like seconds"):
            parse_time(value)


@given(st.integers(10**11, ms(2200, 1, 1)))
def test_every_later_number_is_milliseconds_whatever_its_type(moment_ms: int) -> None:
    values: list[TimeLike] = [
        moment_ms,
        float(moment_ms),
        np.int64(moment_ms),
        np.uint64(moment_ms),
        np.float64(moment_ms),
        np.longdouble(moment_ms),
    ]
    assert {parse_time(value) for value in values} == {moment_ms}


@pytest.mark.parametrize("zero", [0, 0.0, -0.0, np.int64(0), np.float64(0), np.datetime64(0, "s")])
def test_zero_is_the_earliest_time_in_every_unit(zero: TimeLike) -> None:
    assert parse_time(zero) == 0


def test_a_date_as_a_number_is_refused_with_its_text() -> None:
    with pytest.raises(TimeError, match=r"these look like seconds; .* write the date as text: '2024-02-29'"):
        parse_time(20240229)
    assert parse_time("20240229") == parse_time("2024-02-29")
    with pytest.raises(TimeError, match=r"multiply by 1000$"):
        parse_time(20240230)


@pytest.mark.parametrize(
    ("value", "unit"),
    [
        (NOON * 1000, "microseconds"),
        (NOON * 1000 + 999, "microseconds"),
        (float(NOON * 1000), "microseconds"),
        (10**14, "microseconds"),
        (NOON * 1_000_000, "nanoseconds"),
        (np.int64(NOON * 1_000_000), "nanoseconds"),
    ],
)
def test_a_number_in_a_finer_unit_is_refused_by_its_name(value: TimeLike, unit: str) -> None:
    divisor = {"microseconds": 1000, "nanoseconds": 1_000_000}[unit]
    with pytest.raises(TimeError, match=rf"these look like {unit}; .* divide by {divisor} "):
        parse_time(value)


@pytest.mark.parametrize("value", [NOON + 0.5, np.float64(NOON + 0.25)])
def test_a_fraction_of_a_millisecond_is_refused(value: TimeLike) -> None:
    with pytest.raises(TimeError, match="finer than a millisecond: round it first"):
        parse_time(value)


@pytest.mark.parametrize("unit", ["h", "m", "s", "ms", "us", "ns", "ps"])
def test_a_datetime64_is_the_same_moment_in_each_of_its_units(unit: str) -> None:
    hour = np.datetime64("1970-03-01T12", "h")
    assert parse_time(hour.astype(f"datetime64[{unit}]")) == ms(1970, 3, 1, 12)


@pytest.mark.parametrize(("unit", "expected"), [("Y", "2024-01-01"), ("M", "2024-02-01"), ("W", "2024-02-29")])
def test_a_datetime64_of_a_long_unit_is_its_start(unit: str, expected: str) -> None:
    assert parse_time(np.datetime64("2024-02-29").astype(f"datetime64[{unit}]")) == parse_time(expected)


@pytest.mark.parametrize(
    ("text", "meaning"),
    [
        ("1709208000", "these look like seconds, of 2024-02-29T12:00Z"),
        ("1709208000000", "these look like milliseconds, of 2024-02-29T12:00Z"),
        ("1709208000000000", "these look like microseconds, of 2024-02-29T12:00Z"),
        ("1709208000000000000", "these look like nanoseconds, of 2024-02-29T12:00Z"),
        # Python reads these as a date, any character, and an hour with its minutes.
        ("2001011200000", "these look like milliseconds, of 2033-05-29T20:26:40Z"),
        ("1612011200000", "these look like milliseconds, of 2021-01-30T12:53:20Z"),
    ],
)
def test_text_of_digits_is_refused_with_the_time_that_was_meant(text: str, meaning: str) -> None:
    with pytest.raises(TimeError, match=f"{text}' is no time: expected an ISO date or time .*; {meaning}$"):
        parse_time(text)
    (meant,) = re.findall(r"of (\S+)$", meaning)
    assert str(parse_time(meant)).startswith(text.rstrip("0"))


@given(st.from_regex(r"[0-9]{9,22}", fullmatch=True))
@example("00010110000000000000")
@example("2" * 5000)
def test_no_digits_but_those_of_a_date_are_a_time(text: str) -> None:
    with pytest.raises(TimeError, match="is no time: expected an ISO date"):
        parse_time(text)


@pytest.mark.parametrize("value", [np.datetime64(2**62, "s"), np.datetime64(2**62, "D")])
def test_a_datetime64_beyond_what_milliseconds_can_hold_is_refused(value: np.datetime64) -> None:
    with pytest.raises(TimeError):
        parse_time(value)


def test_the_first_and_the_last_moment_are_accepted() -> None:
    assert parse_time(0) == parse_time("1970-01-01") == 0
    assert parse_time("2200-01-01") == ms(2200, 1, 1)


@given(moments(0, ms(2200, 1, 1)))
def test_a_formatted_time_is_parsed_as_the_same_moment(moment_ms: int) -> None:
    assert parse_time(format_time(moment_ms)) == moment_ms


@pytest.mark.parametrize(
    ("moment_ms", "text"),
    [
        (0, "1970-01-01"),
        (ms(2024, 2, 29), "2024-02-29"),
        (ms(2024, 2, 29, 12), "2024-02-29T12:00Z"),
        (ms(2024, 2, 29, 12, 0, 5), "2024-02-29T12:00:05Z"),
        (ms(2024, 2, 29, 12, 0, 5) + 7, "2024-02-29T12:00:05.007Z"),
        (ms(2024, 2, 29) + 7, "2024-02-29T00:00:00.007Z"),
    ],
)
def test_a_time_is_formatted_as_short_as_possible(moment_ms: int, text: str) -> None:
    assert format_time(moment_ms) == text


# --- Spans -------------------------------------------------------------------------------------------------

small_spans = spans(0, 40)
span_lists = st.lists(small_spans, max_size=8)


def test_a_span_contains_its_start_and_not_its_end() -> None:
    span = Span.of("2024-01-01", "2024-01-02")
    assert span.start_ms in span
    assert span.end_ms - 1 in span
    assert span.end_ms not in span
    assert span.start_ms - 1 not in span
    assert span.length_ms == DAY_MS
    assert str(span) == "2024-01-01..2024-01-02"


def test_a_span_that_ends_before_it_starts_is_refused() -> None:
    with pytest.raises(TimeError, match="span ends before it starts: 2024-01-02 to 2024-01-01"):
        Span.of("2024-01-02", "2024-01-01")
    assert issubclass(TimeError, ValueError)
    assert issubclass(TimeError, CkvdError)


@given(small_spans, small_spans)
def test_two_spans_overlap_as_their_sets_of_moments_do(one: Span, other: Span) -> None:
    mine, theirs = moments_of([one]), moments_of([other])
    assert moments_of([one.intersection(other)]) == mine & theirs
    assert one.overlaps(other) == other.overlaps(one) == bool(mine & theirs)
    assert bool(one) == bool(mine)
    assert one.length_ms == len(mine)
    if theirs:
        assert one.covers(other) == (theirs <= mine)
    assert all((moment in one) == (moment in mine) for moment in range(-1, 42))


@given(span_lists)
def test_the_union_of_spans_is_the_union_of_sets_as_disjoint_runs_in_order(some: list[Span]) -> None:
    assert union(some) == runs_of(moments_of(some))


@given(span_lists, span_lists)
@example([Span(0, 10), Span(10, 20)], [Span(5, 5), Span(5, 15)])
def test_the_difference_of_spans_is_the_difference_of_sets_as_disjoint_runs_in_order(
    some: list[Span], removed: list[Span]
) -> None:
    # Adjacent spans of `some` are one run of moments.
    assert difference(some, removed) == runs_of(moments_of(some) - moments_of(removed))


@given(span_lists)
def test_spans_without_themselves_are_empty_and_without_nothing_are_all_of_them(some: list[Span]) -> None:
    assert difference(some, some) == ()
    assert difference(some, []) == union(some)

"""Dates in the headers of responses."""

from __future__ import annotations

import datetime as dt

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ckvd.network.response import Head, Response, parse_http_date

NOON = dt.datetime(2024, 6, 1, 12, tzinfo=dt.UTC)


@pytest.mark.parametrize(
    ("headers", "date"),
    [
        ({"date": "Sat, 01 Jun 2024 12:00:00 GMT"}, NOON),
        ({"date": "Sat, 01 Jun 2024 12:00:00 -0000"}, NOON),
        ({"date": "Sat, 01 Jun 2024 14:00:00 +0200"}, NOON),
        ({"date": "soon"}, None),
        ({}, None),
    ],
)
def test_dates_are_read_in_every_form_and_refused_quietly(
    headers: dict[str, str], date: dt.datetime | None
) -> None:
    for response in (Head("http://host/x", 200, headers), Response("http://host/x", 200, headers, b"")):
        assert response.date == date
        assert date is None or response.date.tzinfo is dt.UTC  # type: ignore[union-attr]


@given(st.text() | st.integers().map(lambda zone: f"Fri, 02 Jan 2026 03:05:05 +{zone:04}"))
def test_any_text_is_a_date_or_none(text: str) -> None:
    date = parse_http_date(text)
    assert date is None or date.tzinfo is dt.UTC

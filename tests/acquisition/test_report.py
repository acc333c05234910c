"""A report says what was unusual about each archive."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from ckvd.acquisition.report import ArchiveReport, Outcome
from ckvd.errors import ArchiveError
from ckvd.model.calendar import Period
from ckvd.model.market import SeriesKey
from ckvd.model.provenance import Origin, Source

SERIES = SeriesKey.of("BTCUSDT", "1h")
MONTH = Period.of_label("2023-01")
USUAL = Source(
    Origin.VISION_MONTHLY,
    "a.zip",
    MONTH.span.start_ms,
    MONTH.span.end_ms,
    is_checksum_published=True,
    row_count=744,
)


@pytest.mark.parametrize(
    ("unusual", "notes"),
    [
        ({}, ()),
        ({"is_checksum_published": False}, ("no CHECKSUM is published, so its bytes are not confirmed",)),
        ({"duplicate_row_count": 62}, ("62 duplicate rows collapsed",)),
        ({"conflict_count": 2}, ("2 open times stand in different rows; the later row was kept",)),
        ({"unordered_row_count": 3}, ("3 rows were out of order and sorted",)),
        (
            {"outside_row_count": 4, "outside_open_times": (MONTH.span.end_ms, 0, 1000, 2000)},
            ("4 rows outside of its period left out, 2023-02-01, 1970-01-01, 1970-01-01T00:00:01Z ...",),
        ),
        (
            {"impossible_count": 1, "impossible_open_times": (MONTH.start_ms,)},
            ("1 bar that no market can make kept as published, 2023-01-01",),
        ),
        (
            {"duplicate_row_count": 1, "unordered_row_count": 1},
            ("1 duplicate rows collapsed", "1 rows were out of order and sorted"),
        ),
    ],
)
def test_what_was_unusual_is_a_note(unusual: dict[str, Any], notes: tuple[str, ...]) -> None:
    report = ArchiveReport(SERIES, MONTH, Outcome.STORED, source=replace(USUAL, **unusual))
    assert report.notes == notes


def test_the_note_of_a_failed_archive_is_its_error() -> None:
    error = ArchiveError("a.zip", "it is no ZIP")
    assert ArchiveReport(SERIES, MONTH, Outcome.FAILED, error=error).notes == ("a.zip: it is no ZIP",)


def test_an_archive_that_the_source_lacks_has_no_note() -> None:
    assert ArchiveReport(SERIES, MONTH, Outcome.ABSENT).notes == ()

"""Archives that are decoded together give the same as each of them alone."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ckvd.acquisition.ingest import expected_of
from ckvd.decode.batch import decode_archives
from ckvd.decode.decode import DecodedRows, decode_archive
from ckvd.errors import ArchiveError
from ckvd.model.calendar import Period
from ckvd.model.market import SeriesKey
from ckvd.vision.name import ArchiveName
from support.places import SAMPLES
from support.venue import zip_of

if TYPE_CHECKING:
    from collections.abc import Sequence

PATHS = sorted(path.relative_to(SAMPLES).as_posix() for path in SAMPLES.rglob("*/*lines/**/*.zip"))
DAY = SeriesKey.of("BTCUSDT", "1h")
GOOD = ("1672531200000", "1", "2", "0.5", "1.5", "8", "1672534799999", "9", "5", "6", "7", "0")


def name_of(path: str) -> ArchiveName:
    name = ArchiveName.of_path(path)
    assert name is not None
    return name


def alone(content: bytes, name: ArchiveName) -> DecodedRows | ArchiveError:
    try:
        return decode_archive(content, expected_of(name))
    except ArchiveError as error:
        return error


def assert_same(together: DecodedRows | ArchiveError, single: DecodedRows | ArchiveError) -> None:
    if isinstance(single, ArchiveError):
        assert str(together) == str(single)
        return
    assert isinstance(together, DecodedRows)
    assert together.table.series == single.table.series
    assert list(together.table.columns) == list(single.table.columns)
    for name, column in single.table.columns.items():
        assert together.table.columns[name].tobytes() == column.tobytes(), name
    for name in ("row_count", "duplicate_row_count", "unordered_row_count", "has_header", "time_unit"):
        assert getattr(together, name) == getattr(single, name), name
    for name in ("conflict_open_times", "outside_open_times", "impossible_open_times"):
        assert getattr(together, name).tolist() == getattr(single, name).tolist(), name


@settings(max_examples=25, deadline=None)
@given(st.lists(st.sampled_from([path for path in PATHS if "-1s-" not in path]), min_size=1, max_size=6))
def test_samples_of_any_format_decode_alike_together_and_alone(paths: list[str]) -> None:
    contents = [(SAMPLES / path).read_bytes() for path in paths]
    names = [name_of(path) for path in paths]
    for found, content, name in zip(
        decode_archives(contents, [expected_of(name) for name in names]), contents, names, strict=True
    ):
        assert_same(found, alone(content, name))


@pytest.mark.parametrize(
    "spoiled",
    [
        [("1672531200000", "1", "2")],
        [("1672531200000", "nan", *GOOD[2:])],
        [("1672617600000", *GOOD[1:])],
        [GOOD, GOOD, (GOOD[0], "9", *GOOD[2:])],
        [],
        [("",), GOOD],
        [(GOOD[0], "1", "0.25", *GOOD[3:])],
        [(*GOOD[:6], "1640995200000000", *GOOD[7:])],
        [GOOD, (str(int(GOOD[0]) + 86_400_000), *GOOD[1:])],
        [(*GOOD[:6], str(int(GOOD[0]) + 1_799_999), *GOOD[7:])],
    ],
    ids=[
        "ragged", "no number", "mostly outside", "duplicates and conflicts", "empty", "blank line", "impossible",
        "impossible in two units", "outside", "another interval",
    ],
)  # fmt: skip
def test_a_refused_archive_does_not_affect_the_others(spoiled: Sequence[tuple[str, ...]]) -> None:
    days = [ArchiveName(DAY, Period.of_label(f"2023-01-0{day}")) for day in (1, 2)]
    later = (str(int(GOOD[0]) + 86_400_000), *GOOD[1:6], str(int(GOOD[6]) + 86_400_000), *GOOD[7:])
    contents = [zip_of(spoiled, days[0].file_name), zip_of([later], days[1].file_name)]
    first, second = decode_archives(contents, [expected_of(day) for day in days])
    assert_same(first, alone(contents[0], days[0]))
    assert_same(second, alone(contents[1], days[1]))
    assert isinstance(second, DecodedRows)


def test_a_file_that_is_no_zip_is_refused_alone() -> None:
    days = [ArchiveName(DAY, Period.of_label(f"2023-01-0{day}")) for day in (1, 2)]
    found = decode_archives(
        [b"no zip", zip_of([GOOD], days[0].file_name)], [expected_of(days[1]), expected_of(days[0])]
    )
    assert isinstance(found[0], ArchiveError)
    assert isinstance(found[1], DecodedRows)

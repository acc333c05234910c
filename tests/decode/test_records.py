"""Archives of funding rates and metrics: every cell, and no row known before its time."""

from __future__ import annotations

import datetime as dt
import itertools
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ckvd.decode.decode import Expected, decode_archive
from ckvd.decode.records import labels_of, read_records
from ckvd.errors import ArchiveError
from ckvd.model.calendar import Period
from ckvd.model.market import Market, SeriesKey
from ckvd.model.provenance import Labels
from ckvd.model.schema import FUNDING as FUNDING_SCHEMA
from ckvd.model.schema import METRICS as METRICS_SCHEMA
from ckvd.model.table import Decimals
from ckvd.model.timespan import Span
from support.archives import zip_text
from support.places import SHARED_DATA
from support.records import (
    FIVE,
    FUNDING,
    FUNDING_HEADER,
    HOUR,
    METRICS,
    METRICS_HEADER,
    five_minutes,
    ms_of,
    number,
    read_text,
    real_rows,
    start_of,
    text_of,
)
from support.tables import same_bits

MONTH = Span.of("2024-02-01", "2024-03-01")
DAY = Span.of("2024-03-01", "2024-03-02")
FIRST = start_of("2024-03-01") // FIVE


def decode(lines: list[str], series: SeriesKey, span: Span) -> Any:
    return decode_archive(zip_text("made.zip", lines), Expected(series, span, "made.zip"))


def decimals_in(texts: list[str]) -> Decimals | None:
    """How many digits the cells of a column have after the point."""
    counts = [len(text.partition(".")[2]) for text in texts if text]
    return Decimals(min(counts), max(counts)) if counts else None


numbers = st.from_regex(r"-?[0-9]{1,12}(\.[0-9]{1,16})?", fullmatch=True)


# --- Funding rates -----------------------------------------------------------------------------------------


@st.composite
def settlement_rows(draw: st.DrawFn) -> list[str]:
    """Rows of a month, some of them equal or of one time or of another month, in any order."""
    count = draw(st.integers(0, 8))
    times = [draw(st.integers(MONTH.start_ms // HOUR, MONTH.end_ms // HOUR - 1)) * HOUR for _ in range(count)]
    rows = [
        f"{time + draw(st.integers(0, 31))},{draw(st.sampled_from((8, 4, 1)))},{draw(numbers)}" for time in times
    ]
    if count > 2:
        rows.append(f"{draw(st.sampled_from((MONTH.start_ms - 1, MONTH.end_ms)))},8,0.0001")
    return draw(st.permutations(rows + rows[: draw(st.integers(0, 2))]))


@given(rows=settlement_rows(), has_header=st.booleans(), end=st.sampled_from(("\n", "\r\n")))
def test_every_settlement_is_what_its_line_says(rows: list[str], has_header: bool, end: str) -> None:
    lines = [FUNDING_HEADER] * has_header + [row + end for row in rows]
    decoded = decode(lines, FUNDING, MONTH)
    read = read_text("".join(lines))
    inside = [row for row in read if int(row[0]) in MONTH]
    # Of rows with one time, the last counts.
    last = dict(sorted({int(time): (int(hours), rate) for time, hours, rate in inside}.items()))
    columns = decoded.table.columns
    assert tuple(columns) == FUNDING_SCHEMA.columns
    assert columns["open_time"].tolist() == list(last)
    assert columns["interval_hours"].tolist() == [hours for hours, _ in last.values()]
    assert same_bits(columns["rate"], np.array([float(rate) for _, rate in last.values()], np.float64))
    assert np.isnan(columns["mark_price"]).all()
    assert decoded.table.decimals.get("rate") == decimals_in([rate for *_, rate in read])
    assert (decoded.row_count, decoded.has_header) == (len(read), has_header)
    assert decoded.outside_open_times.tolist() == [int(row[0]) for row in read if int(row[0]) not in MONTH]


# --- Metrics -----------------------------------------------------------------------------------------------


@st.composite
def metrics_rows(draw: st.DrawFn) -> list[str]:
    """Some rows of a day, labelled by starts or ends, with blank cells, in any order, some of them twice."""
    shift = draw(st.sampled_from((0, FIVE)))
    places = draw(st.lists(st.integers(0, 287), max_size=12, unique=True))
    cell = st.one_of(st.just('""'), st.just(""), numbers)
    rows = [
        f"{text_of(DAY.start_ms + place * FIVE + shift)},BTCUSDT,{','.join(draw(cell) for _ in range(6))}"
        for place in places
    ]
    return draw(st.permutations(rows + rows[:1]))


@given(rows=metrics_rows(), has_header=st.booleans())
def test_every_cell_of_metrics_is_what_its_line_says(rows: list[str], has_header: bool) -> None:
    lines = [METRICS_HEADER] * has_header + [row + "\n" for row in rows]
    decoded = decode(lines, METRICS, DAY)
    read = read_text("".join(lines))
    labels = [ms_of(row[0]) for row in read]
    is_of_ends = DAY.end_ms in labels and DAY.start_ms not in labels
    cells = {
        label - FIVE * is_of_ends: (label, *map(number, row[2:])) for label, row in zip(labels, read, strict=True)
    }
    expected = dict(sorted((time, row) for time, row in cells.items() if time in DAY))
    columns = decoded.table.columns
    assert tuple(columns) == METRICS_SCHEMA.columns
    assert columns["open_time"].tolist() == list(expected)
    for place, name in enumerate(METRICS_SCHEMA.columns[1:]):
        texts = [row[place] for row in expected.values()]
        assert same_bits(columns[name], np.array(texts, columns[name].dtype)), name
    for place, name in enumerate(METRICS_SCHEMA.columns[2:], start=2):
        assert decoded.table.decimals.get(name) == decimals_in([row[place] for row in read]), name
    assert decoded.duplicate_row_count == len(read) - len(set(map(tuple, read)))


@given(
    labels=st.sampled_from(("start", "end")),
    without=st.lists(st.one_of(st.integers(0, 287), st.sampled_from((0, 1, 286, 287))), max_size=280, unique=True),
    data=st.data(),
)
def test_no_row_of_metrics_is_known_before_its_five_minutes_are_over(
    labels: str, without: list[int], data: st.DataObject
) -> None:
    rows = five_minutes("2024-03-01", labels, without=without)
    if not rows:
        return
    start = data.draw(st.integers(0, len(rows) - 1))
    decoded = decode([METRICS_HEADER, *rows[start:], *rows[:start]], METRICS, DAY)
    columns = decoded.table.columns
    # Each row says which five minutes it describes.
    described = (columns["open_interest"] - 1000.25).astype(np.int64) * FIVE
    known = columns["open_time"] + FIVE
    assert (known >= described + FIVE).all()
    assert (known >= columns["create_time"]).all()
    # Where the file shows what its labels mean, rows lie exactly where they belong, and none is lost.
    edge = 287 if labels == "end" else 0
    if edge not in without:
        assert decoded.labels == labels
        assert columns["open_time"].tolist() == described.tolist()
        assert len(described) == len(rows)
    else:
        assert decoded.labels is Labels.UNCLEAR


def test_a_file_shows_what_its_labels_mean_by_the_midnight_that_it_reaches() -> None:
    midnight, after = DAY.start_ms, DAY.end_ms
    assert labels_of([midnight, midnight + FIVE], DAY) is Labels.START
    assert labels_of([midnight + FIVE, after], DAY) is Labels.END
    assert labels_of([midnight + FIVE], DAY) is Labels.UNCLEAR
    assert labels_of([midnight, after], DAY) is Labels.UNCLEAR


# --- Refusals ----------------------------------------------------------------------------------------------

GOOD = {FUNDING: "1706745600000,8,0.0001", METRICS: "2024-03-01 00:05:00,BTCUSDT,1,2,3,4,5,6"}
BAD = {
    FUNDING: (
        ("1706745600000,8", "expected 3 fields, found 2"),
        ("1706745600000,8,0.0001,", "expected 3 fields, found 4"),
        ("1706745600000,0,0.0001", "funding_interval_hours: expected 1 to 24, found '0'"),
        ("1706745600000,25,0.0001", "funding_interval_hours"),
        ("1706745600000,8.0,0.0001", "funding_interval_hours"),
        ("1706745600000,8,", "last_funding_rate"),
        ("1706745600000,8,nan", "last_funding_rate"),
        ("1706745600.5,8,0.0001", "calc_time"),
        ("1706745600,8,0.0001", "expected a time within"),
        ("", "expected 3 fields, found 1"),
    ),
    METRICS: (
        ("2024-03-01 00:05:00,ETHUSDT,1,2,3,4,5,6", "symbol: expected 'BTCUSDT', found 'ETHUSDT'"),
        ("2024-03-01T00:05:00,BTCUSDT,1,2,3,4,5,6", "create_time: expected a time such as"),
        ("2024-02-30 00:05:00,BTCUSDT,1,2,3,4,5,6", "create_time"),
        ("2024-03-01 00:05:00,BTCUSDT,1,2,3,4,5", "expected 8 fields, found 7"),
        ("2024-03-01 00:05:00,BTCUSDT,1,2,3,4,5,inf", "sum_taker_long_short_vol_ratio"),
        ("2024-03-01 00:05:00,BTCUSDT,1,2,3,4,5,'", "sum_taker_long_short_vol_ratio"),
        ("1709251500000,BTCUSDT,1,2,3,4,5,6", "create_time"),
    ),
}
CASES = [(series, line, reason) for series, lines in BAD.items() for line, reason in lines]


@pytest.mark.parametrize(("series", "line", "reason"), CASES, ids=[case[1] for case in CASES])
def test_a_line_that_cannot_be_read_refuses_the_archive_and_is_named(
    series: SeriesKey, line: str, reason: str
) -> None:
    span = MONTH if series is FUNDING else DAY
    header = FUNDING_HEADER if series is FUNDING else METRICS_HEADER
    with pytest.raises(ArchiveError, match="line 3") as caught:
        decode([header, GOOD[series] + "\n", line + "\n", GOOD[series] + "\n"], series, span)
    assert reason in str(caught.value)


def test_a_header_of_other_columns_refuses_the_archive() -> None:
    other = METRICS_HEADER.replace("sum_open_interest,", "open_interest,")
    with pytest.raises(ArchiveError, match="its header is"):
        decode([other, GOOD[METRICS] + "\n"], METRICS, DAY)


def test_the_rows_of_another_month_refuse_the_archive() -> None:
    with pytest.raises(ArchiveError, match="another archive under this name"):
        decode([FUNDING_HEADER, GOOD[FUNDING] + "\n"], FUNDING, Span.of("2024-03-01", "2024-04-01"))


@pytest.mark.skipif(not SHARED_DATA.exists(), reason="the real data do not lie beside the repository")
@pytest.mark.parametrize("kind", ["fundingRate", "metrics"])
def test_real_rows_are_read_cell_by_cell(kind: str) -> None:
    archives = real_rows(kind)
    assert archives
    for (series, label), text in archives.items():
        found = read_records(text.encode(), series, Period.of_label(label).span, label)
        read = read_text(text)
        skipped = 2 if kind == "metrics" else 0
        names = list(found.columns)[skipped:] if kind == "metrics" else list(found.columns)[:3]
        for name, texts in zip(names, itertools.islice(zip(*read, strict=True), skipped, None), strict=True):
            expected = np.array([number(cell) for cell in texts], found.columns[name].dtype)
            assert same_bits(found.columns[name], expected), (series, name)
        if kind == "metrics":
            moments = [dt.datetime.fromisoformat(row[0]).replace(tzinfo=dt.UTC).timestamp() * 1000 for row in read]
            assert found.columns["create_time"].tolist() == moments
            assert any(map(math.isnan, found.columns["count_long_short_ratio"])) == (series.market is Market.CM)

"""Parsing rows in blocks gives the same as parsing line by line, bit for bit, and refuses the same."""

from __future__ import annotations

import contextlib
import sys
import tracemalloc
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from ckvd.decode import rows as rows_module
from ckvd.decode.rows import ParsedTexts, RawRows, RowParser, parse_decimal, parse_integer, parse_line, parse_rows
from ckvd.errors import ArchiveError
from ckvd.model.schema import FIELD_COUNT, FLOAT_FIELDS, INTEGER_FIELDS
from ckvd.model.table import Decimals
from ckvd.utils.config import ARCHIVE_LINE_NBYTES_MAX

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

HEADER = (
    "open_time,open,high,low,close,volume,close_time,quote_volume,count,"
    "taker_buy_volume,taker_buy_quote_volume,ignore\n"
)
ROW = "1700000000000,10.50,12.00,9.75,11.25,3.125,1700000059999,35.15625,42,1.5,16.875,0"


@pytest.fixture(autouse=True)
def _blocks_of_any_size(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make blocks so small that examples have several, and parse even the smallest ones as blocks."""
    monkeypatch.setattr(rows_module, "_BLOCK_ROWS_MIN", 0)
    monkeypatch.setattr(rows_module, "_BLOCK_ROWS", 4)


def outcome_by_line(csv: bytes) -> list[list[int | float]] | tuple[int, str]:
    """The reference: line by line, without the header and a blank last line."""
    lines = csv.split(b"\n")
    if lines[-1] == b"":
        lines.pop()
    if lines and lines[-1] in (b"", b"\r"):
        lines.pop()
    first = 1 if csv[:1].isalpha() else 0
    rows = []
    for number, line in enumerate(lines[first:], first + 1):
        try:
            rows.append(parse_line(line)[0])
        except ValueError as error:
            return number, str(error)
    return rows


def outcome(csv: bytes) -> RawRows | tuple[int | None, str]:
    try:
        return parse_rows(csv, "a.zip")
    except ArchiveError as error:
        return error.row, error.reason


def assert_as_by_line(csv: bytes) -> RawRows | None:
    """Assert that any bytes give the same cells as line by line, or the same refusal of the same line."""
    found = outcome(csv)
    if csv[:1].isalpha() and csv.partition(b"\n")[0].count(b",") != FIELD_COUNT - 1:
        assert isinstance(found, tuple)
        assert found[0] == 1
        assert "its header has" in found[1]
        return None
    expected = outcome_by_line(csv)
    if isinstance(expected, tuple):
        assert found == expected
        return None
    assert isinstance(found, RawRows), found
    assert found.row_count == len(expected)
    for field, cells in enumerate(found.cells):
        dtype = np.int64 if field in INTEGER_FIELDS else np.float64
        column = np.array([row[field] for row in expected], dtype=dtype)
        assert cells.dtype == dtype
        assert cells.flags.c_contiguous
        # Compared as bytes: 0.0 and -0.0 are equal numbers, but different cells.
        assert cells.tobytes() == column.tobytes(), (field, cells, column)
    return found


# --- Rows as published, unusual rows, and damaged ones -----------------------------------------------------


def decimal(whole: int, places: int) -> st.SearchStrategy[str]:
    """Numbers of up to so many digits before the point, and so many after it."""
    digits = st.integers(0, 10**places - 1).map(lambda value: f".{value:0{places}d}" if places else "")
    trimmed = digits.map(lambda text: text.rstrip("0").rstrip("."))
    return st.builds(
        str.__add__, st.integers(0, 10**whole - 1).map(str), st.one_of(digits, digits, digits, trimmed)
    )


MS = st.integers(1_500_000_000_000, 1_800_000_000_000).map(str)
US = st.integers(1_500_000_000_000_000, 1_800_000_000_000_000).map(str)
COUNT = st.integers(0, 10**6).map(str)
ZERO = st.just("0")
SPOT = st.integers(10**6, 10**7 - 1).map(lambda value: f"{value // 100}.{value % 100:02d}000000")
SIGNED = st.builds(str.__add__, st.sampled_from(["", "-"]), decimal(1, 8))

FORMATS: dict[str, Sequence[st.SearchStrategy[str]]] = {
    "spot": (MS, *[SPOT] * 4, decimal(3, 8), MS, decimal(9, 8), COUNT, decimal(3, 8), decimal(9, 8), ZERO),
    "spot in microseconds": (US, *[SPOT] * 4, decimal(3, 8), US, decimal(8, 8), COUNT, SPOT, decimal(8, 8), ZERO),
    "early spot": (MS, *[SPOT] * 4, decimal(2, 8), MS, decimal(6, 8), COUNT, decimal(2, 8), SPOT, decimal(5, 8)),
    "um": (MS, *[decimal(5, 2)] * 4, decimal(4, 3), MS, decimal(9, 5), COUNT, decimal(4, 3), decimal(9, 5), ZERO),
    "um, few decimals": (MS, *[decimal(1, 4)] * 4, decimal(6, 0), MS, decimal(7, 4), COUNT, COUNT, SPOT, ZERO),
    "cm": (MS, *[decimal(5, 1)] * 4, decimal(6, 0), MS, decimal(4, 8), COUNT, decimal(6, 0), decimal(4, 8), ZERO),
    "mark price": (MS, *[decimal(5, 8)] * 4, ZERO, MS, ZERO, COUNT, ZERO, ZERO, ZERO),
    "premium index": (MS, *[SIGNED] * 4, ZERO, MS, ZERO, COUNT, ZERO, ZERO, ZERO),
    "many digits": (MS, *[decimal(20, 14)] * 4, decimal(15, 8), US, decimal(16, 8), COUNT, SIGNED, SIGNED, SIGNED),
}

ODD_DECIMALS = st.sampled_from(
    [
        *("-0", "-0.0", "0.0", "00012.5", "1e5", "1E-5", "2.5e+3", "5e-324", "1e-400", "1.7976931348623157e308"),
        *(
            "9007199254740991",
            "9007199254740992",
            "9007199254740993",
            "9007199254740993.0",
            "0.1234567890123456789",
        ),
        *("99999999.99999999", "123456789012345678.5", "99999999999999999999", "0.3000000000000000444", "9" * 300),
        *("12345678", "1234567", "123456789", "0.00000001", "1.00000000", "1.000000000", "0" * 40 + "1"),
    ]
)
REFUSED_DECIMALS = (
    *(
        "",
        ".",
        "-",
        "5.",
        ".5",
        "+5",
        " 5",
        "5 ",
        "1_0",
        "0x1F",
        "nan",
        "inf",
        "-inf",
        "Infinity",
        "1e999",
        "-1e999",
    ),
    *(
        "--5",
        "1.2.3",
        "1-2",
        "5e",
        "e5",
        "1e1000",
        "5:",
        ":5",
        "/5",
        "5;",
        "\x1f5",
        "五",
        "\N{FULLWIDTH DIGIT FIVE}",
    ),
)
ODD_INTEGERS = st.sampled_from(
    ["-5", "-0", "007", "9223372036854775807", "-9223372036854775808", "0" * 30 + "1", "12345678", "123456789"]
)
REFUSED_INTEGERS = (
    *("", "-", "+5", "1.0", "1e3", "1_0", " 1", "9223372036854775808", "-9223372036854775809", "9" * 4000, "5:"),
    *("x", "\x1f", "0x1F"),
)


@st.composite
def csvs(draw: st.DrawFn, *, odd: bool = False) -> bytes:
    """Rows of one format. If `odd`, some cells are rare or illegal, and some lines are broken."""
    cells = FORMATS[draw(st.sampled_from(sorted(FORMATS)))]
    rows = [list(row) for row in draw(st.lists(st.tuples(*cells), max_size=9))]
    if odd:
        for row in rows:
            for field in draw(st.sets(st.integers(0, FIELD_COUNT - 1), max_size=1)):
                known = ODD_INTEGERS if field in INTEGER_FIELDS else ODD_DECIMALS
                refused = REFUSED_INTEGERS if field in INTEGER_FIELDS else REFUSED_DECIMALS
                row[field] = draw(st.one_of(*[known] * 8, st.sampled_from(refused)))
    lines = [",".join(row) for row in rows]
    if odd and lines and draw(st.integers(0, 3)) == 0:
        at = draw(st.integers(0, len(lines) - 1))
        line = lines[at]
        lines[at] = draw(
            st.sampled_from(["", "\r", line + "\r", line + ",", "," + line, line + ",0", line[:-2], "x"])
        )
    newline = draw(st.sampled_from(["\n", "\n", "\n", "\r\n"]))
    end = draw(st.sampled_from([newline, newline, newline, "", newline * 2, newline * 3]))
    header = draw(st.sampled_from(["", "", HEADER]))
    return (header + newline.join(lines) + (end if lines else "")).encode()


@settings(max_examples=150)
@given(csvs())
def test_blocks_of_every_format_equal_their_lines(csv: bytes) -> None:
    assert_as_by_line(csv)


@settings(max_examples=150)
@given(csvs(odd=True))
def test_blocks_with_odd_rows_equal_their_lines(csv: bytes) -> None:
    assert_as_by_line(csv)


@st.composite
def damaged_csvs(draw: st.DrawFn) -> bytes:
    csv = bytearray(draw(csvs()))
    for _ in range(draw(st.integers(1, 3))):
        start = draw(st.integers(0, len(csv)))
        stop = draw(st.integers(start, min(start + 2, len(csv))))
        csv[start:stop] = draw(st.binary(max_size=2) | st.text("0123456789,.-\n\r:;eE", max_size=2).map(str.encode))
    return bytes(csv)


@settings(max_examples=150)
@given(damaged_csvs())
@example(b"1" * 5000)
@example(b"\n" * 100)
@example(b"1,2\n" * 100 + b"3")
def test_damaged_bytes_are_read_or_refused_as_their_lines(csv: bytes) -> None:
    if csv[:1].isalpha() and not csv.startswith(HEADER.encode()):
        assert not isinstance(outcome(csv), RawRows) or csv.split(b"\n")[0].count(b",") == FIELD_COUNT - 1
    else:
        assert_as_by_line(csv)


@given(st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=1, max_size=20))
def test_any_double_written_with_17_digits_is_read_back(values: list[float]) -> None:
    rows = [ROW.split(",") for _ in values]
    for row, value in zip(rows, values, strict=True):
        row[5] = f"{value:.17g}"
    found = assert_as_by_line("\n".join(map(",".join, rows)).encode())
    assert found is not None
    assert found.cells[5].tobytes() == np.array(values).tobytes()


@settings(max_examples=30)
@given(st.integers(1, 60), st.integers(1, 10), csvs(odd=True))
def test_the_size_of_blocks_changes_nothing(block_row_count: int, block_row_count_min: int, csv: bytes) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rows_module, "_BLOCK_ROWS", block_row_count)
        patch.setattr(rows_module, "_BLOCK_ROWS_MIN", block_row_count_min)
        patch.setattr(rows_module, "TEXT_BLOCK_NBYTES", 5000)
        assert_as_by_line(csv)


@contextlib.contextmanager
def short_blocks(nbytes: int) -> Iterator[None]:
    """Blocks of text of so many bytes, with lines that are a little shorter at most."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rows_module, "TEXT_BLOCK_NBYTES", nbytes)
        patch.setattr(rows_module, "ARCHIVE_LINE_NBYTES_MAX", 360)
        patch.setattr(rows_module, "_HEADER_NBYTES_MAX", 150)
        patch.setattr(rows_module, "_LINE_NBYTES_USUAL", 40)
        yield


def parsed_in_pieces(csvs: Sequence[bytes], piece_nbytes: int, *, row_count: int = 0) -> ParsedTexts:
    parser = RowParser("a.zip", row_count=row_count)
    for csv in csvs:
        for start in range(0, len(csv), piece_nbytes):
            parser.feed(csv[start : start + piece_nbytes])
        parser.end_text()
    return parser.finish()


@settings(max_examples=100)
@given(csvs(odd=True), st.integers(362, 700), st.integers(1, 800), st.integers(0, 12))
@example(f"{ROW}\n\n".encode() * 8, 364, 90, 0)
@example(f"{ROW}\n".encode() * 8 + b"\r", len(ROW) * 5 + 5, 1, 3)
@example(b"0" * 800, 362, 100, 1)
def test_pieces_and_blocks_of_any_length_change_nothing(
    csv: bytes, block_nbytes: int, piece_nbytes: int, row_count: int
) -> None:
    def parse(csv: bytes, _label: str) -> RawRows:
        return parsed_in_pieces([csv], piece_nbytes, row_count=row_count).whole

    with short_blocks(block_nbytes), pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys.modules[__name__], "parse_rows", parse)
        assert_as_by_line(csv)


@settings(max_examples=100)
@given(st.lists(csvs(), max_size=5), st.integers(362, 700), st.integers(1, 800))
def test_of_texts_parsed_together_each_has_the_rows_that_it_has_alone(
    csvs: list[bytes], block_nbytes: int, piece_nbytes: int
) -> None:
    with short_blocks(block_nbytes):
        alone = [outcome(csv) for csv in csvs]
        if any(not isinstance(rows, RawRows) for rows in alone):
            with pytest.raises(ArchiveError):
                parsed_in_pieces(csvs, piece_nbytes)
            return
        together = parsed_in_pieces(csvs, piece_nbytes)
    assert len(together.each) == len(csvs)
    assert together.whole.row_count == sum(rows.row_count for rows in together.each)
    for rows, single in zip(together.each, alone, strict=True):
        assert isinstance(single, RawRows)
        assert rows.has_header == single.has_header
        assert [cells.tobytes() for cells in rows.cells] == [cells.tobytes() for cells in single.cells]


def test_a_long_text_takes_hardly_more_memory_than_its_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rows_module, "_BLOCK_ROWS", 8192)
    text = f"{ROW}\n".encode() * 10_000
    columns_nbytes = 8 * FIELD_COUNT * 200_000
    tracemalloc.start()
    try:
        parser = RowParser("a.zip", row_count=200_000)
        for _ in range(20):
            parser.feed(text)
        parser.end_text()
        assert parser.finish().whole.row_count == 200_000
        assert tracemalloc.get_traced_memory()[1] < columns_nbytes + 10_000_000
    finally:
        tracemalloc.stop()


def test_usual_rows_are_never_parsed_line_by_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rows_module, "parse_line", lambda line: pytest.fail(f"parsed alone: {line!r}"))
    for row in (
        ROW,
        (
            "1700000000000000,93576.00000000,93610.93000000,93537.50000000,93610.93000000,8.21827000,"
            "1700000059999999,768978.75522470,2631,3.95157000,369757.32652890,0"
        ),
        "1700000000000,-0.00039615,-0.00000792,-0.00140974,0.00046270,0,1700000059999,0,17280,0,0,0",
    ):
        # Every field but the times has one digit more, and no sign.
        other = row.replace("-", "").replace(",", ",1").replace(",11700", ",1700")
        assert parse_rows(f"{row}\n{other}\n".encode() * 20, "a.zip").row_count == 40


# --- Cells -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", REFUSED_DECIMALS)
@pytest.mark.parametrize("field", [1, 5, 11])
def test_what_is_no_decimal_is_refused_with_its_line_and_field(text: str, field: int) -> None:
    cells = ROW.split(",")
    cells[field] = text
    row, reason = refusal("\n".join([ROW, ROW, ",".join(cells), ROW]))
    assert row == 3
    assert reason.startswith(f"{HEADER.strip().split(',')[field]}: expected a")
    assert reason.endswith(f"found {text!r}")


@pytest.mark.parametrize("text", REFUSED_INTEGERS)
@pytest.mark.parametrize("field", INTEGER_FIELDS)
def test_what_is_no_integer_is_refused_with_its_line_and_field(text: str, field: int) -> None:
    cells = ROW.split(",")
    cells[field] = text
    row, reason = refusal(HEADER + "\n".join([ROW, ROW, ",".join(cells), ROW]))
    assert row == 4
    assert reason.startswith(f"{HEADER.strip().split(',')[field]}: expected an integer")


def test_a_line_too_long_for_a_row_is_refused_without_a_copy_of_it() -> None:
    zeros = "0" * (ARCHIVE_LINE_NBYTES_MAX - len(ROW))
    assert parse_rows(f"{ROW}\n{zeros}{ROW}\n".encode(), "a.zip").row_count == 2
    row, reason = refusal(f"{ROW}\n0{zeros}{ROW}\n")
    assert row == 2
    assert reason.startswith("expected a row, found a line of more than 4096 bytes: '0000")
    commas = f"{ROW}\n".encode() + b"," * 20_000_000
    tracemalloc.start()
    try:
        with pytest.raises(ArchiveError, match="found a line of more than"):
            parse_rows(commas, "a.zip")
        assert tracemalloc.get_traced_memory()[1] < 3 * len(commas)
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("count", [1, 11, 13, 24])
def test_a_row_of_another_number_of_fields_is_refused(count: int) -> None:
    row, reason = refusal(f"{ROW}\n" + ",".join(["1"] * count) + f"\n{ROW}\n")
    assert row == 2
    assert reason.startswith(f"expected 12 fields, found {count}: ")


def test_a_blank_line_between_rows_is_refused() -> None:
    assert refusal(f"{ROW}\n\n{ROW}\n") == (2, "expected 12 fields, found 1: ''")


def test_of_a_long_field_the_message_shows_the_beginning() -> None:
    _, reason = refusal(ROW.replace("12.00", "x" * 1000))
    assert reason == f"high: expected a decimal number, found '{'x' * 40}'..."


def test_millions_of_newlines_are_refused_without_finding_them_all() -> None:
    assert refusal("\n" * 10_000_000) == (1, "expected 12 fields, found 1: ''")


def refusal(csv: str) -> tuple[int | None, str]:
    found = outcome(csv.encode())
    assert not isinstance(found, RawRows)
    return found


@given(st.decimals(allow_nan=False, allow_infinity=False, places=8).map(lambda value: f"{value:f}"))
def test_a_decimal_equals_what_float_gives(text: str) -> None:
    assert parse_decimal(text.encode()) == (float(text), 8)


@pytest.mark.parametrize(
    ("text", "places"), [("5", 0), ("5.0", 1), ("5.25e1", 1), ("5e3", 0), ("5e-3", 3), ("0.50e-2", 4), ("-0.5", 1)]
)
def test_decimals_are_counted_as_written_without_an_exponent(text: str, places: int) -> None:
    assert parse_decimal(text.encode())[1] == places


@given(st.integers(-(2**63), 2**63 - 1))
def test_integers_of_64_bits_are_read(value: int) -> None:
    assert parse_integer(str(value).encode()) == value


# --- Files -------------------------------------------------------------------------------------------------


def test_the_fewest_and_the_most_decimals_of_each_field_are_reported() -> None:
    rows = [ROW, ROW.replace("10.50", "10.5"), ROW.replace("12.00", "12"), ROW.replace("3.125", "1e-9")]
    found = parse_rows("\n".join(rows * 10).encode(), "a.zip")
    decimals = dict(zip(FLOAT_FIELDS, found.decimals, strict=True))
    assert decimals[1] == Decimals(1, 2)
    assert decimals[2] == Decimals(0, 2)
    assert decimals[3] == Decimals(2, 2)
    assert decimals[5] == Decimals(3, 9)
    assert decimals[11] == Decimals(0, 0)


@pytest.mark.parametrize("csv", ["", "\n", "\r\n", HEADER, HEADER.strip(), HEADER + "\n"])
def test_an_empty_file_has_no_rows(csv: str) -> None:
    found = parse_rows(csv.encode(), "a.zip")
    assert found.row_count == 0
    assert found.has_header == csv.startswith("open")
    assert [cells.dtype.kind for cells in found.cells] == ["f" if f in FLOAT_FIELDS else "i" for f in range(12)]
    assert set(found.decimals) == {Decimals(0, 0)}


@pytest.mark.parametrize("end", ["", "\n", "\r\n", "\n\n", "\r\n\r\n", "\n\r\n"])
def test_the_last_newline_may_be_missing_or_followed_by_a_blank_line(end: str) -> None:
    assert parse_rows((ROW + end).encode(), "a.zip").row_count == 1


def test_a_header_is_recognised_by_its_first_byte() -> None:
    assert parse_rows(f"{HEADER}{ROW}\n".encode(), "a.zip").has_header
    assert not parse_rows(f"{ROW}\n".encode(), "a.zip").has_header
    with_new_names = HEADER.replace("ignore", "unused").replace("count", "trades")
    assert parse_rows(f"{with_new_names}{ROW}\n".encode(), "a.zip").has_header


@pytest.mark.parametrize(
    ("header", "reason"),
    [
        ("<html>\n", "expected 12 fields, found 1: '<html>'"),
        ("error\n", "its header has 1 fields, expected 12: 'error'"),
        (HEADER.replace(",ignore", ""), "its header has 11 fields, expected 12"),
        (HEADER.replace("open,high", "high,open"), "its header has 'high' where 'open' is expected"),
        ("x" * 2000 + "\n", "its header has 1 fields, expected 12"),
        (",".join(["x" * 100] * 12) + "\n", "its header has 10 fields, expected 12"),
    ],
)
def test_a_header_of_something_else_is_refused(header: str, reason: str) -> None:
    row, found = refusal(header + ROW)
    assert row == 1
    assert found.startswith(reason)


def test_genuine_rows_of_rare_formats_are_read(shared_data: Path) -> None:
    paths = sorted((shared_data / "rows").glob("*.csv"))
    assert paths
    for path in paths:
        csv = path.read_bytes()
        found = assert_as_by_line(csv)
        assert found is not None
        assert found.row_count == len(csv.split()) - found.has_header
        assert found.has_header == ("hdr.csv" in path.name and "nohdr" not in path.name)

"""What is printed, on a terminal and elsewhere: lines, tables, JSON and progress bars."""

from __future__ import annotations

import contextlib
import io
import json
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from ckvd.cli import printing
from ckvd.maintenance.verification import Finding, Severity, Trouble
from ckvd.model.market import SeriesKey
from ckvd.model.timespan import Span

if TYPE_CHECKING:
    from collections.abc import Iterator

NAMES = ("series", "bars", "reason")
ROWS = [("[spot]", 743, "it is :cat: off"), ("cm", 1_234_567, "[Errno 5]")]


class Screen(io.StringIO):
    """A stream that says that it is a terminal."""

    encoding = "utf-8"

    def isatty(self) -> bool:
        return True

    def seen(self) -> str:
        """What is left on it: a carriage return goes back to the beginning of the line, which is written over."""
        lines = []
        for line in self.getvalue().split("\n"):
            cells: list[str] = []
            for part in line.split("\r"):
                cells[: len(part)] = part
            lines.append("".join(cells).rstrip())
        return "\n".join(lines)


@contextlib.contextmanager
def terminal() -> Iterator[Screen]:
    """A terminal that shows standard output and standard error."""
    screen = Screen()
    with contextlib.redirect_stdout(screen), contextlib.redirect_stderr(screen):
        yield screen


@pytest.fixture(autouse=True)
def _ordinary_terminals(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("NO_COLOR", "FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm")


def test_a_table_has_tabs_where_programs_read_it(capsys: pytest.CaptureFixture[str]) -> None:
    printing.print_table(NAMES, ROWS)
    assert capsys.readouterr() == (
        "series\tbars\treason\n[spot]\t743\tit is :cat: off\ncm\t1234567\t[Errno 5]\n",
        "",
    )


def test_a_table_on_a_terminal_has_columns_and_numbers_to_the_right() -> None:
    with terminal() as screen:
        printing.print_table(NAMES, ROWS)
    assert [line.rstrip() for line in screen.getvalue().splitlines()] == [
        "series       bars  reason",
        "[spot]        743  it is :cat: off",
        "cm      1,234,567  [Errno 5]",
    ]


def test_a_table_without_rows_has_its_names() -> None:
    with terminal() as screen:
        printing.print_table(NAMES, [])
    assert screen.getvalue().split() == list(NAMES)


def test_text_is_printed_as_it_is_on_a_terminal_too() -> None:
    with terminal() as screen:
        text = "[bold]/data/:warning:/[1m].ckvd"
        printing.say(text)
        printing.complain(text)
    assert screen.getvalue() == f"{text}\nckvd: {text}\n"


def test_complaints_go_to_standard_error(capsys: pytest.CaptureFixture[str]) -> None:
    printing.complain("it is full")
    assert capsys.readouterr() == ("", "ckvd: it is full\n")


@pytest.mark.parametrize(("is_work_left", "hint"), [(True, "; add --yes to do it"), (False, "")])
def test_a_plan_names_the_option_that_carries_it_out(
    capsys: pytest.CaptureFixture[str], is_work_left: bool, hint: str
) -> None:
    printing.propose("would remove 1 file", is_work_left=is_work_left)
    assert capsys.readouterr().out == f"would remove 1 file{hint}\n"


@pytest.mark.parametrize(
    ("nbytes", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1.0 kB"),
        (3_400_000, "3.4 MB"),
        (1_500_000_000, "1.5 GB"),
        (2 * 10**15, "2000.0 TB"),
    ],
)
def test_a_number_of_bytes_has_a_unit(nbytes: int, text: str) -> None:
    assert printing.format_nbytes(nbytes) == text


@pytest.mark.parametrize(("number", "text"), [(0, "0 bars"), (1, "1 bar"), (1234, "1,234 bars")])
def test_a_number_has_its_noun(number: int, text: str) -> None:
    assert printing.count(number, "bar") == text


def test_a_document_may_hold_values_of_the_library(capsys: pytest.CaptureFixture[str]) -> None:
    path = Path("币安人生USDT") / "x.ckvd"
    finding = Finding(Severity.NOTE, Trouble.STRANGER, path, "what is it?")
    printing.print_json(
        {
            "span": Span(0, 1000),
            "series": SeriesKey.of("BTCUSDT", "1m"),
            "findings": [finding],
            **printing.attributes_of(finding, "path", "bar_count"),
        }
    )
    text = capsys.readouterr().out
    assert "币安人生USDT" in text
    assert json.loads(text) == {
        "span": [0, 1000],
        "series": "spot/klines/BTCUSDT/1m",
        "findings": [finding.to_json()],
        "path": str(path),
        "bar_count": 0,
    }


# --- Progress ----------------------------------------------------------------------------------------------


def test_without_a_terminal_no_progress_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    assert list(printing.track([1, 2], "looking")) == [1, 2]
    with printing.progress_bar("looking") as update:
        update(description="at 1")
    assert capsys.readouterr() == ("", "")


def test_on_a_terminal_progress_is_counted_and_then_erased() -> None:
    with terminal() as screen:
        assert list(printing.track(["a", "b"], "looking [1m]")) == ["a", "b"]
    assert "looking [1m]" in screen.getvalue()
    assert "2/2" in screen.getvalue()
    assert screen.seen() == ""


@pytest.mark.parametrize("has_total", [True, False])
def test_progress_without_a_known_total_shows_the_description(has_total: bool) -> None:
    with terminal() as screen, printing.progress_bar("downloading", is_timed=True) as update:
        update(description="5 of 6 archives", completed=5, total=6 if has_total else None)
    assert "5 of 6 archives" in screen.getvalue()
    assert ("█" in screen.getvalue()) == has_total
    assert ("5/6, 00:00 left" in screen.getvalue()) == has_total


def test_a_progress_bar_is_erased_when_the_work_fails() -> None:
    with terminal() as screen:
        with pytest.raises(ZeroDivisionError):
            print([1 / item for item in printing.track([1, 0], "dividing")])
        printing.complain("it failed")
    assert screen.seen() == "ckvd: it failed\n"

from __future__ import annotations

import pickle

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from ckvd.errors import (
    ArchiveError,
    CacheBusyError,
    CacheError,
    ChecksumMismatchError,
    CkvdError,
    ClientClosedError,
    HttpStatusError,
    WorkerDiedError,
    shown,
)


@given(st.text() | st.binary(), st.integers(min_value=1, max_value=50))
@example("\x1b[31mred\r\nckvd: all is well", 50)
@example("\u202eright to left", 50)
@example("\ud800", 50)
def test_foreign_text_is_shown_on_one_short_line_without_control_characters(
    foreign: str | bytes, length: int
) -> None:
    text = shown(foreign, length)
    assert text.isprintable()
    assert len(text) <= length + len("...")
    text.encode()  # it has no lone surrogate


@pytest.mark.parametrize("text", ["", "Invalid symbol.", "币安人生", "a 'quoted' \"word\" \\ and more"])
def test_plain_text_is_shown_as_it_is(text: str) -> None:
    assert shown(text) == text
    assert shown(text.encode()) == text


def test_what_was_left_out_is_marked() -> None:
    assert shown("x" * 1_000_000, 5) == "xxxxx..."
    assert shown("x" + " " * 1_000_000, 5) == "x"
    assert shown("x" + " " * 1_000_000 + "x", 5) == "x..."


@pytest.mark.parametrize(
    "error",
    [
        ArchiveError("a.zip", "for a test", row=3),
        ChecksumMismatchError("a.zip", expected="0" * 64, found="1" * 64, remedy="copy it"),
        CacheError("/cache", "cannot be written: no space", errno=28),
        CacheBusyError("/cache", "locked"),
        HttpStatusError("http://x", "not found", status=404),
        WorkerDiedError("a.zip", "was killed"),
        ClientClosedError("closed"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_an_error_comes_out_of_a_pickle_as_it_went_in(error: CkvdError) -> None:
    error.add_note("a note")
    found = pickle.loads(pickle.dumps(error))
    assert type(found) is type(error)
    assert (str(found), found.args, vars(found)) == (str(error), error.args, vars(error))
    assert getattr(found, "errno", None) == getattr(error, "errno", None)

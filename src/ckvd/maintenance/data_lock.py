"""A small text file that pins a data set: the hash of every series and span.

Checking it tells whether another machine has the same bars, bit for bit, however they are stored there. Each line
is a hash, the number of bars, a span and a series, with spaces between; lines that start with `#` are comments.
Spans are in ISO 8601, UTC.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Final

from ckvd.errors import CkvdError, DataLockError, NotCachedError
from ckvd.maintenance.content_hash import ContentHash, hash_span
from ckvd.maintenance.selection import EVERYTHING
from ckvd.model.market import SeriesKey
from ckvd.model.timespan import Span, union

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from ckvd.cache.folder import CacheFolder
    from ckvd.maintenance.selection import SeriesFilter

_TITLE: Final = "# ckvd data lock, version 1: SHA-256, bars, span, series"


class Verdict(StrEnum):
    """How a line of a lock compares with a cache."""

    SAME = "same"
    DIFFERENT = "different"
    MISSING = "missing"  # the cache does not cover all of the span
    UNREADABLE = "unreadable"  # a segment is damaged


@dataclass(frozen=True, slots=True)
class LockCheck:
    """One line of a lock, compared with a cache.

    Attributes
    ----------
    expected : ContentHash
        What the lock says.
    verdict : Verdict
    found : ContentHash or None
        What the cache has, where it could be read.
    message : str
        What is missing or cannot be read.
    """

    expected: ContentHash
    verdict: Verdict
    found: ContentHash | None = None
    message: str = ""

    def to_json(self) -> dict[str, Any]:
        """A JSON object."""
        return {
            "series": str(self.expected.series),
            "span": [self.expected.span.start_ms, self.expected.span.end_ms],
            "verdict": self.verdict.value,
            "expected": {"sha256": self.expected.sha256, "bar_count": self.expected.bar_count},
            "found": None
            if self.found is None
            else {"sha256": self.found.sha256, "bar_count": self.found.bar_count},
            "message": self.message,
        }


def lock_data(
    folder: CacheFolder,
    chosen: SeriesFilter = EVERYTHING,
    span: Span | None = None,
    *,
    on_series: Callable[[SeriesKey], None] | None = None,
) -> Iterator[ContentHash]:
    """Hash each covered span of some series.

    Parameters
    ----------
    folder : CacheFolder
    chosen : SeriesFilter
    span : Span, optional
        Leave out what lies outside of it.
    on_series : callable, optional
        Called with each series before it is read.

    Raises
    ------
    SegmentError, CacheError
        A segment or folder cannot be read.
    """
    for series in chosen.choose(folder):
        if on_series is not None:
            on_series(series)
        for covered in union(name.span for name in folder.segments(series)):
            part = covered if span is None else covered.intersection(span)
            if part:
                yield hash_span(folder, series, part)


def format_lock(hashes: Iterable[ContentHash]) -> str:
    """The text of a lock."""
    lines = [f"{one.sha256} {one.bar_count} {one.span} {one.series}" for one in hashes]
    return "\n".join([_TITLE, *lines]) + "\n"


def parse_lock(text: str, name: str = "the lock") -> list[ContentHash]:
    """Read the text of a lock.

    Parameters
    ----------
    text : str
    name : str
        What to call it in errors: its file.

    Raises
    ------
    DataLockError
        A line is not what it should be.
    """
    found = []
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip() or line.startswith("#"):
            continue
        try:
            found.append(_parse_line(line))
        except ValueError as error:
            remedy = "expected a file that ckvd cache lock wrote: give that one, or write it anew"
            raise DataLockError(f"{name}, line {number}: {error}; {remedy}") from error
    return found


def _parse_line(line: str) -> ContentHash:
    cells = line.split()
    if len(cells) != 4:
        raise ValueError(f"{line[:80]!r} is no hash, number of bars, span and series")
    sha256, bar_count, span, series = cells
    start, is_span, end = span.partition("..")
    parts = series.split("/")
    if not is_span or len(parts) != 4:
        raise ValueError(f"{span[:80]!r} and {series[:80]!r} are no span and series")
    market, kind, symbol, interval = parts
    key = SeriesKey.of(symbol, interval, market=market, kind=kind)
    return ContentHash(key, Span.of(start, end), int(bar_count), _check_digest(sha256))


def _check_digest(text: str) -> str:
    if len(text) != 64 or set(text) - set("0123456789abcdef"):
        raise ValueError(f"{text[:80]!r} is no SHA-256 of 64 hexadecimal digits")
    return text


def check_lock(folder: CacheFolder, expected: Iterable[ContentHash]) -> Iterator[LockCheck]:
    """Compare a cache with a lock, line by line.

    Raises
    ------
    CacheError
        The folder cannot be listed.
    """
    for line in expected:
        try:
            found = hash_span(folder, line.series, line.span)
        except NotCachedError as error:
            yield LockCheck(line, Verdict.MISSING, message=str(error))
        except CkvdError as error:
            yield LockCheck(line, Verdict.UNREADABLE, message=str(error))
        else:
            is_same = (found.sha256, found.bar_count) == (line.sha256, line.bar_count)
            yield LockCheck(line, Verdict.SAME if is_same else Verdict.DIFFERENT, found)

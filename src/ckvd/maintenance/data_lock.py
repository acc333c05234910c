"""The data lock: a small text file that pins a data set by the hash of every series and span.

Checking a data lock shows whether another machine has the same bars, bit for bit. Each line holds a hash, the
number of bars, a span and a series, separated by spaces. Lines that start with `#` are comments. Spans are
ISO 8601, UTC.

The hash depends on the bars alone, not on how many segments they are stored in. It is the SHA-256 of the names of
all columns, each followed by the SHA-256 of the column's values, little-endian, in order of open time. Regular
microseconds of bars, which segments leave out, are hashed as if they were stored. Series of events have `events` in
place of an interval.

Spans that were asked for and that no source had have lines of their own, with no bars and `UNAVAILABLE_SHA256` as
their hash. A cache with bars there, or that was never asked for them, is not the same. A version of ckvd that does
not know this hash finds such a span missing, so the format is still version 1, and older files are checked as ever.
"""

from __future__ import annotations

import hashlib
import re
import stat
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from ckvd.cache.coverage import unavailable_spans_of
from ckvd.cache.rows import column_of, stream_rows
from ckvd.cache.selection import EVERYTHING
from ckvd.errors import CkvdError, DataLockError, NotCachedError, cannot
from ckvd.model.market import SeriesKey
from ckvd.model.record import Record, as_json, fields_as_json
from ckvd.model.table import REGULAR_US, fields_of
from ckvd.model.timespan import Span, difference, is_relative, union
from ckvd.segment.atomic_file import atomic_write, remove_abandoned

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from pathlib import Path

    from ckvd.cache.folder import CacheFolder
    from ckvd.cache.selection import SeriesFilter


UNAVAILABLE_SHA256: Final = hashlib.sha256(b"unavailable").hexdigest()
"""What stands for the hash of a span that no source had: the SHA-256 of the word."""
_TITLE: Final = "# ckvd data lock, version 1: SHA-256, bars, span, series"


@dataclass(frozen=True, slots=True)
class ContentHash(Record):
    """The hash of the bars of a span.

    Attributes
    ----------
    series : SeriesKey
    span : Span
    bar_count : int
    sha256 : str
        64 hexadecimal digits; `UNAVAILABLE_SHA256` where no source had the span.
    """

    series: SeriesKey
    span: Span
    bar_count: int
    sha256: str

    @property
    def is_unavailable(self) -> bool:
        """Whether the span was asked for, and no source had it."""
        return self.sha256 == UNAVAILABLE_SHA256

    def to_json(self) -> dict[str, Any]:
        """A JSON object: its fields, and whether the span was unavailable."""
        return {**fields_as_json(self), "is_unavailable": self.is_unavailable}


def hash_span(folder: CacheFolder, series: SeriesKey, span: Span) -> ContentHash:
    """Hash the bars that open in a covered span, with flat memory.

    Raises
    ------
    NotCachedError
        The cache does not cover the span.
    SegmentError, CacheError
        A segment cannot be used.
    """
    names = (*fields_of(series), *(REGULAR_US if series.kind.is_bars else ()))
    hashes = {name: hashlib.sha256() for name in names}
    bar_count = 0
    for rows in stream_rows(folder, series, span):
        for name, column_hash in hashes.items():
            column_hash.update(np.ascontiguousarray(column_of(rows, name, series)).data)
        bar_count += len(rows)
        del rows
    whole = hashlib.sha256()
    for name, column_hash in hashes.items():
        whole.update(f"{name} {column_hash.hexdigest()}\n".encode())
    return ContentHash(series, span, bar_count, whole.hexdigest())


class Verdict(StrEnum):
    """How a line of a data lock compares with a cache."""

    SAME = "same"
    DIFFERENT = "different"
    MISSING = "missing"  # the cache does not cover all of the span
    UNREADABLE = "unreadable"  # a segment is damaged


@dataclass(frozen=True, slots=True)
class LockCheck(Record):
    """One line of a data lock, compared with a cache.

    Attributes
    ----------
    expected : ContentHash
        The line.
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
        """A JSON object: series and span once, and of both hashes what may differ."""
        return {
            "series": as_json(self.expected.series),
            "span": as_json(self.expected.span),
            "verdict": as_json(self.verdict),
            "expected": _bars_json(self.expected),
            "found": None if self.found is None else _bars_json(self.found),
            "message": self.message,
        }


def _bars_json(one: ContentHash) -> dict[str, Any]:
    return {"sha256": one.sha256, "bar_count": one.bar_count}


def lock_data(
    folder: CacheFolder,
    chosen: SeriesFilter = EVERYTHING,
    span: Span | None = None,
    *,
    on_series: Callable[[SeriesKey], None] | None = None,
) -> Iterator[ContentHash]:
    """Hash each covered span of some series, and name the parts that no source had when they were asked for.

    Parameters
    ----------
    folder : CacheFolder
    chosen : SeriesFilter
    span : Span, optional
        Leave out bars outside of it.
    on_series : callable, optional
        Called with each series before it is read.

    Raises
    ------
    NotCachedError
        A span was removed meanwhile.
    SegmentError, CacheError
        A segment or folder cannot be read.
    """
    for series in chosen.choose(folder):
        if on_series is not None:
            on_series(series)
        for covered in union(name.span for name in folder.segments(series)):
            wanted = covered if span is None else covered.intersection(span)
            unavailable = unavailable_spans_of(folder, series, wanted) if wanted else ()
            for part in sorted((*difference([wanted], unavailable), *unavailable)):
                yield _unavailable(series, part) if part in unavailable else hash_span(folder, series, part)


def _unavailable(series: SeriesKey, span: Span) -> ContentHash:
    return ContentHash(series, span, 0, UNAVAILABLE_SHA256)


def format_lock(hashes: Iterable[ContentHash]) -> str:
    """The text of a data lock."""
    return "\n".join([_TITLE, *(line for one in hashes for line in _lines_of(one))]) + "\n"


def _lines_of(one: ContentHash) -> Iterator[str]:
    if one.is_unavailable:
        yield f"# unavailable when it was asked for: {one.series} {one.span}"
    yield f"{one.sha256} {one.bar_count} {one.span} {one.series}"


def write_lock(path: Path, text: str) -> None:
    """Write the text of a data lock to a file, whole or not at all: half a lock would check half of the data.

    A regular file of that name is replaced. Anything else, such as `/dev/stdout`, is written to. What a killed
    process left beside it is removed.

    Raises
    ------
    CacheError
        The file cannot be written.
    """
    try:
        if _is_irregular(path):
            path.write_text(text, encoding="utf-8")
            return
        final = path.resolve()
        remove_abandoned(final.parent, lambda name: name == final.name)
        with atomic_write(final) as file:
            file.write(text.encode())
    except OSError as error:
        raise cannot("be written", path, error) from error


def _is_irregular(path: Path) -> bool:
    """Whether a path leads to something that is no regular file. Raises OSError if the system does not say."""
    try:
        return not stat.S_ISREG(path.stat().st_mode)
    except FileNotFoundError:
        return False


def parse_lock(text: str, name: str = "the lock") -> list[ContentHash]:
    """Read the text of a data lock. Errors call it `name`, such as the path of the file.

    Raises
    ------
    DataLockError
        A line has another form.
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
    if not re.fullmatch("[0-9a-f]{64}", sha256):
        raise ValueError(f"{sha256[:80]!r} is no SHA-256 of 64 hexadecimal digits")
    market, kind, symbol, folder_name = parts
    if is_relative(start) or is_relative(end):
        raise ValueError(f"{span[:80]!r} is no span: it means another one at another time")
    key = SeriesKey.of_older(symbol, folder_name, market=market, kind=kind)
    return ContentHash(key, Span.of(start, end), int(bar_count), sha256)


def check_lock(folder: CacheFolder, expected: Iterable[ContentHash]) -> Iterator[LockCheck]:
    """Compare a cache with a data lock, line by line."""
    for line in expected:
        try:
            if line.is_unavailable:
                yield _check_unavailable(folder, line)
                continue
            found = hash_span(folder, line.series, line.span)
        except NotCachedError as error:
            yield LockCheck(line, Verdict.MISSING, message=str(error))
        except CkvdError as error:
            yield LockCheck(line, Verdict.UNREADABLE, message=str(error))
        else:
            is_same = (found.sha256, found.bar_count) == (line.sha256, line.bar_count)
            yield LockCheck(line, Verdict.SAME if is_same else Verdict.DIFFERENT, found)


def _check_unavailable(folder: CacheFolder, line: ContentHash) -> LockCheck:
    """Compare a cache with a line that says that no source had the span."""
    unavailable = unavailable_spans_of(folder, line.series, line.span)
    if unavailable == (line.span,):
        return LockCheck(line, Verdict.SAME, line)
    covered = union(name.span.intersection(line.span) for name in folder.segments(line.series))
    held = difference(covered, unavailable)
    if held:
        message = f"unavailable by the lock, and the cache has {', '.join(map(str, held))}"
        found = hash_span(folder, line.series, line.span) if held == (line.span,) else None
        return LockCheck(line, Verdict.DIFFERENT, found, message)
    lacking = ", ".join(map(str, difference([line.span], unavailable)))
    message = f"unavailable by the lock, and the cache was not asked for {lacking}; fetch it (ckvd download)"
    return LockCheck(line, Verdict.MISSING, message=message)

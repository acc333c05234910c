"""Where bars come from, and why bars are missing: `Source`, `Absence`, `Gap` and `Reason`.

These are plain values. Segments store sources and absences in their headers as JSON (`to_json`, `of_json`). What a
later version of ckvd adds there is kept: an unknown word reads as `UNKNOWN`, an unknown key is not read, and both
are in the JSON again that is made of the value. Anything else that is not as this version writes it is refused.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, fields, replace
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Final, Self, TypeVar

from ckvd.model.timespan import Span

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable


class Origin(StrEnum):
    """The kind of a source of bars."""

    VISION_MONTHLY = "vision-monthly"
    VISION_DAILY = "vision-daily"
    REST = "rest"
    UNKNOWN = "unknown"  # a word of a later version

    @property
    def is_archive(self) -> bool:
        """Whether it is an archive."""
        return self in (Origin.VISION_MONTHLY, Origin.VISION_DAILY)


class Labels(StrEnum):
    """What the time of a row of metrics means in one archive: see `ckvd.decode.records`."""

    NONE = ""  # no archive of metrics
    START = "start"  # the five minutes begin with it
    END = "end"  # the five minutes end with it
    UNCLEAR = "unclear"  # the archive does not show it; rows count as known at the later time


class Reason(StrEnum):
    """Why a bar of the grid is missing."""

    HALTED = "halted"  # every source was asked, and none has the bar
    NOT_IN_ARCHIVE = "not in archive"  # the archive was read and lacks the bar; no other source was asked
    NO_ARCHIVE = "no archive"  # there is no archive of that time; no other source was asked
    NOT_PUBLISHED = "not yet published"
    BEFORE_LISTING = "before listing"
    AFTER_DELISTING = "after delisting"
    ARCHIVE_DAMAGED = "archive damaged"
    NOT_FETCHED = "not fetched"
    # Only archives were asked, and they were listed: none has bars of this time or of any time before or after it.
    BEFORE_ARCHIVES = "before the first archive"
    AFTER_ARCHIVES = "after the last archive"
    # The exchange has the contract, it does not trade yet or no longer, and no archive has it.
    NOT_TRADING = "not trading"
    UNKNOWN = "unknown"  # a word of a later version

    @property
    def is_answer(self) -> bool:
        """Whether the bar does not exist. Otherwise it may exist, and was not downloaded."""
        return self in _ANSWERS

    @property
    def is_of_archives(self) -> bool:
        """Whether it is an answer of archives alone: the REST interface is asked as soon as it may be."""
        return self in (Reason.BEFORE_ARCHIVES, Reason.AFTER_ARCHIVES)


_ANSWERS: Final = (
    Reason.HALTED,
    Reason.BEFORE_LISTING,
    Reason.AFTER_DELISTING,
    Reason.BEFORE_ARCHIVES,
    Reason.AFTER_ARCHIVES,
)
_WORDS: Final = frozenset(Reason)
# Versions of ckvd that do not know a word cannot read a segment with it. They read one that they know, and this
# version reads the exact one beside it.
_WORDS_FOR_OLDER_VERSIONS: Final = {
    Reason.BEFORE_ARCHIVES: Reason.BEFORE_LISTING,
    Reason.AFTER_ARCHIVES: Reason.AFTER_DELISTING,
    Reason.NOT_TRADING: Reason.NOT_PUBLISHED,
    Reason.NO_ARCHIVE: Reason.NOT_IN_ARCHIVE,
    Reason.UNKNOWN: Reason.NOT_FETCHED,
}


@dataclass(frozen=True, slots=True)
class Source:
    """One archive, or one response of the REST interface, with bars of a segment.

    Attributes
    ----------
    origin : Origin
    name : str
        The path of the archive under a mirror's root, or the path and query of the request.
    start_ms, end_ms : int
        The span that the source was used for.
    sha256 : str
        SHA-256 of the ZIP; empty for REST.
    is_checksum_published : bool
        Whether the publisher's CHECKSUM confirmed the bytes.
    etag, last_modified : str
        The version of the source, as given by the server.
    row_count : int
        Rows in the source, with duplicates, without the header line.
    duplicate_row_count : int
        Rows equal to an earlier row in every cell; they were dropped.
    conflict_count : int
        Open times of several different rows; the last row was kept.
    conflict_open_times : tuple of int
        The first `REPORT_EXAMPLES_MAX` of those open times, in milliseconds, ascending.
    unordered_row_count : int
        Rows after a row with a later open time; they were sorted.
    outside_row_count : int
        Rows that open outside of the period of the archive; they were left out.
    outside_open_times : tuple of int
        The first `REPORT_EXAMPLES_MAX` of their open times, in milliseconds, in the order of the source.
    impossible_count : int
        Bars that no market can make, such as a high below the low; they are kept, as published.
    impossible_open_times : tuple of int
        The first `REPORT_EXAMPLES_MAX` of their open times, in milliseconds, ascending.
    has_header : bool
        Whether the source has a header line.
    time_unit : str
        The unit of the times in the source: `ms`, `us` or `mixed`.
    labels : str
        Of metrics, what the times in the source mean: see `Labels`.
    is_preferred : bool
        Whether somebody chose it over the other sources of the span (`ckvd cache repair --prefer`). Its bars stay,
        whatever the others have.
    later : str
        What a later version said beside, as the text of a JSON object; mostly empty.
    """

    origin: Origin
    name: str
    start_ms: int
    end_ms: int
    sha256: str = ""
    is_checksum_published: bool = False
    etag: str = ""
    last_modified: str = ""
    row_count: int = 0
    duplicate_row_count: int = 0
    conflict_count: int = 0
    conflict_open_times: tuple[int, ...] = ()
    unordered_row_count: int = 0
    outside_row_count: int = 0
    outside_open_times: tuple[int, ...] = ()
    impossible_count: int = 0
    impossible_open_times: tuple[int, ...] = ()
    has_header: bool = False
    time_unit: str = "ms"
    labels: str = ""
    is_preferred: bool = False
    later: str = ""

    @property
    def span(self) -> Span:
        """The span that the source was used for."""
        return Span(self.start_ms, self.end_ms)

    def to_json(self) -> dict[str, Any]:
        """A JSON object. Fields with their default value are left out."""
        record = {name: value for name, value in asdict(self).items() if value != _SOURCE_DEFAULTS[name]}
        record.pop("later", None)
        return record | _later_of(self.later)

    @classmethod
    def of_json(cls, record: dict[str, Any]) -> Self:
        """The inverse of `to_json`.

        Raises
        ------
        ValueError, TypeError
            A field is missing, or its value is none that `to_json` writes.
        """
        _require_object(record)
        known: dict[str, Any] = {}
        later: dict[str, Any] = {}
        for name, value in record.items():
            check = _SOURCE_CHECKS.get(name)
            if check is None:
                later[name] = value
            else:
                known[name] = check(name, value)
        if (word := _required(known, "origin")) not in _ORIGIN_WORDS:
            later["origin"] = word
            word = Origin.UNKNOWN
        known["origin"] = Origin(word)
        for name in ("name", "start_ms", "end_ms"):
            _required(known, name)
        _require_order(known["start_ms"], known["end_ms"])
        return cls(**known, later=later_text(later))


_ORIGIN_WORDS: Final = frozenset(Origin)
# Fields without a default have one that equals nothing.
_SOURCE_DEFAULTS: Final = {field.name: field.default for field in fields(Source)}


@dataclass(frozen=True, slots=True)
class Absence:
    """A span in which all missing bars are missing for one known reason.

    Attributes
    ----------
    start_ms, end_ms : int
    reason : Reason
    recheck_ms : int
        When to ask the sources again; 0 for never.
    is_listing_read : bool
        Whether the listing of the archives was read for it. Where it was not, as by older versions, the listing may
        tell more.
    later : str
        What a later version said beside, as the text of a JSON object; mostly empty.
    """

    start_ms: int
    end_ms: int
    reason: Reason
    recheck_ms: int = 0
    is_listing_read: bool = False
    later: str = ""

    @property
    def span(self) -> Span:
        """The span that the absence covers."""
        return Span(self.start_ms, self.end_ms)

    def to_json(self) -> dict[str, Any]:
        """A JSON object, which older versions of ckvd can read too."""
        record: dict[str, Any] = {
            "start_ms": self.start_ms,
            "end_ms": self.end_ms,
            "reason": self.reason,
            "recheck_ms": self.recheck_ms,
        }
        if self.is_listing_read:
            record["is_listing_read"] = True
        if self.reason in _WORDS_FOR_OLDER_VERSIONS:
            record |= {"reason": _WORDS_FOR_OLDER_VERSIONS[self.reason], "exact_reason": self.reason}
        later = _later_of(self.later)
        if "reason" in later:
            record.pop("exact_reason", None)  # the later version wrote both words, or only one
        return record | later

    @classmethod
    def of_json(cls, record: dict[str, Any]) -> Self:
        """The inverse of `to_json`. Where a later version has a word of its own, the word beside it is read.

        Raises
        ------
        ValueError, TypeError
            A field is missing, or its value is none that `to_json` writes.
        """
        _require_object(record)
        start_ms = _checked_moment("start_ms", _required(record, "start_ms"))
        end_ms = _checked_moment("end_ms", _required(record, "end_ms"))
        _require_order(start_ms, end_ms)
        word = _checked_text("reason", _required(record, "reason"))
        later = {name: value for name, value in record.items() if name not in _ABSENCE_FIELDS}
        exact = _checked_text("exact_reason", record.get("exact_reason", word))
        if exact in _WORDS:
            word = exact
        else:
            later |= {"reason": word, "exact_reason": exact} if exact != word else {"reason": word}
        return cls(
            start_ms,
            end_ms,
            Reason(word) if word in _WORDS else Reason.UNKNOWN,
            _checked_moment("recheck_ms", record.get("recheck_ms", 0)),
            _checked_flag("is_listing_read", record.get("is_listing_read", False)),
            later_text(later),
        )


_ABSENCE_FIELDS: Final = ("start_ms", "end_ms", "reason", "exact_reason", "recheck_ms", "is_listing_read")


# --- Reading JSON that somebody else may have written ------------------------------------------------------

# The first and last millisecond that have a date, in the years 1 to 9999.
MOMENT_MIN_MS: Final = -62_135_596_800_000
MOMENT_MAX_MS: Final = 253_402_300_799_999
_COUNT_MAX: Final = 2**63 - 1
_DEPTH_MAX: Final = 16


def _require_object(record: object) -> None:
    if not isinstance(record, dict):
        raise TypeError(f"expected an object, found {type(record).__name__}")


def _required(record: dict[str, Any], name: str) -> Any:
    if name not in record:
        raise ValueError(f"there is no {name!r}")
    return record[name]


def _require_order(start_ms: int, end_ms: int) -> None:
    if end_ms < start_ms:
        raise ValueError(f"a span ends at {end_ms}, before it starts at {start_ms}")


def _checked_text(name: str, value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{name} is text, found {type(value).__name__}")
    if not value.isascii():
        value.encode()  # half of a surrogate pair, which JSON can spell, is a ValueError: it can never be written
    return value


def _checked_flag(name: str, value: Any) -> bool:
    if not isinstance(value, bool):
        raise TypeError(f"{name} is true or false, found {type(value).__name__}")
    return value


def _checked_number(name: str, value: Any, least: int, most: int) -> int:
    if type(value) is not int or not least <= value <= most:
        found = "another one" if type(value) is int else type(value).__name__
        raise ValueError(f"{name} is a whole number from {least} to {most}, found {found}")
    return value


def _checked_count(name: str, value: Any) -> int:
    return _checked_number(name, value, 0, _COUNT_MAX)


def _checked_moment(name: str, value: Any) -> int:
    return _checked_number(name, value, MOMENT_MIN_MS, MOMENT_MAX_MS)


def _checked_moments(name: str, value: Any) -> tuple[int, ...]:
    if not isinstance(value, list):
        raise TypeError(f"{name} is a list, found {type(value).__name__}")
    # Rows with any time whatever are left out of an archive, and reported.
    return tuple(_checked_number(name, moment_ms, -_COUNT_MAX - 1, _COUNT_MAX) for moment_ms in value)


_CHECKS: Final[dict[type, Callable[[str, Any], Any]]] = {
    str: _checked_text,
    bool: _checked_flag,
    int: _checked_count,
    tuple: _checked_moments,
}
_SOURCE_CHECKS: Final = {
    name: _CHECKS[type(default)] for name, default in _SOURCE_DEFAULTS.items() if type(default) in _CHECKS
} | {"origin": _checked_text, "name": _checked_text, "start_ms": _checked_moment, "end_ms": _checked_moment}
del _SOURCE_CHECKS["later"]


def later_text(later: dict[str, Any]) -> str:
    """What a later version said, as the text of a JSON object: the same for equal objects, and empty for none.

    Raises
    ------
    ValueError
        It could not be written as JSON again.
    """
    if not later:
        return ""
    if _is_deeper(later, _DEPTH_MAX):
        raise ValueError(f"it is nested more than {_DEPTH_MAX} deep")
    text = json.dumps(later, ensure_ascii=False, allow_nan=False, sort_keys=True, separators=(",", ":"))
    return _checked_text("what a later version wrote", text)


def _is_deeper(value: Any, depth: int) -> bool:
    parts = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return depth == 0 or any(_is_deeper(part, depth - 1) for part in parts)


def _later_of(text: str) -> dict[str, Any]:
    """The inverse of `later_text`."""
    later: dict[str, Any] = json.loads(text) if text else {}
    return later


_Spanning = TypeVar("_Spanning", Source, Absence)


def narrow(items: Iterable[_Spanning], span: Span) -> list[_Spanning]:
    """The sources or absences that overlap a span, cut to it."""
    return [
        replace(item, start_ms=max(item.start_ms, span.start_ms), end_ms=min(item.end_ms, span.end_ms))
        for item in items
        if item.span.overlaps(span)
    ]


def earliest_recheck_ms(absences: Iterable[Absence]) -> int:
    """The earliest time to ask the sources again about an absence; 0 for never."""
    return min((absence.recheck_ms for absence in absences if absence.recheck_ms), default=0)


def segment_recheck_ms(row_count: int, absences: Iterable[Absence]) -> int:
    """When to ask again for all that a segment covers; 0 for never.

    A span without a bar is asked for again as a whole. Holes beside bars are found by their absences: else the bars
    would be due with them.
    """
    return 0 if row_count else earliest_recheck_ms(absences)


def says_nothing(absences: Collection[Absence]) -> bool:
    """Whether absences say only that a source did not have the bars: not even that the series exists."""
    unknown = (Reason.NOT_IN_ARCHIVE, Reason.NO_ARCHIVE, Reason.NOT_PUBLISHED)
    return bool(absences) and all(absence.reason in unknown for absence in absences)


def join_absences(absences: Iterable[Absence]) -> tuple[Absence, ...]:
    """Absences in order, neighbours with the same reason joined. The earliest time to ask again counts."""
    joined: list[Absence] = []
    for absence in sorted(absences, key=lambda one: one.start_ms):
        before = joined[-1] if joined else None
        is_same = before is not None and before.reason is absence.reason and before.later == absence.later
        if before is None or before.end_ms != absence.start_ms or not is_same:
            joined.append(absence)
        else:
            due_ms = earliest_recheck_ms([before, absence])
            joined[-1] = replace(before, end_ms=absence.end_ms, recheck_ms=due_ms)
    return tuple(joined)


@dataclass(frozen=True, slots=True)
class Gap:
    """Consecutive bars of the grid that are missing for the same reason.

    Attributes
    ----------
    start_ms : int
        The open time of the first missing bar.
    end_ms : int
        The end of the last missing bar: the next grid point.
    bar_count : int
        The number of missing bars.
    reason : Reason
    """

    start_ms: int
    end_ms: int
    bar_count: int
    reason: Reason

    @property
    def span(self) -> Span:
        """From the open of the first missing bar to the end of the last."""
        return Span(self.start_ms, self.end_ms)

    def __str__(self) -> str:
        bars = "1 bar" if self.bar_count == 1 else f"{self.bar_count} bars"
        return f"{self.span} {bars} {self.reason}"

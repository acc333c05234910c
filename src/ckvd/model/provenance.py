"""Where bars came from, and why some are not there: `Source`, `Absence`, `Gap` and `Reason`.

These are plain values. A segment keeps sources and absences in its header as JSON (`to_json`, `of_json`).
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields, replace
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Final, Self, TypeVar

from ckvd.model.timespan import Span, format_time

if TYPE_CHECKING:
    from collections.abc import Iterable


class Origin(StrEnum):
    """What kind of source delivered bars."""

    VISION_MONTHLY = "vision-monthly"
    VISION_DAILY = "vision-daily"
    REST = "rest"


class Reason(StrEnum):
    """Why a bar of the grid is not there."""

    HALTED = "halted"  # every source was asked, and none has it
    NOT_IN_ARCHIVE = "not in archive"  # the archive lacks it; no other source was asked
    NOT_PUBLISHED = "not yet published"
    BEFORE_LISTING = "before listing"
    AFTER_DELISTING = "after delisting"
    ARCHIVE_DAMAGED = "archive damaged"
    NOT_FETCHED = "not fetched"

    @property
    def is_answer(self) -> bool:
        """Whether it says that there is no such bar, and not that it could not be had."""
        return self in (Reason.HALTED, Reason.BEFORE_LISTING, Reason.AFTER_DELISTING)


@dataclass(frozen=True, slots=True)
class Source:
    """One archive, or one answer of the REST interface, that bars of a segment came from.

    Attributes
    ----------
    origin : Origin
    name : str
        The path of the archive under a mirror's root, or the path and query of the request.
    start_ms, end_ms : int
        What it was used for.
    sha256 : str
        Of the ZIP; empty for REST.
    is_checksum_published : bool
        Whether the publisher's CHECKSUM confirmed the bytes.
    etag, last_modified : str
        What the server said of the version.
    row_count : int
        Rows in the source, duplicates included, the header line not.
    duplicate_row_count : int
        Rows equal to another one in every cell; one of each was kept.
    conflict_count : int
        Open times that stood in different rows; the last row was kept.
    conflict_open_times : tuple of int
        Those open times, in milliseconds, ascending; the first `REPORT_EXAMPLES_MAX` of them.
    unordered_row_count : int
        Rows that stood after a row with a later open time; they were sorted into place.
    has_header : bool
    time_unit : str
        `ms`, `us`, or `mixed`: the unit of the times in the source.
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
    has_header: bool = False
    time_unit: str = "ms"

    @property
    def span(self) -> Span:
        """What it was used for."""
        return Span(self.start_ms, self.end_ms)

    def to_json(self) -> dict[str, Any]:
        """A JSON object; fields with their default value are left out."""
        return {
            name: value
            for name, value in asdict(self).items()
            if name not in _SOURCE_DEFAULTS or value != _SOURCE_DEFAULTS[name]
        }

    @classmethod
    def of_json(cls, record: dict[str, Any]) -> Self:
        """The inverse of `to_json`; fields of later versions are passed over."""
        known = {name: value for name, value in record.items() if name in _SOURCE_NAMES}
        known["origin"] = Origin(known["origin"])
        known["conflict_open_times"] = tuple(known.get("conflict_open_times", ()))
        return cls(**known)


_SOURCE_NAMES: Final = frozenset(field.name for field in fields(Source))
_SOURCE_DEFAULTS: Final = {field.name: field.default for field in fields(Source) if field.name != "name"}


@dataclass(frozen=True, slots=True)
class Absence:
    """A span in which every missing bar is missing for one known reason.

    Attributes
    ----------
    start_ms, end_ms : int
    reason : Reason
    recheck_ms : int
        When to ask again; 0 for never.
    """

    start_ms: int
    end_ms: int
    reason: Reason
    recheck_ms: int = 0

    @property
    def span(self) -> Span:
        """The span it speaks of."""
        return Span(self.start_ms, self.end_ms)

    def to_json(self) -> dict[str, Any]:
        """A JSON object."""
        return asdict(self)

    @classmethod
    def of_json(cls, record: dict[str, Any]) -> Self:
        """The inverse of `to_json`."""
        return cls(record["start_ms"], record["end_ms"], Reason(record["reason"]), record.get("recheck_ms", 0))


_Record = TypeVar("_Record", Source, Absence)


def narrow(records: Iterable[_Record], span: Span) -> list[_Record]:
    """Sources or absences that speak of a span, cut to it."""
    return [
        replace(record, start_ms=max(record.start_ms, span.start_ms), end_ms=min(record.end_ms, span.end_ms))
        for record in records
        if record.span.overlaps(span)
    ]


def earliest_recheck_ms(absences: Iterable[Absence]) -> int:
    """When the first of some absences is to be asked for again; 0 where none is."""
    return min((absence.recheck_ms for absence in absences if absence.recheck_ms), default=0)


@dataclass(frozen=True, slots=True)
class Gap:
    """Bars of the grid that are not there, one after the other, for one reason.

    Attributes
    ----------
    start_ms : int
        The open time of the first missing bar.
    end_ms : int
        Where the last missing bar would end.
    bar_count : int
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
        return f"{format_time(self.start_ms)}..{format_time(self.end_ms)} {bars} {self.reason}"

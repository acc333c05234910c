"""What can be wrong with a cache: `Finding`. Plain values."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path

    from ckvd.model.market import SeriesKey
    from ckvd.model.timespan import Span


class Severity(StrEnum):
    """How bad it is."""

    ERROR = "error"  # bars cannot be read, or not be believed
    WARNING = "warning"  # bars can be read, and somebody should look
    NOTE = "note"  # worth knowing; the cache is in order


class Trouble(StrEnum):
    """What is wrong."""

    DAMAGED = "damaged"  # its bytes are not what was written, or not all of them are there
    FOREIGN = "foreign"  # a file that is no segment bears the name of one
    SWAPPED = "swapped"  # a segment bears the name of another one
    LATER_VERSION = "later version"  # written by a later ckvd, or on a machine of another byte order
    UNREADABLE = "unreadable"  # the system refuses to read it
    UNORDERED = "unordered"  # open times do not ascend, or lie outside of the span
    SAME_REVISION = "same revision"  # two segments speak of a moment, and neither is newer
    IMPOSSIBLE_BARS = "impossible bars"  # as published: a high that is not the highest, and the like
    OFF_GRID = "off the grid"  # as published: bars that open or close at odd times
    STRANGER = "stranger"  # a file of another name in the folder of a series
    LEFTOVER = "leftover"  # of a process that died
    LOCAL_LOCKS = "local locks"  # writers on other machines are not excluded


# What `repair` puts into quarantine, and fetches again.
REPAIRABLE = (Trouble.DAMAGED, Trouble.FOREIGN, Trouble.SWAPPED, Trouble.UNORDERED)


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is wrong, or worth knowing.

    Attributes
    ----------
    severity : Severity
    trouble : Trouble
    path : Path
        The file or folder.
    message : str
        What was expected and found.
    series : SeriesKey or None
    span : Span or None
        What the file speaks of, by its name.
    bar_count : int
        How many bars are concerned, where that is known.
    """

    severity: Severity
    trouble: Trouble
    path: Path
    message: str
    series: SeriesKey | None = None
    span: Span | None = None
    bar_count: int = 0

    def to_json(self) -> dict[str, Any]:
        """A JSON object."""
        return {
            "severity": self.severity.value,
            "trouble": self.trouble.value,
            "path": str(self.path),
            "message": self.message,
            "series": None if self.series is None else str(self.series),
            "span": None if self.span is None else [self.span.start_ms, self.span.end_ms],
            "bar_count": self.bar_count,
        }


def is_clean(findings: list[Finding]) -> bool:
    """Whether there are at most notes among some findings."""
    return all(finding.severity is Severity.NOTE for finding in findings)

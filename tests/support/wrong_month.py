"""`WrongMonth`: a month of which the archive is complete and has wrong cells, beside right days."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from ckvd.cache import CacheFolder
from ckvd.model.calendar import days_of
from ckvd.model.timespan import Span
from support.venue import HOURS, Venue, fetch, hours, rows_between

if TYPE_CHECKING:
    from collections.abc import Sequence

    from support.loopback.rows import Row

JANUARY: Final = Span.of("2023-01-01", "2023-02-01")


class WrongMonth:
    """January in hours at a venue, and a cache that was filled from the monthly archive.

    Attributes
    ----------
    venue : Venue
    rows : list of Row
        As they should be, and as the days and the exchange have them.
    wrong : list of Row
        Those that the month has with another high and another volume: 45 hours of three days, as they should be.
    falsified : list of Row
        The rows of the month.
    """

    def __init__(self, venue: Venue) -> None:
        self.venue = venue
        self.rows = hours("2023-01-01", "2023-02-01")
        self.wrong = rows_between(self.rows, "2023-01-10T05:00", "2023-01-12T02:00")
        self.falsified = [falsify(row) if row in self.wrong else row for row in self.rows]
        venue.publish(HOURS, "2023-01", self.falsified)
        for day in days_of(JANUARY):
            self.publish_day(day.label)
        venue.exchange.publish(HOURS, self.rows)
        fetch(venue, "2023-01-01", "2023-02-01", use_rest=False)

    @property
    def folder(self) -> CacheFolder:
        return CacheFolder(self.venue.cache_path)

    @property
    def opens(self) -> tuple[int, ...]:
        """When the wrong bars open."""
        return tuple(int(row[0]) for row in self.wrong)

    def day(self, label: str) -> list[Row]:
        """The right rows of a day."""
        return rows_between(self.rows, label, f"{label}T23:59:59")

    def publish_day(self, label: str, rows: Sequence[Row] | None = None, *, digest: str | None = None) -> None:
        """Publish a daily archive, by default as it should be."""
        self.venue.publish(HOURS, label, self.day(label) if rows is None else rows, digest=digest)


def falsify(row: Row) -> Row:
    """A row with another high and another volume."""
    return (*row[:2], "9999.5", *row[3:5], "99999.125", *row[6:])

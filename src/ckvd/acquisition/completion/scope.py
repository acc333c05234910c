"""What is being completed, and with what: `Scope`, which the parts of a completion share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ckvd.cache.series_store import SeriesStore

if TYPE_CHECKING:
    from ckvd.cache.folder import CacheFolder
    from ckvd.market import SeriesKey
    from ckvd.rest_data_client import RestDataClient
    from ckvd.timespan import Span


@dataclass(frozen=True, slots=True)
class Scope:
    """One series in one span, and what may be used to complete it.

    Attributes
    ----------
    series : SeriesKey
    span : Span
        What is wanted, bars that are not closed left out.
    folder : CacheFolder
    rest : RestDataClient or None
        None where the REST interface may not be asked.
    now_ms : int
        The present.
    """

    series: SeriesKey
    span: Span
    folder: CacheFolder
    rest: RestDataClient | None
    now_ms: int

    @property
    def store(self) -> SeriesStore:
        """Where what was found is stored."""
        return SeriesStore(self.folder, self.series)

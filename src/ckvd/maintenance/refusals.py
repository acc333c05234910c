"""`Refusals`: why parts of some work were not done, while the others were."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from ckvd.errors import CacheBusyError, CacheError, SegmentError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ckvd.model.market import SeriesKey


class Refusals:
    """Why parts of some work were not done, and which series are locked: they are not waited for again.

    Attributes
    ----------
    reasons : list of str
        A sentence for each part.
    """

    def __init__(self) -> None:
        self.reasons: list[str] = []
        self._busy: set[SeriesKey] = set()

    def is_busy(self, series: SeriesKey) -> bool:
        """Whether the series was locked until the timeout."""
        return series in self._busy

    @contextmanager
    def noting(self, series: SeriesKey | None = None) -> Iterator[None]:
        """Note why the block ended with an error, and go on behind it."""
        try:
            yield
        except (CacheError, SegmentError) as error:
            if isinstance(error, CacheBusyError) and series is not None:
                self._busy.add(series)
            self.reasons.append(str(error) if series is None else f"{series}: {error}")

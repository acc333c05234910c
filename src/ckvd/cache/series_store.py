"""Adding segments to a series: `SeriesStore`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ckvd.cache.folder import SegmentName
from ckvd.errors import CacheError
from ckvd.segment.writer import SegmentStatement, SegmentWriter

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from ckvd.cache.folder import CacheFolder
    from ckvd.kline import KlineTable
    from ckvd.market import SeriesKey
    from ckvd.provenance import Absence, Source
    from ckvd.timespan import Span


@dataclass(frozen=True, slots=True)
class SeriesStore:
    """Where new segments of one series go.

    Attributes
    ----------
    folder : CacheFolder
    series : SeriesKey
    """

    folder: CacheFolder
    series: SeriesKey

    def put(
        self,
        table: KlineTable,
        span: Span,
        *,
        sources: Sequence[Source] = (),
        absences: Sequence[Absence] = (),
        is_provisional: bool = False,
        recheck_ms: int = 0,
    ) -> Path:
        """Publish rows as the newest statement on a span.

        Parameters
        ----------
        table : KlineTable
            Of this series. Every bar opens in the span; there may be none.
        span : Span
            On whole seconds. From now on this segment speaks for all of it, holes included.
        sources, absences, is_provisional, recheck_ms
            See `SegmentStatement`.

        Returns
        -------
        Path
            The segment, durable when this returns.

        Raises
        ------
        CacheError
            The folder cannot be made or written.
        """
        path = self.folder.series_path(self.series)
        try:
            path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise CacheError(str(path), f"cannot be made: {error.strerror}", errno=error.errno) from error
        revision = 1 + max((name.revision for name in self.folder.segments(self.series)), default=0)
        statement = SegmentStatement(
            self.series, span, revision, sources, absences, is_provisional=is_provisional, recheck_ms=recheck_ms
        )
        with SegmentWriter.of_table(path / SegmentName(span, revision).file_name, statement, table) as writer:
            return writer.publish()

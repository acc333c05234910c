"""What archives fall short of: `Healing` looks it up in the other sources and merges what they say."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from ckvd.acquisition.ingest import source_of
from ckvd.acquisition.reconciliation import Doubt, find_doubts, join_requests
from ckvd.archive.decode import decode_archive
from ckvd.archive.name import ArchiveName
from ckvd.archive.source import AbsentArchive
from ckvd.cache.kline_cache import KlineCache
from ckvd.cache.statement import read_statement
from ckvd.errors import InvalidSymbolError
from ckvd.gaps import find_gaps
from ckvd.merge import merge_tables, rows_within
from ckvd.provenance import narrow
from ckvd.timespan import Span, difference, union
from ckvd.together import run_together

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from ckvd.acquisition.completion.reasons import Reasons
    from ckvd.acquisition.completion.scope import Scope
    from ckvd.archive.source import ArchiveSource
    from ckvd.kline import KlineTable
    from ckvd.provenance import Source


@dataclass(frozen=True, slots=True, eq=False)
class Evidence:
    """What archives say of a doubt.

    Attributes
    ----------
    doubt : Doubt
    tables : tuple of KlineTable
        In order of precedence.
    sources : tuple of Source
    """

    doubt: Doubt
    tables: tuple[KlineTable, ...]
    sources: tuple[Source, ...]


@dataclass(frozen=True, slots=True)
class Healed:
    """What came of it.

    Attributes
    ----------
    part_count : int
        Doubtful parts that were written anew.
    bar_count : int
        Bars that the REST interface added.
    conflict_open_times : tuple of int
        Where sources disagree, in milliseconds.
    """

    part_count: int
    bar_count: int
    conflict_open_times: tuple[int, ...]


NOTHING_HEALED: Final = Healed(0, 0, ())


class Healing:
    """The days of a span that are short.

    Parameters
    ----------
    scope : Scope
    archives : ArchiveSource
    reasons : Reasons
    """

    def __init__(self, scope: Scope, archives: ArchiveSource, reasons: Reasons) -> None:
        self._scope = scope
        self._archives = archives
        self._reasons = reasons

    async def doubts(self, excluded: Sequence[Span]) -> list[Doubt]:
        """What is short and was not looked up everywhere; what overlaps `excluded` is left out."""
        found = await asyncio.to_thread(self._find_doubts)
        return [doubt for doubt in found if not any(doubt.span.overlaps(span) for span in excluded)]

    def _find_doubts(self) -> tuple[Doubt, ...]:
        with KlineCache(self._scope.folder.root) as cache:
            klines = cache.read_series(self._scope.series, self._scope.span, missing="ignore")
            return find_doubts(
                klines.open_time,
                difference([self._scope.span], klines.missing),
                self._scope.series.interval,
                sources=klines.sources,
                absences=klines.absences,
                now_ms=self._scope.now_ms,
                use_rest=self._scope.rest is not None,
            )

    async def look_into_archives(self, doubt: Doubt, place: Path) -> Evidence:
        """Gather what the cache and the daily archive say of a doubt.

        Parameters
        ----------
        doubt : Doubt
        place : Path
            A folder for the archive while it is looked into.

        Raises
        ------
        CkvdError
            The archive may exist, and could not be had or not be believed.
        """
        statement = await asyncio.to_thread(read_statement, self._scope.folder, self._scope.series, doubt.span)
        if doubt.daily is None:
            return Evidence(doubt, (statement.table,), statement.sources)
        name = ArchiveName(self._scope.series, doubt.daily)
        fetched = await self._archives.fetch(name, place)
        if isinstance(fetched, AbsentArchive):
            return Evidence(doubt, (statement.table,), statement.sources)
        content = await asyncio.to_thread(fetched.path.read_bytes)
        decoded = await asyncio.to_thread(decode_archive, content, name)
        # Where a month and a day were seen to disagree, the day was right.
        tables = (decoded.table, statement.table)
        return Evidence(doubt, tables, (*statement.sources, source_of(fetched, decoded)))

    async def amend(self, evidence: Sequence[Evidence]) -> Healed:
        """Ask the REST interface for what all archives lack, and write every doubtful part anew.

        Raises
        ------
        CkvdError
            It could not be asked. Nothing was written.
        """
        gaps = union(gap for found in evidence for gap in self._gaps_of(found))
        answers = await self._ask_rest(gaps)
        healed = await run_together([self._amend_one(found, answers) for found in evidence])
        return Healed(
            len(healed),
            sum(one.bar_count for one in healed),
            tuple(sorted({moment for one in healed for moment in one.conflict_open_times})),
        )

    def _gaps_of(self, evidence: Evidence) -> list[Span]:
        merged = merge_tables(self._scope.series, evidence.tables).table
        gaps = find_gaps(merged.open_time, [evidence.doubt.span], self._scope.series.interval)
        return [gap.span for gap in gaps]

    async def _ask_rest(self, gaps: Sequence[Span]) -> list[tuple[KlineTable, Sequence[Source]]]:
        rest = self._scope.rest
        if rest is None or not gaps:
            return []
        listing_ms = await self._reasons.listing_ms() or 0
        listed = [Span(max(gap.start_ms, listing_ms), gap.end_ms) for gap in gaps if gap.end_ms > listing_ms]
        spans = join_requests(listed, self._scope.series.interval)
        try:
            answers = await run_together([rest.fetch(self._scope.series, span) for span in spans])
        except InvalidSymbolError:
            return []  # the exchange forgot the symbol: what its archives lack is nowhere
        return [(answer.table, answer.sources) for answer in answers]

    async def _amend_one(
        self, evidence: Evidence, answers: Sequence[tuple[KlineTable, Sequence[Source]]]
    ) -> Healed:
        span = evidence.doubt.span
        relevant = [(rows_within(table, span), narrow(sources, span)) for table, sources in answers]
        merged = merge_tables(self._scope.series, [*evidence.tables, *(table for table, _ in relevant)])
        kept_counts = merged.kept_counts[len(evidence.tables) :]
        used = [
            source
            for (_, sources), kept_count in zip(relevant, kept_counts, strict=True)
            if kept_count
            for source in sources
        ]
        absences = await self._reasons.explain(span, merged.table.open_time)
        await asyncio.to_thread(
            self._scope.store.put, merged.table, span, sources=[*evidence.sources, *used], absences=absences
        )
        return Healed(1, sum(kept_counts), tuple(merged.conflict_open_times.tolist()))

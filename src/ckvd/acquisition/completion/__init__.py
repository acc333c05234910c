"""Completing one series after its archives are stored: the tail, the holes, and reasons for what stays missing.

Archives come first, because they are verified and use no request limit. Every moment that was wanted ends as bars
or as an absence with a reason.

Other writers may publish at the same time. Bars are stored only where the segments that win are still those that
were read; elsewhere the span is looked at again.

- `scope`: what to complete with which sources, and the outcome of a span.
- `tail`: what no archive covers, from the REST interface.
- `healing`: the holes of archives, from daily archives and the REST interface.
- `shortfalls`: which missing bars to look up elsewhere, and when to ask again. Pure.
- `reasons`: why bars are in no source.
- `extent`: where archives begin and end. Pure.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from ckvd.acquisition.completion.healing import Healing
from ckvd.acquisition.completion.reasons import Reasons
from ckvd.acquisition.completion.tail import Tail
from ckvd.acquisition.report import CompletionReport
from ckvd.cache.download_folder import download_folder
from ckvd.concurrency.work import in_thread, run_together
from ckvd.errors import FATAL_ERRORS, CacheBusyError, CkvdError, RegionRefusedError
from ckvd.model.provenance import join_absences
from ckvd.model.timespan import difference
from ckvd.utils.config import COMPLETION_ATTEMPTS_MAX

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Sequence

    from ckvd.acquisition.completion.scope import Completed, Scope
    from ckvd.model.timespan import Span
    from ckvd.vision.source import ArchiveSource

_T = TypeVar("_T")


class Completion:
    """The completion of one series. It is run once.

    Parameters
    ----------
    scope : Scope
    archives : ArchiveSource
    """

    def __init__(self, scope: Scope, archives: ArchiveSource) -> None:
        reasons = Reasons(scope, archives)
        self._scope = scope
        self._archives = archives
        self._tail = Tail(scope, reasons)
        self._healing = Healing(scope, archives, reasons)
        self._errors: list[CkvdError] = []

    def is_done(self, excluded: Sequence[Span]) -> bool:
        """Whether `run` would find nothing to do. It asks nobody, and changes nothing; to be called in a thread.

        Where the cache cannot be read it is False: running it says why.
        """
        try:
            return self._tail.is_filled(excluded) and self._healing.is_whole(excluded)
        except FATAL_ERRORS:
            raise
        except CkvdError:
            return False

    async def run(self, excluded: Sequence[Span]) -> CompletionReport:
        """Complete the series.

        Parameters
        ----------
        excluded : sequence of Span
            Spans of archives that may exist and were not fetched: they are left for the next download.

        Returns
        -------
        CompletionReport
            Its errors did not keep the rest from being stored.

        Raises
        ------
        CacheError, ClientClosedError, DependencyError
            No other series could succeed. A series that is locked elsewhere only has the error in its report.
        """
        done: list[Completed] = []
        try:
            await self._until_undisturbed(partial(self._fill, excluded), done)
            await self._contain(in_thread(self._tail.settle))
            await self._until_undisturbed(partial(self._heal, excluded), done)
        except CacheBusyError as error:  # Others hold the lock of this series, and other series can succeed.
            self._errors.append(error)
            return self._report(done)
        refused = [error for error in self._errors if isinstance(error, RegionRefusedError)]
        if refused and self._scope.rest is not None:
            return await self._without_rest(excluded, done, refused[0])
        return self._report(done)

    async def _without_rest(
        self, excluded: Sequence[Span], done: Sequence[Completed], refusal: RegionRefusedError
    ) -> CompletionReport:
        """Complete the series from archives alone, because the exchange refuses this address: that is reported."""
        # As where only archives may be asked, a damaged archive is left for the next download.
        left_out = [*excluded, *self._scope.damaged]
        archived = Completion(replace(self._scope, rest=None, damaged=()), self._archives)
        report = await archived.run(left_out)
        before = self._report(done)
        repeated = {str(error) for error in report.errors}
        others = [
            error
            for error in self._errors
            if not isinstance(error, RegionRefusedError) and str(error) not in repeated
        ]
        return replace(
            report,
            rest_bar_count=before.rest_bar_count + report.rest_bar_count,
            conflict_open_times=tuple(sorted({*before.conflict_open_times, *report.conflict_open_times})),
            errors=(refusal, *others, *report.errors),
            has_changed=before.has_changed or report.has_changed,
            open_from_ms=before.open_from_ms,
        )

    def _report(self, done: Sequence[Completed]) -> CompletionReport:
        return CompletionReport(
            self._scope.series,
            rest_bar_count=sum(one.rest_bar_count for one in done),
            conflict_open_times=tuple(sorted({moment for one in done for moment in one.conflict_open_times})),
            errors=tuple(self._errors),
            # A series of which nothing was found has no segments.
            has_changed=any(one.is_stored and one.span for one in done)
            and bool(self._scope.folder.segments(self._scope.series)),
            open_from_ms=self._tail.open_from_ms,
            impossible_open_times=tuple(sorted({moment for one in done for moment in one.impossible_open_times})),
            beyond_archives=join_absences(self._tail.beyond_archives),
        )

    async def _until_undisturbed(
        self, step: Callable[[Sequence[Span]], Coroutine[Any, Any, list[Completed]]], found: list[Completed]
    ) -> None:
        """Run a step, again for the spans that other writers changed meanwhile. Append what it completed."""
        spans = [self._scope.span]
        for _ in range(COMPLETION_ATTEMPTS_MAX):
            done = await step(spans)
            found += done
            spans = [one.span for one in done if not one.is_stored]
            if not spans:
                return
        reason = f"its segments were changed {COMPLETION_ATTEMPTS_MAX} times while they were completed; try again"
        self._errors.append(CacheBusyError(str(self._scope.folder.series_path(self._scope.series)), reason))

    async def _fill(self, excluded: Sequence[Span], within: Sequence[Span]) -> list[Completed]:
        left_out = [*excluded, *difference([self._scope.span], within)]
        spans = await self._contain(self._tail.spans_to_fill(left_out)) or []
        filled = await run_together([self._contain(self._tail.fill(span)) for span in spans])
        return [one for one in filled if one is not None]

    async def _heal(self, excluded: Sequence[Span], within: Sequence[Span]) -> list[Completed]:
        shortfalls = await self._contain(self._healing.shortfalls(excluded, within))
        if not shortfalls:
            return []
        with download_folder(self._scope.folder) as place:
            gathered = await run_together(
                [self._contain(self._healing.read_archived(shortfall, place)) for shortfall in shortfalls]
            )
        archived = [bars for bars in gathered if bars is not None]
        self._errors += [bars.error for bars in archived if bars.error is not None]
        return await self._contain(self._healing.heal(archived)) or []

    async def _contain(self, step: Coroutine[Any, Any, _T]) -> _T | None:
        """Run a step; keep its error for the report, unless no other step could succeed."""
        try:
            return await step
        except FATAL_ERRORS:
            raise
        except CkvdError as error:
            self._errors.append(error)
            return None

"""Completing one series after its archives are in: the tail, the holes, and the reasons for what stays missing.

Archives come first, because they are verified and cost no request limit. What they left open is asked of the REST
interface (`tail`); what they have but fall short of is looked up in the daily archive and then in the REST
interface, and merged bar by bar (`healing`). Every moment that was asked for ends as bars or as an absence with a
reason (`reasons`).

Others may publish at the same time. What was found is stored only where the cache still says what it said when it
was found to be lacking; elsewhere it is looked at again.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

from ckvd.acquisition.completion.healing import Healed, Healing
from ckvd.acquisition.completion.reasons import Reasons
from ckvd.acquisition.completion.tail import Filled, Tail
from ckvd.acquisition.report import CompletionReport
from ckvd.cache.download_folder import download_folder
from ckvd.concurrency import run_together
from ckvd.errors import CacheBusyError, CacheError, CkvdError, ClientClosedError
from ckvd.model.timespan import difference
from ckvd.utils.config import COMPLETION_ATTEMPTS_MAX

if TYPE_CHECKING:
    from collections.abc import Coroutine, Sequence

    from ckvd.acquisition.completion.scope import Scope
    from ckvd.acquisition.completion.shortfalls import Shortfall
    from ckvd.model.timespan import Span
    from ckvd.vision.source import ArchiveSource

_T = TypeVar("_T")


class Completion:
    """One series, being completed. It is run once.

    Parameters
    ----------
    scope : Scope
    archives : ArchiveSource
    """

    def __init__(self, scope: Scope, archives: ArchiveSource) -> None:
        reasons = Reasons(scope)
        self._scope = scope
        self._tail = Tail(scope, reasons)
        self._healing = Healing(scope, archives, reasons)
        self._errors: list[CkvdError] = []

    async def run(self, excluded: Sequence[Span]) -> CompletionReport:
        """Complete the series.

        Parameters
        ----------
        excluded : sequence of Span
            Where an archive may exist and could not be had: that is left for the next time.

        Returns
        -------
        CompletionReport
            What went wrong is in it, and did not keep the rest from being stored.

        Raises
        ------
        CacheError, ClientClosedError
            Going on would be in vain.
        """
        filled = await self._fill(excluded)
        healed = await self._heal(excluded)
        return CompletionReport(
            self._scope.series,
            rest_bar_count=sum(one.bar_count for one in filled) + sum(one.bar_count for one in healed),
            conflict_open_times=tuple(sorted({moment for one in healed for moment in one.conflict_open_times})),
            errors=tuple(self._errors),
            has_changed=any(one.is_stored for one in filled) or any(one.is_stored and one.span for one in healed),
            open_from_ms=self._tail.open_from_ms,
        )

    async def _fill(self, excluded: Sequence[Span]) -> list[Filled]:
        """Bring the tail into the cache; what others changed meanwhile is looked at again."""
        found: list[Filled] = []
        left_out = excluded
        for _ in range(COMPLETION_ATTEMPTS_MAX):
            pieces = await self._contain(self._tail.pieces(left_out)) or []
            results = await run_together([self._contain(self._tail.fill(piece)) for piece in pieces])
            found += [result for result in results if result is not None]
            disturbed = [
                piece for piece, result in zip(pieces, results, strict=True) if result and not result.is_stored
            ]
            if not disturbed:
                return found
            left_out = [*excluded, *difference([self._scope.span], disturbed)]
        self._errors.append(self._disturbed())
        return found

    async def _heal(self, excluded: Sequence[Span]) -> list[Healed]:
        """Look up what is short; what others changed meanwhile is looked at again."""
        found: list[Healed] = []
        shortfalls = await self._healing.shortfalls(excluded)
        for _ in range(COMPLETION_ATTEMPTS_MAX):
            healed = await self._heal_once(shortfalls) if shortfalls else []
            found += healed
            disturbed = [one.span for one in healed if not one.is_stored]
            if not disturbed:
                return found
            shortfalls = [
                shortfall
                for shortfall in await self._healing.shortfalls(excluded)
                if any(map(shortfall.span.overlaps, disturbed))
            ]
        self._errors.append(self._disturbed())
        return found

    async def _heal_once(self, shortfalls: Sequence[Shortfall]) -> list[Healed]:
        with download_folder(self._scope.folder) as place:
            gathered = await run_together(
                [self._contain(self._healing.look_into_archives(shortfall, place)) for shortfall in shortfalls]
            )
        evidence = [found for found in gathered if found is not None]
        self._errors += [found.error for found in evidence if found.error is not None]
        return await self._contain(self._healing.amend(evidence)) or []

    def _disturbed(self) -> CacheBusyError:
        return CacheBusyError(
            str(self._scope.folder.series_path(self._scope.series)),
            f"its segments were changed {COMPLETION_ATTEMPTS_MAX} times while they were completed; try again",
        )

    async def _contain(self, step: Coroutine[Any, Any, _T]) -> _T | None:
        """Run a step; keep what went wrong for the report, unless going on would be in vain."""
        try:
            return await step
        except (CacheError, ClientClosedError):
            raise
        except CkvdError as error:
            self._errors.append(error)
            return None

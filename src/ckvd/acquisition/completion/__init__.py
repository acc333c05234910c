"""Completing one series after its archives are in: the tail, the holes, and the reasons for what stays missing.

Archives come first, because they are verified and cost no request limit. What they left open is asked of the REST
interface (`tail`); what they have but fall short of is looked up in the daily archive and then in the REST
interface, and merged bar by bar (`healing`). Every moment that was asked for ends as bars or as an absence with a
reason (`reasons`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

from ckvd.acquisition.completion.healing import NOTHING_HEALED, Healed, Healing
from ckvd.acquisition.completion.reasons import Reasons
from ckvd.acquisition.completion.tail import Tail
from ckvd.acquisition.download import download_folder
from ckvd.acquisition.report import CompletionReport
from ckvd.errors import CacheError, CkvdError, ClientClosedError
from ckvd.together import run_together

if TYPE_CHECKING:
    from collections.abc import Coroutine, Sequence

    from ckvd.acquisition.completion.scope import Scope
    from ckvd.archive.source import ArchiveSource
    from ckvd.timespan import Span

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
        pieces = await self._contain(self._tail.pieces(excluded)) or []
        counts = await run_together([self._contain(self._tail.fill(piece)) for piece in pieces])
        healed = await self._heal(excluded)
        return CompletionReport(
            self._scope.series,
            rest_bar_count=sum(count or 0 for count in counts) + healed.bar_count,
            conflict_open_times=healed.conflict_open_times,
            errors=tuple(self._errors),
            has_changed=bool(pieces) or healed.part_count > 0,
            open_from_ms=self._tail.open_from_ms,
        )

    async def _heal(self, excluded: Sequence[Span]) -> Healed:
        doubts = await self._healing.doubts(excluded)
        if not doubts:
            return NOTHING_HEALED
        with download_folder(self._scope.folder.root) as place:
            gathered = await run_together(
                [self._contain(self._healing.look_into_archives(doubt, place)) for doubt in doubts]
            )
        evidence = [found for found in gathered if found is not None]
        self._errors += [found.error for found in evidence if found.error is not None]
        return await self._contain(self._healing.amend(evidence)) or NOTHING_HEALED

    async def _contain(self, step: Coroutine[Any, Any, _T]) -> _T | None:
        """Run a step; keep what went wrong for the report, unless going on would be in vain."""
        try:
            return await step
        except (CacheError, ClientClosedError):
            raise
        except CkvdError as error:
            self._errors.append(error)
            return None

"""`check`: verify a cache and, if asked, repair it, in one call."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ckvd.maintenance.repair import repair
from ckvd.maintenance.selection import EVERYTHING
from ckvd.maintenance.verification import verify_cache

if TYPE_CHECKING:
    from ckvd.cache.folder import CacheFolder
    from ckvd.maintenance.findings import Finding
    from ckvd.maintenance.selection import SeriesFilter
    from ckvd.vision.source import ArchiveSource


def check(
    folder: CacheFolder,
    chosen: SeriesFilter = EVERYTHING,
    *,
    is_quick: bool = False,
    fix: bool = False,
    source: ArchiveSource | None = None,
) -> list[Finding]:
    """Find what is wrong with a cache, and repair it if asked. Synchronous, also where an event loop runs.

    Parameters
    ----------
    folder : CacheFolder
    chosen : SeriesFilter
    is_quick : bool
        Look at names and headers only.
    fix : bool
        Set aside what cannot be believed, and remove what dead processes left.
    source : ArchiveSource, optional
        Where to fetch again what was set aside. Without it, it is missing afterwards.

    Returns
    -------
    list of Finding
        What was found, before it was repaired.

    Raises
    ------
    CacheError
        The cache cannot be read, or not be repaired.
    """
    findings = list(verify_cache(folder, chosen, is_quick=is_quick))
    if fix and findings:
        from ckvd.synchronous import run_synchronously  # noqa: PLC0415  (it loads HTTP)

        run_synchronously(lambda: repair(folder, findings, source))
    return findings

"""Fetching archives anew for spans whose bars were lost.

The archives are chosen as for a download (`acquisition.planning`), except that only the lost spans are wanted: what
the cache still has is not replaced, and what stands beneath the lost bars is not believed.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ckvd.acquisition.ingest import expected_of, source_of
from ckvd.acquisition.planning import plan
from ckvd.cache.coverage import Covered
from ckvd.cache.download_folder import download_folder
from ckvd.cache.store import SeriesStore
from ckvd.decode.decode import decode_archive
from ckvd.errors import ArchiveError, CacheError, CkvdError, ClientClosedError
from ckvd.model.timespan import difference, union
from ckvd.utils.config import DOWNLOAD_CONCURRENCY
from ckvd.vision.name import ArchiveName
from ckvd.vision.source import AbsentArchive

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from ckvd.cache.folder import CacheFolder
    from ckvd.model.calendar import Period
    from ckvd.model.market import SeriesKey
    from ckvd.model.provenance import Source
    from ckvd.model.table import KlineTable
    from ckvd.model.timespan import Span
    from ckvd.vision.source import ArchiveSource, FetchedArchive


@dataclass(frozen=True, slots=True)
class Refetched:
    """What came of fetching anew.

    Attributes
    ----------
    series : SeriesKey
    stored : tuple of Source
        Archives that were fetched and are in the cache now.
    failures : tuple of str
        Archives that could not be had or not be believed, and why.
    unfetched : tuple of Span
        What no archive brought back.
    """

    series: SeriesKey
    stored: tuple[Source, ...]
    failures: tuple[str, ...]
    unfetched: tuple[Span, ...]


async def refetch(
    source: ArchiveSource, folder: CacheFolder, series: SeriesKey, lost: Sequence[Span], *, now_ms: int
) -> Refetched:
    """Fetch the archives of lost spans and publish them.

    Parameters
    ----------
    source : ArchiveSource
    folder : CacheFolder
    series : SeriesKey
    lost : sequence of Span
        What is wanted.
    now_ms : int
        The present.

    Raises
    ------
    CacheError
        The cache cannot be written.
    ClientClosedError
        The source was closed.
    """
    held = difference((name.span for name in folder.segments(series)), lost)
    unavailable: set[Period] = set()
    stored: list[Source] = []
    failures: list[str] = []
    left = union(lost)
    with download_folder(folder) as place:
        while periods := _next_periods(series, left, held, unavailable, now_ms):
            results = await _fetch_all(source, folder, [ArchiveName(series, period) for period in periods], place)
            for period, result in zip(periods, results, strict=True):
                unavailable.add(period)
                if isinstance(result, str):
                    failures.append(result)
                elif result is not None:
                    stored.append(result)
                    left = difference(left, [period.span])
    return Refetched(series, tuple(stored), tuple(failures), left)


def _next_periods(
    series: SeriesKey, left: Sequence[Span], held: Sequence[Span], unavailable: set[Period], now_ms: int
) -> list[Period]:
    covered = [Covered(span) for span in held]
    periods = (
        period
        for span in left
        for period in plan(series, span, covered, now_ms=now_ms, unavailable=unavailable).archives
    )
    return list(dict.fromkeys(periods))


async def _fetch_all(
    source: ArchiveSource, folder: CacheFolder, names: Sequence[ArchiveName], place: Path
) -> list[Source | str | None]:
    fetching = asyncio.Semaphore(DOWNLOAD_CONCURRENCY)

    async def fetch_one(name: ArchiveName) -> Source | str | None:
        async with fetching:
            try:
                fetched = await fetch_table(source, name, place)
                if fetched is None:
                    return None
            except (CacheError, ClientClosedError):
                raise
            except CkvdError as error:
                return str(error)
            found, table = fetched
            await asyncio.to_thread(SeriesStore(folder, name.series).put, table, found.span, sources=[found])
            return found

    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(fetch_one(name)) for name in names]
    return [task.result() for task in tasks]


async def fetch_table(source: ArchiveSource, name: ArchiveName, place: Path) -> tuple[Source, KlineTable] | None:
    """Fetch one archive and decode it; None where the source has none.

    Raises
    ------
    ArchiveError, NetworkError
        It cannot be had, or not be believed.
    """
    fetched = await source.fetch(name, place)
    return None if isinstance(fetched, AbsentArchive) else await asyncio.to_thread(_decode, fetched)


def _decode(fetched: FetchedArchive) -> tuple[Source, KlineTable]:
    try:
        decoded = decode_archive(fetched.path.read_bytes(), expected_of(fetched.name))
    except OSError as error:
        raise ArchiveError(str(fetched.path), f"cannot be read: {error.strerror}") from error
    finally:
        if fetched.is_temporary:
            fetched.path.unlink(missing_ok=True)
    return source_of(fetched, decoded), decoded.table

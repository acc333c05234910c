"""From a fetched archive to a segment in the cache: decode, state where it came from, publish. Synchronous."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ckvd.archive.decode import decode_archive
from ckvd.cache.series_store import SeriesStore
from ckvd.errors import ArchiveError
from ckvd.provenance import Origin, Source
from ckvd.timespan import Cadence
from ckvd.utils.config import REPORT_EXAMPLES_MAX

if TYPE_CHECKING:
    from ckvd.archive.decode import DecodedArchive
    from ckvd.archive.source import FetchedArchive
    from ckvd.cache.folder import CacheFolder

_ORIGINS = {Cadence.MONTHLY: Origin.VISION_MONTHLY, Cadence.DAILY: Origin.VISION_DAILY}


def ingest_archive(fetched: FetchedArchive, folder: CacheFolder) -> Source:
    """Decode a fetched archive and publish it as a segment.

    Parameters
    ----------
    fetched : FetchedArchive
        Its file is read, not removed.
    folder : CacheFolder
        The cache.

    Returns
    -------
    Source
        What the archive was, and what was unusual about it. The segment is durable when this returns.

    Raises
    ------
    ArchiveError
        The archive cannot be believed; nothing was written.
    CacheError
        The segment cannot be written.
    """
    try:
        content = fetched.path.read_bytes()
    except OSError as error:
        raise ArchiveError(str(fetched.path), f"cannot be read: {error.strerror}") from error
    decoded = decode_archive(content, fetched.name)
    source = source_of(fetched, decoded)
    SeriesStore(folder, fetched.name.series).put(decoded.table, fetched.name.period.span, sources=[source])
    return source


def source_of(fetched: FetchedArchive, decoded: DecodedArchive) -> Source:
    """What is worth knowing later about an archive that was decoded."""
    span = fetched.name.period.span
    conflicts = decoded.conflict_open_times
    return Source(
        origin=_ORIGINS[fetched.name.period.cadence],
        name=fetched.name.path,
        start_ms=span.start_ms,
        end_ms=span.end_ms,
        sha256=fetched.sha256,
        is_checksum_published=fetched.is_checksum_published,
        etag=fetched.etag,
        last_modified=fetched.last_modified,
        row_count=decoded.row_count,
        duplicate_row_count=decoded.duplicate_row_count,
        conflict_count=len(conflicts),
        conflict_open_times=tuple(conflicts[:REPORT_EXAMPLES_MAX].tolist()),
        unordered_row_count=decoded.unordered_row_count,
        has_header=decoded.has_header,
        time_unit=decoded.time_unit,
    )

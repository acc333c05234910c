"""The cache: a folder of segments. Reads bars across them, publishes new segments, and packs old ones.

What every module needs:

- `folder`: every name in a cache folder; lists series and segments.
- `resolution`: which segment wins at each moment of a span. Pure.
- `known_listings`: the listings of an open cache, made again when their folders have changed.
- `open_segments`: opens segments by name while others change the series, and keeps them open between reads.

Reading:

- `kline_cache`: `KlineCache`, which reads and scans the bars of a series.
- `coverage`: which spans the cache has, and when to fetch each again.
- `rows`: the rows of a span across segments: mapped, in chunks, in one table, or with their provenance.
- `selection`: `SeriesFilter`, which series to work on.
- `untraded_tail`: the bars at the end of a series in which nobody traded.

Writing:

- `store`: `SeriesStore`, which publishes segments and removes superseded ones.
- `locks`: one writer at a time, across processes and threads; the revisions of a series.
- `packing_plan`: which segments to merge into larger ones. Pure.
- `packing`: merges them.
- `download_folder`: a folder for archives that are being downloaded.
- `leftovers`: temporary files and download folders of dead processes, and removing them.
- `fault_points`: the named steps of every change, at which tests kill the process or fill the disk.
"""

from ckvd.cache.folder import CacheFolder
from ckvd.cache.kline_cache import KlineCache, open_cache
from ckvd.cache.store import SeriesStore

__all__ = ["CacheFolder", "KlineCache", "SeriesStore", "open_cache"]

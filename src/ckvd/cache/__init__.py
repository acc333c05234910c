"""The cache: a folder of segments, and reading bars across them.

`folder` says where segments lie and what their names mean; `ownership` decides, purely, which segment speaks for
each moment; `kline_cache` reads, from `open_segments`; `series_store` publishes and removes, one writer at a time
(`series_lock`); `packing` merges closed history into large segments, as `packing_plan` decides.
"""

from ckvd.cache.folder import CacheFolder
from ckvd.cache.kline_cache import KlineCache, open_cache
from ckvd.cache.store import SeriesStore

__all__ = ["CacheFolder", "KlineCache", "SeriesStore", "open_cache"]

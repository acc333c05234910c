"""`ckvd cache`: looking after a cache. One verb a module; the library does the work, in `ckvd.maintenance`."""

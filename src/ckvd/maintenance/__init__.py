"""Keeping a cache correct: looking at it, checking and repairing it, making room in it, and taking data out of it.

Functions take a `CacheFolder`, mostly with a `SeriesFilter`, and return dataclasses; the command line only prints
them. Beside most functions that change files stands one that only shows the change.

- `inventory`: what a cache has: summaries of series and segments, totals.
- `gap_report`: missing bars and their reasons, and how full each month is.
- `settlement_gaps`: missing settlements of funding rates, which no grid tells.
- `metrics_places`: whether rows of metrics lie at the five minutes that they describe, by klines.
- `verification`: what is wrong with a cache, as `Finding`s.
- `repair`: setting damaged files aside, and fetching again what was lost.
- `misfiled`: folders under a second name of a series, and moving them home.
- `phantoms`: series of which no source had anything, and removing them.
- `quarantine`: setting files aside with a reason, and restoring them.
- `refusals`: why parts of some work were not done, while the others were.
- `tombstones`: empty segments that hide older ones where a segment was set aside.
- `audit`: comparing a cache with its source, whose archives may have changed.
- `comparison`: comparing cached bars with daily archives, the REST interface, or shorter bars of the cache.
- `preference`: replacing bars that differ from those of a preferred source.
- `cached_archives`: the archives that cached bars came from, and replacing the bars of one.
- `bar_difference`: the difference between two tables, bit by bit.
- `pruning`: making room by removing spans.
- `data_lock`: pinning a data set by hashes, and checking it on another machine.
- `export`: bars in files of other formats.
"""

"""Keeping a cache true: looking at it, checking it, repairing it, making room in it, and taking data out of it.

Every function takes a `CacheFolder` and a `SeriesFilter`, and returns data classes; the command line only prints
them. What changes files has a sibling that says what it would do.

`inventory`, `gap_report` and `calendar` say what there is; `verification` finds what is wrong, as `findings`, and
`repair` sets it right with the help of `quarantine` and `refetch`; `audit` compares with the source; `pruning` and
`leftovers` make room; `export`, `content_hash` and `data_lock` take data out, or tell whether it is the same.
"""
